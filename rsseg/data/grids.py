"""Where rasters lie: whether their pixels lie on each other, and whether files of different CRS overlap."""

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
from rasterio.warp import transform_bounds

from rsseg.contract import InputError

GDAL_ERRORS = (RasterioError, CPLE_BaseError)  # what rasterio raises: its own errors, and some of GDAL's as they are
METRES_PER_DEGREE = 111_320.0  # along a meridian, and along the equator
TOLERANCE = 0.01  # of a pixel: corners that are nearer than this are equal


def located(raster: Any) -> bool:
    """Whether a raster says where on the Earth it lies."""
    return raster.crs is not None and not raster.transform.is_identity


def ground_resolution(crs: Any, transform: Any) -> float | None:
    """The side of a pixel in metres, in the first corner of a raster; of oblong pixels that of a square as large.

    None where CRS, transform or the CRS's unit is not known.

    Example:
        >>> round(ground_resolution(rasterio.CRS.from_epsg(4326), rasterio.Affine(1e-4, 0, 12, 0, -1e-4, 60)), 2)
        7.87
    """
    if crs is None or transform is None or transform.is_identity:
        return None
    side = float(np.sqrt(abs(transform.determinant)))
    if crs.is_geographic:
        return side * METRES_PER_DEGREE * float(np.sqrt(np.cos(np.radians(transform.f))))
    if not crs.is_projected:
        return None
    return side * float(crs.linear_units_factor[1]) / float(np.sqrt(areal_scale(crs, transform.c, transform.f)))


def areal_scale(crs: Any, x: float, y: float) -> float:
    """How many times as large as on the ground an area is in a projected CRS, at a place: 4 of Web Mercator at 60 degrees."""
    import pyproj

    projection = pyproj.Proj(crs.to_wkt())
    with suppress(pyproj.exceptions.ProjError):
        found = float(projection.get_factors(*projection(x, y, inverse=True)).areal_scale)
        return found if np.isfinite(found) and found > 0 else 1.0
    return 1.0


def same_grid(raster: Any, grid: Any) -> bool:
    """Whether two rasters' pixels lie on each other: their sizes are equal and, if both have coordinates, their corners."""
    if raster.shape != grid.shape:
        return False
    if not (located(raster) and located(grid)):
        return True
    height, width = grid.shape
    corners = np.array([[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]], dtype=np.float64)
    moved = np.reshape(~grid.transform, (3, 3)) @ np.reshape(raster.transform, (3, 3)) @ corners - corners
    return bool(raster.crs == grid.crs and abs(moved).max() < TOLERANCE)


def describe_gap(path: Path, crs: Any, bounds: Sequence[float], grid: Any) -> str:
    """Why a file with these bounds does not touch a raster's area; empty: it does."""
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
