"""True positives, false positives and false negatives of runs: what every comparison is computed from.

`counts` is float64 ``[..., scenes, classes, 3]`` everywhere in this room, its last axis TP, FP, FN.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from rsseg.metrics.average import present_mean
from rsseg.metrics.scores import class_counts
from rsseg.task import Task

Array: TypeAlias = NDArray[np.float64]
Overlap: TypeAlias = Literal["iou", "dice"]


def counts_of(confusion: ArrayLike, task: Task) -> Array:
    """The counts of confusion matrices ``[..., scenes, P, K, K]``, rows the target, as `rsseg.metrics.Confusion` counts them.

    Example:
        >>> from rsseg.task import Binary
        >>> counts_of([[[[6, 1], [2, 3]]]], Binary(("road",)))
        array([[[3., 1., 2.]]])
    """
    return np.stack([part.numpy() for part in class_counts(torch.from_numpy(np.asarray(confusion)), task)], axis=-1)


def overlap(counts: ArrayLike, metric: Overlap = "iou") -> Array:
    """IoU or Dice of counts ``[..., 3]``; NaN where the target holds none of the class.

    Example:
        >>> float(overlap([3, 1, 2])), float(overlap([3, 1, 2], "dice"))
        (0.5, 0.6666666666666666)
    """
    hits, wrong, missed = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
    weight = 1.0 if metric == "iou" else 2.0
    whole = weight * hits + wrong + missed
    value: Array = np.where(hits + missed > 0, weight * hits / np.where(whole > 0, whole, 1.0), np.nan)
    return value


def pooled(counts: ArrayLike, metric: Overlap = "iou") -> Array:
    """The score of summed counts, then the mean over the classes present: ``[..., scenes, classes, 3]`` to ``[...]``."""
    return present_mean(overlap(np.asarray(counts, dtype=np.float64).sum(-3), metric))


def per_scene(counts: ArrayLike, metric: Overlap = "iou") -> Array:
    """The score of each scene, mean over the classes present in it, then over scenes: ``[...]``."""
    return present_mean(present_mean(overlap(counts, metric)))
