"""Train a segmentation model: rsseg train loss=focal_dice dataset=inria"""

import logging
import os
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from rsseg.config.cli import prepare
from rsseg.config.entry import CONFIGS, invocation, next_map, one_line_errors, own_configs, show_log
from rsseg.config.provenance import losses_of_heads
from rsseg.contract import InputError

FIRST = all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))  # of several processes


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")
def run_job(config: DictConfig) -> float:
    """One job: a single run, or one run of a sweep."""
    job, log = HydraConfig.get(), logging.getLogger("rsseg")
    folder, loss = Path(job.runtime.output_dir), job.runtime.choices.get("loss", "")
    of_heads = losses_of_heads(job.runtime.choices)
    single = job.mode is not RunMode.MULTIRUN
    if single and FIRST:
        log.info("Going on with %s", folder) if config.resume else log.info(
            "Training loss=%s on dataset=%s in %s", loss, config.dataset.name, folder
        )
    try:
        from rsseg.run import train  # torch and Lightning take seconds to import: report mistakes in the command first

        words: Any = OmegaConf.to_container(job.overrides.task, resolve=False)  # as typed by the user
        score = train(config, folder, words, loss, of_heads)
        if single and FIRST:
            run = config.resume or folder
            log.info(
                "Next: %s run='%s' split=test scores it on the test split, if that has labels", invocation("evaluate"), run
            )
            log.info("%s", next_map(run))
        return score
    except InputError as error:
        if single:
            sys.exit(f"error: {error}")
        log.error("%s: %s", folder, error)  # Hydra would report it only at the end of the sweep
        raise CompactHydraException(str(error)) from None  # Hydra prints it without a stack trace; the sweep goes on


def main() -> None:
    """Train as the command line says."""
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: word not in ("-m", "--multirun"))  # Hydra takes none between settings
    own = own_configs()
    if own and not {"--config-dir", "-cd"} & {word.partition("=")[0] for word in sys.argv}:
        sys.argv[1:1] = ["--config-dir", str(own)]
    with one_line_errors("interrupted: run the same command again to go on, a sweep with its unfinished runs"):
        if "race=true" in sys.argv[1:]:
            from rsseg.race import race

            show_log()
            race(sys.argv[1:])
        else:
            prepare(CONFIGS, sys.argv[1:])
            run_job()
