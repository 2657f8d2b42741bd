"""Runs on a real SLURM: a sweep through submitit, and jobs that are preempted, run out of time, or are cancelled."""

import csv
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from test_run import folder_data, settings, tiny
from test_stopping import assert_same
from tiny import CONFIGS

from rsseg.config.folder import RunFolder
from rsseg.run import train

SCRIPT = Path(__file__).with_name("slurm.sh")
REPOSITORY = CONFIGS.parent
PATIENCE = 240
"""The seconds within which anything that is waited for comes, on a busy machine."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def slurm(tmp_path_factory):
    """A SLURM of one node, which the commands of this process and the jobs find by the environment."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("SLURM's daemons are started by root alone")
    lacking = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(name) is None]
    if lacking:
        pytest.skip(f"{', '.join(lacking)} are not installed (Debian: slurm-wlm and munge)")
    folder = tmp_path_factory.mktemp("slurm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        patch.setenv("OMP_NUM_THREADS", "1")
        started = subprocess.run([SCRIPT, "start", folder], capture_output=True, text=True, timeout=180)
        if started.returncode:
            pytest.skip(f"SLURM does not start on this machine: {started.stderr.strip()[-300:]}")
        yield
        subprocess.run([SCRIPT, "stop", folder], check=True)


def ask(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def until(what, describe=lambda: ""):
    """Wait until a function gives something, and return it."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited for {PATIENCE} s; {describe()}")


class Job:
    """A batch job that runs one command in place of its shell, so that signals reach it."""

    def __init__(self, folder, command, *options):
        self.printed, script = folder / "printed", folder / "job.sh"
        script.write_text(f"#!/bin/bash\ncd {REPOSITORY}\nexec {command}\n")
        options = ["--parsable", "--requeue", "--open-mode=append", "--time=30", f"--output={self.printed}", *options]
        self.number = ask("sbatch", *options, script).strip()

    def text(self):
        return self.printed.read_text() if self.printed.exists() else ""

    def state(self):
        shown = ask("squeue", "--noheader", "--states=all", f"--jobs={self.number}", "--format=%T").split()
        return shown[0] if shown else "GONE"

    def until(self, text):
        until(lambda: text in self.text(), self.text)

    def over(self):
        """Wait for its end, and return how it ended."""
        return until(lambda: (state := self.state()) not in ("PENDING", "RUNNING", "COMPLETING") and state, self.text)

    def held(self, out, step):
        """Hold its process once the run below a folder has logged a step: it is in the middle when a signal comes."""
        until(lambda: str(step) in logged(out), self.text)
        (process,) = {int(row.split()[0]) for row in ask("scontrol", "listpids", self.number).splitlines()[1:]}
        os.kill(process, signal.SIGSTOP)
        return process


def logged(out):
    """The steps that the runs below a folder have logged."""
    found = set()
    for path in out.rglob("metrics.csv"):
        with path.open() as file:
            found |= {row["step"] for row in csv.DictReader(file)}
    return found


def go_on_at(process, number):
    """Let a process that is held go on once a signal waits for it, unless SLURM does so itself."""

    def waits():
        try:
            status = Path(f"/proc/{process}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return True
        masks = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd", "ShdPnd"))]
        return any(mask >> (number - 1) & 1 for mask in masks)

    until(waits)
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGCONT)


def test_a_job_that_is_preempted_and_runs_out_of_time_goes_on(tmp_path, folder_root):
    words = [*folder_data(folder_root), "steps=40", "validations=4", "trainer.log_every_n_steps=1"]
    whole, out = tmp_path / "whole", tmp_path / "out"
    train(settings(tmp_path, *words), whole)
    job = Job(tmp_path, shlex.join([sys.executable, "train.py", *tiny(out, *words)]), "--signal=B:USR1@90")

    job.held(out, 5)
    ask("scontrol", "requeue", job.number)  # as preemption does; SLURM sends SIGCONT and SIGTERM
    job.until("Stopped by SIGTERM at step")
    job.until("going on from step")

    process = job.held(out, 25)
    end = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 125))  # rounded down to a minute of the job's
    ask("scontrol", "update", f"JobId={job.number}", f"EndTime={end}")  # SLURM looks every 30 s, and signals early rather
    go_on_at(process, signal.SIGUSR1)
    job.until("Stopped by SIGUSR1 at step")
    job.until(f"SLURM job {job.number} is queued again and goes on by itself")

    assert job.over() == "COMPLETED", job.text()
    assert job.text().count("going on from step") == 2
    (run,) = (out / "folder").iterdir()
    assert_same(run, whole)


def test_a_cancelled_job_does_not_come_back(tmp_path):
    code = (
        "import time; from pathlib import Path; from rsseg.config.folder import RunFolder\n"
        "from rsseg.training.signals import Interrupts\n"
        f"with Interrupts(RunFolder(Path('{tmp_path}'))): print('ready', flush=True); time.sleep(600)"
    )
    (tmp_path / "hold.py").write_text(code)
    job = Job(tmp_path, f"env PYTHONPATH={REPOSITORY} {sys.executable} {tmp_path}/hold.py")
    job.until("ready")
    ask("scancel", job.number)
    job.until("Stopped by SIGTERM outside training")
    assert job.over() == "CANCELLED"
    assert "queued again" not in job.text()


def test_a_sweep_through_submitit(tmp_path, folder_root):
    """One of its two jobs is preempted in the middle."""
    words = tiny(tmp_path, *folder_data(folder_root), "loss=ce,dice", "seed=1", "steps=40", "trainer.log_every_n_steps=1")
    launcher = ["hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=20"]
    sweep = subprocess.Popen(
        [sys.executable, "train.py", "-m", *words, *launcher],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    folder = tmp_path / "sweep/folder_loss"
    first, second = (folder / f"loss={loss},seed=1" for loss in ("ce", "dice"))
    until(lambda: "5" in logged(first))
    (job,) = (path.name for path in (folder / ".submitit").iterdir() if path.name.endswith("_0"))
    ask("scontrol", "requeue", job)
    said, _ = sweep.communicate(timeout=PATIENCE)
    assert sweep.returncode == 0, said
    assert f"runs='{folder}'" in said
    assert "going on from step" in (first / "train.log").read_text()
    assert all(RunFolder(run).summary()["steps"] == 40 for run in (first, second))
