"""Runs scored: as training scores them, as ensembles, on scenes of one's own, and maps by masks."""

import csv
import json
import logging
import shutil
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from rasterio.features import shapes
from rasterio.warp import Resampling, calculate_default_transform, reproject
from scipy.special import expit, softmax
from shapely.geometry import shape
from test_heads import root as heads_root  # noqa: F401  (a fixture)
from test_heads import words as heads_words
from test_run import folder_data, multilabel_root, settings  # noqa: F401
from tiny import map_scene, write_tif

from rsseg.assembly import make_module, make_setup
from rsseg.commands import evaluate as command
from rsseg.comparison.intervals import estimate, sum_groups
from rsseg.comparison.measures import measures, of_tuning
from rsseg.config.folder import RunFolder
from rsseg.contract import InputError
from rsseg.data.windows import Batches, GridWindows
from rsseg.dataset import TrainStatistics
from rsseg.evaluation.counts import ensemble_gain
from rsseg.evaluation.labelled import open_labelled
from rsseg.evaluation.loading import load_trained
from rsseg.evaluation.options import EvaluationOptions
from rsseg.evaluation.scores import evaluate, evaluate_map
from rsseg.inference.ensemble import pooled_logits
from rsseg.metrics import Scores, metrics
from rsseg.run import train
from rsseg.task import Binary, Centres, Multiclass, Multilabel, Regression
from rsseg.training.scoring import feed, load_checkpoint, name_means, print_scores, score, score_rows, scoring_trainer

pytestmark = pytest.mark.usefixtures("no_charts")

THIRDS = "dataset.source.split={train: 0.34, val: 0.33, test: 0.33}"
QUICK = ["pictures=0", "steps=4", "validations=2"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, folder_root):
    """Three runs of three classes that differ in their seeds."""
    folder = tmp_path_factory.mktemp("members")
    for seed in (1, 2, 3):
        train(settings(folder, *folder_data(folder_root), THIRDS, *QUICK, f"seed={seed}"), folder / f"run{seed}")
    return [folder / f"run{seed}" for seed in (1, 2, 3)]


@pytest.mark.parametrize("task", [Binary(("road",)), Multiclass(("land", "road"))])
def test_the_mean_of_one_class_is_no_row_of_its_own(task):
    matrices = np.zeros((3, 1, 2, 2), dtype=np.int64)
    matrices[:2, 0] = [[5, 1], [2, 7]]  # the third scene holds nothing
    rows = name_means(score_rows({"mask": Scores(matrices, task)}), several=False)
    assert [row["class"] for row in rows] == ["road"] if task.channels == 1 else ["land", "road", "mean"]
    assert [row["in scenes"] for row in rows] == [2] * len(rows)


@pytest.fixture(scope="module")
def inria_run(tmp_path_factory, inria_root):
    """A run of one class."""
    folder = tmp_path_factory.mktemp("inria_run")
    train(settings(folder, "dataset=inria", f"dataset.source.root={inria_root}", *QUICK), folder / "run")
    return folder / "run"


def facts_of(run):
    return json.loads((run / "scaling.json").read_text())


def as_training_scores(run, split, threshold):
    """The scores by head as a validation in training counts them."""
    folder = RunFolder(run)
    setup = make_setup(folder.config())
    _, store = open_labelled(folder, setup, split)
    numbers = TrainStatistics.read(folder.data(), setup.dataset.tasks)
    module = make_module(setup, setup.network(pretrained=False), numbers, len(store))
    load_checkpoint(module, folder)
    if threshold == "tuned":
        labelled = {head: task for head, task in setup.tasks.items() if not task.real}
        for head, tuned in folder.thresholds(labelled).items():
            module.scene_sums[head].threshold = tuned
    windows = GridWindows(store, setup.window, setup.margin)
    scoring_trainer(setup).validate(module, feed(setup, windows, Batches(len(windows), setup.batch_size)), verbose=False)
    return module.scores


def test_one_run_is_scored_bit_by_bit_as_in_training(runs):
    for threshold in ("fixed", "tuned"):
        for split in ("val", "test"):
            ours = evaluate(runs[0], EvaluationOptions(split, threshold))["mask"]
            theirs = as_training_scores(runs[0], split, threshold)["mask"]
            assert np.array_equal(ours.sums, theirs.sums)
    assert not np.array_equal(ours.sums, evaluate(runs[0], EvaluationOptions("test"))["mask"].sums), (
        "tuned points differ from fixed ones"
    )


