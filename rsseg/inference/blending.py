"""Where the windows of a scene lie, and how their predictions are blended where they overlap."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsseg.contract import InputError
from rsseg.data.windows import spans

BLENDS = ("gaussian", "cosine", "none")
"""How windows are blended, see `place_windows`."""


class Windows(NamedTuple):
    """How a scene is cut into windows.

    Attributes:
        size: Their side in pixels.
        margin: How far a window reaches beyond its core on each side; neighbours overlap by twice as much.
        blend: See `place_windows`.
        batch_size: Windows at a time.
    """

    size: int
    margin: int
    blend: str
    batch_size: int


def window_weights(size: int, margin: int, blend: str) -> NDArray[np.float64]:
    """The weights of a window's pixels along one side, by their distance from its ends.

    A pixel's weight is the product along both sides; the weighted sum over windows is divided by the sum of their weights.
    ``gaussian`` is a normal density of deviation size / 8 (Isensee et al. 2021), ``cosine`` 1 in the middle, and a squared sine
    over what neighbours overlap by.

    Example:
        >>> window_weights(8, 2, "cosine").round(2).tolist()
        [0.04, 0.31, 0.69, 0.96, 0.96, 0.69, 0.31, 0.04]
    """
    place = np.arange(size) + 0.5
    if blend == "gaussian":
        return np.exp(-0.5 * ((place - size / 2) / (size / 8)) ** 2)
    if not margin:
        return np.ones(size)
    return np.sin(0.5 * np.pi * np.clip(np.minimum(place, size - place) / (2 * margin), 0, 1)) ** 2


def place_windows(length: int, size: int, margin: int, blend: str) -> tuple[list[int], NDArray[np.float64]]:
    """Where windows begin along a side of a scene, and the weights ``[windows, size]`` of their pixels.

    With ``none`` windows lie as validation's do, inside the scene, and count in their inner parts alone.
    """
    if blend != "none":
        at = starts(length, size, margin)
        return at, np.tile(window_weights(size, margin, blend), (len(at), 1))
    places = spans(length, size, margin)
    weights = np.zeros((len(places), size))
    for own, (_, first, last) in zip(weights, places, strict=True):
        own[first:last] = 1
    return [start for start, _, _ in places], weights


def check_blend(windows: Windows) -> None:
    """Refuse windows that can't be blended.

    Raises:
        InputError: For another kind of blending, a margin that is too wide, or numbers below 1.
    """
    size, margin, blend, batch_size = windows
    for name, value in (("window", size), ("batch_size", batch_size)):
        if value < 1:
            raise InputError(f"{name}={value}: 1 or more is expected")
    if blend not in BLENDS:
        raise InputError(f"blend={blend}: {', '.join(BLENDS)} is expected")
    most = {"gaussian": (size - 1) // 3, "cosine": size // 4, "none": (size - 1) // 2}[blend]
    if not 0 <= margin <= most:
        raise InputError(f"margin={margin}: windows of {size} px with blend={blend} have margins from 0 to {most}")


def starts(length: int, size: int, margin: int) -> list[int]:
    """Where windows begin along a side of a scene, so that every pixel lies in a core.

    The first begins a margin before the scene, the last ends a margin behind it.

    Example:
        >>> starts(20, 8, 1)
        [-1, 5, 11, 13]
    """
    last = length + margin - size
    step = size - 2 * margin
    count = max(0, math.ceil((last + margin) / step))
    return [step * i - margin for i in range(count)] + [max(last, -margin)]


def reflected(start: int, size: int, length: int) -> NDArray[np.intp]:
    """The places of a side that a window sees, reflected at both ends without repeating the last pixel.

    Example:
        >>> reflected(-2, 8, 4).tolist()
        [2, 1, 0, 1, 2, 3, 2, 1]
    """
    if length == 1:
        return np.zeros(size, dtype=np.intp)
    place = np.arange(start, start + size) % (2 * length - 2)
    return np.minimum(place, 2 * length - 2 - place)


class Blend:
    """The blended planes of a row of windows, of which the rows that no later window reaches can be taken.

    It holds ``4 * planes * size * width`` bytes, whatever the height of the scene, whose height and width are its `shape`.

    Attributes:
        tops: Where the rows of windows begin.
        lefts: Where the windows of a row begin.
        top: Where the present row begins.
    """

    def __init__(self, planes: int, shape: tuple[int, int], windows: Windows, device: torch.device) -> None:
        self.shape, self.size = shape, windows.size
        sides = [place_windows(length, *windows[:3]) for length in shape]
        (self.tops, _), (self.lefts, _) = sides
        self._sums = [_summed(weights, at, length).to(device) for (at, weights), length in zip(sides, shape, strict=True)]
        self._down, self._across = (
            dict(zip(at, torch.from_numpy(weights.astype(np.float32)).to(device), strict=True)) for at, weights in sides
        )
        self._rows = torch.zeros(planes, windows.size, shape[1], device=device)
        self._below = dict(zip(self.tops, [*self.tops[1:], shape[0]], strict=True))
        self.top = self.tops[0]

    @property
    def finished(self) -> tuple[int, int]:
        """The first of the scene's rows that no window below the present row reaches, and the one behind the last of them."""
        return max(0, self.top), min(self._below[self.top], self.shape[0])

    def add(self, planes: Tensor, left: int) -> None:
        """Add the prediction ``[planes, size, size]`` of the window of the present row that begins there."""
        first, last = max(0, left), min(self.shape[1], left + self.size)
        inside = slice(first - left, last - left)
        weights = torch.outer(self._down[self.top], self._across[left][inside])
        self._rows[:, :, first:last].addcmul_(planes[:, :, inside], weights)

    def take(self) -> Tensor:
        """The planes ``[planes, rows, width]`` of the `finished` rows, once all windows of the present row are added.

        They hold until `advance`, and are taken once.
        """
        first, last = self.finished
        down, across = self._sums
        return self._rows[:, first - self.top : last - self.top].div_(down[first:last, None]).div_(across)

    def advance(self) -> None:
        """Go on to the next row of windows."""
        following = self._below[self.top]
        left = self._rows[:, following - self.top :].clone()
        self._rows.zero_()
        self._rows[:, : left.shape[1]] = left
        self.top = following


def _summed(weights: NDArray[np.float64], at: list[int], length: int) -> Tensor:
    """The sum of all windows' weights along a side of the scene."""
    total = np.zeros(length)
    for own, start in zip(weights, at, strict=True):
        first, last = max(0, start), min(length, start + len(own))
        total[first:last] += own[first - start : last - start]
    return torch.from_numpy(total.astype(np.float32))
