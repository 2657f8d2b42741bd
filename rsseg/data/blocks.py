"""A split's scenes cut into square blocks, and how many pixels of each class a block holds: what samplers draw from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rsseg.contract import IGNORE, Head, TaskKind

SIZE = 128
"""Side of a block in pixels."""


def count(mask: NDArray[np.uint8], head: Head, size: int = SIZE) -> NDArray[np.uint16]:
    """Count the pixels of each class in every block of a mask.

    A large scene can be counted in strips of rows: where each but the last has a multiple of `size` rows, their counts stacked
    (`numpy.concatenate`) are those of the whole.

    Args:
        mask: uint8 ``[H, W]``, or ``[L, H, W]`` for multilabel; no-data pixels as `IGNORE`.
        head: Task and classes.
        size: Side of a block, at most 255.

    Returns:
        ``[rows, columns, K + 1]``: per class the pixels that are labelled so (binary, multilabel: with label 1), and last
        those that are ignored (multilabel: in every plane). Blocks at the lower and right edge hold what is left.

    Example:
        >>> count(np.array([[0, 1, 255]], np.uint8), Head(TaskKind.multiclass, ("land", "water")), size=2).tolist()
        [[[1, 1, 0], [0, 0, 1]]]
    """
    height, width = mask.shape[-2:]
    columns = np.arange(0, width, size)
    counts = np.empty((-(-height // size), len(columns), head.channels + 1), dtype=np.uint16)
    for row, top in enumerate(range(0, height, size)):
        strip = mask[..., top : top + size, :]
        ignored = strip == IGNORE
        planes = [*held(strip, head), ignored.all(axis=0) if ignored.ndim == 3 else ignored]
        for k, plane in enumerate(planes):
            in_column = np.add.reduce(
                plane.view(np.uint8), axis=0, dtype=np.uint8
            )  # in bytes: ten times faster than wider sums
            counts[row, :, k] = np.add.reduceat(in_column, columns, dtype=np.uint16)
    return counts


def held(mask: NDArray[np.uint8], head: Head) -> list[NDArray[np.bool_]]:
    """Per class, where a mask has it: bool ``[H, W]`` each."""
    if head.task is TaskKind.multilabel:
        return [plane == 1 for plane in mask]
    return [mask == label for label in (range(head.channels) if head.task is TaskKind.multiclass else (1,))]


class Extent(NamedTuple):
    """Where blocks lie in their scenes, in pixels; int64 ``[N]`` each."""

    top: NDArray[np.int64]
    left: NDArray[np.int64]
    height: NDArray[np.int64]
    width: NDArray[np.int64]


@dataclass(frozen=True)
class Blocks:
    """All blocks of a split.

    Attributes:
        size: Side of a block in pixels.
        counts: uint16 ``[N, K + 1]``, the labelled pixels of each class in each block, the ignored ones last, see `count`.
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
    def of(cls, grids: Sequence[NDArray[np.uint16]], size: int = SIZE) -> Blocks:
        """All blocks of a split from the counts of its scenes, row by row.

        Args:
            grids: Per scene, what `count` gives: ``[rows, columns, K + 1]``.
            size: Side of a block.

        Example:
            >>> head = Head(TaskKind.binary, ("building",))
            >>> blocks = Blocks.of([count(np.ones((200, 300), np.uint8), head), count(np.zeros((9, 9), np.uint8), head)])
            >>> blocks.scene.tolist(), blocks.col.tolist(), blocks.counts[:, 0].tolist()
            ([0, 0, 0, 0, 0, 0, 1], [0, 1, 2, 0, 1, 2, 0], [16384, 16384, 5632, 9216, 9216, 3168, 0])
        """
        rows, columns = np.array([grid.shape[:2] for grid in grids], dtype=np.int64).T
        per_scene = rows * columns
        scene = np.repeat(np.arange(len(grids)), per_scene)
        index = np.arange(len(scene)) - np.repeat(np.cumsum(per_scene) - per_scene, per_scene)
        row, col = np.divmod(index, columns[scene])
        counts = np.concatenate([grid.reshape(-1, grid.shape[-1]) for grid in grids])
        return cls(size, counts, scene.astype(np.int32), row.astype(np.int32), col.astype(np.int32))

    def __len__(self) -> int:
        return len(self.counts)

    def extent(self, sizes: NDArray[np.int64]) -> Extent:
        """Where the blocks lie.

        Args:
            sizes: ``[S, 2]``, height and width of each scene.
        """
        top, left = self.row.astype(np.int64) * self.size, self.col.astype(np.int64) * self.size
        height, width = sizes[self.scene].T
        return Extent(top, left, np.minimum(self.size, height - top), np.minimum(self.size, width - left))

    def by_label(self, head: Head, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
        """The pixels of each block by label: for binary those of label 0 and 1, else one column per class.

        Args:
            head: Task and classes.
            sizes: ``[S, 2]``, height and width of each scene.

        Returns:
            ``[N, 2]``, ``[N, C]`` or ``[N, L]``.
        """
        positives = self.counts[:, :-1].astype(np.int64)
        if head.task is not TaskKind.binary:
            return positives
        extent = self.extent(sizes)
        negatives = extent.height * extent.width - self.counts.sum(axis=1, dtype=np.int64)
        return np.column_stack([negatives, positives])