@pytest.fixture(scope="module")
def multilabel_run(tmp_path_factory, multilabel_root):  # noqa: F811
    """A run of two labels that may overlap, which draws pictures."""
    folder = tmp_path_factory.mktemp("multilabel_run")
    data = [*folder_data(multilabel_root), "dataset.task=multilabel", "dataset.classes=[x,y]"]
    train(settings(folder, *data, "loss=bce", *QUICK, "pictures=1"), folder / "run")
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["heads", "multilabel", "binary"])
def test_every_kind_of_head_is_scored_as_in_training(tmp_path, kind, request):
    run = tmp_path / "run"
    if kind == "heads":
        train(settings(tmp_path, *heads_words(request.getfixturevalue("heads_root")), *QUICK), run)
    else:
        run = request.getfixturevalue("inria_run" if kind == "binary" else "multilabel_run")
    ours, theirs = evaluate(run, EvaluationOptions(threshold="tuned")), as_training_scores(run, "val", "tuned")
    assert ours.keys() == theirs.keys()
    for head in ours:
        np.testing.assert_array_equal(ours[head].counts, theirs[head].counts)
    fixed, setup = evaluate(run), make_setup(RunFolder(run).config())
    model, store = open_labelled(RunFolder(run), setup, "val")
    for head, scores in score(setup, model, GridWindows(store, setup.window, setup.margin)).items():
        np.testing.assert_array_equal(scores.counts, fixed[head].counts)
    rows = read(run / "evaluation-val-calibration.csv")
    assert {(row["head"], row["scaling"]) for row in rows} == {
        (head, scaling) for head in ours if head != "height" for scaling in ("none", "temperature", "vector")
    }
    summary = json.loads((run / "summary.json").read_text())
    assert evaluate(run)[next(iter(ours))]["iou"] == pytest.approx(summary["iou"], rel=1e-5)


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_tuned_scores_stand_beside_fixed_ones_where_they_differ(capsys, caplog):
    caplog.set_level("INFO")
    task = Binary(("road",))
    one, other = (Scores(np.array([[[[5, hits], [2, 7]]]]), task) for hits in (1, 3))
    print_scores({"mask": one}, "title", {"mask": other})
    assert "tuned" in capsys.readouterr().out
    assert not caplog.text
    print_scores({"mask": one}, "title", {"mask": one})
    assert "tuned" not in capsys.readouterr().out
    assert "At tuned thresholds the scores are the same: no label changes." in caplog.text


def test_one_command_writes_both_points_and_the_calibration(runs, capsys):
    fixed = evaluate(runs[0], EvaluationOptions("test"))["mask"]
    printed = capsys.readouterr().out
    assert "tuned" in printed
    tuned = evaluate(runs[0], EvaluationOptions("test", "tuned"))["mask"]
    for name, scores in (("evaluation-test", fixed), ("evaluation-test-tuned", tuned)):
        (mean,) = (row for row in read(runs[0] / f"{name}.csv") if row["average"] == "macro")
        assert float(mean["iou"]) == pytest.approx(scores["iou"])
        assert len(read(runs[0] / f"{name}-scenes.csv")) == 2
        assert sum(int(row["pixels"]) for row in read(runs[0] / f"{name}-confusion.csv")) == scores.sums.sum()
    assert (runs[0] / "evaluation-test-confusion.png").is_file()


def test_a_scaling_is_fitted_at_the_end_of_training(runs):
    facts = facts_of(runs[0])["mask"]
    assert facts.keys() == {"temperature", "vector"}
    for own in facts.values():
        assert len(own["scale"]) == len(own["shift"]) == 3
        assert own["step"] == RunFolder(runs[0]).load_state()[1]
        assert own["nll_before"] > 0
    assert len(set(facts["temperature"]["scale"])) == 1
    assert facts["temperature"]["nll_before"] == facts["vector"]["nll_before"]
    rows = {row["scaling"]: row for row in read_calibration(runs[0], "val")}
    for kind in facts:  # on the scenes that it was fitted on it can't be worse
        assert float(rows[kind]["nll"]) <= float(rows["none"]["nll"]) + 2e-3


