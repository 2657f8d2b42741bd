"""What is refused, and whether the message names the culprit and the way out."""

import re

import pytest
import torch

from rsseg.contract import InputError
from rsseg.losses import BinaryCrossEntropy, CrossEntropy, Dice, Focal, Jaccard, Lovasz, Tversky

LABELS = torch.zeros(2, 4, 6, dtype=torch.long)
PLANES = torch.zeros(2, 3, 4, 6, dtype=torch.long)
ONE, THREE = torch.zeros(2, 1, 4, 6), torch.zeros(2, 3, 4, 6)


@pytest.mark.parametrize(
    ("task", "logits", "target", "message"),
    [
        ("multiclass", THREE, LABELS + 7, r"holds 7, but 3 classes are numbered 0..2 \(ignored: 255\)"),
        ("multiclass", THREE, LABELS - 1, r"holds -1"),
        ("multiclass", THREE, LABELS + 3, r"holds 3"),
        ("binary", ONE, LABELS + 7, r"holds 7.*0 and 1"),
        ("multilabel", THREE, PLANES + 2, r"holds 2.*0 and 1"),
        ("multiclass", THREE, PLANES, r"one-hot.*argmax\(1\)"),
        ("multiclass", THREE, PLANES.movedim(1, -1), r"one-hot.*argmax\(-1\)"),
        ("multiclass", THREE, LABELS.mT, r"swapped.*transpose"),
        ("multilabel", THREE, PLANES.mT, r"swapped.*transpose"),
        ("binary", ONE, LABELS.unsqueeze(1), r"squeeze\(1\)"),
        ("multiclass", THREE, LABELS.unsqueeze(1), r"squeeze\(1\)"),
        ("multilabel", THREE, LABELS, r"one plane .* per label"),
        ("multiclass", THREE, LABELS[:1], r"\[2, 4, 6\]; found \[1, 4, 6\]"),
        ("multiclass", THREE, LABELS.float(), r"integer dtype.*float32.*long"),
        ("multiclass", ONE, LABELS, r"two classes or more.*task=binary"),
        ("binary", THREE, LABELS, r"one class.*found 3"),
        ("multiclass", THREE[0], LABELS, r"\[B, C, H, W\].*\[3, 4, 6\]"),
        ("multiclass", THREE.long(), LABELS, r"floating-point logits"),
    ],
)
@pytest.mark.parametrize("term", [CrossEntropy, Dice, Lovasz, Focal])
def test_wrong_targets_are_refused(term, task, logits, target, message):
    with pytest.raises(InputError, match=message):
        term(task)(logits, target)


def test_255_without_ignoring_it_names_the_way_out():
    with pytest.raises(InputError, match=r"255.*target > 0"):
        Dice("binary", ignore_index=-1)(ONE, LABELS + 255)
    assert Dice("binary")(ONE, LABELS + 255) == 0  # 255 is ignored


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int16, torch.int32, torch.int64])
def test_integer_targets_are_accepted(dtype):
    assert CrossEntropy("multiclass")(THREE, LABELS.to(dtype)) == pytest.approx(1.0986, abs=1e-4)


