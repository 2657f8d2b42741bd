"""Losses of single pixels that are no function of sums per class: the hardest pixels, and the margin between logits."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from rsseg.collective import global_cat, global_sum
from rsseg.losses.checks import Planes, widened
from rsseg.losses.formulas import mean_of_ratios, weights
from rsseg.losses.sums import Over

COUNTABLE = 2**24
"""Up to here float32 counts whole pixels."""


def top_k_cross_entropy(planes: Planes, fraction: float = 0.1, over: Over = "batch") -> Tensor:
    """The mean cross-entropy of the pixels (multilabel: entries) that have the largest one.

    Pixels of weight w count as w pixels. The last pixel of the fraction counts by the part of it that belongs to it, so the
    loss is continuous in the fraction and in the weights.

    Under DDP with ``over="batch"`` the losses of all ranks are ordered together.

    Args:
        planes: Logits and labels, see `class_planes`.
        fraction: Of the valid pixels, above 0 and up to 1; 1 is cross-entropy.
        over: `batch`, or `image` for the mean of the images' losses.
    """
    if planes.exclusive:
        losses = -torch.where(planes.own, planes.logits.log_softmax(1), 0).sum(1)
        share = planes.share[:, 0]
    else:
        losses, share = F.softplus(torch.where(planes.own, -planes.logits, planes.logits)), planes.share
    losses, share = torch.where(share > 0, losses, -1).flatten(1), share.flatten(1)  # ignored ones come last
    if over == "batch":
        losses, share = (global_cat(x.flatten()).unsqueeze(0) for x in (losses, share))
    count = losses.shape[1]
    hardest, order = losses.topk(math.ceil(fraction * count) if planes.weight is None else count, dim=1)
    share_in_order = share.gather(1, order)
    total = torch.float64 if count > COUNTABLE else share.dtype
    before = share_in_order.cumsum(1, dtype=total) - share_in_order
    wanted = fraction * share.sum(1, dtype=total)
    taken = torch.minimum((wanted.unsqueeze(1) - before).clamp_(min=0), share_in_order).to(losses.dtype)
    return mean_of_ratios((hardest * taken).sum(1), wanted.to(losses.dtype), over)


def logit_margin(planes: Planes, margin: float = 10.0, over: Over = "batch") -> Tensor:
    """The mean over valid pixels and classes of ``max(0, max_j z_j - z_c - m)``.

    A sigmoid's logit z is that of two classes with the logits 0 and z.

    Args:
        planes: Logits and labels, see `class_planes`.
        margin: m, 0 or more.
        over: `batch`, or `image` for the mean of the images' losses.
    """
    z = planes.logits
    gap = z.amax(1, keepdim=True) - z if planes.exclusive else z.abs()
    classes = 1 if planes.exclusive else 2
    sums = torch.stack([F.relu(gap - margin) / classes * planes.share, planes.share]).sum((2, 3, 4))
    top, bottom = global_sum(sums.sum(1, keepdim=True)) if over == "batch" else sums
    return mean_of_ratios(top, bottom, over)


def adjust(logits: Tensor, exclusive: bool, priors: Tensor | list[float], tau: float = 1.0) -> Tensor:
    """Logits plus `tau` times the logarithm of each class's prior; for a sigmoid's logit, of its odds.

    Args:
        logits: ``[B, C, H, W]``, any floating dtype.
        exclusive: Whether the classes exclude each other.
        priors: The share of each class in the pixels.
        tau: How much of it.

    Returns:
        float32 or float64.

    Raises:
        InputError: If there are more or fewer priors than classes.

    Example:
        >>> adjust(torch.zeros(1, 1, 1, 1), False, [0.2])  # log(0.2 / 0.8)
        tensor([[[[-1.3863]]]])
    """
    wide = widened(logits)
    by_class = torch.as_tensor(weights(priors, wide.movedim(1, -1), "priors"))
    offset = by_class.log() if exclusive else by_class.logit()
    return wide + tau * offset.view(-1, 1, 1)
