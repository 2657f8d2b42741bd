"""Ten lines of Python: train, load and compare give what the commands write."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from run_folders import FOUR, make_records, write_records, write_run
from test_run import folder_data, tiny
from tiny import open_files

import rsseg
from rsseg.api import hydra_text
from rsseg.contract import InputError
from rsseg.prediction import predict


@pytest.fixture(scope="module")
def run(tmp_path_factory, folder_root):
    words = tiny(tmp_path_factory.mktemp("api"), *folder_data(folder_root), "pictures=0")
    return rsseg.train(*words, loss="focal_dice", seed=3)


def test_training_writes_a_run_folder(run):
    summary = json.loads((run / "summary.json").read_text())
    assert rsseg.evaluate(str(run), split="val", out=str(run))["mask"]["iou"] == pytest.approx(summary["iou"], rel=1e-5)
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
    with rasterio.open(predict([run], str(path), tmp_path / "map.tif")[0]) as file:
        np.testing.assert_array_equal(file.read(1), labels)


def test_no_file_of_an_array_stays_open(run, tmp_path, monkeypatch):
    """On Windows open files can't be removed."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = rsseg.load(run)
    model.predict(np.full((3, 40, 50), 99, np.uint8), allow_different=True)
    assert not open_files(tmp_path)
    with pytest.raises(InputError, match="uint16"):
        model.predict(np.full((3, 40, 50), 9999, np.uint16))
    assert not open_files(tmp_path)


@pytest.mark.parametrize("dtype", [np.float16, np.longdouble])
def test_numbers_that_files_do_not_hold_are_mapped_as_others(run, dtype):
    model, pixels = rsseg.load(run), np.random.default_rng(0).integers(0, 255, (3, 40, 50)).astype(np.float32)
    found, expected = (model.predict(pixels.astype(kind), allow_different=True) for kind in (dtype, np.float32))
    np.testing.assert_array_equal(found, expected)


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


@pytest.mark.parametrize(
    "value",
    ["d4", "1_000", "1e3", "123", "true", "null", "C:\\data", "C:\\data\\", "it's", "a\\'b", "São Paulo (1)", "${x}", "",
     None, True, 3, 2.5, ["a b", None, 1.5], {"amount": 10, "name": "x y"}],
)  # fmt: skip
def test_hydra_reads_a_value_as_it_was(value):
    (override,) = OverridesParser.create().parse_overrides([f"key={hydra_text(value)}"])
    assert _plain(override.value()) == value


def _plain(value):
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value


def test_values_of_numpy_and_paths_are_settings():
    assert hydra_text(np.float64(128)) == "128.0"
    assert hydra_text(np.arange(3)) == "[0,1,2]"
    assert hydra_text((1, Path("/x y"))) == '[1,"/x y"]'
    with pytest.raises(InputError, match="not a set"):
        hydra_text({1})


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda run: rsseg.train(["loss=ce"]), "a setting is a text"),
        (lambda run: rsseg.train(sweep="losses"), "many runs"),
        (lambda run: rsseg.load([]), "a folder or several"),
        (lambda run: rsseg.load(None), "a folder or several"),
        (lambda run: rsseg.compare(""), "a folder or several"),
        (lambda run: rsseg.compare(run, foo=1), "foo: there is no such setting"),
        (lambda run: rsseg.evaluate(run, splt="test"), "did you mean 'split'"),
        (lambda run: rsseg.load(run).predict(np.zeros((3, 64, 64), bool)), "dtype bool"),
        (lambda run: rsseg.load(run).predict(np.zeros((3, 0, 64), np.uint8)), "is expected"),
        (lambda run: rsseg.load(run).predict(np.zeros((3, 64, 64), np.uint8), windw=64), "did you mean 'window'"),
        (lambda run: rsseg.load(run).predict(np.zeros((3, 64, 64), np.uint8), window="many"), "window=many"),
    ],
)  # fmt: skip
def test_mistakes_give_one_line(call, said, run):
    with pytest.raises(InputError, match=said):
        call(run)


def test_what_the_package_does_not_have():
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        _ = rsseg.trian
