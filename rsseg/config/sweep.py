"""What a sweep's runs are called, and how their lines are told apart when several run at once."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import shutil
import sys
import threading
import time
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback

log = logging.getLogger(__name__)

NAMED = ("loss", "seed")  # in a folder's name whenever given, swept or not: a sweep over one seed can be widened later


def end_with_parent() -> None:
    """Let this process end within a second of the one that started it, which may be killed and can't say so then."""
    parent = os.getppid()

    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


class Sweep(Callback):
    """Names the runs of a sweep by what the sweep varies, and says which of how many begins.

    Hydra makes it (`hydra.callbacks` in train.yaml) and hands it to every process that runs a part of the sweep. What all
    runs have in common stays out of the names: where two sweeps into one folder differ in it, `rsseg.config.folder.unfinished`
    refuses to go on with the other one's runs.
    """

    total = 0

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        """Give Hydra the names' parts, as overrides that each run's config is composed with.

        Args:
            config: The sweep's config, which the launcher will use.
            kwargs: What else Hydra tells.
        """
        launcher = config.hydra.launcher._target_
        if launcher.endswith(".SlurmLauncher") and shutil.which("srun") is None:  # Hydra passes over what is no exit
            sys.exit("error: hydra/launcher=submitit_slurm: this machine has no srun; start it where SLURM is, or take joblib")
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        params = parser.parse_overrides([f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()])
        given = parser.parse_overrides(list(config.hydra.overrides.task))
        named = {*NAMED, *(o.key_or_group for o in params), *(o.key_or_group for o in given if o.is_sweep_override())}
        counts = {  # of two that set the same key, the later holds, as in Hydra
            o.get_key_element(): len(list(o.sweep_string_iterator())) if o.is_sweep_override() else 1 for o in [*params, *given]
        }
        self.total = math.prod(counts.values())
        left_out = {*config.hydra.job.config.override_dirname.exclude_keys, *(o.key_or_group for o in given)} - named
        words = [f"hydra.job.config.override_dirname.exclude_keys={sorted(left_out)}"]
        if not launcher.endswith(".BasicLauncher"):
            words.append("hydra.job_logging.formatters.simple.format='${hydra.job.override_dirname} | %(message)s'")
        if "submitit_folder" in config.hydra.launcher:
            jobs = config.hydra.launcher.submitit_folder.replace("%j", "<job>")  # submitit also makes a folder of the name %j
            log.info("Runs show nothing here: see %s/<run>/train.log, and %s for all they print", config.hydra.sweep.dir, jobs)
        config.hydra.overrides.hydra.extend(words)

    def on_job_start(self, config: Any, **kwargs: Any) -> None:
        """Say which run begins, and let a process of joblib's end with the sweep."""
        if multiprocessing.get_start_method() == "loky":
            end_with_parent()
        if self.total:
            log.info("run %d of %d: %s", config.hydra.job.num + 1, self.total, config.hydra.job.override_dirname)

    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        """Say how to go on."""
        log.info("Compare them: python scripts/compare.py runs='%s'", config.hydra.sweep.dir)
