"""Silence for the messages of libraries that users need not read."""

from __future__ import annotations

import logging
import warnings


def quiet() -> None:
    """Silence messages that libraries print at every start and that no user can act on.

    Lightning sets up its loggers when it is imported: who imports it calls this afterwards.
    """
    logging.raiseExceptions = False  # a full disk is told once, by the file that can't be written, not by each line of the log
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch").propagate = False  # it has a handler of its own
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # its errors come as exceptions too
    logging.getLogger("pyogrio").setLevel(logging.WARNING)  # it counts the features of every file that it writes
    for message in (
        ".*dataloader is not resumable.*",
        ".*smaller than the logging interval.*",
        ".*exists and is not empty.*",
        ".*no geotransform.*",
        ".*LeafSpec.*",
        ".*isinstance.treespec.*",
        ".*module.s. in eval mode.*",  # frozen parts
        ".*srun.*",  # beside a cluster's programs, outside of a job
        ".*sync_dist=True.*",  # logged values are the same in all processes already
    ):
        warnings.filterwarnings("ignore", message)
