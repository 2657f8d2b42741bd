"""Every score against scikit-learn and torchmetrics, in float64."""

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    cohen_kappa_score,
    fbeta_score,
    jaccard_score,
    precision_score,
    recall_score,
)
from torchmetrics.functional.classification import (
    binary_cohen_kappa,
    multiclass_cohen_kappa,
    multiclass_fbeta_score,
    multilabel_f1_score,
)

from rsseg.contract import InputError
from rsseg.metrics import Scores, metrics
from rsseg.metrics.scores import CLASS_SCORES, SUMS, TVERSKY, no_metric
from rsseg.task import TASKS, Binary, Multiclass, Multilabel

NAMES = ("sea", "forest", "field", "road")
REFERENCE = {
    "iou": jaccard_score,
    "dice": lambda *given, **how: fbeta_score(*given, beta=1, **how),
    "precision": precision_score,
    "recall": recall_score,
    "f0.5": lambda *given, **how: fbeta_score(*given, beta=0.5, **how),
    "f2": lambda *given, **how: fbeta_score(*given, beta=2, **how),
}


def labels(seed=0, classes=4, scenes=3, pixels=400):
    """What is there and what is predicted, ``[scenes, pixels]``; "road" is rare, and in the first scene alone."""
    rng = np.random.default_rng(seed)
    true = rng.choice(classes, (scenes, pixels), p=[0.5, 0.3, 0.15, 0.05][:classes] if classes == 4 else None)
    true[1:][true[1:] == 3] = 0
    guess = np.where(rng.random(true.shape) < 0.6, true, rng.integers(0, classes, true.shape))
    return true, guess


def matrices(true, guess, size):
    """Confusion matrices ``[scenes, 1, size, size]``, counted pixel by pixel."""
    found = np.zeros((len(true), 1, size, size), dtype=np.int64)
    for scene, (t, g) in enumerate(zip(true, guess, strict=True)):
        np.add.at(found[scene, 0], (t, g), 1)
    return torch.from_numpy(found)


@pytest.mark.parametrize("name", TVERSKY)
def test_multiclass_scores_equal_scikit_learn(name):
    true, guess = labels()
    found, reference = Scores(matrices(true, guess, 4), Multiclass(NAMES)), REFERENCE[name]
    flat, how = (true.ravel(), guess.ravel()), {"zero_division": 0}
    assert [found[f"{name}/{c}"] for c in NAMES] == pytest.approx(reference(*flat, average=None, **how), rel=1e-12)
    assert found[name] == pytest.approx(reference(*flat, average="macro", **how), rel=1e-12)
    for average in ("micro", "weighted"):
        assert found[f"{name}_{average}"] == pytest.approx(reference(*flat, average=average, **how), rel=1e-12)
        each = [reference(t, g, average=average, **how) for t, g in zip(true, guess, strict=True)]
        assert found[f"scene_{name}_{average}"] == pytest.approx(np.mean(each), rel=1e-12)
    each = [reference(t, g, average="macro", labels=np.unique(t), **how) for t, g in zip(true, guess, strict=True)]
    assert found[f"scene_{name}"] == pytest.approx(np.mean(each), rel=1e-12)
    first = reference(true[0], guess[0], average=None, **how)[3]
    assert found[f"scene_{name}/road"] == pytest.approx(first, rel=1e-12)  # the other scenes hold none: NaN, and left out


def test_multiclass_matrix_scores_equal_scikit_learn():
    true, guess = labels()
    flat, found = (true.ravel(), guess.ravel()), Scores(matrices(true, guess, 4), Multiclass(NAMES))
    assert found["kappa"] == pytest.approx(cohen_kappa_score(*flat), rel=1e-12)
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(*flat), rel=1e-12)
    assert found["accuracy"] == pytest.approx(accuracy_score(*flat), rel=1e-12)
    for c, name in enumerate(NAMES):  # of a class: against the rest
        one = (flat[0] == c, flat[1] == c)
        assert found[f"kappa/{name}"] == pytest.approx(cohen_kappa_score(*one), rel=1e-12)
        assert found[f"balanced_accuracy/{name}"] == pytest.approx(balanced_accuracy_score(*one), rel=1e-12)
    tensors = tuple(torch.from_numpy(x) for x in (guess.ravel(), true.ravel()))
    assert found["kappa"] == pytest.approx(multiclass_cohen_kappa(*tensors, num_classes=4).item(), rel=1e-5)  # it is float32
    assert found["f2"] == pytest.approx(multiclass_fbeta_score(*tensors, beta=2.0, num_classes=4).item(), rel=1e-5)


