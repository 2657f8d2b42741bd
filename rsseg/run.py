"""train, evaluate, predict and compare: the one way in for every entry point."""

from __future__ import annotations

import csv
import json
import logging
import time
import warnings
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from rsseg.alignment.report import print_table, write_comparison
from rsseg.assembly import Numbers, all_bands, check, labels_of, make_module, make_network, open_split, scenes_of
from rsseg.config.build import build, plain
from rsseg.config.folder import config_to_resume, load_config, resume_word, save_config, unfinished, write_json
from rsseg.config.provenance import provenance
from rsseg.contract import InputError
from rsseg.data.census import check_absent, take_census
from rsseg.data.scene import Scene, SceneReader
from rsseg.data.windows import Batches, GridWindows, TrainWindows, loader, worker_count
from rsseg.distributed import is_main, launched
from rsseg.inference.diagnostics import draw_confusion, draw_curves
from rsseg.inference.gallery import Gallery
from rsseg.inference.picture import pick_windows, predict_windows
from rsseg.inference.scene import predict_scene
from rsseg.loggers import side_loggers
from rsseg.metrics import Scores
from rsseg.models import try_network
from rsseg.module import SegmentationModule
from rsseg.training import choose_precision, make_trainer

log = logging.getLogger(__name__)


def train(config: Any, folder: Path, overrides: list[str] | None = None, loss: str = "") -> float:
    """Train one model, or go on with a run that was begun, or say what a finished one gave.

    Args:
        config: The composed config.
        folder: The run folder.
        overrides: The command line's overrides, for the record.
        loss: The name of the chosen loss, for the record.

    Returns:
        The best validation IoU of the first head.

    Raises:
        InputError: For anything in config or data that can't be used.
    """
    quiet()
    if config.resume:
        folder = Path(config.resume)
        config = config_to_resume(folder, overrides or [])
    check(config)
    last = unfinished(folder, config)
    if (folder / "summary.json").is_file():
        summary = json.loads((folder / "summary.json").read_text())
        log.info("%s: finished already, IoU %.4f; not run again.", folder, summary["iou"])
        return float(summary["iou"])
    torch.set_float32_matmul_precision("high")
    L.seed_everything(config.seed, workers=True, verbose=False)
    source = build(plain(config.dataset.source), "dataset.source")
    if config.dataset.bands is None:
        config.dataset.bands = all_bands(source, config)
    network = make_network(config)
    try_network(network, len(config.dataset.bands), config.window)
    readers = {split: open_split(source, config, split) for split in ("train", "val")}
    cache = Path(config.output) / "cache"
    censuses = {name: take_census(reader, config.window, cache, f"counting {name}") for name, reader in readers.items()}
    for split, census in censuses.items():
        check_absent(census, readers[split].labels.head, split)
    numbers = Numbers.of(censuses["train"])
    for reader in readers.values():
        reader.fill = np.array(numbers.mean)
    module = make_module(config, network, numbers, len(readers["val"]))
    data = asdict(numbers) | {
        "fingerprint": {split: c.fingerprint([s.name for s in readers[split].scenes]) for split, c in censuses.items()},
        "scenes": {split: [s.name for s in reader.scenes] for split, reader in readers.items()},
    }
    if last is not None and json.loads((folder / "data.json").read_text())["fingerprint"] != data["fingerprint"]:
        raise InputError(f"the data have changed since {folder} was begun (other scenes or labels): start a new run")
    if is_main():
        if not (folder / "run.json").is_file():
            save_config(config, folder)
            write_json(folder / "run.json", provenance(overrides or [], loss) | {"seed": config.seed})
        write_json(folder / "data.json", data)
    return _fit(config, folder, module, readers, last)


def _fit(config: Any, folder: Path, module: SegmentationModule, readers: dict[str, SceneReader], last: Path | None) -> float:
    step = int(torch.load(last, map_location="cpu", weights_only=False)["global_step"]) if last else 0
    head = next(iter(module.heads))
    shown = [list(config.dataset.bands).index(band) for band in config.dataset.rgb] if config.dataset.rgb else None
    windows = pick_windows(readers["val"], config.window, config.pictures) if is_main() else []
    gallery = Gallery(folder, head, windows, plain(config.dataset.palette), shown)
    trainer = make_trainer(plain(config), folder, f"val/{head}/iou", [gallery], step)
    for logger in side_loggers(trainer):
        logger.log_hyperparams(plain(config))
    began = time.monotonic()
    with launched(trainer, folder):
        _train_all_steps(config, folder, module, readers, trainer, step if last else None)
    seconds = time.monotonic() - began
    try:
        result = dict(module.scores)
        if load_best(module, folder) < trainer.global_step:  # else the last validation has just scored it
            result = score(config, module, readers["val"])
        rows = write_scores(folder / "classes.csv", result)
        print_table(rows, "Validation, best checkpoint, pooled over whole scenes")
        _draw_end(folder, module, trainer, gallery, result[head], rows)
    finally:
        for logger in side_loggers(trainer):
            logger.close()
    write_json(
        folder / "summary.json",
        result[head].means()
        | {
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "steps": trainer.global_step,
            "seconds": round(seconds, 1),
        },
    )
    log.info("Run folder: %s", folder)
    return result[head].iou


