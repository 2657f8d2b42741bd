"""Suspicious labels against confident learning written out in NumPy, on blocks flipped on purpose, and after a training."""

import csv
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import rasterio
import torch
from test_run import folder_data, settings
from tiny import CONFIGS, checker, coloured, write_tif

from rsseg.config.build import plain
from rsseg.config.folder import RunFolder
from rsseg.contract import IGNORE, InputError
from rsseg.data.scene import Scene
from rsseg.data.windows import GridWindows
from rsseg.describe.noise import (
    Doubts,
    SelfConfidence,
    class_probabilities,
    describe_noise,
    find_noise,
    label_planes,
    suspicious_labels,
)
from rsseg.run import train
from rsseg.task import make_task


def confident_learning(probability, label):
    """Thresholds and suggestions (-1: none) for samples ``[N, K]`` with labels ``[N]``.

    As Northcutt et al. define them; what is suggested is more probable than the label besides.
    """
    classes = probability.shape[1]
    thresholds = [probability[label == c, c].mean() if (label == c).any() else np.inf for c in range(classes)]
    suggested = np.full(len(label), -1)
    for i in range(len(label)):
        above = [c for c in range(classes) if probability[i, c] > thresholds[c]]
        if label[i] != IGNORE and above:
            best = max(above, key=lambda c: probability[i, c])
            suggested[i] = best if probability[i, best] > probability[i, label[i]] else -1
    return np.array(thresholds), suggested


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
def test_suspicious_labels_are_those_of_confident_learning(kind):
    rng, channels = np.random.default_rng(0), {"binary": 1, "multiclass": 4, "multilabel": 3}[kind]
    task = make_task(kind, tuple("abcd"[:channels]))
    logits = 2 * rng.normal(size=(2, channels, 12, 15))
    shape = (2, channels, 12, 15) if kind == "multilabel" else (2, 12, 15)
    label = rng.integers(0, 3 if kind == "multiclass" else 2, shape).astype(np.uint8)  # of four classes one is never labelled
    label[rng.random(shape) < 0.1] = IGNORE
    probability = class_probabilities(task, torch.from_numpy(logits))
    planes, sure = label_planes(task, torch.from_numpy(label)), SelfConfidence(task)
    for i in range(2):  # batch by batch
        sure.add(probability[i : i + 1], planes[i : i + 1])
    suggested, confidence = suspicious_labels(probability, planes, sure.thresholds)
    if kind == "multiclass":
        own = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        cases = [(own, label)]
    else:
        positive = 1 / (1 + np.exp(-logits))
        each = planes.numpy().swapaxes(0, 1)
        cases = [(np.stack([1 - p, p], axis=1), y) for p, y in zip(positive.swapaxes(0, 1), each, strict=True)]
    for plane, (own, labels) in enumerate(cases):
        samples = np.moveaxis(own, 1, -1).reshape(-1, own.shape[1])
        thresholds, expected = confident_learning(samples, labels.ravel())
        assert sure.thresholds[plane] == pytest.approx(thresholds, rel=1e-5)
        found = suggested[:, plane].ravel()
        assert (np.where(found == IGNORE, -1, found.astype(int)) == expected).all()
        some = expected >= 0
        assert 10 < some.sum() < len(some) / 2
        assert confidence[:, plane].ravel()[some] == pytest.approx(samples[some, expected[some]], rel=1e-5)


def test_flipped_blocks_come_first(tmp_path):
    """Two scenes of noisy but calibrated probabilities; in one two blocks of 32 px have another label than the truth."""
    rng, task, size, window = np.random.default_rng(1), make_task("multiclass", ("a", "b", "c")), (100, 130), 48
    truth = np.kron(rng.integers(0, 3, (2, 4, 5)), np.ones((1, 26, 26), int))[:, : size[0], : size[1]]
    logits = 3.0 * np.eye(3)[truth] + rng.normal(size=(*truth.shape, 3))
    draw = logits + rng.gumbel(size=logits.shape)
    label = draw.argmax(axis=-1).astype(np.uint8)  # as the probabilities say
    flipped = [(32, 96), (64, 32)]
    for row, column in flipped:
        block = (1, slice(row, row + 32), slice(column, column + 32))
        label[block] = (truth[block] + 1) % 3
    scenes = [Scene(f"s{i}", write_tif(tmp_path / f"{i}.tif", np.zeros((1, *size), np.uint8))) for i in range(2)]
    store = SimpleNamespace(sizes=np.array([size, size]), scenes=scenes)
    windows = GridWindows(store, window, 8)

    def batches():
        for number, core in enumerate(windows.cells):
            part = np.zeros((window, window, 3)), np.full((window, window), IGNORE, np.uint8)
            for target, whole in zip(part, (logits, label), strict=True):
                cut = whole[core.scene, core.top : core.top + window, core.left : core.left + window]
                target[: cut.shape[0], : cut.shape[1]] = cut
            inner = np.full_like(part[1], IGNORE)
            inside = slice(core.inner_top, core.inner_bottom), slice(core.inner_left, core.inner_right)
            inner[inside] = part[1][inside]
            yield number, torch.from_numpy(part[0]).permute(2, 0, 1)[None], label_planes(task, torch.from_numpy(inner)[None])

    sure = SelfConfidence(task)
    for _, own, labels in batches():
        sure.add(class_probabilities(task, own), labels)
    assert sure.pixels.sum() == label.size  # every pixel once
    doubts = Doubts("mask", task, store, 32, sure.thresholds)
    for number, own, labels in batches():
        doubts.add(windows, [number], own, labels)
    assert [row["labelled pixels"] for row in doubts.scenes] == [100 * 130] * 2
    assert doubts.scenes[1]["share"] > 2 * doubts.scenes[0]["share"]
    ranked = pd.concat(doubts.patches).sort_values("sum", ascending=False).to_dict("records")
    first = [row for row in ranked if row["pixels"] > 150]
    assert {(row["scene"], row["row"], row["column"]) for row in first} == {("s1", *place) for place in flipped}
    assert all((task.classes.index(row["suggested"]) + 1) % 3 == task.classes.index(row["labelled"]) for row in first)
    with rasterio.open(scenes[1].image) as file:
        own = ranked[0]
        assert (own["x"], own["y"]) == pytest.approx(file.xy(own["row"] + 16, own["column"] + 16, offset="ul"))
        assert own["crs"] == "EPSG:32633"


