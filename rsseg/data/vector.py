"""Masks as vectors: the features of a GeoPackage, GeoJSON, Shapefile or FlatGeobuf, burnt into the pixels of an image."""

from __future__ import annotations

import codecs
import logging
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyproj.exceptions import CRSError, ProjError
from rasterio.features import rasterize
from rasterio.transform import array_bounds
from rasterio.windows import Window
from shapely import unary_union
from shapely.geometry import box

from rsseg.contract import InputError, nearest
from rsseg.data.grids import area_in, brief_crs, describe_gap, located
from rsseg.data.masks import Mask, text_of
from rsseg.data.raster import open_raster, version

logging.getLogger("pyogrio").setLevel(logging.WARNING)  # it counts the features of every file that it writes

FIRST_BYTES = {".gpkg": b"SQLite format 3\0", ".geojson": b"{", ".shp": b"\0\0\x27\x0a", ".fgb": b"fgb"}
"""The first bytes of a vector file, by the ending of its name."""

SHOWN = 10  # values of an attribute in a message

Features = tuple[Any, NDArray[np.int32]]  # geometries, a GeoSeries, and the mask value of each


def _mask_values(frame: Any, mask: Mask) -> NDArray[np.int32]:
    """The mask value of each feature."""
    path, name = mask.path, mask.attribute
    if name is None or not len(frame):  # an empty file may lack the attributes, too
        return np.ones(len(frame), dtype=np.int32)
    known = [str(column) for column in frame.columns if column != frame.geometry.name]
    if name not in known:
        raise InputError(
            f"{path} has no attribute {name}{nearest(name, known)}: set dataset.source.attribute to one that it has "
            f"({', '.join(known) or 'it has none'}), or to null for 1 in every feature"
        )
    column = frame[name]
    if mask.values:
        table = dict(mask.values)
        values = np.array([table.get(text, np.nan) for text in texts_of(column)])
        expected = f"which dataset.source.values does not know: {{{', '.join(f'{k}: {v}' for k, v in mask.values)}}}"
    else:
        numeric = column.dtype.kind in "iufb"
        values = column.to_numpy(dtype=np.float64, na_value=np.nan) if numeric else np.full(len(column), np.nan)
        expected = "but integers are expected, or dataset.source.values"
    wrong = (values != np.round(values)) | ~(abs(values) < 2**31)
    if wrong.any():
        found = sorted(set(texts_of(column[wrong])))
        listed = ", ".join(found[:SHOWN]) + ", ..." * (len(found) > SHOWN)
        raise InputError(
            f"{path}: the attribute {name} holds {listed}, {expected}. Give each a mask value, as in {{{found[0]}: 1}}"
        )
    return values.astype(np.int32)


def texts_of(column: Any) -> list[str]:
    """The values of an attribute as they are written in a config."""
    return [text_of(None if lacks else value) for value, lacks in zip(column, column.isna(), strict=True)]


def chosen_layer(path: Path, layer: str | None) -> str:
    """The layer of a vector file to read, the named one or the only one; a format that does not fit the ending is refused.

    GDAL detects formats by content, and some formats (OGR VRT, WFS, GDALG) read other files or servers.
    """
    with path.open("rb") as file:
        start = file.read(1 << 16).removeprefix(codecs.BOM_UTF8).lstrip()
    if not start.startswith(FIRST_BYTES[path.suffix.lower()]) or b"gdal_streamed_alg" in start:
        raise InputError(f"{path} can't be read as a vector file: it is no {path.suffix} file; write it in that format")
    import geopandas  # with pandas it takes 70 MB, which only readers of vectors need

    layers = geopandas.list_layers(path)
    shaped = layers["geometry_type"].notna()  # QGIS keeps the styles of layers in one without geometries
    names = [str(name) for name in layers["name"][shaped if shaped.any() else ~shaped]]
    if layer not in names and (layer is not None or len(names) > 1):
        found = "none is chosen" if layer is None else f"dataset.source.layer={layer}{nearest(layer, names)}"
        raise InputError(
            f"{path} has the layers {', '.join(names)}, and {found}: set dataset.source.layer={names[0]}, for example"
        )
    return layer or names[0]


