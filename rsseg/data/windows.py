"""Which pixels a window holds: random windows for training, a gapless grid for validation.

Window k and everything random about it are functions of (seed, k) alone, whatever the workers, the ranks or where a run
was resumed.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from rsseg.contract import IGNORE, Batch
from rsseg.data.scene import SceneReader


def stream(seed: int, k: int, purpose: str) -> np.random.Generator:
    """The random numbers that window k may use for one purpose (its place, an augmentation).

    Example:
        >>> int(stream(1, 7, "place").integers(100)) == int(stream(1, 7, "place").integers(100))
        True
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, k, zlib.crc32(purpose.encode())])))


def place(seed: int, k: int, sizes: NDArray[np.int64], size: int) -> tuple[int, int, int]:
    """Where training window k lies: a scene drawn by its area, then a corner drawn evenly inside it.

    Args:
        seed: The run's seed.
        k: The window's number.
        sizes: ``[S, 2]``, height and width of each scene.
        size: The window's side.

    Returns:
        Scene, top, left. A scene smaller than the window gives its corner 0.
    """
    rng = stream(seed, k, "place")
    areas = np.cumsum(sizes.prod(axis=1))
    scene = int(np.searchsorted(areas, rng.integers(areas[-1]), side="right"))
    height, width = sizes[scene]
    return scene, int(rng.integers(max(height - size, 0) + 1)), int(rng.integers(max(width - size, 0) + 1))


class Core(NamedTuple):
    """A window of the grid and the part of it that counts: rows top + inner_top to top + inner_bottom, and so on."""

    scene: int
    top: int
    left: int
    inner_top: int
    inner_left: int
    inner_bottom: int
    inner_right: int


def spans(length: int, size: int, overlap: int) -> list[tuple[int, int, int]]:
    """Cover a line with windows whose inner parts touch and never overlap.

    Args:
        length: The line's length.
        size: The windows' length; they stay inside the line if it is long enough.
        overlap: What is cut away on each side that has a neighbour.

    Returns:
        (start, inner start, inner stop) of each window, the inner ones counted from the window's start.

    Example:
        >>> spans(10, 6, 1)
        [(0, 0, 5), (4, 1, 6)]
    """
    found, done = [], 0
    while done < length:
        start = max(0, min(done - overlap if done else 0, length - size))
        stop = length if start + size >= length else start + size - overlap
        found.append((start, done - start, stop - start))
        done = stop
    return found


def grid(sizes: NDArray[np.int64], size: int, overlap: int) -> list[Core]:
    """Windows whose inner parts cover every pixel of every scene exactly once."""
    return [
        Core(scene, top, left, inner_top, inner_left, inner_bottom, inner_right)
        for scene, (height, width) in enumerate(sizes.tolist())
        for top, inner_top, inner_bottom in spans(height, size, overlap)
        for left, inner_left, inner_right in spans(width, size, overlap)
    ]


def _item(image: NDArray[np.generic], mask: NDArray[np.uint8], scene: int, k: int) -> Batch:
    if image.dtype in (np.uint16, np.uint32):  # torch has no arithmetic on these
        image = image.astype(np.int32 if image.dtype == np.uint16 else np.int64)
    return Batch(
        image=torch.from_numpy(np.ascontiguousarray(image)),
        mask=torch.from_numpy(np.ascontiguousarray(mask)),
        scene=torch.tensor(scene),
        k=torch.tensor(k),
    )


class TrainWindows(Dataset[Batch]):
    """The endless stream of training windows, by number."""

    def __init__(self, reader: SceneReader, size: int, seed: int) -> None:
        self.reader, self.size, self.seed = reader, size, seed

    def __getitem__(self, k: int) -> Batch:
        scene, top, left = place(self.seed, k, self.reader.sizes, self.size)
        return _item(*self.reader.read(scene, top, left, self.size), scene, k)


class GridWindows(Dataset[Batch]):
    """Every labelled pixel of every scene once: outside a window's inner part the mask is `IGNORE`."""

    def __init__(self, reader: SceneReader, size: int, overlap: int) -> None:
        self.reader, self.size = reader, size
        self.cores = grid(reader.sizes, size, overlap)

    def __len__(self) -> int:
        return len(self.cores)

    def __getitem__(self, k: int) -> Batch:
        core = self.cores[k]
        image, mask = self.reader.read(core.scene, core.top, core.left, self.size)
        inner = np.full_like(mask, IGNORE)
        part = (..., slice(core.inner_top, core.inner_bottom), slice(core.inner_left, core.inner_right))
        inner[part] = mask[part]
        return _item(image, inner, core.scene, k)


class StepSampler(Sampler[list[int]]):
    """The window numbers of each optimiser step, from any step on.

    Args:
        steps: The run's optimiser steps.
        batch_size: Windows per step on one process.
        start: The first step to yield; a resumed run's step.
        rank: This process's number.
        world: The number of processes; step s takes windows ``s * batch_size * world`` on, shared among them.

    Example:
        >>> list(StepSampler(steps=3, batch_size=2, start=1))
        [[2, 3], [4, 5]]
    """

    def __init__(self, steps: int, batch_size: int, start: int = 0, rank: int = 0, world: int = 1) -> None:
        self.steps, self.batch_size, self.start, self.rank, self.world = steps, batch_size, start, rank, world

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.steps):
            first = (step * self.world + self.rank) * self.batch_size
            yield list(range(first, first + self.batch_size))


def worker_count(workers: int | None) -> int:
    """The number of loader processes: as given, else all cores but one, at most 8."""
    return min(8, max(1, (os.cpu_count() or 2) - 1)) if workers is None else workers


def train_loader(windows: TrainWindows, sampler: StepSampler, workers: int) -> DataLoader[Batch]:
    """Batches of training windows, one per optimiser step."""
    return DataLoader(
        windows,
        batch_sampler=sampler,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if workers else None,
    )


def grid_loader(windows: GridWindows, batch_size: int, workers: int) -> DataLoader[Batch]:
    """Batches of the windows that cover all scenes."""
    return DataLoader(
        windows,
        batch_size=batch_size,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
    )
