"""What a comparison found: the numbers that all words, tables and figures are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import combinations
from typing import get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from rsseg.compare.counts import Array, Overlap, pooled
from rsseg.compare.fair import Comparison
from rsseg.compare.records import POINTS
from rsseg.compare.runs import Run
from rsseg.compare.scores import (
    CALIBRATION,
    SCENE_MEAN,
    Interval,
    Measure,
    WinMatrix,
    compare,
    compare_seeds,
    of_counts,
    of_tuning,
    rank_alignment,
    scene_sums,
)
from rsseg.contract import InputError, nearest
from rsseg.metrics.average import present_mean, ratio
from rsseg.task import Task, make_task

MEASURES = {
    "iou": ("IoU", True), "dice": ("Dice", True), "scene_iou": ("IoU per scene", True), "scene_dice": ("Dice per scene", True),
    "boundary_iou": ("boundary IoU", True), "ece": ("calibration error", False),
    "class_ece": ("calibration error by class", False), "brier": ("Brier score", False),
}  # fmt: skip
"""By name: what people call it, and whether higher is better."""

RANKED = ("iou", "dice", "boundary_iou")
"""What losses can be ranked by."""


@dataclass(frozen=True)
class Tuning:
    """What thresholds (biases) that were tuned on one half of the scenes do to scores on the other.

    Attributes:
        fixed: The score at 0.5 (argmax), ``[L, R]``, from the same histograms or passes as the tuned ones.
        wins: Every tuned loss against every other.
        moved: How much more tuning adds to the row's loss than to the column's, ``[L, L]``.
    """

    fixed: Array
    wins: WinMatrix
    moved: Interval

    @property
    def threshold_regret(self) -> Array:
        """What 0.5 costs, ``[L, R]``; negative where what was tuned does not carry over to other scenes."""
        return self.wins.values - self.fixed

    @property
    def residual_regret(self) -> Array:
        """What is left after tuning, ``[L, R]``: the best known score minus each loss's own.

        The best known score of a seed is that of the best loss on average, so that a lucky run is not taken for a reachable
        score.
        """
        tuned = self.wins.values
        difference: Array = tuned[np.nanargmax(np.nanmean(tuned, axis=1))] - tuned
        return difference


@dataclass(frozen=True)
class Findings:
    """What a comparison found. L losses, R seeds, S scenes, C classes; None: not recorded.

    Attributes:
        comparison: The runs.
        labels: The losses.
        plain: Which of them are cross-entropy and no more.
        task: The head's task.
        metric: What losses are ranked by.
        wins: By measure, the scores of the best checkpoints, and every loss against every other.
        last: The metric of the last checkpoint, ``[L, R]``.
        counts: ``[L, R, S, C, 3]`` of the best checkpoint.
        tuning: What tuning adds.
        panel: The losses that were evaluated whichever one trained.
        values: Their values at the best checkpoint, ``[L, R, panel]``.
        selection: Selection regret, ``[L, R]``.
        tau: Kendall's tau-b of falling loss and rising metric, ``[L, R, 2]``: whole run, last half.
        shares: Of losses of two terms or more, by place, step and term: its share of the gradient, mean over seeds.
        cosines: By place and pair of terms: the cosine of their gradients, mean over seeds and steps.
        gains: By loss, step and term: its one-step gain, mean over seeds.
        notes: What could not be known, a sentence each.
    """

    comparison: Comparison
    labels: list[str]
    plain: list[bool]
    task: Task
    metric: str
    wins: dict[str, WinMatrix]
    last: Array
    counts: Array | None
    tuning: Tuning | None
    panel: list[str]
    values: Array | None
    selection: Array | None
    tau: Array
    shares: pd.DataFrame
    cosines: pd.DataFrame
    gains: pd.DataFrame
    notes: list[str]

    @property
    def seeds(self) -> list[int]:
        """The seeds."""
        return self.comparison.seeds

    @property
    def scenes(self) -> list[str]:
        """The validation scenes' names."""
        return list(self.comparison.runs[0][0].data["scenes"]["val"])

    @property
    def order(self) -> list[int]:
        """The losses, best first."""
        return [int(i) for i in np.argsort(-self.wins[self.metric].score.value, kind="stable")]

    @property
    def tuned_metric(self) -> Overlap:
        """What thresholds are tuned for."""
        return "dice" if self.metric == "dice" else "iou"


