"""Clouds over a made-up scene, and their shadows on the ground."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

OUTER = 300  # size in pixels of the largest structures of a cloud field
REACH = (30, 70)  # how far a cloud's shadow lies from the cloud, in pixels: the lowest and the highest
OPAQUE = 0.75  # the least opacity that hides the ground from the labels
COLOUR = (232, 236, 242)  # of a thick cloud in full light
DARKNESS = 0.6  # the share of the light that a thick cloud takes from the ground


class Sky(NamedTuple):
    """The clouds over a scene, arrays ``[H, W]``."""

    cloud: NDArray[np.bool_]  # true in clouds, also in thin ones
    shadow: NDArray[np.bool_]  # true where a cloud shades the ground
    opacity: NDArray[np.float64]  # from 0 to 1, how much of the ground a cloud hides
    shade: NDArray[np.float64]  # from 0 to 1, the opacity of the cloud between the ground and the sun

    def over(self, scene: NDArray[np.float32]) -> NDArray[np.float32]:
        """A scene ``[3, H, W]`` seen through the clouds: shadows first, then the clouds that hide them."""
        lit = scene * (1 - DARKNESS * self.shade)
        white = np.array(COLOUR)[:, None, None] * (0.82 + 0.18 * self.opacity)  # thin parts are greyer
        return (lit * (1 - self.opacity) + white * self.opacity).astype(np.float32)

    def labels(self, water: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """The labels as seen from above, uint8 ``[3, H, W]`` of 0 and 1: clouds; shadows and water, also through thin cloud."""
        clear = self.opacity < OPAQUE
        return np.stack([self.cloud, self.shadow & clear, water & clear]).astype(np.uint8)


def draw_sky(rng: np.random.Generator, size: int, share: float, sun: NDArray[np.float64]) -> Sky:
    """Draw clouds over a share, above 0, of a square scene; `sun` is the direction to the sun along rows and columns."""
    margin = REACH[1] + 1  # clouds beyond the scene throw shadows into it
    field = _turbulence(rng, size + 2 * margin)
    scene = slice(margin, margin + size)
    edge = np.quantile(field[scene, scene], 1 - share)
    thickness, top = rng.uniform(0.5, 1.2), rng.uniform(0.8, 0.98)
    rise = np.clip(0.25 + (field - edge) / thickness, 0, 1)  # a haze reaches beyond the labelled cloud
    opacity = top * rise**2 * (3 - 2 * rise)
    row, column = np.rint(rng.uniform(*REACH) * sun).astype(int)
    toward_sun = slice(margin + row, margin + row + size), slice(margin + column, margin + column + size)
    return Sky(field[scene, scene] > edge, field[toward_sun] > edge, opacity[scene, scene], opacity[toward_sun])


def _turbulence(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    """Noise of mean 0 and spread 1 with the spectrum of von Karman, that of turbulent air."""
    rows, columns = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)
    spectrum = (rows**2 + columns**2 + 1 / OUTER**2) ** (-11 / 12)
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((size, size))) * spectrum, s=(size, size))
    return (noise - noise.mean()) / noise.std()
