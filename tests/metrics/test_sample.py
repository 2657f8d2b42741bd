"""Every label of every scene is in the sample, and the logits are those of its pixels."""

import numpy as np
import pytest
import torch

from rsseg.contract import IGNORE
from rsseg.data.windows import grid
from rsseg.metrics import choose_pixels
from rsseg.metrics.counters import LogitSample
from rsseg.task import Binary, make_task

SIZES = np.array([[40, 50], [20, 64], [33, 32]])
CHANNELS = {"binary": 1, "multiclass": 3, "multilabel": 2}


def scenes(kind):
    """Masks, and logits that tell where they are from."""
    rng, task = np.random.default_rng(0), make_task(kind, tuple("abc"[: CHANNELS[kind]]))
    planes = (task.channels,) if task.separate else ()
    masks = [rng.choice([0, 1, task.labels - 1, IGNORE], (*planes, *size), p=[0.8, 0.1, 0.05, 0.05]) for size in SIZES]
    return task, [mask.astype(np.uint8) for mask in masks], [rng.normal(size=(task.channels, *size)) for size in SIZES]


@pytest.mark.parametrize("kind", CHANNELS)
def test_every_label_of_every_scene_is_kept_and_weighs_what_it_stands_for(kind):
    task, masks, _ = scenes(kind)
    pixels = choose_pixels(masks, 3, task, size=120)
    planes = task.channels if task.separate else 1
    most = 120 // (3 * planes * task.labels)
    for scene, mask in enumerate(masks):
        for plane, labels in enumerate(mask.reshape(planes, *mask.shape[-2:])):
            for label in range(task.labels):
                ours = (pixels.scene == scene) & (pixels.plane == plane) & (pixels.target == label)
                assert ours.sum() == min(most, (labels == label).sum())
                assert pixels.weight[ours].sum() == pytest.approx((labels == label).sum())
                assert (labels[pixels.row[ours], pixels.column[ours]] == label).all()
    places = list(zip(*pixels[:4], strict=True))
    assert len(set(places)) == len(places)


def test_all_pixels_are_equally_likely():
    chosen, mask = np.zeros(20), np.zeros((4, 5), dtype=np.uint8)
    for seed in range(600):
        pixels = choose_pixels([mask], 1, Binary(("a",)), size=10, seed=seed)
        chosen[pixels.row * 5 + pixels.column] += 1
    assert np.abs(chosen - 150).max() < 4.5 * (600 * 0.25 * 0.75) ** 0.5


def test_a_scene_without_labels_is_passed_over():
    assert choose_pixels([None, np.array([[1]])], 2, Binary(("a",))).scene.tolist() == [1]
    assert len(choose_pixels([None], 1, Binary(("a",))).weight) == 0


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("kind", CHANNELS)
def test_the_logits_are_those_of_the_pixels_however_windows_come(kind, batch):
    task, masks, logits = scenes(kind)
    cores, pixels = grid(SIZES, 32, 4), choose_pixels(masks, 3, task, size=300)
    sample = LogitSample(pixels, cores, task)
    for start in range(0, len(cores) + 1, batch):  # one beyond the last fills up a batch of several processes
        numbers = torch.arange(start, start + batch)
        windows = torch.full((batch, task.channels, 32, 32), torch.nan)
        for window, k in zip(windows, numbers.tolist(), strict=True):
            if k < len(cores):
                core = cores[k]
                part = logits[core.scene][:, core.top : core.top + 32, core.left : core.left + 32]
                window[:, : part.shape[1], : part.shape[2]] = torch.from_numpy(part)
        sample.update(windows, numbers)
    found = sample.compute()
    assert len(found.logits) == len(pixels.scene)
    for i, (scene, plane) in enumerate(zip(found.scene, found.plane, strict=True)):
        row, column = sample.pixels.row[i], sample.pixels.column[i]
        at = logits[scene][:, row, column]
        assert found.logits[i] == pytest.approx(at if task.exclusive else at[plane : plane + 1], rel=1e-5)
        assert masks[scene].reshape(-1, *SIZES[scene])[plane, row, column] == found.target[i]
