"""Weighted sums of terms, and class weights from counts."""

import numpy as np
import pytest
import torch
from losses_cases import batch
from torch.nn import functional as F

from rsseg.contract import InputError
from rsseg.losses import (
    WEIGHTING,
    Boundary,
    Composite,
    CrossEntropy,
    Dice,
    Focal,
    Lovasz,
    Weight,
    effective_number,
    inverse_frequency,
    positive_weight,
    root_inverse_frequency,
)
from rsseg.losses.sums import pixel_sums


def test_composite_sums_weighted_terms_and_reports_all():
    logits, target = batch("binary", 1)
    logits.requires_grad_()
    ce, dice, focal = CrossEntropy("binary"), Dice("binary"), Focal("binary")
    value = Composite({"ce": (0.25, ce), "dice": (2, dice), "focal": (0, focal)})(logits, target)
    torch.testing.assert_close(value.total, 0.25 * ce(logits, target) + 2 * dice(logits, target))
    assert value.raw["focal"] == focal(logits, target)
    assert value.weighted["focal"] == 0
    assert not value.raw["focal"].requires_grad
    assert value.raw["dice"].requires_grad
    assert value.total == sum(value.weighted.values())


@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf"), 0, "1", None, True])
def test_composite_refuses_weights_that_make_no_sense(weight):
    with pytest.raises(InputError, match=r"weight"):
        Composite({"ce": (weight, CrossEntropy("binary"))})


def test_a_weight_is_a_function_of_the_share_of_the_steps():
    steps = 40
    weight = Weight(2.0, start=0.3, ramp=0.25)
    found = [weight.at(step / steps) for step in range(steps)]
    assert found == pytest.approx([2 * min(1, max(0, (step - 12) / 10)) for step in range(steps)])
    late = Weight(3.0, start=0.3)
    for steps in (7, 10, 100, 333, 1000):  # exact: the first step at or after 30 % of them
        first = next(step for step in range(steps) if late.at(step / steps))
        assert first == -(-3 * steps // 10)
    assert Weight(0.5).at(0.0) == Weight(0.5).at(1.0) == 0.5


def test_a_term_that_starts_later_is_valued_without_a_gradient_before():
    logits, target = batch("binary", 1)
    logits.requires_grad_()
    ce, lovasz = CrossEntropy("binary"), Lovasz("binary")
    loss = Composite({"ce": (1, ce), "lovasz": (Weight(0.5, start=0.4), lovasz)})
    assert loss.weights == {"ce": 1, "lovasz": 0.5}
    before, after, validation = loss(logits, target, done=0.39), loss(logits, target, done=0.4), loss(logits, target)
    torch.testing.assert_close(before.total, ce(logits, target))
    assert (before.raw["lovasz"], before.weighted["lovasz"]) == (lovasz(logits, target), 0)
    assert not before.raw["lovasz"].requires_grad
    torch.testing.assert_close(after.total, ce(logits, target) + 0.5 * lovasz(logits, target))
    assert after.total == validation.total


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([Weight(1, start=0.3)], "no term has a weight at the first step"),
        ([Weight(1, start=0.3), Weight(1, ramp=0.5), 0], "no term has a weight at the first step"),
        ([1, Weight(1, start=1.5)], r"start of the term '1'.* from 0 to 1; found 1\.5"),
        ([1, Weight(1, start=1)], "starts when all steps are done"),
        ([1, Weight(1, start=-0.1)], "start of the term"),
        ([1, Weight(1, start="late")], "start of the term"),
        ([1, Weight(1, start=0.6, ramp=0.5)], r"start 0.6 and ramp 0.5"),
        ([1, Weight(-1, start=0.6)], "weight of the term"),
    ],
)
def test_composite_refuses_steps_without_a_weight(weights, message):
    with pytest.raises(InputError, match=message):
        Composite({str(i): (weight, CrossEntropy("binary")) for i, weight in enumerate(weights)})


