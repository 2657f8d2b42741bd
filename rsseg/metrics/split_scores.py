"""The scores of a split from the counts of its scenes, for heads of any task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from rsseg.metrics.average import Array, present_mean
from rsseg.metrics.base import Metric, kept_classes
from rsseg.metrics.scores import class_counts, error_metrics, label_metrics, match_metrics
from rsseg.task import Task

METRICS: Mapping[str, Callable[[Task, Sequence[str]], dict[str, Metric]]] = {
    "confusion": label_metrics, "errors": error_metrics, "matches": match_metrics,
}  # fmt: skip
"""The function that returns a head's metrics, by `Task.counted`."""

AVERAGES = {"macro": ("", ""), "micro": ("", "_micro"), "weighted": ("", "_weighted"), "scenes": ("scene_", "")}
"""The rows of averages in tables, with prefix and suffix of the names of their metrics."""


def metrics(task: Task, without: Sequence[str] = ()) -> dict[str, Metric]:
    """The scores of a head, by name: see `label_metrics`, `error_metrics` and `match_metrics`.

    Classes, or values, of `without` are left out of means.
    """
    return METRICS[task.counted](task, without)


@dataclass(frozen=True)
class Scores:
    """The scores of a split, by the names of its `metrics`.

    Attributes:
        sums: The counts of `rsseg.metrics.counters.SCENE_SUMS` of each scene, ``[S, ...]``.
        task: The head's task.
        without: Classes, or values, that are left out of means.
        beside: Further scores of the whole split, ``[K]``, one number per class; NaN for an absent class.

    Example:
        >>> from rsseg.task import Binary
        >>> Scores(np.array([[[[6, 1], [1, 2]]]]), Binary(("building",)))["iou"]
        0.5
    """

    sums: Any
    task: Task
    without: tuple[str, ...] = ()
    beside: Mapping[str, Array] = field(default_factory=dict)

    @cached_property
    def counts(self) -> Array:
        """The counts float64 ``[S, classes, N]`` that metrics take."""
        return np.asarray(self.sums, dtype=np.float64) if self.task.real else class_counts(self.sums, self.task)

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """The scores of the split."""
        return metrics(self.task, self.without)

    @property
    def columns(self) -> tuple[str, ...]:
        """The scores that are columns of tables: those of which `Task.scores` and `Task.score` are averages."""
        return tuple(dict.fromkeys(self.metrics[name].score for name in (*self.task.scores, self.task.score)))

    @property
    def class_pixels(self) -> Array:
        """Per scene and class, the number of target pixels, of pixels with a known value, or of objects: ``[S, classes]``."""
        return self.metrics[self.columns[0]].pixels(self.counts)

    def __getitem__(self, name: str) -> float:
        return float(self.metrics[name](self.counts))

    def means(self) -> dict[str, float]:
        """The scores `Task.scores` and `beside` of the split, averaged over classes."""
        kept = kept_classes(self.task.classes, self.without)
        beside = {name: float(present_mean(numbers[kept])) for name, numbers in self.beside.items()}
        return {name: self[name] for name in self.task.scores} | beside

    def logged(self, monitored: Iterable[str] = ()) -> dict[str, float]:
        """The values that a validation logs: the means, `Task.class_scores` of each class, and `monitored` metrics."""
        names = [f"{score}/{label}" for score in self.task.class_scores for label in self.task.classes]
        names += [name for name in monitored if name in self.metrics]
        return self.means() | {name: self[name] for name in names}

    def table(self) -> list[dict[str, Any]]:
        """One row per class, with its numbers of pixels and of scenes; then one row per average, with an empty class."""
        pixels, rows = self.class_pixels, []
        for c, label in enumerate(self.task.classes):
            own = {name: float(numbers[c]) for name, numbers in self.beside.items()}
            numbers = {"pixels": int(pixels[:, c].sum()), "scenes": int((pixels[:, c] > 0).sum())}
            rows.append({"class": label, "average": "", **self._row("", f"/{label}"), **own, **numbers})
        means, numbers = self.means(), {"pixels": int(pixels.sum()), "scenes": int(pixels.any(-1).sum())}
        for average, affixes in AVERAGES.items():
            own = {name: means[name] if average == "macro" else float("nan") for name in self.beside}
            if scores := self._row(*affixes):
                rows.append({"class": "", "average": average, **scores, **own, **numbers})
        return rows

    def _row(self, before: str, after: str) -> dict[str, float]:
        """The metrics of a table row, by score; NaN for a missing metric, empty if all are missing."""
        names = {score: f"{before}{score}{after}" for score in self.columns}
        found = {score: self[name] if name in self.metrics else float("nan") for score, name in names.items()}
        return found if any(name in self.metrics for name in names.values()) else {}

    def scene_table(self, scenes: Sequence[str]) -> list[dict[str, Any]]:
        """One row per scene: its name, and its scores, averaged over classes."""
        names = [*self.columns, *[name for name in ("accuracy",) if name in self.metrics]]
        columns = {name: self.metrics[name].each(self.counts) for name in names}
        return [{"scene": scene, **{name: float(c[i]) for name, c in columns.items()}} for i, scene in enumerate(scenes)]

    def pair_table(self) -> list[dict[str, Any]]:
        """One row per cell of the confusion matrices, summed over scenes: labelled, predicted, pixels; none for real values."""
        return [
            {"labelled": row, "predicted": column, "pixels": int(self.sums[:, plane, i, j].sum())}
            for plane, names in enumerate(() if self.task.real else self.task.matrices)
            for i, row in enumerate(names)
            for j, column in enumerate(names)
        ]
