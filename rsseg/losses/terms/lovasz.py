"""The Lovasz extension of the Jaccard loss: exactly by sorting the errors, or from their histogram in the one pass."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rsseg.collective import global_cat
from rsseg.contract import InputError
from rsseg.losses.sums import COUNT, Sum, Sums
from rsseg.losses.terms.means import Classes, ClassMean, PerClass, or_one, pick, weights


def _bins(name: str, value: Any) -> int | None:
    if value is not None and (type(value) is not int or not 2 <= value <= 4096):
        raise InputError(f"{name} has to be a whole number from 2 to 4096, or null for the exact loss; found {value!r}")
    return value


class Lovasz(ClassMean):
    """Lovasz-Softmax for multiclass, Lovasz hinge for binary and multilabel (Berman et al. 2018).

    The errors, ``|y - p_c|`` or ``max(0, 1 - z (2y - 1))``, are sorted downwards and summed with the weights by which
    each, as the next mistake, raises the Jaccard loss: with I and U the intersection and union after it, ``1 / U`` for
    a pixel of the class and ``I / (U (U - 1))`` for another. Without a pixel of the class all weight is on the largest
    error: with ``classes="present"``, the default, a binary batch without a positive gives 0, with ``classes="all"`` its
    largest error. Under DDP the errors of all ranks are sorted together.

    With `bins` the errors are ``|y - p|`` for every task (for binary and multilabel another loss than the hinge), rounded to
    that many levels. The loss then takes no sort but joins the one pass. Pixels of one level share what they add to the Jaccard
    loss: with I and U before the level and I', U' after it, ``(1/U + 1/U') / 2`` for a pixel of the class and
    ``(I + I') / (2 U U')`` for another, the mean over which come first. The value is within ``1 / (2 bins - 2)`` of the exact
    one; a class of a few tens of pixels, whose errors fill few levels, is better served exactly.

    Args:
        bins: The number of levels, 2 or more; None: exact.
        class_weights: As for `Dice`.

    Example:
        >>> Lovasz("binary")(torch.tensor([[[[3.0, -3.0]]]]), torch.tensor([[[1, 1]]]))  # half of the error 1 + 3
        tensor(2.)
        >>> logits, target = torch.tensor([[[[0.0, -99.0]]]]), torch.tensor([[[1, 0]]])
        >>> Lovasz("binary", bins=65)(logits, target)  # one error of a half, as large as the truth
        tensor(0.5000)
    """

    rules = {"bins": _bins}
    bins: int | None = None
    _: KW_ONLY
    classes: Classes = "present"
    class_weights: PerClass = None

    @property
    def sums(self) -> tuple[Sum, ...]:
        return () if self.bins is None else (Sum("levels", self.bins),)

    def from_sums(self, found: Sums) -> Tensor:
        levels, errors = pick(found[self.sums[0]], self.classes, dim=-2)
        own, other = levels.detach()
        total = own.sum(-1, keepdim=True)
        missed, added = own.flip(-1).cumsum(-1).flip(-1), other.flip(-1).cumsum(-1).flip(-1)  # of this level or worse
        before, after = total - (missed - own), total - missed
        union_before, union = total + (added - other), total + added
        inverse, inverse_before = (x.masked_fill(x <= 0, 1).reciprocal() for x in (union, union_before))
        of_own = (inverse + inverse_before) / 2
        of_other = (before + after) / 2 * inverse * inverse_before
        of_other = torch.where(union_before > 0, of_other, inverse)  # an absent class: all weight on the largest errors
        losses = (errors * torch.stack([of_own, of_other])).sum((0, -1))
        count = pick(found[COUNT], self.classes)
        return self._mean(losses, count[0], count[1], found[COUNT])

    def formula(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        if self.bins is not None:
            return super().formula(logits, target, weight)
        planes = self.planes(logits, target, weight)
        if self.exclusive:
            p = planes.logits.softmax(1)
            errors = (planes.own.view(torch.uint8).to(p.dtype) - p).abs()
        else:
            errors = torch.relu(1 - torch.where(planes.own, planes.logits, -planes.logits))
        parts = [errors, planes.own, planes.valid & ~planes.own, *([] if weight is None else [planes.share])]
        if self.over == "batch":
            parts = [global_cat(part) for part in parts]
        errors, own, other, *shares = (self._rows(part) for part in parts)
        losses = (errors * _slopes(errors.detach(), own, other, *shares)).sum(2).t()
        return self._mean(losses, own.sum(2).t(), other.sum(2).t(), planes.logits.movedim(1, -1))

    def _rows(self, x: Tensor) -> Tensor:
        """``[C, G, N]`` of the chosen classes of ``[B, C, H, W]``."""
        by_class = pick(x, self.classes, dim=1).transpose(0, 1)
        return by_class.flatten(2) if self.over == "image" else by_class.flatten(1).unsqueeze(1)

    def _mean(self, losses: Tensor, own: Tensor, other: Tensor, like: Tensor) -> Tensor:
        return self.class_mean(losses, self.counted(own, other), weights(self.class_weights, like, "class_weights"))


def _slopes(errors: Tensor, own: Tensor, other: Tensor, share: Tensor | None = None) -> Tensor:
    """What each error of ``[C, G, N]`` counts for; a pixel of weight w counts as w pixels."""
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
    slopes = intersection.mul_(miss).div_(or_one(before)).add_(hit).div_(or_one(union)).to(dtype)
    return torch.empty_like(slopes).scatter_(-1, order, slopes)


def _order(errors: Tensor) -> Tensor:
    """What sorts float32 numbers ``[N]`` of 0 or more downwards, stably: by their bits, which order as they do.

    PyTorch sorts whole numbers upwards on a CPU by their digits, many times as fast as it sorts floats.
    """
    bits = (errors + 0.0).view(torch.int32)  # + 0.0: -0.0 has a bit of its own
    return torch.sort(torch.iinfo(torch.int32).max - bits, stable=True).indices
