"""Checks of what a loss is made with and of what it is given, and the neutralising of ignored pixels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rsseg.contract import IGNORE, InputError, nearest, number
from rsseg.task import TASKS

log = logging.getLogger(__name__)

SEGMENTATION = tuple(kind for kind, task in TASKS.items() if not task.real)
"""The tasks whose targets are labels."""


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


def whole(name: str, value: Any) -> int:
    """A whole number of 0 or more."""
    if type(value) is not int or value < 0:
        raise InputError(f"{name} has to be a whole number of 0 or more; found {value!r}")
    return value


def per_class(name: str, values: Any, scalar: bool = False) -> tuple[float, ...] | float | None:
    """Numbers of 0 or more, not all 0; how many there must be shows with the first logits.

    Args:
        name: What the user calls them.
        values: A sequence or vector; None stays None.
        scalar: Whether one number for all classes will do.

    Raises:
        InputError: If they are none.
    """
    if isinstance(values, Tensor):
        values = values.tolist()
    if values is None or (scalar and isinstance(values, Real)):
        return None if values is None else number(name, values)
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        one = "a number, or " if scalar else ""
        raise InputError(f"{name} has to be {one}a list with one number per class; found {values!r}")
    found = tuple(number(f"{name}[{i}]", value) for i, value in enumerate(values))
    if not any(found):
        raise InputError(f"{name} is 0 for every class, so nothing would be learnt: give one of them a positive number")
    return found


def class_choice(name: str, classes: Any) -> str | tuple[int, ...]:
    """`all`, `present`, or different class numbers."""
    if classes in ("all", "present"):
        return str(classes)
    listed = isinstance(classes, Sequence) and not isinstance(classes, str) and len(classes) > 0
    if not listed or not all(isinstance(c, int) and not isinstance(c, bool) and c >= 0 for c in classes):
        raise InputError(f"{name} has to be all, present or a list of class numbers; found {classes!r}")
    if len(set(classes)) < len(classes):
        raise InputError(f"{name} names a class twice: {list(classes)}; to weigh classes use class_weights")
    return tuple(classes)


def reduction(name: str, over: Any) -> str:
    """`batch` or `image`."""
    if over not in ("batch", "image"):
        raise InputError(f"{name} has to be batch or image; found {over!r}")
    return str(over)


def nodata(name: str, value: Any) -> float | None:
    """A number, NaN and infinities among them, or nothing."""
    if value is not None and (not isinstance(value, Real) or isinstance(value, bool)):
        raise InputError(f"{name} has to be a number or null; found {value!r}")
    return None if value is None else float(value)


RULES: Mapping[str, Callable[[str, Any], Any]] = {
    "gamma": number,
    "smooth": number,
    "label_smoothing": partial(number, high=1.0),
    "class_weights": per_class,
    "pos_weight": partial(per_class, scalar=True),
    "classes": class_choice,
    "over": reduction,
    "nodata": nodata,
}
"""How the parameters of terms are checked, by name; a term may have rules of its own."""


def check_shapes(logits: Tensor, target: Tensor, task: str) -> None:
    """Refuse logits and target that do not fit each other. Looks at shapes and dtypes only, so it costs nothing.

    Args:
        logits: Floating point, ``[B, C, H, W]`` (C = 1 for binary).
        target: Integers, ``[B, H, W]``, or ``[B, L, H, W]`` for multilabel.
        task: `binary`, `multiclass` or `multilabel`.

    Raises:
        InputError: If a shape or dtype is another one, with the likely reason and the way out.
    """
    found, shape = tuple(target.shape), tuple(logits.shape)
    if not logits.is_floating_point() or len(shape) != 4:
        raise InputError(f"the loss needs floating-point logits [B, C, H, W]; found {logits.dtype} {list(shape)}")
    if task not in SEGMENTATION:
        raise InputError(f"segmentation losses know the tasks {', '.join(SEGMENTATION)}; found '{task}'")
    if misfit := TASKS[task].misfit(shape[1]):
        raise InputError(f"logits {list(shape)}: {misfit}")
    expected = shape if TASKS[task].separate else (shape[0], *shape[2:])
    if found != expected:
        raise InputError(
            f"a {task} target for logits {list(shape)} has the shape {list(expected)}; "
            f"found {list(found)}{_likely(found, expected, shape)}"
        )
    if target.is_floating_point() or target.is_complex():
        raise InputError(f"the target holds class numbers and needs an integer dtype; found {target.dtype}: use .long()")


def _likely(found: tuple[int, ...], expected: tuple[int, ...], logits: tuple[int, ...]) -> str:
    """The likely reason for a wrong shape, and the way out."""
    if len(expected) == 3 and found == (expected[0], 1, *expected[1:]):
        return ": use target.squeeze(1)"
    if len(expected) == 3 and found == logits:
        return ": it looks one-hot; give class numbers, target.argmax(1)"
    if len(expected) == 3 and found == (*expected, logits[1]):
        return ": it looks one-hot with the classes last; give class numbers, target.argmax(-1)"
    if len(expected) == 4 and found == (expected[0], *expected[2:]):
        return ": give one plane of 0 and 1 per label (task=multiclass takes class numbers)"
    if len(found) == len(expected) and found == (*expected[:-2], expected[-1], expected[-2]):
        return ": height and width are swapped, use target.transpose(-1, -2)"
    return ": check that the mask was cut and batched like its image"


def check_values(logits: Tensor, target: Tensor, task: str, ignore_index: int = IGNORE) -> None:
    """Refuse labels outside the classes. Reads the target's values, which waits for the device.

    Args:
        logits: As for `check_shapes`.
        target: As for `check_shapes`.
        task: As for `check_shapes`.
        ignore_index: The label of pixels that do not count.

    Raises:
        InputError: If a label is neither a class number nor the ignore value, naming it.

    Example:
        >>> check_values(torch.zeros(1, 3, 1, 2), torch.tensor([[[0, 7]]]), "multiclass")
        Traceback (most recent call last):
        ...
        rsseg.contract.InputError: the target holds 7, but 3 classes are numbered 0..2 ...
    """
    check_shapes(logits, target, task)
    labels = logits.shape[1] if TASKS[task].exclusive else 2
    values = target.long()
    wrong = (values != ignore_index) & ((values < 0) | (values >= labels))
    if not bool(wrong.any()):
        ignored = values == ignore_index
        if labels == 2 and not TASKS[task].exclusive and bool(ignored.any() & ~(values == 1).any() & ~ignored.all()):
            line = "the target holds 0 and %d alone, and %d is ignored: if it means 1 there, pass (target > 0)"
            log.warning(line, ignore_index, ignore_index)
        return
    shown = ", ".join(str(v) for v in torch.unique(values[wrong])[:5].tolist())
    if TASKS[task].exclusive:
        raise InputError(
            f"the target holds {shown}, but {labels} classes are numbered 0..{labels - 1} (ignored: {ignore_index}): "
            f"map other labels to a class or to {ignore_index}, or give the head more classes"
        )
    raise InputError(
        f"the target holds {shown}, but {task} targets hold 0 and 1 in each of {logits.shape[1]} plane(s) (ignored: "
        f"{ignore_index}): use (target > 0) for masks stored as 0 and 255, or task=multiclass for class numbers"
    )


def warn_of_probabilities(logits: Tensor, task: str) -> None:
    """Say so where the logits look like probabilities: softmax or sigmoid would be applied twice.

    They do if all are from 0 to 1, not all the same, and, for multiclass, the classes of every pixel sum to 1. Logits of a
    multiclass network practically never do; those of a sigmoid network lie in [0, 1] everywhere only by chance, for as
    long as every pixel is called more likely than not. Reads the values, which waits for the device.

    Args:
        logits: ``[B, C, H, W]``.
        task: `binary`, `multiclass` or `multilabel`.
    """
    values = logits.detach()
    if values.numel() == 0 or not bool((values.amin() >= 0) & (values.amax() <= 1) & (values.amin() < values.amax())):
        return
    if TASKS[task].exclusive and not bool(((values.float().sum(1) - 1).abs() < 1e-2).all()):
        return
    name = "softmax" if TASKS[task].exclusive else "sigmoid"
    log.warning(
        "the loss takes logits, but its input lies within %.3g..%.3g like probabilities%s: with a %s in the model it would "
        "be applied twice, and the gradient would all but vanish; remove it (smp: activation=None)",
        float(values.amin()),
        float(values.amax()),
        " that sum to 1" if TASKS[task].exclusive else "",
        name,
    )


class Prepared(NamedTuple):
    """Logits and target in which ignored pixels are harmless.

    Attributes:
        logits: ``[B, C, H, W]``, float32 or float64, 0 at ignored pixels.
        target: int64, 0 at ignored pixels; ``[B, H, W]`` for multiclass, else ``[B, L, H, W]`` (binary is L = 1).
        valid: bool, the target's shape; False at ignored pixels.
    """

    logits: Tensor
    target: Tensor
    valid: Tensor


def prepare(logits: Tensor, target: Tensor, task: str, ignore_index: int = IGNORE) -> Prepared:
    """Logits in float32 or better and an integer target, both 0 at ignored pixels, with the mask of valid pixels.

    Ignored logits are replaced, not multiplied by 0: NaN and infinity under ignored pixels reach neither the value nor
    the gradient.

    Args:
        logits: As for `check_shapes`, of any floating dtype.
        target: As for `check_shapes`, of any integer dtype.
        task: As for `check_shapes`.
        ignore_index: The label of pixels that do not count.

    Raises:
        InputError: As `check_shapes`.

    Example:
        >>> logits, target, valid = prepare(torch.full((1, 1, 1, 2), torch.nan), torch.tensor([[[1, 255]]]), "binary")
        >>> logits.flatten(), target.flatten(), valid.flatten()
        (tensor([nan, 0.]), tensor([1, 0]), tensor([ True, False]))
    """
    check_shapes(logits, target, task)
    target = target.long()
    if not TASKS[task].exclusive:
        target = target.reshape(logits.shape)
    valid = target != ignore_index
    wide = logits if logits.dtype == torch.float64 else logits.float()
    per_logit = valid.unsqueeze(1) if TASKS[task].exclusive else valid
    return Prepared(
        torch.where(per_logit, wide, torch.zeros_like(wide)),
        torch.where(valid, target, torch.zeros_like(target)),
        valid,
    )


def planes(prepared: Prepared, task: str) -> tuple[Tensor, Tensor]:
    """Which valid pixels belong to each class, and which are valid; both bool ``[B, C, H, W]``.

    Args:
        prepared: What `prepare` made of logits and target.
        task: `binary`, `multiclass` or `multilabel`.
    """
    logits, target, valid = prepared
    if not TASKS[task].exclusive:
        return (target == 1) & valid, valid
    number = torch.arange(logits.shape[1], device=logits.device).view(-1, 1, 1)
    valid = valid.unsqueeze(1)
    return (target.unsqueeze(1) == number) & valid, valid.expand_as(logits)
