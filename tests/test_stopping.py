"""Runs that are stopped, killed, or find their last checkpoint damaged go on as if nothing had been."""

import json
import os
import signal
import stat
import sys
import traceback
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from test_run import command, folder_data, settings
from tiny import map_scene

import rsseg.data.build as build
import rsseg.training.recorder as recorder
import rsseg.training.scoring as scoring
from rsseg.config.folder import RunFolder
from rsseg.config.naming import run_folder
from rsseg.contract import InputError
from rsseg.evaluation.scores import evaluate
from rsseg.loggers import MetricsFile
from rsseg.module import SegmentationModule
from rsseg.run import train
from rsseg.training.crossing import Crossing
from rsseg.training.signals import Interrupts, StoppedError

pytestmark = pytest.mark.usefixtures("quick_runs")

CHOICES = {
    "plain": [],
    "averaged": ["callbacks=ema", "callbacks.ema.decay=0.5", "scheduler=plateau", "scheduler.patience=0"],
    "dropout": ["model=deeplabv3plus", "trainer.accumulate_grad_batches=2", "augment=full"],
}
COMMON = ["steps=7", "validations=2", "trainer.log_every_n_steps=1", "pictures=0"]  # validated after the steps 4 and 7


def config(folder, root, choice, *more):
    return settings(folder, *folder_data(root), *COMMON, *CHOICES[choice], *more)


def resume(run, *more):
    words = [f"resume={run}", *more]
    return train(settings(run.parent, *words), run, words)


@pytest.fixture(scope="session")
def whole(tmp_path_factory, folder_root):
    """Unbroken runs, by choice."""
    made = {}

    def run(choice):
        if choice not in made:
            made[choice] = tmp_path_factory.mktemp(choice) / "whole"
            train(config(made[choice].parent, folder_root, choice), made[choice])
        return made[choice]

    return run


def assert_same(run, whole):
    """Weights, what was logged, records, tables and the summary: bit by bit."""
    for name in ("last", "best"):
        (ours, step), (theirs, of) = RunFolder(run).load_state(name), RunFolder(whole).load_state(name)
        assert step == of
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            assert torch.equal(value, theirs[key]), (name, key)
    for name in ("metrics.csv", "classes.csv", "threshold.json", "records/records.json"):
        assert (run / name).read_text() == (whole / name).read_text(), name
    names = sorted(path.name for path in (whole / "records").glob("*.npz"))
    assert sorted(path.name for path in (run / "records").glob("*.npz")) == names
    for name in names:
        with np.load(run / "records" / name) as ours, np.load(whole / "records" / name) as theirs:
            assert ours.files == theirs.files
            for key in ours.files:
                np.testing.assert_array_equal(ours[key], theirs[key], err_msg=f"{name} {key}")
    ours, theirs = (json.loads((folder / "summary.json").read_text()) for folder in (run, whole))
    for summary in (ours, theirs):
        del summary["finished"], summary["seconds"]
    assert ours == theirs


def send(patch, method, step, number, times=1):
    """Let this process get a signal while the module trains or scores a batch."""
    real, sent = getattr(SegmentationModule, method), []

    def signalled(self, batch, batch_idx):
        if self.global_step == step and len(sent) < times and (method == "training_step" or batch_idx == 1):
            sent.append(os.kill(os.getpid(), number))
        return real(self, batch, batch_idx)

    patch.setattr(SegmentationModule, method, signalled)


def stopped(monkeypatch, method, step, number, run):
    """The exit of a run that gets a signal."""
    with monkeypatch.context() as patch:
        send(patch, method, step, number)
        with pytest.raises(StoppedError) as error:
            run()
    return error.value


STOPS = {  # where the signal comes, and the step whose state is kept
    "the first step": ("training_step", 0, 1),
    "between validations": ("training_step", 1, 2),
    "the step before a validation": ("training_step", 3, 4),
    "a validation": ("validation_step", 4, 4),
    "the step after a validation": ("training_step", 4, 5),
    "the last step": ("training_step", 6, 7),
    "the last validation": ("validation_step", 7, 7),
}
QUICK = [("between validations", "averaged"), ("a validation", "averaged")]


