"""Commands and configs in a checkout or an installed package, and the errors and exit codes of a command."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from rsseg.config.naming import quoted
from rsseg.contract import InputError

log = logging.getLogger(__name__)

PACKAGE = Path(__file__).resolve().parents[1]
CHECKOUT = PACKAGE.parent
INSTALLED = (PACKAGE / "configs").is_dir()
"""Whether the package contains the configs, as a wheel does; in a checkout they are beside the package."""

CONFIGS = (PACKAGE if INSTALLED else CHECKOUT) / "configs"

ENTRY = (sys.executable, str(PACKAGE / "__main__.py"))
"""The words that start rsseg in another process; the command and its arguments follow them."""


def invocation(command: str) -> str:
    """The words that a user types here to start a command.

    Example:
        >>> invocation("compare") in ("rsseg compare", "python scripts/compare.py")
        True
    """
    if INSTALLED or Path.cwd() != CHECKOUT:
        return f"rsseg {command}"
    return "python train.py" if command == "train" else f"python scripts/{command}.py"


def next_map(run: object) -> str:
    """The line that says how to map an image with a run."""
    return f"Next: {invocation('predict')} run='{run}' scene=<image> maps an image"


def own_configs() -> Path | None:
    """The folder ``configs`` of the working directory, unless it is rsseg's; None if there is none."""
    folder = Path("configs").resolve()
    return folder if folder.is_dir() and folder != CONFIGS else None


@cache
def search_path(folder: Path | None) -> tuple[str, ...]:
    """The override by which Hydra finds a folder's configs beside rsseg's; none without a folder.

    If both have a file of the same name, Hydra takes rsseg's; one warning names the files of the folder that are not read.
    """
    if folder is None:
        return ()
    for path in sorted(folder.rglob("*.yaml")):
        shipped = CONFIGS / path.relative_to(folder)
        if shipped.is_file() and shipped.read_bytes() != path.read_bytes():
            log.warning("%s is not read: rsseg has a file of this name, which is taken. Give yours another name.", path)
    return (f"hydra.searchpath=[{quoted(f'file://{folder.resolve().as_posix()}')}]",)


def show_log() -> None:
    """Log lines to the standard output, like tables, so that the order is kept; nothing if logging is configured already."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)


@contextmanager
def one_line_errors(interrupted: str = "interrupted") -> Iterator[None]:
    """End the process with one line for a user's mistake or interrupt, silently if the reader of its output has closed it."""
    try:
        yield
        sys.stdout.flush()
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:  # during training, `rsseg.training.signals.Interrupts` tells how to resume
        sys.exit(interrupted)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter writes the rest when it ends
        sys.exit(1)
