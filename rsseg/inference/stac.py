"""A STAC item of exported files with the MLM extension, by which catalogues find models and state their inputs and outputs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from rsseg.inference.card import CardFacts
from rsseg.inference.export import WEIGHTS
from rsseg.inference.trained import Head

MLM = "https://stac-extensions.github.io/mlm/v1.5.2/schema.json"
"""The version of the extension."""

TASKS = {"regression": "regression", "centres": "object-detection"}
"""The extension's names of tasks by rsseg's; tasks with labels are ``semantic-segmentation``."""

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
    return TASKS.get(head.task.kind, "semantic-segmentation")


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
