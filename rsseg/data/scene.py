"""Scenes on disk, read window by window."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from rsseg.contract import IGNORE, InputError, TaskKind
from rsseg.data.labels import Labels

GDAL = {"GDAL_CACHEMAX": 128}  # MB of decoded blocks a process keeps; GDAL's own default is 5 % of the machine's memory

JPEG = frozenset({".jpg", ".jpeg"})
"""Decoded by Pillow, as torchgeo and torchvision do: GDAL upsamples the colours of such files in another way."""


@dataclass(frozen=True)
class Scene:
    """One image and, where it is labelled, its mask on the same grid."""

    name: str
    image: Path
    mask: Path | None

    @property
    def signature(self) -> list[tuple[str, int, int]]:
        """What its pixels depend on, path, size and time of every file: part of cache keys.

        Raises:
            InputError: If a file is not there.
        """
        try:
            return [(os.path.abspath(path), *version(path)) for path in (self.image, self.mask) if path is not None]
        except OSError as error:
            raise InputError(f"{error.filename} can't be read: {error.strerror}") from None


def version(path: Path) -> tuple[int, int]:
    """Size and time of a file: another version, another pair."""
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=64)
def _open(path: Path, *key: object) -> Any:  # noqa: ARG001 - threads share no handle, versions of a file neither
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # plain JPEG and PNG are welcome
        return rasterio.open(path)


def open_raster(path: Path) -> Any:
    """The open rasterio dataset of a file, cached per process and thread.

    Raises:
        InputError: If the file can't be opened as a raster.
    """
    try:
        return _open(path, version(path), os.getpid(), threading.get_ident())
    except (RasterioError, OSError) as error:
        raise InputError(f"{path} can't be opened as an image: {error}. Is the file complete?") from None


@lru_cache(maxsize=2)  # a JPEG can only be decoded from its top: its next windows take it from here
def _decode_jpeg(path: Path, *key: object) -> NDArray[np.uint8]:  # noqa: ARG001
    with Image.open(path) as image:
        pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def read_bands(path: Path, bands: Sequence[int], window: Window) -> NDArray[np.generic]:
    """Pixels ``[bands, h, w]`` of a part of a file, in the file's dtype.

    Raises:
        InputError: If the pixels can't be decoded, as in a truncated file.
    """
    try:
        if path.suffix.lower() in JPEG:
            rows, columns = window.toslices()
            return _decode_jpeg(path, version(path))[[band - 1 for band in bands], rows, columns]
        with rasterio.Env(**GDAL):
            pixels: NDArray[np.generic] = open_raster(path).read(indexes=bands, window=window)
    except (RasterioError, UnidentifiedImageError, OSError) as error:
        raise InputError(
            f"{path} can't be read ({error.__cause__ or error}): the file is truncated or damaged, fetch or write it again"
        ) from None
    return pixels


class SceneReader:
    """Windows of a list of scenes as arrays.

    Args:
        scenes: The scenes of one split.
        labels: How their masks are decoded.
        bands: The image bands to read, counted from 1.

    Attributes:
        sizes: int64 ``[S, 2]``, height and width of each scene.
        dtype: What pixels are read as: the common type of all scenes' files.
        fill: Per band, what stands where there is no image; set it to the bands' means, so that it normalises to 0.

    Raises:
        InputError: If files can't be opened, sizes or band counts don't fit; the first five faults are listed together.
    """

    def __init__(self, scenes: Sequence[Scene], labels: Labels, bands: Sequence[int]) -> None:
        self.scenes, self.labels, self.bands = list(scenes), labels, list(bands)
        faults: list[str] = []
        sizes = []
        for scene in self.scenes:
            try:
                sizes.append(self._check(scene))
            except InputError as error:
                faults.append(str(error))
        raise_together(faults)
        self.dtype = np.result_type(*(d for scene in self.scenes for d in open_raster(scene.image).dtypes))
        self.fill: NDArray[np.floating] = np.zeros(len(self.bands))
        self.sizes: NDArray[np.int64] = np.array(sizes, dtype=np.int64).reshape(-1, 2)

    def _check(self, scene: Scene) -> tuple[int, int]:
        image = open_raster(scene.image)
        height, width = image.height, image.width
        if max(self.bands) > image.count:
            raise InputError(
                f"{scene.image} has {image.count} bands, but dataset.bands={self.bands}: list bands from 1 to {image.count}"
            )
        read_bands(scene.image, self.bands, Window(width - 1, height - 1, 1, 1))  # where a truncated file ends early
        if scene.mask is None:
            return height, width
        mask = open_raster(scene.mask)
        if (mask.height, mask.width) != (height, width):
            raise InputError(
                f"{scene.image} is {width} x {height} pixels but its mask {scene.mask} is {mask.width} x {mask.height}: "
                "image and mask must lie on the same grid"
            )
        needed = self.labels.mask_bands
        if needed > mask.count or (self.labels.colours and mask.count < 3):
            kind = "colours" if self.labels.colours else f"a {self.labels.head.task} task"
            raise InputError(f"{scene.mask} has {mask.count} bands, but {kind} need {needed}")
        return height, width

    def __len__(self) -> int:
        return len(self.scenes)

    def read_mask(self, scene: int, window: Window) -> NDArray[np.uint8]:
        """Labels of a part of a scene that lies inside it: uint8 ``[h, w]`` or ``[L, h, w]``.

        Raises:
            InputError: If the mask is damaged or holds an unknown value; the file is named.
        """
        path = self.scenes[scene].mask
        if path is None:
            shape = (int(window.height), int(window.width))
            planes = (self.labels.head.channels,) if self.labels.head.task is TaskKind.multilabel else ()
            return np.full((*planes, *shape), IGNORE, dtype=np.uint8)
        bands = list(range(1, self.labels.mask_bands + 1))
        try:
            return self.labels.decode(read_bands(path, bands, window))
        except InputError as error:
            raise error if str(path) in str(error) else InputError(f"{path}: {error}") from None

    def block(self, scene: int) -> tuple[int, int]:
        """Height and width of what is decoded at once: to read a part of it costs as much as the whole."""
        path = self.scenes[scene].image
        if path.suffix.lower() in JPEG:
            return int(self.sizes[scene, 0]), int(self.sizes[scene, 1])
        height, width = open_raster(path).block_shapes[0]
        return int(height), int(width)

    def read_pixels(self, scene: int, window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """A part of the image that lies inside the scene.

        Returns:
            The image ``[C, h, w]`` in its own dtype, 0 at no-data and NaN, and bool ``[h, w]``, true there.
        """
        path = self.scenes[scene].image
        return blank_missing(read_bands(path, self.bands, window), open_raster(path).nodata)

    def read_labels(self, scene: int, window: Window) -> NDArray[np.uint8]:
        """As `read_mask`, but `IGNORE` where the image has no data."""
        mask, path = self.read_mask(scene, window), self.scenes[scene].image
        image = open_raster(path)
        if image.nodata is None and not any(np.issubdtype(np.dtype(d), np.floating) for d in image.dtypes):
            return mask  # every pixel is one: no need to read them
        return np.where(self.read_pixels(scene, window)[1], np.uint8(IGNORE), mask)

    def read_image(self, scene: int, top: int, left: int, size: int) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """A square window of the image, `fill` where there is none: beyond the scene, at no-data and at NaN.

        Args:
            scene: The scene's number.
            top: The window's first row.
            left: The window's first column.
            size: The window's side in pixels.

        Returns:
            The image ``[C, size, size]`` in `dtype`, and bool ``[size, size]``, true where there is none.
        """
        window = self._inside(scene, top, left, size)
        image, missing = self.read_pixels(scene, window)
        pad = _padding(window, size)
        image, missing = np.pad(image, ((0, 0), *pad)), np.pad(missing, pad, constant_values=True)
        if missing.any():
            image = np.where(missing, self.fill.astype(image.dtype)[:, None, None], image)
        return image.astype(self.dtype, copy=False), missing

    def read(self, scene: int, top: int, left: int, size: int) -> tuple[NDArray[np.generic], NDArray[np.uint8]]:
        """A square window of image and mask; the mask is `IGNORE` where there is no image.

        Returns:
            The image ``[C, size, size]`` in `dtype` and the mask uint8 ``[size, size]`` or ``[L, size, size]``.
        """
        image, missing = self.read_image(scene, top, left, size)
        window = self._inside(scene, top, left, size)
        mask = self.read_mask(scene, window)
        mask = np.pad(mask, (*[(0, 0)] * (mask.ndim - 2), *_padding(window, size)))
        return image, np.where(missing, np.uint8(IGNORE), mask)

    def _inside(self, scene: int, top: int, left: int, size: int) -> Window:
        height, width = self.sizes[scene].tolist()
        return Window(left, top, min(size, width - left), min(size, height - top))


def raise_together(faults: Sequence[str]) -> None:
    """Report the first five faults of files together.

    Raises:
        InputError: If there are any.
    """
    if len(faults) > 1:
        more = f"\n  ... and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise InputError("Files that can't be used:\n" + "\n".join(f"  - {f}" for f in faults[:5]) + more)
    if faults:
        raise InputError(faults[0])


def _padding(window: Window, size: int) -> tuple[tuple[int, int], tuple[int, int]]:
    return (0, size - window.height), (0, size - window.width)


def blank_missing(image: NDArray[np.generic], nodata: float | None) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
    """Set no-data and NaN to 0 and say where they were.

    Args:
        image: ``[C, h, w]``.
        nodata: The file's no-data value, if it has one; a pixel is missing where all bands hold it.

    Returns:
        The image without them, and bool ``[h, w]``.
    """
    missing = np.zeros(image.shape[1:], dtype=bool)
    if nodata is not None and not np.isnan(nodata):
        missing |= (image == nodata).all(axis=0)
    if np.issubdtype(image.dtype, np.floating):
        missing |= ~np.isfinite(image).all(axis=0)
    if missing.any():
        image = np.where(missing, np.zeros((), image.dtype), image)
    return image, missing
