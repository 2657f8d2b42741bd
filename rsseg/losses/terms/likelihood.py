"""Terms that are means over pixels of a function of the label's probability, and join the one pass."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch  # noqa: F401 (the examples use it)
from torch import Tensor

from rsseg.contract import InputError, number
from rsseg.losses.checks import SEGMENTATION, per_class, share
from rsseg.losses.sums import COUNT, NLL, SOFT, SPREAD, Sum, Sums
from rsseg.losses.terms.term import PerClass, PixelMean, weights
from rsseg.task import TASKS


def of_positives(sums: Tensor, w: Tensor | None) -> Tensor:
    """Sums ``[2, G, C]`` over all classes, those of own pixels weighted; other pixels of exclusive classes are 0."""
    return sums.sum((0, 2)) if w is None else (sums[0] * w + sums[1]).sum(1)


class CrossEntropy(PixelMean):
    """Cross-entropy: softmax for multiclass, sigmoid (`BinaryCrossEntropy`) for binary and multilabel.

    Multiclass: ``sum w_t (-log p_t) / sum w_t``, as `torch.nn.CrossEntropyLoss`. Label smoothing e replaces ``-w_t log p_t`` by
    ``(1 - e)`` of it plus ``e / C`` of the weighted sum over classes; of a sigmoid, the labels by ``y (1 - e) + e / 2``.

    Args:
        class_weights: Multiclass only, one number per class.
        pos_weight: Binary and multilabel only, the weight of positives: a number, or one per label.
        label_smoothing: e, between 0 and 1.

    Example:
        >>> CrossEntropy("multiclass")(torch.zeros(1, 4, 2, 2), torch.ones(1, 2, 2, dtype=torch.uint8))
        tensor(1.3863)
    """

    soft = True
    class_weights: PerClass = None
    pos_weight: float | PerClass = None
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.exclusive and self.pos_weight is not None:
            raise InputError("pos_weight is for binary and multilabel heads; for multiclass use class_weights")
        if not self.exclusive and self.class_weights is not None:
            raise InputError(f"class_weights is for multiclass heads; for {self.task} use pos_weight")

    @property
    def sums(self) -> tuple[Sum, ...]:
        return (NLL, SPREAD) if self.label_smoothing else (NLL,)

    def from_sums(self, found: Sums) -> Tensor:
        name, smoothing = "class_weights" if self.exclusive else "pos_weight", self.label_smoothing
        w = weights(getattr(self, name), found[NLL], name)
        top = of_positives(found[NLL], w)
        if smoothing:
            classes = found[NLL].shape[-1] if self.exclusive else 2
            top = (1 - smoothing) * top + smoothing / classes * of_positives(found[SPREAD], w)
        bottom = self.entries(found) if w is None or not self.exclusive else (found[COUNT][0] * w).sum(1)
        return self.mean(top, bottom)


class BinaryCrossEntropy(CrossEntropy):
    """Sigmoid cross-entropy: the mean of ``-(w y log p + (1 - y) log(1 - p))`` over the valid entries.

    It is `CrossEntropy`, of which it takes `pos_weight` and `label_smoothing`, and refuses multiclass tasks.

    Example:
        >>> BinaryCrossEntropy("binary")(torch.zeros(1, 1, 2, 2), torch.ones(1, 2, 2, dtype=torch.uint8))
        tensor(0.6931)
    """

    tasks = tuple(kind for kind in SEGMENTATION if not TASKS[kind].exclusive)


class Focal(PixelMean):
    """Focal loss (Lin et al. 2017): the mean of ``-alpha_t (1 - p_t)^gamma log p_t`` over the valid pixels.

    ``p_t`` is the probability of the target, by softmax for multiclass and by sigmoid else.

    Args:
        gamma: 0 or more; 0 is cross-entropy.
        alpha: Multiclass: one number per class. Else one number from 0 to 1 for positives; negatives get 1 - alpha.

    Example:
        >>> Focal("binary")(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, dtype=torch.uint8))  # 0.25 log 2
        tensor(0.1733)
    """

    soft = True
    gamma: float = 2.0
    alpha: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.exclusive:
            self.alpha = per_class("alpha", self.alpha)
        elif self.alpha is not None:
            self.alpha = number("alpha", self.alpha, high=1.0)

    @property
    def sums(self) -> tuple[Sum, ...]:
        return (Sum("focal", self.gamma),)

    def total(self, found: Sums) -> Tensor:
        values = found[self.sums[0]]
        if self.alpha is None or self.exclusive:
            return of_positives(values, weights(self.alpha, values, "alpha"))
        positive, negative = values.sum(2)
        return self.alpha * positive + (1 - self.alpha) * negative


class GeneralizedCrossEntropy(PixelMean):
    """Generalised cross-entropy (Zhang & Sabuncu 2018), for wrong labels: the mean of ``(1 - p_t^q) / q``.

    Between cross-entropy (q near 0) and the absolute error (q = 1, the highest): the more a pixel contradicts its label, the
    less it pulls, so that wrong labels are not memorised; the higher q is, the slower the right ones are learnt.

    Example:
        >>> GeneralizedCrossEntropy("binary", q=1)(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, dtype=torch.uint8))
        tensor(0.5000)
    """

    soft = True
    rules = {"q": share}
    q: float = 0.7

    @property
    def sums(self) -> tuple[Sum, ...]:
        return (Sum("power", self.q),)


def wrong(found: Sums, exclusive: bool) -> Tensor:
    """The sum of ``1 - p_t``, ``[G]``."""
    own, (tp, fp) = found[COUNT][0], found[SOFT]
    return (own - tp if exclusive else own - tp + fp).sum(1)


class SymmetricCrossEntropy(PixelMean):
    """Symmetric cross-entropy (Wang et al. 2019), for wrong labels: alpha times cross-entropy plus beta times the reverse.

    Reverse cross-entropy, ``-sum_c p_c log y_c`` with -4 for the logarithm of 0, is ``4 (1 - p_t)``. All equally wrong pixels
    pull alike, so it tolerates wrong labels; cross-entropy makes it converge.

    Example:
        >>> SymmetricCrossEntropy("binary", 0, 1)(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, dtype=torch.uint8))
        tensor(2.)
    """

    sums = (NLL, SOFT)
    rules = {"alpha": number, "beta": number}
    alpha: float = 0.1
    beta: float = 1.0

    def total(self, found: Sums) -> Tensor:
        return self.alpha * found[NLL].sum((0, 2)) + 4 * self.beta * wrong(found, self.exclusive)


class Poly1CrossEntropy(PixelMean):
    """Poly-1 (Leng et al. 2022): the mean of ``-log p_t + epsilon (1 - p_t)``.

    `epsilon`, -1 or more, adds to the weight of pixels nearly right; at -1 they have no gradient, as in focal loss.

    Example:
        >>> Poly1CrossEntropy("binary")(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, dtype=torch.uint8))  # log 2 + 1 / 2
        tensor(1.1931)
    """

    sums = (NLL, SOFT)
    rules = {"epsilon": partial(number, low=-1.0)}
    epsilon: float = 1.0

    def total(self, found: Sums) -> Tensor:
        return found[NLL].sum((0, 2)) + self.epsilon * wrong(found, self.exclusive)
