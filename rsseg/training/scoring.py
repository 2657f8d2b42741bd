"""Scoring of a run's checkpoints on whole scenes, in one process."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from rsseg.checkpoints import fill
from rsseg.comparison.records import POINTS, write_arrays
from rsseg.config.folder import RunFolder
from rsseg.config.schema import Cache
from rsseg.console import print_table
from rsseg.contract import Batch, InputError, counted
from rsseg.data.store import Store, load_scenes
from rsseg.data.windows import Batches, GridWindows, Loader, StoreWindows, thread_count
from rsseg.devices import choose_precision, scoring_accelerator
from rsseg.inference.trained import TrainedModel
from rsseg.metrics import Scores
from rsseg.metrics.scores import overlap
from rsseg.module import SegmentationModule
from rsseg.progress import progress
from rsseg.setup import Setup
from rsseg.training.counting import SceneCounter
from rsseg.training.crossing import Count, Crossing, keep_tuned
from rsseg.training.recorder import HALVES, Recorder, labelled_tasks, recorded_split

log = logging.getLogger(__name__)

HIDDEN = ("average", "f0.5", "f2", "balanced_accuracy", "kappa", "boundary_iou")
"""The columns of scores that are not printed, so that the others fit into a terminal."""


def load_checkpoint(module: SegmentationModule, run: RunFolder, name: str = "best") -> int:
    """Load the weights of a run's checkpoint into a module, and return the step at which it was saved."""
    weights, step = run.load_state(name)
    fill(module, weights, f"checkpoints/{name}.ckpt of {run}")
    return step


def predict_scenes(
    setup: Setup, models: Sequence[SegmentationModule | TrainedModel], windows: GridWindows
) -> Iterator[tuple[list[dict[str, Tensor]], Batch]]:
    """Predict windows of whole scenes in this process: per batch, each model's logits ``[B, K, H, W]`` by head, and the batch.

    The device and the precision are those of `scoring_trainer`; models are put into evaluation mode.
    """
    trainer = scoring_trainer(setup)
    device, precision = trainer.strategy.root_device, trainer.precision_plugin
    cache_scenes(setup, [windows.store], trainer)
    for model in models:
        precision.convert_module(model.to(device)).eval()
    batches: Any = feed(setup, windows, Batches(len(windows), setup.batch_size))
    with progress(batches, "scoring batches of windows") as steps:
        for given in steps:
            batch: Any = {key: value if key == "k" else value.to(device) for key, value in given.items()}
            with torch.inference_mode(), precision.forward_context():
                found = [model.logits(batch["image"]) for model in models]
            yield found, batch


def scoring_trainer(setup: Setup) -> L.Trainer:
    """A trainer with the run's precision on the run's accelerator, or on the available one if that is missing."""
    settings, accelerator = setup.plain["trainer"], scoring_accelerator(setup.accelerator)
    devices = settings.get("devices", 1)
    return L.Trainer(
        accelerator=accelerator,
        devices=devices[:1] if isinstance(devices, list) and accelerator != "cpu" else 1,
        precision=choose_precision(settings.get("precision", "auto"), accelerator),
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )


def score(
    setup: Setup, model: SegmentationModule | TrainedModel, windows: GridWindows, counters: Sequence[Count] = ()
) -> dict[str, Scores]:
    """Score whole scenes by head, and pass the logits of every batch to the `counters`."""
    heads = {  # the model's tasks have the mean and deviation of real values, which the setup's lack
        name: SceneCounter(task, windows.store.sizes, scalings=(), without=setup.without_of(name))
        for name, task in model.tasks.items()
    }
    for (outputs,), batch in predict_scenes(setup, [model], windows):
        for name, counter in heads.items():
            counter.update(outputs[name], batch)
        for count in counters:
            count(outputs, batch)
    return {name: counter.scores("fixed") for name, counter in heads.items()}


def score_best(
    setup: Setup, run: RunFolder, module: SegmentationModule, store: Store, recorder: Recorder | None, step: int
) -> dict[str, Scores]:
    """The scores by head of a run's best checkpoint; the module keeps its weights.

    For a recorded run, this also counts each half of the scenes with the checkpoint that the other half chose, tunes thresholds
    and fits scalings: ``records/crossed.npz``, ``threshold.json`` and ``scaling.json``.
    """
    result, best = dict(module.scores), load_checkpoint(module, run)
    tuning = ", and tuning thresholds" * bool(recorder and labelled_tasks(setup))
    log.info("Scoring %s by the best checkpoint%s.", counted(len(store), "validation scene"), tuning)
    windows = GridWindows(store, setup.window, setup.margin)
    scored = best == step and bool(result)  # by the last validation
    if not recorder:
        return result if scored else score(setup, module, windows)
    crossing = Crossing(setup, run, store, recorder, best)
    if recorder.kept:
        count = crossing.counter(step, windows.cells)
        for outputs, batch in recorder.kept:
            count(outputs, batch)
    if not scored:
        recorder.forget()
        result = score(setup, module, windows, [recorder.gather, crossing.counter(best, windows.cells)])
    samples = {name: recorder.sample(name) for name in labelled_tasks(setup)}
    held = best
    for name, at in zip(("best", *HALVES), (best, *crossing.steps), strict=True):
        if len(crossing.scenes(at)):
            if at != held:
                held = load_checkpoint(module, run, name)
            own = GridWindows(store, setup.window, setup.margin, crossing.scenes(at))
            count = crossing.counter(at, own.cells)
            for (outputs,), batch in predict_scenes(setup, [module], own):
                count(outputs, batch)
    if held != best:
        load_checkpoint(module, run)
    crossed = crossing.write()
    keep_tuned(run, module.tasks, samples, best, recorder, crossed)
    recorder.remove_samples()
    for name in HALVES:
        (run.checkpoints / f"{name}.ckpt").unlink(missing_ok=True)
    (run.records / "test.npz").unlink(missing_ok=True)  # outdated if the run was resumed
    return {
        head: replace(scores, beside={"boundary_iou": overlap(crossed[head]["counts"][-1].sum(0))})
        if not scores.task.real
        else scores
        for head, scores in result.items()
    }


