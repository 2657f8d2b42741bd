"""From a composed config to checked settings, scenes, counted numbers and a module."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from omegaconf.errors import OmegaConfBaseException
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from rsseg.config.build import build, faults, missing, plain
from rsseg.config.schema import cross_check, head_of, raise_faults
from rsseg.contract import IGNORE, Head, InputError, TaskKind, nearest
from rsseg.data.census import Census
from rsseg.data.labels import Labels
from rsseg.data.scene import Scene, SceneReader, open_raster
from rsseg.data.splits import SPLITS
from rsseg.loggers import given_to_logger
from rsseg.losses import Composite
from rsseg.losses.weighting import WEIGHTING, positive_weight
from rsseg.models import Network, build_network, encoder_name, load_weights
from rsseg.module import SegmentationModule

log = logging.getLogger(__name__)

GIVEN = {
    "model.net": ("encoder_name", "encoder_weights", "in_channels", "classes", "activation", "aux_params"),
    "optimizer": ("params",),
    "scheduler": ("optimizer",),
    "trainer": (
        "default_root_dir", "max_steps", "max_epochs", "val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps",
        "logger", "callbacks", "plugins", "use_distributed_sampler", "enable_model_summary", "fast_dev_run",
        "limit_train_batches", "limit_val_batches", "overfit_batches", "max_time", "min_steps", "min_epochs",
    ),
}  # fmt: skip
"""The parameters of each target that rsseg fills in or, as a run is made of steps, leaves alone."""


PACKAGES = ("tensorboard", "wandb", "mlflow")
"""The loggers that an extra of rsseg installs; each is called as its package."""


@dataclass(frozen=True)
class Numbers:
    """What the training split's census says; plain numbers, kept in the run folder.

    Attributes:
        positives: Training pixels of each class.
        valid: Labelled training pixels, per class.
        mean: Per band.
        std: Per band.
    """

    positives: list[int]
    valid: list[int]
    mean: list[float]
    std: list[float]

    @classmethod
    def of(cls, census: Census) -> Numbers:
        """Sum a census over its scenes."""
        return cls(
            census.positives.sum(axis=0).tolist(),
            census.valid.sum(axis=0).tolist(),
            census.mean.tolist(),
            census.std.tolist(),
        )


def check(config: Any) -> None:
    """Find every fault of a config that can be found without reading data.

    Raises:
        InputError: All faults together.
    """
    try:
        plain(config)
    except OmegaConfBaseException as error:
        raise InputError(f"the config can't be resolved: {str(error).splitlines()[0]}") from None
    raise_faults(missing(config))
    found = cross_check(config)
    found += faults(plain(config.dataset.source), "dataset.source")
    for where, given in GIVEN.items():
        found += faults(plain(_at(config, where)), where, given)
    for name, node in plain(config.augment).items():
        found += faults(node, f"augment.{name}", ("seed",))
    for name, node in plain(config.logger).items():
        found += faults(node, f"logger.{name}", tuple(given_to_logger(node, Path())))
        if name in PACKAGES and find_spec(name) is None:
            found.append(f"logger={name}: its package is not installed: pip install 'rsseg[{name}]'")
    for name, node in plain(config.callbacks).items():
        found += faults(node, f"callbacks.{name}")
    for head, node in plain(config.model.heads).items():
        for name, term in node["loss"]["terms"].items():
            arguments = {key: value for key, value in term.items() if key != "weight"} if term else term
            found += faults(
                arguments, f"loss.terms.{name}" if head == "mask" else f"model.heads.{head}.{name}", ("task", "ignore_index")
            )
    found += _trainer_faults(config)
    raise_faults(found)
    encoder_name(config.model.encoder)
    labels_of(config)
    make_augmentations(config)
    for name, node in plain(config.callbacks).items():
        build(node, f"callbacks.{name}")
    _try_losses(config)
    _try_optimizer(config)


def _trainer_faults(config: Any) -> list[str]:
    devices, nodes = plain(config.trainer).get("devices", 1), config.trainer.get("num_nodes", 1)
    devices = len(devices) if isinstance(devices, list) else devices
    found = []
    times = config.trainer.get("accumulate_grad_batches", 1)
    if not isinstance(times, int) or times < 1:
        found.append(f"trainer.accumulate_grad_batches={times} has to be a whole number of 1 or more")
    milestones = plain(config.scheduler).get("milestones", [0])
    if isinstance(milestones, list) and milestones and max(milestones) >= config.steps:
        found.append(f"scheduler.milestones={milestones}: all have to come before the last of steps={config.steps}")
    names = known_metrics(config)
    for name, node in plain(config.callbacks).items():
        monitor = node.get("monitor")
        if monitor is not None and monitor not in names:
            found.append(f"callbacks.{name}.monitor={monitor}: a run logs no such value{nearest(str(monitor), names)}")
    if config.trainer.get("accelerator") in ("gpu", "cuda") and not torch.cuda.is_available():
        found.append("trainer.accelerator=gpu, but no GPU is found: take trainer=cpu, or auto for whatever there is")
    targets = [str(node.get("_target_", "")) for node in (*plain(config.callbacks).values(), plain(config.scheduler))]
    if any(t.endswith("LearningRateFinder") for t in targets) and targets[-1].endswith(("SequentialLR", "OneCycleLR")):
        found.append(
            f"callbacks.lr_finder with {targets[-1]}: its first steps have a rate of their own, which the found one would "
            "overwrite; take scheduler=cosine, poly, plateau or constant"
        )
    if isinstance(devices, int) and devices > 0 and config.batch_size % (devices * nodes):
        found.append(f"batch_size={config.batch_size} can't be shared evenly among {devices * nodes} devices")
    if devices not in (1, "1") and config.trainer.get("strategy", "auto") == "auto":
        found.append(f"trainer.devices={devices}: take trainer=ddp to train on several")
    return found


def known_metrics(config: Any) -> list[str]:
    """What a run logs at every validation."""
    found = ["val/loss"]
    for head, node in plain(config.model.heads).items():
        found += [f"val/{head}/{score}" for score in ("iou", "dice", "scene_iou", "scene_dice", "accuracy")]
        found += [f"val/{head}/{score}/{name}" for score in ("iou", "dice") for name in config.dataset.classes]
        found += [f"val/{head}/loss/{term}{kind}" for term in node["loss"]["terms"] for kind in ("", ".weighted")]
    return found


def _at(config: Any, where: str) -> Any:
    for key in where.split("."):
        config = config[key]
    return config


def labels_of(config: Any) -> Labels:
    """How the dataset's masks are decoded."""
    values, ignore = plain(config.dataset.mask_values), plain(config.dataset.ignore_values)
    if ignore is None:
        ignore = [] if any(isinstance(value, str) for value in values or []) else [IGNORE]
    return Labels(head_of(config.dataset), values, ignore)


