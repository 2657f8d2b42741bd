import numpy as np
import pytest

from rsseg.comparison.measures import calibration_measures, measures, of_metric, of_tuning, scene_sums
from rsseg.metrics import calibration, metrics
from rsseg.metrics.calibration import calibration_sums
from rsseg.metrics.scores import class_counts, overlap, pooled
from rsseg.task import Binary, Multiclass, Regression

SCORED, MEASURES = metrics(Binary(("a",))), measures(Binary(("a",)))


def test_counts_of_three_classes_by_hand():
    task = Multiclass(("a", "b", "c"))
    confusion = np.zeros((2, 1, 3, 3), dtype=int)
    confusion[0, 0] = [[5, 1, 0], [2, 3, 0], [0, 0, 0]]
    confusion[1, 0] = [[0, 0, 0], [0, 4, 1], [0, 0, 0]]
    counts = class_counts(confusion, task)
    assert counts[0].tolist() == [[5, 2, 1, 3], [3, 1, 2, 5], [0, 0, 0, 11]]
    assert measures(task)["iou"].average(counts.sum(0)) == pytest.approx((5 / 8 + 7 / 11) / 2)  # c is never there
    assert SCORED["scene_iou"](counts) == pytest.approx(((5 / 8 + 3 / 6) / 2 + 4 / 5) / 2)
    assert np.isnan(overlap(np.zeros(3)))
    assert overlap([0, 3, 0], "dice") != overlap([0, 0, 3], "dice")  # absent, and missed altogether


def test_scores_from_sums_are_those_of_whole_runs():
    rng = np.random.default_rng(4)
    counts = rng.integers(0, 50, (2, 3, 4, 2, 4)).astype(float)
    counts[:, :, 1, 0], counts[:, :, 2] = 0, 0  # one scene lacks a class, one has none
    assert of_metric(SCORED["dice"]).average(counts.sum(2)) == pytest.approx(pooled(counts, "dice"))
    by_scene = scene_sums(SCORED["iou"].each(counts))
    assert MEASURES["scene_iou"].average(by_scene.sum(2)) == pytest.approx(SCORED["scene_iou"](counts))
    assert MEASURES["scene_iou"].pixels(by_scene[0, 0])[:, 0].tolist() == [1, 1, 0, 1]  # scenes weigh alike
    task = Multiclass(("a", "b", "c"))
    histograms = rng.integers(0, 9, (2, 3, 4, 4, 2, 256))
    sums = [[calibration_sums(run, task) for run in row] for row in histograms]
    calibrated = calibration_measures(task)
    assert list(calibrated) == ["ece", "class_ece", "brier"]
    for name, measure in calibrated.items():
        values = measure.average(np.array([[run[name] for run in row] for row in sums]).sum(2))
        assert values == pytest.approx(np.array([[calibration(run)[name] for run in row] for row in sums]))
        assert not measure.higher_is_better
    first = sums[0][0]
    assert calibrated["class_ece"].pixels(first["class_ece"]) == pytest.approx(histograms[0, 0, :, :3, 1].sum(-1))
    assert calibrated["brier"].pixels(first["brier"]) == pytest.approx(histograms[0, 0, :, :1].sum((-2, -1)))


@pytest.mark.parametrize("task", [Binary(("a",)), Multiclass(("a", "b", "c")), Regression(("height",))])
def test_a_score_is_the_mean_of_its_parts_each_with_its_mass_and_no_factor_matters(task):
    sums = np.random.default_rng(0).uniform(1, 9, (5, task.channels, 6 if task.real else 4))
    sums[..., -1] += 100  # of heights the sum of squares
    for measure in (
        each
        for name, each in measures(task).items()
        if name not in calibration_measures(task) and not name.startswith("scene_")
    ):
        parts = measure.parts(sums.sum(0))
        assert measure.average(sums.sum(0)) == pytest.approx(parts.mean())
        assert measure.parts(0.3 * sums.sum(0)) == pytest.approx(parts)
        assert parts.shape[-1] in (1, measure.pixels(sums).shape[-1])


def test_what_tuning_gains_is_the_score_after_less_the_score_before_in_every_class():
    before, after = np.random.default_rng(0).integers(1, 50, (2, 6, 3, 4)).astype(float)
    measure = of_tuning(metrics(Multiclass(("a", "b", "c")))["iou"], "iou")
    sums = np.stack([before, after], axis=1)
    assert measure.average(sums.sum(0)) == pytest.approx(pooled(after) - pooled(before))
    assert measure.parts(sums.sum(0)) == pytest.approx(overlap(after.sum(0)) - overlap(before.sum(0)))
    assert measure.pixels(sums) == pytest.approx(before[..., 0] + before[..., 2])