def score_split(setup: Setup, run: RunFolder, model: TrainedModel, store: Store, path: Path, version: str) -> None:
    """Count a run's best checkpoint on other scenes for comparisons, and write the counts to `path` in the run's records.

    The points tuned for IoU and for Dice both use the thresholds of ``threshold.json``. `version` is the hash of the scenes
    from `rsseg.dataset_source.scenes_version`.
    """
    heads, untuned = dict[str, SceneCounter](), dict[str, str]()
    for name, task in model.tasks.items():
        thresholds = {}
        if not task.real:
            with suppress(InputError):  # a diverged run has no thresholds
                thresholds["iou"] = run.thresholds({name: task})[name]
        heads[name] = SceneCounter(task, store.sizes, thresholds)
        untuned[name] = "" if thresholds or task.real else "the run has no tuned thresholds"
    windows = GridWindows(store, setup.window, setup.margin)
    for (outputs,), batch in predict_scenes(setup, [model], windows):
        for name, counter in heads.items():
            counter.update(outputs[name], batch, () if counter.task.real else windows.cells)
    split, step = recorded_split(store), run.load_state()[1]
    arrays: dict[str, Any] = {"scenes": np.array(split.scenes), "groups": np.array(split.groups), "version": np.array(version)}
    for name, counter in heads.items():
        own = counter.arrays()
        own["counts"][POINTS.index("dice")] = own["counts"][POINTS.index("iou")]
        own |= {"steps": np.array([step, step]), "untuned": np.array(untuned[name])}
        arrays |= {f"{name}/{key}": value for key, value in own.items()}
    write_arrays(path, arrays)


def score_rows(
    result: Mapping[str, Scores], table: Callable[[Scores], list[dict[str, Any]]] = Scores.table
) -> list[dict[str, Any]]:
    """The rows of all heads from a table of scores, by default of classes, followed by averages without a class."""
    return [{"head": head, **row} for head, scores in result.items() for row in table(scores)]


def name_means(rows: Sequence[Mapping[str, Any]], several: bool) -> list[dict[str, Any]]:
    """Rows of `score_rows` for printing: with head names if there are `several`, and a word for the usual mean.

    Files lack this word, since a class may have the same name. The mean is left out for a head with one class.
    ``in scenes`` is the number of scored scenes that hold the class.
    """
    hidden = HIDDEN if several else (*HIDDEN, "head")
    classes = Counter(row["head"] for row in rows if row["class"])
    shown = [row for row in rows if not row["average"] or (row["average"] == "macro" and classes[row["head"]] != 1)]
    return [
        {_shown_as(key, row): value for key, value in row.items() if key not in hidden} | {"class": row["class"] or "mean"}
        for row in shown
    ]


def _shown_as(key: str, row: Mapping[str, Any]) -> str:
    """The printed name of a column."""
    return {"scenes": "in scenes", "pixels": "objects" if "ap50" in row else "pixels"}.get(key, key)


TUNED = ("iou", "dice", "precision", "recall")  # the scores at tuned thresholds that are printed beside those at fixed ones


def print_scores(result: Mapping[str, Scores], title: str, tuned: Mapping[str, Scores] | None = None) -> None:
    """Print scores by head under a title, one table for heads with the same scores, with `tuned` scores beside fixed ones.

    Where no tuned score differs, a line says so instead of columns.
    """
    alike: dict[str, dict[str, Scores]] = {}
    for head, scores in result.items():
        alike.setdefault(scores.task.counted, {})[head] = scores
    several = len(result) > 1
    for heads in alike.values():
        rows = name_means(score_rows(heads), several)
        labelled = [scores.task for scores in heads.values() if not scores.task.real]
        others = {head: tuned[head] for head in heads} if tuned and labelled else {}
        differ = any(not np.array_equal(own.counts, heads[head].counts, equal_nan=True) for head, own in others.items())
        if differ:
            beside = name_means(score_rows(others), several)
            rows = [_side_by_side(*pair) for pair in zip(rows, beside, strict=True)]
        print_table(rows, title)
        if others and not differ:
            log.info("At tuned %s the scores are the same: no label changes.", labelled[0].all_tuned)


def _side_by_side(fixed: Mapping[str, Any], tuned: Mapping[str, Any]) -> dict[str, Any]:
    """The row of fixed scores, with the scores in `TUNED` of the other row beside them."""
    found: dict[str, Any] = {}
    for name, value in fixed.items():
        found |= {name: value} | ({f"{name}\ntuned": tuned[name]} if name in TUNED else {})
    return found


def cache_scenes(setup: Setup, stores: list[Store], trainer: L.Trainer) -> None:
    """Load scenes into the memory that the setting `cache` names."""
    for store in stores:
        store.pin = trainer.strategy.root_device.type == "cuda"
    if setup.cache is not Cache.disk:
        load_scenes(stores, trainer.strategy.root_device if setup.cache is Cache.gpu else None)


def feed(setup: Setup, windows: StoreWindows, batches: Batches, world: int = 1) -> Loader:
    """A loader of batches: threads cut windows ahead, or windows are cut on the device if the scenes are there."""
    return Loader(windows, batches, 0 if setup.cache is Cache.gpu else thread_count(setup.workers, world))
