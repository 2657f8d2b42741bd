"""A trained model as a folder that needs neither its run nor data: weights as safetensors, laid out as smp and the Hub do."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save

from rsseg.config.contents import OLD_KEYS
from rsseg.contract import InputError, first_line
from rsseg.files import atomic_write, file_error, read_json, write_json
from rsseg.inference.trained import Head, Spec, TrainedModel
from rsseg.models import Architecture
from rsseg.models.architecture import inference_state, load_inference_state
from rsseg.task import TASKS, Scaling

FORMAT = 1
"""The version of the content of `ABOUT`."""

ABOUT, WEIGHTS, SMP = "rsseg.json", "model.safetensors", "config.json"
"""The files of an exported folder: rsseg's description, the weights, and smp's description."""

ITEM = "stac.json"
"""The STAC item, which marks a folder as one with exports and names their model."""

AGAIN = "copy the folder again, or export the run again: rsseg export run=<run folder> to=folder"


def check_folder(folder: Path, title: str) -> None:
    """Refuse a folder that holds anything but exports of the model of this name; the folder need not exist."""
    if folder.is_file():
        raise InputError(f"out={folder} is a file: give a folder")
    if folder.is_dir() and any(folder.iterdir()):
        found = read_json(folder / ITEM).get("id") if (folder / ITEM).is_file() else "other files than an export"
        if found != title:
            raise InputError(f"out={folder} holds {found}, and {title} is to be exported: give a new folder")


def export_folder(model: TrainedModel, architecture: Architecture, folder: Path) -> None:
    """Write weights, architecture and spec; ``rsseg.json`` is written last: its presence means that the folder is complete."""
    for name in (ABOUT, SMP):
        try:
            (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise file_error(folder / name, error) from None
    network: Any = model.network
    with atomic_write(folder / WEIGHTS) as part:  # as bytes: safetensors would let nobody else read its file
        part.write_bytes(
            save({name: weight.cpu().clone() for name, weight in inference_state(network).items()}, {"format": "pt"})
        )
    if architecture.plain_smp:
        write_json(folder / SMP, {**network.net.config, "_model_class": architecture.net})
    about = {
        "format": FORMAT,
        "rsseg": version("rsseg"),
        "weights": {"file": WEIGHTS, "sha256": _digest(folder / WEIGHTS)},
        "network": architecture.record(),
        "spec": spec_record(model.spec),
    }
    write_json(folder / ABOUT, about)


def load_exported(folder: Path) -> TrainedModel:
    """The model of a folder that `export_folder` has written.

    Nothing is unpickled, and no class is made but those of smp, whatever the folder says.

    Raises:
        InputError: If files are missing, damaged, or of another version, or the weights do not fit.
    """
    path, weights = folder / ABOUT, folder / WEIGHTS
    for file in (path, weights):
        if not file.is_file():
            raise InputError(f"{folder} is no exported folder: it has no {file.name}; {AGAIN}")
    about = read_json(path)
    if about.get("format") != FORMAT:
        found = about.get("format")
        raise InputError(f"{path} is of format {found}, and this version of rsseg reads format {FORMAT}: {AGAIN}")
    try:
        if about["weights"]["sha256"] != _digest(weights):
            raise ValueError(f"the check sum of {WEIGHTS} is another")
        spec, architecture = _read_spec(about["spec"], str(folder)), Architecture.read(about["network"])
        tasks = {name: head.task for name, head in spec.heads.items()}
        if list(tasks) != list(architecture.heads) or len(spec.bands) != architecture.bands:
            raise ValueError("heads or bands of network and spec differ")
        network = architecture.build(tasks)
        load_inference_state(network, load_file(weights))
        return TrainedModel(network, spec)
    except Exception as error:  # smp, timm and safetensors raise anything
        said = f"it lacks {error}" if isinstance(error, KeyError) else first_line(error)[:200]
        raise InputError(f"{path} can't be used ({said}): {AGAIN}") from None


def _digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def spec_record(spec: Spec) -> dict[str, Any]:
    """A spec as plain values, without its name, which is that of a folder."""
    heads = {
        name: {
            "task": {"kind": head.task.kind, **asdict(head.task)},
            "palette": head.palette,
            "threshold": head.threshold,
            "scaling": {kind: asdict(own) for kind, own in head.scaling.items()},
        }
        for name, head in spec.heads.items()
    }
    rest = {item.name: getattr(spec, item.name) for item in fields(Spec) if item.name not in ("name", "heads")}
    return {"heads": heads, **rest}


def _read_spec(saved: Mapping[str, Any], name: str) -> Spec:
    """The spec of this name that `spec_record` gave; `KeyError`, `TypeError` or `ValueError` if something is wrong."""
    saved = {OLD_KEYS.get(key, key): value for key, value in saved.items()}
    heads = {head: _read_head(own) for head, own in saved["heads"].items()}
    spec = Spec(**{**_with_tuples(saved), "name": name, "heads": heads})
    if not heads or not spec.bands or not len(spec.bands) == len(spec.mean) == len(spec.std) or min(spec.std) <= 0:
        raise ValueError(f"{len(heads)} heads, {len(spec.bands)} bands, {len(spec.mean)} means, {len(spec.std)} deviations")
    return spec


def _read_head(saved: Mapping[str, Any]) -> Head:
    """A head of `spec_record`."""
    said = _with_tuples(saved["task"])
    task = TASKS[said.pop("kind")](**said)
    if faults := task.faults():
        raise ValueError(faults[0])
    fitted = {kind: Scaling(**_with_tuples(own)) for kind, own in saved["scaling"].items()}
    head = Head(**{**_with_tuples(saved), "task": task, "scaling": fitted})
    lists = [head.threshold, *(side for own in fitted.values() for side in (own.scale, own.shift))]
    if any(each is not None and len(each) != task.channels for each in lists):
        raise ValueError(f"a head of {task.channels} classes has thresholds or scalings of another number")
    return head


def _with_tuples(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a dataclass, as JSON gave them, with tuples in place of lists."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in saved.items()}
