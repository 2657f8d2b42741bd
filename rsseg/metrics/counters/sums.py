"""Sums per scene on the device: confusion matrices of labels, errors of real values."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from rsseg.metrics.errors import SUMS
from rsseg.metrics.pixels import count_pairs, sum_errors
from rsseg.task import Task


class SceneCounts(Metric):
    """Base class of counts per scene ``[S, ...]``, which are summed over processes."""

    full_state_update = False
    counts: Tensor

    def __init__(self, task: Task, shape: tuple[int, ...], dtype: torch.dtype = torch.int64) -> None:
        super().__init__()
        self.task = task
        self.add_state("counts", torch.zeros(shape, dtype=dtype), dist_reduce_fx="sum")

    def compute(self) -> Tensor:
        """The counts."""
        return self.counts


class Confusion(SceneCounts):
    """Counter of (target, prediction) pairs ``[S, P, K, K]``, see `count_pairs`.

    The threshold is as for `Task.predict`, ``[K]``, or one for each scene, ``[S, K]``.

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
        """Count a batch. `scene`, int64 ``[B]``, are the scenes' numbers; `corner` is not used.

        Logits are ``[B, K, H, W]``; targets are labels ``[B, H, W]`` or ``[B, L, H, W]``, or shares, which count by their
        `Task.hard_labels`; `IGNORE` does not count.
        """
        own = self.threshold
        if own is not None and own.ndim == 2:
            own = own.to(scene.device)[scene]
        predicted = self.task.predict(logits, own)
        self.counts += count_pairs(predicted, target, scene, len(self.counts), self.task)


class ErrorSums(SceneCounts):
    """Counter of `SUMS`, in the target's unit, float64 ``[S, V, 6]``."""

    def __init__(self, task: Task, scenes: int) -> None:
        super().__init__(task, (scenes, task.channels, len(SUMS)), torch.float64)

    def update(self, logits: Tensor, target: Tensor, scene: Tensor, corner: Tensor | None = None) -> None:
        """Add a batch; arguments are as for `Confusion`, but the target is standardised as for the loss; NaN does not count."""
        self.counts.index_add_(0, scene, sum_errors(self.task.predict(logits), self.task.predict(target)))
