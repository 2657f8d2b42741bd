"""IoU, Dice and their means from confusion counts: pure functions.

IoU and Dice are pooled: counts are summed over the dataset first, then scored per class, then averaged over the classes
that occur in the target. A class that never occurs there is NaN, left out of means, and counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rsseg.task import Task


def class_counts(confusion: Tensor, task: Task) -> tuple[Tensor, Tensor, Tensor]:
    """True positives, false positives and false negatives per class.

    Args:
        confusion: ``[..., P, K, K]``, rows the target, as `Confusion` counts them.
        task: The head's task.

    Returns:
        Three float64 tensors ``[..., classes]``.
    """
    counts = confusion.double()
    hits = counts.diagonal(dim1=-2, dim2=-1)
    wrong, missed = counts.sum(dim=-2) - hits, counts.sum(dim=-1) - hits
    return task.by_class(hits), task.by_class(wrong), task.by_class(missed)


def iou_and_dice(confusion: Tensor, task: Task) -> tuple[Tensor, Tensor]:
    """IoU and Dice per class, float64 ``[..., classes]``; NaN for a class that the target does not hold."""
    hits, wrong, missed = class_counts(confusion, task)
    absent = hits + missed == 0
    iou = (hits / (hits + wrong + missed)).masked_fill(absent, torch.nan)
    return iou, (2 * hits / (2 * hits + wrong + missed)).masked_fill(absent, torch.nan)


@dataclass(frozen=True)
class Scores:
    """The scores of a split.

    Attributes:
        iou: Pooled over the dataset, mean over the classes present.
        dice: Likewise.
        scene_iou: IoU per scene, mean over the classes present in it, then mean over scenes.
        scene_dice: Likewise.
        accuracy: The share of labelled pixels (multilabel: of labelled entries) predicted right.
        classes: The classes' names.
        class_iou: float64 ``[classes]``, NaN where absent.
        class_dice: float64 ``[classes]``, NaN where absent.
        pixels: int64 ``[classes]``, target pixels of each class.
        confusion: int64 ``[P, K, K]``, the counts of all scenes, rows the target.
        boundary_iou: IoU of the bands along contours, pooled, mean over the classes present; None where nobody counted them.
    """

    iou: float
    dice: float
    scene_iou: float
    scene_dice: float
    accuracy: float
    classes: tuple[str, ...]
    class_iou: Tensor
    class_dice: Tensor
    pixels: Tensor
    confusion: Tensor
    boundary_iou: float | None = None

    def means(self) -> dict[str, float]:
        """The scalar scores by name, those that are known."""
        names = ("iou", "dice", "scene_iou", "scene_dice", "accuracy", "boundary_iou")
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    def by_class(self) -> dict[str, Tensor]:
        """Scores of each class, ``[classes]``, by name."""
        return {"iou": self.class_iou, "dice": self.class_dice}

    def table(self) -> list[dict[str, Any]]:
        """One row per class and one, its class empty, for the mean over the classes present."""
        columns = zip(self.classes, self.class_iou.tolist(), self.class_dice.tolist(), self.pixels.tolist(), strict=True)
        rows: list[dict[str, Any]] = [{"class": c, "iou": i, "dice": d, "pixels": n} for c, i, d, n in columns]
        return [*rows, {"class": "", "iou": self.iou, "dice": self.dice, "pixels": int(self.pixels.sum())}]


def scores(confusion: Tensor, task: Task) -> Scores:
    """Score the counts of all scenes.

    Args:
        confusion: int64 ``[S, P, K, K]``.
        task: The head's task.

    Example:
        >>> from rsseg.task import Binary
        >>> counts = torch.tensor([[[[6, 1], [1, 2]]]])
        >>> scores(counts, Binary(("building",))).iou
        0.5
    """
    pooled = confusion.sum(dim=0)
    class_iou, class_dice = iou_and_dice(pooled, task)
    scene_iou, scene_dice = iou_and_dice(confusion, task)
    hits, _, missed = class_counts(pooled, task)
    right = pooled.diagonal(dim1=-2, dim2=-1).sum()
    return Scores(
        iou=float(class_iou.nanmean()),
        dice=float(class_dice.nanmean()),
        scene_iou=float(scene_iou.nanmean(dim=-1).nanmean()),
        scene_dice=float(scene_dice.nanmean(dim=-1).nanmean()),
        accuracy=float(right / pooled.sum()),
        classes=task.classes,
        class_iou=class_iou,
        class_dice=class_dice,
        pixels=(hits + missed).long(),
        confusion=pooled,
    )
