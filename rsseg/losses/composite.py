"""A weighted sum of loss terms that also returns the value of every term."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rsseg.contract import IGNORE, InputError, check_number
from rsseg.losses.compiled import compiled_on_gpu
from rsseg.losses.derived_targets import EdgeWeight, smoothed
from rsseg.losses.sums import Sum, Sums, over_batch, pixel_sums
from rsseg.losses.terms.base import Term, is_of_sums
from rsseg.task import TASKS


@dataclass(frozen=True)
class Weight:
    """The schedule of a term's weight over the training steps.

    The weight is 0 before the share `start` of the steps, then rises linearly over the share `ramp` to `full`, 0 or more.

    Example:
        >>> [Weight(2.0, start=0.5, ramp=0.25).at(done) for done in (0.25, 0.5, 0.625, 0.75, 1.0)]
        [0.0, 0.0, 1.0, 2.0, 2.0]
    """

    full: float = 1.0
    start: float = 0.0
    ramp: float = 0.0

    def at(self, done: float) -> float:
        """The weight at a step, given the share of the training steps done before it, from 0 to 1."""
        if done < self.start:
            return 0.0
        return self.full * min(1.0, (done - self.start) / self.ramp) if self.ramp else self.full

    def check(self, name: str) -> None:
        """Refuse invalid values; messages name the term."""
        check_number(f"the weight of the term '{name}'", self.full)
        start = check_number(f"the start of the term '{name}', a share of the steps,", self.start, high=1.0)
        ramp = check_number(f"the ramp of the term '{name}', a share of the steps,", self.ramp, high=1.0)
        if start + ramp > 1 + 1e-9:  # 0.9 + 0.1 is rounded
            raise InputError(
                f"the term '{name}': start {start:g} and ramp {ramp:g} are shares of the steps, together at most 1"
            )
        if start == 1:
            raise InputError(f"the term '{name}' starts when all steps are done: give it a start below 1")


class CompositeValue(NamedTuple):
    """The value of a composite: the loss and its parts, all scalars.

    Attributes:
        total: The sum of the weighted terms, the training loss.
        raw: Every term's own value by name, differentiable unless its weight is 0.
        weighted: Every term's value times its weight.
        weights: Every term's weight at this step.
    """

    total: Tensor
    raw: dict[str, Tensor]
    weighted: dict[str, Tensor]
    weights: dict[str, float]


class Given(NamedTuple):
    """The arguments of a composite's terms: labels, smoothed labels for terms that are `Term.soft`, and pixel weights."""

    labels: Tensor
    soft: Tensor
    weight: Tensor | None

    def value(self, term: nn.Module, logits: Tensor) -> Tensor:
        """The value of a term that does not share the pass over the logits."""
        target = self.soft if getattr(term, "soft", False) else self.labels
        value: Tensor = term(logits, target) if self.weight is None else term(logits, target, self.weight)
        return value


