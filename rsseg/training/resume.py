"""Resumption of a run: its checkpoint, and the settings that may change (steps, learning rate, place and devices)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightning as L
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from rsseg.config.contents import ABSENT, look_up
from rsseg.config.folder import RunFolder
from rsseg.config.plan import within
from rsseg.contract import InputError
from rsseg.distributed import is_main
from rsseg.files import write_json
from rsseg.training.checkpointing import Checkpoints

FREE = (
    "workers", "cache", "verify", "pictures", "logger", "output", "checkpoint_every", "on_nonfinite",
    "dataset.source.root", "dataset.args.root",
)  # fmt: skip
"""Settings that do not change the result; moved data are recognised by their fingerprint."""

REASONS = {
    "model dataset": "its weights are those of its model and its data",
    "loss balancing": "its best checkpoint was chosen under its loss",
    "optimizer": "the optimizer's state fits no other; only optimizer.lr can change",
    "scheduler": "with steps=... or optimizer.lr=... a cosine schedule begins anew; constant and plateau go on",
    "seed window batch_size sampler augment": "its windows would be others",
    "trainer callbacks": "other devices, precisions and callbacks give other numbers",
    "record validations margin": "records before and after the change could not be compared",
}
"""The reasons why parts of the config can't change in a resumed run, by the names of the parts."""

GOES_ON = ("ConstantLR", "ReduceLROnPlateau")  # the schedules that have no end


@dataclass(frozen=True)
class Continuation:
    """The resumption of a run."""

    plain: dict[str, Any]  # its config from now on, as plain values
    changed: dict[str, Any]  # the new values by dotted key
    new_schedule: bool = False  # whether the schedule restarts at the optimizer's rate
    line: str = ""  # the message about the change; may be empty

    @property
    def trains(self) -> bool:
        """Whether a finished run has to train further."""
        return bool(self.changed.keys() & {"steps", "optimizer.lr", "on_nonfinite"})


def overridden(composed: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The values that a command line sets, by dotted key; `ABSENT` if the composed config lacks the key.

    Example:
        >>> overridden({"steps": 9, "optimizer": {"lr": 0.1}}, ["optimizer.lr=0.1", "resume=runs/a"])
        {'optimizer.lr': 0.1}
    """
    found = {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group
        if key not in ("resume", "trust") and not key.startswith("hydra"):
            found[key] = look_up(composed, key)
    return found


def continuation(saved: Mapping[str, Any], given: Mapping[str, Any], step: int, ended: bool) -> Continuation:
    """The resumption of a run with a `saved` config at a step; `given` are the new values by dotted key.

    Raises:
        InputError: If values can't be changed, with all of these together.
    """
    node, changed, faults = OmegaConf.create(dict(saved)), {}, []
    for key, value in given.items():
        if value is not ABSENT and look_up(saved, key) == value:
            continue
        if value is not ABSENT and within(key, ("steps", "optimizer.lr", *FREE)):
            changed[key] = value
            OmegaConf.update(node, key, value, force_add=True)
            continue
        root = key.split("/")[0].split(".")[0]
        reasons = [why for names, why in REASONS.items() if root in names.split()]
        faults.append(f"{key}: {(*reasons, 'a run goes on with the config that it began with')[0]}")
    plain: Any = OmegaConf.to_container(node)
    if "steps" in changed and plain["steps"] <= step:
        faults.append(f"steps={plain['steps']}: the run is at step {step}; give a larger number")
    elif ended and "optimizer.lr" in changed and plain["steps"] <= step:
        faults.append(f"optimizer.lr={plain['optimizer']['lr']}: all {step} steps are done; give steps=... too")
    if faults:
        raise InputError(f"a run that goes on can't change {'; '.join(faults)}. Begin a new run without resume=")
    added, rate, schedule = plain["steps"] - step, plain["optimizer"].get("lr"), str(plain["scheduler"].get("_target_", ""))
    only_scaled = step == 0 and "steps" not in changed and not schedule.endswith("OneCycleLR")  # which names the rate
    if only_scaled or not changed.keys() & {"steps", "optimizer.lr"}:
        return Continuation(plain, changed)
    if schedule.endswith(GOES_ON):
        new = "optimizer.lr" in changed
        at = f"at the rate {rate}" if new else "and the schedule goes on"
        return Continuation(plain, changed, new, f"{added} steps follow, {at}.")
    plain["scheduler"] = {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "T_max": added, "eta_min": 0.0}
    changed["scheduler"], begins = plain["scheduler"], "its first rate" if rate is None else f"the rate {rate}"
    return Continuation(plain, changed, True, f"{added} steps follow, with a new cosine schedule from {begins} to 0.")


def last_state(run: RunFolder) -> tuple[Path | None, int]:
    """The checkpoint to resume from, and its step; None and 0 to begin at the start.

    Raises:
        InputError: If no existing checkpoint can be used, or the best one so far, which is scored at the end, is damaged.
    """
    path, content = run.last_good() or (None, {})
    if path is None:
        return None, 0
    state = content.get("callbacks", {}).get(Checkpoints.__name__)
    if state is None:
        raise InputError(f"{path} was written by an earlier version of rsseg: resume it with that version, or begin a new run")
    if state["_any"]:
        run.load_state()
    if path == run.previous and is_main():
        run.last.unlink(missing_ok=True)  # it is damaged, and must not become `previous`
    return path, int(content["global_step"])


def write_down(run: RunFolder, going: Continuation, overrides: Sequence[str], step: int) -> None:
    """Write the changed config into the run folder, and the step from which on it applies into ``run.json``.

    The order of the writes leaves a run that can be resumed if this process is killed, or another one reads, in between.
    """
    if going.trains:
        run.summary_file.unlink(missing_ok=True)
        origin = run.origin()
        entry = {"step": step, "overrides": list(overrides), "new_schedule": going.new_schedule}
        entry["started"] = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(run.run_file, origin | {"continued": [*origin.get("continued", []), entry]})
    run.write_config(going.plain)


def begins_anew(run: RunFolder, step: int) -> bool:
    """Whether the schedule restarts at the checkpoint of a step: it was changed there or later, and not trained with since."""
    return any(entry["new_schedule"] and step <= int(entry["step"]) for entry in run.origin().get("continued", []))


class NewSchedule(L.Callback):
    """Restarts the schedule of a resumed run at the given rate, or if None at the optimizer's initial rate."""

    def __init__(self, rate: float | None) -> None:
        self.rate = rate

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Drop the schedule's state, and reset the optimizer's rates."""
        checkpoint["lr_schedulers"] = []
        for state in checkpoint["optimizer_states"]:
            for group in state["param_groups"]:
                rate = group["initial_lr"] if self.rate is None else self.rate * group.get("lr_scale", 1.0)
                group["lr"] = group["initial_lr"] = rate
