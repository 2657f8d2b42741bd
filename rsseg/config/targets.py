"""A dataset's targets in a config, and the heads that learn them."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rsseg.contract import BESIDE_LAYERS, ONE_TARGET, InputError, first_line, in_place, nearest
from rsseg.task import Task, make_task

COLOUR = re.compile("#[0-9a-fA-F]{6}")

TARGET_NAME = re.compile(r"[A-Za-z]\w*")

RESERVED = (*BESIDE_LAYERS, "weight", "missing", "counts", "labels")  # names of other layers, and of other files in the store


Decoder = StrEnum("Decoder", {"shared": "shared", "own": "own"})  # whether heads share a decoder, or each has its own


@dataclass
class HeadConfig:
    """The settings of a head, see `rsseg.config.schema.ModelConfig`."""

    target: str | None = None
    loss: Any = None
    weight: float = 1.0
    decoder: Decoder | None = None


@dataclass
class TargetFacts:
    """The settings of a target of a dataset.

    Attributes:
        task: The kind of label of a pixel: binary, multiclass, multilabel, or regression (real values); or centres (objects).
        classes: Names in label order; for binary the one positive class; for regression the names of the values.
        palette: Colours of the labels for pictures and maps, "#rrggbb"; null: chosen.
        mask_values: Values in the mask files for label 0, 1, ...: integers, ranges such as "0-127", or "#rrggbb" colours; null:
            0, 1, ...
        ignore_values: The values in the mask files that mean "not labelled"; null: 255, none for colours.
        colour_tolerance: For masks in colours, the allowed deviation of red, green and blue from a listed colour, as in JPEGs.
        fractions: For masks with one band per class that hold class fractions, the value of a whole pixel (1, 100, 255); null:
            masks hold labels.
        units: For a regression, the unit of each value, such as [m]; null: not known.
        range: For a regression, the smallest and the largest valid value; null: any finite value is valid.
        size: For centres, the side in pixels of objects that a vector file gives as points; null: not known.
    """

    task: str | None = None
    classes: list[str] | None = None
    palette: list[str] | None = None
    mask_values: list[Any] | None = None
    ignore_values: list[Any] | None = None
    colour_tolerance: int | None = None
    fractions: float | None = None
    units: list[str] | None = None
    range: list[float] | None = None
    size: float | None = None


@dataclass
class TargetConfig(TargetFacts):
    """A target of a dataset that has several, and its place in the source.

    Attributes:
        mask: For files, the pattern of their paths.
        attribute: For vector files, the attribute that holds a feature's mask value; null: the value is 1 for every feature.
        values: For vector files, the mask value of each value of the attribute, a mapping or a list such as ["house: 1"]; null:
            the attribute is an integer.
        layer: For vector files with several layers, the layer to read; null: the only one.
        buffer: For vector files, the distance in metres by which features are widened; null: they are not widened.
        threshold: For rasters, the value above which a pixel is 1, otherwise 0; null: values are not changed.
    """

    mask: str | None = None
    attribute: str | None = None
    values: Any = None
    layer: str | None = None
    buffer: float | None = None
    threshold: float | None = None


SHORT_FORM = tuple(item.name for item in fields(TargetFacts))  # the settings that a dataset with one target holds directly

FROM_FILES = tuple(item.name for item in fields(TargetConfig) if item.name not in SHORT_FORM)
"""The settings of a target that are passed to the source."""


def targets_of(dataset: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings of each target by name, from a dataset's plain node; the short form has one target.

    Example:
        >>> targets_of({"task": "binary", "classes": ["road"], "targets": {}})["mask"]["classes"]
        ['road']
    """
    several = dataset.get("targets") or {}
    if not several:
        return {ONE_TARGET: {name: dataset.get(name) for name in SHORT_FORM}}
    nodes = {name: node if isinstance(node, Mapping) else {} for name, node in several.items()}
    return {target: {name: node.get(name) for name in (*SHORT_FORM, *FROM_FILES)} for target, node in nodes.items()}


def tasks_of(dataset: Mapping[str, Any]) -> dict[str, Task]:
    """The task of each target of a dataset's plain node.

    Raises:
        InputError: If a task does not exist.
    """
    return {name: _task(name, target) for name, target in targets_of(dataset).items()}


def _task(name: str, target: Mapping[str, Any]) -> Task:
    if target["task"] is None or target["classes"] is None:
        raise InputError(f"target {name} has no task, or no classes")
    return make_task(target["task"], target["classes"], target.get("fractions") is not None, target.get("units"), name)


