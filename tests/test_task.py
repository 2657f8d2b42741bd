"""Every kind of task against what its masks and logits mean, written out pixel by pixel."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from rsseg.contract import IGNORE, InputError
from rsseg.task import TASKS, Binary, Multiclass, Multilabel, Regression, make_task

RNG = np.random.default_rng(0)
BINARY, THREE, TWO = Binary(("water",)), Multiclass(("land", "water", "road")), Multilabel(("tree", "shade"))
LABELLED = [BINARY, THREE, TWO]


def ids(task):
    return task.kind


def drawn(task, size=(5, 7)):
    """A mask of every value that it may hold."""
    values = {"binary": [0, 1, IGNORE], "multiclass": [0, 1, 2, IGNORE], "multilabel": [0, 1, IGNORE]}[task.kind]
    return RNG.choice(np.array(values, np.uint8), (2, *size) if task.kind == "multilabel" else size)


def says(task, mask, y, x):
    """The names that a mask has for a pixel; None where it is not labelled."""
    if task.kind == "multilabel":
        planes = [mask[0, y, x], mask[1, y, x]]
        return None if planes == [IGNORE, IGNORE] else {n for n, v in zip(("tree", "shade"), planes, strict=True) if v == 1}
    names = {"binary": {0: "background", 1: "water"}, "multiclass": {0: "land", 1: "water", 2: "road"}}[task.kind]
    return None if mask[y, x] == IGNORE else {names[int(mask[y, x])]}


@pytest.mark.parametrize("task", LABELLED, ids=ids)
def test_masks_by_label_and_class(task):
    mask = drawn(task)
    shape = mask.shape[-2:]
    assert (*task.planes, *shape) == mask.shape
    masks = {name: task.label_mask(mask, i) for i, name in enumerate(task.label_names)}
    for y, x in np.ndindex(shape):
        assert {name for name, found in masks.items() if found[y, x]} == (says(task, mask, y, x) or set())
    classes = task.class_masks(mask)
    assert len(classes) == task.channels
    for name, found in zip(task.classes, classes, strict=True):
        np.testing.assert_array_equal(found, masks[name])


@pytest.mark.parametrize("task", LABELLED, ids=ids)
def test_counts_by_label(task):
    masks = [drawn(task) for _ in range(3)]
    positives = np.array([[found.sum() for found in task.class_masks(mask)] for mask in masks])
    valid = np.array([(mask != IGNORE).sum(axis=(-2, -1)) * np.ones(task.channels, int) for mask in masks])
    own, labelled = task.label_counts(positives, valid)
    for scene, mask in enumerate(masks):
        assert own[scene].tolist() == [int(task.label_mask(mask, i).sum()) for i in range(len(task.label_names))]
    assert labelled.shape == own.shape
    for i, name in enumerate(task.label_names):
        plane = i if task.kind == "multilabel" else ...
        assert labelled[:, i].tolist() == [int((mask[plane] != IGNORE).sum()) for mask in masks], name


def test_predictions():
    logits = torch.from_numpy(RNG.normal(size=(2, 3, 4, 5)))
    limit, z = torch.tensor([0.5, -0.5, 1.0], dtype=torch.float64), logits.numpy()
    bound = limit.numpy()[:, None, None]
    for threshold, shift in ((None, 0.0), (limit, bound)):
        np.testing.assert_array_equal(THREE.predict(logits, threshold), np.argmax(z + shift, axis=1))
        several = Multilabel(("a", "b", "c")).predict(logits, threshold)
        np.testing.assert_array_equal(several, z > shift)
        one = BINARY.predict(logits[:, :1], None if threshold is None else limit[:1])
        np.testing.assert_array_equal(one, (z[:, 0] > (0.5 if threshold is not None else 0)))
        assert {x.dtype for x in (several, one, THREE.predict(logits, threshold))} == {torch.int64}
        assert torch.equal(Regression(("height",)).predict(logits, threshold), logits)


@pytest.mark.parametrize("task", LABELLED, ids=ids)
def test_numbers_by_class_are_those_of_the_classes_own_rows(task):
    counts = torch.arange(4 * len(task.matrices) * task.labels).view(4, len(task.matrices), task.labels)
    rows = [(plane, row, name) for plane, names in enumerate(task.matrices) for row, name in enumerate(names)]
    own = [(plane, row) for plane, row, name in rows if name in task.classes]
    assert task.by_class(counts).tolist() == [[int(counts[i, plane, row]) for plane, row in own] for i in range(4)]


@pytest.mark.parametrize("task", LABELLED, ids=ids)
def test_drawn_masks_and_errors(task):
    mask, prediction = drawn(task), drawn(task)
    prediction[prediction == IGNORE] = 0
    plane, errors = task.flatten(mask), task.errors(mask, prediction)
    for y, x in np.ndindex(mask.shape[-2:]):
        truth, guess = says(task, mask, y, x), says(task, prediction, y, x)
        if truth is None:
            assert plane[y, x] == errors[y, x] == IGNORE
            continue
        shown = task.drawn_names[plane[y, x]]
        assert shown in truth or (not truth and shown == "none of them")
        if task.kind == "multilabel":  # what is not labelled can't be wrong
            guess = {name for name, v in zip(task.classes, mask[:, y, x], strict=True) if v != IGNORE and name in guess}
        said = task.error_names[errors[y, x]]
        wrong = "wrong" if task.kind != "binary" else "missed" if truth == {"water"} else "false alarm"
        assert said == ("right" if truth == guess else wrong)


@pytest.mark.parametrize("task", LABELLED, ids=ids)
def test_colours_are_as_many_as_names(task):
    palette = [f"#0000{i:02x}" for i in range(len(task.label_names))]
    assert task.faults(palette=palette) == []
    shades = dict(zip(task.drawn_names, task.shades(palette), strict=True))
    assert {name: shades[name] for name in task.label_names} == dict(zip(task.label_names, palette, strict=True))
    assert task.faults(palette=[*palette, "#ffffff"]) == [
        f"dataset.palette has {len(palette) + 1} colours, but {len(palette)} are needed; null chooses them"
    ]


@pytest.mark.parametrize(
    ("task", "mask_values", "expected"),
    [
        (BINARY, [0, 255], []),
        (THREE, [3, 5, 7], []),
        (TWO, [0, 9], []),
        (TWO, [0, 1, 2], ["dataset.mask_values lists 3 values, but dataset.classes names 2 labels"]),
        (BINARY, [1], ["dataset.mask_values lists 1 values, but dataset.classes names 2 labels"]),
        (Binary(()), None, ["dataset.classes is empty"]),
        (Binary(("a", "b")), [0, 1, 2], ["a binary task has one class, the positive one; found 2: take task=multiclass"]),
        (Multiclass(("a",)), None, ["a multiclass task has two classes or more; found 1: take task=binary"]),
        (Multilabel(("a", "b", "a")), [1], ["names a class twice", "mask_values lists 1 values"]),
        (Multiclass(tuple(f"c{i}" for i in range(255))), None, []),
        (Multiclass(tuple(f"c{i}" for i in range(256))), None, ["256 classes: masks are 8-bit"]),
        (Multilabel(tuple(f"c{i}" for i in range(256))), None, []),
        (Regression(("height",)), [0, 1], ["dataset.mask_values: masks of a regression hold real values"]),
        (Regression(("height", "slope"), units=("m",)), None, ["dataset.units lists 1 units, but dataset.classes names 2"]),
    ],
)
def test_faults(task, mask_values, expected):
    found = task.faults(mask_values)
    assert len(found) == len(expected)
    for fault, part in zip(found, expected, strict=True):
        assert part in fault


def test_tasks_are_made_by_name():
    for kind, task in TASKS.items():
        assert make_task(kind, ["a", "b"]) == task(("a", "b"))
        assert task.kind == kind
    assert Binary(("a",)) != Multilabel(("a",))
    with pytest.raises(InputError, match=r"no task mutliclass \(did you mean 'multiclass'\?\): take binary, .* or centres"):
        make_task("mutliclass", ["a"])


def test_a_fifth_kind_is_one_class_more():
    """A task of ordered classes, predicted by how many of its logits are positive: counted, scored and drawn as it stands."""
    from rsseg.metrics import Scores
    from rsseg.metrics.counters import Boundary, Confusion

    class Ordered(Multiclass):
        kind = "ordered"

        def predict(self, logits, threshold=None):
            return (logits[:, 1:] > 0).sum(1)

    task = Ordered(("low", "middle", "high"))
    logits = torch.from_numpy(RNG.normal(size=(2, 3, 8, 8)))
    target = torch.from_numpy(RNG.integers(0, 3, (2, 8, 8), dtype=np.uint8))
    confusion, guess = Confusion(task, 2), (logits.numpy()[:, 1:] > 0).sum(1)
    confusion.update(logits, target, torch.tensor([0, 1]))
    expected = np.zeros((3, 3), int)
    np.add.at(expected, (target.numpy(), guess), 1)
    assert confusion.compute().sum((0, 1)).tolist() == expected.tolist()
    union = expected.sum(0) + expected.sum(1) - expected.diagonal()
    assert Scores(confusion.compute(), task)["iou"] == pytest.approx((expected.diagonal() / union).mean())
    contours = Boundary(task, 2)
    contours.update(task.predict(logits), target, torch.tensor([0, 1]))
    assert contours.compute().shape == (2, 3, 3)
    assert task.drawn_names == task.classes


def test_a_kind_derived_from_another_has_its_losses_settings_masks_and_metrics(monkeypatch):
    from rsseg.data.labels import make_mask_reader
    from rsseg.losses import MSE, Dice
    from rsseg.metrics import Scores
    from rsseg.training.scoring import name_means, score_rows

    class Density(Regression):
        kind = "density"
        score = "absolute_bias"

    monkeypatch.setitem(TASKS, "density", Density)
    task = make_task("density", ["people"], units=["km"])
    assert type(task) is Density
    assert make_mask_reader(task, span=[0, 9]).span == (0, 9)
    error = MSE("density")(torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[[0.0, 1.0]]]]))
    assert error == (1 + 4) / 2
    with pytest.raises(InputError, match=r"Dice fits the tasks .*; found 'density': .* such as huber, mse or mae"):
        Dice("density")
    errors = np.array([[[2.0, -3.0, 3.0, 5.0, 4.0, 10.0]]])  # -1 and -2, of the values 1 and 3
    (row,) = name_means(score_rows({"mask": Scores(errors, task)}), several=False)
    assert (row["class"], row["absolute_bias"], row["bias"]) == ("people", 1.5, -1.5)  # it chose the checkpoint: printed


def test_a_task_needs_no_torch():
    code = "import sys, rsseg.task; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
