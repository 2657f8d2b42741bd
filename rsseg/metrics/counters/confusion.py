"""One confusion matrix per scene, accumulated on the device."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from rsseg.contract import IGNORE
from rsseg.task import Task


class Confusion(Metric):
    """Counts of (target, prediction) pairs per scene.

    The state is int64 ``[S, P, K, K]``, rows the target: one plane of C x C for multiclass, one of 2 x 2 per label for
    binary and multilabel. Counts are summed over processes.

    Args:
        task: The head's task.
        scenes: The number of scenes.
        threshold: As for `Task.predict`.

    Example:
        >>> from rsseg.task import Binary
        >>> confusion = Confusion(Binary(("building",)), scenes=1)
        >>> logits = torch.tensor([[[[2.0, -1.0, 3.0]]]])
        >>> confusion.update(logits, torch.tensor([[[1, 0, 255]]], dtype=torch.uint8), torch.tensor([0]))
        >>> confusion.compute().tolist()
        [[[[1, 0], [0, 1]]]]
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, task: Task, scenes: int, threshold: Tensor | None = None) -> None:
        super().__init__()
        self.task, self.threshold = task, threshold
        shape = (scenes, len(task.matrices), task.labels, task.labels)
        self.add_state("counts", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, target: Tensor, scene: Tensor, corner: Tensor | None = None) -> None:
        """Count a batch.

        Args:
            logits: ``[B, K, H, W]``.
            target: Labels ``[B, H, W]`` or ``[B, L, H, W]``; `IGNORE` is not counted. Of shares the `Task.hard_labels` are.
            scene: int64 ``[B]``.
            corner: Where windows lie in their scenes, which does not matter here.
        """
        _, planes, labels, _ = self.counts.shape
        shape = (len(logits), planes, *logits.shape[2:])
        predicted = self.task.predict(logits, self.threshold).reshape(shape)
        target = self.task.hard_labels(target).long().reshape(shape)
        plane = torch.arange(planes, device=logits.device)[:, None, None]
        cell = ((scene[:, None, None, None] * planes + plane) * labels + target) * labels + predicted
        cells = self.counts.numel()
        cell = torch.where(target == IGNORE, cells, cell)  # a bin more, cut off again
        self.counts += torch.bincount(cell.flatten(), minlength=cells + 1)[:cells].view_as(self.counts)

    def compute(self) -> Tensor:
        """The counts, int64 ``[S, P, K, K]``."""
        return self.counts
