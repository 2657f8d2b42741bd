"""Confidence intervals of losses and of their differences, from sums over independent groups of scenes.

Seeds and groups are crossed: every seed is scored on the same groups, and a hard group is hard for all seeds. So both are
drawn independently, and one draw of groups serves all seeds and losses (Owen and Eckles 2012). A score is computed from the
sums of the drawn groups. Intervals of differences hold for all pairs of losses at once (Games and Howell 1976).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import CubicSpline
from scipy.optimize import brentq
from scipy.special import digamma, polygamma
from scipy.stats import studentized_range
from scipy.stats import t as student

from rsseg.comparison.measures import Measure
from rsseg.metrics.average import Array, present_mean, ratio

CLAIMED = 3
"""The least number of seeds per loss at which one loss may be called better than another."""

SEEDS = 5
"""A comparison with fewer seeds per loss is exploratory."""

RARE = 2.0
"""A class with fewer `effective_groups` is left out of means: its variance can't be estimated."""

CHUNK = 2**19
"""About how many values `_draw` sums at a time, to bound its memory."""


def effective_groups(mass: ArrayLike) -> Array:
    """The effective number of groups of each part (Kish 1965): ``(sum m)^2 / sum m^2``; their number if masses are equal.

    Takes the mass ``[groups, parts]``, such as the pixels of each class; returns ``[parts]``, NaN for a part without mass.

    Example:
        >>> effective_groups([[5, 9], [5, 0], [5, 1], [5, 0]]).round(2).tolist()
        [4.0, 1.22]
    """
    found = np.asarray(mass, dtype=np.float64)
    return ratio(found.sum(0) ** 2, (found**2).sum(0))


def sum_groups(sums: ArrayLike, groups: ArrayLike, axis: int = 0) -> Array:
    """Sums by scene ``[..., scenes, ...]`` added up by group along `axis`, groups in the order of their first scenes.

    Example:
        >>> sum_groups([[1, 2], [3, 4], [5, 6]], ["a", "b", "a"]).tolist()
        [[6.0, 8.0], [3.0, 4.0]]
    """
    names = np.asarray(groups)
    order = list(dict.fromkeys(names.tolist()))
    member = np.array([names == name for name in order], dtype=np.float64)
    return np.moveaxis(np.tensordot(member, np.asarray(sums, dtype=np.float64), axes=([1], [axis])), 0, axis)


@dataclass(frozen=True)
class Interval:
    """Estimates and the ends of their intervals: arrays of one shape; ends are NaN where they are not known."""

    value: Array
    low: Array
    high: Array

    @classmethod
    def unknown(cls, value: Array) -> Interval:
        """Estimates whose ends can't be known."""
        ends = np.full_like(value, np.nan)
        return cls(value, ends, ends)

    def __neg__(self) -> Interval:
        return Interval(-self.value, -self.high, -self.low)

    def __getitem__(self, place: Any) -> Interval:
        return Interval(self.value[place], self.low[place], self.high[place])

    def at(self, *place: int) -> tuple[float, float, float]:
        """One estimate and the ends of its interval."""
        return float(self.value[place]), float(self.low[place]), float(self.high[place])


@dataclass(frozen=True)
class Spread:
    """Estimates and their variance over other seeds and groups: arrays of one shape, NaN where it is not known."""

    value: Array
    of_seeds: Array  # the part of the variance that is due to the seeds
    of_groups: Array  # the part that is due to the groups
    variance: Array
    freedom: Array  # the degrees of freedom of the variance

    def interval(self, losses: int = 0, level: float = 0.95) -> Interval:
        """Student's intervals; with `losses`, simultaneous intervals for all pairs of that many losses, of this level."""
        factor = critical(losses, self.freedom, level) if losses else student.ppf(0.5 + level / 2, self.freedom)
        half = factor * np.sqrt(self.variance)
        return Interval(self.value, self.value - half, self.value + half)


INVERSE = np.linspace(0, 1, 13) ** 2
"""One over the degrees of freedom at which the studentized range is computed (0.1 s each); it is smooth between them."""


@lru_cache(maxsize=64)
def _log_quantile(losses: int, level: float) -> CubicSpline:
    """The logarithm of Tukey's quantile divided by the root of 2, as a function of one over the degrees of freedom."""
    return CubicSpline(INVERSE, np.log(studentized_range.ppf(level, losses, 1 / np.maximum(INVERSE, 1e-9)) / np.sqrt(2)))


def critical(losses: int, freedom: ArrayLike, level: float = 0.95) -> Array:
    """The half width, in standard deviations, at which the intervals of all pairwise differences hold together.

    Tukey's studentized range with each pair's own degrees of freedom (Games and Howell 1976), interpolated over their inverse.

    Example:
        >>> critical(2, [4, 10]).round(2).tolist(), critical(8, 10).round(2).tolist()  # of one pair it is Student's t
        ([2.78, 2.23], 3.75)
    """
    return np.asarray(np.exp(_log_quantile(losses, level)(1 / np.asarray(freedom, dtype=np.float64))))


