"""The losses as pure functions of `sums.pixel_sums`: cross-entropy, focal, overlap and binned Lovasz.

All return a scalar of the sums' dtype, 0 where no pixel counts. Under DDP the sums are those of the global batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from rsseg.collective import global_ratio
from rsseg.contract import InputError
from rsseg.losses.sums import COUNT, NLL, SOFT, SPREAD, Over, Sum, Sums

Classes: TypeAlias = Literal["all", "present"] | Sequence[int]
"""Which classes are averaged: all that have a valid pixel to be judged on, those in the target, or a list."""

PerClass: TypeAlias = Sequence[float] | Tensor | None
"""One number per class; None: 1 for all."""


def cross_entropy(found: Sums, class_weights: PerClass = None, label_smoothing: float = 0.0, over: Over = "batch") -> Tensor:
    """Multiclass softmax cross-entropy, ``sum w_t (-log p_t) / sum w_t``.

    Label smoothing e replaces ``-w_t log p_t`` by ``(1 - e)`` of it plus ``e / C`` of the weighted sum over classes,
    divided by the same ``sum w_t``: what `torch.nn.functional.cross_entropy` computes.

    Args:
        found: ``nll`` and, for label smoothing, ``spread``.
        class_weights: ``[C]``, not negative.
        label_smoothing: Between 0 and 1.
        over: `batch`, or `image` for the mean of the images' losses.

    Example:
        >>> from rsseg.losses.sums import pixel_sums
        >>> needs = [(NLL, "batch")]
        >>> cross_entropy(pixel_sums(torch.zeros(1, 4, 2, 2), torch.ones(1, 2, 2).byte(), "multiclass", needs))
        tensor(1.3863)
    """
    present, nll = own(found[COUNT, over]), own(found[NLL, over])
    w = weights(class_weights, nll, "class_weights")
    top = weighted_sum(nll, w)
    if label_smoothing > 0:
        top = (1 - label_smoothing) * top + label_smoothing / nll.shape[1] * weighted_sum(own(found[SPREAD, over]), w)
    return mean_of_ratios(top, weighted_sum(present, w), over)


def binary_cross_entropy(
    found: Sums, pos_weight: float | PerClass = None, label_smoothing: float = 0.0, over: Over = "batch"
) -> Tensor:
    """Sigmoid cross-entropy, the mean of ``-(w y log p + (1 - y) log(1 - p))`` over the valid entries.

    Label smoothing e moves the labels to ``y (1 - e) + e / 2``, as for a softmax over the two classes.

    Args:
        found: ``nll`` and, for label smoothing, ``spread``.
        pos_weight: The weight w of positive entries, ``[L]`` or one number for all labels.
        label_smoothing: Between 0 and 1.
        over: `batch`, or `image` for the mean of the images' losses.
    """
    nll = found[NLL, over]
    w = weights(pos_weight, nll, "pos_weight")

    def total(of_positive: Tensor, of_negative: Tensor) -> Tensor:
        return weighted_sum(of_positive, w) + of_negative.sum(1)

    top = total(*nll.unbind())
    if label_smoothing > 0:
        top = (1 - label_smoothing) * top + label_smoothing / 2 * total(*found[SPREAD, over].unbind())
    return mean_of_ratios(top, found[COUNT, over].sum((0, 2)), over)


def focal(found: Sums, gamma: float = 2.0, alpha: PerClass = None, over: Over = "batch") -> Tensor:
    """Multiclass focal loss, the mean of ``-alpha_t (1 - p_t)^gamma log p_t`` over the valid pixels, p by softmax.

    Args:
        found: ``Sum("focal", gamma)``.
        gamma: 0 or more; 0 is cross-entropy.
        alpha: ``[C]``.
        over: `batch`, or `image` for the mean of the images' losses.
    """
    value = own(found[Sum("focal", gamma), over])
    return mean_of_ratios(weighted_sum(value, weights(alpha, value, "alpha")), own(found[COUNT, over]).sum(1), over)


def binary_focal(found: Sums, gamma: float = 2.0, alpha: float | None = None, over: Over = "batch") -> Tensor:
    """Sigmoid focal loss, the mean of ``-alpha_t (1 - p_t)^gamma log p_t`` over the valid entries.

    Args:
        found: ``Sum("focal", gamma)``.
        gamma: 0 or more; 0 is cross-entropy.
        alpha: For positives; negatives get ``1 - alpha``. None: 1 for both.
        over: `batch`, or `image` for the mean of the images' losses.
    """
    positive, negative = found[Sum("focal", gamma), over].sum(2)
    value = positive + negative if alpha is None else alpha * positive + (1 - alpha) * negative
    return mean_of_ratios(value, found[COUNT, over].sum((0, 2)), over)


def pixel_mean(found: Sums, wanted: Sum, exclusive: bool, over: Over = "batch") -> Tensor:
    """The mean over the valid pixels, or entries of sigmoid tasks, of a function of the label's probability.

    Args:
        found: The sum of the function.
        wanted: Which one that is.
        exclusive: Whether p is by softmax.
        over: `batch`, or `image` for the mean of the images' losses.
    """
    return mean_of_ratios(found[wanted, over].sum((0, 2)), _entries(found, exclusive, over), over)


def likelihood_and_error(found: Sums, exclusive: bool, likelihood: float, error: float, over: Over = "batch") -> Tensor:
    """The mean over the valid pixels of ``likelihood (-log p_t) + error (1 - p_t)``; see `pixel_mean`.

    Args:
        found: ``nll`` and ``soft``.
        exclusive: Whether p is by softmax.
        likelihood: The weight of cross-entropy.
        error: The weight of the label's lacking probability, which is half the absolute error of all probabilities.
        over: `batch`, or `image` for the mean of the images' losses.
    """
    (own, _), (tp, fp) = found[COUNT, over], found[SOFT, over]
    errors = own - tp if exclusive else own - tp + fp
    top = likelihood * found[NLL, over].sum((0, 2)) + error * errors.sum(1)
    return mean_of_ratios(top, _entries(found, exclusive, over), over)


def _entries(found: Sums, exclusive: bool, over: Over) -> Tensor:
    """The valid pixels, or entries of sigmoid tasks, ``[G]``."""
    count = found[COUNT, over].sum(2)
    return count[0] if exclusive else count.sum(0)


def tversky(
    found: Sums,
    alpha: float | Tensor = 0.5,
    beta: float | Tensor = 0.5,
    gamma: float = 1.0,
    smooth: float = 1.0,
    classes: Classes = "all",
    over: Over = "batch",
    class_weights: PerClass = None,
) -> Tensor:
    """Focal Tversky loss, the mean over classes of ``(1 - T)^gamma``, ``T = (TP + s) / (TP + alpha FP + beta FN + s)``.

    Dice, ``1 - (2 TP + s) / (2 TP + FP + FN + s)``, is alpha = beta = 1/2 with s/2; Jaccard is alpha = beta = 1.

    Args:
        found: ``soft``.
        alpha: The weight of false positives, one number or ``[G, C]`` for the chosen classes.
        beta: The weight of false negatives, likewise.
        gamma: The power of a class's loss. Where that is 0 to rounding it has no gradient.
        smooth: s, 0 or more; 0 / 0 is a loss of 0.
        classes: The classes that are averaged. A plane without a valid pixel never counts.
        over: `batch`: of the counts of the batch. `image`: the mean over the images that have a class to count.
        class_weights: ``[C]``, for a weighted mean over classes.

    Raises:
        InputError: For classes that do not exist.

    Example:
        >>> from rsseg.losses.sums import pixel_sums
        >>> logits, target = torch.full((1, 1, 2, 2), 99.0), torch.ones(1, 2, 2, dtype=torch.uint8)
        >>> tversky(pixel_sums(logits, target, "binary", [(SOFT, "batch")]))
        tensor(0.)
    """
    losses, count = _overlap_losses(found, alpha, beta, smooth, classes, over)
    if gamma != 1:
        least = torch.finfo(losses.dtype).eps
        losses = losses.clamp(min=least) ** gamma * (losses > least)
    return class_mean(losses, count, classes, over, weights(class_weights, found[COUNT, over], "class_weights"))


def log_cosh_dice(
    found: Sums, smooth: float = 1.0, classes: Classes = "all", over: Over = "batch", class_weights: PerClass = None
) -> Tensor:
    """The mean over classes of the logarithm of the hyperbolic cosine of the Dice loss.

    The arguments are those of `tversky`, smooth that of Dice.
    """
    losses, count = _overlap_losses(found, 0.5, 0.5, smooth / 2, classes, over)
    return class_mean(losses.cosh().log(), count, classes, over, weights(class_weights, found[COUNT, over], "class_weights"))


def _overlap_losses(
    found: Sums, alpha: float | Tensor, beta: float | Tensor, smooth: float, classes: Classes, over: Over
) -> tuple[Tensor, Tensor]:
    """The Tversky loss of each chosen class, ``[G, C]``, and its pixels, ``[2, G, C]``; see `tversky`."""
    count = pick(found[COUNT, over], classes)
    tp, fp = pick(found[SOFT, over], classes).unbind()
    smooth = smooth + torch.finfo(tp.dtype).tiny ** 0.5  # 0 / 0 becomes 1
    whole = beta * count[0] + smooth + (1 - beta) * tp + alpha * fp
    return 1 - (tp + smooth) / whole, count


def matthews(found: Sums, smooth: float = 1.0, classes: Classes = "all", over: Over = "batch") -> Tensor:
    """One minus the mean over classes of Matthews' correlation coefficient.

    Args:
        found: ``soft``.
        smooth: More than 0, added to TP and TN: right pixels that every class and its rest have beforehand.
        classes: As for `tversky`.
        over: As for `tversky`.
    """
    count, (tp, fp) = pick(found[COUNT, over], classes), pick(found[SOFT, over], classes)
    fn, tn = count[0] - tp, count[1] - fp + smooth
    tp = tp + smooth
    spread = ((tp + fp) * (tp + fn)).sqrt() * ((tn + fp) * (tn + fn)).sqrt()
    return class_mean(1 - (tp * tn - fp * fn) / spread, count, classes, over)


def region_size(found: Sums, classes: Classes = "all", over: Over = "image") -> Tensor:
    """The mean over classes of the absolute difference between the predicted and the true share of the class in the pixels.

    Args:
        found: ``soft``.
        classes: As for `tversky`.
        over: As for `tversky`.
    """
    count, (tp, fp) = pick(found[COUNT, over], classes), pick(found[SOFT, over], classes)
    whole = count.sum(0)
    return class_mean((tp + fp - count[0]).abs() / torch.where(whole > 0, whole, 1), count, classes, over)


def recall(found: Sums, classes: Classes = "all", over: Over = "batch") -> Tensor:
    """One minus the mean over the classes in the target of ``TP / (TP + FN)``; the others have none.

    Args:
        found: ``soft``.
        classes: As for `tversky`.
        over: As for `tversky`.
    """
    own, tp = pick(found[COUNT, over][0], classes), pick(found[SOFT, over][0], classes)
    losses = 1 - tp / torch.where(own > 0, own, 1)
    return class_mean(losses, torch.stack([own, torch.zeros_like(own)]), classes, over)


def lovasz_binned(
    found: Sums, bins: int, classes: Classes = "present", over: Over = "batch", class_weights: PerClass = None
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
        >>> from rsseg.losses.sums import pixel_sums
        >>> needs = [(Sum("levels", 65), "batch")]
        >>> logits, target = torch.tensor([[[[0.0, -99.0]]]]), torch.tensor([[[1, 0]]])
        >>> lovasz_binned(pixel_sums(logits, target, "binary", needs), 65)  # one error of a half, as large as the truth
        tensor(0.5000)
    """
    count, levels = found[COUNT, over], pick(found[Sum("levels", bins), over], classes, dim=-2)
    (own, other), errors = levels[0].detach(), levels[1]
    total = own.sum(-1, keepdim=True)
    missed, added = own.flip(-1).cumsum(-1).flip(-1), other.flip(-1).cumsum(-1).flip(-1)  # of this level or worse
    before, after = total - (missed - own), total - missed
    union_before, union = total + (added - other), total + added
    inverse, inverse_before = (x.masked_fill(x <= 0, 1).reciprocal() for x in (union, union_before))
    of_own = (inverse + inverse_before) / 2
    of_other = (before + after) / 2 * inverse * inverse_before
    of_other = torch.where(union_before > 0, of_other, inverse)  # an absent class: all weight on the largest errors
    losses = (errors * torch.stack([of_own, of_other])).sum((0, -1))
    return class_mean(losses, pick(count, classes), classes, over, weights(class_weights, count, "class_weights"))


