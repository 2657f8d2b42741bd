"""What a head can be scored by, whatever is counted of its scenes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from rsseg.contract import InputError, nearest
from rsseg.metrics.average import Array, present_mean
from rsseg.task import Task

LABELS = {
    "iou": "IoU", "dice": "Dice", "f0.5": "F0.5", "f1": "F1", "f2": "F2", "balanced_accuracy": "balanced accuracy",
    "rmse": "RMSE", "mae": "MAE", "r2": "R2", "absolute_bias": "absolute bias",
}  # fmt: skip
"""What people call scores, where that is not the name."""


@dataclass(frozen=True)
class Metric:
    """One number that a head's counts give: of labels TP, FP, FN and TN, of real values sums of errors.

    Attributes:
        label: What people call it.
        score: The score of a class, or value, that it belongs to.
        classes: The classes that it is of, as an index.
        parts: From their counts ``[..., classes, N]`` to the scores ``[..., parts]`` whose mean it is, such as those of the
            classes; NaN is left out of the mean.
        pixels: From counts ``[..., classes, N]`` to the pixels ``[..., classes]`` that the score of each class is of.
        by_scene: Whether scenes are scored one by one, and those averaged that have a score; else their counts are summed.
        higher_is_better: False for errors; None for what nothing can be ranked by.
        limits: Between what it lies.
        unit: Its unit, for people; empty: none.
    """

    label: str
    score: str
    classes: list[int] | slice
    parts: Callable[[Array], Array]
    pixels: Callable[[Array], Array]
    by_scene: bool = False
    higher_is_better: bool | None = True
    limits: tuple[float, float] = (0.0, 1.0)
    unit: str = ""

    def average(self, counts: Array) -> Array:
        """The number of counts of its classes: ``[..., classes, N]`` to ``[...]``."""
        return present_mean(self.parts(counts))

    def each(self, counts: Array) -> Array:
        """The number of every scene: ``[..., scenes, classes, N]`` to ``[..., scenes]``."""
        return self.average(counts[..., self.classes, :])

    def __call__(self, counts: Array) -> Array:
        """The number of all scenes together: ``[..., scenes, classes, N]`` to ``[...]``."""
        return present_mean(self.each(counts)) if self.by_scene else self.each(counts.sum(-3))

    def quality(self, counts: Array) -> Array:
        """The same, but more is better: an error has a minus."""
        return -self(counts) if self.higher_is_better is False else self(counts)


def kept_classes(classes: Sequence[str], without: Sequence[str]) -> list[int] | slice:
    """The classes that are in the means, as an index."""
    for name in without:
        if name not in classes:
            raise InputError(
                f"without={name}: there is no such class to leave out of the means{nearest(name, classes)}; the classes are "
                f"{', '.join(classes)}"
            )
    kept = [c for c, name in enumerate(classes) if name not in without]
    if not kept:
        raise InputError(f"without={', '.join(without)}: no class is left to take a mean over")
    return kept if without else slice(None)


@dataclass(frozen=True)
class SceneScores:
    """The scores of a split, by the names of its metrics.

    Attributes:
        sums: What was counted of each scene, ``[S, ...]``.
        task: The head's task.
        without: Classes, or values, that are left out of means.
        columns: The scores that the table has.
        averages: By the average that a row of the table is of, what stands before and behind the names of its metrics.
        scene_columns: The scores that the table of scenes has.
    """

    columns: ClassVar[tuple[str, ...]]
    averages: ClassVar[dict[str, tuple[str, str]]] = {
        "macro": ("", ""), "micro": ("", "_micro"), "weighted": ("", "_weighted"), "scenes": ("scene_", ""),
    }  # fmt: skip
    scene_columns: ClassVar[tuple[str, ...]]

    sums: Any
    task: Task
    without: tuple[str, ...] = ()

    @staticmethod
    def named(task: Task, without: Sequence[str]) -> dict[str, Metric]:
        """What a head can be scored by, by name."""
        raise NotImplementedError

    @cached_property
    def counts(self) -> Array:
        """Float64 ``[S, classes, N]``, what the metrics are functions of."""
        return np.asarray(self.sums, dtype=np.float64)

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """What the split can be scored by."""
        return self.named(self.task, self.without)

    @property
    def pixels(self) -> list[int]:
        """Pixels of each class in the target, or whose value is known."""
        return [int(n) for n in self.metrics[self.columns[0]].pixels(self.counts).sum(0)]

    def __getitem__(self, name: str) -> float:
        return float(self.metrics[name](self.counts))

    def means(self) -> dict[str, float]:
        """The scores of the split as a whole, those of `Task.scores`."""
        return {name: self[name] for name in self.task.scores}

    def logged(self, monitored: Iterable[str] = ()) -> dict[str, float]:
        """What a validation logs: the means, `Task.class_scores` of each class, and what callbacks monitor beside."""
        names = [f"{score}/{label}" for score in self.task.class_scores for label in self.task.classes]
        names += [name for name in monitored if name in self.metrics]
        return self.means() | {name: self[name] for name in names}

    def table(self) -> list[dict[str, Any]]:
        """One row per class, with its pixels and the scenes that have it; then, their class empty, one per average."""
        present = self.metrics[self.columns[0]].pixels(self.counts) > 0
        scenes = [int(n) for n in present.sum(0)]
        rows = [
            {"class": label, "average": "", **self._known("", f"/{label}"), "pixels": pixels, "scenes": n}
            for label, pixels, n in zip(self.task.classes, self.pixels, scenes, strict=True)
        ]
        whole = {"pixels": sum(self.pixels), "scenes": int(present.any(-1).sum())}
        return rows + [
            {"class": "", "average": average, **self._known(*words), **whole} for average, words in self.averages.items()
        ]

    def _known(self, before: str, after: str) -> dict[str, float]:
        """Of each score of the table the metric with these words before and after its name; NaN: there is none."""
        names = {score: f"{before}{score}{after}" for score in self.columns}
        return {score: self[name] if name in self.metrics else float("nan") for score, name in names.items()}

    def scene_table(self, scenes: Sequence[str]) -> list[dict[str, Any]]:
        """One row per scene: its name, and the scores of the scene as a whole."""
        columns = {name: self.metrics[name].each(self.counts) for name in self.scene_columns}
        return [{"scene": scene, **{name: float(c[i]) for name, c in columns.items()}} for i, scene in enumerate(scenes)]


def by_scene(found: dict[str, Metric], prefix: str = "scene_", label: str = "per scene") -> dict[str, Metric]:
    """The means over scenes of metrics, by their names with a prefix."""
    return {
        f"{prefix}{name}": replace(metric, label=f"{metric.label} {label}", by_scene=True) for name, metric in found.items()
    }
