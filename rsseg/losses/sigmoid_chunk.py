"""The one pass over a chunk of sigmoid logits; see `onepass`. With s = x or -x the logit of the label, p_t = sigmoid(s)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from rsseg.losses.chunk import Chunk, focal, focal_slope, log2
from rsseg.losses.sums import Sum

LOG2_E, LN_2 = math.log2(math.e), math.log(2)


def forward(chunk: Chunk, rows: tuple[Sum, ...], histograms: tuple[Sum, ...]) -> tuple[list[Tensor], list[Tensor]]:
    """The sums of a chunk.

    Args:
        chunk: The chunk.
        rows: The sums that are one number per class.
        histograms: Those that are `levels`.

    Returns:
        A table to be added up over chunks and given to `finish`, and the counts ``[2, C, bins]`` per histogram.
    """
    own, other, s, p, q, log_p = _parts(chunk)
    spare, value = chunk.like_x(), chunk.like_x()
    sums, levels = [], []

    def pair(of_own: Tensor, of_other: Tensor) -> Tensor:
        return torch.stack([torch.mul(mask, of, out=spare).sum(1) for mask, of in ((own, of_own), (other, of_other))])

    for key in rows:
        match key.name:
            case "count":
                sums.append(torch.stack([own.sum(1), other.sum(1)]))
            case "soft":
                sums.append(pair(p, q))
            case "nll":
                sums.append(pair(log_p, log_p).neg_())
            case "spread":  # log (1 - p_t) = log p_t - s
                torch.sub(log_p, s, out=value)
                label, opposite = pair(log_p, log_p), pair(value, value)
                sums.append(torch.stack([label[0] + opposite[1], opposite[0] + label[1]]).neg_())
            case "focal":
                focal(log_p, p, key.number, out=value)
                sums.append(pair(value, value))
    for key in histograms:
        bins = int(key.number)
        if not q.sum().isfinite():  # NaN has no level
            levels.append(q.new_full((2, len(q), bins), math.nan))
            continue
        index = _level_index(chunk, q, own, bins)
        levels.append(torch.bincount(index, minlength=2 * len(s) * bins).view(2, len(s), bins))
        levels[-1][1, :, 0] -= (chunk.valid == 0).sum(1)
    return [torch.stack(sums, 1)], levels


def finish(tables: list[Tensor], _: tuple[Sum, ...]) -> Tensor:
    """The sums ``[K, 2, G, C]`` from the tables ``[G, 2, K, C]`` that `forward` gives for every chunk, added up."""
    return tables[0].permute(2, 1, 0, 3)


def backward(chunk: Chunk, of: Mapping[Sum, Tensor], out: Tensor) -> None:
    """The gradient of a chunk.

    Args:
        chunk: The chunk.
        of: The gradient with respect to each sum, ``[2, C]``, and to the errors of each histogram, ``[2, C, bins]``.
        out: Where to write.
    """
    own, other, _, p, q, log_p = _parts(chunk)
    by_log_p, by_s, factor, slope, spare = (chunk.like_x().zero_() for _ in range(5))

    def per_label(gradient: Tensor) -> Tensor:
        return torch.mul(own, gradient[0][:, None], out=factor).addcmul_(other, gradient[1][:, None])

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
                slopes = focal_slope(log_p, p, key.number, out=slope, spare=spare)
                by_log_p.addcmul_(per_label(gradient), slopes)
            case "levels" if not q.sum().isfinite():
                by_log_p.fill_(math.nan)
            case "levels":
                index = _level_index(chunk, q, own, int(key.number))
                weights = torch.index_select(gradient.flatten(), 0, index, out=factor.flatten()).view_as(p)
                by_log_p.addcmul_(weights, p, value=-1)
    torch.mul(by_log_p.mul_(q).add_(by_s), own.sub_(other), out=out)


def _parts(chunk: Chunk) -> tuple[Tensor, ...]:
    """1 where an entry is labelled 1, and where 0, as floats; s, sigmoid(s), sigmoid(-s) and their logarithm.

    That is ``min(s, 0) - log(1 + exp -|s|)``: PyTorch's own, which rounds better far below 1e-7, is ten times slower.
    """
    own, other = (torch.eq(chunk.label, value, out=chunk.like_x()) for value in (1.0, 0.0))
    s = torch.sub(own, other, out=chunk.like_x()).mul_(chunk.x)
    p = torch.sigmoid(s, out=chunk.like_x())
    q = torch.neg(s, out=chunk.like_x()).sigmoid_()
    log = torch.abs(s, out=chunk.like_x()).mul_(-LOG2_E).exp2_().add_(1)
    log2(log, out=log).mul_(LN_2)
    return own, other, s, p, q, torch.clamp(s, max=0, out=chunk.like_x()).sub_(log)


def _level_index(chunk: Chunk, q: Tensor, own: Tensor, bins: int) -> Tensor:
    """Where each error ``q = 1 - p_t`` belongs in a table ``[2, C, bins]``, own labels first; 0 where ignored."""
    classes = len(q)
    start = torch.arange(classes, 2 * classes, dtype=q.dtype).mul_(bins).add_(0.5)
    position = torch.mul(q, chunk.valid, out=chunk.like_x()).mul_(bins - 1).add_(start[:, None])
    return chunk.indices().copy_(position.add_(own, alpha=-classes * bins)).flatten()