def pick(x: Tensor, classes: Classes, dim: int = -1) -> Tensor:
    """The chosen classes along a dimension, by slices: an index made from a list would wait for the device.

    Args:
        x: Any tensor.
        classes: The choice.
        dim: The dimension of the classes.

    Raises:
        InputError: If a class does not exist.
    """
    if isinstance(classes, str):
        return x
    count = x.shape[dim]
    if max(classes) >= count:
        raise InputError(f"classes lists {max(classes)}, but {count} classes are numbered 0..{count - 1}: leave it out")
    return torch.stack([x.select(dim, c) for c in classes], dim)


def class_mean(losses: Tensor, count: Tensor, classes: Classes, over: Over, class_weights: Tensor | None = None) -> Tensor:
    """The (weighted) mean of the chosen classes, then of the images that have any to count.

    Args:
        losses: ``[G, C]``, of the chosen classes.
        count: ``[2, G, C]``, the pixels of each of them and the other valid pixels.
        classes: The choice; a class without a valid pixel never counts.
        over: Whether the groups are images.
        class_weights: One number for each class, chosen or not; None: 1.
    """
    share = ((count[0] if classes == "present" else count.sum(0)) > 0).to(losses.dtype)
    if class_weights is not None:
        share = share * pick(class_weights, classes)
    return mean_of_ratios((losses * share).sum(1), share.sum(1), over)


