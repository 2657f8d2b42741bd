"""Any torchgeo dataset whose samples hold an image and a mask, decoded once into files that are then read window by window."""

from __future__ import annotations

import hashlib
import inspect
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torchgeo.datasets
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import from_bounds
from rich.progress import track

from rsseg.contract import InputError, nearest
from rsseg.data.scene import Scene
from rsseg.data.splits import FRACTIONS, SPLITS, by_fraction

NAMES = {"train": ("train", "training", "trainval"), "val": ("val", "valid", "validation", "dev"), "test": ("test", "testing")}
"""What torchgeo's classes call rsseg's splits."""
HELD_OUT = {"train": 0.85, "val": 0.15}
"""How the training split of a dataset without a validation split is dealt out."""


class TorchGeo:
    """The scenes of a torchgeo dataset: one per sample, or, for geospatial datasets, one per piece of each indexed file.

    Samples become uncompressed GeoTIFFs in a cache, in the smallest type that holds their values exactly. They are decoded
    once: again only when the arguments, torchgeo's version or a file below ``root`` or ``paths`` changes. An interrupted
    decoding goes on where it stopped.

    Args:
        name: The class in `torchgeo.datasets`.
        args: What it is made with, but for its split and transforms.
        cache: The folder for decoded samples.
        split: The class's own name for each of train, val and test; None: found out. A class without a validation split
            gives 15 % of its training samples to it; one without splits is dealt out 70 : 15 : 15, by a hash.
        chip: Side of the pieces of geospatial datasets, in pixels.

    Raises:
        InputError: For an unknown class, arguments that it does not take, and data that it does not find.
    """

    def __init__(
        self, name: str, args: Mapping[str, Any], cache: str, split: Mapping[str, str] | None = None, chip: int = 2048
    ) -> None:
        self.kind = dataset_class(name)
        known = [p for p in inspect.signature(self.kind).parameters if p not in ("split", "transforms")]
        for key in args:
            if key not in known:
                hint = "; dataset.source.split names its splits" if key == "split" else nearest(key, known)
                raise InputError(f"dataset.args.{key}: {name} has no such argument{hint}; it has {', '.join(known)}")
        if split is not None and (not isinstance(split, Mapping) or set(split) - set(SPLITS)):
            raise InputError(f"dataset.source.split={split}: a mapping such as {{train: train, val: validation}} is expected")
        if chip < 1:
            raise InputError(f"dataset.source.chip={chip} must be at least 1")
        self.name, self.args, self.split, self.chip = name, dict(args), split, chip
        self.has_splits = "split" in inspect.signature(self.kind).parameters
        self.cache = Path(cache).expanduser() / f"{name}-{self._fingerprint()}"

    def _fingerprint(self) -> str:
        facts: list[object] = [self.name, sorted(self.args.items()), version("torchgeo"), self.chip]
        places = [self.args.get("root", []), self.args.get("paths", [])]
        for place in (p for several in places for p in ([several] if isinstance(several, str) else several)):
            for folder, _, names in sorted(os.walk(place)):
                stats = [os.stat(os.path.join(folder, name)) for name in sorted(names)]
                facts.append((folder, sorted(names), [(s.st_size, s.st_mtime_ns) for s in stats]))
        return hashlib.blake2b(repr(facts).encode(), digest_size=8).hexdigest()

    def scenes(self, split: str) -> list[Scene]:
        """The scenes of train, val or test; decodes what is not in the cache yet.

        Raises:
            InputError: If the dataset has no such split, or its samples can't be used.
        """
        dataset, keys = self._open(split)
        folder = self.cache / split
        places = [Scene(f"{i:06d}", folder / f"{i:06d}.image.tif", folder / f"{i:06d}.mask.tif") for i in range(len(keys))]
        todo = [(scene, key) for scene, key in zip(places, keys, strict=True) if not scene.image.is_file()]
        folder.mkdir(parents=True, exist_ok=True)
        for n, (scene, key) in enumerate(track(todo, f"decoding {self.name} {split}", transient=True)):
            try:
                size = self._decode(dataset, key, scene)
            except InputError as error:
                raise InputError(f"torchgeo's {self.name}, {split} sample {scene.name}: {error}") from None
            free = shutil.disk_usage(folder).free
            if n == 0 and size * len(todo) > free:
                raise InputError(
                    f"decoding the {split} split of {self.name} takes about {size * len(todo) / 1e9:.1f} GB, but {folder} has "
                    f"{free / 1e9:.1f} GB left: set dataset.source.cache to a larger disk"
                )
        return [Scene(s.name, s.image, s.mask if s.mask is not None and s.mask.is_file() else None) for s in places]

    def _open(self, split: str) -> tuple[Any, list[Any]]:
        """The torchgeo dataset that holds a split, and the keys of the split's samples in it."""
        if not self.has_splits:
            dataset = self._make()
            return dataset, self._dealt(dataset, FRACTIONS)[split]
        if self.split is not None:
            if split not in self.split:
                raise InputError(f"dataset.source.split={dict(self.split)} names no {split} split")
            dataset = self._first([self.split[split]])
            if dataset is None:
                raise InputError(f"dataset.source.split.{split}={self.split[split]}: {self.name} has no such split")
            return dataset, [key for keys in keys_by_file(dataset, self.chip) for key in keys]
        dataset = self._first(NAMES[split])
        if split == "test" and dataset is None:
            raise InputError(f"torchgeo's {self.name} has no test split")
        if split == "test" or self._first(NAMES["val"]) is not None:
            if dataset is None:
                raise InputError(f"torchgeo's {self.name} has no {split} split called {' or '.join(NAMES[split])}")
            return dataset, [key for keys in keys_by_file(dataset, self.chip) for key in keys]
        whole = self._first(NAMES["train"])
        return whole, self._dealt(whole, HELD_OUT)[split]

    def _dealt(self, dataset: Any, shares: Mapping[str, float]) -> dict[str, list[Any]]:
        """The keys of each split; all pieces of one file go to the same, so that neighbours do not leak."""
        files = keys_by_file(dataset, self.chip)
        dealt = by_fraction([f"{i:06d}" for i in range(len(files))], shares)
        return {split: [key for i in sorted(numbers) for key in files[int(i)]] for split, numbers in dealt.items()}

    def _first(self, names: Sequence[str]) -> Any:
        """The dataset made with the first of some split names that it knows."""
        for name in names:
            try:
                return self._make(split=name)
            except (AssertionError, KeyError, ValueError):
                continue
        return None

    def _make(self, **split: str) -> Any:
        try:
            return self.kind(**self.args, **split)
        except (AssertionError, KeyError, ValueError):
            if split:
                raise
            raise InputError(f"torchgeo's {self.name} refuses dataset.args={self.args}") from None
        except Exception as error:  # whatever 120 constructors raise over missing and damaged data
            raise InputError(f"torchgeo's {self.name} with dataset.args={self.args}: {str(error).strip() or error!r}") from None

    def _decode(self, dataset: Any, key: Any, scene: Scene) -> int:
        """Write a sample, the image last, since its presence says that the sample is complete; returns its bytes."""
        try:
            sample = dataset[key]
        except Exception as error:  # whatever a reader raises over a damaged file
            raise InputError(f"it can't be read: {str(error).strip() or error!r}") from None
        if "image" not in sample or ("mask" not in sample and scene.image.parent.name != "test"):
            raise InputError(f"it holds {', '.join(map(str, sample))}; an image and a mask are needed to train on")
        image = np.asarray(sample["image"])
        if image.ndim != 3:
            raise InputError(f"its image has the shape {list(image.shape)}; [bands, height, width] is expected")
        place = georeference(dataset, key, image.shape)
        size = 0
        if "mask" in sample and scene.mask is not None:
            mask = np.asarray(sample["mask"])
            mask = mask[None] if mask.ndim == 2 else mask
            if mask.shape[1:] != image.shape[1:]:
                raise InputError(f"its image is {list(image.shape)} but its mask {list(mask.shape)}: the same grid is expected")
            size = write_raster(scene.mask, mask, place)
        return size + write_raster(scene.image, image, place)


