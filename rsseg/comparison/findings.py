"""Findings: the numbers of a comparison, from which words, tables and figures are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import combinations
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from rsseg.comparison.chances import Chances, Reach, reach, shrink
from rsseg.comparison.intervals import RARE, Estimates, Interval, effective_groups, estimate, sum_groups
from rsseg.comparison.measures import measures, of_metric, of_tuning, rank_alignment
from rsseg.comparison.question import EQUAL
from rsseg.comparison.records import PLACES
from rsseg.comparison.runs import Run
from rsseg.comparison.selection import Comparison
from rsseg.config.targets import side_of_blocks
from rsseg.contract import InputError
from rsseg.metrics import Metric, metrics
from rsseg.metrics.average import Array, present_mean, ratio

TUNED, GAIN = "tuned", "gain"
"""The names of the score at tuned thresholds, or biases, and of its gain by tuning."""

M = TypeVar("M", bound=Metric)


class Findings:
    """The results of a comparison, each computed on first use. L losses, R seeds, S scenes, G groups, C classes.

    Every score is computed on scenes that did not choose the checkpoint: see `rsseg.comparison.records.Records.at`.

    Args:
        comparison: The runs.
        metric: The measure that ranks the losses, see `rsseg.comparison.measures.measures`; empty: `Task.score`.
        without: Classes that are left out of means; empty: those that the runs leave out.
        equal_within: Losses whose scores differ by less are practically equal.
        trivial: The counts ``[S, C, N]`` of trivial predictions on the same scenes, by name.

    Raises:
        InputError: If the metric does not exist, has no value in these scenes, or was not recorded by every run.
    """

    def __init__(
        self,
        comparison: Comparison,
        metric: str = "",
        without: Sequence[str] = (),
        equal_within: float = EQUAL,
        trivial: Mapping[str, Array] | None = None,
    ) -> None:
        self.comparison, self.equal_within = comparison, equal_within
        self.labels, self.seeds = comparison.labels, comparison.seeds
        first = comparison.runs[0][0]
        self.scenes, self.groups, self.task = first.records.scenes, first.records.groups, first.task
        self.validated = set(self.scenes) == set(first.data["scenes"]["val"])  # whether these scenes chose the checkpoints
        self.choice = any(len(run.records.steps) > 1 for run in comparison.all_runs)  # whether there were several checkpoints
        self.metric = metric = metric or self.task.score
        score = metric.partition("/")[0]  # of iou/road it is iou
        self.tuned_for = score if score in self.task.class_scores else self.task.score  # the score that thresholds maximise
        self.counts: Array = self._each(lambda run: run.records.at("fixed"))
        self.without = list(without or first.without)
        self.rare = self._rare()  # classes of unknown variance
        few = 2 * len(self.rare) < len(self.task.classes) - len(self.without)
        self.omitted = self.rare if few else []  # the rare classes that means leave out: never half of all
        left_out = [*self.without, *self.omitted]
        self.metrics = self._name_classes(metrics(self.task, left_out))
        self.measures = self._name_classes(measures(self.task, left_out, metric))
        if not self.task.real:
            self.measures[TUNED] = of_metric(self.tuned_metric, self.tuned_for, f"{self.tuned_label}, tuned")
            self.measures[GAIN] = of_tuning(self.tuned_metric, self.tuned_for)
        self.scene_metric = self.metrics.get(metric.removeprefix("scene_"), self.metrics[self.tuned_for])
        scored = (trivial or {}) if metric in self.metrics else {}
        self.baselines = {name: float(self.metrics[metric](counts)) for name, counts in scored.items()}
        if metric not in self.estimates:
            known = ", ".join(name for name in self.estimates if name in self.metrics)
            raise InputError(f"metric={metric}: not every run recorded it; take {known}")
        if np.isnan(self.ranked.mean.value).any():
            raise InputError(f"metric={metric}: it has no value in the {len(self.scenes)} scenes that are scored; take another")

    def _rare(self) -> list[str]:
        """The scored classes with fewer than `RARE` effective groups: more than half of their pixels lie in one group."""
        pixels = sum_groups(metrics(self.task)[self.task.score].pixels(self.counts[0, 0]), self.groups)
        good = {c: n for c, n in zip(self.task.classes, effective_groups(pixels), strict=True) if c not in self.without}
        rare = min(RARE, 0.75 * len(pixels))  # with two groups, the effective number is at most two
        return [name for name, number in good.items() if number < rare]

    @property
    def kept(self) -> list[str]:
        """The classes that means are taken over."""
        return [name for name in self.task.classes if name not in {*self.without, *self.omitted}]

    def _is_mean(self, name: str, metric: Metric) -> bool:
        """Whether a metric is a mean over the classes that are kept; kappa and the IoU of one class are not."""
        return "/" not in name and isinstance(metric.classes, list) and len(metric.classes) == len(self.kept)

    def _name_classes(self, found: dict[str, M]) -> dict[str, M]:
        """The metrics, with the kept classes in the labels of means if rare classes are left out."""
        if not self.omitted:
            return found
        of = f"of {len(self.kept)} of {len(self.task.classes)} classes"
        means = {name: each for name, each in found.items() if self._is_mean(name, each)}
        return found | {name: replace(each, label=f"{each.label} {of}") for name, each in means.items()}

    @property
    def tuned_score(self) -> str:
        """The score whose change by tuning is shown: what thresholds maximise, for a single class if that ranks the losses."""
        return self.metric if self.metric.startswith(f"{self.tuned_for}/") else self.tuned_for

    @property
    def tunes(self) -> bool:
        """Whether thresholds are tuned for the metric that ranks the losses; labels that may overlap have one each."""
        return self.metric == self.tuned_for or (self.metric == self.tuned_score and not self.task.exclusive)

    @property
    def tuned_metric(self) -> Metric:
        """The metric of `tuned_score`."""
        return self.metrics[self.tuned_score]

    @property
    def tuned_label(self) -> str:
        """The label of `tuned_metric`: a mean over classes is called one beside another metric."""
        mean = self.tuned_score != self.metric and len(self.kept) > 1
        return f"mean {self.tuned_metric.label}" if mean else self.tuned_metric.label

    @property
    def leaves_out(self) -> list[str]:
        """The classes that the ranking metric leaves out; none if it is not a mean over classes."""
        metric = self.metrics.get(self.metric)
        mean = metric is None or (self._is_mean(self.metric, metric) and len(self.kept) > 1)
        return [*self.without, *self.omitted] if mean else []

    @cached_property
    def estimates(self) -> dict[str, Estimates]:
        """Estimates of every loss and of all differences, by measure, for the measures that every run recorded."""
        found = {}
        for name, measure in self.measures.items():
            each = [[measure.recorded(run.records) for run in row] for row in self.comparison.runs]
            if not any(sums is None for row in each for sums in row):
                found[name] = estimate(sum_groups(np.array(each, dtype=np.float64), self.groups, axis=2), measure)
        return found

    @property
    def ranked(self) -> Estimates:
        """The estimates of every loss by the measure that ranks the losses."""
        return self.estimates[self.metric]

    @property
    def tuned(self) -> Estimates | None:
        """The estimates at thresholds, or biases, tuned on the other half of the groups; None if a run has no tuned counts."""
        return self.estimates.get(TUNED)

    @property
    def gain(self) -> Estimates | None:
        """The estimates of the change of each loss's score by tuning; None if a run has no tuned counts."""
        return self.estimates.get(GAIN)

    @property
    def order(self) -> list[int]:
        """The indices of the losses, best first, without tuning."""
        return self.ranked.order

    @cached_property
    def tune(self) -> bool:
        """Whether to tune: the best tuned loss is better than the best untuned one, and tuning surely helps one of the two.

        False if thresholds are not tuned for the metric that ranks the losses.
        """
        if self.tuned is None or not self.tunes or not self.ranked.claims:
            return False
        best, tuned = self.order[0], self.tuned.order[0]
        sure = (self.gained.low[[best, tuned]] > 0).any()
        return bool(sure and self.tuned.mean.value[tuned] > self.ranked.mean.value[best])

    @cached_property
    def gained(self) -> Interval:
        """The change of each loss's score by tuning, with intervals that hold for all losses together (Bonferroni)."""
        gain = self.estimates[GAIN]
        whole = gain.mean.interval(level=1 - 0.05 / len(self.labels))
        return whole if gain.claims else Interval.unknown(whole.value)

    @property
    def advised(self) -> Estimates:
        """The estimates for the advised use of the losses: at tuned thresholds or biases if `tune`, else untuned."""
        return self.tuned if self.tune and self.tuned is not None else self.ranked

    @property
    def group_count(self) -> int:
        """The number of independent areas that are scored."""
        return len(set(self.groups))

    @property
    def blocks(self) -> int:
        """The side in pixels of the blocks that images are cut into, each block a scene; 0: scenes are whole images."""
        return side_of_blocks(self.comparison.runs[0][0].config.dataset)

    @cached_property
    def chances(self) -> Chances | None:
        """Each loss's expected score, probability of being the best, and expected regret, for the advised use (`advised`)."""
        return shrink(self.advised)

    @cached_property
    def reach(self) -> Reach | None:
        """The smallest difference that the comparison can detect, and the sample size that detects a smaller one."""
        return reach(self.advised, self.group_count)

    @cached_property
    def residual(self) -> Array:
        """The expected score of the best loss minus each tuned run's score, ``[L, R]``; NaN if a run has no tuned counts."""
        if self.tuned is None:
            return np.full(self.ranked.values.shape, np.nan)
        found = shrink(self.tuned)
        best = float(np.nanmax(self.tuned.mean.value if found is None else found.mean))
        return best - self.tuned.values

    @cached_property
    def optimism(self) -> Array:
        """Each run's excess score on the scenes that chose its checkpoint, ``[L, R]``; NaN for another split."""
        if self.metric not in self.metrics or not (self.validated and self.choice):
            return np.full(self.ranked.values.shape, np.nan)
        metric = self.metrics[self.metric]
        found: Array = self._each(lambda run: float(metric(run.records.optimistic))) - self.ranked.values
        return self.ranked.measure.sign * found

    @cached_property
    def last_is_best(self) -> NDArray[np.bool_]:
        """Whether the best checkpoint of each run is its last one, bool ``[L, R]``: such a run may be undertrained."""
        return self._each(lambda run: run.records.last_is_best).astype(bool)

    @property
    def undertrained(self) -> bool:
        """Whether most runs are not trained to the end, or a baseline is at least as good as every loss."""
        return bool(2 * self.last_is_best.sum() > self.last_is_best.size or self.beaten_by)

    @property
    def beaten_by(self) -> dict[str, float]:
        """The scores of the baselines that are at least as good as every loss, the best first."""
        sign, best = self.ranked.measure.sign, self.advised.mean.value[self.advised.order[0]]
        found = sorted(self.baselines.items(), key=lambda item: -sign * item[1])
        return {name: score for name, score in found if sign * (score - best) >= 0}

    @cached_property
    def collapsed(self) -> NDArray[np.bool_]:
        """Whether each run's best checkpoint gives every pixel the same label, bool ``[L, R]``; False for real values."""
        if self.task.real:
            return np.zeros(self.counts.shape[:2], dtype=bool)
        hits, wrong, missed, rest = np.moveaxis(self.counts.sum(2), -1, 0)  # [L, R, C]
        called, there = hits + wrong > 0, hits + missed > 0
        if self.task.exclusive:
            return np.asarray((called.sum(-1) == 1) & (there.sum(-1) > 1))
        constant, varies = ~called | (missed + rest == 0), there & (wrong + rest > 0)
        return np.asarray(constant.all(-1) & varies.any(-1))

    @cached_property
    def tau(self) -> Array:
        """The `rank_alignment` of each run's validation loss, the mean of both halves, with its score, ``[L, R]``."""
        metric = self.tuned_metric
        return self._each(lambda run: rank_alignment(present_mean(run.records.own), metric.quality(run.records.counts)))

    @cached_property
    def selection_regret(self) -> Array:
        """The cost of choosing each run's checkpoint by its validation loss, ``[L, R]``; see the function below."""
        quality = self.tuned_metric.quality
        return self._each(lambda run: selection_regret(run.records.own, run.records.counts, run.records.first, quality))

    @cached_property
    def panel(self) -> list[str]:
        """The losses whose values every run recorded, whichever loss it was trained with."""
        first, *others = (run.records.panel for run in self.comparison.all_runs)
        return [name for name in first if all(name in other for other in others)]

    @cached_property
    def panel_values(self) -> Array:
        """The values of the panel's losses at each best checkpoint, means over both halves, ``[L, R, len(panel)]``."""

        def of(run: Run) -> Array:
            records = run.records
            return present_mean(records.values[records.best_index][[records.panel.index(name) for name in self.panel]])

        return self._each(of)

    @cached_property
    def terms(self) -> pd.DataFrame:
        """Each term's share of the gradient at each of `PLACES` and its one-step gain, by loss and step; see `term_shares`."""
        return term_shares(self.comparison)

    def _each(self, value: Callable[[Run], Array | float]) -> Array:
        return np.array([[value(run) for run in row] for row in self.comparison.runs], dtype=np.float64)


