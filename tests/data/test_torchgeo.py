"""`dataset=torchgeo`: what rsseg trains on is what torchgeo's samples hold."""

import multiprocessing
import shutil
from types import SimpleNamespace

import layouts
import numpy as np
import pytest
import rasterio
import torch
import torchgeo.datasets as tg
from stores import LABELS, store_of, whole_scene
from tiny import checker, coloured, compose, mask_file, write_tif
from torchgeo.datasets import NonGeoDataset, RasterDataset, VectorDataset

from rsseg.assembly import make_setup
from rsseg.contract import InputError
from rsseg.data.boxes import Boxes
from rsseg.data.decoded import map_array
from rsseg.data.grids import ground_resolution
from rsseg.data.labels import Labels
from rsseg.data.torchgeo import TorchGeo
from rsseg.data.torchgeo_scene import _joined, grouped_keys, planes_of
from rsseg.dataset import open_split
from rsseg.export import example_windows
from rsseg.task import Binary, Centres, Multiclass, Multilabel


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
    assert list(source.scenes("train")[0].named_bands()) == [1, 2, 3]
    setup = make_setup(config).with_bands([1, 2, 3])
    for split in ("train", "val"):
        store, theirs = (
            open_split(setup.dataset, source.scenes(split), split),
            tg.LoveDA(str(loveda), split=split),
        )
        assert len(store) == len(theirs) == 2
        assert store.dtype == np.uint8  # float32 in torchgeo's samples, but bytes hold them
        for i in range(2):
            image, mask = whole_scene(store, i)
            np.testing.assert_array_equal(image, theirs[i]["image"].numpy())
            np.testing.assert_array_equal(mask, theirs[i]["mask"].numpy())
    assert [mask_file(scene) for scene in source.scenes("test")] == [None, None]
    assert {path.name for path in (tmp_path / "out" / "cache").iterdir()} == {"store"}


