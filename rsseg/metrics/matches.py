"""The scores of objects: matches of centres per scene, and average precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchmetrics
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

from rsseg.contract import known
from rsseg.metrics.average import Array, present_mean
from rsseg.metrics.metric import Metric, SceneScores, by_scene, kept_classes
from rsseg.metrics.objects import COLUMNS, MARGIN, SCORE, boxes, labelled_objects, match, peaks, suppress
from rsseg.metrics.scores import ClassScore, class_metrics, class_pixels, overlap
from rsseg.task import Centres, Task


class ObjectMatches(torchmetrics.Metric):
    """Objects of whole scenes, found and labelled, and how many of them match.

    Objects are collected window by window. `compute` makes those that several windows see one (`suppress`) and matches what is
    left (`match`).

    Args:
        task: The head's task.
        scenes: The number of scenes.

    Attributes:
        average_precision: Of each class at an IoU of 0.5, as COCO takes it, once `compute` was called; NaN for a class that is
            absent or has objects without a size.

    Example:
        >>> matches, target = ObjectMatches(Centres(("car",)), scenes=1), torch.full((1, 5, 8, 8), torch.nan)
        >>> target[:, 0] = 0
        >>> target[0, :, 4, 2] = torch.tensor([1.0, 6.0, 3.0, 0.5, 0.5])
        >>> logits = torch.where(target == 1, 5.0, -5.0)
        >>> matches.update(logits, target, torch.tensor([0]))
        >>> matches.compute().tolist()
        [[[1, 0, 0]]]
    """

    full_state_update = False
    threshold = None
    found: list[Tensor]
    truth: list[Tensor]

    def __init__(self, task: Task, scenes: int) -> None:
        super().__init__()
        assert isinstance(task, Centres)
        self.task, self.scenes, self.average_precision = task, scenes, np.full(task.channels, np.nan)
        self.add_state("found", [], dist_reduce_fx="cat")
        self.add_state("truth", [], dist_reduce_fx="cat")

    def update(self, logits: Tensor, target: Tensor, scene: Tensor, corner: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            logits: ``[B, K + 4, H, W]``.
            target: Likewise, as `Centres.standardise` makes it. What is found where it is unknown does not count.
            scene: int64 ``[B]``.
            corner: int64 ``[B, 2]``, the row and column of the scene that each window begins in; None: windows are apart.
        """
        if corner is None:
            corner = torch.zeros(len(logits), 2, dtype=torch.int64, device=logits.device)
            corner[:, 0] = 2 * logits.shape[2] * torch.arange(len(logits))
        side = 2 * MARGIN + 1
        near = F.max_pool2d(known(target[:, :1]).float(), side, 1, MARGIN)[:, 0] > 0
        found = peaks(self.task.predict(logits.float()), self.task, where=near)
        for table, objects in ((self.found, found), (self.truth, labelled_objects(target, self.task))):
            window = objects[:, 0].long()
            objects[:, 3:5] += corner[window]
            objects[:, 0] = scene[window].to(objects.dtype)
            table.append(objects)

    def compute(self) -> Tensor:
        """True positives, false positives and false negatives at `SCORE`, int64 ``[S, K, 3]``."""
        found = suppress(_joined(self.found)).cpu()
        truth = _joined(self.truth).cpu()
        self.average_precision = average_precision(found, truth, self.task.channels, self.scenes)
        counts = np.zeros((self.scenes, self.task.channels, 3), dtype=np.int64)
        sure = found[found[:, 2] >= SCORE]
        for scene, label in np.ndindex(*counts.shape[:2]):
            own, there = (_of(table, scene, label).numpy() for table in (sure, truth))
            hits = len(match(own, there)[0])
            counts[scene, label] = hits, len(own) - hits, len(there) - hits
        return torch.from_numpy(counts)


def _joined(tables: Sequence[Tensor] | Tensor) -> Tensor:
    """Tables as one; synchronised processes have made one already."""
    if isinstance(tables, Tensor):
        return tables
    return torch.cat(list(tables)) if len(tables) else torch.zeros(0, len(COLUMNS))


