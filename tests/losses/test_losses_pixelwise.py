"""Losses of single pixels, against their formulas in NumPy, and what their papers promise."""

import math

import numpy as np
import pytest
import torch
from losses_cases import CHANNELS, PRIORS, batch, pixels, value_and_gradient
from torch.nn import functional as F

from rsseg.contract import IGNORE, InputError
from rsseg.losses import (
    CrossEntropy,
    Dice,
    GeneralizedCrossEntropy,
    LogitAdjustedCrossEntropy,
    LogitMargin,
    Poly1CrossEntropy,
    SymmetricCrossEntropy,
    TopKCrossEntropy,
)
from rsseg.losses.class_weights import counted_weights
from rsseg.task import Binary, Multiclass, Multilabel

TASKS = list(CHANNELS)
every_task = pytest.mark.parametrize("task", TASKS)


def label_probabilities(logits, target, task):
    """p_t of every valid pixel, of every valid entry for sigmoid tasks."""
    found = []
    for of_class in pixels(logits, target, task):
        found += [p if y else 1 - p for p, _, y, _ in of_class if y or task != "multiclass"]
    return np.array(found)


@every_task
@pytest.mark.parametrize("number", [0.1, 0.7, 1.0])
def test_functions_of_the_label_probability_by_hand(task, number):
    logits, target = batch(task, 4)
    p = label_probabilities(logits, target, task)
    for term, by_hand in (
        (GeneralizedCrossEntropy(task, q=number), (1 - p**number) / number),
        (SymmetricCrossEntropy(task, alpha=number, beta=0.3), -number * np.log(p) - 0.3 * (1 - p) * -4),
        (Poly1CrossEntropy(task, epsilon=number), -np.log(p) + number * (1 - p)),
    ):
        assert term(logits, target).item() == pytest.approx(by_hand.mean(), abs=1e-12)


def test_reverse_cross_entropy_is_the_sum_over_classes():
    logits, target = batch("multiclass", 4, ignored=0)
    labels = F.one_hot(target.long(), 3).movedim(-1, 1).double()
    reverse = -(logits.softmax(1) * torch.where(labels > 0, 0.0, -4.0)).sum(1).mean()
    torch.testing.assert_close(SymmetricCrossEntropy("multiclass", alpha=0, beta=1)(logits, target), reverse)


@every_task
def test_between_cross_entropy_and_absolute_error(task):
    logits, target = batch(task, 6)
    ce = CrossEntropy(task)(logits, target)
    torch.testing.assert_close(GeneralizedCrossEntropy(task, q=1e-7)(logits, target), ce, rtol=1e-5, atol=0)
    error = np.mean(1 - label_probabilities(logits, target, task))
    assert GeneralizedCrossEntropy(task, q=1)(logits, target).item() == pytest.approx(error)
    torch.testing.assert_close(Poly1CrossEntropy(task, epsilon=0)(logits, target), ce)


def test_wrong_labels_pull_less_than_in_cross_entropy():
    logits = torch.tensor([8.0, 0.0]).view(1, 1, 1, 2)  # sure of the first pixel, whose label says otherwise
    target = torch.tensor([[[0, 1]]])
    pulls = []
    for term in (CrossEntropy("binary"), GeneralizedCrossEntropy("binary"), SymmetricCrossEntropy("binary")):
        gradient = value_and_gradient(term, logits, target)[1].flatten().abs()
        pulls.append(gradient[0] / gradient[1])
    assert pulls[0] > 1.9
    assert max(pulls[1:]) < 0.3


@every_task
@pytest.mark.parametrize("fraction", [0.05, 0.5, 0.73, 1.0])
@pytest.mark.parametrize("over", ["batch", "image"])
def test_top_k_by_hand(task, fraction, over):
    logits, target = batch(task, 2, images=3)
    target[1] = IGNORE
    means = []
    for chosen in [[0, 2]] if over == "batch" else [[0], [2]]:
        p = label_probabilities(logits[chosen], target[chosen], task)
        losses = np.sort(-np.log(p))[::-1]
        wanted = fraction * len(losses)
        whole = math.floor(wanted)
        part = (wanted - whole) * losses[whole] if whole < len(losses) else 0
        means.append((losses[:whole].sum() + part) / wanted)
    found = TopKCrossEntropy(task, fraction, over=over)(logits, target)
    assert found.item() == pytest.approx(np.mean(means), abs=1e-12)
    if fraction == 1:
        torch.testing.assert_close(found, CrossEntropy(task, over=over)(logits, target))


@every_task
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equally_hard_pixels_share_the_gradient(task, dtype):
    """Whatever order a sort finds them in: another order of the pixels gives the same loss and each pixel its gradient."""
    logits, target = batch(task, 3, ignored=0.1, size=(8, 8))
    logits = (2 * logits).round().div(2).to(dtype)  # many are equal
    term = TopKCrossEntropy(task, fraction=0.3)
    value, gradient = value_and_gradient(term, logits, target)
    mirrored = value_and_gradient(term, logits.flip(-1, -2), target.flip(-1, -2))
    exact = value_and_gradient(term, logits.double(), target)
    torch.testing.assert_close(mirrored[0], value)
    torch.testing.assert_close(mirrored[1].flip(-1, -2), gradient)
    torch.testing.assert_close(gradient.double(), exact[1], atol=1e-4, rtol=1e-2)


