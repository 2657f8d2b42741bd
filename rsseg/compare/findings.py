"""What a comparison found: the numbers that all words, tables and figures are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from rsseg.compare.runs import Run
from rsseg.compare.scores import (
    Interval,
    Measure,
    WinMatrix,
    compare,
    compare_seeds,
    measures,
    of_metric,
    of_tuning,
    rank_alignment,
)
from rsseg.compare.selection import Comparison
from rsseg.contract import InputError
from rsseg.metrics import Metric, metrics
from rsseg.metrics.average import Array, present_mean, ratio
from rsseg.metrics.scores import pooled


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


class Gradients(NamedTuple):
    """Which terms lead, means over the seeds, a row each; only of losses that were recorded.

    Attributes:
        shares: Of losses of two terms or more, by place, step and term: its share of the gradient.
        cosines: Of the same, by place and pair of terms: the cosine of their gradients, mean over steps.
        gains: By loss, step and term: its one-step gain.
        notes: What had to be left out, a sentence each.
    """

    shares: pd.DataFrame
    cosines: pd.DataFrame
    gains: pd.DataFrame
    notes: list[str]


class Findings:
    """What a comparison found, computed when it is first asked for. L losses, R seeds, S scenes, C classes.

    Attributes:
        labels: The losses.
        plain: Which of them are cross-entropy and no more.
        seeds: The seeds.
        has_records: Whether there are records, of all runs or of none.
        scenes: The validation scenes' names.
        task: The head's task.
        tuned_metric: What thresholds are tuned for, and checkpoints told apart by.
        measures: What losses are compared by, by name.
        scene_metric: What scenes are told apart by.
        class_score: What classes are told apart by, a score that each of them has in `rsseg.metrics.metrics`.

    Args:
        comparison: The runs.
        metric: What losses are ranked by, see `rsseg.compare.scores.measures`; empty: `Task.score`.
        without: Classes that are left out of means; empty: those that the runs leave out.

    Raises:
        InputError: For a metric that there is not, or that not every run recorded.
    """

    def __init__(self, comparison: Comparison, metric: str = "", without: Sequence[str] = ()) -> None:
        self.comparison = comparison
        self.labels, self.seeds = comparison.labels, comparison.seeds
        self.plain = [row[0].plain for row in comparison.runs]
        first = comparison.runs[0][0]
        self.has_records = first.records is not None
        self.scenes = list(first.data["scenes"]["val"])
        self.task, without = first.task, without or first.without
        self.metric = metric = metric or self.task.score
        self.tuned_metric = metric if metric in self.task.class_scores else self.task.score
        self.measures, self.metrics = measures(self.task, without, metric), metrics(self.task, without)
        self.tuned = self.metrics[self.tuned_metric]
        self.scene_metric = self.metrics.get(metric.removeprefix("scene_"), self.tuned)
        self.class_score = self.scene_metric.score if self.has_records else self.tuned_metric
        if metric not in self.wins:
            raise InputError(f"metric={metric}: not every run recorded it; take {', '.join(self.wins)}")

    @property
    def order(self) -> list[int]:
        """The losses, best first."""
        value = self.wins[self.metric].score.value
        return [int(i) for i in np.argsort(-value if self.measures[self.metric].higher_is_better else value, kind="stable")]

    @cached_property
    def counts(self) -> Array | None:
        """The counts of the best checkpoints at 0.5 (argmax), ``[L, R, S, C, N]``; None: no records."""
        return self._each(lambda run: run.recorded.at("fixed")) if self.has_records else None

    @cached_property
    def wins(self) -> dict[str, WinMatrix]:
        """By measure that is known of all runs: the scores of the best checkpoints, and every loss against every other."""
        if not self.has_records:  # what runs say of themselves
            known = {k: m for k, m in self.measures.items() if all(k in run.summary for run in self.comparison.all_runs)}
            return {
                name: compare_seeds(self._each(lambda run: run.summary[name]), measure.higher_is_better, measure.limits)  # noqa: B023
                for name, measure in known.items()
            }
        sums = {name: self._sums(measure) for name, measure in self.measures.items()}
        return {name: compare(known, self.measures[name]) for name, known in sums.items() if known is not None}

    @cached_property
    def tuning(self) -> Tuning | None:
        """What tuning adds; None where some run has no tuned counts, as of real values."""
        gain, measure = of_tuning(self.tuned, self.tuned_metric), of_metric(self.tuned)
        both = self._sums(gain) if self.has_records and not self.task.real else None  # [L, R, S, 2, C, 3]
        if both is None:
            return None
        moved = compare(both, gain).difference
        return Tuning(measure.score(both[:, :, :, 0].sum(2)), compare(both[:, :, :, 1], measure), moved)

    def _sums(self, measure: Measure) -> Array | None:
        """What a measure is made of, ``[L, R, S, ...]``; None where some run did not record it."""
        each = [[measure.sums(run.recorded) for run in row] for row in self.comparison.runs]
        known = all(sums is not None and not np.isnan(sums).any() for row in each for sums in row)
        return np.array(each, dtype=np.float64) if known else None

    @property
    def why_untuned(self) -> list[str]:
        """Why it is not known what tuning adds, in a sentence, where nothing else says so."""
        runs = self.comparison.all_runs
        if not self.has_records or self.task.real or self.tuning is not None or runs[0].recorded.first.all():
            return []
        run = next(run for run in runs if np.isnan(run.recorded.at(self.tuned_metric)).any())
        why = f"{run.folder} was not counted at tuned biases; its train.log says why"
        if run.recorded.crossed is None:
            why = f"{run.folder} recorded no chosen checkpoint"
        elif run.recorded.crossed.untuned:
            why = run.recorded.crossed.untuned
        return [f"Tuned thresholds are not compared: {why}."]

    @cached_property
    def last(self) -> Array:
        """The metric of the last checkpoint, ``[L, R]``."""
        return self._each(lambda run: run.curve[self.tuned_metric].iloc[-1])

    @cached_property
    def tau(self) -> Array:
        """Kendall's tau-b of falling loss and rising metric (or falling error), ``[L, R, 2]``: whole run, last half."""
        sign = 1 if self.task.higher_is_better else -1
        return self._each(lambda run: rank_alignment(run.curve["val_loss"], sign * run.curve[self.tuned_metric]))

    @cached_property
    def selection(self) -> Array | None:
        """What choosing checkpoints by their validation loss costs, ``[L, R]``; None: no records."""
        return self._each(lambda run: selection(run, self.tuned)) if self.has_records else None

    @cached_property
    def panel(self) -> list[str]:
        """The losses that every run was valued under, whichever one trained."""
        first, *others = (run.records.panel if run.records else [] for run in self.comparison.all_runs)
        return [name for name in first if all(name in other for other in others)]

    @cached_property
    def values(self) -> Array:
        """Their values at the best checkpoints, mean over the halves of the scenes, ``[L, R, panel]``."""

        def of(run: Run) -> Array:
            records = run.recorded
            return present_mean(records.values[records.best_index][[records.panel.index(name) for name in self.panel]])

        return self._each(of)

    @cached_property
    def gradients(self) -> Gradients:
        """Which terms lead."""
        return mean_gradients(self.comparison)

    def _each(self, value: Callable[[Run], Array | float]) -> Array:
        return np.array([[value(run) for run in row] for row in self.comparison.runs], dtype=np.float64)


