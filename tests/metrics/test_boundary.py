import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_erosion, gaussian_filter

from rsseg.contract import IGNORE
from rsseg.metrics.counters import Boundary
from rsseg.metrics.counters.boundary import boundary_counts, inner_band
from rsseg.task import Binary, Multiclass, Multilabel

BINARY = Binary(("a",))


def eroded_band(mask, width):
    """The paper's own way: a frame of background, 3 x 3 erosions, what they took away."""
    framed = np.pad(mask, 1)
    return mask & ~binary_erosion(framed, np.ones((3, 3)), iterations=width)[1:-1, 1:-1]


def blobs(seed, shape=(40, 56), classes=3):
    noise = np.random.default_rng(seed).normal(size=(classes, *shape))
    return gaussian_filter(noise, (0, 4, 4)).argmax(0).astype(np.uint8)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 9))
def test_the_band_is_what_erosion_takes_away(seed, width):
    labels = blobs(seed)
    bands = [eroded_band(labels == c, width) for c in range(3)]
    every = torch.ones(labels.shape, dtype=torch.bool)
    assert np.array_equal(inner_band(torch.from_numpy(labels), width, every).numpy(), np.any(bands, axis=0))


@pytest.mark.parametrize("task", [Binary(("a",)), Multiclass(("a", "b", "c")), Multilabel(("a", "b", "c"))])
def test_counts_equal_the_papers_definition(task):
    labels = [torch.from_numpy(np.stack([blobs(seed), blobs(seed + 1)])) for seed in (0, 10)]
    if task.kind == "binary":
        labels = [(x == 1).long() for x in labels]
    if task.kind == "multilabel":
        labels = [torch.stack([x == c for c in range(3)], 1).long() for x in labels]
    predicted, target = labels
    counts = boundary_counts(predicted, target, task, 0.03)
    assert counts.shape == (2, task.channels, 3)
    width = 2  # 0.03 of a diagonal of 68.8
    for scene in range(2):
        for c in range(task.channels):
            planes = [x[scene, c] == 1 if task.kind == "multilabel" else x[scene] == (c or task.channels == 1) for x in labels]
            if task.kind == "multiclass":
                planes = [x[scene] == c for x in labels]
            ours, theirs = (eroded_band(x.numpy(), width) for x in planes)
            expected = [(ours & theirs).sum(), (ours & ~theirs).sum(), (~ours & theirs).sum()]
            assert counts[scene, c].tolist() == expected


def test_a_shifted_square_by_hand():
    target, predicted = torch.zeros(2, 20, 20, dtype=torch.uint8)
    target[4:12, 4:12], predicted[4:12, 5:13] = 1, 1
    counts = boundary_counts(predicted, target, BINARY)  # rings of 28 pixels; in common 7 above, 7 below, none at the sides
    assert counts.tolist() == [[14, 14, 14]]


def test_unlabelled_pixels_neither_count_nor_make_a_contour():
    target = torch.zeros(30, 30, dtype=torch.uint8)
    target[:, :20] = 1
    predicted = target.clone()
    target[8:18, 4:10] = IGNORE
    predicted[8:18, 4:10] = 0  # whatever is said there
    target[20:, 20:] = IGNORE
    counts = boundary_counts(predicted, target, BINARY, 1e-6)
    frame = 30 + 2 * 18 + 30  # the left border, top and bottom, and the edge at column 19 with all its rows ...
    assert counts.tolist() == [[frame - 8, 0, 0]]  # ... but 21 to 28, none of whose neighbours on the right is labelled


def test_streaming_sums_scenes():
    metric = Boundary(BINARY, scenes=3)
    masks = torch.from_numpy(np.stack([blobs(s, classes=2) for s in range(2)]))
    metric.update(masks, masks, torch.tensor([2, 0]))
    assert metric.compute()[2].tolist() == boundary_counts(masks[0], masks[0], BINARY).tolist()
    assert metric.compute()[1].sum() == 0
