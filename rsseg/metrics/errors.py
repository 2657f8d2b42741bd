"""Errors of real values: sums per scene, accumulated on the device, and the scores that they give."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from rsseg.contract import known
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


def rmse(sums: Tensor) -> Tensor:
    """The root of the mean squared error, of sums ``[..., 6]``; NaN where nothing is known."""
    return (sums[..., 3] / sums[..., 0]).sqrt()


def mae(sums: Tensor) -> Tensor:
    """The mean absolute error, likewise."""
    return sums[..., 2] / sums[..., 0]


def bias(sums: Tensor) -> Tensor:
    """The mean error, likewise."""
    return sums[..., 1] / sums[..., 0]


def r2(sums: Tensor) -> Tensor:
    """The coefficient of determination, the share of the target's variance that is predicted; NaN for a constant target."""
    varies = sums[..., 5] - sums[..., 4].square() / sums[..., 0]
    return torch.where(varies > 1e-12 * sums[..., 5], 1 - sums[..., 3] / varies, torch.nan)


@dataclass(frozen=True)
class ErrorScores:
    """The scores of a split.

    Attributes:
        rmse: Pooled over the dataset, the mean over the values that are known somewhere.
        mae: Likewise.
        r2: Likewise.
        bias: Likewise.
        scene_rmse: RMSE per scene, mean over the values known in it, then mean over scenes.
        classes: The values' names.
        sums: float64 ``[V, 6]``, `SUMS` of all scenes.
    """

    rmse: float
    mae: float
    r2: float
    bias: float
    scene_rmse: float
    classes: tuple[str, ...]
    sums: Tensor

    def means(self) -> dict[str, float]:
        """The scalar scores by name."""
        return {name: getattr(self, name) for name in ("rmse", "mae", "r2", "bias", "scene_rmse")}

    def logged(self, monitored: Iterable[str] = ()) -> dict[str, float]:
        """What a validation logs: the means, and RMSE and MAE of each value; callbacks monitor nothing beside."""
        by_class = {"rmse": rmse(self.sums).tolist(), "mae": mae(self.sums).tolist()}
        each = {
            f"{name}/{label}": value for name, all_ in by_class.items() for label, value in zip(self.classes, all_, strict=True)
        }
        return self.means() | each

    def table(self) -> list[dict[str, Any]]:
        """One row per value and one, its class empty, for the mean over the values."""
        found = {name: score(self.sums).tolist() for name, score in (("rmse", rmse), ("mae", mae), ("r2", r2), ("bias", bias))}
        pixels = self.sums[:, 0].long().tolist()
        rows: list[dict[str, Any]] = []
        for i, name in enumerate(self.classes):
            rows.append({"class": name, **{score: values[i] for score, values in found.items()}, "pixels": pixels[i]})
        return [*rows, {"class": "", **{score: getattr(self, score) for score in found}, "pixels": sum(pixels)}]


def error_scores(sums: Tensor, task: Task) -> ErrorScores:
    """Score the sums of all scenes.

    Args:
        sums: float64 ``[S, V, 6]``.
        task: The head's task.

    Example:
        >>> from rsseg.task import Regression
        >>> error_scores(torch.tensor([[[2.0, 0.0, 6.0, 18.0, 4.0, 10.0]]]), Regression(("height",))).rmse
        3.0
    """
    pooled = sums.sum(dim=0)
    return ErrorScores(
        **{score.__name__: float(score(pooled).nanmean()) for score in (rmse, mae, r2, bias)},
        scene_rmse=float(rmse(sums).nanmean(dim=-1).nanmean()),
        classes=task.classes,
        sums=pooled,
    )
