"""Weights and class shares from the file to the batch, beside rasterio and beside labels, which move in the same way."""

import numpy as np
import pytest
import torch
from block_counts import blocks_of
from rasterio.transform import from_origin
from rasterio.windows import Window
from stores import LABELS, store_of
from tiny import checker, coloured, make_scene, mask_file, write_tif

from rsseg.contract import IGNORE, Batch, InputError
from rsseg.data.augment import D4, CutOut, ScaleCrop
from rsseg.data.balance import Balanced
from rsseg.data.decoded import store_name
from rsseg.data.files import Files
from rsseg.data.labels import Shares
from rsseg.data.paste import Paste
from rsseg.data.scene import Scene, SceneReader
from rsseg.data.store import load_scenes
from rsseg.data.windows import GridWindows
from rsseg.task import Binary, Multiclass, Multilabel

RNG = np.random.default_rng(0)
CLASSES, LAYERED = Multiclass(("a", "b", "c")), Multiclass(("a", "b", "c"), soft=True)


def scene_of(folder, name="s", size=80, weight=None, **options):
    """A scene of three classes with the weight that is given, ``[H, W]``."""
    mask = checker(RNG, size, 3)
    image = write_tif(folder / f"{name}.tif", coloured(RNG, mask))
    path = None if weight is None else write_tif(folder / f"{name}.weight.tif", weight[None], **options)
    return make_scene(name, image, write_tif(folder / f"{name}.mask.tif", mask[None]), weight=path)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64"])
@pytest.mark.parametrize("cache", ["disk", "ram", "device"])
def test_windows_hold_the_weights_of_the_file(tmp_path, dtype, cache):
    weight = (RNG.random((80, 80)) * 50).astype(dtype)
    weight[10:20] = 99  # no-data
    if weight.dtype.kind == "f":
        weight[30] = np.nan
    scenes = [scene_of(tmp_path, "a", weight=weight, nodata=99), scene_of(tmp_path, "b")]
    store = store_of(scenes, tmp_path / "store")
    stored = np.load(next((tmp_path / "store").glob("*.weight.npy")))
    assert stored.dtype == weight.dtype
    assert store.nbytes == 80 * 80 * (4 + 4 + weight.dtype.itemsize) + 5 * 128  # headers
    if cache != "disk":
        load_scenes([store], torch.device("cpu") if cache == "device" else None)
    image, layers = store.cut([(0, 5, 7), (0, 60, 60), (1, 60, 0)], 32)
    assert (layers["weight"].dtype, layers["weight"].shape) == (torch.float32, (3, 32, 32))
    expected = np.where((weight == 99) | np.isnan(weight.astype(float)), 0, weight).astype(np.float32)
    np.testing.assert_array_equal(layers["weight"][0], expected[5:37, 7:39])
    np.testing.assert_array_equal(layers["weight"][1, :20, :20], expected[60:, 60:])
    assert (layers["weight"][2, :20] == 1).all()  # the scene has none
    beyond = layers["mask"] == IGNORE
    assert beyond.sum() == 32 * 32 - 20 * 20 + 12 * 32
    np.testing.assert_array_equal(np.isnan(layers["weight"]), beyond)
    read, alone = store.read(0, 5, 7, 32)
    np.testing.assert_array_equal(alone["weight"], expected[5:37, 7:39])
    np.testing.assert_array_equal(read, image[0])


def test_without_weights_there_is_none(tmp_path):
    store = store_of([scene_of(tmp_path)], tmp_path / "store")
    assert set(store.cut([(0, 0, 0)], 32)[1]) == {"mask"}
    assert set(GridWindows(store, 32, 4).batch([0])) == {"image", "corner", "mask", "scene", "k"}


def test_a_weight_on_another_grid_is_warped_as_a_mask_is(tmp_path):
    mask = checker(RNG, 80, 3)
    image = write_tif(tmp_path / "i.tif", coloured(RNG, mask))
    elsewhere = write_tif(
        tmp_path / "m.tif", RNG.integers(0, 3, (1, 50, 50), dtype=np.uint8), transform=from_origin(500003, 3999998, 0.7, 0.7)
    )
    reader = SceneReader(make_scene("s", image, elsewhere, weight=elsewhere), [LABELS], [1])
    layers = reader.read_layers(Window(3, 5, 70, 60))
    known = layers["mask"] != IGNORE
    assert 0 < known.sum() < known.size
    np.testing.assert_array_equal(layers["weight"], np.where(known, layers["mask"], 0))


