"""Which runs are compared: what is left out is named."""

import itertools
import json
import re
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from run_folders import BINARY, FOUR, make_records, make_sweep, write_run

from rsseg.answer import places_by_dataset, score_runs
from rsseg.comparison.question import Question
from rsseg.comparison.records import RecordError
from rsseg.comparison.selection import full_grid, gather
from rsseg.config.arguments import parse, split_places
from rsseg.config.plan import Plan
from rsseg.contract import InputError


@pytest.fixture(scope="module")
def records():
    return make_records(BINARY, "ce", 1)


@pytest.fixture
def add(tmp_path, records, monkeypatch):
    """Adds a finished run with the same records as all others."""
    monkeypatch.setattr("rsseg.comparison.runs.load_records", lambda folder, head: records)
    monkeypatch.setattr("rsseg.comparison.selection._score", lambda run, *_: run.summary["iou"])

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
    assert found.left_out[0].why == "its loss has not all seeds that are compared, 1, 2"


@given(arrays(bool, st.tuples(st.integers(1, 6), st.integers(1, 6))))
def test_what_is_compared_is_a_full_grid(present):
    kept = full_grid(pd.DataFrame(present))
    assert kept.all(axis=None)
    assert kept.equals(pd.DataFrame(present).loc[kept.index, kept.columns])
    assert kept.size > 0 or not present.any()
    assert kept.shape == present.shape or not present.all()


def test_one_loss_on_other_seeds_does_not_drop_the_rest(tmp_path, add):
    for loss, seeds in (("ce", range(1, 7)), ("dice", range(11, 16)), ("focal", range(11, 16))):
        for seed in seeds:
            add(f"{loss}{seed}", loss, seed)
    found = gather([tmp_path])
    assert (found.labels, found.seeds) == (["dice", "focal"], [11, 12, 13, 14, 15])
    assert {left.run.name for left in found.left_out} == {f"ce{seed}" for seed in range(1, 7)}


def test_plain_cross_entropy_stays_though_it_lacks_a_seed(tmp_path, add):
    for loss in ("ce", "dice", "focal", "lovasz"):
        for seed in range(1, 6 - (loss == "ce")):
            add(f"{loss}{seed}", loss, seed)
    found = gather([tmp_path])
    assert (found.labels, found.seeds) == (["ce", "dice", "focal", "lovasz"], [1, 2, 3, 4])


def test_losses_without_a_common_seed_are_refused(tmp_path, add):
    for loss, seeds in (("ce", (1, 2)), ("dice", (3, 4))):
        for seed in seeds:
            add(f"{loss}{seed}", loss, seed)
    with pytest.raises(InputError, match=r"share too few seeds(?s:.*)ce: 1, 2\n.*dice: 3, 4"):
        gather([tmp_path])


def planned(folder, varied, common=None):
    """The plan of the runs in a folder, whose overrides say what it varies; `varied`: its keys."""
    runs = {}
    for path in sorted(folder.glob("*/run.json")):
        told = dict(word.split("=", 1) for word in json.loads(path.read_text())["overrides"])
        runs[path.parent] = {key: told[key] for key in (*varied, "seed") if key in told}
    Plan(runs, common or {}, [["loss=ce,dice", "seed=1,2"]]).write(folder)


def test_other_validation_data_can_not_be_compared(tmp_path, add):
    for loss in ("ce", "dice"):
        add(loss, loss)
    odd = add("odd", "focal", fingerprint="v2")
    message = rf"on different data.*\n.*\n  validation scenes or labels  v1 +2\n +v2 +1: {odd}\nname the folders of one kind$"
    for allow in (False, True):
        with pytest.raises(InputError, match=message):
            gather([tmp_path], allow)


def test_what_loose_runs_differ_in_is_one_table(tmp_path, add):
    for loss in ("ce", "dice"):
        add(loss, loss)
    add("odd", "focal", steps=500, batch_size=4)
    with pytest.raises(InputError) as caught:
        gather([tmp_path])
    first, *rows, last = str(caught.value).splitlines()
    assert "differ in settings that their plan does not vary" in first
    assert [row.split() for row in rows] == [
        ["setting", "value", "runs"], ["batch_size", "8", "2"], ["4", "1:", str(tmp_path / "odd")],
        ["steps", "400", "2"], ["500", "1:", str(tmp_path / "odd")],
    ]  # fmt: skip
    assert "allow_different=true" in last
    kept = gather([tmp_path], allow_different=True)
    assert kept.labels == ["ce batch_size=8 steps=400", "dice batch_size=8 steps=400", "focal batch_size=4 steps=500"]
    assert (kept.different, kept.design) == (["batch_size", "steps"], [])


