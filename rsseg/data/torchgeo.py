"""torchgeo's datasets: those whose samples hold images and a mask, and geospatial ones, which may be intersected."""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Mapping, Sequence
from functools import reduce
from importlib.metadata import version
from operator import and_
from typing import Any

import torchgeo.datasets

from rsseg.contract import InputError, nearest
from rsseg.data.groups import by_fraction
from rsseg.data.scene import Scene, Source
from rsseg.data.splits import FRACTIONS, SPLITS
from rsseg.data.torchgeo_scene import Samples, grouped_keys

NAMES = {"train": ("train", "training", "trainval"), "val": ("val", "valid", "validation", "dev"), "test": ("test", "testing")}
"""torchgeo's names of the splits."""
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
HELD_OUT = {"train": 0.85, "val": 0.15}  # how the training split of a dataset without a validation split is dealt out


class TorchGeo(Source):
    """The scenes of a torchgeo dataset: one per sample, or, for geospatial datasets, one per piece of each indexed file.

    Each sample is a group; the pieces of files that overlap are one group.

    Scenes are decoded again when the arguments, torchgeo's version or a file below ``root`` or ``paths`` changes.

    Args:
        name: The class in `torchgeo.datasets`; ``A+B``: the intersection of geospatial datasets, torchgeo's ``A & B``.
        args: The arguments of the class, without its split and transforms; for ``A+B``, such a mapping for each class.
        split: For each of train, val and test, the class's own name of the split, or a mapping of the arguments that select
            it; usual names are tried for the others. Without a validation split, or with ``val: null``, 15 % of the training
            samples validate; a class without splits is divided 70 : 15 : 15. Both use a hash; overlapping files of a
            geospatial dataset stay together.
        chip: Side of the pieces of geospatial datasets, in pixels.
        image: The keys of a sample that are its image; None: ``image``, or else all keys that begin with it.
        mask: The keys that are its mask; None: ``mask``, or else the only key that begins with it.
        times: How many time steps of an image become bands, evenly spaced; None: all.
    """

    def __init__(
        self,
        name: str,
        args: Mapping[str, Any],
        split: Mapping[str, str | Mapping[str, Any] | None] | None = None,
        chip: int = 2048,
        image: str | Sequence[str] | None = None,
        mask: str | Sequence[str] | None = None,
        times: int | None = None,
    ) -> None:
        names = name.split("+")
        self.kinds = {each: dataset_class(each, joined=len(names) > 1) for each in names}
        self.args = {name: dict(args)} if len(names) == 1 else arguments_of(names, args)
        for each, kind in self.kinds.items():
            known = [p for p in inspect.signature(kind).parameters if p not in ("split", "transforms")]
            for key in self.args[each]:
                if key not in known:
                    hint = "; dataset.source.split names its splits" if key == "split" else nearest(key, known)
                    raise InputError(f"dataset.args.{key}: {each} has no such argument{hint}; it has {', '.join(known)}")
        if split is not None and (not isinstance(split, Mapping) or set(split) - set(SPLITS)):
            raise InputError(f"dataset.source.split={split}: a mapping such as {{train: train, val: validation}} is expected")
        for setting, number in (("chip", chip), ("times", times)):
            if number is not None and number < 1:
                raise InputError(f"dataset.source.{setting}={number} must be at least 1")
        self.name, self.split, self.chip, self.times = name, dict(split or {}), chip, times
        self.image, self.mask = ([keys] if isinstance(keys, str) else keys and list(keys) for keys in (image, mask))
        self.takes_split = len(names) == 1 and "split" in inspect.signature(self.kinds[names[0]]).parameters

    def scenes(self, split: str) -> list[Scene]:
        """The scenes of train, val or test."""
        dataset, chosen, keys = self._open(split)
        numbered, name = {number: key for number, (_, key) in keys.items()}, f"torchgeo's {self.name}, {split}"
        fingerprint = self._fingerprint(chosen)
        samples = Samples(dataset, numbered, name, fingerprint, split != "test", self.image, self.mask, self.times)
        part = "-".join(map(str, chosen.values())) or "all"
        return [samples.scene(number, f"{part}-{group}") for number, (group, _) in keys.items()]

    def _fingerprint(self, chosen: Mapping[str, Any]) -> str:
        """A hash of all that decoded samples depend on, taken after the class is made, which may extract or download files."""
        facts: list[object] = [sorted(self.args.items()), sorted(chosen.items()), version("torchgeo"), self.chip]
        facts += [self.image, self.mask, self.times]
        for name, kind in self.kinds.items():
            bound = inspect.signature(kind).bind_partial(**self.args[name])
            bound.apply_defaults()
            for key in ("root", "paths"):
                given = bound.arguments.get(key, [])
                for place in [given] if isinstance(given, str | os.PathLike) else given:
                    for folder, _, names in sorted(os.walk(place)):
                        kept = sorted(name for name in names if not name.lower().endswith(ARCHIVES))
                        stats = [os.stat(os.path.join(folder, name)) for name in kept]
                        facts.append((folder, kept, [(s.st_size, s.st_mtime_ns) for s in stats]))
        return hashlib.blake2b(repr(facts).encode(), digest_size=8).hexdigest()

    def _open(self, split: str) -> tuple[Any, dict[str, Any], dict[int, tuple[int, Any]]]:
        """The torchgeo dataset that holds a split, the arguments that select it, and its samples: groups and keys by number."""
        if not self.takes_split and not self.split:
            whole = self._make({})
            return whole, {}, self._dealt(whole, FRACTIONS)[split]
        found = None if split == "test" else self._find("val", needed=self.split.get("val") is not None)
        shares = {split: 1.0} if found or split == "test" else HELD_OUT
        if split != "val" or not found:
            found = self._find("test" if split == "test" else "train", needed=True)
        chosen, dataset = found
        return dataset, chosen, self._dealt(dataset, shares)[split]

    def _dealt(self, dataset: Any, shares: Mapping[str, float]) -> dict[str, dict[int, tuple[int, Any]]]:
        """The numbered groups and keys of each split."""
        groups: dict[int, dict[int, tuple[int, Any]]] = {}
        for number, (group, key) in enumerate(grouped_keys(dataset, self.chip)):
            groups.setdefault(group, {})[number] = group, key
        dealt = by_fraction({f"{group:06d}": len(keys) for group, keys in groups.items()}, shares)
        return {
            split: {number: key for group in sorted(names) for number, key in groups[int(group)].items()}
            for split, names in dealt.items()
        }

    def _find(self, split: str, needed: bool) -> Any:
        """The first arguments for a split that the class accepts, and the dataset; None if there are none and not `needed`."""
        ways: list[Any] = [self.split[split]] if split in self.split else list(NAMES[split]) if self.takes_split else []
        for way in [way for way in ways if way is not None]:
            chosen = dict(way) if isinstance(way, Mapping) else {"split": way}
            dataset = self._make(chosen)
            if dataset is not None:
                return chosen, dataset
        if needed:
            called = " or ".join(map(str, ways)) or "anything: name it in dataset.source.split"
            raise InputError(f"torchgeo's {self.name} has no split called {called} for {split}")
        return None

    def _make(self, chosen: Mapping[str, Any]) -> Any:
        """The dataset; of several classes, their intersection; None if the class has no such split."""
        try:
            return reduce(and_, [kind(**self.args[name], **chosen) for name, kind in self.kinds.items()])
        except Exception as error:  # whatever 120 constructors raise over missing and damaged data
            text = str(error).strip("'")
            of_split = not text or "split" in text.lower() or text == chosen.get("split")
            if chosen and of_split and isinstance(error, AssertionError | KeyError | ValueError):
                return None
            args = self.args if len(self.args) > 1 else self.args[self.name]
            raise InputError(f"torchgeo's {self.name} with dataset.args={args}: {str(error).strip() or repr(error)}") from None


def arguments_of(names: Sequence[str], args: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The arguments of each of several classes, which have to be listed by class."""
    wrong = [key for key, own in args.items() if key not in names or not isinstance(own, Mapping)]
    if wrong:
        raise InputError(
            f"dataset.args.{wrong[0]}: dataset.name={'+'.join(names)} takes the arguments of each class by its name, such as "
            f"dataset.args.{names[0]}.paths=..."
        )
    return {name: dict(args.get(name, {})) for name in names}


def dataset_class(name: str, joined: bool = False) -> Any:
    """A dataset class of torchgeo by name; a geospatial one, if it is to be joined to others by place."""
    base = torchgeo.datasets.GeoDataset, torchgeo.datasets.NonGeoDataset
    found = getattr(torchgeo.datasets, name, None)
    if not (inspect.isclass(found) and issubclass(found, base)):
        known = [n for n, c in vars(torchgeo.datasets).items() if inspect.isclass(c) and issubclass(c, base)]
        raise InputError(f"dataset.name={name} is no dataset of torchgeo {version('torchgeo')}{nearest(name, known)}")
    if joined and not issubclass(found, base[0]):
        raise InputError(f"dataset.name has {name}, whose samples have no place: only geospatial datasets can be joined")
    return found
