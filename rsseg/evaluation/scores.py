"""Scores of runs, alone or as an ensemble, and of finished maps on whole scenes, as ``rsseg evaluate`` computes them."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from rsseg.assembly import make_setup
from rsseg.config.arguments import Folders, as_paths, split_places
from rsseg.config.folder import RunFolder
from rsseg.contract import InputError
from rsseg.data.groups import group_names
from rsseg.dataset import open_split
from rsseg.dataset_source import scenes_version, trained_on
from rsseg.errors import SCORING, in_one_line
from rsseg.evaluation.counts import (
    calibration_rows,
    count_ensemble,
    draw_examples,
    draw_matrices,
    gain_rows,
    gain_sentence,
    print_calibration,
    write_tables,
)
from rsseg.evaluation.labelled import compare_map, labelled_scene, labelled_scenes, open_labelled
from rsseg.evaluation.loading import finished_runs, known_head, load_trained
from rsseg.evaluation.options import EvaluationOptions
from rsseg.files import read_json, write_csv, write_json
from rsseg.inference.ensemble import Ensemble
from rsseg.inference.inputs import open_scene
from rsseg.inference.maps import made_by
from rsseg.inference.options import MapOptions
from rsseg.metrics import Scores
from rsseg.progress import progress
from rsseg.quiet import quiet
from rsseg.setup import Setup
from rsseg.training.scoring import HIDDEN, print_scores, score_split

log = logging.getLogger(__name__)


def evaluate(run: Folders, options: EvaluationOptions | None = None) -> dict[str, Scores]:
    """Score a run's best checkpoint, or those of several runs as an ensemble; print tables, and write them with pictures.

    docs/maps.md names the files. A folder that holds runs stands for its finished ones.

    Returns:
        The scores by head at the point `options.threshold`.

    Raises:
        InputError: If runs or scenes can't be used, scenes have no labels, or the runs can't be averaged.
    """
    options = options or EvaluationOptions()
    quiet()
    folders = finished_runs(as_paths(run))
    setups = [_setup(folder, options) for folder in folders]
    first, setup, heads, several = folders[0], setups[0], list(setups[0].tasks), len(folders) > 1
    out = options.out or _common_folder(folders)
    target = setup.tasks[known_head(options.head, setup.tasks)].target
    if options.scene is not None or options.mask is not None:
        dataset, own_scene = labelled_scene(setup, target, options.scene, options.mask)
        name, scenes = f"scene-{own_scene.name}", [own_scene]
        heads = [each for each in heads if setup.tasks[each].target == target]
    else:
        name = options.split or "val"
        dataset, scenes = setup.dataset, labelled_scenes(setup, name)
        if several and name != "train":
            _refuse_seen(folders, name, [each.name for each in scenes])
    with in_one_line(first.path, setup.batch_size, setup.window, memory=SCORING):
        models = [load_trained(folder, own) for folder, own in zip(folders, setups, strict=True)]
        ensemble = Ensemble(models, options.weights, options.scaling if several else "none", heads=heads)
        if options.threshold == "tuned":
            _check_tuned(ensemble, folders)
        if options.scene is not None:  # warns of another resolution, number type or range, and refuses too few bands
            open_scene(replace(scenes[0], masks=()), models[0].spec, MapOptions(allow_different=True), Path())
        store = open_split(dataset, scenes, name)
        if not store.census.valid.any():
            raise InputError(f"{name} can't be scored: no pixel with data has a label; is the mask the right file?")
        store.fill = np.array(models[0].spec.mean)
        every = count_ensemble(setup, ensemble, store)
    scores = every[0].scores()
    calibrated, gains = calibration_rows(every), gain_rows(every, group_names(store.scenes))
    title = f"{len(models)} runs, scaling={options.scaling}, weights={options.weights}" if several else f"{first}"
    title += f": {name}, best checkpoint{'s' * several}, pooled over whole scenes"
    print_scores(scores["fixed"], title, scores.get("tuned"))
    if calibrated:
        print_calibration(calibrated)
    for row in gains:
        log.info("%s", gain_sentence(row, len(models)))
    if name == "val" and (ensemble.thresholds or any(len(ensemble.kinds(each)) > 1 for each in heads)):
        line = "Thresholds and scalings were fitted on these scenes: threshold.json and scaling.json in %s say what to expect."
        log.info(line, first)
    if options.scene is not None:
        _say_seen(folders, [options.scene], options.trust)
    result = scores.get(options.threshold, scores["fixed"])
    for each, own in result.items():
        means, shown = own.means(), {*own.columns} - {*HIDDEN} | {*own.beside}
        others = [f"{own.metrics[key].label} {means[key]:.4f}" for key in means if key not in shown]
        log.info("Further means%s: %s", f" of {each}" * (len(result) > 1), ", ".join(others))
    left = f"-without-{'-'.join(options.without)}".replace("/", "_") * bool(options.without)
    path = out / f"{'ensemble' if several else 'evaluation'}-{name}{left}.csv"
    paths = {"fixed": path, "tuned": path.with_name(f"{path.stem}-tuned.csv")}
    for point, own_scores in scores.items():
        write_tables(paths[point], own_scores, [each.name for each in store.scenes])
    if calibrated:
        write_csv(path.with_name(f"{path.stem}-calibration.csv"), calibrated)
    if several:
        members = {spec.name: share for spec, share in zip(ensemble.specs, ensemble.shares, strict=True)}
        facts = {"split": name, "weights": options.weights, "scaling": options.scaling, "members": members, "gains": gains}
        write_json(path.with_suffix(".json"), facts)
    draw_matrices(paths[options.threshold], result)
    draw_examples(paths[options.threshold], ensemble, setup, store, options.threshold == "tuned")
    log.info("Tables and pictures: %s", path.with_name(f"{path.stem}*"))
    return result


def _common_folder(folders: Sequence[RunFolder]) -> Path:
    """The folder of a run, or the one that holds all runs of an ensemble."""
    if len(folders) == 1:
        return folders[0].path
    try:
        return Path(os.path.commonpath([folder.path.absolute().parent for folder in folders]))
    except ValueError:
        raise InputError("the runs lie on several drives: name a folder for the tables, out=...") from None


def evaluate_map(run: Path, path: Path, options: EvaluationOptions) -> Scores:
    """Score a finished map against the mask of the options; print the table, and write ``evaluation-map-{map}.csv`` and so on.

    The map has the classes of a head of the run, see `compare_map`; the mask may be in any CRS.
    """
    quiet()
    assert options.mask is not None
    setup = _setup(RunFolder(run), options)
    chosen = known_head(options.head, setup.tasks)
    with in_one_line(run, 1, setup.window, memory=SCORING):
        result = {chosen: compare_map(setup, chosen, path, options.mask)}
    print_scores(result, f"{path} by {options.mask}")
    if files := made_by(path).get("scene"):
        _say_seen([RunFolder(run)], split_places(files), options.trust)
    place = (options.out or run) / f"evaluation-map-{path.stem}.csv"
    write_tables(place, result, [path.stem])
    draw_matrices(place, result)
    log.info("Tables and pictures: %s", place.with_name(f"{place.stem}*"))
    return result[chosen]


def record_splits(runs: Sequence[Path], split: str = "test", trust: Sequence[str] = ()) -> None:
    """Count the best checkpoint of each run on a split that training has not used, for comparisons.

    Writes ``records/test.npz``, which `rsseg.comparison.records.load_records` reads. Errors are those of `evaluate`.
    """
    quiet()
    with progress(runs, f"scoring runs on the {split} split") as steps:
        for run in steps:
            folder = RunFolder(run)
            setup = make_setup(folder.config(), trust)
            with in_one_line(run, setup.batch_size, setup.window, memory=SCORING):
                model, store = open_labelled(folder, setup, split)
                version = scenes_version(run, split, trust)
                score_split(setup, folder, model, store, folder.records / f"{split}.npz", version)


def _setup(folder: RunFolder, options: EvaluationOptions) -> Setup:
    """A run's setup; the options' classes `without`, if given, replace those that its means leave out."""
    config = folder.config()
    if options.without:
        config.metrics.without = list(options.without)
    return make_setup(config, options.trust)


def _refuse_seen(runs: Sequence[RunFolder], split: str, scenes: Sequence[str]) -> None:
    """Refuse to score an ensemble on scenes that a member was trained on."""
    for run in runs:
        trained = set(run.data()["scenes"]["train"])
        seen = [name for name in scenes if name in trained]
        if seen:
            raise InputError(
                f"split={split}: {run} was trained on {len(seen)} of the {len(scenes)} scenes, such as {seen[0]}: the ensemble "
                "would be scored too well; take split=test"
            )


def _say_seen(runs: Sequence[RunFolder], images: Sequence[Path], trust: Sequence[str]) -> None:
    """Warn of scores on images that a run was trained on."""
    for run in runs:
        if seen := trained_on(run.path, images, trust):
            log.warning("%s: scores are too good there; take another image.", seen)


def _check_tuned(ensemble: Ensemble, runs: Sequence[RunFolder]) -> None:
    """Refuse runs without tuned thresholds; log where tuned ones are worse than fixed ones on scenes not used for tuning."""
    labelled = [head for head, task in ensemble.tasks.items() if not task.real]
    for head in labelled or ensemble.tasks:
        ensemble.tuned_threshold(head)
    for run in runs:
        for head, facts in read_json(run.thresholds_file).items():
            if head in labelled and (facts.get("gain") or 0) < 0:
                line = "threshold=tuned lowers IoU of head %s by %.4f on held-out scenes (%s): use threshold=fixed."
                log.warning(line, head, -facts["gain"], run.thresholds_file)
