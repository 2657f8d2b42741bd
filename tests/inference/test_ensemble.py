import numpy as np
import pytest
import torch
from scipy.stats import entropy as scipy_entropy
from torch import nn

from rsseg.contract import InputError
from rsseg.inference.ensemble import VIEWS, Ensemble, disagreement, entropy
from rsseg.inference.trained import Head, Spec, TrainedModel
from rsseg.task import Binary, Centres, Multiclass, Multilabel, Regression, Scaling

THREE = Multiclass(("land", "water", "road"))


class Heads(nn.Module):
    """A convolution per head."""

    def __init__(self, tasks, size=1, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.ModuleDict({name: nn.Conv2d(3, task.outputs, size, padding=size // 2) for name, task in tasks.items()})

    def forward(self, image):
        return {name: layer(image) for name, layer in self.layers.items()}


def model(task, size=1, seed=0, threshold=None, scaling=None):
    heads = {"mask": Head(task, None, threshold, scaling or {})}
    spec = Spec(f"run{seed}", heads, (1, 2, 3), (100.0,) * 3, (30.0,) * 3, 64, 8, 4, "uint8", quality=0.5 + 0.1 * seed)
    return TrainedModel(Heads({"mask": task}, size, seed), spec)


def pixels(height=64, width=96):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 255, (2, 3, height, width), dtype=np.uint8))


@pytest.mark.parametrize("tta", ["flips", "d4"])
@pytest.mark.parametrize("task", [THREE, Binary(("a",)), Multilabel(("a", "b")), Regression(("h",), mean=(3.0,), std=(2.0,))])
@torch.inference_mode()
def test_views_of_a_network_without_directions_agree(tta, task):
    """A 1 x 1 convolution sees no direction, so that all views say the same, and nothing disagrees."""
    one, many = Ensemble([model(task)]), Ensemble([model(task)], tta=tta, disagreement=True)
    plain, turned = one(pixels())["mask"], many(pixels())["mask"]
    torch.testing.assert_close(turned[:, : task.outputs], plain, rtol=1e-4, atol=1e-5)
    assert turned.shape[1] == many.planes("mask")
    assert disagreement(turned, task).max() < 0.02


@torch.inference_mode()
def test_d4_makes_any_network_equivariant():
    """The mean over the group turns with the image: seen by rotating the input by hand."""
    ensemble, image = Ensemble([model(THREE, size=3)], tta="d4"), pixels(64, 64)
    once = ensemble(image)["mask"]
    turned = ensemble(torch.rot90(image, 1, (2, 3)))["mask"]
    torch.testing.assert_close(torch.rot90(once, 1, (2, 3)), turned, rtol=1e-4, atol=1e-5)
    assert len(set(VIEWS["d4"])) == 8
    alone = Ensemble([model(THREE, size=3)])
    assert (torch.rot90(alone(image)["mask"], 1, (2, 3)) - alone(torch.rot90(image, 1, (2, 3)))["mask"]).abs().max() > 0.01


@torch.inference_mode()
def test_objects_turn_with_the_image():
    """Heat, sides and offsets of a turned image, turned back by the definition of `Centres.standardise`."""
    task = Centres(("car",))
    ensemble, image = Ensemble([model(task, size=3)], tta="d4"), pixels(64, 64)
    once, flipped = ensemble(image)["mask"], ensemble(image.flip(-1))["mask"].flip(-1)
    flipped[:, -1] = 1 - flipped[:, -1]
    torch.testing.assert_close(once, flipped, rtol=1e-4, atol=1e-5)
    transposed = ensemble(image.transpose(2, 3))["mask"].transpose(2, 3)
    torch.testing.assert_close(once[:, [0, 2, 1, 4, 3]], transposed, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_scales_keep_the_size_and_are_close():
    smooth = nn.functional.avg_pool2d(pixels().float(), 9, 1, 4)
    one, many = Ensemble([model(THREE)]), Ensemble([model(THREE)], tta="scales")
    apart = (one(smooth)["mask"] - many(smooth)["mask"]).abs()
    assert apart.mean() < 0.02
    with pytest.raises(InputError, match="tta=scales: head mask finds objects"):
        Ensemble([model(Centres(("car",)))], tta="scales")


@torch.inference_mode()
def test_an_ensemble_is_the_weighted_mean_of_probabilities():
    members = [model(THREE, seed=seed) for seed in range(3)]
    weights = [0.5, 0.6, 0.7]  # their validation scores
    found = Ensemble(members, "quality")(pixels())["mask"]
    each = np.stack([member(pixels())["mask"].double().softmax(1).numpy() for member in members])
    np.testing.assert_allclose(found.numpy(), np.average(each, axis=0, weights=weights), atol=1e-6)
    np.testing.assert_allclose(found.sum(1).numpy(), 1, atol=1e-5)


@pytest.mark.parametrize("task", [THREE, Binary(("a",)), Multilabel(("a", "b"))])
@torch.inference_mode()
def test_entropy_and_disagreement_are_scipys(task):
    members = [model(task, seed=seed) for seed in range(3)]
    found = Ensemble(members, disagreement=True)(pixels(8, 8))["mask"]
    each = np.stack([task.activate(member(pixels(8, 8))["mask"].double()).numpy() for member in members])

    def bits(p):
        if task.exclusive:
            return scipy_entropy(p, axis=-3, base=task.channels)[..., None, :, :]
        return scipy_entropy(np.stack([p, 1 - p]), axis=0, base=2)

    np.testing.assert_allclose(entropy(found[:, : task.outputs], task).numpy(), bits(each.mean(0)), atol=1e-4)
    information = bits(each.mean(0)) - bits(each).mean(0)
    np.testing.assert_allclose(disagreement(found, task).numpy(), information, atol=1e-4)
    assert disagreement(found, task).max() > 0.01


@torch.inference_mode()
def test_values_disagree_by_their_standard_deviation():
    task = Regression(("height",), mean=(10.0,), std=(5.0,))
    members = [model(task, seed=seed) for seed in range(4)]
    found = Ensemble(members, disagreement=True)(pixels(8, 8))["mask"]
    each = torch.stack([task.activate(member(pixels(8, 8))["mask"]) for member in members])
    torch.testing.assert_close(disagreement(found, task), each.std(0, correction=0), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("task", [THREE, Binary(("a",)), Multilabel(("a", "b"))])
@pytest.mark.parametrize("scaling", ["none", "temperature"])
@torch.inference_mode()
def test_tuned_labels_of_probabilities_are_those_of_logits(task, scaling):
    """`Task.decide` of scaled probabilities at their thresholds gives what `Task.predict` gives of bare logits."""
    threshold = tuple(np.random.default_rng(1).normal(size=task.channels).tolist())
    scale = {"temperature": Scaling((0.6,) * task.channels, (0.0,) * task.channels)}
    ensemble = Ensemble([model(task, threshold=threshold, scaling=scale)], scaling=scaling)
    logits = model(task)(pixels())["mask"]
    expected = task.predict(logits, torch.tensor(threshold))
    found = task.decide(ensemble(pixels())["mask"], ensemble.thresholds["mask"])
    assert (found == expected).float().mean() > 0.9999
    assert (expected != task.predict(logits)).any()


def test_networks_that_differ_are_not_averaged():
    with pytest.raises(InputError, match=r"run0 and run1 can't be averaged: their classes of mask are .*road.* and .*roof"):
        Ensemble([model(THREE), model(Multiclass(("land", "water", "roof")), seed=1)])
    with pytest.raises(InputError, match=r"tta=d8.*: none, flips, d4 or scales is expected"):
        Ensemble([model(THREE)], tta="d8")
