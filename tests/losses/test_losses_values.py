"""Values against formulas written as loops over pixels in NumPy, and against torch where the definitions agree."""

import itertools

import numpy as np
import pytest
import torch
from losses_cases import CHANNELS, CLASSES, WEIGHTS, batch, pixels
from torch.nn import functional as F

from rsseg.contract import IGNORE
from rsseg.losses import (
    MCC,
    BinaryCrossEntropy,
    CrossEntropy,
    Dice,
    Focal,
    FocalTversky,
    Jaccard,
    LogCoshDice,
    Lovasz,
    RegionSize,
    Tversky,
)

TASKS = list(CHANNELS)


def mean_over_classes(found, images, classes, over, of_class, weights=None):
    """Of what `pixels` found, the mean over groups of images of that over classes, of those that have anything to count."""
    means = []
    for group in [None] if over == "batch" else range(images):
        top = bottom = 0.0
        for c in range(len(found)) if isinstance(classes, str) else classes:
            mine = [(p, z, y) for p, z, y, b in found[c] if group in (None, b)]
            if not mine or (classes == "present" and not any(y for _, _, y in mine)):
                continue
            w = 1 if weights is None else weights[c]
            top, bottom = top + w * of_class(mine), bottom + w
        if bottom:
            means.append(top / bottom)
    return np.mean(means) if means else 0.0


def tversky_of_class(alpha, beta, s, gamma=1):
    def of_class(mine):
        tp = sum(p for p, _, y in mine if y)
        fp = sum(p for p, _, y in mine if not y)
        fn = sum(1 - p for p, _, y in mine if y)
        whole = tp + alpha * fp + beta * fn + s
        return max(0.0, 1 - (tp + s) / whole) ** gamma if whole else 0

    return of_class


def lovasz_of_class(task):
    def of_class(mine):
        if task == "multiclass":
            errors = [(1 - p if y else p, y) for p, _, y in mine]
        else:
            errors = [(max(0, 1 - z if y else 1 + z), y) for _, z, y in mine]
        truth = sum(y for _, y in errors)
        loss, before, wrong_others = 0.0, 0.0, 0
        for k, (error, y) in enumerate(sorted(errors, key=lambda e: -e[0]), 1):
            wrong_others += not y
            after = k / (truth + wrong_others)  # the Jaccard loss when the k worst pixels are the wrong ones
            loss, before = loss + error * (after - before), after
        return loss

    return of_class


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("seed", range(3))
def test_overlap_by_hand(task, seed):
    logits, target = batch(task, seed)
    target[target == (1 if seed else 7)] = 0  # an absent class
    if task == "multilabel":
        target[0, 1] = IGNORE  # a plane of its own ignored
    found = pixels(logits, target, task)
    for classes, over in itertools.product(
        ("all", "present", [0], [CHANNELS[task] - 1, 0][: CHANNELS[task]]), ("batch", "image")
    ):
        checks = {Lovasz(task, classes=classes, over=over): lovasz_of_class(task)}
        for s in (0.0, 1.0):
            options = {"smooth": s, "classes": classes, "over": over}
            checks |= {
                Dice(task, **options): tversky_of_class(0.5, 0.5, s / 2),
                Jaccard(task, **options): tversky_of_class(1, 1, s),
                Tversky(task, 0.3, 0.7, **options): tversky_of_class(0.3, 0.7, s),
                **{FocalTversky(task, 0.3, 0.7, g, **options): tversky_of_class(0.3, 0.7, s, g) for g in (0.75, 1.0, 2.0)},
            }
        for term, of_class in checks.items():
            expected = mean_over_classes(found, len(logits), classes, over, of_class)
            tolerance = 1e-9 if isinstance(term, FocalTversky) else 1e-12
            assert term(logits, target).item() == pytest.approx(expected, abs=tolerance), term


