"""What a config may build is decided by its place: everything else is refused, not called, and not imported."""

import contextlib
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import CONFIGS, compose

from rsseg.assembly import make_setup
from rsseg.config import build as kinds
from rsseg.config.build import Kind, build, faults, locate
from rsseg.contract import InputError

KINDS = {name: kind for name, kind in vars(kinds).items() if isinstance(kind, Kind)}
WRITE = "open({canary!r}, 'w').close()"
"""Code that leaves the canary file."""

ATTACKS = {
    # what runs commands, code or a pickle, or writes files, in packages that a config may name
    "torch.utils.collect_env.run": {"command": "touch {canary}"},
    "torch.utils.collect_env.run_and_read_all": {"run_lambda": None, "command": "touch {canary}"},
    "torch.load": {"f": "{pickle}", "weights_only": False},
    "torch.serialization.load": {"f": "{pickle}", "pickle_module": "pickle", "weights_only": False},
    "torch.hub.load": {"repo_or_dir": "{hub}", "model": "net", "source": "local"},
    "torch.hub.load_state_dict_from_url": {"url": "file://{pickle}", "model_dir": "{folder}", "weights_only": False},
    "torch.hub.download_url_to_file": {"url": "file://{pickle}", "dst": "{canary}"},
    "torch.hub.set_dir": {"d": "{canary}"},
    "torch.utils.model_zoo.load_url": {"url": "file://{pickle}", "model_dir": "{folder}"},
    "torch.save": {"obj": 1, "f": "{canary}"},
    "torch.jit.load": {"f": "{pickle}"},
    "torch.jit.save": {"m": 1, "f": "{canary}"},
    "torch.export.load": {"f": "{pickle}"},
    "torch.package.PackageImporter": {"file_or_buffer": "{pickle}"},
    "torch.package.PackageExporter": {"f": "{canary}"},
    "torch.fx.graph_module._exec_with_source": {"src": WRITE, "globals": {}},
    "torch.fx.graph_module._forward_from_src": {"src": WRITE, "globals": {}},
    "torch.distributed.run.main": {"args": ["--no-python", "touch", "{canary}"]},
    "torch.distributed.launcher.api.elastic_launch": {"config": 1, "entrypoint": "touch"},
    "torch.multiprocessing.spawn": {"fn": "os.system"},
    "torch.utils.cpp_extension.load": {"name": "x", "sources": ["{folder}/x.cpp"]},
    "torch.utils.cpp_extension.load_inline": {"name": "x", "cpp_sources": "int x;"},
    "torch.ops.load_library": {"path": "{pickle}"},
    "torch.classes.load_library": {"path": "{pickle}"},
    "torch._dynamo.debug_utils.run_fwd_maybe_bwd": {"gm": 1},
    "torch.utils.tensorboard.SummaryWriter": {"log_dir": "{canary}"},
    "torch.cuda.memory._dump_snapshot": {"filename": "{canary}"},
    "torch.from_file": {"filename": "{canary}", "shared": True, "size": 1},
    "torch.nn.Linear": {"in_features": 1, "out_features": 1},
    "torch.optim": {},
    "torch.optim.Optimiser": {},
    "torch.optim.lr_scheduler.warnings.sys.exit": {},
    "torch.optim.swa_utils.update_bn": {"loader": [], "model": None},
    "torch.optim.optimizer.Callable": {},
    "torch.os.system": {"command": "touch {canary}"},
    "torch.serialization.pickle.loads": {"data": "x"},
    "torch.storage.io.open": {"file": "{canary}", "mode": "w"},
    "timm.models.load_checkpoint": {"model": None, "checkpoint_path": "{pickle}"},
    "timm.create_model": {"model_name": "resnet18"},
    "timm.utils.CheckpointSaver": {"model": None, "optimizer": None, "checkpoint_dir": "{folder}"},
    "timm.optim.create_optimizer_v2": {"model_or_params": [], "opt": "sgd"},
    "timm.optim._optim_factory.create_optimizer_v2": {"model_or_params": [], "opt": "sgd"},
    "segmentation_models_pytorch.from_pretrained": {"pretrained_model_name_or_path": "{folder}"},
    "segmentation_models_pytorch.create_model": {"arch": "unet"},
    "segmentation_models_pytorch.encoders.get_encoder": {"name": "resnet18"},
    "segmentation_models_pytorch.losses.dice.F.one_hot": {"tensor": 1},
    "segmentation_models_pytorch.losses.dice._Loss": {},
    "segmentation_models_pytorch.losses.dice.torch.load": {"f": "{pickle}", "weights_only": False},
    "kornia.losses.dice.torch.load": {"f": "{pickle}", "weights_only": False},
    "kornia.losses.dice.nn.Sequential": {},
    "kornia.losses.dice.torch.hub.load": {"repo_or_dir": "{hub}", "model": "net", "source": "local"},
    "kornia.losses.dice_loss": {"pred": 1, "target": 1},
    "kornia.io.load_image": {"path_file": "{pickle}", "desired_type": 1},
    "kornia.feature.KeyNetAffNetHardNet": {},
    "monai.losses.PerceptualLoss": {"spatial_dims": 2},
    "monai.losses.perceptual.torch.hub.load": {"repo_or_dir": "{hub}", "model": "net", "source": "local"},
    "monai.bundle.run": {"config_file": "{pickle}"},
    "torch.nn.modules.loss.Module": {},
    "torch.nn.modules.loss.Callable": {},
    "torch.nn.DataParallel": {"module": 1},
    "torch.nn.functional.cross_entropy": {"input": 1, "target": 1},
    "torch.nn.utils.torch.load": {"f": "{pickle}", "weights_only": False},
    "torch.nn.init.torch.save": {"obj": 1, "f": "{canary}"},
    "lightning.pytorch.cli.LightningCLI": {"args": ["fit", "--model", "os.system"]},
    "lightning.pytorch.cli.SaveConfigCallback": {"parser": None, "config": None},
    "lightning.fabric.utilities.cloud_io._load": {"path_or_url": "{pickle}"},
    "lightning.fabric.Fabric": {},
    "lightning.pytorch.loggers.wandb.os.system": {"command": "touch {canary}"},
    "lightning.pytorch.callbacks.model_checkpoint.shutil.rmtree": {"path": "{folder}"},
    "lightning.pytorch.strategies.launchers.subprocess_script.subprocess.Popen": {"args": ["touch", "{canary}"]},
    "pytorch_lightning.callbacks.Timer": {},
    "torchgeo.main.main": {"args": ["fit"]},
    "torchgeo.datasets.utils.extract_archive": {"src": "{pickle}", "dst": "{folder}"},
    "torchmetrics.utilities.imports.sys.exit": {},
    "rsseg.files.write_text": {"path": "{canary}", "text": "x"},
    "rsseg.config.provenance.subprocess.run": {"args": ["touch", "{canary}"]},
    "rsseg.data.scene.os.system": {"command": "touch {canary}"},
    "rsseg.data.store.Store": {"folder": "{folder}"},
    "rsseg.losses.composite.torch.save": {"obj": 1, "f": "{canary}"},
    "rsseg.losses.Composite": {"terms": {}},
    "rsseg.losses": {},
    # the standard library and what is installed beside
    "os.system": {"command": "touch {canary}"},
    "posix.system": {"command": "touch {canary}"},
    "subprocess.Popen": {"args": ["touch", "{canary}"]},
    "subprocess.check_call": {"popenargs": ["touch", "{canary}"]},
    "builtins.exec": {"source": WRITE},
    "builtins.eval": {"source": WRITE},
    "builtins.open": {"file": "{canary}", "mode": "w"},
    "builtins.__import__": {"name": "canary_module"},
    "importlib.import_module": {"name": "canary_module"},
    "runpy.run_path": {"path_name": "{folder}/canary_module.py"},
    "pathlib.Path.write_text": {"self": "{canary}", "data": "x"},
    "shutil.copy": {"src": "{pickle}", "dst": "{canary}"},
    "pickle.load": {"file": "{pickle}"},
    "ctypes.CDLL": {"name": "{pickle}"},
    "webbrowser.open": {"url": "file://{pickle}"},
    "code.interact": {},
    "hydra.utils.instantiate": {"config": {"_target_": "os.system", "command": "touch {canary}"}},
    "hydra.utils.call": {"config": {"_target_": "os.system", "command": "touch {canary}"}},
    "omegaconf.OmegaConf.save": {"config": {}, "f": "{canary}"},
    "numpy.save": {"file": "{canary}", "arr": 1},
    "pandas.read_pickle": {"filepath_or_buffer": "{pickle}"},
    "joblib.load": {"filename": "{pickle}"},
    "yaml.unsafe_load": {"stream": "!!python/object/apply:os.system ['touch {canary}']"},
    # a module that is run by being imported
    "canary_module.Thing": {},
    "canary_module": {},
    # what is no dotted path
    "": {},
    ".": {},
    "torch..optim.SGD": {},
    "torch.optim.SGD.": {},
    "torch.optim.SGD.__init__.__globals__": {},
    "torch.optim.SGD.__class__": {},
    "torch.optim.SGD\nos.system": {},
    "torch.optim.SGD()": {},
}


