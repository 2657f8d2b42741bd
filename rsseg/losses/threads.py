"""Work shared out among threads that each run PyTorch's operations alone.

They meet once for all the work, where PyTorch's own threads meet in every operation: a core that is busy elsewhere then
delays the work a little, and does not stall it thousands of times.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

from rsseg.losses.chunk import Scratch

Job = TypeVar("Job")


class _Local(threading.local):
    """Each thread's own scratch memory."""

    def __init__(self) -> None:
        self.scratch = Scratch()


_LOCAL = _Local()


def share(work: Callable[[Job, Scratch], None], jobs: Sequence[Job], threads: int) -> None:
    """Let threads, this one among them, take jobs from one queue until it is empty.

    Args:
        work: Called with every job and its thread's memory, without gradients.
        jobs: In the order in which they are begun.
        threads: How many, at most as many as PyTorch has.
    """
    threads = min(threads, len(jobs))
    queue = iter(jobs)
    inference = torch.is_inference_mode_enabled()

    def one() -> None:
        scratch = Scratch() if inference else _LOCAL.scratch  # what inference mode makes, nothing else may write to
        with torch.inference_mode(inference), torch.no_grad():  # both are states of the thread
            for job in queue:
                scratch.reset()
                work(job, scratch)

    helpers = [_pool(torch.get_num_threads(), os.getpid()).submit(one) for _ in range(threads - 1)]
    with _alone():
        one()
    for helper in helpers:
        helper.result()


def _stand_alone() -> None:
    """Let this thread run PyTorch's operations without helpers."""
    torch.set_num_threads(1)
    torch.get_num_threads()  # a thread takes the default that holds when it first asks: this one, not that of later


@contextmanager
def _alone() -> Iterator[None]:
    """For as long as this is open."""
    threads = torch.get_num_threads()
    _stand_alone()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@functools.cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:  # noqa: ARG001
    """One thread fewer that each run PyTorch's operations alone; a forked process has none of its parent's."""
    pool = ThreadPoolExecutor(threads - 1, "rsseg-losses", initializer=_stand_alone)
    barrier = threading.Barrier(threads)
    waiting = [pool.submit(barrier.wait) for _ in range(threads - 1)]
    barrier.wait()
    for one in waiting:
        one.result()
    torch.set_num_threads(threads)  # all have started, and set the default of later threads
    return pool
