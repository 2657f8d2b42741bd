"""The model card of an export: what a model was trained on, how good it is and how surely, and how it is used."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rsseg.compare.inference import estimate, sum_groups
from rsseg.compare.measures import Measure, calibration_measures, measures, of_metric
from rsseg.compare.records import Records
from rsseg.inference.export import ABOUT, SMP, WEIGHTS
from rsseg.inference.trained import Spec
from rsseg.metrics import metrics

NO_LICENCE = (
    "Not stated. Fill it in before you share the model: the licences of images, labels and pretrained weights may bind it. "
    "`licence=` of `scripts/export.py` writes it here and into `stac.json`."
)

FEW = 5
"""With fewer independent areas an interval says little."""


@dataclass(frozen=True)
class Facts:
    """What the card and the STAC item say of a model.

    Attributes:
        spec: The model's.
        title: What it is called.
        architecture: Its decoder.
        encoder: Its encoder.
        parameters: The number of its weights.
        made: When it was made, RFC 3339.
        dataset: The dataset's name.
        losses: By head, its loss in words.
        steps: Optimiser steps; None: not known.
        scenes: By split, the names of its scenes.
        groups: By split, the independent area of each scene.
        records: By head and split, what the scores are made of; those that there are.
        without: By head, the classes that means leave out.
        files: The names of the exported files.
        licence: An SPDX identifier; empty: not known.
    """

    spec: Spec
    title: str
    architecture: str
    encoder: str
    parameters: int
    made: str
    dataset: str
    losses: Mapping[str, str]
    steps: int | None
    scenes: Mapping[str, Sequence[str]]
    groups: Mapping[str, Sequence[str]]
    records: Mapping[tuple[str, str], Records]
    without: Mapping[str, Sequence[str]]
    files: Sequence[str]
    licence: str = ""


def model_card(facts: Facts) -> str:
    """The card in Markdown, with the front matter of the Hub."""
    spec = facts.spec
    network = f"{facts.architecture} with encoder {facts.encoder} ({facts.parameters / 1e6:.1f} M weights)"
    heads = [f"{name} ({head.task.kind}: {', '.join(head.task.classes)})" for name, head in spec.heads.items()]
    blocks = [
        _front_matter(facts),
        f"# {escaped(facts.title)}",
        escaped(f"{network}, trained with rsseg on {facts.dataset}. It predicts {'; '.join(heads)}."),
        "## Data",
        *_data(facts),
        "## Input",
        *_input(spec),
        "## Training",
        *_training(facts),
        "## Scores",
        *_scores(facts),
        "## What it was not tried on",
        *_limits(facts),
        "## Use",
        *_use(facts),
        "## Licence",
        facts.licence or NO_LICENCE,
    ]
    return "\n\n".join(blocks) + "\n"


def _front_matter(facts: Facts) -> str:
    library = "segmentation-models-pytorch" if SMP in facts.files else "rsseg"
    tags = ["remote-sensing", "semantic-segmentation", "rsseg"]
    lines = [
        f"license: {facts.licence.lower() or 'unknown'}",
        f"library_name: {library}",
        "pipeline_tag: image-segmentation",
        "tags:",
    ]
    return "\n".join(["---", *lines, *(f"- {tag}" for tag in tags), "---"])


def _data(facts: Facts) -> list[str]:
    areas = {split: set(facts.groups.get(split, names)) for split, names in facts.scenes.items()}
    both = len(areas.get("train", set()) & areas.get("val", set()))
    shared = f"{both or 'no'} {_noun(max(both, 1), 'area')} {'are' if both > 1 else 'is'} in both training and validation"
    rows = [[split, len(names), len(areas[split])] for split, names in facts.scenes.items()]
    table = markdown_table(["split", "scenes", "independent areas"], rows)
    return [f"Dataset {facts.dataset}; {shared}. An area is a tile, a town or a flight strip, or one scene.", table]


def _input(spec: Spec) -> list[str]:
    resolution = "not known, or different from scene to scene" if spec.resolution is None else f"{spec.resolution:g} m"
    lines = [
        f"- Pixels: {spec.dtype or 'dtype not known'}, bands {', '.join(map(str, spec.bands))} of a scene, in this order",
        f"- Pixel size on the ground: {resolution}",
        f"- Windows: {spec.window} x {spec.window} pixels; {spec.overlap} at each border are less sure and were not scored",
        "- Normalised: mean subtracted, then divided by the deviation, of each band",
    ]
    if spec.nodata is not None:
        lines.append(f"- No data: {spec.nodata:g}, where a file does not say")
    rows = [[band, f"{mean:.6g}", f"{std:.6g}"] for band, mean, std in zip(spec.bands, spec.mean, spec.std, strict=True)]
    return ["\n".join(lines), markdown_table(["band", "mean", "deviation"], rows)]


def _training(facts: Facts) -> list[str]:
    rows = []
    for name, head in facts.spec.heads.items():
        values = zip(head.task.classes, head.threshold or (), strict=head.threshold is not None)
        tuned, scaled = ", ".join(f"{label} {value:.3g}" for label, value in values), ", ".join(head.scaling)
        rows.append([name, facts.losses[name], head.task.untuned, tuned or "-", scaled or "-"])
    steps = "" if facts.steps is None else f"{facts.steps} optimiser steps. "
    return [
        f"{steps}The checkpoint with the best validation score of the first head is exported.",
        markdown_table(["head", "loss", "labels by", "tuned, as logits", "fitted scaling of logits"], rows),
    ]


def _scores(facts: Facts) -> list[str]:
    blocks = []
    for (name, split), records in facts.records.items():
        areas = len(set(records.groups))
        said = f"Head `{name}`, {split}: {len(records.scenes)} scenes in {areas} independent {_noun(areas, 'area')}."
        if split == "val" and areas > 1:
            said += " Each half of them is scored by the checkpoint, and the thresholds, that the other half chose."
        elif split == "val":
            said += " They chose the checkpoint, so that scores are too good."
        if areas < FEW:
            said += f" So few areas say little of others{': there is no interval' if areas < 2 else ''}."
        rows = _interval_rows(records, facts.without.get(name, ()))
        blocks += [said, markdown_table(["score", "value", "95 % interval"], rows)]
    if not blocks:
        return ["Not known: the run was not recorded (`record.enabled=false`), or is not finished."]
    return [
        "Intervals are of other areas like these (Bayesian bootstrap over areas); what another seed would give is not in them.",
        *blocks,
    ]


def _interval_rows(records: Records, without: Sequence[str]) -> list[tuple[str, str, str]]:
    """Scores as texts with their intervals: means, calibration, tuned, and the first score of each class."""
    task, known = records.task, metrics(records.task, without)
    found = dict(measures(task, without))
    if not task.real:
        found |= calibration_measures(task)
        found["tuned"] = of_metric(known[task.score], task.score, f"{task.score_name} at tuned {task.all_tuned}")
    if task.channels > 1:
        found |= {
            label: of_metric(known[key], label=f"{task.score_name} of {label}")
            for label in task.classes
            if (key := f"{task.score}/{label}") in known
        }
    rows = []
    for measure in found.values():
        value, low, high = interval(records, measure)
        if not np.isnan(value):
            rows.append((measure.heading, f"{value:.4g}", "-" if np.isnan(low) else f"{low:.4g} to {high:.4g}"))
    return rows


def interval(records: Records, measure: Measure) -> tuple[float, float, float]:
    """A score of one run, and the ends of the interval that other areas would give; NaN where they are not known.

    It is that of comparisons, where the run stands for two seeds that agree: what is left of the variance is of the areas.
    """
    sums = measure.sums(records)
    if sums is None or np.isnan(sums).any():
        return (np.nan,) * 3
    areas = sum_groups(sums, records.groups)
    return estimate(np.stack([areas, areas])[None], measure).score.at(0)


def _limits(facts: Facts) -> list[str]:
    spec = facts.spec
    areas = len(set(facts.groups.get("val", ())))
    size = "another size" if spec.resolution is None else f"another size than {spec.resolution:g} m"
    kind = f"other number types than {spec.dtype or 'those of training'}"
    lines = [
        f"- Places unlike the {areas} {_noun(areas, 'area')} of the validation split",
        "- Seasons, sensors and light that the scenes of the dataset do not show",
        f"- Pixels of {size}, {kind}, other bands, or the same in another order or with another correction",
    ]
    if not any(split == "test" for _, split in facts.records):
        lines.append("- A test split: it was not scored (`scripts/evaluate.py split=test`)")
    if any(head.scaling for head in spec.heads.values()):
        lines.append("- Calibration beyond the validation scenes, which the scaling of logits was fitted on")
    return ["\n".join(lines)]


def _use(facts: Facts) -> list[str]:
    spec = facts.spec
    shape = f"[batch, {len(spec.bands)}, {spec.window}, {spec.window}]"
    scaled = any("temperature" in head.scaling for head in spec.heads.values())
    given = "probabilities, scaled by the fitted temperature," if scaled else "probabilities, or values,"
    blocks = []
    for file in facts.files:
        if file == ABOUT:
            blocks += ["Map a scene:", _code("sh", "python scripts/predict.py run=<this folder> scene=scene.tif")]
        elif file == SMP:
            said = (
                f"Without rsseg, `{WEIGHTS}` gives logits of normalised pixels, with mean and deviation of each band as above:"
            )
            load = "import segmentation_models_pytorch as smp", "model = smp.from_pretrained('<this folder>').eval()"
            blocks += [said, _code("python", *load, "logits = model((pixels - mean) / deviation)")]
        elif file.endswith(".onnx"):
            said = (
                f"`{file}` gives probabilities, or values, of stored pixels, float32 `{shape}`; QGIS maps with it by Deepness:"
            )
            load = "import onnxruntime", f"session = onnxruntime.InferenceSession('{file}')"
            blocks += [said, _code("python", *load, "outputs = session.run(None, {'pixels': pixels})")]
        elif file.endswith(".pt2"):
            said = f"`{file}` gives {given} by head, of the same pixels, with PyTorch alone:"
            load = "import torch", f"model = torch.export.load('{file}').module()"
            blocks += [said, _code("python", *load, "outputs = model(pixels)")]
    if ABOUT in facts.files and SMP not in facts.files:
        blocks.append(
            f"segmentation_models_pytorch alone can't load `{WEIGHTS}`: the network has several decoders, takes two dates or "
            "rebuilds the image. rsseg loads it, with `rsseg.inference.export.load_exported`."
        )
    return blocks


def _code(language: str, *lines: str) -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table in Markdown."""
    lines = [header, *rows]
    first, *others = (f"| {' | '.join(escaped(str(cell)) for cell in line)} |" for line in lines)
    return "\n".join([first, f"|{' --- |' * len(header)}", *others])


def escaped(text: str) -> str:
    r"""A text without what Markdown or HTML would take for a sign of theirs.

    Example:
        >>> escaped("a|b <i> 3")
        'a\\|b &lt;i&gt; 3'
    """
    return re.sub(r"([|*_`\\[\]$~])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def _noun(count: int, one: str) -> str:
    return one if count == 1 else f"{one}s"
