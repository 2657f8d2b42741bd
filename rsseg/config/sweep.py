"""Preparation of a sweep: names of its runs, checks of their configs and folders, and their plan."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import get_overrides_dirname
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from rsseg.config.build import plain
from rsseg.config.cli import check_early, own_part, refuse_foreign, refusing
from rsseg.config.entry import CONFIGS, invocation
from rsseg.config.folder import ANOTHER_FOLDER, RunFolder
from rsseg.config.naming import quoted
from rsseg.config.plan import EXPERIMENT, LOSS, SEED, Plan, as_text, common, read_plan, settings, within
from rsseg.config.words import word_faults
from rsseg.contract import InputError
from rsseg.files import lock, say_space
from rsseg.quiet import quiet

log = logging.getLogger(__name__)

NAMED = (LOSS, SEED)  # always in a folder's name if given, so that a sweep over one seed can get more seeds later


GRACE = 30  # the seconds that a run has to save its state


def end_with_parent() -> None:
    """End this process, as by SIGTERM, once the process that started it has ended, even if that was killed."""
    parent = os.getppid()

    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)  # the run saves its state at the end of the step
        time.sleep(GRACE)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


class Sweep(Callback):
    """Checks a sweep before its first run, names its runs by the settings that vary, writes its plan, and logs its progress.

    Hydra makes it (`hydra.callbacks` in train.yaml) and passes it to every process that runs a part of the sweep. Settings that
    all runs share are not in the names: a second sweep into the same folder is refused if these settings differ.
    """

    total, began = 0, 0.0  # the number of runs, and the time when the sweep began

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        """Check all runs, and add overrides that make Hydra name each run by the settings that vary."""
        try:
            with refusing():
                self._prepare(config)
        except InputError as error:
            sys.exit(f"error: {error}")  # Hydra ignores any other exception

    def _prepare(self, config: DictConfig) -> None:
        launcher = config.hydra.launcher._target_
        if launcher.endswith(".SlurmLauncher") and shutil.which("srun") is None:
            raise InputError("hydra/launcher=submitit_slurm: this machine has no srun; start it where SLURM is, or take joblib")
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        of_files = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
        if faults := word_faults(CONFIGS, of_files, multirun=True):
            raise InputError(f"hydra.sweeper.params: {'; '.join(faults.values())}")
        params = parser.parse_overrides(of_files)
        typed: Any = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)  # ${loss} of a head differs by run
        given = parser.parse_overrides(typed)
        named = {*NAMED, *(o.key_or_group for o in params), *(o.key_or_group for o in given if o.is_sweep_override())}
        left_out = {*config.hydra.job.config.override_dirname.exclude_keys, *(o.key_or_group for o in given)} - named
        command = [*typed, *(word for word in config.hydra.overrides.hydra if not word.startswith("hydra.mode="))]
        folder = Path(config.hydra.sweep.dir)  # resolved now: its default name depends on the sweep's words
        words = [f"hydra.job.config.override_dirname.exclude_keys={sorted(left_out)}", f"hydra.sweep.dir={quoted(str(folder))}"]
        if not launcher.endswith(".BasicLauncher"):
            words.append("hydra.job_logging.formatters.simple.format='${hydra.job.override_dirname} | %(message)s'")
        config.hydra.overrides.hydra.extend(words)
        (jobs,) = BasicSweeper.split_arguments([*params, *given], None)
        self.total = len(jobs)
        log.info("Checking the %d runs of a sweep into %s", self.total, folder)
        runs = Runs(config, sorted(named))
        check_runs(runs, jobs, thorough=not launcher.endswith(".SlurmLauncher"))  # a login node may lack the GPU
        if not any(o.key_or_group == "resume" for o in given):
            write_plan(folder, runs.plan(jobs, command))
        if "submitit_folder" in config.hydra.launcher:
            said = config.hydra.launcher.submitit_folder.replace("%j", "<job>")  # submitit also makes a folder of the name %j
            log.info("Runs show nothing here: see %s/<run>/train.log, and %s for all they print", folder, said)
        if launcher.endswith(".BasicLauncher"):  # other launchers start several runs at once
            self.began = time.monotonic()

    def on_job_start(self, config: Any, **kwargs: Any) -> None:
        """Log which run begins and about how long the rest takes; let a joblib process end with the sweep."""
        if multiprocessing.get_start_method() == "loky":
            end_with_parent()
        if self.total:
            from rsseg.progress import time_left

            done, name = config.hydra.job.num, config.hydra.job.override_dirname
            rest = f" ({time_left(done, self.total, time.monotonic() - self.began)})" if done and self.began else ""
            log.info("run %d of %d: %s%s", done + 1, self.total, name, rest)

    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        """Log the command that compares the runs."""
        log.info("Compare them: %s runs='%s'", invocation("compare"), config.hydra.sweep.dir)


class Runs:
    """The configs of a sweep's runs, as Hydra will compose them; configs that differ only in the seed are composed once."""

    def __init__(self, master: DictConfig, named: Sequence[str] = NAMED) -> None:
        self.master, self.named, self.loader = master, named, GlobalHydra.instance().config_loader()
        self._composed: dict[tuple[str, ...], DictConfig] = {}

    def config(self, words: Sequence[str]) -> tuple[DictConfig, Path]:
        """A run's config and its folder."""
        config = self._whole(words)
        overrides = OverridesParser.create().parse_overrides(list(words))
        named = [o for o in overrides if not o.is_hydra_override()]
        for o in named:
            if o.key_or_group == SEED:
                config.seed = o.value()
        naming = config.hydra.job.config.override_dirname
        config.hydra.job.override_dirname = get_overrides_dirname(named, naming.exclude_keys, naming.item_sep, naming.kv_sep)
        return own_part(config), Path(config.hydra.sweep.dir) / config.hydra.sweep.subdir

    def _whole(self, words: Sequence[str]) -> DictConfig:
        rest = tuple(word for word in words if not word.startswith(f"{SEED}="))
        if rest not in self._composed:
            self._composed[rest] = self.loader.load_sweep_config(self.master, list(words))
            refuse_foreign(self._composed[rest], words)
        return self._composed[rest]

    def plan(self, jobs: Sequence[Sequence[str]], command: list[str]) -> Plan:
        """The plan of a sweep."""
        runs = dict[Path, dict[str, str]]()
        for words in jobs:
            config, folder = self.config(words)
            given = OverridesParser.create().parse_overrides(list(words))
            values = {o.get_key_element(): value_text(o) for o in given if o.key_or_group in self.named}
            if not {LOSS, EXPERIMENT} & values.keys():
                values = {LOSS: str(self._whole(words).hydra.runtime.choices.loss), **values}
            runs[folder] = values | {SEED: str(config.seed)}
        return Plan(runs, common([settings(plain(own_part(whole))) for whole in self._composed.values()]), [command])


