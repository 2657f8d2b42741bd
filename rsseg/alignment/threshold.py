"""How much of a metric is a matter of the threshold: threshold regret and residual regret, cross-fitted over scenes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rsseg.alignment.counts import Array, Overlap, overlap, pooled, present_mean
from rsseg.contract import InputError
from rsseg.metrics.histogram import THRESHOLDS, threshold_counts

FIXED = int(np.flatnonzero(THRESHOLDS == 0)[0])
"""Where `THRESHOLDS` holds 0, a probability of 0.5."""


@dataclass(frozen=True)
class ThresholdRegret:
    """What a threshold chosen on other scenes adds.

    Attributes:
        fixed: The metric at 0.5, mean of the two halves' scores.
        tuned: The metric of each half at the threshold tuned on the other half, mean of the two.
        threshold: ``[classes]``, tuned on all scenes, on the logit scale: to be stored with the run.
    """

    fixed: float
    tuned: float
    threshold: Array

    @property
    def regret(self) -> float:
        """What 0.5 costs; negative where the tuned threshold does not carry over to other scenes."""
        return self.tuned - self.fixed


def halves(scenes: int, seed: int = 0) -> NDArray[np.bool_]:
    """Which scenes belong to the first half: bool ``[scenes]``, at random, the same for every run.

    Raises:
        InputError: For fewer than two scenes.

    Example:
        >>> int(halves(7).sum())
        3
    """
    if scenes < 2:
        raise InputError(f"tuning on one half of the scenes and scoring on the other needs 2 scenes; found {scenes}")
    return np.random.default_rng(seed).permutation(scenes) < scenes // 2


def best_thresholds(histogram: ArrayLike, metric: Overlap = "iou") -> NDArray[np.intp]:
    """The place in `THRESHOLDS` of each class's best threshold; the middle of the best ones if there are several.

    Args:
        histogram: ``[scenes, classes, 2, 256]``.
        metric: Of the pooled counts.

    Returns:
        ``[classes]``; a class without positives keeps 0.5.
    """
    values = overlap(threshold_counts(np.asarray(histogram).sum(0)), metric)
    best = np.full(len(values), FIXED)
    for c in np.flatnonzero(~np.isnan(values).all(-1)):
        equal = np.flatnonzero(values[c] == values[c].max())
        first = equal[: 1 + np.argmax(np.append(np.diff(equal) > 1, True))]  # one unbroken stretch
        best[c] = first[len(first) // 2]
    return best


def threshold_regret(histogram: ArrayLike, metric: Overlap = "iou", first: NDArray[np.bool_] | None = None) -> ThresholdRegret:
    """What tuning the threshold of a binary or multilabel run adds to a pooled metric.

    Args:
        histogram: ``[scenes, classes, 2, 256]``, as `rsseg.metrics.ScoreHistogram` counts it.
        metric: `iou` or `dice`.
        first: Which scenes are the first half, `halves` if None.

    Raises:
        InputError: For fewer than two scenes.

    Example:
        >>> histogram = np.zeros((2, 1, 2, 256))
        >>> histogram[:, 0, 1, 100], histogram[:, 0, 0, 90] = 1, 1  # both below 0.5, but told apart
        >>> found = threshold_regret(histogram)
        >>> found.fixed, found.tuned
        (0.0, 1.0)
    """
    counted = np.asarray(histogram)
    first = halves(len(counted)) if first is None else first
    fixed, tuned = [], []
    for part in (first, ~first):
        there = threshold_counts(counted[part].sum(0))  # [classes, 255, 3]
        best = best_thresholds(counted[~part], metric)
        fixed.append(present_mean(overlap(there[:, FIXED], metric)))
        tuned.append(present_mean(overlap(there[np.arange(len(best)), best], metric)))
    return ThresholdRegret(float(np.mean(fixed)), float(np.mean(tuned)), THRESHOLDS[best_thresholds(counted, metric)])


def residual_regret(tuned: ArrayLike) -> Array:
    """What is left after tuning: the best known score minus each loss's own.

    Args:
        tuned: ``[losses, seeds]``, the metric at cross-fitted thresholds. The best known score of a seed is that of the
            best loss on average, so that a lucky run is not taken for a reachable score.

    Returns:
        ``[losses, seeds]``; the best loss's is 0.

    Example:
        >>> residual_regret([[0.5, 0.6], [0.7, 0.7]]).round(2).tolist()
        [[0.2, 0.1], [0.0, 0.0]]
    """
    values = np.asarray(tuned, dtype=np.float64)
    difference: Array = values[np.nanargmax(np.nanmean(values, axis=1))] - values
    return difference


def selection_regret(
    losses: ArrayLike, counts: ArrayLike, metric: Overlap = "iou", first: NDArray[np.bool_] | None = None
) -> float:
    """What choosing the checkpoint by its validation loss costs in a pooled metric.

    On one half of the scenes a checkpoint is chosen by the loss and another by the metric; both are scored on the other
    half; the halves are swapped and the differences averaged. The choice by metric is the one that a user could make, so
    the regret can be negative.

    Args:
        losses: ``[checkpoints, 2]``, the validation loss on the first and the second half; ``[checkpoints]`` if only the
            loss of all scenes is known, which favours the choice by loss, as it has seen the scenes that score it.
        counts: ``[checkpoints, scenes, classes, 3]``.
        metric: `iou` or `dice`.
        first: Which scenes are the first half, `halves` if None.

    Raises:
        InputError: If a half has no checkpoint with a loss and a score.

    Example:
        >>> counts = np.array([[[[1, 1, 0]]] * 2, [[[1, 0, 0]]] * 2]).reshape(2, 2, 1, 3)  # IoU 0.5, then 1
        >>> selection_regret([0.1, 0.2], counts)  # the loss prefers the first
        0.5
    """
    values = np.asarray(losses, dtype=np.float64)
    by_half = values if values.ndim == 2 else np.stack([values, values], axis=1)
    counted = np.asarray(counts)
    first = halves(counted.shape[1]) if first is None else first
    scored = np.stack([pooled(counted[:, part], metric) for part in (first, ~first)], axis=1)
    if np.isnan(by_half).all(0).any() or np.isnan(scored).all(0).any():
        raise InputError(
            "no checkpoint has a loss and a score on each half of the scenes: was anything positive labelled there?"
        )
    regrets = [
        scored[np.nanargmax(scored[:, here]), there] - scored[np.nanargmin(by_half[:, here]), there]
        for here, there in ((0, 1), (1, 0))
    ]
    return float(np.mean(regrets))
