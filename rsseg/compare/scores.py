"""Scores as functions of sums over scenes, and how surely one loss is better than another by them.

Seeds and scenes are crossed: every seed is scored on the same scenes, and a hard scene is hard for all. So both are drawn,
independently, and one draw of scenes serves all seeds and losses (Owen and Eckles 2012). A score is computed anew from the
drawn scenes' sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import kendalltau
from scipy.stats import t as student

from rsseg.compare.records import Records
from rsseg.contract import InputError
from rsseg.metrics import Metric, metrics
from rsseg.metrics.average import Array, present_mean, ratio
from rsseg.metrics.calibration import SCORES
from rsseg.metrics.scores import CLASS_SCORES, class_pixels, no_metric
from rsseg.task import Task

SEEDS = 5
"""With fewer a comparison is exploratory."""

CHUNK = 2**24
"""Numbers that are summed at a time."""


@dataclass(frozen=True)
class Measure:
    """A score that is a function of sums over scenes.

    Attributes:
        label: What people call it.
        sums: From a run's records to what is added up over S scenes, ``[S, ...]``; None or NaN: it was not recorded.
        score: From sums ``[...]``, as one scene has them, to scores; a factor common to all sums changes nothing.
        mass: From sums ``[S, ...]`` to ``[S, parts]``, how much each scene adds to each part of the score, such as a class.
        higher_is_better: False for errors.
        limits: Between what it lies.
        unit: Its unit, for people; empty: none.
    """

    label: str
    sums: Callable[[Records], Array | None]
    score: Callable[[Array], Array]
    mass: Callable[[Array], Array]
    higher_is_better: bool = True
    limits: tuple[float, float] = (0.0, 1.0)
    unit: str = ""

    @property
    def heading(self) -> str:
        """The label with the unit, for columns and axes."""
        return f"{self.label} in {self.unit}" if self.unit else self.label


def of_metric(metric: Metric, point: str = "fixed", label: str = "") -> Measure:
    """A score of counts at an operating point."""
    pooled = Measure(
        label or metric.label,
        lambda records: records.at(point)[..., metric.classes, :],
        metric.average,
        metric.pixels,
        metric.higher_is_better is not False,
        metric.limits,
        metric.unit,
    )
    if not metric.by_scene:
        return pooled
    return replace(
        pooled,
        sums=lambda records: scene_sums(metric.each(records.at(point))),
        score=lambda sums: ratio(sums[..., 0], sums[..., 1]),
        mass=lambda sums: sums[..., 1:],
    )


def of_tuning(metric: Metric, point: str) -> Measure:
    """What tuning adds to a score, drawn together: sums are counts before and after, ``[S, 2, classes, 3]``."""
    return Measure(
        "",
        lambda records: np.stack([records.at("fixed"), records.at(point)], axis=1)[..., metric.classes, :],
        lambda sums: np.diff(metric.average(sums), axis=-1)[..., 0],
        lambda sums: class_pixels(sums[:, 0]),
    )


def of_calibration(name: str, label: str) -> Measure:
    """A calibration error or the Brier score, see `rsseg.metrics.calibration`."""
    return Measure(label, lambda records: records.calibration.get(name), *SCORES[name], False, (0.0, np.inf))


CALIBRATION = {
    "ece": of_calibration("ece", "calibration error"),
    "class_ece": of_calibration("class_ece", "calibration error by class"),
    "brier": of_calibration("brier", "Brier score"),
}
"""By what losses are compared, but not ranked."""

USUAL = {
    "confusion": (*CLASS_SCORES, "scene_iou", "scene_dice"),
    "errors": ("rmse", "mae", "r2", "absolute_bias", "scene_rmse"),
    "matches": ("f1", "precision", "recall", "f1_micro", "scene_f1"),
}
"""By what losses are always compared, by `Task.counted`."""


def measures(task: Task, without: Sequence[str] = (), ranked_by: str = "") -> dict[str, Measure]:
    """What losses are compared by, by name: the usual scores, and the one that they are ranked by.

    Args:
        task: The head's task.
        without: Classes that are left out of means.
        ranked_by: One of `rsseg.metrics.metrics`, or of labels boundary_iou; empty: `Task.score`.

    Raises:
        InputError: If losses can't be ranked by it.
    """
    known = {name: metric for name, metric in metrics(task, without).items() if metric.higher_is_better is not None}
    usual, ranked_by = USUAL[task.counted], ranked_by or task.score
    found = {name: of_metric(known[name]) for name in (*usual, *([ranked_by] if ranked_by in known else []))}
    if not task.real:
        found["boundary_iou"] = of_metric(known["iou"], "contours", "boundary IoU")
    if ranked_by not in found:
        why, last = no_metric(ranked_by, [*known, *found]), task.classes[-1]
        way_out = f"{', '.join(CLASS_SCORES)} or boundary_iou, such as recall, recall/{last}, recall_micro or scene_recall"
        if task.real:
            way_out = f"{', '.join(usual)} or that of a {task.score_of}, such as {task.score}/{last}"
        raise InputError(f"metric={ranked_by}: losses can't be ranked by it: {why}; take {way_out}")
    return found if task.real else found | CALIBRATION


def scene_sums(values: Array) -> Array:
    """The score of each scene, 0 for one that has none, and whether it has one: ``[..., scenes]`` to ``[..., scenes, 2]``."""
    known = ~np.isnan(values)
    return np.stack([np.where(known, values, 0), known], axis=-1)


def effective_scenes(mass: ArrayLike) -> Array:
    """How many scenes of equal mass each part is as good as (Kish 1965): ``(sum m)^2 / sum m^2``.

    Of mass ``[scenes, parts]``, such as the pixels of each class, to ``[parts]``; NaN for a part that occurs nowhere.

    Example:
        >>> effective_scenes([[5, 9], [5, 0], [5, 1], [5, 0]]).round(2).tolist()
        [4.0, 1.22]
    """
    found = np.asarray(mass, dtype=np.float64)
    return ratio(found.sum(0) ** 2, (found**2).sum(0))


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

    def __neg__(self) -> Interval:
        return Interval(-self.value, -self.high, -self.low, 1 - self.above)

    def at(self, *place: int) -> tuple[float, float, float]:
        """One estimate and the ends of its interval."""
        return float(self.value[place]), float(self.low[place]), float(self.high[place])


def t_interval(value: ArrayLike, deviation: ArrayLike, freedom: ArrayLike) -> Interval:
    """Student's interval of an estimate with a standard deviation; NaN where it, or its degrees of freedom, are.

    Example:
        >>> found = t_interval(2.571, 1.0, 5)
        >>> [round(float(x), 3) for x in (found.low, found.high, found.above)]
        [0.0, 5.142, 0.975]
    """
    middle, sd = np.asarray(value, dtype=np.float64), np.asarray(deviation, dtype=np.float64)
    half = student.ppf(0.975, freedom) * sd
    exact = (np.sign(middle) + 1) / 2  # where nothing varies
    above = np.where(sd == 0, exact, student.cdf(middle / np.where(sd == 0, 1, sd), freedom))
    return Interval(middle, middle - half, middle + half, above)


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


def scene_interval(draws: Array, by_seed: Array, scenes: float) -> Interval:
    """The estimate from all data with a 95 % interval from bootstrap draws.

    It is symmetric, ``t`` standard deviations to either side. Quantiles of the draws would claim too much for a handful of
    seeds, or of scenes. ``t`` has Welch and Satterthwaite's degrees of freedom for a variance that comes partly from the
    seeds, partly from the scenes.

    Args:
        draws: ``[draws, ...]``.
        by_seed: ``[..., seeds]``, the same quantity of each seed on all scenes.
        scenes: Their effective number; with one there is no interval.
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


