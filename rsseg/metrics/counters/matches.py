"""Matches of objects' centres, per scene, and their average precision."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
import torchmetrics
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

from rsseg.contract import known
from rsseg.metrics.average import Array
from rsseg.metrics.objects import COLUMNS, MARGIN, SCORE, boxes, labelled_objects, match, peaks, suppress_overlaps
from rsseg.task import Centres, Task


class ObjectMatches(torchmetrics.Metric):
    """Predicted and labelled objects of whole scenes, and the numbers of matches.

    Objects are collected window by window. `compute` merges predictions of one object from several windows
    (`suppress_overlaps`), then matches predictions with labelled objects (`match`).

    Attributes:
        average_precision: COCO's average precision at an IoU of 0.5 of each class, after `compute`; NaN for a class that is
            absent or has objects of unknown size.
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
            target: ``[B, K + 4, H, W]``, as `Centres.standardise` returns it. Predictions in unknown areas do not count.
            scene: int64 ``[B]``, the number of each window's scene.
            corner: int64 ``[B, 2]``, row and column of each window's first pixel in its scene; None: windows do not overlap.
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
        none = torch.zeros(0, len(COLUMNS))
        found, truth = (
            objects if isinstance(objects, Tensor) else torch.cat([*objects, none.to(self.device)])  # synchronised: one table
            for objects in (self.found, self.truth)
        )
        found, truth = suppress_overlaps(found).cpu(), truth.cpu()
        self.average_precision = average_precision(found, truth, self.task.channels, self.scenes)
        counts = np.zeros((self.scenes, self.task.channels, 3), dtype=np.int64)
        sure = found[found[:, 2] >= SCORE]
        for scene, label in np.ndindex(*counts.shape[:2]):
            own, there = (table[(table[:, :2] == torch.tensor([scene, label])).all(1)].numpy() for table in (sure, truth))
            hits = len(match(own, there)[0])
            counts[scene, label] = hits, len(own) - hits, len(there) - hits
        return torch.from_numpy(counts)


def average_precision(found: Tensor, truth: Tensor, classes: int, scenes: int) -> Array:
    """The average precision of each class at an IoU of 0.5 over all scenes, by torchmetrics, of tables of objects."""
    precision = np.full(classes, np.nan)
    for label in range(classes):
        tables = [table[table[:, 1] == label] for table in (found, truth)]
        if not len(tables[1]) or not known(tables[1]).all():
            continue
        # one class at a time: with more than 100 objects, torchmetrics returns only the mean over classes
        measured = MeanAveragePrecision(iou_thresholds=[0.5], max_detection_thresholds=[1, 1, max(1, len(tables[0]))])
        measured.warn_on_many_detections = False
        for scene in range(scenes):
            own, there = (table[table[:, 0] == scene] for table in tables)
            predicted, labelled = ({"boxes": boxes(table), "labels": 0 * table[:, 1].long()} for table in (own, there))
            measured.update([predicted | {"scores": own[:, 2]}], [labelled])
        precision[label] = max(0.0, float(measured.compute()["map_50"]))
    return precision
