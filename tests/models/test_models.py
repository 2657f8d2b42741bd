import pytest
import torch
from tiny import CONFIGS, compose

from rsseg.assembly import make_setup
from rsseg.config.schema import ModelConfig
from rsseg.contract import InputError
from rsseg.models import Network, build_network, encoder_name, freeze_idle, load_weights
from rsseg.task import Binary, Centres, Multiclass

TASKS = {"mask": Multiclass(("a", "b", "c")), "edge": Binary(("edge",))}


def make(**arguments):
    import segmentation_models_pytorch as smp

    return smp.Unet(**arguments)


def network(bands=3, encoder="resnet18", **facts):
    return build_network(make, ModelConfig(encoder=encoder, **facts), bands, TASKS)


def test_heads_share_the_logits_out():
    net = network(bands=5).eval()
    image = torch.randn(2, 5, 64, 64)
    logits = net(image)
    assert {name: tuple(z.shape) for name, z in logits.items()} == {"mask": (2, 3, 64, 64), "edge": (2, 1, 64, 64)}
    assert torch.equal(torch.cat([logits["mask"], logits["edge"]], dim=1), net.net(image))


def test_heat_begins_at_a_tenth_and_other_heads_as_before():
    """The bias is that of Law and Deng; initial weights are otherwise those of the seed."""
    tasks, found = {"mask": Binary(("a",)), "cars": Centres(("car", "truck"))}, []
    for own in (tasks, {"mask": tasks["mask"], "cars": Multiclass(tuple("abcdef"))}):
        torch.manual_seed(3)
        found.append(build_network(make, ModelConfig(encoder="resnet18"), 3, own))
    net, plain = found
    assert net.channels == {"mask": 1, "cars": 6}
    biases = net.net.segmentation_head[0].bias - plain.net.segmentation_head[0].bias
    assert biases.tolist() == pytest.approx([0, -2.19, -2.19, 0, 0, 0, 0], abs=1e-6)
    assert torch.equal(net.net.segmentation_head[0].weight, plain.net.segmentation_head[0].weight)
    assert float(torch.tensor(-2.19).sigmoid()) == pytest.approx(0.1, abs=0.001)


def test_unknown_encoder_suggests():
    with pytest.raises(InputError, match="did you mean 'resnet50'"):
        encoder_name("resnt50")


@pytest.mark.parametrize("encoder", ["mobilenet_v2", "tu-resnet10t", "resnet10t"])
def test_encoders_of_both_libraries(encoder):
    assert network(encoder=encoder).eval()(torch.zeros(1, 3, 64, 64))["mask"].shape == (1, 3, 64, 64)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": {f"model.{k}": v for k, v in s.items()}}])