@lru_cache(maxsize=8)
def _read(mask: Mask, key: object) -> Features:  # noqa: ARG001
    """All features of a vector file, in its own CRS."""
    import geopandas

    path = mask.path
    try:
        frame = geopandas.read_file(path, layer=chosen_layer(path, mask.layer))
    except InputError:
        raise
    except Exception as error:  # pyogrio's, GDAL's and shapely's errors over damaged files have no common type
        raise InputError(f"{path} can't be read as a vector file: {error}. Is it complete?") from None
    if not isinstance(frame, geopandas.GeoDataFrame):
        raise InputError(f"{path} has no geometries, attributes only: is it the right file?")
    values, shapes = _mask_values(frame, mask), frame.geometry
    if shapes.crs is None:
        raise InputError(f"{path} has no CRS, so its place in the image is unknown: write it with one (a Shapefile: with .prj)")
    kept = (~(shapes.isna() | shapes.is_empty)).to_numpy()
    shapes = shapes[kept].reset_index(drop=True)
    check_degrees(shapes, path)
    return shapes, values[kept]


def check_degrees(shapes: Any, path: Path) -> None:
    """Refuse coordinates that are too large for their CRS, as of a GeoJSON in metres that names no CRS.

    Raises:
        InputError: If they are.
    """
    west, south, east, north = shapes.total_bounds if len(shapes) else (0, 0, 0, 0)
    if (shapes.crs.is_geographic and max(abs(west), abs(east)) > 400) or max(abs(south), abs(north)) > 1e9:
        raise InputError(
            f"{path} has coordinates such as {east:.6g}, {north:.6g}, which are no degrees, but its CRS is "
            f"{brief_crs(shapes.crs)}, the default of a GeoJSON that names none: write it with its own CRS, best as GeoPackage"
        )


@lru_cache(maxsize=8)
def _near(mask: Mask, image: Path, key: object) -> Features:  # noqa: ARG001
    """The features near an image, in its CRS."""
    path = mask.path
    shapes, values = _read(mask, version(path))
    grid = open_raster(image)
    if not len(shapes) or (shapes.crs == grid.crs and not mask.buffer):
        return shapes, values
    west, south, east, north = area_in(grid, shapes.crs, path)
    width, height = east - west if west <= east else 360 - west + east, north - south
    spans = [(west - width, east + width)] if west <= east else [(west - width, 180.0), (-180.0, east + width)]
    around = unary_union([box(left, south - height, right, north + height) for left, right in spans])
    place = np.sort(shapes.sindex.query(around, predicate="intersects"))
    shapes, values = shapes.iloc[place].reset_index(drop=True), values[place]
    far = (~shapes.within(around)).to_numpy()
    if far.any():
        cut = shapes[far].make_valid().intersection(around)
        shapes[far] = cut.segmentize(max(width, height) / 64)  # straight lines in one CRS are curves in another
    try:
        if mask.buffer and len(shapes):
            shapes = shapes.to_crs(shapes.estimate_utm_crs()).buffer(mask.buffer)
        shapes = shapes.to_crs(grid.crs)
    except (CRSError, ProjError) as error:
        raise InputError(f"{path} can't be brought from {brief_crs(shapes.crs)} into its image's CRS: {error}") from None
    kept = (~shapes.is_empty).to_numpy()
    return shapes[kept].reset_index(drop=True), values[kept]


def read_features(mask: Mask, image: Path) -> Features:
    """The geometries of a vector file in an image's CRS (a GeoSeries), and the mask value of each."""
    if not located(open_raster(image)):
        raise InputError(f"{image} has no coordinates (CRS), so the features of {mask.path} have no place in it")
    return _near(mask, image, (version(mask.path), version(image)))


def features_gap(mask: Mask, image: Path) -> str:
    """Why the features of a vector file lie outside of an image; empty: they do not, or there are none."""
    shapes, _ = _read(mask, version(mask.path))
    return describe_gap(mask.path, shapes.crs, shapes.total_bounds, open_raster(image)) if len(shapes) else ""


def has_features(mask: Mask, image: Path) -> bool:
    """Whether a feature of a vector file lies in an image."""
    grid = open_raster(image)
    return bool(len(read_features(mask, image)[0].sindex.query(box(*array_bounds(*grid.shape, grid.transform)))))


def rasterise(mask: Mask, window: Window, image: Path) -> NDArray[np.int32]:
    """The mask values in a window of an image: int32 ``[h, w]``.

    A pixel belongs to the polygon that contains its centre; if several do, to the last one in the file. Lines and points cover
    the pixels that they touch.
    """
    shapes, values = read_features(mask, image)
    shape = int(window.height), int(window.width)
    transform = open_raster(image).window_transform(window)
    near = np.sort(shapes.sindex.query(box(*array_bounds(*shape, transform))))
    if not len(near):
        return np.zeros(shape, dtype=np.int32)
    pairs = zip(shapes.iloc[near], values[near].tolist(), strict=True)
    return rasterize(pairs, out_shape=shape, transform=transform, dtype="int32")
