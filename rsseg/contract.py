"""Definitions that all rooms use: ignored pixels, the batch, the user's error."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import TYPE_CHECKING, Any, NotRequired, TypeAlias, TypedDict

if TYPE_CHECKING:
    from torch import Tensor

IGNORE = 255
"""The label that means "do not train on and do not score this pixel", in every mask inside rsseg."""

Layers: TypeAlias = "dict[str, Tensor]"
"""The pixelwise layers of an image: its targets by name and, where there is one, its ``weight``, as in a `Batch`."""

ONE_TARGET = "mask"
"""The name of the target of a dataset that has one only."""

ENOUGH_GROUPS = 6
"""With fewer independent areas, such as towns, scores say little about other areas."""

BESIDE_LAYERS = ("image", "scene", "k", "corner")
"""The entries of a `Batch` that are not layers; no target may have such a name."""


class InputError(Exception):
    """A mistake of the user's in configuration, files or labels.

    The message gives the finding, the expectation and the remedy. Entry points print only the message, without a stack trace,
    and exit with 1. Any function may raise it for input that it can't use; docstrings mention the less obvious cases.
    """


class Batch(TypedDict):
    """A batch, as a loader yields it and the module consumes it.

    A dataset with several targets has an entry for each by name, instead of ``mask``. If a window's scene lacks a target, all
    its pixels are unknown (see `unknown`).

    Attributes:
        image: ``[B, C, H, W]``, in the stored dtype until it is normalised on the device, float32 afterwards.
        mask: Labels, uint8 ``[B, H, W]`` (binary, multiclass) or ``[B, L, H, W]`` (multilabel), `IGNORE` where not labelled; or
            class shares or real values, float32 ``[B, C, H, W]``, NaN where not known.
        weight: float32 ``[B, H, W]``, the weight of a pixel in the loss; absent: 1.
        scene: int64 ``[B]``, the number of the scene that the window was cut from.
        corner: int64 ``[B, 2]``, the window's first row and column in the scene.
        k: int64 ``[B]``, the number of the window in the stream; seeds its augmentation.
    """

    image: Tensor
    mask: Tensor
    weight: NotRequired[Tensor]
    scene: Tensor
    corner: NotRequired[Tensor]
    k: Tensor


def layers_of(batch: Batch) -> Layers:
    """The layers of a batch."""
    layers: Any = {name: layer for name, layer in batch.items() if name not in BESIDE_LAYERS}
    return dict(layers)


def holds_reals(values: Any) -> bool:
    """Whether a tensor or an array holds real numbers, not labels."""
    return bool(values.is_floating_point() if hasattr(values, "is_floating_point") else values.dtype.kind == "f")


def unknown(values: Any) -> float:
    """The value for "not known" in a layer of this dtype: NaN among real numbers, `IGNORE` among labels."""
    return math.nan if holds_reals(values) else IGNORE


def known(values: Any) -> Any:
    """Whether each value of a layer, a tensor or an array, is known: bool of its shape.

    Example:
        >>> import numpy as np
        >>> known(np.array([0, IGNORE])), known(np.array([np.nan, 255.0]))
        (array([ True, False]), array([False,  True]))
    """
    return values == values if holds_reals(values) else values != IGNORE


def labelled(layers: Layers) -> Tensor:
    """Whether a pixel is labelled in at least one target: bool ``[B, H, W]``."""
    places = [known(layer) for name, layer in layers.items() if name != "weight"]
    first: Tensor
    first, *others = [place.any(dim=1) if place.ndim == 4 else place for place in places]
    for other in others:
        first = first | other
    return first


def log_name(stage: str, head: str, value: str, heads: Collection[str]) -> str:
    """The name under which a head's value is logged; it contains the head's name only if there are several heads.

    Example:
        >>> log_name("val", "mask", "iou", ["mask"]), log_name("val", "road", "iou", ["road", "height"])
        ('val/iou', 'val/road/iou')
    """
    return f"{stage}/{value}" if len(heads) == 1 else f"{stage}/{head}/{value}"


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint ``" (did you mean 'x'?)"`` for error messages; empty if no known name is similar.

    Example:
        >>> nearest("gama", ["alpha", "gamma"])
        " (did you mean 'gamma'?)"
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean '{near[0]}'?)" if near else ""


def check_choice(setting: str, value: str, known: Iterable[str]) -> None:
    """Refuse a value that a setting does not have.

    Example:
        >>> check_choice("dtype", "half", ("uint8", "float16"))
        Traceback (most recent call last):
        ...
        rsseg.contract.InputError: dtype=half: uint8 or float16 is expected
    """
    names = list(known)
    if value not in names:
        expected = f"{', '.join(names[:-1])} or {names[-1]}"
        raise InputError(f"{setting}={value}{nearest(value, names)}: {expected} is expected")


def counted(number: int, noun: str) -> str:
    """A number with its noun, in the singular or plural.

    Example:
        >>> counted(1, "scene"), counted(12, "scene")
        ('1 scene', '12 scenes')
    """
    return f"{number} {noun}{'s' * (number != 1)}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if it has no message.

    Example:
        >>> first_line(ValueError("too short: see above")), first_line(KeyError())
        ('too short: see above', 'KeyError')
    """
    return next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)


def in_place(fault: str, place: str) -> str:
    """A message about a target, in which settings of the short form are replaced by those at the target's place.

    Example:
        >>> in_place("my dataset.a/1.tif: set dataset.source.attribute, or dataset.task", "dataset.targets.road")
        'my dataset.a/1.tif: set dataset.targets.road.attribute, or dataset.targets.road.task'
    """
    setting = r"(?<![\w/\\.-])dataset\.(source\.)?(?=[a-z_]+\b(?![/\\]))"  # not in a path
    return fault if place == "dataset" else re.sub(setting, f"{place}.", fault)


@contextmanager
def naming(what: object = "", place: str = "dataset") -> Iterator[None]:
    """Prefix an `InputError` of the block with its subject, and correct the places of settings, see `in_place`."""
    try:
        yield
    except InputError as error:
        fault = in_place(str(error), place)
        raise InputError(fault if str(what) in fault else f"{what}: {fault}") from None


def indices(setting: str, names: Iterable[str], classes: Sequence[str]) -> list[int]:
    """The indices in `classes` of the names in a setting.

    Example:
        >>> indices("classes", ["road"], ["land", "road"])
        [1]
    """
    for name in names:
        if name not in classes:
            raise InputError(
                f"{setting}: there is no class {name}{nearest(name, classes)}: the classes are {', '.join(classes)}"
            )
    return [classes.index(name) for name in names]


def check_number(name: str, value: Any, low: float = 0.0, high: float = math.inf) -> float:
    """The value of the setting of this name, if it is a finite number from `low` to `high`; else an `InputError`.

    Example:
        >>> check_number("gamma", -1)
        Traceback (most recent call last):
        ...
        rsseg.contract.InputError: gamma has to be a number of 0 or more; found -1
    """
    plain = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    if not low <= plain <= high or math.isinf(plain):
        span = f"of {low:g} or more" if math.isinf(high) else f"from {low:g} to {high:g}"
        raise InputError(f"{name} has to be a number {span}; found {value!r}")
    return plain


def check_whole_number(name: str, value: Any, low: float = 0.0, high: float = math.inf) -> int:
    """The value of a setting, if it is a whole number from `low` to `high`; see `check_number`."""
    check_number(name, value, low, high)
    if type(value) is not int:
        raise InputError(f"{name} has to be a whole number; found {value!r}")
    return value
