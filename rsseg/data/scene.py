"""Scenes on disk, read window by window, whatever files they are made of."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window, transform

from rsseg.contract import InputError
from rsseg.data.burn import Burn
from rsseg.data.inspection import Facts, check_scene
from rsseg.data.mask_reader import MaskReader
from rsseg.data.masks import read_mask
from rsseg.data.raster import (
    JPEG,
    alpha_band,
    as_pixel,
    band_count,
    blank_missing,
    georeference,
    is_coloured,
    masked_out,
    nodata_of,
    open_raster,
    read_bands,
    version,
)

BESIDE = (".msk", ".aux.xml")
SIDE_FILES = {
    ".shp": (".dbf", ".shx", ".prj", ".cpg"),
    ".tif": (".tfw",),
    ".tiff": (".tfw",),
    ".png": (".pgw", ".wld"),
    ".jpg": (".jgw", ".wld"),
    ".jpeg": (".jgw", ".wld"),
    ".bmp": (".bpw", ".wld"),
    ".img": (".hdr",),
}
"""What stands beside a file under its name: attributes, headers, world files."""


@dataclass(frozen=True)
class Mask:
    """A file that holds a target: a raster, or a vector file; warped to the scene's grid if it lies on another.

    Attributes:
        path: The file.
        burn: How a vector file becomes pixels; None: it is a raster.
        threshold: Of a raster, the value above which a pixel is 1, and else 0; None: its values are taken as they are.
    """

    path: Path
    burn: Burn | None = None
    threshold: float | None = None


@dataclass(frozen=True)
class Scene:
    """An image, or a part of one, the masks where it is labelled, and what its pixels count for.

    Attributes:
        name: Unique in its dataset.
        image: The file whose pixel grid is the scene's; for messages, what a sample of torchgeo is called.
        masks: The files of the dataset's targets, in their order; None for one that the scene lacks.
        stack: Files whose bands follow those of `image`, in this order; warped to its grid if they lie on another.
        region: The part of the image that is the scene; None: all of it.
        weight: A raster of one band: what a pixel counts for in the loss; warped to the grid if it lies on another. None: 1.
        unlabelled: Classes that are not labelled in the scene, each as ``target/class``.
        group: The area that it lies in, such as a tile or a town: scenes of one are no independent sample. Empty: its own.
        nodata: What image files without a no-data value of their own hold where there is nothing.
    """

    name: str
    image: Path
    masks: tuple[Mask | None, ...] = ()
    stack: tuple[Path, ...] = ()
    region: Window | None = None
    weight: Path | None = None
    unlabelled: tuple[str, ...] = ()
    group: str = ""
    nodata: float | None = None

    def mask_of(self, place: int) -> Mask | None:
        """The file of the target at a place among the dataset's, if the scene has it."""
        return self.masks[place] if place < len(self.masks) else None

    @property
    def images(self) -> tuple[Path, ...]:
        """The image's files."""
        return (self.image, *self.stack)

    @property
    def files(self) -> list[Path]:
        """Every file that its pixels depend on: image, masks, weight, what stands beside them, what a VRT is made of."""
        masks = [mask.path for mask in self.masks if mask is not None]
        found, todo = list[Path](), [*self.images, *masks, *([] if self.weight is None else [self.weight])]
        for path in todo:
            beside = [path.with_suffix(end) for end in SIDE_FILES.get(path.suffix.lower(), ())]
            beside += [path.with_name(path.name + end) for end in BESIDE]
            parts = [Path(part) for part in open_raster(path).files] if path.suffix.lower() == ".vrt" else []
            todo += [part for part in parts if part not in todo]  # a VRT may be made of VRTs
            found += [path, *(part for part in beside if part.is_file())]
        return list(dict.fromkeys(found))

    def signature(self) -> tuple[object, ...]:
        """What its pixels depend on, path, size and time of every file among it: part of cache keys.

        Raises:
            InputError: If a file is not there.
        """
        try:
            files = [(os.path.abspath(path), *version(path)) for path in self.files]
        except OSError as error:
            raise InputError(f"{error.filename} can't be read: {error.strerror}") from None
        how = [(mask.burn, mask.threshold) if mask is not None else None for mask in self.masks]
        return files, self.region, how, self.weight is not None, self.unlabelled, self.nodata

    def check(self, mask_readers: Sequence[MaskReader], bands: Sequence[int]) -> Facts:
        """What its files turn out to be, see `check_scene`."""
        return check_scene(self, mask_readers, bands)

    def reader(self, mask_readers: Sequence[MaskReader], bands: Sequence[int], facts: Facts | None = None) -> SceneReader:
        """What reads its pixels, see `SceneReader`."""
        return SceneReader(self, mask_readers, bands, facts)

    def place(self) -> tuple[Any, Affine | None]:
        """Its CRS, and the transform from its pixels to the map; None of what is not known."""
        place = georeference(self.image)
        if "transform" not in place:
            return None, None
        whole = place["transform"]
        return place["crs"], whole if self.region is None else transform(self.region, whole)

    def counts(self) -> tuple[int, ...]:
        """The number of bands in each of the image's files."""
        return tuple(band_count(path) for path in self.images)

    def parts(self, bands: Sequence[int]) -> Iterator[tuple[Path, list[int], list[int]]]:
        """Where bands lie, counted from 1 through all files: per file their places in the list and the file's own numbers."""
        first = 0
        for path, count in zip(self.images, self.counts(), strict=True):
            places = [i for i, band in enumerate(bands) if first < band <= first + count]
            if places:
                yield path, places, [bands[i] - first for i in places]
            first += count

    def all_bands(self) -> list[int]:
        """The numbers of all bands but alpha bands."""
        kept, first = [], 0
        for path, count in zip(self.images, self.counts(), strict=True):
            alpha = alpha_band(open_raster(path))
            kept += [first + band for band in range(1, count + 1) if band != alpha]
            first += count
        return kept


