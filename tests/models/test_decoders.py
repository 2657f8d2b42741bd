"""Decoders of single heads on one encoder."""

import copy

import lightning as L
import numpy as np
import pytest
import torch
from networks import ARCHITECTURES, TASKS, network
from torch import nn
from torch.nn import functional as F

from rsseg.config.schema import ModelConfig
from rsseg.contract import Batch, InputError
from rsseg.losses import Composite, CrossEntropy
from rsseg.models import build_network, freeze_idle, load_weights
from rsseg.module import SegmentationModule
from rsseg.training.gradients import probe


def own(*heads):
    """The heads of a config, some with decoders of their own."""
    return {head: {"decoder": "own"} if head in heads else {} for head in TASKS}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_decoder_gives_what_its_smp_model_does(architecture):
    """Of an encoder's features, whatever other decoders made of them before."""
    net = network(architecture, heads=own("edge", "cloud")).eval()
    image = torch.randn(2, 3, 128, 128)
    with torch.no_grad():
        logits = net(image)
        assert list(logits) == list(TASKS)
        for head, task in TASKS.items():
            alone = copy.deepcopy(net.branch(head))
            alone.encoder = net.net.encoder
            assert logits[head].shape == (2, task.channels, 128, 128)
            torch.testing.assert_close(logits[head], alone(image))


def test_heads_that_share_all_are_smps_model_and_its_names():
    model = ARCHITECTURES["unet"]
    torch.manual_seed(0)
    smps = model[0]("tu-test_resnet", encoder_weights=None, classes=5, **model[1])
    net = network()
    assert list(net.state_dict()) == [f"net.{name}" for name in smps.state_dict()]
    for ours, theirs in zip(net.parameters(), smps.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("choice", [{"decoder": "own"}, {"heads": {"mask": {"decoder": "own"}}}])
def test_the_own_decoder_of_an_only_head_is_the_shared_one(choice):
    """The same weights, names and numbers."""
    tasks = {"mask": TASKS["mask"]}
    one, other = (network(tasks=tasks, **facts).train() for facts in (choice, {}))
    assert one.state_dict().keys() == other.state_dict().keys()
    image = torch.randn(2, 3, 64, 64)
    assert torch.equal(one(image)["mask"], other(image)["mask"])


def test_decoders_are_chosen_for_all_heads_or_one():
    assert list(network(decoder="own").branches) == ["edge", "cloud"]  # the first has that of the smp model
    assert list(network(heads=own("mask")).branches) == ["mask"]
    assert list(network(decoder="own", heads={"mask": {}, "edge": {"decoder": "shared"}}).branches) == ["mask", "cloud"]
    assert network(heads=own("mask")).net.segmentation_head[0].out_channels == 2  # of the heads that share it


def test_decoders_begin_with_other_weights_and_the_same_for_a_seed():
    net, again = network(decoder="own"), network(decoder="own")
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    decoders = [net.branch(head).decoder for head in TASKS]
    weights = [decoder.blocks[0].conv1[0].weight for decoder in decoders]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])


@pytest.mark.parametrize("decoder", ["shared", "own"])
def test_the_encoder_runs_once(decoder):
    net, calls = network(decoder=decoder), []
    net.net.encoder.register_forward_hook(lambda *call: calls.append(call))
    net(torch.randn(2, 3, 64, 64))
    assert len(calls) == 1


def test_a_heads_gradient_reaches_its_own_decoder_and_the_encoder():
    net = network(heads=own("edge")).train()
    net(torch.randn(2, 3, 64, 64))["edge"].square().sum().backward()
    assert all(p.grad is not None for p in net.branch("edge").parameters())
    assert all(p.grad is None for p in net.net.decoder.parameters())
    assert next(net.net.encoder.parameters()).grad.abs().sum() > 0


def test_dropout_and_freezing_are_those_of_every_decoder():
    net, kept = network(decoder="own", dropout=0.5, freeze=["encoder", "decoder"]).train(), []
    for head in TASKS:
        net.branch(head).segmentation_head.register_forward_hook(lambda module, inputs, output: kept.append(inputs[0]))
    net(torch.randn(2, 3, 64, 64))
    assert len(kept) == 3
    for features in kept:
        assert 0 < (features.flatten(2).abs().sum(2) == 0).float().mean() < 1
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in net.named_parameters() if "segmentation_head" in name}
    assert not any(net.branch(head).decoder.training for head in TASKS)


