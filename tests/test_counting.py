"""Scenes that are put together from windows are counted as if they had never been cut."""

import itertools

import numpy as np
import pytest
import torch

from rsseg.comparison.records import POINTS
from rsseg.contract import IGNORE
from rsseg.data.windows import grid
from rsseg.metrics.counters import ScoreHistogram
from rsseg.metrics.counters.boundary import boundary_counts
from rsseg.task import make_task
from rsseg.training.counting import SceneCounter

SIZES = np.array([[40, 50], [20, 64], [33, 32]])  # the second is lower than a window


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_whole_scenes(task):
    channels = {"binary": 1, "multiclass": 3, "multilabel": 2}[task]
    task, rng = make_task(task, tuple("abc"[:channels])), np.random.default_rng(1)
    cores = grid(SIZES, 32, 4)
    planes = (channels,) if task.kind == "multilabel" else ()
    truth = [
        rng.integers(0, task.labels, (*planes, h // 4, w // 4), dtype=np.uint8).repeat(4, -1).repeat(4, -2) for h, w in SIZES
    ]
    truth = [np.pad(t, [(0, 0)] * len(planes) + [(0, h - t.shape[-2]), (0, w - t.shape[-1])], constant_values=IGNORE)
             for t, (h, w) in zip(truth, SIZES, strict=True)]  # fmt: skip
    scores = [rng.normal(size=(channels, *size)).astype(np.float32) for size in SIZES]
    windows = []
    for core in cores:
        logits = np.zeros((channels, 32, 32), dtype=np.float32)
        mask = np.full((*planes, 32, 32), IGNORE, dtype=np.uint8)
        part = scores[core.scene][:, core.top : core.top + 32, core.left : core.left + 32]
        logits[:, : part.shape[1], : part.shape[2]] = part
        inner = (slice(core.inner_top, core.inner_bottom), slice(core.inner_left, core.inner_right))
        there = (slice(core.top + inner[0].start, core.top + inner[0].stop),
                 slice(core.left + inner[1].start, core.left + inner[1].stop))  # fmt: skip
        mask[(..., *inner)] = truth[core.scene][(..., *there)]
        windows.append((torch.from_numpy(logits), torch.from_numpy(mask)))

    moved = rng.normal(size=channels)
    by_scene = np.stack([moved, moved, 2 * moved])
    counter = SceneCounter(task, SIZES, {"iou": by_scene})
    passes = [np.array([True, False, True]), np.array([False, True, False])]
    with torch.inference_mode():
        for wanted, start in itertools.product(passes, range(0, len(cores), 3)):
            numbers = torch.arange(start, min(start + 3, len(cores)))
            logits, mask = (torch.stack([windows[k][i] for k in numbers]) for i in (0, 1))
            scene = torch.tensor([cores[k].scene for k in numbers])
            here = torch.from_numpy(wanted)[scene]
            if here.any():
                counter.update(logits[here], {"mask": mask[here], "scene": scene[here], "k": numbers[here]}, cores)
    found = counter.arrays()
    for s, whole in enumerate(truth):
        sign = 1 if task.exclusive else -1  # a bias is added, a threshold exceeded
        for point, at in (("fixed", 0 * moved), ("iou", sign * by_scene[s])):
            z = scores[s] + at[:, None, None].astype(np.float32)
            called = np.eye(3)[z.argmax(0)].transpose(2, 0, 1) == 1 if task.exclusive else z > 0
            there = np.stack([whole == c for c in range(3)]) if task.exclusive else whole.reshape(called.shape) == 1
            known = np.broadcast_to(whole != IGNORE, called.shape)
            cells = [called & there, called & ~there, ~called & there, ~called & ~there]
            expected = np.stack([(cell & known).sum((1, 2)) for cell in cells], axis=-1)
            np.testing.assert_array_equal(found["counts"][POINTS.index(point), s], expected)
        predicted = task.predict(torch.from_numpy(scores[s])[None])[0]
        contours = boundary_counts(predicted, torch.from_numpy(whole).long(), task)
        np.testing.assert_array_equal(found["counts"][-1, s, :, :3], contours)
        assert found["class_ece"][s, ..., 0].sum(-1) == pytest.approx((whole != IGNORE).sum((-2, -1)) * np.ones(channels))
    assert np.isnan(found["counts"][POINTS.index("dice")]).all()
    assert found["lost"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("task", ["binary", "multilabel", "multiclass"])
def test_logits_that_are_not_finite_are_counted(task):
    """Two of the seven labelled pixels have no score."""
    channels = 1 if task == "binary" else 2
    task = make_task(task, tuple("ab"[:channels]))
    logits = torch.ones(1, channels, 2, 4)
    logits[0, 0, 0, :3] = torch.tensor([torch.nan, torch.inf, torch.nan])
    target = torch.zeros((1, 2, 2, 4) if task.kind == "multilabel" else (1, 2, 4), dtype=torch.uint8)
    target[..., 0, 2] = IGNORE  # its NaN harms nothing
    histogram = ScoreHistogram(task, scenes=1)
    histogram.update(logits, target, torch.tensor([0]))
    assert histogram.lost.tolist() == [2]
    assert histogram.compute().sum((0, 2, 3)).tolist() == [5] * histogram.counts.shape[1]
