"""Terms of real-valued targets.

`delta` and `beta` have the unit of what the loss is given. Called from Python that is the target's; a run gives standardised
values, so that there they are standard deviations of the training targets.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from rsseg.contract import InputError
from rsseg.losses import regression
from rsseg.losses.checks import positive, share
from rsseg.losses.terms.term import Term


@dataclass(eq=False, repr=False)
class _Regression(Term):
    """The mean of a function of the error, see `regression.mean_error`; `nodata` is the target's value for "unknown"."""

    tasks = ("regression",)
    task: str = "regression"
    _: KW_ONLY
    nodata: float | None = None

    def of_error(self, error: Tensor) -> Tensor:
        """What is averaged."""
        return error.square()

    def of_mean(self, mean: Tensor) -> Tensor:
        """The loss of that mean."""
        return mean

    def formula(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        """See the class."""
        return self.of_mean(regression.mean_error(logits, target, self.of_error, self.nodata, weight))

    def parts(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the mean is a quotient of, ``[B]`` each: images are added up before it is taken."""
        errors, share = regression.weighted_errors(logits, target, self.of_error, self.nodata, weight)
        return errors.sum((1, 2, 3)), share.sum((1, 2, 3))


@dataclass(eq=False, repr=False)
class MSE(_Regression):
    """Mean squared error: large errors dominate, so outliers do.

    Example:
        >>> MSE()(torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[0.0, torch.nan]]]))
        tensor(1.)
    """


@dataclass(eq=False, repr=False)
class RMSE(_Regression):
    """Root of the mean squared error of the batch: in the target's unit, with the gradient's direction of `MSE`.

    Example:
        >>> RMSE()(torch.tensor([[[[3.0, 4.0]]]]), torch.zeros(1, 1, 2))
        tensor(3.5355)
    """

    def of_mean(self, mean: Tensor) -> Tensor:
        """The root."""
        return regression.root(mean)


@dataclass(eq=False, repr=False)
class MAE(_Regression):
    """Mean absolute error: fits the median, so outliers count little; its slope does not fade near 0.

    Example:
        >>> MAE(nodata=-99)(torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[0.0, -99.0]]]))
        tensor(3.)
    """

    def of_error(self, error: Tensor) -> Tensor:
        """See the class."""
        return error.abs()


@dataclass(eq=False, repr=False)
class Huber(_Regression):
    """Huber loss (Huber 1964): half the squared error up to delta, straight beyond with the slope delta.

    Args:
        delta: More than 0, in the unit of the errors.

    Example:
        >>> Huber(delta=2)(torch.tensor([[[[3.0]]]]), torch.zeros(1, 1, 1))
        tensor(4.)
    """

    rules = {"delta": positive}  # noqa: RUF012
    delta: float = 1.0

    def of_error(self, error: Tensor) -> Tensor:
        """See the class."""
        return F.huber_loss(error, torch.zeros_like(error), "none", self.delta)


@dataclass(eq=False, repr=False)
class SmoothL1(_Regression):
    """Smooth L1 (Girshick 2015): `Huber` divided by its delta, here called beta.

    Args:
        beta: More than 0, in the unit of the errors.

    Example:
        >>> SmoothL1(beta=2)(torch.tensor([[[[3.0]]]]), torch.zeros(1, 1, 1))
        tensor(2.)
    """

    rules = {"beta": positive}  # noqa: RUF012
    beta: float = 1.0

    def of_error(self, error: Tensor) -> Tensor:
        """See the class."""
        return F.smooth_l1_loss(error, torch.zeros_like(error), reduction="none", beta=self.beta)


@dataclass(eq=False, repr=False)
class LogCosh(_Regression):
    """The mean of ``log cosh e``: like `Huber` with delta 1, but smooth everywhere.

    Example:
        >>> LogCosh()(torch.tensor([[[[1e4]]]]), torch.zeros(1, 1, 1))
        tensor(9999.3066)
    """

    def of_error(self, error: Tensor) -> Tensor:
        """``|e| + log(1 + exp(-2 |e|)) - log 2``, which does not overflow."""
        size = error.abs()
        return size + F.softplus(-2 * size) - math.log(2)


@dataclass(eq=False, repr=False)
class BerHu(_Regression):
    """Reverse Huber loss (Owen 2007): the absolute error up to delta, ``(e^2 + delta^2) / (2 delta)`` beyond.

    Small errors keep a slope of 1, large ones weigh as in `MSE`; used for depth by Laina et al. (2016), who take a fifth of a
    batch's largest error for delta. Here it is fixed, so that the loss of a batch is not a matter of one pixel.

    Args:
        delta: More than 0, in the unit of the errors.

    Example:
        >>> BerHu(delta=1)(torch.tensor([[[[0.5, 3.0]]]]), torch.zeros(1, 1, 2))  # (0.5 + 5) / 2
        tensor(2.7500)
    """

    rules = {"delta": positive}  # noqa: RUF012
    delta: float = 1.0

    def of_error(self, error: Tensor) -> Tensor:
        """See the class."""
        size = error.abs()
        return torch.where(size <= self.delta, size, (error.square() + self.delta**2) / (2 * self.delta))


@dataclass(eq=False, repr=False)
class Pinball(_Regression):
    """Pinball loss (Koenker & Bassett 1978), which fits a quantile: ``q`` times what is predicted too low, ``1 - q`` too high.

    Args:
        quantile: q, above 0 and below 1; 0.5 is half of `MAE` and fits the median.

    Example:
        >>> Pinball(quantile=0.9)(torch.tensor([[[[1.0, 3.0]]]]), torch.full((1, 1, 2), 2.0))  # (0.9 + 0.1) / 2
        tensor(0.5000)
    """

    rules = {"quantile": share}  # noqa: RUF012
    quantile: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.quantile == 1:
            raise InputError("quantile has to be less than 1: the highest value has no pinball loss; found 1")

    def of_error(self, error: Tensor) -> Tensor:
        """See the class."""
        return (1 - self.quantile) * error.relu() + self.quantile * (-error).relu()