class Composite(nn.Module):
    """``sum_k weight_k term_k(logits, target)``.

    Terms that are functions of sums over the pixels (`Term.sums`) share one pass over the logits; other modules are called one
    by one. A term of weight 0 is evaluated without a gradient, for the log.

    Args:
        terms: By name, the weight and the module, called as ``module(logits, target)`` or ``module(logits, target, weight)``.
        check_targets: Whether to check for labels outside the classes in every call, which waits for the device.
        task: The kind of the head's task, needed for the arguments below if no term is a `Term`.
        label_smoothing: From 0 to 1, the part of the labels that is distributed among the classes, see `smoothed`, for terms
            that are `Term.soft`. Other terms get the original labels.
        edge_weight: Weights of the pixels near a border, multiplied with those of the batch.

    Raises:
        InputError: For weights that are not finite numbers of 0 or more or all 0 at the first step, and for labels that can't
            be smoothed or have no borders.

    Example:
        >>> from rsseg.losses import CrossEntropy, Dice
        >>> loss = Composite({"ce": (1.0, CrossEntropy("binary")), "dice": (0.5, Dice("binary"))})
        >>> value = loss(torch.zeros(1, 1, 2, 2), torch.ones(1, 2, 2, dtype=torch.uint8))
        >>> {name: round(float(part), 3) for name, part in value.weighted.items()}
        {'ce': 0.693, 'dice': 0.143}
    """

    def __init__(
        self,
        terms: Mapping[str, tuple[float | Weight, nn.Module]],
        check_targets: bool = False,
        task: str = "",
        label_smoothing: float = 0.0,
        edge_weight: EdgeWeight | None = None,
    ) -> None:
        super().__init__()
        self.check_targets, self.edge_weight = check_targets, edge_weight
        self.label_smoothing = check_number("label_smoothing", label_smoothing, high=1.0)
        self._weights = {name: weight if isinstance(weight, Weight) else Weight(weight) for name, (weight, _) in terms.items()}
        for name, weight in self._weights.items():
            weight.check(name)
        if not any(weight.at(0.0) for weight in self._weights.values()):
            raise InputError(
                f"no term has a weight at the first step ({', '.join(terms) or 'there is none'}), so nothing would be learnt: "
                "give one a weight above 0, and a start and a ramp of 0"
            )
        for name, (_, term) in terms.items():
            if hasattr(nn.ModuleDict(), name) or "." in name:
                raise InputError(f"a term can't be called '{name}', which PyTorch keeps for itself: choose another name")
            if not isinstance(term, nn.Module):
                raise InputError(f"the term '{name}' has to be an nn.Module; found {type(term).__name__}")
        self.terms = nn.ModuleDict({name: term for name, (_, term) in terms.items()})
        kinds = {(term.task, term.ignore_index) for term in self.terms.values() if isinstance(term, Term)}
        if len(kinds) > 1:
            raise InputError(f"all terms of a loss need one task and one ignore_index; found {sorted(kinds)}")
        self.task, self.ignore_index = next(iter(kinds), (task, IGNORE))
        if (self.label_smoothing or edge_weight) and (self.task not in TASKS or TASKS[self.task].real):
            raise InputError(f"label_smoothing and edge_weight need labels; found the task '{self.task}': leave them out")
        if self.label_smoothing and not any(getattr(term, "soft", False) for term in self.terms.values()):
            raise InputError(
                f"label_smoothing={self.label_smoothing:g} changes nothing: {', '.join(self.terms)} take labels as they are; "
                "cross-entropy, focal, Dice, Jaccard and Tversky terms take softened ones"
            )

    @property
    def weights(self) -> dict[str, float]:
        """The terms' full weights by name."""
        return {name: weight.full for name, weight in self._weights.items()}

    def forward(self, logits: Tensor, target: Tensor, weight: Tensor | None = None, done: float = 1.0) -> CompositeValue:
        """The loss and its parts; `done`, from 0 to 1, is the share of the training steps done, 1: full weights."""
        given = self.given(logits, target, weight)
        joined = _values_of_sums(self, given, logits=logits)
        weights = {name: factor.at(done) for name, factor in self._weights.items()}
        raw: dict[str, Tensor] = {}
        weighted: dict[str, Tensor] = {}
        for name, term in self.terms.items():
            # a term with parameters always learns: DDP waits for their gradients
            learns = weights[name] > 0 or any(parameter.requires_grad for parameter in term.parameters())
            with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
                value = joined[name] if name in joined else given.value(term, logits)
            raw[name] = value if learns else value.detach()
            weighted[name] = weights[name] * value if learns else torch.zeros_like(value)
        return CompositeValue(torch.stack(list(weighted.values())).sum(), raw, weighted, weights)

    def given(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Given:
        """Check the target and the weights of a batch, and make the arguments of the terms from them."""
        soft = target
        if self.label_smoothing or self.edge_weight:
            TASKS[self.task].check_shapes(logits, target)
        if self.edge_weight:
            edges = self.edge_weight(TASKS[self.task].hard_labels(target), self.ignore_index)
            weight = edges if weight is None else weight * edges
        if self.label_smoothing:
            dtype = torch.promote_types(logits.dtype, torch.float32)
            soft = smoothed(target, logits.shape[1], self.task, self.label_smoothing, self.ignore_index, dtype)
        for term in self.terms.values():  # terms that share the pass are not called, so they do not check
            if isinstance(term, Term) and (term.sums or self.check_targets):
                term.check(logits, target, weight, self.check_targets)
        return Given(target, soft, weight)

    def sums(self, logits: Tensor, given: Given, also: Collection[Sum] = ()) -> dict[bool, Sums]:
        """The sums per image of all terms, by whether they are of smoothed labels; `also` adds sums of the original labels."""
        wanted: dict[bool, set[Sum]] = {False: set(also)}
        for term in self.terms.values():
            if is_of_sums(term):
                wanted.setdefault(self.softens(term), set()).update(term.sums)
        with torch.autocast(logits.device.type, enabled=False):
            return {
                soft: pixel_sums(
                    logits, given.soft if soft else given.labels, self.task, asked, self.ignore_index, given.weight
                )
                for soft, asked in wanted.items()
                if asked
            }

    def softens(self, term: Term) -> bool:
        """Whether a term gets smoothed labels."""
        return self.label_smoothing > 0 and term.soft


@compiled_on_gpu
def _values_of_sums(composite: Composite, given: Given, *, logits: Tensor) -> dict[str, Tensor]:
    """The values of the terms that share the pass, by name."""
    images = composite.sums(logits, given)
    batch = {soft: over_batch(sums) for soft, sums in images.items()}
    values = {}
    for name, term in composite.terms.items():
        if is_of_sums(term):
            values[name] = term.from_sums((images if term.by_image else batch)[composite.softens(term)])
    return values
