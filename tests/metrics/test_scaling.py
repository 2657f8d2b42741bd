"""Scaling of logits: against closed forms, a simulation with a known temperature, and another library."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss as sklearn_log_loss

from rsseg.contract import InputError
from rsseg.metrics import SampledLogits
from rsseg.metrics.scaling import calibration_error, fit, log_loss, scale_sample, scaling_facts
from rsseg.task import Binary, Multiclass, Multilabel

ROAD, THREE, BOTH = Binary(("road",)), Multiclass(("a", "b", "c")), Multilabel(("x", "y"))


def sample(z, y, plane=None, scene=None, weight=None):
    z, y = np.atleast_2d(np.asarray(z, np.float32)), np.asarray(y)
    zeros = np.zeros(len(y), int)
    return SampledLogits(
        z,
        y,
        zeros if plane is None else plane,
        zeros if scene is None else scene,
        np.ones(len(y)) if weight is None else weight,
    )


def column(z, y, **more):
    return sample(np.asarray(z)[:, None], y, **more)


def simulated(number=20_000, factor=2.5, seed=0, task=THREE):
    """Logits that are `factor` times what labels are drawn by."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 1.5, (number, task.channels))
    y = (z + rng.gumbel(size=z.shape)).argmax(1) if task.exclusive else (rng.random(number) < expit(z[:, 0])).astype(int)
    return sample(factor * z, y, scene=np.arange(number) % 8)


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (3, 3, 3, 1), (0.5, 2, 2, 4)])
def test_one_logit_has_a_closed_form(weights):
    """All pixels have logit 2: the best probability is the weighted share of positives."""
    found = fit(column([2.0] * 4, [1, 1, 1, 0], weight=np.array(weights)), ROAD)
    share = sum(weights[:3]) / sum(weights)
    assert expit(2 * found.scale[0]) == pytest.approx(share, abs=1e-6)
    assert found.shift[0] == 0


@pytest.mark.parametrize("task", [ROAD, THREE])
@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_a_known_temperature_is_found(task, factor):
    drawn = simulated(factor=factor, task=task)
    found = fit(drawn, task)
    assert found.scale == pytest.approx(np.full(task.channels, 1 / factor), rel=0.05)
    assert not any(found.shift)


def test_vector_scaling_is_found_and_multinomial():
    """A factor and a summand of each class, known but for a summand of all."""
    rng = np.random.default_rng(1)
    z = rng.normal(0, 2, (40_000, 3))
    scale, shift = np.array([0.5, 1.0, 2.0]), np.array([-1.0, 0.0, 1.0])
    y = (z * scale + shift + rng.gumbel(size=z.shape)).argmax(1)
    found = fit(sample(z, y), THREE, "vector")
    assert found.scale == pytest.approx(scale, abs=0.05)
    assert found.shift == pytest.approx(shift, abs=0.05)


def test_platt_scaling_is_weighted_logistic_regression():
    drawn = simulated(3000, task=ROAD)
    weight = np.random.default_rng(2).uniform(0.2, 5, 3000)
    found = fit(drawn._replace(weight=weight), ROAD, "vector")
    other = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(
        drawn.logits.astype(float), drawn.target, sample_weight=weight
    )
    assert found.scale == pytest.approx(other.coef_[0], rel=1e-4)
    assert found.shift == pytest.approx(other.intercept_, abs=1e-4)


def test_no_neighbour_of_a_fit_is_better():
    drawn = simulated(4000, task=THREE)
    for kind in ("temperature", "vector"):
        found = fit(drawn, THREE, kind)
        least = log_loss(scale_sample(drawn, found, THREE), THREE)
        for step in (-0.01, 0.01):
            moved = replace(found, scale=tuple(scale + step for scale in found.scale))
            assert log_loss(scale_sample(drawn, moved, THREE), THREE) > least