class Touch:
    """A pickle of it leaves the canary file when it is read."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return open, (str(self.canary), "w")


@pytest.fixture
def names(tmp_path, monkeypatch):
    """What stands in braces above, with all that the attacks need in place."""
    canary, folder = tmp_path / "CANARY", tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "payload.pkl").write_bytes(pickle.dumps(Touch(canary)))
    for name in ("folder/canary_module.py", "hubconf.py"):
        (tmp_path / name).write_text(f"open({str(canary)!r}, 'w').close()\nclass Thing: ...\ndef net(): ...\n")
    monkeypatch.syspath_prepend(folder)
    sys.modules.pop("canary_module", None)
    return {"canary": str(canary), "folder": str(folder), "hub": str(tmp_path), "pickle": str(tmp_path / "payload.pkl")}


def filled(value, names):
    if isinstance(value, str):
        return value.replace("{canary!r}", repr(names["canary"])).format(**names) if "{" in value else value
    if isinstance(value, dict):
        return {key: filled(child, names) for key, child in value.items()}
    return [filled(child, names) for child in value] if isinstance(value, list) else value


@pytest.mark.parametrize("target", ATTACKS)
def test_attacks_are_refused_in_every_place(target, names):
    node = {"_target_": target, **filled(ATTACKS[target], names)}
    below = {"_target_": "torch.optim.lr_scheduler.SequentialLR", "schedulers": [{"deep": [node]}], "milestones": [1]}
    for kind in KINDS.values():
        for found in (faults(node, "here", kind), faults({**below, "milestones": node}, "here", kinds.SCHEDULER)):
            assert found
            assert all("\n" not in line or "\n" in target for line in found)
        with pytest.raises(InputError):
            build(node, "here", kind)
        with pytest.raises(InputError, match=r"here\.schedulers\[0\]\.deep\[0\]\._target_="):
            build(below, "here", kinds.SCHEDULER, optimizer=None)
    assert not Path(names["canary"]).exists()
    assert "canary_module" not in sys.modules


@pytest.mark.parametrize("target", [None, 3, ["os", "system"], {"_target_": "os.system"}, True])
def test_targets_that_are_no_text(target):
    with pytest.raises(InputError, match="a dotted path"):
        locate(target, "here", kinds.OPTIMIZER)


@pytest.mark.parametrize(
    "target",
    ["torch.utils.collect_env.run", "torch.save", "torch.hub.download_url_to_file", "torch.fx.graph_module._exec_with_source",
     "torch.load", "torch.hub.load", "builtins.exec", "os.system", "importlib.import_module", "torch.package.PackageExporter"],
)  # fmt: skip
def test_the_canary_would_show(target, names):
    """Called, the same attacks do leave it: the test above would see them."""
    from hydra.utils import get_object

    arguments = filled(ATTACKS[target], names)
    positional = target.split(".")[0] in ("builtins", "os")
    with contextlib.suppress(Exception):  # some fail once the harm is done
        get_object(target)(*arguments.values()) if positional else get_object(target)(**arguments)
    sys.modules.pop("canary_module", None)
    assert Path(names["canary"]).exists()


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        ("OPTIMIZER", "torch.optim.lr_scheduler.StepLR"),
        ("SCHEDULER", "torch.optim.SGD"),
        ("CALLBACK", "lightning.pytorch.loggers.CSVLogger"),
        ("LOGGER", "lightning.pytorch.callbacks.Timer"),
        ("SAMPLER", "rsseg.data.augment.D4"),
        ("AUGMENTATION", "rsseg.data.sampling.Uniform"),
        ("SOURCE", "rsseg.data.synthetic.SceneRecipe"),
        ("TERM", "rsseg.losses.Composite"),
        ("TERM", "rsseg.losses.Foreign"),
        ("MODEL", "torch.nn.MSELoss"),
        ("TERM", "torch.nn.Softmax"),
        ("MODEL", "segmentation_models_pytorch.encoders.resnet.ResNetEncoder"),
        ("TRAINER", "lightning.pytorch.callbacks.Timer"),
    ],
)
def test_a_class_of_another_place_is_refused(kind, target):
    with pytest.raises(InputError, match=f"{target}.* is (not|expected)|is expected"):
        locate(target, "here", KINDS[kind])


@pytest.mark.parametrize(
    "target", ["torch.nn.MSELoss", "segmentation_models_pytorch.losses.DiceLoss", "kornia.losses.DiceLoss"]
)
def test_losses_of_known_libraries_are_losses_and_nothing_else(target):
    assert issubclass(locate(target, "here", kinds.TERM), torch.nn.Module)
    for kind in KINDS.values():
        if kind is not kinds.TERM:
            with pytest.raises(InputError):
                locate(target, "here", kind)


PLACES = {
    "augment": "AUGMENTATION", "balancing": "BALANCING", "callbacks": "CALLBACK", "dataset": "SOURCE",
    "logger": "LOGGER", "loss": "TERM", "model": "MODEL", "optimizer": "OPTIMIZER", "sampler": "SAMPLER",
    "scheduler": "SCHEDULER", "trainer": "TRAINER",
}  # fmt: skip


def test_every_shipped_target_is_of_its_place():
    seen = set()
    for path in CONFIGS.glob("*/**/*.yaml"):
        targets = re.findall(r"_target_: ([\w.]+)", path.read_text())
        place = path.relative_to(CONFIGS).parts[0]
        for target in targets:
            kind = KINDS["RECIPE" if target.endswith("SceneRecipe") else PLACES[place]]
            assert issubclass(locate(target, path.stem, kind), kinds._named(kind.base))
            seen.add(place)
    assert seen == set(PLACES)


def test_nested_nodes_have_the_kind_of_their_own_place():
    timer = {"_target_": "lightning.pytorch.callbacks.Timer"}
    trainer = {"_target_": "lightning.Trainer", "accelerator": "cpu", "logger": False, "barebones": True}
    strategy = {"_target_": "lightning.pytorch.strategies.SingleDeviceStrategy", "device": "cpu"}
    assert not faults({**trainer, "strategy": strategy}, "trainer", kinds.TRAINER)
    assert type(build({**trainer, "strategy": strategy}, "trainer", kinds.TRAINER).strategy).__name__ == "SingleDeviceStrategy"
    for name in ("strategy", "profiler", "callbacks"):
        assert faults({**trainer, name: timer}, "trainer", kinds.TRAINER)
    source = {"_target_": "rsseg.data.sources.Synthetic", "root": "x", "scenes": {}}
    assert not faults({**source, "recipe": {"_target_": "rsseg.data.synthetic.SceneRecipe"}}, "source", kinds.SOURCE)
    assert "recipe of scenes" in faults({**source, "recipe": source}, "source", kinds.SOURCE)[0]


def test_arguments_are_values_never_code(tmp_path):
    given = build({"_target_": "torch.optim.SGD", "lr": 0.1}, "o", kinds.OPTIMIZER, params=[torch.nn.Parameter(torch.zeros(1))])
    assert given.defaults["lr"] == 0.1
    for extra in ({"pickle_module": "pickle"}, {"torch_dtype": "os.system"}, {"class_path": "os.system"}, {"_args_": [1]},
                  {"_partial_": True}, {"_convert_": "all"}, {"_execution_whitelist_": ["os"]}):  # fmt: skip
        with pytest.raises(InputError, match="has no parameter"):
            build({"_target_": "torch.optim.SGD", "lr": 0.1, **extra}, "optimizer", kinds.OPTIMIZER, params=[])
    for extra in ({"lr": "os.system"}, {"lr": "os.getpid"}):
        with pytest.raises(InputError, match="refused its arguments"):
            build({"_target_": "torch.optim.SGD", **extra}, "optimizer", kinds.OPTIMIZER, params=[])


OWN = """\
open({canary!r}, "w").close()
import os, torch
from rsseg.data.scene import Source
from torch.nn import MSELoss as Elsewhere

