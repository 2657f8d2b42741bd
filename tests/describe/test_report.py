"""A tiny dataset described from end to end."""

import json
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin
from test_run import folder_data, settings
from tiny import CONFIGS, write_tif

from rsseg.assembly import make_setup
from rsseg.contract import InputError
from rsseg.dataset import open_data
from rsseg.describe.objects import pieces
from rsseg.describe.report import describe
from rsseg.pictures import portrait
from rsseg.pictures.windows import pick_windows
from rsseg.run import train


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Four scenes of 64 x 64 half-metre pixels: a block of 20 x 20 of class b, two specks of it, no data in the corner."""
    folder, rng = tmp_path_factory.mktemp("described"), np.random.default_rng(0)
    for i in range(4):
        mask = np.zeros((64, 64), np.uint8)
        mask[8:28, 8:28] = mask[40, 40] = mask[50, 50] = 1
        mask[60:, :8] = 255
        image = rng.integers(1, 200, (3, 64, 64), dtype=np.uint8)
        image[:, :4] = 0
        write_tif(folder / f"images/tile{i}.tif", image, nodata=0)
        write_tif(folder / f"masks/tile{i}.tif", mask[None])
    return folder


def test_what_a_description_says(root, tmp_path, capsys, caplog):
    caplog.set_level("INFO")
    words = folder_data(root)
    out = describe(settings(tmp_path, *words), overrides=words)
    assert out == tmp_path / "describe/folder"
    assert (out / "description.png").stat().st_size > 10_000
    text = (out / "description.json").read_text()
    assert "NaN" not in text
    told = json.loads(text)
    train_split, valid = told["splits"]["train"], 64 * 64 - 4 * 64 - 32
    assert train_split["classes"]["b"]["share"] == pytest.approx(402 / valid)
    assert train_split["classes"]["b"]["scenes_p5_p50_p95"] == pytest.approx([402 / valid] * 3)
    assert train_split["missing"] == pytest.approx(4 / 64)
    assert train_split["ignored"] == pytest.approx(1 - valid / 64**2)
    b = told["objects"]["b"]
    scenes = train_split["scenes"]
    assert (b["count"], b["specks"], b["pixels"]) == (scenes, 2 * scenes, [400] * 3)
    assert told["facts"]["ratio"] == pytest.approx((valid - 402) / 402)
    assert list(told["objects"]) == ["a", "b"]
    assert any(hint.startswith(f"{1 - valid / 64**2:.2%} of the train split is ignored") for hint in told["noise"])
    printed = capsys.readouterr().out
    assert "Objects (regions of 5 pixels and more) in all of train" in printed
    said = [record.getMessage() for record in caplog.records]
    assert "│ c " not in printed  # a class that is nowhere has no row in any table
    assert [line.partition(":")[0] for line in said if "class c" in line] == ["No pixel of class c in the train split"]
    assert not [line for line in said if line.startswith("\n") and "c:" in line]


def test_bands_are_called_by_their_names(tmp_path, capsys, monkeypatch):
    """In the numbers, the table and the picture, of one class, whose charts have room for a few."""
    figures = []
    monkeypatch.setattr(portrait, "save", lambda figure, path, dpi: figures.append(figure))
    rng, names = np.random.default_rng(0), ("B02", "B03", "B04", "", "B8A", "B11", "B12")
    for i in range(4):
        mask = np.zeros((64, 64), np.uint8)
        mask[8:28, 8:28] = 1
        path = write_tif(tmp_path / f"images/{i}.tif", rng.integers(0, 3000, (7, 64, 64), dtype=np.uint16))
        write_tif(tmp_path / f"masks/{i}.tif", mask[None])
        with rasterio.open(path, "r+") as file:
            file.descriptions = names
    words = folder_data(tmp_path, "dataset.task=binary", "dataset.classes=[a]", "dataset.bands=[5,4,1,2,3,6]")
    out = describe(settings(tmp_path, *words), tmp_path / "out", words)
    bands = json.loads((out / "description.json").read_text())["splits"]["train"]["bands"]
    found = [(5, "B8A"), (4, ""), (1, "B02"), (2, "B03"), (3, "B04"), (6, "B11")]
    assert [(band["band"], band["name"]) for band in bands] == found
    assert "│ 5    │ B8A  │" in capsys.readouterr().out
    axes = {axis.get_title().partition(":")[0].partition(",")[0]: axis for axis in figures[0].axes}
    assert [label.get_text() for label in axes["train bands"].get_yticklabels()] == [f"band {n} {s}".strip() for n, s in found]
    (bar,) = axes["train mean width"].patches
    low, high = sorted(axes["train mean width"].get_ylim())
    assert bar.get_height() < 0.3 * (high - low)
    assert bar.get_y() + bar.get_height() / 2 == pytest.approx((low + high) / 2)
    assert axes["train mean width"].get_position().height < 0.9 * axes["train bands"].get_position().height
    left, right = axes["train object area"].get_xlim()
    assert (left <= 100, right) == (True, pytest.approx(10_000))  # 400 pixels, the limit 1024, and whole decades


def test_the_recommended_sweep_can_be_run(root, tmp_path):
    words = folder_data(root, "loss=dice", "seed=9")
    out = describe(settings(tmp_path, *words), tmp_path / "here", words)
    python, script, multirun, *rest = shlex.split(json.loads((out / "description.json").read_text())["sweep"])
    assert (python, script, multirun) == ("python", "train.py", "-m")
    assert rest[-2:] == ["loss=ce,ce_dice,ce_lovasz", "seed=1,2,3,4,5"]
    assert re.fullmatch("dataset.fold=1/groups,2/groups(,./groups)*", rest[-3])  # one group alone validates
    assert not {"loss=dice", "seed=9"} & set(rest)
    first = [word.split(",")[0] if word in rest[-3:] else word for word in rest]
    assert 0 <= train(settings(tmp_path, *first, "pictures=0"), tmp_path / "run") <= 1


@pytest.mark.parametrize("task", ["multilabel", "binary"])
def test_other_tasks(tmp_path, task):
    rng, planes = np.random.default_rng(1), 2 if task == "multilabel" else 1
    for i in range(3):
        write_tif(tmp_path / f"images/{i}.tif", rng.integers(0, 255, (3, 64, 64), dtype=np.uint8))
        write_tif(tmp_path / f"masks/{i}.tif", (rng.random((planes, 64, 64)) < 0.01).astype(np.uint8))
    data = folder_data(tmp_path, f"dataset.task={task}", f"dataset.classes={'[a,b]' if planes == 2 else '[a]'}")
    told = json.loads((describe(settings(tmp_path, *data), overrides=data) / "description.json").read_text())
    assert told["facts"]["subject"] == "foreground"
    assert told["facts"]["ratio"] > 50
    assert any(hint.startswith("a: ") and "specks" in hint for hint in told["noise"])


@pytest.mark.slow
@pytest.mark.parametrize(("change", "said"), [
    ("", "test 1 scene"), ("none", "1 of 1 scenes of the test split have no masks"), ("value", "the value 7 (4096 pixels)"),
    ("place", "The test split is left out: "), ("absent", "There is no test split"),
])  # fmt: skip
def test_the_masks_of_the_test_split_are_checked(root, tmp_path, capsys, caplog, change, said):
    caplog.set_level("INFO")
    shutil.copytree(root, tmp_path / "data")
    mask, words = tmp_path / "data/masks/tile3.tif", folder_data(tmp_path / "data")
    words[3] = "dataset.source.split={train: [tile0, tile1], val: [tile2], test: [tile3]}"
    if change == "none":
        mask.unlink()
    elif change == "value":
        write_tif(mask, np.full((1, 64, 64), 7, np.uint8))
    elif change == "place":
        write_tif(mask, np.zeros((1, 64, 64), np.uint8), transform=from_origin(900000, 4000000, 0.5, 0.5))
    elif change == "absent":
        words[3] = "dataset.source.split={train: [tile0, tile1, tile3], val: [tile2]}"
    told = json.loads((describe(settings(tmp_path, *words), overrides=words) / "description.json").read_text())
    assert list(told["splits"]) == ["train", "val", *["test"] * (not change)]
    assert said in " ".join([caplog.text, *capsys.readouterr().out.split()])


def test_every_class_is_seen_in_the_windows(tmp_path):
    """Eleven classes of which one is a single pixel, in scenes much larger than windows."""
    rng = np.random.default_rng(0)
    for i in range(3):
        mask = np.zeros((256, 256), np.uint8)
        for label in range(1, 10):
            row, column = divmod(label - 1, 3)
            mask[80 * row + 10 : 80 * row + 14, 80 * column + 10 : 80 * column + 14] = label
        mask[200, 250] = 10 * (i == 1)
        write_tif(tmp_path / f"images/s{i}.tif", rng.integers(0, 255, (3, 256, 256), dtype=np.uint8))
        write_tif(tmp_path / f"masks/s{i}.tif", mask[None])
    words = folder_data(tmp_path)
    words[2:4] = ["dataset.classes=[a,b,c,d,e,f,g,h,i,j,k,never]", "dataset.source.split={train: [s0, s1], val: [s2]}"]
    setup = make_setup(settings(tmp_path, *words)).with_bands([1, 2, 3])
    store = open_data(setup.dataset, setup.source(), setup.window).stores["train"]
    windows = pick_windows(store, 32, 6, every_class=True)
    assert {int(label) for window in windows for label in np.unique(window["mask"])} == set(range(11))
    places = {(int(window["scene"]), *window["corner"][0].tolist()) for window in windows}
    assert 6 <= len(places) == len(windows) <= 11


def test_what_cannot_be_written(root, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="a part of this path is a file"):
        describe(settings(tmp_path, *folder_data(root)), tmp_path / "file" / "below")


def test_large_splits_are_looked_at_in_part():
    sizes = np.array([[5000, 3000], [700, 900]])
    every = pieces(sizes, seed=1)
    cover = [np.zeros(size, np.uint8) for size in sizes]
    for scene, window in every:
        assert max(window.height, window.width) < 1.5 * 1024  # memory
        cover[scene][window.toslices()] += 1
    assert all((part == 1).all() for part in cover)
    some = pieces(sizes, seed=1, most=4_000_000)
    assert some == pieces(sizes, seed=1, most=4_000_000) != pieces(sizes, seed=2, most=4_000_000)
    assert set(some) < set(every)
    assert 4_000_000 <= sum(w.height * w.width for _, w in some) < 4_000_000 + 1536**2


@pytest.mark.parametrize(("word", "said"), [
    ("dataset=inri", "did you mean 'inria'?"), ("windw=64", "did you mean 'window'?"), ("a={b", "a={b"),
    ("-m", "'-m' is not understood"),
])  # fmt: skip
def test_a_mistake_is_one_line(word, said):
    command = [sys.executable, str(CONFIGS.parent / "scripts/describe.py"), word]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert said in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_shares_that_differ_between_splits_are_told(tmp_path, caplog):
    """Half of a scene that trains is the class, a sixteenth of the one that validates."""
    caplog.set_level("INFO")
    rng = np.random.default_rng(0)
    for name, rows in (("a", 32), ("b", 4)):
        write_tif(tmp_path / f"images/{name}.tif", rng.integers(1, 200, (3, 64, 64), dtype=np.uint8))
        write_tif(tmp_path / f"masks/{name}.tif", (np.arange(64) < rows)[None, :, None].repeat(64, axis=2).astype(np.uint8))
    words = ["dataset=folder", f"dataset.source.root={tmp_path}", "dataset.classes=[land,water]", "window=32"]
    split = "dataset.source.split={train: [%s], val: [%s]}"
    describe(settings(tmp_path, *words, split % ("a", "b")), tmp_path / "out")
    said = "Shares of water differ much between splits (train 50.0%, val 6.2%): scores of one split say little of the other."
    assert said in caplog.text
    write_tif(tmp_path / "masks/b.tif", (np.arange(64) < 12)[None, :, None].repeat(64, axis=2).astype(np.uint8))
    caplog.clear()
    describe(settings(tmp_path, *words, split % ("a", "b")), tmp_path / "again")
    assert "differ much" not in caplog.text
