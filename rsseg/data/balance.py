"""Samplers for imbalanced classes: oversampling of rare classes, or fewer windows that show only the most frequent class.

Pixels are counted once per block, so that a draw is a binary search. `Balanced`, `Undersample` and `NearBorder` correspond to
RandomOverSampler, RandomUnderSampler and NearMiss of imbalanced-learn, but draw windows instead of single samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from rsseg.contract import InputError, check_number, indices
from rsseg.data.blocks import Blocks
from rsseg.data.sampling import Read, Sampler, Uniform, around, stream
from rsseg.task import Task


class Balanced(Sampler):
    """Oversamples rare classes: draws a class, then a pixel of it, then a window around the pixel.

    All pixels of the drawn class are equally likely, and so are all windows of the scene that contain the drawn pixel. Binary
    tasks also have the class "background"; the classes of multilabel tasks are their labels. Like class weights, the sampler
    changes the class frequencies that the loss sees: with both, the effects multiply.

    Args:
        power: A class with n pixels is drawn in proportion to ``n ** power``: 0 draws all classes alike, 1 by frequency.
        weights: Draw classes in proportion to these numbers, by class name, instead; classes without a number are not drawn.

    Raises:
        InputError: If a class is unknown or never occurs, `power` is outside 0 to 1, or the weights are negative or all 0.
    """

    def __init__(
        self,
        seed: int,
        sizes: NDArray[np.int64],
        window: int,
        blocks: Blocks,
        task: Task,
        read: Read,
        power: float = 0.0,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(seed, sizes, window)
        self.task, self.read, self.blocks = task, read, blocks
        counts = blocks.by_label(task)
        totals = counts.sum(axis=0)
        weight = _class_weights(totals, task.label_names, check_number("power", power, 0, 1), weights)
        self._labels = np.flatnonzero(weight)
        self._drawn = np.cumsum(weight[self._labels]) / weight.sum()
        self._holders = [np.flatnonzero(counts[:, label]).astype(np.int32) for label in self._labels]
        self._pixels = [np.cumsum(counts[held, label]) for label, held in zip(self._labels, self._holders, strict=True)]

    def draw(self, rng: np.random.Generator) -> tuple[int, int, int]:
        drawn = min(int(np.searchsorted(self._drawn, rng.random(), side="right")), len(self._labels) - 1)
        pixels = self._pixels[drawn]
        n = int(rng.integers(pixels[-1]))  # the n-th pixel of the class in the split
        holder = int(np.searchsorted(pixels, n, side="right"))
        block = int(self._holders[drawn][holder])
        scene, top, left = (int(of[block]) for of in (self.blocks.scene, self.blocks.top, self.blocks.left))
        mask = np.asarray(self.read(scene, top, left, self.blocks.size)[1][self.task.target])
        inside = np.flatnonzero(self.task.label_mask(mask, int(self._labels[drawn])))
        y, x = divmod(int(inside[n - (int(pixels[holder - 1]) if holder else 0)]), self.blocks.size)
        return scene, *around(rng, (top + y, left + x), self.sizes[scene], self.window)


def _class_weights(
    totals: NDArray[np.int64], names: Sequence[str], power: float, weights: Mapping[str, float] | None
) -> NDArray[np.float64]:
    if weights is None:
        return np.where(totals > 0, np.maximum(totals, 1) / max(totals.sum(), 1), 0.0) ** power * (totals > 0)
    if power:
        raise InputError(f"power={power:g} and weights={dict(weights)}: give one of the two")
    indices("weights", weights, names)  # refuses a class that is not known
    found = np.array([check_number(f"weights.{name}", weights.get(name, 0)) for name in names])
    absent = [name for name, weight, total in zip(names, found, totals, strict=True) if weight and not total]
    if absent:
        raise InputError(f"weights: no training pixel is labelled {absent[0]}, so it can't be drawn: leave it out")
    if not found.any():
        raise InputError(f"weights={dict(weights)}: at least one class needs a number above 0")
    return found


class Undersample(Sampler):
    """Undersamples windows that show only the majority class.

    The majority class has the most training pixels; binary tasks also have the class "background", and for multilabel tasks the
    majority are the pixels without any label. In a majority block all labelled pixels are of this class. A share `keep` of the
    majority blocks is drawn once and kept, as are all blocks with another class. A window is then drawn uniformly among those
    of the scene that contain a pixel, which is drawn uniformly from the kept blocks.
    """

    def __init__(
        self, seed: int, sizes: NDArray[np.int64], window: int, blocks: Blocks, task: Task, keep: float = 0.25
    ) -> None:
        super().__init__(seed, sizes, window)
        share = check_number("keep", keep, 0, 1)
        minority = _minority(blocks, task)
        rest = np.flatnonzero(~minority & (blocks.labelled > 0))
        kept = minority.copy()
        kept[self._order(blocks, minority, rest)[: round(share * len(rest))]] = True
        self.scene = blocks.scene[kept]
        self.extent = np.stack([blocks.top, blocks.left, blocks.height, blocks.width], axis=1)[kept]
        self._areas = np.cumsum(self.extent[:, 2:].prod(axis=1, dtype=np.int64))

    def _order(self, blocks: Blocks, minority: NDArray[np.bool_], rest: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sort the majority blocks `rest`, the ones to keep first."""
        return stream(self.seed, 0, "undersample").permutation(rest)

    def draw(self, rng: np.random.Generator) -> tuple[int, int, int]:
        block = int(np.searchsorted(self._areas, rng.integers(self._areas[-1]), side="right"))
        top, left, height, width = self.extent[block].tolist()
        pixel = top + int(rng.integers(height)), left + int(rng.integers(width))
        scene = int(self.scene[block])
        return scene, *around(rng, pixel, self.sizes[scene], self.window)


