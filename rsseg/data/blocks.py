"""Blocks: squares of a scene that samplers draw from; their pixels per class are counted during decoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsseg.contract import IGNORE
from rsseg.task import Task

SIZE = 128  # side of a block in pixels
LATTICE = 32  # the stride in rows and columns of the pixel sample for percentiles


class Blocks:
    """All blocks of a split, scene by scene, row by row.

    Args:
        counts: uint16 ``[N, K + 1]``, the number of pixels of each class per block (binary, multilabel: of label 1); the last
            column counts ignored pixels (multilabel: ignored in every plane).
        sizes: ``[S, 2]``, height and width of the scenes.
        size: The side of a block in pixels.

    Attributes:
        scene: int32 ``[N]``, the scene of each block.
        top: int32 ``[N]``, the first row of each block in its scene; likewise `left`, `height` and `width`.

    Example:
        >>> blocks = Blocks(np.zeros((3, 2), np.uint16), np.array([[100, 200], [9, 9]]))
        >>> blocks.scene.tolist(), blocks.left.tolist(), blocks.width.tolist()
        ([0, 0, 1], [0, 128, 0], [128, 72, 9])
    """

    def __init__(self, counts: NDArray[np.uint16], sizes: NDArray[np.int64], size: int = SIZE) -> None:
        grid = -(-sizes // size)
        each = grid.prod(axis=1)
        scene = np.repeat(np.arange(len(sizes)), each)
        within = np.arange(each.sum()) - np.repeat(np.cumsum(each) - each, each)
        corner = size * np.stack(np.divmod(within, grid[scene, 1]))
        extent = np.minimum(size, sizes[scene].T - corner)
        self.size, self.counts, self.scene = size, counts, scene.astype(np.int32)
        self.top, self.left = corner.astype(np.int32)
        self.height, self.width = extent.astype(np.int32)

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def labelled(self) -> NDArray[np.int64]:
        """The number of labelled pixels per block, int64 ``[N]``; multilabel: labelled in any plane."""
        return self.height.astype(np.int64) * self.width - self.counts[:, -1]

    def by_label(self, task: Task) -> NDArray[np.int64]:
        """The number of pixels of each label per block: int64 ``[N, len(task.label_names)]``."""
        return task.label_counts(self.counts[:, :-1].astype(np.int64), self.labelled[:, None])[0]


class Moments:
    """Running count, mean, sum of squared deviations, minimum and maximum per row of numbers (Chan et al. 1983)."""

    def __init__(self, rows: int) -> None:
        self.count, self.mean, self.deviation = np.zeros(rows), np.zeros(rows), np.zeros(rows)
        self.low, self.high = np.full(rows, np.inf), np.full(rows, -np.inf)

    def add(self, row: int, numbers: NDArray[np.generic]) -> None:
        """Add numbers to a row, without the cancellation of a plain sum of squares."""
        if not len(numbers):
            return
        exact = numbers.astype(np.float64)
        mean = exact.mean()
        exact -= mean
        whole, step = self.count[row] + len(numbers), mean - self.mean[row]
        self.deviation[row] += np.dot(exact, exact) + step**2 * self.count[row] * len(numbers) / whole
        self.mean[row] += step * len(numbers) / whole
        self.low[row], self.high[row] = min(self.low[row], numbers.min()), max(self.high[row], numbers.max())
        self.count[row] = whole

    def table(self) -> NDArray[np.float64]:
        """Number, mean, sum of squared deviations, minimum and maximum, ``[5, rows]``."""
        return np.stack([self.count, self.mean, self.deviation, self.low, self.high])


class TargetCounter:
    """Counts the labels or real values of one target of a scene of `size` (height, width), part by part."""

    def __init__(self, task: Task, size: tuple[int, int]) -> None:
        self.task = task
        self.labels = np.zeros((2, task.channels), np.int64)
        self.blocks = np.zeros((*(-(-length // SIZE) for length in size), task.channels + 1), np.int64)
        self.values = Moments(len(task.value_names))

    def add(self, top: int, left: int, target: NDArray[np.generic]) -> None:
        """Count a part ``[*planes, h, w]`` whose upper left pixel is (top, left) in the scene."""
        self._add_labels(top, left, self.task.hard_labels(target))
        for row, values in enumerate(self.task.values(target)):
            self.values.add(row, values)

    def _add_labels(self, top: int, left: int, labels: NDArray[np.integer]) -> None:
        """Count labels by block."""
        kinds = self.task.labels
        rows, columns = (start + np.arange(n) for start, n in zip((top, left), labels.shape[-2:], strict=True))
        first, last = (top // SIZE, left // SIZE), (rows[-1] // SIZE, columns[-1] // SIZE)
        shape = last[0] - first[0] + 1, last[1] - first[1] + 1
        block = ((rows // SIZE - first[0]) * shape[1])[:, None] + (columns // SIZE - first[1])
        found = self.blocks[first[0] : last[0] + 1, first[1] : last[1] + 1]
        for i, plane in enumerate(labels.reshape(-1, *labels.shape[-2:])):
            code = block * (kinds + 1) + np.minimum(plane, kinds)  # the ignored ones are the last kind
            counts = np.bincount(code.ravel(), minlength=shape[0] * shape[1] * (kinds + 1)).reshape(*shape, kinds + 1)
            total = counts.sum(axis=(0, 1))
            own, classes = (slice(kinds), slice(kinds)) if self.task.exclusive else (slice(1, 2), slice(i, i + 1))
            found[..., classes] += counts[..., own]
            self.labels[0, classes] += total[own]
            self.labels[1, classes] += total[:kinds].sum()
            if labels.ndim == 2:
                found[..., -1] += counts[..., -1]
        if labels.ndim == 3:
            nothing = block[(labels == IGNORE).all(axis=0)]
            found[..., -1] += np.bincount(nothing, minlength=shape[0] * shape[1]).reshape(shape)


class Counter:
    """Counts the image and all targets of a scene of `size` (height, width) part by part, while the scene is decoded."""

    def __init__(self, tasks: Sequence[Task], size: tuple[int, int], bands: int) -> None:
        self.size, self.targets, self.bands = size, [TargetCounter(task, size) for task in tasks], Moments(bands)
        self.sample: list[NDArray[np.generic]] = []

    def add(
        self,
        top: int,
        left: int,
        image: NDArray[np.generic],
        missing: NDArray[np.bool_],
        layers: Mapping[str, NDArray[np.generic]],
    ) -> None:
        """Count a part: image ``[C, h, w]``, bool ``[h, w]``, true where it has no data, and the scene's targets by name."""
        for counter in self.targets:
            task = counter.task
            target = layers.get(task.target)
            counter.add(top, left, task.unknown_target(missing.shape) if target is None else target)
        rows, columns = (
            np.arange(min(LATTICE // 2, whole // 2), whole, LATTICE) - start
            for start, whole in zip((top, left), self.size, strict=True)
        )
        cross = np.ix_(*(at[(at >= 0) & (at < n)] for at, n in zip((rows, columns), missing.shape, strict=True)))
        self.sample.append(image[:, *cross][:, ~missing[cross]].T)
        pixels = image[:, ~missing] if missing.any() else image.reshape(len(image), -1)
        for band, values in enumerate(pixels):
            self.bands.add(band, values)

    def counts(self, dtype: np.dtype[Any]) -> dict[str, NDArray[Any]]:
        """The counts as arrays by name; `dtype` is that of the scene's pixels.

        Returns:
            - ``layout``: int64 ``[3]``: height, width, and the number of pixels without data.
            - ``bands``: float64 ``[4, C]``: mean, sum of squared deviations from it, minimum, maximum.
            - ``sample``: ``[n, C]`` in the scene's dtype: pixels with data in every 32nd row and column.
            - ``0_labels``, and so on for each target: int64 ``[2, K]``: pixels of each class, labelled pixels.
            - ``0_blocks``: uint16 ``[rows, columns, K + 1]``, as in `Blocks`.
            - ``0_values``: float64 ``[5, V]``, of V real values, as `Moments.table`; V is 0 for labels.
        """
        (height, width), bands = self.size, self.bands.table()
        counts: dict[str, NDArray[Any]] = {
            "layout": np.array([height, width, height * width - int(bands[0, 0])]),
            "bands": bands[1:],
            "sample": np.concatenate(self.sample).astype(dtype, copy=False),
        }
        for place, target in enumerate(self.targets):
            counts[f"{place}_labels"] = target.labels
            counts[f"{place}_blocks"] = target.blocks.astype(np.uint16)
            counts[f"{place}_values"] = target.values.table()
        return counts
