"""Terms that are means over pixels of a function of the label's probability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rsseg.contract import InputError, number
from rsseg.losses import formulas
from rsseg.losses.checks import SEGMENTATION, per_class
from rsseg.losses.formulas import PerClass
from rsseg.losses.sums import NLL, SPREAD, Needs, Over, Sum, Sums
from rsseg.losses.terms.term import Term
from rsseg.task import TASKS


@dataclass(eq=False, repr=False)
class CrossEntropy(Term):
    """Cross-entropy: softmax for multiclass, sigmoid (`BinaryCrossEntropy`) for binary and multilabel.

    Multiclass: ``sum w_t (-log p_t) / sum w_t``, as `torch.nn.CrossEntropyLoss`.

    Args:
        class_weights: Multiclass only, one number per class.
        pos_weight: Binary and multilabel only, the weight of positives: a number, or one per label.
        label_smoothing: Between 0 and 1.
        over: `batch`, or `image` for the mean of the images' losses.

    Example:
        >>> CrossEntropy("multiclass")(torch.zeros(1, 4, 2, 2), torch.ones(1, 2, 2, dtype=torch.uint8))
        tensor(1.3863)
    """

    soft = True
    class_weights: PerClass = None
    pos_weight: float | PerClass = None
    label_smoothing: float = 0.0
    over: Over = "batch"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.exclusive and self.pos_weight is not None:
            raise InputError("pos_weight is for binary and multilabel heads; for multiclass use class_weights")
        if not self.exclusive and self.class_weights is not None:
            raise InputError(f"class_weights is for multiclass heads; for {self.task} use pos_weight")

    @property
    def needs(self) -> Needs:
        """The pixels' negative log-likelihoods."""
        return [(NLL, self.over), *([(SPREAD, self.over)] if self.label_smoothing else [])]

    def from_sums(self, found: Sums) -> Tensor:
        """See the class."""
        if self.exclusive:
            return formulas.cross_entropy(found, self.class_weights, self.label_smoothing, self.over)
        return formulas.binary_cross_entropy(found, self.pos_weight, self.label_smoothing, self.over)


@dataclass(eq=False, repr=False)
class BinaryCrossEntropy(Term):
    """Sigmoid cross-entropy: the mean of ``-(w y log p + (1 - y) log(1 - p))`` over the valid entries.

    Args:
        pos_weight: The weight w of positives: a number, or one per label.
        over: `batch`, or `image` for the mean of the images' losses.

    Example:
        >>> BinaryCrossEntropy("binary")(torch.zeros(1, 1, 2, 2), torch.ones(1, 2, 2, dtype=torch.uint8))
        tensor(0.6931)
    """

    tasks = tuple(kind for kind in SEGMENTATION if not TASKS[kind].exclusive)
    sums = (NLL,)
    soft = True
    pos_weight: float | PerClass = None
    over: Over = "batch"

    def from_sums(self, found: Sums) -> Tensor:
        """See the class."""
        return formulas.binary_cross_entropy(found, self.pos_weight, over=self.over)


@dataclass(eq=False, repr=False)
class Focal(Term):
    """Focal loss (Lin et al. 2017): the mean of ``-alpha_t (1 - p_t)^gamma log p_t`` over the valid pixels.

    ``p_t`` is the probability of the target, by softmax for multiclass and by sigmoid else.

    Args:
        gamma: 0 or more; 0 is cross-entropy.
        alpha: Multiclass: one number per class. Else one number from 0 to 1 for positives; negatives get 1 - alpha.
        over: `batch`, or `image` for the mean of the images' losses.

    Example:
        >>> Focal("binary")(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, dtype=torch.uint8))  # 0.25 log 2
        tensor(0.1733)
    """

    soft = True
    gamma: float = 2.0
    alpha: Any = None
    over: Over = "batch"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.exclusive:
            self.alpha = per_class("alpha", self.alpha)
        elif self.alpha is not None:
            self.alpha = number("alpha", self.alpha, high=1.0)

    @property
    def needs(self) -> Needs:
        """The pixels' focal values."""
        return [(Sum("focal", self.gamma), self.over)]

    def from_sums(self, found: Sums) -> Tensor:
        """See the class."""
        formula = formulas.focal if self.exclusive else formulas.binary_focal
        return formula(found, self.gamma, self.alpha, self.over)
