"""The tile store: scenes decoded once, windows of them copied out of memory maps, of memory, or of a GPU's memory."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from copy import copy
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsseg.contract import IGNORE, Head, InputError, TaskKind
from rsseg.data.blocks import Blocks
from rsseg.data.build import build_tiles
from rsseg.data.census import BandStatistics, Census, band_statistics
from rsseg.data.count import TileCounts
from rsseg.data.inspection import raise_together
from rsseg.data.labels import Labels
from rsseg.data.scene import Scene
from rsseg.data.tile import map_array, tile_name
from rsseg.progress import progress

log = logging.getLogger(__name__)

Pixels = tuple[Tensor, Tensor, Tensor | None]
"""A tile: image ``[H, W, C]``, labels ``[H, W]`` or ``[L, H, W]``, and bool ``[H, W]`` where pixels are missing, if any are."""


class Store:
    """The tiles of a split.

    Args:
        folder: Where the tiles lie.
        scenes: The scenes that they were decoded from.
        names: What their files begin with.
        head: Task and classes of the labels.
        index: The arrays that `_index` makes.
        skipped: Scenes that could not be decoded, and why.

    Attributes:
        scenes: As given.
        sizes: int64 ``[S, 2]``, height and width of each scene.
        dtype: What windows come as: the common type of all tiles.
        census: What the split holds.
        skipped: As given.
        device: Where the tiles were loaded to; None: they are read from the disk.
    """

    def __init__(
        self,
        folder: Path,
        scenes: Sequence[Scene],
        names: Sequence[str],
        head: Head,
        index: dict[str, NDArray[np.generic]],
        skipped: dict[str, str],
    ) -> None:
        self.folder, self.scenes, self.head, self.skipped = folder, list(scenes), head, skipped
        self._names, self._dtypes = list(names), [np.dtype(str(name)) for name in index["dtypes"]]
        self._layout: list[list[int]] = index["layout"].tolist()
        self.sizes: NDArray[np.int64] = index["layout"][:, :2]  # type: ignore[assignment]
        self.dtype = np.result_type(*set(self._dtypes))
        bands = {key.removeprefix("bands_"): index[key] for key in index if key.startswith("bands_")}
        statistics = BandStatistics(
            **bands | {"count": int(bands["count"]), "missing": float(bands["missing"])}  # type: ignore[arg-type]
        )
        labels: NDArray[np.int64] = index["labels"]  # type: ignore[assignment]
        self.census = Census(labels[:, 0], labels[:, 1], statistics, Blocks.of(index["blocks"], self.sizes))  # type: ignore[arg-type]
        self.device: torch.device | None = None
        self._loaded: list[Pixels] = []
        self.fill = np.zeros(len(statistics.mean))

    def __len__(self) -> int:
        return len(self.scenes)

    @property
    def fill(self) -> NDArray[np.floating]:
        """Per band, what windows show where there is no image; set it to the bands' means, so that it normalises to 0."""
        return self._fill

    @fill.setter
    def fill(self, values: NDArray[np.floating]) -> None:
        self._fill = values
        self._fill_pixel = torch.from_numpy(np.asarray(values).astype(self.dtype)).to(self.device or "cpu")

    @property
    def nbytes(self) -> int:
        """What the tiles take in memory."""
        planes = self.head.channels if self.head.task is TaskKind.multilabel else 1
        pairs = zip(self._layout, self._dtypes, strict=True)
        return sum(h * w * (len(self.fill) * dtype.itemsize + planes + (gone > 0)) for (h, w, _, gone), dtype in pairs)

    def tile(self, scene: int) -> Pixels:
        """The arrays of a scene, on `device` or as memory maps; they must not be written to."""
        if self.device is not None:
            return self._loaded[scene]
        (height, width, offset, gone), name = self._layout[scene], self._names[scene]
        planes = (self.head.channels,) if self.head.task is TaskKind.multilabel else ()
        kind = torch.from_numpy(np.empty(0, self._dtypes[scene])).dtype
        path = str(self.scenes[scene].image) if offset >= 0 else f"{self.folder}/{name}.image.npy"
        image = map_array(path, offset, (height, width, len(self.fill)), kind, name)
        labels = map_array(f"{self.folder}/{name}.labels.npy", -1, (*planes, height, width), torch.uint8, name)
        if not gone:
            return image, labels, None
        return image, labels, map_array(f"{self.folder}/{name}.missing.npy", -1, (height, width), torch.bool, name)

    def load(self, device: torch.device) -> None:
        """Copy all tiles to a device, from which windows are cut from now on."""
        with progress(range(len(self)), f"loading to {device}") as scenes:
            loaded = [
                tuple(None if part is None else torch.empty_like(part, device=device).copy_(part) for part in self.tile(scene))
                for scene in scenes
            ]
        self._loaded, self.device = loaded, device  # type: ignore[assignment]
        self.fill = self._fill

    def read(self, scene: int, top: int, left: int, size: int) -> tuple[NDArray[np.generic], NDArray[np.uint8]]:
        """A window as arrays: image ``[C, size, size]`` and labels. From the disk, whatever device holds the tiles.

        Args:
            scene: The scene's number.
            top: The window's first row.
            left: The window's first column.
            size: The window's side in pixels.
        """
        disk = copy(self)
        disk.device, disk.fill = None, self._fill
        image, labels = disk.cut([(scene, top, left)], size)
        return image[0].numpy(), labels[0].numpy()

    def cut(self, places: Sequence[tuple[int, int, int]], size: int) -> tuple[Tensor, Tensor]:
        """Square windows; beyond a scene, and where pixels are missing, `fill` and `IGNORE`.

        Args:
            places: Scene, top and left of each.
            size: Their side.

        Returns:
            The image ``[B, C, size, size]`` in `dtype`, its bands side by side in memory (channels_last), and the labels uint8
            ``[B, size, size]`` or ``[B, L, size, size]``; on `device`, else in memory that a GPU reads fast where there is one.
        """
        device, kind = self.device or torch.device("cpu"), self._fill_pixel.dtype
        planes = (self.head.channels,) if self.head.task is TaskKind.multilabel else ()
        put_in = put if device.type == "cpu" else put_by_torch
        pinned = device.type == "cpu" and torch.cuda.is_available()
        images, masks = (
            torch.empty(len(places), *shape, dtype=dtype, device=device, pin_memory=pinned)
            for shape, dtype in (((size, size, len(self._fill_pixel)), kind), ((*planes, size, size), torch.uint8))
        )
        for image, mask, (scene, top, left) in zip(images, masks, places, strict=True):
            pixels, labels, missing = self.tile(scene)
            rows, columns = slice(top, top + size), slice(left, left + size)
            part = pixels[rows, columns]
            height, width = part.shape[:2]
            if height < size or width < size:
                put_in(image, self._fill_pixel)
                mask.fill_(IGNORE)
            put_in(image[:height, :width], part)
            put_in(mask[..., :height, :width], labels[..., rows, columns])
            if missing is not None:
                put_in(image[:height, :width], self._fill_pixel, missing[rows, columns, None])
        return images.permute(0, 3, 1, 2), masks