def dataset_class(name: str) -> Any:
    """A dataset class of torchgeo by name.

    Raises:
        InputError: If there is none.
    """
    base = torchgeo.datasets.GeoDataset, torchgeo.datasets.NonGeoDataset
    found = getattr(torchgeo.datasets, name, None)
    if not (inspect.isclass(found) and issubclass(found, base)):
        known = [n for n, c in vars(torchgeo.datasets).items() if inspect.isclass(c) and issubclass(c, base)]
        raise InputError(f"dataset.name={name} is no dataset of torchgeo {version('torchgeo')}{nearest(name, known)}")
    return found


def keys_by_file(dataset: Any, chip: int) -> list[list[Any]]:
    """What a torchgeo dataset is indexed with: numbers, or the place and time of pieces, for each file a list.

    Args:
        dataset: A torchgeo dataset.
        chip: The largest side of a piece, in pixels.
    """
    if not isinstance(dataset, torchgeo.datasets.GeoDataset):
        return [[i] for i in range(len(dataset))]
    return [
        list(pieces(shape.bounds, interval, dataset.res, chip))
        for interval, shape in zip(dataset.index.index, dataset.index.geometry, strict=True)
    ]


def pieces(
    bounds: tuple[float, float, float, float], interval: Any, res: tuple[float, float], chip: int
) -> Iterator[tuple[slice, slice, slice]]:
    """Queries that cover a place without a gap and do not reach beyond it.

    Args:
        bounds: Left, bottom, right, top, in the dataset's units.
        interval: The time.
        res: The size of a pixel.
        chip: The largest side of a piece, in pixels.
    """
    (left, bottom, right, top), (across, down) = bounds, res
    for i in range(0, max(1, round((right - left) / across)), chip):
        for j in range(0, max(1, round((top - bottom) / down)), chip):
            yield (
                slice(left + i * across, min(left + (i + chip) * across, right)),
                slice(max(top - (j + chip) * down, bottom), top - j * down),
                slice(interval.left, interval.right),
            )


