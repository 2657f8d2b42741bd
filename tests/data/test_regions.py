"""Spatial blocks: no pixel in two, none nearer than the buffer to another split's, all of it through Files too."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.windows import Window
from tiny import write_tif

from rsseg.contract import InputError
from rsseg.data.build import open_store
from rsseg.data.files import Files
from rsseg.data.labels import Labels
from rsseg.data.scene import Scene
from rsseg.data.splits import apart, blocks_of, cut
from rsseg.data.windows import GridWindows
from rsseg.task import Multiclass

SPLITS = ("train", "val", "test", None)
LABELS = Labels(Multiclass(("a", "b")))


def distance(a: Window, b: Window) -> int:
    """How many rows or columns lie between two windows, whichever are more; negative where they overlap."""
    rows = max(a.row_off, b.row_off) - min(a.row_off + a.height, b.row_off + b.height)
    columns = max(a.col_off, b.col_off) - min(a.col_off + a.width, b.col_off + b.width)
    return max(rows, columns)


@settings(deadline=None)
@given(st.integers(1, 5000), st.integers(1, 700))
def test_cut_is_gapless_and_even(length, side):
    ends = np.array(cut(length, side))
    parts = np.diff(ends)
    assert (ends[0], ends[-1]) == (0, length)
    assert parts.max() - parts.min() <= 1
    assert len(parts) == 1 or 2 / 3 * side - 1 <= parts.min() <= parts.max() <= 1.5 * side + 1


@settings(deadline=None)
@given(st.data())
def test_blocks_are_apart(data):
    height, width, side = data.draw(st.integers(1, 400)), data.draw(st.integers(1, 400)), data.draw(st.integers(16, 120))
    buffer = data.draw(st.integers(0, side // 2))
    blocks = blocks_of(Scene("s", Path("s.tif")), (height, width), side)
    owner = {block.name: key for block in blocks.values() if (key := data.draw(st.sampled_from(SPLITS)))}
    kept = apart(blocks, owner, buffer)
    assert [block.name for block in kept] == [block.name for block in blocks.values() if block.name in owner]
    count = np.zeros((height, width), np.int64)
    for block in kept:
        window = block.region
        assert min(window.row_off, window.col_off) >= 0
        assert min(window.height, window.width) >= 1
        assert window.row_off + window.height <= height
        assert window.col_off + window.width <= width
        count[window.toslices()] += 1
    assert count.max(initial=0) <= 1
    for a, b in combinations(kept, 2):
        assert distance(a.region, b.region) >= (buffer if owner[a.name] != owner[b.name] else 0)
    if buffer == 0 and len(owner) == len(blocks):
        assert (count == 1).all()


def test_blocks_of_one_split_touch_and_the_border_stays():
    blocks = blocks_of(Scene("s", Path("s.tif")), (100, 150), 50)
    kept = apart(blocks, dict.fromkeys((b.name for b in blocks.values()), "train"), 20)
    assert [k.region for k in kept] == [b.region for b in blocks.values()]
    owner = {b.name: "val" if place == (0, 0) else "train" for place, b in blocks.items()}
    regions = {b.name: b.region for b in apart(blocks, owner, 20)}
    assert regions["s-r0c0"] == Window(0, 0, 40, 40)
    assert regions["s-r0c1"] == Window(60, 0, 40, 50)
    assert regions["s-r1c1"] == Window(60, 60, 40, 40)  # for the corner's sake
    assert regions["s-r0c2"] == Window(100, 0, 50, 50)


@pytest.fixture
def root(tmp_path):
    """Two scenes in which each pixel is another value: 1000 y + x."""
    for name, (height, width) in {"a": (310, 420), "b": (200, 100)}.items():
        rows, columns = np.indices((height, width))
        write_tif(tmp_path / f"images/{name}.tif", (1000 * rows + columns)[None].astype(np.int32))
        write_tif(tmp_path / f"masks/{name}.tif", ((rows + columns) % 2)[None].astype(np.uint8))
    return tmp_path


SPLIT = {"blocks": 100, "buffer": 16, "train": 0.6, "val": 0.2, "test": 0.2}


def test_a_split_into_blocks(root):
    source = Files(str(root), "images/{n}.tif", "masks/{n}.tif", SPLIT)
    parts = {split: source.scenes(split) for split in ("train", "val", "test")}
    assert [len(part) for part in parts.values()] == [8, 3, 3]
    names = [scene.name for part in parts.values() for scene in part]
    assert sorted(names) == sorted({f"a-r{i}c{j}" for i in range(3) for j in range(4)} | {"b-r0c0", "b-r1c0"})
    again = Files(str(root), "images/{n}.tif", "masks/{n}.tif", SPLIT)
    assert again.scenes("val") == parts["val"]
    for one, other in combinations(parts, 2):
        for a in parts[one]:
            assert all(distance(a.region, b.region) >= 16 for b in parts[other] if a.image == b.image)


def test_validation_covers_each_block_once_and_reads_nothing_else(root, tmp_path):
    scenes = Files(str(root), "images/{n}.tif", "masks/{n}.tif", SPLIT).scenes("val")
    store = open_store(scenes, [LABELS], [1], tmp_path / "store")
    store.fill = np.array([-1.0])
    seen = [[] for _ in scenes]
    windows = GridWindows(store, 64, 8)
    for k in range(len(windows)):
        item = windows.batch([k])
        image, mask, scene = item["image"][0, 0].numpy(), item["mask"][0].numpy(), int(item["scene"])
        region = scenes[scene].region
        rows, columns = np.divmod(image[image >= 0], 1000)
        assert region.row_off <= rows.min() <= rows.max() < region.row_off + region.height
        assert region.col_off <= columns.min() <= columns.max() < region.col_off + region.width
        counted = image[mask != 255]
        assert (counted >= 0).all()
        np.testing.assert_array_equal(mask[mask != 255], (counted // 1000 + counted % 1000) % 2)
        seen[scene] += counted.tolist()
    for pixels, scene in zip(seen, scenes, strict=True):
        assert len(set(pixels)) == len(pixels) == scene.region.height * scene.region.width


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({**SPLIT, "buffer": 51}, "buffer.: 51.* at most half"),
        ({"buffer": 10, "train": 0.5, "val": 0.5}, "buffer.: 10.* at most half"),
        ({**SPLIT, "blocks": "big"}, "blocks.: .big.* their side in pixels"),
        ({"blocks": 100, "train": ["a"], "val": ["b"]}, "dealt out by fractions"),
        ({"block": 100, "train": 0.5, "val": 0.5}, "did you mean 'blocks'"),
        ({**SPLIT, "blocks": 1000}, "no scene of the test split .*, or into smaller ones"),
    ],
)
def test_splits_that_do_not_work(root, split, message):
    with pytest.raises(InputError, match=message):
        Files(str(root), "images/{n}.tif", "masks/{n}.tif", split).scenes("test")


def test_one_scene_is_too_few_and_the_message_says_what_to_do(root):
    with pytest.raises(InputError, match=r"no scene of the val split.*\{blocks: 64, buffer: 4"):
        Files(str(root), "images/a.tif", "masks/a.tif").scenes("val")
