"""From the values in mask files to labels: 0, 1, ... and `IGNORE`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsseg.contract import IGNORE, InputError
from rsseg.task import Task


def parse_colour(text: str) -> int:
    """A "#rrggbb" colour as one integer.

    Raises:
        InputError: If the text is no such colour.

    Example:
        >>> parse_colour("#0000ff")
        255
    """
    digits = text.removeprefix("#")
    try:
        if len(digits) != 6:
            raise ValueError
        return int(digits, 16)
    except ValueError:
        raise InputError(f'\'{text}\' is no colour: write it as "#rrggbb", for example "#ff8000"') from None


class Labels:
    """Decodes raw mask pixels of one dataset.

    Args:
        task: The head's task.
        values: The raw value of label 0, 1, ..., or a list of several: integers or "#rrggbb"; None: 0, 1, ...
        ignore: Raw values that mean "not labelled".

    Raises:
        InputError: If integers and colours are mixed, or a value stands for two things.

    Example:
        >>> from rsseg.task import Binary
        >>> labels = Labels(Binary(("building",)), values=[0, 255])
        >>> labels.decode(np.array([[[0, 255]]], dtype=np.uint8))
        array([[0, 1]], dtype=uint8)
    """

    def __init__(self, task: Task, values: Sequence[Any] | None = None, ignore: Sequence[int | str] = ()) -> None:
        self.task = task
        per_label = [v if isinstance(v, list) else [v] for v in (range(task.labels) if values is None else values)]
        pairs = [(v, label) for label, several in enumerate(per_label) for v in several] + [(v, IGNORE) for v in ignore]
        everything = [v for v, _ in pairs]
        self.colours = any(isinstance(value, str) for value in everything)
        if self.colours and not all(isinstance(value, str) for value in everything):
            raise InputError(
                f"dataset.mask_values and dataset.ignore_values mix colours and integers: {everything}; take one kind"
            )
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
                f"a value stands for two things in dataset.mask_values={per_label} and dataset.ignore_values={list(ignore)}"
                f"{'; 255 is ignored unless you say otherwise: add dataset.ignore_values=[]' if list(ignore) == [255] else ''}"
            )

    @property
    def mask_bands(self) -> int:
        """The number of bands that are read of a mask file."""
        if self.colours:
            return 3
        return math.prod(self.task.planes)

    @property
    def signature(self) -> tuple[bool, bytes, bytes]:
        """What distinguishes this decoding from another; part of cache keys."""
        return self.colours, self._raw.tobytes(), self._codes.tobytes()

    def decode(self, raw: NDArray[np.generic], missing: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
        """Labels of raw mask pixels.

        Args:
            raw: ``[bands, H, W]`` as read from the file.
            missing: bool ``[H, W]``, where the file has no pixel: `IGNORE`, whatever `raw` holds there.

        Returns:
            uint8 ``[H, W]``, or ``[L, H, W]`` for multilabel.

        Raises:
            InputError: If a pixel holds a value that is neither a label nor ignored.
        """
        if missing is not None and missing.any():
            return np.where(missing, np.uint8(IGNORE), self.decode(np.where(missing, self._any_value(raw), raw)))
        if self.colours:
            red, green, blue = (band.astype(np.int64) for band in raw[:3])
            flat = (red << 16 | green << 8 | blue)[None]
        else:
            flat = raw[: self.mask_bands]
            if flat.dtype == np.uint8 and self._known[flat].all():  # a table look-up: ten times faster than a search
                return self._squeeze(self._table[flat])
        place = np.searchsorted(self._raw, flat).clip(max=len(self._raw) - 1)
        wrong = self._raw[place] != flat
        if wrong.any():
            raise InputError(self._unknown(flat[wrong]))
        return self._squeeze(self._codes[place])

    def knows(self, value: float) -> bool:
        """Whether a raw value is a label or ignored.

        Example:
            >>> from rsseg.task import Binary
            >>> Labels(Binary(("water",)), ignore=[-1]).knows(-1)
            True
        """
        return bool((self._raw == value).any())

    def _any_value(self, raw: NDArray[np.generic]) -> NDArray[np.generic]:
        """Some value that can be decoded, to stand where there is none: ``[bands, 1, 1]``."""
        value = int(self._raw[0])
        parts = (value >> 16, value >> 8 & 255, value & 255) if self.colours else (value,)
        return np.resize(np.array(parts), len(raw))[:, None, None]

    def _squeeze(self, planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return planes if self.task.planes else planes[0]

    def _unknown(self, values: NDArray[np.generic]) -> str:
        found, counts = np.unique(values, return_counts=True)
        name = "colour" if self.colours else "value"

        def show(value: float) -> str:
            return f"#{int(value):06x}" if self.colours else f"{value:g}"

        listed = ", ".join(f"{show(v)} ({n} pixels)" for v, n in zip(found[:5], counts[:5], strict=True))
        return (
            f"the mask holds the {name} {listed}{', ...' if len(found) > 5 else ''}, "
            f"which is neither a label nor ignored; known: {', '.join(show(v) for v in self._raw)}. "
            "Add it to dataset.mask_values (with its class) or to dataset.ignore_values"
        )
