"""What pictures show: colours by label, errors by kind, the bands that were asked for, the windows of every validation."""

import math

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from rsseg.inference.diagnostics import draw_confusion, draw_curves
from rsseg.inference.picture import ERRORS, GREY, MISSED, RIGHT, WRONG, draw, paint, stretch
from test_run import folder_data, settings

from rsseg.metrics import Scores
from rsseg.run import train
from rsseg.task import Binary, Multiclass, Multilabel

BINARY = Binary(("water",))
THREE = Multiclass(("a", "b", "c"))
TWO = Multilabel(("a", "b"))


def rgb(colour):
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


@pytest.mark.parametrize(
    ("task", "mask", "prediction", "colours"),
    [
        (BINARY, [[0, 0, 1, 1, 255]], [[0, 1, 0, 1, 1]], [RIGHT, WRONG, MISSED, RIGHT, GREY]),
        (THREE, [[0, 1, 2, 255]], [[0, 2, 2, 1]], [RIGHT, WRONG, RIGHT, GREY]),
        (
            TWO,
            [[[0, 1, 255, 255]], [[0, 1, 1, 255]]],
            [[[0, 1, 0, 0]], [[1, 1, 1, 0]]],
            [WRONG, RIGHT, RIGHT, GREY],
        ),
    ],
)
def test_errors(task, mask, prediction, colours):
    found = paint(task.errors(np.array(mask, np.uint8), np.array(prediction, np.uint8)), ERRORS)
    np.testing.assert_array_equal(found[0], [rgb(colour) for colour in colours])


def test_the_bands_that_are_shown():
    image = np.stack([np.full((4, 4), i, np.uint16) for i in range(5)])
    image[:, 0, 0] = 0
    image[3, :, :2] = 900
    shown = stretch(image, [3, 0, 1])
    assert shown.shape == (4, 4, 3)
    np.testing.assert_allclose(shown[:, 1, 0], 1)
    np.testing.assert_allclose(shown[1:, 2:, 0], 0)


def test_flatten_shows_the_last_label():
    np.testing.assert_array_equal(TWO.flatten(np.array([[[1, 0, 1]], [[0, 1, 1]]])), [[1, 2, 2]])


def test_a_picture_has_four_columns(tmp_path):
    image = np.zeros((3, 32, 32), np.uint8)
    mask = np.zeros((32, 32), np.uint8)
    draw(tmp_path / "p.png", BINARY, None, [(image, mask, mask + 1)])
    picture = np.asarray(Image.open(tmp_path / "p.png").convert("RGB")).astype(int)
    row = picture[picture.shape[0] // 2 - 20]  # through the images
    quarter = picture.shape[1] // 4
    colours = [row[quarter * i + quarter // 2].tolist() for i in range(4)]
    assert colours == [[0, 0, 0], [0, 0, 0], [255, 255, 255], rgb(WRONG)]


@pytest.mark.parametrize("task", [BINARY, THREE, TWO])
def test_confusion_and_curves_of_every_task(tmp_path, task):
    planes = 1 if task.kind == "multiclass" else task.channels
    counts = torch.randint(0, 50, (2, planes, task.labels, task.labels))
    counts[:, :, -1] = 0  # a label without a pixel
    draw_confusion(tmp_path / "c.png", Scores(counts, task))
    rows = [{"step": i, "val/mask/iou": 0.5, "val/loss": 1, f"val/mask/iou/{task.classes[0]}": math.nan} for i in range(3)]
    draw_curves(tmp_path / "v.png", "mask", task, None, rows)
    for name in ("c.png", "v.png"):
        assert np.asarray(Image.open(tmp_path / name)).std() > 5


def test_every_validation_has_a_picture(tmp_path, folder_root):
    config = settings(tmp_path, *folder_data(folder_root), "steps=4", "validations=2", "dataset.rgb=[3,2,1]", "pictures=2")
    train(config, tmp_path / "run")
    assert [p.name for p in sorted((tmp_path / "run" / "pictures").iterdir())] == ["step-000002.png", "step-000004.png"]
    for name in ("picture.png", "confusion.png", "curves.png"):
        assert (tmp_path / "run" / name).stat().st_size > 5_000


def test_pictures_can_be_left_out_and_a_full_disk_does_not_stop_a_run(tmp_path, folder_root, monkeypatch, caplog):
    train(settings(tmp_path, *folder_data(folder_root), "pictures=0"), tmp_path / "none")
    assert not (tmp_path / "none" / "pictures").exists()

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    train(settings(tmp_path, *folder_data(folder_root), "pictures=1"), tmp_path / "full")
    assert "picture.png can't be written (No space left on device): free some space; the run goes on" in caplog.text
    assert "confusion.png can't be written" in caplog.text
    assert (tmp_path / "full" / "summary.json").is_file()
