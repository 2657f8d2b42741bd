"""Sweeps: fair between their runs, usable for every task, named by what they vary, and continued after a kill."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import OmegaConf
from test_run import command, folder_data, settings, tiny
from tiny import CONFIGS

from rsseg.assembly import expected_bytes, make_setup
from rsseg.config.cli import own_part
from rsseg.config.folder import RunFolder
from rsseg.config.plan import FILE, Plan, read_plan
from rsseg.config.provenance import Chosen, provenance
from rsseg.config.schema import register
from rsseg.config.sweep import Runs, Sweep
from rsseg.contract import InputError
from rsseg.files import write_json
from rsseg.run import train

SWEEPS = sorted(path.stem for path in (CONFIGS / "sweep").glob("*.yaml"))


def runs_of(sweep: str, **narrowed: str) -> list[list[str]]:
    """The overrides of each run of a sweep."""
    params = {**OmegaConf.load(CONFIGS / f"sweep/{sweep}.yaml").hydra.sweeper.params, **narrowed}
    choices = [[f"{key}={value}" for value in str(values).split(",")] for key, values in params.items()]
    return [list(run) for run in itertools.product(*choices)]


@pytest.mark.slow
@pytest.mark.parametrize("sweep", SWEEPS)
def test_every_run_of_every_sweep_fits_every_task(tmp_path, folder_root, sweep):
    narrowed = {"losses_lr": {"optimizer.lr": "1e-3"}, "kfold": {"dataset.fold": "1/5"}}
    for run in runs_of(sweep, seed="1", **narrowed.get(sweep, {})):
        config = settings(tmp_path, *folder_data(folder_root), f"sweep={sweep}", *run)
        for task, classes in {"binary": ["a"], "multiclass": ["a", "b", "c"], "multilabel": ["a", "b"]}.items():
            config.dataset.task, config.dataset.classes = task, classes
            make_setup(config)


@pytest.mark.parametrize("sweep", SWEEPS)
def test_a_sweep_says_how_many_runs_it_is(sweep):
    assert f" = {len(runs_of(sweep))} runs" in (CONFIGS / f"sweep/{sweep}.yaml").read_text().replace("\n# ", " ")


@pytest.fixture
def start_of(tmp_path, folder_root, monkeypatch):
    """What a run starts from and sees: initial weights, the places of its windows, and a batch as it is augmented."""
    import rsseg.run

    class SeenError(Exception):
        pass

    seen = {}

    def fit(loop, last):
        module, sampler = loop.module, loop.windows.sampler
        numbers = torch.arange(4)
        image = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        layers = {"mask": torch.zeros(4, 32, 32, dtype=torch.uint8)}
        for augment in module.augmentations:
            image, layers = augment(image, layers, numbers)
        seen["weights"] = {k: v.clone() for k, v in module.network.state_dict().items()}
        seen["places"], seen["image"], seen["steps"] = [sampler(k) for k in range(200)], image, loop.setup.steps
        raise SeenError

    monkeypatch.setattr("rsseg.training.trainer.Loop.fit", fit)

    def start(name, *words):
        with pytest.raises(SeenError):
            rsseg.run.train(settings(tmp_path, *folder_data(folder_root), *words), tmp_path / name)
        return dict(seen)

    return start


def equal_weights(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("sweep", ["losses", "weights", "batch_image"])
def test_runs_of_one_seed_differ_in_the_loss_alone(start_of, sweep):
    first, *others = [start_of(str(i), *run) for i, run in enumerate(runs_of(sweep, seed="7"))]
    for other in others:
        assert equal_weights(first["weights"], other["weights"])
        assert first["places"] == other["places"]
        assert torch.equal(first["image"], other["image"])
        assert first["steps"] == other["steps"]
    another = start_of("another", *runs_of(sweep, seed="8")[0])
    assert not equal_weights(first["weights"], another["weights"])
    assert first["places"] != another["places"]
    assert not torch.equal(first["image"], another["image"])


@pytest.mark.slow
def test_imbalance_runs_of_one_seed_start_alike_and_differ_in_windows_where_they_should(start_of):
    runs = {run[0].rpartition("/")[2]: start_of(run[0].replace("/", "."), *run) for run in runs_of("imbalance", seed="7")}
    for name, run in runs.items():
        assert equal_weights(run["weights"], runs["ce"]["weights"])
        assert run["steps"] == runs["ce"]["steps"]
        resampled = name in ("oversample", "undersample", "near_border", "oversample_focal")
        assert resampled or run["places"] == runs["ce"]["places"]
    assert runs["oversample"]["places"] == runs["oversample_focal"]["places"] != runs["ce"]["places"]
    assert torch.equal(runs["paste"]["image"], runs["paste_dice"]["image"])


def test_a_run_folder_is_one_processs_own(tmp_path):
    hold = "import sys; from pathlib import Path; from rsseg.config.folder import RunFolder\n"
    hold += "with RunFolder(Path(sys.argv[1])).lock(): print('held', flush=True); sys.stdin.read()"
    other = subprocess.Popen([sys.executable, "-c", hold, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    with pytest.raises(InputError, match="another process is training this run"), RunFolder(tmp_path).lock():
        pass
    other.kill()
    other.wait()
    with RunFolder(tmp_path).lock():
        pass


def run_folders(tmp_path: Path) -> set[str]:
    return {path.parent.name for path in tmp_path.glob("sweep/folder_losses/*/run.json")}


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_is_named_by_what_it_varies(tmp_path, folder_root):
    given = [*folder_data(folder_root), "sweep=losses", "loss=ce,dice", "seed=3", "steps=12", "validations=6"]
    words = ["train.py", "-m", *tiny(tmp_path, *given)]
    sweep = subprocess.Popen([sys.executable, *words], cwd=CONFIGS.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    second = tmp_path / "sweep/folder_losses/loss=dice,seed=3"
    until = time.monotonic() + 200
    while not (second / "checkpoints/last.ckpt").is_file() and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(sweep.pid, signal.SIGKILL)
    sweep.wait()
    assert run_folders(tmp_path) == {"loss=ce,seed=3", "loss=dice,seed=3"}
    assert not (second / "summary.json").is_file()
    again = command(*words)
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.count("finished already") == 1
    assert again.stdout.count("going on from step") == 1
    assert "run 2 of 2: loss=dice,seed=3" in again.stdout
    assert json.loads((second / "summary.json").read_text())["steps"] == 12
    line = refused(tmp_path, *given, "batch_size=3")  # common to all runs, so not in the names: refused, not mixed
    assert "loss=ce,seed=3 holds a run of another config (batch_size: 2 -> 3)" in line


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_several_runs_at_once(tmp_path, folder_root, launcher):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    more = ["sweep=losses", "loss=ce,dice", "seed=1", "workers=1", f"hydra/launcher={launcher}"]
    done = command("train.py", "-m", *tiny(tmp_path, *folder_data(folder_root), *more))
    assert done.returncode == 0, done.stdout + done.stderr
    assert run_folders(tmp_path) == {"loss=ce,seed=1", "loss=dice,seed=1"}
    for folder in (tmp_path / "sweep/folder_losses").glob("loss=*"):
        assert f"{folder.name} | step 2 of 2" in (folder / "train.log").read_text()
        if launcher == "submitit_local":
            assert f"see {tmp_path}/sweep/folder_losses/<run>/train.log, and {folder.parent}/.submitit/<job> for" in done.stdout
        else:  # submitit keeps what a job prints in a file of its own
            assert re.search(rf"^{re.escape(folder.name)}: validation, best checkpoint.*\n┏", done.stdout, re.MULTILINE)
        assert np.isfinite(json.loads((folder / "summary.json").read_text())["iou"])


def plan(tmp_path, *words) -> int:
    """What is done before a sweep's first run; the number of runs."""
    register()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("train", tiny(tmp_path, *words), RunMode.MULTIRUN)
        sweep = Sweep()
        sweep.on_multirun_start(master)
        return sweep.total


