"""A STAC item of exported files with the MLM extension, by which catalogues find models and say what they take and give."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rsseg.inference.card import Facts
from rsseg.inference.export import WEIGHTS, digest
from rsseg.inference.trained import Head
from rsseg.pictures.colours import colours

MLM = "https://stac-extensions.github.io/mlm/v1.5.2/schema.json"
"""The version of the extension."""

FILE = "https://stac-extensions.github.io/file/v2.1.0/schema.json"

TASKS = {"regression": "regression", "centres": "object-detection"}
"""The extension's names of tasks by rsseg's; of labels ``semantic-segmentation``."""

ARTIFACTS = {
    ".safetensors": (
        "safetensors.torch.save_file",
        "application/octet-stream; framework=pytorch",
        "normalised pixels to logits",
    ),
    ".onnx": ("onnx", "application/octet-stream; framework=onnx", "stored pixels to probabilities, or values"),
    ".pt2": ("torch.export.save", "application/octet-stream; framework=pytorch", "stored pixels to probabilities, or values"),
}
"""By suffix, what a file is to the extension, its media type, and what is computed from what."""


def item_id(title: str) -> str:
    """A model's name with the signs that the extension allows.

    Example:
        >>> item_id("loss=dice,seed=1"), item_id("2026-11-29_16-32")
        ('loss-dice-seed-1', 'rsseg-2026-11-29_16-32')
    """
    name = re.sub(r"[^a-zA-Z0-9_.-]", "-", title).strip("_.-")
    return name if name[:1].isalpha() and len(name) > 2 else f"rsseg-{name or 'model'}"


def stac_item(facts: Facts, folder: Path) -> dict[str, Any]:
    """The item of what lies in a folder, plain values. It has no geometry: where a model may be used is not known."""
    spec, name = facts.spec, item_id(facts.title)
    size, bands = [spec.window] * 2, [str(band) for band in spec.bands]
    given = {
        "name": "pixels",
        "description": f"stored pixels, {spec.dtype or 'as in training'}; where weights alone are used, they are scaled before",
        "bands": bands,
        "input": {
            "shape": [-1, len(bands), *size],
            "dim_order": ["batch", "bands", "height", "width"],
            "data_type": "float32",
        },
        "value_scaling": [
            {"type": "z-score", "mean": mean, "stddev": std} for mean, std in zip(spec.mean, spec.std, strict=True)
        ],
        "resize_type": None,
    }
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [MLM, FILE],
        "id": name,
        "geometry": None,
        "properties": {
            "datetime": facts.made,
            **({"license": facts.licence} if facts.licence else {}),
            **({"gsd": spec.resolution} if spec.resolution is not None else {}),
            "bands": [{"name": band} for band in bands],
            "mlm:name": name,
            "mlm:architecture": f"{facts.architecture}, encoder {facts.encoder}",
            "mlm:framework": "PyTorch",
            "mlm:framework_version": version("torch"),
            "mlm:tasks": sorted({_task(head) for head in spec.heads.values()}),
            "mlm:total_parameters": facts.parameters,
            "mlm:batch_size_suggestion": spec.batch_size,
            "mlm:input": [given],
            "mlm:output": [_output(name, head, size) for name, head in spec.heads.items()],
        },
        "links": [],
        "assets": {name: _asset(folder / name) for name in facts.files if Path(name).suffix in ARTIFACTS},
    }


def _task(head: Head) -> str:
    return TASKS.get(head.task.kind, "semantic-segmentation")


def _output(name: str, head: Head, size: Sequence[int]) -> dict[str, Any]:
    """What a head gives."""
    task = head.task
    shades = [] if task.real else colours(task, head.palette)[-task.channels :]
    classes = [
        {"value": c, "name": re.sub(r"[^0-9A-Za-z_-]", "-", label), "description": label, "color_hint": shade[1:].upper()}
        for c, (label, shade) in enumerate(zip(task.classes, shades, strict=False))
    ]
    return {
        "name": name,
        "description": f"{task.kind}: {', '.join(task.classes)}",
        "tasks": [_task(head)],
        "result": {
            "shape": [-1, task.outputs, *size],
            "dim_order": ["batch", "channel" if task.real else "class", "height", "width"],
            "data_type": "float32",
        },
        "classification:classes": classes,
    }


def _asset(path: Path) -> dict[str, Any]:
    """A file; its multihash says that it is SHA-256, of 32 bytes."""
    kind, media, what = ARTIFACTS[path.suffix]
    roles = ["mlm:model", *(["mlm:weights"] if path.name == WEIGHTS else []), "data"]
    return {
        "href": f"./{path.name}",
        "type": media,
        "title": path.name,
        "description": f"from {what}",
        "roles": roles,
        "mlm:artifact_type": kind,
        "file:size": path.stat().st_size,
        "file:checksum": f"1220{digest(path)}",
    }