class Mine(torch.nn.Module):
    def __init__(self, power=2.0):
        super().__init__()
        self.power = power
    def forward(self, logits, target):
        return (logits[:, 0].sigmoid() - target).abs().pow(self.power).mean()

class NoLoss: ...
def loss(): ...
class Blocks(Source):
    def __init__(self, root): ...
    def scenes(self, split): return []
"""


@pytest.fixture
def own_package(tmp_path, monkeypatch):
    """A package of the user's, in the module own.things; it leaves a file when it is imported."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own/__init__.py").write_text("")
    (tmp_path / "own/things.py").write_text(OWN.replace("{canary!r}", repr(str(tmp_path / "CANARY"))))
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "CANARY"
    for name in [name for name in sys.modules if name.split(".")[0] == "own"]:
        del sys.modules[name]


def test_own_code_is_used_when_the_command_line_trusts_it(own_package):
    node = {"_target_": "own.things.Mine", "power": 1}
    with pytest.raises(InputError, match=r"loss\.terms\.mine\._target_=own\.things\.Mine: .* add trust=\[own\]"):
        build(node, "loss.terms.mine", kinds.TERM, task="binary")
    assert not own_package.exists()
    term = build(node, "loss.terms.mine", kinds.TERM, ["own"], task="binary")  # it has no parameter `task`: it gets none
    assert float(term(torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2))) == 0.5
    assert own_package.exists()
    assert build({"_target_": "own.things.Blocks", "root": "."}, "dataset.source", kinds.SOURCE, ["own"]).scenes("val") == []
    for name, kind in (("NoLoss", kinds.TERM), ("loss", kinds.TERM), ("os.system", kinds.TERM), ("Mine", kinds.OPTIMIZER),
                       ("Elsewhere", kinds.OPTIMIZER), ("torch.nn.MSELoss", kinds.SAMPLER)):  # fmt: skip
        with pytest.raises(InputError, match="is not a"):
            locate(f"own.things.{name}", "here", kind, ["own"])
    with pytest.raises(InputError, match=r"add trust=\[ownership\]"):
        locate("ownership.Mine", "here", kinds.TERM, ["own"])
    assert locate("torch.nn.L1Loss", "here", kinds.TERM, ["torch.nn"]) is torch.nn.L1Loss