def _try_losses(config: Any) -> None:
    """Build the losses and call them once on two pixels: weights of a wrong length show here, not after the data is read."""
    head = head_of(config.dataset)
    planes = (head.channels,) if head.task is TaskKind.multilabel else ()
    for composite in make_losses(config, None).values():
        composite(torch.zeros(1, head.channels, 2, 2), torch.zeros(1, *planes, 2, 2, dtype=torch.uint8))


def _try_optimizer(config: Any) -> None:
    """Build optimizer and schedule for one parameter and step them: a wrong number shows here."""
    optimizer = build(plain(config.optimizer), "optimizer", params=[nn.Parameter(torch.zeros(1))])
    scheduler = build(plain(config.scheduler), "scheduler", optimizer=optimizer)
    try:
        optimizer.step()
        scheduler.step(*([0.0] if isinstance(scheduler, ReduceLROnPlateau) else []))
    except (TypeError, ValueError, ArithmeticError) as error:
        raise InputError(f"optimizer or scheduler can't make a step: {error}") from None


def heads_of(config: Any) -> dict[str, Head]:
    """The facts of each head by name."""
    return {name: head_of(config.dataset) for name in config.model.heads}


def scenes_of(source: Any, config: Any, split: str) -> list[Scene]:
    """The scenes of a split.

    Raises:
        InputError: If there is no such split, or nothing in it.
    """
    if split not in SPLITS:
        raise InputError(f"split={split}{nearest(split, SPLITS)}: there are {', '.join(SPLITS)}")
    scenes: list[Scene] = source.scenes(split)
    if not scenes:
        raise InputError(f"the {split} split of dataset {config.dataset.name} has no scenes: see dataset.source")
    return scenes


