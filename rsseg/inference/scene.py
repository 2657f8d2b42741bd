"""A scene of any size predicted window by window: rows are read, predicted and written at the same time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from rasterio.windows import Window
from torch import Tensor

from rsseg.contract import InputError
from rsseg.data.raster import as_pixel
from rsseg.data.scene import SceneReader
from rsseg.inference.blending import Blend, Windows, reflected
from rsseg.progress import progress

log = logging.getLogger(__name__)

ROWS = 128
"""Rows of planes that are turned into labels and the like at a time."""


class Output(Protocol):
    """What is made of a head's planes, rows by rows from the top."""

    head: str

    def rows(self, top: int, planes: Tensor, hidden: NDArray[np.bool_]) -> Any:
        """What is to be written of some rows from `top` on, as soon as they are known.

        `planes` are ``[planes, rows, width]`` of `Predictor.forward`, on its device; `hidden` is ``[rows, width]``, where the
        scene has no data or is not asked about.
        """

    def write(self, rows: Any) -> None:
        """Write what `rows` gave; called in another thread, in order."""


class RowReader:
    """Reads a scene from the top, each row once; blocks that can't be read become no data, and `damaged` says why.

    `lefts` is where the windows of a row begin, `size` their side. Beyond its borders the scene is reflected, or there is the
    fill. Where it has a mask, only what that marks is asked about.
    """

    def __init__(self, reader: SceneReader, lefts: Sequence[int], size: int, reflect: bool) -> None:
        self.reader, self.size, self.reflect, self.damaged = reader, size, reflect, list[str]()
        self._fill = as_pixel(reader.fill, reader.dtype)[:, None, None]
        _, width = reader.size
        self._columns = reflected(lefts[0], lefts[-1] - lefts[0] + size, width)
        self._pixels = np.empty((len(reader.bands), 0, width), reader.dtype)
        self._hidden = np.empty((0, width), dtype=bool)
        self._top = self._bottom = 0

    def strip(self, top: int) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """What a row of windows sees: stored pixels ``[C, size, width]``, and where there is no image or none is asked for.

        Later calls are of lower rows.
        """
        first, last = max(0, top), min(self.reader.size[0], top + self.size)
        with rasterio.Env(GDAL_NUM_THREADS="ALL_CPUS"):  # a file's blocks are decoded side by side
            pixels, hidden = self._read(self._bottom, last)
        gone = first - self._top
        self._pixels = np.concatenate([self._pixels[:, gone:], pixels], axis=1)
        self._hidden = np.concatenate([self._hidden[gone:], hidden])
        self._top, self._bottom = first, last
        rows = reflected(top, self.size, self.reader.size[0]) - first
        seen = self._pixels[:, rows][:, :, self._columns]
        if not self.reflect:
            seen[:, last - top :] = self._fill
            seen[..., self.reader.size[1] :] = self._fill
        return seen, self._hidden[rows][:, self._columns]

    def _read(self, top: int, bottom: int) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Rows of the scene; where they can't be read at once, block by block."""
        _, width = self.reader.size
        shape = bottom - top, width
        pixels = np.empty((len(self.reader.bands), *shape), self.reader.dtype)
        hidden = np.ones(shape, dtype=bool)
        if top == bottom:
            return pixels, hidden
        todo = [Window(0, top, width, bottom - top)]
        for window in todo:
            try:
                image, missing = self.reader.read_pixels(window)
            except InputError as error:
                if window is todo[0]:
                    todo += blocks(window, *self.reader.block())
                    continue
                self.damaged.append(str(error))
                image, missing = np.zeros((), self.reader.dtype), np.ones((), dtype=bool)
            rows, columns = window.toslices()
            rows = slice(rows.start - top, rows.stop - top)
            pixels[:, rows, columns], hidden[rows, columns] = image, missing
        pixels = np.where(hidden, self._fill, pixels)
        if self.reader.scene.masks:
            hidden |= self.reader.read_mask(todo[0]) != 1
        return pixels, hidden


