"""Geospatial datasets of torchgeo, which have no samples of their own, in pieces."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from affine import Affine
from rasterio.crs import CRS
from rasterio.transform import from_origin
from shapely.geometry import box
from torchgeo.datasets import GeoDataset, IntersectionDataset

from rsseg.data.grids import TOLERANCE


def grouped_keys(dataset: Any, chip: int) -> list[tuple[int, Any]]:
    """What a torchgeo dataset is indexed with, numbers or the place and time of pieces, each with the number of its group.

    A sample is a group of its own; the pieces of a geospatial dataset's files that overlap are one, so that no place is
    both trained and scored on.

    Args:
        dataset: A torchgeo dataset.
        chip: The largest side of a piece, in pixels.
    """
    if not isinstance(dataset, GeoDataset):
        return [(i, i) for i in range(len(dataset))]
    shapes = dataset.index.geometry
    cores = shapes.buffer(-min(dataset.res) / 2)  # neighbours that only touch stay apart
    footprints = cores.union_all()
    parts = list(getattr(footprints, "geoms", [footprints]))
    found = []
    for interval, shape, core in zip(dataset.index.index, shapes, cores, strict=True):
        if core.is_empty:  # narrower than a pixel, as where files of two datasets touch
            continue
        group = next(i for i, part in enumerate(parts) if part.intersects(core))
        keys = pieces(shape.bounds, corner(dataset, shape), interval, dataset.res, chip)
        found += [(group, (x, y, t)) for x, y, t in keys if core.intersects(box(x.start, y.start, x.stop, y.stop))]
    return found


def corner(dataset: Any, shape: Any) -> tuple[float, float]:
    """The corner of a pixel: that of a file; of datasets that are joined, of the first one's file that holds the shape."""
    joined = isinstance(dataset, IntersectionDataset)
    while isinstance(dataset, IntersectionDataset):
        dataset = dataset.datasets[0]
    files = dataset.index.geometry
    left, _, _, top = (files[files.intersects(shape.representative_point())].iloc[0] if joined else shape).bounds
    return left, top


def pieces(
    bounds: tuple[float, float, float, float],
    grid: tuple[float, float],
    interval: Any,
    res: tuple[float, float],
    chip: int,
) -> Iterator[tuple[slice, slice, slice]]:
    """Queries of whole pixels that cover a place without a gap and do not reach beyond it.

    Args:
        bounds: Left, bottom, right, top, in the dataset's units.
        grid: The corner of a pixel.
        interval: The time.
        res: The size of a pixel.
        chip: The largest side of a piece, in pixels.
    """
    (left, bottom, right, top), (x, y), (across, down) = bounds, grid, res
    first, last = math.ceil((left - x) / across - TOLERANCE), math.floor((right - x) / across + TOLERANCE)
    upper, lower = math.ceil((y - top) / down - TOLERANCE), math.floor((y - bottom) / down + TOLERANCE)
    for i in range(first, last, chip):
        for j in range(upper, lower, chip):
            yield (
                slice(x + i * across, x + min(i + chip, last) * across),
                slice(y - min(j + chip, lower) * down, y - j * down),
                slice(interval.left, interval.right),
            )


def place_of(dataset: Any, key: Any) -> tuple[Any, Affine | None]:
    """Where a sample lies: its CRS and the transform from its pixels to the map; None of plain images."""
    if not isinstance(dataset, GeoDataset):
        return None, None
    x, y, _ = key
    return CRS.from_user_input(dataset.crs), from_origin(x.start, y.stop, *dataset.res)
