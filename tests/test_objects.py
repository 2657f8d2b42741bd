"""Objects from their files to scores, a vector file and pictures, on tiny data."""

import csv
import json

import geopandas
import numpy as np
import pytest
from rasterio.transform import from_origin
from shapely.geometry import box
from test_run import SPLIT, settings
from tiny import map_scene, write_tif

from rsseg.assembly import make_setup
from rsseg.comparison.records import load_records
from rsseg.contract import InputError
from rsseg.describe.report import describe
from rsseg.evaluation.options import EvaluationOptions
from rsseg.evaluation.scores import evaluate
from rsseg.metrics import metrics
from rsseg.run import train


def squares(rng, count, size):
    """Dark scenes with bright squares (top, left, bottom, right in pixels), of 6 pixels and, brighter, of 10."""
    image = rng.normal(40, 4, (3, size, size))
    cells = rng.choice((size // 16) ** 2, count, replace=False)
    rows = []
    for cell in cells:
        side = int(rng.choice([6, 10]))
        top, left = np.array(divmod(int(cell), size // 16)) * 16 + rng.integers(1, 16 - side, 2)
        image[:, top : top + side, left : left + side] += 90 if side == 6 else 170
        rows.append((side, top, left, top + side, left + side))
    return image.clip(0, 255).astype(np.uint8), rows


@pytest.fixture(scope="module")
def squares_root(tmp_path_factory):
    """Six scenes of 96 pixels, and one GeoPackage of all squares, in another CRS than theirs."""
    root, rng, found = tmp_path_factory.mktemp("squares"), np.random.default_rng(0), []
    for i in range(6):
        place = from_origin(500_000 + 100 * i, 4_000_000, 0.5, 0.5)
        image, rows = squares(rng, 14, 96)
        write_tif(root / "images" / f"tile{i}.tif", image, transform=place)
        for side, top, left, bottom, right in rows:
            corners = place * (left, bottom), place * (right, top)
            found.append({"kind": {6: "small", 10: "large"}[side], "geometry": box(*corners[0], *corners[1])})
    frame = geopandas.GeoDataFrame(found, crs="EPSG:32633").to_crs("EPSG:3857")
    frame.to_file(root / "squares.gpkg")
    frame.assign(geometry=frame.geometry.centroid).to_file(root / "points.gpkg")
    return root


def of_squares(root, *more):
    where = [f"dataset.source.root={root}", "dataset.source.mask=squares.gpkg", "dataset.source.attribute=kind"]
    facts = ["dataset.task=centres", "dataset.classes=[small,large]", "dataset.source.values={small: 1, large: 2}"]
    return ["dataset=geotiff", *where, *facts, SPLIT, "dataset.ignore_values=null", "loss=centres", *more]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, squares_root):
    """A run that has learnt the squares, more or less."""
    run = tmp_path_factory.mktemp("trained") / "run"
    more = ["steps=80", "optimizer.lr=0.01", "validations=2", "pictures=1", "augment=[d4,scale_crop]", "batch_size=4"]
    score = train(settings(run.parent, *of_squares(squares_root, *more)), run)
    return run, score


def test_a_run_learns_and_is_scored(trained):
    run, score = trained
    assert 0.5 < score <= 1
    summary = json.loads((run / "summary.json").read_text())
    assert summary["f1"] == score
    assert 0 < summary["ap50"] <= 1
    rows = list(csv.DictReader((run / "classes.csv").open()))
    assert [row["class"] for row in rows[:2]] == ["small", "large"]
    assert evaluate(run)["mask"].means() == pytest.approx({k: summary[k] for k in evaluate(run)["mask"].means()})
    for name in ("picture.png", "curves.png", "evaluation-val.csv", "evaluation-val-scenes.csv", "evaluation-val-picture.png"):
        assert (run / name).is_file()
    assert not (run / "confusion.png").exists()
    assert not (run / "threshold.json").exists()


def test_records_hold_what_f1_is_made_of(trained):
    run, score = trained
    records = load_records(run)
    assert records.counts.shape[2:] == (2, 3)
    best = records.counts[records.best_index]
    assert float(metrics(records.task)["f1"](best)) == pytest.approx(score)
    assert np.isnan(records.at("contours")).all()
    assert records.own.shape == (2, 2)
    assert np.isfinite(records.own).all()
    assert 0.3 < records.own[-1].mean() / float(list(csv.DictReader((run / "metrics.csv").open()))[-1]["val/loss"]) < 3


def test_objects_of_a_scene_as_a_vector_file(trained, squares_root, tmp_path):
    run, _ = trained
    out = map_scene(run, squares_root / "images" / "tile0.tif", tmp_path / "objects.gpkg")
    found = geopandas.read_file(out)
    assert found.crs.to_epsg() == 32633
    assert set(found.columns) == {"class", "score", "geometry"}
    assert (found["score"].diff().dropna() <= 0).all()
    truth = geopandas.read_file(squares_root / "squares.gpkg").to_crs("EPSG:32633")
    scene = box(500_000, 4_000_000 - 48, 500_048, 4_000_000)
    truth = truth[truth.geometry.centroid.within(scene)]
    near = geopandas.sjoin_nearest(found, truth, max_distance=1.5, distance_col="apart")
    right = (near["class"] == near["kind"]).sum()
    assert right >= 0.6 * len(truth)
    assert len(found) <= 1.5 * len(truth)
    default = map_scene(run, squares_root / "images" / "tile0.tif")
    assert default == run / "maps" / "tile0.gpkg"


def test_windows_of_a_scene_do_not_matter(trained, squares_root, tmp_path):
    """As one window, and as many that overlap: the objects are the same but for what lies at the border of what is seen."""
    run, _ = trained
    scene = squares_root / "images" / "tile1.tif"
    frames = [geopandas.read_file(map_scene(run, scene, tmp_path / f"{side}.gpkg", window=side)) for side in (96, 64)]
    counts = [len(frame) for frame in frames]
    near = geopandas.sjoin_nearest(*frames, max_distance=1.5)
    assert len(near) >= 0.8 * max(counts)
    for frame in frames:  # none twice
        centres = np.stack([frame.geometry.centroid.x, frame.geometry.centroid.y], axis=1)
        apart = np.linalg.norm(centres[:, None] - centres, axis=-1) + 99 * np.eye(len(frame))
        same = frame["class"].to_numpy()[:, None] == frame["class"].to_numpy()
        assert apart[same].min() > 2 * 0.5


def test_points_are_found_as_points(tmp_path, squares_root):
    words = of_squares(squares_root, "dataset.source.mask=points.gpkg", "steps=2", "pictures=1")
    run = tmp_path / "run"
    train(settings(tmp_path, *words), run)
    summary = json.loads((run / "summary.json").read_text())
    assert np.isnan(summary["ap50"] if summary["ap50"] is not None else np.nan)
    assert (run / "picture.png").is_file()
    map_scene(run, squares_root / "images" / "tile0.tif", tmp_path / "points.gpkg")
    assert len(geopandas.read_file(tmp_path / "points.gpkg")) >= 0
    sized = make_setup(settings(tmp_path, *words, "dataset.size=8"))
    unsized = make_setup(settings(tmp_path, *words))
    assert sized.dataset.mask_readers[0].signature != unsized.dataset.mask_readers[0].signature


@pytest.mark.parametrize("mask", ["squares.gpkg", "points.gpkg"])
def test_objects_are_described(tmp_path, squares_root, mask):
    words = of_squares(squares_root, f"dataset.source.mask={mask}")
    out = describe(settings(tmp_path, *words), tmp_path / "description")
    facts = json.loads((out / "description.json").read_text())
    assert sum(own["pixels"] for split in facts["splits"].values() for own in split["classes"].values()) > 50
    if mask == "squares.gpkg":
        assert facts["splits"]["train"]["values"]["height"]["mean"] == pytest.approx(8, abs=1)
        assert facts["objects"]["large"]["pixels"][1] == pytest.approx(100, abs=3)
    assert (out / "description.png").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["loss=ce"], "CrossEntropy fits the tasks .* choose another loss for this head, such as centres"),
        (["dataset.mask_values=[0,1]"], "dataset.mask_values: features of a vector file have classes, counted from 1"),
        (["dataset.fractions=100"], "a target of task=centres holds no class shares"),
        (["dataset.units=[m]"], "are for task=regression; found centres"),
        (["dataset.range=[0,1]"], "a centres task has no range"),
        (["dataset.size=-1"], "dataset.size has to be a number of 1 or more; found -1"),
        (["dataset.palette=['#ff0000']"], "dataset.palette has 1 colours, but 2 are needed"),
        (["augment=paste"], "augment.paste: regions of a class are cut from masks of labels; a centres task has none"),
        (["loss.label_smoothing=0.1"], "label_smoothing and edge_weight need labels; found the task 'centres'"),
        (['dataset.source.mask="images/{name}.*"'], "it is a raster, but task=centres takes a vector file"),
        (["dataset.source.attribute=sort"], "squares.gpkg has no attribute sort"),
        (
            ["dataset.source.values={small: 0, large: 1}"],
            r"\.gpkg: \d+ features have the mask value 0, but classes are numbered from 1: 1 small",
        ),
        (
            ["dataset.task=binary", "dataset.classes=[a]", "dataset.size=3", "loss=ce"],
            "it is the side of points for task=centres",
        ),
    ],
)
def test_what_is_refused_in_one_line(tmp_path, squares_root, words, message):
    with pytest.raises(InputError, match=message):
        train(settings(tmp_path, *of_squares(squares_root, *words)), tmp_path / "run")


def test_other_files_and_thresholds_are_refused(trained, squares_root, tmp_path):
    run, _ = trained
    with pytest.raises(InputError, match=r"map\.tif: \.gpkg is written"):
        map_scene(run, squares_root / "images" / "tile0.tif", tmp_path / "map.tif")
    with pytest.raises(InputError, match="threshold=tuned is for maps of labels, which head mask does not write"):
        map_scene(run, squares_root / "images" / "tile0.tif", tmp_path / "map.gpkg", threshold="tuned")
    with pytest.raises(InputError, match="holds real values"):
        evaluate(run, EvaluationOptions(threshold="tuned"))