def jobs_of(words) -> list[list[str]]:
    (jobs,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(list(words)), None)
    return jobs


def refused(tmp_path, *words) -> str:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as caught:
        plan(tmp_path, *words)
    assert sorted(tmp_path.rglob("*")) == before
    return str(caught.value)


def begun(folder: Path, tmp_path, *words) -> None:
    """A run's folder as training leaves it."""
    folder.mkdir(parents=True)
    RunFolder(folder).write_config(make_setup(settings(tmp_path, *words)).plain)
    write_json(folder / "run.json", provenance(Chosen(tiny(tmp_path, *words), "", {})))


def test_the_params_of_a_file_are_checked_like_words(tmp_path):
    configs = tmp_path / "own"
    (configs / "sweep").mkdir(parents=True)
    params = "  sweeper:\n    params:\n      overlap: 8,16\n      loss.weigth: 2\n      seed: 1,2\n"
    (configs / "sweep/mine.yaml").write_text(f"# @package _global_\nhydra:\n{params}")
    said = refused(tmp_path, "sweep=mine", f"hydra.searchpath=[file://{configs}]")
    assert said.startswith("error: hydra.sweeper.params: overlap=8,16: write margin=8,16; loss.weigth=2: ")


@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local"])
def test_a_sweep_without_data_fails_once(tmp_path, launcher):
    if launcher != "basic":
        pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    words = ["dataset=inria", "dataset.source.root=/nowhere", f"hydra/launcher={launcher}"]
    line = refused(tmp_path, "sweep=losses", "loss=ce,dice", "seed=1,2", *words)
    assert line.startswith("error: loss=ce,seed=1: dataset.source: there is no folder /nowhere")
    assert "\n" not in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["loss=ce,bce", "seed=1,2"], "error: loss=bce,seed=1: loss.terms.bce: BinaryCrossEntropy fits the tasks"),
        (["loss=ce", "seed=1,-1"], "error: loss=ce,seed=-1: seed=-1 must be from 0"),
        (["loss=ce,dice", "window=32,33"], "loss=ce,window=33: window=33 is not a multiple of 32"),
        (["loss=ce", "optimizer.lr=0.1,x"], "loss=ce,optimizer.lr=x: optimizer: "),
        (["loss=ce", "model.encoder=resnet18,resnet19"], "model.encoder=resnet19 is no encoder"),
        (["dataset.source.split={train: train*, val: null}", "seed=1,2"], "seed=1: "),
    ],
)
def test_the_faults_of_some_runs_are_told_before_the_first(tmp_path, folder_root, words, message):
    assert message in refused(tmp_path, *folder_data(folder_root), *words)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_checkpoints_take_what_is_said(tmp_path, folder_root, optimizer):
    config = settings(tmp_path, *folder_data(folder_root), f"optimizer={optimizer}", "steps=2", "validations=2")
    train(config, tmp_path / "run")
    found = sum(path.stat().st_size for path in (tmp_path / "run/checkpoints").iterdir())
    assert expected_bytes(config) == pytest.approx(found, rel=0.1)


