"""The areas of a map's classes as polygons."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import rasterio
import shapely
from rasterio.features import shapes

from rsseg.contract import InputError
from rsseg.data.raster import GDAL
from rsseg.files import atomic_write

GEOPACKAGE = {"driver": "GPKG", "engine": "pyogrio", "layer": "polygons", "geometry_type": "MultiPolygon"}


def write_polygons(path: Path, raster: Path, labels: Mapping[int, Mapping[int, str]], least: float, tolerance: float) -> int:
    """Write the areas of a map as polygons with their `class` and `area`, in the map's CRS.

    Neighbouring polygons keep their common borders when they are simplified (Visvalingam & Whyatt 1993, as a coverage).

    Args:
        path: The GeoPackage.
        raster: The map.
        labels: By band, the names of the labels whose areas are wanted.
        least: The smallest area, in square metres; smaller polygons are left out and smaller holes filled. In pixels, where the
            map does not say where it lies.
        tolerance: How far borders may move, in metres, or pixels.

    Returns:
        How many polygons there are.

    Raises:
        UnwritableError: If it can't be written.
    """
    import geopandas  # with pandas it takes half a second to import

    found: list[tuple[str, Any]] = []
    with rasterio.Env(**GDAL), rasterio.open(raster) as source:
        crs = source.crs
        for band, names in labels.items():  # GDAL goes through the band line by line
            areas = shapes(rasterio.band(source, band), connectivity=4, transform=source.transform)
            found += [(names[int(label)], shapely.geometry.shape(area)) for area, label in areas if int(label) in names]
    frame = geopandas.GeoDataFrame({"class": [name for name, _ in found]}, geometry=[area for _, area in found], crs=crs)
    ground = frame
    if crs is not None and len(frame):
        metric = crs.is_projected and crs.linear_units_factor[1] == 1
        ground = frame if metric else frame.to_crs(frame.estimate_utm_crs())
    if tolerance and len(ground):
        ground = ground.set_geometry(shapely.coverage_simplify(ground.geometry.array, tolerance))
    ground = ground.set_geometry([without_small_holes(area, least) for area in ground.geometry])
    ground["area"] = ground.geometry.area.round(2)
    kept = ground[ground["area"] >= least]
    frame = kept if crs is None else kept.to_crs(crs)
    with atomic_write(path) as part, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about maps without a CRS
        frame.to_file(part, **GEOPACKAGE)
    return len(frame)


def without_small_holes(area: Any, least: float) -> Any:
    """A polygon, or several, without the holes that are smaller than an area.

    Example:
        >>> square = shapely.box(0, 0, 9, 9) - shapely.box(1, 1, 2, 2) - shapely.box(4, 4, 7, 7)
        >>> [hole.length for hole in without_small_holes(square, 2.0).interiors]
        [12.0]
    """
    if area.geom_type == "MultiPolygon":
        return shapely.MultiPolygon([without_small_holes(part, least) for part in area.geoms])
    return shapely.Polygon(area.exterior, [hole for hole in area.interiors if shapely.Polygon(hole).area >= least])


def check_polygons(least: float, tolerance: float) -> None:
    """Refuse an area or a tolerance below 0.

    Raises:
        InputError: For such a number.
    """
    for name, value in (("min_area", least), ("simplify", tolerance)):
        if value < 0:
            raise InputError(f"{name}={value:g}: a number of 0 or more is expected")
