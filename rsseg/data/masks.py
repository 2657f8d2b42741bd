"""Mask files: what a config says of them, what their pixels say beyond the values of the first band, and what decodes them.

`rsseg.data.labels`, `values` and `boxes` hold the decoders; `rsseg.data.vector` reads vectors, with libraries that runs on
rasters do without.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from rsseg.contract import InputError
from rsseg.data.raster import bits_of, has_palette, masked_out, nodata_of, open_raster, read_bands
from rsseg.task import Task

VECTORS = frozenset({".gpkg", ".geojson", ".shp", ".fgb"})

Array = NDArray[np.generic]


@dataclass(frozen=True)
class Burn:
    """What the features of a vector file become in a mask: 0 outside of them."""

    attribute: str | None = None  # holds their mask value, an integer or a key of `values`; None: 1 for every feature
    values: tuple[tuple[str, int], ...] = ()  # pairs of an attribute's value, as text, and the mask value it stands for
    layer: str | None = None  # the layer that is read; None: the only one
    buffer: float = 0  # by how many metres on the ground features are widened: lines become twice as wide


def text_of(value: Any) -> str:
    """An attribute's value as it is written in a config: 3 for 3.0, null for a missing one."""
    if value is None or value != value:
        return "null"
    return str(int(value)) if isinstance(value, float | np.floating) and float(value).is_integer() else str(value)


def is_vector(path: Path) -> bool:
    """Whether a file holds vectors, by its name."""
    return path.suffix.lower() in VECTORS


class MaskReader(ABC):
    """What a pixel of a dataset's mask files means."""

    task: Task
    colours: bool = False  # whether the pixels are colours
    no_raster: str = ""  # why a raster is no mask; empty: it is one

    @property
    def mask_bands(self) -> int:
        """The number of bands that are read of a mask file."""
        return 3 if self.colours else math.prod(self.task.planes)

    @property
    @abstractmethod
    def signature(self) -> tuple[object, ...]:
        """What distinguishes this decoding from another; part of cache keys."""

    def blank(self, raw: Array, nodata: float) -> NDArray[np.bool_]:
        """Where ``[bands, H, W]`` hold the no-data value and say nothing by it: bool ``[H, W]``, or with bands of their own."""
        raise InputError(self.no_raster)

    def decode(self, raw: Array, missing: NDArray[np.bool_] | None = None) -> Array:
        """The target of raw mask pixels.

        Args:
            raw: ``[bands, H, W]`` as read from the file.
            missing: bool, as `blank` returns it, where the file has no pixel, whatever `raw` holds there.

        Returns:
            ``[*planes, H, W]`` in the task's dtype, `Task.unknown` where nothing is known.

        Raises:
            InputError: If a pixel holds what can't be, or a raster is no mask.
        """
        raise InputError(self.no_raster)

    def known(self, raw: Array) -> NDArray[np.bool_]:
        """Which pixels ``[bands, H, W]`` hold a value with a meaning, so that they need no more to say so: bool ``[H, W]``."""
        return np.zeros(raw.shape[1:], dtype=bool)

    def burn(self, path: Path, burn: Burn, image: Path, window: Window) -> Array:
        """The target of a vector file's features in a window of an image, as `decode` gives it."""
        from rsseg.data.vector import rasterise

        return self.decode(rasterise(path, burn, image, window)[None])

    def wrong_features(self, values: NDArray[np.int32]) -> str:
        """What is wrong with the mask values of features, if that is known before they are decoded."""
        return ""


def read_mask(path: Path, mask_reader: MaskReader, window: Window, grid: Path, threshold: float | None = None) -> Array:
    """A target in a part of a grid, that of an image.

    A value with a meaning has it where the file is transparent or says no-data, too: pictures are exported with a transparent
    background. Where a file on another grid does not reach, nothing is known.

    Args:
        path: The mask.
        mask_reader: What its values mean.
        window: The part.
        grid: The image.
        threshold: Values above it become 1, others 0; None: values stay.

    Raises:
        InputError: If the file is damaged, or a value has no meaning.
    """
    bands = value_bands(path, mask_reader)
    if mask_reader.colours:
        raw = read_colours(path, window, grid)
    else:
        raw = mask_values(read_bands(path, bands, window, grid), mask_reader)
    nodata = nodata_of(path)
    if threshold is not None:  # black may be called no-data, and is the background
        absent = (raw != raw) | (raw == nodata) if nodata else raw != raw
        raw = np.where(absent, np.nan, np.greater(raw, threshold))
        nodata = None
    hidden = masked_out(path, bands, window, grid)
    empty = hidden if nodata is None else hidden | mask_reader.blank(raw, nodata)
    if empty.any():
        empty = empty & ~mask_reader.known(raw)
        if isinstance(open_raster(path, grid), WarpedVRT):
            empty |= hidden
    return mask_reader.decode(raw, empty)


def read_colours(path: Path, window: Window, onto: Path | None = None) -> Array:
    """Red, green and blue ``[3, h, w]`` of a part of a file, whether in bands, in a palette or grey, of 1 bit too."""
    raster = open_raster(path)
    if has_palette(raster):
        return read_bands(path, [1, 2, 3], window, onto, palette=True)
    pixels: NDArray[Any] = read_bands(path, [1, 2, 3] if raster.count >= 3 else [1], window, onto)
    if bits_of(raster) < 8:  # then 1 may be white
        pixels = pixels * np.uint8(255 // (2 ** bits_of(raster) - 1))
    return np.resize(pixels, (3, *pixels.shape[1:]))


def mask_values(raw: Array, mask_reader: MaskReader) -> Array:
    """What a reader takes of a mask's bands ``[bands, h, w]``: as many as it reads, the first of several that are equal."""
    if mask_reader.colours:
        return np.resize(raw[:3], (3, *raw.shape[1:]))  # grey is one band
    differ = (raw != raw[:1]) & ~((raw != raw) & (raw[:1] != raw[:1]))
    if mask_reader.mask_bands == 1 and differ.any():
        remedy = (
            "gdal_translate -b 1 keeps the first"
            if mask_reader.task.real
            else 'colours are dataset.mask_values=["#000000","#ff0000"], a band for each label is dataset.task=multilabel'
        )
        raise InputError(f"its {len(raw)} bands differ, but one band is expected: {remedy}")
    return raw[: mask_reader.mask_bands]


def check_bands(path: Path, bands: int, mask_reader: MaskReader) -> None:
    """Make sure that a mask of so many bands has those that its reader reads, and none whose meaning would be lost."""
    task, expected = mask_reader.task, mask_reader.mask_bands
    if mask_reader.no_raster:
        raise InputError(f"{path}: {mask_reader.no_raster}")
    if mask_reader.colours:
        if bands not in (1, 3):
            raise InputError(f"{path} has {bands} bands, but colours need 3, or one that is grey or has a palette")
    elif task.soft and bands != expected:
        raise InputError(
            f"{path} has {bands} bands, but class shares (dataset.fractions) need one for each of {expected} "
            f"classes: {', '.join(task.classes)}"
        )
    elif expected > 1 and bands != expected:
        raise InputError(f"{path} has {bands} bands, but a {task.kind} task needs {expected}: {', '.join(task.classes)}")


def value_bands(path: Path, mask_reader: MaskReader) -> list[int]:
    """The numbers of a mask's bands but alpha; of as many as the reader takes one may be called so and hold a label."""
    raster = open_raster(path)
    if raster.count == mask_reader.mask_bands:
        return list(range(1, raster.count + 1))
    return [number for number, kind in enumerate(raster.colorinterp, start=1) if kind != ColorInterp.alpha]
