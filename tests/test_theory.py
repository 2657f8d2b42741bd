import re
from functools import partial
from itertools import product

import numpy as np
import pytest
import theory
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rsseg.contract import InputError
from rsseg.losses import CrossEntropy, Dice

share = st.floats(0.01, 0.99)
populations = st.integers(1, 7).flatmap(lambda n: st.tuples(*[st.lists(share, min_size=n, max_size=n)] * 2))
weight = st.floats(0.1, 2.0)


@settings(deadline=None, max_examples=60)
@given(populations, weight, weight)
def test_the_best_of_all_sets_is_the_one_above_tau(people, alpha, beta):
    mass, posterior = (np.array(x) for x in people)
    assume(np.abs(np.subtract.outer(posterior, posterior))[~np.eye(len(posterior), dtype=bool)].min(initial=1) > 1e-6)
    best = theory.tversky_optimum(mass, posterior, alpha, beta)
    values = []
    for chosen in product([0.0, 1.0], repeat=len(mass)):
        on = np.array(chosen)
        tp, fp, fn = (on * mass * posterior).sum(), (on * mass * (1 - posterior)).sum(), ((1 - on) * mass * posterior).sum()
        values.append(tp / (tp + alpha * fp + beta * fn))
    assert best.value == pytest.approx(max(values), rel=1e-12)
    clear = np.abs(posterior - best.threshold) > 1e-9
    assert ((posterior > best.threshold) == best.chosen)[clear].all()


@given(populations)
def test_dice_and_jaccard_cut_alike(people):
    dice, jaccard = theory.tversky_optimum(*people, 0.5, 0.5), theory.tversky_optimum(*people, 1, 1)
    assert dice.threshold == pytest.approx(theory.dice_threshold(dice.value))
    assert jaccard.threshold == pytest.approx(theory.jaccard_threshold(jaccard.value))
    assert dice.threshold == pytest.approx(jaccard.threshold)
    assert theory.weighted_ce_threshold(theory.iou_optimal_weight(dice.value)) == pytest.approx(dice.threshold)


@given(share, st.floats(0.1, 20))
def test_weighted_cross_entropy_crosses_a_half_at_its_threshold(p, w):
    odds = w * p / (1 - p)  # where w p / q = (1 - p) / (1 - q)
    assume(abs(odds - 1) > 1e-9)
    assert (odds > 1) == (p > theory.weighted_ce_threshold(w))


def test_half_spaces_of_a_square_are_all_but_the_diagonals():
    corners = [(0, 0), (1, 1), (0, 1), (1, 0)]
    assert theory.best_half_space(corners, [1] * 4, [1, 1, 0, 0]) == pytest.approx(2 / 3)  # three corners
    assert theory.best_half_space(corners, [1] * 4, [1, 0, 1, 0]) == pytest.approx(1)


def test_the_numerical_optimum_of_cross_entropy_is_the_posterior():
    mass, posterior = theory.THRESHOLD
    z = theory.numerical_optimum(np.zeros(7), lambda z: theory.expected_focal(mass, posterior, 1 / (1 + np.exp(-z)), 0))
    np.testing.assert_allclose(1 / (1 + np.exp(-z)), posterior, atol=1e-3)


def test_impossible_populations_are_refused():
    for mass, posterior in (([1], [0.5, 0.5]), ([-1, 2], [0.5, 0.5]), ([0, 0], [0.5, 0.5]), ([1], [1.5]), ([1], [np.nan])):
        with pytest.raises(InputError, match="mass"):
            theory.population(mass, posterior)
    with pytest.raises(InputError, match="no type has positives"):
        theory.tversky_optimum([1.0], [0.0], 1, 1)
    with pytest.raises(InputError, match="7 pixels"):
        theory.exact_labels([0.5, 0.5], [0.5, 0.5], 7)


def test_exact_labels_are_exact():
    kind, label = theory.exact_labels(*theory.CAPACITY, 1140)
    for i, (mass, posterior) in enumerate(zip(*theory.CAPACITY, strict=True)):
        assert (kind == i).sum() == round(1000 * mass)
        assert label[kind == i].sum() == round(1000 * mass * posterior)


