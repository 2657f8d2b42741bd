"""Vector results as GeoPackages: the objects of a scene, and polygons of a map's classes."""

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
import torch.nn.functional as F
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import shapes
from rasterio.transform import AffineTransformer, GCPTransformer, from_origin
from shapely.affinity import affine_transform
from shapely.geometry import Point, box
from torch import Tensor

from rsseg.data.grids import ground_resolution
from rsseg.data.raster import GDAL, open_raster, reading
from rsseg.files import atomic_write
from rsseg.metrics.objects import SCORE, boxes, peaks, suppress_overlaps
from rsseg.task import Centres

ROWS, COLUMNS = 128, 256
"""The numbers of rows and columns that are searched for objects at a time."""


def _located(frame: Any, raster: Any) -> Any:
    """Features in a raster's coordinates; those in pixels, of a raster without a transform, are located by its GCPs.

    Without GCPs too, rows are negated, since QGIS draws them from 0 downwards.
    """
    gcps, crs = raster.gcps
    if not raster.transform.is_identity:
        return frame
    with reading(Path(raster.name)), GCPTransformer(gcps) if gcps else AffineTransformer(Affine.scale(1, -1)) as ground:
        placed = shapely.transform(frame.geometry, lambda x, y: ground.xy(y, x, offset="ul"), interleaved=False)
    return frame.set_geometry(placed, crs=crs.to_wkt() if crs else None)


def _write_features(path: Path, frame: Any, layer: str, geometry: str, tags: Mapping[str, str]) -> None:
    """Write a GeoDataFrame as the only layer of a GeoPackage."""
    with atomic_write(path) as part, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # files without features, or without a CRS
        frame.to_file(part, driver="GPKG", engine="pyogrio", layer=layer, geometry_type=geometry, layer_metadata=dict(tags))


class Objects:
    """Collects the objects of a scene of a given height and width; an `rsseg.inference.scene.Output`.

    A centre is a local maximum of the heat, so a row can be searched only when the row below it is known.
    """

    def __init__(self, head: str, task: Centres, shape: tuple[int, int]) -> None:
        self.head, self.task, self.shape = head, task, shape
        # the planes of a strip, below the last two rows of the previous strip, inside a frame of zeros
        self._planes = torch.zeros(task.outputs, 0, shape[1] + 2)
        self._where = torch.zeros(0, shape[1] + 2, dtype=torch.bool)  # where objects may be
        self._above = self._end = self._left = 0  # rows kept of the strip above; the scene's row and column where it ends
        self._found: list[Tensor] = []

    def block(self, planes: Tensor, hidden: NDArray[np.bool_]) -> Tensor | None:
        """See `Output`: returns a table of objects after the last block of a strip, see `rsseg.metrics.objects`; else None."""
        height, width = hidden.shape
        if self._left == 0:
            kept = slice(max(1, len(self._where) - 3), -1)
            last_planes, last_where = self._planes[:, kept], self._where[kept]
            self._above, self._end = len(last_where), self._end + height
            self._planes = planes.new_zeros(len(planes), self._above + height + 2, self.shape[1] + 2)
            self._where = torch.zeros(self._planes.shape[1:], dtype=torch.bool, device=planes.device)
            self._planes[:, 1 : 1 + self._above], self._where[1 : 1 + self._above] = last_planes, last_where
        place = np.s_[..., 1 + self._above : -1, 1 + self._left : 1 + self._left + width]
        self._planes[place], self._where[place] = planes, torch.from_numpy(~hidden).to(planes.device)
        self._left = (self._left + width) % self.shape[1]
        return None if self._left else self._search()

    def _search(self) -> Tensor:
        """The objects of a strip and of the row above it, without the strip's last row, unless that is the scene's last."""
        height, width = len(self._where) - 2, self.shape[1]
        where, found = self._where.clone(), []
        where[: self._above] = False
        if self._end < self.shape[0]:
            where[-2] = False
        for top, left in product(range(0, height, ROWS), range(0, width, COLUMNS)):
            seen = np.s_[..., top : top + ROWS + 2, left : left + COLUMNS + 2]  # with neighbours
            inside = F.pad(where[seen][1:-1, 1:-1], (1,) * 4)
            objects = peaks(self._planes[seen][None], self.task, least=SCORE, where=inside[None])
            objects[:, 3] += self._end - height + top - 1
            objects[:, 4] += left - 1
            found.append(objects.cpu())
        return torch.cat(found)

    def write(self, top: int, blocks: Sequence[Tensor | None]) -> None:
        """See `Output`."""
        self._found += [block for block in blocks if block is not None]

    def save(self, out: Path, image: Path, tags: Mapping[str, str]) -> int:
        """Write the objects of an image in its CRS, best first, and return their number.

        A feature is a bounding box along the image's rows and columns, or a point if no sizes were learnt, with a `class` and a
        `score`. If the image has no CRS and transform, and no GCPs, coordinates are columns and negated rows.
        """
        import geopandas  # its import, with pandas, takes half a second

        objects = suppress_overlaps(torch.cat(self._found)).numpy()
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
        _write_features(out, _located(frame, raster), "objects", "Polygon" if self.task.sized else "Point", tags)
        return len(frame)


