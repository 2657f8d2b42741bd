"""The windows that models label most differently are found and drawn."""

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from sklearn.metrics import jaccard_score

from rsseg.comparison.examples import draw_examples, write_examples
from rsseg.contract import IGNORE, InputError
from rsseg.pictures.colours import MISSED, WRONG
from rsseg.pictures.panels import draw_windows
from rsseg.pictures.windows import Row, disagreement, window_score
from rsseg.task import Binary, Centres, Multiclass, Multilabel, Regression

TWO = Binary(("water",))


def test_disagreement_is_of_labelled_pixels():
    mask = np.array([[0, 1, IGNORE, IGNORE]])
    models = [np.array([[0, 1, 0, 1]]), np.array([[0, 0, 1, 0]]), np.array([[0, 1, 0, 0]])]
    assert disagreement(Row(np.zeros((3, 1, 4)), mask, "", models), TWO) == 0.5
    assert disagreement(Row(np.zeros((3, 1, 4)), np.full((1, 4), IGNORE), "", models), TWO) == 0
    both = np.array([[[0, 1]], [[0, IGNORE]]])  # two labels of a pixel each
    two = Multilabel(("a", "b"))
    assert disagreement(Row(np.zeros((3, 1, 2)), both, "", [both, np.where(both == 1, 0, both)]), two) == pytest.approx(1 / 3)
    height = np.array([[[1.0, np.nan, 5.0]]])
    apart = Row(np.zeros((3, 1, 3)), height, "", [height + 1, height - 1])
    assert disagreement(apart, Regression(("height",))) == 2


def kept(tmp_path, monkeypatch, predictions, scenes, image=(3, 4, 8)):
    """What is drawn of windows that some runs kept: predictions ``[runs][windows]``."""
    told = []
    monkeypatch.setattr("rsseg.comparison.examples.draw_windows", lambda *given: told.append(given))
    runs = [tmp_path / f"run{i}" for i in range(len(predictions))]
    for run, own in zip(runs, predictions, strict=True):
        target = np.zeros((4, 8), np.uint8)
        rows = [Row(np.ones(image, np.float32), target, scene, [p]) for scene, p in zip(scenes, own, strict=True)]
        write_examples(run / "records", {"water": rows, "mask": rows}, {"water": None, "mask": ["#000000", "#ffffff"]}, None)
    draw_examples(runs, ["ce", "dice"], "mask", TWO, tmp_path / "x.png")
    ((path, task, palette, drawn, shown, names),) = told
    assert (path, task, palette, shown, names) == (tmp_path / "x.png", TWO, ["#000000", "#ffffff"], None, ["ce", "dice"])
    return drawn


def left_of(column):
    return np.tile(np.arange(8) < column, (4, 1)).astype(np.uint8)


def test_the_windows_that_differ_most_come_first(tmp_path, monkeypatch):
    drawn = kept(tmp_path, monkeypatch, [[left_of(2), left_of(2)], [left_of(2), left_of(6)]], ["a", "b"])
    assert [row.scene for row in drawn] == ["b", "a"]
    assert [disagreement(row, TWO) for row in drawn] == [0.5, 0.0]
    assert [prediction.sum() for prediction in drawn[0].predictions] == [8, 24]


def test_a_second_window_of_a_scene_comes_after_those_of_others(tmp_path, monkeypatch):
    differing = [[left_of(2)] * 4, [left_of(7), left_of(6), left_of(2), left_of(3)]]
    drawn = kept(tmp_path, monkeypatch, differing, ["a", "a", "b", "b"], image=(13, 4, 8))
    assert [row.scene for row in drawn] == ["a", "b", "a"]
    assert [row.predictions[1].sum() for row in drawn] == [28, 12, 24]
    assert drawn[0].image.shape == (3, 4, 8)


def test_runs_without_windows_or_with_others_are_named(tmp_path, monkeypatch):
    kept(tmp_path, monkeypatch, [[left_of(2)], [left_of(3)]], ["a"])
    with pytest.raises(InputError, match="nowhere kept no windows: train it again"):
        draw_examples([tmp_path / "run0", tmp_path / "nowhere"], ["ce", "dice"], "mask", TWO, tmp_path / "x.png")
    other = {"mask": [Row(np.ones((3, 4, 8)), np.ones((4, 8), np.uint8), "a", [left_of(1)])]}
    write_examples(tmp_path / "run2" / "records", other, {"mask": None}, None)
    with pytest.raises(InputError, match=r"run2 kept other windows than .*run0"):
        draw_examples([tmp_path / "run0", tmp_path / "run2"], ["ce", "dice"], "mask", TWO, tmp_path / "x.png")


