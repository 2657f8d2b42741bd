"""A piece of a batch: the contribution of its pixels to the sums, and their gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from rsseg.losses.sums import Sum

CHUNK = 2**18
"""The number of logits per piece on a CPU."""


def parts_of(x: Tensor) -> list[slice]:
    """The pixels of ``[B, C, N]`` in each piece: all in one, or on a CPU so few that they stay in the cache."""
    if not may_look(x):
        return [slice(None)]
    images, classes, pixels = x.shape
    step = max(1, CHUNK // (images * max(2, classes)))  # the intermediate values of a single plane are many times as large
    return [slice(n, n + step) for n in range(0, max(1, pixels), step)]


def may_look(x: Tensor) -> bool:
    """Whether reading values costs no synchronisation: on a CPU, outside `torch.compile`."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def wide(x: Tensor) -> torch.dtype:
    """The dtype of sums: float64 for float64 logits, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def pixel_share(known: Tensor, weight: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The weight of each entry of ``[B, 1 or C, H, W]``: that of its pixel, or 1 without weights; 0 if it is unknown."""
    if weight is None:
        return known.to(dtype)
    return torch.where(known & (weight > 0).unsqueeze(1), weight.unsqueeze(1).to(dtype), 0)


def finite(x: Tensor) -> Tensor:
    """Replace -inf among logarithms by a large negative number, in place, so that 0 * log 0 is 0."""
    return x.clamp_(min=torch.finfo(x.dtype).min / 2**40)


def pixel_value(key: Sum, p: Tensor, log_p: Tensor) -> Tensor:
    """The contribution of each pixel to a sum, from the probability of its label and the logarithm of that."""
    if key.name == "nll":
        return -log_p
    if key.name == "focal":
        return (1 - p).pow_(key.number).mul_(log_p).neg_()
    return (log_p * key.number).expm1_().div_(-key.number)


def slope(key: Sum, p: Tensor, log_p: Tensor) -> Tensor | float:
    """The derivative of `pixel_value` with respect to ``log p``."""
    if key.name == "nll" or (key.name == "focal" and key.number == 0):
        return -1.0
    if key.name == "focal":  # about 0 at p = 1, where the power may be infinite
        q = (1 - p).clamp_(min=torch.finfo(p.dtype).eps)
        return (p * log_p).mul_(key.number).sub_(q).mul_(q.pow_(key.number - 1))
    return p.pow(key.number).neg_()


def labelled(target: Tensor, number: Tensor, labels: int, ignore: int) -> Tensor:
    """1 where a target holds a label below `labels` other than `ignore`, else 0; `number` is the target as floats."""
    v = torch.lt(number, labels, out=torch.empty_like(number))
    if target.dtype.is_signed:
        v.mul_(number >= 0)
    if 0 <= ignore < labels:
        v.mul_(number != ignore)
    return v


