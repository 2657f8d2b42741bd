"""The command line of train.py before Hydra runs it: help, composition, and faults that show without torch."""

from __future__ import annotations

import re
import sys
import tempfile
import textwrap
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from hydra import initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rsseg.config.build import SOURCE, faults, missing, plain
from rsseg.config.entry import CONFIGS, invocation, own_configs, search_path
from rsseg.config.folder import RunFolder
from rsseg.config.schema import cross_check, raise_faults, register
from rsseg.config.words import RENAMED, SYNONYMS, choices, word_faults
from rsseg.contract import InputError, first_line, nearest
from rsseg.files import file_error, is_remote

if sys.version_info >= (3, 14):  # argparse checks each help text at once; Hydra 1.3 gives one that is rendered later
    ArgumentParser._check_help = lambda *_: None  # type: ignore[attr-defined]

HELP = """\
rsseg trains a segmentation model of remote-sensing images from a config, and measures which loss serves which metric.
Every run writes a folder: its config, checkpoints, metrics.csv, classes.csv, pictures, and records to compare losses by.

  {train}
      made-up scenes, on a CPU, in minutes
  {train} loss=focal_dice dataset=inria dataset.source.root=/data/inria
      the main job
  {train} -m sweep=losses dataset=inria
      8 losses x 5 seeds; then {compare} runs=<the sweep's folder>

Settings are key=value: --cfg job prints all of them, with the values that a command gives. Choices are group=name; the default
is in brackets. Several of augment, callbacks and logger go together, as in augment=[d4,noise].
"""
FLAGS = """\
-m: a run for each of several values, as in loss=ce,dice seed=1,2; race=true: no further seeds for rows surely behind.
resume=<run folder>: go on with a run.
--hydra-help: the flags of Hydra, which reads this command line.
"""

ALLOWED_HYDRA_TARGETS: dict[str, tuple[str, ...]] = {
    "_target_": (
        "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
        "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
        "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
        "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
        "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
        "rsseg.config.sweep.Sweep",
    ),
    "class": ("logging.FileHandler", "logging.StreamHandler"),
    "()": (),
}
"""The classes that Hydra's node of the config may name for Hydra and Python's logging, by the keys that name classes."""


def prepare(configs: Path, words: list[str]) -> None:
    """Show the help, or refuse a command line with mistakes that can be found without data, before Hydra and torch start."""
    flags = get_args_parser().parse_args(words)
    if flags.help:
        print(help_text(configs))
        sys.exit()
    if flags.hydra_help or flags.shell_completion:
        return
    if flags.experimental_rerun or flags.config_path or flags.config_name:
        raise InputError("--experimental-rerun, --config-path and --config-name are not for rsseg; --config-dir adds a folder")
    searched = search_path(Path(flags.config_dir) if flags.config_dir else None)
    config = compose(configs, [*flags.overrides, *searched], flags.multirun)
    if not (flags.cfg or flags.info or config.resume):
        check_output(Path(config.output))
    if flags.multirun or flags.cfg or flags.info or config.hydra.mode is RunMode.MULTIRUN:
        return
    refuse_sweep(config)
    check_early(own_part(config))


def refuse_sweep(config: DictConfig) -> None:
    """Refuse a sweep in a command for a single run, which lacks ``-m``.

    Raises:
        InputError: If a sweep is chosen.
    """
    sweep = config.hydra.runtime.choices.get("sweep")
    if sweep:
        raise InputError(f"sweep={sweep} is many runs: add -m, as in {invocation('train')} -m sweep={sweep}")


def check_output(folder: Path) -> None:
    """Refuse an output folder that can't be written to; Hydra would end with a stack trace."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        tempfile.TemporaryDirectory(dir=there).cleanup()
    except OSError as error:
        raise InputError(f"{file_error(folder, error)}; output=... is where runs are written") from None


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
        InputError: For words that can't be understood, and for Hydra plugins that are not in `ALLOWED_HYDRA_TARGETS`.
    """
    register()
    faults = word_faults(configs, words, multirun)
    found = list(faults.values())
    config = DictConfig({})
    with initialize_config_dir(str(configs.resolve()), version_base="1.3"):
        loader, mode = GlobalHydra.instance().config_loader(), RunMode.MULTIRUN if multirun else RunMode.RUN
        try:
            with refusing():
                config = loader.load_configuration("train", [w for w in words if w not in faults], mode, from_shell=False)
        except InputError as error:
            found.append(str(error))
    if found:
        several = "the command line can't be used:\n  - " if len(found) > 1 else ""
        raise InputError(several + "\n  - ".join(found))
    refuse_foreign(config, words)
    return config


@contextmanager
def refusing() -> Iterator[None]:
    """Turn Hydra's errors about a config in the block into one line.

    Raises:
        InputError: If Hydra can't compose the config.
    """
    try:
        yield
    except MissingConfigException as error:
        listed = re.search("Available options in '(.+)'", str(error))
        group = listed[1] if listed else str(error.missing_cfg_file).partition("/")[0]
        name = str(error.missing_cfg_file).removeprefix(f"{group}/")
        known = [*dict.fromkeys([*(error.options or []), *choices([CONFIGS], group)])]
        if name in RENAMED:
            raise InputError(f"{group}={name}: {name} is called {RENAMED[name]} now") from None
        near = nearest(name, known)
        others = f"{invocation('train')} --help lists all" if near else f"there are {', '.join(known)}"
        raise InputError(
            f"{group}={name}: there is no such choice{near}; {others}, and files of your own lie in configs/{group} of the "
            "working folder"
        ) from None
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(_one_line(error)) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"a file of {own_configs() or CONFIGS} is no YAML in UTF-8: {' '.join(str(error).split())}") from None
    except AssertionError:  # Hydra's, of a key below a value that is null
        raise InputError("a word with + adds to a value that is null: leave it out") from None