def test_code_training_data_and_libraries_count_and_make_no_rows(tmp_path, add):
    for loss in ("ce", "dice"):
        add(loss, loss)
    edit(add("other code", "focal") / "run.json", git={"commit": "feed", "changed": True}, libraries={"torch": "2.1"})
    edit(add("other data", "lovasz") / "data.json", fingerprint={"train": "t2", "val": "v1"}, mean=[99.0])
    edit(add("stopped", "weighted_ce") / "summary.json", steps=300)
    told = ["training scenes or labels", "mean of the images", "stopped early", "code of rsseg", "library torch"]
    with pytest.raises(InputError) as caught:
        gather([tmp_path])
    assert all(f"\n  {name}  " in str(caught.value) for name in told)
    kept = gather([tmp_path], allow_different=True)
    assert kept.labels == ["ce", "dice", "focal", "lovasz", "weighted_ce"]
    assert kept.different == told


def test_the_old_argument_answers_with_the_new_one():
    from rsseg.commands.compare import Arguments

    with pytest.raises(InputError, match=r"^unfair=keep: write allow_different=true$"):
        parse(Arguments, ["runs=a", "unfair=keep"])
    assert parse(Arguments, ["runs=a", "allow_different=true"]).allow_different


def test_a_plan_says_which_runs_are_not_there(tmp_path, add):
    for loss, seed in itertools.product(("ce", "dice", "focal"), (1, 2)):
        add(f"{loss}{seed}", loss, seed)
    planned(tmp_path, ["loss"])
    (tmp_path / "ce2" / "summary.json").write_text('{"diverged": {"step": 7}}')
    (tmp_path / "dice2" / "summary.json").unlink()
    for path in (tmp_path / "focal2").iterdir():
        path.unlink()
    found = gather([tmp_path])
    assert (found.labels, found.seeds) == (["ce", "dice", "focal"], [1])
    assert (found.failed, found.unfinished) == ({"ce": 1}, {"dice": 1, "focal": 1})
    assert {left.run.name: left.why for left in found.left_out} == {
        "ce2": "it has diverged at step 7", "dice2": "it is not finished",
    }  # fmt: skip
    assert found.plan.command(seed="6,7") == "python train.py -m loss=ce,dice seed=6,7"
    some = gather([tmp_path / "ce1", tmp_path / "dice1"])
    assert (some.labels, some.unfinished) == (["ce", "dice"], {})  # only these are meant


def test_a_row_that_lost_all_its_runs_is_counted(tmp_path, add):
    for loss, seed in itertools.product(("ce", "dice"), (1, 2)):
        add(f"{loss}{seed}", loss, seed)
    for seed in (1, 2):
        (tmp_path / f"dice{seed}" / "summary.json").write_text('{"diverged": {"step": 7}}')
        edit(add(f"nan{seed}", "focal", seed) / "summary.json", iou=None)
    found = gather([tmp_path])
    assert (found.labels, found.failed) == (["ce"], {"dice": 2, "focal": 2})


def test_what_a_plan_varies_is_no_difference_and_what_it_does_not_is(tmp_path, add):
    for loss, size, seed in itertools.product(("ce", "dice"), (2, 16), (1, 2)):
        add(f"{loss}{size}{seed}", loss, seed, overrides=[f"batch_size={size}"], batch_size=size)
    planned(tmp_path, ["loss", "batch_size"], {"steps": "400"})
    found = gather([tmp_path])
    assert found.labels == ["ce batch_size=16", "ce batch_size=2", "dice batch_size=16", "dice batch_size=2"]
    assert (found.design, found.different) == (["batch_size"], [])
    path = tmp_path / "ce21" / "config.yaml"
    path.write_text(path.read_text().replace("batch_size: 2", "batch_size: 4"))  # one seed is not what the plan says
    with pytest.raises(InputError, match=r"batch_size +16 +4\n"):
        gather([tmp_path])
    path.write_text(path.read_text().replace("batch_size: 4", "batch_size: 2").replace("steps: 400", "steps: 9"))
    with pytest.raises(InputError, match=r"steps +400 +7\n"):
        gather([tmp_path])


