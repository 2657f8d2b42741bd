"""Describe a dataset before training on it: class shares, object sizes, hints of label noise, and which losses to compare.

    python scripts/describe.py dataset=inria dataset.source.root=/data/inria

Takes the overrides of train.py and writes description.json and description.png into <output>/describe/<dataset>.
"""

import logging
import sys
from pathlib import Path

from rsseg.config.cli import check_early, compose, own_part
from rsseg.contract import InputError

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def main(words: list[str]) -> None:
    """Describe the dataset that train.py would train on with these overrides."""
    # what is logged goes where the tables go, so that all stays in one order
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return
    try:
        for word in words:
            if word.startswith("-"):
                raise InputError(f"'{word}' is not understood: write key=value, as for a single run of train.py")
        config = own_part(compose(CONFIGS, words))
        check_early(config)
        from rsseg.run import describe  # torch takes seconds to import: mistakes in the command are told before

        describe(config, overrides=words)
    except InputError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
