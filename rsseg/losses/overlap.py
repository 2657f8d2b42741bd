"""Losses of overlap: Dice, Jaccard, Tversky and Lovasz by levels as functions of `statistics`."""

from __future__ import annotations

import torch
from torch import Tensor

from rsseg.losses.average import Classes, class_mean, pick, picked_weights
from rsseg.losses.statistics import Over, Statistics
from rsseg.losses.sums import COUNT, SOFT, Sum


def tversky(
    found: Statistics,
    alpha: float = 0.5,
    beta: float = 0.5,
    gamma: float = 1.0,
    smooth: float = 1.0,
    classes: Classes = "all",
    over: Over = "batch",
    class_weights: Tensor | None = None,
) -> Tensor:
    """Focal Tversky loss, the mean over classes of ``(1 - T)^gamma``, ``T = (TP + s) / (TP + alpha FP + beta FN + s)``.

    Dice, ``1 - (2 TP + s) / (2 TP + FP + FN + s)``, is alpha = beta = 1/2 with s/2; Jaccard is alpha = beta = 1.

    Args:
        found: ``soft``.
        alpha: The weight of false positives.
        beta: The weight of false negatives.
        gamma: The power of a class's loss. Where that is 0 to rounding it has no gradient.
        smooth: s, 0 or more; 0 / 0 is a loss of 0.
        classes: The classes that are averaged. A plane without a valid pixel never counts.
        over: `batch`: of the counts of the batch. `image`: the mean over the images that have a class to count.
        class_weights: ``[C]``, for a weighted mean over classes.

    Raises:
        InputError: For classes that do not exist.

    Example:
        >>> from rsseg.losses.statistics import statistics
        >>> logits, target = torch.full((1, 1, 2, 2), 99.0), torch.ones(1, 2, 2, dtype=torch.uint8)
        >>> tversky(statistics(logits, target, "binary", [(SOFT, "batch")]))
        tensor(0.)
    """
    count, (tp, fp) = pick(found[COUNT, over], classes), pick(found[SOFT, over], classes)
    whole = tp + alpha * fp + beta * (count[0] - tp) + smooth
    defined = ~(whole <= torch.finfo(whole.dtype).tiny ** 0.5)  # so that NaN stays NaN
    index = (tp + smooth) / torch.where(defined, whole, torch.ones_like(whole))
    losses = torch.where(defined, 1 - index, torch.zeros_like(index))
    if gamma != 1:
        some = ~(losses <= torch.finfo(losses.dtype).eps)
        losses = torch.where(some, torch.where(some, losses, torch.ones_like(losses)) ** gamma, torch.zeros_like(losses))
    return class_mean(losses, count, classes, over, picked_weights(class_weights, found[COUNT, over].shape[-1], classes))


def lovasz_levels(
    found: Statistics, bins: int, classes: Classes = "present", over: Over = "batch", class_weights: Tensor | None = None
) -> Tensor:
    """The Lovasz extension of the Jaccard loss at the errors ``|y - p|`` rounded to `bins` levels.

    Pixels of one level share what they add to the Jaccard loss, own and other pixels by the mean over which come first:
    with I and U the intersection and union before the level and I', U' after it, ``(1/U + 1/U') / 2`` for a pixel of the
    class and ``(I + I') / (2 U U')`` for another. The value is within ``1 / (2 bins - 2)`` of the exact one.

    Args:
        found: ``Sum("levels", bins)``.
        bins: The number of levels, 0 and 1 among them.
        classes: As for `tversky`.
        over: As for `tversky`.
        class_weights: As for `tversky`.

    Raises:
        InputError: For classes that do not exist.

    Example:
        >>> from rsseg.losses.statistics import statistics
        >>> needs = [(Sum("levels", 65), "batch")]
        >>> logits, target = torch.tensor([[[[0.0, -99.0]]]]), torch.tensor([[[1, 0]]])
        >>> lovasz_levels(statistics(logits, target, "binary", needs), 65)  # one error of a half, as large as the truth
        tensor(0.5000)
    """
    count, levels = found[COUNT, over], pick(found[Sum("levels", bins), over], classes, dim=-2)
    (own, other), errors = levels[0].detach(), levels[1]
    total = own.sum(-1, keepdim=True)
    missed, added = own.flip(-1).cumsum(-1).flip(-1), other.flip(-1).cumsum(-1).flip(-1)  # of this level or worse
    before, after = total - (missed - own), total - missed
    union_before, union = total + (added - other), total + added
    inverse, inverse_before = union.clamp(min=1).reciprocal(), union_before.clamp(min=1).reciprocal()
    of_own = (inverse + inverse_before) / 2
    of_other = (before + after) / 2 * inverse * inverse_before
    of_other = torch.where(union_before > 0, of_other, inverse)  # an absent class: all weight on the largest errors
    losses = (errors * torch.stack([of_own, of_other])).sum((0, -1))
    return class_mean(losses, pick(count, classes), classes, over, picked_weights(class_weights, count.shape[-1], classes))
