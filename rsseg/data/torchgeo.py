"""Any torchgeo dataset whose samples hold an image and a mask, decoded once into files that the tile store maps."""

from __future__ import annotations

import hashlib
import inspect
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torchgeo.datasets
from numpy.typing import NDArray
from rasterio.transform import from_bounds

from rsseg.contract import InputError, nearest
from rsseg.data.groups import by_fraction
from rsseg.data.raster import new_raster
from rsseg.data.scene import Scene, Source
from rsseg.data.splits import FRACTIONS, SPLITS
from rsseg.files import file_error, remove_parts
from rsseg.progress import progress

NAMES = {"train": ("train", "training", "trainval"), "val": ("val", "valid", "validation", "dev"), "test": ("test", "testing")}
"""What torchgeo's classes call rsseg's splits."""
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
HELD_OUT = {"train": 0.85, "val": 0.15}
"""How the training split of a dataset without a validation split is dealt out."""


class TorchGeo(Source):
    """The scenes of a torchgeo dataset: one per sample, or, for geospatial datasets, one per piece of each indexed file.

    A sample is a group of its own; the pieces of files that overlap are one group.

    Samples become uncompressed GeoTIFFs in a cache, in the smallest type that holds their values. They are decoded once:
    again only when the arguments, torchgeo's version or a file below ``root`` or ``paths`` changes. An interrupted decoding
    goes on where it stopped.

    Args:
        name: The class in `torchgeo.datasets`.
        args: What it is made with, but for its split and transforms.
        cache: The folder for decoded samples.
        split: The class's own name for each of train, val and test; what is not named is found out. A class without a
            validation split, or with ``val: null``, gives 15 % of its training samples to it; one without splits is dealt
            out 70 : 15 : 15. Both by a hash, overlapping files of a geospatial dataset together.
        chip: Side of the pieces of geospatial datasets, in pixels.

    Raises:
        InputError: For an unknown class, arguments that it does not take, and data that it does not find.
    """

    def __init__(
        self, name: str, args: Mapping[str, Any], cache: str, split: Mapping[str, str | None] | None = None, chip: int = 2048
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
        self.name, self.args, self.split, self.chip = name, dict(args), dict(split or {}), chip
        self.has_splits = "split" in inspect.signature(self.kind).parameters
        self.cache = Path(cache).expanduser()

    def scenes(self, split: str) -> list[Scene]:
        """The scenes of train, val or test; decodes what is not in the cache yet.

        Raises:
            InputError: If the dataset has no such split, or its samples can't be used.
        """
        dataset, own_split, keys = self._open(split)
        folder = self.cache / f"{self.name}-{self._fingerprint()}" / own_split
        places = [
            Scene(f"{i:06d}", folder / f"{i:06d}.image.tif", folder / f"{i:06d}.mask.tif", group=f"{own_split}-{group}")
            for i, (group, _) in keys.items()
        ]
        todo = [(scene, key) for scene, (_, key) in zip(places, keys.values(), strict=True) if not scene.image.is_file()]
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise file_error(folder, error) from None
        remove_parts(folder)
        with progress(todo, f"decoding {self.name} {split}") as steps:
            for n, (scene, key) in enumerate(steps):
                try:
                    size = self._decode(dataset, key, scene, split)
                except InputError as error:
                    raise InputError(f"torchgeo's {self.name}, {split} sample {scene.name}: {error}") from None
                free = shutil.disk_usage(folder).free
                if n == 0 and size * len(todo) > free:
                    raise InputError(
                        f"decoding the {split} split of {self.name} takes about {size * len(todo) / 1e9:.1f} GB, but {folder} "
                        f"has {free / 1e9:.1f} GB left: set dataset.source.cache to a larger disk"
                    )
        return [
            scene if all(mask.path.is_file() for mask in scene.masks if mask) else replace(scene, mask=None) for scene in places
        ]

    def _fingerprint(self) -> str:
        """What the decoded samples depend on. To be taken once the class was made: it may extract or download files."""
        bound = inspect.signature(self.kind).bind_partial(**self.args)
        bound.apply_defaults()
        facts: list[object] = [self.name, sorted(self.args.items()), version("torchgeo"), self.chip]
        for key in ("root", "paths"):
            given = bound.arguments.get(key, [])
            for place in [given] if isinstance(given, str | os.PathLike) else given:
                for folder, _, names in sorted(os.walk(place)):
                    kept = sorted(name for name in names if not name.lower().endswith(ARCHIVES))
                    stats = [os.stat(os.path.join(folder, name)) for name in kept]
                    facts.append((folder, kept, [(s.st_size, s.st_mtime_ns) for s in stats]))
        return hashlib.blake2b(repr(facts).encode(), digest_size=8).hexdigest()

    def _open(self, split: str) -> tuple[Any, str, dict[int, tuple[int, Any]]]:
        """The torchgeo dataset that holds a split, its name there, and the split's samples: their groups and keys by number."""
        if not self.has_splits:
            dataset = self._make()
            return dataset, "all", self._dealt(dataset, FRACTIONS)[split]
        if split != "test":
            train, whole = self._first("train")
            held_out = self._first("val", needed=False)
            if held_out is None:
                return whole, train, self._dealt(whole, HELD_OUT)[split]
            own_split, dataset = (train, whole) if split == "train" else held_out
        else:
            own_split, dataset = self._first("test")
        return dataset, own_split, self._dealt(dataset, {split: 1.0})[split]

    def _dealt(self, dataset: Any, shares: Mapping[str, float]) -> dict[str, dict[int, tuple[int, Any]]]:
        """The numbered groups and keys of each split."""
        groups: dict[int, dict[int, tuple[int, Any]]] = {}
        for number, (group, key) in enumerate(grouped_keys(dataset, self.chip)):
            groups.setdefault(group, {})[number] = group, key
        dealt = by_fraction({f"{group:06d}": len(keys) for group, keys in groups.items()}, shares)
        return {
            split: {number: key for group in sorted(names) for number, key in groups[int(group)].items()}
            for split, names in dealt.items()
        }

    def _first(self, split: str, needed: bool = True) -> tuple[str, Any] | Any:
        """The first of the names that a split may have which the class knows, and the dataset; None if none is needed."""
        if split in self.split and self.split[split] is None:
            return None
        names = (self.split[split],) if split in self.split else NAMES[split]
        for name in names:
            try:
                return name, self.kind(**self.args, split=name)
            except (AssertionError, KeyError, ValueError) as error:
                text = str(error).strip("'")
                if text and "split" not in text.lower() and text != name:  # it is about something else
                    raise InputError(f"torchgeo's {self.name} with dataset.args={self.args}: {text}") from None
            except Exception as error:  # whatever 120 constructors raise over missing and damaged data
                raise self._refusal(error) from None
        if needed or split in self.split:
            raise InputError(f"torchgeo's {self.name} has no split called {' or '.join(map(str, names))} for {split}")
        return None

    def _make(self) -> Any:
        try:
            return self.kind(**self.args)
        except Exception as error:  # as above
            raise self._refusal(error) from None

    def _refusal(self, error: Exception) -> InputError:
        return InputError(f"torchgeo's {self.name} with dataset.args={self.args}: {str(error).strip() or repr(error)}")

    def _decode(self, dataset: Any, key: Any, scene: Scene, split: str) -> int:
        """Write a sample, the image last, since its presence says that the sample is complete; returns its bytes."""
        try:
            sample = dataset[key]
        except Exception as error:  # whatever a reader raises over a damaged file
            raise InputError(f"it can't be read: {str(error).strip() or error!r}") from None
        if "image" not in sample or ("mask" not in sample and split != "test"):
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


def grouped_keys(dataset: Any, chip: int) -> list[tuple[int, Any]]:
    """What a torchgeo dataset is indexed with, numbers or the place and time of pieces, each with the number of its group.

    A sample is a group of its own; the pieces of a geospatial dataset's files that overlap are one, so that no place is
    both trained and scored on.

    Args:
        dataset: A torchgeo dataset.
        chip: The largest side of a piece, in pixels.
    """
    if not isinstance(dataset, torchgeo.datasets.GeoDataset):
        return [(i, i) for i in range(len(dataset))]
    shapes = dataset.index.geometry
    cores = shapes.buffer(-min(dataset.res) / 2)  # neighbours that only touch stay apart
    footprints = cores.union_all()
    parts = list(getattr(footprints, "geoms", [footprints]))
    found = []
    for interval, shape, core in zip(dataset.index.index, shapes, cores, strict=True):
        group = next(i for i, part in enumerate(parts) if part.intersects(core))
        found += [(group, key) for key in pieces(shape.bounds, interval, dataset.res, chip)]
    return found


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
    """The values in the smallest of uint8, uint16, int16, int32 that holds them, else rounded to float32.

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
        UnwritableError: If the file can't be written.
    """
    pixels = smallest(pixels)
    count, height, width = pixels.shape
    form = {"count": count, "height": height, "width": width, "dtype": pixels.dtype.name, **place}
    with new_raster(path, sync=False, **form) as raster:  # not synced, as tiles
        raster.write(pixels)
    return pixels.nbytes