@pytest.mark.parametrize("over", ["batch", "image"])
@pytest.mark.parametrize("classes", ["all", [2, 1]])
def test_class_weights_of_overlap_by_hand(over, classes):
    logits, target = batch("multiclass", 1)
    found = pixels(logits, target, "multiclass")
    options = {"over": over, "classes": classes, "class_weights": WEIGHTS}
    for term, of_class in ((Jaccard, tversky_of_class(1, 1, 1)), (Lovasz, lovasz_of_class("multiclass"))):
        expected = mean_over_classes(found, len(logits), classes, over, of_class, WEIGHTS)
        assert term("multiclass", **options)(logits, target).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("gamma", [0, 0.5, 2])
@pytest.mark.parametrize("task", TASKS)
def test_focal_by_hand(task, gamma):
    logits, target = batch(task, 2)
    found = pixels(logits, target, task)
    for alpha in (None, WEIGHTS if task == "multiclass" else 0.25):
        terms = []
        for c, mine in enumerate(found):
            for p, _, y, _ in mine:
                if task == "multiclass" and not y:
                    continue
                p_t = p if y else 1 - p
                a = 1 if alpha is None else alpha[c] if task == "multiclass" else alpha if y else 1 - alpha
                terms.append(-a * (1 - p_t) ** gamma * np.log(p_t))
        assert Focal(task, gamma, alpha)(logits, target).item() == pytest.approx(np.mean(terms), abs=1e-12)


