"""Sums of the errors of real values, per scene."""

from __future__ import annotations

import torch
import torchmetrics
from torch import Tensor

from rsseg.contract import known
from rsseg.metrics.errors import SUMS
from rsseg.task import Task


class ErrorSums(torchmetrics.Metric):
    """`SUMS` per scene, in the target's unit.

    The state is float64 ``[S, V, 6]``, summed over processes.

    Args:
        task: The head's task, a regression.
        scenes: The number of scenes.

    Example:
        >>> from rsseg.task import Regression
        >>> sums = ErrorSums(Regression(("height",)), scenes=1)
        >>> sums.update(torch.tensor([[[[3.0, 9.0]]]]), torch.tensor([[[[1.0, torch.nan]]]]), torch.tensor([0]))
        >>> sums.compute().tolist()
        [[[1.0, 2.0, 2.0, 4.0, 1.0, 1.0]]]
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, task: Task, scenes: int) -> None:
        super().__init__()
        self.task = task
        shape = (scenes, task.channels, len(SUMS))
        self.add_state("counts", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, target: Tensor, scene: Tensor, corner: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            logits: ``[B, V, H, W]``.
            target: Likewise, standardised as the loss sees it; NaN is not counted.
            scene: int64 ``[B]``.
            corner: Where windows lie in their scenes, which does not matter here.
        """
        there = known(target)
        value = self.task.predict(target).double().masked_fill(~there, 0)
        error = self.task.predict(logits).double().masked_fill(~there, 0) - value
        parts = (there.double(), error, error.abs(), error.square(), value, value.square())
        self.counts.index_add_(0, scene, torch.stack([part.sum((2, 3)) for part in parts], dim=-1))

    def compute(self) -> Tensor:
        """The sums, float64 ``[S, V, 6]``."""
        return self.counts
