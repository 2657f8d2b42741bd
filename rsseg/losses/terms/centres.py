"""Terms of objects that are found by their centres (CenterNet, Zhou et al. 2019).

Logits and target are ``[B, K + 4, H, W]``: a heat for each of K classes, height and width, and the centre's offset down and
across in its pixel. In a target, which `rsseg.task.Centres.standardise` makes, heat lies from 0 to 1 and is 1 in the pixels of
centres; sides and offsets are NaN everywhere else. NaN means "not known", and does not count.
"""

from __future__ import annotations

from dataclasses import KW_ONLY
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from rsseg.contract import check_number
from rsseg.losses.checks import positive
from rsseg.losses.pieces import pixel_share, wide
from rsseg.losses.terms.regression import Quotient, smooth_l1, weighted_errors


class HeatFocal(Quotient):
    """The penalty-reduced focal loss of the heat (Law & Deng 2018), divided by the number of centres, or by 1 without any.

    A centre's pixel costs ``-(1 - p)^alpha log p``; any other ``-(1 - y)^beta p^alpha log(1 - p)``, less near a centre, where
    its heat y is high.

    Args:
        alpha: How much easy pixels fade, 1 or more.
        beta: How much the penalty is reduced near centres, 0 or more.

    Example:
        >>> logits, target = torch.zeros(1, 5, 1, 2), torch.tensor([1.0, 0.5]).expand(1, 5, 1, 2)
        >>> HeatFocal()(logits, target)  # (0.25 + 0.5^4 * 0.25) log 2
        tensor(0.1841)
    """

    tasks = ("centres",)
    rules = {"alpha": partial(check_number, low=1.0), "beta": check_number}
    task: str = "centres"
    _: KW_ONLY
    alpha: float = 2.0
    beta: float = 4.0

    def parts(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        """The cost of all pixels, and the number of centres."""
        z, y = (x[:, :-4].to(wide(logits)) for x in (logits, target))
        share = pixel_share(~y.isnan(), weight, z.dtype)
        z, y = (x.masked_fill(share == 0, 0) for x in (z, y))
        hit, miss, centre = F.logsigmoid(z), F.logsigmoid(-z), y == 1
        of_centres = -miss.exp().pow(self.alpha) * hit
        of_others = -(1 - y).pow(self.beta) * hit.exp().pow(self.alpha) * miss
        cost = torch.where(centre, of_centres, of_others)
        return (cost * share).sum((1, 2, 3)), (centre * share).sum((1, 2, 3))


class _Pairs(Quotient):
    """The mean smooth L1 of two planes over the pixels that centres lie in.

    Args:
        beta: From which error on the loss is straight, more than 0.
    """

    tasks = ("centres",)
    place: ClassVar[slice]
    rules = {"beta": positive}
    task: str = "centres"
    _: KW_ONLY
    beta: float = 1.0

    def parts(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        """The errors of all centres, and their number twice."""
        of_error = partial(smooth_l1, beta=self.beta)
        return weighted_errors(logits[:, self.place], target[:, self.place], of_error, weight=weight)


class SizeSmoothL1(_Pairs):
    """Smooth L1 of height and width at the centres, straight from `beta` on.

    A run standardises sizes by the objects in training.

    Example:
        >>> target = torch.full((1, 5, 1, 2), torch.nan)
        >>> target[0, 1:3, 0, 0] = torch.tensor([3.0, 0.0])
        >>> SizeSmoothL1()(torch.zeros(1, 5, 1, 2), target)  # (2.5 + 0) / 2
        tensor(1.2500)
    """

    place = slice(-4, -2)


class OffsetSmoothL1(_Pairs):
    """Smooth L1 of where in its pixel a centre lies, down and across, straight from `beta` pixels on.

    Example:
        >>> target = torch.full((1, 5, 1, 1), 0.5)
        >>> OffsetSmoothL1()(torch.zeros(1, 5, 1, 1), target)
        tensor(0.1250)
    """

    place = slice(-2, None)