def test_nothing_that_is_used_is_frozen_as_idle():
    net = network("pspnet", decoder="own")
    freeze_idle(net, 3, 64)
    idle = {name for name, p in net.named_parameters() if not p.requires_grad}
    assert all(name.startswith("net.encoder") for name in idle)


def test_the_weights_of_several_decoders_load_again(tmp_path):
    saved, fresh = network(decoder="own"), network(decoder="own", seed=1)
    torch.save({"state_dict": {f"network.{key}": tensor for key, tensor in saved.state_dict().items()}}, tmp_path / "best.ckpt")
    load_weights(fresh, str(tmp_path / "best.ckpt"))
    for name, tensor in fresh.state_dict().items():
        assert torch.equal(tensor, saved.state_dict()[name]), name
    one = network(tasks={"mask": TASKS["mask"]}, seed=2)  # takes what it has
    load_weights(one, str(tmp_path / "best.ckpt"))
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, saved.state_dict()[name]), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("decoder", ["shared", "own"])
def test_the_shared_weight_is_before_all_heads(architecture, decoder):
    """Every head's logits depend on it, and no later layer of the part that it lies in."""
    net = network(architecture, decoder=decoder)
    freeze_idle(net, 3, 128)
    weight = net.shared_weight
    part = net.net.decoder if decoder == "shared" else net.net.encoder
    assert any(weight is p for p in part.parameters())
    logits = net.train()(torch.randn(2, 3, 128, 128))
    for head in TASKS:
        (gradient,) = torch.autograd.grad(logits[head].square().sum(), weight, retain_graph=True)
        assert gradient.abs().sum() > 0


def test_the_shared_weight_of_a_unet_is_the_decoders_last_convolution():
    net = network()
    assert net.shared_weight is net.net.decoder.blocks[-1].conv2[0].weight
    assert network(freeze=["decoder"]).shared_weight.shape[1:] != net.shared_weight.shape[1:]
    with pytest.raises(InputError, match=r"Unet with model\.freeze=\['encoder', 'decoder'\] has none that is trained"):
        _ = network(freeze=["encoder", "decoder"]).shared_weight


def test_a_network_without_parts_has_one_decoder():
    class Plain(nn.Module):
        def __init__(self, in_channels, classes, **_):
            super().__init__()
            self.last = nn.Conv2d(in_channels, classes, 1)

        def forward(self, x):
            return self.last(x)

    tasks = {"mask": TASKS["mask"], "edge": TASKS["edge"]}
    assert list(build_network(Plain, ModelConfig(), 3, tasks)(torch.zeros(1, 3, 8, 8))) == ["mask", "edge"]
    with pytest.raises(InputError, match=r"model\.decoder=own needs an architecture of smp; found Plain"):
        build_network(Plain, ModelConfig(decoder="own"), 3, tasks)


def test_the_probe_looks_at_each_heads_own_last_layer():
    """Against the gradients of the losses at the last convolutions, by autograd alone."""
    tasks = {head: TASKS[head] for head in ("mask", "edge")}
    losses = {head: Composite({"ce": (1.0, CrossEntropy(task.kind))}) for head, task in tasks.items()}
    module = SegmentationModule(network(tasks=tasks, heads=own("edge")), losses, tasks, [0.0] * 3, [1.0] * 3, scenes=1).eval()
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.normal(size=(1, 3, 64, 64)).astype(np.float32))
    mask = torch.from_numpy(rng.integers(0, 2, (1, 64, 64), dtype=np.uint8))
    windows = [Batch(image=image, mask=mask, scene=None, k=None)]
    found = probe(trainer, module, windows, held_out=windows)
    for head, z in module(image).items():
        exclusive = tasks[head].exclusive
        loss = F.cross_entropy(z, mask.long()) if exclusive else F.binary_cross_entropy_with_logits(z[:, 0], mask.float())
        last = module.network.branch(head).segmentation_head[0]
        gradient = torch.autograd.grad(loss, list(last.parameters()), retain_graph=True)
        norm = torch.cat([g.flatten() for g in gradient]).norm()
        assert float(found[head]["layer.norm"][0]) == pytest.approx(float(norm), rel=1e-4)
        assert found[head]["gain"].isfinite()
