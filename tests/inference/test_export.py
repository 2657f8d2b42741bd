"""What is exported predicts as the run does, bit by bit where PyTorch computes it, and a folder runs no code of its own."""

import hashlib
import json
import pickle
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import networks
import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from run_folders import counted_records, label_counts, steady
from scipy.special import expit, softmax
from scipy.stats import t as student
from test_run import folder_data, settings
from torch import nn

from rsseg.comparison.measures import Measure
from rsseg.config.folder import RunFolder
from rsseg.config.schema import ModelConfig
from rsseg.contract import InputError
from rsseg.export import export
from rsseg.inference import graphs
from rsseg.inference.card import CardFacts, interval, model_card, stac_item
from rsseg.inference.ensemble import Ensemble
from rsseg.inference.export import ABOUT, SMP, WEIGHTS, check_folder, export_folder, load_exported
from rsseg.inference.graphs import deepness, export_onnx, export_torch, largest_difference
from rsseg.inference.options import ExportOptions
from rsseg.inference.trained import Head, Spec, TrainedModel
from rsseg.models import Architecture, build_network
from rsseg.module import normalise
from rsseg.run import train
from rsseg.task import Binary, Centres, Multiclass, Multilabel, Regression, Scaling

COVER = Multiclass(("land", "water", "road"))
HEIGHT = Regression(("height",), target="height", units=("m",)).scaled([12.0], [5.0])
CASES = {
    "unet": ({"mask": COVER}, "unet", {}),
    "resnet18": ({"mask": Binary(("road",))}, "unet", {"encoder": "resnet18"}),
    "timm": ({"mask": COVER}, "fpn", {"encoder": "test_convnext", "encoder_args": {"drop_path_rate": 0.1}}),
    "two_decoders": ({"cover": COVER, "height": HEIGHT}, "unet", {"decoder": "own", "heads": {}}),
    "mixed": (
        {"cover": COVER, "height": HEIGHT, "cloud": Binary(("cloud",))},
        "unet",
        {"heads": {"height": {"decoder": "own"}}, "aux": 1, "classifier": 0.5, "dropout": 0.3},
    ),
    "siamese": ({"mask": Binary(("change",))}, "unet", {"siamese": True, "fusion": "difference"}),
    "rebuild": ({"mask": Binary(("odd",))}, "pspnet", {"rebuild": True}),
    "regression": ({"height": HEIGHT}, "fpn", {}),
    "centres": ({"mask": Centres(("car", "bus")).scaled([6.0, 8.0], [2.0, 3.0])}, "unet", {}),
    "multilabel": ({"mask": Multilabel(("road", "house"))}, "linknet", {}),
}
ALONE = [name for name in CASES if name not in ("two_decoders", "mixed", "siamese", "rebuild")]


def trained(case="unet", window=64):
    """A network with normalisation statistics as after training, what is known of it, and how it is made."""
    tasks, architecture, facts = CASES[case]
    kind, arguments = networks.ARCHITECTURES[architecture]
    model, bands = ModelConfig(**{"encoder": "test_resnet", "heads": {}, **facts}), 6 if "siamese" in facts else 3
    torch.manual_seed(0)
    network = build_network(lambda **given: kind(**given, **arguments), model, bands, tasks)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(), module.running_var.uniform_(0.5, 2)
    rng = np.random.default_rng(0)
    heads = {
        name: Head(
            task,
            None if task.real else tuple(f"#0000{c:02x}" for c in range(len(task.label_names))),
            None if task.real else tuple(rng.normal(size=task.channels).tolist()),
            {} if task.real else {"temperature": Scaling((0.7,) * task.channels, (0.0,) * task.channels)},
        )
        for name, task in tasks.items()
    }
    mean, std = rng.uniform(90, 120, bands).tolist(), rng.uniform(20, 40, bands).tolist()
    spec = Spec(
        "run", heads, tuple(range(1, bands + 1)), tuple(mean), tuple(std), window, 8, 4, "uint8", 0.25, 0.5, (3, 2, 1), 0
    )
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in arguments.items()}
    return TrainedModel(network, spec), Architecture.of(network, model, plain, bands)


