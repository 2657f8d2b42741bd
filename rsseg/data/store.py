"""The store: scenes are decoded once; windows are copied from memory maps, from memory, or from a GPU's memory."""

from __future__ import annotations

import copy
import hashlib
import logging
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsseg.contract import InputError, Layers, unknown
from rsseg.data.census import Census, read_censuses
from rsseg.data.decoded import BLOCK, decode_scene, find_fault, has_size, layer_file, layer_files, map_array
from rsseg.data.masks import MaskReader
from rsseg.data.raster import as_pixel
from rsseg.data.scene import Scene
from rsseg.progress import progress
from rsseg.task import Task

log = logging.getLogger(__name__)

REPAIR = threading.Lock()  # held while a scene is decoded again, since several threads may try to

Arrays = tuple[Any, dict[str, Any], Any]
"""Image ``[H, W, C]``; the layers that the scene has by name, ``[*planes, H, W]`` each; and bool ``[H, W]``, true where pixels
are missing, or None if none are: arrays, or tensors on a device."""


class Layer(NamedTuple):
    """A layer of a split: per-pixel data beside the images, such as a target."""

    planes: tuple[int, ...]  # the leading shape, before height and width
    dtype: np.dtype[Any]  # the dtype in windows
    default: float  # the value in windows of a scene that has no such layer


