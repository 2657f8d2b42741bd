"""Copy-paste of rare objects into other windows, in place of SMOTE.

SMOTE (Chawla et al. 2002) creates a sample of a rare class by interpolating between two others. The result may be a plausible
row of a table, but not a plausible image: the average of two images is a double exposure, their objects do not align pixel by
pixel, and the label of an averaged pixel is a mixture of two classes. Whole objects, however, can be combined with other
surroundings (Copy-Paste, Ghiasi et al. 2021), as is done here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label
from torch import Tensor

from rsseg.contract import ONE_TARGET, InputError, Layers, check_whole_number, indices, known
from rsseg.data.augment import Sometimes
from rsseg.data.blocks import Blocks
from rsseg.data.sampling import Read, stream
from rsseg.task import Task

BLOCKS_PER_PIECE = 20  # how many blocks are looked into, at most, for each piece that is wanted


class Cutout(NamedTuple):
    """An object cut out of a scene, in its bounding box."""

    image: Tensor  # float32 [C, h, w], normalised
    layers: Layers  # [h, w] or [L, h, w] each
    inside: Tensor  # bool [h, w], its pixels

    def to(self, image: Tensor) -> Cutout:
        """The cutout on the device of an image, its own image also in that image's dtype."""
        layers = {name: layer.to(image.device) for name, layer in self.layers.items()}
        return Cutout(self.image.to(image), layers, self.inside.to(image.device))


Region: TypeAlias = tuple[tuple[slice, slice], NDArray[np.bool_]]  # A box, and which of its pixels belong to the region


