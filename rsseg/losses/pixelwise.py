"""Losses that are a mean over pixels: cross-entropy and focal. See `functional` for what they share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from rsseg.collective import global_ratio
from rsseg.contract import IGNORE, TaskKind
from rsseg.losses.target import per_class, prepare


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = IGNORE,
) -> Tensor:
    """Multiclass softmax cross-entropy, ``sum w_t (-log p_t) / sum w_t``.

    Label smoothing e replaces ``-w_t log p_t`` by ``(1 - e)`` of it plus ``e / C`` of the weighted sum over classes,
    divided by the same ``sum w_t``: what `torch.nn.functional.cross_entropy` computes.

    Args:
        logits: See `functional`.
        target: See `functional`.
        class_weights: ``[C]``, not negative.
        label_smoothing: Between 0 and 1.
        ignore_index: The label of pixels that do not count.

    Raises:
        InputError: For shapes that do not fit.

    Example:
        >>> cross_entropy(torch.zeros(1, 4, 2, 2), torch.ones(1, 2, 2, dtype=torch.uint8))
        tensor(1.3863)
    """
    clean, label, valid = prepare(logits, target, TaskKind.multiclass, ignore_index)
    classes = clean.shape[1]
    log_p = clean.log_softmax(1)
    loss = -log_p.gather(1, label.unsqueeze(1)).squeeze(1)
    share = valid.to(log_p.dtype)
    if class_weights is not None:
        weights = per_class(class_weights, classes, "class_weights").to(log_p)
        share = share * weights[label]
        loss = loss * weights[label]
    if label_smoothing > 0:
        spread = log_p if class_weights is None else log_p * weights.view(1, -1, 1, 1)
        loss = (1 - label_smoothing) * loss - label_smoothing / classes * spread.sum(1)
    return global_ratio(_sum_where(valid, loss), share.sum())


def binary_cross_entropy(
    logits: Tensor,
    target: Tensor,
    task: TaskKind | str = TaskKind.binary,
    pos_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = IGNORE,
) -> Tensor:
    """Sigmoid cross-entropy, the mean of ``-(w y log p + (1 - y) log(1 - p))`` over the valid entries.

    Label smoothing e moves the labels to ``y (1 - e) + e / 2``, as for a softmax over the two classes.

    Args:
        logits: See `functional`.
        target: See `functional`.
        task: `binary` or `multilabel`.
        pos_weight: The weight w of positive entries, ``[L]`` or one number for all labels.
        label_smoothing: Between 0 and 1.
        ignore_index: The label of entries that do not count.

    Raises:
        InputError: For shapes that do not fit.

    Example:
        >>> binary_cross_entropy(torch.zeros(1, 1, 2, 2), torch.ones(1, 2, 2, dtype=torch.uint8))
        tensor(0.6931)
    """
    clean, label, valid = prepare(logits, target, task, ignore_index)
    y = label.to(clean.dtype) * (1 - label_smoothing) + label_smoothing / 2
    if pos_weight is not None:
        pos_weight = pos_weight.to(clean)
        if pos_weight.ndim:
            pos_weight = per_class(pos_weight, clean.shape[1], "pos_weight").view(-1, 1, 1)
    loss = F.binary_cross_entropy_with_logits(clean, y, pos_weight=pos_weight, reduction="none")
    return global_ratio(_sum_where(valid, loss), valid.sum())


def focal(
    logits: Tensor,
    target: Tensor,
    task: TaskKind | str,
    gamma: float = 2.0,
    alpha: Tensor | float | None = None,
    ignore_index: int = IGNORE,
) -> Tensor:
    """Focal loss, the mean of ``-alpha_t (1 - p_t)^gamma log p_t`` over the valid pixels (entries for multilabel).

    ``p_t`` is the probability of the target, by softmax for multiclass and by sigmoid else.

    Args:
        logits: See `functional`.
        target: See `functional`.
        task: `binary`, `multiclass` or `multilabel`.
        gamma: 0 or more; 0 is cross-entropy.
        alpha: Multiclass: ``[C]``. Else one number, for positives; negatives get ``1 - alpha``.
        ignore_index: The label of pixels that do not count.

    Raises:
        InputError: For shapes that do not fit.

    Example:
        >>> focal(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, dtype=torch.uint8), "binary")  # 0.25 log 2
        tensor(0.1733)
    """
    clean, label, valid = prepare(logits, target, task, ignore_index)
    if task == TaskKind.multiclass:
        log_p = clean.log_softmax(1).gather(1, label.unsqueeze(1)).squeeze(1)
        loss = _modulated(log_p, gamma)
        if alpha is not None:
            loss = loss * per_class(torch.as_tensor(alpha), clean.shape[1], "alpha").to(clean)[label]
    else:
        loss = _modulated(F.logsigmoid(torch.where(label == 1, clean, -clean)), gamma)
        if alpha is not None:
            loss = torch.where(label == 1, alpha * loss, (1 - alpha) * loss)
    return global_ratio(_sum_where(valid, loss), valid.sum())


def _modulated(log_p: Tensor, gamma: float) -> Tensor:
    """``-(1 - p)^gamma log p``. At p = 1 its gradient is 0, though the power's is infinite for gamma < 1."""
    if gamma == 0:
        return -log_p
    q = -log_p.expm1()
    uncertain = q > torch.finfo(q.dtype).tiny
    power = torch.where(uncertain, q, torch.ones_like(q)) ** gamma
    return torch.where(uncertain, -power * log_p, torch.zeros_like(q))


def _sum_where(valid: Tensor, loss: Tensor) -> Tensor:
    return torch.where(valid, loss, torch.zeros_like(loss)).sum()