def test_composite_refuses_what_is_no_term():
    with pytest.raises(InputError, match="there is none"):
        Composite({})
    with pytest.raises(InputError, match=r"nn\.Module"):
        Composite({"ce": (1, F.cross_entropy)})


def test_inverse_frequency():
    assert inverse_frequency([10, 10]) == [1, 1]
    weights = inverse_frequency([600, 300, 100])
    assert np.mean(weights) == pytest.approx(1)
    assert weights[2] / weights[0] == pytest.approx(6)
    weights = inverse_frequency([600, 300, 0])
    assert weights[2] == weights[1]
    assert np.mean(weights[:2]) == pytest.approx(1)
    for counts in ([0, 0], [-1, 2], []):
        with pytest.raises(InputError):
            inverse_frequency(counts)


def test_positive_weight():
    assert positive_weight(971, 100) == pytest.approx(9.71)
    assert positive_weight(971, 0) == 1e3
    assert positive_weight(0, 971) == 1e-3
    with pytest.raises(InputError):
        positive_weight(0, 0)


def test_one_pass_serves_all_terms_that_are_functions_of_sums(monkeypatch):
    calls = []

    def counted(*arguments):
        calls.append(arguments)
        return pixel_sums(*arguments)

    monkeypatch.setattr("rsseg.losses.composite.pixel_sums", counted)
    task = "multiclass"
    logits, target = batch(task, 1)
    terms = {
        "ce": CrossEntropy(task),
        "dice": Dice(task, over="image"),
        "focal": Focal(task),
        "levels": Lovasz(task, bins=32),
        "lovasz": Lovasz(task),
        "boundary": Boundary(task),
        "own": UserTerm(),
    }
    leaf = logits.clone().requires_grad_()
    value = Composite({name: (0.5, term) for name, term in terms.items()})(leaf, target)
    assert len(calls) == 1
    value.total.backward()
    expected = logits.clone().requires_grad_()
    sum(0.5 * term(expected, target) for term in terms.values()).backward()
    torch.testing.assert_close(leaf.grad, expected.grad)
    for name, term in terms.items():
        torch.testing.assert_close(value.raw[name], term(logits, target))


class UserTerm(torch.nn.Module):
    def forward(self, logits, target):
        return logits.square().mean()


def test_labels_are_checked_always_if_asked_for():
    logits, target = torch.randn(1, 3, 2, 2), torch.full((1, 2, 2), 7)
    terms = {"ce": (1, CrossEntropy("multiclass")), "boundary": (1, Boundary("multiclass"))}
    loss = Composite(terms, check_targets=True)
    for _ in range(5):
        with pytest.raises(InputError, match="holds 7"):
            loss(logits, target)


@pytest.mark.parametrize(("task", "squash"), [("multiclass", lambda x: x.softmax(1)), ("binary", torch.sigmoid)])
def test_probabilities_passed_as_logits_are_noticed_once(task, squash, caplog):
    logits, target = batch(task, 1, dtype=torch.float32)
    for _ in range(4):
        CrossEntropy(task)(logits, target)
    assert not caplog.records
    loss = Composite({"ce": (1, CrossEntropy(task))})
    for _ in range(4):
        loss(squash(logits), target)
    assert len(caplog.records) == 2  # the first steps
    assert "takes logits" in caplog.text
    assert "twice" in caplog.text


def test_effective_number_is_the_formula_of_the_paper():
    counts, beta = [5000, 300, 20], 0.999
    raw = np.array([(1 - beta) / (1 - beta**n) for n in counts])
    assert effective_number(counts, beta=beta) == pytest.approx(list(raw / raw.mean()))
    assert effective_number(counts, beta=0) == [1, 1, 1]
    assert effective_number(counts, beta=1 - 1e-12) == pytest.approx(inverse_frequency(counts), rel=1e-6)
    many, mean = effective_number([10**9, 10**8, 10**3]), (10**9 + 10**8 + 10**3) / 3
    assert many[2] / many[1] == pytest.approx((1 - np.exp(-1e8 / mean)) / (1e3 / mean), rel=1e-3)
    with pytest.raises(InputError, match="beta"):
        effective_number(counts, beta=1)


