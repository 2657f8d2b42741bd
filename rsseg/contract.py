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
"""Fewer independent areas, such as towns, say little about scores in others."""

BESIDE_LAYERS = ("image", "scene", "k", "corner")
"""The entries of a `Batch` that are no layers, which no target can be called as."""


class InputError(Exception):
    """A mistake of the user's in configuration, files or labels.

    The message gives the finding, the expectation and the remedy. Entry points print it alone, without a stack
    trace, and exit with 1. Whatever is given something that it can't use raises it; docstrings say so where it is no matter
    of course.
    """


class Batch(TypedDict):
    """A batch, as a loader yields it and the module consumes it.

    A dataset with several targets has an entry for each, by its name, instead of the mask. A target that a window's scene lacks
    is known nowhere in it.

    Attributes:
        image: ``[B, C, H, W]``, in the stored dtype until it is normalised on the device, float32 afterwards.
        mask: Labels, uint8 ``[B, H, W]`` (binary, multiclass) or ``[B, L, H, W]`` (multilabel), `IGNORE` where not labelled; or
            class shares or real values, float32 ``[B, C, H, W]``, NaN where not known.
        weight: float32 ``[B, H, W]``, the weight of a pixel in the loss; absent: 1.
        scene: int64 ``[B]``, the number of the scene that the window was cut from.
        corner: int64 ``[B, 2]``, the scene's row and column that the window begins in.
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
    """The known values of a layer, a tensor or an array: bool of its shape.

    Example:
        >>> import numpy as np
        >>> known(np.array([0, IGNORE])), known(np.array([np.nan, 255.0]))
        (array([ True, False]), array([False,  True]))
    """
    return values == values if holds_reals(values) else values != IGNORE


def labelled(layers: Layers) -> Tensor:
    """The pixels of which some target says something: bool ``[B, H, W]``."""
    places = [known(layer) for name, layer in layers.items() if name != "weight"]
    first: Tensor
    first, *others = [place.any(dim=1) if place.ndim == 4 else place for place in places]
    for other in others:
        first = first | other
    return first


def log_name(stage: str, head: str, value: str, heads: Collection[str]) -> str:
    """The name under which a head's value is logged; the head's name is in it only where there are several.

    Example:
        >>> log_name("val", "mask", "iou", ["mask"]), log_name("val", "road", "iou", ["road", "height"])
        ('val/iou', 'val/road/iou')
    """
    return f"{stage}/{value}" if len(heads) == 1 else f"{stage}/{head}/{value}"


def nearest(name: str, known: Iterable[str]) -> str:
    """A ``" (did you mean 'x'?)"`` for error messages, or nothing where no known name is near.

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
    """A number of things in words that fit it.

    Example:
        >>> counted(1, "scene"), counted(12, "scene")
        ('1 scene', '12 scenes')
    """
    return f"{number} {noun}{'s' * (number != 1)}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none.

    Example:
        >>> first_line(ValueError("too short: see above")), first_line(KeyError())
        ('too short: see above', 'KeyError')
    """
    return next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)


def in_place(fault: str, place: str) -> str:
    """A fault of a target, told with its place in the config instead of that of the short form.

    Example:
        >>> in_place("my dataset.a/1.tif: set dataset.source.attribute, or dataset.task", "dataset.targets.road")
        'my dataset.a/1.tif: set dataset.targets.road.attribute, or dataset.targets.road.task'
    """
    setting = r"(?<![\w/\\.-])dataset\.(source\.)?(?=[a-z_]+\b(?![/\\]))"  # not in a path
    return fault if place == "dataset" else re.sub(setting, f"{place}.", fault)


@contextmanager
def naming(what: object = "", place: str = "dataset") -> Iterator[None]:
    """Let an `InputError` of the block name its subject, and settings by their place, see `in_place`."""
    try:
        yield
    except InputError as error:
        fault = in_place(str(error), place)
        raise InputError(fault if str(what) in fault else f"{what}: {fault}") from None


def indices(setting: str, names: Iterable[str], classes: Sequence[str]) -> list[int]:
    """The indices among all classes of those that a setting names.

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
    """The value of the setting of this name, a finite number between two bounds, themselves allowed.

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
    """A whole number between two bounds, as for `check_number`."""
    check_number(name, value, low, high)
    if type(value) is not int:
        raise InputError(f"{name} has to be a whole number; found {value!r}")
    return value
