"""The sums that the losses are functions of, taken in one pass over the logits.

Cross-entropy, focal, overlap and binned Lovasz losses, and so any mixture of them, need no more of a batch than a few
sums per class. A term names them (see `sums`), `statistics` takes those of all terms together, and the formulas in
`pixelwise` and `overlap` turn them into losses.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from rsseg.collective import global_sum
from rsseg.contract import IGNORE
from rsseg.losses.onepass import one_pass
from rsseg.losses.sums import COUNT, Sum
from rsseg.losses.target import planes, prepare
from rsseg.losses.triton_pass import fits, triton_pass
from rsseg.task import TASKS

Over: TypeAlias = Literal["batch", "image"]
"""What sums are taken over: the global batch, or each image, with the losses averaged afterwards."""

Backend: TypeAlias = Literal["auto", "reference"]
"""`reference`: plain PyTorch. `auto`: the one pass on a CPU, on a GPU the same by Triton where it is installed; elsewhere and
inside `torch.compile` the reference."""


Needs: TypeAlias = Collection[tuple[Sum, Over]]
"""What a term asks for. ``count`` always comes with it."""

Statistics: TypeAlias = Mapping[tuple[Sum, Over], Tensor]
"""The sums, ``[2, 1, C]`` over the batch and ``[2, B, C]`` per image; ``levels`` have further dimensions."""


def statistics(
    logits: Tensor,
    target: Tensor,
    task: str,
    needs: Needs,
    ignore_index: int = IGNORE,
    backend: Backend = "auto",
) -> Statistics:
    """Every sum that is asked for, differentiable with respect to the logits.

    Sums over the batch are over the batches of all ranks. Sums per image stay on their rank. ``levels`` are
    ``[2, 2, G, C, number]``: first the numbers of pixels, which have no gradient, then the sums of their errors, each
    pixel's counted as its level but with the gradient of the error itself.

    Args:
        logits: ``[B, C, H, W]``, any floating dtype.
        target: Integers, ``[B, H, W]``, or ``[B, L, H, W]`` for multilabel.
        task: `binary`, `multiclass` or `multilabel`.
        needs: The sums and what they go over.
        ignore_index: The label of pixels that do not count.
        backend: Both give the same but for rounding.

    Raises:
        InputError: For shapes that do not fit.

    Example:
        >>> from rsseg.losses.sums import SOFT
        >>> found = statistics(torch.zeros(1, 1, 1, 3), torch.tensor([[[1, 0, 255]]]), "binary", [(SOFT, "batch")])
        >>> found[SOFT, "batch"].flatten()  # TP, FP
        tensor([0.5000, 0.5000])
    """
    overs = {over for _, over in needs}
    wanted = (COUNT, *sorted({key for key, _ in needs} - {COUNT}))
    by = _implementation(logits, wanted, backend)
    images = by(logits, target, task, wanted, ignore_index, "image" in overs)
    found: dict[tuple[Sum, Over], Tensor] = {}
    for over in overs:
        keys = [key for key in wanted if key == COUNT or (key, over) in needs]
        values = [images[key] for key in keys]
        found |= {(key, over): value for key, value in zip(keys, values if over == "image" else _batch(values), strict=True)}
    return found


def _implementation(logits: Tensor, wanted: tuple[Sum, ...], backend: Backend) -> Callable[..., dict[Sum, Tensor]]:
    """What takes the sums: see `Backend`."""
    if backend == "auto" and not torch.compiler.is_compiling():
        if logits.device.type == "cpu":
            return one_pass
        if logits.device.type == "cuda" and fits(logits, wanted):
            return triton_pass
    return reference


def _batch(images: list[Tensor]) -> list[Tensor]:
    """The sums over the images of all ranks, in one collective."""
    local = [x.sum(-2 if x.ndim == 3 else -3, keepdim=True) for x in images]
    total = global_sum(torch.cat([x.flatten() for x in local]))
    parts = torch.split(total, [x.numel() for x in local])
    return [part.view_as(x) for part, x in zip(parts, local, strict=True)]


def reference(
    logits: Tensor, target: Tensor, task: str, wanted: tuple[Sum, ...], ignore_index: int, images: bool
) -> dict[Sum, Tensor]:
    """The sums of this rank's images in plain PyTorch: what `one_pass` is held to.

    Args:
        logits: As for `statistics`.
        target: As for `statistics`.
        task: As for `statistics`.
        wanted: The sums.
        ignore_index: As for `statistics`.
        images: Whether to keep the images apart.
    """
    prepared = prepare(logits, target, task, ignore_index)
    own, valid = planes(prepared, task)
    z, other = prepared.logits, valid & ~own
    softmax = TASKS[task].exclusive
    log_p = z.log_softmax(1) if softmax else F.logsigmoid(z)
    log_not_p = torch.zeros_like(z) if softmax else F.logsigmoid(-z)
    p = log_p.exp() if softmax else z.sigmoid()

    def total(where: Tensor, value: Tensor) -> Tensor:
        per_image = torch.where(where, value, torch.zeros_like(value)).sum((2, 3))
        return per_image if images else per_image.sum(0, keepdim=True)

    def pair(of_own: Tensor, of_other: Tensor) -> Tensor:
        return torch.stack([total(own, of_own), total(other, of_other)])

    def levels(bins: int) -> Tensor:
        error = torch.where(own, 1 - p, p)
        level = torch.where(valid, error, torch.zeros_like(error)).detach().mul(bins - 1).add(0.5).floor()
        near = error + (level / (bins - 1) - error).detach()
        both = []
        for value in (torch.ones_like(p), near):
            kinds = []
            for where in (own, other):
                kept = torch.where(where, value, torch.zeros_like(value)).flatten(2)
                histogram = p.new_zeros(*kept.shape[:2], bins).scatter_add(2, level.nan_to_num(0).long().flatten(2), kept)
                kinds.append(histogram if images else histogram.sum(0, keepdim=True))
            both.append(torch.stack(kinds))
        return torch.stack(both)

    found = {}
    for key in wanted:
        match key.name:
            case "count":
                found[key] = pair(torch.ones_like(p), torch.ones_like(p))
            case "soft":
                found[key] = pair(p, p)
            case "nll":
                found[key] = pair(-log_p, -log_not_p)
            case "spread":
                found[key] = torch.stack([total(valid, -log_p), total(valid, -log_not_p)])
            case "focal":
                found[key] = pair(_modulated(log_p, key.number), _modulated(log_not_p, key.number))
            case "levels":
                found[key] = levels(int(key.number))
    return found


def _modulated(log_p: Tensor, gamma: float) -> Tensor:
    """``-(1 - p)^gamma log p``. At p = 1 its gradient is 0, though the power's is infinite for gamma < 1."""
    if gamma == 0:
        return -log_p
    q = -log_p.expm1()
    uncertain = ~(q <= torch.finfo(q.dtype).tiny)  # NaN too
    power = torch.where(uncertain, q, torch.ones_like(q)) ** gamma
    return torch.where(uncertain, -power * log_p, torch.zeros_like(q))
