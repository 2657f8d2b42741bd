"""What pictures show: colours by label, errors by kind, the bands that were asked for, the windows of every validation."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image
from stores import store_of
from test_run import folder_data, settings
from tiny import logged, make_scene, write_tif

from rsseg import savefig
from rsseg.metrics import Scores
from rsseg.pictures.colours import GREY, MISSED, WRONG, errors_shown, paint
from rsseg.pictures.diagnostics import draw_confusion, draw_curves
from rsseg.pictures.panels import draw_windows, fill_panels, legend, shorten, stretch
from rsseg.pictures.windows import Row, pick_windows
from rsseg.run import train
from rsseg.task import Binary, Multiclass, Multilabel

BINARY = Binary(("water",))
THREE = Multiclass(("a", "b", "c"))
TWO = Multilabel(("a", "b"))
RIGHT = "#ffffff"


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
    found = paint(task.errors(np.array(mask, np.uint8), np.array(prediction, np.uint8)), (RIGHT, WRONG, MISSED))
    np.testing.assert_array_equal(found[0], [rgb(colour) for colour in colours])


def test_errors_are_drawn_as_is_said():
    """Of two binary windows in a grey image, what is found and missed; of classes the one that is wrong."""

    def drawn(task, palette=None):
        row = Row(np.full((3, 32, 32), 128, np.uint8), np.zeros((32, 32), np.uint8), "s", [np.ones((32, 32), np.uint8)])
        row.target[16:] = 1
        row.predictions[0][16:] = 0
        figure = Figure()
        axes = figure.subplots(1, 3, squeeze=False)
        fill_panels(figure, axes, task, palette, [row])
        red, green, blue = np.moveaxis(np.asarray(axes[0, 2].images[0].get_array()), -1, 0)[:, [4, 28], 4]
        return [(r > 2 * g, g > 2 * r, b > 2 * r) for r, g, b in zip(red, green, blue, strict=True)]

    (red, _, _), (_, _, blue) = drawn(BINARY)
    assert red
    assert blue
    assert "false alarms in magenta and missed pixels in blue" in errors_shown(BINARY)
    assert drawn(THREE, ["#ff0000", "#00ff00", "#0000ff"]) == [(False, True, False), (True, False, False)]
    assert "the colour of the predicted class" in errors_shown(THREE)


@pytest.mark.parametrize("task", [BINARY, THREE])
def test_what_is_not_labelled_is_told_from_dark_pixels_that_are_right(task):
    """Faded towards white they are grey: what is not labelled has stripes, in the target, the errors and the legend."""
    row = Row(np.zeros((3, 64, 64), np.uint8), np.zeros((64, 64), np.uint8), "s", [np.zeros((64, 64), np.uint8)])
    row.image[:, :8] = 255
    row.target[32:] = 255
    figure = Figure()
    axes = figure.subplots(1, 4, squeeze=False)
    fill_panels(figure, axes, task, None, [row])
    for panel in (1, 3):
        drawn = np.asarray(axes[0, panel].images[0].get_array(), dtype=float)
        assert len(np.unique(drawn[10:32].reshape(-1, 3), axis=0)) == 1
        assert {float(value.max()) for value in np.unique(drawn[32:].reshape(-1, 3), axis=0)} == {128 / 255, 1.0}
        assert np.ptp(drawn[40, :, 0]) > 0.4
        assert np.ptp(drawn[32:, 20, 0]) > 0.4
    hatches = {patch.get_label(): patch.get_hatch() for patch in figure.legends[0].get_patches()}
    assert [name for name, hatch in hatches.items() if hatch] == ["not labelled"]


def test_the_bands_that_are_shown():
    image = np.stack([np.full((4, 4), i, np.uint16) for i in range(5)])
    image[:, 0, 0] = 0
    image[3, :, :2] = 900
    (shown,) = stretch([image], [3, 0, 1])
    assert shown.shape == (4, 4, 3)
    np.testing.assert_allclose(shown[:, 1, 0], 1)
    np.testing.assert_allclose(shown[1:, 2:, 0], 0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_windows_of_a_picture_have_one_stretch(dtype):
    """Against NumPy's percentiles of all pixels."""
    rng = np.random.default_rng(0)
    bright, dark = rng.uniform(100, 200, (3, 32, 32)).astype(dtype), rng.uniform(20, 60, (3, 32, 32)).astype(dtype)
    both = np.concatenate([bright, dark], axis=1).astype(float)
    low, high = np.percentile(both, (2, 98), axis=(0, 1, 2) if dtype == np.uint8 else (1, 2), keepdims=True)
    shown = stretch([bright, dark])
    np.testing.assert_allclose(shown[1], np.clip((dark - low) / (high - low), 0, 1).transpose(1, 2, 0))
    assert shown[0].mean() > 2 * shown[1].mean()


