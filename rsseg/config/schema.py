"""The structured schema of rsseg's settings, its cross-checks, and the resolvers that the YAML files use.

Imports neither torch nor torchgeo, so that `python train.py --help` answers at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, get_args, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from rsseg.config.naming import folder_name, run_folder, sweep_name
from rsseg.config.targets import Decoder, TargetFacts, head_faults, target_faults
from rsseg.contract import InputError, nearest


class Cache(StrEnum):
    """The place of decoded scenes while a run trains.

    * ``disk``: in the store, mapped into memory; the system keeps as much in memory as it has room for.
    * ``ram``: in memory, copied there at the start, once per device.
    * ``gpu``: on the device that trains; windows are cut there.
    """

    disk = "disk"
    ram = "ram"
    gpu = "gpu"


Fusion = StrEnum("Fusion", {"concat": "concat", "difference": "difference"})
"""The fusion of the features of two dates: concatenation, or absolute difference."""

OnNonFinite = StrEnum("OnNonFinite", {"stop": "stop", "skip": "skip"})
"""The response to a loss or gradient that is not finite: stop the run, or leave the step out."""

Verify = StrEnum("Verify", {"sampled": "sampled", "full": "full"})
"""The part of a decoded scene that is compared with its check sums on first use: a few blocks of each file, or all."""

OnBadScene = StrEnum("OnBadScene", {"raise": "raise", "skip": "skip"})
"""The response to a scene that can't be decoded: stop, or leave it out."""


@dataclass
class DatasetConfig(TargetFacts):
    """The facts of a dataset, from which all other parts are made. If it has only one target, its settings are here too.

    Attributes:
        name: Used in folder names.
        targets: Several targets by name, each with its settings (see `rsseg.config.targets.TargetConfig`); task, classes and
            the other settings of a single target are then null.
        unlabelled: By the name of a scene, or a pattern such as ``tile_*``, the classes that are not labelled in these scenes,
            with their target before them (``cover/road``) if another target has a class of the same name. The scenes neither
            train nor score these classes.
        bands: The image bands to read, counted from 1; null: all bands of the first training image except alpha.
        rgb: The bands that pictures show as red, green and blue; null: the bands of these names, else the first three.
        nodata: The no-data value of images that declare none; null: all their pixels are valid.
        window: The default side of the training windows, in pixels.
        steps: The default number of optimiser steps.
        fold: For cross-validation, the fold that validates and the number of folds, such as 2/5: the groups of the training and
            validation scenes are divided among five folds, the second validates and the others train. With 2/groups, there are
            as many folds as groups. null: no cross-validation.
        args: For `dataset=torchgeo`: the arguments of the class.
        source: The source of the scenes: a `_target_` with a method ``scenes(split)``.
    """

    name: str = MISSING
    targets: dict[str, Any] = field(default_factory=dict)
    unlabelled: dict[str, list[str]] = field(default_factory=dict)
    bands: list[int] | None = MISSING
    rgb: list[int] | None = None
    nodata: float | None = None
    window: int = 256
    steps: int = 2000
    fold: str | None = None
    args: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)


@dataclass
class ModelConfig:
    """The network and its heads.

    Attributes:
        encoder: The name of an encoder of segmentation_models_pytorch or timm.
        weights: none, imagenet, the name of a torchgeo weight such as ResNet18_Weights.SENTINEL2_ALL_MOCO, or a file.
        encoder_args: Further arguments of a timm encoder, such as drop_path_rate.
        freeze: Parts that are not trained: encoder, decoder.
        dropout: The share of the decoder's channels that are dropped before the last convolution during training.
        net: The smp class as `_target_` with its arguments; bands, logits and weights are filled in from the dataset's facts.
        decoder: shared: all heads share one decoder; own: each head has its own decoder on the common encoder.
        aux: Deep supervision: the number of coarser decoder outputs, 0 to 4, that the heads' losses are also computed on during
            training, with weights of 1/2, 1/4, ...
        classifier: The weight of the loss of an auxiliary classifier, which predicts the classes in a window; null: none.
        siamese: The bands are those of one date, followed by those of another: the encoder runs on each date, and the decoder
            gets the fused features.
        fusion: How the features of two dates are fused: concat, or difference (their absolute difference).
        rebuild: The network reconstructs the image; the logit of a binary task's single class is the logarithm of the error.
        heads: By name, each with its `loss`, the `target` that it learns (default: that of its name, or the only one), the
            `weight` of its loss in the sum (default: 1), and its `decoder`, if it differs from `model.decoder`.
    """

    encoder: str = "resnet18"
    weights: str = "none"
    encoder_args: dict[str, Any] = field(default_factory=dict)
    freeze: list[str] = field(default_factory=list)
    dropout: float = 0.0
    net: dict[str, Any] = field(default_factory=dict)
    decoder: Decoder = Decoder["shared"]
    aux: int = 0
    classifier: float | None = None
    siamese: bool = False
    fusion: Fusion = Fusion["concat"]
    rebuild: bool = False
    heads: dict[str, Any] = field(default_factory=lambda: {"mask": {"loss": "${loss}"}})


