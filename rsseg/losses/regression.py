"""Losses of real values: a mean of some function of the error over the pixels whose value is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from rsseg.collective import global_ratio
from rsseg.losses.checks import check_weight
from rsseg.task import Regression


def mean_error(
    prediction: Tensor,
    target: Tensor,
    function: Callable[[Tensor], Tensor],
    nodata: float | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """The weighted mean of a function of prediction minus target, of the global batch, in float32 or better.

    Where the target is NaN or `nodata` nothing counts, whatever the prediction there; 0 where nothing is known.

    Args:
        prediction: Real numbers ``[B, C, H, W]``, any floating dtype.
        target: Real numbers, likewise or ``[B, H, W]`` for one channel, any dtype.
        function: Of the errors, element by element.
        nodata: The value of the target that means "unknown", beside NaN.
        weight: ``[B, H, W]``, what each pixel counts for; None: 1.

    Raises:
        InputError: For shapes that do not fit, complex numbers and booleans.

    Example:
        >>> mean_error(torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[0.0, torch.nan]]]), torch.square)
        tensor(1.)
    """
    errors, share = weighted_errors(prediction, target, function, nodata, weight)
    return global_ratio(errors.sum(), share.sum())


def weighted_errors(
    prediction: Tensor,
    target: Tensor,
    function: Callable[[Tensor], Tensor],
    nodata: float | None = None,
    weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """A function of each error times its weight, and the weight, ``[B, C, H, W]`` each: see `mean_error`."""
    Regression.check_shapes(prediction, target)
    check_weight(prediction, weight)
    target = target.view_as(prediction)
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    value = target.to(dtype)
    known = ~value.isnan() if nodata is None or math.isnan(nodata) else ~value.isnan() & (target != nodata)
    share = known.to(dtype)
    if weight is not None:
        share = torch.where(known & (weight > 0).unsqueeze(1), weight.unsqueeze(1).to(dtype), torch.zeros_like(share))
        known = share > 0
    error = prediction.to(dtype).masked_fill(~known, 0) - value.masked_fill(~known, 0)
    return function(error).masked_fill(~known, 0) * share, share


def root(mean: Tensor) -> Tensor:
    """The square root, with a gradient of 0 at 0.

    Args:
        mean: A number of 0 or more.
    """
    some = mean > torch.finfo(mean.dtype).tiny
    return torch.where(some, torch.where(some, mean, torch.ones_like(mean)).sqrt(), torch.zeros_like(mean))