class NearBorder(Undersample):
    """Undersampling that keeps the majority blocks nearest to a block with another class.

    Like NearMiss-1 (Zhang and Mani 2003) with one neighbour, but with the distance between block centres within a scene, in
    pixels, instead of a distance between features. Scenes without another class come last; ties are broken at random.
    """

    def _order(self, blocks: Blocks, minority: NDArray[np.bool_], rest: NDArray[np.int64]) -> NDArray[np.int64]:
        apart = 1 + float(np.hypot(*self.sizes.max(axis=0)))  # so far apart that the nearest block is in the same scene
        centres = np.stack([blocks.scene * apart, blocks.top + blocks.height / 2, blocks.left + blocks.width / 2], axis=1)
        distance, _ = cKDTree(centres[minority]).query(centres[rest], distance_upper_bound=apart)
        return rest[np.lexsort((super()._order(blocks, minority, np.arange(len(rest))), distance))]


def _minority(blocks: Blocks, task: Task) -> NDArray[np.bool_]:
    """The blocks that hold a pixel of another class than the most frequent one."""
    counts = blocks.by_label(task)
    if not task.separate:
        counts[:, counts.sum(axis=0).argmax()] = 0
    found = np.asarray(counts.any(axis=1))
    if not found.any():
        raise InputError(
            "no training pixel has another class than the most frequent one, so nothing is rare: take sampler=uniform"
        )
    return found


class Without(Uniform):
    """Draws windows that show no pixel of the given classes, by rejection from `Uniform`.

    After 1000 rejected windows in a row, an `InputError` is raised.
    """

    def __init__(
        self, seed: int, sizes: NDArray[np.int64], window: int, task: Task, read: Read, classes: Sequence[str]
    ) -> None:
        super().__init__(seed, sizes, window)
        self.task, self.read, self.wanted = task, read, indices("classes", classes, task.classes)

    def draw(self, rng: np.random.Generator) -> tuple[int, int, int]:
        for _ in range(1000):
            scene, top, left = super().draw(rng)
            layers = self.read(scene, top, left, self.window)[1]
            masks = self.task.class_masks(np.asarray(layers[self.task.target]))
            if not any(masks[c].any() for c in self.wanted):
                return scene, top, left
        names = " or ".join(self.task.classes[c] for c in self.wanted)
        raise InputError(f"no window of {self.window} px without {names} was found: take a smaller window=...")