@every_task
def test_easy_pixels_have_no_gradient(task):
    logits, target = batch(task, 2, ignored=0, size=(8, 8))
    gradient = value_and_gradient(TopKCrossEntropy(task, fraction=0.25), logits, target)[1]
    touched = (gradient != 0).any(1) if task == "multiclass" else gradient != 0
    assert touched.double().mean() == 0.25


@every_task
def test_logit_adjustment_is_cross_entropy_of_adjusted_logits(task):
    logits, target = batch(task, 3)
    priors = torch.tensor(PRIORS[: CHANNELS[task]], dtype=torch.float64).view(-1, 1, 1)
    offset = priors.log() if task == "multiclass" else (priors / (1 - priors)).log()
    found = LogitAdjustedCrossEntropy(task, PRIORS[: CHANNELS[task]], tau=1.5)(logits, target)
    torch.testing.assert_close(found, CrossEntropy(task)(logits + 1.5 * offset, target))


def test_a_constant_learns_the_balanced_boundary():
    """Of pixels that look alike, adjusted logits fit the priors: the logits that are left prefer no class."""
    target = torch.tensor([[[0] * 15 + [1] * 4 + [2]]])
    z = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    term = LogitAdjustedCrossEntropy("multiclass", priors=[0.75, 0.2, 0.05])
    optimizer = torch.optim.LBFGS([z], lr=0.5, max_iter=200, tolerance_grad=1e-12)

    def closure():
        optimizer.zero_grad()
        loss = term(z.view(1, 3, 1, 1).expand(1, 3, 1, 20), target)
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(z - z.mean(), torch.zeros_like(z), atol=1e-6, rtol=0)


class Counted:
    def __init__(self, positives, valid):
        self.positives, self.valid = positives, valid


def test_priors_are_counted():
    node = {"_target_": "rsseg.losses.LogitAdjustedCrossEntropy", "priors": "counted", "tau": 1}

    def priors(task, *counts):
        return counted_weights(node, "loss.terms.x", task, Counted(*counts) if counts else None)["priors"]

    classes = Multiclass(("a", "b", "c"))
    assert priors(classes, [60, 30, 10], [100] * 3) == pytest.approx([0.6, 0.3, 0.1])
    assert priors(classes, [60, 40, 0], [100] * 3) == pytest.approx([60 / 140, 40 / 140, 40 / 140])  # as rare as the rarest
    assert priors(Binary(("a",)), [20], [100]) == pytest.approx([0.2])
    labels = Multilabel(("a", "b", "c", "d"))
    assert priors(labels, [20, 0, 100, 0], [100, 100, 100, 0]) == pytest.approx([0.2, 1 / 1001, 1000 / 1001, 0.5])
    for task in (classes, labels, Binary(("a",))):
        LogitAdjustedCrossEntropy(task.kind, priors(task))  # uncounted ones do to check the rest
    with pytest.raises(InputError, match=r"loss\.terms\.x\.priors=count \(did you mean 'counted'"):
        counted_weights({**node, "priors": "count"}, "loss.terms.x", classes, None)


@every_task
@pytest.mark.parametrize("margin", [0.0, 1.0, 10.0])
def test_logit_margin_by_hand(task, margin):
    logits, target = batch(task, 5)
    z = logits.numpy()
    excess = []
    for b, c, i, j in np.ndindex(z.shape):
        label = target[b, c, i, j] if task == "multilabel" else target[b, i, j]
        if label == IGNORE:
            continue
        if task == "multiclass":
            excess.append(max(0, max(z[b, :, i, j]) - z[b, c, i, j] - margin))
        else:
            excess += [max(0, max(0, z[b, c, i, j]) - k - margin) for k in (0, z[b, c, i, j])]
    assert LogitMargin(task, margin)(logits, target).item() == pytest.approx(np.mean(excess), abs=1e-12)


