"""Scenes that are put together from windows are counted as if they had never been cut."""

import math

import numpy as np
import pytest
import torch
from run_folders import crossfit_bias

from rsseg.compare.recorder import Snapshots, TunedCounts, in_halves
from rsseg.compare.tuning import halves, tune_thresholds
from rsseg.config.folder import RunFolder
from rsseg.contract import IGNORE, InputError
from rsseg.data.windows import grid
from rsseg.files import write_json
from rsseg.metrics import LogitSample, SampledLogits, ScoreHistogram, boundary_counts
from rsseg.task import Binary, Multiclass, make_task

SIZES = np.array([[40, 50], [20, 64], [33, 32]])  # the second is lower than a window
TWO = np.array([True, False])


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_whole_scenes(task):
    channels = {"binary": 1, "multiclass": 3, "multilabel": 2}[task]
    task, rng = make_task(task, tuple("abc"[:channels])), np.random.default_rng(1)
    first = halves(np.ones((3, channels)))
    cores = [core for scene in in_halves(first) for core in grid(SIZES, 32, 4) if core.scene == scene]
    planes = (channels,) if task.kind == "multilabel" else ()
    truth = [
        rng.integers(0, task.labels, (*planes, h // 4, w // 4), dtype=np.uint8).repeat(4, -1).repeat(4, -2) for h, w in SIZES
    ]
    truth = [np.pad(t, [(0, 0)] * len(planes) + [(0, h - t.shape[-2]), (0, w - t.shape[-1])], constant_values=IGNORE)
             for t, (h, w) in zip(truth, SIZES, strict=True)]  # fmt: skip
    scores = [rng.normal(size=(channels, *size)).astype(np.float32) for size in SIZES]
    snapshots = Snapshots({"mask": task}, SIZES, cores, {"mask": np.ones((3, channels), dtype=bool)})
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

    @torch.inference_mode()
    def validate(count, stop):
        for start in range(0, stop, 3):
            numbers = torch.arange(start, min(start + 3, stop))
            logits, mask = (torch.stack([windows[k][i] for k in numbers]) for i in (0, 1))
            batch = {"mask": mask, "scene": torch.tensor([cores[k].scene for k in numbers]), "k": numbers}
            count({"mask": logits}, batch)

    validate(snapshots.count, len(cores))
    found = snapshots.take(7)["mask"]
    assert found["step"] == 7
    for s in range(3):
        predicted = task.predict(torch.from_numpy(scores[s])[None])[0]
        whole = boundary_counts(predicted, torch.from_numpy(truth[s]).long(), task)
        assert found["boundary"][s].tolist() == whole.tolist()
        valid = (truth[s] != IGNORE).sum(axis=(-2, -1))
        assert found["histogram"][s].sum(axis=(-2, -1)).tolist() == np.broadcast_to(valid, found["histogram"].shape[1]).tolist()
    if task.kind == "multiclass":
        sample = SampledLogits(*(torch.from_numpy(found[f"sample.{name}"]) for name in SampledLogits._fields))
        assert len(sample.logits) == sum(int((t != IGNORE).sum()) for t in truth)  # fewer than 1024 of each: all
        labelled = [np.bincount(t.ravel(), minlength=256)[:3] for t in truth]
        weight = torch.zeros(9, dtype=torch.float64).index_add_(0, sample.scene * 3 + sample.target, sample.weight)
        assert weight.numpy() == pytest.approx(np.concatenate(labelled))
        assert snapshots.tuned
        assert "crossfit.fixed" not in found
        validate(snapshots.count_again, sum(bool(first[core.scene]) for core in cores))
        complete = snapshots.take(7)["mask"]
        biases = {metric: crossfit_bias(sample, first, metric) for metric in ("iou", "dice")} | {"fixed": np.zeros((3, 3))}
        for name, bias in biases.items():
            for s, t in enumerate(truth):
                called, expected = (scores[s] + bias[s][:, None, None]).argmax(0), np.zeros((3, 3), dtype=np.int64)
                np.add.at(expected, (t[t != IGNORE], called[t != IGNORE]), 1)
                np.testing.assert_array_equal(complete[f"crossfit.{name}"][s, 0], expected)
    else:
        assert not snapshots.tuned


def shot(step=3, lost=0, sample=None, **arrays):
    """A snapshot of these arrays."""
    parts = {} if sample is None else {f"sample.{name}": part.numpy() for name, part in sample._asdict().items()}
    return {"step": np.array(step), "lost": np.array(lost), **parts, **arrays}


def test_threshold_by_hand(tmp_path):
    """In both scenes the positives lie at logit -2.9, the negatives at -3.9: any threshold between them is right."""
    histogram = np.zeros((2, 1, 2, 256), dtype=np.int64)
    histogram[:, 0, 1, 104], histogram[:, 0, 0, 96] = 5, 9
    task = Binary(("a",))
    found = tune_thresholds(shot(histogram=histogram), task, TWO)
    assert -3.9 <= found["values"]["a"] <= -2.9
    assert (found["kind"], found["fixed"], found["tuned"], found["regret"]) == ("threshold", 0, 1, 1)
    one = tune_thresholds(shot(histogram=histogram[:1]), task, TWO[:1])
    assert one["values"] == found["values"]
    assert np.isnan(one["regret"])
    assert (found["untuned"], one["untuned"]) == ([], [])
    histogram[0, 0, 1] = 0  # positives in the second scene alone: nothing to tune it on
    lone = tune_thresholds(shot(histogram=histogram), task, TWO)
    assert (lone["values"], lone["untuned"]) == ({"a": 0}, ["a"])
    assert np.isnan(lone["regret"])
    write_json(tmp_path / "threshold.json", {"mask": found})
    limit = RunFolder(tmp_path).thresholds({"mask": task})["mask"]
    assert task.predict(torch.tensor([[[[-2.9, -3.9]]]]), limit).tolist() == [[[1, 0]]]
    with pytest.raises(InputError, match="of head other"):
        RunFolder(tmp_path).thresholds({"other": task})


def test_bias_by_hand():
    """The second class loses by at most 0.6 wherever it is right, the first leads by 1."""
    z, y = torch.tensor([[1.0, 0.0], [1.0, 0.4]] * 2), torch.tensor([0, 1] * 2)
    sample = SampledLogits(z, y, torch.tensor([0, 0, 1, 1]), torch.ones(4, dtype=torch.float64))
    argmax, right = np.array([[[[1, 0], [1, 0]]]] * 2), np.array([[[[1, 0], [0, 1]]]] * 2)
    task = Multiclass(("a", "b"))
    for scenes in (1, 2):
        crossfit = {} if scenes == 1 else {"crossfit.fixed": argmax, "crossfit.iou": right, "crossfit.dice": right}
        here = sample._replace(scene=sample.scene % scenes)
        found = tune_thresholds(shot(sample=here, **crossfit), task, TWO[:scenes])
        assert 0.6 < found["values"]["b"] - found["values"]["a"] < 1
        assert found["kind"] == "bias"
        assert found["regret"] == pytest.approx(math.nan if scenes == 1 else 0.75, nan_ok=True)  # argmax: IoU 1/2 and 0
    bias = torch.tensor([found["values"]["a"], found["values"]["b"]])
    assert task.predict(z.view(4, 2, 1, 1), bias).flatten().tolist() == y.tolist()
    third = sample._replace(logits=torch.cat([z, torch.full((4, 1), 0.9)], 1))
    absent = tune_thresholds(shot(sample=third), Multiclass(("a", "b", "c")), TWO)
    assert (absent["values"]["c"], absent["untuned"]) == (0, ["c"])
    broken = sample._replace(logits=z * torch.nan)
    with pytest.raises(InputError, match="diverged"):
        tune_thresholds(shot(sample=broken), task, TWO)


def test_nothing_is_counted_at_biases_where_there_is_nothing_to_tune(caplog):
    task = Multiclass(("a", "b"))
    batch = {"mask": torch.zeros(2, 8, 8, dtype=torch.uint8), "scene": torch.tensor([0, 1]), "k": torch.tensor([0, 1])}
    logits = {"mask": torch.zeros(2, 2, 8, 8)}
    sample = LogitSample(2, scenes=2)
    sample.update(logits["mask"], batch["mask"], batch["scene"], batch["k"])
    none = TunedCounts(
        {"mask": task}, {"mask": sample}, {"mask": np.ones((2, 2), dtype=bool)}, np.array([False, False])
    )  # one half
    none.count(logits, batch)
    assert (none.at, caplog.text) == ({}, "")
    lone = TunedCounts({"mask": task}, {"mask": sample}, {"mask": np.array([[True, True], [True, False]])}, TWO)
    lone.count(logits, batch)
    assert lone.at == {"mask": {}}
    assert "Head mask is not counted at tuned biases: tuning on one half of the scenes" in caplog.text


@pytest.mark.parametrize("task", ["binary", "multilabel", "multiclass"])
def test_logits_that_are_not_finite_are_counted_and_refused(task):
    """Two of the seven labelled pixels have no score; a run that has diverged gets no threshold."""
    channels = 1 if task == "binary" else 2
    task = make_task(task, tuple("ab"[:channels]))
    logits = torch.ones(1, channels, 2, 4)
    logits[0, 0, 0, :3] = torch.tensor([torch.nan, torch.inf, torch.nan])
    target = torch.zeros((1, 2, 2, 4) if task.kind == "multilabel" else (1, 2, 4), dtype=torch.uint8)
    target[..., 0, 2] = IGNORE  # its NaN harms nothing
    histogram = ScoreHistogram(task, scenes=1)
    histogram.update(logits, target, torch.tensor([0]))
    assert int(histogram.lost) == 2
    assert histogram.compute().sum((0, 2, 3)).tolist() == [5] * histogram.counts.shape[1]
    sample = SampledLogits(torch.ones(1, 2), torch.zeros(1).long(), torch.zeros(1).long(), torch.ones(1))
    with pytest.raises(InputError, match="2 labelled pixels have logits that are not finite: the run has diverged"):
        tune_thresholds(shot(1, int(histogram.lost), sample, histogram=histogram.compute().numpy()), task, 1)


def test_a_snapshot_of_a_run_that_has_diverged_says_so():
    task, size = Binary(("a",)), np.array([[32, 32]])
    snapshots = Snapshots({"mask": task}, size, grid(size, 32, 4), {"mask": np.ones((1, 1), dtype=bool)})
    batch = {"mask": torch.zeros(1, 32, 32, dtype=torch.uint8), "scene": torch.tensor([0]), "k": torch.tensor([0])}
    logits = torch.full((1, 1, 32, 32), torch.nan)
    snapshots.count({"mask": logits}, batch)
    taken = snapshots.take(1)["mask"]
    assert taken["lost"] == 32 * 32
    assert taken["histogram"].sum() == 0