def test_two_sweeps_alike_are_one_and_two_unlike_are_refused(tmp_path, add):
    for loss in ("ce", "dice"):
        for seed in (1, 2):
            add(f"{loss}/{seed}", loss, seed)
        planned(tmp_path / loss, ["loss"], {"steps": "400"})
    found = gather([tmp_path / "ce", tmp_path / "dice"])
    assert (found.labels, found.seeds) == (["ce", "dice"], [1, 2])
    assert found.plan.command(seed=3).count("\n") == 1
    for seed in (1, 2):
        add(f"long/{seed}", "ce", seed, steps=800)
    planned(tmp_path / "long", ["loss"], {"steps": "800"})
    with pytest.raises(InputError, match=r"steps +400 +4\n +800 +2: .*\nadd allow_different=true"):
        gather([tmp_path])
    assert gather([tmp_path], allow_different=True).labels == ["ce steps=400", "ce steps=800", "dice steps=400"]


def test_unfinished_runs_and_runs_without_records_are_named(tmp_path, add, records, monkeypatch):
    for name in ("ce", "dice", "focal", "lovasz"):
        add(name, name)
    (tmp_path / "dice" / "summary.json").unlink()

    def load(folder, head):
        if folder.name == "focal":
            raise RecordError(folder / "records/crossed.npz", "can't be read (it is no zip file)")
        return records

    monkeypatch.setattr("rsseg.comparison.runs.load_records", load)
    found = gather([tmp_path])
    assert found.labels == ["ce", "lovasz"]
    assert [(left.run.name, left.why) for left in found.left_out] == [
        ("dice", "it is not finished"),
        ("focal", "records/crossed.npz can't be read (it is no zip file)"),
    ]
    assert not (tmp_path / "dice" / "run.lock").exists()  # to compare writes nothing into runs
    assert [left.remedy.split("=")[0] for left in found.left_out] == [
        "go on with python train.py resume",
        "train the run again in a new folder",
    ]


def test_a_run_that_trains_now_is_waited_for(tmp_path, add, monkeypatch):
    (add("ce") / "summary.json").rename(tmp_path / "later.json")
    hold = "import sys; from pathlib import Path; from rsseg.config.folder import RunFolder\n"
    hold += "with RunFolder(Path(sys.argv[1])).lock(): print('held', flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", hold, tmp_path / "ce"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=r"\(1 begun\)\. .*ce: it is training now; wait until it is finished$"):
            gather([tmp_path])
        add("dice", "dice")
        assert [(left.why, left.remedy) for left in gather([tmp_path]).left_out] == [
            ("it is training now", "wait until it is finished")
        ]
    assert gather([tmp_path]).left_out[0].why == "it is not finished"


def test_the_later_of_two_equal_runs_counts(tmp_path, add):
    add("old", "ce")
    edit(add("new", "ce") / "summary.json", finished="2026-02-01T00:00:00+00:00")
    found = gather([tmp_path])
    assert [run.folder.name for run in found.runs[0]] == ["new"]
    assert "finished later" in found.left_out[0].why


def test_no_iou(tmp_path, add):
    add("good", "ce")
    edit(add("bad", "dice") / "summary.json", iou=None)
    assert [left.run.name for left in gather([tmp_path]).left_out] == ["bad"]
    edit(tmp_path / "good" / "summary.json", iou=None)
    with pytest.raises(InputError, match="its IoU is NaN: nothing can be scored in its validation scenes; choose a split"):
        gather([tmp_path])


def test_nothing_to_compare(tmp_path, add):
    with pytest.raises(InputError, match="no such folder"):
        gather([tmp_path / "nowhere"])
    with pytest.raises(InputError, match=r"no run in .*: train first"):
        gather([tmp_path])
    (add("broken") / "data.json").unlink()
    with pytest.raises(InputError, match=r"never started training: go on with .* resume="):
        gather([tmp_path])


