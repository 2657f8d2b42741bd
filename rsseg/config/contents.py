"""The required contents of a run folder's files."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rsseg.config.schema import Config
from rsseg.contract import InputError, first_line
from rsseg.files import is_remote

NEEDED = {
    "config.yaml": {
        "seed": "a number", "steps": "a number", "batch_size": "a number", "window": "a number", "dataset.name": "text",
        "model.encoder": "text", "model.heads": "a mapping", "optimizer": "a mapping", "loss": "a mapping",
    },
    "run.json": {
        "overrides": "a list of text", "loss": "text", "git.commit": "text or null", "git.changed": "true, false or null",
        "rsseg": "text", "python": "text", "platform": "text", "libraries": "a mapping",
    },
    "data.json": {
        "fingerprint.train": "text", "fingerprint.val": "text", "scenes.train": "a list of text",
        "scenes.val": "a list of text", "positives": "a list of numbers", "valid": "a list of numbers",
        "mean": "a list of numbers", "std": "a list of numbers",
    },
    "summary.json": {"finished": "text", "steps": "a number", "seconds": "a number"},
}  # fmt: skip
"""The required dotted keys of each file of a run, with the kinds of their values; the schema gives the types of a config."""

SCORES = (("rmse", "mae"), ("f1", "precision", "recall"), ("iou", "dice", "scene_iou", "scene_dice"))
"""Sets of scores: a file that holds the first score of a set has to hold all; without any, the last set is expected."""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


KINDS: dict[str, Callable[[Any], bool]] = {
    "text": lambda value: isinstance(value, str),
    "text or null": lambda value: value is None or isinstance(value, str),
    "true, false or null": lambda value: value is None or isinstance(value, bool),
    "a number": _is_number,
    "a number or null": lambda value: value is None or _is_number(value),
    "a mapping": lambda value: isinstance(value, dict),
    "a list of text": lambda value: isinstance(value, list) and all(isinstance(one, str) for one in value),
    "a list of numbers": lambda value: isinstance(value, list) and all(map(_is_number, value)),
}
"""The names of kinds of values in messages."""

ROOT_KEYS = ("dataset.source.root", "dataset.args.root")  # the settings that hold the folder of the data

OLD_KEYS = {"residence": "cache", "on_bad_tile": "on_bad_scene", "overlap": "margin"}
"""Settings of a run, or of an export, of an earlier version, with their present names."""

FOLDS = "folds"  # a setting of the dataset of an earlier version: the number of folds; `fold` was the number of one

ABSENT = object()  # stands for a missing key, since null is a value


def fault(name: str, content: Any) -> str:
    """The fault of the content of a run's file; empty if there is none.

    Example:
        >>> fault("summary.json", {"diverged": {"step": "many"}})
        "diverged.step is 'many', a number is expected"
    """
    needed = NEEDED.get(name, {})
    if name == "summary.json" and isinstance(content, Mapping):
        scores = next((scores for scores in SCORES if scores[0] in content), SCORES[-1])
        needed = {"diverged.step": "a number"} if "diverged" in content else dict.fromkeys(scores, "a number or null") | needed
    for key, kind in needed.items():
        value = look_up(content, key)
        if value is ABSENT:
            return f"it lacks {key}"
        if not KINDS[kind](value):
            return f"{key} is {repr(value)[:60]}, {kind} is expected"
    return ""


def look_up(node: Any, key: str) -> Any:
    """The value of a dotted key in a nested mapping, or `ABSENT`."""
    for name in key.split("."):
        if not isinstance(node, Mapping) or name not in node:
            return ABSENT
        node = node[name]
    return node


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """A node's values by their dotted keys.

    Example:
        >>> flat({"optimizer": {"lr": 0.1}, "steps": 9})
        {'optimizer.lr': 0.1, 'steps': 9}
    """
    if not isinstance(node, dict):
        return {prefix: node}
    return {key: value for name, child in node.items() for key, value in flat(child, f"{prefix}.{name}".lstrip(".")).items()}


def typed_config(content: Mapping[str, Any]) -> Any:
    """The config of a run, typed by the schema. Interpolations are not resolved; keys that the schema lacks are kept.

    Raises:
        InputError: If it does not fit the schema.
    """
    content = {OLD_KEYS.get(key, key): value for key, value in content.items()}
    if isinstance(dataset := content.get("dataset"), Mapping) and FOLDS in dataset:
        content["dataset"] = {key: value for key, value in dataset.items() if key != FOLDS}
        content["dataset"]["fold"] = dataset[FOLDS] and f"{dataset.get('fold')}/{dataset[FOLDS]}"
    references = [key for key, value in flat(content).items() if "${" in str(value)]
    if references:
        raise InputError(f"{references[0]} holds '${{', and the config of a run holds values alone")
    schema = OmegaConf.structured(Config)
    for node in (schema, schema.dataset, schema.model, schema.loss, schema.record, schema.metrics):
        OmegaConf.set_struct(node, False)  # a run of another version may have other keys
    schema.model.heads = {}  # the default refers to another node
    try:
        config: Any = OmegaConf.merge(schema, content)
    except OmegaConfBaseException as error:
        place = f"{error.full_key}: " if error.full_key else ""
        raise InputError(place + first_line(error)) from None
    lacking = sorted(OmegaConf.missing_keys(config))
    if lacking:
        raise InputError(f"it lacks {', '.join(lacking)}")
    for key in ROOT_KEYS:
        _find_moved(config, key)
    config.trust = []  # only the command line grants trust, never a file
    return config


def _find_moved(config: Any, key: str) -> None:
    """Replace a data folder that does not exist any more by the folder of the same name in RSSEG_DATA."""
    root, place = OmegaConf.select(config, key), os.environ.get("RSSEG_DATA")
    if isinstance(root, str) and place and not is_remote(root) and not Path(root).expanduser().is_dir():
        moved = Path(place).expanduser() / Path(root).name
        if moved.is_dir():
            OmegaConf.update(config, key, str(moved.absolute()))
