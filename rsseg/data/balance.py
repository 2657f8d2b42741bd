"""Samplers against imbalance: rare classes more often, or fewer windows that show the most frequent class alone.

The split is counted once, in blocks; a draw then is a binary search. They are, in the words of imbalanced-learn,
RandomOverSampler, RandomUnderSampler and NearMiss, but of windows: the pixels around a drawn one come along with it.
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
    """Rare classes more often (imbalanced-learn: RandomOverSampler): a class, then a pixel of it, then a window around it.

    All pixels of the drawn class are equally likely, and so are all windows in the scene that contain the drawn one. For binary
    tasks "background" is a class too; for multilabel the labels are the classes. It changes the share of the classes that a
    model sees, as class weights do: with both, the two multiply.

    Args:
        power: A class is drawn in proportion to its pixels to this power: 0 draws all that occur alike, 1 as often as they are.
        weights: In proportion to these numbers, by class name, instead; classes that it leaves out are not drawn.

    Raises:
        InputError: For a class that is not known or never occurs, a power outside 0 to 1, or numbers below 0 or all 0.
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
    """Fewer windows of the majority class alone (imbalanced-learn: RandomUnderSampler).

    The majority is the class with the most training pixels; for binary tasks "background" is a class too, for multilabel tasks
    the majority are the pixels without any label. A block that holds nothing else (but ignored pixels) is a majority block. Of
    these the share `keep` is kept, drawn once; each window then lies around a pixel that is drawn evenly from all kept blocks,
    and evenly among the windows in the scene that contain it.
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
        """The majority blocks `rest`, those to keep first."""
        return stream(self.seed, 0, "undersample").permutation(rest)

    def draw(self, rng: np.random.Generator) -> tuple[int, int, int]:
        block = int(np.searchsorted(self._areas, rng.integers(self._areas[-1]), side="right"))
        top, left, height, width = self.extent[block].tolist()
        pixel = top + int(rng.integers(height)), left + int(rng.integers(width))
        scene = int(self.scene[block])
        return scene, *around(rng, pixel, self.sizes[scene], self.window)


class NearBorder(Undersample):
    """`Undersample` that keeps the majority blocks nearest to a block with another class, where borders are learnt.

    As NearMiss-1 (Zhang and Mani 2003) with one neighbour and with distance on the ground instead of between features: from
    centre to centre of the blocks within a scene. Scenes without another class come last; ties are drawn.
    """

    def _order(self, blocks: Blocks, minority: NDArray[np.bool_], rest: NDArray[np.int64]) -> NDArray[np.int64]:
        apart = 1 + float(np.hypot(*self.sizes.max(axis=0)))  # lay the scenes out so that none has its nearest in another
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
    """Windows that show no pixel of some classes, by name, evenly among the windows of the training scenes.

    A window is drawn again while it shows one of them; a thousand in a row are refused.
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
