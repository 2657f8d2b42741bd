"""Errors of real values: sums per scene, accumulated on the device, and the scores that they give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from rsseg.contract import known
from rsseg.metrics.average import Array, present_mean, ratio
from rsseg.task import Task

SUMS = ("count", "error", "absolute", "squared", "value", "value_squared")
"""What is summed over the pixels whose value is known: 1, e, ``|e|``, ``e^2``, y and ``y^2``, e being prediction minus y."""


class ErrorSums(Metric):
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
    threshold = None

    def __init__(self, task: Task, scenes: int) -> None:
        super().__init__()
        self.task = task
        shape = (scenes, task.channels, len(SUMS))
        self.add_state("counts", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, target: Tensor, scene: Tensor) -> None:
        """Add a batch.

        Args:
            logits: ``[B, V, H, W]``.
            target: Likewise, standardised as the loss sees it; NaN is not counted.
            scene: int64 ``[B]``.
        """
        there = known(target)
        value = self.task.predict(target).double().masked_fill(~there, 0)
        error = self.task.predict(logits).double().masked_fill(~there, 0) - value
        parts = (there.double(), error, error.abs(), error.square(), value, value.square())
        self.counts.index_add_(0, scene, torch.stack([part.sum((2, 3)) for part in parts], dim=-1))

    def compute(self) -> Tensor:
        """The sums, float64 ``[S, V, 6]``."""
        return self.counts


def rmse(sums: Array) -> Array:
    """The root of the mean squared error, of sums ``[..., 6]``; NaN where nothing is known."""
    return np.sqrt(ratio(sums[..., 3], sums[..., 0]))


def mae(sums: Array) -> Array:
    """The mean absolute error, likewise."""
    return ratio(sums[..., 2], sums[..., 0])


def bias(sums: Array) -> Array:
    """The mean error, likewise."""
    return ratio(sums[..., 1], sums[..., 0])


def r2(sums: Array) -> Array:
    """The coefficient of determination, the share of the target's variance that is predicted; NaN for a constant target."""
    squares = sums[..., 5]
    varies = squares - ratio(sums[..., 4] ** 2, sums[..., 0])
    return 1 - ratio(sums[..., 3], np.where(varies > 1e-12 * squares, varies, 0))


ERRORS = {"rmse": rmse, "mae": mae, "r2": r2, "bias": bias}
"""The scores that every value has, by name."""


@dataclass(frozen=True)
class ErrorScores:
    """The scores of a split.

    Attributes:
        sums: float64 ``[S, V, 6]``, `SUMS` of each scene.
        classes: The values' names.
    """

    sums: Array
    classes: tuple[str, ...]

    def means(self) -> dict[str, float]:
        """Of `ERRORS`, pooled over scenes, the means over the values that are known somewhere.

        ``scene_rmse`` is the RMSE of each scene, mean over the values known in it, then over scenes.
        """
        pooled = {name: float(present_mean(score(self.sums.sum(0)))) for name, score in ERRORS.items()}
        return pooled | {"scene_rmse": float(present_mean(present_mean(rmse(self.sums))))}

    def by_class(self) -> dict[str, Array]:
        """Scores of each value, ``[V]``, by name."""
        pooled = self.sums.sum(0)
        return {"rmse": rmse(pooled), "mae": mae(pooled)}

    def table(self) -> list[dict[str, Any]]:
        """One row per value and one, its class empty, for the mean over the values."""
        pooled, means = self.sums.sum(0), self.means()
        pixels = pooled[:, 0].astype(int).tolist()
        rows: list[dict[str, Any]] = []
        for i, name in enumerate(self.classes):
            rows.append({"class": name, **{key: float(score(pooled[i])) for key, score in ERRORS.items()}, "pixels": pixels[i]})
        return [*rows, {"class": "", **{key: means[key] for key in ERRORS}, "pixels": sum(pixels)}]


def error_scores(sums: Tensor, task: Task) -> ErrorScores:
    """Score the sums of all scenes.

    Args:
        sums: float64 ``[S, V, 6]``.
        task: The head's task.

    Example:
        >>> from rsseg.task import Regression
        >>> sums = torch.tensor([[[2.0, 0.0, 6.0, 18.0, 4.0, 10.0]]], dtype=torch.float64)
        >>> error_scores(sums, Regression(("height",))).means()["rmse"]
        3.0
    """
    return ErrorScores(sums.cpu().numpy(), task.classes)
