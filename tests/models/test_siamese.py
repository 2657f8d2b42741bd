"""Two dates through one encoder."""

import pytest
import segmentation_models_pytorch as smp
import torch
from networks import ARCHITECTURES, TASKS, network

from rsseg.config.schema import ModelConfig
from rsseg.contract import InputError
from rsseg.models import check_architecture, freeze_idle, load_weights
from rsseg.models.rates import rate_groups

PAIRED = [name for name in ARCHITECTURES if name != "dpt"]


def siamese(architecture="unet", fusion="concat", **facts):
    return network(architecture, bands=6, siamese=True, fusion=fusion, **facts)


def dates(side=64):
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(2, 3, side, side, generator=generator) for _ in range(2))


@pytest.mark.parametrize("architecture", PAIRED)
@pytest.mark.parametrize("fusion", ["concat", "difference"])
def test_the_decoder_gets_the_features_of_both_dates(architecture, fusion):
    """Of the encoder over each date alone."""
    net, (before, after) = siamese(architecture, fusion).eval(), dates(128)
    with torch.no_grad():
        logits = net(torch.cat([before, after], dim=1))
        levels = list(zip(net.net.encoder.encoder(before), net.net.encoder.encoder(after), strict=True))
        fused = [torch.cat(pair, dim=1) if fusion == "concat" else (pair[0] - pair[1]).abs() for pair in levels]
        expected = net.net.segmentation_head(net.net.decoder(fused))
    torch.testing.assert_close(torch.cat(list(logits.values()), dim=1), expected)
    assert expected.shape == (2, 5, 128, 128)


def test_a_difference_knows_no_order_and_nothing_of_what_stays():
    net, (before, after) = siamese(fusion="difference").eval(), dates()
    torch.testing.assert_close(net(torch.cat([before, after], 1)), net(torch.cat([after, before], 1)))
    same, other = net(torch.cat([before, before], 1)), net(torch.cat([after, after], 1))
    assert all(torch.equal(same[head], other[head]) for head in TASKS)
    ordered = siamese(fusion="concat").eval()
    one, turned = ordered(torch.cat([before, after], 1))["mask"], ordered(torch.cat([after, before], 1))["mask"]
    assert not torch.allclose(one, turned, atol=1e-3)


@pytest.mark.parametrize("fusion", ["concat", "difference"])
def test_the_encoder_has_the_bands_of_a_date_and_runs_once_over_both(fusion):
    net, sizes = siamese(fusion=fusion), []
    net.net.encoder.encoder.register_forward_hook(lambda module, inputs, output: sizes.append(inputs[0].shape))
    net(torch.cat([*dates()], dim=1))
    assert sizes == [(4, 3, 64, 64)]
    alone = network(bands=3)
    ours, theirs = net.net.encoder.encoder.state_dict(), alone.net.encoder.state_dict()
    assert {name: tensor.shape for name, tensor in ours.items()} == {name: tensor.shape for name, tensor in theirs.items()}
    entering = net.net.decoder.blocks[0].conv1[0].in_channels
    assert entering == alone.net.decoder.blocks[0].conv1[0].in_channels * (2 if fusion == "concat" else 1)


def test_it_goes_with_everything_else():
    net = siamese(decoder="own", aux=2, classifier=0.1, dropout=0.1, freeze=["decoder"])
    freeze_idle(net, 6, 64)
    found = net.train()(torch.cat([*dates()], dim=1))
    assert set(found) == {f"{head}{beside}" for head in TASKS for beside in ("", "/aux1", "/aux2", "/classifier")}
    assert any(net.shared_weight is p for p in net.net.encoder.parameters())
    found["mask/classifier"].sum().backward()
    assert next(net.net.encoder.parameters()).grad.any()


def test_weights_of_a_network_of_one_date(tmp_path):
    """An encoder's, those of a run, and those of timm."""
    one = network(bands=3, seed=1)
    torch.save(one.net.encoder.state_dict(), tmp_path / "encoder.pt")
    torch.save({"state_dict": {f"network.{name}": t for name, t in one.state_dict().items()}}, tmp_path / "run.ckpt")
    for file in ("encoder.pt", "run.ckpt"):
        net = siamese(fusion="difference")
        load_weights(net, str(tmp_path / file))
        for name, tensor in one.net.encoder.state_dict().items():
            assert torch.equal(net.net.encoder.encoder.state_dict()[name], tensor)
        same = torch.equal(net.net.decoder.blocks[0].conv1[0].weight, one.net.decoder.blocks[0].conv1[0].weight)
        assert same == (file == "run.ckpt")


def test_layers_have_the_rates_of_a_network_of_one_date():
    groups = []
    for net in (siamese(fusion="difference"), network(bands=3)):
        found = rate_groups(net.parameters(), net, "tu-test_resnet", 0.5, 0.75)
        groups.append([(group["name"], group["lr_scale"], len(group["params"])) for group in found])
    assert groups[0] == groups[1]
    assert len(groups[0]) > 3


def test_smp_knows_no_more_encoders_than_before():
    names = smp.encoders.get_encoder_names()
    siamese()
    assert smp.encoders.get_encoder_names() == names


def test_what_can_not_be_two_dates():
    with pytest.raises(InputError, match=r"^model\.siamese=true takes the bands of one date, then as many .*; found 5 bands"):
        network(bands=5, siamese=True)
    with pytest.raises(InputError, match=r"^model\.siamese=true: DPT takes tokens"):
        check_architecture(smp.DPT, ModelConfig(siamese=True), TASKS)