@pytest.mark.parametrize(
    ("place", "choice"),
    [
        pytest.param(place, choice, marks=[] if (place, choice) in QUICK else [pytest.mark.slow])
        for choice in CHOICES
        for place in STOPS
    ],
)
def test_a_stopped_run_goes_on(tmp_path, folder_root, whole, monkeypatch, caplog, place, choice):
    method, step, kept = STOPS[place]
    run = tmp_path / "run"
    made = config(tmp_path, folder_root, choice)
    assert stopped(monkeypatch, method, step, signal.SIGTERM, lambda: train(made, run)).code == 143
    assert f"Stopped by SIGTERM at step {kept} of 7; go on with python train.py resume={run}" in caplog.text
    assert RunFolder(run).load_state("last")[1] == kept
    resume(run)
    assert_same(run, whole(choice))


@pytest.mark.slow
def test_a_run_that_is_stopped_again_and_again_goes_on(tmp_path, folder_root, whole, monkeypatch):
    run = tmp_path / "run"
    for step, method in ((2, "training_step"), (4, "validation_step"), (4, "training_step"), (7, "validation_step")):
        go_on = partial(resume, run) if run.exists() else partial(train, config(tmp_path, folder_root, "averaged"), run)
        stopped(monkeypatch, method, step, signal.SIGUSR1, go_on)
    resume(run)
    assert_same(run, whole("averaged"))


def test_signals_outside_training_stop_at_once(tmp_path, folder_root, monkeypatch, caplog):
    run, real = tmp_path / "run", build.decode_scene

    def decode(*arguments):
        os.kill(os.getpid(), signal.SIGUSR1)
        return real(*arguments)

    monkeypatch.setattr(build, "_in_threads", lambda work, names, *_, **__: {name: work(name) for name in names} and {})
    monkeypatch.setattr(build, "decode_scene", decode)
    made = config(tmp_path, folder_root, "plain")
    with pytest.raises(StoppedError) as error:
        train(made, run)
    assert error.value.code == 128 + signal.SIGUSR1
    assert "Stopped by SIGUSR1 outside training; go on with the same command, which begins anew" in caplog.text
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_second_interrupt_does_not_wait(tmp_path):
    with Interrupts(RunFolder(tmp_path)) as interrupts:
        interrupts.waits = True
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StoppedError) as error:
            os.kill(os.getpid(), signal.SIGINT)
    assert error.value.code == 130


def kill_after(count, real):
    """A function that kills this process, as a power cut would, when it is called for a certain time."""
    calls = []

    def killing(*arguments, **named):
        calls.append(arguments)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **named)

    return killing


def at_replace(name, count, after=False):
    """Kill when a file of a name is put into its place for a certain time, or right after."""
    real, calls = os.replace, []

    def replace(source, target):
        calls.extend([target] if Path(target).name == name else [])
        due = bool(calls) and calls[-1] == target and len(calls) == count
        if due and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        real(source, target)
        if due:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace


def at_step(step):
    real = SegmentationModule.training_step

    def training_step(self, batch, batch_idx):
        if self.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, batch, batch_idx)

    SegmentationModule.training_step = training_step


def half_a_line(step):
    """Kill while a row of metrics.csv is written."""
    real = MetricsFile.log_metrics

    def log_metrics(self, metrics, step=None, at=step):
        if step == at:
            with self.path.open("a") as file:
                file.write("0,0.001,1")
            os.kill(os.getpid(), signal.SIGKILL)
        real(self, metrics, step)

    MetricsFile.log_metrics = log_metrics


def replaced(module, name, count=1):
    setattr(module, name, kill_after(count, getattr(module, name)))


KILLS = {
    "while scenes are decoded": lambda: replaced(build, "decode_scene", 3),
    "in a step": lambda: at_step(5),
    "in a validation": lambda: replaced(SegmentationModule, "validation_step", 3),
    "before a record is written": lambda: replaced(recorder, "write_arrays", 2),
    "in a row of metrics.csv": lambda: half_a_line(5),
    "where metrics.csv gets new columns": lambda: at_replace("metrics.csv", 3),
    "before the best checkpoint is in place": lambda: at_replace("best.ckpt", 1),
    "between the best checkpoint and the last": lambda: at_replace("best.ckpt", 1, after=True),
    "before the last checkpoint becomes the previous one": lambda: at_replace("previous.ckpt", 1),
    "between the previous checkpoint and the last": lambda: at_replace("previous.ckpt", 1, after=True),
    "between the best checkpoint and that of a half": lambda: at_replace("first.ckpt", 1),
    "between the checkpoints of the halves": lambda: at_replace("first.ckpt", 1, after=True),
    "before the halves are counted": lambda: replaced(scoring, "Crossing"),
    "while the halves are counted": lambda: replaced(Crossing, "_count", 2),
    "before what was counted is written": lambda: at_replace("crossed.npz", 1),
    "before thresholds are tuned": lambda: replaced(scoring, "keep_tuned"),
    "before the summary is in place": lambda: at_replace("summary.json", 1),
}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the run is killed in a process of its own")
@pytest.mark.parametrize("choice", ["averaged"])
@pytest.mark.parametrize("where", KILLS)
def test_a_killed_run_goes_on(tmp_path, folder_root, whole, where, choice):
    run, wanted = tmp_path / "run", whole(choice)
    child = os.fork()
    if child == 0:
        try:
            KILLS[where]()
            train(config(tmp_path, folder_root, choice), run)
        except BaseException:
            traceback.print_exc()  # of a run that ends before it is killed
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the run was not killed"
    if (run / "config.yaml").exists():
        resume(run)
    else:
        train(config(tmp_path, folder_root, choice), run)
    assert_same(run, wanted)