def test_noisy_and_hard_pixels_of_torch_agree():
    """`torch.nn.CrossEntropyLoss` and `torch.topk`, as nnU-Net puts them together."""
    logits, target = batch("multiclass", 5, ignored=0)
    losses = F.cross_entropy(logits, target.long(), reduction="none").flatten()
    expected = losses.topk(len(losses) // 4).values.mean()
    torch.testing.assert_close(TopKCrossEntropy("multiclass", 0.25)(logits, target), expected)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GeneralizedCrossEntropy("binary", q=0), r"q has to be more than 0; found 0"),
        (lambda: GeneralizedCrossEntropy("binary", q=1.5), r"q has to be a number from 0 to 1; found 1.5"),
        (lambda: SymmetricCrossEntropy("binary", alpha=-1), r"alpha.*found -1"),
        (lambda: Poly1CrossEntropy("binary", epsilon=-1.5), r"epsilon.*-1 or more; found -1.5"),
        (lambda: TopKCrossEntropy("binary", fraction=0), r"fraction has to be more than 0"),
        (lambda: TopKCrossEntropy("binary", fraction=10), r"fraction.*from 0 to 1; found 10"),
        (lambda: LogitAdjustedCrossEntropy("binary", priors=None), r"priors.*found None"),
        (lambda: LogitAdjustedCrossEntropy("multiclass", priors=[0.5, 0.5, 0]), r"priors.*above 0"),
        (lambda: LogitAdjustedCrossEntropy("binary", priors=[1]), r"priors.*below 1"),
        (lambda: LogitMargin("binary", margin=-1), r"margin.*found -1"),
        (lambda: TopKCrossEntropy("regression"), r"fits the tasks"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(build, message):
    with pytest.raises(InputError, match=message):
        build()


def test_lengths_and_shares_are_checked_at_the_first_logits():
    logits, target = batch("multiclass", 5)
    with pytest.raises(InputError, match=r"priors needs one number per class, 3 for these logits; found 2"):
        LogitAdjustedCrossEntropy("multiclass", [0.5, 0.5])(logits, target)
    shares = logits.softmax(1)
    for term in (TopKCrossEntropy("multiclass"), LogitMargin("multiclass"), SymmetricCrossEntropy("multiclass")):
        with pytest.raises(InputError, match="needs labels; found class shares"):
            term(logits, shares)
    hard = F.one_hot(target.clamp(max=2).long(), 3).movedim(-1, 1).double()
    for term in (GeneralizedCrossEntropy("multiclass"), LogitAdjustedCrossEntropy("multiclass", PRIORS), Dice("multiclass")):
        torch.testing.assert_close(term(logits, hard), term(logits, target.clamp(max=2)))


@pytest.mark.parametrize("rule", ["inverse_frequency", "root_inverse_frequency", "effective_number"])
@pytest.mark.parametrize("cap", [1, 2.5, 1e9])
def test_counted_weights_are_capped(rule, cap):
    """The heaviest class weighs at most `cap` times the lightest; the order and the mean of the weights stay."""
    node = {"_target_": "rsseg.losses.CrossEntropy", "class_weights": rule}

    def counted(task, cap, *counts):
        found = counted_weights(node | {"class_weights_cap": cap}, "loss.terms.ce", task, Counted(*counts))
        assert "class_weights_cap" not in found
        return np.array(found["class_weights" if task.exclusive else "pos_weight"])

    classes, counts = Multiclass(("a", "b", "c", "d")), ([900_000, 90_000, 1_000, 0], [991_000] * 4)
    free, capped = counted(classes, None, *counts), counted(classes, cap, *counts)
    assert capped.mean() == pytest.approx(free.mean())
    assert capped.max() <= cap * capped.min() * (1 + 1e-12)
    assert (np.diff(capped[[0, 1, 2, 3]]) >= -1e-12).all()
    if free.max() <= cap * free.min():
        np.testing.assert_allclose(capped, free)
    else:
        assert capped.max() == pytest.approx(cap * capped.min())
    labels, counts = Multilabel(("a", "b", "c")), ([10, 990, 0], [1000, 1000, 1000])
    np.testing.assert_allclose(counted(labels, cap, *counts), np.clip(counted(labels, None, *counts), 1 / cap, cap))


def test_a_cap_of_nothing_is_refused():
    node = {"_target_": "rsseg.losses.CrossEntropy"}
    for extra, text in (
        (
            {"class_weights": "inverse_frequency", "class_weights_cap": 0.5},
            "class_weights_cap has to be a number of 1 or more; found 0.5",
        ),
        ({"class_weights": [1, 2], "class_weights_cap": 2}, "class_weights_cap=2 caps counted weights"),
    ):
        with pytest.raises(InputError, match=rf"loss\.terms\.ce\.{text}"):
            counted_weights(node | extra, "loss.terms.ce", Multiclass(("a", "b")), Counted([1, 2], [3, 3]))


def test_weights_are_given_by_class_names():
    node, task = {"_target_": "rsseg.losses.CrossEntropy"}, Multiclass(("land", "water", "road"))
    found = counted_weights(node | {"class_weights": {"road": 3, "land": 0.5}}, "loss.terms.ce", task, None)
    assert found["class_weights"] == [0.5, 1.0, 3]
    assert counted_weights(node | {"class_weights": None}, "loss.terms.ce", task, None)["class_weights"] is None
    assert (
        counted_weights(node | {"pos_weight": "many"}, "loss.terms.ce", task, None)["pos_weight"] == "many"
    )  # the term's fault
    with pytest.raises(InputError, match=r"ce\.class_weights: there is no class roads .*: the classes are land, water"):
        counted_weights(node | {"class_weights": {"roads": 3}}, "loss.terms.ce", task, None)
    with pytest.raises(InputError, match=r"ce\.class_weights=\[1, 3\]: a number for each of the 3 classes land, water, road"):
        counted_weights(node | {"class_weights": [1, 3]}, "loss.terms.ce", task, None)
