import math

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from rsseg.contract import IGNORE
from rsseg.metrics import calibration, calibration_sums
from rsseg.metrics.calibration import CENTRES
from rsseg.metrics.counters import ScoreHistogram
from rsseg.metrics.counters.sums import log_odds
from rsseg.task import Binary, Multiclass, Multilabel

BINARY, SEVERAL = Binary(("a",)), Multiclass(("a", "b", "c"))
LABELS = Multilabel(("a", "b"))


def batch(task, seed=0, n=2, size=40):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, task.channels, size, size, generator=generator)
    shape = logits.shape if task.kind == "multilabel" else (n, size, size)
    target = torch.randint(0, task.labels, shape, generator=generator, dtype=torch.uint8)
    target[torch.rand(target.shape, generator=generator) < 0.2] = IGNORE
    return logits, target


def counted(task, logits, target):
    histogram = ScoreHistogram(task, scenes=3)
    histogram.update(logits, target, torch.tensor([2, 0]))
    return histogram.compute().numpy()


def test_a_score_next_to_an_edge_of_a_bin_is_on_its_own_side():
    edges = torch.from_numpy(CENTRES[1:] - 1 / 16).float()
    logits = torch.stack([edges.nextafter(edges - 1), edges.nextafter(edges + 1)]).view(2, 1, 1, -1)
    found = counted(BINARY, logits, torch.ones(2, 1, 255)).sum(0)[0, 1]
    assert found.tolist() == [1, *[2] * 254, 1]


def test_scenes_are_kept_apart_and_extreme_or_missing_scores_harm_nothing():
    logits, target = batch(BINARY)
    logits[0, 0, 0, :3] = torch.tensor([1e30, -1e30, math.nan])
    target[0, 0, :3] = torch.tensor([1, 0, IGNORE])
    counts = counted(BINARY, logits, target)
    assert counts[1].sum() == 0
    assert counts.sum((1, 2, 3))[[2, 0]].tolist() == (target != IGNORE).sum((1, 2)).tolist()
    assert counts[2, 0, 1, -1] >= 1
    assert counts[2, 0, 0, 0] >= 1


def test_binary_calibration_equals_torchmetrics():
    logits, target = batch(BINARY)
    index = torch.randint(0, 256, logits.shape, generator=torch.Generator().manual_seed(1))
    exact = torch.from_numpy(CENTRES)[index]  # in the middle of their bins nothing is lost
    found = calibration(calibration_sums(counted(BINARY, exact, target), BINARY))
    p = exact.sigmoid().flatten()
    kept = target.flatten() != IGNORE
    assert found["ece"] == pytest.approx(float(binary_calibration_error(p[kept], target.flatten()[kept].long(), 15)), abs=1e-6)
    assert found["brier"] == pytest.approx(brier_score_loss(target.flatten()[kept], p[kept]))
    assert found["nll"] == pytest.approx(log_loss(target.flatten()[kept], p[kept]))
    assert found["class_ece"] == pytest.approx(found["ece"])
    near = calibration(calibration_sums(counted(BINARY, logits, target), BINARY))["ece"]
    p = logits.sigmoid().flatten()
    assert near == pytest.approx(float(binary_calibration_error(p[kept], target.flatten()[kept].long(), 15)), abs=2e-3)


def test_multiclass_calibration_equals_torchmetrics_and_the_formula():
    logits, target = batch(SEVERAL)
    found = calibration(calibration_sums(counted(SEVERAL, logits, target), SEVERAL))
    kept = target != IGNORE
    p, y = logits.softmax(1).movedim(1, -1)[kept], target[kept].long()
    assert found["ece"] == pytest.approx(float(multiclass_calibration_error(p, y, 3, 15)), abs=2e-3)
    one_hot = torch.nn.functional.one_hot(y, 3)
    assert found["brier"] == pytest.approx(float((p - one_hot).square().sum(1).mean()), abs=1e-3)
    assert found["nll"] == pytest.approx(log_loss(y, p.double()), abs=1e-3)
    each = [float(binary_calibration_error(p[:, c], one_hot[:, c], 15)) for c in range(3)]
    assert found["class_ece"] == pytest.approx(np.mean(each), abs=2e-3)


def test_log_odds_are_those_of_softmax():
    logits, _ = batch(SEVERAL)
    torch.testing.assert_close(log_odds(logits).sigmoid(), logits.softmax(1))
    steep = torch.tensor([[40.0, 0.0, -1e4], [7.0, 7.0, -7.0]])
    z = steep.double()
    others = torch.stack([z[:, [1, 2]], z[:, [0, 2]], z[:, [0, 1]]], 1).logsumexp(2)
    torch.testing.assert_close(log_odds(steep).double(), z - others, rtol=1e-5, atol=1e-5)


def test_a_rare_class_counts_in_the_class_wise_error_alone():
    histogram = np.zeros((1, 2, 2, 256))
    histogram[0, 0, 0, 0] = 1e6  # the frequent label: absent, and said to be
    histogram[0, 0, 1, -1] = 1e6
    histogram[0, 1, 1, 128] = 1  # the rare one: there, and said to be so with 0.516
    found = calibration(calibration_sums(histogram, LABELS))
    assert found["ece"] < 1e-5
    assert found["class_ece"] == pytest.approx((1 - 0.5156) / 2, abs=1e-3)


def test_a_label_without_a_labelled_pixel_is_in_no_mean():
    logits, target = batch(LABELS)
    both, one = counted(LABELS, logits, target), counted(LABELS, logits, target)
    one[:, 1] = 0
    for name, value in calibration(calibration_sums(one, LABELS)).items():
        assert value == pytest.approx(calibration(calibration_sums(both[:, :1], BINARY))[name]), name


def test_nothing_labelled_is_nan():
    assert all(math.isnan(value) for value in calibration(calibration_sums(np.zeros((1, 1, 2, 256)), BINARY)).values())
