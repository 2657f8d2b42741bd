"""The task whose target holds real values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from rsseg.contract import IGNORE, InputError, known
from rsseg.task.task import Task, per_plane

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Regression(Task):
    """Real values instead of labels: a target plane for each of the values that `classes` names, NaN where unknown.

    In the loss, targets and logits are standardised by the mean and standard deviation of the training split. Predictions,
    scores and maps have the target's unit.

    Example:
        >>> import torch
        >>> height = Regression(("height",), units=("m",)).scaled([10.0], [5.0])
        >>> height.standardise(torch.tensor([[[[20.0]]]])).item(), height.predict(torch.tensor([[[[2.0]]]])).item()
        (2.0, 20.0)
    """

    kind = "regression"
    separate = True
    real = True
    subject = "regression"
    scores: ClassVar[tuple[str, ...]] = ("rmse", "mae", "r2", "bias", "scene_rmse")
    class_scores: ClassVar[tuple[str, ...]] = ("rmse", "mae")
    score = "rmse"
    score_name = "RMSE"
    higher_is_better = False
    counted = "errors"
    score_of = "value"
    losses = "huber, mse or mae"

    units: tuple[str, ...] = ()  # of each value, for people; empty: not known
    mean: tuple[float, ...] = ()  # of each value in the training split; empty: logits are values
    std: tuple[float, ...] = ()  # likewise

    @property
    def value_names(self) -> tuple[str, ...]:
        return self.classes

    def values(self, target: NDArray[np.generic]) -> list[NDArray[np.generic]]:
        return [plane[known(plane)] for plane in target]

    def faults(self, mask_values: Sequence[Any] | None = None, palette: Sequence[str] | None = None) -> list[str]:
        found = super().faults()
        given = {"mask_values": mask_values, "palette": palette}
        for name, value in given.items():
            if value is not None:
                found.append(f"dataset.{name}: masks of a regression hold real values, no labels; set dataset.{name}=null")
        if self.units and len(self.units) != self.channels:
            found.append(f"dataset.units lists {len(self.units)} units, but dataset.classes names {self.channels} values")
        return found

    def scaled(self, mean: Sequence[float], std: Sequence[float]) -> Self:
        return replace(self, mean=tuple(mean), std=tuple(std))

    def standardise(self, target: Tensor) -> Tensor:
        return (target - per_plane(self.mean, target)) / per_plane(self.std, target) if self.mean else target

    @classmethod
    def _largest_share(cls, target: Any) -> tuple[Any, Any]:
        there = target == target
        return there * 1, ~there

    @classmethod
    def check_shapes(cls, logits: Tensor, target: Tensor) -> None:
        """See `Task`; a target holds real numbers of any dtype; with a single value it may lack the channel dimension."""
        shape, found = list(logits.shape), list(target.shape)
        if not logits.is_floating_point() or len(shape) != 4:
            raise InputError(f"a regression loss needs a floating-point prediction [B, C, H, W]; found {logits.dtype} {shape}")
        if target.is_complex() or str(target.dtype) == "torch.bool":
            raise InputError(f"a regression target holds real numbers; found {target.dtype}")
        one = shape[1] == 1
        if found != shape and not (one and found == [shape[0], *shape[2:]]):
            raise InputError(
                f"a regression target for a prediction {shape} has the same shape"
                f"{' or lacks its dimension of 1' if one else ''}; found {found}"
            )

    @classmethod
    def check_values(cls, logits: Tensor, target: Tensor, ignore_index: int = IGNORE) -> None:  # noqa: ARG003
        cls.check_shapes(logits, target)

    def predict(self, logits: Tensor, threshold: Tensor | None = None) -> Tensor:
        return logits * per_plane(self.std, logits) + per_plane(self.mean, logits) if self.mean else logits
