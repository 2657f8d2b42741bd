"""A dataset: its description in a config, and its scenes, found and decoded."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from rsseg.config.targets import full_names, place_of, targets_of, tasks_of
from rsseg.contract import InputError, naming, nearest
from rsseg.data.build import open_store
from rsseg.data.census import Census, absent_classes, check_absent, describe_other_radiometry, robust_statistics
from rsseg.data.grids import ground_resolution
from rsseg.data.groups import describe_groups, group_names
from rsseg.data.labels import make_mask_reader
from rsseg.data.masks import MaskReader
from rsseg.data.scene import Scene, Source
from rsseg.data.splits import SPLITS, matching_names
from rsseg.data.store import Store
from rsseg.task import Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dataset:
    """A dataset, as a config describes it.

    Attributes:
        name: Used in folder names.
        mask_readers: The reader of each target's masks; samplers, augmentations and descriptions use the first target.
        bands: The image bands to read, counted from 1; None until the data are seen.
        rgb: The bands that pictures show; None: the first three.
        nodata: The no-data value of images that declare none; None: all their pixels are valid.
        palettes: The colours of the labels of each target; None: chosen.
        unlabelled: By pattern of scene names, the classes that are not labelled there, as ``target/class``.
        store: The folder of its decoded scenes.
        skip_bad_scenes: Whether scenes that can't be decoded are left out.
        verify_all: Whether all blocks of a decoded scene, not only a few, are compared with their checksums on first use.
    """

    name: str
    mask_readers: tuple[MaskReader, ...]
    bands: tuple[int, ...] | None
    rgb: tuple[int, ...] | None
    nodata: float | None
    palettes: tuple[list[str] | None, ...]
    unlabelled: Mapping[str, tuple[str, ...]]
    store: Path
    skip_bad_scenes: bool
    verify_all: bool

    @property
    def tasks(self) -> dict[str, Task]:
        """The task of each target, by name."""
        return {mask_reader.task.target: mask_reader.task for mask_reader in self.mask_readers}

    @property
    def task(self) -> Task:
        """The task of the first target."""
        return self.mask_readers[0].task

    def unlabelled_in(self, scenes: Collection[str]) -> dict[str, tuple[str, ...]]:
        """By scene name, the classes that are not labelled in the scene."""
        found: dict[str, tuple[str, ...]] = dict.fromkeys(scenes, ())
        for pattern, labels in self.unlabelled.items():
            found |= {name: (*found[name], *labels) for name in matching_names(pattern, scenes)}
        return found

    def palette(self, target: str) -> list[str] | None:
        """The colours of a target's labels; None: chosen."""
        return self.palettes[list(self.tasks).index(target)]

    @property
    def read_bands(self) -> list[int]:
        """The bands, which have to be known by now."""
        assert self.bands is not None
        return list(self.bands)


def make_dataset(config: Mapping[str, Any]) -> Dataset:
    """Make the dataset of a config of plain values."""
    dataset = config["dataset"]
    targets, tasks = targets_of(dataset), tasks_of(dataset)
    bands, rgb = (None if dataset[key] is None else tuple(dataset[key]) for key in ("bands", "rgb"))
    mask_readers = []
    for name, target in targets.items():
        values, ignored, tolerance = target["mask_values"], target["ignore_values"], target["colour_tolerance"] or 0
        real = target["fractions"], target["range"], target["size"]
        with naming(place=place_of(dataset, name)):
            mask_readers.append(make_mask_reader(tasks[name], values, ignored, *real, tolerance))
        mask_readers[-1].place = place_of(dataset, name)
    return Dataset(
        name=dataset["name"],
        mask_readers=tuple(mask_readers),
        bands=bands,
        rgb=rgb,
        nodata=dataset["nodata"],
        palettes=tuple(target["palette"] for target in targets.values()),
        unlabelled=_unlabelled(dataset, tasks),
        store=Path(config["output"]) / "cache" / "store",
        skip_bad_scenes=config["on_bad_scene"] == "skip",
        verify_all=config["verify"] == "full",
    )