def test_a_disk_too_small_for_the_checkpoints_is_refused(tmp_path, folder_root, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    line = refused(tmp_path, *folder_data(folder_root), "loss=ce,dice", "seed=1,2,3")
    assert re.search(r"^error: 6 runs: their checkpoints take about \d+ MB, and .* has under 1 MB left: set output=", line)


@pytest.mark.slow
def test_a_sweep_does_not_begin_in_the_folder_of_another(tmp_path, folder_root):
    data, sweep = [*folder_data(folder_root), f"hydra.sweep.dir={tmp_path}/sweep/mine"], tmp_path / "sweep/mine"
    assert plan(tmp_path, *data, "loss=ce", "seed=1,2") == 2
    for seed in (1, 2):
        begun(sweep / f"loss=ce,seed={seed}", tmp_path, *folder_data(folder_root), "loss=ce", f"seed={seed}")
    assert plan(tmp_path, *data, "loss=ce,dice,focal", "seed=1,2") == 6  # wider
    assert plan(tmp_path, *data, "loss=dice", "seed=1,2", "workers=1") == 2  # other runs, alike but for the loss
    line = refused(tmp_path, *data, "loss=ce,dice", "seed=1,2", "model.encoder=resnet18")  # some of the same folders
    assert f"{sweep}/loss=ce,seed=1 holds a run of another config (model.encoder: test_resnet -> resnet18)" in line
    line = refused(tmp_path, *data, "loss=dice,focal", "seed=1,2", "model.encoder=resnet18")  # none of them
    assert f"{sweep} holds runs of another config (model.encoder: test_resnet -> resnet18): choose another folder" in line
    plan(tmp_path, *data, "loss=focal", "seed=1", "optimizer.lr=0.1,0.2")
    plan(tmp_path, *data, "loss=dice,lovasz", "seed=3")  # what the others varied is no difference


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["sweep=losses", "loss=ce,dice", "seed=1"], "folder_losses"),
        (["loss=ce,dice", "seed=1,2", "steps=3"], "folder_loss"),
        (["loss=ce,dice", "optimizer.lr=1e-3,1e-2"], "folder_loss_lr"),
        (["loss=ce", "seed=range(1,3)"], "folder_seed"),
        (["loss=ce"], "folder_seed"),
        (["loss=ce,dice", "model.heads.fine={loss: ${loss}}"], "folder_loss"),
    ],
)
def test_a_folder_is_named_by_what_is_swept(tmp_path, folder_root, words, name):
    plan(tmp_path, *folder_data(folder_root), *words)
    assert [path.parent.name for path in tmp_path.rglob(FILE)] == [name]


