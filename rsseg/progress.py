"""A progress bar with an estimate, for loops that may fail."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from hydra.core.hydra_config import HydraConfig
from rich.progress import Progress

Item = TypeVar("Item")


def shows_bars() -> bool:
    """Whether output goes to a terminal that this run has for itself.

    Bars of several runs at once, as the joblib launcher makes them, would overwrite each other.
    """
    alone = not HydraConfig.initialized() or HydraConfig.get().launcher._target_.endswith(".BasicLauncher")
    return alone and sys.stdout.isatty()


@contextmanager
def progress(items: Sequence[Item], title: str) -> Iterator[Iterator[Item]]:
    """Go through items under a bar, which disappears at the end; none where rsseg's log is silenced, as in further processes.

    `rich.progress.track` leaves its thread running when its loop fails; the garbage collector, joining it in the middle of
    a later bar, then waits for ever.

    Args:
        items: What to go through.
        title: What the bar says.

    Example:
        >>> with progress([1, 2], "adding") as steps:
        ...     total = sum(steps)
        >>> total
        3
    """
    shown = shows_bars() and logging.getLogger("rsseg").getEffectiveLevel() < logging.ERROR
    with Progress(transient=True, disable=not shown) as bar:
        task = bar.add_task(title, total=len(items))

        def steps() -> Iterator[Item]:
            for item in items:
                yield item
                bar.advance(task)

        yield steps()
