"""The probability that a loss is the best, its expected regret, and the sample size that would decide."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.stats import chi2

from rsseg.comparison.intervals import Estimates, critical
from rsseg.metrics.average import Array, ratio

MOST = 1000
"""The largest number of seeds or groups that `reach` considers."""


class Chances(NamedTuple):
    """Shrunken estimates of the losses' means ``[L]``, calibrated on average over how much losses may differ.

    If all losses are equally good, about a third of the winner's curse remains among eight of them, and half between two.
    """

    mean: Array  # the expected score on other seeds and groups
    best: Array  # the probability that the loss is the best one
    regret: Array  # the expected score that is lost by choosing the loss instead of the best one


def shrink(found: Estimates, draws: int = 8000, seed: int = 0) -> Chances | None:
    """Each loss's expected score, probability of being the best and regret: a normal hierarchical model of the losses' means.

    The true means are drawn from a normal distribution of unknown centre and width; the share of error in the variance of an
    observed mean has a uniform prior (Daniels 1999). Observed means that differ no more than by chance are shrunk strongly,
    which corrects the best of many for the winner's curse (Gelman et al. 2013, section 5.4). Losses that are surely behind the
    best do not inform the distribution: one collapsed loss would widen it so much that the other means were hardly shrunk.
    Error variances of single losses are derived from those of their differences. Returns None if these are not known.
    """
    values, variance = found.mean.value, found.difference.variance
    losses = len(values)
    if losses < 2 or np.isnan(variance).any():
        return None
    up = found.measure.sign * values
    sums = variance.sum(1)
    whole = sums.sum() / (2 * (losses - 1))
    errors = (sums - whole) / (losses - 2) if losses > 2 else sums / 2
    if not whole > 0:
        return Chances(values, (up == up.max()) / (up == up.max()).sum(), up.max() - up)
    errors = np.maximum(errors, 0.05 * whole / losses)
    rng, upper = np.random.default_rng(seed), np.triu_indices(losses, 1)
    freedom = min(float(np.median(found.difference.freedom[upper])), 1e6)
    scale = freedom / chi2.ppf((np.arange(40) + 0.5) / 40, freedom)
    step = (np.arange(60) + 0.5) / 60
    share = step**3  # the error's share of a mean's variance, on a grid that is finer near 0: losses may lie far apart
    error = scale[:, None, None] * errors  # [scales, 1, L]
    width = (scale * errors.mean())[:, None] * (1 - share) / share  # [scales, shares]
    spread = error + width[..., None]
    first = up.argmax()
    near = up[first] - up <= critical(losses, found.difference.freedom[first]) * np.sqrt(variance[first])
    precision = near / spread
    centre_variance = 1 / precision.sum(-1)
    centre = (precision * up).sum(-1) * centre_variance
    likelihood = (
        -0.5 * (near * np.log(spread) + (up - centre[..., None]) ** 2 * precision).sum(-1)
        + 0.5 * np.log(centre_variance)
        + 2 * np.log(step)
    )
    weight = np.exp(likelihood - likelihood.max()).ravel()
    chosen = rng.choice(weight.size, draws, p=weight / weight.sum())
    row, column = np.unravel_index(chosen, likelihood.shape)
    middle = rng.normal(centre[row, column], np.sqrt(centre_variance[row, column]))[:, None]
    tau, sigma = np.where(near, width[row, column][:, None], np.inf), error[row, 0]
    kept = 1 / (1 + sigma / tau)
    true = rng.normal(kept * up + (1 - kept) * middle, np.sqrt(kept * sigma))  # [draws, L]
    best = np.bincount(true.argmax(1), minlength=losses) / draws
    return Chances(found.measure.sign * true.mean(0), best, (true.max(1, keepdims=True) - true).mean(0))


class Reach(NamedTuple):
    """The smallest difference that a sweep can detect, and how many more seeds or groups separate the best two losses."""

    gaps: tuple[float, float]  # the smallest and the largest detectable difference among all pairs
    limit: str  # "seeds" or "groups": the larger part of the variance of the best two's difference
    seeds: int | None  # seeds per loss that would separate the best two if they differ as observed; None: `MOST` or more
    groups: int | None  # groups that would separate them with the present seeds; None: `MOST` or more


def reach(found: Estimates, groups: int) -> Reach | None:
    """The reach of a comparison with this number of groups; None if the variance of a difference is not known."""
    losses, seeds = found.values.shape
    spread = found.difference
    if losses < 2 or np.isnan(spread.variance).any():
        return None
    upper = np.triu_indices(losses, 1)
    half = critical(losses, spread.freedom) * np.sqrt(spread.variance)
    best, second = found.order[:2]
    gap, variance, freedom = (float(x[best, second]) for x in (abs(spread.value), spread.variance, spread.freedom))
    share = float(ratio(spread.of_seeds, spread.of_seeds + spread.of_groups)[best, second])  # of the variance, due to seeds
    due = min(share**2 / (seeds - 1), 1 / freedom)  # Welch: the seeds' term in the sum for 1 / freedom
    of_seeds, of_groups = (share, due), (1 - share, 1 / freedom - due)

    def enough(now: int, own: tuple[float, float], other: tuple[float, float]) -> int | None:
        """The smallest number, at least `now`, at which the interval is narrower than the gap; only part `own` shrinks."""
        number = np.arange(now, MOST)
        times = number / now
        left = own[0] / times + other[0]
        inverse = (own[1] / times**3 + other[1]) / left**2
        width = critical(losses, 1 / np.maximum(inverse, 1e-9)) * np.sqrt(variance * left)
        narrow = number[width < gap]
        return int(narrow[0]) if len(narrow) else None

    return Reach(
        gaps=(float(half[upper].min()), float(half[upper].max())),
        limit="seeds" if share > 0.5 else "groups",
        seeds=enough(seeds, of_seeds, of_groups),
        groups=enough(groups, of_groups, of_seeds),
    )
