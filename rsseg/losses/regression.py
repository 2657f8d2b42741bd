"""Losses of real values, as pure functions of prediction and target: a mean of some function of the error.

Prediction ``[B, C, H, W]`` and target ``[B, C, H, W]``, or ``[B, H, W]`` for one channel, are real numbers of any dtype;
the result is a float32 (float64 for a float64 prediction) scalar. Where the target is NaN or `nodata` nothing counts,
whatever the prediction there. Under DDP the mean is that of the global batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from rsseg.collective import global_ratio
from rsseg.contract import InputError


def mse(prediction: Tensor, target: Tensor, nodata: float | None = None) -> Tensor:
    """The mean of ``e^2``.

    Args:
        prediction: See `regression`.
        target: See `regression`.
        nodata: The value of the target that means "unknown", beside NaN.

    Raises:
        InputError: For shapes that do not fit.

    Example:
        >>> mse(torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[0.0, torch.nan]]]))
        tensor(1.)
    """
    error, known = errors(prediction, target, nodata)
    return _mean(error.square(), known)


def rmse(prediction: Tensor, target: Tensor, nodata: float | None = None) -> Tensor:
    """The root of `mse`, taken once over all; at 0 its gradient is 0.

    Args:
        prediction: See `regression`.
        target: See `regression`.
        nodata: As for `mse`.

    Example:
        >>> rmse(torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[0.0, 0.0]]]))
        tensor(3.5355)
    """
    mean = mse(prediction, target, nodata)
    some = mean > torch.finfo(mean.dtype).tiny
    return torch.where(some, torch.where(some, mean, torch.ones_like(mean)).sqrt(), torch.zeros_like(mean))


def mae(prediction: Tensor, target: Tensor, nodata: float | None = None) -> Tensor:
    """The mean of ``|e|``.

    Args:
        prediction: See `regression`.
        target: See `regression`.
        nodata: As for `mse`.

    Example:
        >>> mae(torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[0.0, -99.0]]]), nodata=-99)
        tensor(3.)
    """
    error, known = errors(prediction, target, nodata)
    return _mean(error.abs(), known)


def huber(prediction: Tensor, target: Tensor, delta: float = 1.0, nodata: float | None = None) -> Tensor:
    """The mean of ``e^2 / 2`` up to ``|e| = delta``, ``delta (|e| - delta / 2)`` beyond (Huber 1964).

    Args:
        prediction: See `regression`.
        target: See `regression`.
        delta: More than 0.
        nodata: As for `mse`.

    Example:
        >>> huber(torch.tensor([[[[3.0]]]]), torch.tensor([[[0.0]]]))
        tensor(2.5000)
    """
    error, known = errors(prediction, target, nodata)
    return _mean(F.huber_loss(error, torch.zeros_like(error), "none", delta), known)


def smooth_l1(prediction: Tensor, target: Tensor, beta: float = 1.0, nodata: float | None = None) -> Tensor:
    """`huber` divided by its delta, here called beta (Girshick 2015): beyond beta its slope is 1.

    Args:
        prediction: See `regression`.
        target: See `regression`.
        beta: More than 0.
        nodata: As for `mse`.

    Example:
        >>> smooth_l1(torch.tensor([[[[3.0]]]]), torch.tensor([[[0.0]]]), beta=2.0)
        tensor(2.)
    """
    error, known = errors(prediction, target, nodata)
    return _mean(F.smooth_l1_loss(error, torch.zeros_like(error), reduction="none", beta=beta), known)


def log_cosh(prediction: Tensor, target: Tensor, nodata: float | None = None) -> Tensor:
    """The mean of ``log cosh e``: about ``e^2 / 2`` when small, ``|e| - log 2`` when large.

    Args:
        prediction: See `regression`.
        target: See `regression`.
        nodata: As for `mse`.

    Example:
        >>> log_cosh(torch.tensor([[[[1e4]]]]), torch.tensor([[[0.0]]]))
        tensor(9999.3066)
    """
    error, known = errors(prediction, target, nodata)
    size = error.abs()
    return _mean(size + F.softplus(-2 * size) - math.log(2), known)


def errors(prediction: Tensor, target: Tensor, nodata: float | None) -> tuple[Tensor, Tensor]:
    """Prediction minus target, 0 where the target is unknown, and where it is known; both ``[B, C, H, W]``.

    Args:
        prediction: See `regression`.
        target: See `regression`.
        nodata: As for `mse`.

    Raises:
        InputError: For shapes that do not fit and complex numbers.
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
    zero = torch.zeros((), dtype=dtype, device=value.device)
    return torch.where(known, prediction.to(dtype), zero) - torch.where(known, value, zero), known


def _mean(loss: Tensor, known: Tensor) -> Tensor:
    return global_ratio(torch.where(known, loss, torch.zeros_like(loss)).sum(), known.sum())
