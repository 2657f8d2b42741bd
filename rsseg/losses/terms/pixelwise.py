"""Terms that are means over pixels, of functions of the label's probability (`PixelMean`) or of all logits."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rsseg.collective import global_cat, global_sum
from rsseg.contract import InputError, check_number
from rsseg.devices import exact_dtype
from rsseg.losses.checks import SEGMENTATION, per_class, positive_share
from rsseg.losses.pieces import wide
from rsseg.losses.sums import COUNT, NLL, SOFT, SPREAD, Sum, Sums
from rsseg.losses.terms.base import Mean, PerClass, PixelMean, or_one, weights
from rsseg.task import TASKS

COUNTABLE = 2**24
"""The largest number up to which float32 represents all integers."""


def of_positives(sums: Tensor, w: Tensor | None) -> Tensor:
    """Add sums ``[2, G, C]`` up over classes, with the class weights `w` on own pixels; ``[G]``."""
    return sums.sum((0, 2)) if w is None else (sums[0] * w + sums[1]).sum(1)


class CrossEntropy(PixelMean):
    """Cross-entropy: softmax for multiclass, sigmoid (`BinaryCrossEntropy`) for binary and multilabel.

    Multiclass: ``sum w_t (-log p_t) / sum w_t``, as `torch.nn.CrossEntropyLoss`. Label smoothing e replaces ``-w_t log p_t`` by
    ``-(1 - e) w_t log p_t - e / C sum_c w_c log p_c``; for sigmoid tasks, labels become ``y (1 - e) + e / 2``.

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

    The same as `CrossEntropy`, with `pos_weight` and `label_smoothing`, but it refuses multiclass tasks.

    Example:
        >>> BinaryCrossEntropy("binary")(torch.zeros(1, 1, 2, 2), torch.ones(1, 2, 2, dtype=torch.uint8))
        tensor(0.6931)
    """

    tasks = tuple(kind for kind in SEGMENTATION if not TASKS[kind].exclusive)


class Focal(PixelMean):
    """Focal loss (Lin et al. 2017): the mean of ``-alpha_t (1 - p_t)^gamma log p_t`` over the valid pixels.

    ``p_t`` is the probability of the label, by softmax for multiclass, else by sigmoid.

    Args:
        gamma: 0 or more; 0 is cross-entropy.
        alpha: Multiclass: one number per class. Otherwise a number from 0 to 1 for positives; negatives get 1 - alpha.

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
    """Generalised cross-entropy (Zhang & Sabuncu 2018), for noisy labels: the mean of ``(1 - p_t^q) / q``.

    Between cross-entropy (q near 0) and the absolute error (q = 1, its maximum): pixels that contradict their label have small
    gradients, so that wrong labels are not memorised; a larger q makes correct labels slower to learn.

    Example:
        >>> GeneralizedCrossEntropy("binary", q=1)(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, dtype=torch.uint8))
        tensor(0.5000)
    """

    soft = True
    rules = {"q": positive_share}
    q: float = 0.7

    @property
    def sums(self) -> tuple[Sum, ...]:
        return (Sum("power", self.q),)


def wrong(found: Sums, exclusive: bool) -> Tensor:
    """The sum of ``1 - p_t``, ``[G]``."""
    own, (tp, fp) = found[COUNT][0], found[SOFT]
    return (own - tp if exclusive else own - tp + fp).sum(1)


class SymmetricCrossEntropy(PixelMean):
    """Symmetric cross-entropy (Wang et al. 2019), for noisy labels: alpha times cross-entropy plus beta times its reverse.

    Reverse cross-entropy, ``-sum_c p_c log y_c`` with -4 for the logarithm of 0, is ``4 (1 - p_t)``. It is bounded, which makes
    it robust to wrong labels; cross-entropy makes the sum converge.

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

    `epsilon`, -1 or more, increases the gradient of nearly correct pixels; at -1 it vanishes there, as in focal loss.

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
    """Cross-entropy of only the hardest pixels (Wu et al. 2016; OHEM, online hard example mining, Shrivastava et al. 2016).

    The mean over the `fraction`, above 0 and up to 1, of the valid pixels (multilabel: entries) with the largest cross-entropy
    in the global batch, or in each image. Wrong labels are usually among the hardest pixels, so they get more weight. Pixels
    tied at the threshold all count with the same part, so that the gradient does not depend on their order.

    Example:
        >>> logits = torch.tensor([[[[0.0, 9.0, 9.0, 9.0]]]])
        >>> TopKCrossEntropy("binary", fraction=0.25)(logits, torch.ones(1, 1, 4, dtype=torch.uint8))
        tensor(0.6931)
    """

    rules = {"fraction": positive_share}
    fraction: float = 0.1

    def formula(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        planes = self.planes(logits, target, weight)
        if self.exclusive:
            losses = -torch.where(planes.own, planes.logits.log_softmax(1), 0).sum(1)
            share = planes.share[:, 0]
        else:
            losses, share = F.softplus(torch.where(planes.own, -planes.logits, planes.logits)), planes.share
        losses, share = torch.where(share > 0, losses, -1).flatten(1), share.flatten(1)  # ignored pixels come last
        if self.over == "batch":
            losses, share = (global_cat(x.flatten()).unsqueeze(0) for x in (losses, share))
        count = losses.shape[1]
        hardest, order = losses.topk(math.ceil(self.fraction * count) if weight is None else count, dim=1)
        in_order = share.gather(1, order)
        total = exact_dtype(share.device) if count > COUNTABLE else share.dtype
        wanted = self.fraction * share.sum(1, keepdim=True, dtype=total)
        inside = in_order.cumsum(1, dtype=total) - in_order < wanted
        last = F.pad(hardest.detach().where(inside, torch.inf), (0, 1), value=torch.inf).amin(1, keepdim=True)
        harder, equal = share * (losses > last), share * (losses == last)
        part = (wanted - harder.sum(1, keepdim=True, dtype=total)) / or_one(equal.sum(1, keepdim=True, dtype=total))
        taken = harder + equal * part.to(losses.dtype)
        return self.mean((losses * taken).sum(1), wanted.squeeze(1).to(losses.dtype))


class LogitAdjustedCrossEntropy(PixelMean):
    """Logit-adjusted cross-entropy (Menon et al. 2021): that of the logits plus `tau` times the logarithm of class priors.

    The offset is added only in the loss; predictions then treat all classes as equally frequent, like biases that are tuned
    after training. A sigmoid's logit is adjusted by ``tau log(prior / (1 - prior))``.

    Args:
        priors: The share of each class among training pixels (multilabel: labelled ones of that label); in a config, `counted`.
        tau: 0: cross-entropy; 1: the loss of the paper.

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

    The mean over pixels and classes of ``max(0, max_j z_j - z_c - m)``: only distances between logits above the `margin` m are
    penalised. A sigmoid's logit z stands for two classes with logits 0 and z. The penalty does not depend on the label: add it
    to a cross-entropy, with a small weight (0.1 in the paper).

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
    """One-class learning without pixels of the class: the mean of ``log(1 + exp(z))`` over pixels that are not of the class.

    Pixels of the class do not count, as if they were ignored. With ``model.rebuild=true`` the logit z is the logarithm of a
    pixel's reconstruction error, so that the loss is the mean of ``log(1 + error)``: the network learns to reconstruct normal
    pixels, and badly reconstructed pixels are predicted as the class (Sakurada & Yairi 2014).

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