def test_a_plan_is_written_before_the_first_run(tmp_path, folder_root):
    words = [*folder_data(folder_root), "sweep=losses_lr", "loss=ce,dice", "optimizer.lr=3e-4,1e-3", "seed=1,2,1001"]
    plan(tmp_path, *words)
    folder = tmp_path / "sweep/folder_losses_lr"
    told = json.loads((folder / FILE).read_text())
    assert (told["format"], told["name"], told["varied"]) == (1, "folder_losses_lr", ["loss", "optimizer.lr", "seed"])
    assert (told["seeds"], told["search_seeds"]) == ([1, 2, 1001], [1001])
    assert told["runs"]["loss=ce,optimizer.lr=0.0003,seed=1"] == {"loss": "ce", "optimizer.lr": "0.0003", "seed": "1"}
    assert len(told["runs"]) == 12
    assert told["common"]["steps"] == "2"
    assert not {"optimizer.lr", "seed", "output", "loss.terms.ce.weight"} & told["common"].keys()
    assert set(read_plan(folder).labels.values()) == {"ce", "dice"}
    assert read_plan(folder).command(seed="3,4").startswith("python train.py -m")
    assert "sweep=losses_lr" in read_plan(folder).command(seed="3,4")
    assert read_plan(folder).command(seed="3,4").endswith("seed=3,4")


@pytest.mark.slow
def test_a_plan_grows_with_its_sweep(tmp_path, folder_root):
    data, folder = folder_data(folder_root), tmp_path / "sweep/folder_loss"
    plan(tmp_path, *data, "loss=ce,tversky", "seed=7,8")  # stopped before its first run
    plan(tmp_path, *data, "loss=ce,dice", "seed=1,2")
    assert len(read_plan(folder).runs) == 4
    begun(folder / "loss=ce,seed=1", tmp_path, *data, "loss=ce", "seed=1")
    plan(tmp_path, *data, "loss=ce,dice", "seed=1,2")  # the same again
    assert len(read_plan(folder).runs) == 4
    plan(tmp_path, *data, "loss=ce,dice,focal", "seed=2,3")
    found = read_plan(folder)
    assert (len(found.runs), found.seeds, len(found.commands)) == (9 - 2 + 1, [1, 2, 3], 1)
    assert "loss=ce,dice,focal seed=6" in found.command(seed=6)
    plan(tmp_path, *data, "loss=ce,dice", "optimizer.lr=0.1,0.2", "seed=1", f"hydra.sweep.dir={folder}")
    found = read_plan(folder)
    assert found.labels[folder / "loss=ce,seed=1"] == "ce"
    assert found.labels[folder / "loss=ce,optimizer.lr=0.1,seed=1"] == "ce optimizer.lr=0.1"
    assert found.command(seed=6).count("\n") == 1  # no command trains all rows
    assert "optimizer.lr" not in found.common


def test_a_race_s_sweeps_share_a_folder(tmp_path, folder_root):
    """Each varies the last key alone; what the others differ in is varied by their plans together."""
    data, folder = folder_data(folder_root), tmp_path / "raced"
    for rate in ("0.1", "0.2"):
        words = [f"optimizer.lr=choice({rate})", "loss=choice(ce,dice)", "seed=1", f"hydra.sweep.dir={folder}"]
        plan(tmp_path, *data, *words)
        begun(folder / f"loss=ce,optimizer.lr={rate},seed=1", tmp_path, *data, f"optimizer.lr={rate}", "loss=ce", "seed=1")
    assert len(set(read_plan(folder).labels.values())) == 4
    with pytest.raises(SystemExit, match="holds runs of another config"):
        plan(tmp_path, *data, "loss=choice(ce)", "seed=1", "steps=9", f"hydra.sweep.dir={folder}")


