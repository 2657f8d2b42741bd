"""Provenance of a run: code, versions, machine, choices."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from rsseg.version import __version__

RECORDED = (
    "hydra-core", "lightning", "numpy", "rasterio", "segmentation-models-pytorch", "timm", "torch", "torchgeo", "torchmetrics",
)  # fmt: skip


def git_state(package: Path) -> dict[str, Any]:
    """The commit of rsseg's checkout, and whether its code or configs have changes; both None if rsseg is installed.

    A package that git does not track, as in a .venv inside another repository, does not belong to that repository's commit.
    """

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=package, capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    if git("ls-files", "--error-unmatch", "__init__.py") is None:
        return {"commit": None, "changed": None}
    status = git("status", "--porcelain", "--untracked-files=no", "--", ".", "../configs", "../train.py")
    return {"commit": git("rev-parse", "HEAD"), "changed": None if status is None else bool(status)}


def code_hash(package: Path) -> str:
    """A hash of the package's source, which is independent of commit and folder."""
    digest = hashlib.blake2b(digest_size=6)
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


class Chosen(NamedTuple):
    """The user's choices for a run, which ``run.json`` records."""

    overrides: list[str]  # the command line's overrides
    loss: str  # the name of the loss composition
    of_heads: Mapping[str, str]  # by head, the name of the composition that was chosen for this head only


def losses_of_heads(choices: Mapping[str, str | None]) -> dict[str, str]:
    """By head, the losses that Hydra's choices set for single heads.

    Example:
        >>> losses_of_heads({"loss": "ce", "loss@model.heads.water.loss": "focal_dice"})
        {'water': 'focal_dice'}
    """
    first, last = "loss@model.heads.", ".loss"
    return {
        place.removeprefix(first).removesuffix(last): name
        for place, name in choices.items()
        if name and place.startswith(first) and place.endswith(last)
    }


def provenance(chosen: Chosen) -> dict[str, Any]:
    """A record of the user's choices and of the present code, libraries and machine."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "overrides": chosen.overrides,
        "loss": chosen.loss,
        "losses": dict(chosen.of_heads),
        "git": git_state(Path(__file__).parents[1]),
        "code": code_hash(Path(__file__).parents[1]),
        "rsseg": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": library_versions(),
    }


def library_versions() -> dict[str, str]:
    """The versions of the libraries that runs depend on; libraries that are not installed as packages are left out."""
    found = {}
    for name in RECORDED:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
