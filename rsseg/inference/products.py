"""The files that are made of a head of a scene: each is opened, given rows, and finished once all are closed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rsseg.contract import InputError
from rsseg.data.raster import georeference
from rsseg.data.scene import SceneReader
from rsseg.inference.maps import Bands, MapFile, new_map
from rsseg.inference.scene import Output
from rsseg.inference.styles import write_styles, write_vector_style
from rsseg.inference.vectors import FORMATS, Objects, write_polygons
from rsseg.metrics.objects import SCORE
from rsseg.task import Centres, Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Areas:
    """How the areas of labels become polygons: the smallest of them, how far borders may move, and the labels' colours."""

    least: float
    tolerance: float
    colours: Sequence[str]


@dataclass(frozen=True)
class RasterMap:
    """A map of a kind of `rsseg.inference.maps.KINDS`, of labels perhaps with their areas as polygons.

    Its name is the scene's with this ending.
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
        write_vector_style(path, "class", dict(zip(names, areas.colours[-len(names) :], strict=True)))
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
    """Refuse a file of a name that a product is not written to."""
    if out.suffix.lower() not in product.suffixes:
        ends = " or ".join(product.suffixes)
        raise InputError(f"out={out}: {product.what} are written as {ends}; take such a name, or that of a folder")


def _polygons_of(raster: Path) -> Path:
    """Where the polygons of a map lie."""
    return raster.with_name(f"{raster.stem}-polygons.gpkg")
