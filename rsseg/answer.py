"""The comparison of finished runs, as ``rsseg compare`` does it, from a question to the folder with the answer.

Records are read and compared in NumPy. Baselines and pictures of windows need torch, so they are made in separate processes
(`rsseg.apart`): torch and its libraries would stay in this process's memory.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from rsseg.apart import call_apart
from rsseg.comparison.datasets import across_answer, across_datasets
from rsseg.comparison.findings import Findings
from rsseg.comparison.question import Question
from rsseg.comparison.records import RecordError, load_records
from rsseg.comparison.report import write_across, write_report
from rsseg.comparison.runs import Run, find_runs
from rsseg.comparison.selection import Comparison, gather, refuse_other_data
from rsseg.comparison.words import answer
from rsseg.config.folder import RunFolder
from rsseg.config.plan import read_plan
from rsseg.contract import InputError, check_choice, check_number
from rsseg.dataset_source import scenes_version
from rsseg.files import UnwritableError, read_json, write_json
from rsseg.metrics.average import Array
from rsseg.quiet import quiet

DATA = ("train", "val")
"""The splits that ``data.json`` describes."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """The answer of a comparison, and the files that it wrote.

    Attributes:
        folder: Its folder.
        answer: The answer, one sentence after the other.
    """

    folder: Path
    answer: str

    def __str__(self) -> str:
        return f"{self.answer}\nReport: {self.report}"

    @property
    def report(self) -> Path:
        """The path of the page ``report.html``."""
        return self.folder / "report.html"

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The tables by the names of their CSV files."""
        return {path.stem: pd.read_csv(path) for path in sorted(self.folder.glob("*.csv"))}


def compare(places: Sequence[Path], question: Question | None = None, out: Path | None = None) -> Answer:
    """Compare finished runs: print the answer, and write a report, tables and figures.

    Runs of several datasets are compared dataset by dataset, and then over all of them.

    Args:
        places: Run folders, or folders that hold them.
        question: The settings of the comparison.
        out: The folder to write into; None: ``comparison`` in the first folder, with metric or head added to its name, as in
            ``comparison_dice``, if they are not the default.

    Raises:
        InputError: If there is nothing to compare, or the runs can't be compared.
    """
    quiet()
    question = question or Question()
    check_choice("split", question.split, ("val", "test"))
    check_number("equal_within", question.equal_within)
    out = out or places[0] / question.folder
    if out.exists() and not out.is_dir():
        raise InputError(f"out={out} is a file: give a folder to write the comparison into")
    kinds = places_by_dataset(places)
    try:
        if len(kinds) < 2:
            said = answer(compare_one(places, question, out))
        else:
            across = across_datasets({name: compare_one(some, question, out / name) for name, some in kinds.items()})
            write_across(across, out)
            said = across_answer(across)
    except UnwritableError as error:
        raise UnwritableError(f"{error}; out=... writes the comparison elsewhere") from None
    return Answer(out, " ".join(said))


def places_by_dataset(places: Sequence[Path]) -> dict[str, list[Path]]:
    """The given folders by the dataset of their runs; a folder with runs of several datasets is replaced by those inside it."""
    found: dict[str, list[Path]] = {}
    for place in places:
        first = {run.parent: run for run in reversed(find_runs([place]))}
        if not first and len(places) > 1:
            raise InputError(f"no run in {place}: leave it out, or train there first")
        parts = {folder: run for parent, run in sorted(first.items()) for folder, run in _of_one_dataset(parent, run).items()}
        names = {folder: str(RunFolder(run).config().dataset.name) for folder, run in parts.items()}
        if len({*names.values()}) < 2:
            names = {place: next(iter(names.values()), "")}
        for folder, name in names.items():
            found.setdefault(name, []).append(folder)
    return found


def _of_one_dataset(folder: Path, run: Path) -> dict[Path, Path]:
    """A folder with one of its runs; if the folder's plan varies the dataset, each run folder with itself."""
    plan = read_plan(folder)
    if plan and {"dataset", "dataset.name"} & {*plan.varied}:
        return {own: own for own in find_runs([folder])}
    return {folder: run}


def compare_one(places: Sequence[Path], question: Question, out: Path) -> Findings:
    """Compare the runs of one dataset, and write the report."""
    comparison = gather(places, question.allow_different, question.metric, question.without, question.head)
    if question.split != "val":
        score_runs(comparison, question)
    try:
        trivial = count_baselines(comparison, question, out)
    except InputError as error:
        log.warning("Trivial baselines are left out of the report: %s", error)
        trivial = {}
    found = Findings(comparison, question.metric, question.without, question.equal_within, trivial)
    examples = out / "examples.png"
    try:
        runs, names = [comparison.runs[i][0].folder for i in found.order], [found.labels[i] for i in found.order]
        call_apart("rsseg.comparison.examples", "draw_examples", runs, names, comparison.runs[0][0].head, found.task, examples)
    except InputError as error:
        log.warning("Example windows are left out of the report: %s", error)
        examples.unlink(missing_ok=True)
    write_report(found, out)
    return found


def score_runs(comparison: Comparison, question: Question) -> None:
    """Replace the runs' records by those of another split; runs are scored if they have none, or the split's files changed.

    Raises:
        InputError: If the split has no labels, its areas differ, or the runs are folds, which share no split.
    """
    if comparison.plan.folds:
        raise InputError(f"split={question.split}: folds score every scene themselves; leave split out")
    todo = [run.folder for run in comparison.all_runs if not is_counted(run, question)]
    if todo:
        call_apart("rsseg.evaluation.scores", "record_splits", todo, question.split, question.trust)
    for run in comparison.all_runs:
        run.records = load_records(run.folder, run.head, question.split)
    refuse_other_data(comparison.all_runs)


def is_counted(run: Run, question: Question) -> bool:
    """Whether a run has been scored on the split, whose scenes have not changed or do not exist any more."""
    try:
        version = load_records(run.folder, run.head, question.split).version
    except RecordError:
        return False
    try:
        return version == scenes_version(run.folder, question.split, question.trust)
    except InputError:
        return True


def count_baselines(comparison: Comparison, question: Question, out: Path) -> dict[str, Array]:
    """The counts of trivial predictions on the scenes that score the runs, by name; each fold has its own training scenes.

    They are cached in ``baselines.json`` until the data change.

    Raises:
        InputError: If the scenes do not exist any more.
    """
    first = comparison.runs[0][0]
    runs = first.folds or [first]

    facts = [run.data.get(what, {}).get(split, "") for run in runs for what in ("fingerprint", "pixels") for split in DATA]
    key = " ".join([question.split, first.task.target, *facts, first.records.version])
    path = out / "baselines.json"
    known = read_json(path) if path.is_file() else {}
    if key not in known:
        for run, split in product(runs, ("train", question.split)):
            scenes_version(run.folder, split, question.trust)  # checks that they exist
        folders = [run.folder for run in runs]
        made = call_apart("rsseg.evaluation.baselines", "count_baselines", folders, first.task, question.split, question.trust)
        known = {key: {name: counts.tolist() for name, counts in made.items()}}
        write_json(path, known)
    return {name: np.array(counts, np.float64) for name, counts in known[key].items()}