def moderate(variance: Array, freedom: Array, independent: int) -> tuple[Array, Array]:
    """Moderated variances, shrunk towards a common value, and their degrees of freedom (Smyth 2004).

    With a handful of seeds, some of many pairs have far too small a variance by chance. True variances are taken to vary by
    the excess of the variance of their logarithms over chance plus one standard error: without that margin, with three losses
    and three seeds, some pair is falsely told apart in 8 % of sweeps instead of 5 %. Only `independent` of the positive
    variances ``[N]`` are independent, which limits the degrees of freedom.

    Example:
        >>> moderate(np.array([1.0, 1.2, 0.7]), np.full(3, 4.0), 2)[1].tolist()  # no more unlike than by chance
        [8.0, 8.0, 8.0]
    """
    half = np.minimum(freedom, 1e6) / 2
    logs = np.log(variance) - digamma(half) + np.log(half)
    excess = logs.var(ddof=1) - polygamma(1, half).mean() * (1 + np.sqrt(2 / independent))
    if excess <= 0:
        prior, centre = 1e6, np.exp(logs.mean())
    else:
        prior = 2 * float(brentq(lambda x: polygamma(1, x) - excess, 1e-8, 1e8))
        centre = np.exp(logs.mean() + digamma(prior / 2) - np.log(prior / 2))
    found = (prior * centre + freedom * variance) / (prior + freedom)
    return found, np.maximum(np.minimum(prior + freedom, independent * freedom.mean()), freedom)


@dataclass(frozen=True)
class Estimates:
    """Every loss by a measure, and every loss against every other. L losses, R seeds."""

    values: Array  # [L, R], the score of every run
    mean: Spread  # [L], over seeds
    difference: Spread  # [L, L], row minus column
    measure: Measure
    own_freedom: Array | None = None  # [L, L], degrees of freedom of each difference by itself; None: those of `difference`

    @property
    def order(self) -> list[int]:
        """The indices of the losses, best first."""
        return [int(i) for i in np.argsort(-self.measure.sign * self.mean.value, kind="stable")]

    @property
    def behind(self) -> list[int]:
        """The indices of the losses that are surely behind the best one, the nearest first; none without `claims`."""
        first, *others = self.order
        low = self.lead().low[first]
        return [i for i in others if low[i] > 0]

    @property
    def claims(self) -> bool:
        """Whether there are enough seeds to call one loss better than another."""
        return len(self.values[0]) >= CLAIMED

    @property
    def score(self) -> Interval:
        """The mean over seeds with its own 95 % interval, clipped to the measure's limits."""
        found, (low, high) = self.mean.interval(), self.measure.limits
        return replace(found, low=np.maximum(found.low, low), high=np.minimum(found.high, high))

    def lead(self, level: float = 0.95, pooled: bool = True) -> Interval:
        """The lead ``[L, L]`` of the row's loss over the column's, positive if better, with simultaneous intervals.

        Ends are NaN below `CLAIMED` seeds. If `pooled`, degrees of freedom are those after `moderate`. Otherwise each pair has
        its own: intervals are wider, and valid even if the variances of the losses differ strongly.
        """
        spread = self.difference
        if not pooled and self.own_freedom is not None:
            spread = replace(spread, freedom=self.own_freedom)
        found = spread.interval(max(len(self.values), 2), level)
        found = found if self.measure.higher_is_better else -found
        return found if self.claims else Interval.unknown(found.value)


