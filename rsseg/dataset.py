"""A dataset: what a config says of it, and its scenes, found and decoded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rsseg.contract import InputError, nearest
from rsseg.data.build import open_store
from rsseg.data.census import Census, check_absent
from rsseg.data.decoder import Decoder
from rsseg.data.scene import Scene, Source
from rsseg.data.splits import SPLITS
from rsseg.data.store import Store
from rsseg.task import Centres, Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dataset:
    """What a config says of a dataset.

    Attributes:
        name: Used in folder names.
        task: Its task and classes.
        bands: The image bands to read, counted from 1; None until the data are seen.
        rgb: The bands that pictures show; None: the first three.
        palette: The colours of the labels; None: chosen.
        labels: How its masks are decoded.
        store: The folder of its decoded scenes.
        skip_bad_scenes: Leave out scenes that can't be decoded.
    """

    name: str
    task: Task
    bands: tuple[int, ...] | None
    rgb: tuple[int, ...] | None
    palette: list[str] | None
    labels: Decoder
    store: Path
    skip_bad_scenes: bool

    @property
    def read_bands(self) -> list[int]:
        """The bands, once they are known."""
        assert self.bands is not None
        return list(self.bands)


@dataclass(frozen=True)
class Numbers:
    """What the training split's census says; plain numbers, kept in the run folder.

    Attributes:
        positives: Training pixels of each class.
        valid: Labelled training pixels, per class.
        mean: Per band.
        std: Per band.
        value_mean: Per real value of a regression's target.
        value_std: Likewise.
    """

    positives: list[int]
    valid: list[int]
    mean: list[float]
    std: list[float]
    value_mean: list[float] = field(default_factory=list)
    value_std: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, census: Census) -> Numbers:
        """Sum a census over its scenes."""
        return cls(
            census.positives.sum(axis=0).tolist(),
            census.valid.sum(axis=0).tolist(),
            census.bands.mean.tolist(),
            census.bands.std.tolist(),
            census.values.mean.tolist(),
            census.values.std.tolist(),
        )


@dataclass(frozen=True)
class Data:
    """The scenes of a run, decoded.

    Attributes:
        stores: The tiles of train and val.
        numbers: What the training split says.
    """

    stores: dict[str, Store]
    numbers: Numbers

    def record(self) -> dict[str, Any]:
        """What data.json holds: the numbers, and per split scenes, fingerprints of labels and pixels, and what was skipped."""
        names = {split: [scene.name for scene in store.scenes] for split, store in self.stores.items()}
        return asdict(self.numbers) | {
            "fingerprint": {split: store.census.fingerprint(names[split]) for split, store in self.stores.items()},
            "pixels": {split: store.pixels for split, store in self.stores.items()},
            "scenes": names,
            "skipped": {split: store.skipped for split, store in self.stores.items()},
        }


def open_data(dataset: Dataset, source: Source, window: int) -> Data:
    """The training and the validation split, decoded first where they are not in the store yet.

    Args:
        dataset: The dataset, its bands known.
        source: Where its scenes lie.
        window: The side of the training windows, for messages.

    Raises:
        InputError: If a split is empty, files can't be used, or a class occurs nowhere.
    """
    scenes = {split: scenes_of(source, dataset.name, split) for split in ("train", "val")}
    stores = {split: open_split(dataset, scenes[split], split, window) for split in scenes}
    for split, store in stores.items():
        check_absent(store.census, store.task, split)
    if dataset.task.soft:
        log.info(
            "Masks hold class shares, which the loss learns. Counts, samplers, metrics and pictures go by the class with %s.",
            "the largest share" if dataset.task.exclusive else "more than half of a pixel",
        )
    numbers = Numbers.of(stores["train"].census)
    if isinstance(dataset.task, Centres) and not any(numbers.value_mean):
        log.info(
            "No object has a size: centres are learnt and scored by F1, no boxes. dataset.size=9 would make them 9 px wide."
        )
    for store in stores.values():
        store.fill = np.array(numbers.mean)
    return Data(stores, numbers)


def scenes_of(source: Source, dataset: str, split: str) -> list[Scene]:
    """The scenes of a split.

    Raises:
        InputError: If there is no such split, or nothing in it.
    """
    if split not in SPLITS:
        raise InputError(f"split={split}{nearest(split, SPLITS)}: there are {', '.join(SPLITS)}")
    scenes = source.scenes(split)
    if not scenes:
        raise InputError(
            f"the {split} split of dataset {dataset} has no scenes: see dataset.source, and whether "
            "the other splits have taken all of them"
        )
    return scenes


def open_split(dataset: Dataset, scenes: Sequence[Scene], split: str, window: int) -> Store:
    """The tiles of some scenes, decoded first where they are not in the store yet.

    Args:
        dataset: The dataset, its bands known.
        scenes: Those of the split.
        split: Its name, for messages.
        window: The side of the training windows, for messages.

    Raises:
        InputError: If files can't be used.
    """
    store = open_store(
        scenes, dataset.labels, dataset.read_bands, dataset.store, f"{split} split", skip=dataset.skip_bad_scenes
    )
    if store.skipped:
        listed = "".join(f"\n  - {fault}" for fault in list(store.skipped.values())[:5])
        log.warning("%d scenes of the %s split are skipped:%s", len(store.skipped), split, listed)
    small = int((store.sizes < window).any(axis=1).sum())
    if small:
        line = "%d of %d %s scenes are smaller than window=%d: padded, the padding is ignored."
        log.info(line, small, len(store), split, window)
    return store
