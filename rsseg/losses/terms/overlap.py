"""Terms of region overlap, functions of true and false positives: Dice, Jaccard, Tversky, Focal Tversky, MCC, region size."""

from __future__ import annotations

from dataclasses import KW_ONLY

import torch
from torch import Tensor

from rsseg.contract import check_number
from rsseg.losses.checks import positive
from rsseg.losses.sums import COUNT, SOFT, Over, Sums
from rsseg.losses.terms.base import ClassMean, PerClass, or_one, weights


def tversky(tp: Tensor, fp: Tensor, own: Tensor, alpha: float | Tensor, beta: float | Tensor, smooth: float) -> Tensor:
    """``1 - (TP + s) / (TP + alpha FP + beta FN + s)`` of true and false positives and own pixels; 0 / 0 is a loss of 0."""
    smooth = smooth + torch.finfo(tp.dtype).tiny ** 0.5
    return 1 - (tp + smooth) / (beta * own + smooth + (1 - beta) * tp + alpha * fp)


class _Overlap(ClassMean):
    """The common formula of Dice, Jaccard, Tversky and Focal Tversky; Dice has alpha = beta = 1/2 and s/2."""

    sums = (SOFT,)
    soft = True
    rules = {"alpha": check_number, "beta": check_number}
    alpha = beta = scale = 1.0
    smooth = 1.0
    _: KW_ONLY
    class_weights: PerClass = None

    def from_sums(self, found: Sums) -> Tensor:
        own, other, tp, fp = self.counts(found)
        losses = self.of_class(tversky(tp, fp, own, self.alpha, self.beta, self.scale * self.smooth))
        return self.class_mean(losses, own, other, weights(self.class_weights, found[COUNT], "class_weights"))

    def of_class(self, losses: Tensor) -> Tensor:
        """The losses that are averaged over classes, from ``1 - T`` of each class."""
        return losses


class Dice(_Overlap):
    """Soft Dice (Sudre et al. 2017): the mean over classes of ``1 - (2 TP + s) / (2 TP + FP + FN + s)``.

    The gradient of a class without pixels in a large batch is close to 0 (about ``s / (FP + s)^2``): add a cross-entropy, or
    use ``over="image"``.

    Args:
        smooth: s, 0 or more; 0 / 0 is a loss of 0.
        class_weights: One number per class, for a weighted mean over classes.

    Example:
        >>> Dice("binary", smooth=0)(torch.zeros(1, 1, 2, 2), torch.ones(1, 2, 2, dtype=torch.uint8))  # 1 - 4 / 6
        tensor(0.3333)
    """

    alpha = beta = scale = 0.5
    smooth: float = 1.0


class Jaccard(_Overlap):
    """Soft Jaccard (Rahman & Wang 2016): the mean over classes of ``1 - (TP + s) / (TP + FP + FN + s)``.

    Example:
        >>> Jaccard("binary", smooth=0)(torch.zeros(1, 1, 2, 2), torch.ones(1, 2, 2, dtype=torch.uint8))  # 1 - 2 / 4
        tensor(0.5000)
    """

    smooth: float = 1.0


class Tversky(_Overlap):
    """Tversky loss (Salehi et al. 2017): the mean over classes of ``1 - (TP + s) / (TP + alpha FP + beta FN + s)``.

    `alpha` weights false positives, `beta` false negatives. With both 1/2 it is `Dice` with 2s, with both 1 `Jaccard`.

    Example:
        >>> half = torch.zeros(1, 1, 2, 2)
        >>> Tversky("binary", alpha=0.3, beta=0.7, smooth=0)(half, torch.ones(1, 2, 2, dtype=torch.uint8))  # .7 / 1.7
        tensor(0.4118)
    """

    alpha: float = 0.5
    beta: float = 0.5
    smooth: float = 1.0


class FocalTversky(_Overlap):
    """Focal Tversky loss (Abraham & Khan 2019): the mean over classes of ``(1 - T)^gamma``, T as for `Tversky`.

    The paper's exponent is ``1 / gamma`` with gamma = 4/3, which is gamma = 0.75 here. A gamma below 1 increases small losses,
    so that nearly correct classes keep a gradient; above 1 it decreases them. A loss of 0 has no gradient.

    Example:
        >>> half = torch.zeros(1, 1, 2, 2)
        >>> FocalTversky("binary", 1, 1, 2, smooth=0)(half, torch.ones(1, 2, 2, dtype=torch.uint8))  # (1 - 2 / 4)^2
        tensor(0.2500)
    """

    alpha: float = 0.3
    beta: float = 0.7
    gamma: float = 0.75
    smooth: float = 1.0

    def of_class(self, losses: Tensor) -> Tensor:
        if self.gamma == 1:
            return losses
        least = torch.finfo(losses.dtype).eps
        return losses.clamp(min=least) ** self.gamma * (losses > least)


class LogCoshDice(Dice):
    """Log-cosh Dice (Jadon 2020): the mean over classes of ``log cosh`` of their Dice loss.

    About half the square of the Dice loss if that is small: steep for missed classes, flat for nearly correct ones.

    Example:
        >>> LogCoshDice("binary", smooth=0)(torch.zeros(1, 1, 2, 2), torch.ones(1, 2, 2, dtype=torch.uint8))  # of 1 / 3
        tensor(0.0546)
    """

    def of_class(self, losses: Tensor) -> Tensor:
        return losses.cosh().log()


class MCC(ClassMean):
    """One minus Matthews' correlation coefficient (Abhishek & Hamarneh 2021), the mean over classes; 0 to 2.

    ``(TP TN - FP FN) / sqrt((TP + FP) (TP + FN) (TN + FP) (TN + FN))``: unlike overlap losses, it depends on true negatives.
    `smooth`, more than 0, is added to TP and TN, so that false positives count for a class without pixels.

    Example:
        >>> logits = torch.tensor([[[[0.0, -99.0]]]])
        >>> MCC("binary", smooth=1e-6)(logits, torch.tensor([[[1, 0]]]))  # 1 - 0.5 / sqrt(0.5 x 1 x 1 x 1.5)
        tensor(0.4226)
    """

    sums = (SOFT,)
    soft = True
    rules = {"smooth": positive}
    smooth: float = 1.0

    def from_sums(self, found: Sums) -> Tensor:
        own, other, tp, fp = self.counts(found)
        fn, tn = own - tp, other - fp + self.smooth
        tp = tp + self.smooth
        spread = ((tp + fp) * (tp + fn)).sqrt() * ((tn + fp) * (tn + fn)).sqrt()
        return self.class_mean(1 - (tp * tn - fp * fn) / spread, own, other)


class RegionSize(ClassMean):
    """Region-size term (Liu et al. 2024): the mean over classes of ``|predicted size - true size|``, in shares of the pixels.

    It does not depend on a region's location: combine it with a cross-entropy. As in the paper, `over` is `image` by default.

    Example:
        >>> RegionSize("binary")(torch.zeros(1, 1, 2, 2), torch.ones(1, 2, 2, dtype=torch.uint8))
        tensor(0.5000)
    """

    sums = (SOFT,)
    soft = True
    _: KW_ONLY
    over: Over = "image"

    def from_sums(self, found: Sums) -> Tensor:
        own, other, tp, fp = self.counts(found)
        return self.class_mean((tp + fp - own).abs() / or_one(own + other), own, other)
