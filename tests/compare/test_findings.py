"""Measures of a comparison against the records they are made of, and what is said where something is missing."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from run_folders import BINARY, FOUR, changed, make_records, make_snapshot, make_sweep, write_run
from scipy.stats import kendalltau, ttest_1samp

from rsseg.compare import tables
from rsseg.compare.fair import gather
from rsseg.compare.findings import Findings, Tuning, own_loss, selection
from rsseg.compare.records import checkpoint_of
from rsseg.compare.scores import compare_seeds
from rsseg.compare.words import caveats, rare, unselected
from rsseg.metrics import metrics
from rsseg.task import Binary, Multiclass

SCORED = metrics(Binary(("a",)))


def compare(root, metric="iou"):
    comparison = gather([root])
    return comparison, Findings(comparison, metric)


def test_values_are_those_of_the_best_checkpoint(tmp_path, monkeypatch):
    records = make_sweep(tmp_path, monkeypatch, losses=("ce", "dice"), seeds=(1, 2))
    for folder, known in records.items():
        records[folder] = dataclasses.replace(known, best=dataclasses.replace(known.best, step=200))
    comparison, found = compare(tmp_path)
    for i, j in np.ndindex(2, 2):
        assert found.values[i, j] == pytest.approx(records[comparison.runs[i][j].folder].values[1].mean(-1))


def test_tau_is_of_the_last_half_and_has_an_interval_over_seeds(tmp_path, monkeypatch):
    make_sweep(tmp_path, monkeypatch, losses=("ce", "dice"), seeds=(1, 2, 3))
    curves = {}
    for folder in tmp_path.iterdir():
        rng = np.random.default_rng([*folder.name.encode()])
        curves[folder] = pd.DataFrame({"step": [1, 2, 3, 4, 5], "val/loss": rng.random(5), "val/mask/iou": rng.random(5)})
        curves[folder].assign(**{"val/mask/dice": 0.5}).to_csv(folder / "metrics.csv", index=False)
    comparison, found = compare(tmp_path)
    for i, row in enumerate(comparison.runs):
        for j, run in enumerate(row):
            loss, iou = curves[run.folder]["val/loss"], curves[run.folder]["val/mask/iou"]
            expected = [kendalltau(-loss, iou).statistic, kendalltau(-loss[2:], iou[2:]).statistic]
            assert found.tau[i, j] == pytest.approx(expected)
    table = tables.losses(found)
    for name, at in (("tau", 0), ("tau_last_half", 1)):
        ends = ttest_1samp(found.tau[0, :, at], 0).confidence_interval(0.95)
        assert table.loc["ce", [f"{name}_low", f"{name}_high"]].tolist() == pytest.approx([ends.low, ends.high])


def test_every_measure_is_compared_over_seeds_and_scenes(tmp_path, monkeypatch):
    """Seeds alike and scenes not: an interval over seeds alone would be far too narrow, for every measure."""
    make_sweep(tmp_path, monkeypatch, losses=("ce", "focal", "lovasz"))
    _, found = compare(tmp_path)
    table = tables.best_by_measure(found).set_index("measure")
    assert table.loc["calibration error", "best loss"] == "ce"  # lowest, where lovasz is highest
    assert table.loc["calibration error", "difference"] < 0
    for name, measure in (("IoU per scene", "scene_iou"), ("calibration error", "ece"), ("Brier score", "brier")):
        row, values = table.loc[name], found.wins[measure].values
        gaps = values[found.labels.index(row["best loss"])] - values[found.labels.index(row["next"])]
        assert row["difference"] == pytest.approx(gaps.mean())
        over_seeds = ttest_1samp(gaps, 0).confidence_interval(0.95)
        win, pair = found.wins[measure], (found.labels.index(row["best loss"]), found.labels.index(row["next"]))
        assert (row["low"], row["high"]) == (win.difference.low[pair], win.difference.high[pair])
        assert row["high"] - row["low"] > 1.1 * (over_seeds.high - over_seeds.low), name
        assert win.better[pair] > 0.5


def test_shares_are_means_over_all_seeds_of_each_seed_s_share(tmp_path, monkeypatch):
    make_sweep(tmp_path, monkeypatch, losses=("ce", "ce_dice"), seeds=(2, 3))
    records = {}
    for loss in ("ce", "ce_dice"):  # seed 1 stopped early
        folder = tmp_path / f"loss={loss},seed=1"
        records[folder] = make_records(BINARY, loss, 1, steps=(100, 150, 200))  # the others never were at 150
        write_run(folder, BINARY, loss, 1, records[folder])
    for seed, scale in ((2, 1), (3, 100)):  # a seed of large gradients counts as the others do
        folder = tmp_path / f"loss=ce_dice,seed={seed}"
        known = make_records(BINARY, "ce_dice", seed)
        norms = scale * np.array([[3.0, 1.0], [1.0, 1.0], [1.0, 3.0], [1.0, 1.0]][:: 1 if seed == 2 else -1])
        gain = np.full((4, 2), float(seed)) if seed == 2 else None
        records[folder] = dataclasses.replace(known, gradient={"logits": (norms, known.gradient["logits"][1])}, gain=gain)
    first = records[tmp_path / "loss=ce_dice,seed=1"]
    records[tmp_path / "loss=ce_dice,seed=1"] = dataclasses.replace(
        first, gradient={"logits": (np.array([[1.0, 3.0], [9.0, 0.0], [1.0, 1.0]]), first.gradient["logits"][1])}
    )
    for seed in (2, 3):
        records[tmp_path / f"loss=ce,seed={seed}"] = make_records(BINARY, "ce", seed)
    monkeypatch.setattr("rsseg.compare.runs.load_records", lambda folder, head: records[folder])
    _, found = compare(tmp_path)
    assert found.gradients.shares[["loss", "place"]].drop_duplicates().to_numpy().tolist() == [["ce_dice", "logits"]]
    shares = found.gradients.shares.pivot(index="step", columns="term", values="share")
    assert (shares.columns.tolist(), shares.index.tolist()) == (["ce", "dice"], [100, 200])
    assert shares["ce"].tolist() == pytest.approx([(0.25 + 0.75 + 0.5) / 3, (0.5 + 0.5 + 0.25) / 3])
    assert any(note.startswith("ce_dice: its seeds share 2 of 4 validations") for note in found.gradients.notes)
    assert "ce_dice: one-step gains were recorded for 1 of 3 seeds." in found.gradients.notes
    assert found.gradients.gains.to_numpy().tolist() == [["ce_dice", s, term, 2] for s in (100, 200) for term in ("ce", "dice")]


def test_a_seed_without_a_value_is_counted_and_named(tmp_path, monkeypatch):
    make_sweep(tmp_path, monkeypatch, losses=("ce", "dice"), seeds=(1, 2, 3))
    curve = tmp_path / "loss=ce,seed=2" / "metrics.csv"
    rows = pd.read_csv(curve)
    rows["val/loss"] = [0.5, *[np.nan] * 3]
    rows.to_csv(curve, index=False)
    _, found = compare(tmp_path)
    assert "ce: tau over the run is not known of seed 2; its mean is over 2 of 3 seeds." in caveats(found)
    table = tables.losses(found)
    assert table.loc[["ce", "dice"], "tau_seeds"].tolist() == [2, 3]
    assert table.loc["ce", "tau_std"] == pytest.approx(found.tau[0, [0, 2], 0].std(ddof=1))


def test_residual_regret_is_from_the_best_on_average():
    tuned = compare_seeds(np.array([[0.4, 0.6], [0.9, 0.0]]))  # 0.5 on average against 0.45, though 0.9 was seen once
    np.testing.assert_allclose(Tuning(tuned.values, tuned, tuned.difference).residual_regret, [[0, 0], [-0.5, 0.6]])


def selected(known, loss):
    """What the checkpoints cost that a loss ``[V, 2]`` picks by half, as IoU on the other half."""
    halves = [known.counts[:, part, 0].sum(1) for part in (known.first, ~known.first)]
    iou = [counts[:, 0] / counts.sum(1) for counts in halves]
    return np.mean([iou[1 - here][iou[here].argmax()] - iou[1 - here][loss[:, here].argmin()] for here in (0, 1)])


def test_selection_is_by_the_loss_that_trained(tmp_path, monkeypatch):
    """The panel says different things, so that another column, or the loss of all scenes, would show."""
    records = make_sweep(tmp_path, monkeypatch, losses=("ce", "dice", "lovasz"), seeds=(1, 2))
    rng = np.random.default_rng(0)
    for folder, known in records.items():
        counts = np.concatenate([rng.integers(1, 90, known.counts.shape[:2])[..., None] for _ in range(3)], axis=2)[:, :, None]
        values = np.array(
            [[[3, 0, 1, 2], [1, 2, 3, 0]], [[0, 3, 2, 1], [2, 3, 1, 0]], [[1, 2, 0, 3], [3, 0, 2, 1]]], dtype=float
        )
        records[folder] = dataclasses.replace(known, counts=counts.astype(float), values=np.moveaxis(values, -1, 0))
    for seed in (1, 2):
        path = tmp_path / f"loss=ce,seed={seed}" / "run.json"
        origin = json.loads(path.read_text())
        path.write_text(json.dumps(origin | {"overrides": [*origin["overrides"], "loss.terms.ce.over=image"]}))
    comparison = gather([tmp_path])
    runs = {run.folder: run for row in comparison.runs for run in row}
    for folder, known in records.items():
        own = own_loss(runs[folder])
        if not folder.name.startswith("loss=dice"):  # not as it was trained, not in the panel
            assert own is None
            assert np.isnan(selection(runs[folder], SCORED["iou"]))
        else:
            column = known.values[:, known.panel.index(runs[folder].loss)]
            assert own.tolist() == column.tolist()
            assert selection(runs[folder], SCORED["iou"]) == pytest.approx(selected(known, column))
    other = np.array([[2.0, 1.0], [3.0, 0.0], [0.0, 2.0], [1.0, 3.0]])
    run = runs[path.parent]
    run = changed(run, records=dataclasses.replace(run.records, own=other))
    assert selection(run, SCORED["iou"]) == pytest.approx(selected(run.records, other))
    silent = changed(run, records=dataclasses.replace(run.records, own=other * np.nan))
    assert own_loss(silent) is None
    first, second = unselected(comparison, np.array([[0.1, np.nan], [0.1, np.nan], [np.nan, np.nan]]))  # ce, dice, lovasz
    assert "not of ce, lovasz: their loss is not a function of sums" in first
    assert "not of dice: a half of the scenes has no loss" in second
    assert unselected(comparison, np.zeros((3, 2))) == []


def test_a_class_in_one_half_alone_is_not_tuned_and_named(tmp_path, monkeypatch):
    records = make_sweep(tmp_path, monkeypatch, losses=("ce", "dice"), seeds=(1, 2))
    for folder, known in records.items():  # positives in the first half alone
        counts, shot = known.counts.copy(), make_snapshot(BINARY, "ce", 1)
        counts[:, ~known.first, :, 0], counts[:, ~known.first, :, 2] = 0, 0
        shot["histogram"][~known.first, :, 1] = 0
        best = checkpoint_of(shot | {"boundary": counts[-1]}, BINARY, known.first)
        records[folder] = dataclasses.replace(known, counts=counts, best=best)
    _, found = compare(tmp_path)
    assert found.tuning is None
    notes = "\n".join(caveats(found))
    assert "Tuned thresholds are not compared: tuning on one half of the scenes and scoring on the other needs 1 class" in notes
    assert "Class building occurs in one half of the validation scenes alone: its threshold" in notes


def test_classes_in_few_scenes_are_named(tmp_path, monkeypatch):
    counts = np.ones((1, 1, 30, 3, 3))
    counts[:, :, 2:, 1] = 0
    counts[:, :, 1:, 2] = 0
    task = Multiclass(("land", "road", "dam"))
    (note,) = rare(task, counts)
    assert note.startswith(
        "Classes in few of 30 validation scenes: road in 2, dam in 1. Intervals are wide for that; no score "
    )
    assert "no score that counts dam has an interval" in note
    counts[:, :, :10, 1] = 1e-3
    counts[:, :, 0, 1] = 1
    assert "road in 10 (as good as 1.0 of equal size), dam in 1" in rare(task, counts)[0]
    assert rare(Multiclass(("land",)), counts[:, :, :, :1]) == []
    make_sweep(tmp_path, monkeypatch, FOUR, losses=("ce",), seeds=(1, 2), scenes=3)
    assert any(note.startswith("Only 3 validation scenes: intervals are wide") for note in caveats(compare(tmp_path)[1]))