def augmentations():
    paste = Paste(1, CLASSES, classes=["c"], min_area=1, probability=1)
    mask = np.zeros((64, 64), np.uint8)
    mask[20:25, 20:28], mask[40:44, 3:9] = 2, 2
    image = np.stack([mask, mask]).astype(np.uint8)
    layers = {"mask": mask, "weight": mask.astype(np.float32)}

    def read(scene, top, left, size):
        def part(pixels, value):
            cut = pixels[..., top : top + size, left : left + size]
            pad = [(0, 0)] * (cut.ndim - 2) + [(0, size - side) for side in cut.shape[-2:]]
            return np.pad(cut, pad, constant_values=value)

        return part(image, 0), {"mask": part(layers["mask"], IGNORE), "weight": part(layers["weight"], np.nan)}

    paste.fit(read, blocks_of([mask], CLASSES, 32), [0.0, 0.0], [1.0, 1.0])
    return [D4(1), ScaleCrop(1, (0.5, 2)), CutOut(1, 2, (0.1, 0.4)), paste]


def test_a_weight_equal_to_its_mask_stays_so_whatever_is_augmented():
    mask = torch.from_numpy(np.stack([checker(RNG, 48, 3) for _ in range(12)]))
    mask[:, :4, :6] = IGNORE
    weight = mask.float().masked_fill(mask == IGNORE, torch.nan)
    image, layers = mask[:, None].float().expand(-1, 2, -1, -1).clone(), {"mask": mask, "weight": weight}
    for augmentation in augmentations():
        before = layers["mask"]
        image, layers = augmentation(image, layers, torch.arange(12))
        assert not torch.equal(layers["mask"], before)
        assert layers["weight"].dtype == torch.float32
        expected = layers["mask"].float().masked_fill(layers["mask"] == IGNORE, torch.nan)
        torch.testing.assert_close(layers["weight"], expected, rtol=0, atol=0, equal_nan=True)


def test_shares_move_as_the_labels_that_they_are_the_shares_of():
    mask = torch.from_numpy(np.stack([checker(RNG, 48, 3) for _ in range(8)]))
    mask[:, :4, :6] = IGNORE
    shares = torch.stack([(mask == c).float().masked_fill(mask == IGNORE, torch.nan) for c in range(3)], dim=1)
    image = mask[:, None].float()
    for augmentation in augmentations()[:3]:
        moved, hard = augmentation(image, {"mask": mask}, torch.arange(8))
        also, soft = augmentation(image, {"mask": shares}, torch.arange(8))
        assert torch.equal(moved, also)
        assert torch.equal(LAYERED.hard_labels(soft["mask"]), hard["mask"].long())


@pytest.mark.parametrize(
    ("pixels", "options", "message"),
    [
        (
            np.full((1, 80, 80), -1, np.int16),
            {},
            "weight.tif: 6400 pixels have a weight such as -1; weights are finite numbers",
        ),
        (np.full((1, 80, 80), np.inf, np.float32), {}, "6400 pixels have a weight such as inf"),
        (np.full((1, 80, 80), -np.inf, np.float32), {"nodata": -9999}, "have a weight such as -inf"),
        (np.ones((3, 80, 80), np.uint8), {}, "weight.tif has 3 bands, but a weight has one"),
        (np.ones((1, 80, 80), np.complex64), {}, "weight.tif: it holds complex numbers"),
        (np.ones((1, 30, 30), np.uint8), {"crs": None, "transform": None}, "weight.tif is 30 x 30 pixels, but"),
        (np.ones((1, 80, 80), np.uint8), {"transform": from_origin(0, 0, 1, 1)}, "weight.tif does not overlap"),
    ],
)
def test_weights_that_cannot_be(tmp_path, pixels, options, message):
    scene = scene_of(tmp_path)
    path = write_tif(tmp_path / "weight.tif", pixels, **options)
    with pytest.raises(InputError, match=message):
        store_of([make_scene("s", scene.image, mask_file(scene), weight=path)], tmp_path / "store")


