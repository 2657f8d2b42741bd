"""Losses that are a mean over pixels: cross-entropy and focal, as functions of `statistics`."""

from __future__ import annotations

from torch import Tensor

from rsseg.losses.average import mean_of_ratios
from rsseg.losses.statistics import Over, Statistics
from rsseg.losses.sums import COUNT, NLL, SPREAD, Sum
from rsseg.losses.target import per_class


def cross_entropy(
    found: Statistics, class_weights: Tensor | None = None, label_smoothing: float = 0.0, over: Over = "batch"
) -> Tensor:
    """Multiclass softmax cross-entropy, ``sum w_t (-log p_t) / sum w_t``.

    Label smoothing e replaces ``-w_t log p_t`` by ``(1 - e)`` of it plus ``e / C`` of the weighted sum over classes,
    divided by the same ``sum w_t``: what `torch.nn.functional.cross_entropy` computes.

    Args:
        found: ``nll`` and, for label smoothing, ``spread``.
        class_weights: ``[C]``, not negative.
        label_smoothing: Between 0 and 1.
        over: `batch`, or `image` for the mean of the images' losses.

    Example:
        >>> import torch
        >>> from rsseg.losses.statistics import statistics
        >>> needs = [(NLL, "batch")]
        >>> cross_entropy(statistics(torch.zeros(1, 4, 2, 2), torch.ones(1, 2, 2).byte(), "multiclass", needs))
        tensor(1.3863)
    """
    present, nll = found[COUNT, over][0], found[NLL, over][0]
    w = _weights(class_weights, nll, "class_weights")
    top = (nll * w).sum(1)
    if label_smoothing > 0:
        top = (1 - label_smoothing) * top + label_smoothing / nll.shape[1] * (found[SPREAD, over][0] * w).sum(1)
    return mean_of_ratios(top, (present * w).sum(1), over)


def binary_cross_entropy(
    found: Statistics, pos_weight: Tensor | None = None, label_smoothing: float = 0.0, over: Over = "batch"
) -> Tensor:
    """Sigmoid cross-entropy, the mean of ``-(w y log p + (1 - y) log(1 - p))`` over the valid entries.

    Label smoothing e moves the labels to ``y (1 - e) + e / 2``, as for a softmax over the two classes.

    Args:
        found: ``nll`` and, for label smoothing, ``spread``.
        pos_weight: The weight w of positive entries, ``[L]`` or one number for all labels.
        label_smoothing: Between 0 and 1.
        over: `batch`, or `image` for the mean of the images' losses.

    Example:
        >>> import torch
        >>> from rsseg.losses.statistics import statistics
        >>> needs = [(NLL, "batch")]
        >>> binary_cross_entropy(statistics(torch.zeros(1, 1, 2, 2), torch.ones(1, 2, 2).byte(), "binary", needs))
        tensor(0.6931)
    """
    nll = found[NLL, over]
    w = _weights(pos_weight, nll, "pos_weight")
    top = (nll[0] * w + nll[1]).sum(1)
    if label_smoothing > 0:
        spread = found[SPREAD, over]
        top = (1 - label_smoothing) * top + label_smoothing / 2 * (spread[0] * w + spread[1]).sum(1)
    return mean_of_ratios(top, found[COUNT, over].sum((0, 2)), over)


def focal(found: Statistics, gamma: float = 2.0, alpha: Tensor | None = None, over: Over = "batch") -> Tensor:
    """Multiclass focal loss, the mean of ``-alpha_t (1 - p_t)^gamma log p_t`` over the valid pixels, p by softmax.

    Args:
        found: ``Sum("focal", gamma)``.
        gamma: 0 or more; 0 is cross-entropy.
        alpha: ``[C]``.
        over: `batch`, or `image` for the mean of the images' losses.

    Example:
        >>> import torch
        >>> from rsseg.losses.statistics import statistics
        >>> needs = [(Sum("focal", 2.0), "batch")]
        >>> focal(statistics(torch.zeros(1, 2, 1, 1), torch.ones(1, 1, 1).byte(), "multiclass", needs))  # 0.25 log 2
        tensor(0.1733)
    """
    value = found[Sum("focal", gamma), over][0]
    return mean_of_ratios((value * _weights(alpha, value, "alpha")).sum(1), found[COUNT, over][0].sum(1), over)


def binary_focal(found: Statistics, gamma: float = 2.0, alpha: float | None = None, over: Over = "batch") -> Tensor:
    """Sigmoid focal loss, the mean of ``-alpha_t (1 - p_t)^gamma log p_t`` over the valid entries.

    Args:
        found: ``Sum("focal", gamma)``.
        gamma: 0 or more; 0 is cross-entropy.
        alpha: For positives; negatives get ``1 - alpha``. None: 1 for both.
        over: `batch`, or `image` for the mean of the images' losses.

    Example:
        >>> import torch
        >>> from rsseg.losses.statistics import statistics
        >>> needs = [(Sum("focal", 2.0), "batch")]
        >>> binary_focal(statistics(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1).byte(), "binary", needs))
        tensor(0.1733)
    """
    positive, negative = found[Sum("focal", gamma), over].sum(2)
    value = positive + negative if alpha is None else alpha * positive + (1 - alpha) * negative
    return mean_of_ratios(value, found[COUNT, over].sum((0, 2)), over)


def _weights(numbers: Tensor | None, like: Tensor, name: str) -> Tensor:
    """``[C]`` or one number for all classes, 1 if there are none."""
    if numbers is None:
        return like.new_ones(())
    return (per_class(numbers, like.shape[-1], name) if numbers.ndim else numbers).to(like)