def test_photographs_keep_their_colours():
    """A green of 8 bits stays green, where bands of 16 bits are stretched each for itself."""
    image = np.stack([np.linspace(low, low + 60, 256).reshape(16, 16) for low in (40, 140, 40)])
    eight, sixteen = (stretch([image.astype(dtype)])[0].reshape(-1, 3).mean(axis=0) for dtype in (np.uint8, np.uint16))
    assert eight[1] > 2 * eight[0]
    np.testing.assert_allclose(sixteen[1], sixteen[0], atol=0.01)


def test_no_value_is_stretched_as_none():
    image = np.random.default_rng(0).random((3, 8, 8))
    holed = image.copy()
    holed[:, 0, 0] = np.nan
    np.testing.assert_allclose(stretch([holed])[0][4:], stretch([image])[0][4:], atol=0.1)


def test_flatten_shows_the_last_label():
    np.testing.assert_array_equal(TWO.flatten(np.array([[[1, 0, 1]], [[0, 1, 1]]])), [[1, 2, 2]])


def test_a_picture_has_four_columns(tmp_path):
    image = np.zeros((3, 32, 32), np.uint8)
    mask = np.zeros((32, 32), np.uint8)
    draw_windows(tmp_path / "p.png", Binary(("thing",)), ["#000000", "#ffffff"], [Row(image, mask, "s", [mask + 1])])
    picture = np.asarray(Image.open(tmp_path / "p.png").convert("RGB")).astype(int)
    row = picture[picture.shape[0] // 2 - 20]  # through the images
    quarter = picture.shape[1] // 4
    colours = [row[quarter * i + quarter // 2] for i in range(4)]
    over_image = 0.2 * 0.4 * 255 + 0.8 * np.array(rgb(WRONG))
    np.testing.assert_allclose(colours, [[0] * 3, [0] * 3, [255] * 3, over_image], atol=1)


def figure_of(rows, task, width=10.0):
    figure = Figure(figsize=(width, 3.0 * len(rows)), layout="constrained")
    fill_panels(figure, figure.subplots(len(rows), 4, squeeze=False), task, None, rows)
    return figure


@pytest.mark.parametrize("name", ["s", "W" * 60, "T32TMT_2024_a_product_with_a_long_name_" * 3, "東京" * 40])
def test_rows_have_frames_names_and_scores(name):
    """Names and scores stay below their own panel, whatever letters they are of."""
    mask = np.ones((16, 16), np.uint8)
    empty = Row(np.ones((3, 16, 16)), np.full_like(mask, 255), "nothing", [mask])
    rows = [Row(np.ones((3, 16, 16)), mask, name, [np.eye(16, dtype=np.uint8)]), empty]
    figure = figure_of(rows, BINARY)
    figure.draw_without_rendering()
    axes = np.reshape(figure.axes, (2, 4))
    assert [axis.get_xlabel() for axis in axes[:, 3]] == [f"IoU {1 / 16:.3f}", "nothing to score"]
    assert axes[1, 0].get_xlabel() == "nothing"
    assert all(spine.get_visible() and spine.get_linewidth() < 1 for axis in axes.flat for spine in axis.spines.values())
    label = axes[0, 0].xaxis.label.get_window_extent()
    assert label.x1 < axes[0, 1].get_window_extent().x0
    assert len(axes[0, 0].get_xlabel()) > 10 or name == "s"


def test_names_are_shortened_in_the_middle():
    assert shorten("abc", 1000) == "abc"
    start, end = shorten("start" + "x" * 100 + "end", 80).split("...")
    assert start.startswith("start")
    assert end.endswith("end")


@pytest.mark.parametrize("number", [2, 30, 60])
def test_a_legend_stays_in_its_figure(number):
    figure = Figure(figsize=(6, 8), layout="constrained")
    figure.subplots()
    legend(figure, [Patch(label=f"a class with quite a long name {i}") for i in range(number)])
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1


def test_grey_is_only_what_is_not_labelled(tmp_path):
    """Windows of a scene are half a side apart, and show all of its labels; the legend names grey where there is some."""
    rng = np.random.default_rng(0)
    scenes, masks = [], {}
    for name in ("whole", "holed"):
        mask = rng.integers(0, 3, (100, 70), dtype=np.uint8)
        if name == "holed":
            mask[:40, :20] = 255
        image = write_tif(tmp_path / f"images/{name}.tif", rng.integers(0, 255, (3, 100, 70), dtype=np.uint8))
        scenes.append(make_scene(name, image, write_tif(tmp_path / f"masks/{name}.tif", mask[None])))
        masks[name] = mask
    store = store_of(scenes, tmp_path / "store")
    windows = pick_windows(store, 64, 6)
    places = [(int(window["scene"]), *window["corner"][0].tolist()) for window in windows]
    assert {scene for scene, *_ in places[:2]} == {0, 1}
    assert 2 <= len(places) <= 4  # of the 37 x 7 places in a scene no more fit
    assert all(max(abs(y - v), abs(x - u)) >= 32 for (a, y, x), (b, v, u) in combinations(places, 2) if a == b)
    for window in windows:
        top, left = window["corner"][0].tolist()
        mask = masks[scenes[int(window["scene"])].name][top : top + 64, left : left + 64]
        np.testing.assert_array_equal(window["mask"][0], mask)
    for labels, named in ((np.zeros((4, 4), np.uint8), False), (np.full((4, 4), 255, np.uint8), True)):
        figure = figure_of([Row(np.zeros((3, 4, 4)), labels, "s", [np.zeros((4, 4), np.uint8)])], THREE)
        assert ("not labelled" in [text.get_text() for text in figure.legends[0].get_texts()]) == named


def test_every_validation_has_a_picture_and_a_point_of_the_curves(tmp_path, folder_root, monkeypatch):
    """`metrics.csv`, the curves, and the pictures name the step after which a validation ran."""
    kept, save = [], savefig.save

    def keep(figure, *given, **options):
        kept.append(figure)
        save(figure, *given, **options)

    monkeypatch.setattr("rsseg.pictures.diagnostics.save", keep)
    words = ["steps=4", "validations=2", "pictures=2", "dataset.rgb=[3,2,1]", "trainer.log_every_n_steps=1"]
    train(settings(tmp_path, *folder_data(folder_root), *words), tmp_path / "run")
    for name in ("picture.png", "confusion.png", "curves.png"):
        assert (tmp_path / "run" / name).stat().st_size > 5_000
    curves = next(figure for figure in kept if figure.axes[0].get_ylabel().startswith("IoU"))
    assert {tuple(line.get_xdata()) for line in curves.axes[0].lines} == {(2, 4)}
    pictures = sorted((tmp_path / "run/pictures").iterdir())
    assert [path.name for path in pictures] == ["step-000002.png", "step-000004.png"]
    rows = logged(tmp_path / "run")
    assert [row["step"] for row in rows if "val/loss" in row] == [2, 4]
    assert min(row["step"] for row in rows) == 1


@pytest.mark.parametrize("task", [BINARY, THREE, TWO])
def test_confusion_and_curves_of_every_task(tmp_path, task, monkeypatch):
    planes = 1 if task.kind == "multiclass" else task.channels
    counts = torch.randint(0, 50, (2, planes, task.labels, task.labels))
    counts[:, :, -1] = 0  # a label without a pixel
    draw_confusion(tmp_path / "c.png", Scores(counts, task))
    rows = [{"step": i, "val/iou": 0.5, "val/loss": 1, f"val/iou/{task.classes[0]}": math.nan} for i in range(3)]
    drawn = []
    monkeypatch.setattr("rsseg.pictures.diagnostics.save", lambda figure, *_, **__: drawn.append(figure))
    draw_curves(tmp_path / "v.png", "mask", {"mask": task}, None, rows)
    lines = [line.get_label() for line in drawn[0].axes[0].lines]
    assert lines == [*task.classes, *["mean"] * (len(task.classes) > 1)]
    monkeypatch.undo()
    draw_curves(tmp_path / "v.png", "mask", {"mask": task}, None, rows)
    for name in ("c.png", "v.png"):
        assert np.asarray(Image.open(tmp_path / name)).std() > 5


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
