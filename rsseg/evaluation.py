"""Runs loaded again and scored on whole scenes, one by itself or several as an ensemble: what evaluate.py does."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from rsseg.assembly import make_module, make_setup, scaled
from rsseg.compare.runs import find_runs
from rsseg.config.folder import RunFolder
from rsseg.contract import InputError, nearest
from rsseg.data.store import Store
from rsseg.dataset import TrainStatistics, open_split
from rsseg.errors import SCORING, in_one_line
from rsseg.evaluated import at_point, count_ensemble, draw_examples, draw_matrices, say_limits, write_tables
from rsseg.files import UnwritableError, read_json, write_json
from rsseg.inference.ensemble import Ensemble, check_alike
from rsseg.inference.trained import Head, Spec, TrainedModel
from rsseg.labelled import compare_map, labelled_scene, labelled_scenes
from rsseg.metrics import AnyScores
from rsseg.module import SegmentationModule
from rsseg.quiet import quiet
from rsseg.setup import Setup
from rsseg.task import Task
from rsseg.training.scoring import load_checkpoint, load_weights, print_scores, score_split

log = logging.getLogger(__name__)


def load_run(run: RunFolder, setup: Setup, scenes: int = 1) -> SegmentationModule:
    """The module of a run with its best weights, in evaluation mode.

    Args:
        run: The run folder.
        setup: Its setup.
        scenes: The number of scenes that will be scored.

    Raises:
        InputError: If there are no weights, or they can't be read.
    """
    numbers = TrainStatistics.read(run.data(), setup.dataset.tasks)
    module = make_module(setup, setup.network(pretrained=False), numbers, scenes)
    load_checkpoint(module, run)
    return module.eval()


def load_trained(run: RunFolder, setup: Setup, scaling: str = "none") -> TrainedModel:
    """The network of a run with its best weights, ready for any scene.

    Args:
        run: The run folder.
        setup: Its setup.
        scaling: As for `TrainedModel`.

    Raises:
        InputError: If there are no weights, or they can't be read.
    """
    saved, weights = run.data(), run.load_state()[0]
    network, numbers = setup.network(pretrained=False), TrainStatistics.read(saved, setup.dataset.tasks)
    load_weights(network, {key.removeprefix("network."): w for key, w in weights.items() if key.startswith("network.")}, run)
    summary = run.summary() if run.finished else {}
    heads = {}
    for name, task in setup.tasks.items():
        try:
            threshold = None if task.real else tuple(run.thresholds({name: task})[name].tolist())
        except InputError:  # a run that is not finished, or was not recorded
            threshold = None
        palette = setup.palette(name)
        heads[name] = Head(
            scaled(task, numbers), None if palette is None else tuple(palette), threshold, run.scalings(name, task.channels)
        )
    spec = Spec(
        name=str(run),
        heads=heads,
        bands=tuple(setup.dataset.read_bands),
        mean=tuple(numbers.mean),
        std=tuple(numbers.std),
        window=setup.window,
        overlap=setup.overlap,
        batch_size=setup.batch_size,
        dtype=saved.get("dtype", ""),
        resolution=saved.get("resolution"),
        quality=setup.task.quality(summary) if setup.task.score in summary else None,
        rgb=setup.dataset.rgb,
        nodata=setup.dataset.nodata,
        precision=str(setup.plain["trainer"].get("precision", "auto")),
        image=setup.image_patterns,
    )
    return TrainedModel(network, spec, scaling)


def warn_of_lost(run: RunFolder, heads: Collection[str]) -> None:
    """Log where the tuned thresholds of heads are worse than the usual ones on scenes that they were not tuned on."""
    for head, facts in read_json(run.thresholds_file).items():
        if head in heads and (facts.get("gain") or 0) < 0:
            line = "threshold=tuned lowers IoU of head %s by %.4f on held-out scenes (%s): use threshold=fixed."
            log.warning(line, head, -facts["gain"], run.thresholds_file)


def known_head(name: str, heads: Collection[str]) -> str:
    """A head by its name, or the first for no name.

    Raises:
        InputError: If there is no such head.
    """
    if name and name not in heads:
        raise InputError(f"head={name}{nearest(name, heads)}: the run has {', '.join(heads)}")
    return name or next(iter(heads))


def evaluate(
    run: Path | Sequence[Path],
    split: str = "val",
    threshold: str = "fixed",
    trust: Sequence[str] = (),
    without: Sequence[str] = (),
    *,
    weights: str = "equal",
    scaling: str = "temperature",
    out: Path | None = None,
    scene: Path | None = None,
    mask: Path | None = None,
    head: str = "",
) -> dict[str, AnyScores]:
    """Score a run's best checkpoint, or several runs' as an ensemble; print the tables and write them with pictures.

    ``evaluation-{split}.csv`` has a row per class and average, ``-scenes.csv`` one per scene, ``-confusion.csv`` one per cell
    of the confusion matrices, ``-calibration.csv`` one per head and scaling of logits. Tables at tuned thresholds begin with
    ``evaluation-{split}-tuned``. ``-confusion.png`` and ``-picture.png`` show the first head's matrix and some windows, those
    of further heads have the head's name behind that. Those of an ensemble begin with ``ensemble-{split}``, and
    ``ensemble-{split}.json`` has its members and what it gains. In a folder that can't be written to nothing is.

    Args:
        run: The run folder, or several; a folder that holds runs stands for its finished ones.
        split: train, val or test.
        threshold: What is returned and drawn. "fixed": 0.5, or the largest logit. "tuned": what was tuned on the validation
            scenes (``threshold.json``).
        trust: Packages whose classes the run's config may name.
        without: Classes that are left out of means; empty: those that the run leaves out.
        weights: How members of an ensemble are weighted, see `rsseg.inference.ensemble.member_shares`.
        scaling: The scaling of their probabilities before they are averaged: none, temperature or vector.
        out: The folder of the tables; None: the run's, of an ensemble the one that holds the runs.
        scene: An image with labels from elsewhere, which is scored instead of a split.
        mask: Its mask.
        head: The head that such a mask is for; empty: the first. With a split all are scored.

    Raises:
        InputError: If runs or scenes can't be used, have no labels, or runs do not go together.
    """
    quiet()
    if threshold not in ("fixed", "tuned"):
        raise InputError(f"threshold={threshold}: fixed (0.5, or the largest logit) or tuned is expected")
    folders = run_folders([run] if isinstance(run, Path) else run)
    setups = [_setup(folder, trust, without) for folder in folders]
    first, setup, heads = folders[0], setups[0], None
    if scene is not None or mask is not None:
        target = setup.tasks[known_head(head, setup.tasks)].target
        dataset, own_scene = labelled_scene(setup, target, scene, mask)
        name, scenes = f"scene-{own_scene.name}", [own_scene]
        heads = [each for each, task in setup.tasks.items() if task.target == target]
    else:
        name, dataset, scenes = split, setup.dataset, labelled_scenes(setup, split)
        if len(folders) > 1 and split != "train":
            refuse_seen(folders, split, [each.name for each in scenes])
    if threshold == "tuned":
        for folder, own in zip(folders, setups, strict=True):
            labelled = known_thresholds(own)
            folder.thresholds(labelled)
            warn_of_lost(folder, labelled)
    with in_one_line(first.path, setup.batch_size, setup.window, memory=SCORING):
        models = [load_trained(folder, own) for folder, own in zip(folders, setups, strict=True)]
        check_alike(models)
        ensemble = Ensemble(models, weights, scaling, heads)
        store = open_split(dataset, scenes, name, setup.window)
        store.fill = np.array(models[0].spec.mean)
        found = count_ensemble(setup, ensemble, store)
    title = f"{first}" if len(models) == 1 else f"{len(models)} runs, scaling={ensemble.scaling}, weights={weights}"
    found.show(f"{title}: {name}, best checkpoint{'s' * (len(models) > 1)}, pooled over whole scenes")
    say_limits(folders, found, name)
    result = found.scores(threshold)
    for each, scores in result.items():
        log.info("%s: %s", each, ", ".join(f"{key} {value:.4f}" for key, value in scores.means().items()))
    left = f"-without-{'-'.join(without)}".replace("/", "_") * bool(without)
    if len(models) == 1:
        path = (out or first.path) / f"evaluation-{name}{left}.csv"
    else:
        beside = Path(os.path.commonpath([folder.path.absolute().parent for folder in folders]))
        path = (out or beside) / f"ensemble-{name}{left}.csv"
    try:
        found.write(path)
        if len(models) > 1:
            write_json(path.with_suffix(".json"), {"split": name, "weights": weights, **found.facts()})
        shown = at_point(path, threshold)
        draw_matrices(shown, result)
        draw_examples(shown, ensemble, setup, store, ensemble.thresholds if threshold == "tuned" else {})
        log.info("Tables and pictures: %s", path.with_name(f"{path.stem}*"))
    except UnwritableError as error:
        log.warning("%s; the table above is all that there is of it", error)
    return result


def evaluate_map(
    run: Path,
    path: Path,
    mask: Path,
    trust: Sequence[str] = (),
    without: Sequence[str] = (),
    head: str = "",
    out: Path | None = None,
) -> AnyScores:
    """Score a finished map by a mask from elsewhere; print the table, and write ``evaluation-map-{map}.csv`` and its like.

    Args:
        run: A run whose classes the map has.
        path: The map, see `rsseg.labelled.compare_map`.
        mask: The mask, in any CRS.
        trust: As for `evaluate`.
        without: As for `evaluate`.
        head: The head that the map is of; empty: the first.
        out: The folder of the tables; None: the run's.

    Raises:
        InputError: If a file can't be used.
    """
    quiet()
    folder = RunFolder(run)
    setup = _setup(folder, trust, without)
    chosen = known_head(head, setup.tasks)
    with in_one_line(run, 1, setup.window, memory=SCORING):
        result = {chosen: compare_map(setup, chosen, path, mask)}
    print_scores(result, f"{path} by {mask}")
    place = (out or run) / f"evaluation-map-{path.stem}.csv"
    try:
        write_tables(place, result, [path.stem])
        draw_matrices(place, result)
        log.info("Tables and pictures: %s", place.with_name(f"{place.stem}*"))
    except UnwritableError as error:
        log.warning("%s; the table above is all that there is of it", error)
    return result[chosen]


def run_folders(places: Sequence[Path]) -> list[RunFolder]:
    """The runs that folders stand for: a run for itself, a folder that holds runs for those that are finished.

    Raises:
        InputError: If none of them is.
    """
    found: dict[Path, RunFolder] = {}
    for place in places:
        runs = [] if RunFolder(place).begun or not place.is_dir() else [RunFolder(path) for path in find_runs([place])]
        finished = [run for run in runs if run.finished and "diverged" not in run.summary()]
        if runs and not finished:
            raise InputError(f"run={place}: none of its {len(runs)} runs is finished; train them first")
        if len(finished) < len(runs):
            line = "%d of %d runs in %s are left out: they are not finished, or have diverged."
            log.info(line, len(runs) - len(finished), len(runs), place)
        found |= {run.path.absolute(): run for run in finished or [RunFolder(place)]}
    return list(found.values())


def refuse_seen(runs: Sequence[RunFolder], split: str, scenes: Sequence[str]) -> None:
    """Refuse to score an ensemble on scenes that a member was trained on.

    Raises:
        InputError: If one was.
    """
    for run in runs:
        trained = run.data()["scenes"]["train"]
        seen = [name for name in scenes if name in set(trained)]
        if seen:
            raise InputError(
                f"split={split}: {run} was trained on {len(seen)} of the {len(scenes)} scenes, such as {seen[0]}: the ensemble "
                "would be scored too well; take split=test"
            )


def known_thresholds(setup: Setup) -> dict[str, Task]:
    """The heads of a run that have tuned thresholds.

    Raises:
        InputError: If none can have.
    """
    labelled = {head: task for head, task in setup.tasks.items() if not task.real}
    if not labelled:
        raise InputError(f"threshold=tuned: a {setup.task.kind} task has no tuned threshold; leave it out")
    return labelled


def _setup(folder: RunFolder, trust: Sequence[str], without: Sequence[str]) -> Setup:
    """A run's setup, with other classes left out of means if any are given."""
    config = folder.config()
    if without:
        config.metrics.without = list(without)
    return make_setup(config, trust)


