"""Boundary IoU: the IoU of the pixels close to the contours."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rsseg.contract import IGNORE
from rsseg.metrics.counters.sums import SceneCounts
from rsseg.task import Task

DISTANCE = 0.02
"""The width of the band as a fraction of the image's diagonal, the paper's choice for large images."""


class Boundary(SceneCounts):
    """Counter of the bands along the contours of whole scenes, int64 ``[S, classes, 3]``, see `boundary_counts`."""

    def __init__(self, task: Task, scenes: int) -> None:
        super().__init__(task, (scenes, task.channels, 3))

    def update(self, predicted: Tensor, target: Tensor, scene: Tensor) -> None:
        """Count whole scenes of one size: labels as for `boundary_counts`, and the scenes' numbers, int64 ``[B]``."""
        self.counts.index_add_(0, scene, boundary_counts(predicted, target, self.task))


def boundary_counts(predicted: Tensor, target: Tensor, task: Task, distance: float = DISTANCE) -> Tensor:
    """True positives, false positives and false negatives of the bands of whole scenes, int64 ``[..., classes, 3]``.

    They may be summed over scenes. Scenes must be whole: a window's edge is no contour. TP / (TP + FP + FN) is the boundary IoU
    ``|G_d & P_d & G & P| / |(G_d & G) | (P_d & P)|`` of Cheng et al. 2021.

    Args:
        predicted: Labels ``[..., H, W]`` (``[..., L, H, W]`` for multilabel), as `Task.predict` gives them.
        target: Likewise; `IGNORE` is not counted.
        task: The head's task.
        distance: The width of the band as a fraction of the image's diagonal; it is one pixel at least.

    Example:
        >>> mask = torch.zeros(8, 8, dtype=torch.uint8)
        >>> mask[2:6, 2:6] = 1
        >>> from rsseg.task import Binary
        >>> boundary_counts(mask, mask, Binary(("building",)))  # a ring of 4 x 4 without its core
        tensor([[12,  0,  0]])
    """
    width = max(1, round(distance * math.hypot(*target.shape[-2:])))
    valid = target != IGNORE
    ours, theirs = (inner_band(labels, width, valid) for labels in (predicted, target))
    both = ours & theirs & (predicted == target)
    found, there, hits = (_count(labels, band, task) for labels, band in ((predicted, ours), (target, theirs), (target, both)))
    return torch.stack([hits, found - hits, there - hits], dim=-1)


def inner_band(labels: Tensor, width: int, valid: Tensor) -> Tensor:
    """Bool, true for pixels at most `width` away from the contour of their region, in the chessboard distance.

    Computed for all regions at once: a pixel is in the band of its label if another label is within reach, so that the smallest
    and the largest label there differ. As in the paper, the image's border is a contour. The edge of invalid pixels is not, as
    it is unknown whether a region ends there.
    """
    largest, smallest = (_largest_near(x.where(valid, 0), width) for x in (labels.byte(), 255 - labels.byte()))
    border = torch.ones(labels.shape[-2:], dtype=torch.bool, device=labels.device)
    border[width:-width, width:-width] = False
    return valid & ((largest != 255 - smallest) | border)


def _largest_near(x: Tensor, width: int) -> Tensor:
    """The maximum of values at most `width` away along rows and columns, by maxima over 1, 2, 4, ... pixels."""
    for dim in (-1, -2):
        shape = list(x.shape)
        shape[dim] = width
        edge, reach, length = x.new_zeros(shape), 1, 2 * width + 1
        x = torch.cat([edge, x, edge], dim)  # 0 is the least there is
        while reach < length:
            step = min(reach, length - reach)
            x = torch.maximum(x.narrow(dim, 0, x.shape[dim] - step), x.narrow(dim, step, x.shape[dim] - step))
            reach += step
    return x


def _count(labels: Tensor, where: Tensor, task: Task) -> Tensor:
    """The number of each class's pixels where `where` is true, ``[..., *label_planes, H, W]`` to int64 ``[..., classes]``."""
    planes = zip(labels.flatten(0, -3), where.flatten(0, -3), strict=True) if labels.ndim > 2 else [(labels, where)]
    counts = torch.stack([torch.bincount(plane[there], minlength=task.labels) for plane, there in planes])
    leading = labels.shape[: labels.ndim - 2 - len(task.label_planes)]
    return task.by_class(counts.view(*leading, len(task.matrices), task.labels))
