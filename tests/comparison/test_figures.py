"""Figures show what was found, colour what is sure alone, and stay readable with long names."""

from itertools import combinations, pairwise

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from run_folders import BINARY, changed, height_sums, made_findings, make_sweep, of_label, steady
from run_folders import HEIGHT as HEIGHTS
from scipy.stats import kendalltau

from rsseg.comparison.figures import (
    FIGURES,
    FIGURES_OF_SEVERAL,
    brief,
    draw_alignment,
    draw_all,
    draw_curves,
    draw_forest,
    draw_measures,
    draw_pairs,
    draw_regrets,
)
from rsseg.comparison.findings import Findings
from rsseg.comparison.selection import gather
from rsseg.comparison.style import BAND, BLUE, INK, RED, RULES, TINTS

LOSSES = ["ce", "dice", "focal"]
ALL_FIGURES = FIGURES_OF_SEVERAL | FIGURES


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


def test_baselines_have_rows_below_or_an_arrow_where_they_are_far_off():
    found = changed(of_label(steady([0.6, 0.55]), labels=LOSSES[:2]), baselines={"all road": 0.1, "pixels alone": 0.57})
    (axis,) = draw_forest(found).axes
    assert [text.get_text() for text in axis.get_yticklabels()] == ["ce", "dice", "all road", "pixels alone"]
    lines = [line for line in axis.get_lines() if line.get_marker() in ("x", "<")]
    drawn = {line.get_ydata()[0]: (line.get_xdata()[0], line.get_marker()) for line in lines}
    assert drawn[3] == (pytest.approx(-0.03), "x")
    assert drawn[2][1] == "<"
    assert axis.get_xlim()[0] < drawn[2][0]
    assert [text.get_text() for text in axis.texts] == ["-0.500", "-0.030"]


@pytest.mark.parametrize("seeds", [2, 3])
def test_nothing_is_coloured_with_fewer_than_three_seeds(seeds):
    found = of_label(steady([0.5, 0.6, 0.4], seeds=seeds), tuned=steady([0.7, 0.7, 0.5], seeds=seeds), labels=LOSSES)
    told = set()
    for draw in (draw_forest, draw_regrets, draw_pairs, draw_measures):
        with mpl.rc_context(RULES):
            for axis in draw(found).axes:
                told |= {to_hex(line.get_color()) for line in axis.get_lines()}
                told |= {to_hex(patch.get_facecolor()) for patch in axis.patches}
    assert bool(told & {RED, BLUE, TINTS[RED], TINTS[BLUE]}) == (seeds > 2)


def test_a_cell_is_coloured_where_its_interval_excludes_0():
    found = of_label(steady([0.6, 0.601, 0.5], of_seeds=0.01), labels=LOSSES)
    lead, order = found.ranked.lead(), found.order
    axis = draw_pairs(found).axes[0]
    cells = {(round(p.get_y() + 0.5), round(p.get_x() + 0.5)): to_hex(p.get_facecolor()) for p in axis.patches}
    texts = {(round(t.get_position()[1]), round(t.get_position()[0])): t.get_text() for t in axis.texts}
    sure = 0
    for row, column in np.ndindex(3, 3):
        value, low, high = lead.at(order[row], order[column])
        assert cells[row, column] == (TINTS[BLUE] if low > 0 else TINTS[RED] if high < 0 else TINTS[INK])
        assert texts[row, column] == ("" if row == column else brief(np.array(value))[()])
        sure += low > 0
    assert sure == 2  # both above the third


def test_the_map_of_measures_shows_scores_of_the_best_and_differences_to_them():
    found = of_label(steady([0.6, 0.5]), labels=LOSSES[:2])
    axis = draw_measures(found).axes[0]
    names = [text.get_text().replace("\n", " ") for text in axis.get_yticklabels()]
    assert names == [found.measures[name].heading for name in found.estimates]
    texts = {(round(t.get_position()[1]), round(t.get_position()[0])): t.get_text() for t in axis.texts}
    for row, estimates in enumerate(found.estimates.values()):
        assert texts[row, 0] == f"{estimates.mean.value[0]:.3f}"
        assert texts[row, 1] == brief(np.array(estimates.lead().value[1, 0]))[()]


def test_many_losses_are_mapped_as_far_as_there_is_room():
    found = of_label(steady(np.linspace(0.6, 0.3, 15)), labels=[f"loss {i}" for i in range(15)])
    assert len(draw_pairs(found).axes[0].get_xticklabels()) == 12
    assert len(draw_forest(found).axes[0].get_yticklabels()) == 15


def test_what_tuning_gains_what_is_left_and_every_seed():
    found = of_label(steady([0.5, 0.6]), tuned=steady([0.62, 0.61]), labels=LOSSES[:2])
    axes = draw_regrets(found).axes
    for axis, values in zip(axes, (found.gain.values, found.residual), strict=False):
        ticks = [line.get_xdata() for line in axis.get_lines() if line.get_marker() == "|"]  # of each seed
        np.testing.assert_allclose(np.transpose(ticks), values[found.order])
        assert [mark[0] for mark in marks(axis, "o").values()] == pytest.approx(values[found.order].mean(1))


def test_no_rank_correlation_of_fewer_than_six_validations(swept):
    eight, four = swept
    assert draw_alignment(four) is None
    with mpl.rc_context(RULES):
        titles = dict(axis.get_title(loc="left").split("\n") for axis in draw_alignment(eight).axes if axis.axison)
    assert set(titles) == {"ce", "dice"}  # of the others the loss of a half is not known
    row = eight.comparison.runs[eight.labels.index("ce")]
    taus = []
    for run in row:
        counts = run.records.counts[:, :, 0].sum(1)
        taus.append(kendalltau(-run.records.own.mean(1), counts[:, 0] / counts[:, :3].sum(1)).statistic)
    assert titles["ce"] == f"{np.mean(taus):.2f} ({min(taus):.2f} to {max(taus):.2f})"


def test_steps_are_counted_as_records_count_them(swept):
    """Lightning counts the first step as 0 in ``metrics.csv``; after 100 steps it writes 99."""
    axis = draw_curves(swept[1]).axes[0]
    assert {tuple(line.get_xdata()) for line in axis.lines} == {(100, 200, 300, 400)}


def test_one_loss_is_compared_with_nothing(tmp_path):
    found = of_label(steady([0.6]), labels=["ce"])
    with mpl.rc_context(RULES):
        assert set(draw_all(found, tmp_path)) == {"curves", "regrets"}


@pytest.mark.parametrize("name", ALL_FIGURES)
@pytest.mark.parametrize("number", [5, 12])
def test_long_names_neither_leave_a_figure_nor_cover_one_another(swept, monkeypatch, name, number):
    """The same losses over and over, with the names of recipes."""
    found = swept[0]
    names = [f"focal_dice sampler=Balanced augment.p=Paste{i}" for i in range(number)]
    rows = [[changed(run, label=name) for run in found.comparison.runs[i % 5]] for i, name in enumerate(names)]
    long = Findings(changed(found.comparison, runs=rows))
    with mpl.rc_context(RULES):
        figure = ALL_FIGURES[name](long)
        if name == "gains":
            assert figure is None  # nothing recorded them
            return
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
