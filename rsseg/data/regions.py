"""Parts of a large scene as scenes of their own, with room between those of different splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

from rasterio.windows import Window

from rsseg.data.scene import Scene


def cut(length: int, side: int) -> list[int]:
    """Where a line is cut into equal parts of about `side` pixels, with both ends.

    Example:
        >>> cut(1000, 300)
        [0, 333, 666, 1000]
    """
    parts = max(1, round(length / side))
    return [length * i // parts for i in range(parts + 1)]


def blocks_of(scene: Scene, shape: tuple[int, int], side: int) -> dict[tuple[int, int], Scene]:
    """A scene whose image has this height and width as blocks, each a scene of its own, by their row and column."""
    rows, columns = cut(shape[0], side), cut(shape[1], side)
    return {
        (i, j): replace(scene, name=f"{scene.name}-r{i}c{j}", region=Window(left, top, right - left, bottom - top))
        for i, (top, bottom) in enumerate(pairwise(rows))
        for j, (left, right) in enumerate(pairwise(columns))
    }


def apart(blocks: Mapping[tuple[int, int], Scene], owner: Mapping[str, str], buffer: int) -> list[Scene]:
    """Blocks of one image, shrunk so that `buffer` pixels at least lie between any two of different splits.

    A block gives up half of the buffer on every side that has a block of another split behind it or behind its corners.

    Args:
        blocks: As `blocks_of` has them, with sides of twice the buffer or more.
        owner: The split of each name; a block without one is left out.
        buffer: Pixels.
    """
    half, kept = -(-buffer // 2), []
    for (i, j), block in blocks.items():
        own, window = owner.get(block.name), block.region
        if own is None or window is None:
            continue
        around = [(di, dj) for di in (-1, 0, 1) for dj in (-1, 0, 1) if (i + di, j + dj) in blocks]
        foreign = [(di, dj) for di, dj in around if owner.get(blocks[i + di, j + dj].name, own) != own]
        top, bottom = (half * any(di == side for di, _ in foreign) for side in (-1, 1))
        left, right = (half * any(dj == side for _, dj in foreign) for side in (-1, 1))
        size = window.width - left - right, window.height - top - bottom
        kept.append(replace(block, region=Window(window.col_off + left, window.row_off + top, *size)))
    return kept
