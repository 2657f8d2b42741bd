"""Which runs are compared: what is left out is named."""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from run_folders import BINARY, make_records, make_sweep, write_run

from rsseg.alignment.fair import gather, largest_grid
from rsseg.contract import InputError


@pytest.fixture(scope="module")
def records():
    return make_records(BINARY, "ce", 1)


@pytest.fixture
def add(tmp_path, records, monkeypatch):
    """Adds a finished run with the same records as all others."""
    monkeypatch.setattr("rsseg.alignment.runs.load_records", lambda folder, head: records)

    def add_run(name, loss="ce", seed=1, **options):
        write_run(tmp_path / name, BINARY, loss, seed, records, **options)
        return tmp_path / name

    return add_run


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_every_loss_has_every_seed(tmp_path, add):
    for loss, seed in (("ce", 1), ("ce", 2), ("dice", 1), ("dice", 2), ("focal", 1)):
        add(f"{loss}{seed}", loss, seed)
    found = gather([tmp_path])
    assert (found.labels, found.seeds) == (["ce", "dice"], [1, 2])
    assert [[run.folder.name for run in row] for row in found.runs] == [["ce1", "ce2"], ["dice1", "dice2"]]
    assert [left.run.name for left in found.left_out] == ["focal1"]
    assert "not every loss" in found.left_out[0].why


@given(arrays(bool, st.tuples(st.integers(1, 5), st.integers(1, 5))))
def test_the_grid_is_full_and_holds_a_whole_loss_at_least(present):
    rows, columns = largest_grid(present)
    assert present[np.ix_(rows, columns)].all()
    assert rows.sum() * columns.sum() >= present.sum(1).max()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"fingerprint": "v2"}, r"data or splits \(validation\)"),
        ({"steps": 500}, "numbers of steps: 500, the others 400"),
    ],
)
def test_the_odd_one_out_is_named(tmp_path, add, options, why):
    for loss in ("ce", "dice"):
        add(loss, loss)
    add("odd", "focal", **options)
    found = gather([tmp_path])
    assert found.labels == ["ce", "dice"]
    (left,) = found.left_out
    assert left.run.name == "odd"
    assert re.search(why, left.why)
    kept = gather([tmp_path], keep_unfair=True)
    assert ("focal" in kept.labels) == ("steps" in options)  # other scenes can't be compared whoever asks


def test_code_and_training_data_count(tmp_path, add):
    for loss in ("ce", "dice"):
        add(loss, loss)
    edit(add("other code", "focal") / "run.json", git={"commit": "feed", "changed": False})
    edit(add("other data", "lovasz") / "data.json", fingerprint={"train": "t2", "val": "v1"})
    found = gather([tmp_path])
    assert {left.run.name: left.why.split(":")[0] for left in found.left_out} == {
        "other code": "different code",
        "other data": "different data or splits (training)",
    }
    assert "unfair=keep" in found.left_out[0].remedy


def test_two_halves_are_refused(tmp_path, add):
    add("a", "ce")
    add("b", "dice", steps=500)
    with pytest.raises(InputError, match=r"different numbers of steps .*unfair=keep"):
        gather([tmp_path])
    assert gather([tmp_path], keep_unfair=True).labels == ["ce", "dice"]
    add("c", "focal", fingerprint="v2")
    add("d", "focal", fingerprint="v2", seed=2)
    with pytest.raises(InputError, match=r"different data or splits \(validation\)"):
        gather([tmp_path], keep_unfair=True)


def test_unfinished_runs_and_runs_without_records_are_named(tmp_path, add, records, monkeypatch):
    for name in ("ce", "dice", "focal", "lovasz"):
        add(name, name)
    (tmp_path / "dice" / "summary.json").unlink()

    def load(folder, head):
        if folder.name == "focal":
            raise InputError("none")
        return records

    monkeypatch.setattr("rsseg.alignment.runs.load_records", load)
    found = gather([tmp_path])
    assert found.labels == ["ce", "lovasz"]
    assert [(left.run.name, left.why) for left in found.left_out] == [
        ("dice", "it is not finished"),
        ("focal", "it has no records, as the others have: none"),
    ]
    assert "resume=" in found.left_out[0].remedy


def test_the_later_of_two_equal_runs_counts(tmp_path, add):
    add("old", "ce")
    edit(add("new", "ce") / "summary.json", finished="2026-02-01T00:00:00+00:00")
    found = gather([tmp_path])
    assert [run.folder.name for run in found.runs[0]] == ["new"]
    assert "finished later" in found.left_out[0].why


def test_no_iou(tmp_path, add):
    add("good", "ce")
    edit(add("bad", "dice") / "summary.json", iou=float("nan"))
    assert [left.run.name for left in gather([tmp_path]).left_out] == ["bad"]
    edit(tmp_path / "good" / "summary.json", iou=float("nan"))
    with pytest.raises(InputError, match="no run has an IoU"):
        gather([tmp_path])


