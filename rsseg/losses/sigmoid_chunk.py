"""The one pass over a chunk of sigmoid logits; see `onepass`. With s = x or -x the logit of the label, p_t = sigmoid(s)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rsseg.losses.chunk import Chunk, focal, focal_slope

if TYPE_CHECKING:
    from rsseg.losses.statistics import Sum

LOG2_E = math.log2(math.e)


def forward(chunk: Chunk, wanted: tuple[Sum, ...]) -> tuple[list[Tensor], list[Tensor]]:
    """The sums of a chunk.

    Args:
        chunk: The chunk.
        wanted: The sums.

    Returns:
        ``[2, C]`` per sum, and the counts ``[2, C, bins]`` per histogram.
    """
    own, other = _kinds(chunk)
    s = _signed(chunk.x, own, other)
    log_p = _log_sigmoid(s)
    p, q = s.sigmoid(), s.neg().sigmoid_()
    rows, levels = [], []

    def pair(of_own: Tensor, of_other: Tensor) -> Tensor:
        return torch.stack([(own * of_own).sum(1), (other * of_other).sum(1)])

    for key in wanted:
        match key.name:
            case "count":
                rows.append(torch.stack([own.sum(1), other.sum(1)]))
            case "soft":
                rows.append(pair(p, q))
            case "nll":
                rows.append(pair(log_p, log_p).neg_())
            case "spread":  # log (1 - p_t) = log p_t - s
                label, opposite = pair(log_p, log_p), pair(log_p - s, log_p - s)
                rows.append(torch.stack([label[0] + opposite[1], opposite[0] + label[1]]).neg_())
            case "focal":
                value = focal(log_p, p, key.number)
                rows.append(pair(value, value))
            case "levels":
                bins = int(key.number)
                index = _level_index(q * chunk.valid, own, bins)
                counts = torch.bincount(index, minlength=2 * len(s) * bins).view(2, len(s), bins)
                counts[1, :, 0] -= (chunk.valid == 0).sum(1)
                levels.append(counts)
    return rows, levels


def backward(chunk: Chunk, of: Mapping[Sum, Tensor], out: Tensor) -> None:
    """The gradient of a chunk.

    Args:
        chunk: The chunk.
        of: The gradient with respect to each sum, ``[2, C]``, and to the errors of each histogram, ``[2, C, bins]``.
        out: Where to write.
    """
    own, other = _kinds(chunk)
    s = _signed(chunk.x, own, other)
    p, q = s.sigmoid(), s.neg().sigmoid_()
    log_p = _log_sigmoid(s)
    by_log_p, by_s = torch.zeros_like(s), torch.zeros_like(s)

    def per_label(gradient: Tensor) -> Tensor:
        return (own * gradient[0][:, None]).addcmul_(other, gradient[1][:, None])

    for key, gradient in of.items():
        match key.name:
            case "soft":
                by_log_p.addcmul_(per_label(torch.stack([gradient[0], -gradient[1]])), p)
            case "nll":
                by_log_p.sub_(per_label(gradient))
            case "spread":
                by_log_p.sub_(gradient.sum(0)[:, None])
                by_s.add_(per_label(gradient.flip(0)))
            case "focal":
                by_log_p.addcmul_(per_label(gradient), focal_slope(log_p, p, key.number))
            case "levels":
                index = _level_index(q * chunk.valid, own, int(key.number))
                by_log_p.addcmul_(gradient.flatten().index_select(0, index).view_as(p), p, value=-1)
    torch.mul(by_log_p.mul_(q).add_(by_s), own.sub_(other), out=out)


def _kinds(chunk: Chunk) -> tuple[Tensor, Tensor]:
    """1 where an entry is labelled 1, and where it is labelled 0; as floats."""
    own, other, _ = chunk.buffers
    return torch.eq(chunk.label, 1.0, out=own), torch.eq(chunk.label, 0.0, out=other)


def _signed(x: Tensor, own: Tensor, other: Tensor) -> Tensor:
    return torch.sub(own, other).mul_(x)


def _log_sigmoid(s: Tensor) -> Tensor:
    """``min(s, 0) - log(1 + exp -|s|)``: PyTorch's own, which rounds better far below 1e-7, is ten times slower."""
    return s.clamp(max=0).sub_(s.abs().mul_(-LOG2_E).exp2_().add_(1).log_())


def _level_index(q: Tensor, own: Tensor, bins: int) -> Tensor:
    """Where each error ``q = 1 - p_t`` belongs in a table ``[2, C, bins]``, own labels first."""
    classes = len(q)
    start = torch.arange(classes, 2 * classes, dtype=q.dtype).mul_(bins).add_(0.5)
    return q.mul(bins - 1).add_(start[:, None]).add_(own, alpha=-classes * bins).to(torch.int32).flatten()
