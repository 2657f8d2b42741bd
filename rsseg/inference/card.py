"""The descriptions of an export: a model card, and a STAC item.

The card states training data, scores with their intervals, and use. By the item, which has the MLM extension, catalogues find
models and their inputs and outputs.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined

from rsseg.comparison.intervals import estimate, sum_groups
from rsseg.comparison.measures import Measure, measures, of_metric
from rsseg.comparison.records import Records
from rsseg.comparison.words import of_blocks
from rsseg.contract import ENOUGH_GROUPS, counted
from rsseg.inference.export import ABOUT, SMP, WEIGHTS
from rsseg.inference.trained import Head, Spec
from rsseg.metrics import metrics
from rsseg.task import Task


@dataclass(frozen=True)
class CardFacts:
    """The facts of a model for the card and the STAC item."""

    spec: Spec  # the description of the model
    title: str  # its name
    architecture: str  # its decoder
    encoder: str  # its encoder
    parameters: int  # the number of its weights
    made: str  # when it was made, RFC 3339
    dataset: str  # the dataset's name
    losses: Mapping[str, str]  # by head, its loss in words
    steps: int | None  # optimiser steps; None: not known
    scenes: Mapping[str, Sequence[str]]  # by split, the names of its scenes
    groups: Mapping[str, Sequence[str]]  # by split, the independent area of each scene
    records: Mapping[tuple[str, str], Records]  # by head and split, if they exist
    without: Mapping[str, Sequence[str]]  # by head, the classes that means leave out
    files: Sequence[str]  # the names of the exported files
    blocks: int = 0  # the side in pixels of the blocks that images are cut into as scenes; 0: scenes are whole images
    licence: str = ""  # an SPDX identifier; empty: not known


def model_card(facts: CardFacts) -> str:
    """The card in Markdown, with the front matter of the Hub; ``card.md.jinja`` is its text."""
    spec = facts.spec
    areas = {split: set(facts.groups.get(split, names)) for split, names in facts.scenes.items()}
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters["escaped"] = _escaped
    template = environment.from_string(Path(__file__).with_name("card.md.jinja").read_text(encoding="utf-8"))
    heads = [f"{name} ({head.task.kind}: {', '.join(head.task.classes)})" for name, head in spec.heads.items()]
    return template.render(
        facts=facts,
        spec=spec,
        ABOUT=ABOUT,
        SMP=SMP,
        WEIGHTS=WEIGHTS,
        predicted="; ".join(heads),
        shared=len(areas.get("train", set()) & areas.get("val", set())),
        splits=[(split, len(names), len(areas[split])) for split, names in facts.scenes.items()],
        bands=[(band, f"{mean:.6g}", f"{std:.6g}") for band, mean, std in zip(spec.bands, spec.mean, spec.std, strict=True)],
        heads=[_head_row(name, head, facts.losses[name]) for name, head in spec.heads.items()],
        scores=[_scores(facts, name, split) for name, split in facts.records],
        areas=len(set(facts.groups.get("val", ()))),
        of_blocks=of_blocks(facts.blocks) if facts.blocks else "",
        scaled=any(head.scaling for head in spec.heads.values()),
    )


def _head_row(name: str, head: Head, loss: str) -> tuple[str, ...]:
    """A row of the table of heads: the head's training, thresholds and scores."""
    tuned = [f"{label} {value:.3g}" for label, value in zip(head.task.classes, head.threshold or (), strict=False)]
    return name, loss, head.task.untuned, ", ".join(tuned) or "-", ", ".join(head.scaling) or "-"


def _scores(facts: CardFacts, name: str, split: str) -> tuple[str, list[tuple[str, str, str]]]:
    """The scope of a head's scores on a split, and rows of means, calibration and classes with intervals, as text."""
    records, kind, rows = facts.records[name, split], "area" if facts.blocks else "independent area", []
    areas = len(set(records.groups))
    said = f"Head `{name}`, {split}: {counted(len(records.scenes), 'scene')} in {counted(areas, kind)}."
    if split == "val" and areas > 1:
        said += " Each half of them is scored by the checkpoint, and the thresholds, that the other half chose."
    elif split == "val":
        said += " They chose the checkpoint, so that scores are too good."
    if areas < ENOUGH_GROUPS:
        said += f" There are no intervals: fewer than {ENOUGH_GROUPS} areas are too few for reliable ones."
    else:
        others = "parts of these images" if facts.blocks else "areas like these"
        said += f" Intervals are of other {others} (Bayesian bootstrap over areas); other seeds are not in them."
    for measure in _shown(records.task, facts.without.get(name, ())):
        value, low, high = interval(records, measure)
        if not np.isnan(value):
            known = areas >= ENOUGH_GROUPS and not np.isnan(low)
            rows.append((measure.heading, f"{value:.4g}", f"{low:.4g} to {high:.4g}" if known else "-"))
    return said, rows


