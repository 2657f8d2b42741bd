"""The one pass over a chunk of softmax logits; see `onepass`.

Symbols: x logits, y onehot labels, v valid; ``2 ** d`` the exponentials of softmax. Powers of 2 are 3 times as fast as
those of e here, so logarithms are to base 2 until `finish`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from rsseg.losses.chunk import Chunk, focal, focal_slope, log2
from rsseg.losses.sums import SPREAD, Sum

LOG2_E, LN_2 = math.log2(math.e), math.log(2)

NARROW = 60.0
"""Logits of a chunk that lie closer together than this are all shifted by one number: their exponentials fit into float32."""


def forward(chunk: Chunk, rows: tuple[Sum, ...], histograms: tuple[Sum, ...]) -> tuple[list[Tensor], list[Tensor]]:
    """The sums of a chunk.

    Args:
        chunk: The chunk.
        rows: The sums that are one number per class.
        histograms: Those that are `levels`.

    Returns:
        Two tables of sums to be added up over chunks and given to `finish`, and the counts ``[2, C, bins]`` per histogram.
    """
    x, y, spare, d, total = chunk.x, chunk.like_x(), chunk.like_x(), chunk.like_x(), chunk.like_label()
    focals = [key.number for key in rows if key.name == "focal"]
    own = chunk.scratch.empty(3 + len(focals), x.shape[1], dtype=x.dtype)
    v, log_p, p_t, *of_focal = own.unbind()
    v.copy_(chunk.valid)
    _exponents(chunk, out=d)
    _onehot(chunk, y)
    _of_label(d, y, spare, out=log_p)
    every = x.new_zeros(3, len(x))
    if SPREAD in rows:
        torch.mv(d, v, out=every[2])
    p = d.exp2_()
    _over_classes(p, out=total)
    log_total = log2(total, out=chunk.label)  # the labels are in y by now
    log_p.sub_(log_total).clamp_(max=0)  # by rounding it may be above
    torch.exp2(log_p, out=p_t)
    if SPREAD in rows:
        every[2] -= v @ log_total
    share = torch.div(v, total, out=total)
    every[0] = v.sum()
    torch.mv(p, share, out=every[1])
    for gamma, value in zip(focals, of_focal, strict=True):
        focal(log_p, p_t, gamma, out=value)
    levels = []
    for key in histograms:
        bins = int(key.number)
        if not every[1].isfinite().all():  # NaN has no level
            levels.append(x.new_full((2, len(x), bins), math.nan))
            continue
        index = _level_index(chunk, torch.mul(p, share, out=spare), y, p_t, bins)
        levels.append(torch.bincount(index, minlength=2 * len(x) * bins).view(2, len(x), bins))
        levels[-1][1, :, 0] -= int(len(v) - every[0, 0])  # the ignored pixels
    return [(y @ own.t()).t(), every], levels


def finish(tables: list[Tensor], rows: tuple[Sum, ...]) -> Tensor:
    """The sums ``[K, 2, G, C]`` from the tables ``[G, rows, C]`` that `forward` gives for every chunk, added up."""
    own, every = tables
    (present, log_p, soft), (valid, predicted, spread) = own[..., :3, :].unbind(-2), every.unbind(-2)
    focals = iter(own[..., 3:, :].unbind(-2))
    zero = torch.zeros_like(present)
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
                found.append((LN_2 * next(focals), zero))
    return torch.stack([torch.stack(pair) for pair in found])


def backward(chunk: Chunk, of: Mapping[Sum, Tensor], out: Tensor) -> None:
    """The gradient of a chunk.

    Args:
        chunk: The chunk.
        of: The gradient with respect to each sum, ``[2, C]``, and to the errors of each histogram, ``[2, C, bins]``.
        out: Where to write.
    """
    x, y, g, d, total = chunk.x, chunk.like_x(), chunk.like_x(), chunk.like_x(), chunk.like_label()
    log_p, p_t, u, slope, spare = chunk.scratch.empty(5, x.shape[1], dtype=x.dtype).unbind()  # the memory of forward's own
    _exponents(chunk, out=d)
    _onehot(chunk, y)
    focals = any(key.name == "focal" for key in of)
    if focals:
        _of_label(d, y, g, out=log_p)
    p = d.exp2_()
    _over_classes(p, out=total)
    if focals:
        log_p.sub_(log2(total, out=spare)).clamp_(max=0).mul_(LN_2)
    p.mul_(torch.div(chunk.valid, total, out=total))
    _of_label(p, y, g, out=p_t).clamp_(max=1)
    factor = chunk.label  # the labels are in y by now
    u.zero_()
    a, spread, weights = x.new_zeros(len(x)), None, None
    for key, gradient in of.items():
        match key.name:
            case "soft":
                a = a + gradient[1]
                u.addcmul_(torch.mv(y.t(), gradient[0] - gradient[1], out=factor), p_t)
            case "nll":
                u.sub_(torch.mv(y.t(), gradient[0], out=factor))
            case "spread":
                spread = gradient[0]
            case "focal":
                slopes = focal_slope(log_p, p_t, key.number, out=slope, spare=spare)
                u.addcmul_(torch.mv(y.t(), gradient[0], out=factor), slopes)
            case "levels" if not p.sum().isfinite():
                weights = chunk.like_x().fill_(math.nan)
            case "levels":
                index = _level_index(chunk, g.copy_(p), y, p_t, int(key.number))
                table = torch.stack([-gradient[0], gradient[1]]).flatten()  # the error of an own pixel is 1 - p
                found = torch.index_select(table, 0, index, out=chunk.like_x().flatten()).view_as(p)
                weights = found if weights is None else weights.add_(found)
    s = factor
    if weights is None:
        torch.mv(p.t(), a, out=s).add_(u)
        torch.sub(a[:, None], s, out=g).mul_(p)
    else:
        _over_classes(torch.mul(weights.add_(a[:, None]), p, out=g), out=s).add_(u)
        g.addcmul_(p, s, value=-1)
    if spread is not None:
        g.add_(p, alpha=float(spread.sum())).addcmul_(spread[:, None], chunk.valid, value=-1)
    torch.addcmul(g, y, u, out=out)


def _exponents(chunk: Chunk, out: Tensor) -> Tensor:
    """``(x - shift) log2 e``, with a shift that keeps the sum over classes of their powers of 2 finite and above 0.

    They are finite themselves: a logit of -inf, a class ruled out, times a label of 0 has to be 0.
    """
    x = chunk.x
    low, high = (float(end) for end in torch.aminmax(x)) if x.numel() else (0.0, 0.0)
    if high - low < NARROW:
        return torch.add(x.new_tensor(-high * LOG2_E), x, alpha=LOG2_E, out=out)
    top = torch.amax(x, 0, out=chunk.like_label())
    return torch.sub(x, top, out=out).mul_(LOG2_E).clamp_(min=torch.finfo(out.dtype).min)


def _onehot(chunk: Chunk, y: Tensor) -> None:
    """Fills y: 1 where a pixel is of the class; 0 for all classes where ignored."""
    torch.eq(chunk.label, torch.arange(len(y), dtype=y.dtype)[:, None], out=y)


def _of_label(d: Tensor, y: Tensor, spare: Tensor, out: Tensor) -> Tensor:
    """What d is for each pixel's label."""
    return _over_classes(torch.mul(y, d, out=spare), out=out)


def _over_classes(x: Tensor, out: Tensor) -> Tensor:
    """The sum over classes: as a product with ones, which BLAS is faster at for few classes."""
    return torch.mv(x.t(), x.new_ones(len(x)), out=out)


def _level_index(chunk: Chunk, p: Tensor, y: Tensor, p_t: Tensor, bins: int) -> Tensor:
    """Where each error belongs in a table ``[2, C, bins]``, own classes first. Overwrites p."""
    classes = len(p)
    start = torch.arange(classes, 2 * classes, dtype=p.dtype).mul_(bins).add_(0.5)
    position = p.mul_(bins - 1).add_(start[:, None])
    own = torch.mul(p_t, 2 - 2 * bins, out=chunk.like_label()).add_(bins - 1 - classes * bins)
    return chunk.indices().copy_(position.addcmul_(y, own)).flatten()
