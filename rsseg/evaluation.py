"""A run loaded again, and scored on whole scenes of a split: what evaluate.py does."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path

from rsseg.assembly import make_module, make_setup
from rsseg.config.folder import RunFolder
from rsseg.contract import InputError, nearest
from rsseg.data.store import Store
from rsseg.data.windows import GridWindows
from rsseg.dataset import TrainStatistics, open_split, scenes_of
from rsseg.distributed import quiet
from rsseg.errors import SCORING, in_one_line
from rsseg.files import UnwritableError, read_json, write_csv
from rsseg.inference.diagnostics import draw_confusion
from rsseg.inference.picture import draw, of_head, pick_windows, predict_windows
from rsseg.metrics import AnyScores, Scores
from rsseg.module import SegmentationModule
from rsseg.setup import Setup
from rsseg.training.scoring import (
    confusion_rows,
    load_checkpoint,
    print_scores,
    scene_rows,
    score,
    score_rows,
    score_split,
)

log = logging.getLogger(__name__)


def load_run(run: RunFolder, setup: Setup, scenes: int = 1, threshold: str = "fixed") -> SegmentationModule:
    """The module of a run with its best weights, in evaluation mode.

    Args:
        run: The run folder.
        setup: Its setup.
        scenes: The number of scenes that will be scored.
        threshold: "fixed": it predicts at 0.5, or the largest logit. "tuned": at what was tuned on the validation scenes.

    Raises:
        InputError: If there are no weights, no thresholds, or `threshold` is neither.
    """
    if threshold not in ("fixed", "tuned"):
        raise InputError(f"threshold={threshold}: fixed (0.5, or the largest logit) or tuned is expected")
    labelled = {head: task for head, task in setup.tasks.items() if not task.real}
    if threshold == "tuned" and not labelled:
        raise InputError(f"threshold=tuned: a {setup.task.kind} task has no tuned threshold; leave it out")
    thresholds = run.thresholds(labelled) if threshold == "tuned" else None
    saved = run.data()
    numbers = TrainStatistics.read(saved, setup.dataset.tasks)
    module = make_module(setup, setup.network(pretrained=False), numbers, scenes)
    load_checkpoint(module, run)
    if thresholds is not None:
        module.tune(thresholds)
        warn_of_lost(run, labelled)
    return module.eval()


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
    run: Path, split: str, threshold: str = "fixed", trust: Sequence[str] = (), without: Sequence[str] = ()
) -> dict[str, AnyScores]:
    """Score a run's best checkpoint on a split; print the table and write tables and pictures into the run folder.

    ``evaluation-{split}.csv`` has a row per class and average, ``-scenes.csv`` one per scene, ``-confusion.csv`` one per cell
    of the confusion matrices; ``-confusion.png`` and ``-picture.png`` show the first head's matrix and some windows, those of
    further heads have the head's name behind that.

    Args:
        run: The run folder.
        split: train, val or test.
        threshold: "fixed": 0.5, or the largest logit. "tuned": what was tuned on the validation scenes (``threshold.json``);
            the files then begin with ``evaluation-{split}-tuned``. In a folder that can't be written to nothing is.
        trust: Packages whose classes the run's config may name.
        without: Classes that are left out of means; empty: those that the run leaves out.

    Raises:
        InputError: If the run or the split can't be used, or the split has no labels.
    """
    quiet()
    folder = RunFolder(run)
    config = folder.config()
    if without:
        config.metrics.without = list(without)
    setup = make_setup(config, trust)
    with in_one_line(run, setup.batch_size, setup.window, memory=SCORING):
        module, store = open_labelled(folder, setup, split, threshold)
        result = score(setup, module, GridWindows(store, setup.window, setup.overlap))
    left = f"-without-{'-'.join(without)}".replace("/", "_") * bool(without)
    path = run / f"evaluation-{split}{'-tuned' * (threshold == 'tuned')}{left}.csv"
    tuned = ", at tuned thresholds" * (threshold == "tuned")
    rows = score_rows(result)
    print_scores(result, f"{run}: {split}, best checkpoint{tuned}, pooled over whole scenes")
    if tuned and split == "val":
        line = "The thresholds were tuned on these scenes: scores are too good; %s has those to expect of others."
        log.warning(line, folder.thresholds_file)
    for head, scores in result.items():
        log.info("%s: %s", head, ", ".join(f"{name} {value:.4f}" for name, value in scores.means().items()))
    try:
        write_csv(path, rows)
        write_csv(path.with_name(f"{path.stem}-scenes.csv"), scene_rows(result, [scene.name for scene in store.scenes]))
        if confusions := confusion_rows(result):
            write_csv(path.with_name(f"{path.stem}-confusion.csv"), confusions)
        confusion, picture = (path.with_name(f"{path.stem}-{what}.png") for what in ("confusion", "picture"))
        for head, scores in result.items():
            if isinstance(scores, Scores):
                draw_confusion(of_head(confusion, head, result), scores)
        if setup.pictures:
            drawn = predict_windows(module, pick_windows(store, setup.window, setup.pictures))
            for head, rows_of in drawn.items():
                draw(of_head(picture, head, drawn), module.tasks[head], setup.palette(head), rows_of, setup.shown_bands)
        log.info("Tables and pictures: %s", path.with_name(f"{path.stem}*"))
    except UnwritableError as error:
        log.warning("%s; the table above is all that there is of it", error)
    return result


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


def open_labelled(run: RunFolder, setup: Setup, split: str, threshold: str = "fixed") -> tuple[SegmentationModule, Store]:
    """A run's module with its best weights, and the scenes of a split.

    Raises:
        InputError: If they can't be used, or some scenes have no labels.
    """
    scenes = scenes_of(setup.source(), setup.dataset, split)
    bare = sum(not any(scene.masks) for scene in scenes)
    if bare:
        raise InputError(
            f"split={split} of dataset {setup.dataset.name} can't be scored: {bare} of its {len(scenes)} scenes "
            "have no labels. Take split=val, or map the scenes with scripts/predict.py"
        )
    module = load_run(run, setup, len(scenes), threshold)  # before any scene is decoded
    store = open_split(setup.dataset, scenes, split, setup.window)
    store.fill = module.mean.numpy().ravel()
    return module, store
