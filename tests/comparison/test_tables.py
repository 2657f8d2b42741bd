"""The tables of a comparison, against the counts and findings they are made of."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from run_folders import FOUR, HEIGHT, changed, height_sums, label_counts, made_findings, of_label, steady

from rsseg.comparison import tables
from rsseg.comparison.runs import LeftOut
from rsseg.comparison.tables import all_tables

MEANS, TUNED = [0.50, 0.60, 0.40], [0.66, 0.64, 0.45]


@pytest.fixture(scope="module")
def found():
    pixels = np.random.default_rng(0).uniform(500, 1500, 8)
    return of_label(steady(MEANS, of_scenes=0.02), tuned=steady(TUNED, of_scenes=0.02), pixels=pixels, failed={"focal": 2})


def test_losses_have_a_row_each_best_first(found):
    table = tables.losses(found)
    assert table.index.tolist() == ["dice", "ce", "focal"]
    places = [1, 0, 2]
    for name in ("iou", "recall", "ece", "boundary_iou"):
        known = found.estimates[name]
        assert table[f"{name}_mean"].tolist() == pytest.approx(known.values.mean(1)[places].tolist())
        assert table[f"{name}_std"].tolist() == pytest.approx(known.values.std(1, ddof=1)[places].tolist())
        assert table[f"{name}_low"].tolist() == pytest.approx(known.score.low[places].tolist())
    lead = found.ranked.lead()
    assert table.loc["focal", ["behind", "behind_low", "behind_high"]].tolist() == pytest.approx(lead.at(1, 2))
    assert table.loc["dice", "behind"] == 0
    assert table["gain_mean"].tolist() == pytest.approx((table["tuned_mean"] - table["iou_mean"]).tolist())
    assert table["p_best"].sum() == pytest.approx(1)
    assert table["used_tuned"].tolist() == [True] * 3
    assert table["p_best"].idxmax() == "ce"  # as it is best used, tuned
    assert table["failed"].tolist() == [0, 0, 2]
    assert table["hours"].tolist() == pytest.approx([0.5] * 3)  # five runs of six minutes
    assert table["seeds"].tolist() == [5] * 3
    assert {"collapsed", "last_is_best", "optimism_mean", "residual_regret_mean", "selection_regret_mean"} <= set(table)


def test_a_mean_over_some_seeds_says_over_how_many(found):
    selection = found.selection_regret.copy()
    selection[0, 1:3] = np.nan
    table = tables.losses(changed(found, selection_regret=selection))
    assert table.loc[["ce", "dice"], "selection_regret_seeds"].tolist() == [3, 5]
    assert table.loc["ce", "selection_regret_mean"] == pytest.approx(selection[0, [0, 3, 4]].mean())
    assert "selection_regret_seeds" not in tables.losses(changed(found, selection_regret=np.zeros((3, 5))))
    assert table["tau_seeds"].tolist() == [0] * 3  # of two validations
    assert table["tau_mean"].isna().all()


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_one_seed_has_no_deviation_and_nothing_behind():
    one = of_label(steady(MEANS, seeds=1), tuned=steady(TUNED, seeds=1))
    table = tables.losses(one)
    assert table[["iou_std", "iou_low", "behind_low"]].isna().all(axis=None)
    assert table["iou_mean"].tolist() == pytest.approx([0.6, 0.5, 0.4])
    assert "p_best" not in table
    assert all(isinstance(table, pd.DataFrame) for table in all_tables(one).values())


def test_pairs_are_mirrored_and_errors_keep_their_sign(found):
    table = tables.pairs(found)
    known = table[(table["metric"] == "iou") & (table["loss"] == "dice") & (table["against"] == "ce")].iloc[0]
    assert known[["difference", "low", "high"]].tolist() == pytest.approx(found.ranked.lead().at(1, 0))
    other = table[(table["metric"] == "iou") & (table["loss"] == "ce") & (table["against"] == "dice")].iloc[0]
    assert other[["difference", "low", "high"]].tolist() == pytest.approx([-known["difference"], -known["high"], -known["low"]])
    tuned = table[(table["metric"] == "tuned") & (table["loss"] == "ce") & (table["against"] == "dice")].iloc[0]
    assert tuned[["difference", "low", "high"]].tolist() == pytest.approx(found.tuned.lead().at(0, 1))
    assert len(table) == 6 * len(found.estimates)
    heights = made_findings(height_sums(steady([1.0, 1.5]))[..., None, :], task=HEIGHT, labels=("mse", "mae"))
    (first, second) = tables.pairs(heights).query("metric == 'rmse'")["difference"]
    assert (first, second) == pytest.approx((-0.5, 0.5), abs=1e-4)  # mse's error less mae's


def test_ranks_are_counted_one_by_one(found):
    """How many losses of the same seed are better, ties by halves."""
    table = tables.ranks(found)
    assert table.index.tolist() == ["dice", "ce", "focal"]
    for key, known in found.estimates.items():
        cost = -known.values if known.measure.higher_is_better else known.values
        better = (cost[None] < cost[:, None]).sum(1) + ((cost[None] == cost[:, None]).sum(1) - 1) / 2 + 1
        assert table[known.measure.label].tolist() == pytest.approx(better.mean(1)[[1, 0, 2]].tolist()), key
    assert table["loss ce"].tolist() == [2, 2, 2]  # all panels are alike here


def test_classes_have_their_pixels_groups_and_scores():
    pixels = np.full((8, 4), 100.0)
    pixels[4:, 2], pixels[:, 3] = 0, 0
    iou = np.array([0.9, 0.6, 0.3, 0.5]) + np.zeros((2, 3, 8, 4))
    iou[1] -= 0.1
    found = made_findings(label_counts(iou, pixels), task=FOUR, groups=list("aabbccdd"))
    table = tables.classes(found)
    assert table["pixels"].tolist() == [800, 800, 400, 0]
    assert table["groups"].tolist() == [4, 4, 2, 0]
    assert table["ce"].tolist() == pytest.approx([0.9, 0.6, 0.3, np.nan], nan_ok=True)
    assert table["dice"].tolist() == pytest.approx([0.8, 0.5, 0.2, np.nan], nan_ok=True)
    by_recall = tables.classes(made_findings(label_counts(iou, pixels), task=FOUR, metric="scene_dice"))
    assert by_recall.loc["land", "ce"] == pytest.approx(2 * 0.9 / 1.9)


def test_scenes_that_differ_most_come_first(found):
    iou = np.full((2, 3, 4), 0.5)
    iou[1] += np.array([0.0, 0.3, 0.1, 0.2])
    pixels = np.array([100, 100, 100, 0])  # the last one has no score
    table = tables.scenes(of_label(iou, pixels=pixels, groups=list("aabb")))
    assert table.index.tolist() == ["scene_1", "scene_2", "scene_0", "scene_3"]
    assert table["group"].tolist() == ["a", "b", "a", "b"]
    assert table["dice"].tolist() == pytest.approx([0.8, 0.6, 0.5, np.nan], nan_ok=True)


def test_runs_and_what_is_left_out_are_listed(found):
    table = tables.runs(found)
    assert len(table) == 15
    row = table[(table["loss"] == "ce") & (table["seed"] == 2)].iloc[0]
    assert row["iou"] == pytest.approx(found.ranked.values[0, 1])
    assert (row["run"], row["steps"], row["seconds"], row["commit"]) == ("loss=ce,seed=2", 400, 360, "c0ffee")
    left = [LeftOut(Path("a"), "it has diverged at step 7", "train it again at a lower learning rate (optimizer.lr)")]
    comparison = dataclasses.replace(found.comparison, left_out=left)
    assert tables.left_out(changed(found, comparison=comparison)).to_numpy().tolist() == [
        ["a", "it has diverged at step 7", "train it again at a lower learning rate (optimizer.lr)"]
    ]
    assert tables.left_out(found).columns.tolist() == ["run", "why", "what to do"]


def test_all_tables_have_names_of_their_own(found):
    names = {"comparison", "pairs", "ranks", "classes", "scenes", "terms", "cosines", "checkpoints", "runs", "left_out"}
    made = all_tables(found)
    assert set(made) == names
    assert len(made["checkpoints"]) == 15 * 2
    assert set(made["checkpoints"]["step"]) == {100, 200}