@pytest.mark.parametrize(("models", "grid"), [(2, (1, 4)), (6, (1, 8)), (7, (2, 5)), (22, (3, 8))])
def test_models_have_one_row_or_a_full_grid(tmp_path, monkeypatch, models, grid):
    figure = drawn(tmp_path, monkeypatch, TWO, np.ones((4, 4), np.uint8), [np.zeros((4, 4), int)] * models)
    places = figure.axes[0].get_gridspec()
    assert (places.nrows, places.ncols) == grid
    panels = [axis for axis in figure.axes if axis.axison]
    assert len(panels) == models + 2
    assert all(axis.spines["top"].get_visible() and not axis.get_xticks().size for axis in panels)  # a frame, no numbers
    assert [axis.get_title(loc="left") for axis in panels] == ["image", "target", *(f"m{i}" for i in range(models))]


def drawn(tmp_path, monkeypatch, task, mask, predictions, image=None):
    """The figure of one window."""
    kept = []
    monkeypatch.setattr("rsseg.pictures.panels.save", lambda figure, *_, **__: kept.append(figure))
    image = np.random.default_rng(0).random((3, *mask.shape[-2:])) if image is None else image
    names = [f"m{i}" for i in range(len(predictions))]
    rows = [Row(image, mask, "a_scene_with_a_very_long_name_of_a_product", list(predictions))]
    draw_windows(tmp_path / "x.png", task, None, rows, None, names)
    return kept[0]


def test_errors_are_drawn_over_the_image_with_scene_and_score(tmp_path, monkeypatch):
    mask = np.array([[1, 1, 0, 0, IGNORE]], np.uint8)
    figure = drawn(tmp_path, monkeypatch, TWO, mask, [np.array([[1, 0, 1, 0, 1]]), np.array([[1, 1, 0, 0, 0]])])
    image, target, wrong, right = figure.axes
    assert [axis.get_xlabel() for axis in (target, wrong, right)] == ["", "IoU 0.333", "IoU 1.000"]
    start, end = image.get_xlabel().split("...")
    assert "a_scene_with_a_very_long_name_of_a_product".startswith(start)
    assert "a_scene_with_a_very_long_name_of_a_product".endswith(end)
    picture, errors, none = (np.asarray(axis.images[-1].get_array())[0] for axis in (image, wrong, right))
    faint = 0.6 * picture + 0.4
    np.testing.assert_allclose(errors[[0, 3]], faint[[0, 3]])  # right: the image
    np.testing.assert_allclose(none[:4], faint[:4])
    for place, colour in ((1, MISSED), (2, WRONG)):
        np.testing.assert_allclose(errors[place], 0.2 * faint[place] + 0.8 * np.array(to_rgb(colour)))
    labels = {text.get_text(): to_hex(patch.get_facecolor()) for text, patch in key_of(figure)}
    assert (labels["missed"], labels["false alarm"]) == (MISSED, WRONG)


def key_of(figure):
    (legend,) = figure.legends
    return zip(legend.get_texts(), legend.get_patches(), strict=True)


def test_of_several_classes_wrong_pixels_have_the_colour_of_what_was_predicted(tmp_path, monkeypatch):
    task = Multiclass(("land", "water", "road"))
    figure = drawn(tmp_path, monkeypatch, task, np.array([[0, 1, 2]], np.uint8), [np.array([[0, 2, 1]])])
    image, wrong = (np.asarray(figure.axes[place].images[-1].get_array())[0] for place in (0, 2))
    labels = {text.get_text(): to_rgb(patch.get_facecolor()) for text, patch in key_of(figure)}
    assert set(labels) == {"land", "water", "road"}  # all is labelled
    for place, name in ((1, "road"), (2, "water")):
        expected = 0.2 * (0.6 * image[place] + 0.4) + 0.8 * np.array(labels[name])
        np.testing.assert_allclose(wrong[place], expected, atol=1e-2)


def test_the_score_of_a_window():
    rng = np.random.default_rng(0)
    mask, found = rng.integers(0, 3, (2, 8, 8)).astype(np.uint8)
    mask[0] = IGNORE
    known = mask != IGNORE
    expected = jaccard_score(mask[known], found[known], average="macro")
    assert window_score(Multiclass(("a", "b", "c")), mask, found) == pytest.approx(expected)
    both, other = rng.integers(0, 2, (2, 2, 8, 8)).astype(np.uint8)
    both[1, 0] = IGNORE
    ious = [jaccard_score(b[b != IGNORE], o[b != IGNORE]) for b, o in zip(both, other, strict=True)]
    assert window_score(Multilabel(("a", "b")), both, other) == pytest.approx(np.mean(ious))
    height, predicted = rng.normal(size=(2, 1, 8, 8))
    height[0, 0, :4] = np.nan
    errors = (predicted - height)[np.isfinite(height)]
    assert window_score(Regression(("height",)), height, predicted) == pytest.approx(np.sqrt(np.mean(errors**2)))
    trees = np.array([[0, 0, 1, 20, 20, 8, 8], [0, 0, 1, 60, 60, 8, 8]], float)
    assert window_score(Centres(("tree",)), trees, trees[:1]) == pytest.approx(2 / 3)  # one found, one missed