def stored(model, number=2, dtype=np.uint8):
    spec, rng = model.spec, np.random.default_rng(1)
    return torch.from_numpy(rng.integers(0, 256, (number, len(spec.bands), spec.window, spec.window)).astype(dtype))


def scaled(model):
    return Ensemble([model], scaling="temperature")


def normal(model, pixels):
    return normalise(pixels, model.mean, model.std)


@pytest.mark.parametrize("case", CASES)
def test_a_folder_gives_the_same_logits(case, tmp_path):
    model, architecture = trained(case)
    export_folder(model, architecture, tmp_path)
    again = load_exported(tmp_path)
    pixels = stored(model)
    with torch.no_grad():
        expected, found = model(pixels), again(pixels)
    assert list(expected) == list(found) == list(again.spec.heads)
    for head, logits in expected.items():
        assert torch.equal(logits, found[head])
        assert logits.std() > 0
    assert again.spec == replace(model.spec, name=str(tmp_path))
    assert not again.network.training


@pytest.mark.parametrize("case", CASES)
def test_smp_alone_gives_the_same_logits(case, tmp_path):
    model, architecture = trained(case)
    export_folder(model, architecture, tmp_path)
    assert (tmp_path / SMP).exists() == (case in ALONE)
    if case not in ALONE:
        return
    net, pixels = smp.from_pretrained(str(tmp_path)).eval().to(memory_format=torch.channels_last), stored(model)
    with torch.no_grad():
        assert torch.equal(net(normal(model, pixels)), torch.cat([*model.network(normal(model, pixels)).values()], dim=1))


def test_parts_that_train_alone_are_left_out(tmp_path):
    from safetensors import safe_open

    model, architecture = trained("mixed")
    export_folder(model, architecture, tmp_path)
    with safe_open(tmp_path / WEIGHTS, "pt") as file:
        names = list(file.keys())
    assert not [name for name in names if name.startswith(("aux", "classifiers", "net."))]
    assert [name for name in names if name.startswith("branches.height.decoder")]


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    model, architecture = trained("two_decoders")
    export_folder(model, architecture, tmp_path)

    def fail(*_, **__):
        raise AssertionError("a pickle is read")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, fail)
    monkeypatch.setattr(torch, "load", fail)
    monkeypatch.setattr(torch.serialization, "load", fail)
    load_exported(tmp_path)


def edit(folder, change):
    about = json.loads((folder / ABOUT).read_text())
    change(about)
    (folder / ABOUT).write_text(json.dumps(about))


def test_an_export_of_an_earlier_version_is_read(tmp_path):
    model, architecture = trained("unet")
    export_folder(model, architecture, tmp_path)
    edit(tmp_path, lambda about: about["spec"].update(overlap=about["spec"].pop("margin")))
    assert load_exported(tmp_path).spec.margin == model.spec.margin == 8


def flip_a_bit(folder):
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-5] ^= 1
    (folder / WEIGHTS).write_bytes(content)


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def other_weights(folder):
    from safetensors.torch import load_file, save_file

    state = load_file(folder / WEIGHTS)
    state["segmentation_head.0.bias"] = torch.zeros(7)
    save_file(state, folder / WEIGHTS)
    edit(folder, lambda about: about["weights"].update(sha256=digest(folder / WEIGHTS)))


def garbage(folder):
    (folder / WEIGHTS).write_bytes(b"garbage")
    edit(folder, lambda about: about["weights"].update(sha256=digest(folder / WEIGHTS)))