def test_root_inverse_frequency():
    weights = root_inverse_frequency([900, 100, 25])
    assert np.mean(weights) == pytest.approx(1)
    assert weights[1] / weights[0] == pytest.approx(3)
    assert positive_weight(900, 100, root_inverse_frequency) == pytest.approx(3)


@pytest.mark.parametrize("rule", WEIGHTING.values())
def test_every_rule_clips_an_absent_class(rule):
    weights = rule([600, 300, 0])
    assert weights[2] == max(weights[:2])
    assert np.mean(weights[:2]) == pytest.approx(1)


@pytest.mark.parametrize(("start", "ramp"), [(0.8, 0.2), (0.9, 0.1), (0.7, 0.3), (0.0, 1.0)])
def test_a_ramp_may_end_with_the_last_step(start, ramp):
    terms = {"ce": (1.0, CrossEntropy("binary")), "dice": (Weight(1.0, start, ramp), Dice("binary"))}
    assert Composite(terms).weights == {"ce": 1.0, "dice": 1.0}


def test_a_ramp_beyond_the_last_step_is_refused():
    with pytest.raises(InputError, match=r"start 0.8 and ramp 0.5 .*together"):
        Composite({"ce": (1.0, CrossEntropy("binary")), "dice": (Weight(1.0, 0.8, 0.5), Dice("binary"))})


@pytest.mark.parametrize("name", ["train", "keys", "type", "a.b"])
def test_names_that_pytorch_keeps_for_itself_are_refused(name):
    with pytest.raises(InputError, match=f"can't be called '{name}'"):
        Composite({name: (1.0, CrossEntropy("binary"))})


def test_softened_labels_ignore_what_the_terms_ignore():
    logits, target = torch.randn(1, 3, 2, 2, dtype=torch.float64), torch.tensor([[[0, 1], [2, 1]]])
    term = CrossEntropy("multiclass", ignore_index=0)
    value = Composite({"ce": (1.0, term)}, task="multiclass", label_smoothing=0.1)(logits, target).total
    expected = torch.nn.functional.cross_entropy(logits, target, ignore_index=0, label_smoothing=0.1)
    torch.testing.assert_close(value, expected)


def test_softened_labels_need_one_ignore_index_and_a_task():
    terms = {"ce": (1.0, CrossEntropy("binary", ignore_index=7)), "dice": (1.0, Dice("binary"))}
    with pytest.raises(InputError, match=r"need one task and one ignore_index; found \[\('binary', 7\), \('binary', 255\)\]"):
        Composite(terms, task="binary", label_smoothing=0.1)
    with pytest.raises(InputError, match="need labels; found the task ''"):
        Composite({"own": (1.0, UserTerm())}, label_smoothing=0.1)


class Scale(torch.nn.Module):
    """A loss with a parameter."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, logits, target):
        return self.scale * logits.mean()


def test_a_term_that_learns_takes_part_in_every_backward_pass():
    """DistributedDataParallel stops a run in which a parameter gets no gradient."""
    own = Scale()
    composite = Composite({"ce": (1.0, CrossEntropy("binary")), "own": (Weight(1.0, 0.5), own)})
    logits, target = batch("binary")
    logits.requires_grad_()
    composite(logits, target, done=0.0).total.backward()
    assert own.scale.grad == 0


def test_wrong_labels_show_under_label_smoothing():
    composite = Composite({"ce": (1.0, CrossEntropy("binary"))}, task="binary", label_smoothing=0.1)
    with pytest.raises(InputError, match="the target holds 2"):
        composite(torch.zeros(1, 1, 1, 2), torch.tensor([[[0, 2]]]))
