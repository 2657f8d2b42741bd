"""`dataset=torchgeo`: what rsseg trains on is what torchgeo's samples hold."""

import shutil

import layouts
import numpy as np
import pytest
import torch
import torchgeo.datasets as tg
from stores import whole_scene
from tiny import checker, coloured, compose, mask_file, write_tif
from torchgeo.datasets import NonGeoDataset, RasterDataset, VectorDataset

from rsseg.assembly import make_setup
from rsseg.contract import InputError
from rsseg.data.pieces import grouped_keys
from rsseg.data.samples import mask_of
from rsseg.data.torchgeo import TorchGeo
from rsseg.dataset import open_split


@pytest.fixture
def loveda(tmp_path):
    return layouts.write(tmp_path, "loveda")


def settings(tmp_path, name, *overrides):
    return compose(["dataset=torchgeo", f"dataset.name={name}", f"output={tmp_path}/out", "dataset.classes=[a,b]", *overrides])


def source_of(config):
    return make_setup(config).source()


def test_samples_with_the_classes_own_splits(tmp_path, loveda):
    classes = "dataset.classes=[none,background,building,road,water,barren,forest,agriculture]"
    config = settings(tmp_path, "LoveDA", f"dataset.args.root={loveda}", classes)
    source = source_of(config)
    assert source.scenes("train")[0].all_bands() == [1, 2, 3]
    setup = make_setup(config).with_bands([1, 2, 3])
    for split in ("train", "val"):
        store, theirs = (
            open_split(setup.dataset, source.scenes(split), split, setup.window),
            tg.LoveDA(str(loveda), split=split),
        )
        assert len(store) == len(theirs) == 2
        assert store.dtype == np.uint8  # float32 in torchgeo's samples, but bytes hold them
        for i in range(2):
            image, mask = whole_scene(store, i)
            np.testing.assert_array_equal(image, theirs[i]["image"].numpy())
            np.testing.assert_array_equal(mask, theirs[i]["mask"].numpy())
    assert [mask_file(scene) for scene in source.scenes("test")] == [None, None]


def test_a_class_without_validation_holds_some_out(tmp_path):
    root = layouts.write(tmp_path, "deepglobe")
    config = settings(tmp_path, "DeepGlobeLandCover", f"dataset.args.root={root}")
    source = source_of(config)
    assert [len(source.scenes(split)) for split in ("train", "val", "test")] == [2, 1, 1]


@pytest.fixture
def strips(monkeypatch, tmp_path):
    """A geospatial dataset of two files, as an image and a mask that torchgeo joins."""
    rng = np.random.default_rng(0)
    for i in range(2):
        mask = checker(rng, 96, 2)[:48]
        place = {"transform": __import__("rasterio").transform.from_origin(500000 + 1000 * i, 4000000, 10, 10)}
        write_tif(tmp_path / f"image_{i}.tif", coloured(rng, mask).astype(np.float32) / 3, **place)
        write_tif(tmp_path / f"mask_{i}.tif", mask[None], **place)

    class Strips(RasterDataset):
        filename_glob = "image_*.tif"

        def __init__(self, paths: str):
            super().__init__(paths)

        def __getitem__(self, query):
            masks = type("Masks", (RasterDataset,), {"filename_glob": "mask_*.tif", "is_image": False})(self.paths)
            return super().__getitem__(query) | masks[query]

    monkeypatch.setattr(tg, "Strips", Strips, raising=False)
    return Strips(str(tmp_path))