def test_negative_no_data_weighs_nothing(tmp_path):
    weight = np.full((80, 80), -9999, np.float32)
    weight[40:] = 0.5
    store = store_of([scene_of(tmp_path, weight=weight, nodata=-9999)], tmp_path / "store")
    np.testing.assert_array_equal(store.cut([(0, 0, 0)], 80)[1]["weight"][0], np.where(weight < 0, 0, weight))


def test_other_weights_are_other_tiles_and_other_pixels(tmp_path):
    scene = scene_of(tmp_path, weight=np.ones((80, 80), np.float32))
    bare = make_scene("s", scene.image, mask_file(scene))
    assert store_name(scene, [LABELS], [1]) != store_name(bare, [LABELS], [1])
    assert store_name(Scene("s", scene.image, weight=mask_file(scene)), [LABELS], [1]) != store_name(bare, [LABELS], [1])
    before = store_of([scene], tmp_path / "store")
    write_tif(scene.weight, np.full((1, 80, 80), 0.5, np.float32))
    after = store_of([scene], tmp_path / "store")
    assert before.pixel_hash != after.pixel_hash
    assert before.census.fingerprint(["s"]) == after.census.fingerprint(["s"])  # the labels are the same


def test_files_pairs_weights_as_masks(tmp_path, caplog):
    caplog.set_level("INFO")
    for name in ("a1", "a2", "b1"):
        scene = scene_of(tmp_path / "x", name)
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "masks").mkdir(exist_ok=True)
        scene.image.rename(tmp_path / "images" / f"{name}.tif")
        mask_file(scene).rename(tmp_path / "masks" / f"{name}.tif")
    write_tif(tmp_path / "sure/a2.tif", np.ones((1, 80, 80), np.float32))
    given = str(tmp_path), "images/{name}.tif", "masks/{name}.tif"
    found = Files(*given, split={"train": 1.0}, weight="sure/{name}.tif").scenes("train")
    assert [scene.weight for scene in found] == [None, tmp_path / "sure/a2.tif", None]
    assert "1 of 3 images have a weight; all pixels of the others count 1." in caplog.text
    with pytest.raises(InputError, match=r"no file below .* fits dataset\.source\.weight=shure/\{name\}\.tif for any image"):
        Files(*given, weight="shure/{name}.tif")
    with pytest.raises(InputError, match=r"weight=sure/\{tile\}\.tif has the field tile, which"):
        Files(*given, weight="sure/{tile}.tif")