def read_calibration(run, split):
    evaluate(run, EvaluationOptions(split))
    return read(run / f"evaluation-{split}-calibration.csv")


def probabilities(runs, kind, split="test"):
    """By scene, the mean of the runs' scaled probabilities, as float64 ``[C, H, W]``, and the labels."""
    models = [load_trained(RunFolder(run), make_setup(RunFolder(run).config())) for run in runs]
    setup = make_setup(RunFolder(runs[0]).config())
    _, store = open_labelled(RunFolder(runs[0]), setup, split)
    windows = GridWindows(store, setup.window, setup.margin)
    found, truth = {}, {}
    with torch.inference_mode():
        for batch in feed(setup, windows, Batches(len(windows), setup.batch_size)):
            each = []
            for run, model in zip(runs, models, strict=True):
                z = model.logits(batch["image"])["mask"].double().numpy()
                own = facts_of(run)["mask"].get(kind)
                if own:
                    z = z * np.array(own["scale"])[:, None, None] + np.array(own["shift"])[:, None, None]
                each.append(softmax(z, axis=1))
            for k, p in zip(batch["k"].tolist(), np.mean(each, 0), strict=True):
                core = windows.cells[k]
                height, width = store.sizes[core.scene]
                core.paste(p, found.setdefault(core.scene, np.zeros((3, height, width))))
    for scene in found:
        truth[scene] = np.asarray(store.arrays(scene)[1]["mask"])
    return found, truth


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["none", "temperature", "vector"])
def test_an_ensemble_is_the_mean_of_scaled_probabilities(runs, tmp_path, kind):
    scores = evaluate(runs, EvaluationOptions("test", scaling=kind, out=tmp_path))["mask"]
    found, truth = probabilities(runs, kind)
    for scene, p in found.items():
        labelled = truth[scene] != 255
        expected = np.zeros((3, 3), int)
        np.add.at(expected, (truth[scene][labelled], p.argmax(0)[labelled]), 1)
        assert abs(scores.sums[scene, 0] - expected).sum() <= 2  # float32 against float64 at ties
    p, y = np.concatenate([p.reshape(3, -1) for p in found.values()], 1), np.concatenate([t.ravel() for t in truth.values()])
    nll = -np.log(p[:, y != 255][y[y != 255], np.arange((y != 255).sum())]).mean()
    (row,) = (r for r in read(tmp_path / "ensemble-test-calibration.csv") if r["model"] == "ensemble" and r["scaling"] == kind)
    assert float(row["nll"]) == pytest.approx(nll, abs=2e-3)


def test_what_an_ensemble_gains_is_written_and_said(runs, tmp_path, caplog, capsys):
    caplog.set_level(logging.INFO)
    scores = evaluate(runs, EvaluationOptions("test", out=tmp_path))["mask"]
    alone = [evaluate(run, EvaluationOptions("test"))["mask"] for run in runs]
    facts = json.loads((tmp_path / "ensemble-test.json").read_text())
    assert list(facts["members"]) == [str(run) for run in runs]
    assert sum(facts["members"].values()) == pytest.approx(1)
    gains = {(row["score"], row["point"]): row for row in facts["gains"]}
    iou = gains["IoU", "fixed"]
    assert iou["ensemble"] == pytest.approx(scores["iou"])
    assert iou["over_members"] == pytest.approx(scores["iou"] - np.mean([one["iou"] for one in alone]))
    assert iou["over_best"] == pytest.approx(scores["iou"] - max(one["iou"] for one in alone))
    assert iou["over_members_low"] < iou["over_members"] < iou["over_members_high"]
    assert ("IoU", "tuned") in gains
    nll = gains["negative log-likelihood", "temperature"]
    table = read(tmp_path / "ensemble-test-calibration.csv")
    rows = {row["model"]: float(row["nll"]) for row in table if row["scaling"] == "temperature"}
    assert nll["over_members"] == pytest.approx(np.mean([rows[str(run)] for run in runs]) - rows["ensemble"])  # lower is better
    assert f"over the best, {iou['best']:.4f}, {iou['best_member']}" in caplog.text
    for name in ("", "-tuned", "-scenes", "-confusion", "-calibration"):
        assert (tmp_path / f"ensemble-test{name}.csv").is_file(), name
    assert "3 runs" in capsys.readouterr().out


