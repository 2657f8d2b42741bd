"""Class weights from pixel counts.

With all rules, the mean weight of the classes that occur is 1, so that the learning rate keeps its meaning. A class that never
occurs gets the largest weight of the others; `uncounted` lists such classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from rsseg.contract import InputError, check_number, indices, nearest
from rsseg.task import Task

EXTREME = 1e3
"""The weight of positives if there are none, instead of infinity."""


class Counts(Protocol):
    """The numbers of training pixels of each class, and of labelled pixels for each class."""

    @property
    def positives(self) -> list[int]: ...

    @property
    def valid(self) -> list[int]: ...


Rule: TypeAlias = Callable[[Sequence[int]], list[float]]
"""Maps the number of pixels of each class to weights; negative counts, and counts that are all 0, raise `InputError`."""


def inverse_frequency(counts: Sequence[int]) -> list[float]:
    """Weights in proportion to ``1 / n``: all classes have the same total weight, so rare ones get very large weights.

    Example:
        >>> [round(weight, 3) for weight in inverse_frequency([900, 100, 0])]
        [0.2, 1.8, 1.8]
    """
    return _weights(lambda n: 1 / n, counts)


def root_inverse_frequency(counts: Sequence[int]) -> list[float]:
    """Weights in proportion to ``1 / sqrt(n)``: between equal weights of pixels and equal total weights of classes.

    Example:
        >>> [round(weight, 3) for weight in root_inverse_frequency([900, 100])]
        [0.5, 1.5]
    """
    return _weights(lambda n: 1 / math.sqrt(n), counts)


def effective_number(counts: Sequence[int], beta: float | None = None) -> list[float]:
    """Weights in proportion to ``(1 - beta) / (1 - beta^n)`` (Cui et al. 2019): the inverse of the effective number.

    Neighbouring pixels are redundant, so additional pixels add less and less information. The paper counts up to thousands of
    samples per class, with beta from 0.9 to 0.9999; for millions of pixels such a beta gives equal weights.

    Args:
        counts: The number of pixels n of each class.
        beta: From 0 (equal weights) to below 1 (inverse frequency). None: ``1 - 1 / N`` with N the mean count of the classes
            that occur: classes well below the mean get weights by inverse frequency, those above nearly equal ones.

    Example:
        >>> [round(weight, 3) for weight in effective_number([900, 100], beta=0.99)]
        [0.776, 1.224]
    """
    if beta is None:
        occurring = [n for n in counts if n > 0] or [1]
        beta = 1 - len(occurring) / max(1, sum(occurring))
    if not 0 <= beta < 1:
        raise InputError(f"beta of the effective number has to be from 0 up to, not including, 1; found {beta}")
    # expm1 and log1p avoid cancellation in both differences if beta is near 1
    return _weights(lambda n: (1 - beta) / -math.expm1(n * math.log1p(beta - 1)) if beta else 1.0, counts)


WEIGHTING: Mapping[str, Rule] = {
    "inverse_frequency": inverse_frequency,
    "root_inverse_frequency": root_inverse_frequency,
    "effective_number": effective_number,
}
"""The rules by their names in a config, the values of `class_weights`."""


def _weights(rule: Callable[[int], float], counts: Sequence[int]) -> list[float]:
    if any(count < 0 for count in counts) or not any(counts):
        raise InputError(f"class weights need pixel counts of 0 or more, one of them positive; found {list(counts)}")
    raw = [rule(count) if count else None for count in counts]
    occurring = [x for x in raw if x is not None]
    scale = len(occurring) / sum(occurring)
    return [scale * (max(occurring) if x is None else x) for x in raw]


def positive_weight(negatives: int, positives: int, rule: Rule = inverse_frequency) -> float:
    """The weight of positives relative to negatives; for inverse frequency ``negatives / positives``, which balances them.

    It is 1000 without positives and 1/1000 without negatives; `uncounted` lists such classes.

    Example:
        >>> positive_weight(900, 100), positive_weight(900, 100, root_inverse_frequency)
        (9.0, 3.0)
    """
    if min(negatives, positives) < 0 or negatives + positives == 0:
        raise InputError(f"a positive weight needs labelled pixels; found {negatives} negative, {positives} positive")
    if not positives:
        return EXTREME
    if not negatives:
        return 1 / EXTREME
    of_negatives, of_positives = rule([negatives, positives])
    return of_positives / of_negatives


def uncounted(task: Task, positives: Sequence[int], valid: Sequence[int]) -> list[int]:
    """The classes whose weight can't be counted: those without pixels, and (binary, multilabel) those without negatives.

    Example:
        >>> from rsseg.task import Multiclass, Multilabel
        >>> uncounted(Multilabel(("a", "b", "c")), [0, 3, 9], [9, 9, 9]), uncounted(Multiclass(("a", "b")), [0, 9], [9, 9])
        ([0, 2], [0])
    """
    whole = [0] * len(positives) if task.exclusive else valid
    return [c for c, (own, most) in enumerate(zip(positives, whole, strict=True)) if own in (0, most)]


def counted_priors(task: Task, counts: Counts) -> list[float]:
    """The share of each class among the labelled pixels; binary, multilabel: among the pixels labelled for that class.

    Shares of 0 and 1, whose logarithm or odds are infinite, are replaced like the inverse-frequency weights.

    Example:
        >>> from types import SimpleNamespace
        >>> from rsseg.task import Binary
        >>> counted_priors(Binary(("a",)), SimpleNamespace(positives=[100], valid=[1000]))
        [0.1]
    """
    if task.exclusive:
        relative = [1 / weight for weight in inverse_frequency(counts.positives)]
        return [share / sum(relative) for share in relative]
    return [1 / (1 + weight) for weight in _positive_weights(counts, inverse_frequency)]


def _positive_weights(counts: Counts, rule: Rule) -> list[float]:
    """The weight of positives of each label; 1 for a label without labelled pixels."""
    pairs = zip(counts.positives, counts.valid, strict=True)
    return [positive_weight(valid - own, own, rule) if valid else 1.0 for own, valid in pairs]


def numbers_by_class(setting: str, numbers: Any, classes: Sequence[str]) -> Any:
    """Numbers per class as a list: those of a mapping by class name, and 1 for the other classes; None stays None.

    Example:
        >>> numbers_by_class("class_weights", {"road": 3}, ["land", "road"])
        [1.0, 3]
    """
    if isinstance(numbers, Mapping):
        indices(setting, numbers, classes)  # refuses a class that is not known
        return [numbers.get(name, 1.0) for name in classes]
    if isinstance(numbers, Sequence) and not isinstance(numbers, str) and len(numbers) != len(classes):
        raise InputError(
            f"{setting}={list(numbers)}: a number for each of the {len(classes)} classes {', '.join(classes)} is expected, or "
            f"numbers by name, such as {{{classes[-1]}: 2}}; the others are 1 then"
        )
    return numbers


def counted_weights(term: Mapping[str, Any], where: str, task: Task, counts: Counts | None) -> dict[str, Any]:
    """A term's arguments, with numbers in place of `priors` that are "counted" and of `class_weights` that name a rule.

    `class_weights` and `pos_weight` may be given by class names, see `numbers_by_class`.
    For binary and multilabel tasks, a rule's weight of positives relative to negatives becomes `pos_weight`.
    `class_weights_cap` limits the ratio of the largest weight to the smallest and preserves the mean. `counts` are those of the
    training split; None: weights of 1, to check the other arguments.
    """
    if isinstance(priors := term.get("priors"), str):
        if priors != "counted":
            raise InputError(f"{where}.priors={priors}{nearest(priors, ['counted'])}: numbers or counted are expected")
        return {**term, "priors": [0.5] * task.channels if counts is None else counted_priors(task, counts)}
    name, rest = term.get("class_weights"), {key: value for key, value in term.items() if key != "class_weights_cap"}
    cap = term.get("class_weights_cap")
    if cap is not None:
        check_number(f"{where}.class_weights_cap", cap, low=1.0)
    if not isinstance(name, str):
        for key in {"class_weights", "pos_weight"} & rest.keys():
            rest[key] = numbers_by_class(f"{where}.{key}", rest[key], task.classes)
        if cap is not None:
            raise InputError(f"{where}.class_weights_cap={cap} caps counted weights: set class_weights=inverse_frequency")
        return rest
    if name not in WEIGHTING:
        raise InputError(
            f"{where}.class_weights={name}{nearest(name, WEIGHTING)}: numbers, null, {', '.join(WEIGHTING)} are expected"
        )
    if not task.exclusive and term["_target_"].rpartition(".")[2] not in ("CrossEntropy", "BinaryCrossEntropy"):
        raise InputError(
            f"{where}.class_weights={name} of a {task.kind} task weighs positive pixels: only cross-entropy terms do that"
        )
    del rest["class_weights"]
    rule, cap = WEIGHTING[name], cap or math.inf
    if counts is None:
        found = [1.0] * task.channels
    elif task.exclusive:
        weights = np.array(rule(counts.positives))
        capped = weights.clip(max=cap * weights.min())
        found = (capped * (weights.sum() / capped.sum())).tolist()
    else:
        found = [min(max(weight, 1 / cap), cap) for weight in _positive_weights(counts, rule)]
    return {**rest, "class_weights" if task.exclusive else "pos_weight": found}
