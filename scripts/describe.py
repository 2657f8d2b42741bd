"""Describe a dataset: python scripts/describe.py /data/mine, or dataset=inria dataset.source.root=/data/inria"""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path

from rsseg.config.arguments import run_script
from rsseg.config.cli import check_early, compose, own_part
from rsseg.contract import InputError

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


@dataclass
class Arguments:
    """Describe a dataset before training on it: class shares, object sizes, label noise, and which losses to compare.

    python scripts/describe.py /data/mine            finds images, masks, values, bands and groups, and writes their config
    python scripts/describe.py dataset=inria dataset.source.root=/data/inria

    into=FOLDER    where the config of a folder is written, a folder called dataset; default: configs/dataset

    Takes the overrides of train.py and writes description.json and description.png into <output>/describe/<dataset>.
    """

    overrides: list[str]
    into: str = str(CONFIGS / "dataset")


def main(arguments: Arguments) -> None:
    """Describe the dataset that train.py would train on with these overrides, or that lies in a folder."""
    folders = [word for word in arguments.overrides if "=" not in word and not word.startswith(("~", "+", "-"))]
    overrides = [word for word in arguments.overrides if word not in folders]
    if folders:
        overrides = [*overrides_of_folder(folders, Path(arguments.into)), *overrides]
    config = own_part(compose(CONFIGS, overrides))
    check_early(config)
    from rsseg.run import describe  # torch takes seconds to import: mistakes in the command are told before

    describe(config, overrides=overrides)


def overrides_of_folder(folders: list[str], into: Path) -> list[str]:
    """The overrides that choose the dataset of a folder, whose config is written.

    Raises:
        InputError: If several folders are given, or one that holds nothing that can be trained on.
    """
    from rsseg.discovery import add_dataset

    if len(folders) > 1:
        raise InputError(f"{' '.join(folders)}: one folder is described at a time; quote a path that has blanks in it")
    if into.name != "dataset":
        raise InputError(f"into={into}: a folder called dataset is expected, which train.py finds by --config-dir")
    name, configs = add_dataset(Path(folders[0]), into), into.resolve().parent
    if configs == CONFIGS:
        print(f"Train: python train.py dataset={name}\n")
        return [f"dataset={name}"]
    print(f"Train: python train.py --config-dir {configs} dataset={name}\n")
    return [f"dataset={name}", f"hydra.searchpath=[file://{configs}]"]


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)  # where the tables go: all in one order
    run_script(Arguments, main)
