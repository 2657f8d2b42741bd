"""What the one pass works on at a time, and where its results go."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Scratch:
    """Memory that one thread uses again for every chunk: pages fresh from the system would cost more than the sums.

    Chunks ask for the same tensors in the same order, so each request finds the one that it got before.

    Example:
        >>> scratch = Scratch()
        >>> first = scratch.empty(2, 3)
        >>> scratch.reset()
        >>> scratch.empty(6).data_ptr() == first.data_ptr()
        True
    """

    def __init__(self) -> None:
        self._given: list[Tensor] = []
        self._next = 0

    def reset(self) -> None:
        """Give everything back."""
        self._next = 0

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """An uninitialised tensor, to be used until the next reset."""
        if self._next == len(self._given):
            self._given.append(torch.empty(shape, dtype=dtype))
        given = self._given[self._next]
        if given.shape != shape or given.dtype != dtype:
            room, size = given.untyped_storage(), math.prod(shape)
            if given.dtype == dtype and room.nbytes() >= size * dtype.itemsize:
                given = torch.empty(0, dtype=dtype).set_(room, 0, shape)  # type: ignore[call-overload]
            else:
                given = torch.empty(shape, dtype=dtype)
            self._given[self._next] = given
        self._next += 1
        return given


class Chunk(NamedTuple):
    """Some pixels of one or more images.

    Booleans are held as floats: PyTorch's CPU kernels for mixed dtypes are many times slower than those of floats.

    Attributes:
        x: The logits ``[classes, n]``, 0 at ignored pixels.
        label: The labels as floats, ``[n]`` for softmax and ``[classes, n]`` for sigmoid; to be written over at will.
        valid: 1 where not ignored, else 0; as `label`. Not to be written to.
        whole: Whether nothing is ignored.
        scratch: Memory for what is computed.
    """

    x: Tensor
    label: Tensor
    valid: Tensor
    whole: bool
    scratch: Scratch

    def like_x(self) -> Tensor:
        """Room for numbers per logit."""
        return self.scratch.empty(*self.x.shape, dtype=self.x.dtype)

    def like_label(self) -> Tensor:
        """Room for numbers as `label`."""
        return self.scratch.empty(*self.label.shape, dtype=self.x.dtype)

    def indices(self) -> Tensor:
        """Room for places in a table, per logit."""
        return self.scratch.empty(*self.x.shape, dtype=torch.int32)


def log2(x: Tensor, out: Tensor) -> Tensor:
    """By NumPy, which is three times as fast at it as PyTorch on a CPU."""
    np.log2(x.numpy(), out=out.numpy())
    return out


def focal(log_p: Tensor, p: Tensor, gamma: float, out: Tensor) -> Tensor:
    """``-(1 - p)^gamma log p``, in the unit of log p."""
    return torch.sub(1, p, out=out).pow_(gamma).mul_(log_p).neg_()


def focal_slope(log_p: Tensor, p: Tensor, gamma: float, out: Tensor, spare: Tensor) -> Tensor:
    """The derivative of `focal` with respect to ``log p``; at p = 1, where the power may be infinite, about 0."""
    if gamma == 0:
        return out.fill_(-1)
    q = torch.sub(1, p, out=out).clamp_(min=torch.finfo(p.dtype).eps)
    lower = torch.pow(q, gamma - 1, out=spare)
    q.mul_(lower).neg_()
    return q.addcmul_(lower.mul_(p), log_p, value=gamma)
