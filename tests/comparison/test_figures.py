"""Figures show what was found, colour what is sure alone, and stay readable with long names."""

from itertools import combinations, pairwise

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from run_folders import BINARY, changed, height_sums, made_findings, make_sweep, of_label, steady
from run_folders import HEIGHT as HEIGHTS

from rsseg.comparison.figures import BAND, INK, RED, RULES, draw_all, draw_curves, draw_forest, draw_terms
from rsseg.comparison.findings import Findings
from rsseg.comparison.selection import gather
from rsseg.comparison.tables import all_tables, checkpoints

LOSSES = ["ce", "dice", "focal"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Findings of a sweep of eight validations, and of one of four."""
    found = []
    for steps in (range(50, 401, 50), range(100, 401, 100)):
        with pytest.MonkeyPatch.context() as patch:
            root = tmp_path_factory.mktemp("swept")
            make_sweep(root, patch, BINARY, seeds=(1, 2, 3), steps=tuple(steps))
            found.append(Findings(gather([root])))
    return found


def marks(axis, marker):
    """Value, the ends of its interval, and colour of each mark of this form, by row."""
    found, lines = {}, axis.get_lines()
    for bar, line in pairwise(lines):
        if line.get_marker() == marker and len(bar.get_xdata()) == 2:
            found[round(line.get_ydata()[0])] = (line.get_xdata()[0], *bar.get_xdata(), line.get_color())
    return found


def test_the_forest_shows_differences_to_the_best_before_and_after_tuning():
    found = of_label(steady([0.5, 0.6, 0.4]), tuned=steady([0.62, 0.61, 0.5]), labels=LOSSES, equal_within=0.02)
    assert found.tune
    (axis,) = draw_forest(found).axes
    assert [text.get_text() for text in axis.get_yticklabels()] == ["ce", "dice", "focal"]  # tuned, as the advice is
    for estimates, marker, best in ((found.ranked, "o", 1), (found.tuned, "D", 0)):
        lead, drawn = estimates.lead(), marks(axis, marker)
        for i in range(3):
            value, low, high, colour = drawn[i]
            assert (value, low, high) == pytest.approx(lead.at(i, best))
            assert colour == (RED if lead.high[i, best] < 0 else INK)
    assert marks(axis, "o")[0][3] == RED  # ce is behind as it is ...
    assert marks(axis, "D")[0][3] == INK  # ... and the best once tuned
    (band,) = [patch for patch in axis.patches if to_hex(patch.get_facecolor()) == BAND]
    assert (band.get_x(), band.get_x() + band.get_width()) == pytest.approx((-0.02, 0.02))
    assert "dice (threshold 0.5) or ce (tuned)" in axis.figure.get_supxlabel()


def test_of_an_error_left_is_behind_too():
    rmse = 2 - steady([0.9, 1.0])  # 1.1 and 1.0
    found = made_findings(height_sums(rmse)[..., None, :], task=HEIGHTS, labels=("mse", "mae"))
    (axis,) = draw_forest(found).axes
    value, _, high, colour = marks(axis, "o")[1]
    assert value == pytest.approx(-0.1)
    assert high < 0
    assert colour == RED
    assert axis.figure.get_supxlabel() == "RMSE in m, difference to the best: mae"


@pytest.mark.parametrize("seeds", [2, 3])
def test_nothing_is_coloured_with_fewer_than_three_seeds(seeds):
    found = of_label(steady([0.5, 0.6, 0.4], seeds=seeds), tuned=steady([0.7, 0.7, 0.5], seeds=seeds), labels=LOSSES)
    with mpl.rc_context(RULES):
        (axis,) = draw_forest(found).axes
    assert (RED in {to_hex(line.get_color()) for line in axis.get_lines()}) == (seeds > 2)


def test_terms_have_their_shares_and_gains_where_these_were_recorded():
    index = pd.MultiIndex.from_product([["ce_dice"], [100, 200], ["ce", "dice"]], names=["loss", "step", "term"])
    table = pd.DataFrame({"share_logits": [0.3, 0.7, 0.4, 0.6], "share_layer": 0.5, "gain": np.nan}, index=index).reset_index()
    axes = [axis for axis in draw_terms(table).axes if axis.axison]
    assert [axis.get_title() for axis in axes] == ["ce_dice\nshare at the logits", "ce_dice\nshare at the last layer"]
    assert [list(line.get_ydata()) for line in axes[0].lines] == [[0.3, 0.4], [0.7, 0.6]]
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == ["ce", "dice"]
    measured = [axis for axis in draw_terms(table.assign(gain=-0.1)).axes if axis.axison]
    assert measured[-1].get_title() == "ce_dice\none-step gain"


def test_steps_are_counted_as_records_count_them(swept):
    """Lightning counts the first step as 0 in ``metrics.csv``; after 100 steps it writes 99."""
    axis = draw_curves(swept[1], checkpoints(swept[1])).axes[0]
    assert {tuple(line.get_xdata()) for line in axis.lines} == {(100, 200, 300, 400)}


def test_one_loss_is_compared_with_nothing():
    found = of_label(steady([0.6]), labels=["ce"])
    with mpl.rc_context(RULES):
        assert set(draw_all(found, all_tables(found))) == {"curves"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["forest", "curves", "terms"])
@pytest.mark.parametrize("number", [5, 12])
def test_long_names_neither_leave_a_figure_nor_cover_one_another(swept, monkeypatch, name, number):
    """The same losses over and over, with the names of recipes."""
    found = swept[0]
    names = [f"focal_dice sampler=Balanced augment.p=Paste{i}" for i in range(number)]
    rows = [[changed(run, label=name) for run in found.comparison.runs[i % 5]] for i, name in enumerate(names)]
    long = Findings(changed(found.comparison, runs=rows))
    with mpl.rc_context(RULES):
        figure = draw_all(long, all_tables(long))[name]
        texts, draw = [], mpl.text.Text.draw
        monkeypatch.setattr(mpl.text.Text, "draw", lambda text, to: (texts.append(text), draw(text, to))[1])
        FigureCanvasAgg(figure).draw()
    texts = [text for text in texts if text.get_visible() and text.get_text().strip()]
    boxes = [mpl.text.Text.get_window_extent(text) for text in texts]  # of an annotation: without its arrow
    for text, box in zip(texts, boxes, strict=True):
        assert min(box.x0, box.y0, figure.bbox.x1 - box.x1, figure.bbox.y1 - box.y1) > -2, text
    for (a, one), (b, other) in combinations(zip(texts, boxes, strict=True), 2):
        shared = mpl.transforms.Bbox.intersection(one, other)
        assert shared is None or min(shared.width, shared.height) < 2, (a, b)
