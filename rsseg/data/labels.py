"""Decoders of mask files: labels, class shares, real values such as heights, and pixel weights."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsseg.contract import IGNORE, InputError
from rsseg.data.boxes import Boxes
from rsseg.data.masks import Array, MaskReader
from rsseg.task import Centres, Regression, Task

RANGE = re.compile(r"(-?\d+)-(-?\d+)")  # a range of mask values, as in "0-127"
SHOWN = 5  # values in a message
BLURRED = 32  # a mask with more unknown colours than this was compressed lossily
TOLERANCE = 0.01  # how far the sum of exclusive shares may be from 1


def parse_colour(text: str) -> int:
    """A "#rrggbb" colour as one integer."""
    digits = text.removeprefix("#")
    if not re.fullmatch("[0-9a-fA-F]{6}", digits):
        raise InputError(f'\'{text}\' is no colour: write it as "#rrggbb", for example "#ff8000"')
    return int(digits, 16)


def parse_values(value: Any) -> list[Any]:
    """The mask values of one config entry: a single value, all values of a range such as "0-127", or those of a list."""
    if isinstance(value, list | tuple):
        return [each for part in value for each in parse_values(part)]
    ends = RANGE.fullmatch(value) if isinstance(value, str) else None
    if ends is None:
        return [value]
    first, last = int(ends[1]), int(ends[2])
    if not 0 <= last - first < 1 << 16:
        raise InputError(f"dataset.mask_values has the range '{value}': the lower end comes first, at most 65,536 values")
    return list(range(first, last + 1))


class Labels(MaskReader):
    """Decodes masks of labels by a table from values or colours to labels; NaN is ignored. See `make_mask_reader`.

    Example:
        >>> from rsseg.task import Binary
        >>> labels = Labels(Binary(("building",)), values=[0, 255])
        >>> labels.decode(np.array([[[0, 255]]], dtype=np.uint8))
        array([[0, 1]], dtype=uint8)
    """

    def __init__(self, task: Task, values: Sequence[Any] | None = None, ignore: Sequence[Any] = (), tolerance: int = 0) -> None:
        self.task, self.tolerance, self.ignore = task, tolerance, list(ignore)
        listed = list(range(task.labels) if values is None else values)
        self.given = f"dataset.mask_values={listed} and dataset.ignore_values={self.ignore}"
        pairs = [(value, label) for label, entry in enumerate(listed) for value in parse_values(entry)]
        pairs += [(value, IGNORE) for value in parse_values(self.ignore) if value == value]
        kinds = {type(value) for value, _ in pairs}
        if kinds not in ({int}, {str}):
            raise InputError(f"{self.given}: all have to be integers or colours; found a mix, or others")
        self.colours = kinds == {str}
        if tolerance and not self.colours:
            raise InputError(f"dataset.colour_tolerance={tolerance}: the masks hold integers; set it to 0, or list colours")
        table = {parse_colour(value) if self.colours else value: label for value, label in pairs}
        if len(table) < len(pairs):
            hint = "; 255 is ignored unless you say otherwise: add dataset.ignore_values=[]" * (self.ignore == [IGNORE])
            raise InputError(f"a value has two meanings in {self.given}{hint}")
        self._raw = np.array(sorted(table), dtype=np.int64)
        self._codes = np.array([table[value] for value in sorted(table)], dtype=np.uint8)
        self._of_bytes = self._look_up(np.arange(256))

    @property
    def signature(self) -> tuple[object, ...]:
        return self.colours, self._raw.tobytes(), self._codes.tobytes(), self.tolerance

    def decode(self, raw: Array, hidden: NDArray[np.bool_] | None = None, nodata: float | None = None) -> NDArray[np.uint8]:
        """See `MaskReader`: uint8 ``[H, W]``, or ``[L, H, W]`` for multilabel; each value has to be a label or ignored."""
        numbers = _numbers_of_colours(raw) if self.colours else raw[: self.mask_bands]
        if numbers.dtype == np.uint8:
            codes, unknown = self._of_bytes[0][numbers], self._of_bytes[1][numbers]  # ten times faster
        else:
            codes, unknown = self._look_up(numbers)
        if unknown.any():
            unknown &= numbers == numbers
            if hidden is not None:
                unknown &= ~hidden
            if nodata is not None:
                unknown &= numbers != (nodata * 0x010101 if self.colours else nodata)
            if unknown.any():
                raise InputError(self._fault(numbers[unknown]))
        return codes if self.task.planes else codes[0]

    def _look_up(self, numbers: Array) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """The label of each number, or `IGNORE`, and bool, true where there is none; a near colour gets the nearest label."""
        place = np.searchsorted(self._raw, numbers).clip(max=len(self._raw) - 1)
        unknown = self._raw[place] != numbers
        if self.tolerance and unknown.any():
            colours, where = np.unique(numbers[unknown], return_inverse=True)
            apart = abs(_channels(colours)[:, None] - _channels(self._raw))
            nearest = (apart**2).sum(axis=-1).argmin(axis=1)
            far = apart[np.arange(len(colours)), nearest].max(axis=-1) > self.tolerance
            place[unknown] = nearest[where]
            unknown[unknown] = far[where]
        return np.where(unknown, np.uint8(IGNORE), self._codes[place]), unknown

    def _fault(self, unknown: Array) -> str:
        """The message about values that are neither labels nor ignored."""
        found, counts = np.unique(unknown, return_counts=True)
        shown = [f"#{int(value):06x}" if self.colours else f"{value:g}" for value in found[:SHOWN]]
        listed = ", ".join(f"{text} ({n} pixels)" for text, n in zip(shown, counts, strict=False))
        ignored = [f'"{text}"' if self.colours else text for text in (*shown, *map(str, self.ignore))]
        way_out = (
            "Name its class in dataset.classes (and dataset.mask_values), or leave it out with dataset.ignore_values="
            f"[{','.join(ignored)}]"
        )
        if self.colours and len(found) > BLURRED:
            apart = abs(_channels(found)[:, None] - _channels(self._raw)).max(axis=-1).min(axis=1)
            way_out = (
                "Masks are blurred, as by JPEG: list the colours of all classes, and set dataset.colour_tolerance: "
                f"#{int(found[apart.argmax()]):06x} is {apart.max()} from the nearest listed colour"
            )
        elif not self.colours and (found % 1 != 0).any():
            way_out = f"Grey values are told apart by dataset.source.threshold={float(np.mean(self._raw[:2])):g}, for example"
        elif not self.colours and len(found) > BLURRED:
            way_out = (
                f"Grey values are told apart by dataset.source.threshold={found.max() // 2:g}, for example, or by ranges "
                'such as dataset.mask_values=["0-127","128-255"]'
            )
        return (
            f"the mask holds the {'colour' if self.colours else 'value'} {listed}{', ...' * (len(found) > SHOWN)}, which is "
            f"neither a label nor ignored: {self.given}. {way_out}"
        )


def _numbers_of_colours(raw: Array) -> NDArray[np.int64]:
    """Red, green and blue ``[3, H, W]`` as one number a pixel, ``[1, H, W]``."""
    red, green, blue = raw[:3].astype(np.int64)
    if raw.dtype.itemsize > 1 and raw.max(initial=0) > 255:
        raise InputError(
            f"the mask holds colours of {8 * raw.dtype.itemsize} bits, up to {raw.max():g}: write them with 8 "
            "(gdal_translate -ot Byte -scale 0 65535 0 255)"
        )
    return np.asarray(red << 16 | green << 8 | blue)[None]


def _channels(colours: Array) -> NDArray[np.int64]:
    """Red, green and blue ``[n, 3]`` of colours as integers ``[n]``."""
    numbers = colours.astype(np.int64)
    return np.stack([numbers >> 16, numbers >> 8 & 255, numbers & 255], axis=-1)


def _without_value(
    raw: Array, hidden: NDArray[np.bool_] | None, nodata: float | None, every: bool = False
) -> NDArray[np.bool_]:
    """Bool ``[bands, H, W]``, true where real numbers are hidden, NaN or no-data; with `every`, no-data in all bands."""
    missing = raw != raw
    if hidden is not None:
        missing |= hidden
    if nodata is not None:
        missing |= (raw == nodata).all(axis=0) if every else raw == nodata
    return np.asarray(missing)


class Shares(MaskReader):
    """Decodes masks with a band for each class, which holds the share of the class in each pixel.

    For exclusive classes, a pixel with an unknown share is unknown in all classes, and shares are divided by their sum, which
    may differ from 1 by `TOLERANCE`. `whole` is the value of a share of 1 in the files, such as 1, 100 or 255.
    """

    def __init__(self, task: Task, whole: float) -> None:
        self.task, self.whole = task, whole

    @property
    def signature(self) -> tuple[object, ...]:
        return "shares", float(self.whole)

    def decode(self, raw: Array, hidden: NDArray[np.bool_] | None = None, nodata: float | None = None) -> Array:
        """See `MaskReader`: float32 ``[C, H, W]``, each from 0 to 1.

        A no-data value from 0 to `whole` counts as a share, unless the classes are exclusive and all bands hold it.
        """
        exclusive = self.task.exclusive
        possible = nodata is not None and 0 <= nodata <= self.whole
        unknown = _without_value(raw, hidden, None if possible and not exclusive else nodata, every=possible)
        if exclusive:
            unknown[:] = unknown.any(axis=0)
        shares = np.where(unknown, np.nan, raw.astype(np.float64) / self.whole)
        wrong = shares[abs(shares - shares.clip(0, 1)) > 1e-6] * self.whole
        if len(wrong):
            raise InputError(
                f"the mask holds {wrong[0]:g}, but with dataset.fractions={self.whole:g} shares lie from 0 to {self.whole:g}: "
                f"set it to the value of a whole pixel, or mark such pixels as no-data ({len(wrong)} values)"
            )
        shares = shares.clip(0, 1)
        if exclusive:
            total = shares.sum(axis=0)
            off = total[abs(total - 1) > TOLERANCE + 1e-6]
            if len(off):
                raise InputError(
                    f"the shares of {len(off)} pixels do not sum to {self.whole:g}, such as {off[0] * self.whole:.4g}: with "
                    f"dataset.fractions={self.whole:g} those of exclusive classes do within 1 %: add the missing class, take "
                    "task=multilabel, or mark such pixels as no-data"
                )
            shares /= total
        return shares.astype(np.float32)


class Values(MaskReader):
    """Decodes masks of real values: heights, biomass, yields; NaN, no-data and ignored values are unknown, band by band.

    `span` is the lowest and the highest possible value; None: any finite value.
    """

    def __init__(self, task: Task, ignore: Sequence[float] = (), span: Sequence[float] | None = None) -> None:
        self.task = task
        for name, values in (("ignore_values", ignore), ("range", span or ())):
            if not all(isinstance(value, int | float) for value in values):
                raise InputError(f"dataset.{name}={list(values)}: numbers are expected for a regression")
        if span is not None and (len(span) != 2 or not span[0] < span[1]):
            raise InputError(f"dataset.range={list(span)}: the lowest and the highest value are expected, such as [0, 100]")
        self.ignore = tuple(float(value) for value in ignore)
        self.span = (-math.inf, math.inf) if span is None else (float(span[0]), float(span[1]))

    @property
    def signature(self) -> tuple[object, ...]:
        return "values", self.ignore, self.span

    def decode(self, raw: Array, hidden: NDArray[np.bool_] | None = None, nodata: float | None = None) -> Array:
        """See `MaskReader`: float32 ``[V, H, W]``."""
        ignored = np.array(self.ignore).astype(raw.dtype) if raw.dtype.kind == "f" else self.ignore
        unknown = _without_value(raw, hidden, nodata) | np.isin(raw, ignored)
        low, high = self.span
        numbers = raw.astype(np.float64)
        wrong = numbers[~unknown & ((numbers < low) | (numbers > high) | np.isinf(numbers))]
        if len(wrong):
            raise InputError(
                f"the mask holds {wrong[0]:.9g}, {len(wrong)} such values in all, but finite ones in dataset.range="
                f"[{low:g}, {high:g}] are expected: mark such pixels as no-data, or leave the value out with "
                f"dataset.ignore_values=[{wrong[0]:.9g}]"
            )
        return np.where(unknown, np.nan, raw).astype(np.float32)


class Weights(MaskReader):
    """Decodes rasters of pixel weights in the loss: one band of finite numbers of 0 or more; pixels without data get 0."""

    mask_bands, nothing, signature = 1, 0, ("weights",)

    def check_bands(self, name: str, bands: int) -> None:
        if bands != 1:
            raise InputError(f"{name} has {bands} bands, but a weight has one: that of a pixel in the loss")

    def decode(self, raw: Array, hidden: NDArray[np.bool_] | None = None, nodata: float | None = None) -> Array:
        """See `MaskReader`: ``[H, W]`` in the file's dtype."""
        if raw.dtype.kind == "c":
            raise InputError("it holds complex numbers, but weights are numbers of 0 or more")
        absent = _without_value(raw, hidden, nodata)
        wrong = raw[~absent & (np.less(raw, 0) | ~np.isfinite(raw))]
        if len(wrong):
            raise InputError(
                f"{len(wrong)} pixels have a weight such as {wrong[0]:g}; weights are finite numbers of 0 or more: 0, no-data "
                "and NaN leave a pixel out of the loss"
            )
        return np.where(absent, np.zeros((), raw.dtype), raw)[0]


