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

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from test_run import TINY, folder_data, settings
from tiny import CONFIGS

from rsseg.assembly import setup
from rsseg.config.folder import RunFolder
from rsseg.contract import InputError

SWEEPS = sorted(path.stem for path in (CONFIGS / "sweep").glob("*.yaml"))


def runs_of(sweep: str, **narrowed: str) -> list[list[str]]:
    """The overrides of each run of a sweep."""
    params = {**OmegaConf.load(CONFIGS / f"sweep/{sweep}.yaml").hydra.sweeper.params, **narrowed}
    choices = [[f"{key}={value}" for value in str(values).split(",")] for key, values in params.items()]
    return [list(run) for run in itertools.product(*choices)]


@pytest.mark.parametrize("sweep", SWEEPS)
@pytest.mark.parametrize("task", [["binary", "[a]"], ["multiclass", "[a,b,c]"], ["multilabel", "[a,b]"]])
def test_every_run_of_every_sweep_fits_every_task(tmp_path, folder_root, sweep, task):
    narrowed = {"seed": "1", "optimizer.lr": "1e-3"} if sweep == "losses_lr" else {"seed": "1"}
    for run in runs_of(sweep, **narrowed):
        words = [*folder_data(folder_root), f"dataset.task={task[0]}", f"dataset.classes={task[1]}"]
        setup(settings(tmp_path, *words, f"sweep={sweep}", *run))


@pytest.mark.parametrize("sweep", SWEEPS)
def test_a_sweep_says_how_many_runs_it_is(sweep):
    assert f" = {len(runs_of(sweep))} runs" in (CONFIGS / f"sweep/{sweep}.yaml").read_text().replace("\n# ", " ")


@pytest.fixture
def start_of(tmp_path, folder_root, monkeypatch):
    """What a run starts from and sees: initial weights, the places of its windows, and a batch as it is augmented."""
    import rsseg.run

    seen = {}

    def fit(made, folder, module, data, last):
        train = data.stores["train"]
        sampler = made.sampler(train.sizes, train.census.blocks, train.read)
        numbers = torch.arange(4)
        image = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        mask = torch.zeros(4, 32, 32, dtype=torch.uint8)
        for augment in module.augmentations:
            image, mask = augment(image, mask, numbers)
        seen["weights"] = {k: v.clone() for k, v in module.network.state_dict().items()}
        seen["places"], seen["image"], seen["steps"] = [sampler(k) for k in range(200)], image, made.steps
        return 0.0

    monkeypatch.setattr(rsseg.run, "fit", fit)

    def start(name, *words):
        rsseg.run.train(settings(tmp_path, *folder_data(folder_root), *words), tmp_path / name)
        return dict(seen)

    return start


def equal_weights(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


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


def test_imbalance_runs_of_one_seed_start_alike_and_differ_in_windows_where_they_should(start_of):
    runs = {run[0].rpartition("/")[2]: start_of(run[0].replace("/", "."), *run) for run in runs_of("imbalance", seed="7")}
    for name, run in runs.items():
        assert equal_weights(run["weights"], runs["ce"]["weights"])
        assert run["steps"] == runs["ce"]["steps"]
        resampled = name in ("oversample", "undersample", "near_miss", "oversample_focal")
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


def words_of(tmp_path, root, *more):
    return ["train.py", "-m", *TINY, "pictures=0", f"output={tmp_path}", *folder_data(root), *more]


def command(*words):
    return subprocess.run([sys.executable, *words], cwd=CONFIGS.parent, capture_output=True, text=True, timeout=300)


def run_folders(tmp_path: Path) -> set[str]:
    return {path.parent.name for path in tmp_path.glob("sweep/folder_losses/*/run.json")}


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_is_named_by_what_it_varies(tmp_path, folder_root):
    words = words_of(tmp_path, folder_root, "sweep=losses", "loss=ce,dice", "seed=3", "steps=40", "validations=20")
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
    assert json.loads((second / "summary.json").read_text())["steps"] == 40
    other = command(*words, "batch_size=3")  # common to all runs, so not in the names: refused, not mixed
    assert other.returncode == 1
    assert "holds a run of another config (batch_size: 2 -> 3)" in other.stdout + other.stderr
    assert "Traceback" not in other.stdout + other.stderr


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_several_runs_at_once(tmp_path, folder_root, launcher):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    more = ["sweep=losses", "loss=ce,dice", "seed=1", "workers=1", f"hydra/launcher={launcher}"]
    done = command(*words_of(tmp_path, folder_root, *more))
    assert done.returncode == 0, done.stdout + done.stderr
    assert run_folders(tmp_path) == {"loss=ce,seed=1", "loss=dice,seed=1"}
    for folder in (tmp_path / "sweep/folder_losses").glob("loss=*"):
        assert f"{folder.name} | step 2 of 2" in (folder / "train.log").read_text()
        if launcher == "submitit_local":
            assert f"see {tmp_path}/sweep/folder_losses/<run>/train.log, and {folder.parent}/.submitit/<job> for" in done.stdout
        else:  # submitit keeps what a job prints in a file of its own
            assert re.search(rf"^{re.escape(folder.name)}: validation, best checkpoint.*\n┏", done.stdout, re.MULTILINE)
        assert np.isfinite(json.loads((folder / "summary.json").read_text())["iou"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep=losses"], "add -m"),
        (["-m", "sweep=loses"], "Could not find 'sweep/loses'"),
    ],
)
def test_mistakes_about_sweeps_give_one_message(tmp_path, words, message):
    done = command("train.py", *words, f"output={tmp_path}")
    assert done.returncode in (1, 2)
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