class Source(ABC):
    """What `dataset.source` has to derive from: it lists the scenes and decides the split; it reads no pixels."""

    @abstractmethod
    def scenes(self, split: str) -> list[Scene]:
        """The scenes of train, val or test, in a fixed order."""


class SceneReader:
    """Windows of a scene as arrays.

    Rows and columns count from the corner of the scene's region, and nothing outside of it is read.

    Args:
        scene: The scene.
        mask_readers: How the masks of each target are decoded.
        bands: The image bands to read, counted from 1 through all files of the scene.
        facts: What `check_scene` found, if the scene is checked already.

    Attributes:
        facts: As given, or found.
        size: Height and width.
        dtype: What pixels are read as: the common type of the bands.
        fill: Per band, what stands where there is no image; set it to the bands' means, so that it normalises to about 0.

    Raises:
        InputError: If a file can't be opened, or sizes or band counts don't fit.
    """

    def __init__(
        self, scene: Scene, mask_readers: Sequence[MaskReader], bands: Sequence[int], facts: Facts | None = None
    ) -> None:
        self.scene, self.mask_readers, self.bands = scene, list(mask_readers), list(bands)
        self.facts = check_scene(scene, self.mask_readers, self.bands) if facts is None else facts
        self.size, self.dtype = self.facts.size, self.facts.dtype
        self.fill: NDArray[np.floating] = np.zeros(len(self.bands))

    def read_layers(self, window: Window) -> dict[str, NDArray[np.generic]]:
        """The layers of a part that lies inside the scene, by name: the targets and the weight that it has."""
        layers: dict[str, NDArray[np.generic]] = {}
        for place, mask_reader in enumerate(self.mask_readers):
            if self.scene.mask_of(place) is not None:
                layers[mask_reader.task.target] = self.read_mask(window, place)
        if self.scene.weight is not None:
            layers["weight"] = self._read_weight(self.scene.weight, window)
        return layers

    def read_mask(self, window: Window, place: int = 0) -> NDArray[np.generic]:
        """A target in a part that lies inside the scene, `Task.unknown` beyond a warped mask.

        Args:
            window: The part.
            place: That of the target among the dataset's.

        Returns:
            ``[*planes, h, w]`` in the task's dtype.

        Raises:
            InputError: If the mask is damaged or holds a value that can't be; the file is named.
        """
        mask_reader, mask = self.mask_readers[place], self.scene.mask_of(place)
        task = mask_reader.task
        if mask is None:
            return task.unknown_target((int(window.height), int(window.width)))
        try:
            target = self._read_target(mask, mask_reader, window)
        except InputError as error:
            raise error if str(mask.path) in str(error) else InputError(f"{mask.path}: {error}") from None
        for name in self.scene.unlabelled:
            of, _, label = name.partition("/")
            if of == task.target:
                target = task.without_label(target, label)
        return target

    def _read_target(self, mask: Mask, mask_reader: MaskReader, window: Window) -> NDArray[np.generic]:
        """What a mask's file says in a part of the scene, as `MaskReader.decode` gives it."""
        part, grid = self._place(window), self.scene.image
        if mask.burn is not None:
            return mask_reader.burn(mask.path, mask.burn, grid, part)
        return read_mask(mask.path, mask_reader, part, grid, mask.threshold)

    def _read_weight(self, path: Path, window: Window) -> NDArray[np.generic]:
        """The weight in a part that lies inside the scene, 0 where the file has no data: ``[h, w]`` in its own dtype.

        Raises:
            InputError: If the file is damaged, or a weight is negative or infinite; the file is named.
        """
        place, grid, nodata = self._place(window), self.scene.image, nodata_of(path)
        raw = read_bands(path, [1], place, grid)[0]
        absent = masked_out(path, [1], place, grid) | (raw != raw)
        if nodata is not None:
            absent |= raw == nodata
        wrong = raw[~absent & ((raw < 0) | ~np.isfinite(raw))]
        if len(wrong):
            raise InputError(
                f"{path}: {len(wrong)} pixels have a weight such as {wrong[0]:g}; weights are finite numbers of 0 or more: "
                "0, no-data and NaN leave a pixel out of the loss"
            )
        return np.where(absent, np.zeros((), raw.dtype), raw)

    def read_pixels(self, window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """The image in a part that lies inside the scene, 0 where it has no data.

        A pixel has no data where one of its files has none: its no-data value (see `blank_missing`), NaN or infinity, alpha 0,
        a mask band that says so, or nothing because it was warped and does not reach so far.

        Returns:
            The image ``[C, h, w]`` in `dtype`, and bool ``[h, w]``, true where there is none.

        Raises:
            InputError: If a file is damaged; it is named.
        """
        own, place = self.scene, self._place(window)
        shape = int(window.height), int(window.width)
        image, missing = np.empty((len(self.bands), *shape), dtype=self.dtype), np.zeros(shape, dtype=bool)
        for path, places, bands in own.parts(self.bands):
            coloured, nodata = is_coloured(open_raster(path)), nodata_of(path)
            pixels = read_bands(path, bands, place, own.image, bilinear=True, palette=coloured)
            nodata = own.nodata if nodata is None else nodata
            pixels, absent = blank_missing(pixels, None if coloured else nodata)  # it is the number of a colour
            missing |= absent | masked_out(path, bands, place, own.image, bilinear=True)
            image[places] = pixels
        if missing.any():
            image = np.where(missing, np.zeros((), self.dtype), image)
        return image, missing

    def block(self) -> tuple[int, int]:
        """Height and width of what is decoded at once: to read a part of it costs as much as the whole."""
        path = self.scene.image
        if path.suffix.lower() in JPEG:
            return self.size
        height, width = open_raster(path).block_shapes[0]
        return int(height), int(width)

    def read_image(self, top: int, left: int, size: int) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """A square window of the image, `fill` where there is none: beyond the scene, at no-data and at NaN.

        Args:
            top: The window's first row.
            left: The window's first column.
            size: The window's side in pixels.

        Returns:
            The image ``[C, size, size]`` in `dtype`, and bool ``[size, size]``, true where there is none.
        """
        height, width = min(size, self.size[0] - top), min(size, self.size[1] - left)
        image, missing = self.read_pixels(Window(left, top, width, height))
        pad = (0, size - height), (0, size - width)
        image, missing = np.pad(image, ((0, 0), *pad)), np.pad(missing, pad, constant_values=True)
        if missing.any():
            image = np.where(missing, as_pixel(self.fill, image.dtype)[:, None, None], image)
        return image, missing

    def _place(self, window: Window) -> Window:
        """Where a window of the scene lies in its files."""
        region = self.scene.region
        if region is None:
            return window
        return Window(window.col_off + region.col_off, window.row_off + region.row_off, window.width, window.height)
