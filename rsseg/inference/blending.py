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
    """How a scene is cut into windows."""

    size: int  # their side in pixels
    margin: int  # how far a window reaches beyond its core on each side; neighbours overlap by twice as much
    blend: str  # see `place_windows`
    batch_size: int  # windows at a time


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

    With ``none`` windows lie inside the scene, as in validation, and only their inner parts count.
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


class Strip(NamedTuple):
    """One row of windows, or several that are predicted together."""

    tops: list[int]  # where the rows of windows begin, perhaps above the scene
    first: int  # the first of the scene's rows that the windows see
    below: int  # the first of the scene's rows that a later strip sees too, or the scene's height
    end: int  # the row behind the last that the windows see


class Grid:
    """The windows of a scene, by strips from the top.

    Attributes:
        shape: Height and width of the scene.
        size: The windows' side.
        lefts: Where the windows of a row begin, perhaps left of the scene.
        strips: One row of windows each. The last two rows are one strip if the last lies close below the other: otherwise these
            strips would have many rows in common, which are kept in memory for the whole width.
        overlap: How many rows two strips have in common at most.
        weights: By place, the weights of a window's rows, and of its columns.
        sums: The sum of the weights for each row of the scene, and for each column.
    """

    def __init__(self, shape: tuple[int, int], windows: Windows) -> None:
        self.shape, self.size = shape, windows.size
        sides = [place_windows(length, *windows[:3]) for length in shape]
        (tops, _), (self.lefts, _) = sides
        self.weights = [dict(zip(at, torch.from_numpy(weights.astype(np.float32)), strict=True)) for at, weights in sides]
        self.sums = [_summed(weights, at, length) for (at, weights), length in zip(sides, shape, strict=True)]
        groups = [[top] for top in tops]
        if len(tops) > 1 and tops[-1] - tops[-2] < windows.size - 2 * windows.margin:
            groups[-2:] = [tops[-2:]]
        height, belows = shape[0], [*(max(0, group[0]) for group in groups[1:]), shape[0]]
        self.strips = [
            Strip(group, max(0, group[0]), below, min(height, group[-1] + windows.size))
            for group, below in zip(groups, belows, strict=True)
        ]
        self.overlap = max(strip.end - strip.below for strip in self.strips)


class Blend:
    """Blends the planes of windows, strips from the top and windows of a strip from the left.

    It holds ``4 * planes`` bytes for every pixel of the rows that two strips have in common, and of a few windows, whatever the
    size of the scene.
    """

    def __init__(self, grid: Grid, planes: int, device: torch.device) -> None:
        self._grid, self._left, self._known = grid, 0, 0
        self._down, self._across = ({at: own.to(device) for at, own in side.items()} for side in grid.weights)
        self._sums_down, self._sums_across = (side.to(device) for side in grid.sums)
        self._common = torch.zeros(planes, grid.overlap, grid.shape[1], device=device)  # what is known of the next strip's rows
        self._open = torch.zeros(planes, 0, 0, device=device)  # the sums from column `_left` on

    def widen(self, strip: Strip, end: int) -> None:
        """Go on with windows of a strip that reach up to the column `end`, of the scene or behind it."""
        begun = self._left + self._open.shape[2]
        wider = self._common.new_zeros(len(self._common), strip.end - strip.first, min(end, self._grid.shape[1]) - self._left)
        wider[:, : self._open.shape[1], : self._open.shape[2]] = self._open
        wider[:, : self._known, begun - self._left :] = self._common[:, : self._known, begun : self._left + wider.shape[2]]
        self._open = wider

    def add(self, strip: Strip, planes: Tensor, top: int, left: int) -> None:
        """Add the prediction ``[planes, size, size]`` of the window that begins there."""
        right, bottom = self._left + self._open.shape[2], min(strip.end, top + self._grid.size)
        first, column = max(strip.first, top), max(0, left)
        rows, columns = slice(first - top, bottom - top), slice(column - left, min(right - left, self._grid.size))
        weights = torch.outer(self._down[top][rows], self._across[left][columns])
        place = np.s_[:, first - strip.first : bottom - strip.first, column - self._left : left + columns.stop - self._left]
        self._open[place].addcmul_(planes[:, rows, columns], weights)

    def take(self, strip: Strip, stop: int) -> Tensor:
        """The planes ``[planes, rows, columns]`` of a strip's rows above `below`, up to a column that it is done with."""
        own = strip.below - strip.first
        done, self._open = self._open[..., : stop - self._left], self._open[..., stop - self._left :].clone()
        columns = slice(self._left, stop)
        self._common[:, : strip.end - strip.below, columns] = done[:, own:]
        finished = done[:, :own].div_(self._sums_down[strip.first : strip.below, None]).div_(self._sums_across[columns])
        self._left = stop
        if stop == self._grid.shape[1]:
            self._left, self._known, self._open = 0, strip.end - strip.below, self._open[:, :0]
        return finished


def _summed(weights: NDArray[np.float64], at: list[int], length: int) -> Tensor:
    """The sum of all windows' weights along a side of the scene."""
    total = np.zeros(length)
    for own, start in zip(weights, at, strict=True):
        first, last = max(0, start), min(length, start + len(own))
        total[first:last] += own[first - start : last - start]
    return torch.from_numpy(total.astype(np.float32))