def test_windows_of_samples_serve_an_export(tmp_path, loveda):
    classes = "dataset.classes=[none,background,building,road,water,barren,forest,agriculture]"
    setup = make_setup(settings(tmp_path, "LoveDA", f"dataset.args.root={loveda}", classes)).with_bands([3, 1])
    found = example_windows(setup, SimpleNamespace(window=16, bands=[3, 1], mean=[0.0, 0.0]))
    theirs = [sample["image"].numpy() for sample in tg.LoveDA(str(loveda), split="val")]
    for place, window in enumerate(found):
        image = theirs[place * len(theirs) // len(found)]
        top, left = ((side - 16) * (place + 1) // (len(found) + 1) for side in image.shape[1:])
        np.testing.assert_array_equal(window, image[[2, 0], top : top + 16, left : left + 16])


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
        place = {"transform": rasterio.transform.from_origin(500000 + 1000 * i, 4000000, 10, 10)}
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


def area_of(scene):
    """Left, bottom, right and top of a sample on the map."""
    (_, height, width), (_, transform) = scene.samples.read(scene.number)[0].shape, scene.place()
    return rasterio.transform.array_bounds(height, width, transform)


def test_geospatial_datasets_are_cut_into_pieces_without_a_gap(tmp_path, strips):
    source = TorchGeo("Strips", {"paths": str(tmp_path)}, chip=32)
    parts = [source.scenes(split) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [6, 6, 0]  # a file's pieces stay together
    scenes = [scene for part in parts for scene in part]
    seen = {0: np.zeros((48, 96), int), 1: np.zeros((48, 96), int)}
    for scene in scenes:
        image, mask = scene.samples.read(scene.number)
        bounds = area_of(scene)
        number = int(bounds[0] >= 501000)
        with rasterio.open(tmp_path / f"image_{number}.tif") as whole:
            window = whole.window(*bounds).round_offsets().round_lengths()
            np.testing.assert_array_equal(image, whole.read(window=window))
            assert scene.place()[0] == whole.crs
            assert ground_resolution(*scene.place()) == pytest.approx(10, rel=1e-3)
        with rasterio.open(tmp_path / f"mask_{number}.tif") as whole:
            np.testing.assert_array_equal(mask, whole.read(window=window))
        seen[number][window.toslices()] += 1
    assert all((count == 1).all() for count in seen.values())


def stored(source, folder, split="train", bands=(1, 2, 3), **more):
    """The decoded samples of a split."""
    return store_of(source.scenes(split), folder, Labels(Multiclass(tuple("abcdefgh"))), bands, **more)


def test_decoding_is_done_once_and_goes_on_after_an_interruption(tmp_path, loveda, monkeypatch):
    read, asked = tg.LoveDA.__getitem__, list[int]()
    monkeypatch.setattr(tg.LoveDA, "__getitem__", lambda self, index: asked.append(index) or read(self, index))
    source, folder = TorchGeo("LoveDA", {"root": str(loveda)}), tmp_path / "store"
    first = stored(source, folder)
    assert sorted(asked) == [0, 0, 1]  # the first one to learn what the samples are
    (folder / f"{first._names[1]}.counts").unlink()  # as if killed before it was complete
    asked.clear()
    assert stored(source, folder).pixel_hash == first.pixel_hash
    assert sorted(asked) == [0, 1]
    asked.clear()
    stored(TorchGeo("LoveDA", {"root": str(loveda)}), folder)
    assert not asked
    layouts.loveda(loveda, np.random.default_rng(5))  # other files: decoded again
    assert stored(source, folder).pixel_hash != first.pixel_hash


def test_a_damaged_sample_in_the_store_is_decoded_again(tmp_path, loveda, caplog):
    source, folder = TorchGeo("LoveDA", {"root": str(loveda)}), tmp_path / "store"
    store = stored(source, folder)
    image, _ = whole_scene(store, 0)
    path = folder / f"{store._names[0]}.image.npy"
    map_array.cache_clear()
    path.write_bytes(path.read_bytes()[:-9] + bytes(9))
    np.testing.assert_array_equal(whole_scene(stored(source, folder, full=True), 0)[0], image)
    assert "scene 000000 is decoded again" in caplog.text


def open_in_process(root, folder, start, queue):
    torch.set_num_threads(1)  # threads do not survive a fork
    start.wait(120)
    queue.put(stored(TorchGeo("LoveDA", {"root": root}), folder).pixel_hash)


def test_several_processes_decode_into_one_store(tmp_path, loveda):
    context = multiprocessing.get_context("fork")
    queue, start = context.Queue(), context.Barrier(2)
    several = [context.Process(target=open_in_process, args=(str(loveda), tmp_path / "a", start, queue)) for _ in range(2)]
    for process in several:
        process.start()
    found = {queue.get(timeout=120) for _ in several}
    for process in several:
        process.join()
    assert found == {stored(TorchGeo("LoveDA", {"root": str(loveda)}), tmp_path / "b").pixel_hash}


def test_the_store_follows_the_classes_own_splits(tmp_path, loveda):
    def pixels(split, which):
        return stored(TorchGeo("LoveDA", {"root": str(loveda)}, split=split), tmp_path / "store", which).pixel_hash

    swapped = {"train": "val", "val": "train"}
    assert pixels(None, "train") == pixels(swapped, "val")
    assert pixels(None, "val") == pixels(swapped, "train")
    assert pixels(None, "train") != pixels(None, "val")


def test_no_validation_split_by_choice(loveda):
    source = TorchGeo("LoveDA", {"root": str(loveda)}, split={"val": None})
    parts = [{scene.number for scene in source.scenes(split)} for split in ("train", "val")]
    assert [len(part) for part in parts] == [1, 1]
    assert not parts[0] & parts[1]


def test_overlapping_files_stay_together(tmp_path):
    """Three files: two overlap by half, one lies apart but touches the second."""
    rng = np.random.default_rng(0)
    for i, left in enumerate((0, 48, 144)):
        image = coloured(rng, checker(rng, 96, 2))
        write_tif(tmp_path / f"i_{i}.tif", image, transform=rasterio.transform.from_origin(left, 96, 1, 1))
    dataset = type("Images", (RasterDataset,), {"filename_glob": "i_*.tif"})(str(tmp_path))
    groups = [group for group, _ in grouped_keys(dataset, chip=96)]
    assert groups[0] == groups[1] != groups[2]


FLAT = {"mask": [8, 8]}


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
def first(monkeypatch):
    """The arrays of the first training sample of a made-up class, and its number."""
    monkeypatch.setattr(tg, "Made", Made, raising=False)

    def read(shapes, **settings):
        scene = TorchGeo("Made", {"shapes": shapes}, **settings).scenes("train")[0]
        return *scene.samples.read(scene.number), scene.number

    return read


def test_samples_of_four_bands_have_no_alpha(tmp_path, monkeypatch):
    """As GDAL takes four bands of bytes to have: the fourth is infrared, and 0 in it is no hole."""
    monkeypatch.setattr(tg, "Made", Made, raising=False)
    source = TorchGeo("Made", {"shapes": {"image": [4, 8, 8], **FLAT}})
    scenes = source.scenes("train")
    assert list(scenes[0].named_bands()) == [1, 2, 3, 4]
    store = stored(source, tmp_path / "store", bands=(1, 2, 3, 4))
    for i, scene in enumerate(scenes):
        np.testing.assert_array_equal(whole_scene(store, i)[0], made("image", [4, 8, 8], scene.number))
    assert store.census.bands.missing == 0


def test_what_is_missing_in_samples(tmp_path, monkeypatch):
    """NaN, and what `dataset.nodata` says, is no data: 0 in the image, ignored in the mask."""
    from dataclasses import replace

    class Holed(Made):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            sample["image"][0, 2, 3] = torch.nan
            sample["image"][:, 4] = -7
            return sample

    monkeypatch.setattr(tg, "Made", Holed, raising=False)
    scenes = TorchGeo("Made", {"shapes": {"image": [2, 8, 8], **FLAT}}).scenes("train")
    store = store_of([replace(scene, nodata=-7) for scene in scenes], tmp_path / "store", bands=(2,))
    image, mask = whole_scene(store, 0)
    hole = np.zeros((8, 8), bool)
    hole[4] = True
    expected = made("image", [2, 8, 8], scenes[0].number)[1].numpy()
    np.testing.assert_array_equal(image[0], np.where(hole, 0, expected))
    np.testing.assert_array_equal(mask, np.where(hole, 255, made("mask", [8, 8], scenes[0].number)))
    assert mask[2, 3] != 255  # the band that it lacks is not read


@pytest.mark.parametrize("skip", [False, True])
def test_samples_that_are_damaged(tmp_path, loveda, caplog, skip):
    (path,) = [path for path in loveda.rglob("*/images_png/*") if "Train" in str(path)][:1]
    path.write_bytes(path.read_bytes()[:300])
    source = TorchGeo("LoveDA", {"root": str(loveda)})
    assert list(source.scenes("train")[0].named_bands()) == [1, 2, 3]
    if skip:
        store = stored(source, tmp_path / "store", skip=True)
        assert len(store) == 1
        (fault,) = store.skipped.values()
        assert fault.startswith("torchgeo's LoveDA, train sample 00000")
        return
    with pytest.raises(InputError, match=r"torchgeo's LoveDA, train sample 00000.: it can't be read"):
        stored(source, tmp_path / "store")


def test_a_test_split_whose_samples_lack_masks_here_and_there(tmp_path, monkeypatch):
    class Partly(Made):
        def __init__(self, shapes, split="train"):
            super().__init__(shapes)

        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return sample if index % 2 == 0 else {"image": sample["image"]}

    monkeypatch.setattr(tg, "Made", Partly, raising=False)
    source = TorchGeo("Made", {"shapes": {"image": [1, 8, 8], **FLAT}})
    store = stored(source, tmp_path / "store", "test", bands=(1,))
    assert [bool((whole_scene(store, i)[1] == 255).all()) for i in range(8)] == [False, True] * 4
    with pytest.raises(InputError, match=r"sample 00000[1357]: it holds image .*; an image and a mask are needed"):
        stored(source, tmp_path / "store", "train", bands=(1,))


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
    np.testing.assert_array_equal(planes_of(_joined(sample), "mask"), expected[None])


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ({"image": [3, 4, 8], **FLAT}, {}, "same grid"),
        ({"image": [3, 8, 8], "label": []}, {}, r"holds image \[3, 8, 8\], label; an image and a mask"),
        ({"label": []}, {}, "an image and a mask are needed"),
        (
            {"image_a": [3, 8, 8], "image_b": [1, 9, 9], **FLAT},
            {},
            r"image_b \[1, 9, 9\].* one grid, dataset\.source\.image=\[image_a\]",
        ),
        (
            {"image": [3, 8, 8], "mask_a": [8, 8], "mask_b": [8, 8]},
            {},
            r"mask_b \[8, 8\]: what is its mask\?.*source\.mask=\[mask_a\]",
        ),
        ({"image": [3, 8, 8], **FLAT}, {"image": ["image", "dem"]}, r"holds image .*: what is its image\?"),
        ({"image": [3, 8, 8], **FLAT}, {"mask": "dem"}, "an image and a mask are needed"),
        ({"image": [3, 8, 8], **FLAT}, {"times": 0}, r"source\.times=0 must be at least 1"),
    ],
)
def test_samples_that_cannot_be_used(monkeypatch, arguments, settings, message):
    monkeypatch.setattr(tg, "Made", Made, raising=False)
    with pytest.raises(InputError, match=message):
        TorchGeo("Made", {"shapes": arguments}, **settings).scenes("train")[0].named_bands()


@pytest.mark.parametrize(
    ("shapes", "bands", "labels", "message"),
    [
        ({"image": [3, 8, 8], **FLAT}, (1, 4), LABELS, r"train sample 00000\d has 3 bands, but dataset.bands=\[1, 4\]"),
        ({"image": [1, 8, 8], "mask": [2, 8, 8]}, (1,), LABELS, "its 2 bands differ, but one band is expected"),
        ({"image": [1, 8, 8], "mask": [2, 8, 8]}, (1,), Labels(Multilabel(("a", "b", "c"))), "has 2 bands, but a multilabel"),
        ({"image": [1, 8, 8], **FLAT}, (1,), Boxes(Centres(("car",))), "it is a raster, but task=centres takes a vector"),
        ({"image": [1, 8, 8], "mask": [1, 8, 8]}, (1,), Labels(Binary(("a",)), [0, 7]), "holds the value 1 "),
    ],
)
def test_samples_that_do_not_fit_the_config(tmp_path, monkeypatch, shapes, bands, labels, message):
    monkeypatch.setattr(tg, "Made", Made, raising=False)
    with pytest.raises(InputError, match=message) as caught:
        store_of(TorchGeo("Made", {"shapes": shapes}).scenes("train"), tmp_path, labels, bands)
    assert "torchgeo's Made, train sample" in str(caught.value)


def test_samples_with_other_numbers_of_steps_are_refused(tmp_path, monkeypatch):
    class Growing(Made):
        def __getitem__(self, index):
            return {"image": torch.zeros(2 + index, 3, 8, 8), "mask": torch.zeros(8, 8)}

    monkeypatch.setattr(tg, "Made", Growing, raising=False)
    with pytest.raises(InputError, match=r"has \d+ bands, but other samples have \d+; .* dataset\.source\.times"):
        stored(TorchGeo("Made", {"shapes": {}}), tmp_path)
    assert len(stored(TorchGeo("Made", {"shapes": {}}, times=2), tmp_path)) == 6


def test_complex_samples_are_refused(tmp_path, monkeypatch):
    class Waves(Made):
        def __getitem__(self, index):
            return {"image": torch.ones(1, 8, 8, dtype=torch.complex64), "mask": torch.zeros(8, 8)}

    monkeypatch.setattr(tg, "Made", Waves, raising=False)
    with pytest.raises(InputError, match="complex numbers"):
        stored(TorchGeo("Made", {"shapes": {}}), tmp_path, bands=(1,))


@pytest.mark.parametrize(
    ("arguments", "message"), [({"colour": 1}, "no such argument"), ({"split": "train"}, r"dataset\.source\.split names")]
)
def test_arguments_that_a_class_does_not_take(arguments, message):
    with pytest.raises(InputError, match=message):
        TorchGeo("LoveDA", arguments)


def test_splits_by_arguments(monkeypatch):
    """As PASTIS has them: no split, but folds."""

    class Folded(Made):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return sample | {"image": torch.full_like(sample["image"], sum(self.folds))}

    monkeypatch.setattr(tg, "Made", Folded, raising=False)
    shapes = {"shapes": {"image": [1, 8, 8], **FLAT}}
    source = TorchGeo("Made", shapes, split={"train": {"folds": [1, 2]}, "val": {"folds": [4]}})
    for split, value in (("train", 3), ("val", 4)):
        scenes = source.scenes(split)
        assert len(scenes) == 8
        assert {scene.samples.read(scene.number)[0].max() for scene in scenes} == {value}
    assert not {s.group for s in source.scenes("train")} & {s.group for s in source.scenes("val")}
    assert len(TorchGeo("Made", shapes, split={"train": {"folds": [1, 2]}}).scenes("val")) == 1  # 15 % of the 8
    with pytest.raises(InputError, match=r"no split called anything: name it in dataset\.source\.split for test"):
        source.scenes("test")


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
    import shapely

    scenes = [scene for split in ("train", "val") for scene in TorchGeo("Images+Fields", fields, chip=32).scenes(split)]
    labels = geopandas.read_file(tmp_path / "labels/fields.gpkg")
    seen = set()
    for scene in scenes:
        image, mask = scene.samples.read(scene.number)
        bounds = area_of(scene)
        number = int(bounds[0] >= 502000)
        with rasterio.open(tmp_path / f"images/i_{number}.tif") as whole:
            window = whole.window(*bounds)
            assert (window.col_off % 1, window.row_off % 1) == pytest.approx((0, 0), abs=1e-6)
            np.testing.assert_array_equal(image, whole.read(window=window.round_offsets().round_lengths()))
        rows, columns = np.mgrid[: image.shape[1], : image.shape[2]] + 0.5
        x, y = scene.place()[1] * (columns.ravel(), rows.ravel())
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
def test_what_cannot_be_joined(fields, name, change, message):
    with pytest.raises(InputError, match=message):
        TorchGeo(name, fields | change).scenes("train")


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


def test_what_torchgeo_does_not_have(tmp_path):
    with pytest.raises(InputError, match="did you mean 'LoveDA'"):
        TorchGeo("LoveDa", {})
    with pytest.raises(InputError, match="Dataset not found"):
        TorchGeo("LoveDA", {"root": str(tmp_path)}).scenes("train")
    with pytest.raises(InputError, match="no split called trian"):
        TorchGeo("Potsdam2D", {"root": str(tmp_path)}, split={"train": "trian"}).scenes("train")
    with pytest.raises(InputError, match="possible scenes are"):
        TorchGeo("LoveDA", {"root": str(tmp_path), "scene": ["moon"]}).scenes("train")


def test_a_disk_too_small(tmp_path, monkeypatch):

    monkeypatch.setattr(tg, "Made", Made, raising=False)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: type("Usage", (), {"free": 10})())
    with pytest.raises(InputError, match="6 scenes to decode take under 1 MB"):
        stored(TorchGeo("Made", {"shapes": {"image": [3, 8, 8], **FLAT}}), tmp_path)
