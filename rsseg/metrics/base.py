"""A number that a head's counts give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rsseg.contract import InputError, nearest
from rsseg.metrics.average import Array, present_mean

LABELS = {
    "iou": "IoU", "dice": "Dice", "f0.5": "F0.5", "f1": "F1", "f2": "F2", "balanced_accuracy": "balanced accuracy",
    "rmse": "RMSE", "mae": "MAE", "r2": "R2", "absolute_bias": "absolute bias",
}  # fmt: skip
"""The labels of scores, where they are not the name."""


@dataclass(frozen=True)
class Metric:
    """One number that a head's counts give: of labels TP, FP, FN and TN, of real values sums of errors."""

    label: str  # its name for people
    score: str  # the score of a class, or value, that it belongs to
    classes: list[int] | slice  # the classes that it is of, as an index
    parts: Callable[[Array], Array]  # from their counts ``[..., classes, N]`` to the scores ``[..., parts]`` whose mean it is
    pixels: Callable[[Array], Array]  # from these counts to the pixels ``[..., classes]`` that the score of each class is of
    by_scene: bool = False  # whether scenes are scored one by one, and those averaged that have a score; else counts are summed
    higher_is_better: bool | None = True  # None for scores that rank nothing
    limits: tuple[float, float] = (0.0, 1.0)  # its lowest and highest value
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


def by_scene(found: dict[str, Metric], prefix: str = "scene_", label: str = "per scene") -> dict[str, Metric]:
    """The means over scenes of metrics, by their names with a prefix."""
    return {
        f"{prefix}{name}": replace(metric, label=f"{metric.label} {label}", by_scene=True) for name, metric in found.items()
    }