def regions(has: NDArray[np.bool_], least: int, centre: tuple[int, int], side: int) -> list[Region]:
    """Connected regions (8 neighbours) of `least` pixels or more, smaller than a square and with their centre in it."""
    numbered, _ = label(has, structure=np.ones((3, 3)))
    areas = np.bincount(numbered.ravel())
    return [
        (box, numbered[box] == n)
        for n, box in enumerate(find_objects(numbered), start=1)
        if areas[n] >= least
        and all(part.stop - part.start < side for part in box)
        and all(first <= (part.start + part.stop) // 2 < first + side for part, first in zip(box, centre, strict=True))
    ]


class Paste(Sometimes):
    """Pastes rare objects, connected regions of a class with their image and layers, into windows.

    The objects come from a bank that `fit` cuts once from the training split; which of them a window gets, and where, is a
    function of (seed, k). Objects keep their size and direction: add augmentations after it, ``augment=[paste,d4]``. Pasted
    pixels replace those of image and layers. Ignored pixels, such as those beyond a scene's edge, stay as they are (multilabel:
    pixels that are ignored in every plane).

    Like oversampling, it raises the frequency of the pasted classes above that in the data, so that a trained model predicts
    them too often. Objects may also be pasted into surroundings where they do not occur.

    Args:
        classes: The classes to paste, each equally often; None: the class with the fewest training pixels.
        count: The number of objects per window.
        bank: The largest number of objects kept of each class.
        min_area: The least number of pixels of an object; smaller regions are specks.
        probability: The share of the windows that get objects.
    """

    purpose = "paste"

    def __init__(
        self,
        seed: int,
        task: Task,
        classes: Sequence[str] | None = None,
        count: int = 3,
        bank: int = 200,
        min_area: int = 16,
        probability: float = 0.5,
    ) -> None:
        super().__init__(seed, probability)
        if task.real:
            raise InputError(
                f"regions of a class are cut from masks of labels; a {task.kind} task has none: leave augment=paste out"
            )
        self.count, self.bank = check_whole_number("count", count, 1, 100), check_whole_number("bank", bank, 1, 10_000)
        self.min_area = check_whole_number("min_area", min_area, 1, 10_000)
        self.task, self.wanted = task, indices("classes", classes or (), task.classes)
        self.pieces: list[list[Cutout]] = []

    def fit(self, read: Read, blocks: Blocks, mean: Sequence[float], std: Sequence[float]) -> None:
        """Fill the bank with objects that are smaller than a block, from randomly drawn blocks."""
        totals = blocks.counts[:, :-1].sum(axis=0, dtype=np.int64)
        occurs = np.flatnonzero(totals)
        labels = self.wanted or [int(occurs[totals[occurs].argmin()])]
        scale = [np.asarray(values, dtype=np.float32)[:, None, None] for values in (mean, std)]
        self.pieces = [self._cut_all(read, blocks, wanted, scale) for wanted in labels]

    def _cut_all(self, read: Read, blocks: Blocks, wanted: int, scale: Sequence[NDArray[np.float32]]) -> list[Cutout]:
        found: list[Cutout] = []
        order = stream(self.seed, wanted, "paste bank").permutation(np.flatnonzero(blocks.counts[:, wanted]))
        for block in order[: BLOCKS_PER_PIECE * self.bank].tolist():
            found += self._cut(read, blocks, block, wanted, scale)
            if len(found) >= self.bank:
                break
        if not found:
            raise InputError(
                f"class {self.task.classes[wanted]}: no training region of {self.min_area} pixels or more is smaller than "
                f"{blocks.size} px, so none can be pasted: name others in augment.paste.classes, or lower min_area"
            )
        return found[: self.bank]

    def _cut(self, read: Read, blocks: Blocks, block: int, wanted: int, scale: Sequence[NDArray[np.float32]]) -> list[Cutout]:
        """The objects whose centre is in a block; half a block around it is read too, so that objects are complete."""
        side, first = blocks.size, [int(blocks.top[block]), int(blocks.left[block])]
        start = [max(place - side // 2, 0) for place in first]
        pixels, layers = read(int(blocks.scene[block]), start[0], start[1], 2 * side)
        has = self.task.class_masks(layers[self.task.target])[wanted]
        found = []
        for box, inside in regions(has, self.min_area, (first[0] - start[0], first[1] - start[1]), side):
            image = (pixels[:, *box].astype(np.float32) - scale[0]) / scale[1]
            own = {name: torch.from_numpy(layer[..., *box].copy()) for name, layer in layers.items()}
            found.append(Cutout(torch.from_numpy(np.ascontiguousarray(image)), own, torch.from_numpy(inside)))
        return found

    def apply(self, image: Tensor, layers: Layers, streams: Sequence[np.random.Generator]) -> tuple[Tensor, Layers]:
        """Draw the objects of each window and their places, wholly inside it if they fit, and paste one after the other."""
        if not self.pieces:
            raise RuntimeError("Paste.fit has to be called before windows are augmented")
        if self.pieces[0][0].image.device != image.device:
            self.pieces = [[piece.to(image) for piece in pieces] for pieces in self.pieces]
        image, layers = image.clone(), {name: layer.clone() for name, layer in layers.items()}
        for i, rng in enumerate(streams):
            window, own = image[i], {name: layer[i] for name, layer in layers.items()}
            for _ in range(self.count):
                pieces = self.pieces[int(rng.integers(len(self.pieces)))]
                piece = pieces[int(rng.integers(len(pieces)))].to(image)
                paste(window, own, piece, rng.random(2), self.task.target)
        return image, layers


def paste(image: Tensor, layers: Layers, piece: Cutout, place: NDArray[np.float64], target: str = ONE_TARGET) -> None:
    """Paste an object into a window, in place. Parts beyond a small window are cut off; ignored pixels stay as they are."""
    here = []
    for length, extent, share in zip(image.shape[-2:], piece.inside.shape, place.tolist(), strict=True):
        fitting = min(extent, length)
        first = int(share * (length - fitting + 1))
        here.append(slice(first, first + fitting))
    own = (..., slice(here[0].stop - here[0].start), slice(here[1].stop - here[1].start))
    there = (..., here[0], here[1])
    labelled = known(layers[target][there])
    where = piece.inside[own] & (labelled.any(dim=0) if labelled.ndim == 3 else labelled)
    image[there] = torch.where(where, piece.image[own], image[there])
    for name, layer in layers.items():
        layer[there] = torch.where(where, piece.layers[name][own], layer[there])
