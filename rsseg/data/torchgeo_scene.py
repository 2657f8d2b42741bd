"""A sample of torchgeo as a scene: its image and its mask, with any keys and shapes."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.transform import from_origin
from rasterio.windows import Window
from shapely.geometry import box
from torchgeo.datasets import GeoDataset, IntersectionDataset

from rsseg.contract import InputError, naming
from rsseg.data.grids import TOLERANCE
from rsseg.data.masks import Mask, MaskReader
from rsseg.data.raster import find_missing
from rsseg.data.scene import Scene, SceneFacts, SceneReader, check_band_numbers

Array = NDArray[Any]

READING = threading.Lock()  # held while a sample is read: few torchgeo classes are thread-safe
TRIED = 10  # samples that are tried, one after the other, for the facts of all


@dataclass(eq=False)
class Samples:
    """The samples of a split of a torchgeo dataset."""

    dataset: Any
    keys: Mapping[int, Any]  # its indices, by the samples' numbers
    name: str  # for messages
    fingerprint: str  # a hash of all that samples depend on
    needs_mask: bool  # refuse samples without a mask
    image: Sequence[str] | None  # the keys of a sample that are its image, as `planes_of` takes them
    mask: Sequence[str] | None  # the keys that are its mask
    times: int | None  # how many time steps of an image become bands

    def scene(self, number: int, group: str) -> TorchgeoScene:
        """A sample as a scene."""
        called = Path(f"{self.name} sample {number:06d}")
        masks = (Mask(called) if self.needs_mask or self.first[1] else None,)
        return TorchgeoScene(f"{number:06d}", called, masks, group=group, samples=self, number=number)

    def read(self, number: int) -> tuple[Array, Array | None]:
        """The image ``[bands, H, W]`` of a sample and its mask, if it has one, in the smallest types that hold their values."""
        with READING:
            try:
                sample = self.dataset[self.keys[number]]
            except Exception as error:  # whatever a reader raises over a damaged file
                raise InputError(f"it can't be read: {str(error).strip() or repr(error)}") from None
        image, mask = planes_of(sample, "image", self.image, self.times), planes_of(_joined(sample), "mask", self.mask)
        if image is None or (mask is None and self.needs_mask):
            raise InputError(f"it holds {_shapes(sample)}; an image and a mask are needed to train on")
        if mask is not None and mask.shape[1:] != image.shape[1:]:
            raise InputError(f"its image is {list(image.shape)} but its mask {list(mask.shape)}: the same grid is expected")
        return smallest(image), None if mask is None else smallest(mask)

    @cached_property
    def first(self) -> tuple[SceneFacts, bool]:
        """The facts of the first sample that can be read, and whether it has a mask: the others should be alike."""
        faults = list[str]()
        for number in islice(self.keys, TRIED):
            try:
                image, mask = self.read(number)
                return facts_of(image), mask is not None
            except InputError as error:
                faults.append(f"{self.name} sample {number:06d}: {error}")
        raise InputError(faults[0])


def facts_of(image: Array) -> SceneFacts:
    """The facts of a sample with this image."""
    count, height, width = image.shape
    return SceneFacts((height, width), image.dtype, (count,))


@dataclass(frozen=True, kw_only=True)
class TorchgeoScene(Scene):
    """A sample of a torchgeo dataset, by its number; its reader takes the dataset's item."""

    samples: Samples
    number: int

    def signature(self) -> tuple[object, ...]:
        return self.samples.fingerprint, self.number, self.masks == (None,), self.unlabelled, self.nodata

    def check(self, mask_readers: Sequence[MaskReader], bands: Sequence[int]) -> SceneFacts:
        """See `Scene`; before the sample is read, the facts are those of the first readable sample."""
        return self.samples.first[0]

    def reader(self, mask_readers: Sequence[MaskReader], bands: Sequence[int], facts: SceneFacts | None = None) -> SampleReader:
        with naming(self.image):
            return SampleReader(self, mask_readers, bands)

    def place(self) -> tuple[Any, Affine | None]:
        """See `Scene`; nothing is known for datasets that are not geospatial."""
        dataset = self.samples.dataset
        if not isinstance(dataset, GeoDataset):
            return None, None
        x, y, _ = self.samples.keys[self.number]
        return CRS.from_user_input(dataset.crs), from_origin(x.start, y.stop, *dataset.res)

    def named_bands(self) -> dict[int, str]:
        """See `Scene`; names are those of torchgeo's class, or only red, green and blue if it has `rgb_bands`, else empty."""
        dataset, count = self.samples.dataset, sum(self.samples.first[0].counts)
        names = [str(name) for name in getattr(dataset, "bands", getattr(dataset, "all_bands", ()))]
        shown = dict(zip(getattr(dataset, "rgb_bands", ()), ("red", "green", "blue"), strict=False))
        called = [shown.get(name, "" if shown else name) for name in names] if len(names) == count else [""] * count
        return dict(enumerate(called, start=1))


