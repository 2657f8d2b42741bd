"""From the values in mask files to targets: labels, the share of every class in a pixel, or real values such as heights."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsseg.contract import IGNORE, InputError
from rsseg.data.boxes import Boxes
from rsseg.data.masks import MaskReader
from rsseg.data.raster import find_missing
from rsseg.task import Centres, Task

RANGE = re.compile(r"(-?\d+)-(-?\d+)")  # a range of mask values, as in "0-127"


def parse_colour(text: str) -> int:
    """A "#rrggbb" colour as one integer."""
    digits = text.removeprefix("#")
    if not re.fullmatch("[0-9a-fA-F]{6}", digits):
        raise InputError(f'\'{text}\' is no colour: write it as "#rrggbb", for example "#ff8000"')
    return int(digits, 16)


def parse_values(value: Any) -> list[Any]:
    """The raw values that one entry of a config stands for: itself, all of a range such as "0-127", all of a list."""
    if isinstance(value, list):
        return [each for part in value for each in parse_values(part)]
    ends = RANGE.fullmatch(value) if isinstance(value, str) else None
    if ends is None:
        return [value]
    first, last = int(ends[1]), int(ends[2])
    if not 0 < last - first < 1 << 16:
        raise InputError(f"dataset.mask_values has the range '{value}': the lower end comes first, at most 65,536 values")
    return list(range(first, last + 1))


def show_values(values: Iterable[int]) -> str:
    """Sorted integers in few words, such as 0-3, 7, 9."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    texts = list[str]()
    for run in runs:
        texts += [f"{run[0]}-{run[-1]}"] if len(run) > 3 else map(str, run)
    return ", ".join(texts)


BLURRED = 32  # a mask with more unknown colours than these is no drawing any more
TOLERANCE = 0.01  # how far the shares of exclusive classes may be from 1 together


