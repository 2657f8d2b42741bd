"""Terms for real-valued targets: means of a function of the error over the global batch.

`delta` and `beta` have the unit of the loss's inputs. In Python code that is the unit of the target; in a run, targets are
standardised, so that the unit is the standard deviation of the training targets.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from rsseg.collective import global_ratio
from rsseg.losses.checks import positive
from rsseg.losses.pieces import pixel_share, wide
from rsseg.losses.terms.base import Term


class Quotient(Term):
    """Base class of functions of a quotient of two sums over the global batch; `SplitLosses` adds them up over batches."""

    def parts(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        """The numerator and the denominator, ``[B]`` each."""
        raise NotImplementedError

    def of_mean(self, mean: Tensor) -> Tensor:
        """The loss from the quotient."""
        return mean

    def formula(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        cost, share = self.parts(logits, target, weight)
        return self.of_mean(global_ratio(cost.sum(), share.sum()))


def weighted_errors(
    prediction: Tensor,
    target: Tensor,
    function: Callable[[Tensor], Tensor],
    nodata: float | None = None,
    weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Sums over each image, ``[B]`` each: of the weighted function of prediction minus target, and of the weight.

    Sums are float32 or float64. Pixels whose target is NaN or `nodata` do not count, whatever the prediction. Prediction and
    target are ``[B, C, H, W]``; the target may have any dtype, and for one channel also the shape ``[B, H, W]``.
    """
    value = target.view_as(prediction).to(wide(prediction))
    known = ~value.isnan()
    if nodata is not None:
        known = known & (target.view_as(prediction) != nodata)
    share = pixel_share(known, weight, value.dtype)
    unknown = share == 0
    error = prediction.to(value.dtype).masked_fill(unknown, 0) - value.masked_fill(unknown, 0)
    errors = function(error).masked_fill(unknown, 0) * share
    return errors.sum((1, 2, 3)), share.sum((1, 2, 3))


def smooth_l1(error: Tensor, beta: float) -> Tensor:
    """``e^2 / (2 beta)`` for errors up to beta, ``|e| - beta / 2`` beyond."""
    return F.smooth_l1_loss(error, torch.zeros_like(error), reduction="none", beta=beta)


class _Regression(Quotient):
    """The mean of a function of the error; `nodata` is a target value that means unknown, as NaN does."""

    tasks = ("regression",)
    task: str = "regression"
    _: KW_ONLY
    nodata: float | None = None

    def of_error(self, error: Tensor) -> Tensor:
        """The function of the error that is averaged."""
        return error.square()

    def parts(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        return weighted_errors(logits, target, self.of_error, self.nodata, weight)


class MSE(_Regression):
    """Mean squared error, which is dominated by large errors, such as outliers.

    Example:
        >>> MSE()(torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[0.0, torch.nan]]]))
        tensor(1.)
    """


class RMSE(_Regression):
    """Root mean squared error of the batch: in the target's unit, with a gradient in the direction of `MSE`'s, 0 at 0.

    Example:
        >>> RMSE()(torch.tensor([[[[3.0, 4.0]]]]), torch.zeros(1, 1, 2))
        tensor(3.5355)
    """

    def of_mean(self, mean: Tensor) -> Tensor:
        none = mean <= torch.finfo(mean.dtype).tiny  # NaN is not: a diverged model has no loss
        return torch.where(none, 0, torch.where(none, 1, mean).sqrt())


class MAE(_Regression):
    """Mean absolute error: fits the median and is robust to outliers; its slope is 1 also near 0.

    Example:
        >>> MAE(nodata=-99)(torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[0.0, -99.0]]]))
        tensor(3.)
    """

    def of_error(self, error: Tensor) -> Tensor:
        return error.abs()


class Huber(_Regression):
    """Huber loss (Huber 1964): half the squared error up to `delta`, more than 0, linear with slope delta beyond.

    Example:
        >>> Huber(delta=2)(torch.tensor([[[[3.0]]]]), torch.zeros(1, 1, 1))
        tensor(4.)
    """

    rules = {"delta": positive}
    delta: float = 1.0

    def of_error(self, error: Tensor) -> Tensor:
        return F.huber_loss(error, torch.zeros_like(error), "none", self.delta)


class SmoothL1(_Regression):
    """Smooth L1 (Girshick 2015): `Huber` divided by its delta, here called `beta`.

    Example:
        >>> SmoothL1(beta=2)(torch.tensor([[[[3.0]]]]), torch.zeros(1, 1, 1))
        tensor(2.)
    """

    rules = {"beta": positive}
    beta: float = 1.0

    def of_error(self, error: Tensor) -> Tensor:
        return smooth_l1(error, self.beta)


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


class BerHu(_Regression):
    """Reverse Huber loss (Owen 2007): the absolute error up to `delta`, more than 0, ``(e^2 + delta^2) / (2 delta)`` beyond.

    Small errors have a slope of 1, large ones count as in `MSE`. Laina et al. (2016) set delta to a fifth of a batch's largest
    error; here it is fixed, so that the loss does not depend on a single pixel.

    Example:
        >>> BerHu(delta=1)(torch.tensor([[[[0.5, 3.0]]]]), torch.zeros(1, 1, 2))  # (0.5 + 5) / 2
        tensor(2.7500)
    """

    rules = {"delta": positive}
    delta: float = 1.0

    def of_error(self, error: Tensor) -> Tensor:
        size = error.abs()
        return torch.where(size <= self.delta, size, (error.square() + self.delta**2) / (2 * self.delta))


class Pinball(_Regression):
    """Pinball loss (Koenker & Bassett 1978), which fits a quantile q: too low predictions have weight q, too high ones 1 - q.

    `quantile` is q, above 0 and up to 0.999. With 0.5 the loss is half of `MAE` and fits the median.

    Example:
        >>> Pinball(quantile=0.9)(torch.tensor([[[[1.0, 3.0]]]]), torch.full((1, 1, 2), 2.0))  # (0.9 + 0.1) / 2
        tensor(0.5000)
    """

    rules = {"quantile": partial(positive, high=0.999)}
    quantile: float = 0.5

    def of_error(self, error: Tensor) -> Tensor:
        return (1 - self.quantile) * error.relu() + self.quantile * (-error).relu()
