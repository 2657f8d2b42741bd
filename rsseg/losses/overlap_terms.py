"""Loss terms of overlap: Dice, Jaccard, Tversky, Focal Tversky and Lovasz. See `terms` for what they share."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rsseg.contract import InputError, number
from rsseg.losses import functional as F
from rsseg.losses.terms import PerClass, Term


@dataclass(eq=False, repr=False)
class Dice(Term):
    """Soft Dice (Sudre et al. 2017): the mean over classes of ``1 - (2 TP + s) / (2 TP + FP + FN + s)``.

    A class without a pixel in an otherwise large batch has next to no gradient (about ``s / (FP + s)^2``): add a
    cross-entropy, or use ``over="image"``.

    Args:
        task: `binary`, `multiclass` or `multilabel`.
        smooth: s, 0 or more; 0 / 0 is a loss of 0.
        classes: `all`, `present` (those in the target) or class numbers: what is averaged over.
        over: `batch`: of the counts of the batch. `image`: the mean of the images' losses.
        class_weights: One number per class, for a weighted mean over classes.
        ignore_index: The label of pixels that do not count.

    Raises:
        InputError: For arguments that do not fit.

    Example:
        >>> import torch
        >>> Dice("binary", smooth=0)(torch.zeros(1, 1, 2, 2), torch.ones(1, 2, 2, dtype=torch.uint8))  # 1 - 4 / 6
        tensor(0.3333)
    """

    sums = (F.SOFT,)
    smooth: float = 1.0
    classes: F.Classes = "all"
    over: F.Over = "batch"
    class_weights: PerClass = None

    def from_statistics(self, found: F.Statistics) -> Tensor:
        """See the class."""
        return F.tversky(found, 0.5, 0.5, 1.0, self.smooth / 2, self.classes, self.over, self.class_weights_)


@dataclass(eq=False, repr=False)
class Jaccard(Term):
    """Soft Jaccard (Rahman & Wang 2016): the mean over classes of ``1 - (TP + s) / (TP + FP + FN + s)``.

    Args:
        task: `binary`, `multiclass` or `multilabel`.
        smooth: s, 0 or more; 0 / 0 is a loss of 0.
        classes: As for `Dice`.
        over: As for `Dice`.
        class_weights: As for `Dice`.
        ignore_index: The label of pixels that do not count.

    Raises:
        InputError: For arguments that do not fit.

    Example:
        >>> import torch
        >>> Jaccard("binary", smooth=0)(torch.zeros(1, 1, 2, 2), torch.ones(1, 2, 2, dtype=torch.uint8))  # 1 - 2 / 4
        tensor(0.5000)
    """

    sums = (F.SOFT,)
    smooth: float = 1.0
    classes: F.Classes = "all"
    over: F.Over = "batch"
    class_weights: PerClass = None

    def from_statistics(self, found: F.Statistics) -> Tensor:
        """See the class."""
        return F.tversky(found, 1.0, 1.0, 1.0, self.smooth, self.classes, self.over, self.class_weights_)


@dataclass(eq=False, repr=False)
class Tversky(Term):
    """Tversky loss (Salehi et al. 2017): the mean over classes of ``1 - (TP + s) / (TP + alpha FP + beta FN + s)``.

    With alpha = beta = 1/2 and s it is `Dice` with 2s, with alpha = beta = 1 it is `Jaccard`.

    Args:
        task: `binary`, `multiclass` or `multilabel`.
        alpha: The weight of false positives.
        beta: The weight of false negatives.
        smooth: s, 0 or more; 0 / 0 is a loss of 0.
        classes: As for `Dice`.
        over: As for `Dice`.
        class_weights: As for `Dice`.
        ignore_index: The label of pixels that do not count.

    Raises:
        InputError: For arguments that do not fit.

    Example:
        >>> import torch
        >>> half = torch.zeros(1, 1, 2, 2)
        >>> Tversky("binary", alpha=0.3, beta=0.7, smooth=0)(half, torch.ones(1, 2, 2, dtype=torch.uint8))  # .7 / 1.7
        tensor(0.4118)
    """

    sums = (F.SOFT,)
    alpha: float = 0.5
    beta: float = 0.5
    smooth: float = 1.0
    classes: F.Classes = "all"
    over: F.Over = "batch"
    class_weights: PerClass = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.alpha, self.beta = number("alpha", self.alpha), number("beta", self.beta)

    def from_statistics(self, found: F.Statistics) -> Tensor:
        """See the class."""
        return F.tversky(found, self.alpha, self.beta, 1.0, self.smooth, self.classes, self.over, self.class_weights_)


@dataclass(eq=False, repr=False)
class FocalTversky(Term):
    """Focal Tversky loss (Abraham & Khan 2019): the mean over classes of ``(1 - T)^gamma``, T as for `Tversky`.

    The paper writes the exponent ``1 / gamma`` and takes gamma = 4/3: here that is gamma = 0.75. Below 1 it lifts small
    losses, so a class that is nearly right still has a gradient; above 1 it flattens them.

    Args:
        task: `binary`, `multiclass` or `multilabel`.
        alpha: The weight of false positives.
        beta: The weight of false negatives.
        gamma: The power of a class's loss, 0 or more.
        smooth: As for `Tversky`.
        classes: As for `Dice`.
        over: As for `Dice`.
        class_weights: As for `Dice`.
        ignore_index: The label of pixels that do not count.

    Raises:
        InputError: For arguments that do not fit.

    Example:
        >>> import torch
        >>> half = torch.zeros(1, 1, 2, 2)
        >>> FocalTversky("binary", 1, 1, 2, smooth=0)(half, torch.ones(1, 2, 2, dtype=torch.uint8))  # (1 - 2 / 4)^2
        tensor(0.2500)
    """

    sums = (F.SOFT,)
    alpha: float = 0.3
    beta: float = 0.7
    gamma: float = 0.75
    smooth: float = 1.0
    classes: F.Classes = "all"
    over: F.Over = "batch"
    class_weights: PerClass = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.alpha, self.beta = number("alpha", self.alpha), number("beta", self.beta)

    def from_statistics(self, found: F.Statistics) -> Tensor:
        """See the class."""
        numbers = (self.alpha, self.beta, self.gamma, self.smooth)
        return F.tversky(found, *numbers, self.classes, self.over, self.class_weights_)


@dataclass(eq=False, repr=False)
class Lovasz(Term):
    """Lovasz-Softmax for multiclass, Lovasz hinge for binary and multilabel (Berman et al. 2018).

    With ``classes="present"`` a binary batch without a positive gives 0; ``classes="all"`` makes its largest error the
    loss.

    With `bins` the errors are ``|y - p|`` for binary and multilabel too, and rounded to that many levels. That takes no
    sort but joins the one pass. The value is within ``1 / (2 bins - 2)`` of the
    exact one; a class of a few tens of pixels, whose errors fill few levels, is better served exactly.

    Args:
        task: `binary`, `multiclass` or `multilabel`.
        bins: The number of levels, 2 or more; None: exact.
        classes: As for `Dice`.
        over: As for `Dice`.
        class_weights: As for `Dice`.
        ignore_index: The label of pixels that do not count.

    Raises:
        InputError: For arguments that do not fit.

    Example:
        >>> import torch
        >>> Lovasz("binary")(torch.tensor([[[[3.0, -3.0]]]]), torch.tensor([[[1, 1]]]))  # half of the error 1 + 3
        tensor(2.)
    """

    bins: int | None = None
    classes: F.Classes = "present"
    over: F.Over = "batch"
    class_weights: PerClass = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bins is not None and (type(self.bins) is not int or not 2 <= self.bins <= 4096):
            raise InputError(f"bins has to be a whole number from 2 to 4096, or null for the exact loss; found {self.bins!r}")

    @property
    def needs(self) -> F.Needs:
        """The histogram of errors, unless the loss is exact."""
        return [] if self.bins is None else [(F.Sum("levels", self.bins), self.over)]

    def from_statistics(self, found: F.Statistics) -> Tensor:
        """See the class."""
        assert self.bins is not None
        return F.lovasz_levels(found, self.bins, self.classes, self.over, self.class_weights_)

    def formula(self, logits: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        if self.bins is not None:
            return super().formula(logits, target)
        return F.lovasz(logits, target, self.task, self.classes, self.over, self.class_weights_, self.ignore_index)
