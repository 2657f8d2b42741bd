"""The losses of objects against NumPy in float64, and the contract of losses."""

import numpy as np
import pytest
import torch

from rsseg.contract import InputError
from rsseg.losses import Composite, CrossEntropy, HeatFocal, OffsetSmoothL1, SizeSmoothL1

CLASSES = 2
TERMS = {
    "heat": HeatFocal,
    "heat_steep": lambda: HeatFocal(alpha=3.0, beta=1.5),
    "size": lambda: SizeSmoothL1(beta=0.7),
    "offset": lambda: OffsetSmoothL1(beta=0.2),
}


def batch(seed=0, shape=(2, 5, 6), dtype=torch.float64):
    """Random logits, heat, sizes and offsets at three centres an image, and a seventh of the pixels unknown."""
    rng = np.random.default_rng(seed)
    images, height, width = shape
    logits = rng.normal(0, 2, (images, CLASSES + 4, height, width))
    target = np.full_like(logits, np.nan)
    target[:, :CLASSES] = rng.uniform(0, 0.95, (images, CLASSES, height, width)) ** 3
    for image in range(images):
        for place in rng.choice(height * width, 3, replace=False):
            where = image, slice(None), place // width, place % width
            target[where][rng.integers(CLASSES)] = 1
            target[where][CLASSES:] = [*rng.normal(0, 1, 2), *rng.uniform(0, 1, 2)]
    target.transpose(0, 2, 3, 1)[rng.random((images, height, width)) < 1 / 7] = np.nan
    return torch.from_numpy(logits).to(dtype), torch.from_numpy(target).to(dtype)


def reference(name, logits, target, weight=None):
    """The loss by a loop over pixels."""
    z, t = logits.double().numpy(), target.double().numpy()
    w = np.ones((len(z), *z.shape[2:])) if weight is None else weight.double().numpy()
    if name.startswith("heat"):
        alpha, beta = (3.0, 1.5) if name == "heat_steep" else (2.0, 4.0)
        total = centres = 0.0
        for b, c, i, j in np.ndindex(len(z), CLASSES, *z.shape[2:]):
            y, p = t[b, c, i, j], 1 / (1 + np.exp(-z[b, c, i, j]))
            if np.isnan(y) or not w[b, i, j] > 0:
                continue
            cost = (1 - p) ** alpha * np.log(p) if y == 1 else (1 - y) ** beta * p**alpha * np.log(1 - p)
            total -= w[b, i, j] * cost
            centres += w[b, i, j] * (y == 1)
        return total / (centres or 1)
    planes, beta = ((-4, -3), 0.7) if name == "size" else ((-2, -1), 0.2)
    total = share = 0.0
    for b, c, i, j in ((b, c, i, j) for b, i, j in np.ndindex(w.shape) for c in planes):
        error = abs(z[b, c, i, j] - t[b, c, i, j])
        if np.isnan(error) or not w[b, i, j] > 0:
            continue
        total += w[b, i, j] * (error**2 / (2 * beta) if error < beta else error - beta / 2)
        share += w[b, i, j]
    return total / share


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("weighted", [False, True])
def test_values_are_numpys(name, weighted):
    logits, target = batch()
    weight = torch.rand(2, 5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64) if weighted else None
    if weight is not None:
        weight[:, 0] = 0
    value = TERMS[name]()(logits, target, weight)
    assert value.dtype == torch.float64
    assert float(value) == pytest.approx(reference(name, logits, target, weight), rel=1e-12)


def test_without_centres_the_heat_is_divided_by_one():
    logits, target = batch(seed=4)
    target[target == 1] = 0.5
    target[:, CLASSES:] = torch.nan
    assert float(HeatFocal()(logits, target)) == pytest.approx(reference("heat", logits, target), rel=1e-12)
    assert float(SizeSmoothL1()(logits, target)) == 0


def test_the_papers_sum():
    logits, target = batch(seed=6)
    terms = {"heat": (1.0, HeatFocal()), "size": (0.1, SizeSmoothL1(beta=0.7)), "offset": (1.0, OffsetSmoothL1(beta=0.2))}
    expected = sum(w * reference(name, logits, target) for name, w in [("heat", 1.0), ("size", 0.1), ("offset", 1.0)])
    assert float(Composite(terms)(logits, target).total) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: HeatFocal(alpha=0.5), "alpha has to be a number of 1 or more; found 0.5"),
        (lambda: HeatFocal(beta=-1), "beta has to be a number of 0 or more"),
        (lambda: SizeSmoothL1(beta=0), "beta has to be more than 0"),
        (lambda: HeatFocal("binary"), "HeatFocal fits the tasks centres; found 'binary'"),
        (lambda: CrossEntropy("centres"), "CrossEntropy fits the tasks .* choose another loss for this head, such as centres"),
        (lambda: HeatFocal()(torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2)), r"logits \[B, K \+ 4, H, W\]"),
        (
            lambda: HeatFocal()(torch.zeros(1, 5, 2, 2), torch.zeros(1, 2, 2)),
            r"has the same shape; found torch.float32 \[1, 2, 2\]",
        ),
        (
            lambda: HeatFocal()(torch.zeros(1, 5, 2, 2), torch.full((1, 5, 2, 2), 7.0)),
            "the target holds the heat 7, but heat lies",
        ),
    ],
)
def test_mistakes(call, message):
    with pytest.raises(InputError, match=message):
        call()
