"""What is summed per scene on the device: confusion matrices of labels, errors of real values."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from rsseg.contract import IGNORE, known
from rsseg.metrics.errors import SUMS
from rsseg.task import Task


class SceneCounts(Metric):
    """Numbers that are counted per scene ``[S, ...]``, and summed over processes."""

    full_state_update = False
    counts: Tensor

    def __init__(self, task: Task, shape: tuple[int, ...], dtype: torch.dtype = torch.int64) -> None:
        super().__init__()
        self.task = task
        self.add_state("counts", torch.zeros(shape, dtype=dtype), dist_reduce_fx="sum")

    def compute(self) -> Tensor:
        """The numbers."""
        return self.counts


class Confusion(SceneCounts):
    """Counts of (target, prediction) pairs ``[S, P, K, K]``, see `count_pairs`. The threshold is that of `Task.predict`.

    Example:
        >>> from rsseg.task import Binary
        >>> confusion = Confusion(Binary(("building",)), scenes=1)
        >>> logits = torch.tensor([[[[2.0, -1.0, 3.0]]]])
        >>> confusion.update(logits, torch.tensor([[[1, 0, 255]]], dtype=torch.uint8), torch.tensor([0]))
        >>> confusion.compute().tolist()
        [[[[1, 0], [0, 1]]]]
    """

    def __init__(self, task: Task, scenes: int, threshold: Tensor | None = None) -> None:
        super().__init__(task, (scenes, len(task.matrices), task.labels, task.labels))
        self.threshold = threshold

    def update(self, logits: Tensor, target: Tensor, scene: Tensor, corner: Tensor | None = None) -> None:
        """Count a batch.

        Args:
            logits: ``[B, K, H, W]``.
            target: Labels ``[B, H, W]`` or ``[B, L, H, W]``; `IGNORE` is not counted. Of shares the `Task.hard_labels` are.
            scene: int64 ``[B]``.
            corner: Where windows lie in their scenes, which does not matter here.
        """
        predicted = self.task.predict(logits, self.threshold)
        self.counts += count_pairs(predicted, target, scene, len(self.counts), self.task)


class ErrorSums(SceneCounts):
    """`SUMS`, in the target's unit, float64 ``[S, V, 6]``."""

    def __init__(self, task: Task, scenes: int) -> None:
        super().__init__(task, (scenes, task.channels, len(SUMS)), torch.float64)

    def update(self, logits: Tensor, target: Tensor, scene: Tensor, corner: Tensor | None = None) -> None:
        """Add a batch; the arguments are those of `Confusion`, the target standardised as the loss sees it, NaN not counted."""
        self.counts.index_add_(0, scene, sum_errors(self.task.predict(logits), self.task.predict(target)))


def count_pairs(predicted: Tensor, target: Tensor, scene: Tensor, scenes: int, task: Task) -> Tensor:
    """The counts of (target, prediction) pairs of a batch: int64 ``[scenes, P, K, K]``, rows the target.

    There is one matrix of all classes for multiclass, one of 2 x 2 per label otherwise. Labels are those of `Confusion.update`.
    """
    planes, labels = len(task.matrices), task.labels
    shape = (len(target), planes, *target.shape[-2:])
    predicted, target = predicted.reshape(shape), task.hard_labels(target).long().reshape(shape)
    plane = torch.arange(planes, device=target.device)[:, None, None]
    cell = ((scene[:, None, None, None] * planes + plane) * labels + target) * labels + predicted
    cells = scenes * planes * labels**2
    cell = torch.where(target == IGNORE, cells, cell)  # a bin more, cut off again
    return torch.bincount(cell.flatten(), minlength=cells + 1)[:cells].view(scenes, planes, labels, labels)


def sum_errors(predicted: Tensor, target: Tensor) -> Tensor:
    """`SUMS` of each image of a batch ``[B, V, H, W]``, in the target's unit, NaN not counted: float64 ``[B, V, 6]``."""
    there = known(target)
    value = target.double().masked_fill(~there, 0)
    error = (predicted.double() - value).masked_fill(~there, 0)
    parts = (there.double(), error, error.abs(), error.square(), value, value.square())
    return torch.stack([part.sum((2, 3)) for part in parts], dim=-1)
