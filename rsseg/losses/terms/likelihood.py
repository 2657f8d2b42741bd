"""Terms that are means over pixels of a function of the logits and the label."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch  # noqa: F401 (the examples use it)
from torch import Tensor

from rsseg.contract import InputError, number
from rsseg.losses import formulas, pixelwise
from rsseg.losses.checks import SEGMENTATION, per_class, share
from rsseg.losses.formulas import PerClass
from rsseg.losses.sums import NLL, SOFT, SPREAD, Needs, Over, Sum, Sums, pixel_sums
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


@dataclass(eq=False, repr=False)
class GeneralizedCrossEntropy(Term):
    """Generalised cross-entropy (Zhang & Sabuncu 2018), for wrong labels: the mean of ``(1 - p_t^q) / q``.

    Between cross-entropy (q near 0) and the absolute error (q = 1): a pixel that contradicts its label more and more pulls
    less and less, so wrong labels are not learnt by heart. The higher q is, the slower the right ones are learnt.

    Args:
        q: Above 0 and up to 1.
        over: `batch`, or `image` for the mean of the images' losses.

    Example:
        >>> GeneralizedCrossEntropy("binary", q=1)(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, dtype=torch.uint8))
        tensor(0.5000)
    """

    soft = True
    rules = {"q": share}  # noqa: RUF012
    q: float = 0.7
    over: Over = "batch"

    @property
    def needs(self) -> Needs:
        """The pixels' powers."""
        return [(Sum("power", self.q), self.over)]

    def from_sums(self, found: Sums) -> Tensor:
        """See the class."""
        return formulas.pixel_mean(found, Sum("power", self.q), self.exclusive, self.over)


@dataclass(eq=False, repr=False)
class SymmetricCrossEntropy(Term):
    """Symmetric cross-entropy (Wang et al. 2019), for wrong labels: alpha times cross-entropy plus beta times the reverse.

    Reverse cross-entropy, ``-sum_c p_c log y_c`` with -4 for the logarithm of 0, is ``4 (1 - p_t)``. It tells no pixel from
    another that is as wrong, and so tolerates wrong labels; cross-entropy makes it converge.

    Args:
        alpha: The weight of cross-entropy.
        beta: The weight of reverse cross-entropy.
        over: `batch`, or `image` for the mean of the images' losses.

    Example:
        >>> SymmetricCrossEntropy("binary", 0, 1)(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, dtype=torch.uint8))
        tensor(2.)
    """

    sums = (NLL, SOFT)
    rules = {"alpha": number, "beta": number}  # noqa: RUF012
    alpha: float = 0.1
    beta: float = 1.0
    over: Over = "batch"

    def from_sums(self, found: Sums) -> Tensor:
        """See the class."""
        return formulas.likelihood_and_error(found, self.exclusive, self.alpha, 4 * self.beta, self.over)


@dataclass(eq=False, repr=False)
class Poly1CrossEntropy(Term):
    """Poly-1 (Leng et al. 2022): the mean of ``-log p_t + epsilon (1 - p_t)``.

    Cross-entropy is ``sum_j (1 - p_t)^j / j``; epsilon changes the first coefficient, that of pixels nearly right.

    Args:
        epsilon: -1 or more; at -1 pixels nearly right have no gradient, as in focal loss.
        over: `batch`, or `image` for the mean of the images' losses.

    Example:
        >>> Poly1CrossEntropy("binary")(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, dtype=torch.uint8))  # log 2 + 1 / 2
        tensor(1.1931)
    """

    sums = (NLL, SOFT)
    rules = {"epsilon": partial(number, low=-1.0)}  # noqa: RUF012
    epsilon: float = 1.0
    over: Over = "batch"

    def from_sums(self, found: Sums) -> Tensor:
        """See the class."""
        return formulas.likelihood_and_error(found, self.exclusive, 1.0, self.epsilon, self.over)


