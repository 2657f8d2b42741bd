"""Where the scenes of a config lie: its source, made without torch, so that it can be looked at before that is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

from rsseg.config.build import SOURCE, build, locate, plain
from rsseg.config.folder import RunFolder
from rsseg.config.targets import FROM_FILES, leave_out_short_form, targets_of
from rsseg.contract import InputError
from rsseg.data.folds import with_folds
from rsseg.data.scene import Source


def make_source(config: Mapping[str, Any], trust: Sequence[str]) -> Source:
    """The source of a config's scenes; files are listed, no pixels are read.

    Args:
        config: The config as plain values.
        trust: Packages of the user's whose classes it may name.

    Raises:
        InputError: If the source can't be made, or its files can't be found.
    """
    dataset, given = config["dataset"], given_to_source(config)
    node = dataset["source"]
    made = locate(node.get("_target_") if isinstance(node, Mapping) else node, "dataset.source", SOURCE, trust)
    if given and "targets" not in signature(made).parameters:
        raise InputError(
            f"dataset.targets={list(targets_of(dataset))}: {made.__name__} has one target; leave dataset.targets out"
        )
    source: Source = build(node, "dataset.source", SOURCE, trust, **given)
    return with_folds(source, dataset["folds"], dataset["fold"])


def given_to_source(plain: Mapping[str, Any]) -> dict[str, Any]:
    """What a source is given: of several targets what holds each of them, by name."""
    if not plain["dataset"].get("targets"):
        return {}
    targets = targets_of(plain["dataset"])
    return {
        "targets": {
            name: {key: target[key] for key in FROM_FILES if target[key] is not None} for name, target in targets.items()
        }
    }


def find_scenes(run: Path, split: str, trust: Sequence[str] = ()) -> None:
    """Look whether the scenes of a run's split are still there.

    Args:
        run: The run folder.
        split: The split.
        trust: Packages of the user's whose classes the run's config may name.

    Raises:
        InputError: If they are not.
    """
    make_source(plain(leave_out_short_form(RunFolder(run).config())), trust).scenes(split)
