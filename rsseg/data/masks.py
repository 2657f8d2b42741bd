"""Mask files: their settings in a config, and the decoding of their pixels to targets.

The decoders are in `rsseg.data.labels` and `rsseg.data.boxes`. `rsseg.data.vector` reads vectors; it is imported only for
vector masks, since its libraries are large.
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
from rasterio.windows import Window

from rsseg.contract import InputError
from rsseg.data.raster import Raster, open_raster
from rsseg.task import Task

VECTORS = frozenset({".gpkg", ".geojson", ".shp", ".fgb"})

Array = NDArray[np.generic]


@dataclass(frozen=True)
class Mask:
    """A file that holds a target, with its settings; a file on another grid is resampled to the scene's grid.

    Attributes:
        path: A raster, or a vector file, whose features are rasterised with their mask values; pixels outside them are 0.
        threshold: For rasters, the value above which a pixel is 1, other pixels are 0; None: values are used as they are.
        attribute: For vectors, the attribute with a feature's mask value, an integer or a key of `values`; None: all are 1.
        values: Pairs of an attribute's value, as text, and its mask value.
        layer: For vectors, the layer to read; None: the only one.
        buffer: For vectors, the distance in metres on the ground by which features are widened; lines, on each side.
    """

    path: Path
    threshold: float | None = None
    attribute: str | None = None
    values: tuple[tuple[str, int], ...] = ()
    layer: str | None = None
    buffer: float = 0

    @property
    def vector(self) -> bool:
        """Whether the file holds vectors, by its name."""
        return self.path.suffix.lower() in VECTORS


def text_of(value: Any) -> str:
    """An attribute's value as it is written in a config: 3 for 3.0, null for a missing one."""
    if value is None or value != value:
        return "null"
    return str(int(value)) if isinstance(value, float | np.floating) and float(value).is_integer() else str(value)


class MaskReader(ABC):
    """Base class of decoders, which turn the mask files of a target into arrays."""

    task: Task
    colours: bool = False  # whether the pixels are colours
    place: str = "dataset"  # the settings' place in the config, for messages, see `rsseg.contract.in_place`

    @property
    def mask_bands(self) -> int:
        """The number of bands that are read from a mask file."""
        return 3 if self.colours else math.prod(self.task.planes)

    @property
    def nothing(self) -> float:
        """The value for "not known" in a target."""
        return self.task.unknown

    @property
    @abstractmethod
    def signature(self) -> tuple[object, ...]:
        """The values that distinguish this decoding from another; part of cache keys."""

    def decode(self, raw: Array, hidden: NDArray[np.bool_] | None = None, nodata: float | None = None) -> Array:
        """The target of raw mask pixels.

        Args:
            raw: ``[bands, H, W]`` as read from the file.
            hidden: bool ``[H, W]``, true where the file marks pixels as missing, as by transparency. Labels count even there:
                pictures are often exported with a transparent background.
            nodata: The file's no-data value; it has no effect if it is a label.

        Returns:
            ``[*planes, H, W]`` in the task's dtype, `Task.unknown` where nothing is known.

        Raises:
            InputError: If a pixel holds a value without a meaning.
        """
        raise NotImplementedError(type(self))

    def check_bands(self, name: str, bands: int) -> None:
        """Refuse a mask with fewer bands than are read, or with further bands whose content would be lost."""
        task, expected = self.task, self.mask_bands
        if self.colours:
            if bands not in (1, 3):
                raise InputError(f"{name} has {bands} bands, but colours need 3, or one that is grey or has a palette")
        elif bands != expected and (expected > 1 or task.soft):
            shares = " of class shares (dataset.fractions)" * task.soft
            raise InputError(
                f"{name} has {bands} bands, but a {task.kind} task{shares} needs {expected}: {', '.join(task.classes)}"
            )

    def check_features(self, name: str, values: NDArray[np.int32]) -> None:  # noqa: B027
        """Refuse features with invalid mask values, if the reader can tell before decoding."""

    def check(self, mask: Mask, image: Path) -> bool:
        """Refuse a mask that can't be read on an image's grid; returns whether it must be warped to that grid."""
        if mask.threshold is not None and self.colours:
            raise InputError(
                f"dataset.source.threshold={mask.threshold:g} is for grey masks; dataset.mask_values lists colours: set one "
                "of both to null"
            )
        if not mask.vector:
            bands = value_bands(mask.path, self)
            self.check_bands(str(mask.path), len(bands))
            return Raster(mask.path, image).is_warped(bands)
        if self.mask_bands > 1:
            kind = "colours" if self.colours else f"a {self.task.kind} task"
            raise InputError(f"{mask.path} has one value a pixel, as vectors have, but {kind} needs {self.mask_bands}")
        from rsseg.data.vector import read_features

        self.check_features(str(mask.path), read_features(mask, image)[1])
        return False

    def read(self, mask: Mask, window: Window, image: Path) -> Array:
        """The target in a window of an image's grid, as `decode` returns it; unknown beyond the edge of a warped file."""
        if mask.vector:
            from rsseg.data.vector import rasterise

            return self.decode(rasterise(mask, window, image)[None])
        raster, bands = Raster(mask.path, image), value_bands(mask.path, self)
        raw, nodata = raster.read_colours(window) if self.colours else raster.read(bands, window), raster.nodata
        hidden = raster.hidden(bands, window)
        if mask.threshold is not None:
            absent = (raw != raw) | (raw == nodata) if nodata else raw != raw  # 0 is the background, whatever the file says
            raw, nodata = np.where(absent, np.nan, np.greater(raw, mask.threshold)), None
        target = self.decode(self.chosen_bands(raw), hidden, nodata)
        if hidden.any() and raster.is_warped(bands):
            target[..., hidden] = self.nothing
        return target

    def chosen_bands(self, raw: Array) -> Array:
        """The bands of a mask ``[bands, h, w]`` that are decoded; of several equal bands, the first."""
        if self.colours:
            return np.resize(raw[:3], (3, *raw.shape[1:]))  # grey is one band
        if self.mask_bands == 1 and not np.array_equal(
            raw, np.broadcast_to(raw[:1], raw.shape), equal_nan=raw.dtype.kind == "f"
        ):
            remedy = (
                "gdal_translate -b 1 keeps the first"
                if self.task.real
                else 'colours are dataset.mask_values=["#000000","#ff0000"], a band for each label is dataset.task=multilabel'
            )
            raise InputError(f"its {len(raw)} bands differ, but one band is expected: {remedy}")
        return raw[: self.mask_bands]


def value_bands(path: Path, mask_reader: MaskReader) -> list[int]:
    """The numbers of a mask's bands without alpha; if the band count is the expected one, all bands count as values."""
    raster = open_raster(path)
    if raster.count == mask_reader.mask_bands:
        return list(range(1, raster.count + 1))
    return [number for number, kind in enumerate(raster.colorinterp, start=1) if kind != ColorInterp.alpha]
