import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, f1_score, jaccard_score

from rsseg.contract import IGNORE
from rsseg.metrics import Scores
from rsseg.metrics.counters import Confusion
from rsseg.task import Binary, Multiclass, Multilabel

KINDS = [
    Binary(("a",)),
    Multiclass(("a", "b", "c", "d")),
    Multilabel(("a", "b", "c")),
]


def batch(task, generator, n=4, size=9):
    planes = (task.channels,) if task.kind == "multilabel" else ()
    logits = torch.randn(n, task.channels, size, size, generator=generator)
    target = torch.randint(0, task.labels, (n, *planes, size, size), generator=generator, dtype=torch.uint8)
    target[torch.rand(target.shape, generator=generator) < 0.2] = IGNORE
    return logits, target


@pytest.mark.parametrize("task", KINDS, ids=lambda h: h.kind)
def test_counts_equal_scikit_learn(task):
    generator = torch.Generator().manual_seed(0)
    confusion, kept = Confusion(task, scenes=3), []
    for scene in ([0, 2, 2, 0], [1, 1, 0, 2]):
        logits, target = batch(task, generator)
        confusion.update(logits, target, torch.tensor(scene))
        kept.append((logits, target, np.array(scene)))
    counts = confusion.compute()
    for s in range(3):
        for plane in range(counts.shape[1]):
            true, predicted = [], []
            for logits, target, scene in kept:
                ours = scene == s
                labels = target.numpy()[ours]
                labels = labels[:, plane] if task.kind == "multilabel" else labels
                z = logits.numpy()[ours]
                guess = z.argmax(1) if task.kind == "multiclass" else (z[:, plane] > 0).astype(int)
                true.append(labels[labels != IGNORE])
                predicted.append(guess[labels != IGNORE])
            expected = confusion_matrix(np.concatenate(true), np.concatenate(predicted), labels=range(task.labels))
            assert counts[s, plane].tolist() == expected.tolist()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_pooled_scores_equal_scikit_learn(seed):
    task, generator = KINDS[1], torch.Generator().manual_seed(seed)
    logits, target = batch(task, generator, n=2, size=6)
    confusion = Confusion(task, scenes=2)
    confusion.update(logits, target, torch.tensor([0, 1]))
    result = Scores(confusion.compute(), task)
    valid = target != IGNORE
    true, guess = target[valid].numpy(), logits.argmax(1)[valid].numpy()
    present = np.unique(true).astype(int)
    iou = jaccard_score(true, guess, labels=present, average=None, zero_division=0)
    np.testing.assert_allclose([result[f"iou/{task.classes[c]}"] for c in present], iou, rtol=1e-12)
    assert result["iou"] == pytest.approx(iou.mean())
    assert result["dice"] == pytest.approx(f1_score(true, guess, labels=present, average="macro", zero_division=0))
    assert result["accuracy"] == pytest.approx((true == guess).mean())


def test_absent_class_is_nan_and_left_out():
    task = Multiclass(("a", "b", "c"))
    counts = torch.tensor([[[[8, 1, 1], [0, 4, 0], [0, 0, 0]]]])  # c never occurs, though it is predicted once
    result = Scores(counts, task)
    assert math.isnan(result["iou/c"])
    assert result["iou"] == pytest.approx((8 / 10 + 4 / 5) / 2)
    assert [row["pixels"] for row in result.table()] == [10, 4, 0, 14, 14, 14, 14]


def test_pooled_and_per_scene_differ_as_they_should():
    task = Binary(("a",))
    counts = torch.tensor([[[[0, 0], [0, 90]]], [[[5, 4], [5, 1]]], [[[9, 1], [0, 0]]]])
    result = Scores(counts, task)
    assert result["iou"] == pytest.approx(91 / 101)
    assert result["scene_iou"] == pytest.approx((1 + 1 / 10) / 2)  # the third scene holds no a: it has no IoU
    of_class = {key: result.table()[0][key] for key in ("class", "iou", "dice", "pixels")}
    assert of_class == {"class": "a", "iou": result["iou"], "dice": pytest.approx(182 / 192), "pixels": 96}


def test_all_ignored_counts_nothing():
    task = KINDS[0]
    confusion = Confusion(task, scenes=1)
    confusion.update(torch.ones(1, 1, 3, 3), torch.full((1, 3, 3), IGNORE, dtype=torch.uint8), torch.tensor([0]))
    assert confusion.compute().sum() == 0
    assert math.isnan(Scores(confusion.compute(), task)["iou"])
