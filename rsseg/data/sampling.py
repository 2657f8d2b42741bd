"""Samplers: the place of training window k as a function of (seed, k) alone.

The place is thus the same for any number of workers and processes, and after a resume. The samplers here use only the
scenes' sizes; those that use classes are in `rsseg.data.balance`.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Places: TypeAlias = Callable[[int], tuple[int, int, int]]
"""A sampler: maps a window's number to its scene, top and left, which are 0 in a scene smaller than the window."""

Read: TypeAlias = Callable[[int, int, int, int], tuple[NDArray[np.generic], dict[str, NDArray[np.generic]]]]
"""Maps (scene, top, left, size) to a square window: the stored image ``[C, size, size]``, and layers by name."""


def stream(seed: int, k: int, purpose: str) -> np.random.Generator:
    """A random generator for window k and one purpose, such as its place or an augmentation."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, k, zlib.crc32(purpose.encode())])))


def corner(rng: np.random.Generator, size: NDArray[np.int64], window: int) -> tuple[int, int]:
    """Top and left of a window, uniform over its positions in a scene."""
    height, width = np.maximum(size - window, 0).tolist()
    return int(rng.integers(height + 1)), int(rng.integers(width + 1))


def around(rng: np.random.Generator, pixel: tuple[int, int], size: NDArray[np.int64], window: int) -> tuple[int, int]:
    """Top and left of a window, uniform over its positions in a scene that contain a pixel."""
    top, left = (
        int(rng.integers(max(place - window + 1, 0), min(place, max(length - window, 0)) + 1))
        for place, length in zip(pixel, size.tolist(), strict=True)
    )
    return top, left


class Sampler(ABC):
    """Base class of the config group `sampler`.

    The constructor of a subclass may also name these arguments, which rsseg passes: `blocks`, the blocks of all scenes
    (`rsseg.data.blocks.Blocks`); `task`, the task of the first target; `read`, a function that reads windows (`Read`).

    Args:
        seed: The run's seed.
        sizes: int64 ``[S, 2]``, height and width of each scene.
        window: The window's side in pixels.
    """

    def __init__(self, seed: int, sizes: NDArray[np.int64], window: int) -> None:
        self.seed, self.sizes, self.window = seed, sizes, window

    def __call__(self, k: int) -> tuple[int, int, int]:
        """Scene, top and left of window k."""
        return self.draw(stream(self.seed, k, "place"))

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> tuple[int, int, int]:
        """Scene, top and left of a window."""


class Uniform(Sampler):
    """Draws a scene in proportion to its area, then a window uniformly inside it."""

    def __init__(self, seed: int, sizes: NDArray[np.int64], window: int) -> None:
        super().__init__(seed, sizes, window)
        self._areas = np.cumsum(sizes.prod(axis=1))

    def draw(self, rng: np.random.Generator) -> tuple[int, int, int]:
        scene = int(np.searchsorted(self._areas, rng.integers(self._areas[-1]), side="right"))
        return scene, *corner(rng, self.sizes[scene], self.window)


class ByScene(Sampler):
    """Draws all scenes equally often, whatever their area, as a metric that is averaged over scenes weights them."""

    def draw(self, rng: np.random.Generator) -> tuple[int, int, int]:
        scene = int(rng.integers(len(self.sizes)))
        return scene, *corner(rng, self.sizes[scene], self.window)
