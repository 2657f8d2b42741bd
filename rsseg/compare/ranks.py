"""Orders: which loss is best by which measure, whether loss and metric order checkpoints alike, and the trade-offs."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import kendalltau, rankdata

from rsseg.compare.bootstrap import Interval, t_interval
from rsseg.compare.counts import Array
from rsseg.contract import InputError
from rsseg.metrics.average import present_mean


def cross_evaluation(values: ArrayLike, higher_is_better: ArrayLike) -> Array:
    """The rank of every loss's models under every measure, losses among them.

    Args:
        values: ``[losses, seeds, measures]``.
        higher_is_better: bool ``[measures]``; False for losses and errors.

    Returns:
        The mean rank over seeds, 1 the best, ties sharing theirs; ``[losses, measures]``, NaN for a measure that lacks a value.

    Example:
        >>> cross_evaluation([[[0.5, 0.1]], [[0.7, 0.3]]], [True, False]).tolist()
        [[2.0, 1.0], [1.0, 2.0]]
    """
    found = np.asarray(values, dtype=np.float64)
    ordered = np.where(np.asarray(higher_is_better, dtype=bool), -found, found)
    ranks: Array = rankdata(ordered, axis=0, nan_policy="propagate").mean(axis=1)
    return ranks


def rank_alignment(losses: ArrayLike, scores: ArrayLike) -> Array:
    """How far a falling loss means a rising metric: Kendall's tau-b over a run's checkpoints.

    Args:
        losses: ``[checkpoints]``, the validation loss; NaN is left out.
        scores: ``[checkpoints]``, the metric, higher is better.

    Returns:
        ``[2]``: over all checkpoints, and over the last half of them, where checkpoints are chosen; 1: the loss orders them
        as the metric does. Checkpoints of one run are no sample: `seed_interval` of several runs says how sure it is.

    Raises:
        InputError: For shapes that differ.

    Example:
        >>> rank_alignment([3, 2, 1, 0], [0.1, 0.2, 0.4, 0.3]).round(3).tolist()
        [0.667, -1.0]
    """
    x, y = np.asarray(losses, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise InputError(f"rank alignment needs losses and scores [checkpoints]; found {x.shape} and {y.shape}")
    half = len(x) // 2
    return np.array([kendall(x, y), kendall(x[half:], y[half:])])


def kendall(loss: ArrayLike, score: ArrayLike) -> float:
    """Tau-b of a falling loss and a rising score; NaN for fewer than two checkpoints, or where one never changes."""
    x, y = np.asarray(loss, dtype=np.float64), np.asarray(score, dtype=np.float64)
    known = ~np.isnan(x + y)
    return float(kendalltau(-x[known], y[known]).statistic) if known.sum() > 1 else float("nan")


def seed_interval(values: ArrayLike) -> Interval:
    """The mean over seeds, the last axis, with Student's 95 % interval. Checkpoints of one run are no sample and do not count.

    Seeds that are NaN are left out; with fewer than two left the ends are NaN.
    """
    found = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(found)
    number = known.sum(-1)
    mean = present_mean(found)
    squares = np.where(known, found - mean[..., None], 0) ** 2
    freedom = np.where(number > 1, number - 1, np.nan)
    return t_interval(mean, np.sqrt(squares.sum(-1) / freedom / np.maximum(number, 1)), freedom)


def pareto_front(values: ArrayLike, higher_is_better: ArrayLike) -> NDArray[np.bool_]:
    """Which losses no other one beats in one measure without losing in another.

    Args:
        values: ``[losses, measures]``, such as pooled IoU, IoU per scene, boundary IoU and calibration error.
        higher_is_better: bool ``[measures]``.

    Returns:
        bool ``[losses]``; False for a loss of which a measure is NaN.

    Example:
        >>> pareto_front([[0.8, 0.1], [0.7, 0.05], [0.7, 0.1]], [True, False]).tolist()
        [True, True, False]
    """
    found = np.asarray(values, dtype=np.float64)
    good = np.where(np.asarray(higher_is_better, dtype=bool), found, -found)
    no_worse = (good[:, None] >= good[None]).all(-1)
    beats = no_worse & (good[:, None] > good[None]).any(-1)
    return np.asarray(~beats.any(0) & ~np.isnan(good).any(-1))