@pytest.mark.parametrize("gamma", [0.1, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_focal_has_a_gradient_where_the_target_is_certain(task, gamma):
    for z in (10.0, 20.0, 50.0, 80.0, 87.5, 100.0, 1000.0):
        logits = torch.tensor([z] if task == "binary" else [-z, z, -z]).view(1, -1, 1, 1).requires_grad_()
        Focal(task, gamma)(logits, torch.ones(1, 1, 1, dtype=torch.long)).backward()
        assert logits.grad.isfinite().all()
        assert logits.grad.abs().max() < 0.1


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_is_that_of_torch(weights, smoothing):
    logits, target = batch("multiclass", 5)
    value = CrossEntropy("multiclass", class_weights=weights, label_smoothing=smoothing)(logits, target)
    w = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    expected = F.cross_entropy(logits, target.long(), w, ignore_index=IGNORE, label_smoothing=smoothing)
    torch.testing.assert_close(value, expected)


def test_class_weights_are_as_exact_as_the_logits():
    logits, target = batch("multiclass", 5)
    weights = [0.1, 0.7, 1.3]  # none of them is a float32
    expected = F.cross_entropy(logits, target.long(), torch.tensor(weights, dtype=torch.float64), ignore_index=IGNORE)
    found = CrossEntropy("multiclass", class_weights=weights)(logits, target)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


def test_binary_cross_entropy_is_that_of_torch():
    logits, target = batch("multilabel", 5)
    keep = target != IGNORE
    w = torch.tensor(WEIGHTS, dtype=torch.float64).view(-1, 1, 1).expand_as(logits)[keep]
    expected = F.binary_cross_entropy_with_logits(logits[keep], target[keep].double(), pos_weight=w)
    for term in (BinaryCrossEntropy, CrossEntropy):
        torch.testing.assert_close(term("multilabel", pos_weight=WEIGHTS)(logits, target), expected)


def test_smoothed_sigmoid_equals_smoothed_softmax_over_two_classes():
    logits, target = batch("binary", 5)
    two = torch.cat([torch.zeros_like(logits), logits], 1)
    smooth = {"label_smoothing": 0.3}
    torch.testing.assert_close(
        CrossEntropy("binary", **smooth)(logits, target), CrossEntropy("multiclass", **smooth)(two, target)
    )


def test_jaccard_and_dice_are_those_of_smp_where_every_class_is_present():
    losses = pytest.importorskip("segmentation_models_pytorch.losses")
    logits, target = batch("multiclass", 5, ignored=0, size=(8, 8))
    torch.testing.assert_close(
        Jaccard("multiclass", smooth=0)(logits, target), losses.JaccardLoss("multiclass", eps=0)(logits, target.long())
    )
    torch.testing.assert_close(
        Dice("multiclass", smooth=2)(logits, target),  # smp's smooth is half of the paper's
        losses.DiceLoss("multiclass", smooth=1, eps=0)(logits, target.long()),
    )
    torch.testing.assert_close(
        Tversky("multiclass", 0.3, 0.7, smooth=0)(logits, target),
        losses.TverskyLoss("multiclass", alpha=0.3, beta=0.7, eps=0)(logits, target.long()),
    )
    torch.testing.assert_close(
        Lovasz("multiclass")(logits.float(), target),
        losses.LovaszLoss("multiclass")(logits.float(), target.long()),
    )


def test_absent_classes_do_not_dilute_the_mean():
    logits, target = batch("multiclass", 4, ignored=0)
    target = torch.ones_like(target)
    one = Jaccard("multiclass", classes=[1])(logits, target)
    assert Jaccard("multiclass", classes="present")(logits, target) == one
    assert Jaccard("multiclass")(logits, target) > one  # absent classes count their false positives
    assert Lovasz("multiclass")(logits, target) == Lovasz("multiclass", classes=[1])(logits, target)
    empty = torch.zeros(1, 1, 2, dtype=torch.long)
    z = torch.tensor([[[[0.5, -3.0]]]])
    assert Lovasz("binary")(z, empty) == 0
    assert Lovasz("binary", classes="all")(z, empty) == 1.5


def test_nothing_divided_by_nothing_is_no_loss():
    logits, target = torch.full((1, 1, 2, 2), -1e4), torch.zeros(1, 2, 2, dtype=torch.uint8)
    assert Dice("binary", smooth=0)(logits, target) == 0
    assert Jaccard("binary", smooth=0, classes="present")(logits, target) == 0


def test_focal_tversky_has_no_gradient_at_a_perfect_overlap():
    logits = torch.full((1, 1, 2, 2), 99.0, requires_grad=True)
    FocalTversky("binary", gamma=0.5)(logits, torch.ones(1, 2, 2, dtype=torch.uint8)).backward()
    assert not logits.grad.any()


def test_the_exact_sort_puts_equal_errors_in_their_order_and_takes_every_bit():
    from rsseg.losses.terms.lovasz import _order

    for seed in range(3):
        errors = torch.rand(50_000, generator=torch.Generator().manual_seed(seed)) ** 8
        errors[::7], errors[::11], errors[5], errors[6] = 0.5, -0.0, 3e38, 1e-40
        assert torch.equal(_order(errors), errors.sort(descending=True, stable=True).indices)


def test_monai_agrees_where_the_definitions_do():
    monai = pytest.importorskip("monai.losses")
    logits, target = batch("multiclass", 5, ignored=0, size=(8, 8))
    labels, options = target.long().unsqueeze(1), {"to_onehot_y": True, "softmax": True, "batch": True}
    nothing = {"smooth_nr": 0, "smooth_dr": 0}
    torch.testing.assert_close(
        Dice("multiclass", smooth=0)(logits, target), monai.DiceLoss(**options, **nothing)(logits, labels)
    )
    torch.testing.assert_close(
        Jaccard("multiclass", smooth=0)(logits, target), monai.DiceLoss(**options, **nothing, jaccard=True)(logits, labels)
    )
    torch.testing.assert_close(
        Tversky("multiclass", 0.3, 0.7, smooth=0)(logits, target),
        monai.TverskyLoss(**options, **nothing, alpha=0.3, beta=0.7)(logits, labels),
    )
    focal = monai.FocalLoss(to_onehot_y=True, use_softmax=True, gamma=2.0)(logits, labels)
    torch.testing.assert_close(Focal("multiclass")(logits.float(), target), CLASSES * focal)  # a mean over classes too


def test_kornia_agrees_where_the_definitions_do():
    kornia = pytest.importorskip("kornia.losses")
    logits, target = batch("multiclass", 5, ignored=0, size=(8, 8))
    theirs = kornia.tversky_loss(logits, target.long(), alpha=0.3, beta=0.7, eps=0)
    mine = Tversky("multiclass", 0.3, 0.7, smooth=0, classes="present", over="image")
    torch.testing.assert_close(mine(logits, target), theirs)
    focal = kornia.focal_loss(logits, target.long(), alpha=None, gamma=2.0, reduction="none")
    torch.testing.assert_close(Focal("multiclass")(logits, target), focal.sum() / target.numel())


def cells(logits, target, task, over):
    """TP, FP, FN, TN of every group and class by hand."""
    found = pixels(logits, target, task)
    for group in [None] if over == "batch" else range(len(logits)):
        for mine in found:
            p = np.array([p for p, _, _, b in mine if group in (None, b)])
            y = np.array([y for _, _, y, b in mine if group in (None, b)], float)
            yield (p * y).sum(), (p * (1 - y)).sum(), ((1 - p) * y).sum(), ((1 - p) * (1 - y)).sum()


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("over", ["batch", "image"])
def test_functions_of_the_confusion_by_hand(task, over):
    logits, target = batch(task, 3, images=3)
    target[1][target[1] == 1] = 0
    mcc, dice, size = [], [], []
    for tp, fp, fn, tn in cells(logits, target, task, over):
        a, d = tp + 0.25, tn + 0.25
        mcc.append(1 - (a * d - fp * fn) / np.sqrt((a + fp) * (a + fn) * (d + fp) * (d + fn)))
        dice.append(np.log(np.cosh(1 - (2 * tp + 1) / (2 * tp + fp + fn + 1))))
        size.append(abs((tp + fp) - (tp + fn)) / (tp + fp + fn + tn))
    terms = (MCC(task, smooth=0.25, over=over), LogCoshDice(task, over=over), RegionSize(task, over=over))
    for term, by_hand in zip(terms, (mcc, dice, size), strict=True):
        assert term(logits, target).item() == pytest.approx(np.mean(by_hand), abs=1e-12)


def test_mcc_is_that_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    logits, target = batch("binary", 9, size=(9, 9), ignored=0)
    expected = metrics.matthews_corrcoef(target.flatten(), (logits > 0).flatten())
    assert MCC("binary", smooth=1e-9)(1e4 * logits, target).item() == pytest.approx(1 - expected, abs=1e-6)


def test_mcc_judges_an_absent_class_and_is_0_where_all_is_right():
    target = torch.zeros(1, 4, 4, dtype=torch.long)
    right, wrong = torch.full((1, 1, 4, 4), -99.0), torch.full((1, 1, 4, 4), -99.0)
    wrong[..., 0] = 99.0
    assert MCC("binary")(right, target) == 0
    assert MCC("binary")(wrong, target) > 0.3
    assert MCC("binary", classes="present")(wrong, target) == 0
    half = torch.tensor([[[[99.0, -99.0]]]])
    assert MCC("binary", smooth=1e-6)(half, torch.tensor([[[0, 1]]])) == pytest.approx(2, abs=1e-4)


@pytest.mark.parametrize("task", TASKS)
def test_terms_of_shares_agree_with_labels_and_vanish_where_the_shares_are_met(task):
    logits, target = batch(task, 9, ignored=0)
    hard = F.one_hot(target.long(), CLASSES).movedim(-1, 1) if task == "multiclass" else target.reshape(logits.shape)
    for term in (MCC(task), LogCoshDice(task), RegionSize(task)):
        torch.testing.assert_close(term(logits, hard.double()), term(logits, target))
        shares = logits.softmax(1) if task == "multiclass" else logits.sigmoid()
        assert term(logits, shares) == pytest.approx(0, abs=1e-12)
