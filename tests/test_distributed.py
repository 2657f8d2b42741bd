"""Two processes on a CPU train as one process with the whole batch."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.distributed as dist
from test_run import command, folder_data, settings, tiny, weights
from timm.layers import BatchNormAct2d
from tiny import CONFIGS
from torch import nn

from rsseg.comparison.records import load_records, read_arrays
from rsseg.config.folder import RunFolder
from rsseg.distributed import SyncBatchNorm
from rsseg.run import train

EXACT = ["trainer.precision=64-true", "optimizer=sgd", "trainer.log_every_n_steps=1", "batch_size=4", "steps=4"]
TWO = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]


def run_one(tmp_path, name, data):
    train(settings(tmp_path, *data, *EXACT), tmp_path / name)


def run_two(tmp_path, name, data):
    done = command("train.py", *tiny(tmp_path, *data, *EXACT, *TWO, f"hydra.run.dir={tmp_path / name}"))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def table(run):
    with (run / "metrics.csv").open() as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def assert_same(one, two):
    for ours, theirs in zip(table(one), table(two), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-12)
    for (name, ours), theirs in zip(weights(one).items(), weights(two).values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12, msg=name)
    assert (one / "classes.csv").read_text() == (two / "classes.csv").read_text()
    ours, theirs = load_records(one), load_records(two)
    assert (ours.counts == theirs.counts).all()
    assert (ours.counts[..., [0, 2]].sum((2, 3)) == 80 * 96 - 16).all()  # no scene twice, none lost
    assert ours.values == pytest.approx(theirs.values, rel=1e-9, nan_ok=True)
    for mine, other in zip((*ours.gradient.values(), [ours.gain]), (*theirs.gradient.values(), [theirs.gain]), strict=True):
        for x, y in zip(mine, other, strict=True):
            assert x == pytest.approx(y, rel=1e-7)
    assert ours.own == pytest.approx(theirs.own, rel=1e-9, nan_ok=True)
    assert ours.quality == pytest.approx(theirs.quality, nan_ok=True)
    ours, theirs = (read_arrays(run / "records" / "crossed.npz") for run in (one, two))
    for key, value in ours.items():
        np.testing.assert_array_equal(value, theirs[key], err_msg=key)
    assert (one / "threshold.json").read_text() == (two / "threshold.json").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("scenes", ["even", "odd"])
def test_two_processes_are_one(tmp_path, folder_root, scenes):
    """Losses, their gradients (by the weights after some steps), batch statistics, every validation pixel once."""
    root = shutil.copytree(folder_root, tmp_path / "data")
    if scenes == "odd":  # 3 x 3 validation windows of 2 scenes: an odd number is left for the last batch
        for path in root.rglob("tile0_a.tif"):
            path.unlink()
    terms = ["loss=ce_dice", "+loss/term@loss.terms.lovasz=lovasz", "+loss/term@loss.terms.weighted_ce=weighted_ce"]
    data = [*folder_data(root), *terms, "validations=2", "augment=full", "record.gain=true"]
    run_one(tmp_path, "one", data)
    said = run_two(tmp_path, "two", data)
    assert_same(tmp_path / "one", tmp_path / "two")
    assert np.isnan(load_records(tmp_path / "two").at("iou")).all() == (scenes == "odd")  # none of one scene
    assert said.count("2 processes") == 1  # the second process is silent
    with (tmp_path / "two" / "classes.csv").open() as file:
        pixels = [int(row["pixels"]) for row in csv.DictReader(file) if row["class"]]
    scenes = len(json.loads((tmp_path / "two" / "data.json").read_text())["scenes"]["val"])
    assert sum(pixels) == scenes * (80 * 96 - 16)  # every labelled pixel of whole scenes, once


@pytest.mark.slow
def test_two_processes_stop_at_one_step_and_go_on(tmp_path, folder_root):
    data = [*folder_data(folder_root), "validations=2", "record.gain=true"]
    run_one(tmp_path, "whole", data)
    words = tiny(tmp_path, *data, *EXACT, *TWO, f"hydra.run.dir={tmp_path / 'stopped'}")
    job = subprocess.Popen(
        [sys.executable, "train.py", *words], cwd=CONFIGS.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    said = []
    for line in job.stdout:
        said.append(line)
        if line.startswith("step 2 of"):
            job.send_signal(signal.SIGTERM)
    assert job.wait() == 143, said
    assert sum("Stopped by SIGTERM at step" in line for line in said) == 1
    assert RunFolder(tmp_path / "stopped").load_state("last")[1] in (2, 3)
    done = command("train.py", f"resume={tmp_path / 'stopped'}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "going on from step" in done.stdout
    assert_same(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.slow
def test_a_sweep_of_two_processes_each_is_continued(tmp_path, folder_root, caplog):
    words = [*folder_data(folder_root), *TWO]
    done = command("train.py", "-m", *tiny(tmp_path, *words, f"hydra.sweep.dir={tmp_path}/sweep", "loss=ce,dice", "seed=1"))
    assert done.returncode == 0, done.stdout + done.stderr
    for loss in ("ce", "dice"):
        run = tmp_path / f"sweep/loss={loss},seed=1"
        with caplog.at_level("INFO"):
            again = train(settings(tmp_path, *words, f"loss={loss}", "seed=1"), run)
        assert again == json.loads((run / "summary.json").read_text())["iou"]
        assert f"{run}: finished already" in caplog.text


def norms():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), BatchNormAct2d(4)).double().train()


def step(model, x):
    y = model(x)
    (y * torch.arange(y[0].numel()).view_as(y[0]) / y[0].numel()).sum().backward()
    return [y.detach(), *(p.grad for p in model.parameters()), *(b.clone() for b in model.buffers())]


def images():
    return torch.randn(6, 2, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 3 + 1


def rank_main(rank, store, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    model = SyncBatchNorm("cpu").apply(norms())
    part = images()[:2] if rank == 0 else images()[2:]
    found = step(model, part)
    found[1:5] = [g.clone() for g in found[1:5]]
    for gradient in found[1 : 1 + len(list(model.parameters()))]:
        dist.all_reduce(gradient)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)


@pytest.mark.slow
def test_batch_statistics_are_those_of_both_processes(tmp_path):
    """Against torch's own layer on the whole batch."""
    torch.multiprocessing.start_processes(rank_main, (tmp_path / "store", tmp_path), nprocs=2, start_method="spawn")
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    whole = step(norms(), images())
    torch.testing.assert_close(torch.cat([rank[0] for rank in ranks]), whole[0])
    for rank in ranks:
        for ours, theirs in zip(rank[1:], whole[1:], strict=True):
            torch.testing.assert_close(ours, theirs)


def test_shared_layers_turn_back():
    plugin, model, x = SyncBatchNorm("cpu"), norms(), images()
    before = [type(m) for m in model.modules()]
    alone = step(norms(), x)
    shared = step(plugin.apply(model), x)
    for ours, theirs in zip(shared, alone, strict=True):  # one process: its own statistics
        torch.testing.assert_close(ours, theirs)
    assert [type(m) for m in model.modules()] != before
    assert [type(m) for m in plugin.revert(model).modules()] == before
    torch.testing.assert_close(plugin.apply(model).eval()(x), plugin.revert(model).eval()(x))
    assert np.isfinite(model(x).detach().numpy()).all()
