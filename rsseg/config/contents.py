"""What the files of a run folder have to hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

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