def test_listed_folders_may_have_commas_in_their_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "loss=ce", "loss=ce,seed=1", "loss=ce,seed=2", "b c"):
        (tmp_path / name).mkdir()
    names = ["loss=ce,seed=1", "a", "loss=ce", "loss=ce,seed=2", "b c"]
    for some in itertools.chain.from_iterable(itertools.permutations(names, many) for many in range(1, 6)):
        assert [str(place) for place in split_places(",".join(some))] == list(some)
    assert split_places("a,") == [Path("a")]
    for name in ("north/1.tif", "south/2.tif"):
        Path(name).parent.mkdir()
        Path(name).touch()
    assert split_places("north/*.tif,south/2.tif,*/*.tif") == [Path("north/*.tif"), Path("south/2.tif"), Path("*/*.tif")]
    lost = ["a", "loss=dice,seed=1", "b c", "loss=focal,seed=2"]
    assert [str(place) for place in split_places(",".join(lost))] == lost


def test_a_misspelt_folder_is_told_from_its_neighbours(tmp_path, add):
    add("loss=ce,seed=1")
    (tmp_path / "loss=ce,sed=11").touch()  # a file is no folder
    with pytest.raises(InputError, match=r"ce,sed=1: there is no such folder \(did you mean 'loss=ce,seed=1'\?\)"):
        gather([tmp_path / "loss=ce,sed=1"])


def rate_sweep(add, scores):
    """Runs of losses x rates x seeds, and their plan."""
    for (loss, rate, seed), iou in scores.items():
        folder = add(f"{loss},{rate},{seed}", loss, seed, overrides=[f"optimizer.lr={rate}"], optimizer={"lr": rate})
        edit(folder / "summary.json", iou=iou)
    planned(folder.parent, ["loss", "optimizer.lr"])


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
    assert {run.seed for run in found.all_runs} == {1, 2}


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
    rate_sweep(add, {("ce", rate, 1): 0.5 for rate in (0.01, 0.1)})
    assert gather([tmp_path]).labels == ["ce optimizer.lr=0.01", "ce optimizer.lr=0.1"]


UNIFORM, BALANCED = ({"_target_": f"rsseg.data.{name}"} for name in ("sampling.Uniform", "balance.Balanced"))
D4, PASTE = ({name: {"_target_": f"rsseg.data.augment.{name.title()}", "p": 0.5}} for name in ("d4", "paste"))


def imbalance(add):
    """Recipes of sweep=imbalance: name, loss, sampler, augmentation."""
    recipes = [("ce", "ce", UNIFORM, D4), ("focal", "focal", UNIFORM, D4), ("dice", "dice", UNIFORM, D4),
               ("over", "ce", BALANCED | {"power": 0}, D4), ("paste_dice", "dice", UNIFORM, PASTE | D4)]  # fmt: skip
    for name, loss, sampler, augment in recipes:
        for seed in (1, 2):
            told = [f"experiment=imbalance/{name}"]
            add(f"{name}{seed}", loss, seed, overrides=told, sampler=sampler, augment=augment)


def test_what_a_sweep_varies_makes_recipes(tmp_path, add):
    imbalance(add)
    planned(tmp_path, ["experiment"], {"window": "64"})
    found = gather([tmp_path])
    assert found.labels == ["ce", "dice", "focal", "over", "paste_dice"]
    assert {key.split(".")[0] for key in found.design} == {"sampler", "augment"}
    assert (found.different, found.left_out) == ([], [])
    for seed in (3, 4):
        add(f"again{seed}", "focal", seed, overrides=["experiment=imbalance/focal"], sampler=UNIFORM, augment=D4, window=32)
    planned(tmp_path, ["experiment"], {"window": "64"})
    with pytest.raises(InputError, match=r"  window +64 +10\n +32 +2: "):
        gather([tmp_path])


