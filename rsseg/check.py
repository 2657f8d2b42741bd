"""Every fault of a config that can be found before data are read."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf.errors import OmegaConfBaseException
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from rsseg.assembly import labels_of, make_augmentations, make_losses, make_sampler, scenes_of, source_of
from rsseg.config import build as kinds
from rsseg.config.build import build, faults, missing, plain
from rsseg.config.schema import cross_check, head_of, raise_faults
from rsseg.contract import InputError, TaskKind, nearest
from rsseg.data.blocks import SIZE, Blocks
from rsseg.loggers import given_to_logger
from rsseg.models import encoder_name

GIVEN = {
    "model.net": ("encoder_name", "encoder_weights", "in_channels", "classes", "activation", "aux_params"),
    "optimizer": ("params",),
    "scheduler": ("optimizer",),
    "sampler": ("seed", "sizes", "window", "blocks", "head", "read"),
    "trainer": (
        "default_root_dir", "max_steps", "max_epochs", "val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps",
        "logger", "callbacks", "plugins", "use_distributed_sampler", "enable_model_summary", "fast_dev_run",
        "limit_train_batches", "limit_val_batches", "overfit_batches", "max_time", "min_steps", "min_epochs",
    ),
}  # fmt: skip
"""The parameters of each target that rsseg fills in or, as a run is made of steps, leaves alone."""

KINDS = {
    "model.net": kinds.MODEL,
    "optimizer": kinds.OPTIMIZER,
    "scheduler": kinds.SCHEDULER,
    "sampler": kinds.SAMPLER,
    "trainer": kinds.TRAINER,
}

PACKAGES = ("tensorboard", "wandb", "mlflow")
"""The loggers that an extra of rsseg installs; each is called as its package."""


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
    found, trust = cross_check(config), config.trust
    found += faults(plain(config.dataset.source), "dataset.source", kinds.SOURCE, trust)
    for where, given in GIVEN.items():
        found += faults(plain(_at(config, where)), where, KINDS[where], trust, given)
    for name, node in plain(config.augment).items():
        found += faults(node, f"augment.{name}", kinds.AUGMENTATION, trust, ("seed", "head"))
    for name, node in plain(config.logger).items():
        found += faults(node, f"logger.{name}", kinds.LOGGER, trust, tuple(given_to_logger(node, Path())))
        if name in PACKAGES and find_spec(name) is None:
            found.append(f"logger={name}: its package is not installed: pip install 'rsseg[{name}]'")
    for name, node in plain(config.callbacks).items():
        found += faults(node, f"callbacks.{name}", kinds.CALLBACK, trust)
    for head, node in plain(config.model.heads).items():
        for name, term in node["loss"]["terms"].items():
            where = f"loss.terms.{name}" if head == "mask" else f"model.heads.{head}.{name}"
            found += faults(term, where, kinds.TERM, trust, ("task", "ignore_index"), beside=("weight",))
    raise_faults(found or _trainer_faults(config))  # the second looks into nodes that the first has found whole
    encoder_name(config.model.encoder)
    labels_of(config)
    make_augmentations(config)
    _try_sampler(config)
    for name, node in plain(config.callbacks).items():
        build(node, f"callbacks.{name}", kinds.CALLBACK, trust)
    _try_losses(config)
    _try_optimizer(config)


def check_run(config: Any, scenes: bool) -> None:
    """What can be found before a run.

    Args:
        config: The composed config.
        scenes: Also look for the scenes of the training and the validation split.

    Raises:
        InputError: All faults together.
    """
    check(config)
    if scenes:
        source = source_of(config)
        for split in ("train", "val"):
            scenes_of(source, config, split)


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
    if config.residence.name == "gpu" and config.trainer.get("accelerator") == "auto" and not torch.cuda.is_available():
        found.append("residence=gpu, but no GPU is found: take residence=ram, or disk for tiles that memory does not hold")
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


def _try_losses(config: Any) -> None:
    """Build the losses and call them once on two pixels: weights of a wrong length show here, not after the data is read."""
    head = head_of(config.dataset)
    planes = (head.channels,) if head.task is TaskKind.multilabel else ()
    for composite in make_losses(config, None).values():
        composite(torch.zeros(1, head.channels, 2, 2), torch.zeros(1, *planes, 2, 2, dtype=torch.uint8))


def _try_sampler(config: Any) -> None:
    """Build the sampler for one block in which every class occurs: a wrong number or name shows here."""
    head = head_of(config.dataset)
    counts, sizes = np.ones((1, head.channels + 1), dtype=np.uint16), np.array([[SIZE, SIZE]])
    make_sampler(config, sizes, Blocks.of(counts, sizes), read=lambda *_: (counts, counts.astype(np.uint8)))


def _try_optimizer(config: Any) -> None:
    """Build optimizer and schedule for one parameter and step them: a wrong number shows here."""
    optimizer = build(
        plain(config.optimizer), "optimizer", kinds.OPTIMIZER, config.trust, params=[nn.Parameter(torch.zeros(1))]
    )
    scheduler = build(plain(config.scheduler), "scheduler", kinds.SCHEDULER, config.trust, optimizer=optimizer)
    try:
        optimizer.step()
        scheduler.step(*([0.0] if isinstance(scheduler, ReduceLROnPlateau) else []))
    except (TypeError, ValueError, ArithmeticError) as error:
        raise InputError(f"optimizer or scheduler can't make a step: {error}") from None
