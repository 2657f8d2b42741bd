"""A regression from its files to scores, a map and pictures, on tiny data."""

import csv
import json

import numpy as np
import pytest
import rasterio
import torch
from test_run import SPLIT, settings
from tiny import map_scene, write_tif

from rsseg.assembly import make_setup
from rsseg.contract import InputError
from rsseg.describe.report import describe
from rsseg.evaluation.options import EvaluationOptions
from rsseg.evaluation.scores import evaluate
from rsseg.run import train

LOSSES = ("mse", "rmse", "mae", "huber", "smooth_l1", "log_cosh", "ber_hu", "pinball")


@pytest.fixture(scope="module")
def dem_root(tmp_path_factory):
    """Six scenes whose first band shows their height, from 100 to 140 m, and no-data in a corner."""
    root, rng = tmp_path_factory.mktemp("dem"), np.random.default_rng(0)
    for i in range(6):
        height = 120 + 20 * np.sin(np.arange(64) / (5 + i))[:, None] * np.cos(np.arange(64) / 9)[None]
        image = np.stack([height + 100, rng.integers(0, 255, height.shape), 255 - height]).astype(np.uint8)
        height[:5, :5] = -9999
        write_tif(root / "images" / f"tile{i}.tif", image)
        write_tif(root / "masks" / f"tile{i}.tif", height[None].astype(np.float32), nodata=-9999)
    return root


def of_heights(root, *more):
    facts = ["dataset.task=regression", "dataset.classes=[height]", "dataset.units=[m]", "dataset.ignore_values=null"]
    return ["dataset=folder", f"dataset.source.root={root}", SPLIT, *facts, *more]


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_of_real_values_has_a_gradient_in_the_whole_setup(tmp_path, dem_root, loss):
    setup = make_setup(settings(tmp_path, *of_heights(dem_root), f"loss={loss}"))
    logits = torch.ones(1, 1, 4, 4, requires_grad=True)
    setup.losses(None)["mask"](logits, torch.zeros(1, 1, 4, 4)).total.backward()
    assert logits.grad.all()


@pytest.mark.parametrize("loss", ["rmse", "pinball"])
def test_losses_of_real_values_train(tmp_path, dem_root, loss):
    score = train(settings(tmp_path, *of_heights(dem_root), f"loss={loss}", "pictures=0"), tmp_path / "run")
    assert -60 < score < 0  # RMSE in metres, with a minus
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    assert float(rows[-1]["val/rmse"]) == pytest.approx(-score)


@pytest.mark.slow
def test_a_run_learns_is_scored_mapped_drawn_and_resumed(tmp_path, dem_root):
    run = tmp_path / "run"
    more = ["loss=mse", "steps=40", "optimizer.lr=0.01", "validations=2", "pictures=1"]
    score = train(settings(tmp_path, *of_heights(dem_root), *more), run)
    assert -score < 12  # the deviation of heights is about 10 m, but the mean of the windows is not known
    summary = json.loads((run / "summary.json").read_text())
    assert summary["rmse"] == pytest.approx(-score)
    assert {"picture.png", "curves.png"} <= {path.name for path in run.iterdir()}
    rows = list(csv.DictReader((run / "classes.csv").open()))
    assert float(rows[0]["rmse"]) == pytest.approx(-score)
    found = evaluate(run)["mask"]
    assert found["rmse"] == pytest.approx(-score, rel=1e-5)
    out = map_scene(run, dem_root / "images" / "tile0.tif", tmp_path / "map.tif")
    with rasterio.open(out) as file, rasterio.open(dem_root / "masks" / "tile0.tif") as truth:
        values = file.read(1)
        assert (file.dtypes, file.units, file.descriptions) == (("float32",), ("m",), ("height",))
        assert np.isnan(file.nodata)
        known = truth.read(1) != -9999
        assert np.sqrt(np.mean((values - truth.read(1))[known] ** 2)) < 20
    assert train(settings(tmp_path, *of_heights(dem_root), *more, f"resume={run}"), run) == pytest.approx(score)
    with pytest.raises(InputError, match="holds real values"):
        evaluate(run, EvaluationOptions(threshold="tuned"))


def test_the_first_loss_is_that_of_standardised_values(tmp_path, dem_root):
    """An untrained network predicts about the mean, so that MSE is near 1 whatever the unit."""
    run = tmp_path / "run"
    train(settings(tmp_path, *of_heights(dem_root), "loss=mse", "steps=1", "optimizer.lr=0", "pictures=0"), run)
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert 0.3 < float(rows[-1]["val/loss/mse"]) < 4
    data = json.loads((run / "data.json").read_text())
    assert data["value_mean"][0] == pytest.approx(120, abs=8)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["loss=ce"], "CrossEntropy fits the tasks .* such as huber, mse or mae"),
        (["loss=mse", "dataset.units=[m,m]"], "dataset.units lists 2 units, but dataset.classes names 1 values"),
        (["loss=mse", "dataset.fractions=100"], "a target of task=regression holds no class shares"),
        (["loss=huber", "+loss.terms.huber.nodata=-9999"], "loss.terms.huber.nodata=-9999: a run standardises values"),
        (["loss=mse", "dataset.range=[0,110]"], r"\.tif: the mask holds 1\d\d, .* dataset.range=\[0, 110\] are expected"),
    ],
)
def test_what_is_refused_in_one_line(tmp_path, dem_root, words, message):
    with pytest.raises(InputError, match=message):
        train(settings(tmp_path, *of_heights(dem_root), *words), tmp_path / "run")


def test_values_are_described(tmp_path, dem_root):
    out = describe(settings(tmp_path, *of_heights(dem_root), "loss=mse"), tmp_path / "description")
    facts = json.loads((out / "description.json").read_text())["splits"]["train"]["values"]["height"]
    assert facts["min"] >= 100
    assert facts["max"] <= 140
    assert (out / "description.png").is_file()


def test_a_plateau_of_the_error_lowers_the_rate(tmp_path, dem_root):
    """An unchanged RMSE is no better one."""
    setup = make_setup(settings(tmp_path, *of_heights(dem_root), "loss=mse", "scheduler=plateau", "scheduler.patience=0"))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = setup.scheduler(optimizer)
    rates = []
    for rmse in (3.0, 2.0, 2.0):
        scheduler.step(rmse)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [1.0, 1.0, 0.5]