class Labels(MaskReader):
    """Decodes masks of labels; NaN is not labelled. See `make_mask_reader`.

    Example:
        >>> from rsseg.task import Binary
        >>> labels = Labels(Binary(("building",)), values=[0, 255])
        >>> labels.decode(np.array([[[0, 255]]], dtype=np.uint8))
        array([[0, 1]], dtype=uint8)
    """

    def __init__(self, task: Task, values: Sequence[Any] | None = None, ignore: Sequence[Any] = (), tolerance: int = 0) -> None:
        self.task, self.tolerance = task, tolerance
        per_label = [parse_values(v) for v in (range(task.labels) if values is None else values)]
        ignored = [v for v in parse_values(list(ignore)) if v == v]  # NaN is ignored in any case
        pairs = [(v, label) for label, several in enumerate(per_label) for v in several] + [(v, IGNORE) for v in ignored]
        everything = [v for v, _ in pairs]
        self.colours = any(isinstance(value, str) for value in everything)
        if self.colours and not all(isinstance(value, str) for value in everything):
            raise InputError(
                f"dataset.mask_values and dataset.ignore_values mix colours and integers: {everything}; take one kind"
            )
        if tolerance and not self.colours:
            raise InputError(f"dataset.colour_tolerance={tolerance}: the masks hold integers; set it to 0, or list colours")
        if not self.colours and not all(isinstance(value, int) for value in everything):
            raise InputError(f"dataset.mask_values and dataset.ignore_values must be integers or colours; found {everything}")
        raw = np.array([parse_colour(v) if isinstance(v, str) else v for v in everything], dtype=np.int64)
        codes = np.array([code for _, code in pairs], dtype=np.uint8)
        order = np.argsort(raw, kind="stable")
        self._raw, self._codes = raw[order], codes[order]
        bytes_ = (self._raw >= 0) & (self._raw < 256)
        self._table, self._known = np.zeros(256, dtype=np.uint8), np.zeros(256, dtype=bool)
        self._table[self._raw[bytes_]], self._known[self._raw[bytes_]] = self._codes[bytes_], True
        if len(np.unique(self._raw)) < len(self._raw):
            raise InputError(
                f"a value stands for two things in dataset.mask_values={list(values or per_label)} and "
                f"dataset.ignore_values={list(ignore)}"
                f"{'; 255 is ignored unless you say otherwise: add dataset.ignore_values=[]' if list(ignore) == [255] else ''}"
            )

    @property
    def signature(self) -> tuple[object, ...]:
        """See `MaskReader`."""
        facts = self.colours, self._raw.tobytes(), self._codes.tobytes()
        return (*facts, self.tolerance) if self.tolerance else facts

    def decode(self, raw: NDArray[np.generic], missing: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
        """See `MaskReader`: uint8 ``[H, W]``, or ``[L, H, W]`` for multilabel; each value has to be a label or ignored."""
        absent = np.zeros(raw.shape[1:], dtype=bool) if missing is None else missing
        if raw.dtype.kind == "f":
            absent = absent | np.isnan(raw).any(axis=0)
        if not self.colours and raw.dtype == np.uint8 and (self._known[raw] | absent).all():
            codes = self._table[raw]  # ten times faster
        else:
            numbers = self._numbers(raw)
            place, wrong = self._places(numbers)
            wrong &= ~absent
            if wrong.any():
                raise InputError(self._unknown(numbers[wrong]))
            codes = self._codes[place]
        if absent.any():
            codes = np.where(absent, np.uint8(IGNORE), codes)
        return codes if self.task.planes else codes[0]

    def _numbers(self, raw: NDArray[np.generic]) -> NDArray[np.generic]:
        """One number a pixel and band: a colour's, or the value."""
        if not self.colours:
            return raw[: self.mask_bands]
        red, green, blue = raw[:3].astype(np.int64)
        if raw.dtype.itemsize > 1 and raw.max(initial=0) > 255:
            raise InputError(
                f"the mask holds colours of {8 * raw.dtype.itemsize} bits, up to {raw.max():g}: write them with 8 "
                "(gdal_translate -ot Byte -scale 0 65535 0 255)"
            )
        return np.asarray(red << 16 | green << 8 | blue)[None]

    def _places(self, numbers: NDArray[np.generic]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Where numbers stand among the known ones, colours within the tolerance at the nearest; and which do not."""
        place = np.searchsorted(self._raw, numbers).clip(max=len(self._raw) - 1)
        wrong = self._raw[place] != numbers
        if self.tolerance and wrong.any():
            colours, where = np.unique(numbers[wrong], return_inverse=True)
            apart = abs(_channels(colours)[:, None] - _channels(self._raw))
            nearest = (apart**2).sum(axis=-1).argmin(axis=1)
            far = apart[np.arange(len(colours)), nearest].max(axis=-1) > self.tolerance
            place[wrong] = nearest[where]
            wrong[wrong] = far[where]
        return place, wrong

    def known(self, raw: NDArray[np.generic]) -> NDArray[np.bool_]:
        """See `MaskReader`."""
        return np.asarray(~self._places(self._numbers(raw))[1].any(axis=0))

    def blank(self, raw: NDArray[np.generic], nodata: float) -> NDArray[np.bool_]:
        """See `MaskReader`."""
        return find_missing(raw, nodata)

    def _unknown(self, values: NDArray[np.generic]) -> str:
        """What to say of values that have no meaning."""
        found, counts = np.unique(values, return_counts=True)
        name = "colour" if self.colours else "value"

        def show(value: float) -> str:
            return f"#{int(value):06x}" if self.colours else f"{value:g}"

        codes = [f'"{show(v)}"' if self.colours else show(v) for v in (*found[:5], *self._raw[self._codes == IGNORE])]
        ignored = f"[{','.join(codes)}]"
        known = ", ".join(map(show, self._raw)) if self.colours else show_values(self._raw.tolist())
        listed = ", ".join(f"{show(v)} ({n} pixels)" for v, n in zip(found[:5], counts[:5], strict=True))
        way_out = (
            f"Name its class in dataset.classes (and dataset.mask_values), or leave it out with dataset.ignore_values={ignored}"
        )
        if self.colours and len(found) > BLURRED:
            way_out = "Masks are blurred, as by JPEG: set dataset.colour_tolerance=20, for example"
        elif not self.colours and (found % 1 != 0).any():
            way_out = f"Grey values are told apart by dataset.source.threshold={float(np.mean(self._raw[:2])):g}, for example"
        return (
            f"the mask holds the {name} {listed}{', ...' if len(found) > 5 else ''}, "
            f"which is neither a label nor ignored; known: {known}. {way_out}"
        )


def _channels(colours: NDArray[np.generic]) -> NDArray[np.int64]:
    """Red, green and blue ``[n, 3]`` of colours as integers ``[n]``."""
    numbers = colours.astype(np.int64)
    return np.stack([numbers >> 16, numbers >> 8 & 255, numbers & 255], axis=-1)


class Shares(MaskReader):
    """Decodes masks with a band for each class, which holds the share of the class in each pixel.

    NaN and no-data are unknown. Of exclusive classes a pixel is unknown as a whole, and its shares are divided by their sum,
    which may be off by `TOLERANCE`.
    `whole` stands for a whole pixel in the files: 1, 100, 255.
    """

    def __init__(self, task: Task, whole: float) -> None:
        self.task, self.whole = task, whole

    @property
    def signature(self) -> tuple[object, ...]:
        """See `MaskReader`."""
        return "shares", float(self.whole)

    def blank(self, raw: NDArray[np.generic], nodata: float) -> NDArray[np.bool_]:
        """See `MaskReader`; a value that may be a share stays one, unless all bands hold it and can't together."""
        found = raw == nodata
        if not 0 <= nodata <= self.whole:
            return np.asarray(found.any(axis=0))
        possible = not self.task.exclusive or abs(nodata * len(raw) / self.whole - 1) <= TOLERANCE
        return np.zeros(raw.shape[1:], dtype=bool) if possible else np.asarray(found.all(axis=0))

    def decode(self, raw: NDArray[np.generic], missing: NDArray[np.bool_] | None = None) -> NDArray[np.generic]:
        """See `MaskReader`: float32 ``[C, H, W]``, each from 0 to 1."""
        unknown = raw != raw if missing is None else (raw != raw) | missing
        if self.task.exclusive:
            unknown[:] = unknown.any(axis=0)
        shares = np.where(unknown, np.nan, raw.astype(np.float64) / self.whole)
        rounded = shares.clip(0, 1)
        wrong = shares[abs(shares - rounded) > 1e-6] * self.whole
        if len(wrong):
            raise InputError(
                f"the mask holds {wrong[0]:g}, but with dataset.fractions={self.whole:g} shares lie from 0 to {self.whole:g}: "
                f"set it to what stands for a whole pixel, or mark such pixels as no-data ({len(wrong)} values)"
            )
        shares = rounded
        if self.task.exclusive:
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
    """Decodes masks of real values: heights, biomass, yields; NaN, no-data and ignored values are unknown.

    `span` is the lowest and the highest value that can be; None: any finite one.
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
        """See `MaskReader`."""
        return "values", self.ignore, self.span

    def blank(self, raw: NDArray[np.generic], nodata: float) -> NDArray[np.bool_]:
        """See `MaskReader`; each band for itself."""
        return np.asarray(raw == nodata)

    def decode(self, raw: NDArray[np.generic], missing: NDArray[np.bool_] | None = None) -> NDArray[np.generic]:
        """See `MaskReader`: float32 ``[V, H, W]``."""
        ignored = np.array(self.ignore).astype(raw.dtype) if raw.dtype.kind == "f" else self.ignore
        unknown = (raw != raw) | np.isin(raw, ignored)
        if missing is not None:
            unknown |= missing
        low, high = self.span
        numbers = raw.astype(np.float64)
        wrong = numbers[~unknown & ((numbers < low) | (numbers > high) | np.isinf(numbers))]
        if len(wrong):
            expected = "finite values are" if self.span == (-math.inf, math.inf) else f"dataset.range=[{low:g}, {high:g}] is"
            raise InputError(
                f"the mask holds {wrong[0]:.9g}, {len(wrong)} such values in all, but {expected} expected: mark such pixels as "
                f"no-data, or leave the value out with dataset.ignore_values=[{wrong[0]:.9g}]"
            )
        return np.where(unknown, np.nan, raw).astype(np.float32)


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
        values: The raw value of label 0, 1, ..., or a list of several: integers, ranges such as "0-127", or "#rrggbb"; None:
            0, 1, ...
        ignore: The values that mean "not labelled"; None: 255 for labels, none for colours and real values.
        whole: What stands for a whole pixel in masks of class shares.
        span: The lowest and the highest real value.
        size: The side of objects that a vector file gives as points, in pixels.
        tolerance: How far each of red, green and blue may be from a colour, as lossy compression leaves it; the nearest counts.

    Raises:
        InputError: If they do not go together.
    """
    if span is not None and task.kind != "regression":
        raise InputError(f"dataset.range={list(span)}: a {task.kind} task has no range, a regression does; set it to null")
    if size is not None and task.kind != "centres":
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