def test_geospatial_datasets_are_cut_into_pieces_without_a_gap(tmp_path, strips):
    import rasterio

    source = TorchGeo("Strips", {"paths": str(tmp_path)}, str(tmp_path / "cache"), chip=32)
    parts = [source.scenes(split) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [6, 6, 0]  # a file's pieces stay together
    scenes = [scene for part in parts for scene in part]
    seen = {0: np.zeros((48, 96), int), 1: np.zeros((48, 96), int)}
    for scene in scenes:
        with rasterio.open(scene.image) as piece:
            number = int(piece.bounds.left >= 501000)
            with rasterio.open(tmp_path / f"image_{number}.tif") as whole:
                window = whole.window(*piece.bounds).round_offsets().round_lengths()
                np.testing.assert_array_equal(piece.read(), whole.read(window=window))
                assert piece.crs == whole.crs
            with rasterio.open(mask_file(scene)) as mine, rasterio.open(tmp_path / f"mask_{number}.tif") as whole:
                np.testing.assert_array_equal(mine.read(), whole.read(window=window))
            seen[number][window.toslices()] += 1
    assert all((count == 1).all() for count in seen.values())


def test_decoding_is_done_once_and_goes_on_after_an_interruption(tmp_path, loveda, monkeypatch):
    config = settings(tmp_path, "LoveDA", f"dataset.args.root={loveda}")
    first = source_of(config).scenes("train")
    times = [scene.image.stat().st_mtime_ns for scene in first]
    first[1].image.unlink()
    again = source_of(config).scenes("train")
    assert again[0].image.stat().st_mtime_ns == times[0]
    assert again[1].image.is_file()
    layouts.loveda(loveda, np.random.default_rng(5))  # other files: another cache
    assert source_of(config).scenes("train")[0].image != first[0].image


def test_the_cache_follows_the_classes_own_splits(tmp_path, loveda):
    def first(split, which):
        return TorchGeo("LoveDA", {"root": str(loveda)}, str(tmp_path / "c"), split=split).scenes(which)[0].image.read_bytes()

    swapped = {"train": "val", "val": "train"}
    assert first(None, "train") == first(swapped, "val")
    assert first(None, "val") == first(swapped, "train")
    assert first(None, "train") != first(None, "val")


def test_no_validation_split_by_choice(tmp_path, loveda):
    source = TorchGeo("LoveDA", {"root": str(loveda)}, str(tmp_path / "c"), split={"val": None})
    parts = [{scene.image for scene in source.scenes(split)} for split in ("train", "val")]
    assert [len(part) for part in parts] == [1, 1]
    assert not parts[0] & parts[1]


def test_overlapping_files_stay_together(tmp_path):
    """Three files: two overlap by half, one lies apart but touches the second."""
    rng = np.random.default_rng(0)
    for i, left in enumerate((0, 48, 144)):
        image = coloured(rng, checker(rng, 96, 2))
        write_tif(tmp_path / f"i_{i}.tif", image, transform=__import__("rasterio").transform.from_origin(left, 96, 1, 1))
    dataset = type("Images", (RasterDataset,), {"filename_glob": "i_*.tif"})(str(tmp_path))
    groups = [group for group, _ in grouped_keys(dataset, chip=96)]
    assert groups[0] == groups[1] != groups[2]


class Made(NonGeoDataset):
    """Samples of any form: arrays of these shapes under these keys, counting up from the sample's number."""

    def __init__(self, shapes, folds=(1, 2, 3)):
        self.shapes, self.folds = shapes, folds

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return {key: made(key, shape, index) for key, shape in self.shapes.items()}


def made(key, shape, index=0):
    if not shape:
        return index
    pixels = np.arange(index, index + np.prod(shape, dtype=int)).reshape(shape)
    if key.startswith("mask"):
        return torch.from_numpy(pixels // 5 % 2 == 1) if key.endswith("bool") else torch.from_numpy(pixels // 5 % 2)
    return torch.from_numpy(pixels * (1 if key.startswith("image") else 2)).float()


@pytest.fixture
def first(tmp_path, monkeypatch):
    """The arrays of the first training sample of a made-up class, as they are in its files."""
    import rasterio

    monkeypatch.setattr(tg, "Made", Made, raising=False)

    def read(shapes, **settings):
        scene = TorchGeo("Made", {"shapes": shapes}, str(tmp_path), **settings).scenes("train")[0]
        with rasterio.open(scene.image) as image, rasterio.open(mask_file(scene)) as mask:
            return image.read(), mask.read(), int(scene.name)

    return read


FLAT = {"mask": [8, 8]}
BOTH = ["mask", "mask_bool"]


@pytest.mark.parametrize(
    ("shapes", "settings", "images", "masks"),
    [
        ({"image": [3, 8, 8], "mask": [8, 8]}, {}, ["image"], ["mask"]),
        ({"image": [8, 8], "mask": [1, 8, 8]}, {}, ["image"], ["mask"]),
        ({"image": [2, 3, 8, 8], "mask": [1, 8, 8]}, {}, ["image"], ["mask"]),
        ({"image1": [3, 8, 8], "image2": [3, 8, 8], **FLAT}, {}, ["image1", "image2"], ["mask"]),
        (
            {"image_s1": [2, 8, 8], "x": [1], "image_s2": [5, 3, 8, 8], "masks": [8, 8]},
            {},
            ["image_s1", "image_s2"],
            ["masks"],
        ),
        ({"image": [3, 8, 8], "image_pan": [1, 32, 32], **FLAT}, {}, ["image"], ["mask"]),
        ({"image_a": [3, 8, 8], "image_b": [1, 32, 32], **FLAT}, {"image": "image_a"}, ["image_a"], ["mask"]),
        ({"image": [3, 8, 8], "mask_a": [8, 8], "mask_b": [8, 8]}, {"mask": "mask_b"}, ["image"], ["mask_b"]),
        (
            {"image": [3, 8, 8], "mask_bool": [8, 8], "mask": [8, 8]},
            {"mask": BOTH},
            ["image"],
            ["mask", "mask_bool"],
        ),
        ({"image": [3, 8, 8], "dem": [1, 8, 8], **FLAT}, {"image": ["image", "dem"]}, ["image", "dem"], ["mask"]),
        ({"image": [3, 8, 8], "dem": [1, 8, 8]}, {"mask": "dem"}, ["image"], ["dem"]),
    ],
)
def test_samples_of_any_form(first, shapes, settings, images, masks):
    image, mask, index = first(shapes, **settings)
    for found, keys in ((image, images), (mask, masks)):
        expected = np.concatenate([made(key, shapes[key], index).numpy().reshape(-1, 8, 8) for key in keys])
        np.testing.assert_array_equal(found, expected)


def test_some_steps_of_a_time_axis(first):
    image, _, index = first({"image": [9, 2, 8, 8], **FLAT}, times=3)
    np.testing.assert_array_equal(image, made("image", [9, 2, 8, 8], index)[[0, 4, 8]].reshape(6, 8, 8))
    twice, _, index = first({"image": [2, 1, 8, 8], **FLAT}, times=4)  # fewer than asked for: as many bands all the same
    np.testing.assert_array_equal(twice, made("image", [2, 1, 8, 8], index)[[0, 0, 1, 1]].reshape(4, 8, 8))


@pytest.mark.parametrize("number", [0, 2])
def test_masks_of_objects_become_one_of_their_labels(number):
    masks = np.zeros((number, 4, 4), np.uint8)
    for i in range(number):
        masks[i, i] = 1
    sample = {"mask": torch.from_numpy(masks), "label": torch.tensor([7, 3][:number]), "bbox_xyxy": torch.zeros(number, 4)}
    expected = np.zeros((4, 4))
    for i in range(number):
        expected[i] = [7, 3][i]
    np.testing.assert_array_equal(mask_of(sample), expected[None])


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ({"image": [1, 2, 3, 8, 8], **FLAT}, {}, r"its image has the shape \[1, 2, 3, 8, 8\]"),
        ({"image": [3, 4, 8], **FLAT}, {}, "same grid"),
        ({"image": [3, 8, 8], "label": []}, {}, r"holds image \[3, 8, 8\], label; an image and a mask"),
        ({"label": []}, {}, "an image and a mask are needed"),
        ({"image_a": [3, 8, 8], "image_b": [1, 9, 9], **FLAT}, {}, r"different grids.*dataset\.source\.image=\[image_a\]"),
        ({"image": [3, 8, 8], "mask_a": [8, 8], "mask_b": [8, 8]}, {}, r"several masks, mask_a, mask_b.*source\.mask=mask_a"),
        ({"image": [3, 8, 8], **FLAT}, {"image": ["image", "dem"]}, r"holds image .*; image and dem and a mask are needed"),
        ({"image": [3, 8, 8], **FLAT}, {"mask": "dem"}, "an image and a mask are needed"),
        ({"image": [3, 8, 8], **FLAT}, {"times": 0}, r"source\.times=0 must be at least 1"),
    ],
)
def test_samples_that_cannot_be_used(tmp_path, monkeypatch, arguments, settings, message):
    monkeypatch.setattr(tg, "Made", Made, raising=False)
    with pytest.raises(InputError, match=message):
        TorchGeo("Made", {"shapes": arguments}, str(tmp_path), **settings).scenes("train")


