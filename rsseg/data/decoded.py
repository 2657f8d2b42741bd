"""A scene's pixels, decoded once into arrays that are then mapped into memory."""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import random
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rasterio.windows import Window
from safetensors.numpy import load, save

from rsseg.contract import ONE_TARGET, unknown
from rsseg.data.blocks import Counter
from rsseg.data.masks import MaskReader
from rsseg.data.raster import open_raster
from rsseg.data.scene import Scene, SceneFacts, SceneReader
from rsseg.files import atomic_write

FORMAT = b"rsseg store 5\n"  # first bytes of array files; raise the number when the format of scenes or counts changes
SUM = 16  # bytes of the checksum that follows
BLOCK = 1 << 16  # bytes of a pixel file per checksum
SAMPLED = 8  # blocks of a file whose checksums are verified when the file is opened
PART = 1 << 20  # pixels that a thread decodes at a time
BUFFER = 8 << 20  # bytes per write: a file that is contiguous in memory is mapped in larger pieces
LARGE = 1 << 30  # files of this many bytes or more are mapped by mmap, smaller ones by torch
MAPS = 40_000  # arrays that are mapped at a time: Linux limits a process to 65,530 maps by default


def store_name(scene: Scene, mask_readers: Sequence[MaskReader], bands: Sequence[int]) -> str:
    """The beginning of the names of a scene's files in the store: a hash of everything that its pixels depend on."""
    targets = [(d.task.target, d.task.kind, d.task.channels, d.signature) for d in mask_readers]
    facts = (5, scene.signature(), list(bands), targets)  # 5: kept, so that files of an earlier FORMAT are replaced
    return hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()


def decoded_bytes(scene: Scene, facts: SceneFacts, mask_readers: Sequence[MaskReader], bands: Sequence[int]) -> int:
    """The bytes of a scene on disk, without its counts."""
    per_pixel = sum(math.prod(planes) * dtype.itemsize for planes, dtype in layer_forms(scene, mask_readers).values())
    return math.prod(facts.size) * (per_pixel + len(bands) * facts.dtype.itemsize)


def layer_forms(scene: Scene, mask_readers: Sequence[MaskReader]) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """The planes and the stored dtype of each layer of a scene."""
    tasks = [mask_reader.task for place, mask_reader in enumerate(mask_readers) if scene.mask_of(place) is not None]
    forms: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {task.target: (task.planes, task.dtype) for task in tasks}
    if scene.weight is not None:
        forms["weight"] = (), np.dtype(open_raster(scene.weight).dtypes[0])
    return forms


def layer_file(name: str, layer: str) -> str:
    """The name of the file of a scene's layer."""
    return f"{name}.{'labels' if layer == ONE_TARGET else layer}.npy"


def layer_files(scene: Scene, name: str, targets: Iterable[str]) -> dict[str, str]:
    """The names of a scene's files by content, without the file of missing pixels, which only some scenes have."""
    own = [target for place, target in enumerate(targets) if scene.mask_of(place) is not None]
    return {layer: layer_file(name, layer) for layer in ("image", *own, *["weight"] * (scene.weight is not None))}


