"""What the one pass works on at a time, and in which buffers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Workspace:
    """Buffers ``[classes, width]`` that one thread uses for all its chunks: fresh memory would cost more than the sums."""

    def __init__(self, classes: int, width: int, dtype: torch.dtype) -> None:
        self.buffers = torch.empty(4, classes * width, dtype=dtype)
        self.classes = classes

    def narrowed(self, pixels: int) -> tuple[Tensor, Tensor, Tensor]:
        """Three contiguous buffers ``[classes, pixels]``."""
        a, b, c, _ = self.buffers[:, : self.classes * pixels].view(4, self.classes, pixels).unbind()
        return a, b, c

    def out(self, pixels: int) -> Tensor:
        """A fourth, for a gradient that has to be copied to its place."""
        return self.buffers[3, : self.classes * pixels].view(self.classes, pixels)


class Chunk(NamedTuple):
    """Some pixels of one or more images.

    Booleans are held as floats: PyTorch's CPU kernels for mixed dtypes are many times slower than those of floats.

    Attributes:
        x: The logits ``[classes, n]``, 0 at ignored pixels.
        label: The labels as floats, ``[n]`` for softmax and ``[classes, n]`` for sigmoid.
        valid: 1 where not ignored, else 0; as `label`.
        whole: Whether no pixel is ignored.
        pixels: The pixels per image.
        buffers: Room for results ``[classes, n]``.
    """

    x: Tensor
    label: Tensor
    valid: Tensor
    whole: bool
    pixels: int
    buffers: tuple[Tensor, Tensor, Tensor]


def focal(log_p: Tensor, p: Tensor, gamma: float) -> Tensor:
    """``-(1 - p)^gamma log p``."""
    return (1 - p).pow_(gamma).mul_(log_p).neg_()


def focal_slope(log_p: Tensor, p: Tensor, gamma: float) -> Tensor:
    """The derivative of `focal` with respect to ``log p``; at p = 1, where the power may be infinite, about 0."""
    if gamma == 0:
        return torch.full_like(p, -1)
    q = (1 - p).clamp_(min=torch.finfo(p.dtype).eps)
    lower = q.pow(gamma - 1)
    return lower.mul(p).mul_(log_p).mul_(gamma).sub_(lower.mul_(q))
