"""The sums per class that most losses are functions of, computed in one pass over the logits on any device.

Cross-entropy, focal, overlap and binned Lovasz losses need only a few sums per class of a batch. A term names the sums that it
needs (`Sum`), `pixel_sums` computes the sums of all terms together, and `Term.from_sums` turns them into losses.

For any combination of terms, the gradient of softmax logits is ``p * (a - S) + onehot * u``, with a number ``a`` per class,
``u`` per pixel and ``S = sum_c p_c a_c + u``. The forward pass thus saves only the logits; the backward pass computes p again
and writes the gradient once. On a CPU, pixels are processed in pieces, so that intermediate values stay in the cache; on other
devices the whole batch is one piece, and nothing waits for the device.

A pixel's weight multiplies its contribution to the sums. An ignored pixel has weight 0.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from rsseg.collective import global_sums
from rsseg.contract import IGNORE, InputError
from rsseg.devices import exact_dtype
from rsseg.losses.pieces import Piece, SeparatePiece, SeparateShares, parts_of
from rsseg.task import TASKS


class Sum(NamedTuple):
    """One of the sums that a term can ask for.

    Each sum has two rows, ``[own, other]``: over the pixels labelled with the class, and over all other valid pixels. Each
    pixel is multiplied by its weight. With ``p`` the probability of the class and ``p_t`` that of the label:

    * ``count``: 1.
    * ``soft``: ``p``; over the class's own pixels that is TP, over the others FP.
    * ``nll``: ``-log p_t``. For multiclass the second row is 0: a pixel counts once, under its own class.
    * ``focal``: ``-(1 - p_t)^number log p_t``; the second row as for ``nll``.
    * ``power``: ``(1 - p_t^number) / number``; the second row as for ``nll``.
    * ``spread``: ``-log p`` over all valid pixels; the second row ``-log (1 - p)``, or 0 for multiclass. For label smoothing.
    * ``levels``: the histogram of the errors ``|y - p|`` rounded to one of `number` levels from 0 to 1, see `pixel_sums`.

    With class shares y as target, a pixel counts as the class with weight y and as the others with 1 - y. TP is then the sum of
    ``(p + y - |p - y|) / 2``, the smaller of p and y (Wang et al. 2023), and FP the sum of ``p`` minus TP.
    """

    name: str
    number: float = 0.0


COUNT, SOFT, NLL, SPREAD = Sum("count"), Sum("soft"), Sum("nll"), Sum("spread")

Over: TypeAlias = Literal["batch", "image"]
"""The scope of sums: the global batch, or each image, with the losses averaged afterwards."""

Sums: TypeAlias = Mapping[Sum, Tensor]
"""``[2, G, C]`` for each sum, G one entry per image, or 1 for all; ``levels`` have more dimensions."""


def pixel_sums(
    logits: Tensor, target: Tensor, task: str, wanted: Collection[Sum], ignore_index: int = IGNORE, weight: Tensor | None = None
) -> Sums:
    """The `wanted` sums per image, ``[2, B, C]``, and `COUNT`, differentiable; the arguments are those of `rsseg.losses`.

    ``levels`` are ``[2, 2, B, C, number]``: per level, the number of pixels, which has no gradient, and the sum of their
    errors. An error's value is rounded to its level; its gradient is that of the exact error.

    Example:
        >>> found = pixel_sums(torch.zeros(1, 1, 1, 3), torch.tensor([[[1, 0, 255]]]), "binary", [SOFT])
        >>> found[SOFT].flatten()  # TP, FP
        tensor([0.5000, 0.5000])
    """
    levels = sorted({key for key in wanted if key.name == "levels"})
    plain = sorted({COUNT, *wanted}.difference(levels))
    if levels and target.is_floating_point():
        raise InputError("binned errors need a target of labels; found class shares")
    kind = Piece if TASKS[task].exclusive else SeparateShares if target.is_floating_point() else SeparatePiece
    labels = target.flatten(-2) if target.ndim == 4 else target.flatten(1).unsqueeze(1)
    weights = None if weight is None else weight.flatten(1).unsqueeze(1)
    flat = logits.flatten(2)  # a view for contiguous and channels-last logits
    table, *counts = _Pass.apply(flat, labels, weights, kind, plain, levels, ignore_index)
    found = dict(zip(plain, table.unbind(), strict=True))
    found[COUNT] = found[COUNT].detach()
    return found | {key: _errors(count) for key, count in zip(levels, counts, strict=True)}


def over_batch(images: Sums) -> Sums:
    """Add up sums per image over the batches of all ranks."""
    parts = [value.sum(-3 if key.name == "levels" else -2, keepdim=True) for key, value in images.items()]
    return dict(zip(images, global_sums(parts), strict=True))


def _errors(counts: Tensor) -> Tensor:
    """Stack numbers of pixels ``[2, B, C, number]`` at each level with the sums of their errors, ``[2, 2, B, C, number]``."""
    level = torch.linspace(0, 1, counts.shape[-1], dtype=counts.dtype, device=counts.device)
    fixed = counts.detach()
    return torch.stack([fixed, fixed * level + (counts - fixed)])


class _Pass(torch.autograd.Function):
    """The pass from logits ``[B, C, N]``, target ``[B, 1 or C, N]`` and weights ``[B, 1, N]`` to sums.

    It returns a table ``[keys, 2, B, C]`` of the plain sums, and ``[2, B, C, number]`` for each histogram.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        w: Tensor | None,
        kind: type[Piece],
        plain: Sequence[Sum],
        levels: Sequence[Sum],
        ignore: int,
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, y, w)
        ctx.kind, ctx.keys, ctx.ignore = kind, (*plain, *levels), ignore
        found = [_cut(kind, x, y, w, part, ignore).tables(plain, levels) for part in parts_of(x)]
        if len(found) == 1:
            return tuple(found[0])
        return tuple(torch.stack(parts).sum(0, dtype=exact_dtype(x.device)).to(parts[0]) for parts in zip(*found, strict=True))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, by_table: Tensor, *by_counts: Tensor) -> tuple[Tensor | None, ...]:
        x, y, w = ctx.saved_tensors
        by = dict(zip(ctx.keys, (*by_table.unbind(), *by_counts), strict=True))
        del by[COUNT]
        out = torch.empty_like(x)
        for part in parts_of(x):
            out[..., part] = _cut(ctx.kind, x, y, w, part, ctx.ignore).weighted_gradient(by)
        return out, None, None, None, None, None, None


def _cut(kind: type[Piece], x: Tensor, y: Tensor, w: Tensor | None, part: slice, ignore: int) -> Piece:
    """The piece of some pixels of a batch."""
    return kind(x[..., part], y[..., part], None if w is None else w[..., part], ignore)