def _train_all_steps(
    config: Any, folder: Path, module: SegmentationModule, readers: dict[str, SceneReader], trainer: L.Trainer, step: int | None
) -> None:
    """Fit, from a checkpoint's step on if there is one."""
    rank, world = trainer.global_rank, trainer.world_size
    if config.batch_size % world:
        raise InputError(
            f"batch_size={config.batch_size} can't be shared evenly among {world} devices: take a multiple of {world}"
        )
    per_step = config.batch_size * trainer.accumulate_grad_batches
    batches = Batches(config.steps * per_step, config.batch_size, (step or 0) * per_step, rank, world)
    train_windows = TrainWindows(readers["train"], config.window, config.seed)
    val_windows = GridWindows(readers["val"], config.window, config.overlap)
    workers = worker_count(config.workers, world)
    loaders = (
        loader(train_windows, batches, workers),
        loader(val_windows, Batches(len(val_windows), config.batch_size, 0, rank, world), workers, persistent=True),
    )
    _say_start(config, readers, trainer, step)
    try:
        trainer.fit(module, *loaders, ckpt_path=None if step is None else folder / "checkpoints" / "last.ckpt")
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise InputError(
            f"batch_size={config.batch_size} of window={config.window} leaves batch normalisation one value per channel: "
            "take a larger batch or window"
        ) from None
    except (KeyboardInterrupt, SystemExit):  # Lightning turns the first into the second
        log.warning("Interrupted at step %d of %d; go on with %s", trainer.global_step, config.steps, resume_word(folder))
        raise
    early = trainer.should_stop and not trainer.received_sigterm
    if trainer.global_step < config.steps:
        if not early:
            raise InputError(f"stopped at step {trainer.global_step} of {config.steps}; go on with {resume_word(folder)}")
        log.info("Stopped early, at step %d of %d.", trainer.global_step, config.steps)


def _say_start(config: Any, readers: dict[str, SceneReader], trainer: L.Trainer, step: int | None) -> None:
    log.info(
        "%s: %d training and %d validation scenes, %d steps of %d windows of %d px on %s in %s%s%s",
        config.dataset.name, len(readers["train"]), len(readers["val"]), config.steps, config.batch_size, config.window,
        trainer.strategy.root_device, trainer.precision, f", {trainer.world_size} processes" * (trainer.world_size > 1),
        "" if step is None else f", going on from step {step}",
    )  # fmt: skip
    times = trainer.accumulate_grad_batches
    if times > 1:
        log.warning(
            "Gradients are accumulated over %d batches: the loss is taken per batch and averaged. For losses of a whole batch "
            "(overlap losses, weighted cross-entropy) that is another loss than that of one batch of %d windows.",
            times,
            times * config.batch_size,
        )  # fmt: skip


def _draw_end(
    folder: Path, module: SegmentationModule, trainer: L.Trainer, gallery: Gallery, result: Scores, rows: list[dict[str, Any]]
) -> None:
    """Pictures and the table of the best checkpoint, in the run folder and the loggers."""
    head, step = module.heads[gallery.head], trainer.global_step
    if gallery.windows:
        gallery.draw(trainer, folder / "picture.png", predict_windows(module.eval(), gallery.head, gallery.windows), "best")
    try:
        draw_confusion(folder / "confusion.png", head, result)
        with (folder / "metrics.csv").open(newline="") as file:
            draw_curves(folder / "curves.png", gallery.head, head, gallery.palette, list(csv.DictReader(file)))
    except OSError as error:
        log.warning("Pictures could not be written: %s", error)
        return
    for logger in side_loggers(trainer):
        logger.show("confusion", folder / "confusion.png", step)
        logger.show("curves", folder / "curves.png", step)
        logger.tabulate("classes", rows, step)
    log.info("Pictures: %s, confusion.png, curves.png", folder / "picture.png")


def load_best(module: SegmentationModule, folder: Path) -> int:
    """Give a module the weights of a run's best checkpoint, and return the step that it was saved at.

    Raises:
        InputError: If there is none.
    """
    path = folder / "checkpoints" / "best.ckpt"
    if not path.is_file():
        raise InputError(f"{folder} has no checkpoints/best.ckpt: the run was not scored yet; go on with {resume_word(folder)}")
    checkpoint = torch.load(path, map_location="cpu", weights_only=False)
    module.load_state_dict(checkpoint["state_dict"])
    return int(checkpoint["global_step"])


def load_run(folder: Path, scenes: int = 1) -> tuple[Any, SegmentationModule]:
    """The config of a run and its module with the best weights, in evaluation mode.

    Args:
        folder: The run folder.
        scenes: The number of scenes that will be scored.
    """
    config = load_config(folder)
    if not (folder / "data.json").is_file():
        raise InputError(f"{folder} holds a run that never started training: go on with {resume_word(folder)}")
    saved = json.loads((folder / "data.json").read_text())
    numbers = Numbers(**{name: saved[name] for name in ("positives", "valid", "mean", "std")})
    config.model.weights = "none"  # the checkpoint holds them
    module = make_module(config, make_network(config), numbers, scenes)
    load_best(module, folder)
    return config, module.eval()