class StoredFile(NamedTuple):
    """A file of a scene in the store: its content, its length in bytes, and its array's shape and dtype."""

    kind: str
    path: str
    length: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class Store:
    """The decoded scenes of a split, as `rsseg.data.build.open_store` gives them.

    Attributes:
        folder: The folder of their files.
        scenes: The scenes that they were decoded from.
        sizes: int64 ``[S, 2]``, height and width of each scene.
        dtype: The dtype of windows: the common type of all scenes.
        layers: The layers beside the images, by name: the targets and, if any scene has one, the weight.
        tasks: The tasks of the dataset's targets, by name.
        censuses: The census of each target.
        pixel_hash: Hash of all files' check sums; changes with any pixel or label.
        skipped: Scenes that could not be decoded, and why.
        pin: Whether windows are cut into pinned memory.
        fill: Per band, the value of windows where there is no image; the bands' means normalise to about 0.
        device: The device that holds the scenes; None: they are arrays in memory, or mapped into it.
    """

    def __init__(
        self,
        folder: Path,
        scenes: Sequence[Scene],
        names: Sequence[str],
        mask_readers: Sequence[MaskReader],
        bands: Sequence[int],
        index: dict[str, NDArray[Any]],
        skipped: dict[str, str],
        full: bool = False,
    ) -> None:
        self.folder, self.scenes, self.skipped = folder, list(scenes), skipped
        self._names, self._mask_readers, self._bands, self._full = list(names), mask_readers, bands, full
        self.tasks = {mask_reader.task.target: mask_reader.task for mask_reader in mask_readers}
        self._targets = list(self.tasks)
        self._layout: list[list[int]] = index["layout"].tolist()
        self.sizes: NDArray[np.int64] = index["layout"][:, :2]
        self._first: list[int] = (np.cumsum(index["files"]) - index["files"]).tolist()
        known = {text: np.dtype(text.decode()) for text in np.unique(index["dtypes"].view("S3")).tolist()}
        self._dtypes = [known[text] for text in index["dtypes"].view("S3").ravel().tolist()]
        self._lengths: list[int] = index["lengths"].tolist()
        self._sums, self._ends = index["sums"], np.cumsum(-(-index["lengths"] // BLOCK))
        self._opened: dict[int, list[StoredFile]] = {}  # by scene that was opened, its files
        self.dtype = np.result_type(*{self._dtypes[first] for first in self._first})
        self.layers = {name: Layer(task.planes, task.dtype, default=task.unknown) for name, task in self.tasks.items()}
        if any(scene.weight is not None for scene in scenes):
            self.layers["weight"] = Layer((), np.dtype(np.float32), default=1)
        self.censuses = read_censuses(index, self._targets)
        self.pixel_hash = hashlib.blake2b(index["sums"].tobytes(), digest_size=16).hexdigest()
        self.pin = False
        self.device: torch.device | None = None
        self._loaded: list[Arrays] = []
        self.fill: NDArray[np.floating] = np.zeros(len(bands))

    def __len__(self) -> int:
        return len(self.scenes)

    def seen_by(self, target: str) -> Store:
        """The same scenes with this target as the first."""
        seen = copy.copy(self)
        seen.tasks = {target: self.tasks[target], **self.tasks}
        return seen

    @property
    def unit(self) -> str:
        """What its scenes are called."""
        return "scene" if self.scenes[0].region is None else "block"

    @property
    def task(self) -> Task:
        """The task of the first target."""
        return next(iter(self.tasks.values()))

    @property
    def census(self) -> Census:
        """The census of the first target."""
        return self.censuses[self.task.target]

    @property
    def loaded(self) -> bool:
        """Whether the scenes are held, in memory or on `device`."""
        return bool(self._loaded)

    @property
    def nbytes(self) -> int:
        """The size of the scenes' files in bytes, which is about their size in memory."""
        return sum(self._lengths)

    def _files(self, scene: int) -> dict[str, tuple[int, str]]:
        """The index in the lists of all files, and the path, of each file of a scene, by content."""
        name = self._names[scene]
        files = layer_files(self.scenes[scene], name, self._targets)
        if self._layout[scene][2]:
            files["missing"] = layer_file(name, "missing")
        return {layer: (i, f"{self.folder}/{file}") for i, (layer, file) in enumerate(files.items(), self._first[scene])}

    def arrays(self, scene: int) -> Arrays:
        """The pixels of a scene, which must not be written to; a damaged scene is decoded again."""
        if self._loaded:
            return self._loaded[scene]
        arrays: dict[str, Any] = {}
        for file in self._opened.get(scene) or self._check(scene):
            if not has_size(file.path, file.length):  # cut since the scene was opened: reading its map would be a SIGBUS
                self._check(scene)
            arrays[file.kind] = map_array(file.path, file.shape, file.dtype)
        return arrays.pop("image"), arrays, arrays.pop("missing", None)

    def _check(self, scene: int) -> list[StoredFile]:
        """Verify the files of a scene when it is first opened, and decode the scene again if they are damaged."""
        own = self.scenes[scene]
        if self._fault(scene, self._full):
            with REPAIR:
                if fault := self._fault(scene, full=True):  # another thread may have been here
                    log.warning("%s: scene %s is decoded again.", fault, own.name)
                    decode_scene(own.reader(self._mask_readers, self._bands), self.folder, self._names[scene])
                    map_array.cache_clear()
                    if self._fault(scene, full=True):
                        for index in self.folder.glob("index-*"):
                            index.unlink(missing_ok=True)
                        raise InputError(
                            f"scene {own.name}: decoding again gave other pixels than recorded (changed library version or "
                            "faulty disk?). Run the same command again to accept the new pixels."
                        )
        height, width, _ = self._layout[scene]
        shapes = {kind: (*layer.planes, height, width) for kind, layer in self.layers.items()}
        shapes |= {"image": (height, width, len(self.fill)), "missing": (height, width)}
        self._opened[scene] = [
            StoredFile(kind, path, self._lengths[place], shapes[kind], self._dtypes[place])
            for kind, (place, path) in self._files(scene).items()
        ]
        return self._opened[scene]

    def _fault(self, scene: int, full: bool) -> str:
        """The fault of a scene's files; empty: none was found."""
        for place, path in self._files(scene).values():
            length, end = self._lengths[place], int(self._ends[place])
            if fault := find_fault(path, length, self._sums[end - -(-length // BLOCK) : end], full):
                return fault
        return ""

    def load(self, device: torch.device | None) -> None:
        """Copy all scenes to a device, where windows are then cut; None: into memory, as arrays."""

        def copied(pixels: NDArray[np.generic]) -> Any:
            own = np.array(pixels)
            return own if device is None else torch.from_numpy(own).to(device)

        loaded: list[Arrays] = []
        with progress(range(len(self)), f"loading scenes to {device or 'memory'}") as scenes:
            for scene in scenes:
                image, layers, missing = self.arrays(scene)
                copies = {name: copied(layer) for name, layer in layers.items()}
                loaded.append((copied(image), copies, None if missing is None else copied(missing)))
        self._loaded, self.device = loaded, device

    def read(self, scene: int, top: int, left: int, size: int) -> tuple[NDArray[np.generic], dict[str, NDArray[np.generic]]]:
        """A window as arrays: image ``[C, size, size]`` and layers; always read from the disk, not from `device`."""
        disk = copy.copy(self)
        disk._loaded, disk.device, disk.pin = [], None, False
        image, layers = disk.cut([(scene, top, left)], size)
        return image[0].numpy(), {name: layer[0].numpy() for name, layer in layers.items()}

    def cut(self, places: Sequence[tuple[int, int, int]], size: int) -> tuple[Tensor, Layers]:
        """Square windows of `size` pixels, at places (scene, top, left).

        Pixels beyond a scene or without data hold `fill` in the image and are unknown in the targets.

        Returns:
            The image ``[B, C, size, size]`` in `dtype`, its bands side by side in memory (channels_last), and the layers
            ``[B, *planes, size, size]``; on `device`, else in memory.
        """
        device, fill = self.device, torch.from_numpy(as_pixel(self.fill, self.dtype)).to(self.device or "cpu")
        pinned = device is None and self.pin

        def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
            return torch.empty((len(places), *shape), dtype=dtype, device=device, pin_memory=pinned)

        images = empty((size, size, len(fill)), fill.dtype)
        layers = {name: empty((*layer.planes, size, size), torch_dtype(layer.dtype)) for name, layer in self.layers.items()}
        to_image, blank, to_layers = cast(Any, images), cast(Any, fill), cast(dict[str, Any], layers)
        if device is None:
            to_image, blank = images.numpy(), fill.numpy()
            to_layers = {name: layer.numpy() for name, layer in layers.items()}
        for i, (scene, top, left) in enumerate(places):
            try:
                pixels, own, missing = self.arrays(scene)
            except OSError as error:
                raise InputError(
                    f"the window at row {top}, column {left} of scene {self.scenes[scene].name} ({self.scenes[scene].image}) "
                    f"can't be cut ({error}): look whether {self.folder} can be read"
                ) from error
            rows, columns = slice(top, top + size), slice(left, left + size)
            part = pixels[rows, columns]
            height, width = part.shape[:2]
            there = (..., slice(height), slice(width))
            if height < size or width < size:
                put(to_image[i], blank)
            put(to_image[i, :height, :width], part)
            if missing is not None:
                put(to_image[i, :height, :width], blank, missing[rows, columns, None])
            for name, layer in self.layers.items():
                window = to_layers[name][i]
                if height < size or width < size:
                    window[...] = unknown(layers[name])
                if name in own:
                    put(window[there], own[name][..., rows, columns])
                else:
                    window[there] = layer.default
        return images.permute(0, 3, 1, 2), layers


def torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    """The same dtype in torch."""
    return torch.from_numpy(np.empty(0, dtype)).dtype


def put(target: Any, source: Any, where: Any = True) -> None:
    """Copy pixels into a part of an array or a tensor of any dtype, where `where` is true.

    Arrays are copied by NumPy, which is as fast as torch and leaves torch's threads to the batch before.
    """
    if not isinstance(target, Tensor):
        np.copyto(target, source, casting="unsafe", where=where)
        return
    if where is not True:  # torch.where supports few unsigned integer types
        wide = target if target.is_floating_point() else target.long()
        source = torch.where(where, source.to(wide.dtype), wide)
    target.copy_(source)


def load_scenes(stores: Sequence[Store], device: torch.device | None) -> None:
    """Copy the scenes of several splits to a device, or into memory, unless they are there; refuse if they do not fit."""
    todo = [store for store in stores if not store.loaded or store.device != device]
    need, free = sum(store.nbytes for store in todo), free_memory(device)
    if need > free:
        raise InputError(
            f"the scenes take {need / 1e9:.1f} GB, but {device or 'this machine'} has {free / 1e9:.1f} GB of memory left: "
            f"take cache={'ram or cache=' if device else ''}disk"
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
    available = next(float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    return min(available, left_of_limits(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")))


def left_of_limits(root: Path, own: Path) -> float:
    """The bytes left of the memory that a container or a job of SLURM may take, by cgroup v2; infinite without a limit.

    The file `own` names the folder of this process below `root`; in a container it may be `root` itself. Limits of the folders
    above it hold too; a folder may have none. Cached files do not count as taken.
    """
    left = float("inf")
    with suppress(OSError, ValueError):  # a system without cgroup v2
        folder = root / own.read_text(encoding="utf-8").rpartition("0::/")[2].strip()
        for place in (folder, *folder.parents):
            file = place / "memory.max"
            limit = file.read_text(encoding="utf-8").strip() if file.is_file() else "max"
            if limit != "max":
                taken = int((place / "memory.current").read_text(encoding="utf-8"))
                stat = dict(line.split() for line in (place / "memory.stat").read_text(encoding="utf-8").splitlines())
                left = min(left, int(limit) - taken + int(stat["inactive_file"]) + int(stat["active_file"]))
    return left