def test_labels_are_scaled_each_by_itself():
    one, other = simulated(3000, 2.0, 1, ROAD), simulated(3000, 0.5, 2, ROAD)
    both = SampledLogits(*(np.concatenate(pair) for pair in zip(one, other, strict=True)))
    both = both._replace(plane=np.repeat([0, 1], 3000))
    for kind in ("temperature", "vector"):
        found = fit(both, BOTH, kind)
        alone = [fit(each, ROAD, kind) for each in (one, other)]
        assert found.scale == pytest.approx([each.scale[0] for each in alone])
        assert found.shift == pytest.approx([each.shift[0] for each in alone])
    assert log_loss(both, BOTH) == pytest.approx(np.mean([log_loss(one, ROAD), log_loss(other, ROAD)]))


@pytest.mark.parametrize("kind", ["temperature", "vector"])
def test_what_logits_separate_stays_within_bounds(kind):
    apart = column([-3.0, -1.0, 1.0, 3.0], [0, 0, 1, 1])
    found = fit(apart, ROAD, kind)
    assert found.scale[0] == pytest.approx(20)
    wrong = fit(apart._replace(target=1 - apart.target), ROAD)  # every pixel is wrong
    assert wrong.scale[0] == pytest.approx(0.05)
    three = fit(sample(50 * np.eye(3), [0, 1, 2]), THREE, kind)
    assert np.isfinite(three.scale).all()
    assert np.isfinite(three.shift).all()


def test_a_class_without_pixels_is_not_moved_against_the_others():
    drawn = simulated(4000)
    two = SampledLogits(*(column[drawn.target != 2] for column in drawn))
    found = fit(two, THREE, "vector")
    assert found.shift[2] == 0
    assert sum(found.shift[:2]) == pytest.approx(0)
    assert found.scale[2] == pytest.approx(fit(two, THREE).scale[2])
    one = column([1.0, 2.0], [1, 1])
    alone = fit(one, ROAD, "vector")
    assert (alone.scale, alone.shift) == ((1,), (0,))


def test_scores_of_a_sample_are_another_library_s():
    drawn = simulated(2000)
    weight = np.random.default_rng(3).uniform(1, 3, 2000)
    drawn = drawn._replace(weight=weight)
    p = softmax(drawn.logits.astype(float), axis=1)
    assert log_loss(drawn, THREE) == pytest.approx(sklearn_log_loss(drawn.target, p, sample_weight=weight))
    total, confidence, right = 0.0, p.max(1), p.argmax(1) == drawn.target
    for low in np.arange(15) / 15:
        here = (confidence >= low) & (confidence < low + 1 / 15)
        total += abs((weight[here] * (confidence[here] - right[here])).sum())
    assert calibration_error(drawn, THREE) == pytest.approx(total / weight.sum())


def test_what_a_scaling_is_worth_is_counted_on_the_other_half():
    drawn, first = simulated(8000, 3.0), np.arange(8) < 4
    facts = scaling_facts(drawn, THREE, 40, first)["temperature"]
    in_first = first[drawn.scene]
    halves = [SampledLogits(*(column[where] for column in drawn)) for where in (in_first, ~in_first)]
    crossed = [scale_sample(b, fit(a, THREE), THREE) for a, b in (halves, halves[::-1])]
    assert facts["nll_after"] == pytest.approx(np.mean([log_loss(half, THREE) for half in crossed]))
    assert facts["nll_before"] == pytest.approx(log_loss(drawn, THREE))
    assert facts["ece_after"] < 0.02 < facts["ece_before"]
    assert facts["step"] == 40
    alone = scaling_facts(drawn, THREE, 40, np.ones(8, bool))["vector"]
    assert np.isnan([alone[key] for key in ("nll_before", "nll_after", "ece_before", "ece_after")]).all()


def test_a_diverged_run_has_no_scaling():
    with pytest.raises(InputError, match="diverged"):
        fit(column([1.0, np.nan], [0, 1]), ROAD)
