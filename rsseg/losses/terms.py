"""Loss terms: one thin module per loss over the pure functions of `formulas`, `lovasz`, `shape` and `regression`.

Every term is called as ``term(logits, target)`` with logits ``[B, C, H, W]`` of any floating dtype and an integer
target, ``[B, H, W]`` for binary and multiclass or ``[B, L, H, W]`` for multilabel, and returns a float32 (float64 for
float64 logits) scalar. Misfitting shapes and, in the first calls, labels outside the classes raise `InputError`. Terms for
heads of the task `regression` take values instead of logits, and a target of real values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsseg.contract import IGNORE, InputError, number
from rsseg.losses import formulas, lovasz, regression, shape
from rsseg.losses.checks import RULES, SEGMENTATION, check_values, fitting, per_class, positive, warn_of_probabilities, whole
from rsseg.losses.formulas import Classes, PerClass
from rsseg.losses.sums import NLL, SOFT, SPREAD, Needs, Over, Sum, Sums, pixel_sums
from rsseg.task import TASKS

VALUE_CHECKS = 2
"""In how many calls a term reads the labels: that waits for the device, and a wrong mapping shows at once."""


@dataclass(eq=False, repr=False)
class Term(nn.Module):
    """A loss of (logits, target). Subclasses state the tasks that they fit and their parameters, and give the formula.

    That is either `formula`, of logits and target, or `needs` and `from_sums`: the loss is then a function of sums that a
    `Composite` takes for all such terms in one pass over the logits.

    Args:
        task: One of `tasks`.
        ignore_index: The label of pixels that do not count.

    Attributes:
        tasks: The task kinds that the term fits.
        sums: What `needs` asks for over the term's `over`, unless its parameters decide that.
        rules: How parameters are checked, beside and before `RULES`.

    Raises:
        InputError: For arguments that do not fit, and misfitting shapes and labels.
    """

    tasks: ClassVar[Collection[str]] = SEGMENTATION
    sums: ClassVar[tuple[Sum, ...]] = ()
    rules: ClassVar[Mapping[str, Callable[[str, Any], Any]]] = {}

    task: str
    _: KW_ONLY
    ignore_index: int = IGNORE

    def __post_init__(self) -> None:
        super().__init__()
        self.task = fitting(type(self).__name__, self.task, self.tasks)
        rules = {**RULES, **self.rules}
        for name in {parameter.name for parameter in fields(self)} & rules.keys():
            setattr(self, name, rules[name](name, getattr(self, name)))
        self._unchecked_calls = VALUE_CHECKS

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss, computed outside autocast."""
        self.check(logits, target)
        with torch.autocast(logits.device.type, enabled=False):
            return self.formula(logits, target)

    def check(self, logits: Tensor, target: Tensor, always: bool = False) -> None:
        """Refuse labels outside the classes, and say that logits look like probabilities, in the first calls or always."""
        if TASKS[self.task].real or torch.compiler.is_compiling():
            return
        first = self._unchecked_calls > 0
        self._unchecked_calls -= first
        if first or always:
            check_values(logits, target, self.task, self.ignore_index)
        if first:
            warn_of_probabilities(logits, self.task)

    @property
    def exclusive(self) -> bool:
        """Whether the logits' classes exclude each other: softmax, not sigmoid."""
        return TASKS[self.task].exclusive

    def formula(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss itself."""
        return self.from_sums(pixel_sums(logits, target, self.task, self.needs, self.ignore_index))

    @property
    def needs(self) -> Needs:
        """The sums that the term is a function of; none if it is another function of logits and target."""
        over: Over = getattr(self, "over", "batch")
        return [(wanted, over) for wanted in self.sums]

    def from_sums(self, found: Sums) -> Tensor:
        """The loss from the sums in `needs`."""
        raise NotImplementedError


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


class _Overlap(Term):
    """The one formula of Dice, Jaccard, Tversky and Focal Tversky."""

    sums = (SOFT,)
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


def _bins(name: str, value: Any) -> int | None:
    if value is not None and (type(value) is not int or not 2 <= value <= 4096):
        raise InputError(f"{name} has to be a whole number from 2 to 4096, or null for the exact loss; found {value!r}")
    return value


@dataclass(eq=False, repr=False)
class Lovasz(Term):
    """Lovasz-Softmax for multiclass, Lovasz hinge for binary and multilabel (Berman et al. 2018).

    With ``classes="present"`` a binary batch without a positive gives 0; ``classes="all"`` makes its largest error the
    loss.

    With `bins` the errors are ``|y - p|`` for binary and multilabel too, and rounded to that many levels. That takes no
    sort but joins the one pass. The value is within ``1 / (2 bins - 2)`` of the
    exact one; a class of a few tens of pixels, whose errors fill few levels, is better served exactly.

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

    def formula(self, logits: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        if self.bins is not None:
            return super().formula(logits, target)
        options = (self.classes, self.over, self.class_weights, self.ignore_index)
        return lovasz.lovasz(logits, target, self.task, *options)


@dataclass(eq=False, repr=False)
class Boundary(Term):
    """Boundary loss (Kervadec et al. 2019): the mean of the signed distance to the true boundary times p.

    Far mistakes cost more than near ones, and right pixels are rewarded, so the value may be negative. It says nothing of
    a class that an image lacks: add it to an overlap loss or a cross-entropy, with a small weight (the distances are in
    pixels). Each step computes distances on the CPU. Ignored pixels: see `shape`.

    Args:
        classes: `all`, `present` (in an image) or class numbers: what is averaged over.

    Example:
        >>> Boundary("binary")(torch.tensor([[[[9e9, 9e9, 9e9]]]]), torch.tensor([[[1, 0, 0]]]))  # (-.5 + .5 + 1.5) / 3
        tensor(0.5000)
    """

    classes: Classes = "all"

    def formula(self, logits: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        return shape.boundary(logits, target, self.task, self.classes, self.ignore_index)


@dataclass(eq=False, repr=False)
class ClDice(Term):
    """Soft clDice (Shit et al. 2021), for thin structures: one minus the harmonic mean of the skeletons' hit rates.

    A gap in a road costs as much as its length, however narrow the road is. The paper adds it to `Dice`. Ignored pixels: see
    `shape`.

    Args:
        iterations: Of thinning; at least half the width in pixels of the widest structure.
        smooth: s, more than 0, added to both sides of both rates.
        classes: `all`, `present` (those in the target) or class numbers: what is averaged over.
        over: `batch`, or `image` for the mean of the images' losses.

    Example:
        >>> line = torch.zeros(1, 5, 9, dtype=torch.long)
        >>> line[:, 2] = 1
        >>> ClDice("binary")(line.unsqueeze(1) * 99.0 - 49, line)
        tensor(0.)
    """

    rules = {"iterations": whole, "smooth": positive}  # noqa: RUF012
    iterations: int = 3
    smooth: float = 1.0
    classes: Classes = "all"
    over: Over = "batch"

    def formula(self, logits: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        options = (self.iterations, self.smooth, self.classes, self.over, self.ignore_index)
        return shape.cl_dice(logits, target, self.task, *options)


@dataclass(eq=False, repr=False)
class _Regression(Term):
    """The mean of a function of the error, see `regression.mean_error`; `nodata` is the target's value for "unknown"."""

    tasks = tuple(kind for kind, task in TASKS.items() if task.real)
    task: str = "regression"
    _: KW_ONLY
    nodata: float | None = None

    def of_error(self, error: Tensor) -> Tensor:
        """What is averaged."""
        return error.square()

    def formula(self, logits: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        return regression.mean_error(logits, target, self.of_error, self.nodata)


@dataclass(eq=False, repr=False)
class MSE(_Regression):
    """Mean squared error: large errors dominate, so outliers do.

    Example:
        >>> MSE()(torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[0.0, torch.nan]]]))
        tensor(1.)
    """


@dataclass(eq=False, repr=False)
class RMSE(_Regression):
    """Root of the mean squared error of the batch: in the target's unit, with the gradient's direction of `MSE`.

    Example:
        >>> RMSE()(torch.tensor([[[[3.0, 4.0]]]]), torch.zeros(1, 1, 2))
        tensor(3.5355)
    """

    def formula(self, logits: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        return regression.root(super().formula(logits, target))


@dataclass(eq=False, repr=False)
class MAE(_Regression):
    """Mean absolute error: fits the median, so outliers count little; its slope does not fade near 0.

    Example:
        >>> MAE(nodata=-99)(torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[0.0, -99.0]]]))
        tensor(3.)
    """

    def of_error(self, error: Tensor) -> Tensor:
        """See the class."""
        return error.abs()


@dataclass(eq=False, repr=False)
class Huber(_Regression):
    """Huber loss (Huber 1964): half the squared error up to delta, straight beyond with the slope delta.

    Args:
        delta: More than 0, in the target's unit.

    Example:
        >>> Huber(delta=2)(torch.tensor([[[[3.0]]]]), torch.zeros(1, 1, 1))
        tensor(4.)
    """

    rules = {"delta": positive}  # noqa: RUF012
    delta: float = 1.0

    def of_error(self, error: Tensor) -> Tensor:
        """See the class."""
        return F.huber_loss(error, torch.zeros_like(error), "none", self.delta)


@dataclass(eq=False, repr=False)
class SmoothL1(_Regression):
    """Smooth L1 (Girshick 2015): `Huber` divided by its delta, here called beta.

    Args:
        beta: More than 0, in the target's unit.

    Example:
        >>> SmoothL1(beta=2)(torch.tensor([[[[3.0]]]]), torch.zeros(1, 1, 1))
        tensor(2.)
    """

    rules = {"beta": positive}  # noqa: RUF012
    beta: float = 1.0

    def of_error(self, error: Tensor) -> Tensor:
        """See the class."""
        return F.smooth_l1_loss(error, torch.zeros_like(error), reduction="none", beta=self.beta)


@dataclass(eq=False, repr=False)
class LogCosh(_Regression):
    """The mean of ``log cosh e``: like `Huber` with delta 1, but smooth everywhere.

    Example:
        >>> LogCosh()(torch.tensor([[[[1e4]]]]), torch.zeros(1, 1, 1))
        tensor(9999.3066)
    """

    def of_error(self, error: Tensor) -> Tensor:
        """``|e| + log(1 + exp(-2 |e|)) - log 2``, which does not overflow."""
        size = error.abs()
        return size + F.softplus(-2 * size) - math.log(2)