class SampleReader(SceneReader):
    """The pixels of a sample, which is read once and held in memory."""

    def __init__(self, scene: TorchgeoScene, mask_readers: Sequence[MaskReader], bands: Sequence[int]) -> None:
        image, self.mask = scene.samples.read(scene.number)
        facts, first = facts_of(image), scene.samples.first[0]
        if facts.counts != first.counts:
            raise InputError(
                f"its image has {len(image)} bands, but other samples have {first.counts[0]}; for images with a "
                "time axis, dataset.source.times reads the same number of steps from each"
            )
        check_band_numbers(str(scene.image), len(image), bands)
        if self.mask is not None:
            mask_readers[0].check_bands(str(scene.image), len(self.mask))
        self.pixels = image[[band - 1 for band in bands]]
        super().__init__(scene, mask_readers, bands, facts)

    def block(self) -> tuple[int, int]:
        """See `SceneReader`; the sample is already decoded."""
        return 1, 1

    def read_pixels(self, window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        pixels = self.pixels[:, *window.toslices()]
        missing = find_missing(pixels, self.scene.nodata)
        return np.where(missing, np.zeros((), pixels.dtype), pixels), missing

    def _decode(self, mask: Mask, mask_reader: MaskReader, window: Window) -> NDArray[np.generic]:
        if self.mask is None:  # other samples of a test split may have one
            return mask_reader.task.unknown_target((int(window.height), int(window.width)))
        return mask_reader.decode(mask_reader.chosen_bands(self.mask[:, *window.toslices()]))


def planes_of(
    sample: Mapping[str, Any], kind: str, wanted: Sequence[str] | None = None, times: int | None = None
) -> Array | None:
    """The image or the mask of a sample, ``[bands, H, W]``; None if it has none.

    The arrays of the keys `wanted` are concatenated; without `wanted`, the array of the key `kind`, or else those of all keys
    that begin with it (for masks, one at most). A time axis becomes bands, ``[T, C, H, W]`` to ``T * C`` bands; `times` takes
    this many time steps, evenly spaced from the first to the last.
    """
    pixels = {key: np.asarray(value) for key, value in sample.items() if np.ndim(value) > 1}
    keys = wanted or ([kind] if kind in pixels else [key for key in pixels if key.startswith(kind)])
    if kind == "mask" and not {*keys} & {*pixels}:  # as in a test split
        return None
    stack = []
    for key in keys:
        array = pixels.get(key, np.zeros((0, 1, 1)))
        if array.ndim == 4 and times is not None:
            array = array[np.linspace(0, len(array) - 1, times).round().astype(int)]
        stack.append(array.reshape(-1, *array.shape[-2:]))
    open_ = kind == "mask" and len(keys) > 1 and wanted is None
    if open_ or len({array.shape[1:] for array in stack}) > 1 or not all(array.size for array in stack):
        raise InputError(
            f"it holds {_shapes(sample)}: what is its {kind}? Name keys of one grid, dataset.source.{kind}=[{keys[0]}]; "
            "several masks are the bands of dataset.task=multilabel"
        )
    return np.concatenate(stack) if stack else None


def _joined(sample: Mapping[str, Any]) -> Mapping[str, Any]:
    """A sample whose instance masks (``[N, H, W]`` beside N labels and boxes) are merged into one mask of labels."""
    labels = np.asarray(sample.get("label", 0))
    masks = {key: np.asarray(value) for key, value in sample.items() if key.startswith("mask")}
    if "bbox_xyxy" not in sample or labels.ndim != 1 or any(mask.shape[:-2] != labels.shape for mask in masks.values()):
        return sample
    return {**sample, **{key: ((mask != 0) * labels[:, None, None]).max(0, initial=0) for key, mask in masks.items()}}


def _shapes(sample: Mapping[str, Any]) -> str:
    """The keys of a sample, and the shapes of its arrays."""
    return ", ".join(f"{key} {list(np.shape(value))}" if np.ndim(value) else str(key) for key, value in sample.items())


def smallest(pixels: Array) -> NDArray[np.generic]:
    """Pixels in the first of uint8, uint16, int16, int32 that holds them exactly, else in float32; complex ones unchanged."""
    if pixels.dtype.kind == "c":
        return pixels
    for kind in (np.uint8, np.uint16, np.int16, np.int32):
        limits = np.iinfo(kind)
        with np.errstate(invalid="ignore"):  # NaN fits no integer
            if pixels.min() >= limits.min and pixels.max() <= limits.max and np.array_equal(pixels, np.round(pixels)):
                return pixels.astype(kind)
    return pixels.astype(np.float32)


def grouped_keys(dataset: Any, chip: int) -> list[tuple[int, Any]]:
    """Group number and index of each sample of a torchgeo dataset; geospatial: the index is slices of x, y and time."""
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
    """The upper left corner of a file, on its pixel grid; for intersections, of the first dataset's file at the shape."""
    joined = isinstance(dataset, IntersectionDataset)
    while isinstance(dataset, IntersectionDataset):
        dataset = dataset.datasets[0]
    files = dataset.index.geometry
    left, _, _, top = (files[files.intersects(shape.representative_point())].iloc[0] if joined else shape).bounds
    return left, top


def pieces(
    bounds: tuple[float, float, float, float], grid: tuple[float, float], interval: Any, res: tuple[float, float], chip: int
) -> Iterator[tuple[slice, slice, slice]]:
    """Queries (slices of x, y and time) of whole pixels on a grid that cover `bounds` without gaps or overhang."""
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