@pytest.mark.slow
def test_checkpoints_between_validations(tmp_path, folder_root, whole):
    run = tmp_path / "run"
    child = os.fork()
    if child == 0:
        try:
            at_step(3)
            train(config(tmp_path, folder_root, "dropout", "checkpoint_every=2"), run)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert RunFolder(run).load_state("last")[1] == 2
    resume(run)
    assert_same(run, whole("dropout"))


def damage(path, how):
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "flipped": whole[:5000] + b"?" + whole[5001:]}[how])


@pytest.mark.parametrize("how", ["cut", pytest.param("empty", marks=pytest.mark.slow), "flipped"])
def test_a_damaged_last_checkpoint_falls_back(tmp_path, folder_root, whole, monkeypatch, caplog, how):
    run = tmp_path / "run"
    made = config(tmp_path, folder_root, "plain")
    assert stopped(monkeypatch, "training_step", 5, signal.SIGINT, lambda: train(made, run)).code == 130
    damage(run / "checkpoints" / "last.ckpt", how)
    resume(run)
    assert "last.ckpt is damaged" in caplog.text
    assert "going on from the checkpoint before it" in caplog.text
    assert_same(run, whole("plain"))


def test_damaged_checkpoints_say_how_to_make_them_again(tmp_path, folder_root, whole):
    import shutil

    run = Path(shutil.copytree(whole("plain"), tmp_path / "run"))
    damage(run / "checkpoints" / "best.ckpt", "flipped")
    remedy = rf"best\.ckpt is damaged.*remove {run}/checkpoints and {run}/summary\.json, then python train\.py resume={run}"
    with pytest.raises(InputError, match=remedy):
        evaluate(run)
    with pytest.raises(InputError, match=remedy):
        map_scene(run, next((folder_root / "images").iterdir()), tmp_path / "map.tif")
    (run / "summary.json").unlink()
    with pytest.raises(InputError, match=remedy):
        resume(run)
    damage(run / "checkpoints" / "previous.ckpt", "cut")
    damage(run / "checkpoints" / "last.ckpt", "cut")
    with pytest.raises(InputError, match=r"previous\.ckpt is damaged.*Training gives the same weights again"):
        resume(run)
    shutil.rmtree(run / "checkpoints")
    resume(run)  # as the line says
    assert_same(run, whole("plain"))


def test_code_in_a_checkpoint_is_refused_everywhere(tmp_path, folder_root, whole):
    import shutil

    from test_checkpoints import Payload

    run, mark = Path(shutil.copytree(whole("plain"), tmp_path / "run")), tmp_path / "mark"
    (run / "summary.json").unlink()
    for name in ("last", "best"):
        path = run / "checkpoints" / f"{name}.ckpt"
        torch.save({**torch.load(path, weights_only=True), "more": Payload(mark)}, path)
    for attempt in (lambda: resume(run), lambda: evaluate(run), lambda: RunFolder(run).last_good()):
        with pytest.raises(InputError, match="might run code when it is read"):
            attempt()
    assert not mark.exists()


def test_an_ended_run_ends_again(tmp_path, folder_root, monkeypatch):
    """One that was stopped early and killed before its summary is not trained on."""
    stop = ["callbacks=early_stopping", "callbacks.early_stopping.patience=1", "optimizer=sgd", "optimizer.lr=0", "steps=20"]
    run = tmp_path / "run"
    train(config(tmp_path, folder_root, "plain", *stop, "validations=10"), run)
    step = RunFolder(run).load_state("last")[1]
    assert step < 20
    (run / "summary.json").unlink()
    resume(run)
    assert RunFolder(run).load_state("last")[1] == step


