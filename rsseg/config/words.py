"""The words of a command line: the fault of each, and the word to write instead."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from rsseg.config.entry import invocation
from rsseg.config.schema import SCHEMAS, Config
from rsseg.contract import nearest

STEPS = (
    "steps=..., such as steps=2000: a run is counted in optimiser steps, each of batch_size windows drawn at random; an "
    "epoch, windows that together hold as many pixels as the training split, is pixels / (window * window * batch_size) steps"
)
GONE = "nothing: this setting is gone"
AT_ONCE = "nothing: a search runs a trial at a time; start the same command again beside it to run two at once"

ELSEWHERE = {
    "optimizer=": "optim",
    "optimizer.lr=": "lr learning_rate base_lr max_lr",
    "optimizer.weight_decay=": "weight_decay wd",
    "optimizer.encoder_lr=": "encoder_lr encoder_lr_factor backbone_lr_mult",
    "optimizer.momentum=": "momentum",
    "scheduler=": "lr_scheduler schedule",
    "batch_size=": "batch bs train_batch_size",
    "window=": "crop_size patch_size chip_size tile_size image_size img_size input_size size",
    "margin=": "overlap",
    "workers=": "num_workers n_workers",
    "cache=": "residence",
    "on_bad_scene=": "on_bad_tile",
    "seed=": "random_seed manual_seed random_state",
    "output=": "output_dir out out_dir save_dir log_dir work_dir default_root_dir",
    "resume=": "ckpt_path ckpt checkpoint resume_from resume_from_checkpoint",
    "model=": "arch architecture network",
    "model.encoder=": "encoder backbone encoder_name",
    "model.weights=": "encoder_weights weights",
    "model.weights=imagenet": "pretrained",
    "model.freeze=[encoder]": "freeze freeze_backbone freeze_encoder",
    "model.dropout=": "dropout",
    "loss=": "criterion loss_fn losses",
    "loss.terms.<term>.weight=": "loss_weight loss.weight",
    "loss.terms.<term>.class_weights=": "class_weights",
    "augment=": "augmentation augmentations transforms transform aug",
    "dataset=": "data datamodule",
    "dataset.source.root=": "root data_root data_dir data_path dataset_root",
    "dataset.task=": "task",
    "dataset.classes=[...]": "classes num_classes n_classes class_names",
    "dataset.bands=[...]": "bands in_channels channels",
    "dataset.ignore_values=[...]": "ignore_index ignore_label",
    "dataset.fold=": "dataset.source.fold",
    "dataset.fold=2/5: the second of five folds validates": "dataset.folds dataset.source.folds",
    "trainer=gpu": "gpu cuda device accelerator",
    "trainer=ddp trainer.devices=": "gpus devices num_gpus n_gpus num_devices",
    "trainer.precision=": "precision",
    "trainer.precision=bf16-mixed": "amp fp16 bf16",
    "trainer.accumulate_grad_batches=": "accumulate_grad_batches accumulation_steps",
    "trainer.gradient_clip_val=": "gradient_clip_val grad_clip clip_grad max_grad_norm",
    "logger=wandb": "wandb",
    "logger=tensorboard": "tensorboard",
    "logger=mlflow": "mlflow",
    "callbacks=early_stopping": "early_stopping patience",
    "callbacks=ema": "ema",
    "hydra.run.dir=": "name run_name exp_name run_dir",
    "validations=10, spread evenly over the run": "val_check_interval val_interval eval_interval check_val_every_n_epoch",
    "steps=": "max_steps num_steps total_steps iterations iters max_iters trainer.max_steps",
    STEPS: "epochs epoch max_epochs num_epochs n_epochs trainer.max_epochs",
    GONE: "loss.backend dataset.source.cache",
    AT_ONCE: "processes n_jobs",
}
"""The present names by those of other programs and of earlier versions. A name that ends with "=" takes the given value."""

SYNONYMS = {name: target for target, names in ELSEWHERE.items() for name in names.split()}

RENAMED = {
    "lovasz_levels": "lovasz_binned",
    "ce_lovasz_levels": "ce_lovasz_binned",
    "near_miss": "near_border",
    "imbalance/near_miss": "imbalance/near_border",
}
"""Choices of older versions, and their present names."""


def word_faults(configs: Path, words: Sequence[str], multirun: bool = False) -> dict[str, str]:
    """The faults of a command line's words, by word: unknown settings, and words that can't be read.

    Example:
        >>> word_faults(Path("configs"), ["lr=0.01"])
        {'lr=0.01': 'lr=0.01: write optimizer.lr=0.01'}
    """
    parser, found = OverridesParser.create(), {}
    for word in words:
        try:
            override = parser.parse_override(word)
        except HydraException:
            found[word] = _unreadable(word)
            continue
        is_choice = override.key_or_group.startswith("hydra/") or (configs / override.key_or_group).is_dir()
        fault = _setting_fault(override) or _number_fault(override)
        if is_choice and not override.is_delete() and not all(isinstance(name, str) for name in _values(override)):
            fault = f"a choice is a name: leave the word out, or write ~{override.key_or_group} for nothing"
        elif override.is_sweep_override() and not multirun:
            fault = "several values are several runs, add -m; for a list of values write brackets, as in [1,2]"
        elif override.is_delete() and not is_choice and override.key_or_group in (item.name for item in fields(Config)):
            fault = "a run needs it: leave the word out"
        if "\\${" in word:  # an escaped interpolation is text, which any type accepts
            fault = "no setting takes a text with ${ in it: leave out the backslash to name another setting's value"
        if fault:
            found[word] = f"{word}: {fault}"
    return found


def _values(override: Override) -> list[Any]:
    """The values of a word: its single value, the items of its list, or the values of a sweep."""
    if override.is_sweep_override():
        return [None if name == "null" else name for name in override.sweep_string_iterator()]
    value = override.value()
    return value if isinstance(value, list) else [value]


def _setting_fault(override: Override) -> str | None:
    """The fault of the name of a setting."""
    key = override.key_or_group
    root, *below = key.split("/")[0].split(".")
    if root in ("hydra", "experiment", "sweep"):
        return None
    roots = [item.name for item in fields(Config)]
    name, known = root, roots
    if root in SCHEMAS and below:
        name, known = below[0], [item.name for item in fields(SCHEMAS[root])]
    if name in known and key not in SYNONYMS:
        return None
    target = SYNONYMS.get(key) or SYNONYMS.get(name) or (f"{name}=" if name in roots else None)
    if target is None:
        see = f"; {invocation('train')} --cfg job prints all"
        return f"there is no such setting{nearest(name, known) or see}"
    return f"write {target}{str(override.input_line).partition('=')[2] if target.endswith('=') else ''}"


def _number_fault(override: Override) -> str | None:
    """The fault of a scene's name in a split that Hydra would read as a number."""
    if override.key_or_group.startswith("dataset.source.split"):
        for name in re.findall(r"(?<![\w.\"'*])\d+(?:_\d+|[eE]\d+)+(?![\w.\"'*])", str(override.input_line).partition("=")[2]):
            return f'{name} is read as the number {float(name):g}: if it is a name, write it in double quotes, "{name}"'
    return None