def all_bands(source: Any, config: Any) -> list[int]:
    """The numbers of all bands of the first training image."""
    return list(range(1, open_raster(scenes_of(source, config, "train")[0].image).count + 1))


def open_split(source: Any, config: Any, split: str) -> SceneReader:
    """The scenes of a split, each file checked.

    Raises:
        InputError: If the split is empty or files can't be used.
    """
    scenes = scenes_of(source, config, split)
    reader = SceneReader(scenes, labels_of(config), list(config.dataset.bands))
    small = int((reader.sizes < config.window).any(axis=1).sum())
    if small:
        log.info(
            "%d of %d %s scenes are smaller than window=%d: padded, the padding is ignored.",
            small,
            len(reader),
            split,
            config.window,
        )
    return reader


def counted_weights(term: Mapping[str, Any], task: TaskKind, numbers: Numbers | None, classes: list[str]) -> dict[str, Any]:
    """A term's arguments with the name of a rule as `class_weights` turned into numbers.

    For binary and multilabel tasks that is the rule's weight of positives relative to negatives, as `pos_weight`.

    Args:
        term: The term's config.
        task: The head's task.
        numbers: The training split's counts; None: leave the weights out, to check the rest.
        classes: The classes' names, for a warning.
    """
    rule = term.get("class_weights")
    if not isinstance(rule, str):
        return dict(term)
    rest = {key: value for key, value in term.items() if key != "class_weights"}
    if rule not in WEIGHTING:
        raise InputError(f"class_weights={rule}{nearest(rule, WEIGHTING)}: numbers, null, {', '.join(WEIGHTING)} are expected")
    if task is not TaskKind.multiclass and not term["_target_"].endswith("CrossEntropy"):
        raise InputError(f"class_weights={rule} of a {task} task weighs positive pixels: only cross-entropy terms do that")
    if numbers is None:
        return rest
    if task is TaskKind.multiclass:
        return {**rest, "class_weights": WEIGHTING[rule](numbers.positives, classes)}
    pairs = zip(numbers.positives, numbers.valid, strict=True)
    return {**rest, "pos_weight": [positive_weight(valid - own, own, WEIGHTING[rule]) for own, valid in pairs]}


def make_losses(config: Any, numbers: Numbers | None) -> dict[str, Composite]:
    """The loss composition of each head."""
    losses = {}
    for head, node in plain(config.model.heads).items():
        task, terms = TaskKind(config.dataset.task), {}
        for name, term in node["loss"]["terms"].items():
            arguments = counted_weights(
                {key: value for key, value in term.items() if key != "weight"}, task, numbers, list(config.dataset.classes)
            )
            terms[name] = (term.get("weight", 1.0), build(arguments, f"loss.terms.{name}", task=task))
        options = {name: node["loss"][name] for name in ("backend", "check_targets") if name in node["loss"]}
        losses[head] = Composite(terms, **options)
    return losses


def make_network(config: Any) -> Network:
    """The network, with its pretrained weights."""
    make = partial(build, plain(config.model.net), "model.net")
    network = build_network(make, config.model, len(config.dataset.bands), heads_of(config))
    load_weights(network, config.model.weights)
    return network


def make_augmentations(config: Any) -> list[Any]:
    """The augmentations, in the order of the config."""
    return [build(node, f"augment.{name}", seed=config.seed) for name, node in plain(config.augment).items()]


def make_module(config: Any, network: nn.Module, numbers: Numbers, scenes: int) -> SegmentationModule:
    """Everything that trains, around a network.

    Args:
        config: The composed config.
        network: The network.
        numbers: The training split's numbers.
        scenes: The number of scenes that are scored.
    """
    return SegmentationModule(
        network=network,
        losses=make_losses(config, numbers),
        heads=heads_of(config),
        mean=numbers.mean,
        std=numbers.std,
        scenes=scenes,
        seed=config.seed,
        augmentations=make_augmentations(config),
        optimizer=partial(build, plain(config.optimizer), "optimizer"),
        scheduler=partial(build, plain(config.scheduler), "scheduler"),
    )
