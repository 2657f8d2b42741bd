"""The whole chain on tiny data: every shipped config, resumption, sweeps, and what a user gets wrong."""

import csv
import json
import runpy
import shutil
import subprocess
import sys
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import layouts
import numpy as np
import pytest
import rasterio
import torch
from tiny import CONFIGS, checker, coloured, compose, logged, map_scene, power_cut, write_tif

from rsseg.answer import compare
from rsseg.assembly import check_machine, make_setup
from rsseg.comparison.question import Question
from rsseg.config.folder import RunFolder
from rsseg.contract import InputError
from rsseg.data.store import load_scenes
from rsseg.evaluation.options import EvaluationOptions
from rsseg.evaluation.scores import evaluate
from rsseg.metrics import Scores
from rsseg.module import SegmentationModule
from rsseg.run import train
from rsseg.training import scoring

TINY = [
    "model.encoder=test_resnet",  # timm's smallest: checkpoints of 27 MB
    "window=32",
    "batch_size=2",
    "steps=2",
    "validations=1",
    "workers=0",
    "trainer=cpu",
    "trainer.precision=32-true",
    "pictures=0",
]
SMALL = {
    "unet": ["model.net.decoder_channels=[16,16,8,8,8]"],
    "dpt": [
        "model.encoder=test_vit",
        "model.net.decoder_fusion_channels=16",
        "model.net.decoder_intermediate_channels=[16,16,16,16]",
    ],
    "pan": ["window=128"],
}
SPLIT = "dataset.source.split={train: 0.7, val: 0.3}"


def tiny(tmp_path, *overrides):
    """The words of a tiny run, with the smallest model of its kind; an experiment and a run that goes on have their own."""
    chosen = dict(word.split("=", 1) for word in overrides if "=" in word)
    own = {"experiment", "resume"} & chosen.keys() or any(key.startswith("model.net.") for key in chosen)
    small = [] if own else SMALL.get(chosen.get("model", "unet"), [])
    return [*TINY, *small, f"output={tmp_path}", *overrides]


def settings(tmp_path, *overrides):
    return compose(tiny(tmp_path, *overrides))


def folder_data(root, *more):
    return ["dataset=folder", f"dataset.source.root={root}", "dataset.classes=[a,b,c]", SPLIT, *more]