def test_values_are_read_in_the_first_calls_only():
    term = Dice("multiclass")
    for _ in range(2):
        with pytest.raises(InputError):
            term(THREE, LABELS + 7)
    assert term(THREE, LABELS + 7).isfinite()
    with pytest.raises(InputError):
        term(THREE, PLANES)  # shapes are always looked at


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Dice("regression"), r"Dice fits the tasks binary, multiclass, multilabel; found 'regression'"),
        (lambda: Dice("multiclas"), r"did you mean 'multiclass'"),
        (lambda: BinaryCrossEntropy("multiclass"), r"BinaryCrossEntropy fits the tasks binary, multilabel"),
        (lambda: CrossEntropy("binary", class_weights=[1, 2]), r"use pos_weight"),
        (lambda: CrossEntropy("multiclass", pos_weight=[1, 2]), r"use class_weights"),
        (lambda: CrossEntropy("multiclass", class_weights=[1, -2]), r"class_weights\[1\].*0 or more; found -2"),
        (lambda: CrossEntropy("multiclass", class_weights=[1, float("nan")]), r"class_weights\[1\].*nan"),
        (lambda: CrossEntropy("multiclass", class_weights=[0, 0]), r"0 for every class"),
        (lambda: CrossEntropy("multiclass", class_weights="inverse"), r"list with one number.*'inverse'"),
        (lambda: CrossEntropy("multiclass", class_weights=3), r"list with one number"),
        (lambda: CrossEntropy("multiclass", class_weights=[]), r"list with one number"),
        (lambda: CrossEntropy("multiclass", label_smoothing=1.5), r"label_smoothing.*from 0 to 1; found 1.5"),
        (lambda: BinaryCrossEntropy("binary", pos_weight=-1), r"pos_weight"),
        (lambda: BinaryCrossEntropy("binary", pos_weight="auto"), r"pos_weight has to be a number, or a list"),
        (lambda: Focal("binary", gamma=-1), r"gamma has to be a number of 0 or more; found -1"),
        (lambda: Focal("binary", gamma="2"), r"gamma.*found '2'"),
        (lambda: Focal("binary", gamma=float("nan")), r"gamma.*nan"),
        (lambda: Focal("binary", alpha=1.5), r"alpha.*from 0 to 1"),
        (lambda: Focal("binary", alpha=[0.5]), r"alpha.*from 0 to 1; found \[0.5\]"),
        (lambda: Focal("multiclass", alpha=0.25), r"alpha.*list with one number per class; found 0.25"),
        (lambda: Dice("binary", smooth=-1), r"smooth"),
        (lambda: Dice("binary", smooth=True), r"smooth"),
        (lambda: Dice("binary", smooth=float("inf")), r"smooth"),
        (lambda: Jaccard("binary", over="batches"), r"over has to be batch or image; found 'batches'"),
        (lambda: Jaccard("binary", over=["batch"]), r"over has to be batch or image"),
        (lambda: Tversky("binary", alpha=-0.1), r"alpha"),
        (lambda: Tversky("binary", beta=None), r"beta.*None"),
        (lambda: Lovasz("multiclass", classes="some"), r"classes.*'some'"),
        (lambda: Lovasz("multiclass", classes=[0, -1]), r"classes"),
        (lambda: Lovasz("multiclass", classes=[0.0]), r"classes"),
        (lambda: Lovasz("multiclass", classes=[]), r"classes"),
        (lambda: Lovasz("multiclass", classes=[1, 1]), r"different class numbers; found \[1, 1\]"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(build, message):
    with pytest.raises(InputError, match=message) as caught:
        build()
    assert not re.search("\n", str(caught.value))


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (CrossEntropy("multiclass", class_weights=[1, 2]), r"class_weights.*3 for these logits; found 2"),
        (CrossEntropy("multilabel", pos_weight=[1, 2]), r"pos_weight.*found 2"),
        (Focal("multiclass", alpha=[1, 2, 3, 4]), r"alpha.*found 4"),
        (Dice("multiclass", class_weights=[1, 2]), r"class_weights.*found 2"),
        (Dice("multiclass", classes=[0, 3]), r"classes lists 3, but 3 classes are numbered 0..2"),
        (Lovasz("multilabel", classes=[5]), r"classes lists 5"),
    ],
)
def test_lengths_are_checked_at_the_first_logits(term, message):
    with pytest.raises(InputError, match=message):
        term(THREE, PLANES if term.task == "multilabel" else LABELS)


@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_a_mask_of_0_and_255_is_noticed(task, caplog):
    planes = (1,) if task == "multilabel" else ()
    target = torch.zeros(1, *planes, 4, 4, dtype=torch.uint8)
    Dice(task)(torch.zeros(1, 1, 4, 4), target)
    target[..., 0] = 255
    target[..., 1, 1] = 1
    Dice(task)(torch.zeros(1, 1, 4, 4), target)
    assert not caplog.text
    target[..., 1, 1] = 0
    Dice(task)(torch.zeros(1, 1, 4, 4), target)
    assert "pass (target > 0)" in caplog.text
