"""The one pass over a chunk of softmax logits; see `onepass`.

Symbols: x logits, y onehot labels, v valid; ``2 ** d`` the exponentials of softmax. Powers of 2 are 3 times as fast as
those of e here, so logarithms are to base 2 until `finish`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from rsseg.losses.chunk import Chunk, focal, focal_slope, log2
from rsseg.losses.sums import NLL, SOFT, SPREAD, Sum

LOG2_E, LN_2 = math.log2(math.e), math.log(2)

RANGE = 2.0**-60, 2.0**60
"""Powers of 2 whose sum over classes lies in here need no shift: what float32 can't hold is nothing beside the sum."""


def forward(chunk: Chunk, rows: tuple[Sum, ...], histograms: tuple[Sum, ...]) -> tuple[Tensor, list[Tensor]]:
    """The sums of a chunk.

    Args:
        chunk: The chunk.
        rows: The sums that are one number per class.
        histograms: Those that are `levels`.

    Returns:
        A table of sums to be added up over chunks and given to `finish`, and the counts ``[2, C, bins]`` per histogram.
    """
    x, v, y, spare, p, total = chunk.x, chunk.valid, chunk.like_x(), chunk.like_x(), chunk.like_x(), chunk.like_label()
    focals = [key.number for key in rows if key.name == "focal"]
    own = chunk.scratch.empty(2 + len(focals), x.shape[1], dtype=x.dtype)
    log_p, p_t, *of_focal = own.unbind()
    every = x.new_zeros(4, len(x))
    present, valid, predicted, spread = every.unbind()
    torch.sum(_onehot(chunk, out=y), 1, out=present)
    _over_classes(_powers(x, out=p), out=total)
    _of_label(p, y, spare, out=p_t)
    if not chunk.whole:
        p_t.add_(torch.sub(1, v, out=log_p))  # not 0 where ignored: its logarithm is taken
    if SPREAD not in rows and _in_range(total) and _in_range(p_t):
        log2(p_t.div_(total).clamp_(max=1), out=log_p)  # by rounding it may be above
    else:
        _of_label(_exponents(chunk, out=p), y, spare, out=log_p)
        torch.mv(p, v, out=spread)
        _over_classes(p.exp2_(), out=total)
        log_total = log2(total, out=chunk.label)  # the labels are in y by now
        torch.exp2(log_p.sub_(log_total).clamp_(max=0), out=p_t)
        spread -= v @ log_total
    share = torch.div(v, total, out=total)
    torch.mv(p, share, out=predicted)
    valid.fill_(v.sum())
    for gamma, value in zip(focals, of_focal, strict=True):
        focal(log_p, p_t, gamma, out=value)
    levels = []
    for key in histograms:
        bins = int(key.number)
        if not predicted.isfinite().all():  # NaN has no level
            levels.append(x.new_full((2, len(x), bins), math.nan))
            continue
        index = _level_index(chunk, torch.mul(p, share, out=spare), y, p_t, bins)
        levels.append(torch.bincount(index, minlength=2 * len(x) * bins).view(2, len(x), bins))
        levels[-1][1, :, 0] -= int(len(v) - valid[0])  # the ignored pixels
    return torch.cat([every, (y @ own.t()).t()]), levels


def finish(table: Tensor, rows: tuple[Sum, ...]) -> Tensor:
    """The sums ``[K, 2, G, C]`` from the tables ``[G, rows, C]`` that `forward` gives for every chunk, added up."""
    present, valid, predicted, spread, log_p, soft, *focals = table.unbind(-2)
    zero = torch.zeros_like(present)
    of_focal = iter(focals)
    found = []
    for key in rows:
        match key.name:
            case "count":
                found.append((present, valid - present))
            case "soft":
                found.append((soft, predicted - soft))
            case "nll":
                found.append((-LN_2 * log_p, zero))
            case "spread":
                found.append((-LN_2 * spread, zero))
            case "focal":
                found.append((LN_2 * next(of_focal), zero))
    return torch.stack([torch.stack(pair) for pair in found])


class Slopes(NamedTuple):
    """What the gradients of a group's sums mean for its pixels.

    Attributes:
        a: ``[C]``, what p of each class adds.
        own: ``[K, C]``, what a pixel of each class adds by p_t, by log p_t, and by each focal loss.
        gammas: Those of the focal losses.
        spread: ``[C]``, for label smoothing.
        levels: By the number of levels, ``[2, C, bins]`` flat, the own pixels' turned: their error is 1 - p.
    """

    a: Tensor
    own: Tensor
    gammas: list[float]
    spread: Tensor | None
    levels: dict[int, Tensor]


def slopes(of: Mapping[Sum, Tensor]) -> Slopes:
    """What `backward` needs of the gradient with respect to each sum, ``[2, C]``, and to the errors of histograms."""
    zero = torch.zeros_like(next(iter(of.values()))[0])
    soft = of.get(SOFT, torch.stack([zero, zero]))
    focals = {key.number: gradient[0] for key, gradient in of.items() if key.name == "focal"}
    levels = {int(k.number): torch.stack([-g[0], g[1]]).flatten() for k, g in of.items() if k.name == "levels"}
    own = torch.stack([soft[0] - soft[1], -of[NLL][0] if NLL in of else zero, *focals.values()])
    return Slopes(soft[1], own, list(focals), of[SPREAD][0] if SPREAD in of else None, levels)


