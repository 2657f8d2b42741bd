"""Maps of a scene as Cloud Optimized GeoTIFFs: labels, values, probabilities, entropy and disagreement."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.windows import Window
from torch import Tensor

from rsseg.contract import IGNORE
from rsseg.data.grids import GDAL_ERRORS
from rsseg.data.raster import GDAL, check_whole
from rsseg.files import atomic_write, write_text
from rsseg.inference.ensemble import disagreement, entropy
from rsseg.inference.trained import Head
from rsseg.pictures.colours import as_rgb, colours
from rsseg.task import Binary, Centres, Task

KINDS = ("labels", "probabilities", "entropy", "disagreement")
"""The kinds of maps; of a regression `labels` are its values."""

STEPS = 250
"""Values from 0 to 1 are stored in a byte as integers from 0 to this; 255 is no data."""

LIGHT = "#f5f5f5"
"""The colour of a binary map's background in viewers that do not read its style."""

ROWS = 64
"""The number of rows that are passed to GDAL at a time."""


@dataclass(frozen=True)
class Bands:
    """The bands of a map."""

    names: tuple[str, ...]  # a name for each
    dtype: str  # ``uint8``, ``float16`` or ``float32``
    read: Callable[[Tensor], Tensor]  # the bands, ``[count, rows, width]``, of a head's planes
    units: tuple[str, ...] = ()  # a unit for each band; empty: no units
    steps: int | None = None  # the divisor of a byte's value; None: 1
    classes: tuple[tuple[str, str], ...] = ()  # the name and colour of each label, if one band holds labels

    @property
    def nodata(self) -> float:
        """The value for "not known"."""
        return IGNORE if self.dtype == "uint8" else np.nan


def kinds_of(task: Task) -> tuple[str, ...]:
    """The kinds of files of a task: objects have only one, and a regression has no probabilities."""
    if isinstance(task, Centres):
        return ("labels",)
    return ("labels", "disagreement") if task.real else KINDS


def bands_of(kind: str, head: Head, threshold: Tensor | None, dtype: str) -> Bands:
    """The bands of a head's map of this kind, with labels at the threshold for `Task.decide`, other values of this dtype."""
    task, outputs, units = head.task, head.task.outputs, getattr(head.task, "units", ())

    def labels(planes: Tensor) -> Tensor:
        found = task.decide(planes[:outputs], threshold)
        return found if task.label_planes else found[None]

    def mean(planes: Tensor) -> Tensor:
        return planes[:outputs]

    if kind == "labels" and task.real:
        return Bands(task.classes, "float32", mean, units)
    if kind == "labels" and task.label_planes:
        return Bands(task.classes, "uint8", labels)
    if kind == "labels":
        shades = colours(task, head.palette)
        if isinstance(task, Binary) and head.palette is None:
            shades[0] = LIGHT
        return Bands(("label",), "uint8", labels, classes=tuple(zip(task.label_names, shades, strict=True)))
    if kind == "disagreement" and task.real:
        return Bands(task.classes, "float32", lambda planes: disagreement(planes, task), units)
    read: dict[str, Callable[[Tensor], Tensor]] = {
        "probabilities": mean,
        "entropy": lambda planes: entropy(mean(planes), task),
        "disagreement": lambda planes: disagreement(planes, task),
    }
    names = (kind,) if task.exclusive and kind != "probabilities" else task.classes
    return Bands(names, dtype, read[kind], steps=STEPS if dtype == "uint8" else None)


class RasterMap:
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
        for row in range(0, blocks[0].shape[1], ROWS):
            values = np.concatenate([block[:, row : row + ROWS] for block in blocks], axis=2)
            if self.bands.dtype == "float16":
                values = values.astype(np.float32)  # GDAL stores 16 bits of them
            self._raster.write(values, window=Window(0, top + row, values.shape[2], values.shape[1]))


