"""The base of loss terms: a module of (logits, target) that checks its parameters and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, ClassVar, dataclass_transform

import torch
from torch import Tensor, nn

from rsseg.contract import IGNORE, InputError
from rsseg.losses.checks import RULES, SEGMENTATION, check_weight_values, fitting, warn_of_probabilities
from rsseg.losses.planes import Planes, class_planes
from rsseg.losses.sums import Needs, Over, Sum, Sums, pixel_sums
from rsseg.task import TASKS

VALUE_CHECKS = 2
"""In how many calls a term reads the labels: that waits for the device, and a wrong mapping shows at once."""


@dataclass_transform(eq_default=False)
@dataclass(eq=False, repr=False)
class Term(nn.Module):
    """A loss of (logits, target). Subclasses state the tasks that they fit and their parameters.

    Subclasses are made dataclasses of their parameters without a decorator. They define either `formula`, or `sums` and
    `from_sums`: a `Composite` then takes the sums of all such terms in one pass over the logits.

    Args:
        task: One of `tasks`.
        ignore_index: The label of pixels that do not count.

    Attributes:
        tasks: The task kinds that the term fits.
        soft: Whether it takes a target of class shares.
        signed: Whether its value may be negative.
        rules: How parameters are checked; they override `RULES`.

    Raises:
        InputError: For arguments that do not fit, and misfitting shapes and labels.
    """

    tasks: ClassVar[Collection[str]] = SEGMENTATION
    soft: ClassVar[bool] = False
    signed: ClassVar[bool] = False
    rules: ClassVar[Mapping[str, Callable[[str, Any], Any]]] = {}

    task: str
    _: KW_ONLY
    ignore_index: int = IGNORE

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        dataclass(eq=False, repr=False)(cls)

    def __post_init__(self) -> None:
        super().__init__()
        self.task = fitting(type(self).__name__, self.task, self.tasks)
        rules = {**RULES, **self.rules}
        for name in {parameter.name for parameter in fields(self)} & rules.keys():
            setattr(self, name, rules[name](name, getattr(self, name)))
        self._unchecked_calls = VALUE_CHECKS

    def forward(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """The loss, computed outside autocast; the arguments are those of `rsseg.losses`."""
        self.check(logits, target, weight)
        with torch.autocast(logits.device.type, enabled=False):
            return self.formula(logits, target, weight)

    def check(self, logits: Tensor, target: Tensor, weight: Tensor | None = None, always: bool = False) -> None:
        """Refuse a target and weights that do not fit, in the first calls or always by their values too.

        Logits that look like probabilities are said to.
        """
        if torch.compiler.is_compiling():
            return
        task = TASKS[self.task]
        task.check_shapes(logits, target)
        if target.is_floating_point() and not (task.real or self.soft):
            raise InputError(
                f"{type(self).__name__} needs labels; found class shares: take cross-entropy, focal, Dice, Jaccard or Tversky "
                "terms, or dataset.fractions=null"
            )
        first = self._unchecked_calls > 0
        self._unchecked_calls -= first
        if first or always:
            task.check_values(logits, target, self.ignore_index)
            check_weight_values(weight)
        if first and not task.real:
            warn_of_probabilities(logits, self.task)

    @property
    def exclusive(self) -> bool:
        """Whether the logits' classes exclude each other: softmax, not sigmoid."""
        return TASKS[self.task].exclusive

    @property
    def sums(self) -> tuple[Sum, ...]:
        """The sums that the term is a function of; none if it is another function of logits and target."""
        return ()

    @property
    def needs(self) -> Needs:
        """The `sums`, each with what it is taken over: `over` where the term has it, else the batch."""
        over: Over = getattr(self, "over", "batch")
        return [(wanted, over) for wanted in self.sums]

    def from_sums(self, found: Sums) -> Tensor:
        """The loss from its `sums`, by name; the number of pixels, `COUNT`, is always there too."""
        raise InputError(f"{type(self).__name__} has no formula: define `sums` and `from_sums`, or `formula`")

    def formula(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        """The loss itself."""
        return self.from_sums(self.take(logits, target, weight, self.needs))

    def take(self, logits: Tensor, target: Tensor, weight: Tensor | None, needs: Needs) -> Sums:
        """The sums of this term alone, taken in a pass of its own."""
        found = pixel_sums(logits, target, self.task, needs, self.ignore_index, weight)
        return {name: value for (name, _), value in found.items()}

    def planes(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> Planes:
        """Logits and labels as planes, for a formula that looks at a pixel's surroundings or order."""
        return class_planes(logits, target, self.task, self.ignore_index, weight)
