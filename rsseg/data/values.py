"""Masks of numbers: the share of every class in a pixel, or real values such as heights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rsseg.contract import InputError
from rsseg.data.masks import MaskReader
from rsseg.task import Task

TOLERANCE = 0.01  # how far the shares of exclusive classes may be from 1 together


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
