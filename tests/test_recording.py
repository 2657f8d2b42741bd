"""Recorded runs: the same training, complete records whatever happened, and thresholds that are used."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from test_run import SPLIT, folder_data, settings, weights
from tiny import compose, map_scene, power_cut

import rsseg.training.scoring as scoring
from rsseg.answer import is_counted
from rsseg.assembly import make_setup
from rsseg.comparison.question import Question
from rsseg.comparison.records import load_records, read_arrays
from rsseg.comparison.runs import Run
from rsseg.comparison.tuning import tune
from rsseg.config.folder import RunFolder
from rsseg.contract import InputError
from rsseg.dataset import TargetStatistics, TrainStatistics
from rsseg.evaluation.options import EvaluationOptions
from rsseg.evaluation.scores import evaluate, record_splits
from rsseg.metrics.scores import overlap, pooled
from rsseg.run import train
from rsseg.task import Multiclass
from rsseg.training.recorder import Recorder, panel_facts

pytestmark = pytest.mark.usefixtures("quick_runs")

WITH_TEST = "{train: 0.5, val: 0.3, test: 0.2}"
QUICK = ["pictures=0", "trainer.log_every_n_steps=1"]


def crossed_steps(run, name="crossed"):
    return read_arrays(run / "records" / f"{name}.npz")["mask/steps"].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["model=deeplabv3plus", "callbacks=[ema,early_stopping]"])  # dropout; averaged weights
def test_a_recorded_run_is_the_same_run(tmp_path, folder_root, choice):
    crossing = ["dataset.source.split={train: ['tile0*'], val: ['tile[1-5]*'], test: null}", "batch_size=5"]  # several scenes
    common = [*folder_data(folder_root), *QUICK, "steps=4", "validations=2", "loss=ce_dice", *crossing, choice]
    train(settings(tmp_path, *common, "record.gain=true"), tmp_path / "with")
    train(settings(tmp_path, *common, "record.enabled=false"), tmp_path / "without")
    for (name, ours), theirs in zip(weights(tmp_path / "with").items(), weights(tmp_path / "without").values(), strict=True):
        assert torch.equal(ours, theirs), name
    rows = [list(csv.DictReader((tmp_path / run / "metrics.csv").open())) for run in ("with", "without")]
    assert rows[0] == rows[1]
    with pytest.raises(InputError, match="no records"):
        load_records(tmp_path / "without")


def test_records_hold_what_was_scored(tmp_path, folder_root):
    run = tmp_path / "run"
    config = [*folder_data(folder_root), *QUICK, "steps=4", "validations=2", "loss=ce_dice", "record.gain=true"]
    train(settings(tmp_path, *config), run)
    records = load_records(run)
    assert records.steps.tolist() == [2, 4]
    assert records.task == Multiclass(("a", "b", "c"))
    assert records.terms == ["ce", "dice"]
    assert len(records.scenes) == 2
    assert (records.counts[..., [0, 2]].sum((2, 3)) == 80 * 96 - 16).all()  # every labelled pixel of every scene once
    with (run / "metrics.csv").open() as file:
        logged = [float(row["val/iou"]) for row in csv.DictReader(file) if row["val/iou"]]
    assert [pooled(c) for c in records.counts] == pytest.approx(logged)
    assert records.values.shape == (2, len(records.panel), 2)
    assert np.isfinite(records.values).all()
    panel = dict(zip(records.panel, np.moveaxis(records.values, 1, 0), strict=True))
    assert records.own == pytest.approx(panel["ce"] + panel["dice"])  # ce_dice weighs them alike
    for norm, cosine in records.gradient.values():
        assert (norm > 0).all()
        assert np.diagonal(cosine, axis1=1, axis2=2) == pytest.approx(1)
    assert records.gain is not None
    assert records.gain.shape == (2, 2)
    counts, gradients = 4 * 2 * 3, 2 * 2 * 3  # of 2 scenes and 3 classes; norms and cosines of 2 terms at 2 places
    expected = 8 * (counts + 2 * len(records.panel) + gradients + 2 + 6)  # two gains; step, training losses, qualities
    assert sum(array.nbytes for array in read_arrays(run / "records" / "step-000002.npz").values()) == expected
    assert records.groups.tolist() == records.scenes
    assert {path.name for path in (run / "records").iterdir()} == {
        "records.json", "step-000002.npz", "step-000004.npz", "crossed.npz",
    }  # fmt: skip
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt", "previous.ckpt"}
    assert records.lost == 0
    assert (records.calibration["ece"][..., 0].sum(-1) == 80 * 96 - 16).all()


def test_each_half_is_counted_by_the_checkpoint_that_the_other_chose(tmp_path, folder_root):
    run = tmp_path / "run"
    train(settings(tmp_path, *folder_data(folder_root), *QUICK, "steps=6", "validations=6"), run)
    records = load_records(run)
    scored = np.array([[pooled(counts[[s]]) for s in (0, 1)] for counts in records.counts])
    mine, other = (0, 1) if records.first[0] else (1, 0)
    chosen = scored[:, mine].argmax(), scored[:, other].argmax()
    assert crossed_steps(run) == records.steps[list(chosen)].tolist()
    again = records.counts[chosen[0], other], records.counts[chosen[1], mine]
    for counted, expected in zip(records.at("fixed")[[other, mine]], again, strict=True):
        assert np.abs(counted - expected).sum() <= 8  # predicted again, in other batches
    unfinished = replace(records, chosen=None)
    np.testing.assert_array_equal(unfinished.at("fixed")[[other, mine]], again)
    assert records.best_index == np.argmax([pooled(counts) for counts in records.counts])


@pytest.mark.slow
@pytest.mark.parametrize("halves", [(4, 4), (2, 4), (2, 2)])
def test_logits_of_the_last_validation_need_no_second_pass(tmp_path, folder_root, monkeypatch, halves):
    """Whatever the halves choose: the counts are those of predicting each half by its checkpoint in a pass of its own."""
    passes = []
    predict_scenes = scoring.predict_scenes

    def noted(setup, models, windows):
        passes.append(windows)
        return predict_scenes(setup, models, windows)

    monkeypatch.setattr(Recorder, "chosen", halves)
    monkeypatch.setattr(scoring, "predict_scenes", noted)
    common = [*folder_data(folder_root), *QUICK, "steps=4", "validations=2"]
    train(settings(tmp_path, *common), tmp_path / "kept")
    best = load_records(tmp_path / "kept").best_index
    free = {4} | ({2} if best == 0 else set())  # the best checkpoint is scored anyway where it is not the last
    assert len(passes) == len(set(halves) - free) + (best == 0)
    monkeypatch.setattr("rsseg.training.recorder.KEPT", 0)
    train(settings(tmp_path, *common), tmp_path / "again")
    one, two = (read_arrays(tmp_path / run / "records" / "crossed.npz") for run in ("kept", "again"))
    assert one.keys() == two.keys()
    assert one["mask/steps"].tolist() == list(halves)
    assert np.abs(one["mask/counts"] - two["mask/counts"]).sum((1, 2, 3)).max() <= 16  # predicted again, in other batches
    assert np.isfinite(one["mask/counts"]).all()
    assert (one["mask/counts"][:3, ..., [0, 2]].sum((2, 3)) == 80 * 96 - 16).all()


def test_what_is_crossed_already_is_kept_when_a_run_is_scored_again_or_goes_on(tmp_path, folder_root, monkeypatch):
    """The weights of the halves are gone then: `predict` on them would fail."""
    run, common = tmp_path / "run", [*folder_data(folder_root), *QUICK, "steps=2", "validations=2"]
    train(settings(tmp_path, *common), run)
    before, thresholds = read_arrays(run / "records" / "crossed.npz"), (run / "threshold.json").read_text()
    (run / "summary.json").unlink()
    train(settings(tmp_path, f"resume={run}"), run, [f"resume={run}"])
    after = read_arrays(run / "records" / "crossed.npz")
    assert all(np.array_equal(before[key], after[key], equal_nan=value.dtype.kind == "f") for key, value in before.items())
    assert (run / "threshold.json").read_text() == thresholds
    train(settings(tmp_path, f"resume={run}", "steps=4"), run, [f"resume={run}", "steps=4"])
    records = load_records(run)
    assert records.steps[-1] == 4
    chosen = [records.steps[np.argmax(records.quality[:, half])] for half in (0, 1)]
    assert crossed_steps(run) == chosen


def test_a_loss_that_is_no_function_of_sums_has_no_value_by_half(tmp_path, folder_root):
    train(settings(tmp_path, *folder_data(folder_root), *QUICK, "loss=lovasz"), tmp_path / "run")
    records = load_records(tmp_path / "run")
    assert np.isnan(records.own).all()
    assert np.isfinite(records.values).all()


@pytest.mark.slow
def test_a_resumed_run_has_the_records_of_an_uninterrupted_one(tmp_path, folder_root):
    common = [*folder_data(folder_root), *QUICK, "steps=6", "validations=3"]
    train(settings(tmp_path, *common), tmp_path / "whole")
    with power_cut(step=5):
        train(settings(tmp_path, *common), tmp_path / "half")
    half = tmp_path / "half"
    assert load_records(half).steps.tolist() == [2, 4]
    assert load_records(half).chosen is None
    train(settings(tmp_path, f"resume={half}"), half, [f"resume={half}"])
    ours, theirs = load_records(half), load_records(tmp_path / "whole")
    assert ours.steps.tolist() == [2, 4, 6]
    for name in ("counts", "values", "own", "quality"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name))
    for place in ours.gradient:
        assert np.array_equal(ours.gradient[place][0], theirs.gradient[place][0])
    ours, theirs = (read_arrays(run / "records" / "crossed.npz") for run in (half, tmp_path / "whole"))
    for key, value in ours.items():
        np.testing.assert_array_equal(value, theirs[key], err_msg=key)
    assert (half / "threshold.json").read_text() == (tmp_path / "whole" / "threshold.json").read_text()


@pytest.mark.slow
def test_the_tuned_threshold_is_used(tmp_path, inria_root):
    """It is tuned on a sample: scored at thresholds about it, all pixels have none that is much better."""
    run = tmp_path / "run"
    train(settings(tmp_path, "dataset=inria", f"dataset.source.root={inria_root}", *QUICK), run)
    tuned = evaluate(run, EvaluationOptions(threshold="tuned"))["mask"]["iou"]
    stored = json.loads((run / "threshold.json").read_text())
    facts = stored["mask"]
    (value,), (probability,) = facts["values"].values(), facts["probabilities"].values()
    assert probability == pytest.approx(1 / (1 + np.exp(-value)), abs=1e-6)
    for other in np.append(value + np.linspace(-1, 1, 9), 0):
        (run / "threshold.json").write_text(json.dumps({"mask": facts | {"values": dict.fromkeys(facts["values"], other)}}))
        assert evaluate(run, EvaluationOptions(threshold="tuned"))["mask"]["iou"] < tuned + 0.01
    assert evaluate(run, EvaluationOptions(threshold="tuned"))["mask"]["iou"] == pytest.approx(
        evaluate(run)["mask"]["iou"]
    )  # at 0
    assert (run / "evaluation-val-tuned.csv").is_file()
    (run / "threshold.json").unlink()
    with pytest.raises(InputError, match=r"no threshold\.json"):
        evaluate(run, EvaluationOptions(threshold="tuned"))
    with pytest.raises(InputError, match="fixed or tuned is expected"):
        evaluate(run, EvaluationOptions("val", "best"))


def test_a_map_at_the_tuned_bias_equals_scoring(tmp_path, folder_root):
    run = tmp_path / "run"
    train(settings(tmp_path, *folder_data(folder_root), *QUICK), run)
    counts = np.zeros((2, 3, 3), dtype=np.int64)
    for i, threshold in enumerate(("fixed", "tuned")):
        for scene in json.loads((run / "data.json").read_text())["scenes"]["val"]:
            out = map_scene(
                run,
                folder_root / "images" / f"{scene}.tif",
                tmp_path / "map.tif",
                threshold=threshold,
                blend="none",
                overwrite=True,
            )
            with rasterio.open(out) as made, rasterio.open(folder_root / "masks" / f"{scene}.tif") as mask:
                labels, truth = made.read(1), mask.read(1)
            np.add.at(counts[i], (truth[truth != 255], labels[truth != 255]), 1)
    scored = evaluate(run, EvaluationOptions(threshold="tuned"))["mask"].sums.sum(0)[0]
    assert np.abs(counts[1] - scored).sum() <= 4  # windows come in other batches: sums are rounded otherwise
    assert np.abs(counts[0] - counts[1]).sum() > 100


def raise_input_error():
    raise InputError("the folder is gone")


def test_the_test_split_is_counted_on_demand(tmp_path, folder_root, caplog, monkeypatch):
    run = tmp_path / "run"
    data = [d for d in folder_data(folder_root) if d != SPLIT] + [f"dataset.source.split={WITH_TEST}"]
    train(settings(tmp_path, *data, *QUICK), run)
    record_splits([run])
    records = load_records(run, split="test")
    assert records.scenes == [scene.name for scene in make_setup(RunFolder(run).config()).source().scenes("test")]
    for threshold, point in (("fixed", "fixed"), ("tuned", "iou"), ("tuned", "dice")):
        np.testing.assert_array_equal(records.at(point), evaluate(run, EvaluationOptions("test", threshold))["mask"].counts)
    assert crossed_steps(run, "test") == [records.steps[records.best_index]] * 2
    question = Question(split="test")
    assert is_counted(Run(run), question)
    with monkeypatch.context() as patched:
        patched.setattr("rsseg.data.scene.version", lambda path: (1, 2))  # files of another size and time
        assert not is_counted(Run(run), question)
        patched.setattr("rsseg.dataset_source.make_source", lambda *_: raise_input_error())
        assert is_counted(Run(run), question)  # nobody can count it again
    facts = json.loads((run / "threshold.json").read_text())
    (run / "threshold.json").write_text(json.dumps({"mask": facts["mask"] | {"gain": -0.0123}}))
    evaluate(run, EvaluationOptions("test", "tuned"))
    assert "threshold=tuned lowers IoU of head mask by 0.0123 on held-out scenes" in caplog.text


def test_every_scene_is_counted_as_its_map_at_the_other_half_s_bias(tmp_path, folder_root, monkeypatch):
    """`predict` goes another way through the scenes, with the weights and the biases of the other half in place of its own."""
    run, tuned = tmp_path / "run", {}

    def spy(sample, task, part, classes, metric="iou"):
        tuned[part.tobytes(), metric] = tune(sample, task, part, classes, metric)
        return tuned[part.tobytes(), metric]

    monkeypatch.setattr("rsseg.training.crossing.tune", spy)
    kept, unlink = ("first.ckpt", "second.ckpt"), Path.unlink
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda path, missing_ok=False: path.name in kept or unlink(path, missing_ok))
        train(settings(tmp_path, *folder_data(folder_root), *QUICK, "steps=4", "validations=4"), run)
    records, classes = load_records(run), ("a", "b", "c")
    stored = json.loads((run / "threshold.json").read_text())["mask"]
    for i, scene in enumerate(records.scenes):
        with rasterio.open(folder_root / "masks" / f"{scene}.tif") as mask:
            truth = mask.read(1)
        chosen_on = ~records.first if records.first[i] else records.first
        checkpoints = run / "checkpoints"
        (checkpoints / "best.ckpt").unlink()
        shutil.copy(checkpoints / f"{'second' if records.first[i] else 'first'}.ckpt", checkpoints / "best.ckpt")
        for metric in ("fixed", "iou", "dice"):
            bias = tuned[chosen_on.tobytes(), metric] if metric != "fixed" else np.zeros(3)
            values = dict(zip(classes, bias.tolist(), strict=True))
            (run / "threshold.json").write_text(json.dumps({"mask": stored | {"values": values}}))
            out = map_scene(
                run,
                folder_root / "images" / f"{scene}.tif",
                tmp_path / "map.tif",
                threshold="tuned",
                blend="none",
                overwrite=True,
            )
            with rasterio.open(out) as made:
                labels = made.read(1)
            known = truth != 255
            hits, called, present = (
                np.bincount(x[known], minlength=3) for x in (np.where(truth == labels, truth, 99), labels, truth)
            )
            expected = np.stack([hits[:3], called - hits[:3], present - hits[:3]], axis=-1)
            assert np.abs(expected - records.at(metric)[i, :, :3]).sum() <= 8, (scene, metric)  # in other batches
    assert np.abs(records.at("fixed") - records.at("iou")).sum() > 100
    for key, point in (("fixed", "fixed"), ("tuned", "iou")):
        assert stored[key] == pytest.approx(np.nanmean(overlap(records.at(point).sum(0))))
    assert stored["gain"] == pytest.approx(stored["tuned"] - stored["fixed"])


@pytest.mark.parametrize("loss", ["ce", "weighted_ce"])
def test_a_class_that_training_lacks_is_clipped_in_the_panel_without_a_word(tmp_path, folder_root, caplog, loss):
    """Four classes, of which the masks hold three."""
    data = [d for d in folder_data(folder_root) if "classes" not in d] + ["dataset.classes=[a,b,c,d]"]
    train(settings(tmp_path, *data, *QUICK, f"loss={loss}"), tmp_path / "run")
    said = [r.getMessage() for r in caplog.records if "weight" in r.getMessage()]
    asked = "loss.terms.ce: class d has no labelled training pixels: its weight is clipped."
    assert said == [asked] * (loss == "weighted_ce")
    about = json.loads((tmp_path / "run" / "records" / "records.json").read_text())["heads"]["mask"]
    counts = np.array(json.loads((tmp_path / "run" / "data.json").read_text())["positives"], dtype=float)
    raw = 1 / counts[:3]
    assert about["panel"]["weighted_ce"]["class_weights"] == pytest.approx([*raw / raw.mean(), raw.max() / raw.mean()])


def test_the_panel_takes_labels_that_all_pixels_or_none_have(caplog):
    config = compose(["dataset=folder", "dataset.task=multilabel", "dataset.classes=[a,b,c,d]"])
    numbers = TrainStatistics(mean=[0], std=[1], targets={"mask": TargetStatistics([2, 0, 8, 0], [8, 8, 8, 0])})
    assert panel_facts(make_setup(config).task, numbers)["weighted_ce"]["pos_weight"] == [6 / 2, 1e3, 1e-3, 1]
    assert not caplog.records


def test_one_validation_scene_has_no_second_half(tmp_path, folder_root):
    data = [d for d in folder_data(folder_root) if d != SPLIT] + ["dataset.source.split={train: 0.8, val: 0.2}"]
    train(settings(tmp_path, *data, *QUICK), tmp_path / "run")
    records = load_records(tmp_path / "run")
    assert len(records.scenes) == 1
    assert np.isfinite(records.values[:, :, 0]).all()
    assert np.isnan(records.values[:, :, 1]).all()
    assert np.isnan(records.at("iou")).all()


def test_what_cannot_be_loaded_is_said(tmp_path, folder_root):
    run = tmp_path / "run"
    train(settings(tmp_path, *folder_data(folder_root), *QUICK), run)
    with pytest.raises(InputError, match=r"no head 'msk'.*did you mean 'mask'"):
        load_records(run, "msk")
    (path,) = (run / "records").glob("step-*.npz")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="can't be read"):
        load_records(run)
    path.unlink()
    with pytest.raises(InputError, match="not validated yet"):
        load_records(run)
