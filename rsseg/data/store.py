"""The tile store: scenes decoded once, windows of them copied out of memory maps, of memory, or of a GPU's memory."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsseg.contract import IGNORE, InputError
from rsseg.data.blocks import Blocks
from rsseg.data.census import BandStatistics, Census
from rsseg.data.raster import as_pixel
from rsseg.data.scene import Scene
from rsseg.data.tile import map_array
from rsseg.progress import progress
from rsseg.task import Task

BYTE, BOOL = np.dtype(np.uint8), np.dtype(np.bool_)

Tile = tuple[Any, Any, Any]
"""Image ``[H, W, C]``, labels ``[H, W]`` or ``[L, H, W]``, and bool ``[H, W]``, true where pixels are missing, or None if none
are: arrays, or tensors on a device."""


class Store:
    """The tiles of a split.

    Args:
        folder: Where the tiles lie.
        scenes: The scenes that they were decoded from.
        names: What their files begin with.
        task: The labels' task.
        index: The arrays that `rsseg.data.build.save_index` writes.
        skipped: Scenes that could not be decoded, and why.

    Attributes:
        scenes: As given.
        sizes: int64 ``[S, 2]``, height and width of each scene.
        dtype: What windows come as: the common type of all tiles.
        census: What the split holds.
        pixels: A hash that is another one where pixels or labels are.
        skipped: As given.
        pin: Whether windows are cut into memory that a GPU reads fast.
        device: The device that holds the tiles; None: they are arrays in memory, or mapped into it.
    """

    def __init__(
        self,
        folder: Path,
        scenes: Sequence[Scene],
        names: Sequence[str],
        task: Task,
        index: dict[str, NDArray[np.generic]],
        skipped: dict[str, str],
    ) -> None:
        self.folder, self.scenes, self.task, self.skipped = folder, list(scenes), task, skipped
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
        self.pixels = hashlib.blake2b(index["pixels"].tobytes(), digest_size=8).hexdigest()
        self.pin = False
        self.device: torch.device | None = None
        self._loaded: list[Tile] = []
        self.fill = np.zeros(len(statistics.mean))

    def __len__(self) -> int:
        return len(self.scenes)

    @property
    def fill(self) -> NDArray[np.floating]:
        """Per band, what windows show where there is no image; set it to the bands' means, so that it normalises to about 0."""
        return self._fill

    @fill.setter
    def fill(self, values: NDArray[np.floating]) -> None:
        self._fill = np.asarray(values)

    @property
    def loaded(self) -> bool:
        """Whether the tiles are held, in memory or on `device`."""
        return bool(self._loaded)

    @property
    def nbytes(self) -> int:
        """What the tiles take in memory."""
        planes = math.prod(self.task.planes)
        pairs = zip(self._layout, self._dtypes, strict=True)
        return sum(h * w * (len(self.fill) * dtype.itemsize + planes + (gone > 0)) for (h, w, _, gone), dtype in pairs)

    def tile(self, scene: int) -> Tile:
        """The pixels of a scene; they must not be written to."""
        if self._loaded:
            return self._loaded[scene]
        (height, width, offset, gone), name = self._layout[scene], self._names[scene]
        path = str(self.scenes[scene].image) if offset >= 0 else f"{self.folder}/{name}.image.npy"
        image = map_array(path, offset, (height, width, len(self._fill)), self._dtypes[scene], name)
        labels = map_array(f"{self.folder}/{name}.labels.npy", -1, (*self.task.planes, height, width), BYTE, name)
        if not gone:
            return image, labels, None
        return image, labels, map_array(f"{self.folder}/{name}.missing.npy", -1, (height, width), BOOL, name)

    def load(self, device: torch.device | None) -> None:
        """Hold all tiles on a device, where windows are cut from now on; None: in memory, as arrays."""
        with progress(range(len(self)), f"loading to {device or 'memory'}") as scenes:
            loaded = [[None if part is None else held(part, device) for part in self.tile(scene)] for scene in scenes]
        self._loaded, self.device = [(image, labels, missing) for image, labels, missing in loaded], device

    def read(self, scene: int, top: int, left: int, size: int) -> tuple[NDArray[np.generic], NDArray[np.uint8]]:
        """A window as arrays: image ``[C, size, size]`` and labels; from the disk, whatever device holds the tiles.

        Args:
            scene: The scene's number.
            top: The window's first row.
            left: The window's first column.
            size: The window's side in pixels.
        """
        disk = copy.copy(self)
        disk._loaded, disk.device, disk.pin = [], None, False
        image, labels = disk.cut([(scene, top, left)], size)
        return image[0].numpy(), labels[0].numpy()

    def cut(self, places: Sequence[tuple[int, int, int]], size: int) -> tuple[Tensor, Tensor]:
        """Square windows; beyond a scene, and where pixels are missing, `fill` and `IGNORE`.

        Args:
            places: Scene, top and left of each.
            size: Their side.

        Returns:
            The image ``[B, C, size, size]`` in `dtype`, its bands side by side in memory (channels_last), and the labels uint8
            ``[B, size, size]`` or ``[B, L, size, size]``; on `device`, else in memory.
        """
        device, fill = self.device, torch.from_numpy(as_pixel(self._fill, self.dtype)).to(self.device or "cpu")
        pinned = device is None and self.pin
        shape = len(places), size, size, len(fill)
        images = torch.empty(shape, dtype=fill.dtype, device=device, pin_memory=pinned)
        masks = torch.empty((len(places), *self.task.planes, size, size), dtype=torch.uint8, device=device, pin_memory=pinned)
        parts: list[Any] = [images, masks, fill]
        put_in: Callable[..., None] = put_by_torch
        if device is None:
            parts, put_in = [part.numpy() for part in parts], put
        for image, mask, (scene, top, left) in zip(*parts[:2], places, strict=True):
            pixels, labels, missing = self.tile(scene)
            rows, columns = slice(top, top + size), slice(left, left + size)
            part = pixels[rows, columns]
            height, width = part.shape[:2]
            if height < size or width < size:
                put_in(image, parts[2])
                mask[...] = IGNORE
            put_in(image[:height, :width], part)
            put_in(mask[..., :height, :width], labels[..., rows, columns])
            if missing is not None:
                put_in(image[:height, :width], parts[2], missing[rows, columns, None])
        return images.permute(0, 3, 1, 2), masks


