"""Training a run from its config, as ``rsseg train`` does."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from rsseg.assembly import (
    check_machine,
    checkpoint_bytes,
    fit_augmentations,
    make_module,
    make_setup,
    warn_of_uncounted,
    with_bands,
)
from rsseg.config.build import plain
from rsseg.config.folder import RunFolder
from rsseg.config.provenance import Chosen, provenance
from rsseg.config.schema import Config
from rsseg.contract import InputError
from rsseg.dataset import Data, open_data
from rsseg.distributed import is_main
from rsseg.errors import in_one_line
from rsseg.files import UnwritableError, say_space, write_json
from rsseg.models import freeze_idle
from rsseg.module import SegmentationModule
from rsseg.quiet import quiet
from rsseg.setup import Setup
from rsseg.task import Task
from rsseg.training.divergence import DivergedError
from rsseg.training.resume import continuation, last_state, overridden, write_down
from rsseg.training.scoring import score_best
from rsseg.training.signals import Interrupts
from rsseg.training.trainer import Loop

log = logging.getLogger(__name__)


def train(
    config: Any,
    folder: Path,
    overrides: list[str] | None = None,
    loss: str = "",
    of_heads: Mapping[str, str] | None = None,
) -> float:
    """Train one model; a run that was begun is resumed, and a finished one is not trained again.

    Args:
        config: The composed config.
        folder: The run folder.
        overrides: The command line's overrides, for the record.
        loss: The name of the chosen loss, for the record.
        of_heads: By head, the name of the loss that was chosen for this head only, for the record.

    Returns:
        The first head's best validation IoU; for a regression the negated RMSE, so that more is better.

    Raises:
        InputError: If the config or the data can't be used.
    """
    quiet()
    if not is_main():
        logging.getLogger("rsseg").setLevel(logging.ERROR)  # the main process logs it
    run = RunFolder(Path(config.resume) if config.resume else folder)
    if config.resume and not run.begun:
        raise InputError(f"resume={run}: there is no run in that folder (no config.yaml)")
    with Interrupts(run) as interrupts, run.lock() if is_main() else nullcontext():
        try:
            return _train(config, run, Chosen(overrides or [], loss, of_heads or {}), interrupts)
        except UnwritableError as error:
            raise UnwritableError(f"{error}{f', and go on with {run.resume_command}' * run.begun}") from None
        finally:
            if is_main() and not _named_by_user():
                run.discard()


def _named_by_user() -> bool:
    """Whether the user has named the run folder, which may then hold other files."""
    words = HydraConfig.get().overrides.hydra if HydraConfig.initialized() else []
    return any(word.startswith(("hydra.run.dir", "hydra.sweep")) for word in words)


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
    with in_one_line(run.path, setup.batch_size, setup.window):
        setup, module, data = _open(setup)
        if is_main():
            there = sum(path.stat().st_size for path in run.checkpoints.glob("*.ckpt"))
            say_space(run.path, checkpoint_bytes(setup, module.network) - there, "Checkpoints take")
        _write_start(setup, run, data, chosen, last is not None)
    if going and going.changed and is_main():
        write_down(run, going, chosen.overrides, step)
        if going.line:
            log.info("%s", going.line)
    with in_one_line(run.path, setup.batch_size, setup.window, f"then go on with {run.resume_command}"):
        with closing(Loop(setup, run, module, data, step, interrupts)) as loop:
            loop.fit(last)
            if not is_main():  # started by another program: only the first process writes
                return setup.task.quality(module.scores[setup.head].means())
            result = score_best(setup, run, module, data.stores["val"], loop.recorder, loop.trainer.global_step)
            loop.write_scores(result)
        loop.write_summary(result)
    return setup.task.quality(result[setup.head].means())


def _open(setup: Setup) -> tuple[Setup, SegmentationModule, Data]:
    """The setup with the bands of its data, the module, and the data."""
    torch.set_float32_matmul_precision("high")
    L.seed_everything(setup.seed, workers=True, verbose=False)
    setup, source = with_bands(setup)
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


def _write_start(setup: Setup, run: RunFolder, data: Data, chosen: Chosen, resumed: bool) -> None:
    """Write the config, provenance and data facts of the run."""
    record = data.record()
    if resumed:
        before = run.data()
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
    """The score in ``summary.json`` of a finished run."""
    summary = run.summary()
    if "diverged" in summary:
        facts = summary["diverged"]
        raise DivergedError(
            f"{run}: diverged at step {facts['step']}; not run again. Go on with {run.resume_command} and a lower "
            "optimizer.lr=..., or on_nonfinite=skip, or remove the folder",
            facts,
        )
    log.info("%s: finished already, %s %.4f; not run again.", run, task.score_name, summary[task.score])
    return task.quality(summary)
