"""Logits and labels as planes, for losses that look at a pixel's surroundings or order."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rsseg.contract import IGNORE
from rsseg.losses.pieces import wide
from rsseg.task import TASKS


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
        share: What each pixel counts for, 0 at ignored ones, in the logits' dtype.
        exclusive: Whether the classes exclude each other: softmax, not sigmoid.
    """

    logits: Tensor
    own: Tensor
    share: Tensor
    exclusive: bool

    @property
    def p(self) -> Tensor:
        """Probabilities, 0 where ignored."""
        p = self.logits.softmax(1) if self.exclusive else self.logits.sigmoid()
        return torch.where(self.share > 0, p, 0)

    @property
    def other(self) -> Tensor:
        """Bool, which valid pixels do not belong to the class."""
        return (self.share > 0) & ~self.own


def class_planes(logits: Tensor, target: Tensor, task: str, ignore_index: int = IGNORE, weight: Tensor | None = None) -> Planes:
    """Logits and labels as planes; the arguments are those of `rsseg.losses`.

    Ignored logits are replaced, not multiplied by 0: NaN and infinity under ignored pixels reach neither the value nor
    the gradient.
    """
    exclusive = TASKS[task].exclusive
    labels = target.long().unsqueeze(1) if exclusive else target.long().reshape(logits.shape)
    positive = torch.arange(logits.shape[1], device=logits.device).view(-1, 1, 1) if exclusive else 1
    share = pixel_share(labels != ignore_index, weight, wide(logits))
    clean = torch.where(share > 0, logits.to(share.dtype), 0)
    return Planes(clean, (labels == positive) & (share > 0), share.expand_as(logits), exclusive)
