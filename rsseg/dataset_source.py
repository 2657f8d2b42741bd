"""The source of a config's scenes, made without torch, so that it can be checked before torch is imported."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

from rsseg.config.build import SOURCE, build, locate, plain
from rsseg.config.folder import RunFolder
from rsseg.config.targets import FROM_FILES, targets_of
from rsseg.contract import InputError
from rsseg.data.files import Files
from rsseg.data.groups import group_names, in_fold
from rsseg.data.scene import Scene, Source
from rsseg.files import is_remote


def make_source(config: Mapping[str, Any], trust: Sequence[str]) -> Source:
    """The source of a config's scenes; files are listed, no pixels are read.

    Args:
        config: The config as plain values.
        trust: The user's packages whose classes the config may name.
    """
    dataset, given = config["dataset"], given_to_source(config)
    node = dataset["source"]
    made = locate(node.get("_target_") if isinstance(node, Mapping) else node, "dataset.source", SOURCE, trust)
    if given and "targets" not in signature(made).parameters:
        raise InputError(
            f"dataset.targets={list(targets_of(dataset))}: {made.__name__} has one target; leave dataset.targets out"
        )
    source: Source = build(node, "dataset.source", SOURCE, trust, **given)
    return with_fold(source, dataset["fold"])


def given_to_source(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that rsseg adds to a source's: with several targets, the settings of each by name."""
    if not plain["dataset"].get("targets"):
        return {}
    targets = targets_of(plain["dataset"])
    return {
        "targets": {
            name: {key: target[key] for key in FROM_FILES if target[key] is not None} for name, target in targets.items()
        }
    }


def scenes_version(run: Path, split: str, trust: Sequence[str] = ()) -> str:
    """A hash of the scenes of a run's split: names, groups, and the path, size and time of each file.

    Raises:
        InputError: If the scenes do not exist any more.
    """
    scenes = make_source(plain(RunFolder(run).config()), trust).scenes(split)
    facts = [(scene.name, scene.group, scene.signature()) for scene in scenes]
    return hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()


def trained_on(run: Path, images: Iterable[Path], trust: Sequence[str] = ()) -> str:
    """A clause that says which of the images a run was trained on, whose scores say little about other images.

    Returns:
        Empty if the run was trained on none of them, or its training images are no longer files in a local folder.
    """
    config = plain(RunFolder(run).config())
    node, asked = config["dataset"]["source"], {image.resolve() for image in images}
    root = node.get("root") if isinstance(node, Mapping) else None
    if not isinstance(root, str) or is_remote(root) or not Path(root).expanduser().is_dir():
        return ""
    try:
        scenes = make_source(config, trust).scenes("train")
    except InputError:  # the files do not exist any more
        return ""
    seen = [scene for scene in scenes if asked & {image.resolve() for image in scene.images}]
    if not seen:
        return ""
    return f"{run} was trained on {'' if seen[0].region is None else 'blocks of '}{seen[0].image}"


class Folds(Source):
    """The scenes of another source, with train and val pooled and split into folds by groups; test is unchanged."""

    fold: str

    def __init__(self, source: Source, fold: str) -> None:
        self.source, self.fold = source, fold

    def scenes(self, split: str) -> list[Scene]:
        """The scenes of train, val or test, sorted by name."""
        if split == "test":
            return self.source.scenes(split)
        parts = {part: self.source.scenes(part) for part in ("train", "val")}
        shared = set.intersection(*({scene.name for scene in part} for part in parts.values()))
        pooled = [
            replace(scene, name=f"{part}-{scene.name}") if scene.name in shared else scene  # torchgeo's scene names are numbers
            for part, scenes in parts.items()
            for scene in scenes
        ]
        groups = dict(zip((scene.name for scene in pooled), group_names(pooled), strict=True))
        owner = in_fold(dict.fromkeys(groups, "train"), groups, self.fold)
        return sorted((scene for scene in pooled if owner[scene.name] == split), key=lambda scene: scene.name)


def with_fold(source: Source, fold: str | None) -> Source:
    """The source, with training and validation scenes split into folds if a fold such as 2/5 is given."""
    if fold is None:
        return source
    if isinstance(source, Files) and source.split.side:  # it shrinks blocks beside blocks of another split
        source.fold = source.split.fold = fold
        return source
    return Folds(source, fold)