@contextmanager
def new_map(
    path: Path, head: str, bands: Bands, shape: tuple[int, int], place: Mapping[str, Any], tags: Mapping[str, str]
) -> Iterator[RasterMap]:
    """A map to write rows into, which becomes a Cloud Optimized GeoTIFF when the block ends without an error.

    `shape` is its height and width, `place` its CRS and transform as from `rsseg.data.raster.georeference`.

    Raises:
        UnwritableError: If it can't be written.
    """
    half = bands.dtype == "float16"
    form = {"height": shape[0], "width": shape[1], "count": len(bands.names), "dtype": "float32" if half else bands.dtype}
    with atomic_write(path) as part:
        rows = part.with_suffix(".rows.tif")
        try:
            with rasterio.Env(**GDAL), rasterio.open(
                rows, "w", driver="GTiff", nodata=bands.nodata, blockysize=1, interleave="band", compress="deflate", zlevel=1,
                bigtiff="if_safer", photometric="palette" if bands.classes else "minisblack", **form, **place,
            ) as raster:  # fmt: skip
                _describe(raster, bands, tags)
                yield RasterMap(head, bands, raster)
            resampling = "mode" if bands.dtype == "uint8" and not bands.steps else "average"
            with rasterio.Env(**GDAL):
                rasterio.shutil.copy(
                    rows, part, driver="COG", compress="deflate", overview_resampling=resampling, bigtiff="if_safer",
                    predictor="no" if half or bands.dtype == "uint8" else "yes", num_threads="ALL_CPUS",
                    **({"nbits": 16} if half else {}),  # here alone: GDAL 3.12 makes no overviews of a file of 16-bit reals
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
    if bands.classes:
        raster.write_colormap(1, dict(enumerate(as_rgb([colour for _, colour in bands.classes]).tolist())))
        raster.update_tags(1, **{f"CLASS_{label}": name for label, (name, _) in enumerate(bands.classes)})


def write_styles(path: Path, classes: Sequence[tuple[str, str]], transparent: int | None) -> None:
    """Write ``<map>.qml``, which QGIS loads automatically, and ``<map>.tif.aux.xml``, from which GDAL reads categories.

    The label `transparent` is not drawn.
    """
    style, beside = Element("qgis", version="3.22", styleCategories="Symbology"), Element("PAMDataset")
    renderer = SubElement(
        SubElement(style, "pipe"), "rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1", nodataColor=""
    )
    palette = SubElement(renderer, "colorPalette")
    categories = SubElement(SubElement(beside, "PAMRasterBand", band="1"), "CategoryNames")
    for label, (name, colour) in enumerate(classes):
        alpha = "0" if label == transparent else "255"
        SubElement(palette, "paletteEntry", value=str(label), color=colour, label=name, alpha=alpha)
        SubElement(categories, "Category").text = name
    for file, root in ((path.with_suffix(".qml"), style), (path.with_name(f"{path.name}.aux.xml"), beside)):
        ElementTree.indent(root)
        write_text(file, ElementTree.tostring(root, encoding="unicode") + "\n")


def made_by(path: Path) -> dict[str, Any]:
    """The settings that made a map or a GeoPackage, from its tags; empty if it has no tags, or can't be read."""
    if not path.is_file():
        return {}
    with suppress(*GDAL_ERRORS, ValueError, KeyError, TypeError):
        found: dict[str, Any] = json.loads(
            (_tags_of_layer(path) if path.suffix.lower() == ".gpkg" else _tags_of_raster(path))["RSSEG"]
        )
        return found
    return {}


def _tags_of_raster(path: Path) -> Any:
    """The tags of a map, which is closed again: on Windows an open file can't be replaced."""
    with rasterio.open(path, driver="GTiff") as raster:
        return raster.tags()


def _tags_of_layer(path: Path) -> Any:
    """The tags of the one layer of a GeoPackage; KeyError if it can't be read."""
    import pyogrio  # its import takes half a second

    try:
        return pyogrio.read_info(path)["layer_metadata"]
    except pyogrio.errors.DataSourceError as error:
        raise KeyError(str(error)) from None