def backward(chunk: Chunk, by: Slopes, out: Tensor) -> None:
    """The gradient of a chunk.

    Args:
        chunk: The chunk.
        by: The slopes of its group.
        out: Where to write.
    """
    x, y, p, total = chunk.x, chunk.like_x(), chunk.like_x(), chunk.like_label()
    _onehot(chunk, out=y)
    _over_classes(_powers(x, out=p), out=total)
    if not _in_range(total):
        _over_classes(_exponents(chunk, out=p).exp2_(), out=total)
    p.mul_(torch.div(chunk.valid, total, out=total))
    p_t, s = total, chunk.label  # the labels are in y by now
    _of_label(p, y, out, out=p_t).clamp_(max=1)
    u, of_log, *of_focal = torch.mm(by.own, y, out=chunk.scratch.empty(len(by.own), x.shape[1], dtype=x.dtype)).unbind()
    u.mul_(p_t).add_(of_log)
    if of_focal:  # log p is multiplied by p there: where p underflows that is 0
        log_p = log2(torch.clamp(p_t, min=torch.finfo(p_t.dtype).tiny, out=of_log), out=of_log).mul_(LN_2)
        for gamma, factor in zip(by.gammas, of_focal, strict=True):
            u.addcmul_(factor, focal_slope(log_p, p_t, gamma, out=s, spare=chunk.like_label()))
    weights = None
    for bins, table in by.levels.items():
        if not p.sum().isfinite():
            weights = chunk.like_x().fill_(math.nan)
            break
        index = _level_index(chunk, out.copy_(p), y, p_t, bins)
        found = torch.index_select(table, 0, index, out=chunk.like_x().flatten()).view_as(p)
        weights = found if weights is None else weights.add_(found)
    if weights is None:
        torch.mv(p.t(), by.a, out=s).add_(u)
        torch.sub(by.a[:, None], s, out=out).mul_(p)
    else:
        _over_classes(torch.mul(weights.add_(by.a[:, None]), p, out=out), out=s).add_(u)
        out.addcmul_(p, s, value=-1)
    if by.spread is not None:
        out.add_(p, alpha=float(by.spread.sum())).addcmul_(by.spread[:, None], chunk.valid, value=-1)
    out.addcmul_(y, u)


def _powers(x: Tensor, out: Tensor) -> Tensor:
    """``e ** x``, which may overflow."""
    return torch.mul(x, LOG2_E, out=out).exp2_()


def _in_range(total: Tensor) -> bool:
    """Whether all lie within `RANGE`; NaN does not."""
    if not total.numel():
        return True
    low, high = torch.aminmax(total)
    return RANGE[0] < float(low) and float(high) < RANGE[1]


def _exponents(chunk: Chunk, out: Tensor) -> Tensor:
    """``(x - max x) log2 e``: the sum over classes of their powers of 2 is finite and above 0 whatever x is.

    They are finite themselves: a logit of -inf, a class ruled out, times a label of 0 has to be 0.
    """
    top = torch.amax(chunk.x, 0, out=chunk.like_label())
    return torch.sub(chunk.x, top, out=out).mul_(LOG2_E).clamp_(min=torch.finfo(out.dtype).min)


def _onehot(chunk: Chunk, out: Tensor) -> Tensor:
    """1 where a pixel is of the class; 0 for all classes where ignored."""
    return torch.eq(chunk.label, _column(len(out), out.dtype), out=out)


@functools.cache
def _column(classes: int, dtype: torch.dtype) -> Tensor:
    return torch.arange(classes, dtype=dtype)[:, None]


def _of_label(d: Tensor, y: Tensor, spare: Tensor, out: Tensor) -> Tensor:
    """What d is for each pixel's label."""
    return _over_classes(torch.mul(y, d, out=spare), out=out)


def _over_classes(x: Tensor, out: Tensor) -> Tensor:
    """The sum over classes: as a product with ones, which BLAS is faster at for few classes."""
    return torch.mv(x.t(), _ones(len(x), x.dtype), out=out)


@functools.cache
def _ones(classes: int, dtype: torch.dtype) -> Tensor:
    return torch.ones(classes, dtype=dtype)


def _level_index(chunk: Chunk, p: Tensor, y: Tensor, p_t: Tensor, bins: int) -> Tensor:
    """Where each error belongs in a table ``[2, C, bins]``, own classes first. Overwrites p."""
    classes = len(p)
    start = torch.arange(classes, 2 * classes, dtype=p.dtype).mul_(bins).add_(0.5)
    position = p.mul_(bins - 1).add_(start[:, None])
    own = torch.mul(p_t, 2 - 2 * bins, out=chunk.like_label()).add_(bins - 1 - classes * bins)
    return chunk.indices().copy_(position.addcmul_(y, own)).flatten()
