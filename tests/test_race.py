"""Racing: how often it drops a row by mistake, and that it goes on after a kill."""

import itertools
import json
import math
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from run_folders import BINARY, make_records, write_run
from scipy.stats import norm

import rsseg.race
from rsseg.comparison.intervals import Interval, estimate
from rsseg.comparison.measures import measures
from rsseg.config.naming import quoted
from rsseg.config.plan import Plan, read_plan
from rsseg.contract import InputError
from rsseg.race import ALPHA, FIRST_LOOK, decide, race, spent


def test_the_spending_is_that_of_the_paper():
    """Lan and DeMets 1983, alpha*_1 for a two-sided test: 4 - 4 Phi(z / sqrt t) has half of alpha on each side."""
    for share in (0.2, 0.5, 0.8):
        z = norm.ppf(1 - ALPHA / 2)
        assert spent(share) == pytest.approx(math.erfc(z / math.sqrt(2 * share)))
    assert spent(1.0) == pytest.approx(ALPHA)


MEASURE = measures(BINARY)["scene_iou"]


def sums(scores, groups=12, rng=None):
    """Sums ``[L, R, G, 2]`` of groups of one scene each that have these scores ``[L, R]``, and noise of their own per row."""
    noise = np.zeros(groups) if rng is None else rng.normal(0, 0.5, (len(scores), 1, groups)) + rng.normal(0, 2, groups)
    return np.stack([scores[..., None] + noise, np.ones((*scores.shape, groups))], axis=-1)


def raced(counted, equal_within=0.0):
    """The rows that are left of sums ``[L, R, G, 2]``, looked at after each seed from the third on."""
    seeds, left = counted.shape[1], np.arange(len(counted))
    for number in range(FIRST_LOOK, seeds + 1):
        alpha = spent(number / seeds) - (spent((number - 1) / seeds) if number > FIRST_LOOK else 0)
        leads = partial(estimate(counted[left, :number], MEASURE, draws=300).lead, pooled=False)
        told = decide(leads, alpha, equal_within)
        left = np.delete(left, list(told.behind))
        if len(left) < 2:
            break
    return left


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "seeds"), [(2, 5), (3, 5), (8, 5)])
def test_equally_good_rows_are_seldom_dropped(rows, seeds):
    """At most 5 % of races, and what 150 of them may show beside: three standard errors."""
    rng = np.random.default_rng([rows, seeds])
    spread = np.linspace(0.5, 2, rows)[:, None]
    lost = sum(len(raced(sums(spread * rng.normal(size=(rows, seeds)), rng=rng))) < rows for _ in range(150))
    assert lost / 150 <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / 150)


def test_a_row_that_is_far_behind_is_dropped():
    rng = np.random.default_rng(0)
    for _ in range(50):
        scores = rng.normal(size=(3, 5)) + np.array([[30.0], [30.0], [0.0]])
        assert {0, 1} >= {*raced(sums(scores))}


def test_rows_within_a_difference_of_no_use_are_equal():
    def leads(level):
        return Interval(np.zeros((2, 2)), np.full((2, 2), -0.008), np.full((2, 2), 0.008))

    assert decide(leads, 0.01, 0.01) == ({}, True)
    assert decide(leads, 0.01, 0.005) == ({}, False)


QUALITY = {"ce": 0.8, "dice": 0.8, "focal": 0.2}


@pytest.fixture
def rounds(tmp_path, monkeypatch):
    """Rounds that are trained at once, their rows and seeds; after `limit` rounds the race is killed."""
    done = {"rounds": [], "limit": 99, "diverged": set()}
    noise = dict(zip(itertools.product(QUALITY, range(9)), np.random.default_rng(0).normal(size=27), strict=True))
    folder = tmp_path / "sweep/synthetic_loss"
    records = make_records(BINARY, "ce", 1)

    def train(self, values, seed):
        if len(done["rounds"]) == done["limit"]:
            raise KeyboardInterrupt
        done["rounds"].append((tuple(values), seed))
        runs = {folder / f"loss={value},seed={seed}": {"loss": value, "seed": str(seed)} for value in values}
        before = read_plan(folder)
        for path, told in runs.items():
            write_run(path, BINARY, told["loss"], seed, records)
            text = json.loads((path / "summary.json").read_text())
            text = {"diverged": {"step": 3}} if (told["loss"], seed) in done["diverged"] else text
            (path / "summary.json").write_text(json.dumps(text))
        plan = Plan(runs, {})
        (before.merged(plan) if before else plan).write(folder)

    class Made:
        """Findings of known scores."""

        def __init__(self, comparison, metric):
            scores = [[QUALITY[run.loss] + 0.02 * noise[run.loss, run.seed] for run in row] for row in comparison.runs]
            self.ranked = estimate(sums(np.array(scores)), MEASURE, draws=300)

    monkeypatch.setattr("rsseg.comparison.runs.load_records", lambda folder, head: records)
    monkeypatch.setattr(rsseg.race.Race, "train", train)
    monkeypatch.setattr(rsseg.race, "Findings", Made)
    return done


