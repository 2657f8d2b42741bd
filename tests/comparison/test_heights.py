"""Losses of a regression, compared by their errors: made-up runs with known errors, and a small real sweep."""

import json

import numpy as np
import pandas as pd
import pytest
import rasterio
from run_folders import (
    BINARY,
    HEIGHT,
    changed,
    counted_records,
    height_sums,
    heights,
    made_findings,
    make_records,
    make_sweep,
    steady,
    write_run,
)
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score
from test_regression import dem_root, of_heights  # noqa: F401
from test_run import settings
from tiny import map_scene

from rsseg.answer import compare as compare_runs
from rsseg.comparison.findings import Findings, selection_regret
from rsseg.comparison.intervals import estimate
from rsseg.comparison.measures import measures
from rsseg.comparison.records import load_records
from rsseg.comparison.selection import gather, pick_rates
from rsseg.comparison.words import answer
from rsseg.contract import InputError
from rsseg.metrics import metrics
from rsseg.run import train

LOSSES = ("mse", "huber", "mae")
MEASURES = measures(HEIGHT)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What was found of a sweep of three losses and five seeds."""
    root = tmp_path_factory.mktemp("heights")
    with pytest.MonkeyPatch.context() as patch:
        make_sweep(root, patch, HEIGHT, LOSSES)
        return Findings(gather([root]))


def test_scores_are_those_of_scikit_learn(found):
    for i, j in np.ndindex(3, 5):
        scenes = [heights(found.labels[i], found.seeds[j], s) for s in range(6)]
        predicted, truth = (np.concatenate(part) for part in zip(*scenes, strict=True))
        expected = {
            "rmse": mean_squared_error(truth, predicted) ** 0.5,
            "mae": mean_absolute_error(truth, predicted),
            "r2": r2_score(truth, predicted),
            "absolute_bias": abs(np.mean(predicted - truth)),
            "scene_rmse": np.mean([mean_squared_error(t, p) ** 0.5 for p, t in scenes]),
        }
        assert {name: known.values[i, j] for name, known in found.estimates.items()} == pytest.approx(expected)


def test_the_loss_with_the_lowest_error_is_the_best(found):
    assert found.metric == "rmse"
    assert [found.labels[i] for i in found.order] == ["mse", "huber", "mae"]
    rmse, best, last = found.ranked, found.labels.index("mse"), found.labels.index("mae")
    assert rmse.difference.value[best, last] < 0 < rmse.lead().value[best, last]
    interval = rmse.difference.interval(losses=3)
    assert rmse.lead().at(best, last)[1:] == (-interval.high[best, last], -interval.low[best, last])
    assert rmse.behind == [found.labels.index("huber"), last]
    assert found.estimates["r2"].behind == rmse.behind
    assert found.chances.best[best] > 0.95
    assert answer(found)[0] == "Train with mse. It is surely better than every other loss."
    assert found.tuned is None
    assert np.isnan(found.residual).all()
    assert not found.collapsed.any()
    assert found.selection_regret == pytest.approx(np.zeros((3, 5)))  # the validation loss chooses as the metric does


def test_optimism_is_a_lower_error():
    known = made_findings(height_sums(steady([1.0, 2.0]))[..., None, :], task=HEIGHT, labels=("mse", "mae"))
    for run in known.comparison.all_runs:
        run.records.counts[:] = height_sums(np.full((2, 8), 0.9))[:, :, None]
    again = Findings(known.comparison)
    assert again.optimism == pytest.approx(again.ranked.values - 0.9)


def drawn_sums(rng, seeds, scenes, deviations=(1.0, 1.1)):
    """Error sums ``[L, R, S, 1, 6]`` of two losses: random seeds, and scenes of different size and difficulty."""
    size, hard = 1000 * rng.lognormal(0, 0.7, scenes), rng.lognormal(0, 0.5, scenes)
    deviation = np.array(deviations)[:, None, None] * hard * rng.lognormal(0, 0.05, (2, seeds, 1))
    deviation = deviation * rng.lognormal(0, 0.05, (2, seeds, scenes))
    number = np.broadcast_to(size, deviation.shape)
    parts = [number, 0 * number, 0.8 * number * deviation, number * deviation**2, number * 4, number * 24]
    return np.stack(parts, axis=-1)[:, :, :, None]


@pytest.mark.parametrize("name", ["rmse", "mae", "r2"])
def test_intervals_cover_the_truth_as_often_as_they_claim(name):
    rng, measure = np.random.default_rng(0), MEASURES[name]
    whole = [measure.average(drawn_sums(rng, 200, 3000).sum(2)).mean(1) for _ in range(3)]
    truth, covered, rounds = np.mean([np.subtract(*scores) for scores in whole]), 0, 300
    for number in range(rounds):
        interval = estimate(drawn_sums(rng, 5, 30), measure, draws=300, seed=number).difference.interval(losses=2)
        covered += interval.low[0, 1] <= truth <= interval.high[0, 1]
    assert 0.91 <= covered / rounds <= 0.99  # 0.95, and three standard errors of 300 rounds


def test_intervals_keep_to_where_errors_lie():
    """Two seeds that differ much: with one degree of freedom t is 12.7."""
    sums = np.ones((1, 2, 6, 1, 6)) * [10, 5, 10, 10, 40, 240]
    sums[:, 1] *= [1, 4, 4, 30, 1, 1]
    rmse, r2 = (estimate(sums, MEASURES[name], draws=300).score for name in ("rmse", "r2"))
    assert rmse.low[0] == 0
    assert rmse.high[0] > 10
    assert r2.value[0] == pytest.approx(1 - 15.5 / 8)  # worse than the mean
    assert r2.low[0] < -1
    assert r2.high[0] == 1


def test_learning_rates_are_chosen_by_the_lowest_error(tmp_path, monkeypatch):
    make_sweep(tmp_path, monkeypatch, HEIGHT, ("mse",), seeds=(1,))
    (run,) = gather([tmp_path]).all_runs
    runs = []
    for rate, rmse in ((0.1, 3.0), (0.01, 1.0), (0.001, 2.0)):
        records = counted_records(height_sums(np.full(6, rmse))[:, None], task=HEIGHT)
        runs.append(changed(run, records=records, rate=rate))
    assert pick_rates(runs, "rmse") == {"mse": (0.01, [0.001, 0.01, 0.1])}


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (
            "iou",
            r"metric=iou: losses can't be ranked by it: .*take rmse, mae, r2, absolute_bias, scene_rmse or rmse/height",
        ),
        ("bias", r"metric=bias: losses can't be ranked by it"),
    ],
)
def test_what_a_regression_is_not_ranked_by(found, metric, message):
    with pytest.raises(InputError, match=message):
        Findings(found.comparison, metric)
    assert Findings(found.comparison, "rmse/height").estimates["rmse/height"].values.shape == (3, 5)


def test_labels_and_real_values_are_not_compared(tmp_path, monkeypatch):
    kept = make_sweep(tmp_path, monkeypatch, HEIGHT, ("mse", "mae"), seeds=(1, 2))
    for seed in (1, 2, 3):
        folder = tmp_path / f"loss=ce,seed={seed}"
        kept[folder] = make_records(BINARY, "ce", seed)
        write_run(folder, BINARY, "ce", seed, kept[folder])
    with pytest.raises(InputError, match=r"task +regression +4\n +binary +3: "):
        gather([tmp_path])
    with pytest.raises(InputError, match="metric=rmse: losses can't be ranked by it"):
        Findings(gather([tmp_path / f"loss=ce,seed={seed}" for seed in (1, 2)]), "rmse")


def test_a_checkpoint_is_chosen_by_the_loss_of_a_half():
    """RMSE of the first half 3, 1, 2, of the second 1, 2, 3; the loss prefers 2 in the first, 1 in the second."""
    sums = np.zeros((3, 2, 1, 6))
    sums[..., 0], sums[:, 0, 0, 3], sums[:, 1, 0, 3] = 1, [9, 1, 4], [1, 4, 9]
    losses = np.array([[3, 1], [2, 2], [1, 3]])
    found = selection_regret(losses, sums, np.array([True, False]), metrics(HEIGHT)["rmse"].quality)
    assert found == pytest.approx(((3 - 2) + (3 - 3)) / 2)


@pytest.mark.parametrize("loss", ["mse", "rmse", "mae"])
def test_the_training_loss_is_recorded_by_half_of_the_scenes(tmp_path, dem_root, loss):  # noqa: F811
    """Of standardised values, so that it is an error divided by the deviation of the training split."""
    run = tmp_path / "run"
    train(settings(tmp_path, *of_heights(dem_root), f"loss={loss}", "steps=4", "validations=2", "pictures=0"), run)
    records, std = load_records(run), json.loads((run / "data.json").read_text())["value_std"][0]
    for half, part in enumerate((records.first, ~records.first)):
        number, _, absolute, squares = records.counts[:, part, 0].sum(1).T[:4]
        expected = {"mse": squares / number / std**2, "rmse": np.sqrt(squares / number) / std, "mae": absolute / number / std}
        assert records.own[:, half] == pytest.approx(expected[loss], rel=1e-5)


@pytest.mark.slow
def test_a_real_sweep(tmp_path, dem_root):  # noqa: F811
    """The errors of one run are counted again, by scikit-learn, from the maps of its scenes."""
    for loss in ("mse", "mae"):
        words = of_heights(dem_root, f"loss={loss}", "seed=1", "steps=8", "validations=2", "pictures=2")
        train(settings(tmp_path, *words, "optimizer.lr=0.01", "record.gain=true"), tmp_path / loss, words, loss)
    out = compare_runs([tmp_path]).folder
    assert out == tmp_path / "comparison"
    assert {"report.html", "examples.png"} <= {path.name for path in out.iterdir()}
    assert "The column of a loss shows prediction minus target." in (out / "report.html").read_text()
    table = pd.read_csv(out / "runs.csv", index_col=["loss", "seed"])
    run = tmp_path / "mae"
    assert not (run / "threshold.json").exists()
    predicted, truth = [], []
    for scene in json.loads((run / "data.json").read_text())["scenes"]["val"]:
        made = map_scene(run, dem_root / "images" / f"{scene}.tif", tmp_path / "map.tif", blend="none", overwrite=True)
        with rasterio.open(made) as values, rasterio.open(dem_root / "masks" / f"{scene}.tif") as mask:
            known = mask.read(1) != -9999
            predicted.append(values.read(1)[known])
            truth.append(mask.read(1)[known])
    predicted, truth = np.concatenate(predicted), np.concatenate(truth)
    assert table.loc[("mae", 1), "rmse"] == pytest.approx(mean_squared_error(truth, predicted) ** 0.5, rel=1e-4)
    assert table.loc[("mae", 1), "r2"] == pytest.approx(r2_score(truth, predicted), rel=1e-3)
    assert pd.read_csv(out / "classes.csv").loc[0, "pixels"] == len(truth)
