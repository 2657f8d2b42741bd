"""Loss terms of real values, for heads of the task `regression`. See `regression` for shapes and for what is ignored.

They take raw values, not logits, and `nodata`, the target's value for "unknown" beside NaN, in place of an ignored label.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rsseg.losses import regression as R
from rsseg.losses.arguments import positive
from rsseg.losses.terms import Term
from rsseg.task import TASKS

REGRESSION = tuple(kind for kind, task in TASKS.items() if task.real)


@dataclass(eq=False, repr=False)
class MSE(Term):
    """Mean squared error: large errors dominate, so outliers do.

    Args:
        task: `regression`.
        nodata: The target's value for "unknown", beside NaN.

    Example:
        >>> import torch
        >>> MSE()(torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[0.0, torch.nan]]]))
        tensor(1.)
    """

    tasks = REGRESSION
    task: str = "regression"
    nodata: float | None = None

    def formula(self, logits: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        return R.mse(logits, target, self.nodata)


@dataclass(eq=False, repr=False)
class RMSE(Term):
    """Root of the mean squared error of the batch: in the target's unit, with the gradient's direction of `MSE`.

    Args:
        task: `regression`.
        nodata: As for `MSE`.

    Example:
        >>> import torch
        >>> RMSE()(torch.tensor([[[[3.0, 4.0]]]]), torch.zeros(1, 1, 2))
        tensor(3.5355)
    """

    tasks = REGRESSION
    task: str = "regression"
    nodata: float | None = None

    def formula(self, logits: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        return R.rmse(logits, target, self.nodata)


@dataclass(eq=False, repr=False)
class MAE(Term):
    """Mean absolute error: fits the median, so outliers count little; its slope does not fade near 0.

    Args:
        task: `regression`.
        nodata: As for `MSE`.

    Example:
        >>> import torch
        >>> MAE(nodata=-99)(torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[0.0, -99.0]]]))
        tensor(3.)
    """

    tasks = REGRESSION
    task: str = "regression"
    nodata: float | None = None

    def formula(self, logits: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        return R.mae(logits, target, self.nodata)


@dataclass(eq=False, repr=False)
class Huber(Term):
    """Huber loss (Huber 1964): half the squared error up to delta, straight beyond with the slope delta.

    Args:
        task: `regression`.
        delta: More than 0, in the target's unit.
        nodata: As for `MSE`.

    Example:
        >>> import torch
        >>> Huber(delta=2)(torch.tensor([[[[3.0]]]]), torch.zeros(1, 1, 1))
        tensor(4.)
    """

    tasks = REGRESSION
    task: str = "regression"
    delta: float = 1.0
    nodata: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.delta = positive("delta", self.delta)

    def formula(self, logits: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        return R.huber(logits, target, self.delta, self.nodata)


@dataclass(eq=False, repr=False)
class SmoothL1(Term):
    """Smooth L1 (Girshick 2015): `Huber` divided by its delta, here called beta.

    Args:
        task: `regression`.
        beta: More than 0, in the target's unit.
        nodata: As for `MSE`.

    Example:
        >>> import torch
        >>> SmoothL1(beta=2)(torch.tensor([[[[3.0]]]]), torch.zeros(1, 1, 1))
        tensor(2.)
    """

    tasks = REGRESSION
    task: str = "regression"
    beta: float = 1.0
    nodata: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.beta = positive("beta", self.beta)

    def formula(self, logits: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        return R.smooth_l1(logits, target, self.beta, self.nodata)


@dataclass(eq=False, repr=False)
class LogCosh(Term):
    """The mean of ``log cosh e``: like `Huber` with delta 1, but smooth everywhere.

    Args:
        task: `regression`.
        nodata: As for `MSE`.

    Example:
        >>> import torch
        >>> LogCosh()(torch.tensor([[[[1e4]]]]), torch.zeros(1, 1, 1))
        tensor(9999.3066)
    """

    tasks = REGRESSION
    task: str = "regression"
    nodata: float | None = None

    def formula(self, logits: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        return R.log_cosh(logits, target, self.nodata)
