"""The files that are made of a head of a scene: each is opened, given rows, and finished once all are closed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from rsseg.contract import InputError
from rsseg.data.raster import georeference
from rsseg.data.scene import SceneReader
from rsseg.files import write_text
from rsseg.inference.maps import Bands, MapFile, new_map
from rsseg.inference.scene import Output
from rsseg.inference.vectors import FORMATS, Objects, write_polygons
from rsseg.metrics.objects import SCORE
from rsseg.pictures.colours import as_rgb
from rsseg.task import Binary, Centres, Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Areas:
    """How the areas of labels become polygons, see `write_polygons`."""

    least: float  # the smallest area that is kept
    tolerance: float  # how far borders may move
    colours: Sequence[str]  # of the labels


@dataclass(frozen=True)
class RasterMap:
    """A map of one of `rsseg.inference.maps.KINDS`; a map of labels may have the areas of its classes beside it, as polygons.

    The file is called as the scene is, with `ending` behind.
    """

    head: str
    ending: str
    task: Task
    kind: str
    bands: Bands
    areas: Areas | None = None

    what: ClassVar[str] = "maps"
    suffixes: ClassVar[tuple[str, ...]] = (".tif", ".tiff")

    def files(self, path: Path) -> list[Path]:
        """The files that have to be there, by the first of them."""
        return [path, _polygons_of(path)] if self.areas else [path]

    @contextmanager
    def open(self, path: Path, reader: SceneReader, place: Mapping[str, Any], tags: Mapping[str, str]) -> Iterator[Output]:
        """A file to give rows to."""
        with new_map(path, self.bands, reader.size, place, tags) as raster:
            yield MapFile(self.head, self.bands, raster)

    def finish(self, output: Output, path: Path, image: Path) -> None:
        """Write what lies beside the file, and say where it is."""
        if self.bands.colours:
            write_styles(path, self.task, self.bands.classes, self.bands.colours)
        log.info("%s: %s", "Map" if self.kind == "labels" else self.kind.capitalize(), path)
        if self.areas:
            self._write_polygons(path, self.areas)

    def _write_polygons(self, raster: Path, areas: Areas) -> None:
        """Write the areas of the labels beside their map."""
        task, path = self.task, _polygons_of(raster)
        if task.label_planes:
            labels = {band: {1: name} for band, name in enumerate(task.classes, start=1)}
        else:
            first = len(task.label_names) - len(task.classes)  # the background of a binary task is no area
            labels = {1: {label: name for label, name in enumerate(task.label_names) if label >= first}}
        written = write_polygons(path, raster, labels, areas.least, areas.tolerance)
        names = [name for own in labels.values() for name in own.values()]
        write_vector_style(path, dict(zip(names, areas.colours[-len(names) :], strict=True)))
        log.info("%d polygons: %s", written, path)
        if "transform" not in georeference(raster):
            log.info("The map has no coordinates but control points, or none: those of polygons are columns and rows.")


@dataclass(frozen=True)
class ObjectFile:
    """The objects that a head finds; see `RasterMap`."""

    head: str
    ending: str
    task: Centres

    what: ClassVar[str] = "objects"
    suffixes: ClassVar[tuple[str, ...]] = tuple(FORMATS)

    def files(self, path: Path) -> list[Path]:
        """See `RasterMap`."""
        return [path]

    def open(
        self, path: Path, reader: SceneReader, place: Mapping[str, Any], tags: Mapping[str, str]
    ) -> AbstractContextManager[Output]:
        """See `RasterMap`."""
        return nullcontext(Objects(self.head, self.task, reader.size))

    def finish(self, output: Output, path: Path, image: Path) -> None:
        """Write what was gathered."""
        assert isinstance(output, Objects)
        log.info("%d objects of score %g and more: %s", output.save(path, image), SCORE, path)


Product = RasterMap | ObjectFile


def check_suffix(product: Product, out: Path) -> None:
    """Refuse an output file whose suffix is none of the product's."""
    if out.suffix.lower() not in product.suffixes:
        ends = " or ".join(product.suffixes)
        raise InputError(f"out={out}: {product.what} are written as {ends}; take such a name, or that of a folder")


def _polygons_of(raster: Path) -> Path:
    """Where the polygons of a map lie."""
    return raster.with_name(f"{raster.stem}-polygons.gpkg")


def write_styles(path: Path, task: Task, names: Sequence[str], colours: Sequence[str]) -> None:
    """Write ``<map>.qml``, which QGIS takes by itself, and ``<map>.tif.aux.xml``, which GDAL does.

    The background of a binary map is transparent.
    """
    style = Element("qgis", version="3.22", styleCategories="Symbology")
    renderer = SubElement(
        SubElement(style, "pipe"), "rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1", nodataColor=""
    )
    palette = SubElement(renderer, "colorPalette")
    for label, (name, colour) in enumerate(zip(names, colours, strict=True)):
        alpha = "0" if isinstance(task, Binary) and label == 0 else "255"
        SubElement(palette, "paletteEntry", value=str(label), color=colour, label=name, alpha=alpha)
    write_text(path.with_suffix(".qml"), _text(style, "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"))
    beside = Element("PAMDataset")
    categories = SubElement(SubElement(beside, "PAMRasterBand", band="1"), "CategoryNames")
    for name in names:
        SubElement(categories, "Category").text = name
    write_text(path.with_name(f"{path.name}.aux.xml"), _text(beside))


def write_vector_style(path: Path, colours: Mapping[str, str]) -> None:
    """Write ``<file>.qml`` of polygons, a colour for each `class`."""
    style = Element("qgis", version="3.22", styleCategories="Symbology")
    renderer = SubElement(style, "renderer-v2", type="categorizedSymbol", attr="class")
    categories, symbols = SubElement(renderer, "categories"), SubElement(renderer, "symbols")
    for place, (value, colour) in enumerate(colours.items()):
        SubElement(categories, "category", value=value, label=value, symbol=str(place), render="true")
        symbol = SubElement(symbols, "symbol", type="fill", name=str(place), alpha="0.7")
        options = SubElement(SubElement(symbol, "layer", {"class": "SimpleFill", "enabled": "1"}), "Option", type="Map")
        red, green, blue = as_rgb([colour])[0]
        SubElement(options, "Option", type="QString", name="color", value=f"{red},{green},{blue},255")
        SubElement(options, "Option", type="QString", name="outline_color", value="35,35,35,255")
        SubElement(options, "Option", type="QString", name="outline_width", value="0.1")
    write_text(path.with_suffix(".qml"), _text(style, "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"))


def _text(root: Element, head: str = "") -> str:
    ElementTree.indent(root)
    return head + ElementTree.tostring(root, encoding="unicode") + "\n"
