"""Scenes: one or several image files with masks and weights, read window by window."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from affine import Affine
from numpy.typing import DTypeLike, NDArray
from rasterio.windows import Window, transform

from rsseg.contract import InputError, naming
from rsseg.data.labels import Weights
from rsseg.data.masks import Mask, MaskReader
from rsseg.data.raster import (
    Raster,
    alpha_band,
    as_pixel,
    band_count,
    band_names,
    find_missing,
    georeference,
    is_coloured,
    is_turned,
    open_raster,
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
"""The endings of side files, which have the name of another file: attributes, headers, world files."""


WEIGHTS = Weights()

WARPED = "Files on another grid than their scene, which are warped to it"
ALPHA = (
    "Images with an alpha band, which is not read: pixels are ignored where it is 0; if it is an ordinary band, list it in "
    "dataset.bands"
)
BARE = (
    "Images in which no feature of their vector labels lies: they are taken for background; if they are not digitised, leave "
    "them out: list the others in dataset.source.split, or move these out of the folder"
)
TURNED = (
    "Images that viewers turn, by EXIF data or a TIFF tag, but that are read as they are stored: masks drawn over turned "
    "pictures do not fit (mogrify -auto-orient writes them turned)"
)
"""Remarks on valid files that the user should know of."""


class SceneFacts(NamedTuple):
    """Size, dtype and other facts of a scene, read from its files."""

    size: tuple[int, int]  # height and width
    dtype: np.dtype[np.generic]  # the common type of the bands that are read
    counts: tuple[int, ...]  # the number of bands in each image file
    remarks: Sequence[tuple[str, Path]] = ()  # such as `WARPED`, and the file that it is about
    gaps: Mapping[Path, str] = {}  # per vector mask, why its features miss the image; empty: they do not


@dataclass(frozen=True)
class Scene:
    """An image, or a part of one, with its masks where it is labelled, and the weights of its pixels.

    Attributes:
        name: Unique in its dataset.
        image: The file whose pixel grid is the scene's; for a torchgeo sample, its name in messages.
        masks: The files of the dataset's targets, in their order; None for one that the scene lacks.
        stack: Files whose bands follow those of `image`, in this order; warped to its grid if they lie on another.
        region: The part of the image that is the scene; None: all of it.
        weight: A raster of one band: the weight of a pixel in the loss; warped to the grid if it lies on another. None: 1.
        unlabelled: Classes that are not labelled in the scene, each as ``target/class``.
        group: The scene's area, such as a tile or a town; scenes of one group are not independent. Empty: its own group.
        nodata: The no-data value of image files that state none.
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
        """The mask of the dataset's target number `place`, from 0; None if the scene has none."""
        return self.masks[place] if place < len(self.masks) else None

    @property
    def images(self) -> tuple[Path, ...]:
        """The image's files."""
        return (self.image, *self.stack)

    @property
    def files(self) -> list[Path]:
        """Every file that its pixels depend on: image, masks, weight, the files beside them, those of a VRT."""
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
        """Everything that the decoded pixels depend on, such as path, size and time of every file; part of cache keys."""
        try:
            files = [(os.path.abspath(path), *version(path)) for path in self.files]
        except OSError as error:
            raise InputError(f"{error.filename} can't be read: {error.strerror}") from None
        how = [None if mask is None else replace(mask, path=Path()) for mask in self.masks]
        return files, self.region, how, self.weight is not None, self.unlabelled, self.nodata

    def check(self, mask_readers: Sequence[MaskReader], bands: Sequence[int]) -> SceneFacts:
        """Open every file; refuse a scene whose files can't be read in these bands or decoded by these readers."""
        counts, dtypes = self.counts(), list[DTypeLike]()
        remarks, gaps = list[tuple[str, Path]](), dict[Path, str]()
        check_band_numbers(", ".join(map(str, self.images)), sum(counts), bands)
        for path, _, own in self.parts(bands):
            raster = open_raster(path)
            if raster.driver != "JPEG":  # those can only be decoded whole: a fault shows when they are
                corner = Window(raster.width - 1, raster.height - 1, 1, 1)  # where a truncated file ends early
                Raster(path).read(own, corner, palette=is_coloured(raster))
            dtypes += ["uint8"] if is_coloured(raster) else [raster.dtypes[band - 1] for band in own]
            if self.raster(path).is_warped(own):
                remarks.append((WARPED, path))
            if alpha_band(raster) and alpha_band(raster) not in own:
                remarks.append((ALPHA, path))
        remarks += [(TURNED, path) for path in self.images if is_turned(path)]
        layers = [*zip(self.masks, mask_readers, strict=False)]  # a scene to map has none
        if self.weight is not None:
            layers.append((Mask(self.weight), WEIGHTS))
        for mask, mask_reader in layers:
            if mask is None:
                continue
            with naming(mask.path, mask_reader.place):
                if mask_reader.check(mask, self.image):
                    remarks.append((WARPED, mask.path))
            if mask.vector:
                from rsseg.data.vector import features_gap, has_features

                gaps[mask.path] = features_gap(mask, self.image)
                if self.region is None and not has_features(mask, self.image):
                    remarks.append((BARE, self.image))
        size = open_raster(self.image).shape if self.region is None else (int(self.region.height), int(self.region.width))
        return SceneFacts(size, np.result_type(*dtypes), counts, remarks, gaps)

    def reader(self, mask_readers: Sequence[MaskReader], bands: Sequence[int], facts: SceneFacts | None = None) -> SceneReader:
        """The reader of its pixels, see `SceneReader`."""
        return SceneReader(self, mask_readers, bands, facts)

    def place(self) -> tuple[Any, Affine | None]:
        """The CRS, and the transform from pixels to map coordinates; None if unknown."""
        place = georeference(self.image)
        if "transform" not in place:
            return None, None
        whole = place["transform"]
        return place["crs"], whole if self.region is None else transform(self.region, whole)

    def raster(self, path: Path) -> Raster:
        """One of the image's files, read on the scene's pixel grid."""
        return Raster(path, self.image, average=True, untagged=self.nodata)

    def counts(self) -> tuple[int, ...]:
        """The number of bands in each of the image's files."""
        return tuple(map(band_count, self.images))

    def parts(self, bands: Sequence[int]) -> Iterator[tuple[Path, list[int], list[int]]]:
        """Per file with any of `bands` (from 1 through all files): path, indices in `bands`, and band numbers in the file."""
        first = 0
        for path, count in zip(self.images, self.counts(), strict=True):
            places = [i for i, band in enumerate(bands) if first < band <= first + count]
            if places:
                yield path, places, [bands[i] - first for i in places]
            first += count

    def named_bands(self) -> dict[int, str]:
        """Band names by number through all files, without alpha bands; an unnamed band has an empty name."""
        found, first = dict[int, str](), 0
        for path, count in zip(self.images, self.counts(), strict=True):
            found |= {first + band: name for band, name in band_names(path).items()}
            first += count
        return found


