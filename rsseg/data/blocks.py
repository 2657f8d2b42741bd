"""A split's scenes cut into square blocks, and how many pixels of each class a block holds: what samplers draw from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rsseg.task import Task

SIZE = 128  # side of a block in pixels


class Extent(NamedTuple):
    """Where blocks lie in their scenes, in pixels; int64 ``[N]`` each."""

    top: NDArray[np.int64]
    left: NDArray[np.int64]
    height: NDArray[np.int64]
    width: NDArray[np.int64]


@dataclass(frozen=True)
class Blocks:
    """All blocks of a split. Its methods take the ``sizes`` of the scenes: ``[S, 2]``, height and width.

    Attributes:
        size: Side of a block in pixels.
        counts: uint16 ``[N, K + 1]``, the pixels of each class in each block (binary, multilabel: of label 1), last the
            ignored ones (multilabel: those ignored in every plane).
        scene: int32 ``[N]``, the scene that a block lies in.
        row: int32 ``[N]``; a block's first pixel is ``row * size, col * size``.
        col: int32 ``[N]``.
    """

    size: int
    counts: NDArray[np.uint16]
    scene: NDArray[np.int32]
    row: NDArray[np.int32]
    col: NDArray[np.int32]

    @classmethod
    def of(cls, counts: NDArray[np.uint16], sizes: NDArray[np.int64], size: int = SIZE) -> Blocks:
        """All blocks of a split, from their counts, scene by scene, row by row.

        Example:
            >>> blocks = Blocks.of(np.zeros((3, 2), np.uint16), np.array([[100, 200], [9, 9]]))
            >>> blocks.scene.tolist(), blocks.col.tolist()
            ([0, 0, 1], [0, 1, 0])
        """
        grid = -(-sizes // size)
        each = grid.prod(axis=1)
        scene = np.repeat(np.arange(len(sizes)), each)
        within = np.arange(each.sum()) - np.repeat(np.cumsum(each) - each, each)
        row, col = np.divmod(within, grid[scene, 1])
        return cls(size, counts, scene.astype(np.int32), row.astype(np.int32), col.astype(np.int32))

    def __len__(self) -> int:
        return len(self.counts)

    def extent(self, sizes: NDArray[np.int64]) -> Extent:
        """Where the blocks lie."""
        top, left = self.row.astype(np.int64) * self.size, self.col.astype(np.int64) * self.size
        height, width = sizes[self.scene].T
        return Extent(top, left, np.minimum(self.size, height - top), np.minimum(self.size, width - left))

    def labelled(self, sizes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which blocks hold a labelled pixel."""
        extent = self.extent(sizes)
        return self.counts[:, -1] < extent.height * extent.width

    def by_label(self, task: Task, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
        """The pixels of each block by label: int64 ``[N, len(task.label_names)]``."""
        positives = self.counts[:, :-1].astype(np.int64)
        extent = self.extent(sizes)
        valid = extent.height * extent.width - self.counts[:, -1]
        return task.label_counts(positives, valid[:, None])[0]
