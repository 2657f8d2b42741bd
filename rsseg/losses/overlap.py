"""Losses of overlap: Dice, Jaccard, Tversky and Lovasz by levels as functions of `statistics`, and Lovasz exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from rsseg.contract import IGNORE, TaskKind
from rsseg.losses.average import Classes, chosen, class_mean, pick
from rsseg.losses.statistics import Over, Statistics
from rsseg.losses.sums import COUNT, SOFT, Sum
from rsseg.losses.target import per_class, planes, prepare


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
    defined = whole > torch.finfo(whole.dtype).tiny ** 0.5
    index = (tp + smooth) / torch.where(defined, whole, torch.ones_like(whole))
    losses = torch.where(defined, 1 - index, torch.zeros_like(index))
    if gamma != 1:
        some = losses > torch.finfo(losses.dtype).eps
        losses = torch.where(some, torch.where(some, losses, torch.ones_like(losses)) ** gamma, torch.zeros_like(losses))
    return class_mean(losses, count, classes, over, _picked(class_weights, found[COUNT, over].shape[-1], classes))


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
    return class_mean(losses, pick(count, classes), classes, over, _picked(class_weights, count.shape[-1], classes))


def lovasz(
    logits: Tensor,
    target: Tensor,
    task: TaskKind | str,
    classes: Classes = "present",
    over: Over = "batch",
    class_weights: Tensor | None = None,
    ignore_index: int = IGNORE,
) -> Tensor:
    """Lovasz-Softmax for multiclass, the Lovasz hinge for binary and multilabel: the Jaccard loss's convex extension.

    The errors, ``|y - p_c|`` or ``max(0, 1 - z (2y - 1))``, are sorted downwards and summed with the weights by which
    each, as the next mistake, raises the Jaccard loss: with I and U the intersection and union after it, ``1 / U`` for
    a pixel of the class and ``I / (U (U - 1))`` for another. Without a pixel of the class all weight is on the largest
    error. Exact: one sort per class, counts in int64.

    Under DDP with ``over="batch"`` each rank takes its own batch (its gradient is then the mean over ranks).

    Args:
        logits: ``[B, C, H, W]``, any floating dtype.
        target: Integers, ``[B, H, W]``, or ``[B, L, H, W]`` for multilabel.
        task: `binary`, `multiclass` or `multilabel`.
        classes: As for `tversky`.
        over: As for `tversky`.
        class_weights: As for `tversky`.
        ignore_index: The label of pixels that do not count.

    Raises:
        InputError: For shapes that do not fit, and classes that do not exist.

    Example:
        >>> lovasz(torch.tensor([[[[3.0, -3.0]]]]), torch.tensor([[[1, 1]]]), "binary")  # half of the error 1 + 3
        tensor(2.)
    """
    prepared = prepare(logits, target, task, ignore_index)
    truth, valid = planes(prepared, task)
    if task == TaskKind.multiclass:
        p = prepared.logits.softmax(1)
        errors = torch.where(truth, 1 - p, p)
    else:
        errors = torch.relu(1 - torch.where(truth, prepared.logits, -prepared.logits))
    groups = 1 if over == "batch" else truth.shape[0]
    per_plane = [[x[:, c].reshape(groups, -1) for x in (errors, truth, valid)] for c in chosen(classes, truth.shape[1])]
    losses = torch.stack([_lovasz_of_class(*one) for one in per_plane], 1)
    count = torch.stack([torch.stack([y.sum(1), (v & ~y).sum(1)]) for _, y, v in per_plane], 2)
    return class_mean(losses, count, classes, over, _picked(class_weights, truth.shape[1], classes))


def _lovasz_of_class(errors: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """The Lovasz extension of one class's Jaccard loss, ``[G]``, at errors, truth and validity ``[G, N]``."""
    errors, order = torch.where(valid, errors, -torch.ones_like(errors)).sort(dim=1, descending=True, stable=True)
    hit = truth.gather(1, order)
    other = valid.gather(1, order) & ~hit
    total = hit.sum(1, keepdim=True)
    intersection = total - hit.cumsum(1)
    union = (total + other.cumsum(1)).clamp(min=1)
    first_of_absent = (total == 0) & (union == 1)
    background = (intersection + first_of_absent).to(errors.dtype) / (union * (union - 1).clamp(min=1)).to(errors.dtype)
    weights = torch.where(hit, union.to(errors.dtype).reciprocal(), background)
    return (errors * torch.where(hit | other, weights, torch.zeros_like(weights))).sum(1)


def _picked(class_weights: Tensor | None, count: int, classes: Classes) -> Tensor | None:
    return None if class_weights is None else pick(per_class(class_weights, count, "class_weights"), classes)