class Piece:
    """Some pixels of all images, for exclusive classes.

    Logits are ``[B, C, n]``, a target ``[B, 1, n]``, or for shares ``[B, C, n]``, and weights ``[B, 1, n]`` or None. Masks are
    stored as floats: on a CPU, operations on mixed dtypes are many times slower.

    Attributes:
        hard: Whether the target holds labels, otherwise shares.
        w: The weights, 0 where ignored; None: 1.
        v: ``[B, 1 or C, n]``, 1 where a pixel counts and 0 where it is ignored.
        y: ``[B, C, n]``, the share of each class, 0 or 1 for labels; 0 where ignored.
        whole: True: no pixel is ignored. False: some are, or it is unknown, since reading values is not free, see `may_look`.
        p: ``[B, C, n]``, the probabilities; 0 where ignored.
        p_t: The probability of the label, ``[B, 1, n]``; for shares those of all classes, ``[B, C, n]``.
        log_p_t: The logarithm of `p_t`.
    """

    log_p_t: Tensor

    def __init__(self, x: Tensor, target: Tensor, w: Tensor | None, ignore: int) -> None:
        self.x, self.hard = x, not target.is_floating_point()
        self.y, self.v = self.read(target, target.to(wide(x)), ignore)
        self.w: Tensor | None = None
        if w is not None:
            numbers = w.to(self.y.dtype)
            counts = torch.gt(numbers, 0, out=torch.empty_like(numbers))
            self.v, self.y = self.v * counts, self.y.mul_(counts)
            self.w = torch.where(self.v > 0, numbers, 0)
        self.whole = may_look(x) and float(self.v.sum(-1).sum()) == self.v.numel()
        self.start(target)

    def read(self, target: Tensor, number: Tensor, ignore: int) -> tuple[Tensor, Tensor]:
        """`y` and `v` of a target, which `number` holds as floats; invalid labels, and pixels with NaN shares, do not count."""
        if not self.hard:
            v = (~number.isnan()).all(1, keepdim=True).to(number.dtype)
            return torch.where(v > 0, number, 0), v
        classes = self.x.shape[1]
        y = number.new_empty(len(number), classes, number.shape[2])
        torch.eq(number, torch.arange(classes, dtype=number.dtype, device=number.device).unsqueeze(-1), out=y)
        if 0 <= ignore < classes:
            y[:, ignore] = 0
        return y, labelled(target, number, classes, ignore)

    def start(self, target: Tensor) -> None:
        """Compute the values that sums and gradient share."""
        log_p = self.log_p()
        self.p = log_p.exp().mul_(self.v)
        if self.hard:
            self.label = target.long() if self.whole else target.long().clamp(0, self.x.shape[1] - 1)
            log_p = log_p.gather(1, self.label)
        self.log_p_t = finite(log_p)
        self.p_t = self.log_p_t.exp() if self.hard else self.p

    def log_p(self) -> Tensor:
        """The logarithms of all probabilities, computed again."""
        return self.clean(self.x.log_softmax(1, dtype=self.y.dtype))

    def clean(self, values: Tensor) -> Tensor:
        """Set values to 0 at ignored pixels, in place, so that NaN there has no effect."""
        return values if self.whole else values.masked_fill_(self.v == 0, 0)

    def total(self, values: Tensor) -> Tensor:
        """The weighted sum over the pixels of ``[B, C, n]``, whose ignored pixels are 0."""
        return (values if self.w is None else values * self.w).sum(-1)

    def tables(self, plain: Sequence[Sum], levels: Sequence[Sum]) -> list[Tensor]:
        """The plain sums ``[keys, 2, B, C]``, and for each of `levels` its histogram ``[2, B, C, number]``."""
        table = torch.stack([part for key in plain for part in self.sums(key)])
        return [table.view(-1, 2, *table.shape[1:]), *(self.histogram(int(key.number)) for key in levels)]

    def sums(self, key: Sum) -> tuple[Tensor, Tensor]:
        """A sum over the pixels of the class, and over other pixels, ``[B, C]`` each."""
        if key.name == "count":
            count = self.total(self.y)
            return count, self.total(self.v) - count
        if key.name == "soft":
            common = torch.minimum(self.y, self.p)
            return self.total(common), self.total(self.p - common)
        if key.name == "spread":
            own = self.total(-finite(self.log_p()))
        else:
            own = self.total(self.y * pixel_value(key, self.p_t, self.log_p_t))
        return own, torch.zeros_like(own)

    def weighted_gradient(self, by: Mapping[Sum, Tensor]) -> Tensor:
        """The gradient of the logits, ``[B, C, n]``, from the gradients of the sums."""
        found = self.gradient(by)
        return found if self.w is None else found.mul_(self.w)

    def gradient(self, by: Mapping[Sum, Tensor]) -> Tensor:
        """``p (a - S) + y u``: a is the derivative by p, u that by the logarithm of `p_t`; S makes the sum over classes 0."""
        u, by_p = torch.zeros_like(self.p_t), []
        spread: Tensor | None = None
        for key, (own, other) in by.items():
            if key.name == "soft" and self.hard:
                by_p.append(other.unsqueeze(-1))
                u += self.at_label(own - other) * self.p_t
            elif key.name == "soft":
                below = (self.y - self.p).sign_().add_(1).div_(2)
                by_p.append(below.mul_((own - other).unsqueeze(-1)).add_(other.unsqueeze(-1)))
            elif key.name == "levels":
                by_p.append(self.of_level(torch.stack([-own, other]), int(key.number)))
            elif key.name == "spread":
                spread = own.unsqueeze(-1)
            else:
                u += self.at_label(own) * slope(key, self.p_t, self.log_p_t)
        by_log = u if self.hard else (self.y * u).sum(1, keepdim=True)
        if by_p:
            a = sum(by_p[1:], by_p[0])
            out = (a - (a * self.p).sum(1, keepdim=True).add_(by_log)).mul_(self.p)
        else:
            out = self.p * -by_log
        out.addcmul_(self.y, u)
        if spread is not None:
            out += self.p * spread.sum(1, keepdim=True) - spread * self.v
        return out

    def at_label(self, table: Tensor) -> Tensor:
        """The values of a table ``[B, C]`` for each pixel's label, ``[B, 1, n]``; for shares, of each class ``[B, C, 1]``."""
        return table.gather(1, self.label.squeeze(1)).unsqueeze(1) if self.hard else table.unsqueeze(-1)

    def error(self) -> Tensor:
        """``[B, C, n]``, ``|y - p|``; 0 where ignored."""
        return (self.y - self.p).abs_()

    def histogram(self, bins: int) -> Tensor:
        """The total weight of the errors at each level, ``[2, B, C, bins]``; NaN at all levels if an error is NaN."""
        error = self.error()
        place = self.places(error, bins)
        table = torch.zeros(2 * bins * self.y.shape[0] * self.y.shape[1], dtype=torch.int32, device=place.device)
        if self.w is None:
            table.scatter_add_(0, place, torch.ones_like(table[:1]).expand(place.shape))
        else:
            table = table.to(self.y.dtype).scatter_add_(0, place, self.w.expand_as(self.y).flatten())
        counts = table.view(*self.y.shape[:2], 2, bins).movedim(2, 0).to(self.y.dtype)
        if self.w is None:
            counts[1, ..., 0] -= (1 - self.v).sum(-1)  # the ignored pixels
        return counts + (error.sum(-1) * 0).unsqueeze(-1)

    def of_level(self, table: Tensor, bins: int) -> Tensor:
        """The values of a table ``[2, B, C, bins]`` for each error, ``[B, C, n]``."""
        return table.movedim(0, 2).flatten().index_select(0, self.places(self.error(), bins)).view_as(self.y)

    def places(self, error: Tensor, bins: int) -> Tensor:
        """The flat index of each error in a table ``[B, C, 2, bins]``, with pixels of the class first."""
        images, classes, _ = self.y.shape
        start = torch.arange(images * classes, device=self.y.device).mul_(2 * bins).view(images, classes, 1)
        level = (error * (bins - 1)).nan_to_num_(0).sub_(self.y, alpha=bins).add_(bins + 0.5)
        return level.long().add_(start).flatten()


