import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.windows import Window

from rsseg.contract import IGNORE, Head, TaskKind
from rsseg.data.balance import Balanced
from rsseg.data.blocks import Blocks, count
from rsseg.data.files import Files
from rsseg.data.labels import Labels
from rsseg.data.sampling import Uniform
from rsseg.data.scene import SceneReader
from rsseg.data.windows import Batches, GridWindows, TrainWindows, grid, loader

HEAD = Head(TaskKind.multiclass, ("a", "b", "c"))


def reader_of(root, split="train"):
    source = Files(str(root), "images/{name}.*", "masks/{name}.*", split={"train": 0.5, "val": 0.5})
    return SceneReader(source.scenes(split), Labels(HEAD, None, [255]), [1, 2, 3])


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=1, max_size=3),
    st.integers(8, 40),
    st.integers(0, 3),
)
def test_grid_covers_every_pixel_once(sizes, size, overlap):
    counts = [np.zeros(s, int) for s in sizes]
    for core in grid(np.array(sizes), size, overlap):
        height, width = sizes[core.scene]
        assert 0 <= core.inner_top < core.inner_bottom <= size
        assert core.top >= 0
        assert height < size or core.top + size <= height  # windows stay inside scenes that are large enough
        rows = slice(core.top + core.inner_top, core.top + core.inner_bottom)
        counts[core.scene][rows, core.left + core.inner_left : core.left + core.inner_right] += 1
        if core.top > 0:
            assert core.inner_top >= overlap
        if core.left + size < width:
            assert size - core.inner_right >= overlap
    assert all((c == 1).all() for c in counts)


@pytest.mark.parametrize("balanced", [False, True])
def test_workers_and_resumption_change_nothing(folder_root, balanced):
    reader = reader_of(folder_root)
    masks = [reader.read_mask(scene, Window(0, 0, 96, 80)) for scene in range(len(reader))]
    blocks = Blocks.of([count(mask, HEAD) for mask in masks])
    uniform = Uniform(5, reader.sizes, 32)
    sampler = Balanced(5, reader.sizes, 32, blocks, HEAD, reader.read) if balanced else uniform
    windows = TrainWindows(reader, 32, sampler)
    whole = list(loader(windows, Batches(12, 2), workers=0))
    split = list(loader(windows, Batches(12, 2, start=6), workers=2))
    assert len(split) == 3
    for ours, theirs in zip(whole[3:], split, strict=True):
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@given(st.integers(1, 60), st.integers(1, 4), st.integers(1, 4))
def test_ranks_share_the_windows_of_a_batch(stop, share, world):
    one = list(Batches(stop, share * world))
    ranks = [list(Batches(stop, share * world, rank=r, world=world)) for r in range(world)]
    assert len({len(batches) for batches in ranks}) == 1  # nobody waits for a batch that another rank does not have
    assert len(ranks[0]) == len(Batches(stop, share * world))
    for i, whole in enumerate(one):
        parts = [batches[i] for batches in ranks]
        assert len({len(part) for part in parts}) == 1
        assert sorted(k for part in parts for k in part if k < stop) == whole[: share * world] == [k for k in whole if k < stop]


def test_windows_beyond_the_last_have_no_labels(folder_root):
    windows = GridWindows(reader_of(folder_root), 64, overlap=8)
    beyond = windows[len(windows)]
    assert (beyond["mask"] == IGNORE).all()
    assert beyond["image"].shape == windows[0]["image"].shape


def test_grid_windows_equal_the_mask(folder_root):
    reader = reader_of(folder_root)
    windows = GridWindows(reader, 64, overlap=8)
    rebuilt = np.full((len(reader), 80, 96), IGNORE, np.uint8)
    for core, k in zip(windows.cores, range(len(windows)), strict=True):
        mask = windows[k]["mask"].numpy()
        part = rebuilt[core.scene, core.top : core.top + 64, core.left : core.left + 64]
        assert (part[mask != IGNORE] == IGNORE).all()  # nobody else wrote here
        part[mask != IGNORE] = mask[mask != IGNORE]
    for scene in range(len(reader)):
        assert (rebuilt[scene] == reader.read_mask(scene, Window(0, 0, 96, 80))).all()
