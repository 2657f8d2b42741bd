"""Masks as vectors: the features of a GeoPackage, GeoJSON, Shapefile or FlatGeobuf, burnt into the pixels of an image."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyproj.exceptions import CRSError, ProjError
from rasterio.features import rasterize
from rasterio.transform import array_bounds
from rasterio.windows import Window
from shapely.geometry import box

from rsseg.contract import InputError, nearest
from rsseg.data.raster import located, open_raster, version

logging.getLogger("pyogrio").setLevel(logging.WARNING)  # it counts the features of every file that it writes

VECTORS = frozenset({".gpkg", ".geojson", ".shp", ".fgb"})


@dataclass(frozen=True)
class Burn:
    """What the features of a vector file become in a mask: 0 outside of them.

    Attributes:
        attribute: The attribute that holds their mask value, an integer or a key of `values`; None: 1 for every feature.
        values: Pairs of an attribute's value, as text, and the mask value that it stands for.
    """

    attribute: str | None = None
    values: tuple[tuple[str, int], ...] = ()


def text_of(value: Any) -> str:
    """An attribute's value as it is written in a config: 3 for 3.0, null for a missing one.

    Example:
        >>> [text_of(value) for value in ("wood", 3, 3.0, None)]
        ['wood', '3', '3', 'null']
    """
    if pd.isna(value):
        return "null"
    return str(int(value)) if isinstance(value, float | np.floating) and float(value).is_integer() else str(value)


def _mask_values(frame: Any, path: Path, burn: Burn) -> NDArray[np.int32]:
    if burn.attribute is None:
        return np.ones(len(frame), dtype=np.int32)
    known = [str(name) for name in frame.columns if name != frame.geometry.name]
    if burn.attribute not in known:
        raise InputError(
            f"{path} has no attribute {burn.attribute}{nearest(burn.attribute, known)}: set dataset.source.attribute to one "
            f"that it has ({', '.join(known) or 'it has none'}), or to null for 1 in every feature"
        )
    column = frame[burn.attribute]
    if burn.values:
        texts, table = [text_of(value) for value in column], dict(burn.values)
        wrong = sorted(set(texts) - table.keys())
        if wrong:
            raise InputError(
                f"{path}: the attribute {burn.attribute} holds {', '.join(wrong[:10])}{', ...' if len(wrong) > 10 else ''}, "
                f"which dataset.source.values does not know: {{{', '.join(f'{k}: {v}' for k, v in burn.values)}}}. "
                "Add a mask value for each"
            )
        return np.array([table[text] for text in texts], dtype=np.int32)
    numbers = np.asarray(pd.to_numeric(column, errors="coerce"), dtype=np.float64)
    whole = np.isfinite(numbers) & (numbers == np.round(numbers)) & (abs(numbers) < 2**31)
    if not pd.api.types.is_numeric_dtype(column) or not whole.all():
        found = sorted({text_of(value) for value in column[~whole]} or {text_of(value) for value in column})
        raise InputError(
            f"{path}: the attribute {burn.attribute} holds {', '.join(found[:10])}{', ...' if len(found) > 10 else ''}: "
            f"integers are expected, or dataset.source.values with a mask value for each, such as {{{found[0]}: 1}}"
        )
    return numbers.astype(np.int32)


@lru_cache(maxsize=8)
def _read(path: Path, burn: Burn, crs: str, version: tuple[int, int]) -> tuple[Any, NDArray[np.int32]]:  # noqa: ARG001
    try:
        frame = geopandas.read_file(path)
    except Exception as error:  # what pyogrio, GDAL and shapely raise over damaged files has no common type
        raise InputError(f"{path} can't be read as a vector file: {error}. Is it complete?") from None
    if not isinstance(frame, geopandas.GeoDataFrame):
        raise InputError(f"{path} has no geometries, attributes only: is it the right file?")
    values = _mask_values(frame, path, burn)
    shapes = frame.geometry
    if shapes.crs is None:
        raise InputError(f"{path} has no CRS, so its place in the image is unknown: write it with one (a Shapefile: with .prj)")
    try:
        shapes = shapes.to_crs(crs)
    except (CRSError, ProjError) as error:
        raise InputError(f"{path} can't be brought from {shapes.crs.name} into its image's CRS: {error}") from None
    kept = (~(shapes.isna() | shapes.is_empty)).to_numpy()
    return shapes[kept].reset_index(drop=True), values[kept]


def read_features(path: Path, burn: Burn, image: Path) -> tuple[Any, NDArray[np.int32]]:
    """The geometries of a vector file in an image's CRS (a GeoSeries), and the mask value of each.

    Raises:
        InputError: If the file can't be read, lacks the attribute or a CRS, or holds values without a meaning.
    """
    raster = open_raster(image)
    if not located(raster):
        raise InputError(f"{image} has no coordinates (CRS), so the features of {path} have no place in it")
    return _read(path, burn, raster.crs.to_wkt(), version(path))


def rasterise(path: Path, burn: Burn, image: Path, window: Window) -> NDArray[np.int32]:
    """The mask values in a window of an image: int32 ``[h, w]``.

    A pixel belongs to the polygon that its centre lies in; where several overlap, to the last in the file. Lines and points
    take the pixels that they touch.
    """
    shapes, values = read_features(path, burn, image)
    shape = int(window.height), int(window.width)
    transform = open_raster(image).window_transform(window)
    near = np.sort(shapes.sindex.query(box(*array_bounds(*shape, transform))))
    if not len(near):
        return np.zeros(shape, dtype=np.int32)
    pairs = zip(shapes.iloc[near], values[near].tolist(), strict=True)
    burnt: NDArray[np.int32] = rasterize(pairs, out_shape=shape, transform=transform, dtype="int32")
    return burnt
