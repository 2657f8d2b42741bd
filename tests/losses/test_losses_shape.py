"""Boundary loss and clDice: against brute force and the papers' properties."""

import numpy as np
import pytest
import torch
from losses_cases import CHANNELS, batch
from torch.nn import functional as F

from rsseg.contract import IGNORE, InputError
from rsseg.losses import Boundary, ClDice
from rsseg.losses.terms.shape import soft_skeleton

TASKS = list(CHANNELS)


def planes(logits, target, task):
    """Probability, membership and validity of every class of every image, in NumPy."""
    p = (logits.softmax(1) if task == "multiclass" else logits.sigmoid()).numpy()
    t = target.numpy()
    for b, c in np.ndindex(p.shape[:2]):
        labels = t[b, c] if task == "multilabel" else t[b]
        yield c, p[b, c], labels == (c if task == "multiclass" else 1), labels != IGNORE


def distance_by_hand(own, valid):
    """To the nearest pixel of the other kind, less the half pixel to their border; every pair of pixels compared."""
    other = valid & ~own
    phi = np.zeros(own.shape)
    if own.any() and other.any():
        for i, j in np.ndindex(own.shape):
            there = np.argwhere(other if own[i, j] else own)
            far = np.sqrt(((there - [i, j]) ** 2).sum(1)).min() - 0.5
            phi[i, j] = -far if own[i, j] else far
    return phi


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("classes", ["all", "present", [0]])
def test_boundary_by_hand(task, classes):
    for seed in range(4):
        logits, target = batch(task, seed, size=(5, 6))
        target[0][target[0] == (1 if seed else 0)] = 2 if task == "multiclass" else 0
        total = count = 0.0
        for c, p, own, valid in planes(logits, target, task):
            if (classes == [0] and c) or (classes == "present" and not own.any()):
                continue
            total, count = total + (distance_by_hand(own, valid) * p)[valid].sum(), count + valid.sum()
        value = Boundary(task, classes=classes)(logits, target)
        assert value.item() == pytest.approx(total / count if count else 0, abs=1e-6)


def test_boundary_is_least_for_the_truth_and_grows_with_distance():
    target = torch.zeros(1, 9, 9, dtype=torch.long)
    target[0, 3:6, 3:6] = 1
    truth = (target.unsqueeze(1) * 2.0 - 1) * 99
    near, far = truth.clone(), truth.clone()
    near[0, 0, 4, 6], far[0, 0, 4, 8] = 99, 99
    values = [Boundary("binary")(x, target) for x in (truth, near, far)]
    assert values[0] < values[1] < values[2]
    assert values[0] < 0


def skeleton_by_hand(x, iterations):
    """The paper's algorithm 1 with loops over pixels: erosion over a cross, dilation over a square, inside the image."""

    def over(x, offsets, choose):
        found = np.zeros_like(x)
        for i, j in np.ndindex(x.shape):
            around = [(i + a, j + b) for a, b in offsets if 0 <= i + a < x.shape[0] and 0 <= j + b < x.shape[1]]
            found[i, j] = choose(x[k] for k in around)
        return found

    def eroded(x):
        return over(x, [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)], min)

    def opened(x):
        return over(eroded(x), [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)], max)

    skeleton = np.maximum(x - opened(x), 0)
    for _ in range(iterations):
        x = eroded(x)
        skeleton = skeleton + (1 - skeleton) * np.maximum(x - opened(x), 0)
    return skeleton


@pytest.mark.parametrize("iterations", [0, 1, 3])
def test_skeleton_by_hand(iterations):
    x = torch.rand(1, 2, 7, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = soft_skeleton(x, iterations)
    for c in range(2):
        np.testing.assert_allclose(found[0, c], skeleton_by_hand(x[0, c].numpy(), iterations), atol=1e-12)


@pytest.mark.parametrize("task", TASKS)
def test_cl_dice_by_hand(task):
    logits, target = batch(task, 3, size=(6, 7))
    sums = np.zeros((logits.shape[1], 4))
    for c, p, own, valid in planes(logits, target, task):
        p = np.where(valid, p, 0.0)
        thin_p, thin_y = skeleton_by_hand(p, 2), skeleton_by_hand(own.astype(float), 2)
        sums[c] += [(thin_p * own).sum(), thin_p.sum(), (thin_y * p).sum(), thin_y.sum()]
    precision, sensitivity = (sums[:, 0] + 0.5) / (sums[:, 1] + 0.5), (sums[:, 2] + 0.5) / (sums[:, 3] + 0.5)
    expected = np.mean(1 - 2 * precision * sensitivity / (precision + sensitivity))
    assert ClDice(task, iterations=2, smooth=0.5)(logits, target).item() == pytest.approx(expected, abs=1e-12)


def test_cl_dice_minds_a_gap_more_than_a_narrower_road():
    road = torch.zeros(1, 9, 21, dtype=torch.long)
    road[0, 3:6] = 1
    narrow, broken = road.clone(), road.clone()
    narrow[0, 3] = narrow[0, 5] = 0  # 42 pixels are missing
    broken[0, :, 9:12] = 0  # 9 pixels are missing
    loss = [ClDice("binary")((x.unsqueeze(1) * 2.0 - 1) * 99, road) for x in (road, narrow, broken)]
    assert loss[0] == pytest.approx(0, abs=1e-6)
    assert loss[1] < loss[2]


def test_monai_has_the_same_skeleton():
    cldice = pytest.importorskip("monai.losses.cldice")
    x = torch.rand(1, 1, 9, 9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(soft_skeleton(x, 3), cldice.soft_skel(x, 3))


def test_what_is_refused():
    for build in (lambda: ClDice("binary", iterations=-1), lambda: ClDice("binary", smooth=0), lambda: Boundary("regression")):
        with pytest.raises(InputError):
            build()


def test_ignored_pixels_are_part_of_no_structure():
    target = torch.zeros(1, 5, 7, dtype=torch.long)
    target[0, 2] = 1
    logits = (target.unsqueeze(1) * 2.0 - 1) * 9
    hidden = target.clone()
    hidden[0, 2, 3] = IGNORE
    flipped = torch.where(hidden.unsqueeze(1) == IGNORE, -logits, logits)
    for term in (Boundary("binary"), ClDice("binary")):
        assert term(logits, hidden) == term(flipped, hidden)
    assert F.relu(ClDice("binary")(logits, hidden)) < 1e-3
