"""One confusion matrix per scene, accumulated on the device."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from rsseg.contract import IGNORE, Head, TaskKind


def predicted_labels(logits: Tensor, head: Head, threshold: float | Tensor = 0.0) -> Tensor:
    """The labels that logits stand for.

    Args:
        logits: ``[B, K, H, W]``.
        head: Task and classes.
        threshold: One number, or one per class ``[K]``. Binary and multilabel: the logit above which a pixel is positive;
            0 is a probability of 0.5. Multiclass: the bias that is added to a class's logit before the largest is looked for.

    Returns:
        int64 ``[B, H, W]``, or ``[B, L, H, W]`` for multilabel.

    Example:
        >>> logits = torch.tensor([[[[1.0]], [[0.8]]]])
        >>> two = Head(TaskKind.multiclass, ("a", "b"))
        >>> predicted_labels(logits, two).item(), predicted_labels(logits, two, torch.tensor([0.0, 0.3])).item()
        (0, 1)
    """
    limit = threshold.to(logits.device).view(-1, 1, 1) if isinstance(threshold, Tensor) else threshold
    if head.task is TaskKind.multiclass:
        shifted = logits + limit if isinstance(limit, Tensor) else logits
        return shifted.max(dim=1).indices  # ten times faster than argmax(1) on a CPU
    positive = (logits > limit).long()
    return positive[:, 0] if head.task is TaskKind.binary else positive


class Confusion(Metric):
    """Counts of (target, prediction) pairs per scene.

    The state is int64 ``[S, P, K, K]``, rows the target: one plane of C x C for multiclass, one of 2 x 2 per label for
    binary and multilabel. Counts are summed over processes.

    Args:
        head: Task and classes.
        scenes: The number of scenes.
        threshold: As for `predicted_labels`.

    Example:
        >>> confusion = Confusion(Head(TaskKind.binary, ("building",)), scenes=1)
        >>> logits = torch.tensor([[[[2.0, -1.0, 3.0]]]])
        >>> confusion.update(logits, torch.tensor([[[1, 0, 255]]], dtype=torch.uint8), torch.tensor([0]))
        >>> confusion.compute().tolist()
        [[[[1, 0], [0, 1]]]]
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, head: Head, scenes: int, threshold: float | Tensor = 0.0) -> None:
        super().__init__()
        self.head, self.threshold = head, threshold
        planes = 1 if head.task is TaskKind.multiclass else head.channels
        shape = (scenes, planes, head.labels, head.labels)
        self.add_state("counts", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, target: Tensor, scene: Tensor) -> None:
        """Count a batch.

        Args:
            logits: ``[B, K, H, W]``.
            target: ``[B, H, W]`` or ``[B, L, H, W]``; `IGNORE` is not counted.
            scene: int64 ``[B]``.
        """
        _, planes, labels, _ = self.counts.shape
        shape = (len(logits), planes, *logits.shape[2:])
        predicted = predicted_labels(logits, self.head, self.threshold).reshape(shape)
        target = target.long().reshape(shape)
        plane = torch.arange(planes, device=logits.device)[:, None, None]
        cell = ((scene[:, None, None, None] * planes + plane) * labels + target) * labels + predicted
        cells = self.counts.numel()
        cell = torch.where(target == IGNORE, cells, cell)  # a bin more, cut off again
        self.counts += torch.bincount(cell.flatten(), minlength=cells + 1)[:cells].view_as(self.counts)

    def compute(self) -> Tensor:
        """The counts, int64 ``[S, P, K, K]``."""
        return self.counts
