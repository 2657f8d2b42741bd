"""A half's value is that of its pixels as one batch, however they came."""

import numpy as np
import pytest
import torch

from rsseg.config.build import TERM, build
from rsseg.contract import IGNORE
from rsseg.losses import MSE, RMSE, Composite, CrossEntropy, Dice, EdgeWeight, Jaccard, Lovasz, SplitLosses
from rsseg.task import Binary, Regression, make_task
from rsseg.training.recorder import PANEL

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


def of_split(task, loss, first, sizes, logits, target, scene, weight=None, **options):
    losses = SplitLosses(loss, task, first, **options)
    for part in torch.split(torch.arange(len(scene)), sizes):
        losses.update(logits[part], target[part], scene[part], None if weight is None else weight[part])
    return losses.values()


FIRST = np.array([True, False, True])


@pytest.mark.parametrize("sizes", [[7], [1] * 7, [3, 3, 1]])
@pytest.mark.parametrize("task", CHANNELS)
def test_values_are_those_of_a_half_as_one_batch(task, sizes):
    task, logits, target, scene = case(task)
    loss = Composite({"dice": (0.5, Dice(task.kind)), "ce": (2.0, CrossEntropy(task.kind))})
    found = of_split(task, loss, FIRST, sizes, logits, target, scene, panel=panel(task.kind))
    for half, chosen in enumerate((FIRST, ~FIRST, np.ones(3, dtype=bool))):
        here = torch.from_numpy(chosen)[scene]
        expected = [float(term(logits[here], target[here])) for term in panel(task.kind).values()]  # no sums in between
        if half < 2:
            assert found.panel[:, half] == pytest.approx(expected, rel=1e-6), list(PANEL)
            assert found.own[half] == pytest.approx(float(loss(logits[here], target[here]).total), rel=1e-6)
        for name, part in loss(logits[here], target[here]).weighted.items():
            assert found.weighted[name][half] == pytest.approx(float(part), rel=1e-6)
    assert found.labelled == int((target != IGNORE).sum())


@pytest.mark.parametrize("extra", [{"label_smoothing": 0.1}, {"edge_weight": EdgeWeight(5.0, 2.0)}, {}])
def test_what_trains_sees_softened_labels_and_weights_and_the_panel_does_not(extra):
    """A term of weight 0 that is no function of sums takes no part in the loss, and one of its own class weights does."""
    task, logits, target, scene = case("multiclass")
    weight = torch.rand(7, 6, 5, dtype=torch.float64) if not extra else None
    weighed = CrossEntropy("multiclass", class_weights=[0.5, 1.0, 1.5])
    terms = {"ce": (0.3, weighed), "dice": (2.0, Dice("multiclass")), "off": (0.0, Lovasz("multiclass"))}
    loss = Composite(terms, task="multiclass", **extra)
    found = of_split(task, loss, FIRST, [3, 4], logits, target, scene, weight, panel=panel("multiclass"))
    for half, chosen in enumerate((FIRST, ~FIRST)):
        here = torch.from_numpy(chosen)[scene]
        own = loss(logits[here], target[here], None if weight is None else weight[here])
        assert found.own[half] == pytest.approx(float(own.total), rel=1e-6)
        expected = [float(term(logits[here], target[here])) for term in panel("multiclass").values()]
        assert found.panel[:, half] == pytest.approx(expected, rel=1e-6)


def test_a_term_that_is_no_function_of_sums_is_averaged_by_labelled_pixels():
    task, logits, target, scene = case("binary")
    terms = {"lovasz": (1.0, Lovasz("binary")), "jaccard": (1.0, Jaccard("binary", over="image"))}
    found = of_split(task, Composite(terms), FIRST, [2, 2, 3], logits, target, scene)
    assert np.isnan(found.own).all()
    parts = torch.split(torch.arange(7), [2, 2, 3])
    mass = [float((target[part] != IGNORE).sum()) for part in parts]
    for name, (_, term) in terms.items():
        values = [float(term(logits[part], target[part])) for part in parts]
        assert found.raw[name][2] == pytest.approx(np.average(values, weights=mass), rel=1e-6)


def test_losses_of_real_values_are_of_the_mean_of_a_half():
    rng, task = np.random.default_rng(0), Regression(("height",), units=("m",))
    error, scene = rng.normal(size=(6, 1, 4, 4)), torch.tensor([0, 0, 1, 1, 2, 2])
    target = torch.zeros(6, 1, 4, 4, dtype=torch.float64)
    target[3] = torch.nan
    loss = Composite({"mse": (1.0, MSE()), "rmse": (2.0, RMSE())})
    found = of_split(task, loss, FIRST, [1, 2, 3], torch.from_numpy(error), target, scene)
    squares = [np.mean(error[[0, 1, 4, 5]] ** 2), np.mean(error[2] ** 2)]
    assert found.own == pytest.approx([m + 2 * m**0.5 for m in squares])
    assert found.raw["mse"][2] == pytest.approx(np.mean(error[[0, 1, 2, 4, 5]] ** 2))
    assert found.panel.shape == (0, 2)


def test_dice_and_cross_entropy_by_hand():
    """p = 1/2 everywhere: Dice of 3 positives among 4 pixels is 1 - (3 + 1) / (3/2 + 1/2 + 3 + 1), CE is log 2."""
    target = torch.tensor([1, 1, 1, 0], dtype=torch.uint8).view(4, 1, 1)
    loss, zero = Composite({"ce": (1.0, CrossEntropy("binary"))}), torch.zeros(4, dtype=torch.int64)
    found = of_split(
        Binary(("a",)), loss, np.array([True, False]), [4], torch.zeros(4, 1, 1, 1), target, zero, panel=panel("binary")
    )
    values = dict(zip(PANEL, found.panel, strict=True))
    assert values["dice"][0] == pytest.approx(1 - 4 / 6)
    assert values["ce"][0] == pytest.approx(np.log(2))
    assert values["weighted_ce"][0] == pytest.approx((3 * 3 + 1) / 4 * np.log(2))
    assert np.isnan([*(value[1] for value in values.values()), found.own[1]]).all()  # the second half has no pixel