def score(config: Any, module: SegmentationModule, reader: SceneReader) -> dict[str, Scores]:
    """Score whole scenes; scores by head."""
    accelerator = config.trainer.get("accelerator", "auto")
    trainer = L.Trainer(
        accelerator=accelerator, devices=1, precision=choose_precision(config.trainer.get("precision", "auto"), accelerator),
        logger=False, enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip
    windows = GridWindows(reader, config.window, config.overlap)
    batches = Batches(len(windows), config.batch_size)
    trainer.validate(module, loader(windows, batches, worker_count(config.workers)), verbose=False)
    return dict(module.scores)


def write_scores(path: Path, result: dict[str, Scores]) -> list[dict[str, Any]]:
    """Write the per-class table of each head as CSV and return its rows."""
    rows = [{"head": head, **row} for head, scores in result.items() for row in scores.table()]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return rows


def evaluate(run: Path, split: str) -> dict[str, Scores]:
    """Score a run's best checkpoint on a split; print the table and write ``evaluation-{split}.csv`` into the run folder.

    Raises:
        InputError: If the run or the split can't be used, or the split has no labels.
    """
    quiet()
    config = load_config(run)
    source = build(plain(config.dataset.source), "dataset.source")
    scenes = scenes_of(source, config, split)
    bare = sum(scene.mask is None for scene in scenes)
    if bare:
        raise InputError(
            f"split={split} of dataset {config.dataset.name} can't be scored: {bare} of its {len(scenes)} scenes "
            "have no labels. Take split=val, or map the scenes with scripts/predict.py"
        )
    reader = open_split(source, config, split)
    config, module = load_run(run, len(reader))
    reader.fill = module.mean.numpy().ravel()
    result = score(config, module, reader)
    path = run / f"evaluation-{split}.csv"
    print_table(write_scores(path, result), f"{run}: {split}, best checkpoint, pooled over whole scenes")
    for head, scores in result.items():
        log.info("%s: %s", head, ", ".join(f"{name} {value:.4f}" for name, value in scores.means().items()))
    log.info("Table: %s", path)
    return result


def predict(run: Path, scene: Path, out: Path) -> Path:
    """Map a scene with a run's best checkpoint.

    Args:
        run: The run folder.
        scene: An image with the run's bands.
        out: The GeoTIFF to write.

    Raises:
        InputError: If run or scene can't be used, or the map can't be written.
    """
    quiet()
    if not scene.is_file():
        raise InputError(f"scene={scene}: there is no such file")
    if out.resolve() == scene.resolve():
        raise InputError(f"out={out} would overwrite the scene: choose another name")
    config, module = load_run(run)
    reader = SceneReader([Scene(scene.stem, scene, None)], labels_of(config), list(config.dataset.bands))
    reader.fill = module.mean.numpy().ravel()
    if torch.cuda.is_available() and config.trainer.get("accelerator") != "cpu":
        module = module.to("cuda")
    head = next(iter(module.heads))
    palette = plain(config.dataset.palette)
    precision = choose_precision(config.trainer.get("precision", "auto"), config.trainer.get("accelerator", "auto"))
    with torch.autocast(module.device.type, torch.bfloat16, enabled=str(precision).startswith("bf16")):  # as it was scored
        predict_scene(module, head, reader, out, config.window, config.overlap, config.batch_size, palette)
    log.info("Map: %s", out)
    return out


def compare(runs: list[Path], out: Path | None = None) -> Path:
    """Compare finished runs; print and write tables and a picture.

    Args:
        runs: Run folders, or folders that hold them.
        out: Where to write; ``comparison`` in the first folder if None.

    Raises:
        InputError: If there is nothing to compare, or the runs can't be compared.
    """
    quiet()
    out = out or runs[0] / "comparison"
    try:
        return write_comparison(runs, out)
    except OSError as error:
        raise InputError(f"the comparison can't be written to {out}: {error}") from None


def quiet() -> None:
    """Leave out what the libraries say at every start and no user can act on."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch").propagate = False  # it has a handler of its own
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.tuner.lr_finder").setLevel(logging.INFO)  # the rate that it found
    if not is_main():
        logging.getLogger("rsseg").setLevel(logging.ERROR)  # the main process says it
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # its errors come as exceptions too
    for message in (
        ".*does not have many workers.*",
        ".*dataloader is not resumable.*",
        ".*smaller than the logging interval.*",
        ".*exists and is not empty.*",
        ".*no geotransform.*",
        ".*LeafSpec.*",
        ".*isinstance.treespec.*",
        ".*sync_dist=True.*",  # what is logged is the same in all processes already
    ):
        warnings.filterwarnings("ignore", message)
