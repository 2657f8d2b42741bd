"""Ten lines of Python: train, load and compare give what the commands write."""

import itertools

import numpy as np
import pytest
import rasterio
from run_folders import FOUR, make_records, write_records, write_run
from test_run import folder_data, tiny

import rsseg
from rsseg.api import word
from rsseg.contract import InputError


@pytest.fixture(scope="module")
def run(tmp_path_factory, folder_root):
    words = tiny(tmp_path_factory.mktemp("api"), *folder_data(folder_root), "pictures=0")
    return rsseg.train(*words, loss="focal_dice", seed=3)


def test_training_writes_a_run_folder(run):
    assert (run / "summary.json").is_file()
    assert "focal" in (run / "config.yaml").read_text()


def test_a_model_labels_arrays_as_it_maps_files(run, folder_root, tmp_path):
    model, path = rsseg.load(run), sorted((folder_root / "images").iterdir())[0]
    with rasterio.open(path) as file:
        pixels = file.read()
    labels, shares = model.predict(pixels), model.probabilities(pixels)
    assert model.classes == ("a", "b", "c")
    assert labels.shape == pixels.shape[1:]
    np.testing.assert_allclose(shares.sum(0), 1, atol=2e-3)  # float16
    assert (shares.argmax(0) == labels).mean() > 0.99
    with rasterio.open(model.map(path, tmp_path / "map.tif")[0]) as file:
        np.testing.assert_array_equal(file.read(1), labels)


def test_losses_are_compared(tmp_path):
    for loss, seed in itertools.product(("ce", "dice"), (1, 2)):
        records = make_records(FOUR, loss, seed)
        write_run(tmp_path / f"{loss}{seed}", FOUR, loss, seed, records)
        write_records(tmp_path / f"{loss}{seed}", records)
    found = rsseg.compare(tmp_path, metric="dice")
    assert found.folder == tmp_path / "comparison_dice"
    assert found.report.is_file()
    assert set(found.tables["comparison"].iloc[:, 0]) == {"ce", "dice"}


@pytest.mark.parametrize("shape", [(2, 64, 64), (64, 64)])
def test_an_array_of_another_kind_is_refused(shape, run):
    with pytest.raises(InputError, match="3 bands of training"):
        rsseg.load(run).predict(np.zeros(shape, np.uint8))


def test_settings_are_written_as_hydra_reads_them():
    assert word("a", None) == "a=null"
    assert word("a", [1, 2]) == "a=[1, 2]"
    assert word("loss.terms", {"dice": {"weight": 2}}) == "loss.terms={'dice': {'weight': 2}}"
    assert word("root", "/x y") == "root='/x y'"


def test_what_the_package_does_not_have():
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        _ = rsseg.trian
