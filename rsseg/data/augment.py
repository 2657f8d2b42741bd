"""Batched augmentation on the device: flips and turns, scaling, cutouts. Parameters of window k depend on (seed, k) alone.

An augmentation gets normalised images, where 0 is the mean of a band, and their layers: targets and, in some batches, weights.
A geometric transform applies to the image and to all layers; lengths and directions in targets change with it (`Task.moved`).
Pixels without a source pixel become 0 in all bands and unknown in the layers. Augmentations that change only pixel values are
in `rsseg.data.radiometry`. An augmentation that needs data from the training split reads it in `Augmentation.fit`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from rsseg.contract import InputError, Layers, check_number, check_whole_number, unknown
from rsseg.data.blocks import Blocks
from rsseg.data.sampling import Read, stream
from rsseg.task import Task


def erase(image: Tensor, layers: Layers, where: Tensor) -> tuple[Tensor, Layers]:
    """Set pixels to 0 in the image and to "not known" in the layers: `IGNORE` among labels, NaN among real numbers."""
    planes = where[:, None]
    erased = {name: layer.masked_fill(where if layer.ndim == 3 else planes, unknown(layer)) for name, layer in layers.items()}
    return image.masked_fill(planes, 0), erased


def dihedral(image: Tensor, element: int) -> Tensor:
    """Apply a symmetry of the square to ``[..., H, W]``: a flip if `element` is 4 to 7, then `element` % 4 quarter turns."""
    flipped = image.flip(-1) if element >= 4 else image
    return torch.rot90(flipped, element % 4, dims=(-2, -1))


def dihedral_matrix(element: int) -> NDArray[np.float64]:
    """The matrix of `dihedral` for a vector (down, across)."""
    turns: NDArray[np.float64] = np.linalg.matrix_power([[0.0, -1.0], [1.0, 0.0]], element % 4)
    return turns @ np.diag([1.0, -1.0]) if element >= 4 else turns


def rescale(
    image: Tensor, layers: Layers, scale: NDArray[np.float64], shift: NDArray[np.float64], tasks: Sequence[Task] = ()
) -> tuple[Tensor, Layers]:
    """Enlarge a part of each window to the whole frame (scale ``[B]`` above 1), or shrink the window into a part of it.

    Output position u samples input position ``u / scale + shift`` (frame coordinates -1 to 1, ``[B, 2]`` down and right):
    images bilinearly, layers by the nearest pixel. Pixels beyond the window are erased. Shrinking does not smooth: below a
    scale of about 0.5, fine texture aliases. Lengths and directions in the targets of `tasks` are scaled too.
    """
    device, inside, nearest, places, beside = image.device, [], [], [], []
    for axis, length in enumerate(image.shape[-2:]):
        centres = (2 * np.arange(length) + 1) / length - 1
        source = centres / scale[:, None] + shift[:, axis, None]
        exact = (source + 1) / 2 * length
        pixel = np.floor(exact).clip(0, length - 1)
        beside.append(torch.from_numpy((pixel + 0.5 - exact) * scale[:, None]).to(image))
        inside.append(torch.from_numpy(np.abs(source) <= 1).to(device))
        nearest.append(torch.from_numpy(pixel.astype(np.int64)).to(device))
        places.append(torch.from_numpy(source).to(image))
    height, width = image.shape[-2:]
    across, down = places[1][:, None, :].expand(-1, height, -1), places[0][:, :, None].expand(-1, -1, width)
    grid = torch.stack([across, down], dim=-1)
    moved = F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)
    taken = {}
    for name, layer in layers.items():
        planes = layer if layer.ndim == 4 else layer[:, None]
        for dim, index in ((2, nearest[0][:, None, :, None]), (3, nearest[1][:, None, None, :])):
            planes = planes.gather(dim, index.expand_as(planes))
        taken[name] = planes.view_as(layer)
    for task in tasks:
        if not task.directed:
            continue
        matrix = torch.from_numpy(scale[:, None, None] * np.eye(2)).to(image)
        off = torch.stack([beside[0][:, :, None].expand(-1, -1, width), beside[1][:, None, :].expand(-1, height, -1)], dim=1)
        taken[task.target] = task.moved(taken[task.target], matrix, off)
    return erase(moved, taken, ~(inside[0][:, :, None] & inside[1][:, None, :]))


def bounds(name: str, values: Any, least: float = 0.0, most: float = math.inf) -> tuple[float, float]:
    """Check (low, high), the bounds between which an amount is drawn."""
    if isinstance(values, str) or not isinstance(values, Sequence) or len(values) != 2:
        raise InputError(f"{name}={values!r}: two numbers are expected, [low, high]; for a fixed amount give it twice")
    low, high = (check_number(f"{name}[{i}]", value, least, most) for i, value in enumerate(values))
    if low > high:
        raise InputError(f"{name}={list(values)}: the lower number has to come first, [{high:g}, {low:g}]")
    return low, high


class Augmentation(ABC):
    """Base class of the config group `augment`. rsseg passes `seed`, `task` and `tasks` to constructors that name them."""

    def fit(self, read: Read, blocks: Blocks, mean: Sequence[float], std: Sequence[float]) -> None:
        """Prepare data from the training split, such as objects to paste; called once in every process before training.

        The state must depend only on the seed and the arguments, so that it is the same in all processes and resumed runs.
        `read` returns stored pixels, which `mean` and `std` of each band normalise.
        """
        return

    @abstractmethod
    def __call__(self, image: Tensor, layers: Layers, k: Tensor) -> tuple[Tensor, Layers]:
        """Augment a batch: image and layers in the same shapes and dtypes.

        Args:
            image: float32 ``[B, C, H, W]``, normalised.
            layers: ``[B, H, W]`` or ``[B, L, H, W]`` each: the targets, see `Batch`, and in some batches a ``weight``.
            k: int64 ``[B]`` on the CPU, the windows' numbers.
        """


class D4(Augmentation):
    """Flips and quarter turns: north is as good as any other side in an aerial image."""

    def __init__(self, seed: int, tasks: Sequence[Task] = ()) -> None:
        self.seed, self.tasks = seed, tasks

    def __call__(self, image: Tensor, layers: Layers, k: Tensor) -> tuple[Tensor, Layers]:
        """Turn each window of a batch. See `Augmentation`."""
        elements = [int(stream(self.seed, number, "d4").integers(8)) for number in k.tolist()]

        def turned(planes: Tensor) -> Tensor:
            return torch.stack([dihedral(window, element) for window, element in zip(planes, elements, strict=True)])

        moved = {name: turned(layer) for name, layer in layers.items()}
        for task in self.tasks:
            if task.directed:
                matrices = np.stack([dihedral_matrix(element) for element in elements])
                moved[task.target] = task.moved(moved[task.target], torch.from_numpy(matrices).to(image))
        return turned(image), moved


class Sometimes(Augmentation):
    """Base class of augmentations that change each window with a probability; subclasses implement `apply`."""

    purpose: ClassVar[str]  # the name of its random numbers, see `rsseg.data.sampling.stream`

    def __init__(self, seed: int, probability: float) -> None:
        self.seed, self.probability = seed, check_number("probability", probability, 0, 1)

    @abstractmethod
    def apply(self, image: Tensor, layers: Layers, streams: Sequence[np.random.Generator]) -> tuple[Tensor, Layers]:
        """Change all given windows, see `Augmentation`. The image is contiguous; `streams` has a generator for each window."""

    def __call__(self, image: Tensor, layers: Layers, k: Tensor) -> tuple[Tensor, Layers]:
        """Change some windows of a batch and return the others unchanged. See `Augmentation`."""
        streams = [stream(self.seed, window, self.purpose) for window in k.tolist()]
        chosen = [i for i, rng in enumerate(streams) if rng.random() < self.probability]
        if not chosen:
            return image, layers
        index = torch.tensor(chosen, device=image.device)
        planes = image[index].contiguous()  # CPUs reduce bands several times faster than in channels_last
        parts = {name: layer[index] for name, layer in layers.items()}
        changed, moved = self.apply(planes, parts, [streams[i] for i in chosen])
        return image.index_copy(0, index, changed), {
            name: layer.index_copy(0, index, moved[name]) for name, layer in layers.items()
        }


class ScaleCrop(Sometimes):
    """Simulates another ground sampling distance: enlarges a random part of the window, or shrinks it within the frame.

    Args:
        scale: (low, high) between which a window's scale is drawn, log-uniformly; above 1 zooms in.
        probability: The share of the windows that are scaled.
    """

    purpose = "scale_crop"

    def __init__(self, seed: int, scale: tuple[float, float], probability: float = 1.0, tasks: Sequence[Task] = ()) -> None:
        super().__init__(seed, probability)
        self.tasks = tasks
        self.scale = bounds("scale", scale, 0.1, 10)

    def apply(self, image: Tensor, layers: Layers, streams: Sequence[np.random.Generator]) -> tuple[Tensor, Layers]:
        """Draw scale and place of each window, then move them together."""
        scale = np.exp([rng.uniform(*np.log(self.scale)) for rng in streams])
        reach = np.abs(1 - 1 / scale)  # how far the part can move within the window, or the window within the frame
        return rescale(image, layers, scale, reach[:, None] * [rng.uniform(-1, 1, 2) for rng in streams], self.tasks)


class CutOut(Sometimes):
    """Hides rectangles (DeVries and Taylor 2017), so that a model learns to use the surroundings of an object.

    Hidden pixels become unknown in the layers, so that the loss does not count them.

    Args:
        count: The number of rectangles per window; they may overlap.
        size: (low, high) between which a rectangle's height and width are drawn, as shares of the window's.
        probability: The share of the windows that get holes.
    """

    purpose = "cutout"

    def __init__(self, seed: int, count: int, size: tuple[float, float], probability: float = 1.0) -> None:
        super().__init__(seed, probability)
        self.count, self.size = check_whole_number("count", count, 1, 100), bounds("size", size, 0, 1)

    def apply(self, image: Tensor, layers: Layers, streams: Sequence[np.random.Generator]) -> tuple[Tensor, Layers]:
        """Draw the rectangles of each window, wholly inside it, and erase them."""
        shares = np.stack([rng.uniform(*self.size, (2, self.count)) for rng in streams])
        places = np.stack([rng.random((2, self.count)) for rng in streams])
        sides = []
        for axis, length in enumerate(image.shape[-2:]):
            extent = np.rint(shares[:, axis] * length)
            first = np.floor(places[:, axis] * (length - extent + 1))
            pixels = np.arange(length)
            covered = (pixels >= first[..., None]) & (pixels < (first + extent)[..., None])
            sides.append(torch.from_numpy(covered).to(image.device))
        return erase(image, layers, (sides[0][..., :, None] & sides[1][..., None, :]).any(dim=1))