def _shown(task: Task, without: Sequence[str]) -> list[Measure]:
    """The scores of a card: means, calibration, tuned, and the first score of each class."""
    known, found = metrics(task, without), list(measures(task, without).values())
    if not task.real:
        found.append(of_metric(known[task.score], task.score, f"{task.score_name} at tuned {task.all_tuned}"))
    classes = [label for label in task.classes if f"{task.score}/{label}" in known and task.channels > 1]
    return found + [of_metric(known[f"{task.score}/{label}"], label=f"{task.score_name} of {label}") for label in classes]


def interval(records: Records, measure: Measure) -> tuple[float, float, float]:
    """A score of one run, and the ends of its 95 % interval over other areas; NaN where they are not known.

    The interval is that of comparisons, with the run as two seeds with equal scores, so that all variance is between areas.
    """
    sums = measure.sums(records)
    if sums is None or np.isnan(sums).any():
        return (np.nan,) * 3
    areas = sum_groups(sums, records.groups)
    return estimate(np.stack([areas, areas])[None], measure).score.at(0)


def _escaped(text: object) -> str:
    r"""A text with the special characters of Markdown and HTML escaped.

    Example:
        >>> _escaped("a|b <i> 3")
        'a\\|b &lt;i&gt; 3'
    """
    return re.sub(r"([|*_`\\[\]$~])", r"\\\1", html.escape(" ".join(str(text).split()), quote=False))


MLM = "https://stac-extensions.github.io/mlm/v1.5.2/schema.json"
"""The version of the extension."""

TASKS = {"regression": "regression", "detection": "object-detection"}
"""The extension's names of tasks by `Task.subject`; tasks with labels are ``semantic-segmentation``."""

PROBABILITIES = "from stored pixels to probabilities, or values"
ARTIFACTS = {
    ".safetensors": ("safetensors.torch.save_file", "pytorch", "from normalised pixels to logits"),
    ".onnx": ("onnx", "onnx", PROBABILITIES),
    ".pt2": ("torch.export.save", "pytorch", PROBABILITIES),
}
"""The roles of a file for the extension by suffix: its framework, and the source it is computed from."""


def item_id(title: str) -> str:
    """A model's name, reduced to the characters that the extension allows.

    Example:
        >>> item_id("loss=dice,seed=1"), item_id("2026-11-29_16-32")
        ('loss-dice-seed-1', 'rsseg-2026-11-29_16-32')
    """
    name = re.sub(r"[^a-zA-Z0-9_.-]", "-", title).strip("_.-")
    return name if name[:1].isalpha() and len(name) > 2 else f"rsseg-{name or 'model'}"


def stac_item(facts: CardFacts) -> dict[str, Any]:
    """The item of exported files as plain values. It has no geometry, because the area where a model is valid is not known."""
    spec, name, outputs = facts.spec, item_id(facts.title), facts.spec.heads.items()
    scaling = [{"type": "z-score", "mean": mean, "stddev": std} for mean, std in zip(spec.mean, spec.std, strict=True)]
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [MLM],
        "id": name,
        "geometry": None,
        "properties": {
            "datetime": facts.made,
            **({"license": facts.licence} if facts.licence else {}),
            **({"gsd": spec.resolution} if spec.resolution is not None else {}),
            "bands": [{"name": str(band)} for band in spec.bands],  # the extension asks for those that its input names
            "mlm:name": name,
            "mlm:architecture": f"{facts.architecture}, encoder {facts.encoder}",
            "mlm:framework": "PyTorch",
            "mlm:tasks": sorted({_task(head) for _, head in outputs}),
            "mlm:total_parameters": facts.parameters,
            "mlm:input": [
                {
                    "name": "pixels",
                    "description": f"stored pixels, {spec.dtype}; where weights alone are used, they are scaled before",
                    "bands": [str(band) for band in spec.bands],
                    "input": _array("bands", len(spec.bands), spec.window),
                    "value_scaling": scaling,
                }
            ],
            "mlm:output": [_output(name, head, spec.window) for name, head in outputs],
        },
        "links": [],
        "assets": {name: _asset(name) for name in facts.files if Path(name).suffix in ARTIFACTS},
    }


def _array(dimension: str, length: int, side: int) -> dict[str, Any]:
    """The array of windows, or of their predictions."""
    return {"shape": [-1, length, side, side], "dim_order": ["batch", dimension, "height", "width"], "data_type": "float32"}


def _task(head: Head) -> str:
    return TASKS.get(head.task.subject, "semantic-segmentation")


def _output(name: str, head: Head, side: int) -> dict[str, Any]:
    """The output of a head."""
    task = head.task
    classes = [
        {"value": c, "name": re.sub(r"[^0-9A-Za-z_-]", "-", label), "description": label}
        for c, label in enumerate(() if task.real else task.classes)
    ]
    result = _array("channel" if task.real else "class", task.outputs, side)
    return {"name": name, "tasks": [_task(head)], "result": result, "classification:classes": classes}


def _asset(name: str) -> dict[str, Any]:
    """The asset of a file."""
    kind, framework, what = ARTIFACTS[Path(name).suffix]
    return {
        "href": f"./{name}",
        "type": f"application/octet-stream; framework={framework}",
        "description": what,
        "roles": ["mlm:model", *(["mlm:weights"] if name == WEIGHTS else []), "data"],
        "mlm:artifact_type": kind,
    }
