"""Real values from the file to the batch, beside NumPy."""

import numpy as np
import pytest
import torch
from rasterio.transform import from_origin
from stores import store_of
from tiny import coloured, make_scene, write_tif

from rsseg.contract import InputError
from rsseg.data.augment import D4, CutOut, ScaleCrop
from rsseg.data.balance import Balanced
from rsseg.data.labels import Values, make_mask_reader
from rsseg.task import Multiclass, Regression

HEIGHT, PAIR = Regression(("height",), units=("m",)), Regression(("height", "slope"))


def scene_of(folder, name, values, **options):
    """A scene whose target holds the values ``[V, H, W]``."""
    rng = np.random.default_rng(len(name))
    image = write_tif(folder / f"{name}.tif", coloured(rng, np.zeros(values.shape[1:], np.uint8)))
    return make_scene(name, image, write_tif(folder / f"{name}.values.tif", values, **options))


def heights(seed, planes=1, size=80, dtype=np.float32):
    values = np.random.default_rng(seed).normal(2000, 5, (planes, size, size)).astype(dtype)
    values[:, 10:20, :7] = -9999
    return values


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "uint16"])
def test_windows_hold_the_values_of_the_file(tmp_path, dtype):
    values = np.abs(heights(0)).astype(dtype)  # 9999 where nothing is known
    store = store_of([scene_of(tmp_path, "a", values, nodata=9999)], tmp_path / "store", Values(HEIGHT))
    _, layers = store.cut([(0, 5, 0), (0, 60, 60)], 32)
    expected = np.where(values == 9999, np.nan, values.astype(np.float32))
    np.testing.assert_array_equal(layers["mask"][0], expected[:, 5:37, :32])
    assert layers["mask"].dtype == torch.float32
    assert layers["mask"][1, :, 20:].isnan().all()  # beyond the scene


def test_each_band_has_unknown_pixels_of_its_own(tmp_path):
    values = heights(1, planes=2)
    values[0, 40, 40], values[1, 50, 50], values[1, 60, 60] = -9999, np.nan, -1
    store = store_of([scene_of(tmp_path, "a", values, nodata=-9999)], tmp_path / "store", Values(PAIR, ignore=[-1]))
    layers = store.cut([(0, 0, 0)], 80)[1]["mask"][0]
    np.testing.assert_array_equal(layers, np.where(np.isin(values, (-9999, -1)), np.nan, values))


def test_statistics_are_those_of_all_known_values(tmp_path):
    parts = [heights(seed, planes=2, size=size) for seed, size in ((0, 80), (1, 120), (2, 64))]
    parts[2][1] = np.nan  # a scene of which nothing is known
    scenes = [scene_of(tmp_path, f"s{i}", part, nodata=-9999) for i, part in enumerate(parts)]
    census = store_of(scenes, tmp_path / "store", Values(PAIR)).census
    for v in range(2):
        known = np.concatenate([part[v].ravel() for part in parts]).astype(np.float64)
        known = known[(known != -9999) & ~np.isnan(known)]
        assert census.values.mean[v] == pytest.approx(known.mean(), rel=1e-12)
        assert census.values.std[v] == pytest.approx(known.std(), rel=1e-9)
        assert (census.values.min[v], census.values.max[v]) == (known.min(), known.max())
        assert census.positives[:, v].sum() == len(known)
    assert census.positives.tolist() == census.valid.tolist()


@pytest.mark.parametrize(
    ("mask_reader", "raw", "message"),
    [
        (
            lambda: Values(HEIGHT, span=[0, 50]),
            [[[3.0, 61.0]]],
            r"holds 61, 1 such values in all, but finite ones in dataset.range=\[0, 50\]",
        ),
        (lambda: Values(HEIGHT), [[[np.inf]]], "holds inf, 1 such values in all, but finite ones"),
        (
            lambda: Values(HEIGHT, span=[-np.inf, 100]),
            [[[1.0, 101.0]]],
            r"holds 101, .* dataset.range=\[-inf, 100\] are expected",
        ),
        (
            lambda: make_mask_reader(Multiclass(("a", "b")), span=[0, 1]),
            None,
            "a multiclass task has no range",
        ),
        (lambda: Values(HEIGHT, span=[5, 1]), None, r"dataset.range=\[5, 1\]: the lowest and the highest value"),
        (lambda: Values(HEIGHT, ignore=["#ff0000"]), None, r"dataset.ignore_values=\['#ff0000'\]: numbers are expected"),
    ],
)
def test_what_is_refused(mask_reader, raw, message):
    with pytest.raises(InputError, match=message):
        mask_reader().decode(np.array(raw))


@pytest.mark.parametrize("value", [-9999.9, -3.4028234663852886e38, 0.1])
def test_an_ignored_value_is_that_of_the_files_dtype(value):
    for dtype in (np.float32, np.float64):
        found = Values(HEIGHT, ignore=[value]).decode(np.array([[[value, 5]]], dtype=dtype))
        assert np.isnan(found[0, 0]).tolist() == [True, False]


def test_the_decoder_follows_the_task():
    assert make_mask_reader(HEIGHT, ignore=[0]).decode(np.array([[[0, 7]]])).tolist()[0][0][1] == 7
    labels = make_mask_reader(Multiclass(("a", "b")))
    assert labels.decode(np.array([[[1, 255]]])).tolist() == [[1, 255]]


def test_augmentations_move_values_and_know_nothing_of_what_they_invent():
    values = torch.arange(64.0 * 64).view(1, 1, 64, 64)
    image = values.repeat(1, 3, 1, 1)
    for augment in (D4(seed=1), ScaleCrop(seed=1, scale=(0.5, 0.5)), CutOut(seed=1, count=1, size=(0.25, 0.25))):
        moved, layers = augment(image.clone(), {"mask": values.clone()}, torch.tensor([7]))
        mask = layers["mask"]
        there = ~mask.isnan()
        assert there.any()
        assert mask.dtype == torch.float32
        assert torch.isin(mask[there], values).all()
        if isinstance(augment, D4):
            torch.testing.assert_close(mask, moved[:, :1])
        else:
            assert not there.all()


def test_balanced_windows_hold_known_values(tmp_path):
    values = np.full((1, 256, 256), np.nan, np.float32)
    values[0, 200:220, 200:220] = 3
    store = store_of([scene_of(tmp_path, "a", values)], tmp_path / "store", Values(HEIGHT))
    sampler = Balanced(0, store.sizes, 32, store.census.blocks, store.task, store.read)
    found = [not np.isnan(store.read(*sampler(k), 32)[1][store.task.target]).all() for k in range(20)]
    assert np.mean(found) > 0.9


def test_a_target_on_another_grid_is_warped(tmp_path):
    coarse = np.arange(20 * 20, dtype=np.float32).reshape(1, 20, 20)
    scene = scene_of(tmp_path, "a", coarse, crs="EPSG:32633", transform=from_origin(0, 80, 4, 4))
    rng = np.random.default_rng(0)
    write_tif(scene.image, coloured(rng, np.zeros((80, 80), np.uint8)), crs="EPSG:32633", transform=from_origin(0, 80, 1, 1))
    store = store_of([scene], tmp_path / "store", Values(HEIGHT))
    found = store.cut([(0, 0, 0)], 80)[1]["mask"][0, 0].numpy()
    np.testing.assert_array_equal(found, coarse[0].repeat(4, 0).repeat(4, 1))
