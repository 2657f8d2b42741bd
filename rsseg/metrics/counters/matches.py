"""Matches of objects' centres, per scene, and their average precision."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
import torchmetrics
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

from rsseg.contract import known
from rsseg.metrics.average import Array
from rsseg.metrics.objects import COLUMNS, MARGIN, SCORE, boxes, labelled_objects, match, peaks, suppress
from rsseg.task import Centres, Task


class ObjectMatches(torchmetrics.Metric):
    """Objects of whole scenes, found and labelled, and how many of them match.

    Objects are collected window by window. `compute` makes those that several windows see one (`suppress`) and matches what is
    left (`match`).

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
    """The average precision of each class at an IoU of 0.5 over all scenes, by torchmetrics, of tables of objects."""
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