@dataclass(frozen=True)
class WinMatrix:
    """Every loss by a score, and every loss against every other.

    Attributes:
        values: The score of every run, ``[losses, seeds]``.
        score: The mean over seeds. Its interval is cut to where scores can lie, which no true value lies beyond, so that it
            covers as often.
        difference: Row minus column, ``[losses, losses]``.
        lead: The same, but above 0 where the row's loss is better: of errors, column minus row.
        better: ``P(the row's loss is better)``, by the t distribution of the difference; that of the column is 1 minus it.
            ``[losses, losses]``, NaN on the diagonal and where there is no interval.
        p_value: Of no difference between row and column, times the number of comparisons; NaN where the rule forbids one.
    """

    values: Array
    score: Interval
    difference: Interval
    lead: Interval
    better: Array
    p_value: Array


def compare(sums: Array, measure: Measure, draws: int = 2000, seed: int = 0) -> WinMatrix:
    """Compare every loss with every other, by draws of seeds and scenes.

    Args:
        sums: ``[losses, seeds, scenes, ...]``, what the score is made of.
        measure: The score.
        draws: Of the bootstrap.
        seed: Of the draws.

    Example:
        >>> from rsseg.task import Binary
        >>> counts = np.ones((2, 5, 8, 1, 3))
        >>> counts[0, ..., 0] = 4  # IoU 4 / 6 against 1 / 3
        >>> found = compare(counts, of_metric(metrics(Binary(("road",)))["iou"]), draws=100)
        >>> float(found.better[0, 1]), float(found.difference.value[0, 1].round(3))
        (1.0, 0.333)
    """
    values = measure.score(sums.sum(2))
    effective = effective_scenes(measure.mass(sums[0, 0]))
    scenes = float(np.nanmin(effective)) if (effective > 0).any() else 0.0
    drawn = crossed_bootstrap(sums, measure.score, draws, seed)
    score = scene_interval(drawn, values, scenes)
    difference = scene_interval(drawn[:, :, None] - drawn[:, None], values[:, None] - values[None], scenes)
    return _win_matrix(values, score, difference, measure.higher_is_better, measure.limits)


