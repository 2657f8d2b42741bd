"""Some pixels of a batch with a target of class shares: the sums that they add, and the gradient that they get."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from rsseg.losses.pieces import Piece, finite, pixel_value, slope, wide

if TYPE_CHECKING:
    from rsseg.losses.sums import Sum


class Soft(Piece):
    """Pixels with a share of every class.

    Attributes:
        log_p: ``[b, C, n]``, the logarithm of the probability of each class.
        p: The probability; 0 where ignored.
        log_q: The logarithm of the probability of the rest; 0 for exclusive classes, whose sums are over own pixels alone.
        q: The probability of the rest; 1 for exclusive classes.
    """

    log_p: Tensor
    p: Tensor
    log_q: Tensor
    q: Tensor

    def read(self, target: Tensor, classes: int, ignore: int) -> tuple[Tensor, Tensor]:
        """See `Piece`."""
        shares = target.to(wide(self.x))
        v = self.known(shares).to(shares.dtype)
        return torch.where(v > 0, shares, torch.zeros_like(shares)), v

    def known(self, shares: Tensor) -> Tensor:
        """Where shares are known, bool ``[b, 1 or C, n]``."""
        return ~shares.isnan()

    def sums(self, key: Sum) -> tuple[Tensor, Tensor]:
        """See `Piece`."""
        rest = self.v - self.y
        if key.name == "count":
            return self.total(self.y), self.total(rest)
        if key.name == "soft":
            common = torch.minimum(self.p, self.y)
            return self.total(common), self.total(self.p - common)
        if key.name == "spread":
            return self.total(-self.log_p * self.v), self.total(-self.log_q * self.v)
        own = self.y * pixel_value(key, self.p, self.log_p)
        return self.total(own), self.total(rest * pixel_value(key, self.q, self.log_q))

    def by_log_p(self, by: Mapping[Sum, Tensor]) -> Tensor:
        """The gradient with respect to `log_p`."""
        out = torch.zeros_like(self.p)
        for key, g in by.items():
            own, other = g.unsqueeze(-1)
            if key.name == "soft":
                below = (torch.sign(self.y - self.p) + 1) / 2
                out += self.p * (other + (own - other) * below)
            elif key.name == "spread":
                out -= own * self.v
            else:
                out += own * self.y * slope(key, self.p, self.log_p)
        return out


class SoftmaxShares(Soft):
    """Shares of classes that exclude each other."""

    def known(self, shares: Tensor) -> Tensor:
        """See `Soft`."""
        return super().known(shares).all(1, keepdim=True)

    def start(self, target: Tensor) -> None:
        """See `Piece`."""
        self.log_p = finite(self.clean(self.x.log_softmax(1, dtype=self.y.dtype)))
        self.p = self.log_p.exp() * self.v
        self.log_q, self.q = (self.y.new_full((), value).expand_as(self.y) for value in (0, 1))

    def gradient(self, by: Mapping[Sum, Tensor]) -> Tensor:
        """See `Piece`."""
        slope = self.by_log_p(by)
        return slope - self.p * slope.sum(1, keepdim=True)


class SigmoidShares(Soft):
    """Shares of labels each on its own."""

    def start(self, target: Tensor) -> None:
        """See `Piece`."""
        z = self.clean(self.x.to(self.y.dtype, copy=True))
        self.log_p, self.log_q = F.logsigmoid(z), F.logsigmoid(-z)
        self.p, self.q = z.sigmoid() * self.v, (-z).sigmoid() * self.v

    def gradient(self, by: Mapping[Sum, Tensor]) -> Tensor:
        """See `Piece`."""
        by_log_q = torch.zeros_like(self.p)
        for key, g in by.items():
            other = g[1].unsqueeze(-1)
            if key.name == "spread":
                by_log_q -= other * self.v
            elif key.name != "soft":
                by_log_q += other * (self.v - self.y) * slope(key, self.q, self.log_q)
        return self.by_log_p(by) * self.q - by_log_q * self.p