def test_runs_that_have_the_head_are_compared_and_told_apart_by_their_heads(tmp_path, monkeypatch, records):
    """As sweep=mtl makes them: all heads together, and each alone."""
    monkeypatch.setattr("rsseg.comparison.runs.load_records", lambda folder, head: records)
    arms = {"together": ["mask", "water"], "mask": ["mask"], "water": ["water"]}
    for (arm, heads), seed in itertools.product(arms.items(), (1, 2)):
        model = {"encoder": "resnet18", "heads": {head: {} for head in heads}}
        folder = tmp_path / f"{arm}{seed}"
        write_run(folder, BINARY, "ce", seed, records, overrides=[f"experiment=mtl/{arm}"], model=model)
        if arm == "together":
            edit(folder / "summary.json", heads={"mask": {"iou": 0.5}, "water": {"iou": 0.6}})
    with pytest.raises(InputError, match=r"\n *heads +mask"):
        gather([tmp_path], head="mask")
    assert gather([tmp_path], head="mask", allow_different=True).labels == ["ce heads=mask", "ce heads=mask+water"]
    planned(tmp_path, ["experiment"])
    found = gather([tmp_path], head="mask")
    assert found.labels == ["mask", "together"]
    assert (found.different, found.design) == ([], ["heads"])
    assert {left.run.name: left.why for left in found.left_out} == dict.fromkeys(["water1", "water2"], "it has no head mask")
    assert found.left_out[0].remedy == "compare it by water"
    with pytest.raises(InputError, match="it has no head watr; compare it by mask"):
        gather([tmp_path], head="watr")


OTHER = {
    "batch_size": 2, "window": 32, "optimizer": {"lr": 0.1}, "scheduler": {"gamma": 0.1}, "sampler": BALANCED,
    "augment": PASTE, "trainer": {"precision": "bf16-mixed"}, "callbacks": {"ema": {"decay": 0.9}}, "validations": 3,
    "model": {"encoder": "resnet18", "weights": "imagenet", "heads": {"mask": {}}},
}  # fmt: skip


@pytest.mark.parametrize("key", OTHER)
def test_every_other_setting_must_be_equal(tmp_path, add, key):
    for loss in ("ce", "dice", "lovasz"):
        add(loss, loss)
    odd = add("odd", "focal", **{key: OTHER[key]})
    with pytest.raises(InputError, match=rf"  {key}[\w.]* .*(?s:.*){odd}"):
        gather([tmp_path])
    kept = gather([tmp_path], allow_different=True)
    assert [name.split(".")[0] for name in kept.different] == [key] * len(kept.different) != []
    assert next(label for label in kept.labels if label.startswith("focal")) != "focal"


def test_a_default_that_is_spelt_out_is_no_difference(tmp_path, add):
    add("a", "dice", 1, overrides=["optimizer.lr=1"], optimizer={"lr": 1})
    add("b", "dice", 2, optimizer={"lr": 1.0})
    assert (gather([tmp_path]).labels, gather([tmp_path]).seeds) == (["dice"], [1, 2])


def test_labels_say_what_a_loss_was_made_with(tmp_path, add):
    for name in ("dice", "ce_dice"):
        for over in ("batch", "image"):
            terms = {"dice": {"_target_": "rsseg.losses.Dice", "over": over}}
            if name == "ce_dice":
                terms["ce"] = {"_target_": "rsseg.losses.CrossEntropy"}
            add(f"{name},{over}", name, overrides=[f"loss.terms.dice.over={over}"], loss_terms=terms)
    add("ce", "ce")
    expected = ["ce", *(f"{name} dice.over={over}" for name in ("ce_dice", "dice") for over in ("batch", "image"))]
    assert gather([tmp_path]).labels == expected


@pytest.mark.parametrize(
    ("terms", "plain"),
    [
        ({"ce": {"_target_": "rsseg.losses.CrossEntropy"}}, True),
        ({"bce": {"_target_": "rsseg.losses.BinaryCrossEntropy", "pos_weight": None}}, True),
        ({"ce": {"_target_": "rsseg.losses.CrossEntropy", "class_weights": "inverse_frequency"}}, False),
        ({"ce": {"_target_": "rsseg.losses.CrossEntropy", "class_weights": [1, 9]}}, False),
        ({"ce": {"_target_": "rsseg.losses.CrossEntropy", "label_smoothing": 0.1}}, False),
        ({"ce": {"_target_": "rsseg.losses.CrossEntropy"}, "dice": {"_target_": "rsseg.losses.Dice", "weight": 1}}, False),
        ({"ce": {"_target_": "rsseg.losses.Dice"}}, False),
    ],
)
def test_plain_is_decided_by_what_the_loss_is(tmp_path, add, terms, plain):
    add("a", "ce", loss_terms=terms)
    assert gather([tmp_path]).runs[0][0].is_cross_entropy is plain