@dataclass
class LossConfig:
    """The loss of a head.

    Attributes:
        terms: By name; each a `_target_` with its arguments and its `weight` in the sum. The weight is 0 for the share `start`
            of the steps, then rises over the share `ramp`; `pixels` passes only the labelled pixels to another library's loss
            or your own.
        check_targets: Look for labels outside the classes at every step, not only at the first ones.
        label_smoothing: The part of each label that is spread evenly over the classes, for terms that take class shares.
        edge_weight: The weights of pixels at d pixels from a border between labels, ``1 + amount exp(-d^2 / (2 sigma^2))``:
            {amount: 10, sigma: 5}. An amount from -1 to 0 lowers their weight; null: 1.
    """

    terms: dict[str, Any] = field(default_factory=dict)
    check_targets: bool = False
    label_smoothing: float = 0.0
    edge_weight: Any = None


@dataclass
class RecordConfig:
    """Records that a run keeps for comparisons of losses.

    Attributes:
        enabled: Whether to record.
        gain: Record the one-step gain in IoU or RMSE too: a backward pass and a prediction per term and validation.
    """

    enabled: bool = True
    gain: bool = False


@dataclass
class MetricsConfig:
    """Settings of a run's scores.

    Attributes:
        without: Classes that mean scores, and so the choice of the best checkpoint, leave out; they are still trained.
    """

    without: list[str] = field(default_factory=list)


UNBALANCED = {"_target_": "rsseg.losses.balancing.Fixed", "between": "heads"}
"""The node of `balancing=fixed`, and of runs trained before the setting existed."""