@pytest.mark.parametrize(
    ("arguments", "message"), [({"colour": 1}, "no such argument"), ({"split": "train"}, r"dataset\.source\.split names")]
)
def test_arguments_that_a_class_does_not_take(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        TorchGeo("LoveDA", arguments, str(tmp_path))


def test_splits_by_arguments(tmp_path, monkeypatch):
    """As PASTIS has them: no split, but folds."""

    class Folded(Made):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return sample | {"image": torch.full_like(sample["image"], sum(self.folds))}

    monkeypatch.setattr(tg, "Made", Folded, raising=False)
    args, shapes = str(tmp_path), {"shapes": {"image": [1, 8, 8], **FLAT}}
    source = TorchGeo("Made", shapes, args, split={"train": {"folds": [1, 2]}, "val": {"folds": [4]}})
    for split, value in (("train", 3), ("val", 4)):
        scenes = source.scenes(split)
        assert len(scenes) == 8
        assert {whole_file(scene.image).max() for scene in scenes} == {value}
    assert not {s.group for s in source.scenes("train")} & {s.group for s in source.scenes("val")}
    assert len(TorchGeo("Made", shapes, args, split={"train": {"folds": [1, 2]}}).scenes("val")) == 1  # 15 % of the 8
    with pytest.raises(InputError, match=r"no split called anything: name it in dataset\.source\.split for test"):
        source.scenes("test")


def whole_file(path):
    import rasterio

    with rasterio.open(path) as file:
        return file.read()


@pytest.fixture
def fields(monkeypatch, tmp_path):
    """Imagery in two files, and labels as features of one vector file that reaches beyond them."""
    import geopandas
    from rasterio.transform import from_origin
    from shapely.geometry import box

    rng = np.random.default_rng(0)
    for i in range(2):
        image = coloured(rng, checker(rng, 64, 2))
        write_tif(tmp_path / f"images/i_{i}.tif", image, transform=from_origin(500000 + 2000 * i, 4000000, 10, 10))
    shapes = [box(499000, 3999500, 500302, 3999793), box(502112, 3999500, 502522, 3999903)]
    (tmp_path / "labels").mkdir()
    geopandas.GeoDataFrame({"kind": [1, 2]}, geometry=shapes, crs="EPSG:32633").to_file(tmp_path / "labels/fields.gpkg")

    class Images(RasterDataset):
        filename_glob = "i_*.tif"

    class Fields(VectorDataset):
        filename_glob = "*.gpkg"

    monkeypatch.setattr(tg, "Images", Images, raising=False)
    monkeypatch.setattr(tg, "Fields", Fields, raising=False)
    return {"Images": {"paths": str(tmp_path / "images")}, "Fields": {"paths": str(tmp_path / "labels"), "label_name": "kind"}}


def test_images_and_vector_labels_are_joined_by_place(tmp_path, fields):
    import geopandas
    import rasterio
    import shapely

    scenes = [
        scene
        for split in ("train", "val")
        for scene in TorchGeo("Images+Fields", fields, str(tmp_path / "c"), chip=32).scenes(split)
    ]
    labels = geopandas.read_file(tmp_path / "labels/fields.gpkg")
    seen = set()
    for scene in scenes:
        image, mask = whole_file(scene.image), whole_file(mask_file(scene))
        with rasterio.open(scene.image) as piece:
            number = int(piece.bounds.left >= 502000)
            with rasterio.open(tmp_path / f"images/i_{number}.tif") as whole:
                window = whole.window(*piece.bounds)
                assert (window.col_off % 1, window.row_off % 1) == pytest.approx((0, 0), abs=1e-6)
                np.testing.assert_array_equal(image, whole.read(window=window.round_offsets().round_lengths()))
            rows, columns = np.mgrid[: piece.height, : piece.width] + 0.5
            x, y = piece.transform * (columns.ravel(), rows.ravel())
        expected = sum(k * shapely.contains_xy(s, x, y) for k, s in zip(labels["kind"], labels.geometry, strict=True))
        np.testing.assert_array_equal(mask[0].ravel(), expected)
        seen.update(np.unique(mask).tolist())
    assert seen == {0, 1, 2}
    assert len({scene.group for scene in scenes}) == 2


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("Images+LoveDA", {}, "LoveDA, whose samples have no place"),
        ("Images+Fieldz", {}, "Fieldz is no dataset of torchgeo .*did you mean 'Fields'"),
        (
            "Images+Fields",
            {"paths": "x"},
            r"dataset\.args\.paths: dataset\.name=Images\+Fields takes .*args\.Images\.paths",
        ),
        (
            "Images+Fields",
            {"Fields": {"path": "x"}},
            r"dataset\.args\.path: Fields has no such argument \(did you mean",
        ),
        ("Images+Fields", {"Fields": {"paths": "nowhere"}}, r"torchgeo's Images\+Fields with .*not found"),
    ],
)
def test_what_cannot_be_joined(tmp_path, fields, name, change, message):
    with pytest.raises(InputError, match=message):
        TorchGeo(name, fields | change, str(tmp_path / "c")).scenes("train")


