"""What is trained beside the heads: coarser outputs of the decoder, and a classifier."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from networks import ARCHITECTURES, TASKS, network
from torch.nn import functional as F

from rsseg.contract import IGNORE, InputError
from rsseg.losses import Composite, CrossEntropy
from rsseg.losses.derived_targets import presence, presence_loss
from rsseg.models import freeze_idle
from rsseg.models.supervision import coarser_stages, decode
from rsseg.module import SegmentationModule
from rsseg.task import Binary, Multiclass, Multilabel, Regression

LEVELS = {"unet": 4, "unetplusplus": 4, "manet": 4, "linknet": 4, "fpn": 3, "upernet": 3}
ONE = {"mask": TASKS["mask"]}
IMAGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("architecture", "levels"), LEVELS.items())
def test_every_level_is_coarser_than_the_one_before(architecture, levels):
    net = network(architecture).eval()
    encoded = (net.net.encoder(IMAGE),)
    output, stages = decode(net.net.decoder, encoded, levels)
    assert torch.equal(output, net.net.decoder(*encoded))
    sides = [output.shape[-1], *(stage.shape[-1] for stage in stages)]
    assert all(finer == 2 * coarser for finer, coarser in pairwise(sides))
    assert [stage.shape[1] for stage in stages] == [channels for _, channels in coarser_stages(net.net.decoder)]


@pytest.mark.parametrize(("architecture", "levels"), LEVELS.items())
def test_auxiliary_logits_are_those_of_a_convolution_upsampled(architecture, levels):
    net = network(architecture, aux=levels, heads={"edge": {"decoder": "own"}}).train()
    seen = []
    for stage, _ in coarser_stages(net.branch("edge").decoder)[:levels]:
        stage.register_forward_hook(lambda module, inputs, output: seen.append(output))
    found = net(IMAGE)
    assert list(found)[:3] == list(TASKS)
    assert set(found) - set(TASKS) == {f"{head}/aux{level}" for head in TASKS for level in range(1, levels + 1)}
    for head, task in TASKS.items():
        for level in range(1, levels + 1):
            assert found[f"{head}/aux{level}"].shape == (2, task.channels, 64, 64)
    seen.sort(key=lambda features: -features.shape[-1])
    for level, (conv, features) in enumerate(zip(net.aux["edge"], seen, strict=True), start=1):
        z = torch.einsum("oi,bihw->bohw", conv.weight[:, :, 0, 0], features) + conv.bias.view(-1, 1, 1)
        torch.testing.assert_close(found[f"edge/aux{level}"], F.interpolate(z, size=(64, 64), mode="bilinear"))


def test_the_heads_logits_are_the_same_with_and_without():
    plain, more = network(), network(aux=2, classifier=0.1)
    assert plain.state_dict().keys() == {name for name in more.state_dict() if name.startswith("net.")}
    for mode in (True, False):
        ours, theirs = more.train(mode)(IMAGE), plain.train(mode)(IMAGE)
        assert set(theirs) == set(TASKS)
        for head in TASKS:
            assert torch.equal(ours[head], theirs[head])
    assert set(more(IMAGE)) == set(TASKS)  # in evaluation


def test_an_exported_network_knows_nothing_of_it():
    net = network(decoder="own", aux=2, classifier=0.1).eval()
    exported = torch.export.export(net, (IMAGE,))
    names = exported.graph_signature.inputs_to_parameters
    used = {names[node.name] for node in exported.graph.nodes if node.name in names and node.users}
    assert used == {name for name, _ in net.named_parameters() if name.startswith(("net.", "branches."))}
    for head, z in exported.module()(IMAGE).items():
        torch.testing.assert_close(z, net(IMAGE)[head])


def test_gradients_of_a_level_end_at_its_stage():
    net = network(tasks=ONE, aux=2).train()
    net(IMAGE)["mask/aux2"].square().sum().backward()
    blocks = net.net.decoder.blocks
    reached = [all(p.grad is not None and p.grad.any() for p in block.parameters()) for block in blocks]
    assert reached == [True, True, True, False, False]
    assert next(net.net.encoder.parameters()).grad.any()
    assert all(p.grad is None for p in net.net.segmentation_head.parameters())


def test_nothing_of_it_is_idle_and_a_copy_is_its_own():
    net = network(aux=4, classifier=0.1, dropout=0.2)
    freeze_idle(net, 3, 64)
    assert all(p.requires_grad for p in net.parameters())
    twin = copy.deepcopy(net).train()  # as an average of weights is one
    for parameter in net.parameters():
        parameter.data.zero_()
    assert all(twin(IMAGE)[f"mask/aux{level}"].any() for level in (1, 2, 3, 4))


@pytest.mark.parametrize("architecture", sorted(set(ARCHITECTURES) - set(LEVELS)))
def test_architectures_without_coarser_outputs_say_so(architecture):
    with pytest.raises(InputError, match=r"^model\.aux=1: \w+ has no coarser outputs to supervise; .* take one of them"):
        network(architecture, aux=1)


def test_too_many_levels_and_nothing_to_classify():
    with pytest.raises(InputError, match=r"^model\.aux=4: FPN has 3 coarser outputs: take model\.aux=3 or less$"):
        network("fpn", aux=4)
    with pytest.raises(InputError, match=r"^model\.classifier=0\.1 needs a head with classes; found real values"):
        network(tasks={"height": Regression(("height",))}, classifier=0.1)
    both = network(tasks={**ONE, "height": Regression(("height",))}, classifier=0.1)
    assert list(both.classifiers) == ["mask"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_has_a_classifier(architecture):
    net = network(architecture, classifier=0.1).eval()
    found = net.outputs(torch.zeros(2, 3, 128, 128), beside=True)
    assert {head: tuple(found[f"{head}/classifier"].shape) for head in TASKS} == {
        "mask": (2, 3),
        "edge": (2, 1),
        "cloud": (2, 1),
    }


def test_the_loss_is_the_sum_of_all_by_their_weights():
    net = network(tasks=ONE, aux=3, classifier=0.25)
    loss = Composite({"ce": (2.0, CrossEntropy("multiclass"))})
    module = SegmentationModule(net, {"mask": loss}, ONE, [0.0] * 3, [1.0] * 3, scenes=1, classifier=0.25).eval()
    found = module.network.outputs(IMAGE, beside=True)
    mask = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (2, 64, 64), dtype=np.uint8))
    mask[0, :10] = IGNORE
    total, values = module._loss(found, {"mask": mask, "image": IMAGE})

    def ce(key):
        return 2 * F.cross_entropy(found[key], mask.long(), ignore_index=IGNORE)

    aux = ce("mask/aux1") / 2 + ce("mask/aux2") / 4 + ce("mask/aux3") / 8
    shown = torch.tensor([[1.0, 1, 0], [1, 1, 0]])
    classifier = F.binary_cross_entropy_with_logits(found["mask/classifier"], shown)
    torch.testing.assert_close(values["train/loss/aux"], aux)
    torch.testing.assert_close(values["train/loss/classifier"], classifier)
    torch.testing.assert_close(total, ce("mask") + aux + 0.25 * classifier)
    plain, named = module._loss({"mask": found["mask"]}, {"mask": mask, "image": IMAGE})
    assert torch.equal(plain, values["train/loss/ce.weighted"])
    assert set(named) == {"train/loss", "train/loss/ce", "train/loss/ce.weighted"}


TARGETS = {
    "binary": (Binary(("a",)), (2, 9, 9), np.uint8),
    "multiclass": (Multiclass(("a", "b", "c")), (2, 9, 9), np.uint8),
    "multilabel": (Multilabel(("a", "b", "c")), (2, 3, 9, 9), np.uint8),
    "shares": (Multiclass(("a", "b", "c"), soft=True), (2, 3, 9, 9), np.float32),
}


@pytest.mark.parametrize(("task", "shape", "dtype"), TARGETS.values(), ids=TARGETS)
def test_presence_is_what_a_loop_over_pixels_finds(task, shape, dtype):
    rng = np.random.default_rng(1)
    for _ in range(20):
        target = rng.integers(0, task.labels if not task.soft else 2, shape).astype(dtype)
        few = rng.random(shape) < 0.97  # so that classes are absent, and images unlabelled
        target[few] = np.nan if task.soft else IGNORE
        weight = rng.integers(0, 2, (2, 9, 9)).astype(np.float32)
        found = presence(torch.from_numpy(target), task, torch.from_numpy(weight))
        for image, mask, counts, row in zip(range(2), target, weight, found.tolist(), strict=True):
            for c, value in enumerate(row):
                plane = mask[c] if mask.ndim == 3 else mask
                seen = [x for x, w in zip(plane.ravel(), counts.ravel(), strict=True) if w and x != IGNORE and x == x]
                label = c if task.exclusive and not task.soft else 1
                assert value == (IGNORE if not seen else int(label in seen)), (image, c)


def test_images_that_say_nothing_teach_a_classifier_nothing():
    logits = torch.randn(2, 1, requires_grad=True)
    mask = torch.zeros(2, 4, 4, dtype=torch.uint8)
    mask[1] = IGNORE
    presence_loss(logits, mask, Binary(("a",))).backward()
    torch.testing.assert_close(logits.grad[0], torch.sigmoid(logits[0]).detach())
    assert logits.grad[1] == 0
