"""Maps of a scene as Cloud Optimized GeoTIFFs: labels, values, probabilities, entropy and disagreement."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.windows import Window
from torch import Tensor

from rsseg.config.arguments import split_places
from rsseg.contract import IGNORE, InputError
from rsseg.data.grids import GDAL_ERRORS
from rsseg.data.raster import GDAL, check_whole, open_raster
from rsseg.files import atomic_write
from rsseg.inference.predictor import disagreement, entropy
from rsseg.pictures.colours import as_rgb
from rsseg.task import Centres, Task

KINDS = ("labels", "probabilities", "entropy", "disagreement")
"""What a map may hold; of a regression `labels` are its values."""

STEPS = 250
"""Shares from 0 to 1 are stored in a byte as so many steps; 255 is no data."""

ROWS = 64
"""Rows that are given to GDAL at a time."""


@dataclass(frozen=True)
class Bands:
    """The bands of a map."""

    names: tuple[str, ...]  # a name for each
    dtype: str  # ``uint8``, ``float16`` or ``float32``
    read: Callable[[Tensor], Tensor]  # what the bands hold, ``[count, rows, width]``, of a head's planes
    units: tuple[str, ...] = ()  # a unit for each, where they have one
    steps: int | None = None  # what a byte stands for is its value divided by it; None: the value itself
    colours: Sequence[str] | None = None  # the colours of labels; None: the bands hold no labels
    classes: tuple[str, ...] = ()  # by label its name, where one band holds labels

    @property
    def nodata(self) -> float:
        """What stands where nothing is known."""
        return IGNORE if self.dtype == "uint8" else np.nan


def kinds_of(task: Task) -> tuple[str, ...]:
    """The kinds of maps that there are of a task; objects have scores of their own, and a regression no probabilities."""
    if isinstance(task, Centres):
        return ("labels",)
    return ("labels", "disagreement") if task.real else KINDS


def bands_of(kind: str, task: Task, threshold: Tensor | None, colours: Sequence[str], dtype: str) -> Bands:
    """The bands of one of `KINDS` of maps, at a threshold as for `Task.decide`; shares are ``uint8`` or ``float16``.

    Raises:
        InputError: If the task has no such map.
    """
    if isinstance(task, Centres) and kind != "labels":
        raise InputError(f"write={kind}: objects have scores, which write=labels gives; leave {kind} out")
    outputs, units = task.outputs, getattr(task, "units", ())
    if kind == "labels" and task.real:
        return Bands(task.classes, "float32", lambda planes: planes[:outputs], units)
    if kind == "labels" and task.label_planes:
        return Bands(task.classes, "uint8", lambda planes: task.decide(planes[:outputs], threshold))
    if kind == "labels":
        return Bands(
            ("label",), "uint8", lambda planes: task.decide(planes[:outputs], threshold)[None],
            colours=colours, classes=task.label_names,
        )  # fmt: skip
    if task.real and kind != "disagreement":
        raise InputError(f"write={kind}: a regression gives values, not probabilities; leave {kind} out")
    shares: dict[str, tuple[tuple[str, ...], Callable[[Tensor], Tensor]]] = {
        "probabilities": (task.classes, lambda planes: planes[:outputs]),
        "entropy": ((kind,) if task.exclusive else task.classes, lambda planes: entropy(planes[:outputs], task)),
        "disagreement": (task.classes if task.separate else (kind,), lambda planes: disagreement(planes, task)),
    }
    names, read = shares[kind]
    if task.real:
        return Bands(names, "float32", read, units)
    return Bands(names, dtype, read, steps=STEPS if dtype == "uint8" else None)


class MapFile:
    """The map of a head in a file that `new_map` opens; an `rsseg.inference.scene.Output`."""

    def __init__(self, head: str, bands: Bands, raster: Any) -> None:
        self.head, self.bands, self._raster = head, bands, raster

    def block(self, planes: Tensor, hidden: NDArray[np.bool_]) -> NDArray[np.generic]:
        """See `Output`."""
        values = self.bands.read(planes)
        if self.bands.steps:
            values = (values * self.bands.steps).round()
        found = values.cpu().numpy().astype(self.bands.dtype)
        found[:, hidden] = self.bands.nodata
        return found

    def write(self, top: int, blocks: Sequence[NDArray[np.generic]]) -> None:
        """See `Output`."""
        height = blocks[0].shape[1]
        for row in range(0, height, ROWS):
            values = np.concatenate([block[:, row : row + ROWS] for block in blocks], axis=2)
            if self.bands.dtype == "float16":
                values = values.astype(np.float32)  # GDAL cuts the last bits off again
            self._raster.write(values, window=Window(0, top + row, values.shape[2], values.shape[1]))


@contextmanager
def new_map(
    path: Path, bands: Bands, shape: tuple[int, int], place: Mapping[str, Any], tags: Mapping[str, str]
) -> Iterator[Any]:
    """A raster to be written rows by rows, which becomes a Cloud Optimized GeoTIFF when the block ends; whole or not at all.

    `shape` is its height and width, `place` where it lies, as `rsseg.data.raster.georeference` gives it.

    Raises:
        UnwritableError: If it can't be written.
    """
    half = bands.dtype == "float16"
    form = {"height": shape[0], "width": shape[1], "count": len(bands.names), "dtype": "float32" if half else bands.dtype}
    precision = {"nbits": 16} if half else {}
    with atomic_write(path) as part:
        rows = part.with_suffix(".rows.tif")
        try:
            with rasterio.Env(**GDAL), rasterio.open(
                rows, "w", driver="GTiff", nodata=bands.nodata, blockysize=1, interleave="band", compress="deflate", zlevel=1,
                bigtiff="if_safer", photometric="palette" if bands.colours else "minisblack", **form, **precision, **place,
            ) as raster:  # fmt: skip
                _describe(raster, bands, tags)
                yield raster
            resampling = "mode" if bands.dtype == "uint8" and not bands.steps else "average"
            with rasterio.Env(**GDAL):
                rasterio.shutil.copy(
                    rows, part, driver="COG", compress="deflate", overview_resampling=resampling, bigtiff="if_safer",
                    predictor="no" if half or bands.dtype == "uint8" else "yes", num_threads="ALL_CPUS", **precision,
                )  # fmt: skip
            check_whole(part)
        except GDAL_ERRORS as error:
            raise OSError(str(error)) from None
        finally:
            with suppress(OSError):
                rows.unlink(missing_ok=True)


def _describe(raster: Any, bands: Bands, tags: Mapping[str, str]) -> None:
    raster.descriptions = bands.names
    raster.update_tags(**tags)
    if bands.units:
        raster.units = bands.units
    if bands.steps:
        raster.scales = (1 / bands.steps,) * len(bands.names)
    if bands.colours:
        raster.write_colormap(1, dict(enumerate(as_rgb(bands.colours).tolist())))
        raster.update_tags(1, **{f"CLASS_{label}": name for label, name in enumerate(bands.classes)})


def mapped_images(path: Path) -> list[Path]:
    """The files of the scene that a map's tags say it is of; none where it has no tags."""
    files = made_by(path).get("scene")
    return split_places(files) if files else []


def made_by(path: Path) -> dict[str, Any]:
    """The settings that a map's tags say it was made with; empty where it has none, or does not exist."""
    if path.suffix.lower() not in (".tif", ".tiff") or not path.is_file():
        return {}
    with suppress(InputError, ValueError, KeyError):
        found: dict[str, Any] = json.loads(open_raster(path).tags()["RSSEG"])
        return found
    return {}
