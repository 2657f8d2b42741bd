"""What made a run: code, versions, machine, choices."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

RECORDED = (
    "hydra-core", "lightning", "numpy", "rasterio", "segmentation-models-pytorch", "timm", "torch", "torchgeo", "torchmetrics",
)  # fmt: skip


def git_state(package: Path) -> dict[str, Any]:
    """The commit of rsseg's checkout and whether its code or configs differ from it; both None where rsseg is installed.

    Args:
        package: The folder of the package. Files that git does not track count nowhere: a package that lies in somebody
            else's repository, as in a .venv there, is not of that repository's commit.
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


def provenance(overrides: list[str], loss: str) -> dict[str, Any]:
    """A record of the code, the libraries and the machine that run now.

    Args:
        overrides: The command line's overrides.
        loss: The name of the loss composition that was chosen.
    """
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "overrides": overrides,
        "loss": loss,
        "git": git_state(Path(__file__).parents[1]),
        "rsseg": version("rsseg"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": {name: version(name) for name in RECORDED},
    }
