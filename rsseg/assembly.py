"""From a checked config to scenes, counted numbers, losses and a module."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from rsseg.alignment.panel import PANEL
from rsseg.config.build import AUGMENTATION, MODEL, OPTIMIZER, SAMPLER, SCHEDULER, SOURCE, TERM, build, plain
from rsseg.config.schema import OnBadTile, head_of
from rsseg.contract import IGNORE, Head, InputError, TaskKind, nearest
from rsseg.data.blocks import Blocks
from rsseg.data.build import open_store
from rsseg.data.census import Census
from rsseg.data.labels import Labels
from rsseg.data.paste import Fits
from rsseg.data.sampling import Places, Read
from rsseg.data.scene import Scene, Source
from rsseg.data.splits import SPLITS
from rsseg.data.store import Store
from rsseg.losses import Composite
from rsseg.losses.weighting import WEIGHTING, positive_weight, uncounted
from rsseg.models import Network, build_network, load_weights
from rsseg.module import SegmentationModule

log = logging.getLogger(__name__)


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
            census.bands.mean.tolist(),
            census.bands.std.tolist(),
        )


def labels_of(config: Any) -> Labels:
    """How the dataset's masks are decoded."""
    values, ignore = plain(config.dataset.mask_values), plain(config.dataset.ignore_values)
    if ignore is None:
        ignore = [] if any(isinstance(value, str) for value in values or []) else [IGNORE]
    return Labels(head_of(config.dataset), values, ignore)


def heads_of(config: Any) -> dict[str, Head]:
    """The facts of each head by name."""
    return {name: head_of(config.dataset) for name in config.model.heads}


def source_of(config: Any) -> Source:
    """What lists the dataset's scenes."""
    source: Source = build(plain(config.dataset.source), "dataset.source", SOURCE, config.trust)
    return source


def scenes_of(source: Source, config: Any, split: str) -> list[Scene]:
    """The scenes of a split.

    Raises:
        InputError: If there is no such split, or nothing in it.
    """
    if split not in SPLITS:
        raise InputError(f"split={split}{nearest(split, SPLITS)}: there are {', '.join(SPLITS)}")
    scenes = source.scenes(split)
    if not scenes:
        raise InputError(
            f"the {split} split of dataset {config.dataset.name} has no scenes: see dataset.source, and whether "
            "the other splits have taken all of them"
        )
    return scenes


def all_bands(source: Any, config: Any) -> list[int]:
    """The numbers of all bands of the first training image but alpha."""
    return scenes_of(source, config, "train")[0].all_bands()


def open_split(source: Any, config: Any, split: str) -> Store:
    """The tiles of a split, decoded first where they are not in the store yet.

    Raises:
        InputError: If the split is empty or files can't be used.
    """
    store = open_store(
        scenes_of(source, config, split),
        labels_of(config),
        list(config.dataset.bands),
        Path(config.output) / "cache" / "store",
        f"{split} split",
        skip=config.on_bad_tile is OnBadTile.skip,
    )
    if store.skipped:
        listed = "".join(f"\n  - {fault}" for fault in list(store.skipped.values())[:5])
        log.warning("%d scenes of the %s split are skipped:%s", len(store.skipped), split, listed)
    small = int((store.sizes < config.window).any(axis=1).sum())
    if small:
        line = "%d of %d %s scenes are smaller than window=%d: padded, the padding is ignored."
        log.info(line, small, len(store), split, config.window)
    return store


def counted_weights(term: Mapping[str, Any], task: TaskKind, numbers: Numbers | None) -> dict[str, Any]:
    """A term's arguments with the name of a rule as `class_weights` turned into numbers.

    For binary and multilabel tasks that is the rule's weight of positives relative to negatives, as `pos_weight`; 1 for a
    label that no pixel has or lacks.

    Args:
        term: The term's config.
        task: The head's task.
        numbers: The training split's counts; None: leave the weights out, to check the rest.
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
        return {**rest, "class_weights": WEIGHTING[rule](numbers.positives)}
    pairs = zip(numbers.positives, numbers.valid, strict=True)
    return {
        **rest,
        "pos_weight": [positive_weight(valid - own, own, WEIGHTING[rule]) if valid else 1.0 for own, valid in pairs],
    }


def make_losses(config: Any, numbers: Numbers | None) -> dict[str, Composite]:
    """The loss composition of each head."""
    losses = {}
    for head, node in plain(config.model.heads).items():
        task, terms = TaskKind(config.dataset.task), {}
        for name, term in node["loss"]["terms"].items():
            arguments = counted_weights({key: value for key, value in term.items() if key != "weight"}, task, numbers)
            if numbers is not None and isinstance(term.get("class_weights"), str):
                _warn_of_uncounted(f"loss.terms.{name}", task, numbers, list(config.dataset.classes))
            terms[name] = (term.get("weight", 1.0), build(arguments, f"loss.terms.{name}", TERM, config.trust, task=task))
        options = {name: node["loss"][name] for name in ("backend", "check_targets") if name in node["loss"]}
        losses[head] = Composite(terms, **options)
    return losses


def _warn_of_uncounted(where: str, task: TaskKind, numbers: Numbers, classes: list[str]) -> None:
    clipped = [classes[c] for c in uncounted(task, numbers.positives, numbers.valid)]
    if clipped:
        every = "" if task is TaskKind.multiclass else ", or every one,"
        line = "%s: the weight of class %s can't be counted and is clipped: no labelled training pixel%s is of it."
        log.warning(line, where, ", ".join(clipped), every)


def panel_facts(config: Any, numbers: Numbers) -> dict[str, dict[str, Any]]:
    """What the losses of the panel are made with, counted weights as numbers, by name."""
    task = TaskKind(config.dataset.task)
    return {name: counted_weights(node, task, numbers) for name, node in PANEL.items()}


def make_network(config: Any) -> Network:
    """The network, with its pretrained weights."""
    make = partial(build, plain(config.model.net), "model.net", MODEL, config.trust)
    network = build_network(make, config.model, len(config.dataset.bands), heads_of(config))
    load_weights(network, config.model.weights)
    return network


def make_augmentations(config: Any) -> list[Any]:
    """The augmentations, in the order of the config."""
    made = partial(build, seed=config.seed, head=head_of(config.dataset))
    return [made(node, f"augment.{name}", AUGMENTATION, config.trust) for name, node in plain(config.augment).items()]


def fit_augmentations(augmentations: Sequence[Any], read: Read, blocks: Blocks, numbers: Numbers) -> None:
    """Let the augmentations that need something from the training split take it."""
    for augmentation in augmentations:
        if isinstance(augmentation, Fits):
            augmentation.fit(read, blocks, numbers.mean, numbers.std)


def make_sampler(config: Any, sizes: NDArray[np.int64], blocks: Blocks, read: Read) -> Places:
    """What says where each training window lies.

    Args:
        config: The composed config.
        sizes: ``[S, 2]``, height and width of each training scene.
        blocks: Their blocks.
        read: Reads their windows.
    """
    given = {"seed": config.seed, "sizes": sizes, "window": config.window, "blocks": blocks, "head": head_of(config.dataset)}
    sampler: Places = build(plain(config.sampler), "sampler", SAMPLER, config.trust, **given, read=read)
    return sampler


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
        optimizer=partial(build, plain(config.optimizer), "optimizer", OPTIMIZER, config.trust),
        scheduler=partial(build, plain(config.scheduler), "scheduler", SCHEDULER, config.trust),
    )