def start(tmp_path, *words):
    race(["-m", "loss=ce,dice,focal", "seed=1,2,3,4,5", "race=true", f"output={tmp_path}", *words])
    return json.loads((tmp_path / "sweep/synthetic_loss/race.json").read_text())


@pytest.mark.slow
def test_a_race_drops_what_is_behind_and_goes_on_after_a_kill(tmp_path, rounds):
    rounds["limit"] = 4
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path, "equal_within=0.0001")
    rounds["limit"] = 99
    told = start(tmp_path, "equal_within=0.0001")
    assert [seed for _, seed in rounds["rounds"]] == [1, 2, 3, 4, 5]
    assert rounds["rounds"][0][0] == ("ce", "dice", "focal")
    assert rounds["rounds"][-1][0] == ("ce", "dice")
    (drop,) = [drop for look in told["looks"] for drop in look["dropped"]]
    assert drop["row"] == "focal"
    assert 0 < drop["low"] < drop["by"] < drop["high"]
    assert sum(look["level"] for look in told["looks"]) == pytest.approx(ALPHA)
    assert told["seeds"] == [1, 2, 3, 4, 5]
    with pytest.raises(InputError, match=r"race.json is of another race \(equal_within differ\)"):
        start(tmp_path, "equal_within=0.5")
    earlier = {"varied": "loss", "values": ["ce", "dice", "focal"], "seeds": told["seeds"], "equal_within": 0.0001}
    (tmp_path / "sweep/synthetic_loss/race.json").write_text(json.dumps(earlier | {"alpha": ALPHA, "looks": told["looks"]}))
    with pytest.raises(InputError, match=r"race.json is of another race \(rows differ\)"):
        start(tmp_path, "equal_within=0.0001")


def test_a_race_ends_when_the_rest_is_practically_equal(tmp_path, rounds):
    told = start(tmp_path, "equal_within=0.7")
    assert told["looks"][-1]["equal"]
    assert len(rounds["rounds"]) == FIRST_LOOK


def test_a_row_that_diverged_is_out_and_named(tmp_path, rounds):
    rounds["diverged"] = {("dice", 2)}
    told = start(tmp_path, "equal_within=0.0001")
    assert told["looks"][1]["failed"] == ["dice"]
    assert all("dice" not in values for values, seed in rounds["rounds"] if seed > 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed=1,2,3"], "looks after 3 seeds"),
        (["seed=1,2,3,1001"], "give seeds below 1000"),
        (["dataset.fold=1/5,2/5"], "dataset.fold can't be varied"),
        (["loss=ce"], "varies none"),
        (["equal_within=x"], "equal_within=x: a number is expected"),
        (["equal_within=-1"], "equal_within has to be a number of 0 or more"),
        (["seed=a,b,c,d"], "seed=a,b,c,d: whole numbers are expected"),
        (["--cfg", "job"], "leave out --cfg"),
        (["optimizer.lr=interval(0,1)"], "does not support sweep type"),
    ],
)
def test_what_can_not_be_raced_is_refused(tmp_path, words, message):
    with pytest.raises(InputError, match=message):
        start(tmp_path, *words)
    with pytest.raises(InputError, match="add -m"):
        race(["loss=ce,dice", "race=true"])


def test_all_combinations_of_what_is_varied_are_raced(tmp_path):
    rows = {f"{loss},{lr}": {"loss": loss, "optimizer.lr": lr} for loss in ("ce", "dice") for lr in ("0.1", "0.2")}
    raced = rsseg.race.Race(tmp_path / "a b", ["steps=2"], rows, [1, 2, 3, 4])
    first, second = raced.sweeps(["ce,0.1", "ce,0.2", "dice,0.2"], 3)
    start = ["-m", "steps=2", f"hydra.sweep.dir={quoted(str(tmp_path / 'a b'))}"]
    assert first == [*start, "loss=choice(ce)", "optimizer.lr=choice(0.1,0.2)", "seed=3"]
    assert second == [*start, "loss=choice(dice)", "optimizer.lr=choice(0.2)", "seed=3"]


def test_a_row_that_is_left_alone_equals_nothing():
    def leads(level):
        return Interval(np.array([[0, 1.0], [-1, 0]]), np.array([[0, 0.5], [-1.5, 0]]), np.array([[0, 1.5], [-0.5, 0]]))

    assert decide(leads, 0.01, 0.01) == ({1: 0}, False)


def test_a_sweep_that_is_interrupted_ends_by_itself(tmp_path, monkeypatch):
    """It saves its run first; Ctrl + C reaches it too."""
    begun = []

    class Sweep(subprocess.Popen):
        def __init__(self, words):
            super().__init__([sys.executable, "-c", "import time; time.sleep(0.5)"])
            begun.append(self)

        def wait(self, timeout=None):
            if not hasattr(self, "interrupted"):
                self.interrupted = True
                raise KeyboardInterrupt
            return super().wait(timeout)

    monkeypatch.setattr(subprocess, "Popen", Sweep)
    raced = rsseg.race.Race(tmp_path, [], {name: {"loss": name} for name in QUALITY}, [1, 2, 3, 4])
    with pytest.raises(KeyboardInterrupt):
        raced.train(list(QUALITY), 1)
    (sweep,) = begun
    assert sweep.returncode == 0
