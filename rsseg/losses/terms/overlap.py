"""Terms of region overlap: Dice, Jaccard, Tversky, Focal Tversky, Lovasz."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch  # noqa: F401 (the examples use it)
from torch import Tensor

from rsseg.contract import InputError, number
from rsseg.losses import formulas, lovasz
from rsseg.losses.checks import positive
from rsseg.losses.formulas import Classes, PerClass
from rsseg.losses.sums import SOFT, Needs, Over, Sum, Sums
from rsseg.losses.terms.term import Term


class _Overlap(Term):
    """The one formula of Dice, Jaccard, Tversky and Focal Tversky."""

    sums = (SOFT,)
    soft = True
    rules = {"alpha": number, "beta": number}  # noqa: RUF012
    alpha: float = 1.0
    beta: float = 1.0
    gamma: float = 1.0
    scale: float = 1.0
    smooth: float
    classes: Classes
    over: Over
    class_weights: PerClass

    def from_sums(self, found: Sums) -> Tensor:
        """See the class."""
        numbers = (self.alpha, self.beta, self.gamma, self.scale * self.smooth)
        return formulas.tversky(found, *numbers, self.classes, self.over, self.class_weights)


@dataclass(eq=False, repr=False)
class Dice(_Overlap):
    """Soft Dice (Sudre et al. 2017): the mean over classes of ``1 - (2 TP + s) / (2 TP + FP + FN + s)``.

    A class without a pixel in an otherwise large batch has next to no gradient (about ``s / (FP + s)^2``): add a
    cross-entropy, or use ``over="image"``.

    Args:
        smooth: s, 0 or more; 0 / 0 is a loss of 0.
        classes: `all`, `present` (those in the target) or class numbers: what is averaged over.
        over: `batch`: of the counts of the batch. `image`: the mean of the images' losses.
        class_weights: One number per class, for a weighted mean over classes.

    Example:
        >>> Dice("binary", smooth=0)(torch.zeros(1, 1, 2, 2), torch.ones(1, 2, 2, dtype=torch.uint8))  # 1 - 4 / 6
        tensor(0.3333)
    """

    alpha = beta = scale = 0.5
    smooth: float = 1.0
    classes: Classes = "all"
    over: Over = "batch"
    class_weights: PerClass = None


@dataclass(eq=False, repr=False)
class Jaccard(_Overlap):
    """Soft Jaccard (Rahman & Wang 2016): the mean over classes of ``1 - (TP + s) / (TP + FP + FN + s)``.

    The arguments are those of `Dice`.

    Example:
        >>> Jaccard("binary", smooth=0)(torch.zeros(1, 1, 2, 2), torch.ones(1, 2, 2, dtype=torch.uint8))  # 1 - 2 / 4
        tensor(0.5000)
    """

    smooth: float = 1.0
    classes: Classes = "all"
    over: Over = "batch"
    class_weights: PerClass = None


@dataclass(eq=False, repr=False)
class Tversky(_Overlap):
    """Tversky loss (Salehi et al. 2017): the mean over classes of ``1 - (TP + s) / (TP + alpha FP + beta FN + s)``.

    With alpha = beta = 1/2 and s it is `Dice` with 2s, with alpha = beta = 1 it is `Jaccard`.

    The arguments are those of `Dice`, and these:

    Args:
        alpha: The weight of false positives.
        beta: The weight of false negatives.

    Example:
        >>> half = torch.zeros(1, 1, 2, 2)
        >>> Tversky("binary", alpha=0.3, beta=0.7, smooth=0)(half, torch.ones(1, 2, 2, dtype=torch.uint8))  # .7 / 1.7
        tensor(0.4118)
    """

    alpha: float = 0.5
    beta: float = 0.5
    smooth: float = 1.0
    classes: Classes = "all"
    over: Over = "batch"
    class_weights: PerClass = None


@dataclass(eq=False, repr=False)
class FocalTversky(_Overlap):
    """Focal Tversky loss (Abraham & Khan 2019): the mean over classes of ``(1 - T)^gamma``, T as for `Tversky`.

    The paper writes the exponent ``1 / gamma`` and takes gamma = 4/3: here that is gamma = 0.75. Below 1 it lifts small
    losses, so a class that is nearly right still has a gradient; above 1 it flattens them.

    The arguments are those of `Dice`, and these:

    Args:
        alpha: The weight of false positives.
        beta: The weight of false negatives.
        gamma: The power of a class's loss, 0 or more.

    Example:
        >>> half = torch.zeros(1, 1, 2, 2)
        >>> FocalTversky("binary", 1, 1, 2, smooth=0)(half, torch.ones(1, 2, 2, dtype=torch.uint8))  # (1 - 2 / 4)^2
        tensor(0.2500)
    """

    alpha: float = 0.3
    beta: float = 0.7
    gamma: float = 0.75
    smooth: float = 1.0
    classes: Classes = "all"
    over: Over = "batch"
    class_weights: PerClass = None


@dataclass(eq=False, repr=False)
class LogCoshDice(Dice):
    """Log-cosh Dice (Jadon 2020): the mean over classes of ``log cosh`` of their Dice loss.

    About half its square below a half: steep where a class is lost, flat where it is nearly right. The arguments are those of
    `Dice`.

    Example:
        >>> LogCoshDice("binary", smooth=0)(torch.zeros(1, 1, 2, 2), torch.ones(1, 2, 2, dtype=torch.uint8))  # of 1 / 3
        tensor(0.0546)
    """

    def from_sums(self, found: Sums) -> Tensor:
        """See the class."""
        return formulas.log_cosh_dice(found, self.smooth, self.classes, self.over, self.class_weights)


@dataclass(eq=False, repr=False)
class MCC(Term):
    """One minus Matthews' correlation coefficient (Abhishek & Hamarneh 2021), the mean over classes; 0 to 2.

    ``(TP TN - FP FN) / sqrt((TP + FP) (TP + FN) (TN + FP) (TN + FN))``: unlike overlap losses it counts right background too.

    Args:
        smooth: s, more than 0, added to TP and TN, so that a class without a pixel is judged by its false positives.
        classes: As for `Dice`.
        over: As for `Dice`.

    Example:
        >>> logits = torch.tensor([[[[0.0, -99.0]]]])
        >>> MCC("binary", smooth=1e-6)(logits, torch.tensor([[[1, 0]]]))  # 1 - 0.5 / sqrt(0.5 x 1 x 1 x 1.5)
        tensor(0.4226)
    """

    sums = (SOFT,)
    soft = True
    rules = {"smooth": positive}  # noqa: RUF012
    smooth: float = 1.0
    classes: Classes = "all"
    over: Over = "batch"

    def from_sums(self, found: Sums) -> Tensor:
        """See the class."""
        return formulas.matthews(found, self.smooth, self.classes, self.over)


@dataclass(eq=False, repr=False)
class RegionSize(Term):
    """Region-size term (Liu et al. 2024): the mean over classes of ``|predicted size - true size|``, in shares of the pixels.

    It ignores where a region is: combine it with a cross-entropy.

    Args:
        classes: As for `Dice`.
        over: As for `Dice`; the paper's is `image`.

    Example:
        >>> RegionSize("binary")(torch.zeros(1, 1, 2, 2), torch.ones(1, 2, 2, dtype=torch.uint8))
        tensor(0.5000)
    """

    sums = (SOFT,)
    soft = True
    classes: Classes = "all"
    over: Over = "image"

    def from_sums(self, found: Sums) -> Tensor:
        """See the class."""
        return formulas.region_size(found, self.classes, self.over)


def _bins(name: str, value: Any) -> int | None:
    if value is not None and (type(value) is not int or not 2 <= value <= 4096):
        raise InputError(f"{name} has to be a whole number from 2 to 4096, or null for the exact loss; found {value!r}")
    return value


@dataclass(eq=False, repr=False)
class Lovasz(Term):
    """Lovasz-Softmax for multiclass, Lovasz hinge for binary and multilabel (Berman et al. 2018).

    With ``classes="present"`` a binary batch without a positive gives 0; ``classes="all"`` makes its largest error the
    loss.

    With `bins` the errors are ``|y - p|`` for every task (for binary and multilabel another loss than the hinge), rounded to
    that many levels. The loss then takes no sort but joins the one pass. Its value is within ``1 / (2 bins - 2)`` of that of
    the errors as they are; a class of a few tens of pixels, whose errors fill few levels, is better served exactly.

    The arguments are those of `Dice` but `smooth`, and:

    Args:
        bins: The number of levels, 2 or more; None: exact.

    Example:
        >>> Lovasz("binary")(torch.tensor([[[[3.0, -3.0]]]]), torch.tensor([[[1, 1]]]))  # half of the error 1 + 3
        tensor(2.)
    """

    rules = {"bins": _bins}  # noqa: RUF012
    bins: int | None = None
    classes: Classes = "present"
    over: Over = "batch"
    class_weights: PerClass = None

    @property
    def needs(self) -> Needs:
        """The histogram of errors, unless the loss is exact."""
        return [] if self.bins is None else [(Sum("levels", self.bins), self.over)]

    def from_sums(self, found: Sums) -> Tensor:
        """See the class."""
        assert self.bins is not None
        return formulas.lovasz_binned(found, self.bins, self.classes, self.over, self.class_weights)

    def formula(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        """See the class."""
        if self.bins is not None:
            return super().formula(logits, target, weight)
        return lovasz.lovasz(self.planes(logits, target, weight), self.classes, self.over, self.class_weights)