def georeference(dataset: Any, key: Any, shape: Sequence[int]) -> dict[str, Any]:
    """Where a sample lies; nothing for plain images."""
    if not isinstance(dataset, torchgeo.datasets.GeoDataset):
        return {}
    x, y, _ = key
    return {"crs": dataset.crs, "transform": from_bounds(x.start, y.start, x.stop, y.stop, shape[2], shape[1])}


def smallest(pixels: NDArray[Any]) -> NDArray[np.generic]:
    """The same values in the smallest of uint8, uint16, int16, int32 that holds them, or in float32.

    Example:
        >>> smallest(np.array([0.0, 255.0])).dtype, smallest(np.array([0.5])).dtype
        (dtype('uint8'), dtype('float32'))
    """
    for kind in (np.uint8, np.uint16, np.int16, np.int32):
        limits = np.iinfo(kind)
        with np.errstate(invalid="ignore"):  # NaN fits no integer
            if pixels.min() >= limits.min and pixels.max() <= limits.max and np.array_equal(pixels, np.round(pixels)):
                return pixels.astype(kind)
    return pixels.astype(np.float32)


def write_raster(path: Path, pixels: NDArray[Any], place: Mapping[str, Any]) -> int:
    """Write ``[bands, height, width]`` whole or not at all; returns its bytes.

    Raises:
        InputError: If the disk is full or can't be written to.
    """
    pixels = smallest(pixels)
    count, height, width = pixels.shape
    part = path.with_name(f".{path.stem}.{os.getpid()}.part.tif")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(
                part, "w", driver="GTiff", count=count, height=height, width=width, dtype=pixels.dtype.name, **place
            ) as file:
                file.write(pixels)
        part.replace(path)
    except OSError as error:
        raise InputError(f"the decoded samples can't be written to {path.parent}: {error}") from None
    finally:
        part.unlink(missing_ok=True)
    return pixels.nbytes