DAMAGE = {
    "no about": (lambda f: (f / ABOUT).unlink(), "is no exported folder"),
    "cut about": (lambda f: (f / ABOUT).write_text((f / ABOUT).read_text()[:200]), "can't be read"),
    "other format": (lambda f: edit(f, lambda about: about.update(format=2)), "of format 2, and this version"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "it has no model.safetensors"),
    "flipped bit": (flip_a_bit, "check sum of model.safetensors is another"),
    "no sum": (lambda f: edit(f, lambda about: about.pop("weights")), "it lacks 'weights'"),
    "garbage": (garbage, "can't be used"),
    "weights that do not fit": (other_weights, "do not fit the network, such as segmentation_head.0.bias"),
    "a class of others": (lambda f: edit(f, lambda about: about["network"].update(net="os.system")), "no class of smp"),
    "a function of smp": (lambda f: edit(f, lambda about: about["network"].update(net="from_pretrained")), "no class of smp"),
    "a file to load": (
        lambda f: edit(f, lambda about: about["network"].update(encoder_args={"checkpoint_path": "x.pth"})),
        "would load other weights",
    ),
    "the same by smp": (
        lambda f: edit(f, lambda about: about["network"]["arguments"].update(pretrained_cfg={"file": "x"})),
        "would load other weights",
    ),
    "an unknown encoder": (lambda f: edit(f, lambda about: about["network"].update(encoder="hf-hub:a/b")), "no encoder"),
    "other arguments": (lambda f: edit(f, lambda about: about["network"]["arguments"].update(depth=3)), "can't be used"),
    "a text for numbers": (lambda f: edit(f, lambda about: about["spec"].update(mean="abc")), "can't be used"),
    "a mean too few": (lambda f: edit(f, lambda about: about["spec"].update(mean=[1.0, 2.0])), "2 means"),
    "no task": (lambda f: edit(f, lambda about: about["spec"]["heads"]["mask"].pop("task")), "it lacks 'task'"),
    "an unknown task": (lambda f: edit(f, lambda about: about["spec"]["heads"]["mask"]["task"].update(kind="x")), "'x'"),
    "no spec": (lambda f: edit(f, lambda about: about.pop("spec")), "it lacks 'spec'"),
    "a list": (lambda f: edit(f, lambda about: about.update(network=[])), "can't be used"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_folder_that_cannot_be_used_gives_one_line(case, tmp_path):
    damage, said = DAMAGE[case]
    export_folder(*trained(), tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=said) as caught:
        load_exported(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_an_export_goes_into_a_new_folder_or_its_own(tmp_path):
    check_folder(tmp_path / "new", "a")
    check_folder(tmp_path, "a")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="holds other files than an export, and a is to be exported"):
        check_folder(tmp_path, "a")
    with pytest.raises(InputError, match="is a file"):
        check_folder(tmp_path / "notes.txt", "a")
    (tmp_path / "stac.json").write_text('{"id": "a"}')
    check_folder(tmp_path, "a")
    with pytest.raises(InputError, match="holds a, and b is to be exported"):
        check_folder(tmp_path, "b")


def test_a_network_that_smp_does_not_know_has_no_folder():
    class Own(nn.Module):
        pass

    with pytest.raises(InputError, match=r"Own is no class of smp.*to=onnx"):
        Architecture.of(SimpleNamespace(net=Own()), ModelConfig(), {}, 3)


def onnx_session(path):
    return pytest.importorskip("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.fixture
def onnx_is_there():
    for name in graphs.PACKAGES:
        pytest.importorskip(name)


@pytest.fixture(scope="module")
def unet_onnx(tmp_path_factory):
    """The last head of a U-Net, exported once."""
    path = tmp_path_factory.mktemp("onnx") / "unet.onnx"
    model, _ = trained("unet")
    assert export_onnx(scaled(model), "mask", path, stored(model, 3, np.float32).numpy()) < 1e-4
    return path


@pytest.mark.slow
@pytest.mark.parametrize("case", ["unet", "mixed", "siamese", "centres"])
def test_onnx_gives_what_pytorch_gives(case, tmp_path, onnx_is_there, request):
    """From stored pixels; its probabilities are those of the scaled logits, computed here by SciPy in float64."""
    model, _ = trained(case)
    head, own = list(model.spec.heads.items())[-1]
    path = request.getfixturevalue("unet_onnx") if case == "unet" else tmp_path / "m.onnx"
    if case != "unet":
        assert export_onnx(scaled(model), head, path, stored(model, 3, np.float32).numpy()) < 1e-4
    pixels = stored(model, 5)
    (found,) = onnx_session(path).run(None, {"pixels": pixels.numpy().astype(np.float32)})
    with torch.no_grad():
        logits = model.network(normal(model, pixels))[head].double().numpy()
    if isinstance(own.task, Centres):
        expected = np.concatenate([expit(logits[:, :-4]), logits[:, -4:-2], logits[:, -2:].clip(0, 1)], axis=1)
        expected[:, -4:-2] = expected[:, -4:-2] * own.task.std[0] + own.task.mean[0]
    elif own.task.real:
        expected = logits * 5 + 12
    else:
        expected = softmax(0.7 * logits, axis=1) if own.task.exclusive else expit(0.7 * logits)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["unet", "multilabel"])
def test_labels_at_tuned_thresholds_are_those_of_logits_as_they_are(case, tmp_path, onnx_is_there):
    """Thresholds and biases in the middle of the logits, so that they change many labels."""
    model, _ = trained(case)
    windows, own = stored(model, 3, np.float32), model.spec.heads["mask"]
    with torch.no_grad():
        logits = model.network(normal(model, windows))["mask"]
    middle = logits.mean(dim=(0, 2, 3)) * (-1 if own.task.exclusive else 1)
    model.spec = replace(model.spec, heads={"mask": replace(own, threshold=tuple(middle.tolist()))})
    whole = scaled(model)
    export_onnx(whole, "mask", tmp_path / "m.onnx", windows.numpy(), whole.tuned_threshold("mask"), labels=True)
    session = onnx_session(tmp_path / "m.onnx")
    assert [output.name for output in session.get_outputs()] == ["probabilities", "labels"]
    _, labels = session.run(None, {"pixels": windows.numpy()})
    expected = own.task.predict(logits, middle).numpy()
    assert labels.dtype == np.uint8
    assert (labels == expected).mean() > 0.9999
    assert (own.task.predict(logits).numpy() != expected).mean() > 0.1


@pytest.mark.slow
def test_deepness_reads_it_and_feeds_it_stored_pixels(onnx_is_there, unet_onnx):
    """What Deepness does to 8-bit pixels, by the numbers that the file states, ends as what the run sees."""
    model, session = trained("unet")[0], onnx_session(unet_onnx)
    said = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    assert said["model_type"] == "Segmentor"
    assert said["class_names"] == {"0": "land", "1": "water", "2": "road"}
    assert (said["resolution"], said["tile_size"], said["tiles_overlap"], said["seg_thresh"]) == (25.0, 64, 25, 0.0)
    assert said["rsseg"]["bands"] == [1, 2, 3]
    (given,), (output,) = session.get_inputs(), session.get_outputs()
    assert given.shape == ["batch", 3, 64, 64]
    assert output.shape == ["batch", 3, 64, 64]
    pixels = stored(model, 2).numpy()
    tiles = np.float32(pixels.transpose(0, 2, 3, 1) * 1.0 / 255.0)
    mean, std = (np.array(said[f"standardization_{what}"], np.float32) for what in ("mean", "std"))
    fed = ((tiles - mean) / std).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(fed, pixels, atol=1e-3)
    (found,) = session.run(None, {given.name: fed})
    with torch.no_grad():
        np.testing.assert_allclose(found, scaled(model)(torch.from_numpy(pixels))["mask"].numpy(), atol=1e-3)
    content = unet_onnx.read_bytes()
    assert str(Path(graphs.__file__).parents[2]).encode() not in content  # no paths of the machine that wrote it


def test_what_deepness_is_told():
    one = deepness(scaled(trained("resnet18")[0]), "mask", torch.tensor([2.0]))
    assert float(one["seg_thresh"]) == pytest.approx(1 / (1 + np.exp(-2)))
    assert deepness(scaled(trained("multilabel")[0]), "mask")["seg_thresh"] == "0.5"
    height = deepness(scaled(trained("regression")[0]), "height")
    assert json.loads(height["model_type"]) == "Regressor"
    assert "seg_thresh" not in height
    objects = json.loads(deepness(scaled(trained("centres")[0]), "mask")["class_names"])
    assert list(objects.values()) == ["car", "bus", "height", "width", "down", "across"]


@pytest.mark.slow
def test_a_graph_that_differs_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(graphs, "largest_difference", lambda *_: 0.5)
    model, _ = trained("unet")
    with pytest.raises(InputError, match=r"differ from PyTorch by 0\.5 .* was not written"):
        export_torch(scaled(model), tmp_path / "m.pt2", stored(model, 2, np.float32).numpy())
    assert not list(tmp_path.iterdir())


def test_differences():
    plane = np.zeros((1, 1, 2, 2))
    assert largest_difference(plane, plane + 0.25) == 0.25
    assert largest_difference(plane + np.nan, plane + np.nan) == 0
    assert largest_difference(plane, plane + np.nan) == np.inf
    assert largest_difference(plane, plane[..., :1]) == np.inf


def test_onnx_without_its_packages(monkeypatch):
    monkeypatch.setattr(graphs, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'rsseg\[export\]'"):
        graphs.check_packages()


@pytest.mark.slow
@pytest.mark.parametrize("case", ["timm", "mixed"])
def test_torch_export_gives_what_pytorch_gives(case, tmp_path):
    model, whole = trained(case)[0], scaled(trained(case)[0])
    export_torch(whole, tmp_path / "m.pt2", stored(model, 3, np.float32).numpy())
    again, pixels = torch.export.load(tmp_path / "m.pt2").module(), stored(model, 4, np.float32)
    with torch.no_grad():
        expected, found = whole(pixels), again(pixels)
    assert list(found) == list(expected)
    for head, values in expected.items():
        torch.testing.assert_close(found[head], values, rtol=1e-4, atol=1e-4)


def test_an_interval_of_a_mean_over_areas_is_that_of_student():
    """Of areas of one size, where a score is a mean over them; each has two scenes, whose sums are added."""
    areas = np.random.default_rng(0).normal(5, 1, 12)
    sums = np.stack([np.repeat(areas, 2), np.ones(24)], axis=1)[:, None]
    measure = Measure(
        label="mean",
        score="mean",
        classes=slice(None),
        parts=lambda s: s[..., 0] / s[..., 1],
        pixels=lambda s: s[..., 1],
        limits=(-np.inf, np.inf),
        sums=lambda records: sums,
    )
    value, low, high = interval(SimpleNamespace(groups=np.repeat(np.arange(12), 2)), measure)
    half = student.ppf(0.975, 11) * areas.std(ddof=1) / np.sqrt(12)
    assert value == pytest.approx(areas.mean())
    assert (high - low) / 2 == pytest.approx(half, rel=0.08)
    assert np.isnan(interval(SimpleNamespace(groups=np.zeros(24)), measure)[1])


def facts_of(model, **facts):
    given = {
        "spec": model.spec, "title": "a run", "architecture": "Unet", "encoder": "resnet18", "parameters": 10,
        "made": "2026-01-01T00:00:00Z", "dataset": "mine", "losses": dict.fromkeys(model.spec.heads, "Dice"), "steps": 5,
        "scenes": {"train": ["a", "b"], "val": ["c", "d"]}, "groups": {"train": ["x", "x"], "val": ["x", "y"]}, "records": {},
        "without": {}, "files": [ABOUT, WEIGHTS],
    }  # fmt: skip
    return CardFacts(**given | facts)


def test_what_a_card_says():
    model, _ = trained("two_decoders")
    text = model_card(facts_of(model))
    assert "alone can't load `model.safetensors`" in text
    assert "Not stated. Fill it in" in text
    assert "1 area is in both training and validation" in text
    assert "| train | 2 | 1 |" in text
    assert "Not known: the run was not recorded" in text
    assert "smp.from_pretrained" not in text
    files = [ABOUT, SMP, WEIGHTS, "model.onnx"]
    text = model_card(facts_of(trained("unet")[0], files=files, licence="CC-BY-4.0"))
    assert "license: cc-by-4.0" in text
    assert "smp.from_pretrained" in text
    assert "InferenceSession('model.onnx')" in text


def test_a_card_of_blocks_speaks_of_no_other_places():
    records = {("mask", "val"): counted_records(label_counts(steady([0.6]))[0, 0, :, None])}
    facts = facts_of(trained("resnet18")[0], records=records)
    whole, parts = model_card(facts), model_card(replace(facts, blocks=64))
    assert "blocks of 64 px of the images that train" in parts
    assert "- Other places than the images that the scenes are blocks of" in parts
    assert "Intervals are of other parts of these images" in parts
    assert "| val | 2 | 2 |\n\n## Input" in whole
    assert "| val | 2 | 2 |\n\n## Input" in parts
    for said in ("independent area", "in both training and validation", "Places unlike the 2 areas", "other areas like these"):
        assert said in whole
        assert said not in parts


@pytest.mark.parametrize(("areas", "shown"), [(5, False), (6, True)])
def test_a_card_has_intervals_where_there_are_areas_enough_to_compare(areas, shown):
    """The rule of a comparison's caveat."""
    records = counted_records(label_counts(steady([0.6], scenes=areas))[0, 0, :, None])
    text = model_card(facts_of(trained("resnet18")[0], records={("mask", "val"): records}))
    assert f"{areas} scenes in {areas} independent areas" in text
    assert ("There are no intervals: fewer than 6 areas are too few for reliable ones" in text) is not shown
    assert ("Intervals are of other areas like these" in text) is shown
    assert bool(re.search(r"\| IoU \| 0\.\d+ \| 0\.\d+ to 0\.\d+ \|", text)) is shown


@pytest.mark.parametrize(("dtype", "said"), [("uint8", True), ("uint16", False), ("", False)])
def test_a_card_names_deepness_for_8_bit_pixels_alone(dtype, said):
    model, _ = trained("unet")
    text = model_card(facts_of(model, spec=replace(model.spec, dtype=dtype), files=["model.onnx"]))
    assert ("Deepness" in text) == said


def test_the_item_names_every_file():
    model, _ = trained("two_decoders")
    item = stac_item(facts_of(model, title="loss=dice"))
    assert item["id"] == item["properties"]["mlm:name"] == "loss-dice"
    asset = item["assets"][WEIGHTS]
    assert asset["mlm:artifact_type"] == "safetensors.torch.save_file"
    cover, height = item["properties"]["mlm:output"]
    assert [c["name"] for c in cover["classification:classes"]] == ["land", "water", "road"]
    assert (cover["tasks"], height["tasks"]) == (["semantic-segmentation"], ["regression"])
    assert height["classification:classes"] == []
    given = item["properties"]["mlm:input"][0]
    assert given["value_scaling"][1] == {"type": "z-score", "mean": model.spec.mean[1], "stddev": model.spec.std[1]}
    assert given["input"]["shape"] == [-1, 3, 64, 64]
    assert [band["name"] for band in item["properties"]["bands"]] == given["bands"] == ["1", "2", "3"]


@pytest.fixture(scope="session")
def finished(tmp_path_factory, folder_root):
    folder = tmp_path_factory.mktemp("exported")
    train(settings(folder, *folder_data(folder_root), "steps=4", "validations=2"), folder / "run", [], "ce_dice")
    return folder / "run"


@pytest.mark.slow
def test_a_run_goes_out_and_comes_back(finished, folder_root, tmp_path, caplog):
    out = export(finished, ExportOptions(out=tmp_path / "out", licence="MIT"))
    model = load_exported(out)
    assert list(model.spec.heads) == ["mask"]
    assert model.spec.heads["mask"].task.classes == ("a", "b", "c")
    assert (model.spec.window, model.spec.dtype) == (32, "uint8")
    assert model.spec.resolution == pytest.approx(0.5, rel=1e-3)  # of the ground, which UTM scales by up to 0.04 %
    text = (out / "README.md").read_text()
    assert "CrossEntropy + Dice" in text
    assert "IoU of b" in text
    assert json.loads((out / "stac.json").read_text())["properties"]["license"] == "MIT"
    with caplog.at_level("INFO"):
        export(finished, ExportOptions("torch", tmp_path / "out"))
    assert "at most, on 4 validation windows" in caplog.text
    item = json.loads((out / "stac.json").read_text())
    assert list(item["assets"]) == ["model.pt2", WEIGHTS]
    assert item["properties"]["license"] == "MIT"
    for word in (str(finished), str(folder_root)):
        assert not [path for path in out.iterdir() if word.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"to": "onxx"}, "did you mean 'onnx'"),
        ({"head": "mask"}, "for to=onnx alone: to=folder holds all"),
        ({"to": "torch", "labels": True, "threshold": "tuned"}, "for to=onnx alone: to=torch holds all"),
        ({"threshold": "best"}, "fixed or tuned is expected"),
    ],
)
def test_words_that_do_not_fit(words, said, tmp_path):
    with pytest.raises(InputError, match=said):
        export(tmp_path, ExportOptions(**words))