def squares(rng):
    """An image whose classes are plain to see: 0 everywhere, a square of 1 and one of 2."""
    mask = np.zeros((96, 96), np.uint8)
    for label in (1, 2):
        row, column = rng.integers(0, 56, 2)
        mask[row : row + 40, column : column + 40] = label
    return coloured(rng, mask), mask


@pytest.mark.slow
@pytest.mark.usefixtures("no_charts")
def test_a_scene_whose_labels_are_corrupted_after_training_comes_first(tmp_path, caplog):
    rng, root = np.random.default_rng(2), tmp_path / "data"
    for i in range(8):
        image, mask = squares(rng)
        write_tif(root / f"images/tile{i}.tif", image)
        write_tif(root / f"masks/tile{i}.tif", mask[None])
    words = folder_data(root)
    words[3] = "dataset.source.split={train: [tile0, tile1, tile2, tile3], val: [tile4, tile5, tile6, tile7]}"
    run = tmp_path / "run"
    train(settings(tmp_path, *words, "steps=60", "batch_size=4", "optimizer.lr=0.003", "loss=ce"), run)
    with rasterio.open(root / "masks/tile6.tif", "r+") as file:
        mask = file.read()
        file.write(np.where(mask == 1, np.uint8(2), mask))
    path = describe_noise(run)
    assert path == run / "noise.csv"
    scenes, patches = (list(csv.DictReader((run / name).open())) for name in ("noise-scenes.csv", "noise.csv"))
    assert scenes[0]["scene"] == patches[0]["scene"] == "tile6"
    assert (patches[0]["labelled"], patches[0]["suggested"]) == ("c", "b")
    assert [int(row["labelled pixels"]) for row in scenes] == [96 * 96] * 4
    assert int(scenes[0]["suspicious pixels"]) == sum(int(row["pixels"]) for row in patches if row["scene"] == "tile6")
    assert (run / "noise.png").stat().st_size > 10_000
    caplog.clear()
    describe_noise(run, "train")
    assert "has trained on these labels" in caplog.text
    assert (run / "noise-train.csv").is_file()
    with pytest.raises(InputError, match=r"split=tran.*train"):
        describe_noise(run, "tran")


@pytest.mark.usefixtures("no_charts")
def test_labels_that_may_overlap_are_doubted_one_by_one_and_values_not_at_all(tmp_path):
    rng, root, run = np.random.default_rng(3), tmp_path / "data", tmp_path / "run"
    for i in range(3):
        planes = np.stack([checker(rng, 64, 2), checker(rng, 64, 2)])
        write_tif(root / f"images/s{i}.tif", coloured(rng, planes.sum(axis=0)))
        write_tif(root / f"masks/s{i}.tif", planes)
    train(settings(tmp_path, *folder_data(root), "dataset.task=multilabel", "dataset.classes=[a,b]", "steps=20"), run)
    describe_noise(run)
    found = list(csv.DictReader((run / "noise.csv").open()))
    assert {(row["labelled"], row["suggested"]) for row in found} <= {
        (f"{one}{name}", f"{other}{name}") for name in "ab" for one, other in (("not ", ""), ("", "not "))
    }
    assert found
    heights = make_task("regression", ("height",))
    with pytest.raises(InputError, match="a regression run predicts no classes"):
        find_noise(SimpleNamespace(tasks={"height": heights}, task=heights), None, None, 32)


def test_what_a_run_has_no_use_for(tmp_path):
    command = [sys.executable, str(CONFIGS.parent / "scripts/describe.py"), f"run={tmp_path}", "window=64"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "window=64: a run has its own config" in ran.stderr
    with pytest.raises(InputError, match="is no run folder"):
        describe_noise(tmp_path)
    RunFolder(tmp_path).write_config(plain(settings(tmp_path, "dataset=synthetic")))
    RunFolder(tmp_path).checkpoints.mkdir()
    RunFolder(tmp_path).best.touch()
    with pytest.raises(InputError, match=r"is not finished: go on with .* resume="):
        describe_noise(tmp_path)
