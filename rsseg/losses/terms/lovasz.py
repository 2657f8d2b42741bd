"""The Lovasz extension of the Jaccard loss: exact, by sorting errors, or approximate, from their histogram."""

from __future__ import annotations

from dataclasses import KW_ONLY

import torch
from torch import Tensor

from rsseg.collective import global_cat
from rsseg.contract import check_whole_number
from rsseg.devices import exact_dtype
from rsseg.losses.pieces import may_look
from rsseg.losses.sums import COUNT, Sum, Sums
from rsseg.losses.terms.base import Classes, ClassMean, PerClass, or_one, pick, weights


class Lovasz(ClassMean):
    """Lovasz-Softmax for multiclass, Lovasz hinge for binary and multilabel (Berman et al. 2018).

    The errors, ``|y - p_c|`` or ``max(0, 1 - z (2y - 1))``, are sorted in descending order. Each is weighted by the increase of
    the Jaccard loss if its pixel is added to the mistakes: with I and U the intersection and union after that, ``1 / U`` for a
    pixel of the class and ``I / (U (U - 1))`` for another. A class without pixels has all weight on its largest error; such a
    class does not count with ``classes="present"``, the default. Under DDP the errors of all ranks are sorted together.

    With `bins`, 2 to 4096, errors are ``|y - p|`` for every task (no hinge for binary and multilabel), rounded to this many
    levels, and the loss shares the pass of `rsseg.losses.sums`. Pixels of a level have equal weights: with I and U
    before the level and I', U' after it, ``(1/U + 1/U') / 2`` for a pixel of the class and ``(I + I') / (2 U U')`` for another.
    The value is within ``1 / (2 bins - 2)`` of the exact one; for classes of a few tens of pixels take the exact loss.

    Example:
        >>> Lovasz("binary")(torch.tensor([[[[3.0, -3.0]]]]), torch.tensor([[[1, 1]]]))  # half of the error 1 + 3
        tensor(2.)
        >>> logits, target = torch.tensor([[[[0.0, -99.0]]]]), torch.tensor([[[1, 0]]])
        >>> Lovasz("binary", bins=65)(logits, target)  # one error of a half, as large as the truth
        tensor(0.5000)
    """

    rules = {"bins": lambda name, value: None if value is None else check_whole_number(name, value, 2, 4096)}
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
        of_class, others = pick(found[COUNT], self.classes)
        return self.class_mean(losses, of_class, others, weights(self.class_weights, found[COUNT], "class_weights"))

    def formula(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        if self.bins is not None:
            return super().formula(logits, target, weight)
        planes = self.planes(logits, target, weight)
        if self.exclusive:
            p = planes.logits.softmax(1)
            errors = (planes.own.view(torch.uint8).to(p.dtype) - p).abs()
        else:
            errors = torch.relu(1 - torch.where(planes.own, planes.logits, -planes.logits))
        parts = [errors, planes.own, planes.other, *([] if weight is None else [planes.share])]
        if self.over == "batch":  # all pixels in one group, like a single image
            parts = [global_cat(part).transpose(0, 1).flatten(1)[None, :, :, None] for part in parts]
        errors, own, other, *shares = (pick(part, self.classes, dim=1).transpose(0, 1).flatten(2) for part in parts)
        losses = (errors * _slopes(errors.detach(), own, other, *shares)).sum(2).t()
        class_weights = weights(self.class_weights, planes.logits.movedim(1, -1), "class_weights")
        return self.class_mean(losses, own.sum(2).t(), other.sum(2).t(), class_weights)


def _slopes(errors: Tensor, own: Tensor, other: Tensor, share: Tensor | None = None) -> Tensor:
    """The weight of each error ``[..., N]``: a pixel of weight w counts as w pixels, an ignored one (not own or other) as 0."""
    if errors.ndim > 1 and may_look(errors):  # row by row on a CPU, so that values stay in the cache
        rows = [x.flatten(0, -2) for x in (errors, own, other, *([] if share is None else [share]))]
        return torch.stack([_slopes(*row) for row in zip(*rows, strict=True)]).view_as(errors)
    order, dtype = _order(errors), errors.dtype
    kind = (own.view(torch.uint8) + 2 * other.view(torch.uint8)).gather(-1, order)  # one gather for both: it is slow
    hit, miss = ((kind == number).view(torch.uint8).to(dtype) for number in (1, 2))
    if share is not None:
        in_order = share.gather(-1, order)
        hit, miss = hit * in_order, miss * in_order
    count = exact_dtype(errors.device) if order.shape[-1] > 2**24 else dtype  # whole numbers are exact
    total = hit.sum(-1, keepdim=True, dtype=count)
    intersection = total - hit.cumsum(-1, dtype=count)
    union = miss.cumsum(-1, dtype=count).add_(total)
    before = union - miss
    # for an absent class all weight is on the largest error, the first with a union above 0
    intersection.addcmul_(torch.eq(before, 0).to(count), torch.eq(total, 0).to(count))
    slopes = intersection.mul_(miss).div_(or_one(before)).add_(hit).div_(or_one(union)).to(dtype)
    return torch.empty_like(slopes).scatter_(-1, order, slopes)


def _order(errors: Tensor) -> Tensor:
    """The indices that sort non-negative numbers in descending order, stably.

    On a CPU, float32 numbers are sorted by their bits, which have the same order: PyTorch's radix sort of ascending integers is
    many times faster than its sort of floats.
    """
    if not may_look(errors) or errors.dtype != torch.float32:
        return errors.sort(descending=True, stable=True).indices
    bits = (errors + 0.0).view(torch.int32)  # + 0.0: -0.0 has its sign bit set
    return torch.sort(torch.iinfo(torch.int32).max - bits, stable=True).indices