def selection_regret(
    losses: ArrayLike, counts: ArrayLike, first: NDArray[np.bool_], quality: Callable[[Array], Array]
) -> float:
    """The cost, in a metric, of choosing the checkpoint by its validation loss.

    On one half of the scenes a checkpoint is chosen by the loss and another by the metric; both are scored on the other
    half; the halves are swapped and the differences averaged. The choice by metric is the one that a user could make, so
    the regret can be negative. NaN if a half has no checkpoint with a loss, or none with a score.

    Args:
        losses: ``[checkpoints, 2]``, the validation loss on each half. A loss over all scenes would leak the scoring half.
        counts: ``[checkpoints, scenes, classes, N]``.
        first: Which scenes are the first half.
        quality: From counts to scores ``[checkpoints]``, more is better.

    Example:
        >>> from rsseg.metrics.scores import pooled
        >>> counts = np.array([[[[1, 1, 0]]] * 2, [[[1, 0, 0]]] * 2]).reshape(2, 2, 1, 3)  # IoU 0.5, then 1
        >>> selection_regret([[0.1, 0.1], [0.2, 0.2]], counts, np.array([True, False]), pooled)  # the loss prefers the first
        0.5
    """
    by_half, counted = np.asarray(losses, dtype=np.float64), np.asarray(counts)
    scored = np.stack([quality(counted[:, part]) for part in (first, ~first)], axis=1)
    if np.isnan(by_half).all(0).any() or np.isnan(scored).all(0).any():
        return float("nan")
    by_score, by_loss = np.nanargmax(scored, axis=0), np.nanargmin(by_half, axis=0)
    other = [1, 0]  # a choice on one half is scored on the other
    return float(np.mean(scored[by_score, other] - scored[by_loss, other]))


