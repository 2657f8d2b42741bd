"""Silence for the messages of libraries that users need not read."""

from __future__ import annotations

import logging
import warnings


def quiet() -> None:
    """Leave out what the libraries say at every start and no user can act on.

    Lightning sets up its loggers when it is imported: who imports it calls this afterwards.
    """
    logging.raiseExceptions = False  # of a full disk, what can't be written tells once, not each line of the log
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
        ".*sync_dist=True.*",  # what is logged is the same in all processes already
    ):
        warnings.filterwarnings("ignore", message)