def parts(size: Sequence[int], block: Sequence[int]) -> Iterator[Window]:
    """Cover a scene of this height and width with parts of about `PART` pixels, made of whole blocks."""
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
    """A .npy file, written part by part; unwritten parts are 0. An image ``[H, W, C]`` is one plane of pixels of C numbers."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], image: bool) -> None:
        self.file = path.open("wb", buffering=BUFFER)
        header = {"shape": shape, "fortran_order": False, "descr": np.lib.format.dtype_to_descr(dtype)}
        np.lib.format.write_array_header_1_0(self.file, header)
        self.start, self.dtype = self.file.tell(), dtype
        self.pixel = dtype.itemsize * (shape[2] if image else 1)
        self.height, self.width = shape[:2] if image else shape[-2:]
        self.file.truncate(self.start + math.prod(shape) * dtype.itemsize)

    def write(self, window: Window, planes: NDArray[np.generic]) -> None:
        """Write a part: P planes ``[P, h, w]``, or ``[1, h, w, C]`` of an image."""
        whole = window.width == self.width
        for i, plane in enumerate(planes):
            for j, rows in enumerate([plane] if whole else plane):
                place = (i * self.height + window.row_off + j) * self.width + window.col_off
                if self.file.tell() != (begin := self.start + place * self.pixel):  # a seek flushes the buffer
                    self.file.seek(begin)
                self.file.write(np.ascontiguousarray(rows, self.dtype).data)


def decode_scene(reader: SceneReader, folder: Path, name: str) -> None:
    """Decode a scene into the store, part by part and atomically. Nothing is synced: a lost store can be decoded again.

    ``{name}.image.npy`` holds ``[H, W, C]`` in the scene's dtype; ``{name}.labels.npy`` the target ``[*planes, H, W]``, or with
    several targets ``{name}.{target}.npy`` each that the scene has; ``{name}.weight.npy``, if any, ``[H, W]`` in its file's
    dtype; ``{name}.missing.npy`` bool ``[H, W]``, true for pixels without data, if there are any. ``{name}.counts`` is written
    last: the arrays of `Counter.counts`, and the dtype (as ``<u2``), length and block checksums of each other file.

    Raises:
        InputError: If the scene can't be decoded; `UnwritableError` if the store can't be written.
    """
    size, dtype = reader.size, reader.dtype
    counter = Counter([mask_reader.task for mask_reader in reader.mask_readers], size, len(reader.bands))
    forms = {kind: ((*planes, *size), kept) for kind, (planes, kept) in layer_forms(reader.scene, reader.mask_readers).items()}
    forms = {"image": ((*size, len(reader.bands)), dtype), **forms, "missing": (size, np.dtype(np.bool_))}
    files: dict[str, ArrayFile] = {}
    with ExitStack() as stack:

        def write(kind: str, window: Window, planes: NDArray[np.generic]) -> None:
            if kind not in files:
                part = stack.enter_context(atomic_write(folder / layer_file(name, kind), sync=False))
                files[kind] = ArrayFile(part, *forms[kind], image=kind == "image")
                stack.callback(files[kind].file.close)
            files[kind].write(window, planes)

        for window in parts(size, reader.block()):
            image, missing = reader.read_pixels(window)
            layers = reader.read_layers(window)
            for target in layers.keys() - {"weight"}:
                nothing = np.array(unknown(layers[target]), layers[target].dtype)
                layers[target] = np.where(missing, nothing, layers[target])
            for rows in slabs(window):  # counting takes several times a part's memory
                slab = {layer: pixels[..., rows, :] for layer, pixels in layers.items()}
                counter.add(window.row_off + rows.start, window.col_off, image[:, rows], missing[rows], slab)
            write("image", window, image.transpose(1, 2, 0)[None])
            for layer, pixels in layers.items():
                write(layer, window, pixels.reshape(-1, *missing.shape))
            if "missing" in files or missing.any():  # once begun, in every part: an idle file looks like a killed process's
                write("missing", window, missing[None])
    kinds = [kind for kind in forms if kind in files]
    paths = [folder / layer_file(name, kind) for kind in kinds]
    lengths = [os.path.getsize(path) for path in paths]
    sums = [s for path, length in zip(paths, lengths, strict=True) for s in block_sums(path, range(-(-length // BLOCK)))]
    of_files = {
        "dtypes": np.array([forms[kind][1].str for kind in kinds], "S3").view(np.uint8).reshape(-1, 3),
        "lengths": np.array(lengths),
        "sums": np.array(sums, np.uint32),
    }
    write_arrays(folder / f"{name}.counts", counter.counts(dtype) | of_files)


def block_sums(path: Path | str, chosen: Iterable[int]) -> Iterator[int]:
    """The checksums (CRC-32) of the blocks of a file with the chosen numbers."""
    with open(path, "rb") as file:
        for block in chosen:
            file.seek(block * BLOCK)
            yield zlib.crc32(file.read(BLOCK))


def has_size(path: str, size: int) -> bool:
    """Whether a file exists and has `size` bytes."""
    try:
        return os.stat(path).st_size == size
    except OSError:
        return False


def find_fault(path: str, length: int, sums: NDArray[np.uint32], full: bool) -> str:
    """The fault of a file that should have this length and these checksums, empty if none is found; `full`: of all blocks."""
    chosen: Sequence[int] = range(len(sums))
    if not full and len(sums) > SAMPLED:  # the header, the end, and others that are drawn anew each time
        chosen = [0, len(sums) - 1, *random.Random().sample(range(1, len(sums) - 1), SAMPLED - 2)]
    try:
        if (found := os.path.getsize(path)) != length:
            return f"{path} has {found} bytes, not {length}"
        wrong = [block for block, found in zip(chosen, block_sums(path, chosen), strict=True) if found != sums[block]]
    except OSError as error:
        return f"{path} can't be read ({error.strerror})"
    return f"{path} is damaged at byte {wrong[0] * BLOCK} or after it" if wrong else ""


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays into a file, with a checksum."""
    content = save(dict(arrays))
    with atomic_write(path, sync=False) as part:
        part.write_bytes(FORMAT + hashlib.blake2b(content, digest_size=SUM).digest() + content)


def read_arrays(path: Path) -> dict[str, NDArray[Any]] | None:
    """Read the arrays of `write_arrays`; None: the file is missing, damaged, or of another version."""
    try:
        whole = path.read_bytes()
    except OSError:
        return None
    start = len(FORMAT) + SUM
    content = whole[start:]
    return load(content) if whole[:start] == FORMAT + hashlib.blake2b(content, digest_size=SUM).digest() else None


@lru_cache(maxsize=MAPS)
def map_array(path: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[np.generic]:
    """The array in a file of the store, which must not be written to; its pages come from the disk as they are read."""
    size = os.path.getsize(path)
    if size < LARGE:  # a private map keeps no file open: many systems limit a process to 1,024 open files
        whole: Any = torch.from_file(path, shared=False, size=size, dtype=torch.uint8).numpy()
    else:  # private maps count as memory: the kernel refuses those larger than it
        with open(path, "rb") as file:
            whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    count = math.prod(shape)
    return np.frombuffer(whole, dtype, count, size - count * dtype.itemsize).reshape(shape)
