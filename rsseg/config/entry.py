"""Where rsseg's commands and configs are: in a checkout, or in an installed package."""

from __future__ import annotations

import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
CHECKOUT = PACKAGE.parent
INSTALLED = (PACKAGE / "configs").is_dir()
"""Whether the package carries the configs, as a wheel does; in a checkout they lie beside it."""

CONFIGS = (PACKAGE if INSTALLED else CHECKOUT) / "configs"

ENTRY = (sys.executable, str(PACKAGE / "__main__.py"))
"""What starts rsseg in a further process; the command and its words follow."""


def invocation(command: str) -> str:
    """What a user types to start a command here.

    Example:
        >>> invocation("compare") in ("rsseg compare", "python scripts/compare.py")
        True
    """
    if INSTALLED or Path.cwd() != CHECKOUT:
        return f"rsseg {command}"
    return "python train.py" if command == "train" else f"python scripts/{command}.py"


def own_configs() -> Path | None:
    """The folder ``configs`` of the working directory, where that is the user's own."""
    folder = Path("configs").resolve()
    return folder if folder.is_dir() and folder != CONFIGS else None


def search_path(folder: Path | None) -> list[str]:
    """The override by which Hydra finds a folder's configs beside rsseg's; none without a folder."""
    return [f"hydra.searchpath=['file://{folder.resolve().as_posix()}']"] if folder else []
