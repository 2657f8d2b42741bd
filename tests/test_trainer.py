"""Callbacks, schedules and accumulation by config: what they do to a run."""

import csv
import json
import logging
import re
import resource
import threading
from itertools import pairwise
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator
from test_run import folder_data, settings, weights
from tiny import CONFIGS, map_scene, power_cut

from rsseg import devices
from rsseg.answer import compare
from rsseg.assembly import make_setup
from rsseg.config.contents import ABSENT
from rsseg.config.folder import RunFolder
from rsseg.contract import InputError
from rsseg.data.store import Store
from rsseg.evaluation.options import EvaluationOptions
from rsseg.evaluation.scores import evaluate
from rsseg.loggers import MetricsFile
from rsseg.metrics import Scores
from rsseg.models import Network
from rsseg.module import SegmentationModule
from rsseg.progress import Lines
from rsseg.run import train
from rsseg.task import Binary, Multiclass
from rsseg.training.checkpointing import Checkpoints, validation_steps
from rsseg.training.divergence import DivergedError, NonFinite
from rsseg.training.resume import begins_anew, continuation, overridden
from rsseg.training.signals import Interrupts
from rsseg.training.trainer import ProgressLines, make_trainer

pytestmark = pytest.mark.usefixtures("quick_runs")


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


@pytest.mark.slow
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
    setup = make_setup(config)
    optimizer = setup.optimizer([torch.nn.Parameter(torch.zeros(1))])
    scheduler = setup.scheduler(optimizer)
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
    setup = make_setup(settings(tmp_path, "dataset=folder", "dataset.classes=[a,b]", f"callbacks={name}"))

    def kinds(step):
        run = RunFolder(tmp_path)
        kept = Checkpoints(run, "val/iou", [2], None, Interrupts(run))
        return [type(c).__name__ for c in make_trainer(setup, run, [], kept, step).callbacks]

    wanted = {"early_stopping": "EarlyStopping", "ema": "EMAWeightAveraging", "lr_finder": "LearningRateFinder"}[name]
    assert wanted in kinds(0)
    assert (wanted in kinds(3)) == (name != "lr_finder")