def blocks(window: Window, height: int, width: int) -> Iterator[Window]:
    """The parts of a window that lie in different blocks of a file.

    Example:
        >>> [(part.row_off, part.height) for part in blocks(Window(0, 3, 8, 6), 4, 8)]
        [(3, 1), (4, 4), (8, 1)]
    """
    right, bottom = window.col_off + window.width, window.row_off + window.height
    top = window.row_off
    while top < bottom:
        below = min(bottom, (top // height + 1) * height)
        left = window.col_off
        while left < right:
            beside = min(right, (left // width + 1) * width)
            yield Window(left, top, beside - left, below - top)
            left = beside
        top = below


@torch.inference_mode()
def predict_scene(
    predictor: Callable[[Tensor], dict[str, Tensor]],
    planes: Callable[[str], int],
    reader: SceneReader,
    outputs: Sequence[Output],
    windows: Windows,
    device: torch.device,
    title: str,
) -> None:
    """Predict a scene in overlapping windows, blend them, and give the rows to outputs.

    One row of windows is in memory at a time, on the device; the next one is read, and the last one written, meanwhile. Windows
    of which all pixels are hidden are not predicted.

    Args:
        predictor: `Predictor.forward`, in the precision and on the device that it is to have.
        planes: `Predictor.planes`.
        reader: Where the scene has a mask, only what it marks is mapped.
        outputs: What is made of it.
        windows: How the scene is cut.
        device: The predictor's.
        title: What the progress bar says.
    """
    blends = {output.head: Blend(planes(output.head), reader.size, windows, device) for output in outputs}
    grid = next(iter(blends.values()))
    batches = [grid.lefts[first : first + windows.batch_size] for first in range(0, len(grid.lefts), windows.batch_size)]
    rows, seen, written = RowReader(reader, grid.lefts, windows.size, windows.blend != "none"), False, list[Future[None]]()
    own = slice(-grid.lefts[0], reader.size[1] - grid.lefts[0])
    with (
        ThreadPoolExecutor(1) as read,
        ThreadPoolExecutor(1) as write,
        progress(range(len(grid.tops) * len(batches)), title) as steps,
    ):
        following = read.submit(rows.strip, grid.tops[0])
        for top, below in zip(grid.tops, [*grid.tops[1:], None], strict=True):
            seen_pixels, unseen = following.result()
            if below is not None:
                following = read.submit(rows.strip, below)
            pixels = torch.from_numpy(seen_pixels).to(device)
            for lefts, _ in zip(batches, steps, strict=False):
                _predict_batch(predictor, pixels, unseen, lefts, blends)
            first, last = grid.finished
            hidden = unseen[first - top : last - top, own]
            seen |= not hidden.all()
            taken = {head: blend.take() for head, blend in blends.items()}
            found = []
            for at in range(0, last - first, ROWS):  # a few rows at a time: deciding takes several times their memory
                part = slice(at, at + ROWS)
                found += [(output, output.rows(first + at, taken[output.head][:, part], hidden[part])) for output in outputs]
            for blend in blends.values():
                blend.advance()
            for each in written:
                each.result()
            written = [write.submit(output.write, made) for output, made in found]
        for each in written:
            each.result()
    if rows.damaged:
        line = "%s: %d of its blocks can't be read and have no data in the map, the first: %s"
        log.warning(line, reader.scene.image, len(rows.damaged), rows.damaged[0])
    if not seen:
        log.warning(
            "%s has no data anywhere%s: its map is empty.", reader.scene.image, " in the area" * bool(reader.scene.masks)
        )


def _predict_batch(
    predictor: Callable[[Tensor], dict[str, Tensor]],
    pixels: Tensor,
    hidden: NDArray[np.bool_],
    lefts: Sequence[int],
    blends: Mapping[str, Blend],
) -> None:
    """Predict some windows of a row and add them to it; one whose pixels are all hidden changes nothing that is seen."""
    size, origin = pixels.shape[1], next(iter(blends.values())).lefts[0]
    asked = [left for left in lefts if not hidden[:, left - origin : left - origin + size].all()]
    if not asked:
        return
    batch = torch.stack([pixels[..., left - origin : left - origin + size] for left in asked])
    found = predictor(batch)
    for head, blend in blends.items():
        for left, planes in zip(asked, found[head], strict=True):
            blend.add(planes, left)
