"""Grids of rasters: whether their pixels coincide, and whether files of different CRS overlap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError
from rasterio.warp import transform as transform_points
from rasterio.warp import transform_bounds

from rsseg.contract import InputError

GDAL_ERRORS = (RasterioError, CPLE_BaseError)  # rasterio raises its own errors, and some of GDAL's as they are
TOLERANCE = 0.01  # in pixels: corners closer than this are equal


def located(raster: Any) -> bool:
    """Whether a raster has a CRS and a transform."""
    return raster.crs is not None and not raster.transform.is_identity


def ground_resolution(crs: Any, transform: Any) -> float | None:
    """The side of a raster's first pixel on the ground, in metres; for oblong pixels, the side of a square of equal area.

    None if CRS or transform are unknown, or the CRS can't be transformed to longitude and latitude.

    Example:
        >>> round(ground_resolution(rasterio.CRS.from_epsg(4326), rasterio.Affine(1e-4, 0, 12, 0, -1e-4, 60)), 2)
        7.88
    """
    if crs is None or transform is None or transform.is_identity:
        return None
    import pyproj

    corners = np.reshape(transform, (3, 3)) @ [[0, 1, 0], [0, 0, 1], [1, 1, 1]]
    with suppress(*GDAL_ERRORS), rasterio.Env():
        (x, right, below), (y, beside, under) = transform_points(crs, "EPSG:4326", *corners[:2])
        _, _, sides = pyproj.Geod(ellps="WGS84").inv([x, x], [y, y], [right, below], [beside, under])
        side = float(np.sqrt(np.prod(sides)))
        return side if np.isfinite(side) else None
    return None


def same_grid(raster: Any, grid: Any) -> bool:
    """Whether two rasters' pixels coincide: equal sizes and, if both are georeferenced, equal CRS and corners."""
    if raster.shape != grid.shape:
        return False
    if not (located(raster) and located(grid)):
        return True
    height, width = grid.shape
    corners = np.array([[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]], dtype=np.float64)
    moved = np.reshape(~grid.transform, (3, 3)) @ np.reshape(raster.transform, (3, 3)) @ corners - corners
    return bool(raster.crs == grid.crs and abs(moved).max() < TOLERANCE)


def describe_gap(path: Path, crs: Any, bounds: Sequence[float], grid: Any) -> str:
    """A message that a file with these bounds in `crs` does not overlap the raster `grid`; empty if it does."""
    left, bottom, right, top = area_in(grid, crs, path)
    west, east = sorted(bounds[::2])
    south, north = sorted(bounds[1::2])
    beside = left >= east or right <= west if left <= right else left >= east and right <= west  # across the antimeridian
    if not beside and bottom < north and top > south:
        return ""
    return (
        f"{path} does not overlap {grid.name}: in {brief_crs(crs)} it spans {west:.6g} to {east:.6g} and {south:.6g} to "
        f"{north:.6g}, the image {left:.6g} to {right:.6g} and {bottom:.6g} to {top:.6g}. Is it the right file, and is its "
        "CRS right?"
    )


def area_in(image: Any, crs: Any, path: Path) -> tuple[float, float, float, float]:
    """West, south, east and north of an open image in another file's CRS; west is above east across the antimeridian."""
    ends = (math.inf,) * 4
    west, east = sorted(image.bounds[::2])
    south, north = sorted(image.bounds[1::2])
    with suppress(*GDAL_ERRORS), rasterio.Env():
        ends = transform_bounds(image.crs, crs, west, south, east, north)
    if not all(map(math.isfinite, ends)):
        raise InputError(
            f"{path} can't be brought together with {image.name}: there is no way from {brief_crs(image.crs)} to "
            f"{brief_crs(crs)}"
        )
    return ends


def brief_crs(crs: Any) -> str:
    """A CRS in a few words: its code, such as EPSG:32633, or its name."""
    code = crs.to_epsg()
    name = str(crs.to_wkt()).partition('"')[2].partition('"')[0]
    return f"EPSG:{code}" if code else f"the CRS '{name}'"
