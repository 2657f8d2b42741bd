"""Kill points."""

import csv
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from test_run import folder_data, settings, weights

import rsseg.alignment.archive as archive
import rsseg.files as files
from rsseg.interrupt import StoppedError
from rsseg.keeping import load_state
from rsseg.module import SegmentationModule
from rsseg.run import train

CHOICES = {
    "plain": [],
    "averaged": ["callbacks=ema", "callbacks.ema.decay=0.5", "scheduler=plateau", "scheduler.patience=0"],
    "dropout": ["model=deeplabv3plus", "trainer.accumulate_grad_batches=2", "augment=full"],
}
COMMON = ["steps=7", "validations=2", "trainer.log_every_n_steps=1", "pictures=0"]  # validated after steps 4 and 7


def config(folder, root, choice):
    return settings(folder, *folder_data(root), *COMMON, *CHOICES[choice])


@pytest.fixture(scope="session")
def whole(tmp_path_factory, folder_root):
    made = {}

    def run(choice):
        if choice not in made:
            made[choice] = tmp_path_factory.mktemp(choice) / "whole"
            train(config(made[choice].parent, folder_root, choice), made[choice])
        return made[choice]

    return run


def assert_same(run, whole):
    for name in ("last", "best"):
        ours, theirs = load_state(run, name), load_state(whole, name)
        assert ours[1] == theirs[1]
        assert ours[0].keys() == theirs[0].keys()
        for key, value in ours[0].items():
            assert torch.equal(value, theirs[0][key]), (name, key)
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


def resume(run):
    return train(settings(run.parent, f"resume={run}"), run, [f"resume={run}"])


def signal_in(monkeypatch, method, step, number, batch=0):
    """Send this process a signal in a method of the module."""
    real, sent = getattr(SegmentationModule, method), []

    def send(self, arg, batch_idx):
        if self.global_step == step and not sent and (method == "training_step" or batch_idx == batch):
            sent.append(os.kill(os.getpid(), number))
        return real(self, arg, batch_idx)

    monkeypatch.setattr(SegmentationModule, method, send)


STOPS = {
    "the first step": ("training_step", 0, 1),
    "between validations": ("training_step", 1, 2),
    "the step before a validation": ("training_step", 3, 4),
    "a validation": ("validation_step", 4, 4),
    "after a validation": ("training_step", 4, 5),
    "the last step": ("training_step", 6, 7),
    "the last validation": ("validation_step", 7, 7),
}


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("place", STOPS)
def test_a_stopped_run_goes_on_as_if_nothing_had_been(tmp_path, folder_root, whole, monkeypatch, caplog, place, choice):
    method, step, kept = STOPS[place]
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        signal_in(patch, method, step, signal.SIGTERM)
        with caplog.at_level("INFO"), pytest.raises(StoppedError) as stopped:
            train(config(tmp_path, folder_root, choice), run)
    assert stopped.value.code == 143
    print(caplog.messages[-1])
    assert load_state(run, "last")[1] == kept
    resume(run)
    assert_same(run, whole(choice))
