"""A half's value is that of its pixels as one batch, however they came."""

import numpy as np
import pytest
import torch

from rsseg.compare.panel import PANEL, PanelSums
from rsseg.config.build import TERM, build
from rsseg.contract import IGNORE
from rsseg.losses import Composite, CrossEntropy, Dice, Lovasz
from rsseg.task import Binary, make_task

CHANNELS = {"binary": 1, "multiclass": 3, "multilabel": 2}


def case(task):
    """Seven windows of three scenes, one of them with ignored pixels, one with none labelled."""
    draw, channels = torch.Generator().manual_seed(3), CHANNELS[task]
    task = make_task(task, tuple("abc"[:channels]))
    logits = 2 * torch.randn(7, channels, 6, 5, generator=draw, dtype=torch.float64)
    shape = (7, channels, 6, 5) if task.kind == "multilabel" else (7, 6, 5)
    target = torch.randint(0, task.labels, shape, generator=draw, dtype=torch.uint8)
    target[1, ..., :2], target[5] = IGNORE, IGNORE
    return task, logits, target, torch.tensor([0, 0, 1, 1, 2, 2, 2])


def panel(task):
    weights = {"class_weights": [0.5, 1.0, 1.5]} if task == "multiclass" else {"pos_weight": [3.0] * CHANNELS[task]}
    nodes = {name: dict(node) for name, node in PANEL.items()}
    del nodes["weighted_ce"]["class_weights"]
    nodes["weighted_ce"] |= weights
    return {name: build(node, name, TERM, task=task) for name, node in nodes.items()}


@pytest.mark.parametrize("sizes", [[7], [1] * 7, [3, 3, 1]])
@pytest.mark.parametrize("task", CHANNELS)
def test_values_are_those_of_a_half_as_one_batch(task, sizes):
    task, logits, target, scene = case(task)
    first = np.array([True, False, True])
    sums = PanelSums(task, panel(task.kind), first)
    for part in torch.split(torch.arange(7), sizes):
        sums.update(logits[part], target[part], scene[part])
    values = sums.values()
    for half, chosen in enumerate((first, ~first)):
        here = torch.from_numpy(chosen)[scene]
        expected = [float(term(logits[here], target[here])) for term in panel(task.kind).values()]  # no sums in between
        assert values[:, half] == pytest.approx(expected, rel=1e-6), list(PANEL)
    sums.reset()
    assert np.isnan(sums.values()).all()


def test_a_composition_is_valued_as_one_of_them():
    """Its own weights, a weighted term among them, and a term of weight 0 that has no such sums."""
    task, logits, target, scene = case("multiclass")
    weighed = CrossEntropy("multiclass", class_weights=[0.5, 1.0, 1.5], label_smoothing=0.1)
    terms = {"ce": (0.3, weighed), "dice": (2.0, Dice("multiclass")), "off": (0.0, Lovasz("multiclass"))}
    loss, first = Composite(terms), np.array([True, False, True])
    sums = PanelSums(task, {**panel("multiclass"), "own": loss}, first)
    sums.update(logits, target, scene)
    for half, chosen in enumerate((first, ~first)):
        here = torch.from_numpy(chosen)[scene]
        assert sums.values()[-1, half] == pytest.approx(float(loss(logits[here], target[here]).total), rel=1e-6)


def test_dice_and_cross_entropy_by_hand():
    """p = 1/2 everywhere: Dice of 3 positives among 4 pixels is 1 - (3 + 1) / (3/2 + 1/2 + 3 + 1), CE is log 2."""
    task = Binary(("a",))
    sums = PanelSums(task, panel("binary"), np.array([True, False]))
    target = torch.tensor([1, 1, 1, 0], dtype=torch.uint8).view(4, 1, 1)
    sums.update(torch.zeros(4, 1, 1, 1), target, torch.zeros(4, dtype=torch.int64))
    values = dict(zip(PANEL, sums.values(), strict=True))
    assert values["dice"][0] == pytest.approx(1 - 4 / 6)
    assert values["ce"][0] == pytest.approx(np.log(2))
    assert values["weighted_ce"][0] == pytest.approx((3 * 3 + 1) / 4 * np.log(2))
    assert np.isnan([value[1] for value in values.values()]).all()  # the second half has no pixel