def test_an_ensemble_of_one_gains_nothing_and_goes_beside_the_runs(runs):
    scores = evaluate([runs[0], runs[0]], EvaluationOptions("test"))["mask"]  # one folder twice is one run
    assert np.array_equal(scores.sums, evaluate(runs[0], EvaluationOptions("test"))["mask"].sums)
    evaluate(runs[:2], EvaluationOptions(weights="quality"))
    facts = json.loads((runs[0].parent / "ensemble-val.json").read_text())
    quality = [json.loads((run / "summary.json").read_text())["iou"] for run in runs[:2]]
    assert list(facts["members"].values()) == pytest.approx(np.array(quality) / sum(quality))


def test_runs_on_several_drives_need_a_folder_for_their_tables(runs, tmp_path, monkeypatch):
    def no_path(_):
        raise ValueError("Paths don't have the same drive")  # as on Windows

    monkeypatch.setattr("os.path.commonpath", no_path)
    evaluate(runs[:2], EvaluationOptions("test", out=tmp_path))
    assert (tmp_path / "ensemble-test.csv").is_file()
    monkeypatch.setattr("rsseg.evaluation.scores.load_trained", None)  # it is said before anything is scored
    with pytest.raises(InputError, match=r"^the runs lie on several drives: name a folder for the tables, out=\.\.\.$"):
        evaluate(runs[:2], EvaluationOptions("test"))


