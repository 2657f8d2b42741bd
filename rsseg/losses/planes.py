"""Logits and labels as planes, for losses that look at a pixel's surroundings or order."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def pixel_share(known: Tensor, weight: Tensor | None, dtype: torch.dtype) -> Tensor:
    """What each entry of ``[B, 1 or C, H, W]`` counts for: the weight of its pixel, or 1, where it is known; else 0."""
    if weight is None:
        return known.to(dtype)
    return torch.where(known & (weight > 0).unsqueeze(1), weight.unsqueeze(1).to(dtype), 0)


class Planes(NamedTuple):
    """Logits in which ignored pixels are harmless, and a plane of truth for each class; all ``[B, C, H, W]``.

    Attributes:
        logits: float32 or float64, 0 at ignored pixels.
        own: bool, which valid pixels belong to the class.
        other: bool, which valid pixels do not.
        share: What each pixel counts for, 0 at ignored ones, in the logits' dtype.
        exclusive: Whether the classes exclude each other: softmax, not sigmoid.
    """

    logits: Tensor
    own: Tensor
    other: Tensor
    share: Tensor
    exclusive: bool

    @property
    def p(self) -> Tensor:
        """Probabilities, 0 where ignored."""
        p = self.logits.softmax(1) if self.exclusive else self.logits.sigmoid()
        return torch.where(self.share > 0, p, 0)
