"""Scores of objects, functions of matched centres per scene, and average precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from rsseg.metrics.average import Array, present_mean
from rsseg.metrics.metric import Metric, SceneScores, by_scene, kept_classes
from rsseg.metrics.scores import ClassScore, class_metrics, overlap
from rsseg.task import Task

MATCHES: dict[str, ClassScore] = {
    "f1": partial(overlap, metric="dice"),
    "precision": partial(overlap, metric="precision"),
    "recall": partial(overlap, metric="recall"),
}
"""The scores that every class has, by name; of counts ``[..., 3]``."""


def match_metrics(task: Task, without: Sequence[str] = ()) -> dict[str, Metric]:
    """What a head of objects can be scored by, by name.

    ``f1``, ``precision`` and ``recall`` are means over the classes; with ``_micro`` or ``_weighted`` behind it a name is that
    of another average, with ``/car`` that of a class, with ``scene_`` before it the mean over scenes. Classes of `without` are
    left out of averages.

    Raises:
        InputError: If there is no such class, or none is left.

    Example:
        >>> from rsseg.task import Centres
        >>> counts = np.array([[[3.0, 1.0, 2.0]], [[0.0, 0.0, 1.0]]])
        >>> round(float(match_metrics(Centres(("car",)))["f1"](counts)), 3)
        0.6
    """
    found = class_metrics(MATCHES, task, without)
    return found | by_scene(found)


@dataclass(frozen=True)
class MatchScores(SceneScores):
    """The scores of a split, by the names that `match_metrics` lists, and the average precision.

    What was counted is int64 ``[S, K, 3]``, as `ObjectMatches` counts it; the pixels of a class are its objects.

    Attributes:
        average_precision: Of each class at an IoU of 0.5; NaN: absent, or of objects without a size.

    Example:
        >>> from rsseg.task import Centres
        >>> MatchScores([[[3, 1, 2]]], Centres(("car",)))["recall"]
        0.6
    """

    average_precision: Array = field(default_factory=lambda: np.zeros(0))
    named = staticmethod(match_metrics)
    columns = scene_columns = (*MATCHES,)

    def means(self) -> dict[str, float]:
        """The scores of the split as a whole, with the average precision."""
        kept = kept_classes(self.task.classes, self.without)
        ap = {"ap50": float(present_mean(self.average_precision[kept]))} if len(self.average_precision) else {}
        return super().means() | ap

    def table(self) -> list[dict[str, Any]]:
        """See `SceneScores`; with the average precision of classes and of their mean. A centre is one pixel."""
        averages = {"macro": self.means().get("ap50", float("nan"))}
        classes = dict(zip(self.task.classes, self.average_precision.tolist(), strict=False))
        rows = []
        for row in super().table():
            known, name = (averages, row["average"]) if row["average"] else (classes, row["class"])
            rows.append(row | {"ap50": known.get(name, float("nan"))})
        return rows