def make_mask_reader(
    task: Task,
    values: Sequence[Any] | None = None,
    ignore: Sequence[Any] | None = None,
    whole: float | None = None,
    span: Sequence[float] | None = None,
    size: float | None = None,
    tolerance: int = 0,
) -> MaskReader:
    """The reader of a task's masks.

    Args:
        task: The task.
        values: The mask value of label 0, 1, ..., or a list of values for one label: integers, ranges such as "0-127", or
            "#rrggbb"; None: 0, 1, ...
        ignore: The values that mean "not labelled"; None: 255 for labels, none for colours and real values.
        whole: The value of a whole pixel in masks of class shares.
        span: The lowest and the highest real value.
        size: The side of objects that a vector file gives as points, in pixels.
        tolerance: The largest difference of red, green and blue from the nearest listed colour, for lossy compression.
    """
    if span is not None and not isinstance(task, Regression):
        raise InputError(f"dataset.range={list(span)}: a {task.kind} task has no range, a regression does; set it to null")
    if size is not None and not isinstance(task, Centres):
        raise InputError(f"dataset.size={size}: it is the side of points for task=centres; found {task.kind}: set it to null")
    if isinstance(task, Centres):
        return Boxes(task, size, ignore or ())
    if task.real:
        return Values(task, ignore or (), span)
    if whole is not None:
        return Shares(task, whole)
    if ignore is None:
        listed = parse_values(list(values or []))
        ignore = [] if IGNORE in listed or any(isinstance(value, str) for value in listed) else [IGNORE]
    return Labels(task, values, ignore, tolerance)