def test_pieces_of_shapes_that_are_no_rectangles_and_of_slivers():
    """What two datasets share may be L-shaped: no piece lies outside, and a strip narrower than a pixel is none."""
    import geopandas
    import pandas as pd
    from shapely.geometry import box

    shapes = [box(0, 0, 64, 64) - box(32, 32, 64, 64), box(200, 0, 200.4, 64)]
    index = pd.IntervalIndex.from_tuples([(pd.Timestamp.min, pd.Timestamp.max)] * 2)
    dataset = RasterDataset.__new__(RasterDataset)
    dataset.index, dataset._res = geopandas.GeoDataFrame(geometry=shapes, index=index, crs="EPSG:32633"), (1.0, 1.0)
    found = [(group, x.start, y.start) for group, (x, y, _) in grouped_keys(dataset, chip=32)]
    assert sorted(found) == [(0, 0, 0), (0, 0, 32), (0, 32, 0)]


def test_decoded_samples_take_less_than_their_pixels(first, tmp_path):
    first({"image": [3, 512, 512], "mask": [512, 512]})
    files = list(tmp_path.rglob("*.image.tif"))
    assert max(path.stat().st_size for path in files) < 0.5 * 3 * 512 * 512 * 4


def test_what_torchgeo_does_not_have(tmp_path):
    with pytest.raises(InputError, match="did you mean 'LoveDA'"):
        TorchGeo("LoveDa", {}, str(tmp_path))
    with pytest.raises(InputError, match="Dataset not found"):
        TorchGeo("LoveDA", {"root": str(tmp_path)}, str(tmp_path)).scenes("train")
    with pytest.raises(InputError, match="no split called trian"):
        TorchGeo("Potsdam2D", {"root": str(tmp_path)}, str(tmp_path), split={"train": "trian"}).scenes("train")
    with pytest.raises(InputError, match="possible scenes are"):
        TorchGeo("LoveDA", {"root": str(tmp_path), "scene": ["moon"]}, str(tmp_path)).scenes("train")


def test_a_disk_too_small(tmp_path, monkeypatch):

    monkeypatch.setattr(tg, "Made", Made, raising=False)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: type("Usage", (), {"free": 10})())
    with pytest.raises(InputError, match=r"takes about .* GB"):
        TorchGeo("Made", {"shapes": {"image": [3, 8, 8], **FLAT}}, str(tmp_path)).scenes("train")