def own_loss(run: Run) -> Array | None:
    """The loss that trained a run on each half of the scenes, ``[V, 2]``; None if it is no function of sums over pixels."""
    own = run.recorded.own
    return None if np.isnan(own).all() else own


def selection(run: Run, metric: Metric) -> float:
    """What choosing the checkpoint by the run's own validation loss costs; NaN where halves of the scenes can't tell."""
    own, records = own_loss(run), run.recorded
    return float("nan") if own is None else selection_regret(own, records.counts, records.first, metric.quality)


def selection_regret(
    losses: ArrayLike, counts: ArrayLike, first: NDArray[np.bool_], metric: Callable[[Array], Array] = pooled
) -> float:
    """What choosing the checkpoint by its validation loss costs in a metric.

    On one half of the scenes a checkpoint is chosen by the loss and another by the metric; both are scored on the other
    half; the halves are swapped and the differences averaged. The choice by metric is the one that a user could make, so
    the regret can be negative. NaN if a half has no checkpoint with a loss, or none with a score.

    Args:
        losses: ``[checkpoints, 2]``, the validation loss on the first and the second half. A loss of all scenes won't do: it
            has seen those that score its choice.
        counts: ``[checkpoints, scenes, classes, N]``.
        first: Which scenes are the first half.
        metric: From counts to scores ``[checkpoints]``, more is better; the mean IoU if it is not given.

    Example:
        >>> counts = np.array([[[[1, 1, 0]]] * 2, [[[1, 0, 0]]] * 2]).reshape(2, 2, 1, 3)  # IoU 0.5, then 1
        >>> selection_regret([[0.1, 0.1], [0.2, 0.2]], counts, np.array([True, False]))  # the loss prefers the first
        0.5
    """
    by_half, counted = np.asarray(losses, dtype=np.float64), np.asarray(counts)
    scored = np.stack([metric(counted[:, part]) for part in (first, ~first)], axis=1)
    if np.isnan(by_half).all(0).any() or np.isnan(scored).all(0).any():
        return float("nan")
    regrets = [
        scored[np.nanargmax(scored[:, here]), there] - scored[np.nanargmin(by_half[:, here]), there]
        for here, there in ((0, 1), (1, 0))
    ]
    return float(np.mean(regrets))


def mean_gradients(comparison: Comparison) -> Gradients:
    """Means over all seeds, at the validations that all have."""
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
    return Gradients(
        pd.DataFrame(shares, columns=["loss", "place", "step", "term", "share"]),
        pd.DataFrame(cosines, columns=["loss", "place", "terms", "cosine"]),
        pd.DataFrame(gains, columns=["loss", "step", "term", "gain"]),
        notes,
    )


def _by_step(steps: NDArray[np.int64], terms: list[str], values: Array) -> Iterator[tuple[int, str, float]]:
    for step, row in zip(steps.tolist(), values.tolist(), strict=True):
        for term, value in zip(terms, row, strict=True):
            yield step, term, value
