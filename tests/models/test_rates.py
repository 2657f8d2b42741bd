"""Learning rates of the encoder and its layers."""

import math

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from tiny import compose
from torch import nn

from rsseg.assembly import make_module, make_setup
from rsseg.contract import InputError
from rsseg.dataset import TargetStatistics, TrainStatistics
from rsseg.models.rates import layers_above, rate_groups
from rsseg.training.resume import NewSchedule

NUMBERS = TrainStatistics([0.0] * 3, [1.0] * 3, {"mask": TargetStatistics([1] * 5, [9] * 5)})


def module_of(tmp_path, *words):
    setup = make_setup(compose([f"output={tmp_path}", "dataset.bands=[1,2,3]", *words]))
    return make_module(setup, setup.network(), NUMBERS, 1)


def by_parameter(module, optimizer):
    """The rate of every parameter, by name."""
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    return {name: rates[id(parameter)] for name, parameter in module.named_parameters()}


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "lamb", "lion", "nadamw"])
def test_every_optimizer_gives_the_encoder_its_rate(tmp_path, optimizer):
    module = module_of(tmp_path, f"optimizer={optimizer}", "optimizer.lr=0.02", "optimizer.encoder_lr=0.1")
    made = module._optimizer(params=module.parameters())
    rates = by_parameter(module, made)
    assert len(rates) == len(list(module.parameters()))
    for name, rate in rates.items():
        assert rate == pytest.approx(0.002 if name.startswith("network.net.encoder.") else 0.02), name
    assert [group["name"] for group in made.param_groups] == ["encoder", "decoder"]


def test_without_factors_there_is_one_group_as_ever(tmp_path):
    for words in ((), ("optimizer.encoder_lr=1.0", "optimizer.layer_decay=1")):
        module = module_of(tmp_path, *words)
        (group,) = module._optimizer(params=module.parameters()).param_groups
        assert [id(p) for p in group["params"]] == [id(p) for p in module.parameters()]
        assert not {"name", "lr_scale"} & group.keys()


@pytest.mark.parametrize(
    "scheduler", ["constant", "cosine", "cosine_warmup", "one_cycle", "plateau", "poly"],
)  # fmt: skip
def test_every_schedule_keeps_the_factor(tmp_path, scheduler):
    words = (f"scheduler={scheduler}", "steps=40", "optimizer.lr=0.02")
    module = module_of(tmp_path, *words, "optimizer.encoder_lr=0.25")
    plain = module_of(tmp_path, *words)
    pairs = []
    for each in (module, plain):
        optimizer = each._optimizer(params=each.parameters())
        pairs.append((optimizer, each._scheduler(optimizer=optimizer)))
    for _ in range(40):
        (own, _), (usual, _) = pairs
        encoder, decoder = (group["lr"] for group in own.param_groups)
        assert decoder == pytest.approx(usual.param_groups[0]["lr"], rel=1e-9)
        assert encoder == pytest.approx(decoder / 4, rel=1e-9)
        for optimizer, schedule in pairs:
            optimizer.step()
            schedule.step(*([0.0] if scheduler == "plateau" else []))


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "efficientnet_b0", "swin_tiny_patch4_window7_224"])
def test_layers_decay_as_in_timm(name):
    """timm's own groups of the whole model say what factor each of its parameters has."""
    import segmentation_models_pytorch as smp

    with torch.device("meta"):
        whole = timm.create_model(name)
        network = nn.ModuleDict({"net": nn.ModuleDict({"encoder": smp.encoders.get_encoder(f"tu-{name}", weights=None)})})
    names = {id(parameter): key for key, parameter in whole.named_parameters()}
    expected = {
        names[id(parameter)].replace(".", "_"): group["lr_scale"]
        for group in param_groups_layer_decay(whole, layer_decay=0.75)
        for parameter in group["params"]
    }
    groups = rate_groups(network.parameters(), network, f"tu-{name}", 0.5, 0.75)
    scales = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    own = dict(network["net"]["encoder"].named_parameters())
    assert scales.keys() == {id(parameter) for parameter in own.values()}
    for key, parameter in own.items():
        assert scales[id(parameter)] == pytest.approx(0.5 * expected[key.removeprefix("model.").replace(".", "_")]), key
    assert len({group["lr_scale"] for group in groups}) == len(groups) > 4
    assert all(group["name"] == f"encoder-{round(math.log(2 * group['lr_scale'], 0.75))}" for group in groups)


def test_layers_of_other_encoders_and_wrong_factors_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"resnet34 is smp's own: take model.encoder=tu-resnet34, or leave it out"):
        layers_above("resnet34")
    with pytest.raises(InputError, match=r"mit_b0 is smp's own: leave it out"):
        layers_above("mit_b0")
    for word, said in {
        "optimizer.encoder_lr=0": r"optimizer.encoder_lr=0: a factor above 0 is expected",
        "optimizer.encoder_lr=low": r"optimizer.encoder_lr has to be a number of 0 or more; found 'low'",
        "optimizer.layer_decay=1.5": r"optimizer.layer_decay has to be a number from 0 to 1; found 1.5",
        "optimizer.layer_decay=0.75": r"optimizer.layer_decay: .* resnet\d+ is smp's own",
    }.items():
        with pytest.raises(InputError, match=said):
            make_setup(compose([f"output={tmp_path}", word]))


def test_a_new_schedule_begins_with_the_factors():
    groups = [{"lr": 0.0, "initial_lr": 0.001, "lr_scale": 0.1}, {"lr": 0.0, "initial_lr": 0.01}]
    NewSchedule(0.05).on_load_checkpoint(None, None, {"optimizer_states": [{"param_groups": groups}]})
    assert [group["lr"] for group in groups] == [group["initial_lr"] for group in groups] == pytest.approx([0.005, 0.05])
