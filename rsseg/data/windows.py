"""Windows: random ones for training, a gapless grid for validation.

Window k and its random numbers depend only on (seed, k), not on workers, ranks or resumes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsseg.contract import IGNORE, Batch, layers_of
from rsseg.data.build import cores
from rsseg.data.sampling import Places
from rsseg.data.store import Store


class GridCell(NamedTuple):
    """A window of the grid and the part of it that counts: rows top + inner_top to top + inner_bottom, and so on."""

    scene: int
    top: int
    left: int
    inner_top: int
    inner_left: int
    inner_bottom: int
    inner_right: int

    def paste(self, part: Tensor, whole: Tensor) -> None:
        """Copy the counted part of a window ``[..., size, size]`` into its scene ``[..., H, W]``."""
        rows, columns = slice(self.inner_top, self.inner_bottom), slice(self.inner_left, self.inner_right)
        above, below = self.top + self.inner_top, self.top + self.inner_bottom
        whole[..., above:below, self.left + self.inner_left : self.left + self.inner_right] = part[..., rows, columns]


def spans(length: int, size: int, margin: int) -> list[tuple[int, int, int]]:
    """Cover a line with windows whose inner parts touch: the overlap is cut away on each side that has a neighbour.

    Returns:
        (start, inner start, inner stop) of each window, the inner ones counted from the window's start.

    Example:
        >>> spans(10, 6, 1)
        [(0, 0, 5), (4, 1, 6)]
    """
    found, done = [], 0
    while done < length:
        start = max(0, min(done - margin if done else 0, length - size))
        stop = length if start + size >= length else start + size - margin
        found.append((start, done - start, stop - start))
        done = stop
    return found


def grid(sizes: NDArray[np.int64], size: int, margin: int) -> list[GridCell]:
    """Windows whose inner parts cover every pixel of every scene exactly once."""
    return [
        GridCell(scene, top, left, inner_top, inner_left, inner_bottom, inner_right)
        for scene, (height, width) in enumerate(sizes.tolist())
        for top, inner_top, inner_bottom in spans(height, size, margin)
        for left, inner_left, inner_right in spans(width, size, margin)
    ]


class WholeScenes:
    """Assembles maps of scenes of sizes ``[S, 2]`` from consecutive windows of a grid, one scene in memory at a time."""

    def __init__(self, sizes: NDArray[np.int64]) -> None:
        self.sizes = sizes
        self._maps: list[Tensor] = []  # those of the scene that is being put together

    def add(self, cells: Sequence[GridCell], k: int, parts: Sequence[Tensor]) -> tuple[int, list[Tensor]] | None:
        """Add the counted part of the maps ``[..., size, size]`` of window k of a grid.

        Returns:
            For the last window of a scene, the scene's number and maps, `IGNORE` where no window counts; else None.
        """
        scene = cells[k].scene
        if k == 0 or cells[k - 1].scene != scene:
            size = self.sizes[scene].tolist()
            self._maps = [part.new_full((*part.shape[:-2], *size), IGNORE) for part in parts]
        for part, whole in zip(parts, self._maps, strict=True):
            cells[k].paste(part, whole)
        if k < len(cells) - 1 and cells[k + 1].scene == scene:
            return None
        maps, self._maps = self._maps, []
        return scene, maps


class StoreWindows:
    """Square windows of `size` pixels of a store; the sampler gives the place of window k, without an end."""

    def __init__(self, store: Store, size: int, sampler: Places) -> None:
        self.store, self.size, self.sampler = store, size, sampler

    def batch(self, numbers: Sequence[int]) -> Batch:
        """The windows of these numbers as one batch."""
        places = [self.sampler(k) for k in numbers]
        image, layers = self.store.cut(places, self.size)
        scene, top, left = torch.tensor(places, device=self.store.device).unbind(dim=1)
        corner = torch.stack([top, left], dim=1)
        batch: Any = {"image": image, **layers, "scene": scene, "corner": corner, "k": torch.tensor(numbers)}
        return cast(Batch, batch)


class GridWindows(StoreWindows):
    """Grid windows in which every labelled pixel counts once: targets are unknown outside a window's inner part.

    k >= len(self) repeats the last window with an unknown target, so that all ranks get equally many.

    Args:
        store: The scenes.
        size: The windows' side.
        margin: The pixels that are cut away at their inner borders.
        scenes: The numbers of the scenes, in the order of the grid; None: all scenes.
    """

    def __init__(self, store: Store, size: int, margin: int, scenes: NDArray[np.intp] | None = None) -> None:
        super().__init__(store, size, self._place)
        order = np.arange(len(store.sizes)) if scenes is None else scenes
        self.cells = [cell._replace(scene=int(order[cell.scene])) for cell in grid(store.sizes[order], size, margin)]

    def __len__(self) -> int:
        return len(self.cells)

    def _place(self, k: int) -> tuple[int, int, int]:
        return self.cells[min(k, len(self) - 1)][:3]

    @property
    def masked(self) -> bool:
        """Whether any window has pixels outside its inner part."""
        return any((c.inner_bottom - c.inner_top, c.inner_right - c.inner_left) != (self.size, self.size) for c in self.cells)

    def batch(self, numbers: Sequence[int]) -> Batch:
        """The windows of these numbers, labelled in their inner parts."""
        batch = super().batch(numbers)
        layers = layers_of(batch)
        for name, task in self.store.tasks.items():
            for k, target in zip(numbers, layers[name], strict=True):
                cell = self.cells[min(k, len(self) - 1)]
                target[..., : cell.inner_top, :] = task.unknown
                target[..., cell.inner_bottom if k < len(self) else 0 :, :] = task.unknown
                target[..., : cell.inner_left] = task.unknown
                target[..., cell.inner_right :] = task.unknown
        return batch


@dataclass(frozen=True)
class Batches:
    """Window numbers in batches, each shared evenly among the processes that train together.

    Example:
        >>> list(Batches(stop=8, batch_size=2, start=4))
        [[4, 5], [6, 7]]
        >>> [list(Batches(stop=5, batch_size=4, rank=rank, world=2)) for rank in (0, 1)]
        [[[0, 1], [4]], [[2, 3], [5]]]
    """

    stop: int  # the number of windows
    batch_size: int  # windows per batch, a multiple of `world`
    start: int = 0  # the first window to yield; that of a resumed run
    rank: int = 0  # this process's number
    world: int = 1  # the number of processes, which all get equally many windows, at the end up to world - 1 beyond `stop`

    def __len__(self) -> int:
        return -(-self.stop // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for first in range(self.start, self.stop, self.batch_size):
            share = -(-min(self.batch_size, self.stop - first) // self.world)
            yield list(range(first + self.rank * share, first + (self.rank + 1) * share))


@dataclass(frozen=True)
class Loader:
    """Batches of windows, prefetched by threads, in the order of their numbers.

    Threads, not processes: copies from the store release the GIL, and sending a batch to another process would take several
    times as long as cutting it.
    """

    windows: StoreWindows
    batches: Batches
    threads: int  # how many batches are cut at a time; 0: each when it is asked for, as on a GPU

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        if not self.threads:
            yield from map(self.windows.batch, self.batches)
            return
        with ThreadPoolExecutor(self.threads) as pool:
            ahead: deque[Future[Batch]] = deque()
            for numbers in self.batches:
                ahead.append(pool.submit(self.windows.batch, numbers))
                if len(ahead) > 2 * self.threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()


def thread_count(workers: int | None, world: int = 1) -> int:
    """The loader threads of one of `world` processes: as given, else its share of all cores but one, at most 4."""
    return min(4, max(1, (cores() - 1) // world)) if workers is None else workers