class SeparatePiece(Piece):
    """Independent labels, not shares. With s = z for positives and -z for negatives, ``p_t = sigmoid(s)``, ``q = 1 - p_t``."""

    def read(self, target: Tensor, number: Tensor, ignore: int) -> tuple[Tensor, Tensor]:
        v = labelled(target, number, 2, ignore)
        return torch.eq(number, 1, out=torch.empty_like(number)).mul_(v), v

    def start(self, target: Tensor) -> None:
        minus_s = self.clean(self.v.sub(self.y, alpha=2).mul_(self.x))
        self.q, self.s = minus_s.sigmoid(), minus_s.neg_()
        self.p_t, self.other = self.s.sigmoid(), self.v - self.y
        self._log_p_t: Tensor | None = None

    @property
    def log_p_t(self) -> Tensor:  # type: ignore[override]
        """The logarithm of p_t, computed at first use."""
        if self._log_p_t is None:
            self._log_p_t = F.logsigmoid(self.s)
        return self._log_p_t

    def error(self) -> Tensor:
        return self.q * self.v

    def sums(self, key: Sum) -> tuple[Tensor, Tensor]:
        if key.name == "count":
            return self.total(self.y), self.total(self.other)
        if key.name == "soft":
            return self.total(self.y * self.p_t), self.total(self.other * self.q)
        if key.name == "spread":
            label = self.total(-self.log_p_t * self.v)
            return label + self.total(self.other * self.s), label + self.total(self.y * self.s)
        value = pixel_value(key, self.p_t, self.log_p_t)
        return self.total(self.y * value), self.total(self.other * value)

    def gradient(self, by: Mapping[Sum, Tensor]) -> Tensor:
        by_log_p, by_s = torch.zeros_like(self.s), None
        for key, g in by.items():
            if key.name == "soft":
                by_log_p += self.by_label(g[0], -g[1]).mul_(self.p_t)
            elif key.name == "spread":
                by_log_p -= g.sum(0).unsqueeze(-1)
                by_s = self.by_label(g[1], g[0])
            elif key.name == "levels":
                by_log_p -= self.of_level(g, int(key.number)).mul_(self.p_t)
            else:
                by_log_p += self.by_label(g[0], g[1]).mul_(slope(key, self.p_t, self.log_p_t))
        out = by_log_p.mul_(self.q)
        if by_s is not None:
            out += by_s
        return out.mul_(self.y.mul(2).sub_(self.v))

    def by_label(self, own: Tensor, other: Tensor) -> Tensor:
        """For each pixel, the value of `own` if it is positive, else of `other`, both tables ``[B, C]``."""
        return (self.y * (own - other).unsqueeze(-1)).add_(other.unsqueeze(-1))