def check_metric(metric: str) -> None:
    """Refuse a metric that losses can't be ranked by."""
    if metric not in RANKED:
        near = nearest(metric, RANKED)
        raise InputError(f"metric={metric}: losses can't be ranked by it{near}; take {', '.join(RANKED[:-1])} or {RANKED[-1]}")


def analyse(comparison: Comparison, metric: str = "iou") -> Findings:
    """Compute every measure that the runs' records allow.

    Args:
        comparison: The runs.
        metric: What losses are ranked by: `iou`, `dice` or `boundary_iou`.

    Raises:
        InputError: For a metric that not every run recorded.
    """
    first = comparison.runs[0][0]
    scored: Overlap = "dice" if metric == "dice" else "iou"
    recorded = first.records is not None
    points = _each(comparison, lambda run: run.recorded.points) if recorded else None
    panel = _shared_panel(comparison) if recorded else []
    wins = _summarised(comparison) if points is None else _compared(comparison, points)
    if metric not in wins:
        known = [name for name in RANKED if name in wins]
        raise InputError(f"metric={metric}: not every run recorded it; take {' or '.join(known)}")
    tuning, why = (None, []) if points is None else _tuning(comparison, points, scored)
    shares, cosines, gains, skipped = mean_gradients(comparison)
    return Findings(
        comparison=comparison,
        labels=comparison.labels,
        plain=[row[0].plain for row in comparison.runs],
        task=make_task(first.config.dataset.task, first.config.dataset.classes),
        metric=metric,
        wins=wins,
        last=_each(comparison, lambda run: run.curve[scored].iloc[-1]),
        counts=None if points is None else points[:, :, 0],
        tuning=tuning,
        panel=panel,
        values=_each(comparison, lambda run: _panel_values(run, panel)) if recorded else None,
        selection=_each(comparison, lambda run: selection(run, scored)) if recorded else None,
        tau=_each(comparison, lambda run: rank_alignment(run.curve["val_loss"], run.curve[scored])),
        shares=shares,
        cosines=cosines,
        gains=gains,
        notes=why + skipped,
    )


def _each(comparison: Comparison, value: Callable[[Run], Array | float]) -> Array:
    return np.array([[value(run) for run in row] for row in comparison.runs], dtype=np.float64)


def _summarised(comparison: Comparison) -> dict[str, WinMatrix]:
    """What runs without records say of themselves."""
    names = ("iou", "dice", "scene_iou", "scene_dice")
    return {name: compare_seeds(_each(comparison, lambda run: run.summary[name])) for name in names}  # noqa: B023


def _compared(comparison: Comparison, points: Array) -> dict[str, WinMatrix]:
    """Every measure that is known of all runs, from counts ``[L, R, point, S, C, 3]``."""
    fixed, contours = points[:, :, 0], points[:, :, POINTS.index("contours")]
    found: dict[str, tuple[Array, Measure]] = {name: (fixed, of_counts(name)) for name in get_args(Overlap)}
    found |= {f"scene_{name}": (scene_sums(fixed, name), SCENE_MEAN) for name in get_args(Overlap)}
    if not np.isnan(contours).any():
        found["boundary_iou"] = contours, of_counts("iou")
    if all(run.recorded.calibration for run in comparison.all_runs):
        for name, measure in CALIBRATION.items():
            found[name] = _each(comparison, lambda run: run.recorded.calibration[name]), measure  # noqa: B023
    return {name: compare(sums, measure) for name, (sums, measure) in found.items()}


def _tuning(comparison: Comparison, points: Array, metric: Overlap) -> tuple[Tuning | None, list[str]]:
    """What tuning for a metric adds; None, and a sentence why, where some run has no tuned counts."""
    both = points[:, :, [POINTS.index("untuned"), POINTS.index(metric)]]
    if not np.isnan(both).any():
        untuned, tuned = both[:, :, 0], both[:, :, 1]
        moved = compare(np.moveaxis(both, 2, 3), of_tuning(metric)).difference
        return Tuning(pooled(untuned, metric), compare(tuned, of_counts(metric)), moved), []
    if comparison.runs[0][0].recorded.first.all():  # one scene: the caveats say so
        return None, []
    lacking = np.isnan(both).any((2, 3, 4, 5))
    run = comparison.all_runs[int(lacking.argmax())]
    why = f"{run.folder} was not counted at tuned biases; its train.log says why"
    if run.recorded.best is None:
        why = f"{run.folder} recorded no best checkpoint"
    elif run.recorded.best.untuned:
        why = run.recorded.best.untuned
    return None, [f"Tuned thresholds are not compared: {why}."]


