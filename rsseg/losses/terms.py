"""Loss terms: thin modules around `functional`. Here their base and those that are a mean over pixels.

Every term is called as ``term(logits, target)`` with logits ``[B, C, H, W]`` of any floating dtype and an integer
target, ``[B, H, W]`` for binary and multiclass or ``[B, L, H, W]`` for multilabel, and returns a float32 (float64 for
float64 logits) scalar. Misfitting shapes and, in the first calls, labels outside the classes raise `InputError`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from rsseg.contract import IGNORE, InputError, number
from rsseg.losses import functional as F
from rsseg.losses.arguments import RULES, fitting, numbers
from rsseg.losses.target import SEGMENTATION, check_values, warn_of_probabilities
from rsseg.task import TASKS

VALUE_CHECKS = 2
"""In how many calls a term reads the labels: that waits for the device, and a wrong mapping shows at once."""

PerClass: TypeAlias = Sequence[float] | Tensor | None
"""One number per class."""


@dataclass(eq=False, repr=False)
class Term(nn.Module):
    """A loss of (logits, target). Subclasses state the tasks that they fit and their parameters, and give the formula.

    That is either `formula`, of logits and target, or `needs` and `from_statistics`: the loss is then a function of sums
    that a `Composite` takes for all such terms in one pass over the logits.

    Attributes:
        tasks: The task kinds that the term fits.
        sums: What `needs` asks for over the term's `over`, unless its parameters decide that.
        class_weights_: The numbers of a parameter `class_weights`, on the module's device.
    """

    tasks: ClassVar[Collection[str]] = SEGMENTATION
    sums: ClassVar[tuple[F.Sum, ...]] = ()
    class_weights_: ClassVar[Tensor | None]

    task: str
    _: KW_ONLY
    ignore_index: int = IGNORE

    def __post_init__(self) -> None:
        super().__init__()
        self.task = fitting(type(self).__name__, self.task, self.tasks)
        given = {parameter.name for parameter in fields(self)}
        for name in given & RULES.keys():
            setattr(self, name, RULES[name](name, getattr(self, name)))
        if "class_weights" in given:
            self.hold("class_weights")
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
        return self.from_statistics(F.statistics(logits, target, self.task, self.needs, self.ignore_index))

    @property
    def needs(self) -> F.Needs:
        """The sums that the term is a function of; none if it is another function of logits and target."""
        over: F.Over = getattr(self, "over", "batch")
        return [(wanted, over) for wanted in self.sums]

    def from_statistics(self, found: F.Statistics) -> Tensor:
        """The loss from the sums in `needs`."""
        raise NotImplementedError

    def hold(self, name: str, scalar: bool = False) -> None:
        """Keep a parameter's numbers per class (or one, where `scalar` allows it) as ``{name}_``.

        They move with the module to its device, but stay out of checkpoints.
        """
        given = getattr(self, name)
        self.register_buffer(f"{name}_", None if given is None else numbers(name, given, scalar), persistent=False)


@dataclass(eq=False, repr=False)
class CrossEntropy(Term):
    """Cross-entropy: softmax for multiclass, sigmoid (`BinaryCrossEntropy`) for binary and multilabel.

    Multiclass: ``sum w_t (-log p_t) / sum w_t``, as `torch.nn.CrossEntropyLoss`.

    Args:
        task: `binary`, `multiclass` or `multilabel`.
        class_weights: Multiclass only, one number per class.
        pos_weight: Binary and multilabel only, the weight of positives: a number, or one per label.
        label_smoothing: Between 0 and 1.
        over: `batch`, or `image` for the mean of the images' losses.
        ignore_index: The label of pixels that do not count.

    Raises:
        InputError: For arguments that do not fit.

    Example:
        >>> CrossEntropy("multiclass")(torch.zeros(1, 4, 2, 2), torch.ones(1, 2, 2, dtype=torch.uint8))
        tensor(1.3863)
    """

    class_weights: PerClass = None
    pos_weight: float | PerClass = None
    label_smoothing: float = 0.0
    over: F.Over = "batch"
    pos_weight_: ClassVar[Tensor | None]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.exclusive and self.pos_weight is not None:
            raise InputError("pos_weight is for binary and multilabel heads; for multiclass use class_weights")
        if not self.exclusive and self.class_weights is not None:
            raise InputError(f"class_weights is for multiclass heads; for {self.task} use pos_weight")
        self.hold("pos_weight", scalar=True)

    @property
    def needs(self) -> F.Needs:
        """The pixels' negative log-likelihoods."""
        return [(F.NLL, self.over), *([(F.SPREAD, self.over)] if self.label_smoothing else [])]

    def from_statistics(self, found: F.Statistics) -> Tensor:
        """See the class."""
        if self.exclusive:
            return F.cross_entropy(found, self.class_weights_, self.label_smoothing, self.over)
        return F.binary_cross_entropy(found, self.pos_weight_, self.label_smoothing, self.over)


@dataclass(eq=False, repr=False)
class BinaryCrossEntropy(Term):
    """Sigmoid cross-entropy: the mean of ``-(w y log p + (1 - y) log(1 - p))`` over the valid entries.

    Args:
        task: `binary` or `multilabel`.
        pos_weight: The weight w of positives: a number, or one per label.
        over: `batch`, or `image` for the mean of the images' losses.
        ignore_index: The label of entries that do not count.

    Raises:
        InputError: For arguments that do not fit.

    Example:
        >>> BinaryCrossEntropy("binary")(torch.zeros(1, 1, 2, 2), torch.ones(1, 2, 2, dtype=torch.uint8))
        tensor(0.6931)
    """

    tasks = tuple(kind for kind in SEGMENTATION if not TASKS[kind].exclusive)
    sums = (F.NLL,)
    pos_weight: float | PerClass = None
    over: F.Over = "batch"
    pos_weight_: ClassVar[Tensor | None]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.hold("pos_weight", scalar=True)

    def from_statistics(self, found: F.Statistics) -> Tensor:
        """See the class."""
        return F.binary_cross_entropy(found, self.pos_weight_, over=self.over)


@dataclass(eq=False, repr=False)
class Focal(Term):
    """Focal loss (Lin et al. 2017): the mean of ``-alpha_t (1 - p_t)^gamma log p_t`` over the valid pixels.

    ``p_t`` is the probability of the target, by softmax for multiclass and by sigmoid else.

    Args:
        task: `binary`, `multiclass` or `multilabel`.
        gamma: 0 or more; 0 is cross-entropy.
        alpha: Multiclass: one number per class. Else one number from 0 to 1 for positives; negatives get 1 - alpha.
        over: `batch`, or `image` for the mean of the images' losses.
        ignore_index: The label of pixels that do not count.

    Raises:
        InputError: For arguments that do not fit.

    Example:
        >>> Focal("binary")(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, dtype=torch.uint8))  # 0.25 log 2
        tensor(0.1733)
    """

    gamma: float = 2.0
    alpha: float | PerClass = None
    over: F.Over = "batch"
    alpha_: ClassVar[Tensor | None]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.exclusive:
            self.hold("alpha")
        elif self.alpha is not None:
            self.alpha = number("alpha", self.alpha, high=1.0)

    @property
    def needs(self) -> F.Needs:
        """The pixels' focal values."""
        return [(F.Sum("focal", self.gamma), self.over)]

    def from_statistics(self, found: F.Statistics) -> Tensor:
        """See the class."""
        if self.exclusive:
            return F.focal(found, self.gamma, self.alpha_, self.over)
        alpha = self.alpha if isinstance(self.alpha, float) else None
        return F.binary_focal(found, self.gamma, alpha, self.over)
