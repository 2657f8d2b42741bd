"""Metrics: numbers computed from a head's counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rsseg.contract import InputError, nearest
from rsseg.metrics.average import Array, present_mean


@dataclass(frozen=True)
class Metric:
    """A number computed from a head's counts: TP, FP, FN and TN for labels, sums of errors for real values."""

    label: str  # the name in tables and figures
    score: str  # the score of a class, or value, that the metric averages
    classes: list[int] | slice  # the classes that the metric includes, as an index
    parts: Callable[[Array], Array]  # from counts ``[..., classes, N]`` to scores ``[..., parts]``, whose mean is the metric
    pixels: Callable[[Array], Array]  # from counts ``[..., classes, N]`` to the pixels ``[..., classes]`` of each class's score
    by_scene: bool = False  # the mean over scenes that have a score; else counts are summed over scenes first
    higher_is_better: bool | None = True  # None for scores without a ranking
    limits: tuple[float, float] = (0.0, 1.0)  # the lowest and highest possible value
    unit: str = ""

    def average(self, counts: Array) -> Array:
        """The metric from counts of its classes: ``[..., classes, N]`` to ``[...]``."""
        return present_mean(self.parts(counts))

    def each(self, counts: Array) -> Array:
        """The metric of every scene: ``[..., scenes, classes, N]`` to ``[..., scenes]``."""
        return self.average(counts[..., self.classes, :])

    def __call__(self, counts: Array) -> Array:
        """The metric of all scenes together: ``[..., scenes, classes, N]`` to ``[...]``."""
        return present_mean(self.each(counts)) if self.by_scene else self.each(counts.sum(-3))

    def quality(self, counts: Array) -> Array:
        """The metric, negated for errors, so that higher is better."""
        return -self(counts) if self.higher_is_better is False else self(counts)


def kept_classes(classes: Sequence[str], without: Sequence[str]) -> list[int] | slice:
    """The classes that means include, as an index: all except those in `without`."""
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


def by_scene(found: dict[str, Metric], prefix: str = "scene_", label: str = "per scene") -> dict[str, Metric]:
    """Copies of metrics that are means over scenes, with a prefix to their names."""
    return {
        f"{prefix}{name}": replace(metric, label=f"{metric.label} {label}", by_scene=True) for name, metric in found.items()
    }
