"""One-line messages for a machine that runs out of memory or disk space."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from rsseg.contract import InputError, first_line
from rsseg.files import WAYS_OUT, file_error

NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")

TRAINING = "a new run with a smaller batch_size or window needs less"
SCORING = (
    "both are the run's and stay: free memory, or take a machine with more; CUDA_VISIBLE_DEVICES= before the command computes "
    "on the CPU"
)
"""The remedy if memory runs out."""

log = logging.getLogger(__name__)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a CPU or a GPU has no memory left.

    Example:
        >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"))
        True
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)


@contextmanager
def in_one_line(folder: Path, batch_size: int, window: int, way_on: str = "", memory: str = TRAINING) -> Iterator[None]:
    """Turn errors of the block that more memory, a larger batch or another disk would avoid into one line.

    The stack trace goes only into the log file. `folder` is where files are written, `way_on` tells how to resume, and `memory`
    is the remedy if memory runs out.
    """
    windows = f"batch_size={batch_size} windows of window={window} px"
    try:
        yield
    except Exception as error:
        reason = error.__cause__ if isinstance(error, InputError) else error
        if reason is None:
            raise
        if is_out_of_memory(reason):
            first = first_line(reason)[:120]
            line = f"out of memory with {windows} ({first}): {memory}"
        elif isinstance(reason, ValueError) and "more than 1 value per channel" in str(reason):
            line = f"{windows} leave batch normalisation one value per channel: take a larger batch or window"
        elif isinstance(reason, OSError) and reason.errno in WAYS_OUT:
            line = str(file_error(reason.filename or folder, reason))
        elif isinstance(error, InputError):
            line = str(error)
        else:
            raise
        write_trace(reason)
        can_go_on = way_on and not isinstance(error, ValueError)  # with another batch or window it is another run
        raise InputError(f"{line}; {way_on}" if can_go_on else line) from None


def write_trace(error: BaseException) -> None:
    """Write an error with its trace into the log files, not to the terminal."""
    record = log.makeRecord(
        log.name, logging.ERROR, __file__, 0, "%s", (type(error).__name__,), (type(error), error, error.__traceback__)
    )
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)
