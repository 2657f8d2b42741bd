"""What is made of a target: distances beside SciPy, weights by their formula, softened labels beside PyTorch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt
from torch.nn import functional as F

from rsseg.contract import IGNORE, InputError
from rsseg.losses import BinaryCrossEntropy, Composite, CrossEntropy, Dice, EdgeWeight, Huber, Lovasz
from rsseg.losses.derived_targets import borders, smoothed, squared_distance


def labels_of(seed, shape=(2, 24, 31), classes=3, ignored=0.1):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, classes, (shape[0], 4, 4)).repeat(8, axis=1).repeat(8, axis=2)[:, : shape[1], : shape[2]]
    coarse = np.where(rng.random(shape) < 0.02, rng.integers(0, classes, shape), coarse)
    return np.where(rng.random(shape) < ignored, IGNORE, coarse).astype(np.uint8)


def borders_by_hand(labels):
    """One pixel after the other."""
    found = np.zeros(labels.shape, bool)
    images, height, width = labels.shape
    for i, y, x in np.ndindex(images, height, width):
        for there in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if 0 <= there[0] < height and 0 <= there[1] < width:
                pair = labels[i, y, x], labels[i, *there]
                found[i, y, x] |= IGNORE not in pair and pair[0] != pair[1]
    return found


def test_borders_lie_between_labelled_pixels_of_different_labels():
    labels = labels_of(0)
    np.testing.assert_array_equal(borders(torch.from_numpy(labels)), borders_by_hand(labels))
    planes = np.stack([labels, labels_of(1)], axis=1)
    expected = borders_by_hand(planes[:, 0]) | borders_by_hand(planes[:, 1])
    np.testing.assert_array_equal(borders(torch.from_numpy(planes)), expected)


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.integers(1, 60), st.sampled_from([0.0, 0.001, 0.01, 0.2, 1.0]))
def test_distances_are_scipys_as_far_as_they_reach(seed, reach, share):
    rng = np.random.default_rng(seed)
    where = rng.random((2, 23, 40)) < share
    found = squared_distance(torch.from_numpy(where), reach).numpy()
    for ours, image in zip(found, where, strict=True):
        exact = distance_transform_edt(~image) ** 2 if image.any() else np.full(image.shape, np.inf)
        np.testing.assert_allclose(ours, np.where(exact <= reach**2 + 1e-6, exact, np.inf))


@pytest.mark.parametrize(("amount", "sigma"), [(10.0, 5.0), (-1.0, 2.0), (0.5, 0.4)])
def test_weights_follow_the_formula_and_are_1_from_three_sigma_on(amount, sigma):
    labels = np.full((1, 40, 64), 1, np.uint8)
    labels[0, :, :20], labels[0, 5:7, 50], labels[0, 30:, 15:40] = 0, 2, IGNORE
    found = EdgeWeight(amount, sigma)(torch.from_numpy(labels))[0].double().numpy()
    distance = distance_transform_edt(~borders_by_hand(labels)[0])
    expected = 1 + amount * np.exp(-(distance**2) / (2 * sigma**2))
    far = distance > np.ceil(3 * sigma)
    assert far.any()
    expected[far] = 1
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_without_a_border_every_pixel_weighs_1():
    assert (EdgeWeight()(torch.zeros(2, 8, 8, dtype=torch.uint8)) == 1).all()
    assert (EdgeWeight()(torch.full((1, 8, 8), IGNORE)) == 1).all()
    half = torch.zeros(1, 8, 8, dtype=torch.uint8)
    half[..., 4:] = IGNORE
    assert (EdgeWeight()(half) == 1).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"amount": -1.5}, "amount has to be a number of -1 or more; found -1.5"),
        ({"amount": "5"}, "amount has to be a number"),
        ({"sigma": 0}, "sigma has to be more than 0"),
        ({"sigma": 51}, "sigma has to be a number from 0 to 50; found 51"),
    ],
)
def test_edge_weights_out_of_range(arguments, message):
    with pytest.raises(InputError, match=message):
        EdgeWeight(**arguments)


def test_a_composite_multiplies_the_weights_of_border_and_batch():
    labels, logits = torch.from_numpy(labels_of(3)), torch.randn(2, 3, 24, 31, generator=torch.Generator().manual_seed(0))
    weight = torch.rand(2, 24, 31, generator=torch.Generator().manual_seed(1))
    weight[:, :4] = torch.nan
    edges, terms = EdgeWeight(4.0, 2.0), {"ce": (1.0, CrossEntropy("multiclass")), "lovasz": (1.0, Lovasz("multiclass"))}
    found = Composite(terms, task="multiclass", edge_weight=edges)
    for beside in (None, weight):
        expected = edges(labels) if beside is None else beside * edges(labels)
        assert found(logits, labels, beside).total == Composite(terms)(logits, labels, expected).total
    # by hand
    log_p = logits.double().log_softmax(1)
    own = -log_p.gather(1, labels.long().clamp(max=2).unsqueeze(1))[:, 0]
    counts = (weight.nan_to_num(0) * edges(labels)).double() * (labels != IGNORE)
    torch.testing.assert_close(found(logits, labels, weight).raw["ce"].double(), (own * counts).sum() / counts.sum())


def test_edge_weights_of_shares_are_those_of_their_labels():
    labels = labels_of(4, ignored=0)
    shares = torch.from_numpy(0.8 * np.eye(3)[labels].transpose(0, 3, 1, 2) + 0.2 / 3).float()
    loss = Composite({"ce": (1.0, CrossEntropy("multiclass"))}, task="multiclass", edge_weight=EdgeWeight())
    given = loss.given(torch.zeros(2, 3, 24, 31), shares)
    assert given.soft is shares
    assert torch.equal(given.weight, EdgeWeight()(torch.from_numpy(labels)))


@pytest.mark.parametrize("amount", [0.0, 0.1, 1.0])
def test_softened_labels_train_as_pytorch_smooths_them(amount):
    labels, logits = torch.from_numpy(labels_of(5)), torch.randn(2, 3, 24, 31, generator=torch.Generator().manual_seed(0))
    loss = Composite({"ce": (1.0, CrossEntropy("multiclass"))}, task="multiclass", label_smoothing=amount)
    expected = F.cross_entropy(logits.double(), labels.long(), ignore_index=IGNORE, label_smoothing=amount)
    torch.testing.assert_close(loss(logits.double(), labels).total, expected)
    both = torch.stack([labels.clamp(max=1), labels.flip(-1).clamp(max=1)], dim=1)
    y = both.double() * (1 - amount) + amount / 2
    loss = Composite({"bce": (1.0, BinaryCrossEntropy("multilabel"))}, task="multilabel", label_smoothing=amount)
    expected = F.binary_cross_entropy_with_logits(logits[:, :2].double(), y)
    torch.testing.assert_close(loss(logits[:, :2].double(), both).total, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_softened_labels_are_as_exact_as_logits(dtype):
    labels, logits = torch.tensor([[[0, 2]]]), torch.zeros(1, 3, 1, 2, dtype=dtype)
    loss = Composite({"ce": (1.0, CrossEntropy("multiclass"))}, task="multiclass", label_smoothing=0.1)
    shares = loss.given(logits, labels).soft
    assert shares.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    expected = np.array([0.9, 0, 0]) + 0.1 / 3
    np.testing.assert_allclose(shares[0, :, 0, 0], expected, rtol=4 * torch.finfo(shares.dtype).eps)


def test_softened_labels_by_their_formula():
    labels = torch.tensor([[[0, 2, IGNORE]]])
    shares = smoothed(labels, 3, "multiclass", 0.3)
    expected = [[0.8, 0.1, np.nan], [0.1, 0.1, np.nan], [0.1, 0.8, np.nan]]
    np.testing.assert_allclose(shares[0, :, 0], expected, rtol=1e-6)
    np.testing.assert_allclose(smoothed(torch.tensor([[[0, 1, IGNORE]]]), 1, "binary", 0.2)[0, 0, 0], [0.1, 0.9, np.nan])
    halves = torch.tensor([0.5, 0.5, 0.0]).view(1, 3, 1, 1)
    np.testing.assert_allclose(smoothed(halves, 3, "multiclass", 0.3).flatten(), [0.45, 0.45, 0.1], rtol=1e-6)


def test_terms_that_need_labels_get_them_unsoftened():
    labels, logits = torch.from_numpy(labels_of(6)), torch.randn(2, 3, 24, 31, generator=torch.Generator().manual_seed(0))
    terms = {
        "ce": (1.0, CrossEntropy("multiclass")),
        "dice": (1.0, Dice("multiclass")),
        "lovasz": (1.0, Lovasz("multiclass")),
        "binned": (1.0, Lovasz("multiclass", bins=64)),
    }
    loss = Composite(terms, task="multiclass", label_smoothing=0.2)
    found, shares = loss(logits, labels).raw, smoothed(labels, 3, "multiclass", 0.2)
    for name, (_, term) in terms.items():
        expected = term(logits, shares if term.soft else labels)
        torch.testing.assert_close(found[name], expected, msg=name)


def test_smoothing_and_edges_that_make_no_sense():
    with pytest.raises(InputError, match=r"label_smoothing has to be a number from 0 to 1; found 1\.5"):
        Composite({"ce": (1.0, CrossEntropy("binary"))}, task="binary", label_smoothing=1.5)
    with pytest.raises(InputError, match=r"label_smoothing=0\.1 changes nothing: lovasz take labels as they are"):
        Composite({"lovasz": (1.0, Lovasz("binary"))}, task="binary", label_smoothing=0.1)
    for more in ({"label_smoothing": 0.1}, {"edge_weight": EdgeWeight()}):
        with pytest.raises(InputError, match=r"need labels; found the task .regression."):
            Composite({"huber": (1.0, Huber("regression"))}, task="regression", **more)