class SeparateShares(Piece):
    """Shares of independent labels: p is the probability of a label, and q = 1 - p."""

    def read(self, target: Tensor, number: Tensor, ignore: int) -> tuple[Tensor, Tensor]:
        v = (~number.isnan()).to(number.dtype)
        return torch.where(v > 0, number, 0), v

    def start(self, target: Tensor) -> None:
        z = self.clean(self.x.to(self.y.dtype, copy=True))
        self.log_p_t, self.log_q = F.logsigmoid(z), F.logsigmoid(-z)
        self.p, self.q = z.sigmoid() * self.v, (-z).sigmoid() * self.v
        self.other = self.v - self.y

    def sums(self, key: Sum) -> tuple[Tensor, Tensor]:
        if key.name == "count":
            return self.total(self.y), self.total(self.other)
        if key.name == "soft":
            common = torch.minimum(self.p, self.y)
            return self.total(common), self.total(self.p - common)
        if key.name == "spread":
            return self.total(-self.log_p_t * self.v), self.total(-self.log_q * self.v)
        own, other = pixel_value(key, self.p, self.log_p_t), pixel_value(key, self.q, self.log_q)
        return self.total(self.y * own), self.total(self.other * other)

    def gradient(self, by: Mapping[Sum, Tensor]) -> Tensor:
        by_log_p, by_log_q = torch.zeros_like(self.p), torch.zeros_like(self.p)
        for key, g in by.items():
            own, other = g.unsqueeze(-1)
            if key.name == "soft":
                below = (self.y - self.p).sign_().add_(1).div_(2)
                by_log_p += below.mul_(own - other).add_(other).mul_(self.p)
            elif key.name == "spread":
                by_log_p -= own * self.v
                by_log_q -= other * self.v
            else:
                by_log_p += own * self.y * slope(key, self.p, self.log_p_t)
                by_log_q += other * self.other * slope(key, self.q, self.log_q)
        return by_log_p.mul_(self.q).sub_(by_log_q.mul_(self.p))
