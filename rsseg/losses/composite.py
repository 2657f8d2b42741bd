"""A weighted sum of terms that reports every part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from rsseg.contract import IGNORE, InputError, number
from rsseg.losses.compiled import compiled_on_gpu
from rsseg.losses.sums import AllSums, Needs, Over, Sum, Sums, pixel_sums
from rsseg.losses.targets import EdgeWeight, smoothed
from rsseg.losses.terms.term import Term
from rsseg.task import TASKS


@dataclass(frozen=True)
class Weight:
    """A term's weight, as a function of the share of the training steps that are done.

    Args:
        full: The weight in the end, 0 or more.
        start: The share of the steps before which it is 0.
        ramp: The share of the steps in which it then rises from 0 to `full`, in proportion to the steps.

    Example:
        >>> [Weight(2.0, start=0.5, ramp=0.25).at(done) for done in (0.25, 0.5, 0.625, 0.75, 1.0)]
        [0.0, 0.0, 1.0, 2.0, 2.0]
    """

    full: float = 1.0
    start: float = 0.0
    ramp: float = 0.0

    def at(self, done: float) -> float:
        """The weight at the step before which this share of the steps is done."""
        if done < self.start:
            return 0.0
        return self.full * min(1.0, (done - self.start) / self.ramp) if self.ramp else self.full

    def check(self, name: str) -> None:
        """Refuse what is no weight and no share, of the term of this name."""
        number(f"the weight of the term '{name}'", self.full)
        start = number(f"the start of the term '{name}', a share of the steps,", self.start, high=1.0)
        ramp = number(f"the ramp of the term '{name}', a share of the steps,", self.ramp, high=1.0)
        if start + ramp > 1 + 1e-9:  # 0.9 + 0.1 is rounded
            raise InputError(
                f"the term '{name}': start {start:g} and ramp {ramp:g} are shares of the steps, together at most 1"
            )
        if start == 1:
            raise InputError(f"the term '{name}' starts when all steps are done: give it a start below 1")


class CompositeValue(NamedTuple):
    """What a composite returns: the loss and its parts, scalars all.

    Attributes:
        total: The sum of the weighted terms, to be trained on.
        raw: Every term's own value by name, differentiable unless its weight is 0.
        weighted: Every term's value times its weight.
        weights: Every term's weight at this step.
    """

    total: Tensor
    raw: dict[str, Tensor]
    weighted: dict[str, Tensor]
    weights: dict[str, float]


class Given(NamedTuple):
    """What the terms of a composite are given for a target.

    Attributes:
        labels: The target, for terms that need labels.
        soft: The target for terms that take class shares: those of softened labels, else the same.
        weight: See `rsseg.losses`.
    """

    labels: Tensor
    soft: Tensor
    weight: Tensor | None

    def target(self, term: nn.Module) -> Tensor:
        """The target of a term."""
        return self.soft if getattr(term, "soft", False) else self.labels


class Composite(nn.Module):
    """``sum_k weight_k term_k(logits, target)``.

    Terms that are functions of sums over the pixels (`Term.needs`) share one pass over the logits; any other module runs
    beside it. A term of weight 0 is evaluated without a gradient, to be logged beside the others.

    Args:
        terms: By name, the weight and the module, called as ``module(logits, target)`` or ``module(logits, target, weight)``.
        check_targets: Whether to look for labels outside the classes in every call, which waits for the device, and not
            in the first calls only.
        task: The kind of the head's task; needed for the further arguments.
        label_smoothing: From 0 to 1, the part of the labels that is dealt out among the classes, see `smoothed`, for terms that
            are `Term.soft`. Others get the labels.
        edge_weight: The weights of pixels near a border; they multiply those of the batch.

    Raises:
        InputError: Without terms, for weights that are not finite numbers of 0 or more, and if there are steps at which all
            of them are 0; for smoothed labels or weighted borders of real values, and for smoothing if no term takes shares.

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
        self.check_targets, self.task, self.edge_weight = check_targets, task, edge_weight
        self.label_smoothing = number("label_smoothing", label_smoothing, high=1.0)
        if not terms:
            raise InputError("the loss has no terms: give at least one, such as loss=ce_dice")
        self._weights = {name: weight if isinstance(weight, Weight) else Weight(weight) for name, (weight, _) in terms.items()}
        for name, weight in self._weights.items():
            weight.check(name)
        if not any(self.weights.values()):
            raise InputError(f"all weights are 0 ({', '.join(terms)}), so nothing would be learnt: give one a weight")
        if not any(weight.at(0.0) for weight in self._weights.values()):
            raise InputError(
                f"no term has a weight at the first step ({', '.join(terms)}), so nothing would be learnt: give one a start "
                "and a ramp of 0"
            )
        for name, (_, term) in terms.items():
            if hasattr(nn.ModuleDict(), name) or "." in name:
                raise InputError(f"a term can't be called '{name}', which PyTorch keeps for itself: choose another name")
            if not isinstance(term, nn.Module):
                raise InputError(f"the term '{name}' has to be an nn.Module; found {type(term).__name__}")
        self.terms = nn.ModuleDict({name: term for name, (_, term) in terms.items()})
        self.ignore_index = IGNORE
        if self.label_smoothing or self.edge_weight:
            self._check_labels()
        if self.label_smoothing and not any(getattr(term, "soft", False) for term in self.terms.values()):
            raise InputError(
                f"label_smoothing={self.label_smoothing:g} changes nothing: {', '.join(terms)} take labels as they are; "
                "cross-entropy, focal, Dice, Jaccard and Tversky terms take softened ones"
            )

    def _check_labels(self) -> None:
        """Refuse to change labels that there are none of, or that terms read differently."""
        if self.task not in TASKS or TASKS[self.task].real:
            raise InputError(f"label_smoothing and edge_weight need labels; found the task '{self.task}': leave them out")
        ignored = {term.ignore_index for term in self.terms.values() if isinstance(term, Term)}
        if len(ignored) > 1:
            raise InputError(f"label_smoothing and edge_weight need one ignore_index for all terms; found {sorted(ignored)}")
        self.ignore_index = next(iter(ignored), IGNORE)

    @property
    def weights(self) -> dict[str, float]:
        """The terms' full weights by name."""
        return {name: weight.full for name, weight in self._weights.items()}

    def forward(self, logits: Tensor, target: Tensor, weight: Tensor | None = None, done: float = 1.0) -> CompositeValue:
        """The loss and its parts, when this share of the training steps is `done`; 1: at the terms' full weights."""
        raw: dict[str, Tensor] = {}
        weighted: dict[str, Tensor] = {}
        weights = {name: factor.at(done) for name, factor in self._weights.items()}
        given = self.given(logits, target, weight)
        beside = () if given.weight is None else (given.weight,)
        self._check(logits, given)
        joined = _values_of_sums(self, given, logits=logits)
        for name, term in self.terms.items():
            factor = weights[name]
            learns = any(parameter.requires_grad for parameter in term.parameters())  # DDP waits for its gradient
            with torch.set_grad_enabled((factor > 0 or learns) and torch.is_grad_enabled()):
                raw[name] = joined[name] if name in joined else term(logits, given.target(term), *beside)
            if factor > 0 or learns:
                weighted[name] = factor * raw[name]
            else:
                raw[name] = raw[name].detach()
                weighted[name] = torch.zeros_like(raw[name])
        total = torch.stack(list(weighted.values())).sum()
        return CompositeValue(total, raw, weighted, weights)

    def given(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Given:
        """What the terms are given for a target and the weights of a batch."""
        soft = target
        if self.label_smoothing or self.edge_weight:
            TASKS[self.task].check_shapes(logits, target)
        if self.edge_weight:
            edges = self.edge_weight(TASKS[self.task].hard_labels(target), self.ignore_index)
            weight = edges if weight is None else weight * edges
        if self.label_smoothing:
            soft = smoothed(target, logits.shape[1], self.task, self.label_smoothing, self.ignore_index)
        return Given(target, soft, weight)

    def image_sums(self, logits: Tensor, given: Given, also: Mapping[Key, Needs]) -> dict[Key, AllSums]:
        """The sums of each image that its terms are functions of, and `also` what others need, in the same pass."""
        self._check(logits, given)
        return self.sums(logits, given, also, images=True)

    def sums_of(self, term: nn.Module, found: Mapping[Key, AllSums]) -> Sums | None:
        """Those sums that a term is a function of; None if it is none."""
        joined = _joins(term)
        if joined is None:
            return None
        wanted = {over for _, over in joined.needs}
        return {name: value for (name, over), value in found[self.key_of(joined)].items() if over in wanted}

    def _check(self, logits: Tensor, given: Given) -> None:
        """Refuse what does not fit, for the terms of the one pass, and in every call for all if that is asked for."""
        for term in self.terms.values():
            if isinstance(term, Term) and (term.needs or self.check_targets):
                term.check(logits, given.labels, given.weight, self.check_targets)

    def sums(
        self, logits: Tensor, given: Given, also: Mapping[Key, Needs] | None = None, images: bool = False
    ) -> dict[Key, AllSums]:
        """What the terms of the one pass need; more than one pass only if their tasks, targets or ignore values differ."""
        needs: dict[Key, set[tuple[Sum, Over]]] = {}
        targets: dict[Key, Tensor] = {}
        for term in self.terms.values():
            if joined := _joins(term):
                key = self.key_of(joined)
                targets[key] = given.target(joined)
                needs.setdefault(key, set()).update(joined.needs)
        for key, asked in (also or {}).items():
            targets[key] = given.labels
            needs.setdefault(key, set()).update(asked)
        if images:
            needs = {key: {(name, "image") for name, _ in asked} for key, asked in needs.items()}
        with torch.autocast(logits.device.type, enabled=False):
            return {key: pixel_sums(logits, targets[key], key[0], need, key[1], given.weight) for key, need in needs.items()}

    def key_of(self, term: Term) -> Key:
        """What terms have to agree in to share their sums."""
        return term.task, term.ignore_index, bool(self.label_smoothing) and term.soft


@compiled_on_gpu
def _values_of_sums(composite: Composite, given: Given, *, logits: Tensor) -> dict[str, Tensor]:
    """The values of the terms that share the pass, by name."""
    found, values = composite.sums(logits, given), {}
    for name, term in composite.terms.items():
        sums = composite.sums_of(term, found)
        if sums is not None:
            values[name] = term.from_sums(sums)  # type: ignore[operator]
    return values


Key: TypeAlias = tuple[str, int, bool]
"""The task, the label of pixels that do not count, and whether labels are softened."""


def label_key(task: str) -> Key:
    """The key of the labels as they are."""
    return task, IGNORE, False


def _joins(term: nn.Module) -> Term | None:
    """The term, if it is a function of sums."""
    return term if isinstance(term, Term) and term.needs else None
