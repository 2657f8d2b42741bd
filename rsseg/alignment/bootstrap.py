"""Is loss A better than loss B, and how surely: the crossed bootstrap over seeds and scenes, and the win matrix.

Seeds and scenes are crossed: every seed is scored on the same scenes, and a hard scene is hard for all. So both are drawn,
independently, and one draw of scenes serves all seeds and losses (the pigeonhole bootstrap, Owen 2007). The pooled score is
computed anew from the drawn scenes' summed counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t as student

from rsseg.alignment.counts import Array, Overlap, overlap, pooled, present_mean
from rsseg.contract import InputError

SEEDS = 5
"""With fewer a comparison is exploratory."""


@dataclass(frozen=True)
class Interval:
    """An estimate and what it may as well be; arrays of one shape.

    Attributes:
        value: The estimate.
        low: Lower end, NaN where it can't be known.
        high: Upper end.
    """

    value: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class WinMatrix:
    """Every loss against every other.

    Attributes:
        score: The mean over seeds of the pooled metric, ``[losses]``.
        difference: Row minus column, ``[losses, losses]``.
        better: ``P(M_row > M_column)``, the share of bootstrap draws in which it is so, ties counted half;
            ``[losses, losses]``, NaN on the diagonal.
        p_value: Of no difference between row and column, times the number of comparisons; NaN where the rule forbids one.
        exploratory: Whether there are fewer than five seeds.
    """

    score: Interval
    difference: Interval
    better: Array
    p_value: Array
    exploratory: bool


def complete(counts: ArrayLike) -> Array:
    """Counts ``[losses, seeds, scenes, classes, 3]``, once they are seen to be that.

    Raises:
        InputError: For another number of dimensions, or values that are missing or negative.
    """
    found = np.asarray(counts, dtype=np.float64)
    if found.ndim != 5 or found.shape[-1] != 3 or not found.size:
        raise InputError(f"a comparison needs counts [losses, seeds, scenes, classes, 3]; found the shape {found.shape}")
    if not (found >= 0).all():
        raise InputError("the counts of some run hold NaN or negative numbers: leave that run, or its seed, out")
    return found


def crossed_bootstrap(counts: ArrayLike, metric: Overlap = "iou", draws: int = 2000, seed: int = 0) -> Array:
    """Bootstrap draws of every loss's mean over seeds of the pooled metric.

    One seed and one scene fewer than there are is drawn each time: so many independent draws vary as the mean of the whole
    sample does, while as many as there are would vary too little (by a fifth of the variance for five seeds). A single
    seed, or scene, is kept.

    Args:
        counts: ``[losses, seeds, scenes, classes, 3]``; seed r of all losses shares weights and windows, so it is drawn for
            all of them.
        metric: `iou` or `dice`.
        draws: Their number.
        seed: Of the draws.

    Returns:
        ``[draws, losses]``.

    Raises:
        InputError: For counts that are incomplete.
    """
    found, rng = complete(counts), np.random.default_rng(seed)
    _, seeds, scenes, _, _ = found.shape
    drawn_scenes = rng.multinomial(max(scenes - 1, 1), np.full(scenes, 1 / scenes), draws)
    drawn_seeds = rng.multinomial(max(seeds - 1, 1), np.full(seeds, 1 / seeds), draws) / max(seeds - 1, 1)
    summed = np.einsum("ds,lrsck->dlrck", drawn_scenes, found, optimize=True)
    scores: Array = np.einsum("dlr,dr->dl", present_mean(overlap(summed, metric)), drawn_seeds)
    return scores


def interval(draws: Array, by_seed: Array, scenes: int, level: float = 0.95) -> Interval:
    """The estimate from all data with an interval from bootstrap draws.

    It is symmetric, ``t`` standard deviations of the draws to either side. Quantiles of the draws would claim too much for a
    handful of seeds. ``t`` has Welch and Satterthwaite's degrees of freedom for a variance that comes partly from the
    seeds, partly from the scenes.

    Args:
        draws: ``[draws, ...]``.
        by_seed: ``[..., seeds]``, the same quantity of each seed on all scenes.
        scenes: Their number.
        level: The share of such intervals that should hold the true value.
    """
    value, seeds = by_seed.mean(-1), by_seed.shape[-1]
    if seeds < 2 or scenes < 2:
        unknown = np.full_like(value, np.nan)
        return Interval(value, unknown, unknown)
    total = np.nanvar(draws, axis=0)
    of_seeds = np.minimum(by_seed.var(-1, ddof=1) / seeds, total)
    freedom = of_seeds**2 / (seeds - 1) + (total - of_seeds) ** 2 / (scenes - 1)
    freedom = total**2 / np.where(freedom > 0, freedom, np.inf)
    half = student.ppf((1 + level) / 2, np.maximum(freedom, 1)) * np.sqrt(total)
    return Interval(value, value - half, value + half)


def win_matrix(counts: ArrayLike, metric: Overlap = "iou", draws: int = 2000, seed: int = 0) -> WinMatrix:
    """Compare every loss with every other.

    Args:
        counts: ``[losses, seeds, scenes, classes, 3]``.
        metric: `iou` or `dice`, pooled over scenes.
        draws: Of the bootstrap.
        seed: Of the draws.

    Raises:
        InputError: For counts that are incomplete.

    Example:
        >>> counts = np.ones((2, 5, 8, 1, 3))
        >>> counts[0, ..., 0] = 4  # IoU 4 / 6 against 1 / 3
        >>> found = win_matrix(counts, draws=100)
        >>> float(found.better[0, 1]), float(found.difference.value[0, 1].round(3)), found.exploratory
        (1.0, 0.333, False)
    """
    found = complete(counts)
    losses, seeds, scenes = found.shape[:3]
    drawn, by_seed = crossed_bootstrap(found, metric, draws, seed), pooled(found, metric)
    difference, gaps = drawn[:, :, None] - drawn[:, None], by_seed[:, None] - by_seed[None]
    better = ((difference > 0) + 0.5 * (difference == 0)).mean(0)
    np.fill_diagonal(better, np.nan)
    return WinMatrix(
        score=interval(drawn, by_seed, scenes),
        difference=interval(difference, gaps, scenes),
        better=better,
        p_value=p_values(gaps, losses * (losses - 1) // 2),
        exploratory=seeds < SEEDS,
    )


def p_values(differences: Array, comparisons: int) -> Array:
    """Sign-flip tests of differences between paired seeds, times the number of comparisons.

    Without a difference each seed's sign is a coin: the p-value is the share of all ``2^seeds`` signs that make the mean at
    least as large as it is. The least that it can be is ``2 / 2^seeds``; where that times the comparisons is not below
    .05 nothing could ever be found, and there is no p-value.

    Args:
        differences: ``[..., seeds]``.
        comparisons: How many tests there are in all.

    Returns:
        ``[...]``, at most 1.

    Example:
        >>> float(p_values(np.ones(6), 1)), float(p_values(np.ones(5), 1))
        (0.03125, nan)
    """
    seeds = differences.shape[-1]
    if 2 / 2**seeds * comparisons >= 0.05:
        return np.full(differences.shape[:-1], np.nan)
    if seeds <= 14:
        signs = 1.0 - 2 * ((np.arange(2**seeds)[:, None] >> np.arange(seeds)) & 1)
    else:  # a random sample of them, with the signs as they are
        signs = np.random.default_rng(0).choice([-1.0, 1.0], (2**14, seeds))
        signs[0] = 1
    flipped, observed = np.abs(differences @ signs.T), np.abs(differences.sum(-1, keepdims=True))
    share: Array = (flipped >= observed * (1 - 1e-9)).mean(-1)
    return np.minimum(share * comparisons, 1.0)