def test_a_folder_of_runs_stands_for_its_finished_ones(runs, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    sweep = tmp_path / "sweep"
    for i, run in enumerate(runs):
        shutil.copytree(run, sweep / f"seed={i}")
    (sweep / "seed=2" / "summary.json").unlink()
    evaluate(sweep, EvaluationOptions("test", out=tmp_path))
    facts = json.loads((tmp_path / "ensemble-test.json").read_text())
    assert list(facts["members"]) == [str(sweep / "seed=0"), str(sweep / "seed=1")]
    assert "1 of 3 runs" in caplog.text
    for name in ("seed=0", "seed=1"):
        (sweep / name / "summary.json").unlink()
    with pytest.raises(InputError, match="none of its 3 runs is finished"):
        evaluate(sweep, EvaluationOptions("test"))


def test_folds_are_scored_on_test_scenes_alone(runs, tmp_path):
    """A member that has trained on scenes of the split is named."""
    other = tmp_path / "other"
    shutil.copytree(runs[1], other)
    data = json.loads((other / "data.json").read_text())
    data["scenes"]["train"] = data["scenes"]["val"][:1]
    (other / "data.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=rf"split=val: {other} was trained on 1 of the 2 scenes, such as .*; take split=test"):
        evaluate([runs[0], other])
    evaluate([runs[0], other], EvaluationOptions("train", out=tmp_path))  # all were trained on them: it is asked for


def test_members_that_do_not_go_together_are_refused(runs, tmp_path, folder_root):
    def changed(name, old, new):
        other = tmp_path / name
        shutil.copytree(runs[1], other)
        text = (other / "config.yaml").read_text()
        assert old in text
        (other / "config.yaml").write_text(text.replace(old, new))
        return other

    classes = changed("classes", "  classes:\n  - a\n  - b\n  - c", "  classes:\n  - a\n  - c\n  - b")
    with pytest.raises(
        InputError, match=r"run1 and .*classes can't be averaged: their classes of mask are multiclass \['a', 'b', 'c'\] and"
    ):
        evaluate([runs[0], classes], EvaluationOptions("test"))
    bands = changed("bands", "  bands:\n  - 1\n  - 2\n  - 3", "  bands:\n  - 3\n  - 2\n  - 1")
    with pytest.raises(InputError, match=r"their bands are \[1, 2, 3\] and \[3, 2, 1\]"):
        evaluate([runs[0], bands], EvaluationOptions("test"))
    for given, said in (
        ({"weights": "best"}, "weights=best: equal or quality"),
        ({"scaling": "platt"}, "scaling=platt: none, temperature or vector"),
    ):
        with pytest.raises(InputError, match=said):
            evaluate(runs, EvaluationOptions("test", **given))


def test_a_run_without_scaling_is_scored(runs, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(runs[0], old)
    (old / "scaling.json").unlink()
    before, after = evaluate(runs[0], EvaluationOptions("test"))["mask"], evaluate(old, EvaluationOptions("test"))["mask"]
    assert np.array_equal(before.sums, after.sums)
    assert [row["scaling"] for row in read(old / "evaluation-test-calibration.csv")] == ["none"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "can't be read"),
        ('{"mask": 3}', "lacks a scale and a shift"),
        ('{"mask": {"temperature": {"scale": [1, 1, 1]}}}', "lacks a scale and a shift"),
        ('{"mask": {"temperature": {"scale": [1, "x", 1], "shift": [0, 0, 0]}}}', "lacks a scale and a shift"),
        ('{"mask": {"temperature": {"scale": [1, 1], "shift": [0, 0]}}}', "a scale and a shift for each of 3 classes"),
    ],
)
def test_a_damaged_scaling_is_told_in_one_line(runs, tmp_path, content, said):
    run = tmp_path / "run"
    shutil.copytree(runs[0], run)
    (run / "scaling.json").write_text(content)
    with pytest.raises(InputError, match=rf"scaling\.json.*{said}.*Remove summary\.json") as told:
        evaluate(run, EvaluationOptions("test"))
    assert "\n" not in str(told.value)


def probability_logits(task, p):
    p = torch.tensor(p, dtype=torch.float32).view(1, -1, 1, 1)
    return p.log() if task.exclusive else p.logit()


@pytest.mark.parametrize("task", [Binary(("a",)), Multiclass(("a", "b", "c")), Multilabel(("a", "b"))])
def test_pooled_logits_are_those_of_the_mean_of_probabilities(task):
    rng = np.random.default_rng(0)
    logits = [rng.normal(0, 30, (2, task.channels, 3, 3)) for _ in range(3)]
    weights = [0.2, 0.5, 0.3]
    found = pooled_logits([torch.tensor(z, dtype=torch.float32) for z in logits], [task] * 3, weights)
    p = [softmax(z, 1) if task.exclusive else expit(z) for z in logits]
    expected = sum(w * each for w, each in zip(weights, p, strict=True))
    np.testing.assert_allclose(task.activate(found).numpy(), expected, rtol=1e-4, atol=1e-7)
    one = torch.tensor(logits[0])
    assert pooled_logits([one], [task], [1.0]) is one


def test_values_are_averaged_in_their_unit():
    one, other = Regression(("height",)).scaled([10.0], [2.0]), Regression(("height",)).scaled([0.0], [4.0])
    z = torch.full((1, 1, 1, 1), 1.0)
    found = one.predict(pooled_logits([z, z], [one, other], [0.25, 0.75]))
    assert found.item() == pytest.approx(0.25 * 12 + 0.75 * 4)
    cars = [Centres(("car",)).scaled([m, m], [s, s]) for m, s in ((8.0, 2.0), (4.0, 1.0))]
    planes = torch.tensor([0.5, 1.0, -1.0, 0.2, 0.9]).view(1, 5, 1, 1)
    mean = cars[0].predict(pooled_logits([planes, planes], cars, [0.5, 0.5])).flatten()
    assert mean.tolist() == pytest.approx([float(torch.tensor(0.5).sigmoid()), 7.5, 4.5, 0.2, 0.9], abs=1e-5)


def test_a_gain_is_drawn_as_what_tuning_gains_is():
    """Of one member it is the difference of two counts of the same scenes, as a gain by tuning."""
    rng = np.random.default_rng(0)
    before = rng.integers(50, 100, (8, 3, 4)).astype(float)
    after = before + rng.integers(0, 20, (8, 3, 1)) * np.array([1, 0, -1, 0])
    groups = list("aabbcdef")
    metric = metrics(Multiclass(("a", "b", "c")))["iou"]
    found = ensemble_gain([after, before], measures(Multiclass(("a", "b", "c")))["iou"], groups, 0)
    tuning = of_tuning(metric, "iou")
    sums = sum_groups(np.stack([before, after], axis=1), groups)
    theirs = estimate(np.stack([sums, sums])[None], tuning).mean.interval()
    for one in (found.over_mean, found.over_best):
        assert one.at() == pytest.approx(theirs.at(0))
    assert np.isnan(ensemble_gain([after, before], measures(Multiclass(("a", "b", "c")))["iou"], ["a"] * 8, 0).over_mean.low)


def test_intervals_of_gains_hold_for_other_scenes():
    """95 % of them, over made-up groups whose expected gain is known."""
    measure, rng, hits = measures(Binary(("a",)))["iou"], np.random.default_rng(1), 0
    for _ in range(200):
        difficulty = rng.uniform(40, 60, 12)
        member = np.stack([difficulty, rng.uniform(20, 60, 12), 100 - difficulty, 0 * difficulty], -1)[:, None]
        better = member + rng.uniform(0, 10, (12, 1, 1)) * np.array([1, 0, -1, 0])
        gain = ensemble_gain([better, member], measure, [str(i) for i in range(12)], 0).over_mean
        true = (50 + 5) / (100 + 40) - 50 / (100 + 40)
        hits += gain.low <= true <= gain.high
    assert 0.9 <= hits / 200 <= 0.99


def test_a_scene_of_one_s_own_is_scored_as_the_split_s(runs, folder_root, tmp_path):
    whole = evaluate(runs[0], EvaluationOptions("test"))["mask"]
    for i, row in enumerate(read(runs[0] / "evaluation-test-scenes.csv")):
        image, mask = (folder_root / kind / f"{row['scene']}.tif" for kind in ("images", "masks"))
        found = evaluate(runs[0], EvaluationOptions(scene=image, mask=mask, out=tmp_path))["mask"]
        assert np.array_equal(found.sums[0], whole.sums[i])
        assert (tmp_path / f"evaluation-scene-{row['scene']}.csv").is_file()
    turned = warped(mask, tmp_path / "turned.tif", "EPSG:4326")
    other = evaluate(runs[0], EvaluationOptions(scene=image, mask=turned, out=tmp_path))["mask"]
    assert abs(other["iou"] - found["iou"]) < 0.05
    assert 0.9 < other.sums.sum() / found.sums.sum() <= 1.01
    together = evaluate(runs, EvaluationOptions(scene=image, mask=mask, out=tmp_path))["mask"]
    assert together.sums.sum() == found.sums.sum()
    facts = json.loads((tmp_path / f"ensemble-scene-{image.stem}.json").read_text())
    assert facts["gains"][0]["over_members_low"] is None  # one scene has no interval


def test_a_scene_without_any_label_is_scored(multilabel_run, multilabel_root, tmp_path):  # noqa: F811
    image = next((multilabel_root / "images").iterdir())
    mask = write_tif(tmp_path / "none.tif", np.zeros((2, 64, 64), np.uint8))
    for threshold in ("fixed", "tuned"):
        evaluate(multilabel_run, EvaluationOptions(threshold=threshold, scene=image, mask=mask, out=tmp_path))
    for name in ("", "-tuned", "-scenes", "-tuned-scenes", "-confusion", "-calibration"):
        assert read(tmp_path / f"evaluation-scene-{image.stem}{name}.csv"), name
    assert [row["pixels"] for row in read(tmp_path / f"evaluation-scene-{image.stem}.csv")[:2]] == ["0", "0"]


def test_a_scene_of_one_s_own_that_is_unlike_training_is_warned_of(runs, folder_root, tmp_path, caplog):
    name = read_scene(runs[0])
    image, mask = (folder_root / kind / f"{name}.tif" for kind in ("images", "masks"))
    with rasterio.open(image) as file:
        pixels, place = file.read(), {"crs": file.crs, "transform": file.transform}
        coarse = place | {"transform": file.transform * Affine.scale(2)}

    def messages(*given, **words):
        caplog.clear()
        own = write_tif(tmp_path / "own.tif", *given, **words)
        evaluate(runs[0], EvaluationOptions(scene=own, mask=mask, out=tmp_path))
        return caplog.text

    assert not messages(pixels, **place)
    assert "own.tif is uint16 and trained pixels are uint8" in messages(pixels.astype(np.uint16) * 40, **place)
    assert "own.tif has 1 m a pixel, and the run was trained on 0.5 m" in messages(pixels[:, ::2, ::2], **coarse)
    with pytest.raises(InputError, match=r"has 2 bands, but .* was trained on the bands"):
        messages(pixels[:2], **place)
    with pytest.raises(InputError, match="scene-own can't be scored: no pixel with data has a label"):
        messages(np.zeros_like(pixels), nodata=0, **place)


def warped(path, out, crs):
    """A raster in another CRS, on pixels half as large."""
    with rasterio.open(path) as file:
        transform, width, height = calculate_default_transform(file.crs, crs, file.width, file.height, *file.bounds)
        transform *= Affine.scale(0.5)
        pixels = np.full((1, 2 * height, 2 * width), 255, file.dtypes[0])
        reproject(
            rasterio.band(file, 1),
            pixels,
            dst_transform=transform,
            dst_crs=crs,
            resampling=Resampling.nearest,
            init_dest_nodata=False,
        )
    return write_tif(out, pixels, crs=crs, transform=transform, nodata=255)


def test_a_vector_mask_in_another_crs_scores_a_run_of_rasters(tmp_path, inria_run):
    run = inria_run
    setup = make_setup(RunFolder(run).config())
    scene = setup.source().scenes("val")[0]
    mask = scene.mask_of(0).path
    expected = evaluate(run, EvaluationOptions(scene=scene.image, mask=mask))["mask"]
    with rasterio.open(mask) as file:
        found = [shape(own) for own, value in shapes(file.read(1), transform=file.transform) if value == 255]
        frame = geopandas.GeoDataFrame(geometry=found, crs=file.crs)
    frame.to_crs("EPSG:3857").to_file(tmp_path / "buildings.gpkg")
    ours = evaluate(run, EvaluationOptions(scene=scene.image, mask=tmp_path / "buildings.gpkg"))["mask"]
    assert abs(ours.sums - expected.sums).sum() < 0.02 * expected.sums.sum()
    for words, said in (
        ({"scene": scene.image}, "scene=... needs mask=... beside it"),
        ({"mask": mask}, "mask=... needs scene=... beside it"),
        ({"scene": scene.image, "mask": tmp_path / "none.tif"}, "none.tif: there is no such file"),
    ):
        with pytest.raises(InputError, match=said):
            evaluate(run, EvaluationOptions(**words))


def test_a_finished_map_is_scored_by_a_mask(runs, folder_root, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    scene = read_scene(runs[0])
    image, mask = (folder_root / kind / f"{scene}.tif" for kind in ("images", "masks"))
    made = map_scene(runs[0], image, tmp_path / "map.tif", blend="none")
    with rasterio.open(made) as file, rasterio.open(mask) as truth:
        labels, true = file.read(1), truth.read(1)
    expected = np.zeros((3, 3), int)
    np.add.at(expected, (true[true != 255], labels[true != 255]), 1)
    found = evaluate_map(runs[0], made, EvaluationOptions(mask=mask, out=tmp_path))
    np.testing.assert_array_equal(found.sums[0, 0], expected)
    assert (tmp_path / "evaluation-map-map.csv").is_file()
    other = evaluate_map(
        runs[0], made, EvaluationOptions(mask=warped(mask, tmp_path / "turned.tif", "EPSG:3857"), out=tmp_path)
    )
    assert abs(other["iou"] - found["iou"]) < 0.05
    labels[:40] = 255  # nothing is known there
    half = write_tif(tmp_path / "half.tif", labels[None], nodata=255)
    assert evaluate_map(runs[0], half, EvaluationOptions(mask=mask, out=tmp_path)).sums.sum() == (true[40:] != 255).sum()
    assert f"{(true[:40] != 255).sum()} labelled pixels have no value" in caplog.text
    labels[:] = 7
    with pytest.raises(InputError, match=r"map=.*seven\.tif: it holds the value 7 .*; head mask has labels, 0 to 2: name"):
        evaluate_map(runs[0], write_tif(tmp_path / "seven.tif", labels[None]), EvaluationOptions(mask=mask))
    with pytest.raises(InputError, match=r"split=val and map=.*half\.tif exclude each other: name one of them"):
        command.run(command.Arguments(run=str(runs[0]), split="val", map=half, mask=mask))


def read_scene(run):
    evaluate(run, EvaluationOptions("test"))
    return read(run / "evaluation-test-scenes.csv")[0]["scene"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"threshold": "0.3"}, "threshold=0.3: fixed or tuned"),
        ({"weights": "best"}, "weights=best: equal or quality"),
        ({"scaling": "beta"}, "scaling=beta: none, temperature or vector"),
        ({"out": Path(__file__)}, "is a file: a folder for the tables is expected"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_read(words, said):
    with pytest.raises(InputError, match=said):
        EvaluationOptions(**words)
