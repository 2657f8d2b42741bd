"""One counting pass over a split: pixels per class and band statistics.

It also is the check that every mask decodes, before training starts. Results are kept in a cache folder under a key of
the files' names, sizes and times, so that a sweep counts once.
"""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from rsseg.contract import IGNORE, Head, InputError, TaskKind
from rsseg.data.blocks import SIZE, Blocks, count
from rsseg.data.sampling import Uniform
from rsseg.data.scene import SceneReader
from rsseg.progress import progress

log = logging.getLogger(__name__)

STRIP = 1 << 20  # pixels decoded at a time
BLOCKS = ("counts", "scene", "row", "col")
SAMPLES = 64  # windows that mean and deviation are estimated from


@dataclass(frozen=True)
class Census:
    """What the counting pass found.

    Attributes:
        positives: int64 ``[S, K]``, per scene the pixels of each class (binary, multilabel: of label 1).
        valid: int64 ``[S, K]``, per scene the pixels that are labelled.
        mean: float64 ``[C]``, per band.
        std: float64 ``[C]``, per band; 1 for a constant band.
        blocks: All blocks of all scenes.
    """

    positives: NDArray[np.int64]
    valid: NDArray[np.int64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    blocks: Blocks

    def fingerprint(self, names: list[str]) -> str:
        """A short hash of scene names and label counts: same split and labels, same fingerprint, on any machine."""
        digest = hashlib.blake2b(repr(names).encode(), digest_size=8)
        digest.update(self.positives.astype("<i8").tobytes() + self.valid.astype("<i8").tobytes())
        return digest.hexdigest()


def take_census(reader: SceneReader, size: int, cache: Path, title: str) -> Census:
    """Count a split, or look up an earlier count of the same files.

    Args:
        reader: The split's scenes.
        size: Side of the windows that band statistics are drawn from.
        cache: Folder for results.
        title: What the progress bar says.

    Raises:
        InputError: If a mask is damaged, holds an unknown value, or no pixel of the split is labelled.
    """
    path = cache / f"census2-{_key(reader, size)}.npz"
    if path.is_file():
        with np.load(path) as saved:
            blocks = Blocks(SIZE, *(saved[name] for name in BLOCKS))
            return Census(**{name: saved[name] for name in ("positives", "valid", "mean", "std")}, blocks=blocks)
    with progress(range(len(reader)), title) as scenes:
        rows = [_count(reader, scene) for scene in scenes]
    positives, valid = np.stack([row[0] for row in rows]), np.stack([row[1] for row in rows])
    if not valid.any():
        raise InputError(
            f"{title}: no pixel is labelled in {len(reader)} scenes, all are ignored: "
            "check dataset.mask_values and dataset.ignore_values"
        )
    census = Census(positives, valid, *_band_statistics(reader, size), Blocks.of([row[2] for row in rows]))
    _save(path, census)
    return census


def check_absent(census: Census, head: Head, split: str) -> None:
    """Name the classes that never occur in a split.

    Raises:
        InputError: If nothing is left to learn or to score: a binary split without positive pixels.
    """
    absent = [name for name, n in zip(head.classes, census.positives.sum(axis=0), strict=True) if n == 0]
    if head.task is TaskKind.binary and absent:
        raise InputError(
            f"no pixel of the {split} split is labelled {absent[0]}: if the masks hold 0 and 255, "
            "set dataset.mask_values=[0,255] dataset.ignore_values=[]"
        )
    if absent:
        log.warning("No pixel of class %s in the %s split: its score is NaN there and left out of means.", absent, split)


def _count(reader: SceneReader, scene: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint16]]:
    head = reader.labels.head
    height, width = reader.sizes[scene].tolist()
    rows = max(1, STRIP // width // SIZE) * SIZE
    grids = []
    planes = 1 if head.task is TaskKind.multiclass else head.channels
    counts = np.zeros((planes, 256), dtype=np.int64)
    for top in range(0, height, rows):
        mask = reader.read_labels(scene, Window(0, top, width, min(rows, height - top)))
        grids.append(count(mask, head))
        for plane, pixels in enumerate(mask.reshape(planes, -1)):
            counts[plane] += np.bincount(pixels, minlength=256)
    labelled = counts.sum(axis=1) - counts[:, IGNORE]
    if head.task is TaskKind.multiclass:
        return counts[0, : head.channels], np.repeat(labelled, head.channels), np.concatenate(grids)
    return counts[:, 1], labelled, np.concatenate(grids)


def _band_statistics(reader: SceneReader, size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    bands = len(reader.bands)
    n, total, squares = 0, np.zeros(bands), np.zeros(bands)
    for scene, top, left in map(Uniform(0, reader.sizes, size), range(SAMPLES)):
        height, width = reader.sizes[scene]
        window = Window(left, top, min(size, width - left), min(size, height - top))
        image, missing = reader.read_pixels(scene, window)
        pixels = image[:, ~missing].astype(np.float64)
        n, total, squares = n + pixels.shape[1], total + pixels.sum(axis=1), squares + (pixels**2).sum(axis=1)
    mean = total / max(n, 1)
    std = np.sqrt(np.maximum(squares / max(n, 1) - mean**2, 0))
    return mean, np.where(std > 0, std, 1.0)


def _key(reader: SceneReader, size: int) -> str:
    labels = reader.labels
    facts: list[object] = [size, reader.bands, labels.head.task.value, labels.head.channels, labels.signature]
    for scene in reader.scenes:
        facts.append((scene.region, scene.burn))
        for path in scene.files:
            stat = path.stat()
            facts.append((str(path.resolve()), stat.st_size, stat.st_mtime_ns))
    return hashlib.blake2b(repr(facts).encode(), digest_size=12).hexdigest()


def _save(path: Path, census: Census) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as file:
        arrays = {name: getattr(census.blocks, name) for name in BLOCKS}
        np.savez(file, positives=census.positives, valid=census.valid, mean=census.mean, std=census.std, **arrays)
    part.replace(path)
