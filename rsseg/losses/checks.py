"""Checks: parameters of a loss, pixel weights, and logits that look like probabilities."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from numbers import Real
from typing import Any

from torch import Tensor

from rsseg.contract import InputError, check_number, check_whole_number, nearest
from rsseg.task import TASKS

log = logging.getLogger(__name__)

SEGMENTATION = tuple(kind for kind, task in TASKS.items() if not task.real)
"""The tasks whose targets are labels."""


def fitting_task(term: str, task: str, fits: Collection[str]) -> str:
    """Check that a term fits a task, of a kind in `fits` or derived from it, and return the task's name."""
    found = TASKS.get(str(task))
    if found and issubclass(found, tuple(TASKS[kind] for kind in fits)):
        return task
    others = f", such as {found.losses}" if found else ""
    raise InputError(
        f"{term} fits the tasks {', '.join(fits)}; found '{task}'{nearest(str(task), fits)}: "
        f"choose another loss for this head{others}"
    )


def positive(name: str, value: Any, high: float = math.inf) -> float:
    """A finite number above 0 and up to `high`.

    Example:
        >>> positive("delta", 0)
        Traceback (most recent call last):
        ...
        rsseg.contract.InputError: delta has to be more than 0; found 0
    """
    if not check_number(name, value, high=high):
        raise InputError(f"{name} has to be more than 0; found {value!r}")
    return float(value)


positive_share = partial(positive, high=1.0)
"""A number above 0 and up to 1."""


def per_class(name: str, values: Any, scalar: bool = False) -> tuple[float, ...] | float | None:
    """Check numbers of 0 or more, not all 0, or None; with `scalar`, also a single number for all classes.

    Their count is checked with the first logits.
    """
    if isinstance(values, Tensor):
        values = values.tolist()
    if values is None or (scalar and isinstance(values, Real)):
        return None if values is None else check_number(name, values)
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        one = "a number, or " if scalar else ""
        raise InputError(f"{name} has to be {one}a list with one number per class; found {values!r}")
    found = tuple(check_number(f"{name}[{i}]", value) for i, value in enumerate(values))
    if not any(found):
        raise InputError(f"{name} is 0 for every class, so nothing would be learnt: give one of them a positive number")
    return found


def class_choice(name: str, classes: Any) -> str | tuple[int, ...]:
    """Check `all`, `present`, or a list of different class numbers."""
    if classes in ("all", "present"):
        return str(classes)
    if not isinstance(classes, Sequence) or isinstance(classes, str) or not classes or len(set(classes)) < len(classes):
        raise InputError(f"{name} has to be all, present or a list of different class numbers; found {classes!r}")
    return tuple(check_whole_number(name, c) for c in classes)


def reduction(name: str, over: Any) -> str:
    """Check `batch` or `image`."""
    if over not in ("batch", "image"):
        raise InputError(f"{name} has to be batch or image; found {over!r}")
    return str(over)


def nodata(name: str, value: Any) -> float | None:
    """Check a number, which may be NaN or infinite, or None."""
    if value is not None and (not isinstance(value, Real) or isinstance(value, bool)):
        raise InputError(f"{name} has to be a number or null; found {value!r}")
    return None if value is None else float(value)


RULES: Mapping[str, Callable[[str, Any], Any]] = {
    "gamma": check_number,
    "smooth": check_number,
    "label_smoothing": partial(check_number, high=1.0),
    "class_weights": per_class,
    "pos_weight": partial(per_class, scalar=True),
    "classes": class_choice,
    "over": reduction,
    "nodata": nodata,
}
"""The checks of the parameters of terms, by name; a term may have rules of its own."""


def check_weight(logits: Tensor, weight: Tensor | None) -> None:
    """Refuse pixel weights whose shape or dtype does not fit logits."""
    expected = (logits.shape[0], *logits.shape[2:])
    if weight is not None and (tuple(weight.shape) != expected or not weight.is_floating_point()):
        raise InputError(
            f"pixel weights for logits {list(logits.shape)} are floating-point numbers {list(expected)}; "
            f"found {weight.dtype} {list(weight.shape)}"
        )


def check_weight_values(weight: Tensor | None) -> None:
    """Refuse weights below 0 and infinite ones; NaN is a weight of 0. Reads the values, which waits for the device."""
    if weight is None:
        return
    wrong = (weight < 0) | weight.isinf()
    if bool(wrong.any()):
        raise InputError(f"pixel weights are finite numbers of 0 or more; found {float(weight[wrong][0]):g}")


def warn_of_probabilities(logits: Tensor, task: str) -> None:
    """Warn if the logits look like probabilities, so that softmax or sigmoid would be applied twice.

    They do if all are from 0 to 1, not all equal, and, for multiclass, sum to 1 over the classes of every pixel. Multiclass
    logits practically never do. Those of a sigmoid network may by chance, while every pixel is predicted positive with small
    logits. Reads the values, which waits for the device.
    """
    values, exclusive = logits.detach(), TASKS[task].exclusive
    low, high = (float(x) for x in values.aminmax()) if values.numel() else (0.0, 0.0)
    if not 0 <= low < high <= 1 or (exclusive and bool(((values.float().sum(1) - 1).abs() >= 1e-2).any())):
        return
    log.warning(
        "the loss takes logits, but its input lies within %.3g..%.3g like probabilities%s: with a %s in the model it would "
        "be applied twice, and the gradient would all but vanish; remove it (smp: activation=None)",
        low,
        high,
        " that sum to 1" if exclusive else "",
        "softmax" if exclusive else "sigmoid",
    )