def _shared_panel(comparison: Comparison) -> list[str]:
    """The losses that every run was valued under."""
    first, *others = (run.recorded.panel for run in comparison.all_runs)
    return [name for name in first if all(name in other for other in others)]


def _panel_values(run: Run, panel: list[str]) -> Array:
    """Their values at the best checkpoint, mean over the halves of the scenes."""
    records = run.recorded
    return present_mean(records.values[records.best_index][[records.panel.index(name) for name in panel]])


def own_loss(run: Run) -> Array | None:
    """The loss that trained a run on each half of the scenes, ``[V, 2]``; None if it was not recorded.

    Records that lack it may have it in the panel, if the loss was used as it comes.
    """
    records = run.recorded
    if records.own is not None:
        return None if np.isnan(records.own).all() else records.own
    changed = any("loss." in override.split("=")[0] for override in run.origin["overrides"])
    return records.values[:, records.panel.index(run.loss)] if run.loss in records.panel and not changed else None


def selection(run: Run, metric: Overlap) -> float:
    """What choosing the checkpoint by the run's own validation loss costs; NaN where halves of the scenes can't tell."""
    own, records = own_loss(run), run.recorded
    return float("nan") if own is None else selection_regret(own, records.counts, records.first, metric)


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

    Returns:
        NaN if a half has no checkpoint with a loss, or none with a score.

    Example:
        >>> counts = np.array([[[[1, 1, 0]]] * 2, [[[1, 0, 0]]] * 2]).reshape(2, 2, 1, 3)  # IoU 0.5, then 1
        >>> selection_regret([[0.1, 0.1], [0.2, 0.2]], counts, np.array([True, False]))  # the loss prefers the first
        0.5
    """
    by_half, counted = np.asarray(losses, dtype=np.float64), np.asarray(counts)
    scored = np.stack([pooled(counted[:, part], metric) for part in (first, ~first)], axis=1)
    if np.isnan(by_half).all(0).any() or np.isnan(scored).all(0).any():
        return float("nan")
    regrets = [
        scored[np.nanargmax(scored[:, here]), there] - scored[np.nanargmin(by_half[:, here]), there]
        for here, there in ((0, 1), (1, 0))
    ]
    return float(np.mean(regrets))


def mean_gradients(comparison: Comparison) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, list[str]]:
    """Shares, cosines and gains: means over all seeds, at the validations that all have; and what was left out, in words."""
    shares, cosines, gains, notes = [], [], [], []
    for row in comparison.runs:
        label, records = row[0].label, [run.records for run in row if run.records is not None]
        if not records:
            continue
        terms, measured = records[0].terms, [r for r in records if r.gain is not None]
        steps, most = reduce(np.intersect1d, [r.steps for r in records]), max(len(r.steps) for r in records)
        if len(steps) < most and (len(terms) > 1 or measured):
            notes.append(f"{label}: its seeds share {len(steps)} of {most} validations; its gradients are means over these.")
        if not len(steps):
            continue
        for place in records[0].gradient if len(terms) > 1 else ():
            norms = np.array([r.gradient[place][0][np.isin(r.steps, steps)] for r in records])
            angles = np.mean([r.gradient[place][1][np.isin(r.steps, steps)] for r in records], axis=0)
            share = np.nan_to_num(ratio(norms, norms.sum(-1, keepdims=True))).mean(0)
            shares += [(label, place, *values) for values in _by_step(steps, terms, share)]
            for a, b in combinations(range(len(terms)), 2):
                cosines.append((label, place, f"{terms[a]}, {terms[b]}", float(present_mean(angles[:, a, b]))))
        if measured:
            gain = np.mean([np.asarray(r.gain)[np.isin(r.steps, steps)] for r in measured], axis=0)
            gains += [(label, *values) for values in _by_step(steps, terms, gain)]
            if len(measured) < len(records):
                notes.append(f"{label}: one-step gains were recorded for {len(measured)} of {len(records)} seeds.")
    return (
        pd.DataFrame(shares, columns=["loss", "place", "step", "term", "share"]),
        pd.DataFrame(cosines, columns=["loss", "place", "terms", "cosine"]),
        pd.DataFrame(gains, columns=["loss", "step", "term", "gain"]),
        notes,
    )


def _by_step(steps: NDArray[np.int64], terms: list[str], values: Array) -> Iterator[tuple[int, str, float]]:
    for step, row in zip(steps.tolist(), values.tolist(), strict=True):
        for term, value in zip(terms, row, strict=True):
            yield step, term, value
