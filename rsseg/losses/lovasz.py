"""The Lovasz loss exactly, by sorting the errors."""

from __future__ import annotations

import torch
from torch import Tensor

from rsseg.collective import global_cat
from rsseg.contract import IGNORE
from rsseg.losses.average import Classes, class_mean, pick, picked_weights
from rsseg.losses.chunk import Scratch
from rsseg.losses.statistics import Over
from rsseg.losses.target import planes, prepare
from rsseg.losses.threads import share
from rsseg.task import TASKS


def lovasz(
    logits: Tensor,
    target: Tensor,
    task: str,
    classes: Classes = "present",
    over: Over = "batch",
    class_weights: Tensor | None = None,
    ignore_index: int = IGNORE,
) -> Tensor:
    """Lovasz-Softmax for multiclass, the Lovasz hinge for binary and multilabel: the Jaccard loss's convex extension.

    The errors, ``|y - p_c|`` or ``max(0, 1 - z (2y - 1))``, are sorted downwards and summed with the weights by which
    each, as the next mistake, raises the Jaccard loss: with I and U the intersection and union after it, ``1 / U`` for
    a pixel of the class and ``I / (U (U - 1))`` for another. Without a pixel of the class all weight is on the largest
    error. Exact: one sort per class.

    Under DDP with ``over="batch"`` the errors of all ranks are sorted together.

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
    if TASKS[task].exclusive:
        p = prepared.logits.softmax(1)
        errors = (truth.view(torch.uint8).to(p.dtype) - p).abs()
    else:
        errors = torch.relu(1 - torch.where(truth, prepared.logits, -prepared.logits))
    if over == "batch":
        errors, truth, valid = (global_cat(x) for x in (errors, truth, valid))
    errors, own, other = (_rows(x, classes, over) for x in (errors, truth, valid & ~truth))  # [C, G, N]
    losses = (errors * _weights(errors.detach(), own, other)).sum(2).t()
    count = torch.stack([own.sum(2).t(), other.sum(2).t()])
    return class_mean(losses, count, classes, over, picked_weights(class_weights, logits.shape[1], classes))


def _rows(x: Tensor, classes: Classes, over: Over) -> Tensor:
    """``[C, G, N]`` of the chosen classes of ``[B, C, H, W]``."""
    by_class = pick(x, classes, dim=1).transpose(0, 1)
    return by_class.flatten(2) if over == "image" else by_class.flatten(1).unsqueeze(1)


def _weights(errors: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """What each error of ``[C, G, N]`` counts for."""
    if errors.device.type != "cpu" or errors.dtype != torch.float32 or torch.compiler.is_compiling():
        return _weights_in_order(errors.sort(dim=2, descending=True, stable=True).indices, own, other, errors.dtype)
    weights = torch.empty_like(errors)

    def work(row: tuple[int, int], _: Scratch) -> None:
        weights[row] = _weights_in_order(_order(errors[row]), own[row], other[row], errors.dtype)

    orders = [(c, group) for c in range(errors.shape[0]) for group in range(errors.shape[1])]
    share(work, orders, torch.get_num_threads())
    return weights


def _weights_in_order(order: Tensor, own: Tensor, other: Tensor, dtype: torch.dtype) -> Tensor:
    """The weights ``[..., N]`` where `order` sorts the errors downwards. Ignored pixels, neither own nor other, get 0."""
    kind = (own.view(torch.uint8) + 2 * other.view(torch.uint8)).gather(-1, order)  # once: it jumps about in memory
    hit, miss = ((kind == number).view(torch.uint8).to(dtype) for number in (1, 2))
    count = torch.float64 if order.shape[-1] > 2**24 else dtype  # whole numbers are exact
    total = hit.sum(-1, keepdim=True, dtype=count)
    intersection = total - hit.cumsum(-1, dtype=count)
    union = miss.cumsum(-1, dtype=count).add_(total).clamp_(min=1)
    # of an absent class all weight is on the largest error, the first to make the union 1
    intersection.addcmul_(torch.eq(union, 1).to(count), torch.eq(total, 0).to(count))
    weights = intersection.mul_(miss).div_((union - 1).clamp_(min=1)).add_(hit).div_(union).to(dtype)
    return torch.empty_like(weights).scatter_(-1, order, weights)


def _order(errors: Tensor) -> Tensor:
    """What sorts float32 numbers ``[N]`` of 0 or more downwards, stably: by their bits, which order as they do.

    PyTorch sorts whole numbers upwards on a CPU by their digits, many times as fast as it sorts floats.
    """
    bits = (errors + 0.0).view(torch.int32)  # + 0.0: -0.0 has a bit of its own
    return torch.sort(torch.iinfo(torch.int32).max - bits, stable=True).indices
