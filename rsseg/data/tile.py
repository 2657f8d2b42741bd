"""A scene's pixels, decoded once into arrays that are then mapped into memory."""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rasterio.windows import Window

from rsseg.contract import ONE_TARGET, InputError, holds_reals, unknown
from rsseg.data.count import Counter
from rsseg.data.decoder import Decoder
from rsseg.data.raster import open_raster
from rsseg.data.scene import Scene, SceneReader
from rsseg.files import atomic_write

FORMAT = 4  # to be raised when tiles or counts are written otherwise
PART = 1 << 20  # pixels that a thread decodes at a time
LARGE = 1 << 30  # bytes of a file from which on it is mapped in another way
MAPS = 40_000  # arrays that are mapped at a time: a process may have 65,530 maps, unless its kernel was told otherwise


def tile_name(scene: Scene, decoders: Sequence[Decoder], bands: Sequence[int]) -> str:
    """What a tile's files begin with: a hash of everything that its pixels depend on.

    Raises:
        InputError: If one of the scene's files is not there.
    """
    targets = [(d.task.target, d.task.kind, d.task.channels, d.signature) for d in decoders]
    facts = (FORMAT, scene.signature(), list(bands), targets)
    return hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()


def tile_bytes(reader: SceneReader) -> int:
    """What the tile of a reader's only scene takes on disk, but for its counts."""
    per_pixel = sum(math.prod(planes) * dtype.itemsize for planes, dtype in layer_forms(reader).values())
    per_pixel += len(reader.bands) * reader.dtype.itemsize
    return int(reader.sizes[0].prod()) * per_pixel


def layer_forms(reader: SceneReader) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """The planes and the stored dtype of each layer of a reader's only scene."""
    scene, weight = reader.scenes[0], reader.scenes[0].weight
    tasks = [decoder.task for place, decoder in enumerate(reader.decoders) if scene.mask_of(place) is not None]
    forms: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {task.target: (task.planes, task.dtype) for task in tasks}
    if weight is not None:
        forms["weight"] = (), np.dtype(open_raster(weight).dtypes[0])
    return forms


def layer_file(folder: Path | str, name: str, layer: str) -> str:
    """The file of a tile's layer."""
    return f"{folder}/{name}.{'labels' if layer == ONE_TARGET else layer}.npy"


