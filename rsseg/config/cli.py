"""The command line of train.py: its help, and one line for each mistake, all of them before torch is imported."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rsseg.config.build import missing, plain
from rsseg.config.schema import SCHEMAS, Config, cross_check, raise_faults, register
from rsseg.contract import InputError, nearest

HELP = """\
rsseg trains a segmentation model of remote-sensing images from a config, and measures which loss serves which metric.
Every run writes a folder: its config, checkpoints, metrics.csv, classes.csv, pictures, and records to compare losses by.

  python train.py                                        made-up scenes, on a CPU, in minutes
  python train.py loss=focal_dice dataset=inria dataset.source.root=/data/inria
  python train.py -m sweep=losses dataset=inria          8 losses x 5 seeds; then python scripts/compare.py runs=<folder>

Settings are key=value: docs/configuration.md lists them, --cfg job prints those that a command gives. Choices are group=name;
what is in brackets is the default. Several of augment, callbacks and logger go together, as in augment=[d4,noise].
"""
FLAGS = """\
-m: a run for each of several values, as in loss=ce,dice seed=1,2. resume=<run folder>: go on with a run.
--hydra-help: the flags of Hydra, which reads this command line.
"""

STEPS = (
    "write steps=..., such as steps=2000: a run is counted in optimiser steps, each of batch_size windows drawn at random; an "
    "epoch, windows that together hold as many pixels as the training split, is pixels / (window * window * batch_size) steps"
)
ELSEWHERE = {
    "optimizer": "optim",
    "optimizer.lr": "lr learning_rate base_lr max_lr",
    "optimizer.weight_decay": "weight_decay wd",
    "optimizer.momentum": "momentum",
    "scheduler": "lr_scheduler schedule",
    "batch_size": "batch bs train_batch_size",
    "window": "crop_size patch_size chip_size tile_size image_size img_size input_size size",
    "workers": "num_workers n_workers",
    "seed": "random_seed manual_seed random_state",
    "output": "output_dir out out_dir save_dir log_dir work_dir default_root_dir",
    "resume": "ckpt_path ckpt checkpoint resume_from resume_from_checkpoint",
    "model": "arch architecture network",
    "model.encoder": "encoder backbone encoder_name",
    "model.weights": "encoder_weights weights",
    "model.weights=imagenet": "pretrained",
    "model.freeze=[encoder]": "freeze freeze_backbone freeze_encoder",
    "model.dropout": "dropout",
    "loss": "criterion loss_fn losses",
    "loss.terms.<term>.weight": "loss_weight loss.weight",
    "loss.terms.<term>.class_weights": "class_weights",
    "augment": "augmentation augmentations transforms transform aug",
    "dataset": "data datamodule",
    "dataset.source.root": "root data_root data_dir data_path dataset_root",
    "dataset.task": "task",
    "dataset.classes=[...]": "classes num_classes n_classes class_names",
    "dataset.bands=[...]": "bands in_channels channels",
    "dataset.ignore_values=[...]": "ignore_index ignore_label",
    "trainer=gpu": "gpu cuda device accelerator",
    "trainer=ddp trainer.devices": "gpus devices num_gpus n_gpus num_devices",
    "trainer.precision": "precision",
    "trainer.precision=bf16-mixed": "amp fp16 bf16",
    "trainer.accumulate_grad_batches": "accumulate_grad_batches accumulation_steps",
    "trainer.gradient_clip_val": "gradient_clip_val grad_clip clip_grad max_grad_norm",
    "logger=wandb": "wandb",
    "logger=tensorboard": "tensorboard",
    "logger=mlflow": "mlflow",
    "callbacks=early_stopping": "early_stopping patience",
    "callbacks=ema": "ema",
    "hydra.run.dir": "name run_name exp_name run_dir",
    "validations=10, spread evenly over the run": "val_check_interval val_interval eval_interval check_val_every_n_epoch",
    "steps": "max_steps num_steps total_steps iterations iters max_iters trainer.max_steps",
    STEPS: "epochs epoch max_epochs num_epochs n_epochs trainer.max_epochs",
}
"""What settings are called here, and what elsewhere; where a setting comes with a value or a sentence, that is the advice."""

SYNONYMS = {name: target for target, names in ELSEWHERE.items() for name in names.split()}

PLUGINS = {
    "hydra/launcher": ("basic", "joblib", "submitit_local", "submitit_slurm"),
    "hydra/sweeper": ("basic",),
    "hydra/job_logging": ("default", "disabled", "none", "stdout"),
    "hydra/hydra_logging": ("default", "disabled", "none", "hydra_debug"),
}
"""What may be chosen of Hydra's groups."""

CLASSES = (
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
    "rsseg.config.sweep.Sweep",
    "logging.FileHandler",
    "logging.StreamHandler",
)
"""What Hydra may make of its own part of the config."""