def value_text(override: Override) -> str:
    """The value of an override as a plan writes it."""
    value = override.value()
    return as_text(value) if isinstance(value, int | float | None) else str(override.get_value_element_as_str())


def write_plan(folder: Path, plan: Plan) -> None:
    """Write the plan of a sweep before its first run; it keeps the runs of an earlier sweep into the same folder.

    Raises:
        InputError: If the earlier sweep has another config, apart from settings that either of the sweeps varies.
    """
    with lock(folder / "sweep.lock", wait=True):
        before = read_plan(folder)
        if before and any(RunFolder(run).begun for run in before.runs):
            varied = {key.lstrip("+") for values in (*before.runs.values(), *plan.runs.values()) for key in values}
            kept = {key: value for key, value in before.common.items() if not within(key, varied)}
            changed = [key for key, value in kept.items() if plan.common.get(key, value) != value]
            if changed:
                told = ", ".join(f"{key}: {before.common[key]} -> {plan.common[key]}" for key in changed[:5])
                raise InputError(f"{folder} holds runs of another config ({told}): {ANOTHER_FOLDER}")
            plan = before.merged(plan)
        plan.write(folder)


def check_runs(runs: Runs, jobs: Sequence[Sequence[str]], thorough: bool) -> None:
    """Refuse a sweep if some of its runs would fail, or would resume runs of another config.

    Each fault is reported once, with the first run that has it; `thorough` includes checks that need torch or the scenes.
    """
    distinct, faults, new = dict[str, tuple[str, DictConfig]](), dict[str, str](), list[DictConfig]()
    for words in jobs:
        config, folder = runs.config(words)
        run = RunFolder(folder)
        with _noted(faults, folder.name):
            check_early(config)
            if run.begun:
                run.refuse_other(config)
            elif not config.resume:
                new.append(config)
        if not config.resume:
            distinct.setdefault(" ".join(word for word in words if not word.startswith("seed=")), (folder.name, config))
    if thorough and not faults:
        assembly, datasets = import_module("rsseg.assembly"), set[str]()  # imported late, by name: it imports torch
        quiet()
        for name, config in distinct.values():
            with _noted(faults, name):
                assembly.check_run(config, scenes=str(config.dataset) not in datasets)
            datasets.add(str(config.dataset))
    if faults:
        raise InputError("\n  ".join(list(faults.values())[:5]))
    if thorough and new:
        sizes, need = dict[str, float](), 0.0
        for config in new:
            kind = str((config.model, config.optimizer, config.dataset))
            sizes[kind] = sizes.get(kind) or assembly.expected_bytes(config)
            need += sizes[kind]
        say_space(Path(runs.master.hydra.sweep.dir), need, f"{len(new)} runs: their checkpoints take")


@contextmanager
def _noted(faults: dict[str, str], name: str) -> Iterator[None]:
    """Add a fault that the block raises to `faults`, unless an earlier run had it."""
    try:
        yield
    except InputError as error:
        faults.setdefault(str(error).replace(name, "..."), f"{name}: {error}")
