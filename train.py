"""Train a segmentation model: python train.py loss=focal_dice dataset=inria"""

import logging
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from rsseg.config.schema import misspelt, register
from rsseg.contract import InputError

register()


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(config: DictConfig) -> float:
    """One job: a single run, or one run of a sweep."""
    job = HydraConfig.get()
    try:
        if job.runtime.choices.sweep and job.mode is not RunMode.MULTIRUN:
            raise InputError(f"sweep={job.runtime.choices.sweep} is many runs: add -m, as in python train.py -m sweep=...")
        from rsseg.run import train  # torch and Lightning take seconds to import: `--help` does without

        return train(config, Path(job.runtime.output_dir), list(job.overrides.task), job.runtime.choices.get("loss", ""))
    except InputError as error:
        if job.mode is RunMode.MULTIRUN:  # Hydra would say it at the end of the sweep only
            logging.getLogger("rsseg").error("%s: %s", job.runtime.output_dir, error)
            raise CompactHydraException(str(error)) from None  # what Hydra prints without a stack trace; the sweep goes on
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # a sweep's, or after the last step; what trains says itself how to go on
        sys.exit("interrupted: the same command goes on, in a sweep with what is not finished")
    except SystemExit:
        for word in misspelt(sys.argv[1:]):
            print(word, file=sys.stderr)
        raise
