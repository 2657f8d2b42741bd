"""The one pass over a chunk of softmax logits; see `onepass`. Symbols: x logits, y onehot labels, c class."""

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


def forward(chunk: Chunk, wanted: tuple[Sum, ...]) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    """The sums of a chunk.

    Args:
        chunk: The chunk.
        wanted: The sums.

    Returns:
        ``[2, C]`` per sum, the counts ``[2, C, bins]`` per histogram, the log-sum-exp and log p_t per pixel.
    """
    x, v = chunk.x, chunk.valid
    p, y, spare = chunk.buffers
    top = x.amax(0)
    # in powers of 2, which are 3 times as fast as those of e; -inf, a class ruled out, would give 0 * -inf below
    d = torch.sub(x, top, out=p).mul_(LOG2_E).clamp_(min=torch.finfo(x.dtype).min)
    _onehot(chunk.label, out=y)
    d_t = torch.mul(y, d, out=spare).sum(0)
    all_d = d @ v if any(key.name == "spread" for key in wanted) else d.new_zeros(())
    total = p.exp2_().sum(0)
    log_total = total.log()
    log_p = d_t.div(LOG2_E).sub_(log_total)
    p_t = d_t.exp2_().div_(total)
    share = v / total
    zero = x.new_zeros(len(x))
    rows, levels = [], []
    for key in wanted:
        match key.name:
            case "count":
                own = y @ v
                rows.append(torch.stack([own, v.sum() - own]))
            case "soft":
                own = y @ p_t
                rows.append(torch.stack([own, p @ share - own]))
            case "nll":
                rows.append(torch.stack([(y @ log_p).neg_(), zero]))
            case "spread":
                rows.append(torch.stack([v @ log_total - all_d / LOG2_E, zero]))
            case "focal":
                rows.append(torch.stack([y @ focal(log_p, p_t, key.number), zero]))
            case "levels":
                bins = int(key.number)
                index = _level_index(torch.mul(p, share, out=spare), y, p_t, bins)
                counts = torch.bincount(index, minlength=2 * len(x) * bins).view(2, len(x), bins)
                counts[1, :, 0] -= int(len(v) - v.sum())  # the ignored pixels
                levels.append(counts)
    log_total.add_(top)
    return rows, levels, log_total if chunk.whole else log_total.masked_fill_(v == 0, math.inf), log_p


def backward(chunk: Chunk, of: Mapping[Sum, Tensor], log_total: Tensor, log_p: Tensor, out: Tensor) -> None:
    """The gradient of a chunk.

    Args:
        chunk: The chunk.
        of: The gradient with respect to each sum, ``[2, C]``, and to the errors of each histogram, ``[2, C, bins]``.
        log_total: The log-sum-exp, infinite (p = 0) at ignored pixels.
        log_p: log p_t.
        out: Where to write.
    """
    x = chunk.x
    p, y, a_p = chunk.buffers
    torch.sub(x, log_total, out=p).mul_(LOG2_E).exp2_()
    _onehot(chunk.label, out=y)
    p_t = log_p.exp()
    u = torch.zeros_like(log_p)
    a, spread, weights = x.new_zeros(len(x)), None, None
    for key, gradient in of.items():
        match key.name:
            case "soft":
                a = a + gradient[1]
                u.addcmul_((gradient[0] - gradient[1]) @ y, p_t)
            case "nll":
                u.sub_(gradient[0] @ y)
            case "spread":
                spread = gradient[0]
            case "focal":
                u.addcmul_(gradient[0] @ y, focal_slope(log_p, p_t, key.number))
            case "levels":
                index = _level_index(a_p.copy_(p), y, p_t, int(key.number))
                table = torch.stack([-gradient[0], gradient[1]]).flatten()  # the error of an own pixel is 1 - p
                found = table.index_select(0, index).view_as(p)
                weights = found if weights is None else weights.add_(found)
    if weights is None:
        s = (a @ p).add_(u)
        torch.sub(a[:, None], s, out=a_p).mul_(p)
    else:
        s = torch.mul(weights.add_(a[:, None]), p, out=a_p).sum(0).add_(u)
        a_p.addcmul_(p, s, value=-1)
    if spread is not None:
        a_p.add_(p, alpha=float(spread.sum())).addcmul_(spread[:, None], chunk.valid, value=-1)
    torch.addcmul(a_p, y, u, out=out)


def _onehot(label: Tensor, out: Tensor) -> None:
    """1 where a pixel is of the class, as floats; 0 for all classes where it is ignored."""
    torch.eq(label, torch.arange(len(out), dtype=out.dtype)[:, None], out=out)


def _level_index(p: Tensor, y: Tensor, p_t: Tensor, bins: int) -> Tensor:
    """Where each error belongs in a table ``[2, C, bins]``, own classes first. Overwrites p."""
    classes = len(p)
    start = torch.arange(classes, 2 * classes, dtype=p.dtype).mul_(bins).add_(0.5)
    position = p.mul_(bins - 1).add_(start[:, None])
    own = p_t.mul(-2).add_(1).mul_(bins - 1).sub_(classes * bins)
    return position.addcmul_(y, own).to(torch.int32).flatten()
