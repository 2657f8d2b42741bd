"""Loss terms: thin modules around `functional`. Here their base and those that are a mean over pixels.

Every term is called as ``term(logits, target)`` with logits ``[B, C, H, W]`` of any floating dtype and an integer
target, ``[B, H, W]`` for binary and multiclass or ``[B, L, H, W]`` for multilabel, and returns a float32 (float64 for
float64 logits) scalar. Misfitting shapes and, in the first calls, labels outside the classes raise `InputError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from rsseg.contract import IGNORE, InputError, TaskKind
from rsseg.losses import functional as F
from rsseg.losses.arguments import number, numbers, task_kind
from rsseg.losses.target import check_values

VALUE_CHECKS = 2
"""In how many calls a term reads the labels: that waits for the device, and a wrong mapping shows at once."""


class Term(nn.Module):
    """A loss of (logits, target). Subclasses state the tasks that they fit and give the formula.

    Attributes:
        tasks: The task kinds that the term fits.
    """

    tasks: ClassVar[frozenset[TaskKind]] = frozenset({TaskKind.binary, TaskKind.multiclass, TaskKind.multilabel})

    def __init__(self, task: TaskKind | str, ignore_index: int = IGNORE) -> None:
        super().__init__()
        self.task = task_kind(type(self).__name__, task, self.tasks)
        self.ignore_index = ignore_index
        self._unchecked_calls = VALUE_CHECKS

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss, computed outside autocast."""
        if not torch.compiler.is_compiling() and self._unchecked_calls > 0:
            self._unchecked_calls -= 1
            check_values(logits, target, self.task, self.ignore_index)
        with torch.autocast(logits.device.type, enabled=False):
            return self.formula(logits, target)

    def formula(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss itself."""
        raise NotImplementedError

    def _hold(self, name: str, values: float | Sequence[float] | Tensor | None, scalar: bool = False) -> None:
        """Keep per-class numbers (or one, where `scalar` allows it) on the module's device, but out of checkpoints."""
        held = None if values is None else numbers(name, values, scalar)
        self.register_buffer(name, held, persistent=False)


class CrossEntropy(Term):
    """Cross-entropy: softmax for multiclass, sigmoid (`BinaryCrossEntropy`) for binary and multilabel.

    Multiclass: ``sum w_t (-log p_t) / sum w_t``, as `torch.nn.CrossEntropyLoss`.

    Args:
        task: `binary`, `multiclass` or `multilabel`.
        class_weights: Multiclass only, one number per class.
        pos_weight: Binary and multilabel only, the weight of positives: a number, or one per label.
        label_smoothing: Between 0 and 1.
        ignore_index: The label of pixels that do not count.

    Raises:
        InputError: For arguments that do not fit.

    Example:
        >>> CrossEntropy("multiclass")(torch.zeros(1, 4, 2, 2), torch.ones(1, 2, 2, dtype=torch.uint8))
        tensor(1.3863)
    """

    class_weights: Tensor | None
    pos_weight: Tensor | None

    def __init__(
        self,
        task: TaskKind | str,
        class_weights: Sequence[float] | Tensor | None = None,
        pos_weight: float | Sequence[float] | Tensor | None = None,
        label_smoothing: float = 0.0,
        ignore_index: int = IGNORE,
    ) -> None:
        super().__init__(task, ignore_index)
        if self.task is TaskKind.multiclass and pos_weight is not None:
            raise InputError("pos_weight is for binary and multilabel heads; for multiclass use class_weights")
        if self.task is not TaskKind.multiclass and class_weights is not None:
            raise InputError(f"class_weights is for multiclass heads; for {self.task} use pos_weight")
        self.label_smoothing = number("label_smoothing", label_smoothing, high=1.0)
        self._hold("class_weights", class_weights)
        self._hold("pos_weight", pos_weight, scalar=True)

    def formula(self, logits: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        if self.task is TaskKind.multiclass:
            return F.cross_entropy(logits, target, self.class_weights, self.label_smoothing, self.ignore_index)
        return F.binary_cross_entropy(logits, target, self.task, self.pos_weight, self.label_smoothing, self.ignore_index)


class BinaryCrossEntropy(Term):
    """Sigmoid cross-entropy: the mean of ``-(w y log p + (1 - y) log(1 - p))`` over the valid entries.

    Args:
        task: `binary` or `multilabel`.
        pos_weight: The weight w of positives: a number, or one per label.
        ignore_index: The label of entries that do not count.

    Raises:
        InputError: For arguments that do not fit.

    Example:
        >>> BinaryCrossEntropy("binary")(torch.zeros(1, 1, 2, 2), torch.ones(1, 2, 2, dtype=torch.uint8))
        tensor(0.6931)
    """

    tasks = frozenset({TaskKind.binary, TaskKind.multilabel})
    pos_weight: Tensor | None

    def __init__(
        self,
        task: TaskKind | str,
        pos_weight: float | Sequence[float] | Tensor | None = None,
        ignore_index: int = IGNORE,
    ) -> None:
        super().__init__(task, ignore_index)
        self._hold("pos_weight", pos_weight, scalar=True)

    def formula(self, logits: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        return F.binary_cross_entropy(logits, target, self.task, self.pos_weight, ignore_index=self.ignore_index)


class Focal(Term):
    """Focal loss (Lin et al. 2017): the mean of ``-alpha_t (1 - p_t)^gamma log p_t`` over the valid pixels.

    ``p_t`` is the probability of the target, by softmax for multiclass and by sigmoid else.

    Args:
        task: `binary`, `multiclass` or `multilabel`.
        gamma: 0 or more; 0 is cross-entropy.
        alpha: Multiclass: one number per class. Else one number from 0 to 1 for positives; negatives get 1 - alpha.
        ignore_index: The label of pixels that do not count.

    Raises:
        InputError: For arguments that do not fit.

    Example:
        >>> Focal("binary")(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, dtype=torch.uint8))  # 0.25 log 2
        tensor(0.1733)
    """

    alpha: Tensor | float | None

    def __init__(
        self,
        task: TaskKind | str,
        gamma: float = 2.0,
        alpha: float | Sequence[float] | Tensor | None = None,
        ignore_index: int = IGNORE,
    ) -> None:
        super().__init__(task, ignore_index)
        self.gamma = number("gamma", gamma)
        if self.task is TaskKind.multiclass:
            self._hold("alpha", alpha)
        else:
            self.alpha = None if alpha is None else number("alpha", alpha, high=1.0)

    def formula(self, logits: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        return F.focal(logits, target, self.task, self.gamma, self.alpha, self.ignore_index)
