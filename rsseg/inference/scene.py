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
from rsseg.inference.blending import Blend, Grid, Strip, Windows, reflected
from rsseg.progress import progress

log = logging.getLogger(__name__)

PART = 16_000_000
"""About how many bytes of pixels are read at a time: to find what is missing takes several times their memory."""


class Output(Protocol):
    """What is made of a head's planes."""

    head: str

    def block(self, planes: Tensor, hidden: NDArray[np.bool_]) -> Any:
        """What is to be written of a block of finished pixels. Blocks come strip by strip from the top, in each from the left.

        `planes` are ``[planes, rows, columns]`` of `Predictor.forward`, on its device; `hidden` is ``[rows, columns]``, where
        the scene has no data or is not asked about.
        """

    def write(self, top: int, blocks: list[Any]) -> None:
        """Write all that `block` gave for the rows from `top` on; called in another thread, in order."""


class StripReader:
    """Reads a scene from the top, each row once; blocks that can't be read become no data, and `damaged` says why.

    Beyond the borders are the reflected pixels of the scene, or the fill. If the scene has a mask, all that it does not mark
    is hidden.
    """

    def __init__(self, reader: SceneReader, grid: Grid, reflect: bool) -> None:
        self.reader, self.grid, self.reflect, self.damaged = reader, grid, reflect, dict[tuple[int, int], str]()
        self._fill = as_pixel(reader.fill, reader.dtype)[:, None, None]
        self._scene = slice(-grid.lefts[0], grid.shape[1] - grid.lefts[0])  # the columns of the scene
        self._columns = _seen(grid.lefts, grid.size, grid.shape[1])
        self._pixels: NDArray[np.generic] = np.empty((len(reader.bands), 0, len(self._columns)), reader.dtype)
        self._hidden = np.empty((0, len(self._columns)), dtype=bool)

    def read(self, strip: Strip) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """What the windows of the next strip see, from the first row and column of its first window on.

        Returns:
            Stored pixels ``[C, rows, columns]``, and bool ``[rows, columns]``, true where there is none or none is asked for.
        """
        grid, columns, above = self.grid, self._columns, self._hidden.shape[0]
        rows = _seen(strip.tops, grid.size, grid.shape[0])
        pixels = np.empty((len(self.reader.bands), len(rows), len(columns)), self.reader.dtype)
        hidden = np.empty(pixels.shape[1:], dtype=bool)
        own = slice(strip.first - strip.tops[0], strip.end - strip.tops[0])  # those of the scene
        pixels[:, own][:, :above], hidden[own][:above] = self._pixels, self._hidden
        new = Window(0, strip.first + above, grid.shape[1], strip.end - strip.first - above)
        self._read(new, pixels[:, own, self._scene][:, above:], hidden[own, self._scene][above:])
        for outside in (slice(0, self._scene.start), slice(self._scene.stop, None)):
            inside = columns[outside] + self._scene.start
            pixels[:, own, outside], hidden[own, outside] = pixels[:, own][..., inside], hidden[own][:, inside]
            if not self.reflect:
                pixels[:, own, outside] = self._fill
        for outside in (slice(0, own.start), slice(own.stop, None)):
            inside = rows[outside] - strip.tops[0]
            pixels[:, outside], hidden[outside] = pixels[:, inside], hidden[inside]
            if not self.reflect:
                pixels[:, outside] = self._fill
        common = slice(strip.below - strip.tops[0], own.stop)
        self._pixels, self._hidden = pixels[:, common].copy(), hidden[common].copy()
        return pixels, hidden

    def _read(self, rows: Window, pixels: NDArray[np.generic], hidden: NDArray[np.bool_]) -> None:
        """Read rows of the scene in parts of some blocks, and what can't be read so, block by block."""
        height, width = self.reader.block()
        many = max(1, PART // (height * width * len(pixels) * pixels.itemsize))
        across = min(many, -(-self.grid.shape[1] // width))
        parts = list(blocks(rows, many // across * height, across * width))
        for place, part in enumerate(todo := parts.copy()):
            try:
                with rasterio.Env(GDAL_NUM_THREADS="ALL_CPUS"):  # a file's blocks are decoded side by side
                    image, missing = self.reader.read_pixels(part)
            except InputError as error:
                if place < len(parts):
                    todo += blocks(part, height, width)
                    continue
                self.damaged.setdefault((part.row_off // height, part.col_off // width), str(error))
                image, missing = np.zeros((), self.reader.dtype), np.ones((1, 1), dtype=bool)
            where, columns = part.toslices()
            where = slice(where.start - rows.row_off, where.stop - rows.row_off)
            pixels[:, where, columns] = np.where(missing, self._fill, image) if missing.any() else image
            if self.reader.scene.masks:
                missing = missing | (self.reader.read_mask(part) != 1)
            hidden[where, columns] = missing


def _seen(starts: Sequence[int], size: int, length: int) -> NDArray[np.intp]:
    """The places of a side of the scene that windows see, the first to the last."""
    return reflected(starts[0], starts[-1] - starts[0] + size, length)


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

    One strip of windows is in memory at a time; the next one is read, and the last one written, meanwhile. Windows of which all
    pixels are hidden are not predicted.

    Args:
        predictor: `Predictor.forward`, in the precision and on the device that it is to have.
        planes: `Predictor.planes`.
        reader: Where the scene has a mask, only what it marks is mapped.
        outputs: What is made of it.
        windows: How the scene is cut.
        device: The predictor's.
        title: What the progress bar says.
    """
    grid = Grid(reader.size, windows)
    blends = {output.head: Blend(grid, planes(output.head), device) for output in outputs}
    batches = [grid.lefts[first : first + windows.batch_size] for first in range(0, len(grid.lefts), windows.batch_size)]
    stops = [*(max(0, lefts[0]) for lefts in batches[1:]), reader.size[1]]
    rows, seen, written = StripReader(reader, grid, windows.blend != "none"), False, list[Future[None]]()
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
            for lefts, stop, _ in zip(batches, stops, steps, strict=False):
                for blend in blends.values():
                    blend.widen(strip, lefts[-1] + windows.size)
                for top in strip.tops:
                    _predict_batch(predictor, on_device, unseen, strip, top, lefts, grid, blends)
                finished = {head: blend.take(strip, stop) for head, blend in blends.items()}
                at = -strip.tops[0], -grid.lefts[0]
                hidden = unseen[strip.first + at[0] : strip.below + at[0], start + at[1] : stop + at[1]]
                seen |= not hidden.all()
                for output, own in zip(outputs, made, strict=True):
                    own.append(output.block(finished[output.head], hidden))
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
        log.warning(
            "%s has no data anywhere%s: its map is empty.", reader.scene.image, " in the area" * bool(reader.scene.masks)
        )


def _predict_batch(
    predictor: Callable[[Tensor], dict[str, Tensor]],
    pixels: Tensor,
    hidden: NDArray[np.bool_],
    strip: Strip,
    top: int,
    lefts: Sequence[int],
    grid: Grid,
    blends: Mapping[str, Blend],
) -> None:
    """Predict some windows of a row and add them to it; one whose pixels are all hidden changes nothing that is seen."""

    def window(left: int) -> Any:
        row, column = top - strip.tops[0], left - grid.lefts[0]
        return np.s_[..., row : row + grid.size, column : column + grid.size]

    asked = [left for left in lefts if not hidden[window(left)].all()]
    if not asked:
        return
    found = predictor(torch.stack([pixels[window(left)] for left in asked]))
    for head, blend in blends.items():
        for left, planes in zip(asked, found[head], strict=True):
            blend.add(strip, planes, top, left)