def test_dice_beats_ce_by_its_threshold_alone_in_a_short_run():
    mass, posterior = [0.8, 0.1, 0.1], [0.0, 0.4, 0.9]  # tau between 0 and .4, so that CE loses the second type
    kind, label = theory.exact_labels(mass, posterior, 100)
    found = {}
    for loss in (CrossEntropy("binary"), Dice("binary", smooth=0)):
        z = theory.train(loss, lambda z: z[kind].view(1, 1, 10, 10), torch.zeros(3), label.view(1, 10, 10), 200,
                  partial(torch.optim.Adam, lr=0.1))  # fmt: skip
        found[type(loss).__name__] = theory.fixed_and_tuned(z[kind].view(1, 1, 10, 10), label.view(1, 10, 10))
    assert found["CrossEntropy"] == pytest.approx({"IoU at 0.5": 9 / 14, "IoU tuned": 13 / 20})
    assert found["Dice"] == pytest.approx({"IoU at 0.5": 13 / 20, "IoU tuned": 13 / 20})


def test_gradients_not_values_say_which_term_leads():
    kind, label = theory.exact_labels(*theory.THRESHOLD, 10_000)
    outcome = theory.zero_logits(kind, label.view(1, 100, 100))
    assert outcome.measured == pytest.approx(outcome.predicted, abs=1e-5)
    known = {"CE value": 0.69, "Dice value": 0.84, "CE gradient norm": 0.383, "Dice gradient norm": 0.053}
    assert outcome.measured == pytest.approx(known, abs=5e-3)


KNOWN = {  # worked out apart from this code: IoU at 0.5 and tuned; pooled and per scene
    ("A", "CE"): (0.3815, 0.4586),
    ("A", "Focal, gamma 2"): (0.3815, 0.4586),
    ("A", "CE, weight 9.71"): (0.3758, 0.4586),
    ("A", "CE, weight 2.18"): (0.4586, 0.4586),
    ("A", "Dice"): (0.4586, 0.4586),
    ("A", "Jaccard"): (0.4586, 0.4586),
    ("A", "Tversky .3 / .7"): (0.4331, None),
    ("A", "Tversky .7 / .3"): (0.4414, None),
    ("A", "CE + Dice"): (0.4414, 0.4586),
    ("B", "CE"): (0.8274, 0.6048),
    ("B", "Jaccard over the batch"): (0.8274, 0.6048),
    ("B", "Jaccard over images"): (0.8252, 0.6541),
    ("C", "CE, Adam .05"): (None, 0.3053),
    ("C", "Focal, Adam .05"): (None, 0.3053),
    ("C", "Dice, Adam .05"): (0.6154, None),
    ("C", "Jaccard, Adam .05"): (0.6154, None),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "experiment", [partial(theory.threshold_experiment, 400), theory.aggregation_experiment, theory.capacity_experiment]
)
def test_the_losses_do_what_theory_predicts(experiment, monkeypatch):
    monkeypatch.setattr(
        theory, "OPTIMIZERS", {"Adam .05": theory.OPTIMIZERS["Adam .05"]}
    )  # there are no predictions of the others
    seen = set()
    for outcome in experiment():
        for quantity, predicted in outcome.predicted.items():
            assert outcome.measured[quantity] == pytest.approx(predicted, abs=1e-3), (outcome.loss, quantity)
        key = (outcome.experiment, outcome.loss)
        for measured, known in zip(outcome.measured.values(), KNOWN.get(key, ()), strict=False):
            assert known is None or measured == pytest.approx(known, abs=1e-3), key
        if "Lovasz" in outcome.loss:  # which is not consistent: what is ambiguous stays so
            assert outcome.measured["types within .02 of 0.5"] == 5
        seen.add(key)
    assert {key for key in KNOWN if key[0] == outcome.experiment} <= seen


def test_the_example_draws_and_ends_with_an_error_where_a_prediction_is_missed(tmp_path, monkeypatch, capsys):
    experiments = theory.threshold_experiment, theory.aggregation_experiment, theory.capacity_experiment
    monkeypatch.setattr(theory, "EXPERIMENTS", dict(zip("ABC", (partial(each, 2) for each in experiments), strict=True)))
    with pytest.raises(SystemExit) as end:
        theory.main(theory.Arguments(out=str(tmp_path / "theory.png")))
    assert end.value.code == 1
    said = capsys.readouterr().out
    assert re.search(r"A  CE and Dice, logits 0 +CE value +0.6931 +0.6931\n", said)
    assert re.search(r"C  Dice, Adam .05 +IoU at 0.5 +0.6154 +0\.\d+  DIFFERS\n", said)
    assert "NOT all predictions met" in said
    assert (tmp_path / "theory.png").stat().st_size > 10_000
