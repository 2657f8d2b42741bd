"""Prediction of scenes of any size, window by window: reading, prediction and writing run at the same time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
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
from rsseg.inference.blending import Blend, Grid, Strip, Windows
from rsseg.progress import progress

log = logging.getLogger(__name__)

PART = 16_000_000
"""About how many bytes of pixels are read at a time; finding missing pixels takes several times as much memory."""


class Output(Protocol):
    """A file that is made from a head's planes."""

    head: str

    def block(self, planes: Tensor, hidden: NDArray[np.bool_]) -> Any:
        """Turn a block of finished pixels into values to write; blocks come strip by strip from the top, then from the left.

        `planes` ``[planes, rows, columns]`` are the blended output of `Ensemble.forward`, on its device; `hidden`, bool
        ``[rows, columns]``, is True where the scene has no data or is outside the requested area.
        """

    def write(self, top: int, blocks: list[Any]) -> None:
        """Write what `block` returned for the strip that begins at row `top`; called in another thread, in order."""


class StripReader:
    """Reads a scene from the top, each row once; blocks that can't be read become no data, with the reasons in `damaged`.

    Beyond its borders, the scene is reflected or filled. If the scene has a mask, pixels that it does not mark are hidden.
    """

    def __init__(self, reader: SceneReader, grid: Grid, reflect: bool) -> None:
        self.reader, self.grid, self.reflect, self.damaged = reader, grid, reflect, dict[tuple[int, int], str]()
        self._fill = as_pixel(reader.fill, reader.dtype)[:, None, None]
        self._pixels: NDArray[np.generic] = np.empty((len(reader.bands), 0, grid.shape[1]), reader.dtype)
        self._hidden = np.empty((0, grid.shape[1]), dtype=bool)

    def read(self, strip: Strip) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Read the pixels of the next strip's windows, from the first row and column of its first window on.

        Returns:
            Stored pixels ``[C, rows, columns]``, and bool ``[rows, columns]``, True where pixels are hidden.
        """
        width, starts, above = self.grid.shape[1], self.grid.columns.starts, len(self._hidden)
        beyond = [
            (strip.first - strip.tops[0], strip.tops[-1] + self.grid.size - strip.end),
            (-starts[0], starts[-1] + self.grid.size - width),
        ]
        places = [
            np.pad(np.arange(n), ends, "reflect") for n, ends in zip((strip.end - strip.first, width), beyond, strict=True)
        ]
        seen = np.empty((len(self._pixels), *map(len, places)), self.reader.dtype)
        unseen = np.empty(seen.shape[1:], dtype=bool)
        inside = tuple(slice(before, len(place) - after) for place, (before, after) in zip(places, beyond, strict=True))
        pixels, hidden = seen[:, *inside], unseen[inside]
        pixels[:, :above], hidden[:above] = self._pixels, self._hidden
        self._read(Window(0, strip.first + above, width, len(hidden) - above), pixels[:, above:], hidden[above:])
        common = slice(strip.below - strip.first, None)
        self._pixels, self._hidden = pixels[:, common].copy(), hidden[common].copy()
        for array in (seen, unseen):  # in place: np.pad would double the memory
            for axis, place, own in zip((-2, -1), places, inside, strict=True):
                lines = np.moveaxis(array, axis, 0)
                for outside in (slice(0, own.start), slice(own.stop, None)):
                    lines[outside] = lines[place[outside] + own.start]
        if not self.reflect:  # these windows begin inside the scene
            seen[:, inside[0].stop :] = seen[..., inside[1].stop :] = self._fill
        return seen, unseen

    def _read(self, rows: Window, pixels: NDArray[np.generic], hidden: NDArray[np.bool_]) -> None:
        """Read rows of the scene in parts of several blocks, or block by block where a part can't be read."""
        height, width = self.reader.block()
        many = max(1, PART // (height * width * len(pixels) * pixels.itemsize))
        across = min(many, -(-self.grid.shape[1] // width))
        for part in blocks(rows, many // across * height, across * width):
            try:
                self._read_part(part, rows.row_off, pixels, hidden)
            except InputError:
                for block in blocks(part, height, width):
                    try:
                        self._read_part(block, rows.row_off, pixels, hidden)
                    except InputError as error:
                        self.damaged.setdefault((block.row_off // height, block.col_off // width), str(error))

    def _read_part(self, part: Window, top: int, pixels: NDArray[np.generic], hidden: NDArray[np.bool_]) -> None:
        """Read a part of the scene into rows that begin at `top`; it stays hidden if it can't be read."""
        rows, columns = part.toslices()
        place = np.s_[rows.start - top : rows.stop - top, columns]
        pixels[:, *place], hidden[place] = self._fill, True
        with rasterio.Env(GDAL_NUM_THREADS="ALL_CPUS"):  # decodes a file's blocks in parallel
            image, missing = self.reader.read_pixels(part)
        pixels[:, *place] = np.where(missing, self._fill, image) if missing.any() else image
        hidden[place] = missing | (self.reader.read_mask(part) != 1) if self.reader.scene.masks else missing


def blocks(window: Window, height: int, width: int) -> Iterator[Window]:
    """The parts of a window that lie in different blocks of a file.

    Example:
        >>> [(part.row_off, part.height) for part in blocks(Window(0, 3, 8, 6), 4, 8)]
        [(3, 1), (4, 4), (8, 1)]
    """
    right, bottom = window.col_off + window.width, window.row_off + window.height
    for row in range(window.row_off // height, -(-bottom // height)):
        for column in range(window.col_off // width, -(-right // width)):
            top, left = max(window.row_off, row * height), max(window.col_off, column * width)
            yield Window(left, top, min(right, (column + 1) * width) - left, min(bottom, (row + 1) * height) - top)


@torch.inference_mode()
def predict_scene(
    predict: Callable[[Tensor], dict[str, Tensor]],
    planes: Callable[[str], int],
    reader: SceneReader,
    outputs: Sequence[Output],
    windows: Windows,
    device: torch.device,
    title: str,
) -> None:
    """Predict a scene in overlapping windows, blend them, and pass the rows to the outputs.

    While a strip of windows is predicted, the next one is read and the last one is written. Windows in which all pixels are
    hidden are not predicted.

    `predict` is `Ensemble.forward` on `device` in the wanted precision, `planes` is `Ensemble.planes`, and `title` is the label
    of the progress bar.
    """
    grid = Grid(reader.size, windows)
    starts, size = grid.columns.starts, windows.size
    blends = {output.head: Blend(grid, planes(output.head), device) for output in outputs}
    batches = [starts[first : first + windows.batch_size] for first in range(0, len(starts), windows.batch_size)]
    stops = [*(max(0, lefts[0]) for lefts in batches[1:]), reader.size[1]]
    rows, seen, written = StripReader(reader, grid, windows.blend != "none"), False, list[Future[None]]()

    def add_windows(pixels: Tensor, hidden: NDArray[np.bool_], strip: Strip, top: int, lefts: Sequence[int]) -> None:
        """Predict some windows of a row, except those whose pixels are all hidden."""
        row = top - strip.tops[0]
        parts = {left: np.s_[..., row : row + size, left - starts[0] : left - starts[0] + size] for left in lefts}
        asked = [left for left in lefts if not hidden[parts[left]].all()]
        if asked:
            found = predict(torch.stack([pixels[parts[left]] for left in asked]))
            for head, blend in blends.items():
                for left, own in zip(asked, found[head], strict=True):
                    blend.add(strip, own, top, left)

    with (
        ThreadPoolExecutor(1) as read,
        ThreadPoolExecutor(1) as write,
        progress(range(len(grid.strips) * len(batches)), title) as steps,
    ):
        following = read.submit(rows.read, grid.strips[0])
        for strip, after in zip(grid.strips, [*grid.strips[1:], None], strict=True):
            pixels, unseen = following.result()
            if after is not None:
                following = read.submit(rows.read, after)
            on_device, made, start = torch.from_numpy(pixels).to(device), [list[Any]() for _ in outputs], 0
            scene_rows = slice(strip.first - strip.tops[0], strip.below - strip.tops[0])
            for lefts, stop, _ in zip(batches, stops, steps, strict=False):
                for blend in blends.values():
                    blend.widen(strip, lefts[-1] + size)
                for top in strip.tops:
                    add_windows(on_device, unseen, strip, top, lefts)
                finished = {head: blend.take(strip, stop) for head, blend in blends.items()}
                hidden = unseen[scene_rows, start - starts[0] : stop - starts[0]]
                seen |= not hidden.all()
                for output, own_blocks in zip(outputs, made, strict=True):
                    own_blocks.append(output.block(finished[output.head], hidden))
                start = stop
            for each in written:
                each.result()
            written = [write.submit(output.write, strip.first, own) for output, own in zip(outputs, made, strict=True)]
        for each in written:
            each.result()
    if rows.damaged:
        line = "%s: %d of its blocks can't be read and have no data in the map, the first: %s"
        log.warning(line, reader.scene.image, len(rows.damaged), next(iter(rows.damaged.values())))
    if not seen:
        of_area = " in the area" if reader.scene.masks else ""
        log.warning("%s has no data anywhere%s: its map is empty.", reader.scene.image, of_area)