def parts(size: Sequence[int], block: Sequence[int]) -> Iterator[Window]:
    """Cover a scene with parts of about `PART` pixels, made of whole blocks.

    Args:
        size: The scene's height and width.
        block: Height and width of what is decoded at once.

    Example:
        >>> [(w.row_off, w.col_off, w.height, w.width) for w in parts((5000, 5000), (4096, 4096))]
        [(0, 0, 4096, 4096), (0, 4096, 4096, 904), (4096, 0, 904, 4096), (4096, 4096, 904, 904)]
    """
    columns = min(size[1], max(1, PART // block[0] // block[1]) * block[1])
    rows = min(size[0], max(1, PART // columns // block[0]) * block[0])
    for top in range(0, size[0], rows):
        for left in range(0, size[1], columns):
            yield Window(left, top, min(columns, size[1] - left), min(rows, size[0] - top))


def slabs(window: Window) -> Iterator[slice]:
    """A window's rows, in slices of about `PART` pixels."""
    step = max(1, PART // window.width)
    return (slice(row, min(row + step, window.height)) for row in range(0, window.height, step))


class ArrayFile:
    """A .npy file that is written part by part; what is not written is 0.

    Args:
        path: The file.
        shape: The array's shape.
        dtype: The array's dtype.
        size: Height and width of its planes.
        pixel: The bytes of a pixel.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], size: tuple[int, int], pixel: int) -> None:
        self.file = path.open("wb", buffering=0)
        header = {"shape": shape, "fortran_order": False, "descr": np.lib.format.dtype_to_descr(dtype)}
        np.lib.format.write_array_header_1_0(self.file, header)
        self.start, self.pixel, self.height, self.width = self.file.tell(), pixel, *size
        self.file.truncate(self.start + math.prod(shape) * dtype.itemsize)

    def write(self, window: Window, planes: NDArray[np.generic]) -> None:
        """Write a part.

        Args:
            window: Where it lies.
            planes: ``[P, h, w]`` or ``[P, h, w, C]``, P planes one after the other.
        """
        whole = window.width == self.width
        for i, plane in enumerate(planes):
            for j, rows in enumerate([plane] if whole else plane):
                place = (i * self.height + window.row_off + j) * self.width + window.col_off
                self.file.seek(self.start + place * self.pixel)
                data = np.ascontiguousarray(rows).data.cast("B")
                while data:  # the system may take less than all at once
                    data = data[self.file.write(data) :]


def write_tile(reader: SceneReader, folder: Path, name: str) -> None:
    """Decode a scene into the store, part by part, whole or not at all.

    Nothing is synced: 500 tiles of 256 pixels would take a third longer, and the store can be made again.

    ``{name}.image.npy`` holds ``[H, W, C]`` in the scene's dtype;
    ``{name}.labels.npy`` the mask ``[*planes, H, W]`` in the task's dtype, or of several targets, as far as the scene has them,
    ``{name}.{target}.npy`` each; ``{name}.weight.npy``, where the scene has one, ``[H, W]`` in its file's dtype;
    ``{name}.missing.npy``, where there are any, bool ``[H, W]``, true for pixels without data; and ``{name}.counts``, which
    comes last, a `TileCounts`.

    Args:
        reader: A reader of just the one scene.
        folder: The store.
        name: The tile's name.

    Raises:
        InputError: If the scene can't be decoded; `UnwritableError` if the tile can't be written, which is no scene's fault.
    """
    height, width = reader.sizes[0].tolist()
    tasks, dtype, bands = [decoder.task for decoder in reader.decoders], reader.dtype, len(reader.bands)
    counter = Counter(tasks, (height, width), bands)
    forms = {"missing": ((), np.dtype(np.bool_)), **layer_forms(reader)}
    arrays = {kind: ((*planes, height, width), stored) for kind, (planes, stored) in forms.items()}
    arrays["image"] = (height, width, bands), dtype
    files: dict[str, ArrayFile] = {}
    with ExitStack() as stack:

        def write(kind: str, window: Window, pixels: NDArray[np.generic]) -> None:
            if kind not in files:
                part = stack.enter_context(atomic_write(Path(layer_file(folder, name, kind)), sync=False))
                pixel = arrays[kind][1].itemsize * (bands if kind == "image" else 1)
                files[kind] = ArrayFile(part, *arrays[kind], (height, width), pixel)
                stack.callback(files[kind].file.close)
            files[kind].write(window, pixels)

        for window in parts((height, width), reader.block(0)):
            image, missing = reader.read_pixels(0, window)
            layers = reader.read_layers(0, window)
            for target in layers.keys() - {"weight"}:
                nothing = np.array(unknown(layers[target]), layers[target].dtype)
                layers[target] = np.where(missing, nothing, layers[target])
            for rows in slabs(window):  # counting takes several times a part's memory
                slab = {layer: pixels[..., rows, :] for layer, pixels in layers.items()}
                counter.add(window.row_off + rows.start, window.col_off, image[:, rows], missing[rows], slab)
            write("image", window, image.astype(dtype, copy=False).transpose(1, 2, 0)[None])
            for layer, pixels in layers.items():
                write(layer, window, pixels.reshape(-1, *missing.shape))
                if layer == "weight" or holds_reals(pixels):  # labels are counted
                    counter.checksum = zlib.crc32(np.ascontiguousarray(pixels).data, counter.checksum)
            if "missing" in files or missing.any():  # once it is begun, so that it does not look like a killed process's
                write("missing", window, missing[None])
    with atomic_write(folder / f"{name}.counts", sync=False) as part:
        counter.counts(dtype).save(part)


@lru_cache(maxsize=MAPS)
def map_array(path: str, shape: tuple[int, ...], dtype: np.dtype[Any], version: str) -> NDArray[np.generic]:  # noqa: ARG001
    """The array in a file of the store, which must not be written to; its pages come from the disk as they are read.

    Args:
        path: The file.
        shape: The array's shape.
        dtype: Its dtype.
        version: Another one maps the file anew.

    Raises:
        InputError: If the file is shorter, as a power cut may leave it.
    """
    size, length = os.path.getsize(path), math.prod(shape) * dtype.itemsize
    start = size - length
    if start < 0:
        raise InputError(f"{path} is cut: remove {Path(path).parent}, and the same command makes it again")
    if size < LARGE:  # a private map, which keeps no file open: in many places a process may have but 1,024
        whole: Any = torch.from_file(path, shared=False, size=size, dtype=torch.uint8).numpy()
    else:  # private maps count as memory: the kernel refuses one that is larger
        with open(path, "rb") as file:
            whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(whole, dtype, math.prod(shape), start).reshape(shape)


@lru_cache(maxsize=MAPS)
def stored_dtype(path: str, version: str) -> np.dtype[Any]:  # noqa: ARG001
    """The dtype of an array in the store, which its file says; `version` as for `map_array`.

    Raises:
        InputError: If the file is not whole.
    """
    try:
        with open(path, "rb") as file:
            np.lib.format.read_magic(file)
            dtype: np.dtype[Any] = np.lib.format.read_array_header_1_0(file)[2]
    except (OSError, ValueError):
        raise InputError(f"{path} is cut: remove {Path(path).parent}, and the same command makes it again") from None
    return dtype
