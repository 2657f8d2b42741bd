"""The Lovasz loss exactly, by sorting the errors."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rsseg.contract import IGNORE, TaskKind
from rsseg.losses.average import Classes, chosen, class_mean, picked_weights
from rsseg.losses.chunk import Scratch
from rsseg.losses.statistics import Over
from rsseg.losses.target import planes, prepare
from rsseg.losses.threads import share


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
    numbers = chosen(classes, truth.shape[1])
    errors, truth, valid = (
        torch.stack([x[:, c].reshape(groups, -1) for c in numbers], 1) for x in (errors, truth, valid)
    )  # [G, C, N]
    losses = (errors * _weights(errors.detach(), truth, valid & ~truth)).sum(2)
    count = torch.stack([truth.sum(2), (valid & ~truth).sum(2)])
    return class_mean(losses, count, classes, over, picked_weights(class_weights, len(prepared.logits[0]), classes))


def _weights(errors: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """What each error of ``[G, C, N]`` counts for."""
    shape = errors.shape
    flat = [x.reshape(-1, shape[2]) for x in (errors, own, other)]
    if errors.device.type != "cpu" or errors.dtype != torch.float32 or torch.compiler.is_compiling():
        order = flat[0].sort(dim=1, descending=True, stable=True).indices
        return _weights_in_order(order, flat[1], flat[2], errors.dtype).view(shape)
    weights = torch.empty_like(flat[0])

    def work(row: int, _: Scratch) -> None:
        order = _order(flat[0][row]).unsqueeze(0)
        weights[row] = _weights_in_order(order, flat[1][row : row + 1], flat[2][row : row + 1], errors.dtype)[0]

    share(work, range(len(weights)))
    return weights.view(shape)


def _weights_in_order(order: Tensor, own: Tensor, other: Tensor, dtype: torch.dtype) -> Tensor:
    """The weights ``[P, N]`` where `order` sorts the errors downwards. Ignored pixels, neither own nor other, get 0."""
    hit, miss = own.gather(1, order), other.gather(1, order)
    total = hit.sum(1, keepdim=True)
    intersection = (total - hit.cumsum(1)).to(dtype)
    union = (total + miss.cumsum(1)).clamp(min=1).to(dtype)
    first_of_absent = (total == 0) & (union == 1) & miss
    background = (intersection + first_of_absent) / union / (union - 1).clamp(min=1)
    return torch.empty_like(union).scatter(1, order, hit / union + miss * background)


def _order(errors: Tensor) -> Tensor:
    """What sorts float32 numbers of 0 or more downwards, stably: a radix sort of their bits, which order as they do.

    Two of NumPy's sorts of 16-bit numbers are several times as fast as PyTorch's sort of floats on a CPU.
    """
    bits = ~(errors + 0.0).numpy().view(np.uint32)  # + 0.0: -0.0 has a bit of its own
    order = np.argsort(bits.astype(np.uint16), kind="stable")
    return torch.from_numpy(order[np.argsort((bits >> 16).astype(np.uint16)[order], kind="stable")])