def _of(objects: Tensor, scene: int, label: int) -> Tensor:
    return objects[(objects[:, 0] == scene) & (objects[:, 1] == label)]


def average_precision(found: Tensor, truth: Tensor, classes: int, scenes: int) -> Array:
    """The average precision of each class at an IoU of 0.5 over all scenes, by torchmetrics.

    Args:
        found: A table of objects.
        truth: A table of objects.
        classes: The number of classes.
        scenes: The number of scenes.
    """
    precision = np.full(classes, np.nan)
    for label in range(classes):
        own, there = (table[table[:, 1] == label] for table in (found, truth))
        if not len(there) or not known(there).all():
            continue
        most = max(1, len(own))
        measured = MeanAveragePrecision(iou_thresholds=[0.5], max_detection_thresholds=[1, 1, most])
        measured.warn_on_many_detections = False
        for scene in range(scenes):
            objects = [_of(table, scene, label) for table in (own, there)]
            named = [{"boxes": boxes(table), "labels": torch.zeros(len(table), dtype=torch.int64)} for table in objects]
            measured.update([named[0] | {"scores": objects[0][:, 2]}], [named[1]])
        precision[label] = max(0.0, float(measured.compute()["map_50"]))
    return precision


LABELS = {"f1": "F1", "precision": "precision", "recall": "recall"}
"""What people call each score."""


def f1(counts: Array) -> Array:
    """``2 TP / (2 TP + FP + FN)``, of counts ``[..., 3]``; NaN for a class that is absent."""
    return overlap(counts, "dice")


MATCHES: dict[str, ClassScore] = {
    "f1": f1,
    "precision": partial(overlap, metric="precision"),
    "recall": partial(overlap, metric="recall"),
}
"""The scores that every class has, by name."""


def match_metrics(task: Task, without: Sequence[str] = ()) -> dict[str, Metric]:
    """What a head of objects can be scored by, by name.

    ``f1``, ``precision`` and ``recall`` are means over the classes; with ``_micro`` or ``_weighted`` behind it a name is that
    of another average, with ``/car`` that of a class, with ``scene_`` before it the mean over scenes.

    Args:
        task: The head's task.
        without: Classes that are left out of averages.

    Raises:
        InputError: If there is no such class, or none is left.

    Example:
        >>> counts = np.array([[[3.0, 1.0, 2.0]], [[0.0, 0.0, 1.0]]])
        >>> round(float(match_metrics(Centres(("car",)))["f1"](counts)), 3)
        0.6
    """
    found = class_metrics(MATCHES, task, LABELS, without)
    return found | by_scene(found)


@dataclass(frozen=True)
class MatchScores(SceneScores):
    """The scores of a split, by the names that `match_metrics` lists, and the average precision.

    Attributes:
        matches: int64 ``[S, K, 3]``, as `ObjectMatches` counts them.
        task: The head's task.
        without: Classes that are left out of means.
        average_precision: Of each class at an IoU of 0.5; NaN: absent, or of objects without a size.

    Example:
        >>> MatchScores(torch.tensor([[[3, 1, 2]]]), Centres(("car",)))["recall"]
        0.6
    """

    matches: Tensor
    task: Task
    without: tuple[str, ...] = ()
    average_precision: Array = field(default_factory=lambda: np.zeros(0))
    columns = scene_columns = (*MATCHES,)
    averages = {"macro": ("", ""), "micro": ("", "_micro"), "weighted": ("", "_weighted"), "scenes": ("scene_", "")}  # noqa: RUF012

    @cached_property
    def counts(self) -> Array:
        """The counts as an array."""
        return self.matches.cpu().double().numpy()

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """What the split can be scored by."""
        return match_metrics(self.task, self.without)

    @property
    def pixels(self) -> list[int]:
        """Pixels that the centres of each class lie in: its objects."""
        return [int(n) for n in class_pixels(self.counts.sum(0))]

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
