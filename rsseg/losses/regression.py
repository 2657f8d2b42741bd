"""Losses of real values: a mean of some function of the error over the pixels whose value is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from rsseg.collective import global_ratio
from rsseg.contract import InputError


def mean_error(prediction: Tensor, target: Tensor, function: Callable[[Tensor], Tensor], nodata: float | None = None) -> Tensor:
    """The mean of a function of prediction minus target, of the global batch; float32, float64 for a float64 prediction.

    Where the target is NaN or `nodata` nothing counts, whatever the prediction there; 0 where nothing is known.

    Args:
        prediction: Real numbers ``[B, C, H, W]``, any floating dtype.
        target: Real numbers, likewise or ``[B, H, W]`` for one channel, any dtype.
        function: Of the errors, element by element.
        nodata: The value of the target that means "unknown", beside NaN.

    Raises:
        InputError: For shapes that do not fit, complex numbers and booleans.

    Example:
        >>> mean_error(torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[0.0, torch.nan]]]), torch.square)
        tensor(1.)
    """
    if not prediction.is_floating_point() or prediction.ndim != 4:
        raise InputError(
            "a regression loss needs a floating-point prediction [B, C, H, W]; "
            f"found {prediction.dtype} {list(prediction.shape)}"
        )
    if target.is_complex() or target.dtype == torch.bool:
        raise InputError(f"a regression target holds real numbers; found {target.dtype}")
    if target.ndim == 3 and prediction.shape[1] == 1:
        target = target.unsqueeze(1)
    if target.shape != prediction.shape:
        raise InputError(
            f"a regression target for a prediction {list(prediction.shape)} has the same shape"
            f"{' or lacks its dimension of 1' if prediction.shape[1] == 1 else ''}; found {list(target.shape)}"
        )
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    value = target.to(dtype)
    known = ~value.isnan() if nodata is None or math.isnan(nodata) else ~value.isnan() & (target != nodata)
    error = prediction.to(dtype).masked_fill(~known, 0) - value.masked_fill(~known, 0)
    return global_ratio(function(error).masked_fill(~known, 0).sum(), known.sum())


def root(mean: Tensor) -> Tensor:
    """The square root, with a gradient of 0 at 0.

    Args:
        mean: A number of 0 or more.
    """
    some = mean > torch.finfo(mean.dtype).tiny
    return torch.where(some, torch.where(some, mean, torch.ones_like(mean)).sqrt(), torch.zeros_like(mean))
