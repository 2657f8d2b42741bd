"""Progress bars on a terminal, or else lines with an estimate of the remaining time."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from hydra.core.hydra_config import HydraConfig
from rich.markup import escape
from rich.progress import Progress

Item = TypeVar("Item")

FIRST_LINE, NEXT_LINE = 5.0, 30.0
"""Seconds until the first line of progress without a terminal, and between the next ones."""

log = logging.getLogger(__name__)


def shows_bars() -> bool:
    """Whether output goes to a terminal that no other run uses.

    Bars of runs at the same time, as with the joblib launcher, would overwrite each other.
    """
    alone = not HydraConfig.initialized() or HydraConfig.get().launcher._target_.endswith(".BasicLauncher")
    return alone and sys.stdout.isatty()


def time_left(done: int, total: int, seconds: float) -> str:
    """The elapsed and the estimated remaining time of a loop, after `done` of `total` steps in `seconds`.

    Example:
        >>> time_left(10, 40, 20.0)
        '20 s gone, about 60 s left'
    """
    return f"{duration(seconds)} gone, about {duration(seconds / max(done, 1) * (total - done))} left"


def duration(seconds: float) -> str:
    """Seconds as text in a readable unit.

    Example:
        >>> duration(0.034), duration(7.25), duration(99), duration(753), duration(2.5 * 3600)
        ('34 ms', '7.2 s', '99 s', '13 min', '2 h 30 min')
    """
    if 0 < seconds < 0.1:
        return f"{1000 * seconds:.0f} ms"
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.1f} s" if 0 < seconds < 10 else f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


class Lines:
    """A timer for lines of progress: the first is due after `FIRST_LINE` seconds, the others every `NEXT_LINE`."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self._next = self.began + FIRST_LINE

    @property
    def seconds(self) -> float:
        """The seconds since the start."""
        return time.monotonic() - self.began

    def due(self) -> bool:
        """Whether a line is due; if so, the time of the next line is set."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + NEXT_LINE
        return True


@contextmanager
def progress(items: Sequence[Item], title: str) -> Iterator[Iterator[Item]]:
    """Go through items under a bar, which disappears at the end; without a terminal, log a line now and then.

    `rich.progress.track` is not used: it leaves its thread running when its loop fails, and the garbage collector may then hang
    when it joins the thread during a later bar.

    Example:
        >>> with progress([1, 2], "adding") as steps:
        ...     total = sum(steps)
        >>> total
        3
    """
    spoken = logging.getLogger("rsseg").getEffectiveLevel() < logging.ERROR  # silent in further processes
    shown = shows_bars() and spoken
    lines = Lines()
    with Progress(transient=True, disable=not shown) as bar:
        task = bar.add_task(escape(title), total=len(items))

        def steps() -> Iterator[Item]:
            for done, item in enumerate(items, start=1):
                yield item
                bar.advance(task)
                if not shown and done < len(items) and lines.due():
                    log.info("%s: %d of %d, %s", title, done, len(items), time_left(done, len(items), lines.seconds))

        yield steps()
