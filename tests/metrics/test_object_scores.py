"""Objects found on windows of scenes with known boxes: each once, none lost at a border, matched and scored."""

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from rsseg.data.boxes import Boxes
from rsseg.data.windows import grid
from rsseg.metrics import Scores
from rsseg.metrics.counters import ObjectMatches
from rsseg.metrics.counters.matches import average_precision
from rsseg.metrics.objects import COLUMNS, boxes, labelled_objects, match, peaks, suppress_overlaps
from rsseg.task import Centres

TWO = Centres(("car", "truck"))
SIZE, WINDOW, OVERLAP = 200, 64, 12


def scene_of_boxes(rng, count=60):
    """Boxes 5 to 9 pixels wide, with centres at least 6 apart, many of them on the borders of windows."""
    cells = rng.choice((SIZE // 12) ** 2, count, replace=False)
    centre = np.stack(np.divmod(cells, SIZE // 12), axis=1) * 12 + rng.uniform(2, 8, (count, 2))
    sides = rng.uniform(5, 9, (count, 2))
    return np.column_stack([rng.integers(1, 3, count), centre - sides / 2, centre + sides / 2])


def sharp(target):
    """Logits that say what a target does: the heat itself, sizes and offsets, smeared to the neighbours of a centre."""
    planes = TWO.standardise(target)
    logits = planes.nan_to_num(0).clone()
    logits[:, :2] = torch.logit(logits[:, :2], eps=0.01)
    return logits


def windows(whole, shift=None):
    """The windows of a scene's layer ``[5, H, W]``, what counts of each, and where they begin."""
    for core in grid(np.array([[SIZE, SIZE]]), WINDOW, OVERLAP):
        rows, columns = slice(core.top, core.top + WINDOW), slice(core.left, core.left + WINDOW)
        known = torch.zeros(WINDOW, WINDOW, dtype=torch.bool)
        known[core.inner_top : core.inner_bottom, core.inner_left : core.inner_right] = True
        yield core, whole[:, rows, columns], known


def counted(own, seen, suppressed=True):
    """The metric of a scene whose windows show `seen(core)`, boxes in the scene's pixels."""
    matches = ObjectMatches(TWO, scenes=1)
    truth = torch.from_numpy(Boxes(TWO).draw(own, (SIZE, SIZE)))
    for core, target, known in windows(truth):
        shown = seen(core) - np.array([0, core.top, core.left, core.top, core.left])
        logits = sharp(torch.from_numpy(Boxes(TWO).draw(shown, (WINDOW, WINDOW)))[None])
        target = TWO.standardise(target[None]).masked_fill(~known, torch.nan)
        matches.update(logits, target, torch.tensor([0]), torch.tensor([[core.top, core.left]]))
    return matches


def test_every_object_is_found_once():
    own = scene_of_boxes(np.random.default_rng(0))
    matches = counted(own, lambda core: own)
    assert len(torch.cat(matches.found)) > len(own)  # those at borders are seen by two windows
    assert matches.compute()[0, :, 0].tolist() == [(own[:, 0] == label).sum() for label in (1, 2)]
    assert not matches.compute()[..., 1:].any()
    assert matches.average_precision.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("seed", range(3))
def test_windows_that_disagree_by_a_pixel_neither_double_nor_lose_an_object(seed):
    """Every window shows each box up to 1.4 pixels away, its own way: at a border both windows count it, or neither."""
    own = scene_of_boxes(np.random.default_rng(seed))
    rng = np.random.default_rng(100 + seed)

    def jittered(core):
        shift = rng.uniform(-1, 1, (len(own), 2))
        return own + np.column_stack([np.zeros(len(own)), shift, shift])

    matches = counted(own, jittered)
    assert matches.compute()[0].sum(0).tolist() == [len(own), 0, 0]


def test_batches_and_their_order_do_not_matter():
    own = scene_of_boxes(np.random.default_rng(5))
    truth = torch.from_numpy(Boxes(TWO).draw(own, (SIZE, SIZE)))
    parts = list(windows(truth))
    targets = torch.stack([TWO.standardise(target[None])[0].masked_fill(~known, torch.nan) for _, target, known in parts])
    logits = torch.cat([sharp(target[None]) for _, target, _ in parts])
    logits[:, :2] += torch.randn(logits[:, :2].shape, generator=torch.Generator().manual_seed(0))
    corners = torch.tensor([[core.top, core.left] for core, _, _ in parts])
    found = []
    for order in (torch.arange(len(parts)), torch.randperm(len(parts), generator=torch.Generator().manual_seed(1))):
        matches = ObjectMatches(TWO, scenes=2)
        for index in order.split(3 if len(found) else 5):
            scene = torch.ones(len(index), dtype=torch.int64)
            matches.update(logits[index], targets[index], scene, corners[index])
        found.append(matches.compute())
        assert not found[-1][0].any()
    assert torch.equal(*found)
    assert found[0][1].sum() > len(own)


def test_peaks_are_what_no_neighbour_exceeds():
    planes = torch.rand(2, 6, 20, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = set()
    heat = planes[:, :2].numpy()
    for b, c, i, j in np.ndindex(heat.shape):
        around = heat[b, c, max(0, i - 1) : i + 2, max(0, j - 1) : j + 2]
        if heat[b, c, i, j] == around.max() and heat[b, c, i, j] >= 0.6:
            expected.add((b, c, i, j))
    rows = peaks(planes, TWO, least=0.6)
    down, across = planes[:, 4:].float().unbind(1)
    places = {(int(b), int(c), *np.floor([row, column]).astype(int)) for b, c, _, row, column, _, _ in rows.tolist()}
    assert places == expected
    b, c, i, j = next(iter(expected))
    own = rows[(rows[:, 0] == b) & (rows[:, 1] == c) & ((rows[:, 3:5] - torch.tensor([i, j])).abs().sum(1) < 2)]
    assert torch.tensor([i + down[b, i, j], j + across[b, i, j]]) in own[:, 3:5]


def random_table(rng, count, scenes=2):
    rows = [rng.integers(0, scenes, count), rng.integers(0, 2, count), rng.random(count), *rng.uniform(0, 60, (2, count))]
    return np.column_stack([*rows, *rng.uniform(4, 16, (2, count))]).astype(np.float32)


def test_suppression_against_a_loop_over_pairs():
    table = random_table(np.random.default_rng(1), 80)
    table[:, 5:] += 10  # larger than the least side of boxes
    kept = suppress_overlaps(torch.from_numpy(table)).numpy()
    corners = boxes(torch.from_numpy(table))
    expected = []
    for i in np.argsort(-table[:, 2]):
        rivals = [j for j in expected if (table[j, :2] == table[i, :2]).all()]
        if all(float(box_iou(corners[[i]], corners[[j]])) <= 0.5 for j in rivals):
            expected.append(i)
    np.testing.assert_array_equal(kept, table[expected])
    assert len(kept) < len(table)


def test_the_best_score_takes_the_nearest_object_within_reach():
    truth = np.array([[0, 0, 1, 10, 10, 8, 8], [0, 0, 1, 10, 13, 8, 8], [0, 0, 1, 50, 50, np.nan, np.nan]])
    found = np.array(
        [[0, 0, 0.9, 10, 12, 1, 1], [0, 0, 0.8, 10, 12.5, 1, 1], [0, 0, 0.7, 10, 11, 1, 1], [0, 0, 0.6, 52.9, 50, 1, 1]]
    )
    rows, columns = match(found, truth)
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 1), (1, 0), (3, 2)]
    far = np.array([[0, 0, 0.9, 10, 14.1, 8, 8], [0, 0, 0.9, 53.1, 50, 8, 8]])
    assert len(match(far, truth[[0, 2]])[0]) == 0  # 4.1 of 4, and 3.1 of 3 pixels away
    assert len(match(far, np.zeros((0, 7)))[0]) == 0


def own_precision(found, truth):
    """COCO's average precision at an IoU of 0.5: 101 recalls, the best precision from each on."""
    found = found[np.argsort(-found[:, 2], kind="stable")]
    taken, hits = set(), []
    for row in found:
        there = [j for j in range(len(truth)) if truth[j, 0] == row[0] and j not in taken]
        own, theirs = boxes(torch.from_numpy(row[None])), boxes(torch.from_numpy(truth[there]))
        overlaps = box_iou(own, theirs)[0].numpy() if there else np.zeros(0)
        if len(overlaps) and overlaps.max() >= 0.5:
            taken.add(there[int(overlaps.argmax())])
        hits.append(len(overlaps) > 0 and overlaps.max() >= 0.5)
    hits = np.cumsum(hits)
    recall, precision = hits / len(truth), hits / np.arange(1, len(hits) + 1)
    return np.mean([precision[recall >= level].max(initial=0) for level in np.linspace(0, 1, 101)])


def test_average_precision_against_a_loop():
    rng = np.random.default_rng(2)
    truth = random_table(rng, 300, scenes=3)  # more than the 100 that COCO looks at of an image
    found = truth + rng.normal(0, 1, truth.shape).astype(np.float32) * np.array([0, 0, 0, 1, 1, 0.5, 0.5], dtype=np.float32)
    found[:, 2] = rng.random(len(found))
    found = np.concatenate([found[:250], random_table(rng, 60, scenes=3)])
    measured = average_precision(torch.from_numpy(found), torch.from_numpy(truth), 3, 3)
    for label in (0, 1):
        expected = own_precision(found[found[:, 1] == label], truth[truth[:, 1] == label])
        assert measured[label] == pytest.approx(expected, abs=0.005)
    assert np.isnan(measured[2])  # a class that is absent


def test_objects_without_a_size_have_no_average_precision():
    table = torch.from_numpy(random_table(np.random.default_rng(3), 10))
    unsized = table.clone()
    unsized[:, 5:] = torch.nan
    assert np.isnan(average_precision(table, unsized, 2, 2)).all()
    assert len(suppress_overlaps(unsized)) > 0


def test_scores_are_those_of_counts():
    counts = torch.tensor([[[8, 2, 4], [0, 0, 0]], [[1, 3, 0], [2, 0, 2]]])
    scores = Scores(counts, TWO, beside={"ap50": np.array([0.5, 0.7])})
    assert scores["f1/car"] == pytest.approx(2 * 9 / (2 * 9 + 5 + 4))
    assert scores["f1/truck"] == pytest.approx(2 * 2 / (2 * 2 + 2))
    assert scores["f1"] == pytest.approx((scores["f1/car"] + scores["f1/truck"]) / 2)
    assert scores["recall_micro"] == pytest.approx(11 / 17)
    assert scores["scene_f1"] == pytest.approx((16 / 22 + (2 / 5 + 4 / 6) / 2) / 2)
    assert scores.means()["ap50"] == pytest.approx(0.6)
    assert Scores(counts, TWO, ("truck",), {"ap50": np.array([0.5, 0.7])}).means()["ap50"] == 0.5
    rows = {row["class"] or row["average"]: row for row in scores.table()}
    assert (rows["car"]["pixels"], rows["truck"]["ap50"], rows["macro"]["ap50"]) == (13, 0.7, pytest.approx(0.6))
    assert np.isnan(rows["micro"]["ap50"])


def test_a_scene_without_anything():
    matches = ObjectMatches(TWO, scenes=1)
    nothing = torch.zeros(1, 5, 32, 32)
    matches.update(sharp(nothing), TWO.standardise(nothing), torch.tensor([0]))
    assert not matches.compute().any()
    assert np.isnan(matches.average_precision).all()
    assert labelled_objects(TWO.standardise(nothing), TWO).shape == (0, len(COLUMNS))
    assert suppress_overlaps(torch.zeros(0, len(COLUMNS))).shape == (0, len(COLUMNS))