def fractions(seed, bands, size=80):
    """Smooth shares ``[bands, H, W]`` that sum to 1."""
    planes = np.random.default_rng(seed).random((bands, size // 8, size // 8)).repeat(8, axis=1).repeat(8, axis=2) ** 3
    return planes / planes.sum(axis=0)


@pytest.mark.parametrize(("whole", "dtype"), [(1, "float32"), (100, "float32"), (1, "float64"), (255, "uint8"), (100, "uint8")])
def test_the_store_holds_the_shares_of_the_file(tmp_path, whole, dtype):
    exact = fractions(1, 3)
    raw = exact * whole
    if dtype == "uint8":
        raw[:2] = np.rint(raw[:2])
        raw[2] = whole - raw[:2].sum(axis=0)
    raw = raw.astype(dtype)
    image = write_tif(tmp_path / "i.tif", coloured(RNG, checker(RNG, 80, 3)))
    mask = raw.copy()
    if dtype != "uint8":
        mask[1, 3:6, 2] = np.nan
    path = write_tif(tmp_path / "m.tif", mask)
    store = store_of([make_scene("s", image, path)], tmp_path / "store", labels=Shares(LAYERED, whole))
    found = store.cut([(0, 0, 0)], 80)[1]["mask"][0]
    assert (found.dtype, found.shape) == (torch.float32, (3, 80, 80))
    expected = mask.astype(np.float64) / whole
    expected = expected / expected.sum(axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    labels = np.where(np.isnan(expected).any(axis=0), IGNORE, np.nan_to_num(expected).argmax(axis=0))
    np.testing.assert_array_equal(LAYERED.hard_labels(found), labels)
    counts = [int((labels == c).sum()) for c in range(3)]
    assert store.census.positives[0].tolist() == counts
    assert (store.census.valid[0] == sum(counts)).all()
    sampler = Balanced(1, store.sizes, 32, store.census.blocks, LAYERED, store.read, weights={"c": 1})
    for k in range(20):
        _, top, left = sampler(k)
        assert (labels[top : top + 32, left : left + 32] == 2).any()


def test_beyond_a_scene_and_where_the_image_has_no_data_shares_are_unknown(tmp_path):
    pixels = coloured(RNG, checker(RNG, 80, 3))
    pixels[:, 10:12] = 0
    image = write_tif(tmp_path / "i.tif", pixels, nodata=0)
    path = write_tif(tmp_path / "m.tif", fractions(1, 3).astype(np.float32))
    store = store_of([make_scene("s", image, path), Scene("bare", image)], tmp_path / "store", labels=Shares(LAYERED, 1))
    mask = store.cut([(0, 0, 60), (1, 0, 0)], 32)[1]["mask"]
    unknown = torch.isnan(mask[0])
    assert unknown[:, 10:12].all()
    assert unknown[:, :, 20:].all()
    assert not unknown[:, :10, :20].any()
    assert torch.isnan(mask[1]).all()
    inner = GridWindows(store, 32, margin=4)
    batch: Batch = inner.batch([0])
    core = inner.cells[0]
    assert torch.isnan(batch["mask"][0, :, :, core.inner_right :]).all()


@pytest.mark.parametrize(
    ("task", "raw", "missing"),
    [
        (LAYERED, [0.0, 0.0, 0.0], True),  # no-data in all bands, which no pixel can have
        (LAYERED, [0.0, 0.5, 0.5], False),
        (Binary(("a",), soft=True), [0.0], False),  # a share as any other
        (Multilabel(("a", "b"), soft=True), [0.0, 0.0], False),
    ],
)
def test_no_data_that_may_be_a_share(task, raw, missing):
    pixels = np.array(raw, np.float32)[:, None, None]
    decoded = Shares(task, 1).decode(pixels, nodata=0.0)
    assert np.isnan(decoded).all() == missing
    assert missing or np.array_equal(decoded, pixels)
    assert np.isnan(Shares(task, 1).decode(pixels - 9 * (pixels == raw[0]), nodata=-9.0)).any(axis=0).all()


def test_a_label_of_its_own_may_be_unknown_in_one_plane():
    raw = np.array([[[0.2, np.nan]], [[0.7, 0.6]]], np.float32)
    found = Shares(Multilabel(("a", "b"), soft=True), 1).decode(raw)
    np.testing.assert_array_equal(found, raw)
    np.testing.assert_array_equal(Multilabel.hard_labels(found), [[[0, IGNORE]], [[1, 1]]])


@pytest.mark.parametrize(
    ("pixels", "whole", "message"),
    [
        (
            np.full((3, 80, 80), 0.3),
            1,
            "m.tif: the shares of 6400 pixels do not sum to 1, such as 0.9: with dataset.fractions=1",
        ),
        (np.full((3, 80, 80), 34.0), 100, "the shares of 6400 pixels do not sum to 100, such as 102"),
        (np.full((3, 80, 80), 40.0), 1, "m.tif: the mask holds 40, but with dataset.fractions=1 shares lie from 0 to 1"),
        (np.full((3, 80, 80), -0.2), 1, "the mask holds -0.2, but"),
        (np.full((3, 80, 80), np.inf), 1, "the mask holds inf, but"),
        (np.full((1, 80, 80), 1.0), 1, r"m.tif has 1 bands, but a multiclass task of class shares .* needs 3: a, b, c"),
        (np.full((4, 80, 80), 0.25), 1, "m.tif has 4 bands, but a multiclass task of class shares"),
    ],
)
def test_shares_that_cannot_be(tmp_path, pixels, whole, message):
    image = write_tif(tmp_path / "i.tif", coloured(RNG, checker(RNG, 80, 3)))
    path = write_tif(tmp_path / "m.tif", pixels.astype(np.float32))
    with pytest.raises(InputError, match=message):
        store_of([make_scene("s", image, path)], tmp_path / "store", labels=Shares(LAYERED, whole))


def test_shares_within_one_percent_are_made_to_sum_to_1():
    found = Shares(LAYERED, 100).decode(np.array([33, 33, 33], np.uint8)[:, None, None])
    np.testing.assert_allclose(found.sum(axis=0), 1, rtol=1e-6)
    np.testing.assert_allclose(found, 1 / 3, rtol=1e-6)