def prepare(configs: Path, words: list[str]) -> None:
    """Before Hydra and torch start: show the help, or find what is wrong with a command line.

    Args:
        configs: The folder with `train.yaml`.
        words: The command line of train.py.

    Raises:
        InputError: If there is a mistake that shows without data; of a sweep, one in what its runs have in common.
    """
    flags = get_args_parser().parse_args(words)
    if flags.help:
        print(help_text(configs))
        sys.exit()
    if flags.hydra_help or flags.shell_completion:
        return
    if flags.experimental_rerun or flags.config_path or flags.config_name:
        raise InputError("--experimental-rerun, --config-path and --config-name are not for rsseg; --config-dir adds a folder")
    searched = [f"hydra.searchpath=[file://{Path(flags.config_dir).resolve()}]"] if flags.config_dir else []
    config = compose(configs, [*flags.overrides, *searched], flags.multirun)
    if flags.multirun or flags.cfg or flags.info or config.hydra.mode is RunMode.MULTIRUN:
        return
    sweep = config.hydra.runtime.choices.get("sweep")
    if sweep:
        raise InputError(f"sweep={sweep} is many runs: add -m, as in python train.py -m sweep={sweep}")
    check_early(own_part(config))


def own_part(config: DictConfig) -> DictConfig:
    """A composed config without Hydra's node."""
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def compose(configs: Path, words: Sequence[str], multirun: bool = False) -> DictConfig:
    """The root config of a command line, with Hydra's own node in it.

    Args:
        configs: The folder with `train.yaml`.
        words: The overrides.
        multirun: Whether they may have several values.

    Raises:
        InputError: For words that can't be understood, and for launchers and the like that are not of `PLUGINS`.
    """
    register()
    found = word_faults(configs, words, multirun)
    if found:
        several = "the command line can't be used:\n  - " if len(found) > 1 else ""
        raise InputError(several + "\n  - ".join(found))
    with initialize_config_dir(str(configs.resolve()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        try:
            mode = RunMode.MULTIRUN if multirun else RunMode.RUN
            config: DictConfig = loader.load_configuration("train", list(words), mode, from_shell=False)
        except (HydraException, OmegaConfBaseException) as error:
            raise InputError(one_line(error)) from None
    refuse_foreign(config)
    return config


def check_early(config: Any) -> None:
    """Refuse what can be seen of a config without torch: open values, numbers, names, labels, the dataset's folder.

    Raises:
        InputError: All faults together.
    """
    if config.resume:
        if not (Path(config.resume) / "config.yaml").is_file():
            raise InputError(f"resume={config.resume}: there is no run in that folder (no config.yaml)")
        return
    raise_faults(missing(config))
    try:
        source = plain(config.dataset.source)
        found = cross_check(config)
    except OmegaConfBaseException as error:
        raise InputError(f"the config can't be resolved: {str(error).splitlines()[0]}") from None
    root = Path(str(source.get("root", ""))).expanduser()
    if source.get("_target_") == "rsseg.data.files.Files" and not root.is_dir():
        way_out = "set dataset.source.root, or RSSEG_DATA to the folder that holds your datasets"
        found.append(f"dataset.source: there is no folder {root}: {way_out}")
    raise_faults(found)


def word_faults(configs: Path, words: Sequence[str], multirun: bool = False) -> list[str]:
    """What is wrong with the words of a command line, a line each: unknown settings and choices, and what can't be read.

    Args:
        configs: The folder of the groups.
        words: The overrides.
        multirun: Whether they may have several values.

    Example:
        >>> word_faults(Path("configs"), ["lr=0.01"])
        ['lr=0.01: write optimizer.lr=0.01']
    """
    parser, found = OverridesParser.create(), []
    own_groups = not any(word.startswith("hydra.searchpath=") for word in words)  # else there are groups elsewhere too
    for word in words:
        try:
            override = parser.parse_override(word)
        except HydraException:
            found.append(_unreadable(word))
            continue
        fault = None
        if override.is_sweep_override() and not multirun:
            fault = "several values are several runs, add -m; for a list of values write brackets, as in [1,2]"
        elif override.key_or_group.startswith("hydra/") or (own_groups and (configs / override.key_or_group).is_dir()):
            fault = _choice_fault(configs, override)
        fault = fault or _setting_fault(override) or _number_fault(override)
        found += [f"{word}: {fault}"] if fault else []
    return found


def _choice_fault(configs: Path, override: Override) -> str | None:
    """What is wrong with the choice of a group's file."""
    group, value = override.key_or_group, override.value()
    known = PLUGINS.get(group, ()) if group.startswith("hydra/") else choices(configs, group)
    if not known:
        return f"of Hydra's own parts, {', '.join(PLUGINS)} alone can be chosen"
    if override.is_sweep_override():
        value = list(override.sweep_string_iterator())
    for name in value if isinstance(value, list) else [value]:
        if isinstance(name, str) and re.fullmatch(r"[\w/.-]+", name) and name not in (*known, "null"):
            return f"there is no such choice{nearest(name, known)}; there are {', '.join(known)}"
    return None


def _setting_fault(override: Override) -> str | None:
    """What is wrong with the name of a setting."""
    key, word = override.key_or_group, str(override.input_line)
    root, *below = key.split("/")[0].split(".")
    known = [item.name for item in fields(Config)]
    if root in ("hydra", "experiment", "sweep"):
        return None
    name = root if root not in known else ".".join([root, *below])
    if root in known and key not in SYNONYMS:
        if root not in SCHEMAS or not below or below[0] in (known := [item.name for item in fields(SCHEMAS[root])]):
            return None
        name = below[0]
    target = SYNONYMS.get(key) or SYNONYMS.get(name)
    if target is None:
        near = nearest(name, known)
        return f"there is no such setting{near}" + ("" if near else "; python train.py --help shows where settings are listed")
    if target == STEPS:
        return target
    return f"write {target}" + ("" if "=" in target.split()[-1] or " over " in target else f"={word.partition('=')[2]}")


def _number_fault(override: Override) -> str | None:
    """A scene's name in a split that Hydra reads as a number."""
    if override.key_or_group.startswith("dataset.source.split"):
        for name in re.findall(r"(?<![\w.\"'*])\d+(?:_\d+|[eE]\d+)+(?![\w.\"'*])", str(override.input_line).partition("=")[2]):
            return f'{name} is read as the number {float(name):g}: if it is a name, write it in double quotes, "{name}"'
    return None


def _unreadable(word: str) -> str:
    """How to write a word that Hydra's grammar does not take."""
    key, equals, value = word.partition("=")
    if not equals or not re.fullmatch(r"[+~]*[\w./@:-]+", key):
        return f"'{word}' is not understood: write key=value"
    if value.startswith("{"):
        return f"{word}: the keys of a mapping are letters from a to z, digits and _ here; write others into a file of configs/"
    if value.startswith("["):
        items = ",".join(f'"{item.strip()}"' for item in value.strip("[]").split(","))
        return f"{word}: can't be read as it stands: write '{key}=[{items}]'"
    return f"{word}: can't be read as it stands: write '{key}=\"{value.replace(chr(34), chr(92) + chr(34))}\"'"


def choices(configs: Path, group: str) -> tuple[str, ...]:
    """The names of a group's files; those of a subfolder with it, unless they are a group of their own."""
    folder = configs / group
    paths = sorted(folder.glob("*.yaml")) + sorted(folder.glob("*/*.yaml"))
    own = (p for p in paths if p.parent == folder or "@package _global_" in p.read_text(encoding="utf-8"))
    return tuple(p.relative_to(folder).with_suffix("").as_posix() for p in own)


def one_line(error: Exception) -> str:
    """What Hydra or OmegaConf says, without its advice to add an unknown key with a plus."""
    said = f"{error}\n{error.__cause__ or ''}"
    for pattern, words in (
        (r"Could not override '(.+?)'.*", r"\1: there is no such setting"),
        (r"Could not append to config. An item is already at '(.+?)'.*", r"\1 is set already: leave out the + before it"),
        (r"Error merging override (.+?)\n", r"\1: "),
    ):
        said = re.sub(pattern, words, said, flags=re.DOTALL)
    for end in ("\nConfig search path", "\nSee https", "\nSet the environment", "\n    full_key"):
        said = said.partition(end)[0]
    return " ".join(said.split())


def refuse_foreign(config: DictConfig) -> None:
    """Refuse what Hydra would make of its node of a config, or import for it, that is not of `CLASSES`.

    Raises:
        InputError: At the first such place.
    """
    for key, value in _leaves(config.hydra, "hydra"):
        makes = key.rpartition(".")[2] in ("_target_", "class", "()") and value not in CLASSES
        imports = str(value).startswith(("ext://", "cfg://")) and value not in ("ext://sys.stdout", "ext://sys.stderr")
        if makes or imports or OmegaConf.is_config(value):
            raise InputError(
                f"{key}={value}: Hydra may use its own launcher, sweeper and log files here, and the launchers of joblib and "
                "submitit; remove it"
            )


def _leaves(node: Any, where: str) -> Iterator[tuple[str, Any]]:
    """The values in a node with their places; an interpolation that stands for a node is such a value."""
    keys = range(len(node)) if OmegaConf.is_list(node) else node
    for key in keys:
        place = f"{where}.{key}"
        if OmegaConf.is_missing(node, key):
            continue
        try:
            value = node[key]
        except OmegaConfBaseException:  # it says itself, when it is used
            continue
        if OmegaConf.is_config(value) and not OmegaConf.is_interpolation(node, key):
            yield from _leaves(value, place)
        else:
            yield place, value


def help_text(configs: Path) -> str:
    """What `--help` prints: what rsseg does, examples, and the choices of each group, made from the files.

    Args:
        configs: The folder with `train.yaml`.
    """
    defaults = OmegaConf.load(configs / "train.yaml").defaults
    chosen = {group: default for entry in defaults if OmegaConf.is_dict(entry) for group, default in entry.items()}
    lines = []
    for group, default in chosen.items():
        names = (f"[{name}]" if name == default else name for name in choices(configs, group))
        lines.append(textwrap.fill(", ".join(names), 120, initial_indent=f"  {group:12}", subsequent_indent=" " * 14))
    return f"{HELP}\n" + "\n".join(lines) + f"\n\n{FLAGS}"
