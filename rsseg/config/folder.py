"""The run folder: what a run wrote before, and whether it can be gone on with."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from rsseg.config.build import plain
from rsseg.config.schema import Config
from rsseg.contract import InputError
from rsseg.files import write_text

PLACE_KEYS = (
    "output",
    "resume",
    "workers",
    "residence",
    "pictures",
    "logger",
    "checkpoint_every",
    "trust",
)  # two runs of a config may differ in these
FOUND_KEYS = ("dataset.bands",)  # null until a run has seen the data


def resume_word(folder: Path) -> str:
    """The command-line word that goes on with a run, in quotes where the folder of a sweep's run needs them.

    Example:
        >>> print(resume_word(Path("runs/a")), resume_word(Path("runs/sweep/loss=ce,seed=1")))
        resume=runs/a 'resume="runs/sweep/loss=ce,seed=1"'
    """
    if re.fullmatch(r"[\w./:-]*", str(folder)):
        return f"resume={folder}"
    return f"'{quoted_resume(folder)}'"


def quoted_resume(folder: Path) -> str:
    """The word as Hydra reads it, without the shell's quotes: a quote in the folder's name has a backslash before it."""
    escaped = str(folder).replace('"', '\\"')
    return f'resume="{escaped}"'


@contextmanager
def alone(folder: Path, wait: bool = False) -> Iterator[None]:
    """While this is open, no other process trains in a run folder; the system lets go of it when this process is killed.

    Args:
        folder: The run folder.
        wait: Wait for another process that trains in it.

    Raises:
        InputError: If another process does, and is not waited for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "run.lock", is_singleton=True)  # one object per process: it may be taken twice
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise InputError(f"{folder}: another process is training this run; wait for it, or stop it") from None
    try:
        yield
    finally:
        lock.release()


def in_training(folder: Path) -> bool:
    """Whether another process trains in a run folder; False also where that can't be seen, as nothing may be written there."""
    if not (folder / "run.lock").is_file():
        return False
    try:
        with alone(folder):
            return False
    except InputError:
        return True
    except OSError:
        return False


def load_config(folder: Path) -> Any:
    """The config that a run folder holds.

    Raises:
        InputError: If it holds none.
    """
    if not (folder / "config.yaml").is_file():
        raise InputError(f"{folder} is no run folder: it has no config.yaml")
    config = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(folder / "config.yaml"))
    config.trust = []  # the person at the command line trusts, not a file
    return config


def save_config(values: dict[str, Any], folder: Path) -> None:
    """Write the config of a run, plain values."""
    write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(values)))


def differences(folder: Path, config: Any) -> dict[str, tuple[Any, Any]]:
    """The keys in which a run's config and another one differ, with both values; none: the same run."""
    before, now = (flat(plain(c)) for c in (load_config(folder), config))
    left_open = {key for key in FOUND_KEYS if now.get(key) is None}
    both = {key: (before.get(key), now.get(key)) for key in sorted((before.keys() | now.keys()) - left_open)}
    return {key: (a, b) for key, (a, b) in both.items() if a != b and key.split(".")[0] not in PLACE_KEYS}


def unfinished(folder: Path, config: Any) -> Path | None:
    """The last checkpoint of a run that was begun in a folder; None for a fresh folder.

    Raises:
        InputError: If the folder holds a run of another config.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "config.yaml").is_file():
        return None
    changed = list(differences(folder, config).items())
    if changed:
        listed = ", ".join(f"{key}: {before} -> {now}" for key, (before, now) in changed[:5])
        raise InputError(
            f"{folder} holds a run of another config ({listed}): choose another folder (hydra.run.dir=..., for a sweep "
            "hydra.sweep.dir=...) or remove it"
        )
    last = folder / "checkpoints" / "last.ckpt"
    return last if last.is_file() else None


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """A node's values by their dotted keys.

    Example:
        >>> flat({"optimizer": {"lr": 0.1}, "steps": 9})
        {'optimizer.lr': 0.1, 'steps': 9}
    """
    if not isinstance(node, dict):
        return {prefix: node}
    return {key: value for name, child in node.items() for key, value in flat(child, f"{prefix}.{name}".lstrip(".")).items()}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(part, path)