def test_trust_is_a_word_of_the_command_line(own_package, tmp_path):
    words = ["loss.terms={mine: {_target_: own.things.Mine, weight: 1}}"]
    for config in (compose(words), compose([*words, "trust=[own]"])):  # what a file says counts for nothing
        with pytest.raises(InputError, match=r"add trust=\[own\]"):
            make_setup(config)
    setup = make_setup(compose([*words, "trust=[own]"]), ["own"])
    assert type(setup.losses(None)["mask"].terms["mine"].loss).__name__ == "Mine"
    assert "trust" not in setup.plain


def test_trust_is_never_taken_from_a_run_folder(tmp_path):
    from rsseg.config.folder import RunFolder

    config, run = compose(["trust=[own]"]), RunFolder(tmp_path)
    run.write_config(make_setup(config, ["own"]).plain)
    assert "trust" not in (tmp_path / "config.yaml").read_text()
    with (tmp_path / "config.yaml").open("a") as file:
        file.write("trust: [os]\n")
    assert list(run.config().trust) == []
    assert run.differences(config) == {}


def test_nothing_heavy_is_imported_before_it_is_needed():
    code = "import sys, rsseg.config.cli, rsseg.config.sweep; sys.exit(bool({'torch', 'lightning', 'timm'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=CONFIGS.parent).returncode == 0