def test_a_recipe_is_a_row_of_its_own_name(tmp_path, folder_root):
    words = ["sweep=imbalance", "experiment=imbalance/ce,imbalance/oversample", "seed=1,2"]
    plan(tmp_path, *folder_data(folder_root), *words)
    found = read_plan(tmp_path / "sweep/folder_imbalance")
    assert list(dict.fromkeys(found.labels.values())) == ["ce", "oversample"]
    assert "sampler._target_" not in found.common


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 9}', '{"format": 1, "runs": [1], "common": {}, "commands": []}'])
def test_a_spoilt_plan_is_named(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(InputError, match=rf"^{re.escape(str(tmp_path / FILE))} "):
        read_plan(tmp_path)


def test_a_sweep_of_experiments_can_be_narrowed(tmp_path, folder_root):
    words = [*folder_data(folder_root), "sweep=imbalance", "seed=1"]
    for name in ("oversample", "paste_dice"):
        own = [f"experiment=imbalance/{name}", "seed=1"]
        folder = tmp_path / f"sweep/folder_imbalance/experiment=imbalance.{name},seed=1"
        begun(folder, tmp_path, *folder_data(folder_root), *own)
    plan(tmp_path, *words, "experiment=imbalance/ce,imbalance/oversample")
    assert "batch_size: 2 -> 4" in refused(tmp_path, *words, "experiment=imbalance/ce,imbalance/focal", "batch_size=4")


@pytest.mark.slow
def test_the_runs_are_what_hydra_will_make_of_them(tmp_path, folder_root):
    """Those that share a composition as well."""
    register()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        given = tiny(tmp_path, *folder_data(folder_root), "loss=ce,dice", "seed=1,2,30", "model.heads.fine={loss: ${loss}}")
        master = loader.load_configuration("train", given, RunMode.MULTIRUN)
        Sweep().on_multirun_start(master)
        runs = Runs(master)
        for job in jobs_of(given):
            config, folder = runs.config(job)
            whole = loader.load_sweep_config(master, job)
            assert folder == Path(whole.hydra.sweep.dir) / whole.hydra.sweep.subdir
            assert OmegaConf.to_container(config, resolve=True) == OmegaConf.to_container(own_part(whole), resolve=True)
            assert config.model.heads.fine.loss == config.loss  # of this run


def test_of_forty_runs_those_that_differ_in_the_seed_alone_are_composed_once(tmp_path, folder_root, monkeypatch):
    composed = []
    monkeypatch.setattr("rsseg.config.sweep.refuse_foreign", lambda config, words: composed.append(config))
    assert plan(tmp_path, *folder_data(folder_root), "loss=ce,dice", "seed=range(20)") == 40
    assert len(composed) == 2


@pytest.mark.slow
def test_a_sweep_with_a_launcher_is_checked_before_it(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = ["-m", "sweep=losses", "dataset=inria", "dataset.source.root=/nowhere", "hydra/launcher=joblib"]
    done = command("train.py", *words, "loss=ce", "seed=1,2", f"output={tmp_path}/out")
    assert done.returncode == 1
    assert done.stderr.count("there is no folder /nowhere") == 1
    assert not (tmp_path / "out").exists()


def test_a_plan_with_two_settings_for_a_fold_is_read(tmp_path):
    values = {"loss": "ce", "dataset.fold": "2", "seed": "1"}
    Plan({tmp_path / "a": values}, {"dataset.folds": "5", "steps": "9"}).write(tmp_path)
    found = read_plan(tmp_path)
    assert (found.folds, found.common) == (["2/5"], {"steps": "9"})
    Plan({tmp_path / "a": {"loss": "ce", "seed": "1"}}, {"dataset.folds": "none"}).write(tmp_path)
    assert (read_plan(tmp_path).folds, read_plan(tmp_path).common) == ([], {})