def term_shares(comparison: Comparison) -> pd.DataFrame:
    """Each term's share of the gradient's norm at each of `PLACES` and its one-step gain, by loss and step; means over seeds.

    Only validations that all seeds have are included; a gain that was not recorded is NaN.
    """
    parts = []
    for run in comparison.all_runs:
        records = run.records
        columns = {"gain": records.gain.ravel()}
        for place in PLACES:
            norms, _ = records.gradient[place]
            columns[f"share_{place}"] = np.nan_to_num(ratio(norms, norms.sum(-1, keepdims=True))).ravel()
        index = pd.MultiIndex.from_product([[run.label], records.steps, records.terms], names=["loss", "step", "term"])
        parts.append(pd.DataFrame(columns, index=index))
    seeds = pd.concat(parts).groupby(level=[0, 1, 2], sort=False)
    return seeds.mean()[seeds.size() == len(comparison.seeds)].reset_index()


def term_cosines(comparison: Comparison) -> pd.DataFrame:
    """The cosine of two terms' gradients at each of `PLACES`, by loss and pair; mean over validations and seeds."""
    rows = []
    for row in comparison.runs:
        terms = row[0].records.terms
        for a, b in combinations(range(len(terms)), 2):
            angles = [[present_mean(run.records.gradient[place][1][:, a, b]) for run in row] for place in PLACES]
            rows.append((row[0].label, f"{terms[a]}, {terms[b]}", *present_mean(np.array(angles))))
    return pd.DataFrame(rows, columns=["loss", "terms", *PLACES])