@dataclass(eq=False, repr=False)
class TopKCrossEntropy(Term):
    """Cross-entropy of the hardest pixels alone (Wu et al. 2016; OHEM, online hard example mining, Shrivastava et al. 2016).

    The mean over the `fraction` of the valid pixels (multilabel: entries) with the largest cross-entropy in the global batch,
    or in each image. Easy pixels have no gradient. Wrong labels are usually among the hardest pixels, so they count for more.

    Args:
        fraction: Above 0 and up to 1; 1 is cross-entropy.
        over: `batch`, or `image` for the mean of the images' losses.

    Example:
        >>> logits = torch.tensor([[[[0.0, 9.0, 9.0, 9.0]]]])
        >>> TopKCrossEntropy("binary", fraction=0.25)(logits, torch.ones(1, 1, 4, dtype=torch.uint8))
        tensor(0.6931)
    """

    rules = {"fraction": share}  # noqa: RUF012
    fraction: float = 0.1
    over: Over = "batch"

    def formula(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        """See the class."""
        return pixelwise.top_k_cross_entropy(self.planes(logits, target, weight), self.fraction, self.over)


@dataclass(eq=False, repr=False)
class LogitAdjustedCrossEntropy(Term):
    """Logit-adjusted cross-entropy (Menon et al. 2021): of the logits plus `tau` times the logarithm of the class priors.

    The offset is added in training only; predictions then treat all classes as equally frequent, which serves the mean of the
    classes' accuracies, as biases that are tuned after training do. A sigmoid's logit is adjusted by
    ``tau log(prior / (1 - prior))``.

    Args:
        priors: The share of each class in the training pixels (multilabel: of each label in its own); in a config, `counted`.
        tau: 0 is cross-entropy, 1 the paper's.
        over: `batch`, or `image` for the mean of the images' losses.

    Example:
        >>> term = LogitAdjustedCrossEntropy("binary", priors=[0.2])
        >>> term(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, dtype=torch.uint8))  # -log 0.2
        tensor(1.6094)
    """

    soft = True
    rules = {"priors": per_class, "tau": number}  # noqa: RUF012
    priors: Any
    tau: float = 1.0
    over: Over = "batch"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.priors is None or not all(0 < p < 1 for p in self.priors):
            raise InputError(f"priors are one number per class, each above 0 and below 1; found {self.priors}")

    def formula(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        """See the class."""
        adjusted = pixelwise.adjust(logits, self.exclusive, self.priors, self.tau)
        found = pixel_sums(adjusted, target, self.task, [(NLL, self.over)], self.ignore_index, weight)
        return formulas.pixel_mean(found, NLL, self.exclusive, self.over)


@dataclass(eq=False, repr=False)
class LogitMargin(Term):
    """What margin-based label smoothing (Liu et al. 2022) adds to cross-entropy, for calibrated probabilities.

    The mean over pixels and classes of ``max(0, max_j z_j - z_c - m)``: logits may lie up to m apart at no cost, where label
    smoothing draws them to one distance. A sigmoid's logit z stands for two classes with the logits 0 and z. It says nothing
    of the label: add it to a cross-entropy, with a small weight (the paper's: 0.1).

    Args:
        margin: m, 0 or more, in logits.
        over: `batch`, or `image` for the mean of the images' losses.

    Example:
        >>> logits = torch.tensor([9.0, 0.0, -6.0]).view(1, 3, 1, 1)
        >>> LogitMargin("multiclass")(logits, torch.zeros(1, 1, 1, dtype=torch.uint8))  # 15 - 10 of one class in three
        tensor(1.6667)
    """

    rules = {"margin": number}  # noqa: RUF012
    margin: float = 10.0
    over: Over = "batch"

    def formula(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        """See the class."""
        return pixelwise.logit_margin(self.planes(logits, target, weight), self.margin, self.over)


@dataclass(eq=False, repr=False)
class OneClass(Term):
    """What is learnt without the class that is looked for: the mean of ``log(1 + exp(z))`` over the pixels that are not of it.

    Pixels of the class do not count, as if they were ignored. With ``model.rebuild=true`` the logit z is the logarithm of the
    error of a pixel that a network rebuilds, so that the loss is the mean of ``log(1 + error)``: the network learns to
    rebuild the usual, and what it rebuilds badly is the class (Sakurada & Yairi 2014).

    Args:
        over: `batch`, or `image` for the mean of the images' losses.

    Example:
        >>> target = torch.tensor([[[0, 1]]], dtype=torch.uint8)
        >>> OneClass("binary")(torch.tensor([[[[0.0, 9.0]]]]), target)  # log 2 of the first pixel
        tensor(0.6931)
    """

    tasks = ("binary",)
    over: Over = "batch"

    def formula(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        """See the class."""
        rest = target.masked_fill(target == 1, self.ignore_index)
        found = pixel_sums(logits, rest, self.task, [(NLL, self.over)], self.ignore_index, weight)
        return formulas.binary_cross_entropy(found, None, over=self.over)
