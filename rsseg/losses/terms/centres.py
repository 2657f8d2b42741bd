"""Terms for the detection of objects by their centres (CenterNet, Zhou et al. 2019).

Logits and target are ``[B, K + 4, H, W]``: a heat for each of K classes, height and width, and the centre's offset down and
across in its pixel. `rsseg.task.Centres.standardise` makes the target: heat is from 0 to 1, and 1 at pixels with a centre;
sides and offsets are NaN at all other pixels. NaN means unknown, and does not count.
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
        alpha: The focusing exponent, 1 or more; a larger alpha reduces the loss of easy pixels more.
        beta: The exponent of the penalty reduction near centres, 0 or more.

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
        """The loss of all pixels of each image, and its number of centres."""
        z, y = (x[:, :-4].to(wide(logits)) for x in (logits, target))
        share = pixel_share(~y.isnan(), weight, z.dtype)
        z, y = (x.masked_fill(share == 0, 0) for x in (z, y))
        hit, miss, centre = F.logsigmoid(z), F.logsigmoid(-z), y == 1
        of_centres = -miss.exp().pow(self.alpha) * hit
        of_others = -(1 - y).pow(self.beta) * hit.exp().pow(self.alpha) * miss
        cost = torch.where(centre, of_centres, of_others)
        return (cost * share).sum((1, 2, 3)), (centre * share).sum((1, 2, 3))


class _Pairs(Quotient):
    """The mean smooth L1 of two planes over the pixels that contain centres.

    Args:
        beta: The error above which the loss is linear, more than 0.
    """

    tasks = ("centres",)
    place: ClassVar[slice]
    rules = {"beta": positive}
    task: str = "centres"
    _: KW_ONLY
    beta: float = 1.0

    def parts(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        """The loss of all centres of each image, and twice their number, once for each plane."""
        of_error = partial(smooth_l1, beta=self.beta)
        return weighted_errors(logits[:, self.place], target[:, self.place], of_error, weight=weight)


class SizeSmoothL1(_Pairs):
    """Smooth L1 of height and width at the centres, linear above `beta`.

    In a run, sizes are standardised by those of the training objects.

    Example:
        >>> target = torch.full((1, 5, 1, 2), torch.nan)
        >>> target[0, 1:3, 0, 0] = torch.tensor([3.0, 0.0])
        >>> SizeSmoothL1()(torch.zeros(1, 5, 1, 2), target)  # (2.5 + 0) / 2
        tensor(1.2500)
    """

    place = slice(-4, -2)


class OffsetSmoothL1(_Pairs):
    """Smooth L1 of a centre's offset in its pixel, down and across, linear above `beta` pixels.

    Example:
        >>> target = torch.full((1, 5, 1, 1), 0.5)
        >>> OffsetSmoothL1()(torch.zeros(1, 5, 1, 1), target)
        tensor(0.1250)
    """

    place = slice(-2, None)
