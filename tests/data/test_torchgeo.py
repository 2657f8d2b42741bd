"""`dataset=torchgeo`: what rsseg trains on is what torchgeo's samples hold."""

import layouts
import numpy as np
import pytest
import torch
import torchgeo.datasets as tg
from stores import whole_scene
from tiny import checker, coloured, compose, write_tif
from torchgeo.datasets import NonGeoDataset, RasterDataset

from rsseg.assembly import make_setup
from rsseg.contract import InputError
from rsseg.data.pieces import grouped_keys
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
    assert [scene.mask for scene in source.scenes("test")] == [None, None]


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
            with rasterio.open(scene.mask) as mine, rasterio.open(tmp_path / f"mask_{number}.tif") as whole:
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


class Odd(NonGeoDataset):
    def __init__(self, shape=(3, 8, 8), keys=("image", "mask")):
        self.shape, self.keys = shape, keys

    def __len__(self):
        return 8

    def __getitem__(self, index):
        sample = {"image": torch.rand(self.shape), "mask": torch.zeros(8, 8, dtype=torch.long)}
        return {key: sample.get(key, 0) for key in self.keys}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": [2, 3, 8, 8]}, r"shape \[2, 3, 8, 8\]; \[bands, height, width\]"),
        ({"shape": [3, 4, 8]}, "same grid"),
        ({"keys": ["image", "label"]}, "holds image, label"),
        ({"colour": 1}, "no such argument"),
        ({"split": "train"}, r"dataset\.source\.split names"),
    ],
)
def test_samples_that_cannot_be_used(tmp_path, monkeypatch, arguments, message):
    monkeypatch.setattr(tg, "Odd", Odd, raising=False)
    with pytest.raises(InputError, match=message):
        TorchGeo("Odd", arguments, str(tmp_path)).scenes("train")


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
    import rsseg.data.torchgeo as room

    monkeypatch.setattr(tg, "Odd", Odd, raising=False)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda place: type("Usage", (), {"free": 10})())
    with pytest.raises(InputError, match=r"takes about .* GB"):
        TorchGeo("Odd", {}, str(tmp_path)).scenes("train")
