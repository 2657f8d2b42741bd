"""Windows of a scene, and the blending of their predictions where they overlap."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rsseg.contract import InputError, check_choice
from rsseg.data.windows import spans

BLENDS = ("gaussian", "none")
"""The ways of blending windows, see `Side`."""


class Windows(NamedTuple):
    """The division of a scene into windows."""

    size: int  # their side in pixels
    margin: int  # pixels by which a window extends beyond its core on each side; neighbours overlap by twice as much
    blend: str  # one of `BLENDS`
    batch_size: int  # windows at a time


def check_windows(windows: Windows) -> None:
    """Refuse windows that can't be blended.

    Raises:
        InputError: If the kind of blending does not exist, the margin is too wide, or a number is below 1.
    """
    size, margin, blend, batch_size = windows
    check_choice("blend", blend, BLENDS)
    for name, value in (("window", size), ("batch_size", batch_size)):
        if value < 1:
            raise InputError(f"{name}={value}: 1 or more is expected")
    most = (size - 1) // (2 if blend == "none" else 3)
    if not 0 <= margin <= most:
        raise InputError(f"margin={margin}: windows of {size} px with blend={blend} have margins from 0 to {most}")


class Side:
    """The windows along one axis of a scene of the given length, and the weights of their pixels.

    A pixel's weight is the product of its weights along both axes; the weighted sum over windows is divided by the sum of
    weights. With ``gaussian``, weights are a normal density of deviation size / 8 (Isensee et al. 2021); the first window
    begins a margin before the scene, and the last ends a margin behind it. With ``none``, windows are inside the scene as in
    validation, and only their cores have weight.

    Attributes:
        starts: The first pixel of each window; it may be negative.
        weights: By start, the weights ``[size]`` of a window's pixels.
        sums: The sums ``[length]`` of the weights at each pixel of the axis.

    Example:
        >>> Side(20, Windows(8, 1, "gaussian", 1)).starts
        [-1, 5, 11, 13]
    """

    def __init__(self, length: int, windows: Windows) -> None:
        size, margin, blend, _ = windows
        beyond = 0 if blend == "none" else margin
        density = np.exp(-0.5 * ((np.arange(size) + 0.5 - size / 2) / (size / 8)) ** 2)
        self.starts, self.weights, total = list[int](), dict[int, Tensor](), np.zeros(length)
        for start, first, last in spans(length + 2 * beyond, size, margin):
            at, weights = start - beyond, density
            if blend == "none":
                weights = np.zeros(size)
                weights[first:last] = 1
            inside = slice(max(0, at), min(length, at + size))
            total[inside] += weights[inside.start - at : inside.stop - at]
            self.starts.append(at)
            self.weights[at] = torch.from_numpy(weights.astype(np.float32))
        self.sums = torch.from_numpy(total.astype(np.float32))


class Strip(NamedTuple):
    """One row of windows, or several that are predicted together."""

    tops: list[int]  # the first pixel row of each row of windows; it may be negative
    first: int  # the scene's first row in the windows
    below: int  # the first row that is also in a later strip; the scene's height for the last strip
    end: int  # the row behind the scene's last row in the windows


class Grid:
    """The windows of a scene, by strips from the top.

    Attributes:
        shape: Height and width of the scene.
        size: The side of the windows in pixels.
        rows: The windows along the scene's height.
        columns: The windows along the scene's width.
        strips: One row of windows each. The last two rows of windows form one strip if they overlap much, because rows that two
            strips share are kept in memory over the whole width.
        overlap: The largest number of rows that two strips share.
    """

    def __init__(self, shape: tuple[int, int], windows: Windows) -> None:
        self.shape, self.size, height = shape, windows.size, shape[0]
        self.rows, self.columns = (Side(length, windows) for length in shape)
        groups = [[top] for top in self.rows.starts]
        if len(groups) > 1 and groups[-1][0] - groups[-2][0] < windows.size - 2 * windows.margin:
            groups[-2:] = [groups[-2] + groups[-1]]
        firsts = [max(0, group[0]) for group in groups]
        self.strips = [
            Strip(group, first, below, min(height, group[-1] + windows.size))
            for group, first, below in zip(groups, firsts, [*firsts[1:], height], strict=True)
        ]
        self.overlap = max(strip.end - strip.below for strip in self.strips)


class Blend:
    """Blends the planes of windows, strip by strip from the top, and from the left within a strip.

    Memory is ``4 * planes`` bytes per pixel of the rows that two strips share, and of a few windows; it does not depend on the
    height of the scene.
    """

    def __init__(self, grid: Grid, planes: int, device: torch.device) -> None:
        self._grid, self._left, self._known = grid, 0, 0
        self._down, self._across = (
            {start: weights.to(device) for start, weights in side.weights.items()} for side in (grid.rows, grid.columns)
        )
        self._sums_down, self._sums_across = grid.rows.sums.to(device), grid.columns.sums.to(device)
        self._common = torch.zeros(planes, grid.overlap, grid.shape[1], device=device)  # sums of the next strip's rows so far
        self._open = torch.zeros(planes, 0, 0, device=device)  # the sums from column `_left` on

    def widen(self, strip: Strip, end: int) -> None:
        """Make room for windows of a strip that extend up to the column `end`, which may be beyond the scene."""
        begun = self._left + self._open.shape[2]
        wider = self._common.new_zeros(len(self._common), strip.end - strip.first, min(end, self._grid.shape[1]) - self._left)
        wider[:, : self._open.shape[1], : self._open.shape[2]] = self._open
        wider[:, : self._known, begun - self._left :] = self._common[:, : self._known, begun : self._left + wider.shape[2]]
        self._open = wider

    def add(self, strip: Strip, planes: Tensor, top: int, left: int) -> None:
        """Add the prediction ``[planes, size, size]`` of the window that begins at row `top` and column `left`."""
        right, bottom = self._left + self._open.shape[2], min(strip.end, top + self._grid.size)
        first, column = max(strip.first, top), max(0, left)
        rows, columns = slice(first - top, bottom - top), slice(column - left, min(right - left, self._grid.size))
        weights = torch.outer(self._down[top][rows], self._across[left][columns])
        place = np.s_[:, first - strip.first : bottom - strip.first, column - self._left : left + columns.stop - self._left]
        self._open[place].addcmul_(planes[:, rows, columns], weights)

    def take(self, strip: Strip, stop: int) -> Tensor:
        """The blended planes ``[planes, rows, columns]`` of a strip above `below`, up to the column `stop`; they are final."""
        own = strip.below - strip.first
        done, self._open = self._open[..., : stop - self._left], self._open[..., stop - self._left :].clone()
        columns = slice(self._left, stop)
        self._common[:, : strip.end - strip.below, columns] = done[:, own:]
        finished = done[:, :own].div_(self._sums_down[strip.first : strip.below, None]).div_(self._sums_across[columns])
        self._left = stop
        if stop == self._grid.shape[1]:
            self._left, self._known, self._open = 0, strip.end - strip.below, self._open[:, :0]
        return finished