def write_polygons(
    path: Path,
    raster: Path,
    labels: Mapping[int, Mapping[int, str]],
    least: float,
    tolerance: float,
    tags: Mapping[str, str] | None = None,
) -> Any:
    """Write the areas of a map as polygons with their `class` and `area`, in the map's CRS, and return their GeoDataFrame.

    Simplification treats the polygons as a coverage (Visvalingam & Whyatt 1993), so that neighbours keep their common borders.

    Args:
        path: The GeoPackage.
        raster: The map.
        labels: By band, the names of the labels to write, by label.
        least: The smallest area in square metres; smaller polygons are left out. Without a CRS, the unit is that of the map's
            coordinates, which are pixels if it has no transform.
        tolerance: The distance by which borders may move, in metres or in the unit of the map's coordinates.
        tags: The settings that made the map.

    Raises:
        UnwritableError: If it can't be written.
    """
    import geopandas

    with rasterio.Env(**GDAL), rasterio.open(raster) as source:
        found = [
            {"band": band, "class": names[int(label)], "geometry": shapely.geometry.shape(area)}
            for band, names in labels.items()  # GDAL reads the band line by line
            for area, label in shapes(rasterio.band(source, band), connectivity=4)
            if int(label) in names
        ]
        ground = geopandas.GeoDataFrame(found, columns=["band", "class", "geometry"], geometry="geometry", crs=source.crs)
        ground = _located(ground, source)
    crs = ground.crs
    if crs is not None and found:
        ground = _on_the_ground(ground)
    if tolerance:
        for _, own in ground.groupby("band"):  # labels of different bands may overlap
            ground.loc[own.index, "geometry"] = shapely.coverage_simplify(own.geometry.array, tolerance)
    ground["area"] = ground.geometry.area.round(2)
    frame = ground[ground["area"] >= least].drop(columns="band")
    if crs is not None:
        frame = frame.to_crs(crs)
    frame = frame.set_geometry(shapely.make_valid(frame.geometry.array, method="structure", keep_collapsed=False))
    _write_features(path, frame, "polygons", "MultiPolygon", tags or {})
    return frame


def _on_the_ground(frame: Any) -> Any:
    """Polygons in metres: in their own CRS if it keeps areas within 2 %, else in a local equal-area projection."""
    crs, (west, _, _, north) = frame.crs, frame.total_bounds
    metric = crs.is_projected and abs((ground_resolution(crs, from_origin(west, north, 1, 1)) or 0) - 1) < 0.01
    if metric or not (crs.is_projected or crs.is_geographic):
        return frame
    west, south, east, north = frame.to_crs(4326).total_bounds
    return frame.to_crs(f"+proj=laea +lat_0={(south + north) / 2} +lon_0={(west + east) / 2} +units=m")
