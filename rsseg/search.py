"""A search for the best settings: trials proposed by Optuna, each a run in a folder of its own."""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import torch

from rsseg.assembly import make_setup
from rsseg.config.entry import invocation
from rsseg.config.folder import RunFolder
from rsseg.config.plan import TRIALS
from rsseg.config.search import Search
from rsseg.config.sweep import end_with_parent
from rsseg.console import print_table
from rsseg.contract import InputError, check_choice, first_line
from rsseg.files import LockedError, lock, write_csv
from rsseg.progress import time_left
from rsseg.race import Race
from rsseg.run import train
from rsseg.task import Task
from rsseg.training.divergence import DivergedError

DIVERGED = "diverged"  # the attribute of a trial that holds the step at which its run diverged
FINALS = 8  # the number of seeds, after the search's own, on which the best trials are raced

log = logging.getLogger(__name__)


def search(wanted: Search) -> None:
    """Search until a study has its number of trials; print the best, and write ``trials.csv`` into its folder.

    Each trial is a run (`rsseg.run.train`) in its own folder. A trial that a killed search left is proposed again, and resumes
    from its last checkpoint. The same call on another machine, with the same storage and folder, takes part in the search.

    Raises:
        InputError: If settings can't be used, or a trial raises it.
    """
    check_search(wanted)
    if wanted.race and (wanted.race < 2 or len(wanted.objectives) > 1):
        raise InputError(f"race={wanted.race}: two trials or more are raced, by one objective")
    study = open_study(wanted)
    release_dead_trials(study, wanted)
    spawn = multiprocessing.get_context("spawn")  # a forked process can't use CUDA after its parent
    lock, faults = spawn.Lock(), spawn.SimpleQueue()
    workers = [spawn.Process(target=work, args=(wanted, lock, faults)) for _ in range(wanted.processes)]
    for worker in workers:
        worker.start()
    try:
        watch(study, wanted, workers)
    except KeyboardInterrupt:
        raise InputError("interrupted; run the same command again to go on") from None
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()
    if not faults.empty():
        raise InputError(faults.get())
    report(study, wanted)
    if wanted.race:
        race_best(study, wanted)


def race_best(study: Any, wanted: Search) -> None:
    """Race the best trials on further seeds: the best score of many trials is biased upwards, and its lead may be chance."""
    from optuna.trial import TrialState

    tried = {wanted.run_folder(t.params).name: t for t in study.get_trials(states=(TrialState.COMPLETE,))}
    best = sorted(tried, key=lambda name: -tried[name].value)[: wanted.race]
    if len(best) < 2:
        raise InputError(f"race={wanted.race}: only {len(best)} of the trials can be raced; a higher trials=... tries on")
    config, _ = wanted.config(wanted.first())
    folder = Path(config.output) / "sweep" / f"{wanted.study}_race"
    fixed = [word for word in wanted.fixed() if not word.startswith("seed=")]
    rows = {name: {key: str(value) for key, value in tried[name].params.items()} for name in best}
    seeds = range(config.seed + 1, config.seed + 1 + FINALS)
    Race(folder, fixed, rows, seeds, wanted.objectives[0]).run()


def check_search(wanted: Search) -> None:
    """Check a search before it starts."""
    config, _ = wanted.config(wanted.first())
    setup = make_setup(config, config.trust)
    if setup.task.real:
        raise InputError(
            f"a search is for scores of labels; compare losses of a {setup.task.kind} task by a sweep: "
            f"{invocation('train')} -m sweep=losses"
        )
    for name in wanted.objectives:
        check_choice("objectives", name, [*Task.scores, "boundary_iou"])
    if min(wanted.trials, wanted.processes) < 1:
        raise InputError(f"trials={wanted.trials} and processes={wanted.processes} must be at least 1")
    devices = setup.plain["trainer"].get("devices", 1)
    if devices not in (1, "1"):
        raise InputError(f"trainer.devices={devices}: each trial trains on one device; start more processes")


