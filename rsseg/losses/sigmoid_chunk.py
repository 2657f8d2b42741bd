"""The one pass over a chunk of sigmoid logits; see `onepass`. With s = x or -x the logit of the label, p_t = sigmoid(s)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from rsseg.losses.chunk import Chunk, focal, focal_slope, log2
from rsseg.losses.sums import NLL, SOFT, SPREAD, Sum

LOG2_E, LN_2 = math.log2(math.e), math.log(2)

LOWEST = -40.0
"""Down to this s, the exponential of -s and its sums with 1 fit into float32 with all their digits."""


def forward(chunk: Chunk, rows: tuple[Sum, ...], histograms: tuple[Sum, ...]) -> tuple[Tensor, list[Tensor]]:
    """The sums of a chunk.

    Args:
        chunk: The chunk.
        rows: The sums that are one number per class.
        histograms: Those that are `levels`.

    Returns:
        A table of sums to be added up over chunks and given to `finish`, and the counts ``[2, C, bins]`` per histogram.
    """
    own, other, _, s, p, q, log_p = _parts(chunk)
    value = chunk.like_x()
    sums, levels = [], []

    def pair(of_own: Tensor, of_other: Tensor) -> Tensor:
        dots = [torch.dot(*planes) for mask, of in ((own, of_own), (other, of_other)) for planes in zip(mask, of, strict=True)]
        return torch.stack(dots).view(2, len(own))

    for key in rows:
        match key.name:
            case "count":
                sums.append(torch.stack([own.sum(1), other.sum(1)]))
            case "soft":
                sums.append(pair(p, q))
            case "nll":
                sums.append(pair(log_p, log_p).mul_(-LN_2))
            case "spread":  # log (1 - p_t) = log p_t - s
                torch.sub(log_p, s, alpha=LOG2_E, out=value)
                label, opposite = pair(log_p, log_p), pair(value, value)
                sums.append(torch.stack([label[0] + opposite[1], opposite[0] + label[1]]).mul_(-LN_2))
            case "focal":
                focal(log_p, p, key.number, out=value)
                sums.append(pair(value, value).mul_(LN_2))
    for key in histograms:
        bins = int(key.number)
        if not q.sum().isfinite():  # NaN has no level
            levels.append(q.new_full((2, len(q), bins), math.nan))
            continue
        index = _level_index(chunk, q, own, bins)
        levels.append(torch.bincount(index, minlength=2 * len(s) * bins).view(2, len(s), bins))
        levels[-1][1, :, 0] -= (chunk.valid == 0).sum(1)
    return torch.stack(sums, 1), levels


def finish(table: Tensor, _: tuple[Sum, ...]) -> Tensor:
    """The sums ``[K, 2, G, C]`` from the tables ``[G, 2, K, C]`` that `forward` gives for every chunk, added up."""
    return table.permute(2, 1, 0, 3)


class _Slope(NamedTuple):
    """``[C, 1]`` each: what a factor is at entries labelled 0, and how much more at those labelled 1."""

    other: Tensor
    more: Tensor

    @classmethod
    def of(cls, own: Tensor, other: Tensor) -> _Slope:
        return cls(other[:, None], (own - other)[:, None])

    def at(self, own: Tensor, out: Tensor) -> Tensor:
        """The factor of every entry."""
        return torch.addcmul(self.other, own, self.more, out=out)


class Slopes(NamedTuple):
    """What the gradients of a group's sums mean for its entries.

    Attributes:
        soft: By p_t.
        nll: By -log p_t.
        focal: By each focal loss.
        spread: ``[2, C]``, for label smoothing.
        levels: By the number of levels, ``[2, C, bins]`` flat.
    """

    soft: _Slope | None
    nll: _Slope | None
    focal: dict[float, _Slope]
    spread: Tensor | None
    levels: dict[int, Tensor]


def slopes(of: Mapping[Sum, Tensor]) -> Slopes:
    """What `backward` needs of the gradient with respect to each sum, ``[2, C]``, and to the errors of histograms."""
    return Slopes(
        _Slope.of(of[SOFT][0], -of[SOFT][1]) if SOFT in of else None,
        _Slope.of(*of[NLL]) if NLL in of else None,
        {key.number: _Slope.of(*gradient) for key, gradient in of.items() if key.name == "focal"},
        of.get(SPREAD),
        {int(key.number): gradient.flatten() for key, gradient in of.items() if key.name == "levels"},
    )


def backward(chunk: Chunk, by: Slopes, out: Tensor) -> None:
    """The gradient of a chunk.

    Args:
        chunk: The chunk.
        by: The slopes of its group.
        out: Where to write.
    """
    own, spare, sign, factor, p, q, log_p = _parts(chunk)
    by_p = by.soft.at(own, out=out) if by.soft else out.zero_()
    for bins, table in by.levels.items():
        if not q.sum().isfinite():
            by_p.fill_(math.nan)
            break
        index = _level_index(chunk, q, own, bins)
        by_p.sub_(torch.index_select(table, 0, index, out=factor.flatten()).view_as(p))
    by_log_p = by_p.mul_(p)
    if by.nll:
        by_log_p.sub_(by.nll.at(own, out=factor))
    if by.focal:
        log_p.mul_(LN_2)
    for gamma, slope in by.focal.items():
        slope.at(own, out=factor).mul_(focal_slope(log_p, p, gamma, out=spare, spare=chunk.like_x()))
        by_log_p.add_(factor)
    if by.spread is not None:
        by_log_p.sub_(by.spread.sum(0)[:, None])
    by_s = by_log_p.mul_(q)
    if by.spread is not None:
        by_s.add_(_Slope.of(by.spread[1], by.spread[0]).at(own, out=factor))
    by_s.mul_(sign)


def _parts(chunk: Chunk) -> tuple[Tensor, ...]:
    """Masks of the entries labelled 1 and 0 and their difference; s, sigmoid(s), sigmoid(-s) and log2 sigmoid(s)."""
    own, other, sign, s, p, q, log_p = (chunk.like_x() for _ in range(7))
    torch.eq(chunk.label, 1.0, out=own)
    torch.sub(chunk.valid, own, out=other)
    torch.sub(own, other, out=sign)
    torch.mul(sign, chunk.x, out=s)
    if s.numel() and float(s.amin()) > LOWEST:
        torch.mul(s, -LOG2_E, out=q).exp2_()
        torch.add(q, 1, out=p)
        log2(p, out=log_p).neg_()
        q.mul_(p.reciprocal_())
    else:  # min(s, 0) - log(1 + exp -|s|): PyTorch's own, which rounds better far below 1e-7, is ten times slower
        log2(torch.abs(s, out=q).mul_(-LOG2_E).exp2_().add_(1), out=q)
        torch.clamp(s, max=0, out=log_p).mul_(LOG2_E).sub_(q)
        torch.sigmoid(s, out=p)
        torch.neg(s, out=q).sigmoid_()
    return own, other, sign, s, p, q, log_p


def _level_index(chunk: Chunk, q: Tensor, own: Tensor, bins: int) -> Tensor:
    """Where each error ``q = 1 - p_t`` belongs in a table ``[2, C, bins]``, own labels first; 0 where ignored."""
    classes = len(q)
    start = torch.arange(classes, 2 * classes, dtype=q.dtype).mul_(bins).add_(0.5)
    position = torch.mul(q, chunk.valid, out=chunk.like_x()).mul_(bins - 1).add_(start[:, None])
    return chunk.indices().copy_(position.add_(own, alpha=-classes * bins)).flatten()