def test_labels_that_are_independent_equal_scikit_learn():
    """Binary is the case of one label. Accuracy is of all labels together, all else is a mean over labels."""
    pairs = [labels(seed, classes=2) for seed in (1, 2, 3)]
    many = torch.cat([matrices(*pair, 2) for pair in pairs], dim=1)
    found = Scores(many, Multilabel(("a", "b", "c")))
    flat = [(true.ravel(), guess.ravel()) for true, guess in pairs]
    both = tuple(np.stack(side, axis=1) for side in zip(*flat, strict=True))  # [pixels, labels]
    for name, reference in REFERENCE.items():
        for suffix, average in (("", "macro"), ("_micro", "micro"), ("_weighted", "weighted")):
            assert found[name + suffix] == pytest.approx(reference(*both, average=average), rel=1e-12), (name, average)
    for name, reference in (("kappa", cohen_kappa_score), ("balanced_accuracy", balanced_accuracy_score)):
        each = [reference(*one) for one in flat]
        assert [found[f"{name}/{c}"] for c in "abc"] == pytest.approx(each, rel=1e-12)
        assert found[name] == pytest.approx(np.mean(each), rel=1e-12)
        assert Scores(many[:, :1], Binary(("a",)))[name] == pytest.approx(each[0], rel=1e-12)
    assert found["accuracy"] == pytest.approx((both[0] == both[1]).mean(), rel=1e-12)
    tensors = tuple(torch.from_numpy(x) for x in both[::-1])
    assert found["dice"] == pytest.approx(multilabel_f1_score(*tensors, num_labels=3).item(), rel=1e-5)
    kappa = binary_cohen_kappa(tensors[0][:, 0], tensors[1][:, 0])
    assert found["kappa/a"] == pytest.approx(kappa.item(), rel=1e-5)


def test_what_the_target_does_not_hold_has_no_score():
    """Class "c" is predicted once and never there; "b" is there and never predicted."""
    found = Scores(torch.tensor([[[[8, 0, 1], [4, 0, 0], [0, 0, 0]]]]), Multiclass(("a", "b", "c")))
    for name in CLASS_SCORES:
        assert np.isnan(found[f"{name}/c"]), name
    assert (found["precision/a"], found["precision/b"]) == (8 / 12, 0)  # never predicted: 0, as scikit-learn has it
    assert found["precision"] == pytest.approx(8 / 12 / 2)
    assert found["recall_micro"] == pytest.approx(8 / 13)
    empty = Scores(torch.tensor([[[[9, 1], [0, 0]]]]), Binary(("a",)))
    assert all(np.isnan(empty[name]) for name in CLASS_SCORES)
    assert empty["accuracy"] == 0.9


def test_classes_that_are_left_out_are_in_no_mean():
    true, guess = labels()
    counts, task = matrices(true, guess, 4), Multiclass(NAMES)
    every, some = Scores(counts, task), Scores(counts, task, ("sea", "field"))
    flat = (true.ravel(), guess.ravel())
    for name, reference in REFERENCE.items():
        for suffix, average in (("", "macro"), ("_micro", "micro"), ("_weighted", "weighted")):
            expected = reference(*flat, labels=[1, 3], average=average, zero_division=0)
            assert some[name + suffix] == pytest.approx(expected, rel=1e-12), (name, average)
        assert some[f"{name}/sea"] == every[f"{name}/sea"]
    assert some["balanced_accuracy"] == some["recall"]
    assert (some["kappa"], some["accuracy"]) == (every["kappa"], every["accuracy"])
    with pytest.raises(InputError, match=r"without=see: .* \(did you mean 'sea'\?\); the classes are sea, forest, field, road"):
        metrics(task, ["see"])
    with pytest.raises(InputError, match="no class is left"):
        metrics(Binary(("road",)), ["road"])


