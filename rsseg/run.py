"""train, evaluate, predict and describe: the one way in for every entry point."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from omegaconf import OmegaConf

from rsseg.assembly import (
    check_machine,
    fit_augmentations,
    make_module,
    make_setup,
    warn_of_uncounted,
)
from rsseg.config.build import plain
from rsseg.config.folder import RunFolder
from rsseg.config.provenance import Chosen, provenance
from rsseg.config.schema import Config
from rsseg.contract import InputError, nearest
from rsseg.data.census import describe_other_radiometry
from rsseg.data.inspection import compare_scenes
from rsseg.data.scene import Scene, SceneReader, Source
from rsseg.data.store import Store
from rsseg.data.windows import GridWindows
from rsseg.dataset import Data, Numbers, open_data, open_split, open_test, scenes_of
from rsseg.describe.noise import write_noise
from rsseg.describe.report import write_description
from rsseg.distributed import is_main
from rsseg.errors import SCORING, in_one_line
from rsseg.files import UnwritableError, read_json, write_csv, write_json
from rsseg.inference.diagnostics import draw_confusion
from rsseg.inference.objects import check_out, predict_objects
from rsseg.inference.picture import draw, of_head, pick_windows, predict_windows
from rsseg.inference.scene import predict_scene
from rsseg.metrics import AnyScores, Scores
from rsseg.metrics.objects import SCORE
from rsseg.models import freeze_idle
from rsseg.module import SegmentationModule
from rsseg.setup import Setup
from rsseg.task import Centres, Task
from rsseg.training.divergence import DivergedError
from rsseg.training.resume import continuation, last_state, overridden, write_down
from rsseg.training.scoring import (
    confusion_rows,
    load_checkpoint,
    print_scores,
    scene_rows,
    score,
    score_best,
    score_rows,
    score_split,
    scoring_trainer,
)
from rsseg.training.signals import Interrupts
from rsseg.training.trainer import fit, make_loop, write_scores, write_summary

log = logging.getLogger(__name__)


def train(
    config: Any,
    folder: Path,
    overrides: list[str] | None = None,
    loss: str = "",
    of_heads: Mapping[str, str] | None = None,
) -> float:
    """Train one model, or go on with a run that was begun, or say what a finished one gave.

    Args:
        config: The composed config.
        folder: The run folder.
        overrides: The command line's overrides, for the record.
        loss: The name of the chosen loss, for the record.
        of_heads: By head, the name of the loss that was chosen for it alone, for the record.

    Returns:
        The first head's best validation IoU; of a regression the RMSE, with a minus, so that more is better.

    Raises:
        InputError: For anything in config or data that can't be used.
    """
    quiet()
    run = RunFolder(Path(config.resume) if config.resume else folder)
    if config.resume and not run.begun:
        raise InputError(f"resume={run}: there is no run in that folder (no config.yaml)")
    with Interrupts(run) as interrupts, run.lock() if is_main() else nullcontext():
        try:
            return _train(config, run, Chosen(overrides or [], loss, of_heads or {}), interrupts)
        except UnwritableError as error:
            raise UnwritableError(f"{error}{f', and go on with {run.resume_word}' * run.begun}") from None


def _train(config: Any, run: RunFolder, chosen: Chosen, interrupts: Interrupts) -> float:
    given = overridden(plain(config), chosen.overrides) if config.resume else {}
    last, step = last_state(run) if given or not run.finished else (None, 0)
    going = continuation(plain(run.config()), given, step, run.finished) if config.resume else None
    whole: Any = OmegaConf.merge(OmegaConf.structured(Config), going.plain) if going else config
    setup = make_setup(whole, list(config.trust))
    check_machine(setup)
    if going is None:
        run.refuse_other(setup.plain)
    if run.finished and not (going and going.trains):
        return _finished(run, setup.task)
    if going and going.changed and is_main():
        write_down(run, going, chosen.overrides, step)
        if going.line:
            log.info("%s", going.line)
    with in_one_line(run.path, setup.batch_size, setup.window):
        setup, module, data = _open(setup)
        _write_start(setup, run, data, chosen, last is not None)
    with in_one_line(run.path, setup.batch_size, setup.window, f"then go on with {run.resume_word}"):
        with closing(make_loop(setup, run, module, data, step, interrupts)) as loop:
            fit(loop, last)
            if not is_main():  # a process that another program started: the first one writes
                return module.quality(setup.head)
            result = score_best(setup, run, module, data.stores["val"], loop.recorder, loop.trainer.global_step)
            write_scores(loop, result)
        write_summary(loop, result)
    return setup.task.quality(result[setup.head].means())


def _open(setup: Setup) -> tuple[Setup, SegmentationModule, Data]:
    """The setup with the bands of its data, the module, and the data."""
    torch.set_float32_matmul_precision("high")
    L.seed_everything(setup.seed, workers=True, verbose=False)
    setup, source = _with_bands(setup)
    if setup.dataset.rgb and setup.shown_bands is None:
        rgb, bands = list(setup.dataset.rgb), setup.dataset.read_bands
        log.info("dataset.rgb=%s is not among dataset.bands=%s: pictures show the first bands.", rgb, bands)
    network = setup.network()
    freeze_idle(network, len(setup.dataset.read_bands), setup.window)
    data = open_data(setup.dataset, source, setup.window)
    warn_of_uncounted(setup, data.numbers)
    module = make_module(setup, network, data.numbers, len(data.stores["val"]))
    fit_augmentations(module, data)
    return setup, module, data


def _with_bands(setup: Setup) -> tuple[Setup, Source]:
    """The setup with the bands of its data, and the source."""
    source = setup.source()
    if setup.dataset.bands is None:
        setup = setup.with_bands(scenes_of(source, setup.dataset, "train")[0].all_bands())
    return setup, source


def _write_start(setup: Setup, run: RunFolder, data: Data, chosen: Chosen, resumed: bool) -> None:
    """Write what the run is made of.

    Raises:
        InputError: If a run that goes on had other data.
    """
    record = data.record()
    if resumed:
        before = run.data()
        if len(before.get("pixels", {}).get("train", "")) < len(record["pixels"]["train"]):
            before.pop("pixels", None)  # a hash of an earlier version, which knew less of the pixels
        changed = {"fingerprint": "other scenes or labels", "pixels": "other pixels or labels"}
        found = [what for key, what in changed.items() if before.get(key, record[key]) != record[key]]
        if found:
            raise InputError(f"the data have changed since {run} was begun ({found[0]}): start a new run")
    if is_main():
        if not run.run_file.is_file():
            run.write_config(setup.plain)
            write_json(run.run_file, provenance(chosen) | {"seed": setup.seed})
        write_json(run.data_file, record)


def _finished(run: RunFolder, task: Task) -> float:
    """What a finished run gave.

    Raises:
        DivergedError: If it has diverged.
    """
    summary = run.summary()
    if "diverged" in summary:
        facts = summary["diverged"]
        raise DivergedError(
            f"{run}: diverged at step {facts['step']}; not run again. Go on with {run.resume_word} and a lower "
            "optimizer.lr=..., or on_nonfinite=skip, or remove the folder",
            facts,
        )
    log.info("%s: finished already, %s %.4f; not run again.", run, task.score_name, summary[task.score])
    return task.quality(summary)


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
    numbers = Numbers.read(saved, setup.dataset.tasks)
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
            line = "threshold=tuned: head %s has lost %.4f IoU on scenes that nothing was tuned on (%s): leave it out."
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
        module, store = _open_labelled(folder, setup, split, threshold)
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
            module, store = _open_labelled(folder, setup, split)
            score_split(setup, folder, module, store, path)
    return path


def _open_labelled(run: RunFolder, setup: Setup, split: str, threshold: str = "fixed") -> tuple[SegmentationModule, Store]:
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


def predict(
    run: Path,
    scene: Path,
    out: Path | None = None,
    threshold: str = "fixed",
    trust: Sequence[str] = (),
    head: str = "",
) -> Path:
    """Map a scene, or find its objects, with a run's best checkpoint.

    Args:
        run: The run folder.
        scene: An image with the run's bands.
        out: The GeoTIFF to write, or GeoPackage or GeoJSON of objects; None: ``maps/<scene>`` in the run folder.
        threshold: As for `evaluate`.
        trust: As for `evaluate`.
        head: The head whose map it is; empty: the first.

    Returns:
        The file.

    Raises:
        InputError: If run or scene can't be used, or the map can't be written.
    """
    quiet()
    if not scene.is_file():
        raise InputError(f"scene={scene}: there is no such file")
    folder = RunFolder(run)
    setup = make_setup(folder.config(), trust)
    chosen = known_head(head, setup.tasks)
    objects = isinstance(setup.tasks[chosen], Centres)
    suffix = f"{f'-{head}' * bool(head)}{'.gpkg' if objects else '.tif'}"
    out = out or run / "maps" / f"{scene.stem}{suffix}"
    if objects:
        check_out(out)
    if out.resolve() == scene.resolve():
        raise InputError(f"out={out} would overwrite the scene: choose another name")
    bands = setup.dataset.read_bands
    found = sum(Scene(scene.stem, scene).counts())
    if max(bands) > found:
        raise InputError(
            f"{scene} has {found} bands, but {run} was trained on the bands {bands} of its scenes: give one file that holds "
            "them all (for scenes of several files: a stack of these, in their order)"
        )
    reader = SceneReader(Scene(scene.stem, scene, nodata=setup.dataset.nodata), setup.dataset.decoders, bands)
    compare_scenes([reader.scene], [reader.facts], bands)
    with in_one_line(out.parent, setup.batch_size, setup.window, memory=SCORING):
        module = load_run(folder, setup, threshold=threshold)
        reader.fill = module.mean.numpy().ravel()
        if line := other_radiometry(folder.data(), reader):
            log.warning("%s", line)
        trainer = scoring_trainer(setup)  # its device and precision are those of scores
        trainer.precision_plugin.convert_module(module.to(trainer.strategy.root_device))
        facts = module, chosen, reader, out, setup.window, setup.overlap, setup.batch_size
        with trainer.precision_plugin.forward_context():
            if objects:
                log.info("%d objects of score %g and more", predict_objects(*facts), SCORE)
            else:
                predict_scene(*facts, setup.palette(chosen))
    log.info("%s: %s", "Objects" if objects else "Map", out)
    return out


def other_radiometry(data: Mapping[str, Any], reader: SceneReader) -> str:
    """One line where a scene's pixels seem to be of another number type or range than those that a run trained on.

    Args:
        data: The run's ``data.json``.
        reader: A reader of the scene; a square in its middle is looked at.
    """
    height, width = reader.size
    side = min(height, width, 1024)
    image, missing = reader.read_image((height - side) // 2, (width - side) // 2, side)
    if missing.all():
        return ""
    mean, std, found = np.array(data["mean"]), np.array(data["std"]), image[:, ~missing].mean(axis=1)
    scene = reader.scene.image.name
    return describe_other_radiometry(mean, std, data.get("dtype", ""), found, str(reader.dtype), scene)


def describe(config: Any, out: Path | None = None, overrides: list[str] | None = None) -> Path:
    """Describe the splits of a dataset: print it, and write numbers and a picture.

    Further targets are described after the first, in folders of their own below.

    Args:
        config: The composed config, as for `train`.
        out: Where to write; ``<output>/describe/<dataset>`` if None.
        overrides: The command line's overrides, for the sweep that is recommended.

    Raises:
        InputError: For anything in config or data that can't be used.
    """
    quiet()
    setup, source = _with_bands(make_setup(config, config.trust))
    data = open_data(setup.dataset, source, setup.window)
    test = open_test(setup.dataset, source, setup.window, data)
    stores = data.stores if test is None else {**data.stores, "test": test}
    out = out or setup.output / "describe" / setup.dataset.name
    first, *further = setup.dataset.tasks
    for target, folder in {first: out, **{name: out / name for name in further}}.items():
        if further:
            log.info("\nTarget %s", target)
        write_description(setup, {split: store.seen_by(target) for split, store in stores.items()}, folder, overrides or [])
    return out


def describe_noise(run: Path, split: str = "val", trust: Sequence[str] = ()) -> Path:
    """Rank the labels that a run's best checkpoint contradicts with confidence, as a worklist for relabelling.

    ``noise.csv`` (of train ``noise-train.csv``) has a row per patch and pair of classes, ``-scenes.csv`` one per scene, and
    ``.png`` shows the first patches; see `rsseg.describe.noise`.

    Args:
        run: The run folder.
        split: The validation scenes, as the model has not trained on them; or others.
        trust: As for `evaluate`.

    Returns:
        The table of patches.

    Raises:
        InputError: If the run or the split can't be used, or no head has labels.
    """
    quiet()
    folder, path = RunFolder(run), run / f"noise{f'-{split}' * (split != 'val')}.csv"
    setup = make_setup(folder.config(), trust)
    with in_one_line(run, setup.batch_size, setup.window, memory=SCORING):
        module, store = _open_labelled(folder, setup, split)
        if split == "train":
            log.warning(
                "The model has trained on these labels and may have learnt their faults: what it contradicts all the same is "
                "worth a look, but a label that is not listed may be wrong too."
            )
        else:
            log.info("The model has not trained on the labels of the %s scenes, so that it has not learnt their faults.", split)
        write_noise(setup, module, store, path)
    return path


def quiet() -> None:
    """Leave out what the libraries say at every start and no user can act on."""
    logging.raiseExceptions = False  # of a full disk, what can't be written tells once, not each line of the log
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch").propagate = False  # it has a handler of its own
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    if not is_main():
        logging.getLogger("rsseg").setLevel(logging.ERROR)  # the main process says it
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # its errors come as exceptions too
    for message in (
        ".*dataloader is not resumable.*",
        ".*smaller than the logging interval.*",
        ".*exists and is not empty.*",
        ".*no geotransform.*",
        ".*LeafSpec.*",
        ".*isinstance.treespec.*",
        ".*module.s. in eval mode.*",  # frozen parts
        ".*sync_dist=True.*",  # what is logged is the same in all processes already
    ):
        warnings.filterwarnings("ignore", message)
