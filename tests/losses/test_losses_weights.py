"""Pixel weights that do not fit, and soft terms with class shares against closed forms and torch."""

import pytest
import torch
from losses_cases import CHANNELS, OF_LABELS, TERMS, batch, value_and_gradient
from torch.nn import functional as F

from rsseg.contract import InputError
from rsseg.losses import MSE, Composite, CrossEntropy, Dice, Focal, FocalTversky, Jaccard, Lovasz, Tversky

every_task = pytest.mark.parametrize("task", CHANNELS)


def shares(logits, task):
    """Probabilities, to the bit as the pass computes them."""
    return logits.log_softmax(1).exp() if task == "multiclass" else logits.sigmoid()


def test_weighted_boundary_and_regression_are_weighted_means():
    prediction, target = torch.tensor([[[[1.0, 3.0, 9.0]]]]), torch.tensor([[[[0.0, 1.0, torch.nan]]]])
    weight = torch.tensor([[[3.0, 1.0, 5.0]]])
    assert MSE()(prediction, target, weight) == (3 * 1 + 1 * 4) / 4
    always = torch.full((1, 1, 1, 3), 99.0)
    value = TERMS["boundary"]("binary")(always, torch.tensor([[[1, 0, 0]]]), torch.tensor([[[1.0, 1.0, 2.0]]]))
    torch.testing.assert_close(value, torch.tensor((-0.5 + 0.5 + 2 * 1.5) / 4))


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.ones(2, 1, 3, 4), r"pixel weights for logits \[2, 1, 3, 4\] are floating-point numbers \[2, 3, 4\]"),
        (torch.ones(2, 3, 4, dtype=torch.uint8), r"found torch.uint8 \[2, 3, 4\]"),
        (torch.full((2, 3, 4), -1.0), "finite numbers of 0 or more; found -1"),
        (torch.full((2, 3, 4), torch.inf), "found inf"),
    ],
)
@pytest.mark.parametrize("name", ["dice", "lovasz", "boundary", "cl_dice"])
def test_wrong_weights_are_refused(name, weight, message):
    logits, target = batch("binary")
    with pytest.raises(InputError, match=message):
        TERMS[name]("binary")(logits, target, weight)


@every_task
def test_a_composite_weighs_all_its_terms(task):
    logits, target = batch(task, 6)
    weight = torch.rand(2, 3, 4, dtype=torch.float64)
    terms = {"ce": CrossEntropy(task), "dice": Dice(task), "lovasz": Lovasz(task)}
    value = Composite({name: (2.0, term) for name, term in terms.items()})(logits, target, weight)
    for name, term in terms.items():
        torch.testing.assert_close(value.raw[name], term(logits, target, weight))


@every_task
@pytest.mark.parametrize("over", ["batch", "image"])
def test_overlap_losses_are_0_where_the_prediction_is_the_shares(task, over):
    """Wang et al. 2023: the product p y of the usual soft Dice has its minimum elsewhere."""
    logits, _ = batch(task, 7)
    target = shares(logits, task)
    for term in (Dice, Jaccard, Tversky, FocalTversky):
        leaf = logits.clone().requires_grad_()
        value = term(task, smooth=0, over=over)(leaf, target)
        value.backward()
        assert abs(value) < 1e-12
        assert leaf.grad.abs().max() < 1e-12
        for seed in range(5):
            elsewhere, _ = batch(task, 100 + seed)
            assert term(task, smooth=0, over=over)(elsewhere, target) > 0.01


@every_task
def test_cross_entropy_of_shares_is_that_of_torch(task):
    logits, _ = batch(task, 8)
    target = shares(batch(task, 9)[0], task)
    found, gradient = value_and_gradient(CrossEntropy(task), logits, target)
    function = F.cross_entropy if task == "multiclass" else F.binary_cross_entropy_with_logits
    expected, by_torch = value_and_gradient(function, logits, target)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient, by_torch)


@every_task
def test_focal_loss_of_shares_is_the_expectation_over_labels(task):
    logits, _ = batch(task, 10)
    target = shares(batch(task, 11)[0], task)
    p = shares(logits, task)
    per_entry = target * (1 - p) ** 2 * p.log()
    if task != "multiclass":
        per_entry = per_entry + (1 - target) * p**2 * (1 - p).log()
    pixels = per_entry.numel() / (per_entry.shape[1] if task == "multiclass" else 1)
    torch.testing.assert_close(Focal(task)(logits, target), -per_entry.sum() / pixels)


@pytest.mark.parametrize(("name", "task"), [case for case in OF_LABELS if TERMS[case[0]](case[1]).soft])
def test_ignored_shares_do_not_count(name, task):
    logits, _ = batch(task, 12, images=1, size=(1, 6))
    target = shares(batch(task, 13, images=1, size=(1, 6))[0], task)
    blind = target.clone()
    blind[..., 4:] = torch.nan
    logits[..., 5] = torch.nan
    term = TERMS[name](task)
    value, gradient = value_and_gradient(term, logits, blind)
    expected, kept = value_and_gradient(term, logits[..., :4], target[..., :4])
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient[..., :4], kept)
    assert not gradient[..., 4:].any()


@pytest.mark.parametrize(
    ("term", "task", "target", "message"),
    [
        (Dice, "multiclass", torch.full((2, 3, 3, 4), 0.5), r"sum to 1.5, but those of exclusive classes sum to 1"),
        (Dice, "binary", torch.full((2, 1, 3, 4), 255.0), r"holds the share 255, but class shares lie from 0 to 1"),
        (Lovasz, "binary", torch.full((2, 1, 3, 4), 0.5), r"Lovasz needs labels; found class shares"),
        (Dice, "binary", torch.full((2, 3, 4), 1.0), r"integer dtype; found torch.float32: use .long\(\)"),
    ],
)
def test_wrong_shares_are_refused(term, task, target, message):
    logits, _ = batch(task)
    with pytest.raises(InputError, match=message):
        term(task)(logits, target)


@every_task
def test_a_smoothed_cross_entropy_of_shares_is_that_of_torch(task):
    logits, _ = batch(task, 14)
    target = shares(batch(task, 15)[0], task)
    found = CrossEntropy(task, label_smoothing=0.1)(logits, target)
    classes = logits.shape[1] if task == "multiclass" else 2
    softened = target * 0.9 + 0.1 / classes
    function = F.cross_entropy if task == "multiclass" else F.binary_cross_entropy_with_logits
    torch.testing.assert_close(found, function(logits, softened))
