"""Is loss A better than loss B, and how surely: the crossed bootstrap over seeds and scenes, and the win matrix.

Seeds and scenes are crossed: every seed is scored on the same scenes, and a hard scene is hard for all. So both are drawn,
independently, and one draw of scenes serves all seeds and losses (Owen and Eckles 2012). The score is computed anew from the
drawn scenes' sums.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t as student

from rsseg.compare.counts import Array, Overlap
from rsseg.compare.measures import Measure, of_counts

SEEDS = 5
"""With fewer a comparison is exploratory."""

CHUNK = 2**24
"""Numbers that are summed at a time."""


@dataclass(frozen=True)
class Interval:
    """An estimate and what it may as well be; arrays of one shape.

    Attributes:
        value: The estimate.
        low: Lower end, NaN where it can't be known.
        high: Upper end.
        above: How surely the true value is above 0, by the same t distribution: .975 where the 95 % interval begins at 0.
    """

    value: Array
    low: Array
    high: Array
    above: Array

    def at(self, *place: int) -> tuple[float, float, float]:
        """One estimate and the ends of its interval."""
        return float(self.value[place]), float(self.low[place]), float(self.high[place])


def t_interval(value: ArrayLike, deviation: ArrayLike, freedom: ArrayLike, level: float = 0.95) -> Interval:
    """Student's interval of an estimate with a standard deviation; NaN where it, or its degrees of freedom, are.

    Example:
        >>> found = t_interval(2.571, 1.0, 5)
        >>> [round(float(x), 3) for x in (found.low, found.high, found.above)]
        [0.0, 5.142, 0.975]
    """
    middle, sd = np.asarray(value, dtype=np.float64), np.asarray(deviation, dtype=np.float64)
    half = student.ppf((1 + level) / 2, freedom) * sd
    exact = (np.sign(middle) + 1) / 2  # where nothing varies
    above = np.where(sd == 0, exact, student.cdf(middle / np.where(sd == 0, 1, sd), freedom))
    return Interval(middle, middle - half, middle + half, above)


@dataclass(frozen=True)
class WinMatrix:
    """Every loss against every other.

    Attributes:
        score: The mean over seeds of the score. Its interval is cut to where scores can lie, which no true value lies beyond,
            so that it covers as often.
        difference: Row minus column, ``[losses, losses]``.
        better: ``P(the row's loss is better)``, by the t distribution of the difference; that of the column is 1 minus it.
            ``[losses, losses]``, NaN on the diagonal and where there is no interval.
        p_value: Of no difference between row and column, times the number of comparisons; NaN where the rule forbids one.
        exploratory: Whether there are fewer than five seeds.
    """

    score: Interval
    difference: Interval
    better: Array
    p_value: Array
    exploratory: bool

    @classmethod
    def of(cls, score: Interval, difference: Interval, gaps: Array, higher_is_better: bool = True) -> WinMatrix:
        """From intervals, and each seed's differences ``[losses, losses, seeds]``; scores lie in [0, 1], errors above 0."""
        losses, _, seeds = gaps.shape
        score = replace(score, low=np.maximum(score.low, 0), high=np.minimum(score.high, 1 if higher_is_better else np.inf))
        better = difference.above.copy() if higher_is_better else 1 - difference.above
        np.fill_diagonal(better, np.nan)
        return cls(score, difference, better, p_values(gaps, losses * (losses - 1) // 2), seeds < SEEDS)


def crossed_bootstrap(measure: Measure, draws: int = 2000, seed: int = 0) -> Array:
    """Bootstrap draws of every loss's mean over seeds of a score.

    Scenes get random weights, uniform among all that sum to 1 (the Bayesian bootstrap, Rubin 1981). None is ever quite left
    out, so that every draw is a mean over the same classes, whichever of them are rare. Seeds are drawn with replacement,
    one fewer than there are: so many independent draws vary as the mean of the whole sample does. A single seed is kept.

    Args:
        measure: What is drawn; seed r of all losses shares weights and windows, so it is drawn for all of them.
        draws: Their number.
        seed: Of the draws.

    Returns:
        ``[draws, losses]``; over scenes they vary ``(n - 1) / (n + 1)`` times as much as scores of other scenes would,
        which `interval` makes up for.
    """
    rng, sums = np.random.default_rng(seed), measure.sums
    losses, seeds, scenes = sums.shape[:3]
    weights = rng.dirichlet(np.ones(scenes), draws)
    drawn = rng.multinomial(max(seeds - 1, 1), np.full(seeds, 1 / seeds), draws) / max(seeds - 1, 1)
    by_scene = np.moveaxis(sums, 2, 0).reshape(scenes, -1)
    parts = np.array_split(weights, min(draws, 1 + draws * by_scene.shape[1] // CHUNK))
    scores = [measure.score((part @ by_scene).reshape(len(part), losses, seeds, *sums.shape[3:])) for part in parts]
    found: Array = np.einsum("dlr,dr->dl", np.concatenate(scores), drawn)
    return found


def interval(draws: Array, by_seed: Array, scenes: float) -> Interval:
    """The estimate from all data with a 95 % interval from bootstrap draws.

    It is symmetric, ``t`` standard deviations to either side. Quantiles of the draws would claim too much for a handful of
    seeds, or of scenes. ``t`` has Welch and Satterthwaite's degrees of freedom for a variance that comes partly from the
    seeds, partly from the scenes.

    Args:
        draws: ``[draws, ...]``.
        by_seed: ``[..., seeds]``, the same quantity of each seed on all scenes.
        scenes: Their effective number, `Measure.scenes`; with one there is no interval.
    """
    value, seeds = by_seed.mean(-1), by_seed.shape[-1]
    if seeds < 2 or scenes <= 1 + 1e-9:
        return t_interval(value, np.full_like(value, np.nan), np.nan)
    total = draws.var(axis=0)
    of_seeds = np.minimum(by_seed.var(-1, ddof=1) / seeds, total)
    of_scenes = (total - of_seeds) * (scenes + 1) / (scenes - 1)
    total = of_seeds + of_scenes
    freedom = of_seeds**2 / (seeds - 1) + of_scenes**2 / (scenes - 1)
    freedom = total**2 / np.where(freedom > 0, freedom, np.inf)
    return t_interval(value, np.sqrt(total), np.maximum(freedom, 1))


def compare(measure: Measure, draws: int = 2000, seed: int = 0) -> WinMatrix:
    """Compare every loss with every other, by draws of seeds and scenes.

    Args:
        measure: The score they are compared by.
        draws: Of the bootstrap.
        seed: Of the draws.
    """
    drawn, by_seed = crossed_bootstrap(measure, draws, seed), measure.values
    gaps = by_seed[:, None] - by_seed[None]
    score, difference = interval(drawn, by_seed, measure.scenes), drawn[:, :, None] - drawn[:, None]
    return WinMatrix.of(score, interval(difference, gaps, measure.scenes), gaps, measure.higher_is_better)


def win_matrix(counts: ArrayLike, metric: Overlap = "iou", draws: int = 2000, seed: int = 0) -> WinMatrix:
    """Compare every loss with every other by IoU or Dice, pooled over scenes.

    Args:
        counts: ``[losses, seeds, scenes, classes, 3]``.
        metric: `iou` or `dice`.
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
    return compare(of_counts(counts, metric), draws, seed)


def p_values(differences: Array, comparisons: int) -> Array:
    """Sign-flip tests of differences between paired seeds, times the number of comparisons.

    Without a difference each seed's sign is a coin: the p-value is the share of all ``2^seeds`` signs that make the mean at
    least as large as it is. The least that it can be is ``2 / 2^seeds``; where that times the comparisons is not below
    .05 nothing could ever be found, and there is no p-value.

    Args:
        differences: ``[..., seeds]``.
        comparisons: How many tests there are in all.

    Returns:
        ``[...]``, at most 1; NaN where a seed's difference is.

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
    return np.where(np.isnan(observed[..., 0]), np.nan, np.minimum(share * comparisons, 1.0))
