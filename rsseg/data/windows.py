"""Which pixels a window holds: random windows for training, a gapless grid for validation.

Window k and everything random about it are functions of (seed, k) alone, whatever the workers, the ranks or where a run
was resumed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from rsseg.contract import IGNORE, Batch
from rsseg.data.sampling import Places
from rsseg.data.scene import SceneReader


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
    """The endless stream of training windows, by number.

    Args:
        reader: The scenes.
        size: The windows' side in pixels.
        sampler: Where each window lies.
    """

    def __init__(self, reader: SceneReader, size: int, sampler: Places) -> None:
        self.reader, self.size, self.sampler = reader, size, sampler

    def __getitem__(self, k: int) -> Batch:
        scene, top, left = self.sampler(k)
        return _item(*self.reader.read(scene, top, left, self.size), scene, k)


class GridWindows(Dataset[Batch]):
    """Every labelled pixel of every scene once: outside a window's inner part the mask is `IGNORE`.

    Numbers beyond the last window give it again with nothing labelled: they fill up what several processes share.
    """

    def __init__(self, reader: SceneReader, size: int, overlap: int) -> None:
        self.reader, self.size = reader, size
        self.cores = grid(reader.sizes, size, overlap)

    def __len__(self) -> int:
        return len(self.cores)

    def __getitem__(self, k: int) -> Batch:
        core = self.cores[min(k, len(self) - 1)]
        image, mask = self.reader.read(core.scene, core.top, core.left, self.size)
        inner = np.full_like(mask, IGNORE)
        if k < len(self):
            part = (..., slice(core.inner_top, core.inner_bottom), slice(core.inner_left, core.inner_right))
            inner[part] = mask[part]
        return _item(image, inner, core.scene, k)


class Batches(Sampler[list[int]]):
    """Window numbers in batches, each shared evenly among the processes that train together.

    Args:
        stop: The number of windows.
        batch_size: Windows per batch, a multiple of `world`.
        start: The first window to yield; that of a resumed run.
        rank: This process's number.
        world: The number of processes. All get equally many windows, at the end up to ``world - 1`` beyond `stop`.

    Example:
        >>> list(Batches(stop=8, batch_size=2, start=4))
        [[4, 5], [6, 7]]
        >>> [list(Batches(stop=5, batch_size=4, rank=rank, world=2)) for rank in (0, 1)]
        [[[0, 1], [4]], [[2, 3], [5]]]
    """

    def __init__(self, stop: int, batch_size: int, start: int = 0, rank: int = 0, world: int = 1) -> None:
        self.stop, self.batch_size, self.start, self.rank, self.world = stop, batch_size, start, rank, world

    def __len__(self) -> int:
        return -(-self.stop // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for first in range(self.start, self.stop, self.batch_size):
            share = -(-min(self.batch_size, self.stop - first) // self.world)
            yield list(range(first + self.rank * share, first + (self.rank + 1) * share))


def worker_count(workers: int | None, world: int = 1) -> int:
    """The loader processes of one of `world` processes: as given, else its share of all cores but one, at most 8."""
    return min(8, max(1, ((os.cpu_count() or 2) - 1) // world)) if workers is None else workers


def loader(windows: Dataset[Batch], batches: Batches, workers: int, persistent: bool = False) -> DataLoader[Batch]:
    """Batches of windows, read ahead by worker processes.

    Args:
        windows: Where they come from.
        batches: Which of them, in which order.
        workers: The number of processes; 0 reads in this one.
        persistent: Whether the processes stay for the next round.
    """
    return DataLoader(
        windows,
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if workers else None,
        persistent_workers=persistent and workers > 0,
    )
