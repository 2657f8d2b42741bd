"""What may be changed where a run goes on: how long it trains, at which rate, and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from rsseg.contract import InputError

FREE = (
    "workers", "residence", "pictures", "logger", "output", "checkpoint_every", "on_nonfinite", "dataset.source.root",
    "dataset.args.root",
)  # fmt: skip
"""What says where and how a run is trained, and changes no number of it; data that moved are compared by their fingerprint."""

REASONS = {
    "model": "the weights that it has are those of its model",
    "loss": "its best checkpoint was chosen under its loss",
    "optimizer": "what the optimizer has gathered is its own; only optimizer.lr can change",
    "scheduler": "with steps=... or optimizer.lr=... a cosine schedule begins anew; constant and plateau go on",
    "dataset": "it goes on with the same data",
    "seed": "its windows are functions of the seed",
    "window": "its windows are functions of (seed, window number) and would be others",
    "batch_size": "its windows are counted in batches of this size",
    "sampler": "its windows would be others",
    "augment": "its windows would be others",
    "trainer": "other devices and precisions give other numbers",
    "callbacks": "their state belongs to the run",
    "record": "its records would not go together",
    "validations": "its validations would not go together",
    "overlap": "its validations would not go together",
}
"""Why a run that goes on keeps a part of its config."""

GOES_ON = ("ConstantLR", "ReduceLROnPlateau")
"""The schedules that have no end."""


@dataclass(frozen=True)
class Continuation:
    """How a run goes on.

    Attributes:
        plain: Its config from now on, as plain values.
        changed: What is changed by that: new values by dotted key; empty: nothing.
        new_schedule: Whether the schedule begins anew, at the optimizer's rate.
        line: What to say of it; may be empty.
    """

    plain: dict[str, Any]
    changed: dict[str, Any]
    new_schedule: bool = False
    line: str = ""

    @property
    def trains(self) -> bool:
        """Whether a run that has ended is to train again."""
        return bool(self.changed.keys() & {"steps", "optimizer.lr", "on_nonfinite"})


def overridden(composed: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The values that a command line gives, by dotted key.

    Args:
        composed: The config that they were composed into, as plain values.
        overrides: The words of the command line.

    Example:
        >>> overridden({"steps": 9, "optimizer": {"lr": 0.1}}, ["optimizer.lr=0.1", "resume=runs/a"])
        {'optimizer.lr': 0.1}
    """
    found = {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group
        if key not in ("resume", "trust") and not key.startswith("hydra"):
            found[key] = _get(composed, key)
    return found


def continuation(saved: Mapping[str, Any], given: Mapping[str, Any], step: int, ended: bool) -> Continuation:
    """How a run goes on with some values of its config changed.

    Args:
        saved: Its config as plain values.
        given: The values that are given, by dotted key.
        step: The step that it has come to.
        ended: Whether it is finished, or has diverged.

    Raises:
        InputError: If one of them can't be changed; all of these together.
    """
    plain, changed, faults = deepcopy(dict(saved)), {}, []
    for key, value in given.items():
        if _get(plain, key) == value:
            continue
        if key in ("steps", "optimizer.lr") or any(key == free or key.startswith(f"{free}.") for free in FREE):
            changed[key] = value
            _set(plain, key, value)
        else:
            faults.append(f"{key}: {REASONS.get(key.split('.')[0], 'a run goes on with the config that it began with')}")
    if "steps" in changed and plain["steps"] <= step:
        faults.append(f"steps={plain['steps']}: the run has come to step {step} already; give more")
    elif ended and "optimizer.lr" in changed and plain["steps"] <= step:
        faults.append(f"optimizer.lr={plain['optimizer']['lr']}: all {step} steps are done; give steps=... too")
    if faults:
        raise InputError(f"a run that goes on can't change {'; '.join(faults)}. Begin a new run without resume=")
    added, rate, schedule = plain["steps"] - step, plain["optimizer"].get("lr"), str(plain["scheduler"].get("_target_", ""))
    if step == 0 or not changed.keys() & {"steps", "optimizer.lr"}:
        return Continuation(plain, changed)
    if schedule.endswith(GOES_ON):
        new = "optimizer.lr" in changed
        at = f"at the rate {rate}" if new else "and the schedule goes on"
        return Continuation(plain, changed, new, f"{added} steps follow, {at}.")
    plain["scheduler"] = {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "T_max": added, "eta_min": 0.0}
    changed["scheduler"] = plain["scheduler"]
    return Continuation(plain, changed, True, f"{added} steps follow, with a new cosine schedule from the rate {rate} to 0.")


def _get(node: Any, key: str) -> Any:
    for name in key.split("."):
        node = node.get(name) if isinstance(node, Mapping) else None
    return node


def _set(node: dict[str, Any], key: str, value: Any) -> None:
    *names, last = key.split(".")
    for name in names:
        node = node.setdefault(name, {})
    node[last] = value