def test_places_are_no_part_of_a_recipe(tmp_path, add):
    add("a", "ce", overrides=["output=x"], output="x", workers=2, cache="ram", logger={"csv": {}}, pictures=4)
    add("b", "dice", overrides=["output=y"], output="y", record={"gain": True})
    found = gather([tmp_path])
    assert (found.labels, found.left_out) == (["ce", "dice"], [])


def test_what_follows_from_a_searched_rate_tells_no_rows_apart(tmp_path, add):
    for loss, good in (("ce", 0.1), ("dice", 0.01)):
        for rate, seed in itertools.product((0.01, 0.1), (1, 1001)):
            follows = {"optimizer": {"lr": rate}, "scheduler": {"max_lr": rate}}
            folder = add(f"{loss},{rate},{seed}", loss, seed, overrides=[f"optimizer.lr={rate}"], **follows)
            edit(folder / "summary.json", iou=0.6 if rate == good else 0.5)
    planned(tmp_path, ["loss", "optimizer.lr"])
    found = gather([tmp_path])
    assert (found.labels, found.design, found.different, found.left_out) == (["ce", "dice"], [], [], [])


def without(records, folders):
    """Loads records, but not of some folders."""

    def load(folder, head):
        if folder.name in folders:
            raise RecordError(folder, "has no records", "train it again")
        return records

    return load


def test_runs_without_records_are_left_out(tmp_path, add, records, monkeypatch):
    names = [f"{loss}{seed}" for loss in ("ce", "dice", "focal") for seed in (1, 2, 3)]
    for name in names:
        add(name, name[:-1], int(name[-1]))
    monkeypatch.setattr("rsseg.comparison.runs.load_records", without(records, names))
    with pytest.raises(InputError, match=r"can be compared \(9 begun\)\. .*has no records; train it again"):
        gather([tmp_path])
    monkeypatch.setattr("rsseg.comparison.runs.load_records", without(records, names[-1:]))
    found = gather([tmp_path])
    assert [left.run.name for left in found.left_out if "no records" in left.why] == ["focal3"]
    assert all(run.records is not None for row in found.runs for run in row)


@pytest.mark.parametrize(("odd", "why"), [({"chosen": None}, "crossed.npz"), ({"lost": 7}, "7 pixels .* not finite")])
def test_a_run_without_its_best_checkpoint_is_named(tmp_path, add, records, monkeypatch, odd, why):
    for loss in ("ce", "dice", "focal"):
        add(loss, loss)
    broken = replace(records, **odd)
    monkeypatch.setattr(
        "rsseg.comparison.runs.load_records", lambda folder, head: broken if folder.name == "focal" else records
    )
    found = gather([tmp_path])
    assert found.labels == ["ce", "dice"]
    assert [re.search(why, left.why) is not None for left in found.left_out] == [True]
    monkeypatch.setattr(
        "rsseg.comparison.runs.load_records", lambda folder, head: records if folder.name == "focal" else broken
    )
    found = gather([tmp_path])
    if "lost" in odd:  # diverged runs are never compared, how many of them there are
        assert found.labels == ["focal"]
        monkeypatch.setattr("rsseg.comparison.runs.load_records", lambda folder, head: broken)
        with pytest.raises(InputError, match=r"\(3 begun\).*has diverged: 7 pixels .*; train it again at a lower"):
            gather([tmp_path])
    else:
        assert found.labels == ["focal"]


@pytest.mark.parametrize(
    ("file", "text", "found"),
    [
        ("summary.json", "", "Expecting value"),
        ("run.json", "[1]", "a mapping is expected, found list"),
        ("data.json", "{}", "it lacks fingerprint.train"),
        ("config.yaml", "a: [1", "while parsing"),
        ("config.yaml", None, "model.heads"),
    ],
)
def test_a_spoilt_file_is_named(tmp_path, add, file, text, found):
    add("good", "ce")
    bad = add("bad", "dice", **({} if text is not None else {"model": {"encoder": "resnet18", "heads": {}}}))
    if text is not None:
        (bad / file).write_text(text)
    with pytest.raises(InputError, match=rf"^\S*bad/{file} .*{re.escape(found)}.*(train the run again|scores the run again)$"):
        gather([tmp_path])