@pytest.fixture(scope="session")
def multilabel_root(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("multilabel"), np.random.default_rng(2)
    for i in range(3):
        planes = np.stack([checker(rng, 64, 2), checker(rng, 64, 2)])
        write_tif(root / "images" / f"s{i}.tif", coloured(rng, planes.sum(axis=0)))
        write_tif(root / "masks" / f"s{i}.tif", planes)
    return root


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.usefixtures("quick_runs")
@pytest.mark.parametrize("loss", options("loss"))
@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_every_loss_trains_every_task(tmp_path, loss, task, inria_root, folder_root, multilabel_root):
    data = {
        "binary": ["dataset=inria", f"dataset.source.root={inria_root}"],
        "multiclass": folder_data(folder_root),
        "multilabel": [*folder_data(multilabel_root), "dataset.task=multilabel", "dataset.classes=[a,b]"],
    }[task]
    config = settings(tmp_path, *data, f"loss={loss}")
    others = {"mse", "rmse", "mae", "huber", "smooth_l1", "log_cosh", "ber_hu", "pinball", "centres"}
    narrow = {"bce": task == "multiclass", "one_class": task != "binary"}
    if loss in others or narrow.get(loss):
        with pytest.raises(InputError, match=f"fits the tasks.*found '{task}'"):
            train(config, tmp_path / "run")
        return
    assert 0 <= train(config, tmp_path / "run") <= 1
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    for term in config.loss.terms:
        for stage in ("train", "val"):
            values = [float(r[f"{stage}/loss/{term}"]) for r in rows if r.get(f"{stage}/loss/{term}")]
            assert values or stage == "train"  # training logs every tenth step
            assert np.isfinite(values).all()
            weighted = [float(r[f"{stage}/loss/{term}.weighted"]) for r in rows if r.get(f"{stage}/loss/{term}")]
            assert weighted == pytest.approx([config.loss.terms[term].weight * value for value in values], rel=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_runs")
@pytest.mark.parametrize(
    "choice",
    [f"{group}={name}" for group in ("model", "augment", "optimizer", "scheduler", "sampler") for name in options(group)]
    + ["augment=[d4,scale_crop,noise]", "model.freeze=[encoder]", "model.freeze=[decoder]", "model.dropout=0.2"]
    + ["model.aux=4", "model.classifier=0.1"],
)
def test_every_choice_trains(tmp_path, folder_root, choice):
    needed = ["sampler.classes=[c]", "window=32"] if choice == "sampler=without" else []
    config = settings(tmp_path, *folder_data(folder_root), choice, *needed, "trainer.log_every_n_steps=1")
    train(config, tmp_path / "run")
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    assert {row["step"] for row in rows if row["train/loss/dice"]} == {"1", "2"}


@pytest.mark.slow
@pytest.mark.usefixtures("quick_runs")
def test_several_decoders_train_are_scored_mapped_and_resumed(tmp_path, folder_root):
    """With losses of their own beside, averaged weights, and gains of single terms."""
    words = [
        *folder_data(folder_root),
        "model.heads.fine={loss: ${loss}, decoder: own}",
        "model.aux=1",
        "model.classifier=0.1",
        "callbacks=ema",
        "record.gain=true",
        "trainer.log_every_n_steps=1",
    ]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(settings(tmp_path, *words), whole)
    with power_cut(1):
        train(settings(tmp_path, *words, "checkpoint_every=1"), cut)
    train(settings(tmp_path, f"resume={cut}"), cut)
    states = [torch.load(RunFolder(folder).best, weights_only=True)["state_dict"] for folder in (whole, cut)]
    assert any(name.startswith("network.branches.fine.decoder") for name in states[0])
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name
    rows = list(csv.DictReader((whole / "metrics.csv").open()))
    for name in ("train/mask/loss/aux", "train/fine/loss/aux", "train/mask/loss/classifier", "train/fine/loss/classifier"):
        assert sum(bool(row[name]) for row in rows) == 2
    assert not any(name.startswith("val/") and name.endswith(("aux", "classifier")) for name in rows[0])
    assert set(evaluate(whole)) == {"mask", "fine"}
    assert map_scene(whole, next((folder_root / "images").iterdir()), tmp_path / "map.tif").is_file()


HEADS = {"geonrw": {"cover": "ce_dice", "elevation": "huber"}, "l8biome_tasks": {"cloud": "ce_dice", "shadow": "focal_dice"}}
"""The losses of heads of datasets with several targets."""


@pytest.mark.slow
@pytest.mark.usefixtures("quick_runs")
@pytest.mark.parametrize("name", sorted(layouts.LAYOUTS | layouts.BURNT | layouts.SEVERAL))
def test_every_dataset_trains_without_its_test_part(tmp_path, name):
    root = layouts.without_test_part(layouts.write(tmp_path, name), name)
    heads = [f"+loss@model.heads.{head}.loss={loss}" for head, loss in HEADS.get(name, {}).items()]
    config = settings(tmp_path, f"dataset={name}", f"dataset.source.root={root}", "pictures=1", *heads)
    assert 0 <= train(config, tmp_path / "run") <= 1
    data = json.loads((tmp_path / "run" / "data.json").read_text())
    assert len(data["mean"]) == len(config.dataset.bands)
    assert sum(data["positives"]) > 0


@pytest.mark.slow
def test_any_torchgeo_dataset_trains_and_is_found_finished(tmp_path):
    root = layouts.write(tmp_path, "loveda")
    classes = "dataset.classes=[none,background,building,road,water,barren,forest,agriculture]"
    data = ["dataset=torchgeo", "dataset.name=LoveDA", f"dataset.args.root={root}", classes]
    iou = train(settings(tmp_path, *data), tmp_path / "run")
    assert RunFolder(tmp_path / "run").config().dataset.bands == [1, 2, 3]  # found in the data
    assert train(settings(tmp_path, *data), tmp_path / "run") == pytest.approx(iou)
    assert evaluate(tmp_path / "run")["mask"]["iou"] == pytest.approx(iou)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_runs")
@pytest.mark.parametrize("name", options("experiment"))
def test_every_experiment_trains(tmp_path, name):
    data = "synthetic" if name == "one_class" else layouts.facts_of_experiment(name)
    if data in layouts.LAYOUTS:
        words = [f"dataset.source.root={layouts.write(tmp_path, data)}"]
    else:  # made-up scenes
        words = ["dataset.source.scenes={train: 1, val: 1}", "dataset.source.recipe.size=96"]
    if name == "one_class":
        words += ["dataset.task=binary", "dataset.classes=[water]", "dataset.palette=null", "dataset.mask_values=[[0,1,2,3],4]"]
        words += ["dataset.source.recipe.size=256", "window=32"]
    config = settings(tmp_path, f"experiment={name}", *words, "pictures=0")
    train(config, tmp_path / "run")
    assert RunFolder(tmp_path / "run").config().dataset.name == data


@pytest.mark.parametrize(("group", "names"), [(g, options(g)) for g in ("logger", "trainer", "callbacks")])
def test_every_other_choice_composes_and_binds(group, names):
    for name in names:
        setup = make_setup(compose([f"{group}={name}"]))
        if name == "gpu" and not torch.cuda.is_available():
            with pytest.raises(InputError, match="no GPU is found"):
                check_machine(setup)
        elif name == "trackio" and find_spec(name) is None:  # it needs an older Pillow than the other tools
            with pytest.raises(InputError, match="pip install 'rsseg\\[trackio\\]'"):
                check_machine(setup)
        else:
            check_machine(setup)


def test_synthetic_end_to_end(tmp_path):
    data = [
        f"dataset.source.root={tmp_path}/data",
        "dataset.source.scenes={train: 1, val: 1, test: 1}",
        "dataset.source.recipe.size=96",
    ]
    config = settings(tmp_path, *[f"+{d}" if "recipe.size" in d else d for d in data])
    train(config, tmp_path / "run")
    assert evaluate(tmp_path / "run", EvaluationOptions("test"))["mask"].sums.sum() == 96 * 96


def test_run_folder_is_complete(tmp_path, folder_root, caplog):
    caplog.set_level("INFO")
    run = tmp_path / "run"
    config = settings(tmp_path, *folder_data(folder_root), "seed=3", "pictures=1")
    iou = train(config, run, ["seed=3"], "ce_dice")
    record, data = json.loads((run / "run.json").read_text()), json.loads((run / "data.json").read_text())
    assert record["seed"] == 3
    assert record["loss"] == "ce_dice"
    assert record["libraries"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"commit", "changed"} == set(record["git"])
    assert set(data["fingerprint"]) == {"train", "val"}
    assert len(data["scenes"]["train"]) == 4
    assert (run / "picture.png").stat().st_size > 10_000
    assert f"Pictures in {run}: picture.png, confusion.png, curves.png" in caplog.messages
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    table = list(csv.DictReader((run / "classes.csv").open()))
    assert [(row["class"], row["average"]) for row in table[:4]] == [("a", ""), ("b", ""), ("c", ""), ("", "macro")]
    assert float(table[3]["iou"]) == pytest.approx(iou)
    labelled = sum(int(row["pixels"]) for row in table[:3])
    assert labelled == 2 * (80 * 96 - 16)  # every labelled pixel of both validation scenes, once


slow = partial(pytest.param, marks=pytest.mark.slow)


def weights(run: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return RunFolder(run).load_state(name)[0]


@pytest.mark.usefixtures("quick_runs")
@pytest.mark.parametrize(
    "choice",
    [
        "model=deeplabv3plus",  # has dropout
        "callbacks=[ema,early_stopping]",
        "trainer.accumulate_grad_batches=2",
        *map(
            slow,
            [
                "model=unet",
                "augment=full",
                "augment=paste",
                "sampler=balanced",
                "scheduler=plateau",
                "scheduler=cosine_warmup",
                "trainer.precision=64-true",
                "loss.terms.dice.start=0.8",  # at the step that the resumed run begins with
            ],
        ),
    ],
)
def test_resumed_run_equals_uninterrupted_one(tmp_path, folder_root, choice):
    common = [*folder_data(folder_root), "steps=6", "validations=3", choice, "trainer.log_every_n_steps=1", "pictures=0"]
    train(settings(tmp_path, *common), tmp_path / "whole")
    half = tmp_path / "half"
    with power_cut(step=5):
        train(settings(tmp_path, *common), half)
    half = half.rename(tmp_path / "moved")  # as from a container to its host
    record = (half / "run.json").read_text()
    train(settings(tmp_path, f"resume={half}"), half, [f"resume={half}"], "other")
    assert (half / "run.json").read_text() == record
    for checkpoint in ("last", "best"):
        pairs = zip(weights(half, checkpoint).items(), weights(tmp_path / "whole", checkpoint).values(), strict=True)
        for (name, ours), theirs in pairs:
            assert torch.equal(ours, theirs), (checkpoint, name)
    rows = [list(csv.DictReader((run / "metrics.csv").open())) for run in (half, tmp_path / "whole")]
    steps = [[(r["step"], r["train/loss"], r["val/loss"]) for r in run if r["train/loss"] or r["val/loss"]] for run in rows]
    assert sorted(steps[0]) == sorted(steps[1])


@pytest.mark.usefixtures("quick_runs")
def test_a_term_that_starts_later_is_logged_as_it_is_weighed(tmp_path, folder_root):
    common = [*folder_data(folder_root), "steps=4", "validations=2", "trainer.log_every_n_steps=1", "pictures=0"]
    words = ["loss.terms.dice.start=0.5", "loss.terms.dice.weight=2", "trainer.accumulate_grad_batches=2"]
    train(settings(tmp_path, *common, *words), tmp_path / "run")
    rows = list(csv.DictReader((tmp_path / "run/metrics.csv").open()))
    found = {
        stage: [
            float(row[f"{stage}/loss/dice.weighted"]) / float(row[f"{stage}/loss/dice"])
            for row in rows
            if row[f"{stage}/loss/dice"]
        ]
        for stage in ("train", "val")
    }
    assert found["train"] == pytest.approx([0, 0, 2, 2])
    assert found["val"] == pytest.approx([2, 2])  # comparable with each other


OWN_LOSS = """\
import torch
from torch.nn import functional as F

class Mine(torch.nn.Module):
    def __init__(self, ignore_index, fails_at=100):
        super().__init__()
        self.ignore_index, self.fails_at, self.calls = ignore_index, fails_at, 0
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, logits, target):
        self.calls += 1
        if self.calls > self.fails_at:
            raise ValueError("too tired")
        return self.scale * F.cross_entropy(logits, target, ignore_index=self.ignore_index)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("quick_runs")
def test_a_loss_of_ones_own_trains_goes_on_and_is_compared(tmp_path, folder_root, monkeypatch):
    (tmp_path / "tried_losses.py").write_text(OWN_LOSS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    trust = "trust=[tried_losses]"
    data = [*folder_data(folder_root), "steps=4", "validations=2", "pictures=0", "seed=1"]
    common = [*data, "loss=ce", "~loss.terms.ce"]
    own = "+loss.terms.mine={_target_: tried_losses.Mine}"
    torchs = "+loss.terms.ce={_target_: torch.nn.CrossEntropyLoss}"
    late = "+loss.terms.mine={_target_: tried_losses.Mine, fails_at: 3}"
    run = tmp_path / "sweep" / "mine"
    with power_cut(step=3):
        train(settings(tmp_path, *common, own, trust), run, [own], "mine")
    for words in ([], ["trust=[other]"]):
        with pytest.raises(InputError, match=r"add trust=\[tried_losses\]"):
            train(settings(tmp_path, f"resume={run}", *words), run, [f"resume={run}"])
    train(settings(tmp_path, f"resume={run}", trust), run, [f"resume={run}"])
    train(settings(tmp_path, *common, torchs), tmp_path / "sweep" / "torch", [torchs], "torch")
    scores = evaluate(run, EvaluationOptions(trust=["tried_losses"]))
    assert scores["mask"]["iou"] == pytest.approx(float(RunFolder(run).summary()["iou"]))
    out = compare([tmp_path / "sweep"], Question(trust=("tried_losses",))).folder
    assert (out / "report.html").is_file()
    with pytest.raises(InputError, match=r"^loss\.terms\.mine: Mine failed .*line 13: ValueError: too tired; then go on with"):
        train(settings(tmp_path, *common, late, trust), tmp_path / "late")


def test_a_run_on_data_that_are_refused_leaves_no_folder(tmp_path, folder_root):
    with pytest.raises(InputError, match="list bands from 1 to"):
        train(settings(tmp_path, *folder_data(folder_root), "dataset.bands=[9]"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_ignored_pixels_are_found_before_the_first_step(tmp_path, inria_root):
    words = ["dataset=inria", f"dataset.source.root={inria_root}", "loss=ce", "~loss.terms.ce"]
    bce = "+loss.terms.bce={_target_: torch.nn.BCEWithLogitsLoss}"
    with pytest.raises(InputError, match=r"^loss\.terms\.bce: there are ignored pixels .* loss\.terms\.bce\.pixels=true"):
        train(settings(tmp_path, *words, bce), tmp_path / "bare")
    assert not (tmp_path / "bare" / "checkpoints").exists()
    train(settings(tmp_path, *words, bce, "loss.terms.bce.pixels=true"), tmp_path / "pixels")


@pytest.mark.usefixtures("quick_runs")
def test_best_checkpoint_survives_a_resumption_and_a_move(tmp_path, folder_root, monkeypatch):
    import rsseg.module as module

    common = [*folder_data(folder_root), "steps=6", "validations=3"]
    forced, now = {2: 0.1, 4: 0.9, 6: 0.5}, [0]

    class Forced(Scores):
        def __getitem__(self, name):
            return forced[now[0]] if name == "iou" else super().__getitem__(name)

    step = module.SegmentationModule.training_step

    def fail(self, batch, batch_idx):
        now[0] = self.global_step + 1
        if self.global_step == 5 and cut:
            raise RuntimeError("power cut")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(module, "score_scenes", lambda counted, task, without: Forced(counted.compute().cpu(), task, without))
    monkeypatch.setattr(module.SegmentationModule, "training_step", fail)
    cut = True
    with pytest.raises(RuntimeError, match="power cut"):
        train(settings(tmp_path, *common), tmp_path / "run")
    moved, cut = (tmp_path / "run").rename(tmp_path / "moved"), False
    train(settings(tmp_path, f"resume={moved}"), moved, [f"resume={moved}"])
    assert RunFolder(moved).load_state()[1] == 4


@pytest.mark.usefixtures("quick_runs")
def test_a_run_killed_before_its_summary_is_finished_on_resumption(tmp_path, folder_root):
    iou = train(settings(tmp_path, *folder_data(folder_root)), tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    (tmp_path / "run" / "classes.csv").unlink()
    again = train(settings(tmp_path, f"resume={tmp_path}/run"), tmp_path / "run", [f"resume={tmp_path}/run"])
    assert again == pytest.approx(iou)
    assert (tmp_path / "run" / "classes.csv").is_file()


@pytest.mark.slow
def test_seconds_are_those_of_all_parts_of_a_run(tmp_path, folder_root, monkeypatch):
    step = SegmentationModule.training_step

    def slow(self, batch, batch_idx):
        time.sleep(4 * (self.global_step == 0))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(SegmentationModule, "training_step", slow)
    run = tmp_path / "run"
    with power_cut(step=3):
        train(settings(tmp_path, *folder_data(folder_root), "steps=4", "validations=2"), run)
    train(settings(tmp_path, f"resume={run}"), run, [f"resume={run}"])
    seconds = json.loads((run / "summary.json").read_text())["seconds"]
    assert seconds > 4
    (run / "summary.json").unlink()
    train(settings(tmp_path, f"resume={run}"), run, [f"resume={run}"])
    assert json.loads((run / "summary.json").read_text())["seconds"] == pytest.approx(seconds, abs=1)


def test_a_chosen_timer_is_the_one_timer(tmp_path, folder_root):
    timer = "callbacks.timer={_target_: lightning.pytorch.callbacks.Timer, duration: '00:01:00:00'}"
    train(settings(tmp_path, *folder_data(folder_root), timer), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["seconds"] > 0


def test_bands_beside_the_shown_ones(tmp_path, caplog):
    root = layouts.write(tmp_path, "l8biome")
    data = ["dataset=l8biome", f"dataset.source.root={root}", "dataset.bands=[5,4,3]", "pictures=1"]
    with caplog.at_level("INFO"):
        train(settings(tmp_path, *data), tmp_path / "run")
    assert "pictures show the first bands" in caplog.text
    assert "4 of the 96 published images" in caplog.text


def test_resume_on_changed_data_is_refused(tmp_path, folder_root):
    import shutil

    root = Path(shutil.copytree(folder_root, tmp_path / "data"))
    config = settings(tmp_path, *folder_data(root))
    run = tmp_path / "run"
    train(config, run)
    with rasterio.open(next((root / "masks").iterdir()), "r+") as file:
        file.write(np.zeros((1, 80, 96), np.uint8))
    before = {name: (run / name).read_bytes() for name in ("summary.json", "config.yaml", "run.json")}
    more = [f"resume={run}", "steps=4"]
    with pytest.raises(InputError, match="data have changed"):
        train(settings(tmp_path, *more), run, more)
    assert {name: (run / name).read_bytes() for name in before} == before  # it is a finished run as before
    (run / "summary.json").unlink()
    with pytest.raises(InputError, match="data have changed"):
        train(config, run)


def test_skipped_scenes_are_listed_in_the_run_folder(tmp_path, folder_root, caplog):
    import shutil

    bad = Path(shutil.copytree(folder_root, tmp_path / "data")) / "images" / "tile1_a.tif"
    bad.write_bytes(bad.read_bytes()[:9000])
    split = "dataset.source.split={train: [tile1_a, tile0_a], val: [tile2_a]}"
    common = [*folder_data(tmp_path / "data"), "pictures=0", split]
    with pytest.raises(InputError, match=r"tile1_a\.tif"):
        train(settings(tmp_path, *common), tmp_path / "stopped")
    train(settings(tmp_path, *common, "on_bad_scene=skip"), tmp_path / "run")
    data = json.loads((tmp_path / "run" / "data.json").read_text())
    assert data["scenes"]["train"] == ["tile0_a"]
    assert "truncated" in data["skipped"]["train"]["tile1_a"]
    assert "1 scenes of the train split are skipped" in caplog.text


@pytest.mark.slow
@pytest.mark.usefixtures("quick_runs")
def test_cache_changes_nothing(tmp_path, folder_root, monkeypatch):
    """`gpu` is the device that trains, here the CPU."""
    common = [*folder_data(folder_root), "pictures=1", "trainer.log_every_n_steps=1"]
    held = []
    monkeypatch.setattr("rsseg.training.recorder.KEPT", 0)
    monkeypatch.setattr(scoring, "load_scenes", lambda stores, device: held.append(device) or load_scenes(stores, device))
    for where in ("disk", "ram", "gpu"):
        train(settings(tmp_path, *common, f"cache={where}"), tmp_path / where)
    assert held == [None] * 2 + [torch.device("cpu")] * 2  # to train, and to count the scenes
    for where in ("ram", "gpu"):
        for (name, ours), theirs in zip(weights(tmp_path / where).items(), weights(tmp_path / "disk").values(), strict=True):
            assert torch.equal(ours, theirs), name
        assert (tmp_path / where / "classes.csv").read_text() == (tmp_path / "disk" / "classes.csv").read_text()


@pytest.mark.usefixtures("quick_runs")
def test_scenes_of_one_name_have_maps_of_their_own(tmp_path, folder_root):
    run = tmp_path / "run"
    train(settings(tmp_path, *folder_data(folder_root), "pictures=0", "record.enabled=false"), run)
    first, *others = sorted((folder_root / "images").iterdir())[:3]
    scenes = [tmp_path / area / "a.tif" for area in ("north", "south", "x/south")]
    for scene, image in zip(scenes, (first, *others), strict=True):
        scene.parent.mkdir(parents=True)
        shutil.copy(image, scene)
    maps = [map_scene(run, scene).name for scene in (*scenes, *scenes)]
    assert maps == ["a.tif", "south-a.tif", "south-a-2.tif"] * 2


def test_finished_run_is_not_run_again_and_other_config_is_refused(tmp_path, folder_root):
    config = settings(tmp_path, *folder_data(folder_root))
    iou = train(config, tmp_path / "run")
    before = (tmp_path / "run" / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    assert train(config, tmp_path / "run") == pytest.approx(iou)
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").stat().st_mtime_ns == before
    with pytest.raises(InputError, match=r"another config \(seed: 1 -> 2\)"):
        train(settings(tmp_path, *folder_data(folder_root), "seed=2"), tmp_path / "run")


def test_resume_refuses_what_it_cannot_do(tmp_path, folder_root):
    with pytest.raises(InputError, match="no run in that folder"):
        train(settings(tmp_path, f"resume={tmp_path}"), tmp_path, [f"resume={tmp_path}"])


def test_same_seed_same_weights_windows_and_result_whatever_the_loss(tmp_path, folder_root):
    import lightning as L

    nets = []
    for loss in ("ce", "lovasz"):
        L.seed_everything(1, verbose=False)
        setup = make_setup(settings(tmp_path, *folder_data(folder_root), f"loss={loss}"))
        nets.append(setup.with_bands([1, 2, 3]).network())
    for ours, theirs in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_batch_too_small_for_batch_norm_is_said(tmp_path, folder_root):
    with pytest.raises(
        InputError, match=r"batch_size=1 windows of window=32 px leave batch normalisation .* take a larger batch or window$"
    ):
        train(settings(tmp_path, *folder_data(folder_root), "batch_size=1", "model=deeplabv3plus"), tmp_path / "run")


def test_evaluate_refuses_a_split_without_labels(tmp_path, inria_root):
    train(settings(tmp_path, "dataset=inria", f"dataset.source.root={inria_root}"), tmp_path / "run")
    with pytest.raises(InputError, match="1 of its 1 scenes have no labels"):
        evaluate(tmp_path / "run", EvaluationOptions("test"))
    with pytest.raises(InputError, match="did you mean 'test'"):
        evaluate(tmp_path / "run", EvaluationOptions("tset"))
    result = evaluate(tmp_path / "run")["mask"]
    assert (tmp_path / "run" / "evaluation-val.csv").is_file()
    assert result["iou"] == pytest.approx(json.loads((tmp_path / "run" / "summary.json").read_text())["iou"])


def test_predict_writes_a_map_on_the_scenes_grid(tmp_path, folder_root):
    run = tmp_path / "run"
    train(settings(tmp_path, *folder_data(folder_root)), run)
    image = np.random.default_rng(0).integers(0, 255, (3, 70, 130), dtype=np.uint8)
    image[:, :5, :7] = 0
    scene = write_tif(tmp_path / "scene.tif", image, nodata=0)
    out = map_scene(run, scene, tmp_path / "maps" / "scene.tif")
    with rasterio.open(out) as made, rasterio.open(scene) as given:
        assert (made.crs, made.transform, made.shape) == (given.crs, given.transform, given.shape)
        labels = made.read(1)
        assert made.nodata == 255
        assert made.colormap(1)[0][:3] != made.colormap(1)[1][:3]
    assert (labels[:5, :7] == 255).all()
    assert set(np.unique(labels[5:])) <= {0, 1, 2}
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == ["scene.qml", "scene.tif", "scene.tif.aux.xml"]
    for words, message in (
        ((run, tmp_path / "no.tif", out), "no such file"),
        ((run, scene, scene), "would overwrite the scene"),
        ((tmp_path / "maps", scene, out), "no run folder"),
        ((run, folder_root / "images" / "tile0_a.tif", out), "is the map of"),
        ((run, write_tif(tmp_path / "grey.tif", image[:1])), "has 1 bands"),
    ):
        with pytest.raises(InputError, match=message):
            map_scene(*words)


@pytest.mark.usefixtures("quick_runs")
def test_map_equals_scoring(tmp_path, folder_root):
    """Predict and validate are two ways to the same labels: the map of a validation scene gives its confusion counts."""
    run = tmp_path / "run"
    train(settings(tmp_path, *folder_data(folder_root)), run)
    name = json.loads((run / "data.json").read_text())["scenes"]["val"]
    right = valid = 0
    for scene in name:
        out = map_scene(run, folder_root / "images" / f"{scene}.tif", tmp_path / f"{scene}.tif", blend="none")
        with rasterio.open(out) as made, rasterio.open(folder_root / "masks" / f"{scene}.tif") as mask:
            labels, truth = made.read(1), mask.read(1)
        right += int((labels == truth)[truth != 255].sum())
        valid += int((truth != 255).sum())
    assert json.loads((run / "summary.json").read_text())["accuracy"] == pytest.approx(right / valid, abs=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_runs")
def test_compare(tmp_path, folder_root, capsys):
    for loss in ("ce", "dice"):
        for seed in (1, 2):
            overrides = ["steps=4", "validations=4", "pictures=1", f"loss={loss}", f"seed={seed}"]
            config = settings(tmp_path, *folder_data(folder_root), *overrides)
            train(config, tmp_path / "sweep" / f"{loss}{seed}", overrides, loss)
    capsys.readouterr()
    out = compare([tmp_path / "sweep"]).folder
    table = list(csv.DictReader((out / "comparison.csv").open()))
    assert {row["loss"] for row in table} == {"ce", "dice"}
    runs = list(csv.DictReader((out / "runs.csv").open()))
    ce = [float(r["iou"]) for r in runs if r["loss"] == "ce"]
    row = next(r for r in table if r["loss"] == "ce")
    assert row["seeds"] == "2"
    assert float(row["iou_mean"]) == pytest.approx(np.mean(ce))
    assert float(row["iou_std"]) == pytest.approx(np.std(ce, ddof=1))
    assert len(list(csv.DictReader((out / "checkpoints.csv").open()))) == 16
    assert "Where the losses disagree" in (out / "report.html").read_text()
    assert "ce" in capsys.readouterr().out
    (tmp_path / "sweep" / "ce1" / "summary.json").unlink()
    compare([tmp_path / "sweep"])
    with pytest.raises(InputError, match="no such folder"):
        compare([tmp_path / "nowhere"])
    with pytest.raises(InputError, match="it is not finished"):
        compare([tmp_path / "sweep" / "ce1"])


@pytest.mark.usefixtures("quick_runs")
def test_compare_refuses_other_data(tmp_path, folder_root, inria_root):
    train(settings(tmp_path, *folder_data(folder_root)), tmp_path / "sweep" / "a", [], "ce_dice")
    train(
        settings(tmp_path, "dataset=inria", f"dataset.source.root={inria_root}"),
        tmp_path / "sweep" / "b",
        [],
        "ce_dice",
    )
    with pytest.raises(InputError, match="different data"):
        compare([tmp_path / "sweep"])


def command(*words, cwd=CONFIGS.parent):
    return subprocess.run([sys.executable, *words], cwd=cwd, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_sweep_from_the_command_line_is_compared(tmp_path, folder_root):
    words = tiny(tmp_path, *folder_data(folder_root), "loss=ce,dice", "seed=1,2", f"hydra.sweep.dir={tmp_path}/sweep")
    done = command("train.py", "-m", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    folders = {p.name for p in (tmp_path / "sweep").iterdir() if p.is_dir()}
    assert folders == {f"loss={loss},seed={seed}" for loss in ("ce", "dice") for seed in (1, 2)}
    done = command("scripts/compare.py", f"runs={tmp_path}/sweep")
    assert done.returncode == 0, done.stderr
    assert "behind" in done.stdout
    assert (tmp_path / "sweep/comparison/report.html").is_file()


def test_the_bench_of_the_store_runs(monkeypatch, capsys):
    script(monkeypatch, "bench.py", "data", "tiles=1", "side=96", "window=32", "rounds=2")
    said = capsys.readouterr().out
    for name in ("np.memmap slice", "rsseg: store, disk", "rasterio", "torchgeo"):
        assert name in said


def script(monkeypatch, name, *words):
    """Run a file of scripts/ in this process."""
    monkeypatch.setattr("sys.argv", [name, *words])
    runpy.run_path(str(CONFIGS.parent / "scripts" / name), run_name="__main__")


@pytest.mark.parametrize(
    ("name", "word", "message"),
    [
        ("evaluate.py", "run=/nowhere", "no run folder"),
        ("predict.py", "run=x", "scene=... must be given"),
        ("compare.py", "run=x", "did you mean 'runs'"),
    ],
)
def test_mistakes_in_the_words_of_a_script_give_one_message(monkeypatch, name, word, message):
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        script(monkeypatch, name, word)


@pytest.mark.slow
def test_a_mistake_that_needs_torch_to_be_seen_gives_one_message(tmp_path):
    done = command("train.py", "loss=focal", "+loss.terms.focal.gama=1", f"output={tmp_path}")
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert "error: loss.terms.focal.gama: Focal has no" in said
    assert "did you mean 'gamma'" in said
    assert "Traceback" not in said
    assert "Error executing job" not in said
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]  # nor is there a folder of a run that never was


def test_what_is_monitored_is_logged_and_classes_left_out_of_means(tmp_path, folder_root):
    run, monitor = tmp_path / "run", "val/recall/c"
    words = ["steps=2", "validations=1", "metrics.without=[a]", "record.enabled=false", "pictures=1"]
    stop = ["callbacks=early_stopping", f"callbacks.early_stopping.monitor={monitor}"]
    train(settings(tmp_path, *folder_data(folder_root), *words, *stop), run)
    row = next(row for row in logged(run) if "val/iou" in row)
    assert row["val/iou"] == pytest.approx((row["val/iou/b"] + row["val/iou/c"]) / 2)
    found = evaluate(run, EvaluationOptions(without=["b"]))["mask"]
    assert found["recall/c"] == pytest.approx(row[monitor], abs=1e-3)
    assert found["iou"] == pytest.approx((found["iou/a"] + found["iou/c"]) / 2)
    for name in (".csv", "-scenes.csv", "-confusion.csv", "-confusion.png", "-picture.png"):
        assert (run / f"evaluation-val-without-b{name}").is_file(), name
    for word, said in {
        "metrics.without=[d]": "without=d: there is no such class",
        "callbacks.early_stopping.monitor=val/recall/d": "a run logs no such value",
    }.items():
        with pytest.raises(InputError, match=said):
            train(settings(tmp_path, *folder_data(folder_root), *stop[:1], word), tmp_path / "other")


@pytest.mark.parametrize(("words", "named"), [([], False), (["hydra.run.dir=mine"], True), (["hydra.verbose=true"], False)])
def test_a_folder_that_the_user_names_is_not_removed(monkeypatch, words, named):
    from rsseg import run

    job = SimpleNamespace(overrides=SimpleNamespace(hydra=words))
    monkeypatch.setattr(run, "HydraConfig", SimpleNamespace(initialized=lambda: True, get=lambda: job))
    assert run._named_by_user() is named
