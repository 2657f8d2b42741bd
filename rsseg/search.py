"""A search for the best settings: trials proposed by Optuna, each a run in a folder of its own."""

from __future__ import annotations

import json
import logging
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from rsseg.assembly import make_setup
from rsseg.config.entry import invocation
from rsseg.config.folder import RunFolder
from rsseg.config.plan import TRIALS
from rsseg.config.search import Search
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

    Each trial is a run (`rsseg.run.train`) in its own folder. A trial that a stopped search left is proposed again, and resumes
    from its last checkpoint. The same call in another process or on another machine, with the same storage and folder, takes
    part in the search.

    Raises:
        InputError: If settings can't be used, or a trial raises it.
    """
    check_search(wanted)
    if wanted.race and (wanted.race < 2 or len(wanted.objectives) > 1):
        raise InputError(f"race={wanted.race}: two trials or more are raced, by one objective")
    study = open_study(wanted)
    release_dead_trials(study, wanted)
    began, at_first = time.monotonic(), _count_over(study)
    while try_one(study, wanted):
        done = _count_over(study)
        rest = time_left(done - at_first, wanted.trials - at_first, time.monotonic() - began)
        log.info("%d of %d trials done, %s", done, wanted.trials, rest)
    if left := wanted.trials - _count_over(study):
        log.info("Other processes run the last %d trials and report. If they were stopped, run the command again.", left)
        return
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
    if wanted.trials < 1:
        raise InputError(f"trials={wanted.trials}: at least 1 is expected")
    devices = setup.plain["trainer"].get("devices", 1)
    if devices not in (1, "1"):
        raise InputError(f"trainer.devices={devices}: each trial trains on one device; start the command once per device")


def open_study(wanted: Search) -> Any:
    """Create or load the study in its storage; an `InputError` if another search has its name."""
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # `search` logs the progress
    folder = wanted.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        url = wanted.storage or f"sqlite:///{folder.resolve()}/study.db"
        patience = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else None  # seconds to wait for other writers
        with _study_lock(wanted):  # PostgreSQL fails if two processes create the tables
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

    with _study_lock(wanted):
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


def try_one(study: Any, wanted: Search) -> bool:
    """Run one trial; False if all trials are finished or in progress."""
    from optuna.trial import TrialState

    with ExitStack() as held:
        with _study_lock(wanted):
            running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            if _count_over(study) + len(running) >= wanted.trials:
                return False
            trial = study.ask(wanted.space())
            run = RunFolder(wanted.run_folder(trial.params))
            with suppress(LockedError):
                held.enter_context(run.lock())  # before another search can take the trial for a dead one
        held.enter_context(run.lock(wait=True))  # another search may be training with the same settings
        trial.set_user_attr("folder", str(run.path))
        log.info("Trial %d: %s", trial.number, run.path)
        config, loss = wanted.config(trial.params)
        try:
            train(config, run.path, wanted.words(trial.params), loss)
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
            f"{run.path} was finished without {', '.join(lacking)}: remove it, and train without record.enabled=false"
        )
    values = [summary[name] for name in wanted.objectives]
    if any(value != value for value in values):
        study.tell(trial, state=TrialState.FAIL)
        raise InputError(f"{run.path}: {', '.join(wanted.objectives)} = {values}: a NaN can't be searched by")
    study.tell(trial, values, skip_if_finished=True)
    return True


def _count_over(study: Any) -> int:
    """The number of trials that finished or diverged; a trial that was stopped is proposed again."""
    from optuna.trial import TrialState

    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))
    return sum(trial.state is TrialState.COMPLETE or DIVERGED in trial.user_attrs for trial in ended)


def _study_lock(wanted: Search) -> Any:
    """The lock by which the searches of a study begin one trial after the other."""
    return lock(wanted.folder / "study.lock", wait=True)


def report(study: Any, wanted: Search) -> None:
    """Print the best trials, with several objectives the Pareto front, and write the table of all trials."""
    from optuna.trial import TrialState

    rows = [
        {"trial": t.number, **dict(zip(wanted.objectives, t.values, strict=True)), **t.params, "folder": t.user_attrs["folder"]}
        for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    ]
    if not rows:
        raise InputError(f"no trial of study={wanted.study} was finished: raise trials=..., or start another study=...")
    write_csv(wanted.folder / TRIALS, rows)
    best = {t.number for t in study.best_trials}
    shown = [{key: value for key, value in row.items() if key != "folder"} for row in rows if row["trial"] in best]
    print_table(shown, "Best trial" if len(wanted.objectives) == 1 else "Pareto front: no other trial is better in all")
    log.info("All %d trials: %s", len(rows), wanted.folder / TRIALS)