def test_a_run_without_run_json_is_not_passed_over(tmp_path, add):
    add("good", "ce")
    (add("bad", "dice") / "run.json").unlink()
    with pytest.raises(InputError, match=r"bad/run\.json can't be read: No such file or directory"):
        gather([tmp_path])


def test_a_whole_sweep(tmp_path, monkeypatch):
    make_sweep(tmp_path, monkeypatch, losses=("ce", "dice"), seeds=(3, 4))
    found = gather([tmp_path])
    assert (found.labels, found.seeds, found.left_out) == (["ce", "dice"], [3, 4], [])


def write_folds(root, monkeypatch, lacking=()):
    """Runs of losses x seeds x folds, each validated on two scenes of its own."""
    kept = {}
    for loss, seed, fold in itertools.product(("ce", "dice"), (1, 2), (1, 2, 3)):
        folder = root / f"{loss},{seed},{fold}"
        if (loss, seed, fold) in lacking:
            continue
        made = make_records(BINARY, loss, 10 * seed + fold, scenes=2)
        kept[folder] = replace(made, scenes=[f"{fold}{name}" for name in made.scenes])
        data = {"name": "made_up", "task": "binary", "classes": list(BINARY.classes), "bands": [1], "fold": f"{fold}/3"}
        words = [f"dataset.fold={fold}/3"]
        write_run(folder, BINARY, loss, seed, kept[folder], words, fingerprint=f"v{fold}", dataset=data)
        edit(folder / "data.json", fingerprint={"train": f"t{fold}", "val": f"v{fold}"}, mean=[float(fold)])
    monkeypatch.setattr("rsseg.comparison.runs.load_records", lambda folder, head: kept[folder])
    return kept


@pytest.mark.parametrize("by_plan", [True, False])
def test_the_folds_of_a_seed_are_one_run_over_all_scenes(tmp_path, monkeypatch, by_plan):
    kept = write_folds(tmp_path, monkeypatch)
    if by_plan:
        planned(tmp_path, ["loss", "dataset.fold"])
    found = gather([tmp_path])
    assert (found.labels, found.seeds, found.left_out, found.different) == (["ce", "dice"], [1, 2], [], [])
    run, parts = found.runs[1][0], [kept[tmp_path / f"dice,1,{fold}"] for fold in (1, 2, 3)]
    names = [f"{fold}scene_{number}" for fold in (1, 2, 3) for number in (0, 1)]
    assert run.records.scenes == run.data["scenes"]["val"] == names
    for point in ("fixed", "iou", "contours"):
        assert np.array_equal(run.records.at(point), np.concatenate([part.at(point) for part in parts]))
    assert np.array_equal(run.records.optimistic, np.concatenate([part.optimistic for part in parts]))
    assert run.records.groups.tolist() == [group for part in parts for group in part.groups]
    assert run.records.counts.shape == (4, 6, 1, 4)
    assert np.allclose(run.records.values, np.mean([part.values for part in parts], 0))
    assert run.summary["seconds"] == 3 * 12.5


@pytest.mark.parametrize("lost", ["never there", "planned", "diverged"])
def test_a_seed_that_lacks_a_fold_is_named(tmp_path, monkeypatch, lost):
    write_folds(tmp_path, monkeypatch, lacking=[("dice", 2, 3)] if lost == "never there" else [])
    folder = tmp_path / "dice,2,3"
    if lost != "never there":
        planned(tmp_path, ["loss", "dataset.fold"])
    if lost == "planned":
        for path in folder.iterdir():
            path.unlink()
    elif lost == "diverged":
        (folder / "summary.json").write_text('{"diverged": {"step": 7}}')
    found = gather([tmp_path])
    assert found.seeds == [1]
    assert all(row[0].records.counts.shape[1] == 6 for row in found.runs)  # the scenes of all folds
    other = "not every loss that is compared has its seed"
    assert {left.run.name: left.why for left in found.left_out} == {
        **dict.fromkeys(["ce,2,1", "ce,2,2", "ce,2,3"], other),
        **dict.fromkeys(["dice,2,1", "dice,2,2"], "its seed lacks fold 3/3"),
        **({"dice,2,3": "it has diverged at step 7"} if lost == "diverged" else {}),
    }
    assert found.failed == ({"dice": 1} if lost == "diverged" else {})
    assert found.unfinished == ({"dice": 1} if lost == "planned" else {})


