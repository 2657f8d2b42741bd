"""Boundary IoU: the overlap of what lies close to the contours."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchmetrics import Metric

from rsseg.contract import IGNORE, Head, InputError, TaskKind, number

DISTANCE = 0.02
"""The width of the band as a fraction of the image's diagonal, the paper's choice for large images."""


def band_width(height: int, width: int, distance: float) -> int:
    """The width of the band in pixels, 1 at least.

    Example:
        >>> band_width(300, 400, 0.02)
        10
    """
    return max(1, round(distance * math.hypot(height, width)))


def inner_band(region: Tensor, width: int, valid: Tensor | None = None) -> Tensor:
    """The pixels of a region at most `width` away from its contour, counted as a king moves on a chessboard.

    Like the paper's, the image's border is a contour. The edge of what is not labelled is none: nobody knows whether the
    region ends there.

    Args:
        region: bool ``[..., H, W]``.
        width: 1 or more.
        valid: bool ``[..., H, W]``, True where labelled.

    Returns:
        bool ``[..., H, W]``, False where not labelled.

    Example:
        >>> inner_band(torch.ones(5, 5, dtype=torch.bool), 2).int().sum().item()  # all but the centre
        24
    """
    known = torch.ones_like(region) if valid is None else valid
    outside = known & ~region
    for dim in (-1, -2):  # a box is a row of columns
        outside = _near(outside, width, dim)
    height, breadth = region.shape[-2:]
    row, column = torch.arange(height, device=region.device)[:, None], torch.arange(breadth, device=region.device)
    border = (row < width) | (row >= height - width) | (column < width) | (column >= breadth - width)
    return region & known & (outside | border)


def _near(x: Tensor, width: int, dim: int) -> Tensor:
    """Whether something is True at most `width` away along a dimension, in time that does not depend on the width."""
    length = x.shape[dim]
    total = x.cumsum(dim, dtype=torch.int32)
    total = torch.cat([torch.zeros_like(total.narrow(dim, 0, 1)), total], dim)
    place = torch.arange(length, device=x.device)
    last, first = (place + width + 1).clamp(max=length), (place - width).clamp(min=0)
    return total.index_select(dim, last) > total.index_select(dim, first)


def boundary_counts(predicted: Tensor, target: Tensor, head: Head, distance: float = DISTANCE) -> Tensor:
    """True positives, false positives and false negatives of the bands of whole scenes.

    Args:
        predicted: Labels ``[..., H, W]`` (``[..., L, H, W]`` for multilabel), as `predicted_labels` gives them.
        target: Likewise; `IGNORE` is not counted.
        head: Task and classes.
        distance: The width of the band as a fraction of the image's diagonal.

    Returns:
        int64 ``[..., classes, 3]``: to be summed over scenes; TP / (TP + FP + FN) is the boundary IoU
        ``|G_d & P_d & G & P| / |(G_d & G) | (P_d & P)|`` of Cheng et al. 2021.

    Raises:
        InputError: For shapes that differ, or a distance outside 0 to 1.

    Example:
        >>> mask = torch.zeros(8, 8, dtype=torch.uint8)
        >>> mask[2:6, 2:6] = 1
        >>> from rsseg.contract import TaskKind
        >>> boundary_counts(mask, mask, Head(TaskKind.binary, ("building",)))  # a ring of 4 x 4 without its core
        tensor([[12,  0,  0]])
    """
    if predicted.shape != target.shape:
        raise InputError(f"prediction and target of one scene differ in shape: {list(predicted.shape)}, {list(target.shape)}")
    height, breadth = target.shape[-2:]
    width = band_width(height, breadth, number("distance", distance, high=1.0))
    valid = target != IGNORE
    found = []
    for c in range(head.channels):  # one class at a time: a scene may be large
        plane, label = (c, 1) if head.task is TaskKind.multilabel else (None, c if head.task is TaskKind.multiclass else 1)
        p, t, v = (x if plane is None else x[..., plane, :, :] for x in (predicted, target, valid))
        ours, theirs = inner_band(p == label, width, v), inner_band(t == label, width, v)
        found.append(torch.stack([(a & b).sum((-2, -1)) for a, b in ((ours, theirs), (ours, ~theirs), (~ours, theirs))], -1))
    return torch.stack(found, dim=-2)


class Boundary(Metric):
    """Counts of the bands along the contours, per scene.

    The state is int64 ``[S, classes, 3]``, summed over processes. Scenes must come whole: the edge of a window is no contour.

    Args:
        head: Task and classes.
        scenes: The number of scenes.
        distance: The width of the band as a fraction of the scene's diagonal.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, head: Head, scenes: int, distance: float = DISTANCE) -> None:
        super().__init__()
        self.head, self.distance = head, number("distance", distance, high=1.0)
        self.add_state("counts", torch.zeros(scenes, head.channels, 3, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, target: Tensor, scene: Tensor) -> None:
        """Count whole scenes of one size.

        Args:
            predicted: Labels ``[B, H, W]``, or ``[B, L, H, W]`` for multilabel.
            target: Likewise; `IGNORE` is not counted.
            scene: int64 ``[B]``.
        """
        self.counts.index_add_(0, scene, boundary_counts(predicted, target, self.head, self.distance))

    def compute(self) -> Tensor:
        """The counts, int64 ``[S, classes, 3]``."""
        return self.counts