def check_early(config: Any) -> None:
    """Refuse a config with faults that can be found without torch: open values, numbers, names, labels, the dataset's folder.

    Raises:
        InputError: All faults together.
    """
    if config.resume:
        RunFolder(Path(config.resume)).config()
        return
    raise_faults(missing(config))
    try:
        source = plain(config.dataset.source)
        found = cross_check(config)
    except OmegaConfBaseException as error:
        raise InputError(f"the config can't be resolved: {first_line(error)}") from None
    root = Path(str(source.get("root", ""))).expanduser()
    if source.get("_target_") == "rsseg.data.files.Files" and not is_remote(str(source["root"])) and not root.is_dir():
        written = str(OmegaConf.to_container(config.dataset.source, resolve=False))
        way_out = f", or RSSEG_DATA to the folder that holds {root.name}" if "RSSEG_DATA" in written else ""
        found.append(f"dataset.source: there is no folder {root}: set dataset.source.root{way_out}")
    if str(source.get("_target_")).startswith(("rsseg.data.files.", "rsseg.data.sources.")):  # the others import torch
        found += faults(source, "dataset.source", SOURCE, given=("targets",))
    raise_faults(found)


def _one_line(error: Exception) -> str:
    """A message of Hydra or OmegaConf without its advice to add an unknown key with a plus."""
    said = f"{error}\n{error.__cause__ or ''}"
    for pattern, words in (
        (r"Could not override '(.+?)'.*", r"\1: there is no such setting"),
        (r"Could not append to config. An item is already at '(.+?)'.*", r"\1 is set already: leave out the + before it"),
        (r"Error merging override (.+?)\n", r"\1: "),
        (r"(\w+) is not a ListConfig, list or tuple.*", r"a list is expected, such as [a,b]; found \1"),
        (r"\n(Config search path|See https|Set the environment|    full_key).*", ""),
        (r"ConfigKeyError raised while composing config:\s+Key '(.+?)' not in '.+'", r"there is no setting \1"),
    ):
        said = re.sub(pattern, words, said, flags=re.DOTALL)
    name = SYNONYMS.get(said.split()[-1])
    return " ".join(said.split()) + (f": write {name.rstrip('=')}" if name else "")


def refuse_foreign(config: DictConfig, words: Sequence[str]) -> None:
    """Refuse code that the user did not name on the command line: in Hydra's node of a config, and by a file's ``trust``.

    Hydra's node may only name classes of `ALLOWED_HYDRA_TARGETS`.
    """
    typed = any(word.lstrip("+").partition("=")[0] == "trust" for word in words)
    if "trust" in (config.hydra.sweeper.get("params") or {}) or (config.trust and not typed):
        raise InputError(
            "trust is set by a file of the config: if you trust the code that it names, write trust=[...] on the command line"
        )
    for key, value in _leaves(config.hydra, "hydra"):
        name = key.rpartition(".")[2]
        makes = name in ALLOWED_HYDRA_TARGETS and value not in ALLOWED_HYDRA_TARGETS[name]
        imports = str(value).startswith(("ext://", "cfg://")) and value not in ("ext://sys.stdout", "ext://sys.stderr")
        if makes or imports or OmegaConf.is_config(value):
            raise InputError(
                f"{key}={value}: Hydra may use its own launcher, sweeper and log files here, and the launchers of joblib and "
                "submitit; remove it"
            )


def _leaves(node: Any, where: str) -> Iterator[tuple[str, Any]]:
    """The values in a node with their dotted places; an interpolation to a node is yielded as a value."""
    keys = range(len(node)) if OmegaConf.is_list(node) else node
    for key in keys:
        place = f"{where}.{key}"
        if OmegaConf.is_missing(node, key):
            continue
        try:
            value = node[key]
        except OmegaConfBaseException:  # reported when the value is used
            continue
        if OmegaConf.is_config(value) and not OmegaConf.is_interpolation(node, key):
            yield from _leaves(value, place)
        else:
            yield place, value


def help_text(configs: Path) -> str:
    """The text of `--help`: purpose, examples, and the choices of each group, listed from the files."""
    defaults = OmegaConf.load(configs / "train.yaml").defaults
    chosen = {group: default for entry in defaults if OmegaConf.is_dict(entry) for group, default in entry.items()}
    places, lines = [place for place in (configs, own_configs()) if place], []
    for group, default in chosen.items():
        names = (f"[{name}]" if name == default else name for name in choices(places, group))
        lines.append(textwrap.fill(", ".join(names), 120, initial_indent=f"  {group:12}", subsequent_indent=" " * 14))
    head = HELP.format(train=invocation("train"), compare=invocation("compare"))
    return f"{head}\n" + "\n".join(lines) + f"\n\n{FLAGS}"
