"""Callbacks, schedules and accumulation by config: what they do to a run."""

import csv
import json

import numpy as np
import pytest
import torch
from rsseg.training import make_trainer
from test_run import folder_data, settings, weights

from rsseg.assembly import setup
from rsseg.module import SegmentationModule
from rsseg.run import train


def rows(run, column):
    with (run / "metrics.csv").open() as file:
        return [float(row[column]) for row in csv.DictReader(file) if row.get(column)]


def test_early_stopping_finishes_a_run(tmp_path, folder_root, caplog):
    stop = ["callbacks=early_stopping", "callbacks.early_stopping.patience=1", "optimizer=sgd", "optimizer.lr=0"]
    config = settings(tmp_path, *folder_data(folder_root), *stop, "steps=20", "validations=10", "pictures=0")
    with caplog.at_level("INFO"):
        iou = train(config, tmp_path / "run")
        assert "Stopped early, at step" in caplog.text
        steps = json.loads((tmp_path / "run" / "summary.json").read_text())["steps"]
        assert 2 <= steps < 20
        assert train(config, tmp_path / "run") == pytest.approx(iou)
        assert "finished already" in caplog.text


def test_averaged_weights_are_scored_and_kept(tmp_path, folder_root, monkeypatch):
    seen = []
    name = "network.net.segmentation_head.0.weight"

    def remember(self, outputs, batch, batch_idx):
        seen.append(self.state_dict()[name].double().clone())

    monkeypatch.setattr(SegmentationModule, "on_train_batch_end", remember)
    ema = ["callbacks=ema", "callbacks.ema.decay=0.5", "steps=4"]
    train(settings(tmp_path, *folder_data(folder_root), *ema, "pictures=0"), tmp_path / "run")
    average = seen[0]
    for later in seen[1:]:
        average = 0.5 * average + 0.5 * later
    torch.testing.assert_close(weights(tmp_path / "run")[name].double(), average, rtol=1e-4, atol=1e-7)
    assert not torch.allclose(average, seen[-1], atol=1e-5)


def test_the_learning_rate_finder_changes_the_rate_alone(tmp_path, folder_root, caplog):
    common = [*folder_data(folder_root), "steps=40", "trainer.log_every_n_steps=1", "scheduler=constant", "pictures=0"]
    find = ["callbacks=lr_finder", "callbacks.lr_finder.num_training_steps=30", "callbacks.lr_finder.max_lr=0.7"]
    train(settings(tmp_path, *common), tmp_path / "plain")
    with caplog.at_level("INFO"):
        train(settings(tmp_path, *common, *find), tmp_path / "found")
    assert "The learning-rate finder chose" in caplog.text
    assert rows(tmp_path / "plain", "lr-AdamW") == [0.001] * 40
    found = set(rows(tmp_path / "found", "lr-AdamW"))
    assert len(found) == 1
    rate = found.pop()
    assert 1e-6 < rate < 0.7
    assert rate != 0.001
    first = [rows(tmp_path / run, "train/loss")[0] for run in ("plain", "found")]
    assert first[0] == pytest.approx(first[1])  # the same weights and windows as if nothing had been tried out


def test_accumulated_gradients_of_a_mean_over_pixels_are_those_of_one_batch(tmp_path, folder_root, caplog):
    """Without ignored pixels and batch statistics, where a mean of batch means is the mean."""
    root = tmp_path / "data"
    rng = np.random.default_rng(0)
    from tiny import checker, coloured, write_tif

    for i in range(4):
        mask = checker(rng, 96, 3)
        write_tif(root / "images" / f"s{i}.tif", coloured(rng, mask))
        write_tif(root / "masks" / f"s{i}.tif", mask[None])
    common = [*folder_data(root), "loss=ce", "optimizer=sgd", "trainer.precision=64-true", "steps=4", "pictures=0"]
    common += ["model.freeze=[encoder]", "model.net.decoder_use_norm=false"]
    train(settings(tmp_path, *common, "batch_size=4"), tmp_path / "one")
    assert "Gradients are accumulated" not in caplog.text
    train(settings(tmp_path, *common, "batch_size=2", "trainer.accumulate_grad_batches=2"), tmp_path / "two")
    assert "that is another loss than that of one batch of 4 windows" in caplog.text
    for (name, ours), theirs in zip(weights(tmp_path / "one").items(), weights(tmp_path / "two").values(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name)


def rates(tmp_path, *overrides, steps=40):
    """The learning rate of every step, as training would use it."""
    config = settings(tmp_path, "dataset=folder", "dataset.classes=[a,b]", *overrides, f"steps={steps}")
    made = setup(config)
    optimizer = made.optimizer([torch.nn.Parameter(torch.zeros(1))])
    scheduler = made.scheduler(optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return np.array(found)


def test_schedules(tmp_path):
    step = np.arange(40)
    np.testing.assert_allclose(rates(tmp_path, "scheduler=cosine"), 1e-3 * (1 + np.cos(np.pi * step / 40)) / 2)
    np.testing.assert_allclose(rates(tmp_path, "scheduler=poly"), 1e-3 * (1 - step / 40) ** 0.9)
    np.testing.assert_allclose(rates(tmp_path, "scheduler=constant"), 1e-3)
    warm = rates(tmp_path, "scheduler=cosine_warmup", "scheduler.milestones=[10]")
    np.testing.assert_allclose(warm[:10], 1e-3 * (0.01 + 0.99 * step[:10] / 10))
    np.testing.assert_allclose(warm[10:], 1e-3 * (1 + np.cos(np.pi * (step[10:] - 10) / 30)) / 2)
    cycle = rates(tmp_path, "scheduler=one_cycle", "optimizer.lr=0.01")
    assert cycle.argmax() == pytest.approx(0.3 * 40, abs=1)
    assert cycle.max() == pytest.approx(0.01, rel=0.01)
    assert cycle[-1] < 1e-4


def test_plateau_follows_validation(tmp_path, folder_root):
    flat = ["scheduler=plateau", "scheduler.patience=0", "scheduler.threshold=10", "optimizer=sgd"]  # nothing is better enough
    common = ["steps=8", "validations=4", "trainer.log_every_n_steps=1", "pictures=0"]
    train(settings(tmp_path, *folder_data(folder_root), *flat, *common), tmp_path / "run")
    assert rows(tmp_path / "run", "lr-SGD") == pytest.approx([0.01] * 4 + [0.005] * 2 + [0.0025] * 2)


@pytest.mark.parametrize("name", ["early_stopping", "ema", "lr_finder"])
def test_callbacks_come_from_the_config(tmp_path, name):
    config = settings(tmp_path, "dataset=folder", "dataset.classes=[a,b]", f"callbacks={name}")
    kinds = [type(c).__name__ for c in make_trainer(setup(config), tmp_path, "val/mask/iou").callbacks]
    wanted = {"early_stopping": "EarlyStopping", "ema": "EMAWeightAveraging", "lr_finder": "LearningRateFinder"}[name]
    assert wanted in kinds
    resumed = [type(c).__name__ for c in make_trainer(setup(config), tmp_path, "val/mask/iou", resumed_step=3).callbacks]
    assert (wanted in resumed) == (name != "lr_finder")


def test_a_diverged_run_is_said(tmp_path, folder_root, caplog):
    wild = ["loss=dice", "optimizer=sgd", "optimizer.lr=1e30", "trainer.gradient_clip_val=null", "steps=6", "validations=2"]
    train(settings(tmp_path, *folder_data(folder_root), *wild, "pictures=0"), tmp_path / "run")
    assert "the run has diverged: lower optimizer.lr" in caplog.text
