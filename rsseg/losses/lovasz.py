"""The Lovasz loss exactly, by sorting the errors."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rsseg.collective import global_cat
from rsseg.losses.checks import Planes
from rsseg.losses.formulas import Classes, PerClass, class_mean, pick, weights
from rsseg.losses.sums import Over


def lovasz(planes: Planes, classes: Classes = "present", over: Over = "batch", class_weights: PerClass = None) -> Tensor:
    """Lovasz-Softmax for multiclass, the Lovasz hinge for binary and multilabel: the Jaccard loss's convex extension.

    The errors, ``|y - p_c|`` or ``max(0, 1 - z (2y - 1))``, are sorted downwards and summed with the weights by which
    each, as the next mistake, raises the Jaccard loss: with I and U the intersection and union after it, ``1 / U`` for
    a pixel of the class and ``I / (U (U - 1))`` for another. Without a pixel of the class all weight is on the largest
    error. Exact: one sort per class.

    Pixels of weight w count as w pixels: the Jaccard index is that of the summed weights.

    Under DDP with ``over="batch"`` the errors of all ranks are sorted together.

    Args:
        planes: Logits and labels, see `class_planes`.
        classes: As for `formulas.tversky`.
        over: As for `formulas.tversky`.
        class_weights: As for `formulas.tversky`.

    Raises:
        InputError: For classes that do not exist.
    """
    if planes.exclusive:
        p = planes.logits.softmax(1)
        errors = (planes.own.view(torch.uint8).to(p.dtype) - p).abs()
    else:
        errors = torch.relu(1 - torch.where(planes.own, planes.logits, -planes.logits))
    parts = [errors, planes.own, planes.valid & ~planes.own, *([] if planes.weight is None else [planes.weight])]
    if over == "batch":
        parts = [global_cat(part) for part in parts]
    errors, own, other, *shares = (_rows(part, classes, over) for part in parts)  # [C, G, N]
    share = shares[0] if shares else None
    losses = (errors * _slopes(errors.detach(), own, other, share)).sum(2).t()
    count = torch.stack([own.sum(2).t(), other.sum(2).t()])
    by_class = planes.logits.new_zeros(planes.logits.shape[1])
    return class_mean(losses, count, classes, over, weights(class_weights, by_class, "class_weights"))


def _rows(x: Tensor, classes: Classes, over: Over) -> Tensor:
    """``[C, G, N]`` of the chosen classes of ``[B, C, H, W]``."""
    by_class = pick(x, classes, dim=1).transpose(0, 1)
    return by_class.flatten(2) if over == "image" else by_class.flatten(1).unsqueeze(1)


def _slopes(errors: Tensor, own: Tensor, other: Tensor, share: Tensor | None) -> Tensor:
    """What each error of ``[C, G, N]`` counts for."""
    if errors.device.type != "cpu" or errors.dtype != torch.float32 or torch.compiler.is_compiling():
        order = errors.sort(dim=2, descending=True, stable=True).indices
        return _slopes_in_order(order, own, other, share, errors.dtype)
    slopes = torch.empty_like(errors)
    for row in np.ndindex(errors.shape[:2]):
        of_row = None if share is None else share[row]
        slopes[row] = _slopes_in_order(_order(errors[row]), own[row], other[row], of_row, errors.dtype)
    return slopes


def _slopes_in_order(order: Tensor, own: Tensor, other: Tensor, share: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The slopes ``[..., N]`` where `order` sorts the errors downwards. Ignored pixels, neither own nor other, get 0."""
    kind = (own.view(torch.uint8) + 2 * other.view(torch.uint8)).gather(-1, order)  # once: it jumps about in memory
    hit, miss = ((kind == number).view(torch.uint8).to(dtype) for number in (1, 2))
    if share is not None:
        in_order = share.gather(-1, order)
        hit, miss = hit * in_order, miss * in_order
    count = torch.float64 if order.shape[-1] > 2**24 else dtype  # whole numbers are exact
    total = hit.sum(-1, keepdim=True, dtype=count)
    intersection = total - hit.cumsum(-1, dtype=count)
    union = miss.cumsum(-1, dtype=count).add_(total)
    before = union - miss
    # of an absent class all weight is on the largest error, the first that makes a union
    intersection.addcmul_(torch.eq(before, 0).to(count), torch.eq(total, 0).to(count))
    slopes = intersection.mul_(miss).div_(_or_one(before)).add_(hit).div_(_or_one(union)).to(dtype)
    return torch.empty_like(slopes).scatter_(-1, order, slopes)


def _or_one(x: Tensor) -> Tensor:
    """A divisor, 1 where it is 0."""
    return x.masked_fill(x == 0, 1)


def _order(errors: Tensor) -> Tensor:
    """What sorts float32 numbers ``[N]`` of 0 or more downwards, stably: by their bits, which order as they do.

    PyTorch sorts whole numbers upwards on a CPU by their digits, many times as fast as it sorts floats.
    """
    bits = (errors + 0.0).view(torch.int32)  # + 0.0: -0.0 has a bit of its own
    return torch.sort(torch.iinfo(torch.int32).max - bits, stable=True).indices
