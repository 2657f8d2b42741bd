"""Work shared out among threads that each run PyTorch's operations alone.

They meet once for all the work, where PyTorch's own threads meet in every operation: a core that is busy elsewhere then
delays the work a little, and does not stall it thousands of times.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from rsseg.losses.chunk import Scratch

Job = TypeVar("Job")


class _Local(threading.local):
    """Each thread's own scratch memory."""

    def __init__(self) -> None:
        self.scratch = Scratch()


_LOCAL = _Local()


def share(work: Callable[[Job, Scratch], None], jobs: Sequence[Job]) -> None:
    """Let the threads take jobs from one queue until it is empty; as many threads as PyTorch has.

    Args:
        work: Called with every job and its thread's memory, without gradients.
        jobs: In the order in which they are begun.
    """
    threads = min(torch.get_num_threads(), len(jobs))
    queue = iter(jobs)
    inference = torch.is_inference_mode_enabled()

    def one(_: int) -> None:
        scratch = Scratch() if inference else _LOCAL.scratch  # what inference mode makes, nothing else may write to
        with torch.inference_mode(inference), torch.no_grad():  # both are states of the thread
            for job in queue:
                scratch.reset()
                work(job, scratch)

    if threads <= 1:
        one(0)
    else:
        list(_pool(torch.get_num_threads(), os.getpid()).map(one, range(threads)))


def _alone() -> None:
    """Let this thread run PyTorch's operations without helpers."""
    torch.set_num_threads(1)
    torch.get_num_threads()  # a thread takes the default that holds when it first asks: this one, not that of later


@functools.cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:  # noqa: ARG001
    """Threads that each run PyTorch's operations alone; a forked process has none of its parent's."""
    pool = ThreadPoolExecutor(threads, "rsseg-losses", initializer=_alone)
    barrier = threading.Barrier(threads)
    list(pool.map(lambda _: barrier.wait(), range(threads)))  # all have started, and set the default of later threads
    torch.set_num_threads(threads)
    return pool
