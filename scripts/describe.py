"""Describe a dataset: python scripts/describe.py dataset=inria dataset.source.root=/data/inria"""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path

from rsseg.config.arguments import run_script
from rsseg.config.cli import check_early, compose, own_part

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


@dataclass
class Arguments:
    """Describe a dataset before training on it: class shares, object sizes, label noise, and which losses to compare.

    python scripts/describe.py dataset=inria dataset.source.root=/data/inria

    Takes the overrides of train.py and writes description.json and description.png into <output>/describe/<dataset>.
    """

    overrides: list[str]


def main(arguments: Arguments) -> None:
    """Describe the dataset that train.py would train on with these overrides."""
    config = own_part(compose(CONFIGS, arguments.overrides))
    check_early(config)
    from rsseg.run import describe  # torch takes seconds to import: mistakes in the command are told before

    describe(config, overrides=arguments.overrides)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)  # where the tables go: all in one order
    run_script(Arguments, main)
