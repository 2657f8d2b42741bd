"""How much of a metric is a matter of the threshold: threshold regret and residual regret, cross-fitted over scenes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rsseg.compare.counts import Array, Overlap, overlap, pooled
from rsseg.contract import InputError
from rsseg.metrics.histogram import THRESHOLDS, threshold_counts

FIXED = int(np.flatnonzero(THRESHOLDS == 0)[0])
"""Where `THRESHOLDS` holds 0, a probability of 0.5."""


@dataclass(frozen=True)
class ThresholdRegret:
    """What a threshold chosen on other scenes adds.

    Attributes:
        fixed: The pooled metric at 0.5.
        tuned: The pooled metric with each scene at the threshold tuned on the half that it is not in.
        threshold: ``[classes]``, tuned on all scenes, on the logit scale: to be stored with the run. 0 for a class that
            was not tuned.
    """

    fixed: float
    tuned: float
    threshold: Array

    @property
    def regret(self) -> float:
        """What 0.5 costs; negative where the tuned threshold does not carry over to other scenes."""
        return self.tuned - self.fixed


def halves(holds: ArrayLike, seed: int = 0, tries: int = 50) -> NDArray[np.bool_]:
    """Which scenes belong to the first half, at random, the same for every run on the same scenes.

    Each class's scenes are dealt to both sides in turn, the rarest class first (Sechidis et al. 2011); of some such deals
    the one is taken that leaves fewest classes on one side, and of these the one with the most equal sides.

    Args:
        holds: bool ``[scenes, classes]``, which classes a scene's labels hold.
        seed: Of the deals.
        tries: How many deals.

    Returns:
        bool ``[scenes]``; of one scene it is the first.

    Example:
        >>> first = halves([[1, 0], [1, 0], [1, 1], [1, 1], [1, 0], [1, 0]])
        >>> int(first.sum()), int(first[2:4].sum())
        (3, 1)
    """
    there = np.asarray(holds, dtype=bool)
    return _best_deal(there.tobytes(), there.shape, seed, tries).copy()


@lru_cache(maxsize=4)  # a run asks several times for the halves of the same scenes
def _best_deal(holds: bytes, shape: tuple[int, ...], seed: int, tries: int) -> NDArray[np.bool_]:
    there, rng = np.frombuffer(holds, dtype=bool).reshape(shape), np.random.default_rng(seed)
    orders = [rng.permutation(len(there)) for _ in range(tries)]
    deals = [_deal(there, order) for order in orders]
    deals += [order < len(there) // 2 for order in orders if len(there) > 1]  # classes that interlock: plain halves too
    return min(deals, key=lambda first: (-shared(there, first).sum(), abs(len(first) - 2 * int(first.sum()))))


def _deal(holds: NDArray[np.bool_], order: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Each scene goes to the side with fewer of its class, else with fewer of all, else to the first."""
    side = np.full(len(holds), -1, dtype=np.int8)
    classes = [holds[:, c] for c in np.argsort(holds.sum(0), kind="stable")]
    for member in [*classes, np.ones(len(holds), dtype=bool)]:
        scenes = order[member[order] & (side[order] < 0)]
        excess = int((side[member] == 0).sum()) - int((side[member] == 1).sum())
        to_level, in_turn = np.split(scenes, [abs(excess)])
        side[to_level] = int(excess > 0)
        begin = int((side == 1).sum() < (side == 0).sum())  # the same after each pair
        side[in_turn] = (begin + np.arange(len(in_turn))) % 2
    return np.asarray(side == 0)


