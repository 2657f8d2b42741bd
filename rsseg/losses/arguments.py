"""Checks of what a term is constructed with: one sentence on what was found and what to do."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from numbers import Real
from typing import Any, get_args

import torch
from torch import Tensor

from rsseg.contract import InputError, nearest, number
from rsseg.losses.average import Classes
from rsseg.losses.statistics import Over


def fitting(term: str, task: str, fits: Collection[str]) -> str:
    """The name of the task, if the term fits it."""
    if task not in fits:
        raise InputError(
            f"{term} fits the tasks {', '.join(fits)}; found '{task}'{nearest(str(task), fits)}: "
            "choose another loss for this head"
        )
    return task


def positive(name: str, value: Any) -> float:
    """A finite number above 0.

    Example:
        >>> positive("delta", 0)
        Traceback (most recent call last):
        ...
        rsseg.contract.InputError: delta has to be more than 0; found 0
    """
    if not number(name, value):
        raise InputError(f"{name} has to be more than 0; found {value!r}")
    return float(value)


def numbers(name: str, values: Any, scalar: bool = False) -> Tensor:
    """Numbers of 0 or more, not all 0, as a float32 vector; how many there must be shows with the first logits.

    Args:
        name: What the user calls them.
        values: A sequence or vector.
        scalar: Whether one number for all classes will do; it becomes a tensor without dimensions.
    """
    if isinstance(values, Tensor):
        values = values.tolist()
    if scalar and isinstance(values, Real):
        return torch.tensor(number(name, values))
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        one = "a number, or " if scalar else ""
        raise InputError(f"{name} has to be {one}a list with one number per class; found {values!r}")
    found = [number(f"{name}[{i}]", value) for i, value in enumerate(values)]
    if not any(found):
        raise InputError(f"{name} is 0 for every class, so nothing would be learnt: give one of them a positive number")
    return torch.tensor(found)


def class_choice(name: str, classes: Any) -> Classes:
    """`all`, `present`, or different class numbers."""
    if classes in ("all", "present"):
        return "all" if classes == "all" else "present"
    listed = isinstance(classes, Sequence) and not isinstance(classes, str) and len(classes) > 0
    if not listed or not all(isinstance(c, int) and not isinstance(c, bool) and c >= 0 for c in classes):
        raise InputError(f"{name} has to be all, present or a list of class numbers; found {classes!r}")
    if len(set(classes)) < len(classes):
        raise InputError(f"{name} names a class twice: {list(classes)}; to weigh classes use class_weights")
    return tuple(classes)


def reduction(name: str, over: Any) -> Over:
    """`batch` or `image`."""
    if over not in get_args(Over):
        raise InputError(f"{name} has to be batch or image; found {over!r}")
    return "batch" if over == "batch" else "image"


def nodata(name: str, value: Any) -> float | None:
    """A number, NaN and infinities among them, or nothing."""
    if value is not None and (not isinstance(value, Real) or isinstance(value, bool)):
        raise InputError(f"{name} has to be a number or null; found {value!r}")
    return None if value is None else float(value)


RULES: Mapping[str, Callable[[str, Any], Any]] = {
    "smooth": number,
    "gamma": number,
    "label_smoothing": partial(number, high=1.0),
    "classes": class_choice,
    "over": reduction,
    "nodata": nodata,
}
"""How the parameters that mean the same in every term are checked."""