def test_nothing_to_compare(tmp_path, add):
    with pytest.raises(InputError, match="no such folder"):
        gather([tmp_path / "nowhere"])
    with pytest.raises(InputError, match="no finished run"):
        gather([tmp_path])
    (add("broken") / "metrics.csv").unlink()
    with pytest.raises(InputError, match="can't be read as a finished run"):
        gather([tmp_path])


def rate_sweep(add, scores):
    """Runs of losses x rates x seeds."""
    for (loss, rate, seed), iou in scores.items():
        folder = add(f"{loss},{rate},{seed}", loss, seed, overrides=[f"optimizer.lr={rate}"], optimizer={"lr": rate})
        edit(folder / "summary.json", iou=iou)


def test_rates_are_chosen_on_the_search_seeds_alone(tmp_path, add):
    scores = {}
    for loss, good in (("ce", 0.1), ("dice", 0.01)):
        for rate in (0.01, 0.1):
            scores |= {(loss, rate, seed): 0.6 if rate == good else 0.5 for seed in (1001, 1002)}
            scores |= {(loss, rate, seed): 0.4 if rate == good else 0.9 for seed in (1, 2)}  # would choose the other
    rate_sweep(add, scores)
    found = gather([tmp_path])
    assert found.rates == {"ce": (0.1, [0.01, 0.1]), "dice": (0.01, [0.01, 0.1])}
    assert (found.labels, found.seeds, found.left_out) == (["ce", "dice"], [1, 2], [])
    assert {run.rate for run in found.runs[0]} == {0.1}
    assert not any(run.searching for row in found.runs for run in row)


def test_rates_are_compared_on_the_seeds_that_all_were_tried_with(tmp_path, add):
    rate_sweep(add, {("ce", 0.1, 1001): 0.5, ("ce", 0.1, 1002): 0.9, ("ce", 0.01, 1001): 0.6, ("ce", 0.01, 1): 0.6})
    assert gather([tmp_path]).rates["ce"][0] == 0.01  # on seed 1001: 0.6 against 0.5


def test_a_search_that_is_not_finished(tmp_path, add):
    rate_sweep(add, {("ce", 0.1, 1001): 0.5, ("ce", 0.01, 1002): 0.6, ("ce", 0.01, 1): 0.6})
    with pytest.raises(InputError, match="no search seed with which all its learning rates"):
        gather([tmp_path])


def test_a_chosen_rate_that_nobody_reports_on(tmp_path, add):
    rate_sweep(add, {("ce", 0.1, 1001): 0.9, ("ce", 0.01, 1001): 0.6, ("ce", 0.01, 1): 0.6})
    with pytest.raises(InputError, match="finish the sweep"):
        gather([tmp_path])
    rate_sweep(add, {("dice", 0.1, 1001): 0.9, ("dice", 0.01, 1001): 0.6, ("dice", 0.1, 1): 0.6})
    found = gather([tmp_path])
    assert found.labels == ["dice"]
    assert [left.run.name for left in found.left_out] == ["ce,0.1,1001"]


def test_large_seeds_without_a_search_are_seeds_like_others(tmp_path, add):
    for loss in ("ce", "dice"):
        for seed in (1, 2026):
            add(f"{loss}{seed}", loss, seed)
    assert gather([tmp_path]).seeds == [1, 2026]


def test_without_search_seeds_every_rate_is_a_row(tmp_path, add):
    for rate in (0.01, 0.1):
        add(f"{rate}", overrides=[f"optimizer.lr={rate}"], optimizer={"lr": rate})
    assert gather([tmp_path]).labels == ["ce optimizer.lr=0.01", "ce optimizer.lr=0.1"]


def test_labels_of_experiments_and_terms_are_short(tmp_path, add):
    add("a", "ce", overrides=["experiment=imbalance/paste"])
    add("b", "dice", overrides=["experiment=imbalance/dice", "loss.terms.dice.over=image"])
    assert gather([tmp_path]).labels == ["ce imbalance/paste", "dice imbalance/dice dice.over=image"]


def test_places_are_no_part_of_a_label(tmp_path, add):
    add("a", "ce", overrides=["output=x", "workers=2"])
    add("b", "dice", overrides=["output=y"])
    assert gather([tmp_path]).labels == ["ce", "dice"]


def test_a_whole_sweep(tmp_path, monkeypatch):
    make_sweep(tmp_path, monkeypatch, losses=("ce", "dice"), seeds=(3, 4))
    found = gather([tmp_path])
    assert (found.labels, found.seeds, found.left_out) == (["ce", "dice"], [3, 4], [])