def mean_of_ratios(top: Tensor, bottom: Tensor, over: Over) -> Tensor:
    """``top / bottom`` of the batch, or its mean over the images of all ranks where the bottom is not 0; 0 without any.

    Args:
        top: ``[G]``, 0 where the bottom is; G is 1 over the batch.
        bottom: ``[G]``, not negative.
        over: Whether the groups are images.
    """
    ratios = top / bottom.clamp(min=torch.finfo(top.dtype).tiny ** 0.5)  # its inverse has to be finite, for the gradient
    return ratios.squeeze(0) if over == "batch" else global_ratio(ratios.sum(), (bottom > 0).sum())


def own(sums: Tensor) -> Tensor:
    """Of sums ``[2, ...]`` over own and other pixels, the first."""
    return sums.unbind()[0]


def weighted_sum(values: Tensor, weights: Tensor | None) -> Tensor:
    """The sum over the last dimension, weighted if there are weights."""
    return (values if weights is None else values * weights).sum(-1)


def weights(numbers: float | PerClass, like: Tensor, name: str) -> Tensor | None:
    """Numbers per class, or one number for all, as a tensor that fits another one.

    Args:
        numbers: One for each class, or one for all; None: 1.
        like: ``[..., C]``.
        name: What the user calls the numbers.

    Raises:
        InputError: If there are more or fewer than classes.
    """
    if numbers is None:
        return None
    if isinstance(numbers, int | float):
        return like.new_full((), numbers)
    found = torch.as_tensor(numbers, dtype=like.dtype)
    if found.shape != like.shape[-1:]:
        raise InputError(f"{name} needs one number per class, {like.shape[-1]} for these logits; found {found.numel()}")
    return found.to(like.device, non_blocking=True)
