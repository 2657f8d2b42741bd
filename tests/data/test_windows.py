from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import folder_scenes, store_of
from tiny import make_scene, mask_file, write_tif

from rsseg.contract import IGNORE, InputError
from rsseg.data.balance import Balanced
from rsseg.data.sampling import Uniform
from rsseg.data.windows import Batches, GridWindows, Loader, StoreWindows, grid
from rsseg.dataset import describe_padding, describe_scales


@pytest.fixture(scope="module")
def store(folder_root, tmp_path_factory):
    return store_of(folder_scenes(folder_root), tmp_path_factory.mktemp("store"))


def train_windows(store, seed=5):
    return StoreWindows(store, 32, Uniform(seed, store.sizes, 32))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=1, max_size=3),
    st.integers(8, 40),
    st.integers(0, 3),
)
def test_grid_covers_every_pixel_once(sizes, size, margin):
    counts = [np.zeros(s, int) for s in sizes]
    for core in grid(np.array(sizes), size, margin):
        height, width = sizes[core.scene]
        assert 0 <= core.inner_top < core.inner_bottom <= size
        assert core.top >= 0
        assert height < size or core.top + size <= height  # windows stay inside scenes that are large enough
        rows = slice(core.top + core.inner_top, core.top + core.inner_bottom)
        counts[core.scene][rows, core.left + core.inner_left : core.left + core.inner_right] += 1
        if core.top > 0:
            assert core.inner_top >= margin
        if core.left + size < width:
            assert size - core.inner_right >= margin
    assert all((c == 1).all() for c in counts)


def same(ours, theirs):
    return all(torch.equal(ours[key], theirs[key]) for key in ("image", "mask", "scene", "k"))


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_and_resumption_change_nothing(store, threads):
    balanced = Balanced(5, store.sizes, 32, store.census.blocks, store.task, store.read)
    for windows in (train_windows(store), StoreWindows(store, 32, balanced), GridWindows(store, 32, margin=4)):
        whole = list(Loader(windows, Batches(31, 2), threads=0))
        rest = Loader(windows, Batches(31, 2, start=6), threads)
        assert len(rest) == len(whole) == 16
        assert all(same(ours, theirs) for ours, theirs in zip(whole[3:], rest, strict=True))
    assert whole[0]["image"].is_contiguous(memory_format=torch.channels_last)


def test_a_loader_cuts_no_more_than_it_has_to(store):
    """And what fails in a thread fails where it is waited for."""
    asked = []

    class Windows(GridWindows):
        def batch(self, numbers):
            asked.append(numbers)
            if numbers[0] == 6:
                raise ValueError("seven")
            return super().batch(numbers)

    batches = iter(Loader(Windows(store, 32, 0), Batches(1000, 1), threads=2))
    found = [next(batches)["k"].tolist() for _ in range(6)]
    assert found == [[k] for k in range(6)]
    with pytest.raises(ValueError, match="seven"):
        next(batches)
    assert len(asked) <= 7 + 2 * 2


@pytest.mark.parametrize("threads", [0, 2])
def test_a_window_that_cannot_be_cut_is_named(store, threads, monkeypatch):
    places, real = [(0, 0, 0)] * 5 + [(1, 3, 7)] * 3, store.arrays
    windows = StoreWindows(store, 32, places.__getitem__)

    def arrays(scene):
        if scene == 1:
            raise OSError(5, "Input/output error")
        return real(scene)

    monkeypatch.setattr(store, "arrays", arrays)
    batches = iter(Loader(windows, Batches(8, 4), threads))
    next(batches)
    named = rf"the window at row 3, column 7 of scene {store.scenes[1].name} \(.*\) can't be cut \(.*output error\)"
    with pytest.raises(InputError, match=named) as told:
        next(batches)
    assert isinstance(told.value.__cause__, OSError)


def test_ranks_and_batches_change_nothing(store):
    windows = train_windows(store)
    one = next(iter(Loader(windows, Batches(4, 4), threads=0)))
    ranks = [next(iter(Loader(windows, Batches(4, 4, rank=r, world=2), threads=0))) for r in range(2)]
    assert same(one, {key: torch.cat([rank[key] for rank in ranks]) for key in one})


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


def test_windows_beyond_the_last_have_no_labels(store):
    windows = GridWindows(store, 64, margin=8)
    last, beyond = (windows.batch([k]) for k in (len(windows) - 1, len(windows)))
    assert (beyond["mask"] == IGNORE).all()
    assert torch.equal(beyond["image"], last["image"])


def test_grid_windows_equal_the_mask(store):
    windows = GridWindows(store, 64, margin=8)
    rebuilt = np.full((len(store), 80, 96), IGNORE, np.uint8)
    for core, mask in zip(windows.cells, windows.batch(range(len(windows)))["mask"].numpy(), strict=True):
        part = rebuilt[core.scene, core.top : core.top + 64, core.left : core.left + 64]
        inside = mask[: part.shape[0], : part.shape[1]]
        assert (part[inside != IGNORE] == IGNORE).all()  # nobody else wrote here
        part[inside != IGNORE] = inside[inside != IGNORE]
    for scene, labels in zip(store.scenes, rebuilt, strict=True):
        with rasterio.open(mask_file(scene)) as file:
            np.testing.assert_array_equal(labels, file.read(1))


def test_scenes_of_another_scale_are_named(tmp_path):
    scenes, rng = [], np.random.default_rng(0)
    for name, scale in (("a", 255), ("b", 255), ("c", 1)):
        image = write_tif(tmp_path / f"{name}.tif", (scale * rng.random((1, 40, 40))).astype(np.float32))
        scenes.append(make_scene(name, image, write_tif(tmp_path / f"{name}.mask.tif", np.zeros((1, 40, 40), np.uint8))))
    said = describe_scales(store_of(scenes, tmp_path / "store", bands=(1,)))
    assert said.startswith(f"Values of {tmp_path}/c.tif reach 1 in its middle")
    assert describe_scales(store_of(scenes[:2], tmp_path / "store", bands=(1,))) == ""


def test_scenes_smaller_than_the_window_are_named_once():
    sizes = {"train": np.array([[100, 300], [256, 256]]), "val": np.array([[300, 300]])}
    stores = {split: SimpleNamespace(sizes=own) for split, own in sizes.items()}
    found = describe_padding(stores, 256)
    assert "Smaller than window=256: 1 train scenes." in found
    assert describe_padding(stores, 96) == ""