def open_study(wanted: Search) -> Any:
    """Create or load the study in its storage; an `InputError` if another search has its name."""
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # `watch` logs the progress
    folder = wanted.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        url = wanted.storage or f"sqlite:///{folder.resolve()}/study.db"
        patience = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else None  # seconds to wait for other writers
        with lock(folder / "study.lock", wait=True):  # PostgreSQL fails if two processes create the tables
            study = optuna.create_study(
                storage=optuna.storages.RDBStorage(url, engine_kwargs=patience),
                sampler=optuna.samplers.TPESampler(constant_liar=True),  # keeps simultaneous trials apart
                study_name=wanted.study,
                directions=["maximize"] * len(wanted.objectives),
                load_if_exists=True,
            )
            before = study.user_attrs.get("search")
            if before is None:
                study.set_user_attr("search", wanted.identity())
    except (ImportError, OSError, SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        shown = first_line(error)
        raise InputError(f"storage={wanted.storage or folder / 'study.db'} can't be opened: {shown}") from None
    if before not in (None, wanted.identity()):
        raise InputError(f"study={wanted.study} searches for something else ({json.dumps(before)}): take another study=...")
    return study


def release_dead_trials(study: Any, wanted: Search) -> None:
    """Propose the trials of killed processes again, whose run folders are no longer locked."""
    from optuna.trial import TrialState

    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        folder = wanted.run_folder(trial.params)
        try:
            with RunFolder(folder).lock():
                study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        except LockedError:
            continue  # its process still runs
        if trial.params.keys() == wanted.space().keys():
            study.enqueue_trial(trial.params)
            log.info("Going on with trial %d, which was stopped: %s", trial.number, folder)


def work(wanted: Search, lock: Any, faults: Any) -> None:
    """The loop of a worker process: run trials until the study has enough; a fault ends it and is passed to the search."""
    end_with_parent()
    torch.set_num_threads(max(1, torch.get_num_threads() // wanted.processes))
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    study = open_study(wanted)
    try:
        while try_one(study, wanted, lock):
            pass
    except InputError as error:
        faults.put(str(error))
    except (KeyboardInterrupt, SystemExit):
        pass  # the search logs it


def try_one(study: Any, wanted: Search, lock: Any) -> bool:
    """Run one trial, with its output in its folder's ``train.log``; False if all trials are finished or in progress."""
    from optuna.trial import TrialState

    with lock:
        trials = study.get_trials(deepcopy=False)
        if sum(_is_over(t) or t.state is TrialState.RUNNING for t in trials) >= wanted.trials:
            return False
        trial = study.ask(wanted.space())
    folder = wanted.run_folder(trial.params)
    config, loss = wanted.config(trial.params)
    run = RunFolder(folder)
    with run.lock(wait=True), run.log_file.open("a", buffering=1, encoding="utf-8") as file, _output_to(file):
        trial.set_user_attr("folder", str(folder))
        try:
            train(config, folder, wanted.words(trial.params), loss)
        except DivergedError as error:
            log.error("%s", error)
            trial.set_user_attr(DIVERGED, error.facts["step"])
            study.tell(trial, state=TrialState.FAIL)
            return True
    summary = run.summary()
    lacking = [name for name in wanted.objectives if name not in summary]
    if lacking:
        study.tell(trial, state=TrialState.FAIL)
        raise InputError(
            f"{folder} was finished without {', '.join(lacking)}: remove it, and train without record.enabled=false"
        )
    values = [summary[name] for name in wanted.objectives]
    if any(value != value for value in values):
        study.tell(trial, state=TrialState.FAIL)
        raise InputError(f"{folder}: {', '.join(wanted.objectives)} = {values}: a NaN can't be searched by")
    study.tell(trial, values, skip_if_finished=True)
    return True


def _is_over(trial: Any) -> bool:
    """Whether a trial finished or diverged, and so counts; a trial that was stopped is proposed again."""
    from optuna.trial import TrialState

    return trial.state is TrialState.COMPLETE or (trial.state is TrialState.FAIL and DIVERGED in trial.user_attrs)


@contextlib.contextmanager
def _output_to(file: TextIO) -> Iterator[None]:
    """Redirect this process's prints and log lines into a file."""
    logger, handler = logging.getLogger("rsseg"), logging.StreamHandler(file)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        with contextlib.redirect_stdout(file):
            yield
    finally:
        logger.removeHandler(handler)


def watch(study: Any, wanted: Search, workers: Sequence[Any]) -> None:
    """Log which trials begin and end, and about how long the rest takes, until the workers are done."""
    began = time.monotonic()
    done = {t.number for t in study.get_trials(deepcopy=False) if _is_over(t)}
    begun, at_first = set(done), len(done)
    while True:
        working = any(worker.is_alive() for worker in workers)
        for t in study.get_trials(deepcopy=False):
            if "folder" in t.user_attrs and t.number not in begun:
                begun.add(t.number)
                log.info("trial %d: %s", t.number, t.user_attrs["folder"])
            if _is_over(t) and t.number not in done:
                done.add(t.number)
                scored = (f"{name} {value:.4f}" for name, value in zip(wanted.objectives, t.values or (), strict=False))
                said = ", ".join(scored) or f"diverged at step {t.user_attrs[DIVERGED]}"
                rest = time_left(len(done) - at_first, wanted.trials - at_first, time.monotonic() - began)
                log.info("trial %d: %s; %d of %d done, %s", t.number, said, len(done), wanted.trials, rest)
        if any(worker.exitcode for worker in workers):
            raise InputError("a process of the search has failed, as said above; run the same command again to go on")
        if not working:
            return
        time.sleep(0.5)


def report(study: Any, wanted: Search) -> None:
    """Print the best trials, with several objectives the Pareto front, and write the table of all trials."""
    from optuna.trial import TrialState

    rows = [
        {"trial": t.number, **dict(zip(wanted.objectives, t.values, strict=True)), **t.params, "folder": t.user_attrs["folder"]}
        for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    ]
    if not rows:
        raise InputError(f"no trial of study={wanted.study} was finished: a higher trials=... tries on, another study=... anew")
    write_csv(wanted.folder / TRIALS, rows)
    best = {t.number for t in study.best_trials}
    shown = [{key: value for key, value in row.items() if key != "folder"} for row in rows if row["trial"] in best]
    print_table(shown, "Best trial" if len(wanted.objectives) == 1 else "Pareto front: no other trial is better in all")
    log.info("All %d trials: %s", len(rows), wanted.folder / TRIALS)