def test_what_one_fold_differs_in_is_told(tmp_path, monkeypatch):
    write_folds(tmp_path, monkeypatch)
    edit(tmp_path / "dice,1,2" / "run.json", libraries={"torch": "2.1"})
    assert gather([tmp_path], allow_different=True).different == ["library torch"]


def test_other_scenes_in_a_fold_are_refused(tmp_path, monkeypatch):
    write_folds(tmp_path, monkeypatch)
    edit(tmp_path / "ce,1,2" / "data.json", fingerprint={"train": "t2", "val": "w2"})
    with pytest.raises(InputError, match=r"validation scenes or labels of fold 2/3 +v2 +3\n +w2 +1: "):
        gather([tmp_path])


def test_a_folder_with_runs_of_several_datasets_is_taken_apart(tmp_path):
    for sweep, dataset in (("a", "inria"), ("b", "dubai"), ("c", "inria")):
        for seed in (1, 2):
            run = tmp_path / sweep / f"seed={seed}"
            write_run(run, FOUR, "ce", seed, make_records(FOUR, "ce", seed))
            config = run / "config.yaml"
            config.write_text(re.sub(r"(dataset:\n(?:  .*\n)*?  name: ).*", rf"\g<1>{dataset}", config.read_text()))
    a, b, c = (tmp_path / name for name in "abc")
    assert places_by_dataset([tmp_path]) == {"inria": [a, c], "dubai": [b]}
    assert places_by_dataset([a, c]) == {"inria": [a, c]}
    assert places_by_dataset([a / "seed=1", b]) == {"inria": [a / "seed=1"], "dubai": [b]}


def test_a_sweep_over_datasets_is_taken_apart(tmp_path):
    runs = {}
    for dataset, seed in product(("inria", "dubai"), (1, 2)):
        run = tmp_path / f"dataset={dataset},seed={seed}"
        write_run(run, FOUR, "ce", seed, make_records(FOUR, "ce", seed))
        config = run / "config.yaml"
        config.write_text(re.sub(r"(dataset:\n(?:  .*\n)*?  name: ).*", rf"\g<1>{dataset}", config.read_text()))
        runs[run] = {"loss": "ce", "dataset": dataset, "seed": str(seed)}
    Plan(runs, {}).write(tmp_path)
    dubai, inria = ([run for run in sorted(runs) if dataset in run.name] for dataset in ("dubai", "inria"))
    assert places_by_dataset([tmp_path]) == {"dubai": dubai, "inria": inria}


@pytest.mark.parametrize(
    "change", [lambda runs: runs.pop("seed"), lambda runs: runs.pop("loss"), lambda runs: runs.update(seed="x")]
)
def test_a_plan_whose_runs_lack_something_is_named(tmp_path, add, change):
    for loss, seed in itertools.product(("ce", "dice"), (1, 2)):
        add(f"{loss}{seed}", loss, seed)
    planned(tmp_path, ["loss"])
    content = json.loads((tmp_path / "sweep.json").read_text())
    change(next(iter(content["runs"].values())))
    (tmp_path / "sweep.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"sweep\.json holds no plan of a sweep"):
        gather([tmp_path])


def test_runs_whose_scenes_lie_in_other_areas_are_refused(tmp_path, add, records, monkeypatch):
    for loss in ("ce", "dice", "focal"):
        add(loss, loss)
    other = replace(records, groups=np.array(["a"] * len(records.scenes)))
    monkeypatch.setattr("rsseg.comparison.runs.load_records", lambda folder, head: other if folder.name == "dice" else records)
    with pytest.raises(InputError, match=r"on different data.*\n.*\n  areas of the scenes  6 areas \(\w+\) +2\n +1 areas"):
        gather([tmp_path])
    monkeypatch.setattr("rsseg.comparison.runs.load_records", lambda folder, head: records)
    found = gather([tmp_path])
    monkeypatch.setattr("rsseg.answer.call_apart", lambda *_: None)
    monkeypatch.setattr("rsseg.answer.load_records", lambda folder, *_: other if folder.name == "dice" else records)
    with pytest.raises(InputError, match=r"  areas of the scenes  6 areas"):
        score_runs(found, Question(split="test"))
