"""Measures: scores as functions of sums over scenes, and the rank correlation of loss and score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import kendalltau

from rsseg.comparison.records import Records
from rsseg.contract import InputError
from rsseg.metrics import Metric, metrics
from rsseg.metrics.average import Array, ratio
from rsseg.metrics.calibration import SCORES
from rsseg.metrics.scores import CLASS_SCORES, no_metric
from rsseg.task import Task


@dataclass(frozen=True, kw_only=True)
class Measure(Metric):
    """A metric of a run as a function of recorded sums over scenes; it is invariant to scaling all sums by one factor."""

    sums: Callable[[Records], Array | None]  # [S, ...], to be added up over scenes; None or NaN: not recorded

    def recorded(self, records: Records) -> Array | None:
        """The sums of each scene, ``[S, ...]``; None where some of them were not recorded."""
        sums = self.sums(records)
        return None if sums is None or np.isnan(sums).any() else sums

    @property
    def heading(self) -> str:
        """The label with the unit, for columns and axes."""
        return f"{self.label} in {self.unit}" if self.unit else self.label

    @property
    def sign(self) -> int:
        """1 where more is better, else -1."""
        return -1 if self.higher_is_better is False else 1


def of_metric(metric: Metric, point: str = "fixed", label: str = "") -> Measure:
    """The measure of a metric of the counts at an operating point."""
    pooled = Measure(**vars(metric), sums=lambda records: records.at(point)[..., metric.classes, :])
    if metric.by_scene:
        pooled = replace(
            pooled,
            sums=lambda records: scene_sums(metric.each(records.at(point))),
            parts=lambda sums: ratio(sums[..., :1], sums[..., 1:]),
            pixels=lambda sums: sums[..., 1:],
        )
    return replace(pooled, label=label or metric.label)


def of_tuning(metric: Metric, point: str) -> Measure:
    """The change of a metric by tuning, as one measure; its sums are counts before and after, ``[S, 2, classes, N]``."""
    return replace(
        of_metric(metric, point, f"{metric.label} gained by tuning"),
        sums=lambda records: np.stack([records.at("fixed"), records.at(point)], axis=1)[..., metric.classes, :],
        parts=lambda sums: metric.parts(sums[..., 1, :, :]) - metric.parts(sums[..., 0, :, :]),
        pixels=lambda sums: metric.pixels(sums[:, 0]),
        limits=(-np.inf, np.inf),
    )


def calibration_measures(task: Task) -> dict[str, Measure]:
    """Measures that compare losses but do not rank them: calibration errors and Brier score, see `rsseg.metrics.calibration`.

    For exclusive classes, ``ece`` is the error of the predicted class's probability, else that of all labels' probabilities;
    ``class_ece``, the mean over classes, is included only if there are several.

    Example:
        >>> from rsseg.task import Binary
        >>> [measure.label for measure in calibration_measures(Binary(("road",))).values()]
        ['calibration error of road', 'Brier score']
    """
    one = task.channels == 1 and not task.exclusive
    of = "the predicted class" if task.exclusive else task.classes[0] if one else "all labels"
    labels = {"ece": f"calibration error of {of}"}
    if not one:
        labels["class_ece"] = f"calibration error by {'class' if task.exclusive else 'label'}"
    return {name: calibration_measure(name, label) for name, label in {**labels, "brier": "Brier score"}.items()}


def calibration_measure(name: str, label: str) -> Measure:
    """The measure of a score in `rsseg.metrics.calibration.SCORES`."""
    parts, pixels = SCORES[name]
    score = Metric(label, name, slice(None), parts, pixels, higher_is_better=False, limits=(0.0, np.inf))
    return Measure(**vars(score), sums=lambda records: records.calibration.get(name))


USUAL = {
    "confusion": (*CLASS_SCORES, "scene_iou", "scene_dice"),
    "errors": ("rmse", "mae", "r2", "absolute_bias", "scene_rmse"),
    "matches": ("f1", "precision", "recall", "f1_micro", "scene_f1"),
}
"""The metrics by which losses are always compared, by `Task.counted`."""


def measures(task: Task, without: Sequence[str] = (), ranked_by: str = "") -> dict[str, Measure]:
    """The measures of a comparison by name: the usual scores, and the one that ranks the losses.

    Args:
        task: The head's task.
        without: Classes that are left out of means.
        ranked_by: One of `rsseg.metrics.metrics`, or boundary_iou for labels; empty: `Task.score`.

    Raises:
        InputError: If losses can't be ranked by `ranked_by`.
    """
    known = {name: metric for name, metric in metrics(task, without).items() if metric.higher_is_better is not None}
    usual, ranked_by = USUAL[task.counted], ranked_by or task.score
    found = {name: of_metric(known[name]) for name in (*usual, *([ranked_by] if ranked_by in known else []))}
    if not task.real:
        found["boundary_iou"] = of_metric(known["iou"], "contours", "boundary IoU")
    if ranked_by not in found:
        why, of_one = no_metric(ranked_by, [*known, *found]), f"{task.score}/{task.classes[-1]}"
        raise InputError(f"metric={ranked_by}: losses can't be ranked by it: {why}; take {', '.join(found)} or {of_one}")
    return found if task.real else found | calibration_measures(task)


def scene_sums(values: Array) -> Array:
    """Each scene's score (0 if it is NaN) and whether it is known (1 or 0): ``[..., scenes]`` to ``[..., scenes, 2]``."""
    known = ~np.isnan(values)
    return np.stack([np.where(known, values, 0), known], axis=-1)


CHECKPOINTS = 6
"""The least number of checkpoints for a rank correlation."""


def rank_alignment(losses: ArrayLike, scores: ArrayLike) -> float:
    """The rank correlation of a falling loss and a rising metric: Kendall's tau-b over a run's checkpoints, NaN left out.

    1: loss and metric order the checkpoints alike. NaN for fewer than `CHECKPOINTS` checkpoints, or if either is constant.
    Checkpoints of one run are not independent: judge the uncertainty by the spread over several runs.

    Example:
        >>> round(rank_alignment([6, 5, 4, 3, 2, 1], [0.1, 0.2, 0.3, 0.4, 0.6, 0.5]), 3)
        0.867
    """
    x, y = np.asarray(losses, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    known = ~np.isnan(x + y)
    return float(kendalltau(-x[known], y[known]).statistic) if known.sum() >= CHECKPOINTS else np.nan