@pytest.mark.slow
def test_the_start_and_the_card_of_a_run_on_blocks(folder_root, tmp_path, caplog):
    data = ["dataset=folder", f"dataset.source.root={folder_root}", "dataset.classes=[a,b,c]"]
    split = "dataset.source.split={blocks: 48, buffer: 4, train: 0.8, val: 0.1, test: 0.1}"
    with caplog.at_level("INFO"):
        train(settings(tmp_path, *data, split, "steps=2", "validations=1"), tmp_path / "run", [], "ce")
    counts = {split: len(names) for split, names in RunFolder(tmp_path / "run").data()["scenes"].items()}
    assert f"{counts['train']} training blocks and {counts['val']} validation blocks, 2 steps of" in caplog.text
    text = (export(tmp_path / "run", ExportOptions(out=tmp_path / "out")) / "README.md").read_text()
    assert "blocks of 48 px of the images that train" in text
    assert "independent" not in text


@pytest.mark.slow
def test_the_start_of_a_run_whose_validation_scenes_are_of_one_group(folder_root, tmp_path, caplog):
    data = ["dataset=folder", f"dataset.source.root={folder_root}", "dataset.classes=[a,b,c]"]
    group = ["dataset.source.group='(tile)[0-9]'", "dataset.source.split={val: [tile0_a, tile1_a]}"]
    with caplog.at_level("INFO"):
        train(settings(tmp_path, *data, *group, "steps=2", "validations=1"), tmp_path / "run", [], "ce")
    assert "4 training scenes in 1 group and 2 validation scenes in 1 group, 2 steps of" in caplog.text
    assert caplog.text.count("All validation scenes (2) are of one group, tile: it selects the checkpoint") == 1
    text = (export(tmp_path / "run", ExportOptions(out=tmp_path / "out")) / "README.md").read_text()
    assert "2 scenes in 1 independent area." in text
