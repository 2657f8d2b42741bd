"""A run folder that is gone on with: what changes, written down before training."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from omegaconf import OmegaConf

from rsseg.checkpoints import read_checkpoint
from rsseg.config.build import plain
from rsseg.config.continuation import Continuation, continuation, overridden
from rsseg.config.folder import RunFolder
from rsseg.config.schema import Config
from rsseg.contract import InputError
from rsseg.files import write_json


def go_on(run: RunFolder, composed: Any, overrides: Sequence[str]) -> Continuation:
    """How the run in a folder goes on.

    Args:
        run: The run folder.
        composed: The config that the overrides were composed into.
        overrides: The words of the command line.

    Raises:
        InputError: If there is no run, or what is given can't be changed.
    """
    if not run.begun:
        raise InputError(f"resume={run}: there is no run in that folder (no config.yaml)")
    saved, given = plain(run.config()), overridden(plain(composed), overrides)
    if not given:
        return Continuation(saved, {})
    return continuation(saved, given, step_of(run), run.finished)


def step_of(run: RunFolder) -> int:
    """The step of the checkpoint that a run goes on from."""
    last = run.last_good()
    return int(read_checkpoint(last)["global_step"]) if last else 0


def config_of(going: Continuation) -> Any:
    """The config of a run that goes on, typed."""
    return OmegaConf.merge(OmegaConf.structured(Config), going.plain)


def write_down(run: RunFolder, going: Continuation, overrides: Sequence[str]) -> None:
    """Write the changed config into the run folder, and into ``run.json`` from which step on it holds.

    In an order in which a process that is killed, or reads meanwhile, leaves or finds a run that can go on.
    """
    if going.trains:
        run.summary_file.unlink(missing_ok=True)
        origin = run.origin()
        entry = {"step": step_of(run), "overrides": list(overrides), "new_schedule": going.new_schedule}
        entry["started"] = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(run.run_file, origin | {"continued": [*origin.get("continued", []), entry]})
    run.write_config(going.plain)


def begins_anew(run: RunFolder, step: int) -> bool:
    """Whether the schedule begins anew at a checkpoint: the last change came there, or later and was not trained on yet."""
    continued = run.origin().get("continued", [])
    return bool(continued) and bool(continued[-1]["new_schedule"]) and step <= int(continued[-1]["step"])
