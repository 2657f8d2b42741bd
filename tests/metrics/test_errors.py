"""Errors of real values against scikit-learn and NumPy, pooled and per scene."""

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

from rsseg.metrics import Scores
from rsseg.metrics.counters import ErrorSums
from rsseg.task import Regression

TASK = Regression(("height", "slope"), mean=(2000.0, -3.0), std=(5.0, 0.5))


def batches(seed, known=0.8):
    """Predictions and targets in their units ``[B, V, H, W]``, some of them unknown, and scenes."""
    rng = np.random.default_rng(seed)
    mean, std = (np.array(numbers).reshape(1, 2, 1, 1) for numbers in (TASK.mean, TASK.std))
    target = rng.normal(mean, std, (6, 2, 8, 9))
    prediction = target + rng.normal(0.3, 1, target.shape)
    target[rng.random(target.shape) > known] = np.nan
    return torch.from_numpy(prediction), torch.from_numpy(target), torch.tensor([0, 2, 0, 1, 2, 2])


def summed(prediction, target, scene):
    sums = ErrorSums(TASK, scenes=3)
    for part in (slice(0, 2), slice(2, 6)):
        sums.update(TASK.standardise(prediction[part]), TASK.standardise(target[part]), scene[part])
    return sums.compute()


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_other_libraries(seed):
    prediction, target, scene = batches(seed)
    found = Scores(summed(prediction, target, scene), TASK)
    expected = {name: [] for name in ("rmse", "mae", "r2", "bias")}
    for v in range(2):
        known = ~target[:, v].isnan()
        y, p = target[:, v][known].numpy(), prediction[:, v][known].numpy()
        expected["rmse"].append(mean_squared_error(y, p) ** 0.5)
        expected["mae"].append(mean_absolute_error(y, p))
        expected["r2"].append(r2_score(y, p))
        expected["bias"].append((p - y).mean())
    for name, values in expected.items():
        assert found.means()[name] == pytest.approx(np.mean(values), rel=1e-9)
        assert [row[name] for row in found.table()[:3]] == pytest.approx([*values, np.mean(values)], rel=1e-9)
    of_scenes = []
    for s in range(3):
        errors = (prediction - target)[scene == s].square().nanmean(dim=(0, 2, 3)).sqrt()
        of_scenes.append(float(errors.mean()))
    assert found["scene_rmse"] == pytest.approx(np.mean(of_scenes), rel=1e-9)
    assert found.table()[0]["pixels"] == int((~target[:, 0].isnan()).sum())


def test_sums_for_apples_gpus_are_float32(monkeypatch):
    """They have no float64."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    prediction, target, scene = batches(0)
    found = summed(prediction, target, scene)
    assert found.dtype == torch.float32
    y, error = target.numpy(), np.where(target.isnan(), np.nan, prediction - target)
    parts = (1 + 0 * error, error, abs(error), error**2, y, y**2)
    for s in range(3):
        expected = np.stack([np.nansum(part[scene == s], axis=(0, 2, 3)) for part in parts], axis=-1)
        np.testing.assert_allclose(found[s], expected, rtol=1e-6)


def test_what_is_not_known_is_nan_and_left_out():
    prediction, target, scene = batches(0)
    target[:, 1] = torch.nan
    found = Scores(summed(prediction, target, scene), TASK)
    assert np.isnan(found.table()[1]["rmse"])
    assert found["rmse"] == found.table()[0]["rmse"]
    assert found.table()[1]["pixels"] == 0


def test_a_constant_target_has_no_r2():
    flat = torch.full((1, 2, 2, 2), 7.0, dtype=torch.float64)
    found = Scores(summed(flat + 1, flat, torch.tensor([0])), TASK)
    assert found["rmse"] == pytest.approx(1)
    assert np.isnan(found["r2"])


def test_nan_in_a_prediction_shows_where_the_target_is_known():
    prediction, target, scene = batches(0)
    hidden = prediction.masked_fill(target.isnan(), torch.nan)
    assert Scores(summed(hidden, target, scene), TASK).means() == Scores(summed(prediction, target, scene), TASK).means()
    prediction[~target.isnan()] = torch.nan
    assert np.isnan(Scores(summed(prediction, target, scene), TASK)["rmse"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_values_are_scaled_in_float32_or_better(dtype):
    standard = torch.tensor([[[[1.0]], [[-2.0]]]], dtype=dtype)
    values = TASK.predict(standard)
    assert values.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert values.flatten().tolist() == [2005.0, -4.0]
    torch.testing.assert_close(TASK.standardise(values).to(dtype), standard)