def record_split(run: Path, split: str = "test", trust: Sequence[str] = ()) -> Path:
    """Count a run's best checkpoint on the scenes of a split for comparisons, unless that has been done.

    Args:
        run: The run folder.
        split: A split that training has not seen.
        trust: As for `evaluate`.

    Returns:
        ``records/test.npz``, which `rsseg.compare.records.load_records` reads.

    Raises:
        InputError: As for `evaluate`.
    """
    quiet()
    folder = RunFolder(run)
    path = folder.records / f"{split}.npz"
    if not path.is_file():
        setup = make_setup(folder.config(), trust)
        with in_one_line(run, setup.batch_size, setup.window, memory=SCORING):
            module, store = open_labelled(folder, setup, split)
            score_split(setup, folder, module, store, path)
    return path


def open_labelled(run: RunFolder, setup: Setup, split: str) -> tuple[SegmentationModule, Store]:
    """A run's module with its best weights, and the scenes of a split.

    Raises:
        InputError: If they can't be used, or some scenes have no labels.
    """
    scenes = labelled_scenes(setup, split)
    module = load_run(run, setup, len(scenes))  # before any scene is decoded
    store = open_split(setup.dataset, scenes, split, setup.window)
    store.fill = module.mean.numpy().ravel()
    return module, store