def estimate(sums: Array, measure: Measure, draws: int = 2000, seed: int = 0) -> Estimates:
    """Compare every loss with every other by a bootstrap over seeds and groups.

    Groups get random weights, uniform among all that sum to 1 (the Bayesian bootstrap, Rubin 1981): no group is ever left out,
    so every draw is a mean over the same classes. With n `effective_groups`, a class's draws have ``(n - 1) / (n + 1)`` times
    the variance of its score over other groups. So the draws of each class are widened by its own factor before the mean is
    taken, and its degrees of freedom count by its share of the variance: one rare class does not make the others uncertain.
    One seed fewer than there are is drawn, with replacement: the mean of so many draws has the variance of the sample's mean.
    Seed r has the same initial weights and windows for all losses, so it is drawn for all of them together.

    With three losses or more, the variances of differences go through `moderate`, but are never reduced.

    Args:
        sums: The sums ``[L, R, groups, ...]`` from which the score is computed.
        measure: The score.
        draws: The number of bootstrap draws.
        seed: The seed of the random generator.

    Example:
        >>> from rsseg.comparison.measures import measures
        >>> from rsseg.task import Binary
        >>> counts = np.ones((2, 5, 8, 1, 4))
        >>> counts[0, ..., 0] = 4  # IoU 4 / 6 against 1 / 3
        >>> found = estimate(counts, measures(Binary(("road",)))["iou"], draws=100)
        >>> round(found.lead().at(0, 1)[0], 3)
        0.333
    """
    parts = measure.parts(sums.sum(2))  # [L, R, P]
    mass = present_mean(np.stack([measure.pixels(run) for row in sums for run in row], axis=-1))  # [groups, P]
    if mass.shape[1] != parts.shape[-1]:
        mass = mass.sum(1, keepdims=True)
    values, groups, seeds = present_mean(parts), effective_groups(mass), parts.shape[1]
    known = ~np.isnan(groups)
    mean, gap = values.mean(1), values.mean(1)[:, None] - values.mean(1)
    if seeds < 2 or not known.any() or groups[known].min() < 1 + 1e-9:
        mean_alone, gap_alone = (Spread(value, *np.full((4, *value.shape), np.nan)) for value in (mean, gap))
        return Estimates(values, mean_alone, gap_alone, measure)
    drawn = _draw(sums, measure, draws, seed)[..., known]
    widening = np.sqrt((groups[known] + 1) / (groups[known] - 1)) / known.sum()
    moved = (drawn - drawn.mean(0)) * widening
    covariances = (
        np.cov(values).reshape(len(parts), -1) / seeds,
        np.cov(drawn.mean(2).T, bias=True).reshape(len(parts), -1),
        np.cov(parts[..., known] @ widening).reshape(len(parts), -1) / seeds,
        np.einsum("dlp,dm->lmp", moved, moved.sum(2), optimize=True) / draws,  # of each part with the mean
    )
    single = _spread(mean, groups[known], seeds, *(np.moveaxis(np.diagonal(each), -1, 0) for each in covariances))
    difference = _spread(gap, groups[known], seeds, *map(_of_differences, covariances))
    return Estimates(values, single, _moderated(difference), measure, difference.freedom)


def _moderated(difference: Spread) -> Spread:
    """Differences ``[L, L]`` whose variances went through `moderate` but are never reduced; unchanged for two losses."""
    variance, freedom = difference.variance.copy(), difference.freedom.copy()
    upper = np.triu_indices(len(variance), 1)
    mean = variance[upper].mean() if len(variance) > 2 else 0.0
    if mean > 0:
        own = np.maximum(variance[upper], 1e-4 * mean)
        moderated, together = moderate(own, freedom[upper], len(variance) - 1)
        variance[upper] = variance.T[upper] = np.maximum(own, moderated)
        freedom[upper] = freedom.T[upper] = together
    return replace(difference, variance=variance, freedom=freedom)


def _draw(sums: Array, measure: Measure, draws: int, seed: int) -> Array:
    """Bootstrap draws ``[draws, L, P]`` of the parts of a score, means over seeds."""
    rng = np.random.default_rng(seed)
    losses, seeds, groups = sums.shape[:3]
    weights = rng.dirichlet(np.ones(groups), draws)
    times = rng.multinomial(max(seeds - 1, 1), np.full(seeds, 1 / seeds), draws) / max(seeds - 1, 1)
    by_group = np.moveaxis(sums, 2, 0).reshape(groups, -1)
    found = []
    for part in np.array_split(np.arange(draws), min(draws, 1 + draws * by_group.shape[1] // CHUNK)):
        drawn = (weights[part] @ by_group).reshape(len(part), losses, seeds, *sums.shape[3:])
        found.append(np.einsum("dlrp,dr->dlp", measure.parts(drawn), times[part]))
    return np.concatenate(found)


def _of_differences(covariance: Array) -> Array:
    """The variances of pairwise differences, from covariances ``[L, L, ...]``; rounding errors become 0."""
    own = np.moveaxis(np.diagonal(covariance), -1, 0)
    both = own[:, None] + own
    found = both - covariance - covariance.swapaxes(0, 1)
    return np.asarray(np.where(np.abs(found) < 1e-12 * np.abs(both), 0, found))


def _spread(
    value: Array, groups: Array, seeds: int, by_seed: Array, drawn: Array, widened_seeds: Array, shares: Array
) -> Spread:
    """The value and variances of means over parts, from effective groups ``[P]`` and the covariances of `estimate`."""
    of_seeds, of_groups = np.minimum(by_seed, drawn), np.maximum(shares.sum(-1) - widened_seeds, 0)
    variance, counted = of_seeds + of_groups, np.maximum(shares, 0)
    squared = of_groups**2 * ratio((counted**2 / (groups - 1)).sum(-1), counted.sum(-1) ** 2)
    freedom = ratio(variance**2, of_seeds**2 / (seeds - 1) + np.where(of_groups > 0, squared, 0))
    return Spread(value, of_seeds, of_groups, variance, np.where(variance > 0, np.maximum(freedom, 1), seeds - 1.0))