def held(pixels: NDArray[np.generic], device: torch.device | None) -> Any:
    """A copy of an array, as a tensor on a device if one is given."""
    copied = np.array(pixels)
    return copied if device is None else torch.from_numpy(copied).to(device)


def put(target: NDArray[np.generic], source: NDArray[np.generic], where: Any = True) -> None:
    """Copy pixels into a part of an array, where a mask says so.

    On a CPU this is done by NumPy: it is as fast, and keeps off torch's threads, which are at work on the batch before.

    Args:
        target: Any shape and dtype.
        source: A shape that can be expanded to it, any dtype.
        where: bool, likewise.
    """
    np.copyto(target, source, casting="unsafe", where=where)


def put_by_torch(target: Tensor, source: Tensor, where: Tensor | None = None) -> None:
    """As `put`, with tensors on any device."""
    if where is not None:  # torch chooses among few kinds of unsigned integers
        wide = target if target.is_floating_point() else target.long()
        source = torch.where(where, source.to(wide.dtype), wide)
    target.copy_(source)


def load(stores: Sequence[Store], device: torch.device | None) -> None:
    """Copy the tiles of several splits into memory or to a device, those that are not there yet.

    Args:
        stores: The splits.
        device: The device; None: memory.

    Raises:
        InputError: If they do not fit into its free memory.
    """
    todo = [store for store in stores if not store.loaded or store.device != device]
    need, free = sum(store.nbytes for store in todo), free_memory(device)
    if need > free:
        raise InputError(
            f"the tiles take {need / 1e9:.1f} GB, but {device or 'this machine'} has {free / 1e9:.1f} GB of memory left: "
            f"take residence={'ram or residence=' if device else ''}disk"
        )
    for store in todo:
        store.load(device)


def free_memory(device: torch.device | None) -> float:
    """The bytes that a device, or memory, has left; infinite where that can't be found out."""
    if device is not None and device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        return float("inf")
    lines = meminfo.read_text(encoding="utf-8").splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
