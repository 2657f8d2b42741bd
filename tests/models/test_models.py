import pytest
import torch

from rsseg.contract import Head, InputError, TaskKind
from rsseg.models import Network, build_network, encoder_name, load_weights

HEADS = {"mask": Head(TaskKind.multiclass, ("a", "b", "c")), "edge": Head(TaskKind.binary, ("edge",))}


def make(**arguments):
    import segmentation_models_pytorch as smp

    return smp.Unet(**arguments)


def network(bands=3, encoder="resnet18"):
    return build_network(make, encoder, "none", bands, HEADS)


def test_heads_share_the_logits_out():
    net = network(bands=5).eval()
    image = torch.randn(2, 5, 64, 64)
    logits = net(image)
    assert {name: tuple(z.shape) for name, z in logits.items()} == {"mask": (2, 3, 64, 64), "edge": (2, 1, 64, 64)}
    assert torch.equal(torch.cat([logits["mask"], logits["edge"]], dim=1), net.net(image))


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


def test_unknown_torchgeo_weight_suggests():
    with pytest.raises(InputError, match=r"did you mean 'ResNet18_Weights\.SENTINEL2_ALL_MOCO'"):
        load_weights(network(), "ResNet18_Weights.SENTINEL2_ALL_MOC")


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
        build_network(offline, "resnet18", "imagenet", 3, HEADS)


def test_torchgeo_weights_load(monkeypatch):
    import timm
    from torchgeo.models import ResNet18_Weights

    classifier = timm.create_model("resnet18", in_chans=13, pretrained=False)
    monkeypatch.setattr(
        type(ResNet18_Weights.SENTINEL2_ALL_MOCO), "get_state_dict", lambda self, progress=True: classifier.state_dict()
    )
    net = network(bands=13)
    load_weights(net, "ResNet18_Weights.SENTINEL2_ALL_MOCO")
    assert torch.equal(net.net.encoder.conv1.weight, classifier.conv1.weight)


def test_network_is_a_module():
    assert isinstance(network(), Network)
