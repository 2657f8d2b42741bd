"""The windows that models label most differently are found and drawn."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex, to_rgb
from sklearn.metrics import jaccard_score

from rsseg.contract import IGNORE
from rsseg.pictures.colours import MISSED, WRONG
from rsseg.pictures.panels import draw_windows
from rsseg.pictures.windows import Row, disagreement, most_different, window_score
from rsseg.task import Binary, Centres, Multiclass, Multilabel, Regression

TWO = Binary(("water",))


class Constant:
    """Predicts water left of a column."""

    device = torch.device("cpu")

    def __init__(self, column):
        self.column, self.tasks = column, {"mask": TWO}

    def logits(self, images):
        place = torch.arange(images.shape[-1]).expand(len(images), 1, *images.shape[-2:])
        return {"mask": torch.where(place < self.column, 1.0, -1.0) * images[:, :1]}


def window(sign, mask=0, scene=0):
    return {
        "image": torch.full((1, 3, 4, 8), sign),
        "mask": torch.full((1, 4, 8), mask, dtype=torch.uint8),
        "scene": torch.tensor([scene]),
    }


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


def test_the_windows_that_differ_most_come_first():
    windows = [window(0.0), window(1.0, scene=1), window(1.0, IGNORE)]  # at 0 no pixel is water, whichever model
    found = most_different(windows, "mask", (Constant(column) for column in (2, 6)), 2, ["a", "b"])
    assert [example.scene for example in found] == ["b", "a"]
    assert [disagreement(example, TWO) for example in found] == [0.5, 0.0]
    assert [prediction.sum() for prediction in found[0].predictions] == [8, 24]


def test_a_second_window_of_a_scene_comes_after_those_of_others():
    windows = [window(1.0, scene=0), window(0.9, scene=0), window(0.0, scene=1)]  # the last one is the least different
    found = most_different(windows, "mask", (Constant(column) for column in (2, 6)), 3, ["a", "b"])
    assert [example.scene for example in found] == ["a", "b", "a"]


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