def test_whole_network_from_a_file(tmp_path, wrap):
    torch.manual_seed(1)
    saved, fresh = network(), network()
    torch.save(wrap(saved.net.state_dict()), tmp_path / "w.pt")
    load_weights(fresh, str(tmp_path / "w.pt"))
    for ours, theirs in zip(fresh.parameters(), saved.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_encoder_of_a_plain_classifier(tmp_path):
    import timm

    torch.manual_seed(2)
    classifier = timm.create_model("resnet18", pretrained=False)
    torch.save(classifier.state_dict(), tmp_path / "w.pth")
    net = network(bands=6)
    load_weights(net, str(tmp_path / "w.pth"))
    encoder = net.net.encoder
    assert torch.equal(encoder.layer3[0].conv1.weight, classifier.layer3[0].conv1.weight)
    grey = torch.randn(1, 1, 32, 32)  # the same in every band: the adapted convolution must answer as the old one
    torch.testing.assert_close(encoder.conv1(grey.expand(1, 6, 32, 32)), classifier.conv1(grey.expand(1, 3, 32, 32)))


@pytest.mark.parametrize(
    ("encoder", "name", "ours"),
    [
        ("tu-resnet18", "resnet18", "model.layer3.0.conv1.weight"),
        ("convnext_atto", "convnext_atto", "model.stages_1.blocks.0.conv_dw.weight"),
    ],
)
def test_timms_own_weights_fit_its_encoders(tmp_path, encoder, name, ours):
    import timm

    torch.manual_seed(3)
    classifier = timm.create_model(name, pretrained=False)
    torch.save(classifier.state_dict(), tmp_path / "w.pth")
    net = network(encoder=encoder)
    load_weights(net, str(tmp_path / "w.pth"))
    theirs = ours.removeprefix("model.").replace("stages_", "stages.")
    assert torch.equal(net.net.encoder.state_dict()[ours], classifier.state_dict()[theirs])
    torch.save(network(encoder=encoder).net.encoder.state_dict(), tmp_path / "own.pth")
    load_weights(net, str(tmp_path / "own.pth"))
    saved = torch.load(tmp_path / "own.pth")
    assert all(torch.equal(tensor, saved[key]) for key, tensor in net.net.encoder.state_dict().items())


def test_a_checkpoint_of_rsseg_serves_as_weights(tmp_path):
    torch.manual_seed(4)
    saved, fresh = network(), network()
    state = {f"network.{key}": tensor for key, tensor in saved.state_dict().items()}
    torch.save({"state_dict": {**state, "mean": torch.zeros(1, 3, 1, 1)}}, tmp_path / "best.ckpt")
    load_weights(fresh, str(tmp_path / "best.ckpt"))
    for ours, theirs in zip(fresh.parameters(), saved.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_bad_weights(tmp_path):
    net = network()
    (tmp_path / "junk.pt").write_bytes(b"junk")
    torch.save({"a": torch.ones(3)}, tmp_path / "other.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    for name, message in {
        "missing.pt": "no such file",
        "junk.pt": "can't be read",
        "other.pt": "fits another network: 0 of",
        "list.pt": "no state dict",
    }.items():
        with pytest.raises(InputError, match=message):
            load_weights(net, str(tmp_path / name))


def test_unknown_torchgeo_weight_is_told():
    with pytest.raises(InputError, match=r"neither none, imagenet, a file, nor a torchgeo weight such as ResNet18_Weights"):
        load_weights(network(), "ResNet18_Weights.SENTINEL2_ALL_MOC")


class Planted:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (exec, ("raise SystemExit",))


def test_torchgeo_weights_run_no_code(monkeypatch, tmp_path):
    """Their check sum, which is part of the name, is asked for, and a file that would run code is not unpickled."""
    asked = []

    def download(url, path, hash_prefix=None, progress=True):
        asked.append(hash_prefix)
        torch.save({"conv1.weight": Planted()}, path)

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(InputError, match=r"can't be fetched \(UnpicklingError\)"):
        load_weights(network(), "ResNet18_Weights.SENTINEL2_ALL_MOCO")
    assert len(asked) == 1
    assert len(asked[0]) >= 8


def test_weights_that_the_network_refuses_to_fetch(monkeypatch):
    from torchgeo.models import ResNet18_Weights

    def fail(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(type(ResNet18_Weights.SENTINEL2_ALL_MOCO), "get_state_dict", fail)
    with pytest.raises(InputError, match="can't be fetched"):
        load_weights(network(), "ResNet18_Weights.SENTINEL2_ALL_MOCO")

    def offline(**arguments):
        assert arguments["encoder_weights"] == "imagenet"
        raise OSError("no network")

    with pytest.raises(InputError, match="model hub"):
        build_network(offline, ModelConfig(weights="imagenet"), 3, TASKS)


def test_torchgeo_weights_load_by_name(tmp_path, monkeypatch):
    """By torchgeo's own loading code, from a file instead of its hub."""
    import timm
    from torchgeo.models import ResNet18_Weights

    classifier = timm.create_model("resnet18", in_chans=13, pretrained=False)
    torch.save(classifier.state_dict(), tmp_path / "weights.pth")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"), raising=False)
    weight = ResNet18_Weights.SENTINEL2_ALL_MOCO
    monkeypatch.setattr(weight.value, "url", (tmp_path / "weights.pth").as_uri())
    net = network(bands=13)
    load_weights(net, "ResNet18_Weights.SENTINEL2_ALL_MOCO")
    assert torch.equal(net.net.encoder.conv1.weight, classifier.conv1.weight)
    assert torch.equal(net.net.encoder.layer4[1].bn2.weight, classifier.layer4[1].bn2.weight)


def test_only_the_first_convolution_is_fitted_to_other_bands(tmp_path):
    """A narrower network's deeper layers differ in their inputs too: they are no bands."""
    torch.save({k: v[:, :1] if v.ndim == 4 else v for k, v in network().net.encoder.state_dict().items()}, tmp_path / "w.pt")
    net = network()
    before = net.net.encoder.layer2[0].conv1.weight.clone()
    load_weights(net, str(tmp_path / "w.pt"))
    assert torch.equal(net.net.encoder.layer2[0].conv1.weight, before)


def test_other_bands_are_said(tmp_path, caplog):
    torch.save(network(bands=13).net.encoder.state_dict(), tmp_path / "w.pt")
    with caplog.at_level("INFO"):
        load_weights(network(bands=3), str(tmp_path / "w.pt"))
    assert "made for 13 bands: averaged over them for the 3" in caplog.text


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_frozen_parts_stay_as_they_are(part):
    net = network(freeze=[part]).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    net(torch.randn(2, 3, 32, 32))["mask"].square().sum().backward()
    optimizer.step()
    for name, tensor in net.state_dict().items():  # running statistics included
        trained = not name.startswith(f"net.{part}.")
        if not trained or name.endswith(("conv1.weight", "running_mean")):
            assert torch.equal(tensor, before[name]) != trained, name
    assert not net.eval().net.get_submodule("segmentation_head").training
    assert not net.train().net.get_submodule(part).training


def test_dropout_drops_channels_in_training_alone():
    torch.manual_seed(0)
    net = network(dropout=0.5)
    image, seen = torch.randn(2, 3, 32, 32), []
    net.net.segmentation_head.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    net.eval()(image)
    net.train()(image)
    kept = [(features.flatten(2).abs().sum(2) > 0).float().mean() for features in seen]
    assert kept[0] == 1
    assert 0.2 < kept[1] < 0.8
    assert network(dropout=0.5).state_dict().keys() == network().state_dict().keys()  # files of weights fit both


def test_encoder_args_reach_timm_alone():
    rates = [
        m.drop_prob
        for m in network(encoder="resnet10t", encoder_args={"drop_path_rate": 0.3}).modules()
        if hasattr(m, "drop_prob")
    ]
    assert max(rates) == pytest.approx(0.3)
    with pytest.raises(InputError, match="take tu-resnet18"):
        network(encoder_args={"drop_path_rate": 0.3})
    with pytest.raises(InputError, match="drop_paths"):
        build("resnet10t", drop_paths=0.3)


def build(encoder, **arguments):
    from functools import partial

    from rsseg.config.build import MODEL, build

    make = partial(build, {"_target_": "segmentation_models_pytorch.Unet"}, "model.net", MODEL)
    return build_network(make, ModelConfig(encoder=encoder, encoder_args=arguments), 3, TASKS)


def test_windows_that_a_network_cannot_take_and_weights_that_it_does_not_use():
    import segmentation_models_pytorch as smp

    def made(kind, **more):
        facts = ModelConfig(encoder="resnet18")
        return build_network(lambda **given: kind(**given, **more), facts, 3, TASKS)

    with pytest.raises(InputError, match="can't take windows of 64 px"):
        freeze_idle(made(smp.PAN), 3, 64)
    net = made(smp.PSPNet, encoder_depth=3)
    freeze_idle(net, 3, 64)
    idle = {name for name, p in net.named_parameters() if not p.requires_grad}
    assert idle
    assert all(name.startswith(("net.encoder.layer3", "net.encoder.layer4")) for name in idle)
    assert all(p.grad is None for p in net.parameters())


def test_network_is_a_module():
    assert isinstance(network(), Network)


@pytest.mark.parametrize("model", sorted(path.stem for path in (CONFIGS / "model").glob("*.yaml")))
def test_all_heads_depend_on_the_shared_weight(model):
    heads = "+model.heads.other.loss=${loss}"
    net = make_setup(compose([f"model={model}", heads, *(["model.encoder=test_vit"] if model == "dpt" else [])])).network()
    name = next(name for name, parameter in net.named_parameters() if parameter is net.shared_weight)
    assert name.startswith("net.decoder.")
    image = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    for logits in net.train()(image).values():
        (gradient,) = torch.autograd.grad(logits.square().mean(), net.shared_weight, retain_graph=True)
        assert gradient.norm() > 0


def test_a_model_without_a_decoder_has_no_shared_weight():
    with pytest.raises(InputError, match=r"Conv2d with .* has none that is trained: take balancing=uncertainty or dwa"):
        _ = Network(torch.nn.Conv2d(3, 4, 1), TASKS).shared_weight


@pytest.mark.parametrize("error", [RuntimeError(), AssertionError("\n\ntwo\nlines")])
def test_errors_of_others_are_one_line_whatever_they_say(tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error

    said = "RuntimeError" if isinstance(error, RuntimeError) else "two"
    monkeypatch.setattr(torch, "load", fail)
    (tmp_path / "own.pth").touch()
    with pytest.raises(InputError, match=rf"own\.pth can't be read as weights: {said}$"):
        load_weights(torch.nn.Conv2d(1, 1, 1), str(tmp_path / "own.pth"))
    network = torch.nn.Identity()
    network.outputs = fail
    with pytest.raises(InputError, match=rf"windows of 64 px \({said}\): take a larger"):
        freeze_idle(network, 3, 64)
