"""What the files of a run folder have to hold."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rsseg.config.schema import Config
from rsseg.config.targets import heads_of
from rsseg.contract import InputError, current_log_name
from rsseg.files import is_remote

NEEDED = {
    "config.yaml": {
        "seed": "a whole number", "steps": "a whole number", "batch_size": "a whole number", "window": "a whole number",
        "optimizer": "a mapping", "loss": "a mapping","dataset.name": "text",
        "dataset.task": "text or null", "dataset.classes": "a list of text or null", "model.encoder": "text",
        "model.heads": "a mapping of mappings",
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
    "summary.json": {"finished": "text", "steps": "a whole number", "seconds": "a number"},
}  # fmt: skip
"""What each file of a run has to hold, by dotted keys, and as what."""

SCORES = (("rmse", "mae"), ("f1", "precision", "recall"), ("iou", "dice", "scene_iou", "scene_dice"))
"""What a run may be scored by: a file that holds the first of some scores has to hold all of them; the last are expected."""


def scores_in(names: Collection[str]) -> tuple[str, ...]:
    """The scores that a file has to hold, by the names of what it holds."""
    return next((scores for scores in SCORES if scores[0] in names), SCORES[-1])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


KINDS: dict[str, Callable[[Any], bool]] = {
    "text": lambda value: isinstance(value, str),
    "text or null": lambda value: value is None or isinstance(value, str),
    "true, false or null": lambda value: value is None or isinstance(value, bool),
    "a whole number": lambda value: _is_number(value) and isinstance(value, int),
    "a number": lambda value: _is_number(value) and math.isfinite(value),
    "a number or null": lambda value: value is None or _is_number(value),
    "a mapping": lambda value: isinstance(value, dict),
    "a mapping of mappings": lambda value: isinstance(value, dict) and all(isinstance(one, dict) for one in value.values()),
    "a list of text": lambda value: isinstance(value, list) and all(isinstance(one, str) for one in value),
    "a list of text or null": lambda value: value is None or KINDS["a list of text"](value),
    "a list of numbers": lambda value: isinstance(value, list) and all(KINDS["a number"](one) for one in value),
}
"""What values may be expected to be, in words."""


ROOT_KEYS = ("dataset.source.root", "dataset.args.root")  # the settings that say where data lie
RENAMED = {"residence": "cache", "on_bad_tile": "on_bad_scene"}  # settings of earlier versions, and what they are called now

ABSENT = object()  # what a key that is not there gives, as null is a value


def fault(name: str, content: Any) -> str:
    """What is wrong with what a file of a run holds; empty if nothing is.

    Example:
        >>> fault("summary.json", {"diverged": {"step": "many"}})
        "diverged.step is 'many', a whole number is expected"
    """
    needed = NEEDED.get(name, {})
    if name == "summary.json" and isinstance(content, Mapping) and "diverged" in content:
        needed = {"diverged.step": "a whole number"}
    elif name == "summary.json" and isinstance(content, Mapping):
        needed = {**dict.fromkeys(scores_in(content), "a number or null"), **needed}
    elif name == "scaling.json":
        if not KINDS["a mapping of mappings"](content):
            return "it holds no mapping by head and kind"
        needed = {
            f"{head}.{kind}.{key}": "a list of numbers"
            for head, kinds in content.items() for kind in kinds for key in ("scale", "shift")
        }  # fmt: skip
    found = {key: look_up(content, key) for key in needed}
    lacking = [key for key, value in found.items() if value is ABSENT]
    if lacking:
        return f"it lacks {', '.join(lacking)}"
    wrong = [key for key, kind in needed.items() if not KINDS[kind](found[key])]
    return f"{wrong[0]} is {repr(found[wrong[0]])[:60]}, {needed[wrong[0]]} is expected" if wrong else ""


def look_up(node: Any, key: str) -> Any:
    """What a nested mapping holds under a dotted key, or `ABSENT`."""
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
    """The config of a run, typed by the schema. Nothing in it is resolved; keys that the schema lacks are kept.

    Raises:
        InputError: If the schema has no place for it.
    """
    content = {RENAMED.get(key, key): value for key, value in content.items()}
    for loss in (content["loss"], *(head.get("loss") for head in content["model"]["heads"].values())):
        if isinstance(loss, dict):
            loss.pop("backend", None)  # a setting of older versions that changed nothing but the speed
            for term in loss.get("terms", {}).values():
                if isinstance(term, dict) and term.get("class_weights_cap", "") is None:
                    term.pop("class_weights_cap")  # likewise, where it was not set
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
        raise InputError(place + str(error).splitlines()[0]) from None
    lacking = sorted(OmegaConf.missing_keys(config))
    if lacking:
        raise InputError(f"it lacks {', '.join(lacking)}")
    for key in ROOT_KEYS:
        _find_moved(config, key)
    for callback in config.callbacks.values():
        if OmegaConf.is_dict(callback) and callback.get("monitor"):
            callback.monitor = current_log_name(str(callback.monitor), heads_of(config))
    config.trust = []  # the person at the command line trusts, not a file
    return config


def _find_moved(config: Any, key: str) -> None:
    """Where data do not lie any more where a config says, take the folder of that name in RSSEG_DATA."""
    root, place = OmegaConf.select(config, key), os.environ.get("RSSEG_DATA")
    if isinstance(root, str) and place and not is_remote(root) and not Path(root).expanduser().is_dir():
        moved = Path(place).expanduser() / Path(root).name
        if moved.is_dir():
            OmegaConf.update(config, key, str(moved.absolute()))