def _unlabelled(dataset: Mapping[str, Any], tasks: Mapping[str, Task]) -> dict[str, tuple[str, ...]]:
    """The classes that are not labelled, as ``target/class``, by pattern of scene names."""
    known = {f"{name}/{label}" for name, task in tasks.items() for label in task.classes}
    return {
        pattern: tuple(full for label in labels for full in full_names(str(label), tasks) if full in known)
        for pattern, labels in (dataset.get("unlabelled") or {}).items()
    }


@dataclass(frozen=True)
class TargetStatistics:
    """Statistics of a target over the training split."""

    positives: list[int]  # per class, the number of its training pixels
    valid: list[int]  # per class, the number of training pixels where it is labelled
    value_mean: list[float] = field(default_factory=list)  # per real value, for a regression
    value_std: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, census: Census) -> TargetStatistics:
        """Sum a census over its scenes."""
        positives, valid, values = census.positives.sum(axis=0), census.valid.sum(axis=0), census.values
        return cls(positives.tolist(), valid.tolist(), values.mean.tolist(), values.std.tolist())

    @classmethod
    def read(cls, saved: Mapping[str, Any]) -> TargetStatistics:
        """Read from ``data.json``; missing keys take their defaults."""
        return cls(**{item.name: saved[item.name] for item in fields(cls) if item.name in saved})


@dataclass(frozen=True)
class TrainStatistics:
    """Statistics of the training split; plain numbers, kept in the run folder."""

    mean: list[float]  # per band
    std: list[float]
    targets: dict[str, TargetStatistics]  # by name

    @classmethod
    def of(cls, store: Store) -> TrainStatistics:
        """Sum the censuses of a split over its scenes."""
        mean, std = robust_statistics(store.census.bands)
        targets = {name: TargetStatistics.of(census) for name, census in store.censuses.items()}
        return cls(mean.tolist(), std.tolist(), targets)

    def scaled(self, task: Task) -> Task:
        """The task with the mean and deviation of its training values, if it has real values."""
        known = self.targets[task.target]
        return task.scaled(known.value_mean, known.value_std)

    def record(self) -> dict[str, Any]:
        """The statistics for ``data.json``: those of the bands and of the first target, then other targets by name."""
        (_, first), *further = self.targets.items()
        others = {"targets": {name: asdict(target) for name, target in further}} if further else {}
        return {"mean": self.mean, "std": self.std, **asdict(first), **others}

    @classmethod
    def read(cls, saved: Mapping[str, Any], targets: Iterable[str]) -> TrainStatistics:
        """Read what `record` returned, for the given targets."""
        first, *further = targets
        others = {name: TargetStatistics.read(saved["targets"][name]) for name in further}
        return cls(saved["mean"], saved["std"], {first: TargetStatistics.read(saved), **others})


@dataclass(frozen=True)
class Data:
    """The scenes of a run, decoded."""

    stores: dict[str, Store]  # the scenes of train and val
    numbers: TrainStatistics

    def record(self) -> dict[str, Any]:
        """The content of ``data.json``: statistics, and per split scenes, groups, fingerprints and skipped scenes."""
        names = {split: [scene.name for scene in store.scenes] for split, store in self.stores.items()}
        return self.numbers.record() | {
            "dtype": str(self.stores["train"].dtype),
            "resolution": resolution_of(self.stores["train"].scenes),
            "fingerprint": {
                split: "-".join(census.fingerprint(names[split]) for census in store.censuses.values())
                for split, store in self.stores.items()
            },
            "pixels": {split: store.pixel_hash for split, store in self.stores.items()},
            "scenes": names,
            "groups": {split: group_names(store.scenes) for split, store in self.stores.items()},
            "skipped": {split: store.skipped for split, store in self.stores.items()},
        }