def heads_of(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The plain nodes of a config's heads by name, each with the `target` that it learns and its `weight`.

    A head learns the target of its name, or the only one. The default config's head, ``mask``, is dropped if the dataset has
    several targets of other names.
    """
    targets, heads = list(targets_of(config["dataset"])), {}
    for name, node in config["model"]["heads"].items():
        given = node if isinstance(node, Mapping) else {}
        target = str(given.get("target") or (targets[0] if len(targets) == 1 else name))
        if name == ONE_TARGET and len(targets) > 1 and name not in targets and not given.get("target"):
            continue
        heads[name] = {"weight": 1.0, **given, "target": target}
    return heads


def target_faults(dataset: Mapping[str, Any]) -> list[str]:
    """The faults of a dataset's targets, one sentence each."""
    targets, several = targets_of(dataset), dataset.get("targets") or {}
    faults = []
    for name in SHORT_FORM if several else ():
        value = dataset.get(name)
        if value is not None and name != "task":  # the shipped configs name one
            faults.append(f"dataset.{name}={value} beside dataset.targets: a dataset has one form or the other; set it to null")
    for name, target in targets.items():
        absent = [key for key in ("task", "classes") if target[key] is None]
        found = [f"dataset.{key} is not set: give it as dataset.{key}=..." for key in absent]
        if not absent and isinstance(target["classes"], list):
            found = _faults(name, target)
        faults += [in_place(fault, place_of(dataset, name)) for fault in found]
    for name, node in several.items():
        where = f"dataset.targets.{name}"
        faults += _node_faults(where, node, TargetConfig, "{task: binary, classes: [road], mask: ...}")
        if not TARGET_NAME.fullmatch(name) or name in RESERVED:
            faults.append(f"{where}: a target is called by letters, digits and _, not {', '.join(RESERVED)}")
    known = {f"{name}/{label}" for name, target in targets.items() for label in target["classes"] or ()}
    for scene, labels in (dataset.get("unlabelled") or {}).items():
        faults += [
            f"dataset.unlabelled.{scene}: there is no class {label}{nearest(str(label), known)}"
            for label in labels
            if not any(full in known for full in full_names(str(label), targets))
        ]
    return faults


def place_of(dataset: Mapping[str, Any], target: str) -> str:
    """The dotted place of a target's settings in the config: under its name, or the dataset itself in the short form."""
    return f"dataset.targets.{target}" if dataset.get("targets") else "dataset"


def _node_faults(where: str, node: Any, kind: type[Any], example: str) -> list[str]:
    """The faults of a node: it is not a mapping, or has an unknown setting, or one of another type than in `kind`."""
    if not isinstance(node, Mapping):
        return [f"{where}={node}: a mapping such as {example} is expected"]
    known = [item.name for item in fields(kind)]
    unknown = [f"{where}.{key}: there is no such setting{nearest(str(key), known)}" for key in node if key not in known]
    try:
        OmegaConf.merge(OmegaConf.structured(kind), {key: value for key, value in node.items() if key in known})
    except OmegaConfBaseException as error:
        return [*unknown, f"{where}.{error.full_key}: {first_line(error)}"]
    return unknown


def full_names(label: str, targets: Mapping[str, Any]) -> list[str]:
    """The full names that a user's class name may mean: the name as given, or prefixed with each target."""
    return [label, *(f"{name}/{label}" for name in targets)]


def _faults(name: str, target: Mapping[str, Any]) -> list[str]:
    """The faults of a target, with the names of the short form."""
    try:
        task = _task(name, target)
    except InputError as error:
        return [f"dataset.task={target['task']}: {error}"]
    palette, fractions = target.get("palette"), target.get("fractions")
    faults = task.faults(target.get("mask_values"), palette)
    faults += [
        f"dataset.classes holds {label}: YAML takes yes, no, on and off for true and false; write them in quotes"
        for label in target["classes"]
        if str(label) in ("True", "False")
    ]
    if fractions is not None and not 0 < fractions < math.inf:
        faults.append(f"dataset.fractions={fractions:g}: the value of a whole pixel has to be above 0")
    both = [name for name in ("mask_values", "ignore_values") if fractions is not None and target.get(name)]
    faults += [f"dataset.fractions={fractions:g}: masks hold class shares or labels; set dataset.{name}=null" for name in both]
    return faults + [f"dataset.palette: {c} is no colour such as #ff8000" for c in palette or () if not COLOUR.fullmatch(c)]


def head_faults(config: Mapping[str, Any]) -> list[str]:
    """The faults of a config's heads, one sentence each."""
    targets, heads = targets_of(config["dataset"]), heads_of(config)
    faults = []
    for name, head in heads.items():
        where, node = f"model.heads.{name}", config["model"]["heads"][name]
        faults += _node_faults(where, node, HeadConfig, "{loss: ${loss}}")
        if head["target"] not in targets:
            faults.append(no_such_target(name, head["target"], targets))
        if isinstance(node, Mapping) and not has_loss(head):
            faults.append(
                f"{where} has no loss with terms: found {node}; write {where}={{loss: ${{loss}}}}, or "
                f"+loss@{where}.loss=ce_dice"
            )
        weight = head["weight"]
        if not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            faults.append(f"{where}.weight={weight}: a number of 0 or more is expected")
    if not any(head["weight"] for head in heads.values()):
        some = ", ".join(f"{name}: {{loss: ...}}" for name in targets)
        faults.append(f"model.heads names no head with a weight above 0, such as {{{some}}}: nothing is learnt")
    return faults


def no_such_target(head: str, target: Any, targets: Collection[str]) -> str:
    """The message for a head whose target the dataset does not have."""
    return f"model.heads.{head}.target={target}{nearest(str(target), targets)}: the targets are {', '.join(targets)}"


def has_loss(head: Any) -> bool:
    """Whether a head of the model, a plain node, has a loss with terms."""
    loss = head.get("loss") if isinstance(head, Mapping) else None
    return isinstance(loss, Mapping) and isinstance(loss.get("terms"), Mapping)


def side_of_blocks(dataset: Mapping[str, Any]) -> int:
    """The side in pixels of the blocks that ``dataset.source.split`` cuts images into; 0: scenes are whole images.

    Example:
        >>> side_of_blocks({"source": {"split": {"blocks": 64, "train": 0.7, "val": 0.3}}}), side_of_blocks({"source": None})
        (64, 0)
    """
    source = dataset.get("source")
    split = source.get("split") if isinstance(source, Mapping) else None
    return int(split.get("blocks") or 0) if isinstance(split, Mapping) else 0
