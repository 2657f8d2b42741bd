"""Searches: what is tried, what it is scored by, several at once, and going on after a kill."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace

import pytest
from test_run import TINY, folder_data
from tiny import CONFIGS

import rsseg.race
from rsseg.comparison.records import load_records
from rsseg.config.arguments import parse
from rsseg.config.folder import RunFolder
from rsseg.config.search import Search
from rsseg.contract import InputError
from rsseg.search import check_search, open_study, race_best, release_dead_trials, report, search, try_one
from rsseg.training.divergence import DivergedError

WEIGHT = "loss.terms.dice.weight"


@pytest.fixture
def wanted(tmp_path, folder_root):
    words = [*TINY, *folder_data(folder_root), "pictures=0", f"output={tmp_path}", "loss=ce_dice", f"{WEIGHT}=interval(0,1)"]
    return Search(words, study="study", trials=3)


def test_the_space_is_read_as_hydra_writes_it(wanted):
    distributions = pytest.importorskip("optuna").distributions
    words = ["a=interval(0,4)", "b=tag(log,interval(0.01,10))", "loss=ce,dice", "c=range(1,4)", "steps=3"]
    assert replace(wanted, overrides=words).space() == {
        "a": distributions.FloatDistribution(0.0, 4.0),
        "b": distributions.FloatDistribution(0.01, 10.0, log=True),
        "loss": distributions.CategoricalDistribution(["ce", "dice"]),
        "c": distributions.CategoricalDistribution(["1", "2", "3"]),
    }
    assert replace(wanted, overrides=words).words({"a": 0.5, "loss": "ce"}) == ["steps=3", "a=0.5", "loss=ce"]


def test_a_trial_is_the_run_that_train_makes_of_its_overrides(wanted):
    config, loss = wanted.config({WEIGHT: 0.25})
    assert (loss, config.loss.terms.dice.weight, config.steps, "hydra" in config) == ("ce_dice", 0.25, 2, False)
    assert wanted.run_folder({WEIGHT: 0.25}) == wanted.folder / f"{WEIGHT}=0.25"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objectives": ["iuo"]}, "objectives=iuo.*did you mean 'iou'"),
        ({"objectives": ["iou", "boundary_io"]}, "did you mean 'boundary_iou'"),
        ({"trials": 0}, "at least 1"),
        ({"overrides": [f"{WEIGHT}=interval(0,1)", "processes=2"]}, "start the same command again"),
        ({"overrides": ["loss=ce"]}, "nothing is searched"),
        ({"overrides": [f"{WEIGHT}=interval(1,0)"]}, "must be the smaller"),
        ({"overrides": [f"{WEIGHT}=tag(log,interval(0,1))"]}, "above 0 with log"),
        ({"overrides": [f"{WEIGHT}=interval(0,1"]}, "can't be read"),
        ({"overrides": [f"{WEIGHT}=interval(0,1)", "trails=3"]}, "trails=3: there is no such setting"),
        ({"overrides": [f"{WEIGHT}=interval(0,1)", "loss=nope"]}, "loss=nope: there is no such choice"),
        ({"overrides": [f"{WEIGHT}=interval(0,1)", "trainer=ddp", "trainer.devices=2"]}, "trains on one device"),
    ],
)
def test_mistakes_are_found_before_the_search(wanted, changes, message):
    pytest.importorskip("optuna")
    with pytest.raises(InputError, match=message):
        check_search(replace(wanted, **changes))


def test_a_command_line_may_hold_overrides():
    @dataclass
    class Arguments:
        overrides: list[str]
        trials: str = "20"

    parsed = parse(Arguments, ["trials=3", "loss=ce", "~loss.terms.dice", "a=b=c"])
    assert (parsed.trials, parsed.overrides) == ("3", ["loss=ce", "~loss.terms.dice", "a=b=c"])


@pytest.fixture
def scored(monkeypatch):
    """Instead of training, scores that are functions of the weight."""
    import rsseg.search

    def train(config, folder, overrides, loss):
        weight = config.loss.terms.dice.weight
        scores = {"iou": weight, "dice": math.sin(3 * weight), "scene_iou": 0, "scene_dice": 0}
        (folder / "summary.json").write_text(json.dumps(scores | {"finished": "now", "steps": 2, "seconds": 1}))

    monkeypatch.setattr(rsseg.search, "train", train)


@pytest.mark.slow
def test_two_objectives_end_in_the_pareto_front(wanted, scored, capsys):
    pytest.importorskip("optuna")
    wanted = replace(wanted, objectives=["iou", "dice"], trials=12)
    study = open_study(wanted)
    while try_one(study, wanted):
        pass
    report(study, wanted)
    with (wanted.folder / "trials.csv").open() as file:
        rows = [{key: float(value) for key, value in row.items() if key != "folder"} for row in csv.DictReader(file)]
    assert len(rows) == 12
    assert all((row["iou"], row["dice"]) == (row[WEIGHT], math.sin(3 * row[WEIGHT])) for row in rows)
    best = [r for r in rows if not any(o["iou"] > r["iou"] and o["dice"] > r["dice"] for o in rows)]
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert [float(line.split("│")[1]) for line in table] == [row["trial"] for row in best]


def test_boundary_iou_is_an_objective(wanted):
    """A run that is really trained and recorded; the score is that of the counts in its records."""
    pytest.importorskip("optuna")
    wanted = replace(wanted, objectives=["iou", "boundary_iou"], trials=1)
    check_search(wanted)
    study = open_study(wanted)
    assert try_one(study, wanted)
    (trial,) = study.trials
    records = load_records(wanted.run_folder(trial.params))
    both = records.at("fixed").sum(0), records.at("contours").sum(0)
    expected = [counts[:, 0] / counts[:, :3].sum(1) for counts in both]
    assert trial.values == pytest.approx([each.mean() for each in expected])


def test_a_run_without_a_score_is_named(wanted, scored):
    pytest.importorskip("optuna")
    wanted = replace(wanted, objectives=["iou", "boundary_iou"])
    study = open_study(wanted)
    with pytest.raises(InputError, match=r"finished without boundary_iou: remove it"):
        try_one(study, wanted)
    assert study.trials[0].state.name == "FAIL"


def test_a_search_goes_on_after_a_run_that_diverges(wanted, scored, monkeypatch, caplog):
    import rsseg.search

    pytest.importorskip("optuna")
    study, good = open_study(wanted), rsseg.search.train
    study.enqueue_trial({WEIGHT: 0.75})
    study.enqueue_trial({WEIGHT: 0.25})

    def train(config, *given):
        if config.loss.terms.dice.weight > 0.5:
            raise DivergedError("diverged at step 7 of 9", {"step": 7})
        good(config, *given)

    monkeypatch.setattr(rsseg.search, "train", train)
    wanted = replace(wanted, trials=2)
    while try_one(study, wanted):
        pass
    assert [(t.state.name, t.params[WEIGHT], t.value) for t in study.trials] == [("FAIL", 0.75, None), ("COMPLETE", 0.25, 0.25)]
    assert "diverged at step 7" in caplog.text
    release_dead_trials(study, wanted)
    assert len(study.trials) == 2  # it is not proposed again


def test_a_search_of_which_all_runs_diverge_says_so(wanted):
    pytest.importorskip("optuna")
    with pytest.raises(InputError, match="no trial of study=study was finished"):
        report(open_study(wanted), wanted)


def test_what_a_dead_process_tried_is_proposed_again(wanted, scored):
    pytest.importorskip("optuna")
    study = open_study(wanted)
    dead, living = ({WEIGHT: study.ask().suggest_float(WEIGHT, 0, 1)} for _ in range(2))
    hold = "import sys; from pathlib import Path; from rsseg.config.folder import RunFolder\n"
    hold += "with RunFolder(Path(sys.argv[1])).lock(): print('held', flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", hold, wanted.run_folder(living)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        release_dead_trials(study, wanted)
        other.kill()
    assert [t.state.name for t in study.trials] == ["FAIL", "RUNNING", "WAITING"]
    assert try_one(study, wanted)
    assert study.trials[2].params == dead
    assert study.trials[2].value == dead[WEIGHT]


def test_another_search_under_the_same_name_and_a_bad_storage_are_refused(wanted):
    pytest.importorskip("optuna")
    open_study(wanted)
    open_study(replace(wanted, overrides=[*wanted.overrides, "workers=1"]))  # where it runs may differ
    with pytest.raises(InputError, match="searches for something else"):
        open_study(replace(wanted, overrides=[*wanted.overrides, "steps=3"]))
    for storage in ("nonsense", "sqlite:////nowhere/study.db", "nosuchdatabase://host/db"):
        with pytest.raises(InputError, match=f"storage={storage} can't be opened"):
            open_study(replace(wanted, storage=storage))


def test_one_process_may_take_a_folder_twice(tmp_path):
    with RunFolder(tmp_path).lock(), RunFolder(tmp_path).lock(wait=True):  # a trial's own run takes its folder again
        pass


@pytest.mark.slow
def test_a_killed_search_goes_on(wanted, tmp_path):
    pytest.importorskip("optuna")
    words = ["scripts/search.py", *wanted.overrides, "steps=12", "validations=6", "trials=2"]
    first = subprocess.Popen([sys.executable, *words], cwd=CONFIGS.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 200
    while not list(tmp_path.glob("search/search/*/checkpoints/last.ckpt")) and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    again = subprocess.run([sys.executable, *words], cwd=CONFIGS.parent, capture_output=True, text=True, timeout=400)
    assert again.returncode == 0, again.stderr
    assert "Going on with trial" in again.stdout
    assert "2 of 2 trials done" in again.stdout
    assert "going on from step" in again.stdout
    runs = list(tmp_path.glob("search/search/*/run.json"))
    assert len(runs) == 2
    assert all((run.parent / "summary.json").is_file() for run in runs)


def test_the_best_trials_are_raced_on_seeds_of_their_own(wanted, scored, monkeypatch):
    study = open_study(wanted)
    while try_one(study, wanted):
        pass
    made = []
    monkeypatch.setattr(rsseg.race.Race, "run", lambda race: made.append(race))
    race_best(study, replace(wanted, race=2))
    (raced,) = made
    best = sorted(study.trials, key=lambda trial: -trial.value)[:2]
    assert [float(row[WEIGHT]) for row in raced.rows.values()] == [trial.params[WEIGHT] for trial in best]
    assert raced.seeds == [2, 3, 4, 5, 6, 7, 8, 9]
    assert raced.metric == "iou"
    assert not any(word.startswith("seed=") for word in raced.words)
    with pytest.raises(InputError, match="two trials or more are raced, by one objective"):
        search(replace(wanted, race=1))
