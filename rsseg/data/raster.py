"""Raster files: open handles, the pixels of a window, and missing pixels."""

from __future__ import annotations

import atexit
import logging
import os
import re
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from rasterio.dtypes import in_dtype_range
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from rsseg.contract import InputError, first_line
from rsseg.data.grids import GDAL_ERRORS, describe_gap, located, same_grid
from rsseg.files import atomic_write

GDAL = {
    "GDAL_CACHEMAX": 128,  # MB of decoded blocks a process keeps; GDAL's own default is 5 % of the machine's memory
    "GDAL_VRT_ENABLE_PYTHON": "NO",  # functions in a VRT are never run
    "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO",  # it reads a truncated file without an error, as any pixels
}

ORIENTATION = 0x0112  # the tag of EXIF and TIFF

FORMATS = (
    "GTiff", "PNG", "JPEG", "JP2OpenJPEG", "HFA", "BMP", "GIF", "WEBP", "ENVI", "EHdr", "AAIGrid", "SRTMHGT", "DTED", "NITF",
    "PCIDSK", "SAGA", "USGSDEM",
)  # fmt: skip
"""GDAL's names of the formats of files with any ending. Formats that read other files need their own ending."""

NAMED_FORMATS = {".vrt": ("VRT",), ".ers": ("ERS",)}
"""The formats that read other files, by the ending of their names."""

NAMING = ("ERS", "HFA", "PCIDSK")
"""Formats whose files may name others by any path."""

PILLOW = ("JPEG", "PNG", "WEBP")
"""The formats that Pillow reads. Of its others, EPS starts a program."""

# Files without georeference are allowed. The filter is global, since threads would undo each other's temporary filters.
warnings.simplefilter("ignore", NotGeoreferencedWarning)
logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # its errors come as exceptions too
Image.MAX_IMAGE_PIXELS = None  # Pillow takes a mosaic of 90 megapixels for an attack


@contextmanager
def new_raster(path: Path, sync: bool = True, **form: Any) -> Iterator[Any]:
    """Context manager that writes a GeoTIFF atomically (see `atomic_write`); `form` goes to `rasterio.open`."""
    with atomic_write(path, sync) as part:
        with rasterio.Env(**GDAL), rasterio.open(part, "w", driver="GTiff", **form) as raster:
            yield raster
        check_whole(part)


def check_whole(path: Path) -> None:
    """Check that all blocks of a TIFF are there: GDAL does not report a full disk when it closes a file."""
    with rasterio.open(path) as raster:
        for (row, column), _ in raster.block_windows(1):
            offset, size = (raster.get_tag_item(f"BLOCK_{what}_{column}_{row}", "TIFF", bidx=1) for what in ("OFFSET", "SIZE"))
            if not offset or not size or int(offset) + int(size) > path.stat().st_size:
                raise OSError("a part of it is missing")


def version(path: Path) -> tuple[int, int]:
    """Size in bytes and modification time in ns of a file, which tell its versions apart."""
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns


