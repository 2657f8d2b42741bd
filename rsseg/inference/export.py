"""A trained model as a folder that needs neither its run nor data: weights as safetensors, laid out as smp and the Hub do."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from rsseg.contract import InputError
from rsseg.files import atomic_write, file_error, read_json, write_json
from rsseg.inference.trained import Head, Spec, TrainedModel
from rsseg.models import Architecture
from rsseg.models.architecture import inference_state, load_inference_state
from rsseg.task import TASKS, Scaling, Task

FORMAT = 1
"""The version of what `ABOUT` holds."""

ABOUT, WEIGHTS, SMP = "rsseg.json", "model.safetensors", "config.json"
"""The files of an exported folder: what rsseg needs, the weights, and what smp needs."""

ITEM = "stac.json"
"""The STAC item, which says that a folder holds exports."""

AGAIN = "export the run again: rsseg export run=<run folder> to=folder"


def check_folder(folder: Path, title: str) -> None:
    """Refuse a folder that holds something else than exports of the model of this name; it may not be there yet."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"out={folder} is a file: give a folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / ITEM).is_file():
        raise InputError(f"out={folder} holds other files than an export: give a new folder")
    if (name := read_json(folder / ITEM).get("id")) != title:
        raise InputError(f"out={folder} holds the export of another model, {name}: give a new folder")


def export_folder(model: TrainedModel, architecture: Architecture, folder: Path) -> None:
    """Write weights, architecture and spec; ``rsseg.json`` comes last, so that its presence means a whole folder."""
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
        "weights": {"file": WEIGHTS, "sha256": digest(folder / WEIGHTS)},
        "network": architecture.record(),
        "spec": spec_record(model.spec),
    }
    write_json(folder / ABOUT, about)


def load_exported(folder: Path, scaling: str = "none") -> TrainedModel:
    """The model of a folder that `export_folder` has written.

    Nothing is unpickled, and no class is made but those of smp, whatever the folder says.

    Raises:
        InputError: If files are missing, damaged, or of another version, or the weights do not fit.
    """
    path = folder / ABOUT
    if not path.is_file():
        raise InputError(f"{folder} is no exported folder: it has no {ABOUT}; {AGAIN}")
    about = read_json(path)
    if about.get("format") != FORMAT:
        found = about.get("format")
        raise InputError(f"{path} is of format {found}, and this version of rsseg reads format {FORMAT}: {AGAIN}")
    state = _read_weights(folder, about)
    try:
        spec, architecture = _read_spec(about["spec"], str(folder)), Architecture.read(about["network"])
        tasks = {name: head.task for name, head in spec.heads.items()}
        if list(tasks) != list(architecture.heads) or len(spec.bands) != architecture.bands:
            raise ValueError("heads or bands of network and spec differ")
        network = architecture.build(tasks)
        load_inference_state(network, state)
    except Exception as error:  # smp and timm raise anything over arguments
        said = f"it lacks {error}" if isinstance(error, KeyError) else str(error).partition("\n")[0][:200]
        raise InputError(f"{path} can't be used ({said}): {AGAIN}") from None
    return TrainedModel(network, spec, scaling)


def _read_weights(folder: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """The weights of an exported folder, after a check of their SHA-256."""
    path, stated = folder / WEIGHTS, about.get("weights")
    if not path.is_file():
        raise InputError(f"{folder} has no {WEIGHTS}: copy the folder whole, or {AGAIN}")
    try:
        if not isinstance(stated, dict) or digest(path) != stated.get("sha256"):
            raise InputError(f"{path} is damaged (its check sum is not that of {ABOUT}): copy it again, or {AGAIN}")
        return load_file(path)
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror or error}") from None
    except SafetensorError as error:
        raise InputError(f"{path} is damaged ({error}): copy it again, or {AGAIN}") from None


def digest(path: Path) -> str:
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
    spec: Spec = _read(Spec, saved, name=name, heads={head: _read_head(own) for head, own in saved["heads"].items()})
    heads, bands, mean, std = spec.heads, spec.bands, spec.mean, spec.std
    if not heads or not bands or not len(bands) == len(mean) == len(std) or min(std) <= 0:
        raise ValueError(f"{len(heads)} heads, {len(bands)} bands, {len(mean)} means and {len(std)} deviations")
    return spec


def _read_head(saved: Mapping[str, Any]) -> Head:
    task: Task = _read(TASKS[saved["task"]["kind"]], saved["task"])
    if faults := task.faults():
        raise ValueError(faults[0])
    fitted = {kind: _read(Scaling, own) for kind, own in saved["scaling"].items()}
    head: Head = _read(Head, saved, task=task, scaling=fitted)
    lists = [head.threshold, *(side for own in fitted.values() for side in (own.scale, own.shift))]
    if any(each is not None and len(each) != task.channels for each in lists):
        raise ValueError(f"a head of {task.channels} classes has thresholds or scalings of another number")
    return head


def _read(kind: Any, saved: Mapping[str, Any], **given: Any) -> Any:
    """A dataclass of plain values by its fields' types, of those that are not given."""
    types = get_type_hints(kind)
    names = [item.name for item in fields(kind) if item.name not in given]
    return kind(**given, **{name: _convert(types[name], saved[name]) for name in names})


def _convert(kind: Any, value: Any) -> Any:
    """A plain value as what a field of this type holds: a number, a text, a tuple of them, or perhaps None."""
    if get_origin(kind) is UnionType:
        return None if value is None else _convert(get_args(kind)[0], value)
    if get_origin(kind) is tuple:
        return tuple(_convert(get_args(kind)[0], each) for each in value)
    return kind(value)
