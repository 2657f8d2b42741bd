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
        overrides = [*words_of_folder(folders, Path(arguments.into)), *overrides]
    config = own_part(compose(CONFIGS, overrides))
    check_early(config)
    from rsseg.run import describe  # torch takes seconds to import: mistakes in the command are told before

    describe(config, overrides=overrides)


def words_of_folder(folders: list[str], into: Path) -> list[str]:
    """The overrides that stand for a folder, whose config is written where there is none of its name.

    Raises:
        InputError: If it holds nothing that can be trained on.
    """
    from rsseg.discovery import discover

    if len(folders) > 1:
        raise InputError(f"{' '.join(folders)}: one folder is described at a time; quote a path that has blanks in it")
    if into.name != "dataset":
        raise InputError(f"into={into}: a folder called dataset is expected, which train.py finds by --config-dir")
    found = discover(Path(folders[0]))
    path, elsewhere = into / f"{found.name}.yaml", into.resolve() != CONFIGS / "dataset"
    print("\n".join(found.beliefs))
    if path.exists():
        print(f"{path} is there already and is used as it is: remove it to have it written again.")
    else:
        into.mkdir(parents=True, exist_ok=True)
        path.write_text(found.text(), encoding="utf-8")
        print(f"Config: {path}. Look whether this is right, and give the classes their names.")
    place = f"--config-dir {into.parent.resolve()} " * elsewhere
    print(f"Train: python train.py {place}dataset={found.name}\n")
    return [f"dataset={found.name}", *([f"hydra.searchpath=[file://{into.parent.resolve()}]"] if elsewhere else [])]


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)  # where the tables go: all in one order
    run_script(Arguments, main)