LOOKED_AT = 20  # the number of scenes whose resolution and scale are checked
SAMPLE = 256  # the side in pixels of the part of a scene that is checked
OTHER_SCALE = 50  # scenes whose highest values differ by this factor have another scale
WINDOW_STEP = 32  # a window's side is a multiple of it


def resolution_of(scenes: Sequence[Scene]) -> float | None:
    """The side of the scenes' pixels in metres; None if a scene's is not known, or they differ by more than a tenth."""
    picked = [scenes[int(i)] for i in np.unique(np.linspace(0, len(scenes) - 1, LOOKED_AT).astype(int))]
    found = [ground_resolution(*scene.place()) for scene in picked]
    sides = [side for side in found if side is not None]
    if len(sides) < len(found) or max(sides) > 1.1 * min(sides):
        return None
    return float(np.median(sides))


def open_data(dataset: Dataset, source: Source, window: int) -> Data:
    """The training and the validation split; scenes that are not in the store yet are decoded first.

    `window` is the side of the training windows, for messages.

    Raises:
        InputError: If a split is empty, files can't be used, or a class occurs nowhere.
    """
    scenes = training_scenes(source, dataset)
    warn_of_misspelt(dataset, [scene.name for split in scenes.values() for scene in split])
    stores = {split: open_split(dataset, scenes[split], split) for split in scenes}
    if padded := describe_padding(stores, window):
        log.info("%s", padded)
    _check_absent(stores["train"], "train", None)
    _check_absent(stores["val"], "val", stores["train"])
    for soft in (task for task in dataset.tasks.values() if task.soft):
        log.info(
            "Masks hold class shares, which the loss learns. Counts, samplers, metrics and pictures go by the class with %s.",
            "the largest share" if soft.exclusive else "more than half of a pixel",
        )
    numbers = TrainStatistics.of(stores["train"])
    if mixed := describe_scales(stores["train"]):
        log.warning("%s", mixed)
    _warn_of_radiometry(stores["train"], numbers, stores["val"], "the val split")
    for store in stores.values():
        store.fill = np.array(numbers.mean)
    return Data(stores, numbers)


def open_test(dataset: Dataset, source: Source, data: Data) -> Store | None:
    """The scenes of the test split that have masks, decoded and checked like the other splits; None if there are none.

    Training does not need the test split, so its faults are only logged.
    """
    try:
        scenes = scenes_of(source, dataset, "test", needed=False)
        labelled = [scene for scene in scenes if any(scene.masks)]
        if len(labelled) < len(scenes):
            line = "%d of %d scenes of the test split have no masks: they can be mapped, not scored."
            log.info(line, len(scenes) - len(labelled), len(scenes))
        if not labelled:
            log.info("There is no test split to score.")
            return None
        store = open_split(dataset, labelled, "test")
        _check_absent(store, "test", data.stores["train"])
    except InputError as error:
        log.warning("The test split is left out: %s", error)
        return None
    _warn_of_radiometry(data.stores["train"], data.numbers, store, "the test split")
    return store


def describe_padding(stores: Mapping[str, Store], window: int) -> str:
    """One line if scenes are smaller than a window of this side in pixels; else empty."""
    small = {split: int((store.sizes.min(axis=1) < window).sum()) for split, store in stores.items()}
    counts = " and ".join(f"{n} {split} scenes" for split, n in small.items() if n)
    return f"Smaller than window={window}: {counts}. They are padded, and the padding is ignored." if counts else ""


