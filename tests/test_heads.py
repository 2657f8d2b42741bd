"""Heads with targets, losses and weights of their own: what is learnt, scored, written and compared, on tiny data."""

import csv
import json

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import torch
from test_run import SPLIT, settings
from tiny import checker, coloured, compose, map_scene, write_tif

from rsseg.answer import compare
from rsseg.assembly import make_module, make_setup
from rsseg.comparison.question import Question
from rsseg.comparison.records import load_records
from rsseg.comparison.runs import Run
from rsseg.config.cli import check_early
from rsseg.contract import InputError, layers_of
from rsseg.dataset import TargetStatistics, TrainStatistics
from rsseg.evaluation.options import EvaluationOptions
from rsseg.evaluation.scores import evaluate, evaluate_map
from rsseg.run import train

TARGETS = {
    "cover": "{task: multiclass, classes: [land, road, water], mask: 'masks/{name}.tif'}",
    "height": "{task: regression, classes: [height], units: [m], mask: 'heights/{name}.tif'}",
}
HEADS = ["+loss@model.heads.cover.loss=ce_dice", "+loss@model.heads.height.loss=huber"]
NUMBERS = TrainStatistics(
    [0.0] * 3, [1.0] * 3, {"cover": TargetStatistics([1] * 3, [3] * 3), "height": TargetStatistics([1], [1], [10.0], [2.0])}
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Six scenes whose brightness shows cover and height; two of them, one to train and one to validate, have no heights."""
    root, rng = tmp_path_factory.mktemp("both"), np.random.default_rng(0)
    for i in range(6):
        mask = checker(rng, 64, 3)
        image = coloured(rng, mask)
        image[2] = 100 + 2 * np.arange(64)[:, None] % 128
        write_tif(root / "images" / f"tile{i}.tif", image)
        write_tif(root / "masks" / f"tile{i}.tif", mask[None])
        if i not in (1, 5):
            write_tif(root / "heights" / f"tile{i}.tif", (image[2:] / 10).astype(np.float32))
    return root


def words(root, *more):
    targets = "{" + ", ".join(f"{name}: {node}" for name, node in TARGETS.items()) + "}"
    data = ["dataset=geotiff", f"dataset.source.root={root}", SPLIT, "dataset.bands=[1,2,3]", f"dataset.targets={targets}"]
    return [*data, *HEADS, *more]


def faults(tmp_path, *more):
    with pytest.raises(InputError) as error:
        make_setup(settings(tmp_path, *words(tmp_path, *more)))
    return str(error.value)


@pytest.mark.slow
def test_a_run_of_two_heads_is_scored_mapped_recorded_and_compared(tmp_path, root):
    runs = [tmp_path / name for name in ("one", "two")]
    for seed, run in enumerate(runs):
        score = train(settings(tmp_path, *words(root, f"seed={seed}", "pictures=1", "validations=2")), run)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["iou"] == pytest.approx(score)
    assert summary["heads"]["height"]["rmse"] > 0
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    last = {key: float(value) for key, value in rows[-1].items() if value and key.startswith("val/")}
    assert last["val/loss"] == pytest.approx(last["val/cover/loss"] + last["val/height/loss"])
    names = {path.name for path in run.iterdir()}
    assert {"picture.png", "picture-height.png", "confusion.png", "curves.png", "curves-height.png"} <= names
    table = [row for row in csv.DictReader((run / "classes.csv").open()) if not row["average"]]
    assert [row["class"] for row in table if row["head"] == "cover"] == ["land", "road", "water"]
    (height,) = (row for row in table if row["head"] == "height")
    assert float(height["rmse"]) == pytest.approx(summary["heads"]["height"]["rmse"])
    found = evaluate(run, EvaluationOptions(threshold="tuned"))
    assert set(found) == {"cover", "height"}
    assert found["height"]["rmse"] == pytest.approx(summary["heads"]["height"]["rmse"], rel=1e-5)  # it has no threshold
    with rasterio.open(map_scene(run, root / "images" / "tile0.tif", tmp_path / "h.tif", head="height")) as file:
        assert (file.dtypes, file.descriptions) == (("float32",), ("height",))
    with rasterio.open(map_scene(run, root / "images" / "tile0.tif", tmp_path / "c.tif")) as file:
        assert set(np.unique(file.read())) <= {0, 1, 2}
    with pytest.raises(InputError, match=r"head=heigt \(did you mean 'height'\?\)"):
        map_scene(run, root / "images" / "tile0.tif", tmp_path / "x.tif", head="heigt")
    for wrong, named in (({"threshold": "tuned"}, "threshold=tuned"), ({"polygons": True}, "polygons=true")):
        with pytest.raises(InputError, match=f"^{named} is for maps of labels, which head height does not write: leave it out"):
            map_scene(run, root / "images" / "tile0.tif", tmp_path / "x.tif", head="height", **wrong)
    with pytest.raises(InputError, match="head=nope: the run has cover, height"):
        evaluate(run, EvaluationOptions("test", head="nope"))
    with pytest.raises(
        InputError, match=r"h\.tif: it holds the value .*; head cover has labels, 0 to 2: name the map's head by"
    ):
        evaluate_map(run, tmp_path / "h.tif", EvaluationOptions(mask=root / "masks" / "tile0.tif"))
    assert load_records(run, "height").task.real
    assert not load_records(run, "cover").task.real
    assert Run(run, "height").summary["rmse"] == summary["heads"]["height"]["rmse"]
    out = compare(runs, Question(head="height"), tmp_path / "comparison").folder
    assert "RMSE" in (out / "report.html").read_text()
    with pytest.raises(InputError, match="it has no head sky; compare it by cover or height"):
        compare(runs, Question(head="sky"))


def test_the_loss_is_the_weighted_sum_and_a_target_that_is_not_there_teaches_nothing(tmp_path):
    """Closed form of the sum; the height head has no gradient where no height is known."""
    setup = make_setup(settings(tmp_path, *words(tmp_path, "+model.heads.height.weight=0.25")))
    module = make_module(setup, setup.network(), NUMBERS, 2)
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.normal(size=(2, 3, 64, 64)).astype(np.float32))
    cover = torch.from_numpy(rng.integers(0, 3, (2, 64, 64)).astype(np.uint8))
    height = torch.from_numpy(rng.normal(10, 2, (2, 1, 64, 64)).astype(np.float32))
    batch = {"image": image, "cover": cover, "height": height, "scene": torch.arange(2), "k": torch.arange(2)}
    assert module.standardised(layers_of(batch))["height"] == pytest.approx((height - 10) / 2)
    logits = {name: value.detach().requires_grad_() for name, value in module(image).items()}
    total, values = module._loss(logits, batch | module.standardised(layers_of(batch)))
    expected = torch.nn.functional.huber_loss(logits["height"], (height - 10) / 2)
    assert float(values["train/height/loss/huber"]) == pytest.approx(float(expected), rel=1e-5)
    cover_loss = float(values["train/cover/loss/ce.weighted"] + values["train/cover/loss/dice.weighted"])
    assert float(total) == pytest.approx(cover_loss + 0.25 * float(expected), rel=1e-6)
    total, values = module._loss(logits, batch | {"height": torch.full_like(height, torch.nan)})
    total.backward()
    assert float(total) == pytest.approx(cover_loss, rel=1e-6)
    assert not logits["height"].grad.any()
    assert logits["cover"].grad.any()


def test_heads_of_one_target_share_it_and_each_is_standardised_once(tmp_path):
    more = ["+loss@model.heads.robust.loss=mae", "+model.heads.robust.target=height"]
    setup = make_setup(settings(tmp_path, *words(tmp_path, *more)))
    assert {head: task.target for head, task in setup.tasks.items()} == {
        "cover": "cover",
        "height": "height",
        "robust": "height",
    }
    module = make_module(setup, setup.network(), NUMBERS, 1)
    layers = module.standardised({"height": torch.full((1, 1, 2, 2), 14.0), "cover": torch.zeros(1, 2, 2)})
    assert (layers["height"] == 2).all()


def test_lines_of_one_of_several_targets_are_widened(tmp_path, root):
    """All scenes lie on one place, 0.5 m a pixel: a line across them that is widened by 2 m to each side covers 8 rows."""
    line = shapely.LineString([(499990, 3999984), (500040, 3999984)])
    geopandas.GeoDataFrame(geometry=[line], crs="EPSG:32633").to_file(tmp_path / "road.gpkg")
    for name in ("images", "masks", "heights"):
        (tmp_path / name).symlink_to(root / name)
    road = ["+dataset.targets.road={task: binary, classes: [road], mask: road.gpkg, buffer: 2}"]
    more = ["+loss@model.heads.road.loss=bce", "pictures=0", "record.enabled=false", "steps=2"]
    train(settings(tmp_path, *words(tmp_path, *road, *more)), tmp_path / "run")
    found = json.loads((tmp_path / "run" / "data.json").read_text())["targets"]["road"]
    assert found["positives"][0] * 64 == found["valid"][0] * 8


def test_scenes_without_a_target_are_not_scored_by_it(tmp_path, root, caplog):
    run, misspelt = tmp_path / "run", "dataset.unlabelled={tile0: [road], tiel1: [road]}"
    train(settings(tmp_path, *words(root, "pictures=0", "record.enabled=false", "steps=2", misspelt)), run)
    assert "dataset.unlabelled.tiel1 fits no training or validation scene (did you mean 'tile1'?)." in caplog.text
    assert "dataset.unlabelled.tile0" not in caplog.text
    found = evaluate(run)
    rows = list(csv.DictReader((run / "evaluation-val-scenes.csv").open()))
    scored = {row["scene"]: row["rmse"] for row in rows if row["head"] == "height"}
    lacking = {name for name in scored if not (root / "heights" / f"{name}.tif").is_file()}
    assert lacking, "the split has such a scene"
    assert all((scored[name] == "nan") == (name in lacking) for name in scored)
    assert np.isfinite(found["height"]["rmse"])


def test_mistakes_are_told_together_before_training(tmp_path):
    told = faults(
        tmp_path,
        "+model.heads.water.target=watr",
        "+loss@model.heads.water.loss=mse",
        "+model.heads.cover.weight=-1",
        "model.heads.height.loss={terms:{dice:{_target_:rsseg.losses.Dice}}}",
        "dataset.unlabelled={tile0:[raod]}",
        "dataset.targets.height.range=[5,1]",
    )
    for part in (
        r"model.heads.water.target=watr: the targets are cover, height",
        r"model.heads.cover.weight=-1: a number of 0 or more is expected",
        r"dataset.unlabelled.tile0: there is no class raod",
        r"dataset.targets.height.range=[5, 1]: the lowest and the highest value",
    ):
        assert part in told, told


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["~model.heads.cover", "~model.heads.height"], "model.heads names no head with a weight above 0"),
        (["+model.heads.cover.weight=0", "+model.heads.height.weight=0"], "names no head with a weight above 0"),
        (["model.heads.height.loss.terms={dice:{_target_:rsseg.losses.Dice}}"], "Dice fits the tasks"),
        (["dataset.classes=[a,b]"], "a dataset has one form or the other"),
        (["+dataset.targets.image={task: binary, classes: [a], mask: x}"], "dataset.targets.image: a target is called by"),
        (["dataset.targets.cover.classes=[a,a]"], "dataset.targets.cover.classes=['a', 'a'] names a class twice"),
        (["dataset.targets.cover.classes=[a,false]"], "dataset.targets.cover.classes holds False: YAML takes yes, no"),
    ],
)
def test_one_mistake_in_one_line(tmp_path, more, message):
    told = faults(tmp_path, *more)
    assert message in told
    assert "\n" not in told


def test_a_head_of_several_targets_learns_that_of_its_name_or_none(tmp_path):
    told = faults(tmp_path, "+loss@model.heads.heihgt.loss=huber")
    assert "model.heads.heihgt.target=heihgt (did you mean 'height'?): the targets are cover, height" in told


def test_several_targets_pass_the_check_before_anything_is_imported(tmp_path, root):
    check_early(settings(tmp_path, *words(root)))
    with pytest.raises(InputError, match=r"dataset\.classes is not set"):
        check_early(settings(tmp_path, "dataset=geotiff", f"dataset.source.root={root}"))


def test_a_source_of_one_target_says_so(tmp_path):
    config = compose(["dataset=torchgeo", "dataset.name=LoveDA", "+dataset.targets.a={task: binary, classes: [a]}", "loss=bce"])
    with pytest.raises(InputError, match=r"TorchGeo has one target"):
        make_setup(config).source()