@given(st.integers(1, 5000), st.integers(1, 60))
def test_validations_are_evenly_spread(steps, validations):
    found = validation_steps(steps, validations)
    assert len(found) == min(steps, validations)
    assert found[-1] == steps
    gaps = np.diff([0, *found])
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1
    if steps % len(found) == 0:
        assert (gaps == steps // len(found)).all()


def test_a_run_is_validated_when_it_is_due(tmp_path, folder_root):
    uneven = ["steps=7", "validations=3", "trainer.accumulate_grad_batches=2", "pictures=0"]
    train(settings(tmp_path, *folder_data(folder_root), *uneven), tmp_path / "run")
    assert [path.stem for path in sorted((tmp_path / "run" / "records").glob("step-*"))] == [
        "step-000002",
        "step-000005",
        "step-000007",
    ]


NO_NUMBER = float("nan")


def poison(monkeypatch, steps, value=NO_NUMBER, term="train/loss/dice"):
    """Let a term of the loss, and the total, be no number in the forward pass of some steps."""
    real = SegmentationModule._loss

    def _loss(self, logits, batch):
        total, values = real(self, logits, batch)
        if self.global_step in steps:
            return total * value, {**values, term: values[term] * value, "train/loss": total * value}
        return total, values

    monkeypatch.setattr(SegmentationModule, "_loss", _loss)


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_a_run_that_diverges_stops(tmp_path, folder_root, monkeypatch, caplog, device):
    """A GPU's numbers are looked at with the next that are logged: the step that is named is that of the first bad one."""
    if device == "gpu":
        monkeypatch.setattr(NonFinite, "on_fit_start", lambda self, *_: setattr(self, "at_once", False))
    poison(monkeypatch, [3, 4])
    run, config = tmp_path / "run", settings(tmp_path, *folder_data(folder_root), "steps=12", "validations=6", "pictures=0")
    with pytest.raises(DivergedError, match=r"diverged at step 4 of 12: train/loss/dice is nan in a batch of the scenes tile"):
        train(config, run)
    summary = json.loads((run / "summary.json").read_text())
    facts = summary["diverged"]
    assert facts["step"] == 4
    assert facts["values"]["train/loss/dice"] == "nan"
    assert "train/loss/ce" not in facts["values"]
    assert facts["windows"] == [6, 7]
    assert "iou" not in summary
    assert RunFolder(run).load_state("last")[1] == 2  # no state is kept after it
    assert summary["steps"] == (3 if device == "cpu" else 4)
    with pytest.raises(DivergedError, match="diverged at step 4; not run again"):
        train(config, run)
    with pytest.raises(InputError, match=r"can be compared .*it has diverged at step 4"):
        compare([tmp_path])
    monkeypatch.undo()
    words = [f"resume={run}", "on_nonfinite=skip"]
    train(settings(tmp_path, *words), run, words)
    assert json.loads((run / "summary.json").read_text())["steps"] == 12


def test_the_windows_of_a_diverged_step_can_be_cut_again(tmp_path, folder_root, monkeypatch):
    """What the summary names is what the step was trained on."""
    seen = []
    poison(monkeypatch, [1])
    real = SegmentationModule.training_step

    def remember(self, batch, batch_idx):
        seen.append((batch["k"].tolist(), batch["scene"].tolist()))
        return real(self, batch, batch_idx)

    monkeypatch.setattr(SegmentationModule, "training_step", remember)
    double = ["trainer.accumulate_grad_batches=2", "steps=4", "validations=1", "sampler=balanced"]
    with pytest.raises(DivergedError) as error:
        train(settings(tmp_path, *folder_data(folder_root), *double), tmp_path / "run")
    names = json.loads((tmp_path / "run" / "data.json").read_text())["scenes"]["train"]
    windows, scenes = ([value for batch in seen[2:] for value in batch[i]] for i in (0, 1))
    assert error.value.facts["windows"] == windows == [4, 5, 6, 7]
    assert error.value.facts["scenes"] == [names[scene] for scene in scenes]


def test_a_gradient_that_is_not_finite_stops_a_run(tmp_path, folder_root, monkeypatch):
    def blow_up(self, *_):
        next(self.network.parameters()).grad.fill_(float("inf"))

    monkeypatch.setattr(SegmentationModule, "on_after_backward", blow_up)
    with pytest.raises(DivergedError, match="diverged at step 1 of 2: gradient norm is inf"):
        train(settings(tmp_path, *folder_data(folder_root)), tmp_path / "run")


@pytest.mark.parametrize("optimizer", sorted(path.stem for path in (CONFIGS / "optimizer").glob("*.yaml")))
def test_a_step_that_is_skipped_changes_nothing(tmp_path, folder_root, monkeypatch, optimizer):
    states = []

    def remember(self, *_):
        states.append({name: value.clone() for name, value in self.state_dict().items()})

    monkeypatch.setattr(SegmentationModule, "on_train_batch_end", remember)
    poison(monkeypatch, [2])
    words = ["on_nonfinite=skip", f"optimizer={optimizer}", "steps=4", "validations=1", "pictures=0", "record.enabled=false"]
    train(settings(tmp_path, *folder_data(folder_root), *words), tmp_path / "run")
    changed = [[name for name in one if not torch.equal(one[name], other[name])] for one, other in pairwise(states)]
    assert len(changed[0]) > 10
    assert changed[1] == []  # weights, and what batch normalisation has gathered
    assert len(changed[2]) > 10
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["skipped_steps"] == 1


@pytest.mark.slow
def test_too_many_skipped_steps_stop_a_run(tmp_path, folder_root, monkeypatch, caplog):
    poison(monkeypatch, range(3, 99))
    words = ["on_nonfinite=skip", "steps=20", "validations=10", "pictures=0"]
    with pytest.raises(DivergedError, match="diverged at step 13 of 20, the 10th step in a row: train/loss/dice is nan"):
        train(settings(tmp_path, *folder_data(folder_root), *words), tmp_path / "run")
    assert sum("is left out" in message for message in caplog.messages) == 3
    monkeypatch.undo()
    words = [f"resume={tmp_path / 'run'}", "optimizer.lr=1e-4"]
    train(settings(tmp_path, *words), tmp_path / "run", words)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["skipped_steps"] == 9


def test_clipping_by_the_known_norm_is_lightnings(tmp_path, folder_root, monkeypatch):
    words = ["trainer.gradient_clip_val=0.05", "steps=3", "record.enabled=false"]
    train(settings(tmp_path, *folder_data(folder_root), *words), tmp_path / "ours")
    monkeypatch.delattr(SegmentationModule, "configure_gradient_clipping")
    train(settings(tmp_path, *folder_data(folder_root), *words), tmp_path / "theirs")
    for (name, ours), theirs in zip(weights(tmp_path / "ours").items(), weights(tmp_path / "theirs").values(), strict=True):
        assert torch.equal(ours, theirs), name


def test_a_window_that_cannot_be_cut_is_named(tmp_path, folder_root, monkeypatch):
    """In a thread; the trace is in the log file alone."""
    real = Store.arrays

    def arrays(self, scene):
        if scene == 2 and threading.current_thread() is not threading.main_thread():
            raise OSError(5, "Input/output error")
        return real(self, scene)

    file = logging.FileHandler(tmp_path / "train.log")
    logging.getLogger().addHandler(file)
    config = settings(tmp_path, *folder_data(folder_root), "workers=2", "steps=9", "pictures=0", "record.enabled=false")
    try:
        monkeypatch.setattr(Store, "arrays", arrays)
        with pytest.raises(InputError) as error:
            train(config, tmp_path / "run")
    finally:
        logging.getLogger().removeHandler(file)
    assert re.match(
        r"the window at row \d+, column \d+ of scene tile\d_a \(.*tile\d_a\.tif\) can't be cut \(.*Input/output",
        str(error.value),
    )
    assert f"go on with python train.py resume={tmp_path / 'run'}" in str(error.value)
    assert "Traceback (most recent call last)" in (tmp_path / "train.log").read_text()


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            MemoryError(),
            r"out of memory with batch_size=2 windows of window=32 px \(MemoryError\): a new run with a smaller",
        ),
        (RuntimeError("[x] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), "out of memory with"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nGPU 0 has"), r"out of memory .* 2 GiB\.\)"),
        (
            OSError(28, "No space left on device", "/data/x"),
            r"/data/x can't be written \(No space.*free some space; then go on with",
        ),
        (OSError(30, "Read-only file system"), "can't be written .Read-only.*: give a folder that can be written to"),
    ],
)
def test_what_a_machine_lacks_is_one_line(tmp_path, folder_root, monkeypatch, error, line):
    def fail(*_):
        raise error

    monkeypatch.setattr(SegmentationModule, "training_step", fail)
    with pytest.raises(InputError, match=line) as told:
        train(settings(tmp_path, *folder_data(folder_root), "record.enabled=false"), tmp_path / "run")
    assert "\n" not in str(told.value)
    assert "go on with python train.py resume=" in str(told.value)


