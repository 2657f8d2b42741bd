"""Silence for the messages of libraries that users need not read, and for warnings that were logged before."""

from __future__ import annotations

import logging
import warnings
from functools import lru_cache


@lru_cache(maxsize=1024)
def warn_once(log: logging.Logger, line: str) -> None:
    """Log a warning the first time that it is given."""
    log.warning("%s", line)


def quiet() -> None:
    """Silence messages that libraries print at every start and that no user can act on.

    Lightning sets up its loggers on import, so call this after importing it.
    """
    logging.raiseExceptions = False  # a full disk is reported once, by the file that can't be written
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch").propagate = False  # it has a handler of its own
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    logging.getLogger("pyogrio").setLevel(logging.WARNING)  # it logs the number of features of every file
    for message in (
        ".*dataloader is not resumable.*",
        ".*smaller than the logging interval.*",
        ".*exists and is not empty.*",
        ".*LeafSpec.*",
        ".*isinstance.treespec.*",
        ".*module.s. in eval mode.*",  # frozen parts
        ".*srun.*",  # srun exists, but this is not a job
        ".*sync_dist=True.*",  # logged values are the same in all processes already
    ):
        warnings.filterwarnings("ignore", message)
