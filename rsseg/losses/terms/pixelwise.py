"""Terms that are means over pixels: functions of the label's probability, which join the one pass, and of all logits."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rsseg.collective import global_cat, global_sum
from rsseg.contract import InputError, check_number
from rsseg.losses.checks import SEGMENTATION, per_class, share
from rsseg.losses.pieces import wide
from rsseg.losses.sums import COUNT, NLL, SOFT, SPREAD, Sum, Sums
from rsseg.losses.terms.base import Mean, PerClass, PixelMean, or_one, weights
from rsseg.task import TASKS

COUNTABLE = 2**24
"""Up to here float32 counts whole pixels."""


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
            self.alpha = check_number("alpha", self.alpha, high=1.0)

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
    rules = {"alpha": check_number, "beta": check_number}
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
    rules = {"epsilon": partial(check_number, low=-1.0)}
    epsilon: float = 1.0

    def total(self, found: Sums) -> Tensor:
        return found[NLL].sum((0, 2)) + self.epsilon * wrong(found, self.exclusive)


class TopKCrossEntropy(Mean):
    """Cross-entropy of the hardest pixels alone (Wu et al. 2016; OHEM, online hard example mining, Shrivastava et al. 2016).

    The mean over the `fraction`, above 0 and up to 1, of the valid pixels (multilabel: entries) with the largest cross-entropy
    in the global batch, or in each image. Wrong labels are usually among the hardest pixels, so they count for more. Of the
    last pixels, all that are equally hard count by the same part: the gradient depends on no order among them.

    Example:
        >>> logits = torch.tensor([[[[0.0, 9.0, 9.0, 9.0]]]])
        >>> TopKCrossEntropy("binary", fraction=0.25)(logits, torch.ones(1, 1, 4, dtype=torch.uint8))
        tensor(0.6931)
    """

    rules = {"fraction": share}
    fraction: float = 0.1

    def formula(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        planes = self.planes(logits, target, weight)
        if self.exclusive:
            losses = -torch.where(planes.own, planes.logits.log_softmax(1), 0).sum(1)
            share = planes.share[:, 0]
        else:
            losses, share = F.softplus(torch.where(planes.own, -planes.logits, planes.logits)), planes.share
        losses, share = torch.where(share > 0, losses, -1).flatten(1), share.flatten(1)  # ignored ones come last
        if self.over == "batch":
            losses, share = (global_cat(x.flatten()).unsqueeze(0) for x in (losses, share))
        count = losses.shape[1]
        hardest, order = losses.topk(math.ceil(self.fraction * count) if weight is None else count, dim=1)
        in_order = share.gather(1, order)
        total = torch.float64 if count > COUNTABLE else share.dtype
        wanted = self.fraction * share.sum(1, keepdim=True, dtype=total)
        inside = in_order.cumsum(1, dtype=total) - in_order < wanted
        last = F.pad(hardest.detach().where(inside, torch.inf), (0, 1), value=torch.inf).amin(1, keepdim=True)
        harder, equal = share * (losses > last), share * (losses == last)
        part = (wanted - harder.sum(1, keepdim=True, dtype=total)) / or_one(equal.sum(1, keepdim=True, dtype=total))
        taken = harder + equal * part.to(losses.dtype)
        return self.mean((losses * taken).sum(1), wanted.squeeze(1).to(losses.dtype))


class LogitAdjustedCrossEntropy(PixelMean):
    """Logit-adjusted cross-entropy (Menon et al. 2021): of the logits plus `tau` times the logarithm of the class priors.

    The offset is added in training only; predictions then treat all classes as equally frequent, as biases that are tuned after
    training do. A sigmoid's logit is adjusted by ``tau log(prior / (1 - prior))``.

    Args:
        priors: The share of each class in the training pixels (multilabel: of each label in its own); in a config, `counted`.
        tau: 0 is cross-entropy, 1 the paper's.

    Example:
        >>> term = LogitAdjustedCrossEntropy("binary", priors=[0.2])
        >>> term(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, dtype=torch.uint8))  # -log 0.2
        tensor(1.6094)
    """

    soft = True
    rules = {"priors": per_class, "tau": check_number}
    priors: Any
    tau: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.priors is None or not all(0 < p < 1 for p in self.priors):
            raise InputError(f"priors are one number per class, each above 0 and below 1; found {self.priors}")

    def formula(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        z = logits.to(wide(logits))
        priors = torch.as_tensor(weights(self.priors, z.movedim(1, -1), "priors"))
        offset = priors.log() if self.exclusive else priors.logit()
        found = self.take(z + self.tau * offset.view(-1, 1, 1), target, weight, NLL)
        return self.mean(found[NLL].sum((0, 2)), self.entries(found))


class LogitMargin(Mean):
    """The penalty that margin-based label smoothing (Liu et al. 2022) adds to cross-entropy, for calibrated probabilities.

    The mean over pixels and classes of ``max(0, max_j z_j - z_c - m)``: logits may lie up to the `margin` m apart at no cost,
    where label smoothing draws them to one distance. A sigmoid's logit z stands for two classes with the logits 0 and z. It
    does not depend on the label: add it to a cross-entropy, with a small weight (the paper's: 0.1).

    Example:
        >>> logits = torch.tensor([9.0, 0.0, -6.0]).view(1, 3, 1, 1)
        >>> LogitMargin("multiclass")(logits, torch.zeros(1, 1, 1, dtype=torch.uint8))  # 15 - 10 of one class in three
        tensor(1.6667)
    """

    rules = {"margin": check_number}
    margin: float = 10.0

    def formula(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        planes = self.planes(logits, target, weight)
        z = planes.logits
        gap = z.amax(1, keepdim=True) - z if self.exclusive else z.abs()
        classes = 1 if self.exclusive else 2
        sums = torch.stack([F.relu(gap - self.margin) / classes * planes.share, planes.share]).sum((2, 3, 4))
        top, bottom = global_sum(sums.sum(1, keepdim=True)) if self.over == "batch" else sums
        return self.mean(top, bottom)


class OneClass(PixelMean):
    """Learning without the wanted class: the mean of ``log(1 + exp(z))`` over the pixels that are not of it.

    Pixels of the class do not count, as if they were ignored. With ``model.rebuild=true`` the logit z is the logarithm of the
    error of a pixel that a network rebuilds, so that the loss is the mean of ``log(1 + error)``: the network learns to
    rebuild the usual, and badly rebuilt pixels are the class (Sakurada & Yairi 2014).

    Example:
        >>> target = torch.tensor([[[0, 1]]], dtype=torch.uint8)
        >>> OneClass("binary")(torch.tensor([[[[0.0, 9.0]]]]), target)  # log 2 of the first pixel
        tensor(0.6931)
    """

    tasks = ("binary",)

    def formula(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        rest = target.masked_fill(target == 1, self.ignore_index)
        found = self.take(logits, rest, weight, NLL)
        return self.mean(found[NLL].sum((0, 2)), self.entries(found))