def check_band_numbers(image: str, count: int, bands: Sequence[int]) -> None:
    """Refuse band numbers above an image's band count."""
    if max(bands) > count:
        raise InputError(f"{image} has {count} bands, but dataset.bands={list(bands)}: list bands from 1 to {count}")


class Source(ABC):
    """The base of every `dataset.source`: it lists the scenes and decides the split; it reads no pixels.

    Attributes:
        fold: In cross-validation, the fold that validates, as in ``dataset.fold``; else None.
    """

    fold: str | None = None

    @abstractmethod
    def scenes(self, split: str) -> list[Scene]:
        """The scenes of train, val or test, in a fixed order."""


class SceneReader:
    """Reads windows of a scene as arrays. Windows are relative to the scene's region; nothing outside it is read.

    Args:
        scene: The scene.
        mask_readers: How the masks of each target are decoded.
        bands: The image bands to read, counted from 1 through all files of the scene, in their common type, `dtype`.
        facts: The result of `Scene.check`, if the scene is checked already.

    Attributes:
        fill: Per band, the value where there is no image; set it to the bands' means, so that it normalises to about 0.
    """

    def __init__(
        self, scene: Scene, mask_readers: Sequence[MaskReader], bands: Sequence[int], facts: SceneFacts | None = None
    ) -> None:
        self.scene, self.mask_readers, self.bands = scene, list(mask_readers), list(bands)
        self.facts = scene.check(self.mask_readers, self.bands) if facts is None else facts
        self.size, self.dtype = self.facts.size, self.facts.dtype
        self.fill: NDArray[np.floating] = np.zeros(len(self.bands))

    def read_layers(self, window: Window) -> dict[str, NDArray[np.generic]]:
        """The scene's targets and weight in a window inside it, by name."""
        layers = {}
        for place, mask_reader in enumerate(self.mask_readers):
            if self.scene.mask_of(place) is not None:
                layers[mask_reader.task.target] = self.read_mask(window, place)
        if self.scene.weight is not None:
            layers["weight"] = self._read(Mask(self.scene.weight), WEIGHTS, window)
        return layers

    def read_mask(self, window: Window, place: int = 0) -> NDArray[np.generic]:
        """The dataset's target number `place` in a window inside the scene: ``[*planes, h, w]`` in the task's dtype.

        Pixels beyond a warped mask are unknown. Errors about damaged masks and invalid values name the file.
        """
        mask_reader, mask = self.mask_readers[place], self.scene.mask_of(place)
        task = mask_reader.task
        if mask is None:
            return task.unknown_target((int(window.height), int(window.width)))
        target = self._read(mask, mask_reader, window)
        for name in self.scene.unlabelled:
            of, _, label = name.partition("/")
            if of == task.target:
                target = task.without_label(target, label)
        return target

    def _read(self, mask: Mask, mask_reader: MaskReader, window: Window) -> NDArray[np.generic]:
        """Read a part of the scene from a mask's file; errors name the file."""
        with naming(mask.path, mask_reader.place):
            return self._decode(mask, mask_reader, window)

    def _decode(self, mask: Mask, mask_reader: MaskReader, window: Window) -> NDArray[np.generic]:
        """Read as `_read` does; errors need not name the file."""
        return mask_reader.read(mask, self._place(window), self.scene.image)

    def read_pixels(self, window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """The image in a window inside the scene, 0 where it has no data.

        A pixel has no data if any file of the image has none: its no-data value (see `find_missing`), NaN, infinity, alpha 0, a
        mask band, or the area beyond a warped file.

        Returns:
            The image ``[C, h, w]`` in `dtype`, and bool ``[h, w]``, true where it has no data.
        """
        own, place = self.scene, self._place(window)
        shape = int(window.height), int(window.width)
        image, missing = np.empty((len(self.bands), *shape), dtype=self.dtype), np.zeros(shape, dtype=bool)
        for path, places, bands in own.parts(self.bands):
            raster, coloured = own.raster(path), is_coloured(open_raster(path))
            image[places] = pixels = raster.read(bands, place, palette=coloured)
            missing |= find_missing(pixels, None if coloured else raster.nodata)  # it is the number of a colour
            missing |= raster.hidden(bands, place)
        if missing.any():
            image = np.where(missing, np.zeros((), self.dtype), image)
        return image, missing

    def block(self) -> tuple[int, int]:
        """Height and width of the file's blocks: reading a part of a block costs as much as reading all of it."""
        raster = open_raster(self.scene.image)
        height, width = raster.shape if raster.driver == "JPEG" else raster.block_shapes[0]
        return int(height), int(width)

    def read_image(self, top: int, left: int, size: int) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """A square window of the image, `fill` where there is none: beyond the scene, at no-data and at NaN.

        Returns:
            The image ``[C, size, size]`` in `dtype`, and bool ``[size, size]``, true for filled pixels.
        """
        height, width = min(size, self.size[0] - top), min(size, self.size[1] - left)
        image, missing = self.read_pixels(Window(left, top, width, height))
        pad = (0, size - height), (0, size - width)
        image, missing = np.pad(image, ((0, 0), *pad)), np.pad(missing, pad, constant_values=True)
        if missing.any():
            image = np.where(missing, as_pixel(self.fill, image.dtype)[:, None, None], image)
        return image, missing

    def _place(self, window: Window) -> Window:
        """A window of the scene in pixels of its files."""
        region = self.scene.region
        if region is None:
            return window
        return Window(window.col_off + region.col_off, window.row_off + region.row_off, window.width, window.height)