def shared(holds: ArrayLike, first: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which classes occur on both sides, and can be tuned on the one and scored on the other: bool ``[classes]``.

    One scene has no other side: there all that occur can be tuned.
    """
    there = np.asarray(holds, dtype=bool)
    return np.asarray(there[first].any(0) & ((len(there) == 1) | there[~first].any(0)))


def best_thresholds(
    histogram: ArrayLike, metric: Overlap = "iou", classes: NDArray[np.bool_] | None = None
) -> NDArray[np.intp]:
    """The place in `THRESHOLDS` of each class's best threshold; the middle of the best ones if there are several.

    Args:
        histogram: ``[scenes, classes, 2, 256]``.
        metric: Of the pooled counts.
        classes: bool ``[classes]``, which are tuned; all by default.

    Returns:
        ``[classes]``; a class that is not tuned, or has no positives, keeps 0.5.
    """
    values = overlap(threshold_counts(np.asarray(histogram).sum(0)), metric)
    best = np.full(len(values), FIXED)
    tuned = ~np.isnan(values).all(-1) & (True if classes is None else classes)
    for c in np.flatnonzero(tuned):
        equal = np.flatnonzero(values[c] == values[c].max())
        first = equal[: 1 + np.argmax(np.append(np.diff(equal) > 1, True))]  # one unbroken stretch
        best[c] = first[len(first) // 2]
    return best


def crossfit_histogram(
    histogram: ArrayLike, metric: Overlap = "iou", first: NDArray[np.bool_] | None = None
) -> tuple[Array, Array]:
    """Each scene's counts at 0.5, and at the threshold that was tuned on the half of the scenes it is not in.

    Args:
        histogram: ``[scenes, classes, 2, 256]``, as `rsseg.metrics.ScoreHistogram` counts it, of a binary or multilabel run.
        metric: What the threshold is tuned for.
        first: Which scenes are the first half, `halves` if None.

    Returns:
        Two ``[scenes, classes, 3]``, alike for a class that does not occur in both halves: it can't be tuned.

    Raises:
        InputError: If no class occurs in both halves.
    """
    counted = np.asarray(histogram)
    holds = counted[:, :, 1].any(-1)
    first = halves(holds) if first is None else first
    classes, counts = tunable(holds, first), threshold_counts(counted)  # [scenes, classes, 255, 3]
    tuned = np.empty_like(counts[:, :, 0])
    for part in (first, ~first):
        best = best_thresholds(counted[~part], metric, classes)
        tuned[part] = counts[part][:, np.arange(len(best)), best]
    return counts[:, :, FIXED], tuned


def tunable(holds: ArrayLike, first: NDArray[np.bool_], least: int = 1) -> NDArray[np.bool_]:
    """`shared`, if that are enough classes to tune.

    Raises:
        InputError: If there are fewer than `least`.
    """
    classes = shared(holds, first)
    if classes.sum() < least:
        raise InputError(
            f"tuning on one half of the scenes and scoring on the other needs {least} class{'es' * (least > 1)} with labels in "
            f"both; found {int(classes.sum())} in {len(first)} scenes: label more scenes"
        )
    return classes


def threshold_regret(histogram: ArrayLike, metric: Overlap = "iou", first: NDArray[np.bool_] | None = None) -> ThresholdRegret:
    """What tuning the threshold of a binary or multilabel run adds to a pooled metric, see `crossfit_histogram`.

    Args:
        histogram: ``[scenes, classes, 2, 256]``.
        metric: `iou` or `dice`.
        first: Which scenes are the first half, `halves` if None.

    Raises:
        InputError: If no class occurs in both halves.

    Example:
        >>> histogram = np.zeros((2, 1, 2, 256))
        >>> histogram[:, 0, 1, 100], histogram[:, 0, 0, 90] = 1, 1  # both below 0.5, but told apart
        >>> found = threshold_regret(histogram)
        >>> found.fixed, found.tuned
        (0.0, 1.0)
    """
    counted = np.asarray(histogram)
    holds = counted[:, :, 1].any(-1)
    first = halves(holds) if first is None else first
    fixed, tuned = (float(pooled(counts, metric)) for counts in crossfit_histogram(counted, metric, first))
    return ThresholdRegret(fixed, tuned, THRESHOLDS[best_thresholds(counted, metric, shared(holds, first))])


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


def selection_regret(losses: ArrayLike, counts: ArrayLike, first: NDArray[np.bool_], metric: Overlap = "iou") -> float:
    """What choosing the checkpoint by its validation loss costs in a pooled metric.

    On one half of the scenes a checkpoint is chosen by the loss and another by the metric; both are scored on the other
    half; the halves are swapped and the differences averaged. The choice by metric is the one that a user could make, so
    the regret can be negative.

    Args:
        losses: ``[checkpoints, 2]``, the validation loss on the first and the second half. A loss of all scenes won't do: it
            has seen those that score its choice.
        counts: ``[checkpoints, scenes, classes, 3]``.
        first: Which scenes are the first half.
        metric: `iou` or `dice`.

    Raises:
        InputError: If a half has no checkpoint with a loss and a score.

    Example:
        >>> counts = np.array([[[[1, 1, 0]]] * 2, [[[1, 0, 0]]] * 2]).reshape(2, 2, 1, 3)  # IoU 0.5, then 1
        >>> selection_regret([[0.1, 0.1], [0.2, 0.2]], counts, np.array([True, False]))  # the loss prefers the first
        0.5
    """
    by_half, counted = np.asarray(losses, dtype=np.float64), np.asarray(counts)
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