def test_the_best_checkpoint_holds_weights_alone(whole):
    for choice in ("plain", "averaged"):
        best = torch.load(whole(choice) / "checkpoints" / "best.ckpt", weights_only=True)
        assert best.keys() == {"state_dict", "global_step"}
        last = torch.load(whole(choice) / "checkpoints" / "last.ckpt", weights_only=True)
        assert {"optimizer_states", "loops", "callbacks"} < last.keys()
    if best["global_step"] == 7:  # of averaged weights the average
        assert all(torch.equal(value, last["state_dict"][key]) for key, value in best["state_dict"].items())


def slurm(monkeypatch, folder, answer=""):
    """SLURM's command, which writes down what it was asked."""
    path = folder / "scontrol"
    path.write_text(f'#!/bin/sh\necho "$@" >> {folder}/asked\n{answer}\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    for name in ("SLURM_JOB_NAME", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    return folder / "asked"


def test_a_slurm_job_is_queued_again(tmp_path, folder_root, monkeypatch, caplog):
    asked = slurm(monkeypatch, tmp_path)
    made = config(tmp_path, folder_root, "plain")
    with caplog.at_level("INFO"):
        stopped(monkeypatch, "training_step", 1, signal.SIGUSR1, lambda: train(made, tmp_path / "run"))
    assert asked.read_text() == "requeue 77\n"
    assert "SLURM job 77 is queued again" in caplog.text


@pytest.mark.parametrize(
    ("environment", "number", "wanted"),
    [
        ({}, signal.SIGTERM, None),  # a cancelled job's, or one that SLURM queues again itself
        ({}, signal.SIGUSR2, "requeue 77\n"),
        ({"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "3"}, signal.SIGUSR1, "requeue 5_3\n"),
        ({"SLURM_JOB_NAME": "interactive"}, signal.SIGUSR1, None),
        ({}, signal.SIGINT, None),
    ],
)
def test_what_is_queued_again(tmp_path, monkeypatch, environment, number, wanted):
    asked = slurm(monkeypatch, tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoppedError), Interrupts(RunFolder(tmp_path)):
        os.kill(os.getpid(), number)
    assert (asked.read_text() if asked.exists() else None) == wanted


def test_a_job_that_cannot_be_queued_again_is_said(tmp_path, monkeypatch, caplog):
    slurm(monkeypatch, tmp_path, "echo 'Requested operation is presently disabled' >&2; exit 1")
    with pytest.raises(StoppedError), Interrupts(RunFolder(tmp_path)):
        os.kill(os.getpid(), signal.SIGUSR1)
    assert "SLURM job 77 can't be queued again (Requested operation is presently disabled)" in caplog.text


def test_a_job_that_is_queued_again_finds_its_folder(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_JOB_NAME"):
        monkeypatch.delenv(name, raising=False)
    assert run_folder(None, "runs/a", "noon", "loss=ce") == "runs/a/noon"
    assert run_folder("runs/b", "runs/a", "noon", "loss=ce") == "runs/b"
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    first = run_folder(None, "runs/a", "noon", "loss=ce")
    assert first == run_folder(None, "runs/a", "one", "loss=ce")
    assert first != run_folder(None, "runs/a", "noon", "loss=dice")
    assert "77" in first
    assert run_folder("runs/b", "runs/a", "noon", "loss=ce") == "runs/b"


@pytest.mark.slow
def test_a_requeued_job_goes_on_by_itself(tmp_path, folder_root, monkeypatch):
    """From the command line, with a job's environment: the same command twice."""
    import subprocess

    from test_run import CONFIGS, TINY

    asked = slurm(monkeypatch, tmp_path)
    words = ["train.py", *TINY, f"output={tmp_path}/out", *folder_data(folder_root), "steps=60", "validations=3", "pictures=0"]
    job = subprocess.Popen(
        [sys.executable, *words], cwd=CONFIGS.parent, stdout=subprocess.PIPE, text=True, stderr=subprocess.STDOUT
    )
    said = []
    for line in job.stdout:
        said.append(line)
        if line.startswith("step 20 of"):
            job.send_signal(signal.SIGUSR1)
    assert job.wait() == 128 + signal.SIGUSR1, said
    assert "go on with python train.py resume=" in said[-2], said
    assert asked.read_text() == "requeue 77\n"
    (run,) = (tmp_path / "out" / "folder").iterdir()
    step = RunFolder(run).load_state("last")[1]
    assert 20 <= step < 60
    done = command(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"going on from step {step}" in done.stdout
    assert (run / "summary.json").exists()