@dataclass(frozen=True)
class Raster:
    """A raster file, read on its own grid or warped to the grid of another file.

    Attributes:
        path: The file.
        onto: The file whose grid it is read on; None: its own.
        average: Whether a warp interpolates bilinearly, as for images, or takes the nearest pixel, as for masks.
        untagged: The no-data value if the file states none; None: all its pixels are valid.
    """

    path: Path
    onto: Path | None = None
    average: bool = False
    untagged: float | None = None

    @property
    def opened(self) -> Any:
        """The open rasterio dataset, cached per process and thread."""
        try:
            # neither forks nor threads share handles, nor do versions of a file
            return _open(self, (os.getpid(), threading.get_ident(), version(self.path)))
        except (*GDAL_ERRORS, OSError) as error:
            fault = str(error).rstrip(".")
            raise InputError(f"{self.path} can't be opened as an image: {fault}. Is the file complete?") from None

    @property
    def nodata(self) -> float | None:
        """The no-data value of the pixels that are read; None: there is none."""
        raster = open_raster(self.path)
        return self.untagged if raster.nodata is None else _black_is_zero(raster, raster.nodata)

    @property
    def left_out(self) -> float | None:
        """The value that a warp leaves out of its interpolation; None: none."""
        raster, nodata = open_raster(self.path), self.nodata
        masked = raster.nodata is None and raster.mask_flag_enums[0] != [MaskFlags.all_valid]
        if not self.average or nodata is None or masked or not in_dtype_range(nodata, raster.dtypes[0]):
            return None
        return float(_black_is_zero(raster, nodata))

    def warp(self, **how: Any) -> WarpedVRT:
        """The file on another grid, as rasterio's `WarpedVRT` takes it."""
        raster, nodata = open_raster(self.path), self.left_out
        if self.average and is_coloured(raster):
            raise InputError(
                f"{self.path} holds the numbers of colours in a palette, which can't be averaged on another grid: write its "
                "colours as bands (gdal_translate -expand rgb)"
            )
        return WarpedVRT(raster, src_nodata=nodata, nodata=nodata, **how)

    def is_warped(self, bands: Sequence[int]) -> bool:
        """Whether the file is warped; an alpha band of a warped file is refused."""
        if not isinstance(self.opened, WarpedVRT):
            return False
        alpha = alpha_band(open_raster(self.path))
        if alpha in bands:
            raise InputError(
                f"band {alpha} of {self.path} is marked as alpha, so a warp to the grid of {self.onto} loses it: leave "
                f"it out of the bands, or mark it as one like others (gdal_edit.py -colorinterp_{alpha} undefined)"
            )
        return True

    def read(self, bands: Sequence[int], window: Window, palette: bool = False) -> NDArray[np.generic]:
        """Pixels ``[bands, h, w]`` of a window in the file's dtype; black is 0, even if the file stores white as 0.

        Bands are counted from 1. With `palette`, a file with a palette has uint8 red, green and blue bands instead of indices.
        """
        raster, whole, places = self.opened, open_raster(self.path), [band - 1 for band in bands]
        with reading(self.path):
            if raster.driver == "JPEG":  # as torchgeo and torchvision do: GDAL upsamples its colours in another way
                return _decode_jpeg(self.path, version(self.path))[places, *window.toslices()]
            if palette and has_palette(whole):
                colours = np.zeros((np.iinfo(whole.dtypes[0]).max + 1, 3), dtype=np.uint8)
                for number, colour in whole.colormap(1).items():
                    colours[number] = colour[:3]
                return colours[raster.read(1, window=window)].transpose(2, 0, 1)[places]
            return np.asarray(_black_is_zero(whole, raster.read(indexes=bands, window=window)))

    def read_colours(self, window: Window) -> NDArray[Any]:
        """Red, green and blue ``[3, h, w]`` of a window, from bands, a palette or grey values, also of 1 bit."""
        raster = open_raster(self.path)
        if has_palette(raster):
            return self.read([1, 2, 3], window, palette=True)
        pixels: NDArray[Any] = self.read([1, 2, 3] if raster.count >= 3 else [1], window)
        if bits_of(raster) < 8:  # then 1 may be white
            pixels = pixels * np.uint8(255 // (2 ** bits_of(raster) - 1))
        return np.resize(pixels, (3, *pixels.shape[1:]))

    def hidden(self, bands: Sequence[int], window: Window) -> NDArray[np.bool_]:
        """Bool ``[h, w]``, true where an alpha or mask band hides pixels, and beyond the edge of a warped file."""
        raster = self.opened
        alpha = alpha_band(raster)
        if alpha and alpha not in bands:
            return np.asarray(self.read([alpha], window)[0] == 0)
        if alpha or MaskFlags.per_dataset not in raster.mask_flag_enums[0]:
            return np.zeros((int(window.height), int(window.width)), dtype=bool)
        with reading(self.path):
            return np.asarray(raster.read_masks(1, window=window) == 0)


@lru_cache(maxsize=128)
def _open(file: Raster, key: object) -> Any:  # noqa: ARG001
    path = file.path
    if file.onto is not None:
        return _on_grid(file, file.onto)
    if path.suffix.lower() == ".vrt":
        check_parts(path)
    with rasterio.Env(**GDAL):
        raster = DatasetReader(str(path), driver=list(NAMED_FORMATS.get(path.suffix.lower(), FORMATS)))
    if raster.driver in NAMING:
        folder = os.path.abspath(path.parent)
        far = [name for name in raster.files if os.path.dirname(os.path.abspath(name)) != folder]
        if far:
            raise InputError(f"{path} reads {far[0]}, which is not beside it: write it as a GeoTIFF")
    return raster


def _on_grid(file: Raster, onto: Path) -> Any:
    """A file's open dataset, warped if it does not lie on the grid of another one."""
    path, raster, grid = file.path, open_raster(file.path), open_raster(onto)
    if same_grid(raster, grid):
        return raster
    bare = [str(p) for p, r in ((path, raster), (onto, grid)) if not located(r)]
    if bare:
        raise InputError(
            f"{path} is {raster.width} x {raster.height} pixels, but {onto} is {grid.width} x {grid.height}: a scene's files "
            f"must lie on one pixel grid, or all have coordinates, to be warped to it; these have none: {', '.join(bare)}"
            + f". Viewers turn {onto.name}: write it turned (mogrify -auto-orient)"
            * is_turned(onto)
        )
    if gap := describe_gap(path, raster.crs, raster.bounds, grid):
        raise InputError(gap)
    grid_of = {"crs": grid.crs, "transform": grid.transform, "width": grid.width, "height": grid.height}
    outside = {} if alpha_band(raster) or file.left_out is not None else {"add_alpha": True}
    return file.warp(resampling=Resampling.bilinear if file.average else Resampling.nearest, **outside, **grid_of)


def close_rasters() -> None:
    """Close the files that are kept open for further reads, so that removing them frees their space, and works on Windows."""
    _open.cache_clear()


atexit.register(close_rasters)  # files still open when the interpreter exits cause errors of sys.excepthook (Python 3.12)


def open_raster(path: Path) -> Any:
    """The open rasterio dataset of a file, see `Raster.opened`."""
    return Raster(path).opened


def check_parts(path: Path, root: Path | None = None) -> None:
    """Refuse a VRT that runs Python or reads, itself or through other VRTs, anything but local files, below `root` if given."""
    todo = [path]
    for vrt in todo:
        try:
            nodes = list(ElementTree.parse(vrt).iter())
        except (OSError, ElementTree.ParseError) as error:
            raise InputError(f"{vrt} can't be opened as an image: {str(error).rstrip('.')}. Is the file complete?") from None
        for node in nodes:
            tag, attributes = node.tag.lower(), {key.lower(): value for key, value in node.items()}  # as GDAL reads them
            if tag == "pixelfunctionlanguage" and str(node.text).strip().lower() == "python":
                raise InputError(f"{vrt} holds a function in Python, which is not run: write its result as a GeoTIFF")
            if tag not in ("sourcefilename", "sourcedataset") and "filename" not in attributes.get("name", "").lower():
                continue
            name = str(node.text).strip()
            part = vrt.parent / name if attributes.get("relativetovrt") == "1" else Path(name)
            if name.startswith("/vsi") or not part.is_file():
                raise InputError(f"{vrt} reads {name}, which is no file here: copy what it reads, and write the VRT again")
            if root and not any(Path(real(part)).is_relative_to(real(root)) for real in (os.path.abspath, os.path.realpath)):
                raise InputError(f"{vrt} reads {part}, which is not below {root}: write a VRT that reads files there alone")
            if part.suffix.lower() == ".vrt" and part not in todo:
                todo.append(part)


def georeference(path: Path) -> dict[str, Any]:
    """The georeference of a raster, as `new_raster` takes it: transform and CRS, or else GCPs, or RPCs; else empty."""
    raster = open_raster(path)
    gcps, crs_of_gcps = raster.gcps
    if not raster.transform.is_identity:  # a world file gives no CRS
        return {"crs": raster.crs, "transform": raster.transform}
    if gcps:
        return {"gcps": gcps, "crs": crs_of_gcps}
    return {"rpcs": raster.rpcs} if raster.rpcs is not None else {}


def is_turned(path: Path) -> bool:
    """Whether EXIF data or a TIFF tag makes viewers turn a picture; rsseg reads pixels as they are stored."""
    driver = open_raster(path).driver
    if driver == "GTiff":  # GDAL does not expose the tag
        with reading(path), path.open("rb") as file:
            start = file.read(8)
            tags = ImageFileDirectory_v2(start + file.read(8) if 43 in start[2:4] else start)  # 43: a BigTIFF
            file.seek(tags.next)
            tags.load(file)
            return int(tags.get(ORIENTATION, 1)) != 1
    if driver not in PILLOW:
        return False
    with reading(path), Image.open(path, formats=PILLOW) as image:
        # the first test is for speed: getexif decodes a whole PNG that announces no EXIF data
        return "exif" in image.info and int(image.getexif().get(ORIENTATION, 1)) != 1


def alpha_band(raster: Any) -> int:
    """The number of a raster's alpha band, counted from 1; 0 if it has none."""
    return next((i for i, kind in enumerate(raster.colorinterp, start=1) if kind == ColorInterp.alpha), 0)


def has_palette(raster: Any) -> bool:
    """Whether a raster's pixels are the numbers of colours in a palette."""
    return bool(raster.count == 1 and raster.colorinterp[0] == ColorInterp.palette)


def is_coloured(raster: Any) -> bool:
    """Whether pixels are palette indices to expand to RGB. 1-bit palettes are not: they only say which value is black."""
    return has_palette(raster) and bits_of(raster) > 1


def band_count(path: Path) -> int:
    """The number of an image's bands; three where a palette holds its colours."""
    raster = open_raster(path)
    return 3 if is_coloured(raster) else int(raster.count)


COLOURS = (("red", "b04", "b4"), ("green", "b03", "b3"), ("blue", "b02", "b2"))
"""The names of red, green and blue bands: words, and those of Sentinel-2 and of Landsat 8 and 9."""

OTHERS = {"edge", "infra", "coastal"}
"""Words in names of bands that are not in `COLOURS`: red edge, infra-red, coastal blue."""


def band_names(path: Path) -> dict[int, str]:
    """Band names by number, without alpha; a band without a name has its colour, a palette has red, green and blue."""
    raster = open_raster(path)
    kinds = ["" if kind in (ColorInterp.gray, ColorInterp.undefined) else kind.name for kind in raster.colorinterp]
    names = [name or kind for name, kind in zip(raster.descriptions, kinds, strict=True)]
    named = enumerate(["red", "green", "blue"] if is_coloured(raster) else names, start=1)
    return {band: name for band, name in named if band != alpha_band(raster)}


def colour_bands(names: Mapping[int, str]) -> list[int] | None:
    """The numbers of the red, green and blue bands, from band names by number; None if the names do not tell.

    Example:
        >>> colour_bands({1: "B02", 2: "B03", 3: "B04", 4: "B08"}), colour_bands({1: "red edge", 2: "green", 3: "blue"})
        ([3, 2, 1], None)
    """
    words = {band: set(re.findall("[a-z0-9]+", name.lower())) for band, name in names.items()}
    found = [next((band for band, own in words.items() if own & {*colour} and not own & OTHERS), 0) for colour in COLOURS]
    return found if all(found) else None


def bits_of(raster: Any) -> int:
    """The bits of a pixel of the first band."""
    return int(raster.tags(1, ns="IMAGE_STRUCTURE").get("NBITS") or 8 * np.dtype(raster.dtypes[0]).itemsize)


def _black_is_zero(raster: Any, values: Any) -> Any:
    """Invert the values of a TIFF that stores white as 0 (MINISWHITE), so that black is 0; or back."""
    inverted = raster.driver == "GTiff" and raster.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES"
    return 2 ** bits_of(raster) - 1 - values if inverted else values


@lru_cache(maxsize=2)  # a JPEG can only be decoded from its top: its next windows take it from here
def _decode_jpeg(path: Path, version: tuple[int, int]) -> NDArray[np.uint8]:  # noqa: ARG001
    with Image.open(path, formats=PILLOW) as image:
        pixels = np.asarray(image.convert("RGB") if image.mode == "CMYK" else image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn any error of reading a file into one `InputError`."""
    try:
        with rasterio.Env(**GDAL):
            yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # GDAL's errors, and whatever Pillow raises over damaged files
        raise InputError(
            f"{path} can't be read ({first_line(error.__cause__ or error)}): the file is truncated or damaged, fetch or write "
            "it again"
        ) from None


def find_damage(path: Path) -> str:
    """Why a raster's header or last pixel can't be read; empty: they can."""
    try:
        with rasterio.Env(**GDAL), DatasetReader(str(path), driver=list(FORMATS)) as raster:
            raster.read(1, window=Window(raster.width - 1, raster.height - 1, 1, 1))
    except GDAL_ERRORS as error:
        return str(error.__cause__ or error)
    return ""


def as_pixel(values: NDArray[np.floating], dtype: np.dtype[Any]) -> NDArray[np.generic]:
    """Numbers in a pixel's dtype, rounded and clipped to its range."""
    if np.issubdtype(dtype, np.integer):
        values = np.rint(values).clip(np.iinfo(dtype).min, np.iinfo(dtype).max)
    return values.astype(dtype)


def find_missing(image: NDArray[np.generic], nodata: float | None) -> NDArray[np.bool_]:
    """Bool ``[h, w]``, true where an image ``[C, h, w]`` has no data: NaN or infinity in a band, or the no-data value.

    All bands have to hold the no-data value; if it is negative or the image is floating point, one band is enough.
    """
    missing = np.zeros(image.shape[1:], dtype=bool)
    if nodata is not None and not np.isnan(nodata):
        unreal = nodata < 0 or np.issubdtype(image.dtype, np.floating)
        missing |= (image == nodata).any(axis=0) if unreal else (image == nodata).all(axis=0)
    if np.issubdtype(image.dtype, np.floating):
        missing |= ~np.isfinite(image).all(axis=0)
    return missing