@dataclass
class Config:
    """Everything that a training run is made of; `configs/train.yaml` explains each value."""

    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    balancing: dict[str, Any] = field(default_factory=lambda: {**UNBALANCED})
    optimizer: dict[str, Any] = field(default_factory=dict)
    scheduler: dict[str, Any] = field(default_factory=dict)
    sampler: dict[str, Any] = field(default_factory=dict)
    augment: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)
    record: RecordConfig = field(default_factory=RecordConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    seed: int = 1
    window: int = 256
    batch_size: int = 8
    steps: int = 2000
    validations: int = 10
    checkpoint_every: int | None = None
    on_nonfinite: OnNonFinite = OnNonFinite["stop"]
    margin: int = 32
    pictures: int = 4
    workers: int | None = None
    cache: Cache = Cache.disk
    verify: Verify = Verify["sampled"]
    on_bad_scene: OnBadScene = OnBadScene["raise"]
    output: str = "runs"
    resume: str | None = None
    trust: list[str] = field(default_factory=list)


RANGES = {
    "window": (1, math.inf), "batch_size": (1, math.inf), "steps": (1, math.inf), "validations": (1, math.inf),
    "pictures": (0, math.inf), "checkpoint_every": (1, math.inf), "workers": (0, math.inf), "seed": (0, 2**32 - 1),
    "model.dropout": (0, 0.99), "model.aux": (0, 4), "model.classifier": (0, math.inf),
}  # fmt: skip
"""The smallest and largest allowed values of numeric settings; null is not checked."""

SCHEMAS = {"dataset": DatasetConfig, "model": ModelConfig, "loss": LossConfig, "record": RecordConfig, "metrics": MetricsConfig}
"""The nodes whose keys are known."""


OPEN = (
    "dataset.args", "dataset.source", "dataset.targets", "dataset.unlabelled", "model.encoder_args", "model.heads", "model.net",
    "loss.terms", "balancing", "optimizer", "scheduler", "sampler", "augment", "trainer", "callbacks", "logger",
)  # fmt: skip
"""Nodes that take any argument of their target without a "+"; the builder refuses those that the target does not know."""


def register() -> None:
    """Make the schema and the resolvers known to Hydra; called once by every entry point that composes configs."""
    schema = OmegaConf.structured(Config)
    for node in OPEN:
        OmegaConf.set_struct(OmegaConf.select(schema, node), False)
    ConfigStore.instance().store(name="schema", node=schema)
    OmegaConf.register_new_resolver("rsseg.run_folder", run_folder, replace=True)
    OmegaConf.register_new_resolver("rsseg.part", lambda whole, parts: max(1, int(whole) // int(parts)), replace=True)
    OmegaConf.register_new_resolver("rsseg.rest", lambda whole, part: max(1, int(whole) - int(part)), replace=True)
    OmegaConf.register_new_resolver("rsseg.folder_name", folder_name, replace=True)
    OmegaConf.register_new_resolver("rsseg.sweep_name", sweep_name, replace=True)


def cross_check(config: Any) -> list[str]:
    """The faults of single numbers and of combinations of settings, one sentence each; empty if there are none."""
    if nested := _nested_lists(config):
        return nested
    faults = _unknown_keys(config)
    for name, (low, high) in RANGES.items():
        value = OmegaConf.select(config, name)
        if value is not None and not low <= value <= high:
            faults.append(f"{name}={value:g} must be {f'at least {low}' if math.isinf(high) else f'from {low} to {high}'}")
    if config.window % 32:
        lower = max(32, config.window // 32 * 32)
        faults.append(f"window={config.window} is not a multiple of 32, as encoders need; take {lower} or {lower + 32}")
    if not 0 <= 2 * config.margin < config.window:
        faults.append(f"margin={config.margin} must be at least 0 and less than half of window={config.window}")
    plain: Any = {name: OmegaConf.to_container(config[name], resolve=True) for name in ("dataset", "model", "trainer")}
    dataset, model = plain["dataset"], plain["model"]
    faults += head_faults(plain) + target_faults(dataset) + _device_faults(config, plain["trainer"])
    faults += _fold_faults(dataset["fold"])
    if any(part not in ("encoder", "decoder") for part in model["freeze"]):
        faults.append(f"model.freeze={model['freeze']}: a list of encoder and decoder is expected")
    if config.model.fusion != ModelConfig.fusion and not config.model.siamese:
        faults.append(f"model.fusion={config.model.fusion} is about two dates: set model.siamese=true too")
    if dataset["bands"] is not None and min(dataset["bands"], default=0) < 1:
        faults.append(f"dataset.bands={dataset['bands']}: list at least one band, counted from 1")
    if dataset["rgb"] is not None and len(dataset["rgb"]) != 3:
        faults.append(f"dataset.rgb={dataset['rgb']}: three band numbers are expected; null: the first three")
    return faults


def _fold_faults(fold: str | None) -> list[str]:
    """The fault of the fold of a cross-validation, one sentence at most."""
    if fold is None:
        return []
    number, _, folds = fold.partition("/")
    if number.isdecimal() and int(number) and (folds == "groups" or (folds.isdecimal() and 2 <= int(folds) >= int(number))):
        return []
    return [
        f"dataset.fold={fold}: the fold that validates and the number of folds are expected, such as 2/5, or 2/groups to leave "
        "one group out at a time; -m sweep=kfold runs all"
    ]


def _nested_lists(config: Any) -> list[str]:
    """The faults of lists of texts or numbers that contain lists or mappings, which OmegaConf does not check."""
    found = []
    for name, schema in SCHEMAS.items():
        for key, kind in get_type_hints(schema).items():
            value = config[name].get(key)
            flat = list[str] in (kind, *get_args(kind)) or list[int] in (kind, *get_args(kind))
            if flat and OmegaConf.is_list(value) and any(map(OmegaConf.is_config, value)):
                found.append(f"{name}.{key}={value}: a list within a list, or a mapping, is not expected")
    return found


def _device_faults(config: Any, trainer: dict[str, Any]) -> list[str]:
    """The faults of steps, batches and devices that do not fit each other."""
    faults = []
    times = trainer.get("accumulate_grad_batches", 1)
    if not isinstance(times, int) or times < 1:
        faults.append(f"trainer.accumulate_grad_batches={times} has to be a whole number of 1 or more")
    milestones = config.scheduler.get("milestones")
    if OmegaConf.is_list(milestones) and any(isinstance(step, int) and step >= config.steps for step in milestones):
        faults.append(f"scheduler.milestones={milestones}: all have to come before the last of steps={config.steps}")
    devices = trainer.get("devices", 1)
    devices = len(devices) if isinstance(devices, list) else devices
    if devices not in (1, "1") and trainer.get("strategy", "auto") == "auto":
        faults.append(f"trainer.devices={devices}: take trainer=ddp to train on several")
    return faults


def _unknown_keys(config: Any) -> list[str]:
    """The faults of settings that were added with "+", as Hydra advises for misspelt keys, but that nothing reads."""
    found = []
    for name, schema in {"": Config, **SCHEMAS}.items():
        known = [item.name for item in fields(schema)]
        unknown = [key for key in (config[name] if name else config) if key not in known]
        found += [f"{name}.{key}".lstrip(".") + f": there is no such setting{nearest(key, known)}" for key in unknown]
    return found


def raise_faults(faults: list[str]) -> None:
    """Report all faults of a config together.

    Raises:
        InputError: If there are any.
    """
    if len(faults) == 1:
        raise InputError(faults[0])
    if faults:
        raise InputError("The config can't be used:\n" + "\n".join(f"  - {fault}" for fault in faults))