def describe_scales(store: Store) -> str:
    """One line if some scenes have values of another scale, such as 0 to 1 among 0 to 255; else empty."""
    highest = {}
    for number in np.unique(np.linspace(0, len(store) - 1, LOOKED_AT).astype(int)).tolist():
        height, width = np.maximum(store.sizes[number] - SAMPLE, 0) // 2
        pixels = np.asarray(store.arrays(number)[0][height : height + SAMPLE, width : width + SAMPLE])
        highest[store.scenes[number].image] = float(abs(pixels.astype(np.float64)).max())
    low, high = (choose(highest, key=highest.__getitem__) for choose in (min, max))
    if not 0 < OTHER_SCALE * highest[low] < highest[high]:
        return ""
    return (
        f"Values of {low} reach {highest[low]:.3g} in its middle, those of {high} {highest[high]:.3g}: write all scenes "
        "of train in one scale"
    )


def _check_absent(store: Store, split: str, train: Store | None) -> None:
    """Report the classes that a split lacks; those that train lacks too are reported only once."""
    for place, (name, task) in enumerate(store.tasks.items()):
        named = absent_classes(train.censuses[name], task) if train else ()
        masks = dict.fromkeys(mask for scene in store.scenes if (mask := scene.mask_of(place)))
        check_absent(store.censuses[name], task, split, named, list(masks))


def _warn_of_radiometry(train: Store, numbers: TrainStatistics, other: Store, what: str) -> None:
    """Log that another split seems to have another number type or range than the training split, if so."""
    mean, std = np.array(numbers.mean), np.array(numbers.std)
    found = robust_statistics(other.census.bands, warn=False)
    if line := describe_other_radiometry(mean, std, str(train.dtype), found[0], str(other.dtype), what, found[1]):
        log.warning("%s", line)


def warn_of_misspelt(dataset: Dataset, names: Sequence[str]) -> None:
    """Log the patterns of `Dataset.unlabelled` that match none of the scenes' names."""
    for pattern in dataset.unlabelled:
        if not matching_names(pattern, names):
            log.warning("dataset.unlabelled.%s fits no training or validation scene%s.", pattern, nearest(pattern, names))


def training_scenes(source: Source, dataset: Dataset) -> dict[str, list[Scene]]:
    """The scenes of train and val; logs remarks on their groups.

    Raises:
        InputError: If a split has no scenes or its files are missing, for both splits together.
    """
    found, faults = dict[str, list[Scene]](), list[str]()
    for split in ("train", "val"):
        try:
            found[split] = scenes_of(source, dataset, split)
        except InputError as error:
            faults.append(str(error))
    if faults:
        raise InputError("; ".join(dict.fromkeys(faults)))
    for line in describe_groups(**found, fold=source.fold):
        log.warning("%s", line)
    return found


def scenes_of(source: Source, dataset: Dataset, split: str, needed: bool = True) -> list[Scene]:
    """The scenes of a split, with the classes that are not labelled in them; an `InputError` if `needed` and there are none."""
    if split not in SPLITS:
        raise InputError(f"split={split}{nearest(split, SPLITS)}: there are {', '.join(SPLITS)}")
    scenes = source.scenes(split)
    if not scenes and needed:
        raise InputError(
            f"the {split} split of dataset {dataset.name} has no scenes: see dataset.source.split, and whether the other "
            f"splits have taken all of them{'; or take split=val' * (split == 'test')}"
        )
    unlabelled = dataset.unlabelled_in([scene.name for scene in scenes])
    return [replace(scene, unlabelled=unlabelled[scene.name], nodata=dataset.nodata) for scene in scenes]


def open_split(dataset: Dataset, scenes: Sequence[Scene], split: str) -> Store:
    """A store of the given scenes; those that are not decoded yet are decoded first. `split` is for messages."""
    bands, how = dataset.read_bands, {"skip": dataset.skip_bad_scenes, "full": dataset.verify_all}
    store = open_store(scenes, dataset.mask_readers, bands, dataset.store, f"{split} split", **how)
    if store.skipped:
        listed = "".join(f"\n  - {fault}" for fault in list(store.skipped.values())[:5])
        log.warning("%d scenes of the %s split are skipped:%s", len(store.skipped), split, listed)
    return store
