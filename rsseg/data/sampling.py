"""Where training windows lie: a sampler says scene, top and left of window k, a function of (seed, k) alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rsseg.data.windows import stream


class Uniform:
    """A scene drawn by its area, then a corner drawn evenly inside it.

    Args:
        seed: The run's seed.
        sizes: int64 ``[S, 2]``, height and width of each scene.
        window: The windows' side.

    Example:
        >>> sampler = Uniform(seed=1, sizes=np.array([[64, 64]]), window=64)
        >>> sampler(7)
        (0, 0, 0)
    """

    def __init__(self, seed: int, sizes: NDArray[np.int64], window: int) -> None:
        self.seed, self.sizes, self.window = seed, sizes, window
        self.areas = np.cumsum(sizes.prod(axis=1))

    def __call__(self, k: int) -> tuple[int, int, int]:
        """Scene, top and left of window k. A scene smaller than the window gives its corner 0."""
        rng = stream(self.seed, k, "place")
        scene = int(np.searchsorted(self.areas, rng.integers(self.areas[-1]), side="right"))
        spare_rows, spare_columns = np.maximum(self.sizes[scene] - self.window, 0).tolist()
        return scene, int(rng.integers(spare_rows + 1)), int(rng.integers(spare_columns + 1))
