"""The one pass over a chunk of softmax logits; see `onepass`.

Symbols: x logits, y onehot labels, v valid; ``2 ** d`` the exponentials of softmax. Powers of 2 are 3 times as fast as
those of e here, so logarithms are to base 2 until `finish`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from rsseg.losses.chunk import Chunk, focal, focal_slope
from rsseg.losses.sums import SPREAD, Sum

LOG2_E, LN_2 = math.log2(math.e), math.log(2)


def forward(
    chunk: Chunk, rows: tuple[Sum, ...], histograms: tuple[Sum, ...], log_sum: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """The sums of a chunk.

    Args:
        chunk: The chunk.
        rows: The sums that are one number per class.
        histograms: Those that are `levels`.
        log_sum: ``[n]``, where to keep the log-sum-exp; infinite at ignored pixels.

    Returns:
        Two tables of sums to be added up over chunks and given to `finish`, and the counts ``[2, C, bins]`` per histogram.
    """
    x, p, y, spare = chunk.x, chunk.like_x(), chunk.like_x(), chunk.like_x()
    focals = [key.number for key in rows if key.name == "focal"]
    own = chunk.scratch.empty(3 + len(focals), x.shape[1], dtype=x.dtype)
    v, log_p, p_t, *of_focal = own.unbind()
    v.copy_(chunk.valid)
    top, log_total = torch.amax(x, 0, out=chunk.like_label()), chunk.like_label()
    d = _exponents(chunk, top, p)
    _of_label(chunk, d, y, spare, out=log_p)
    every = x.new_zeros(3, len(x))
    if SPREAD in rows:
        torch.mv(d, v, out=every[2])
    total = torch.sum(p.exp2_(), 0, out=chunk.label)  # the labels are in y by now
    log_p.sub_(torch.log2(total, out=log_total))
    torch.exp2(log_p, out=p_t)
    torch.add(top, log_total, alpha=LN_2, out=log_sum)
    if not chunk.whole:
        log_sum.masked_fill_(v == 0, math.inf)
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
        index = _level_index(chunk, torch.mul(p, share, out=spare), y, p_t, bins)
        levels.append(torch.bincount(index, minlength=2 * len(x) * bins).view(2, len(x), bins))
        levels[-1][1, :, 0] -= int(len(v) - every[0, 0])  # the ignored pixels
    return [own @ y.t(), every], levels


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


def backward(chunk: Chunk, of: Mapping[Sum, Tensor], log_sum: Tensor, out: Tensor) -> None:
    """The gradient of a chunk.

    Args:
        chunk: The chunk.
        of: The gradient with respect to each sum, ``[2, C]``, and to the errors of each histogram, ``[2, C, bins]``.
        log_sum: As `forward` kept it: p is 0 at ignored pixels.
        out: Where to write.
    """
    x, p, y, g = chunk.x, chunk.like_x(), chunk.like_x(), chunk.like_x()
    log_p, p_t, u, slope, spare = (chunk.like_label() for _ in range(5))
    _of_label(chunk, _exponents(chunk, log_sum, p), y, g, out=log_p)
    p.exp2_()
    torch.exp2(log_p, out=p_t)
    factor = chunk.label  # the labels are in y by now
    log_p.mul_(LN_2)
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
        torch.sum(torch.mul(weights.add_(a[:, None]), p, out=g), 0, out=s).add_(u)
        g.addcmul_(p, s, value=-1)
    if spread is not None:
        g.add_(p, alpha=float(spread.sum())).addcmul_(spread[:, None], chunk.valid, value=-1)
    torch.addcmul(g, y, u, out=out)


def _exponents(chunk: Chunk, base: Tensor, out: Tensor) -> Tensor:
    """``(x - base) log2 e``, but finite: a logit of -inf, a class ruled out, times a label of 0 has to be 0."""
    return torch.sub(chunk.x, base, out=out).mul_(LOG2_E).clamp_(min=torch.finfo(out.dtype).min)


def _of_label(chunk: Chunk, d: Tensor, y: Tensor, spare: Tensor, out: Tensor) -> None:
    """What d is for each pixel's label. Fills y: 1 where a pixel is of the class; 0 for all classes where ignored."""
    torch.eq(chunk.label, torch.arange(len(y), dtype=y.dtype)[:, None], out=y)
    torch.sum(torch.mul(y, d, out=spare), 0, out=out)


def _level_index(chunk: Chunk, p: Tensor, y: Tensor, p_t: Tensor, bins: int) -> Tensor:
    """Where each error belongs in a table ``[2, C, bins]``, own classes first. Overwrites p."""
    classes = len(p)
    start = torch.arange(classes, 2 * classes, dtype=p.dtype).mul_(bins).add_(0.5)
    position = p.mul_(bins - 1).add_(start[:, None])
    own = torch.mul(p_t, 2 - 2 * bins, out=chunk.like_label()).add_(bins - 1 - classes * bins)
    return chunk.indices().copy_(position.addcmul_(y, own)).flatten()