def _unreadable(word: str) -> str:
    """The fault of a word that Hydra's grammar rejects, with the correct spelling."""
    key, equals, value = word.partition("=")
    if not equals or not re.fullmatch(r"[+~]*[\w./@:-]+", key):
        return f"'{word}' is not understood: write key=value"
    if value.startswith(("[", "{")) and not value.endswith(("]", "}")):
        return f"{word}: the shell has cut it at a space: quote the whole argument, as in '{key}=[a, b]'"
    mapping = value.startswith("{") and ":" in value
    keys = re.findall(r"[{,]\s*([^{},:\[\]]*?)\s*:", value)
    if mapping and all(re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) for name in keys):
        return f"""{word}: can't be read as it stands: write names in double quotes, as in '{{val: ["São Paulo"]}}'"""
    if mapping and not key.endswith(".values"):
        return f"{word}: the keys of a mapping are letters from a to z, digits and _ here; write others into a file of configs/"
    if value.startswith("[") or mapping:
        items = (re.sub("[\"']", "", item).strip() for item in value.strip("[]{}").split(","))
        return f"""{word}: can't be read as it stands: write '{key}=[{",".join(f'"{item}"' for item in items)}]'"""
    return f"{word}: can't be read as it stands: write '{key}=\"{value.replace(chr(34), chr(92) + chr(34))}\"'"


def choices(places: Sequence[Path], group: str) -> list[str]:
    """The names of a group's files in the given folders, with their subfolder before them, unless that is itself a group."""
    names: list[str] = []
    for folder in [place / group for place in places]:
        paths = sorted(folder.glob("*.yaml")) + sorted(folder.glob("*/*.yaml"))
        own = (p for p in paths if p.parent == folder or "@package _global_" in p.read_text(encoding="utf-8", errors="replace"))
        names += [p.relative_to(folder).with_suffix("").as_posix() for p in own]
    return list(dict.fromkeys(names))
