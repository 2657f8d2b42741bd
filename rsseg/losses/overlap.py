"""Losses of overlap: Dice, Jaccard and Tversky from soft counts, and Lovasz. See `functional` for what they share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from rsseg.collective import global_cat, global_ratio, global_sum
from rsseg.contract import IGNORE, InputError, TaskKind
from rsseg.losses.target import Prepared, per_class, prepare

Classes: TypeAlias = Literal["all", "present"] | Sequence[int]
"""Which classes are averaged: all that have a valid pixel to be judged on, those in the target, or a list."""

Over: TypeAlias = Literal["batch", "image"]
"""What the counts are taken over: the whole batch, or each image with the losses averaged afterwards."""


class SoftCounts(NamedTuple):
    """The three small numbers per class that every overlap loss is a function of, and how many pixels they saw.

    Attributes:
        tp: The probability on the class's own pixels, ``[B, C]``; false positives are ``predicted - tp``.
        predicted: The probability on all valid pixels, ``[B, C]``.
        present: The class's valid pixels, ``[B, C]``; false negatives are ``present - tp``.
        valid: The valid pixels, ``[B, C]``.
    """

    tp: Tensor
    predicted: Tensor
    present: Tensor
    valid: Tensor


def soft_counts(logits: Tensor, target: Tensor, task: TaskKind | str, ignore_index: int = IGNORE) -> SoftCounts:
    """Soft counts of this rank's images, with softmax probabilities for multiclass and sigmoid else.

    Args:
        logits: See `functional`.
        target: See `functional`.
        task: `binary`, `multiclass` or `multilabel`.
        ignore_index: The label of pixels that do not count.

    Raises:
        InputError: For shapes that do not fit.

    Example:
        >>> soft_counts(torch.zeros(1, 1, 1, 3), torch.tensor([[[1, 0, 255]]]), "binary").predicted
        tensor([[1.]])
    """
    prepared = prepare(logits, target, task, ignore_index)
    truth, valid = _planes(prepared, task)
    p = prepared.logits.softmax(1) if task == TaskKind.multiclass else prepared.logits.sigmoid()
    p = torch.where(valid, p, torch.zeros_like(p))
    return SoftCounts(
        torch.where(truth, p, torch.zeros_like(p)).sum((2, 3)),
        p.sum((2, 3)),
        truth.sum((2, 3)).to(p.dtype),
        valid.sum((2, 3)).to(p.dtype),
    )


def tversky(
    logits: Tensor,
    target: Tensor,
    task: TaskKind | str,
    alpha: float = 0.5,
    beta: float = 0.5,
    smooth: float = 1.0,
    classes: Classes = "all",
    over: Over = "batch",
    class_weights: Tensor | None = None,
    ignore_index: int = IGNORE,
) -> Tensor:
    """Tversky loss, the mean over classes of ``1 - (TP + s) / (TP + alpha FP + beta FN + s)`` of soft counts.

    Jaccard is alpha = beta = 1. Dice, ``1 - (2 TP + s) / (2 TP + FP + FN + s)``, is alpha = beta = 1/2 with s/2.

    Args:
        logits: See `functional`.
        target: See `functional`.
        task: `binary`, `multiclass` or `multilabel`.
        alpha: The weight of false positives.
        beta: The weight of false negatives.
        smooth: s, 0 or more; 0 / 0 is a loss of 0.
        classes: The classes that are averaged. A plane without a valid pixel never counts.
        over: `batch`: of the counts of the batch. `image`: the mean over the images that have a class to count.
        class_weights: ``[C]``, for a weighted mean over classes.
        ignore_index: The label of pixels that do not count.

    Raises:
        InputError: For shapes that do not fit, and classes that do not exist.

    Example:
        >>> tversky(torch.full((1, 1, 2, 2), 99.0), torch.ones(1, 2, 2, dtype=torch.uint8), "binary")
        tensor(0.)
    """
    counts = torch.stack(soft_counts(logits, target, task, ignore_index))
    if over == "batch":
        counts = global_sum(counts.sum(1, keepdim=True))
    tp, predicted, present, valid = _pick(counts, classes).unbind()
    whole = tp + alpha * (predicted - tp) + beta * (present - tp) + smooth
    defined = whole > torch.finfo(whole.dtype).tiny ** 0.5
    index = (tp + smooth) / torch.where(defined, whole, torch.ones_like(whole))
    losses = torch.where(defined, 1 - index, torch.zeros_like(index))
    if class_weights is not None:
        class_weights = _pick(per_class(class_weights, counts.shape[-1], "class_weights").to(losses), classes)
    return _class_mean(losses, present > 0 if classes == "present" else valid > 0, over, class_weights)


def lovasz(
    logits: Tensor,
    target: Tensor,
    task: TaskKind | str,
    classes: Classes = "present",
    over: Over = "batch",
    ignore_index: int = IGNORE,
) -> Tensor:
    """Lovasz-Softmax for multiclass, the Lovasz hinge for binary and multilabel: the Jaccard loss's convex extension.

    The errors, ``|y - p_c|`` or ``max(0, 1 - z (2y - 1))``, are sorted downwards and summed with the weights by which
    each, as the next mistake, raises the Jaccard loss: with I and U the intersection and union after it, ``1 / U`` for
    a pixel of the class and ``I / (U (U - 1))`` for another. Without a pixel of the class all weight is on the largest
    error. Exact: one sort per class, counts in int64.

    Under DDP with ``over="batch"`` the errors of all ranks are sorted together.

    Args:
        logits: See `functional`.
        target: See `functional`.
        task: `binary`, `multiclass` or `multilabel`.
        classes: As for `tversky`.
        over: As for `tversky`.
        ignore_index: The label of pixels that do not count.

    Raises:
        InputError: For shapes that do not fit, and classes that do not exist.

    Example:
        >>> lovasz(torch.tensor([[[[3.0, -3.0]]]]), torch.tensor([[[1, 1]]]), "binary")  # half of the error 1 + 3
        tensor(2.)
    """
    prepared = prepare(logits, target, task, ignore_index)
    truth, valid = _planes(prepared, task)
    if task == TaskKind.multiclass:
        p = prepared.logits.softmax(1)
        errors = torch.where(truth, 1 - p, p)
    else:
        errors = torch.relu(1 - torch.where(truth, prepared.logits, -prepared.logits))
    if over == "batch":
        errors, truth, valid = (global_cat(x) for x in (errors, truth, valid))
    groups = 1 if over == "batch" else truth.shape[0]
    chosen = _chosen(classes, truth.shape[1])
    per_class = [[x[:, c].reshape(groups, -1) for x in (errors, truth, valid)] for c in chosen]
    losses = torch.stack([_lovasz_of_class(*one) for one in per_class], 1)
    counted = torch.stack([(y if classes == "present" else v).any(1) for _, y, v in per_class], 1)
    return _class_mean(losses, counted, over)


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


def _planes(prepared: Prepared, task: TaskKind | str) -> tuple[Tensor, Tensor]:
    """Which valid pixels belong to each class, and which are valid; both bool ``[B, C, H, W]``."""
    logits, target, valid = prepared
    if task != TaskKind.multiclass:
        return (target == 1) & valid, valid
    number = torch.arange(logits.shape[1], device=logits.device).view(-1, 1, 1)
    valid = valid.unsqueeze(1)
    return (target.unsqueeze(1) == number) & valid, valid.expand_as(logits)


def _chosen(classes: Classes, count: int) -> Sequence[int]:
    """The class numbers that are looked at."""
    if isinstance(classes, str):
        return range(count)
    if max(classes) >= count:
        raise InputError(f"classes lists {max(classes)}, but {count} classes are numbered 0..{count - 1}: leave it out")
    return classes


def _pick(x: Tensor, classes: Classes) -> Tensor:
    """The chosen classes of ``[..., C]``, by slices: an index made from a list would wait for the device."""
    chosen = _chosen(classes, x.shape[-1])
    return x if isinstance(classes, str) else torch.stack([x[..., c] for c in chosen], -1)


def _class_mean(losses: Tensor, counted: Tensor, over: Over, class_weights: Tensor | None = None) -> Tensor:
    """The (weighted) mean of ``[G, C]`` over the counted classes, then over the groups that have any."""
    share = counted.to(losses.dtype) if class_weights is None else counted * class_weights
    total = share.sum(1)
    means = (losses * share).sum(1) / torch.where(total > 0, total, torch.ones_like(total))
    return means.squeeze(0) if over == "batch" else global_ratio(means.sum(), (total > 0).sum())