def test_memory_that_runs_out_while_scoring_is_one_line(tmp_path, folder_root, monkeypatch):
    run, config = tmp_path / "run", settings(tmp_path, *folder_data(folder_root), "record.enabled=false", "pictures=0")
    train(config, run)

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(Network, "forward", fail)
    for attempt in (
        lambda: evaluate(run),
        lambda: map_scene(run, next((folder_root / "images").iterdir()), tmp_path / "map.tif"),
    ):
        with pytest.raises(InputError, match=r"out of memory.*both are the run's and stay: free memory") as told:
            attempt()
        assert "smaller" not in str(told.value)


def test_memory_that_runs_out_at_the_first_try_of_a_network_is_said_so(tmp_path, folder_root, monkeypatch):
    def fail(*_):
        raise RuntimeError("[x] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    monkeypatch.setattr(Network, "forward", fail)
    with pytest.raises(InputError, match="out of memory with batch_size=2") as told:
        train(settings(tmp_path, *folder_data(folder_root)), tmp_path / "run")
    assert "larger window" not in str(told.value)


def test_what_evaluate_lacks_is_said_before_scenes_are_decoded(tmp_path, folder_root, monkeypatch):
    run, config = tmp_path / "run", settings(tmp_path, *folder_data(folder_root), "record.enabled=false", "pictures=0")
    train(config, run)

    def fail(*_):
        raise AssertionError("scenes are decoded")

    monkeypatch.setattr("rsseg.evaluation.scores.open_split", fail)
    with pytest.raises(InputError, match=r"threshold=tunde .*: fixed or tuned"):
        evaluate(run, EvaluationOptions("val", "tunde"))
    RunFolder(run).best.unlink()
    with pytest.raises(InputError, match=r"no checkpoints/best\.ckpt"):
        evaluate(run)


def test_faults_of_the_program_keep_their_trace(tmp_path, folder_root, monkeypatch):
    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(SegmentationModule, "training_step", fail)
    with pytest.raises(OSError, match="Input/output"):
        train(settings(tmp_path, *folder_data(folder_root), "record.enabled=false"), tmp_path / "run")


def test_a_full_disk_under_metrics_csv_is_one_line(tmp_path, folder_root, monkeypatch):
    real, (soft, hard) = MetricsFile.log_metrics, resource.getrlimit(resource.RLIMIT_FSIZE)

    def log_metrics(self, metrics, step=None):
        real(self, metrics, step)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # a few rows

    monkeypatch.setattr(MetricsFile, "log_metrics", log_metrics)
    words = ["trainer.log_every_n_steps=1", "steps=9", "record.enabled=false"]
    try:
        with pytest.raises(InputError, match=r"metrics\.csv can't be written \(File too large\)"):
            train(settings(tmp_path, *folder_data(folder_root), *words), tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def there_is(monkeypatch, found):
    monkeypatch.setattr(MPSAccelerator, "is_available", staticmethod(lambda: found == "mps"))
    monkeypatch.setattr(CUDAAccelerator, "is_available", staticmethod(lambda: found == "cuda"))


@pytest.mark.parametrize(
    ("there", "asked", "wanted"),
    [
        ("mps", "gpu", "mps"), ("cuda", "gpu", "cuda"), ("mps", "auto", "mps"), ("", "auto", "cpu"), ("cuda", "cpu", "cpu"),
        ("", "gpu", "no GPU is found"), ("", "cuda", "no GPU is found"), ("mps", "cuda", "there is mps"),
    ],
)  # fmt: skip
def test_gpu_is_whatever_accelerator_there_is(monkeypatch, there, asked, wanted):
    there_is(monkeypatch, there)
    if wanted in ("mps", "cuda", "cpu"):
        assert devices.choose_accelerator(asked) == wanted
        return
    with pytest.raises(InputError, match=wanted):
        devices.choose_accelerator(asked)
    assert devices.scoring_accelerator(asked) == (there or "cpu")


@pytest.mark.parametrize(
    ("there", "trainer", "resident", "fault"),
    [
        ("", {"accelerator": "cpu", "devices": 1}, False, None),
        ("", {"accelerator": "cpu", "devices": 2, "strategy": "ddp", "num_nodes": 1, "sync_batchnorm": True}, False, None),
        ("", {"accelerator": "cpu", "precision": "16-mixed"}, False, "a CPU has no fast float16"),
        ("", {"accelerator": "cpu", "devices": 0}, False, "trainer.devices=0 on cpu: .*devices"),
        ("", {"accelerator": "cpu", "devices": "many"}, False, "trainer.devices=many on cpu"),
        ("", {"accelerator": "cpu", "strategy": "dpp"}, False, "trainer.strategy=dpp on cpu: .*dpp"),
        ("", {"accelerator": "auto"}, True, "cache=gpu, but no GPU is found"),
        ("", {"accelerator": "cpu"}, True, None),
        ("mps", {"accelerator": "gpu", "precision": "64-true"}, False, "Apple's GPUs have no float64"),
        ("mps", {"accelerator": "gpu"}, True, "share the machine's memory"),
        ("mps", {"accelerator": "gpu", "devices": 2, "strategy": "ddp"}, False, "on mps: .*(ddp|DDP|MPS|mps)"),
    ],
)
def test_what_a_device_cannot_do_is_found_before_data_are_read(monkeypatch, there, trainer, resident, fault):
    there_is(monkeypatch, there)
    found = devices.device_faults(trainer, resident, 8)
    if fault is None:
        assert found == []
    else:
        assert re.search(fault, " ".join(found)), found
        assert "\n" not in " ".join(found)


def test_a_run_without_a_terminal_says_how_far_it_is(tmp_path, folder_root, caplog, capsys, monkeypatch):
    monkeypatch.setattr(Lines, "due", lambda self: True)
    with caplog.at_level("INFO"):
        train(settings(tmp_path, *folder_data(folder_root), "steps=4", "pictures=0"), tmp_path / "run")
    lines = [message for message in caplog.messages if re.match(r"step \d of 4: ", message)]
    assert [line.split()[1] for line in lines if " train/loss " in line] == ["3", "4"]  # the first steps are measured
    assert sum(" val/iou " in line for line in lines) == 1
    assert all("s gone, about " in line for line in lines)
    assert [bool(re.search(r"\(.* m?s a step, .* m?s a validation\)$", line)) for line in lines] == [True, False, False]
    assert sum(bool(re.match(r"Checkpoints take about \d+ MB, and .* has ", message)) for message in caplog.messages) == 1
    said = capsys.readouterr()
    assert "it/s" not in said.out + said.err  # no bars
    assert "\r" not in said.out + said.err


def test_a_class_that_is_not_predicted_any_more_is_named_once(caplog):
    land, road = Multiclass(("land", "water", "road")), Binary(("road",))

    def validate(lines, step, *rows, task=land):
        module = SegmentationModule(torch.nn.Identity(), {}, {"mask": task}, [0.0], [1.0], 1)
        module.scores = {"mask": Scores(torch.tensor([[rows]]), task)}
        facts = {"is_global_zero": True, "max_steps": 9, "num_val_batches": [1], "callback_metrics": {"x": 0.5}}
        trainer = mock.Mock(global_step=step, **facts)
        if step == 1:
            lines.on_train_start(mock.Mock(global_step=0), module)
        caplog.clear()
        lines.on_validation_start(trainer, module)
        lines.on_validation_end(trainer, module)
        return [message for message in caplog.messages if "predicted" in message]

    lines = ProgressLines("x", [])
    assert validate(lines, 1, [6, 1, 0], [1, 1, 0], [0, 0, 0]) == []  # no pixel is a road
    assert validate(lines, 2, [7, 0, 0], [2, 0, 0], [0, 0, 1]) == [
        "step 2: no pixel is predicted as 'water', though 20 % of the labelled ones are"
    ]
    assert validate(lines, 3, [7, 0, 0], [2, 0, 0], [0, 0, 1]) == []
    assert validate(lines, 4, [7, 0, 0], [1, 1, 0], [0, 0, 1]) == []
    assert len(validate(lines, 5, [8, 0, 0], [2, 0, 0], [1, 0, 0])) == 2
    assert validate(ProgressLines("x", []), 1, [300, 0], [100, 0], task=road) == [
        "step 1: no pixel is predicted as 'road', though 25 % of the labelled ones are"
    ]


SAVED = {
    "steps": 100,
    "seed": 1,
    "workers": None,
    "logger": {},
    "dataset": {"source": {"root": "/a"}},
    "optimizer": {"_target_": "torch.optim.AdamW", "lr": 0.01},
    "scheduler": {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "T_max": 100, "eta_min": 0.0},
}


def test_what_a_run_that_goes_on_may_change():
    same = continuation(SAVED, {"steps": 100, "seed": 1}, 50, False)
    assert (same.changed, same.trains, same.new_schedule) == ({}, False, False)
    place = continuation(SAVED, {"workers": 2, "logger": {"csv": {}}, "dataset.source.root": "/b"}, 100, True)
    assert (place.trains, place.new_schedule, place.plain["dataset"]["source"]["root"]) == (False, False, "/b")
    longer = continuation(SAVED, {"steps": 400}, 100, True)
    assert longer.trains
    assert longer.new_schedule
    assert longer.plain["scheduler"]["T_max"] == 300
    assert "300 steps follow, with a new cosine schedule from the rate 0.01" in longer.line
    assert SAVED["steps"] == 100
    slower = continuation(SAVED, {"optimizer.lr": 0.001}, 40, False)
    assert (slower.plain["optimizer"]["lr"], slower.plain["scheduler"]["T_max"], slower.new_schedule) == (0.001, 60, True)
    fresh = continuation(SAVED, {"optimizer.lr": 0.001}, 0, False)
    assert (fresh.new_schedule, fresh.plain["scheduler"]) == (False, SAVED["scheduler"])
    fresh = continuation(SAVED, {"steps": 400}, 0, False)
    assert fresh.plain["scheduler"] == SAVED["scheduler"] | {"T_max": 400}
    for name in ("ConstantLR", "ReduceLROnPlateau"):
        saved = SAVED | {"scheduler": {"_target_": f"torch.optim.lr_scheduler.{name}"}}
        longer = continuation(saved, {"steps": 400}, 100, True)
        assert (longer.new_schedule, longer.plain["scheduler"]) == (False, saved["scheduler"])
        assert continuation(saved, {"steps": 400, "optimizer.lr": 0.5}, 100, True).new_schedule
    skip = continuation(SAVED, {"on_nonfinite": "skip"}, 30, True)
    assert (skip.trains, skip.new_schedule) == (True, False)


@pytest.mark.parametrize(
    ("given", "ended", "why"),
    [
        ({"seed": 2}, False, "seed: its windows would be others"),
        ({"model.encoder": "resnet34"}, False, "model.encoder: its weights are those of its model"),
        ({"optimizer": {"lr": 0.1}}, False, r"optimizer: .*only optimizer\.lr can change"),
        ({"experiment": ABSENT}, False, "experiment: a run goes on with the config that it began with"),
        ({"loss/term": ABSENT, "logger.csv": ABSENT}, False, r"loss/term: .*under its loss; logger\.csv: a run goes on"),
        ({"steps": 50}, True, "steps=50: the run is at step 100; give a larger number"),
        ({"optimizer.lr": 0.1}, True, r"optimizer\.lr=0\.1: all 100 steps are done; give steps=\.\.\. too"),
        ({"seed": 2, "window": 64}, False, "seed: .*; window: .*Begin a new run without resume="),
    ],
)
def test_what_it_cannot_change_says_why(given, ended, why):
    with pytest.raises(InputError, match=why):
        continuation(SAVED, given, 100 if ended else 50, ended)


def test_the_values_of_a_command_line():
    composed = {"steps": 9, "optimizer": {"lr": 0.1}, "logger": {"csv": {}}}
    words = ["resume=a", "trust=[mine]", "hydra.run.dir=b", "optimizer.lr=0.1", "logger=csv", "+loss/term@loss.terms.x=dice"]
    found = {"optimizer.lr": 0.1, "logger": {"csv": {}}, "loss/term": ABSENT, "experiment": ABSENT, "sweep": ABSENT}
    assert overridden(composed, [*words, "experiment=floods", "sweep=losses"]) == found


@pytest.mark.slow
def test_a_finished_run_trains_on(tmp_path, folder_root):
    """With a constant rate it becomes the run that was longer from the beginning."""
    common = [*folder_data(folder_root), "scheduler=constant", "validations=2", "pictures=0", "trainer.log_every_n_steps=1"]
    train(settings(tmp_path, *common, "steps=6"), tmp_path / "long")
    train(settings(tmp_path, *common, "steps=3"), tmp_path / "short")
    words = [f"resume={tmp_path / 'short'}", "steps=6"]
    train(settings(tmp_path, *words), tmp_path / "short", words)
    assert RunFolder(tmp_path / "short").load_state("last")[1] == 6
    for (name, ours), theirs in zip(weights(tmp_path / "short").items(), weights(tmp_path / "long").values(), strict=True):
        assert torch.equal(ours, theirs), name
    assert rows(tmp_path / "short", "train/loss") == rows(tmp_path / "long", "train/loss")
    assert json.loads((tmp_path / "short" / "summary.json").read_text())["steps"] == 6
    origin = json.loads((tmp_path / "short" / "run.json").read_text())
    assert [(entry["step"], entry["overrides"]) for entry in origin["continued"]] == [(3, words)]
    assert train(settings(tmp_path, *words), tmp_path / "short", words) > 0  # finished already


def test_a_new_schedule_stays_where_a_run_is_resumed_twice(tmp_path):
    """It diverged at 230, was resumed with another rate, and diverged at 210 before the next checkpoint."""
    run = RunFolder(tmp_path)
    entries = [{"step": 200, "new_schedule": True}, {"step": 200, "new_schedule": False}]
    run.origin = lambda: {"continued": entries}
    assert begins_anew(run, 200)
    assert begins_anew(run, 150)  # the newest checkpoint is damaged
    assert not begins_anew(run, 201)


def test_more_steps_before_the_first_checkpoint(tmp_path, folder_root, monkeypatch):
    run, common = tmp_path / "run", [*folder_data(folder_root), "validations=1", "pictures=0", "record.enabled=false"]
    with power_cut(step=1):
        train(settings(tmp_path, *common, "scheduler=one_cycle", "steps=4"), run)
    words = [f"resume={run}", "steps=8"]
    train(settings(tmp_path, *words), run, words)
    assert RunFolder(run).load_state("last")[1] == 8
    assert RunFolder(run).config().scheduler.T_max == 8


def test_a_new_cosine_follows(tmp_path, folder_root, monkeypatch):
    run = tmp_path / "run"
    common = [*folder_data(folder_root), "validations=1", "pictures=0", "trainer.log_every_n_steps=1", "record.enabled=false"]
    train(settings(tmp_path, *common, "steps=4"), run)
    words = [f"resume={run}", "steps=8", "optimizer.lr=0.004"]
    with power_cut(step=4):  # what was decided holds where it is resumed once more
        train(settings(tmp_path, *words), run, words)
    train(settings(tmp_path, f"resume={run}"), run, [f"resume={run}"])
    step = np.arange(4)
    cosine = (1 + np.cos(np.pi * step / 4)) / 2
    assert rows(run, "lr-AdamW") == pytest.approx([*(1e-3 * cosine), *(4e-3 * cosine)])
    (run / "summary.json").unlink()
    train(settings(tmp_path, f"resume={run}"), run, [f"resume={run}"])
    assert RunFolder(run).load_state("last")[1] == 8