def put(target: Tensor, source: Tensor, where: Tensor | None = None) -> None:
    """Copy pixels into a part of a tensor, all or some of them.

    On a CPU by NumPy: it is as fast, and keeps off torch's threads, which are at work on the batch before.

    Args:
        target: Any shape and dtype.
        source: A shape that can be expanded to it, any dtype.
        where: bool, true where to copy.
    """
    np.copyto(target.numpy(), source.numpy(), casting="unsafe", where=True if where is None else where.numpy())


def put_by_torch(target: Tensor, source: Tensor, where: Tensor | None = None) -> None:
    """As `put`, on any device."""
    if where is not None:  # torch chooses among few kinds of unsigned integers
        wide = target if target.is_floating_point() else target.long()
        source = torch.where(where, source.to(wide.dtype), wide)
    target.copy_(source)


def load(stores: Sequence[Store], device: torch.device) -> None:
    """Copy the tiles of several splits to a device, where they are not there yet.

    Args:
        stores: The splits.
        device: A CPU or a GPU.

    Raises:
        InputError: If they do not fit into its free memory.
    """
    todo = [store for store in stores if store.device != device]
    need, free = sum(store.nbytes for store in todo), free_memory(device)
    if need > free:
        raise InputError(
            f"the tiles take {need / 1e9:.1f} GB, but {device} has {free / 1e9:.1f} GB of memory left: "
            f"take residence={'disk' if device.type == 'cpu' else 'ram or residence=disk'}"
        )
    for store in todo:
        store.load(device)


def free_memory(device: torch.device) -> float:
    """The bytes that a device has left; infinite where that can't be found out."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    meminfo = Path("/proc/meminfo")
    if device.type != "cpu" or not meminfo.is_file():
        return float("inf")
    return next(float(line.split()[1]) * 1024 for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable"))


def open_store(
    scenes: Sequence[Scene], labels: Labels, bands: Sequence[int], folder: Path, title: str = "store", skip: bool = False
) -> Store:
    """The tiles of a split; those that are not in the store yet, or whose files have changed, are decoded.

    Several processes may do so at once, in the same store.

    Args:
        scenes: The scenes.
        labels: How their masks are decoded.
        bands: The image bands to read, counted from 1.
        folder: Where the tiles of all splits lie.
        title: What messages and the progress bar begin with.
        skip: Leave out scenes that can't be decoded.

    Raises:
        InputError: If files can't be used, or the tiles can't be written or need more than the disk has left.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = {entry.name for entry in os.scandir(folder)}
    except OSError as error:
        raise InputError(f"the tile store {folder} can't be used: {error}") from None
    skipped: dict[str, str] = {}
    names: dict[Scene, str] = {}
    for scene in scenes:
        try:
            names[scene] = tile_name(scene, labels, bands)
        except InputError as error:
            skipped[scene.name] = str(error)
    todo = {name: scene for scene, name in names.items() if f"{name}.counts" not in there}
    skipped |= build_tiles(todo, labels, bands, folder, title, skip, skipped)
    kept = [scene for scene in scenes if scene.name not in skipped]
    if not kept:
        raise_together(list(skipped.values()))
    chosen = [names[scene] for scene in kept]
    path = folder / f"index-{hashlib.blake2b(''.join(chosen).encode(), digest_size=16).hexdigest()}.npz"
    if path.name not in there:
        _save_index(path, [TileCounts.load(folder / f"{name}.counts") for name in chosen])
    with np.load(path) as saved:
        return Store(folder, kept, chosen, labels.head, dict(saved), skipped)


def _save_index(path: Path, tiles: Sequence[TileCounts]) -> None:
    """One file of everything about a split's tiles but their pixels: a hundred thousand of them are opened by it."""
    index = {
        "layout": np.stack([tile.layout for tile in tiles]),
        "labels": np.stack([tile.labels for tile in tiles]),
        "dtypes": np.array([tile.sample.dtype.str for tile in tiles]),
        "blocks": np.concatenate([tile.blocks.reshape(-1, tile.blocks.shape[-1]) for tile in tiles]),
        **{f"bands_{name}": value for name, value in vars(band_statistics(tiles)).items()},
    }
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            np.savez(file, **index)
        part.replace(path)
    except OSError as error:
        raise InputError(f"the tile store's index can't be written: {error}") from None
    finally:
        part.unlink(missing_ok=True)