def test_tables_hold_every_score_once():
    true, guess = labels()
    found = Scores(matrices(true, guess, 4), Multiclass(NAMES))
    rows = found.table()
    assert [(row["class"], row["average"]) for row in rows] == [
        *((name, "") for name in NAMES), ("", "macro"), ("", "micro"), ("", "weighted"), ("", "scenes"),
    ]  # fmt: skip
    assert (rows[3]["f2"], rows[4]["kappa"], rows[6]["dice"], rows[7]["recall"]) == (
        found["f2/road"], found["kappa"], found["dice_weighted"], found["scene_recall"],
    )  # fmt: skip
    assert np.isnan(rows[5]["kappa"])  # there is no other average of it
    scenes = found.scene_table(["x", "y", "z"])
    assert np.mean([row["iou"] for row in scenes]) == pytest.approx(found["scene_iou"])
    assert scenes[2]["kappa"] == pytest.approx(cohen_kappa_score(true[2], guess[2]), rel=1e-12)
    cells = {(row["labelled"], row["predicted"]): row["pixels"] for row in found.pair_table()}
    assert cells["sea", "road"] == ((true == 0) & (guess == 3)).sum()
    assert sum(cells.values()) == true.size


def test_other_names_of_scores_are_told():
    assert no_metric("f1", ["dice", "f2"]) == "it is called 'dice' here"
    assert "did you mean 'recall/road'" in no_metric("recall/rod", ["recall/road"])


def test_scenes_of_false_positives_alone_count_as_zero_where_that_is_asked_for():
    """Three scenes of one class: half right, false positives alone, nothing at all."""
    task = Binary(("road",))
    counts = np.array([[[3, 1, 2, 9]], [[0, 4, 0, 11]], [[0, 0, 0, 15]]], dtype=float)
    known = metrics(task)
    assert known["scene_iou"](counts) == pytest.approx(3 / 6)
    assert known["strict_scene_iou"](counts) == pytest.approx((3 / 6 + 0) / 2)
    assert known["strict_scene_recall/road"](counts) == pytest.approx((3 / 5 + 0) / 2)
    assert known["strict_scene_iou"].label == "IoU per scene, strict"


def random_counts(counted, rng):
    """Counts of 300 heads with 2 scenes and 3 classes, as `Task.counted` has them; in half of them nothing is wrong."""
    if counted == "errors":
        true = rng.normal(rng.normal(0, 3), 1, (300, 2, 3, 20))
        wrong = rng.normal(rng.normal(0, 2, (300, 1, 1, 1)), 1, true.shape) * (np.arange(300) % 2)[:, None, None, None]
        sums = (np.ones_like(true), wrong, abs(wrong), wrong**2, true, true**2)
        assert len(sums) == len(SUMS)
        return np.stack([values.sum(-1) for values in sums], axis=-1)
    counts = rng.integers(0, 9, (300, 2, 3, 4)) * rng.integers(0, 2, (300, 2, 3, 4))
    counts[::2, ..., 1:3] = 0
    return counts[..., : 3 if counted == "matches" else 4].astype(float)


@pytest.mark.parametrize("kind", TASKS)
def test_every_score_reaches_its_limits_and_not_beyond(kind):
    """Intervals are clipped to the limits."""
    task = TASKS[kind](("a", "b", "c") if kind != "binary" else ("a",))
    counts = random_counts(task.counted, np.random.default_rng(1))[:, :, : task.channels]
    for name, metric in metrics(task).items():
        values, (low, high) = metric(counts), metric.limits
        assert low - 1e-12 <= np.nanmin(values) <= np.nanmax(values) <= high + 1e-12, name
        if metric.higher_is_better is not None:
            best = np.nanmax(metric.quality(counts))
            assert best == pytest.approx(high if metric.higher_is_better else -low, abs=1e-6), name
        assert np.nanmin(values) < 0 or low >= 0, f"{name} has the lowest value {low}, but never fell below 0"


@pytest.mark.parametrize("kind", ["multiclass", "multilabel", "centres"])
def test_a_class_that_is_neither_there_nor_predicted_changes_no_average(kind):
    """Micro averages of scores that depend on TN would change: each such class adds as many TN as there are pixels."""
    few, more = (TASKS[kind](("a", "b", "c", "d")[:n]) for n in (3, 4))
    counts = random_counts(few.counted, np.random.default_rng(2))[:50]
    absent = np.zeros_like(counts[:, :, :1])
    absent[..., 3:] = counts.sum((-2, -1))[..., None, None]
    wider, known = np.concatenate([counts, absent], axis=2), metrics(more)
    for name, metric in metrics(few).items():
        if name.endswith(("_micro", "_weighted")) or name in CLASS_SCORES:
            np.testing.assert_allclose(known[name](wider), metric(counts), err_msg=name)