def compare_seeds(values: Array, higher_is_better: bool = True, limits: tuple[float, float] = (0.0, 1.0)) -> WinMatrix:
    """Compare losses by scores ``[losses, seeds]``: intervals over seeds, for these scenes and no others.

    Args:
        values: The scores.
        higher_is_better: False for errors.
        limits: Between what scores lie.

    Example:
        >>> compare_seeds(np.array([[0.5, 0.6], [0.4, 0.4]])).difference.value[0, 1].round(2).item()
        0.15
    """
    difference = seed_interval(values[:, None] - values[None])
    return _win_matrix(values, seed_interval(values), difference, higher_is_better, limits)


def _win_matrix(
    values: Array, score: Interval, difference: Interval, higher_is_better: bool, limits: tuple[float, float]
) -> WinMatrix:
    losses = len(values)
    score = replace(score, low=np.maximum(score.low, limits[0]), high=np.minimum(score.high, limits[1]))
    lead = difference if higher_is_better else -difference
    better = lead.above.copy()
    np.fill_diagonal(better, np.nan)
    chance = p_values(values[:, None] - values[None], losses * (losses - 1) // 2)
    return WinMatrix(values, score, difference, lead, better, chance)


def crossed_bootstrap(sums: Array, score: Callable[[Array], Array], draws: int = 2000, seed: int = 0) -> Array:
    """Bootstrap draws of every loss's mean over seeds of a score, ``[draws, losses]``, of sums as for `compare`.

    Scenes get random weights, uniform among all that sum to 1 (the Bayesian bootstrap, Rubin 1981). None is ever quite left
    out, so that every draw is a mean over the same classes, whichever of them are rare. Over scenes the draws vary
    ``(n - 1) / (n + 1)`` times as much as scores of other scenes would, which `scene_interval` makes up for. Seeds are drawn
    with replacement, one fewer than there are: so many independent draws vary as the mean of the whole sample does. A single
    seed is kept. Seed r of all losses shares weights and windows, so it is drawn for all of them.
    """
    rng = np.random.default_rng(seed)
    losses, seeds, scenes = sums.shape[:3]
    weights = rng.dirichlet(np.ones(scenes), draws)
    drawn = rng.multinomial(max(seeds - 1, 1), np.full(seeds, 1 / seeds), draws) / max(seeds - 1, 1)
    by_scene = np.moveaxis(sums, 2, 0).reshape(scenes, -1)
    parts = np.array_split(weights, min(draws, 1 + draws * by_scene.shape[1] // CHUNK))
    scores = [score((part @ by_scene).reshape(len(part), losses, seeds, *sums.shape[3:])) for part in parts]
    found: Array = np.einsum("dlr,dr->dl", np.concatenate(scores), drawn)
    return found


def p_values(differences: Array, comparisons: int) -> Array:
    """Sign-flip tests of differences between paired seeds, ``[..., seeds]``, times the number of comparisons: at most 1.

    Without a difference each seed's sign is a coin: the p-value is the share of all ``2^seeds`` signs that make the mean at
    least as large as it is. The least that it can be is ``2 / 2^seeds``; where that times the comparisons is not below
    .05 nothing could ever be found, and there is no p-value. NaN where a seed's difference is.

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


def rank_alignment(losses: ArrayLike, scores: ArrayLike) -> Array:
    """How far a falling loss means a rising metric: Kendall's tau-b over a run's checkpoints.

    Args:
        losses: ``[checkpoints]``, the validation loss; NaN is left out.
        scores: ``[checkpoints]``, the metric, higher is better.

    Returns:
        ``[2]``: over all checkpoints, and over the last half of them, where checkpoints are chosen; 1: the loss orders them
        as the metric does. NaN for fewer than two checkpoints, or where one never changes. Checkpoints of one run are no
        sample: `seed_interval` of several runs says how sure it is.

    Example:
        >>> rank_alignment([3, 2, 1, 0], [0.1, 0.2, 0.4, 0.3]).round(3).tolist()
        [0.667, -1.0]
    """
    x, y = np.asarray(losses, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    known, half = ~np.isnan(x + y), np.arange(len(x)) >= len(x) // 2
    return np.array([kendalltau(-x[part], y[part]).statistic if part.sum() > 1 else np.nan for part in (known, known & half)])
