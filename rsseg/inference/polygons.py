"""The areas of a map's classes as polygons."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from rasterio.features import shapes

from rsseg.contract import number
from rsseg.data.grids import areal_scale
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

    found: list[tuple[int, str, Any]] = []
    with rasterio.Env(**GDAL), rasterio.open(raster) as source:
        crs, corner = source.crs, (source.transform.c, source.transform.f)
        for band, names in labels.items():  # GDAL goes through the band line by line
            areas = shapes(rasterio.band(source, band), connectivity=4, transform=source.transform)
            found += [(band, names[int(label)], shapely.geometry.shape(area)) for area, label in areas if int(label) in names]
    bands, names_of, areas_of = zip(*found, strict=True) if found else ((), (), ())
    frame = geopandas.GeoDataFrame({"class": list(names_of)}, geometry=list(areas_of), crs=crs)
    ground = frame if crs is None or not len(frame) else on_the_ground(frame, crs, corner)
    if tolerance:
        for band in set(bands):  # labels of different bands may overlap
            own = np.array(bands) == band
            ground.loc[own, "geometry"] = shapely.coverage_simplify(ground.geometry.array[own], tolerance)
    ground = ground.set_geometry([without_small_holes(area, least) for area in ground.geometry])
    ground["area"] = ground.geometry.area.round(2)
    kept = ground[ground["area"] >= least]
    frame = kept if kept.crs is None else kept.to_crs(crs)
    frame = frame.set_geometry(shapely.make_valid(frame.geometry.array, method="structure", keep_collapsed=False))
    with atomic_write(path) as part, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about maps without a CRS
        frame.to_file(part, **GEOPACKAGE)
    return len(frame)


def on_the_ground(frame: Any, crs: Any, corner: tuple[float, float]) -> Any:
    """Polygons in metres: as they are in a CRS that keeps areas within 2 %, else in an equal-area projection about them."""
    if not (crs.is_projected or crs.is_geographic):
        return frame
    if crs.is_projected and crs.linear_units_factor[1] == 1 and abs(areal_scale(crs, *corner) - 1) < 0.02:
        return frame
    west, south, east, north = frame.to_crs(4326).total_bounds
    return frame.to_crs(f"+proj=laea +lat_0={(south + north) / 2} +lon_0={(west + east) / 2} +units=m")


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
        number(name, value)
