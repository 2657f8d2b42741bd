"""What is found in a scene as vector files: its objects, and the areas of a map's classes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
import torch
from numpy.typing import NDArray
from rasterio.features import shapes
from rasterio.transform import from_origin
from shapely.affinity import affine_transform
from shapely.geometry import Point, box
from torch import Tensor

from rsseg.data.grids import ground_resolution
from rsseg.data.raster import GDAL, open_raster
from rsseg.files import atomic_write
from rsseg.metrics.objects import SCORE, boxes, peaks, suppress
from rsseg.task import Centres

FORMATS = {".gpkg": "GPKG", ".geojson": "GeoJSON"}
"""The vector files that are written, by suffix."""

ROWS, COLUMNS = 128, 256
"""How many are searched for objects at a time."""


def _write_features(path: Path, frame: Any, layer: str, geometry: str) -> None:
    """Write a GeoDataFrame as the one layer of a file."""
    with atomic_write(path) as part, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about files without features, or without a CRS
        frame.to_file(part, driver=FORMATS[path.suffix.lower()], engine="pyogrio", layer=layer, geometry_type=geometry)


class Objects:
    """Gathers the objects of a scene of some height and width; an `rsseg.inference.scene.Output`.

    A centre is where the heat is highest among its neighbours, so that a row is searched once the one below it is known.
    """

    def __init__(self, head: str, task: Centres, shape: tuple[int, int]) -> None:
        self.head, self.task, self.shape = head, task, shape
        self._planes, self._hidden = torch.empty(task.outputs, 0, shape[1]), np.empty((0, shape[1]), dtype=bool)
        self._above = self._end = self._left = 0  # rows of `_planes` from the strip above; the scene's row behind the last
        self._found: list[Tensor] = []

    def block(self, planes: Tensor, hidden: NDArray[np.bool_]) -> Tensor | None:
        """See `Output`: after the last block of a strip a table of objects, see `rsseg.metrics.objects`."""
        height, width = hidden.shape
        if self._left == 0:
            above, hidden_above = self._planes[:, -2:], self._hidden[-2:]
            self._above, self._end = above.shape[1], self._end + height
            self._planes = planes.new_empty(len(planes), self._above + height, self.shape[1])
            self._hidden = np.empty(self._planes.shape[1:], dtype=bool)
            self._planes[:, : self._above], self._hidden[: self._above] = above, hidden_above
        columns = slice(self._left, self._left + width)
        self._planes[:, self._above :, columns], self._hidden[self._above :, columns] = planes, hidden
        self._left = columns.stop % self.shape[1]
        return None if self._left else self._search()

    def _search(self) -> Tensor:
        """The objects of a strip, but for its last row unless it is that of the scene; and those of the last row above it."""
        planes, width = self._planes, self.shape[1]
        stop = planes.shape[1] - (self._end < self.shape[0])
        where = torch.from_numpy(~self._hidden).to(planes.device)
        where[: max(0, self._above - 1)] = where[stop:] = False
        found = []
        for top, left in product(range(0, len(where), ROWS), range(0, width, COLUMNS)):
            first, column = max(0, top - 1), max(0, left - 1)
            seen = np.s_[..., first : top + ROWS + 1, column : left + COLUMNS + 1]  # with neighbours
            own = where[top : top + ROWS, left : left + COLUMNS]
            inside = torch.zeros_like(where[seen])
            inside[top - first :, left - column :][: own.shape[0], : own.shape[1]] = own
            objects = peaks(planes[seen][None], self.task, least=SCORE, where=inside[None])
            objects[:, 3] += self._end - planes.shape[1] + first
            objects[:, 4] += column
            found.append(objects.cpu())
        return torch.cat(found)

    def write(self, top: int, blocks: Sequence[Tensor | None]) -> None:
        """See `Output`."""
        self._found += [block for block in blocks if block is not None]

    def save(self, out: Path, image: Path) -> int:
        """Write the objects of an image in its CRS, best first, and count them.

        A feature is the bounding box along the image's rows and columns, or a point where no sizes were learnt, with its
        `class` and `score`. Without a CRS coordinates are columns and rows.
        """
        import geopandas  # with pandas it takes half a second to import

        objects = suppress(torch.cat(self._found)).numpy()
        raster = open_raster(image)
        if self.task.sized:
            found: list[Any] = [box(*corners) for corners in boxes(torch.from_numpy(objects)).tolist()]
        else:
            found = [Point(column, row) for row, column in objects[:, 3:5].tolist()]
        frame = geopandas.GeoDataFrame(
            {
                "class": [self.task.classes[int(label)] for label in objects[:, 1]],
                "score": objects[:, 2].astype(np.float64).round(4),
            },
            geometry=[affine_transform(shape, raster.transform.to_shapely()) for shape in found],
            crs=None if raster.crs is None else raster.crs.to_wkt(),
        )
        _write_features(out, frame, "objects", "Polygon" if self.task.sized else "Point")
        return len(frame)


def write_polygons(path: Path, raster: Path, labels: Mapping[int, Mapping[int, str]], least: float, tolerance: float) -> int:
    """Write the areas of a map as polygons with their `class` and `area`, in the map's CRS, and count them.

    Neighbouring polygons keep their common borders when they are simplified (Visvalingam & Whyatt 1993, as a coverage).

    Args:
        path: The GeoPackage.
        raster: The map.
        labels: By band, the names of the labels whose areas are wanted.
        least: The smallest area, in square metres; smaller polygons are left out and smaller holes filled. In pixels, where the
            map does not say where it lies.
        tolerance: How far borders may move, in metres, or pixels.

    Raises:
        UnwritableError: If it can't be written.
    """
    import geopandas  # with pandas it takes half a second to import

    found: list[tuple[int, str, Any]] = []
    with rasterio.Env(**GDAL), rasterio.open(raster) as source:
        crs, corner = source.crs, (source.transform.c, source.transform.f)
        for band, names in labels.items():  # GDAL goes through the band line by line
            areas = shapes(rasterio.band(source, band), connectivity=4, transform=source.transform)
            found += [(band, names[int(label)], shapely.geometry.shape(area)) for area, label in areas if int(label) in names]
    bands, names_of, areas_of = zip(*found, strict=True) if found else ((), (), ())
    frame = geopandas.GeoDataFrame({"class": list(names_of)}, geometry=list(areas_of), crs=crs)
    ground = frame if crs is None or not len(frame) else _on_the_ground(frame, crs, corner)
    if tolerance:
        for band in set(bands):  # labels of different bands may overlap
            own = np.array(bands) == band
            ground.loc[own, "geometry"] = shapely.coverage_simplify(ground.geometry.array[own], tolerance)
    ground = ground.set_geometry([_without_small_holes(area, least) for area in ground.geometry])
    ground["area"] = ground.geometry.area.round(2)
    kept = ground[ground["area"] >= least]
    frame = kept if kept.crs is None else kept.to_crs(crs)
    frame = frame.set_geometry(shapely.make_valid(frame.geometry.array, method="structure", keep_collapsed=False))
    _write_features(path, frame, "polygons", "MultiPolygon")
    return len(frame)


def _on_the_ground(frame: Any, crs: Any, corner: tuple[float, float]) -> Any:
    """Polygons in metres: as they are in a CRS that keeps areas within 2 %, else in an equal-area projection about them."""
    if not (crs.is_projected or crs.is_geographic):
        return frame
    if crs.is_projected and abs((ground_resolution(crs, from_origin(*corner, 1, 1)) or 0) - 1) < 0.01:
        return frame
    west, south, east, north = frame.to_crs(4326).total_bounds
    return frame.to_crs(f"+proj=laea +lat_0={(south + north) / 2} +lon_0={(west + east) / 2} +units=m")


def _without_small_holes(area: Any, least: float) -> Any:
    """A polygon, or several, without the holes that are smaller than an area.

    Example:
        >>> square = shapely.box(0, 0, 9, 9) - shapely.box(1, 1, 2, 2) - shapely.box(4, 4, 7, 7)
        >>> [hole.length for hole in _without_small_holes(square, 2.0).interiors]
        [12.0]
    """
    if area.geom_type == "MultiPolygon":
        return shapely.MultiPolygon([_without_small_holes(part, least) for part in area.geoms])
    return shapely.Polygon(area.exterior, [hole for hole in area.interiors if shapely.Polygon(hole).area >= least])
