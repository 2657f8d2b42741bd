"""Describe a dataset, or the label noise that a run finds: rsseg describe FOLDER | dataset=NAME | run=FOLDER"""

import shlex
from argparse import ArgumentParser
from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from rsseg.config.cli import check_early, compose, own_part
from rsseg.config.entry import CONFIGS, invocation, own_configs, search_path
from rsseg.config.folder import RunFolder
from rsseg.config.schema import DatasetConfig
from rsseg.contract import InputError


@dataclass
class Arguments:
    """Describe a dataset before training on it, or rank its labels by how surely a trained model contradicts them.

    rsseg describe /data/mine     a folder: finds images, masks, values, bands and areas, writes their config into
                                  configs/dataset, and describes the dataset
                                  Settings of the dataset beside it are written into the config: dataset.source.on_missing=skip
    rsseg describe dataset=inria dataset.source.root=/data/inria
                                  a known dataset, with the overrides of rsseg train: class shares, object sizes, hints of label
                                  noise, and the three losses to compare first
    rsseg describe run=runs/...   a finished run: a worklist for relabelling, scenes and patches ranked by the labels that its
                                  best checkpoint contradicts with confidence

    image=PATTERN mask=PATTERN    of a folder whose files are not found or not paired rightly: both patterns, as in its config,
                                  such as image='photos/{name}.tif' mask='drawn/{name}_v2.png';
                                  image='[s2/{name}.tif,s1/{name}.tif]' stacks the bands of several files
    into=FOLDER                   of a folder: the folder of configs into whose dataset its config is written; default: configs
    --config-dir FOLDER           a folder of configs of your own, as of rsseg train; the config is written into its dataset
    split=NAME                    of a run: val (default), test or train, whose labels the model has learnt
    trust=PACKAGE[,PACKAGE...]    packages of your own that configs name: their code runs

    Datasets: description.json and description.png in <output>/describe/<dataset>.
    Runs: noise.csv, noise-scenes.csv and noise.png in the run folder.
    """

    overrides: list[str]
    into: str = ""
    run: str = ""
    split: str = "val"
    trust: list[str] = field(default_factory=list)
    image: str = ""
    mask: str = ""


def run(arguments: Arguments) -> None:
    """Describe a folder, the dataset that rsseg train would train on, or the label noise that a run finds."""
    if arguments.run:
        describe_run(arguments)
        return
    if arguments.split != "val":
        raise InputError(f"split={arguments.split} is for run=...: a dataset is described with all its splits")
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd", type=lambda text: Path(text).resolve(), default=own_configs())
    flags, words = parser.parse_known_args(arguments.overrides)
    folders = [word for word in words if "=" not in word and not word.startswith(("~", "+", "-"))]
    overrides = [word for word in words if word not in folders]
    overrides += [f"trust=[{','.join(arguments.trust)}]"] if arguments.trust else []
    if not folders and (arguments.image or arguments.mask):
        raise InputError("image=... and mask=... are for a folder; of a dataset write dataset.source.image=...")
    configs = flags.config_dir
    if folders:
        into = Path(arguments.into or configs or "configs")
        into = into if into.name == "dataset" else into / "dataset"
        name, configs = write_config(folders, into, arguments, overrides), into.resolve().parent
        overrides = [f"dataset={name}", *overrides]
    command = overrides if configs in (None, CONFIGS, own_configs()) else ["--config-dir", str(configs), *overrides]
    if folders:
        print(f"Train: {invocation('train')} {shlex.join(command)}\n")
    config = own_part(compose(CONFIGS, [*overrides, *search_path(configs)]))
    check_early(config)
    from rsseg.describe.report import describe  # torch takes seconds to import: report mistakes in the command first

    describe(config, overrides=command)


def describe_run(arguments: Arguments) -> None:
    """Rank the labels that a run contradicts.

    Raises:
        InputError: If there are words that a run has no use for.
    """
    if arguments.overrides:
        raise InputError(f"{arguments.overrides[0]}: a run has its own config: beside run=... only split=... and trust=... go")
    RunFolder(Path(arguments.run)).check_trained()
    from rsseg.describe.noise import describe_noise

    describe_noise(Path(arguments.run), arguments.split, arguments.trust)


def write_config(folders: list[str], into: Path, arguments: Arguments, overrides: list[str]) -> str:
    """Write the config of a folder, with the settings of the dataset on the command line; returns the dataset's name.

    Raises:
        InputError: If several folders are given, or one that holds nothing that can be trained on, or a setting is
            unknown, or a dataset is chosen too.
    """
    from rsseg.describe.discovery import discover, write_dataset

    if len(folders) > 1:
        raise InputError(f"{' '.join(folders)}: one folder is described at a time; quote a path that has blanks in it")
    if chosen := next((word for word in overrides if word.startswith("dataset=")), ""):
        raise InputError(f"{chosen}: a folder gets a config of its own: leave out {chosen} or {folders[0]}")
    there = into.resolve().parent if into.parent.is_dir() else None
    config = own_part(compose(CONFIGS, ["dataset=geotiff", *overrides, *search_path(there)]))
    settings = {}
    for word in OverridesParser.create().parse_overrides(overrides):
        key = word.key_or_group.removeprefix("dataset.")
        if not word.is_delete() and (key != word.key_or_group or key in ("window", "steps")):
            settings[key] = word.value()
    found = discover(Path(folders[0]), arguments.image, arguments.mask, settings)
    name, path = found.name, into / f"{found.name}.yaml"
    if not path.exists():
        config.dataset = OmegaConf.merge(OmegaConf.structured(DatasetConfig), found.config)
        check_early(config)  # faults are told before a file holds them
    elif arguments.image:
        raise InputError(f"{path} is there already: remove it to have it written anew; dataset={name} describes it as it is")
    write_dataset(found, path)
    return name
