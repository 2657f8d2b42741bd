"""Mask rasters: all that a file says of its pixels, beyond the values of its first band."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from rsseg.contract import InputError
from rsseg.data.mask_reader import MaskReader
from rsseg.data.raster import bits_of, has_palette, masked_out, nodata_of, open_raster, read_bands

Array = NDArray[np.generic]


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
    beyond = hidden if isinstance(open_raster(path, grid), WarpedVRT) else np.zeros_like(hidden)
    empty = hidden if nodata is None else hidden | mask_reader.blank(raw, nodata)
    if empty.any():
        empty = beyond | (empty & ~mask_reader.known(raw))
    return mask_reader.decode(raw, empty)


def read_colours(path: Path, window: Window, onto: Path | None = None) -> Array:
    """Red, green and blue ``[3, h, w]`` of a part of a file, whether in bands, in a palette or grey, of 1 bit too.

    Args:
        path: The file.
        window: The part.
        onto: As for `open_raster`.
    """
    raster = open_raster(path)
    if has_palette(raster):
        return read_bands(path, [1, 2, 3], window, onto, palette=True)
    pixels: NDArray[Any] = read_bands(path, [1, 2, 3] if raster.count >= 3 else [1], window, onto)
    if bits_of(raster) < 8:  # then 1 may be white
        pixels = pixels * np.uint8(255 // (2 ** bits_of(raster) - 1))
    return np.resize(pixels, (3, *pixels.shape[1:]))


def mask_values(raw: Array, mask_reader: MaskReader) -> Array:
    """What a mask reader takes of a mask's bands ``[bands, h, w]``: as many as it reads; of colours three, grey being one.

    Raises:
        InputError: If it reads one and they differ.
    """
    if mask_reader.colours:
        return np.resize(raw[:3], (3, *raw.shape[1:]))
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
    """Make sure that a mask has the bands that its reader reads, and none whose meaning would be lost.

    Args:
        path: The mask, for messages.
        bands: How many it has.
        mask_reader: What reads it.

    Raises:
        InputError: If it is no mask, or has others.
    """
    task = mask_reader.task
    if mask_reader.no_raster:
        raise InputError(f"{path}: {mask_reader.no_raster}")
    if mask_reader.colours:
        if bands not in (1, 3):
            raise InputError(f"{path} has {bands} bands, but colours need 3, or one that is grey or has a palette")
    elif task.soft and bands != mask_reader.mask_bands:
        raise InputError(
            f"{path} has {bands} bands, but class shares (dataset.fractions) need one for each of {mask_reader.mask_bands} "
            f"classes: {', '.join(task.classes)}"
        )
    elif mask_reader.mask_bands > 1 and bands != mask_reader.mask_bands:
        raise InputError(
            f"{path} has {bands} bands, but a {task.kind} task needs {mask_reader.mask_bands}: {', '.join(task.classes)}"
        )


def value_bands(path: Path, mask_reader: MaskReader) -> list[int]:
    """The numbers of a mask's bands but alpha; of as many as the reader takes one may be called so and hold a label."""
    raster = open_raster(path)
    if raster.count == mask_reader.mask_bands:
        return list(range(1, raster.count + 1))
    return [number for number, kind in enumerate(raster.colorinterp, start=1) if kind != ColorInterp.alpha]
