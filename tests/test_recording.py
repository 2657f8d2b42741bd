"""Recorded runs: the same training, complete records whatever happened, and thresholds that are used."""

import csv
import json

import numpy as np
import pytest
import rasterio
import torch
from test_run import SPLIT, folder_data, settings, weights
from tiny import compose, power_cut

from rsseg.assembly import make_setup
from rsseg.compare.records import load_records, read_arrays
from rsseg.compare.tuning import tune_bias
from rsseg.contract import InputError
from rsseg.dataset import Numbers, TargetNumbers
from rsseg.metrics import SampledLogits
from rsseg.metrics.histogram import THRESHOLDS, threshold_counts
from rsseg.metrics.scores import class_counts, pooled
from rsseg.run import evaluate, predict, train
from rsseg.task import Multiclass

pytestmark = pytest.mark.usefixtures("no_charts")

QUICK = ["pictures=0", "trainer.log_every_n_steps=1"]


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
        logged = [float(row["val/mask/iou"]) for row in csv.DictReader(file) if row["val/mask/iou"]]
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
    stated = 8 * (2 * 1 * 3**2 + 2 * len(records.panel) + 2 * 2 * 3 + 2 + 3)  # docs/records.md
    assert sum(array.nbytes for array in read_arrays(run / "records" / "step-000002.npz").values()) == stated
    last = read_arrays(run / "records" / "last.npz")
    assert last["mask/step"] == 4
    assert len(last["mask/sample.logits"]) == len(last["mask/sample.weight"])
    assert (last["mask/histogram"].sum((2, 3)) == 80 * 96 - 16).all()


def test_a_loss_that_is_no_function_of_sums_has_no_value_by_half(tmp_path, folder_root):
    train(settings(tmp_path, *folder_data(folder_root), *QUICK, "loss=lovasz"), tmp_path / "run")
    records = load_records(tmp_path / "run")
    assert np.isnan(records.own).all()
    assert np.isfinite(records.values).all()


def test_a_resumed_run_has_the_records_of_an_uninterrupted_one(tmp_path, folder_root):
    common = [*folder_data(folder_root), *QUICK, "steps=6", "validations=3"]
    train(settings(tmp_path, *common), tmp_path / "whole")
    with power_cut(step=5):
        train(settings(tmp_path, *common), tmp_path / "half")
    half = tmp_path / "half"
    assert load_records(half).steps.tolist() == [2, 4]
    assert load_records(half).best is None
    train(settings(tmp_path, f"resume={half}"), half, [f"resume={half}"])
    ours, theirs = load_records(half), load_records(tmp_path / "whole")
    assert ours.steps.tolist() == [2, 4, 6]
    for name in ("counts", "values", "own"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name))
    for place in ours.gradient:
        assert np.array_equal(ours.gradient[place][0], theirs.gradient[place][0])
    for name in ("best", "last"):
        ours, theirs = (read_arrays(run / "records" / f"{name}.npz") for run in (half, tmp_path / "whole"))
        assert all(np.array_equal(ours[key], theirs[key]) for key in ours | theirs)
    assert (half / "threshold.json").read_text() == (tmp_path / "whole" / "threshold.json").read_text()


def test_the_tuned_threshold_is_used(tmp_path, inria_root):
    """Re-inference at the stored threshold gives what the histogram says of it, exactly."""
    run = tmp_path / "run"
    train(settings(tmp_path, "dataset=inria", f"dataset.source.root={inria_root}", *QUICK), run)
    counts = threshold_counts(read_arrays(run / "records" / "best.npz")["mask/histogram"].sum(0))[0]
    iou = counts[:, 0] / counts.sum(-1)
    result = evaluate(run, "val", "tuned")["mask"]
    assert result.iou == pytest.approx(iou.max())
    assert evaluate(run, "val")["mask"].iou == pytest.approx(iou[THRESHOLDS == 0].item())
    assert (run / "evaluation-val-tuned.csv").is_file()
    (run / "threshold.json").unlink()
    with pytest.raises(InputError, match=r"no threshold\.json"):
        evaluate(run, "val", "tuned")
    with pytest.raises(InputError, match=r"fixed .* or tuned is expected"):
        evaluate(run, "val", "best")


def test_a_map_at_the_tuned_bias_equals_scoring(tmp_path, folder_root):
    run = tmp_path / "run"
    train(settings(tmp_path, *folder_data(folder_root), *QUICK), run)
    counts = np.zeros((2, 3, 3), dtype=np.int64)
    for i, threshold in enumerate(("fixed", "tuned")):
        for scene in json.loads((run / "data.json").read_text())["scenes"]["val"]:
            out = predict(run, folder_root / "images" / f"{scene}.tif", tmp_path / "map.tif", threshold)
            with rasterio.open(out) as made, rasterio.open(folder_root / "masks" / f"{scene}.tif") as mask:
                labels, truth = made.read(1), mask.read(1)
            np.add.at(counts[i], (truth[truth != 255], labels[truth != 255]), 1)
    scored = evaluate(run, "val", "tuned")["mask"].confusion.sum(0)[0].numpy()
    assert np.abs(counts[1] - scored).sum() <= 4  # windows come in other batches: sums are rounded otherwise
    assert np.abs(counts[0] - counts[1]).sum() > 100


def test_every_scene_is_counted_as_its_map_at_the_other_half_s_bias(tmp_path, folder_root):
    """`predict` goes another way through the scenes; the sample holds at most 3 x 1,024 of a scene's 7,664 pixels."""
    run = tmp_path / "run"
    train(settings(tmp_path, *folder_data(folder_root), *QUICK), run)
    shot, classes = read_arrays(run / "records" / "best.npz"), ("a", "b", "c")
    z, y, s, w = (shot[f"mask/sample.{name}"] for name in SampledLogits._fields)
    crossfit = {name: shot[f"mask/crossfit.{name}"] for name in ("fixed", "iou", "dice")}
    stored = json.loads((run / "threshold.json").read_text())["mask"]
    total = {"fixed": 0, "iou": 0, "dice": 0}
    for i, scene in enumerate(json.loads((run / "data.json").read_text())["scenes"]["val"]):
        with rasterio.open(folder_root / "masks" / f"{scene}.tif") as mask:
            truth = mask.read(1)
        for metric, value in crossfit.items():
            bias = tune_bias(z[s != i], y[s != i], w[s != i], metric) if metric != "fixed" else np.zeros(3)
            values = dict(zip(classes, bias.tolist(), strict=True))
            (run / "threshold.json").write_text(json.dumps({"mask": stored | {"values": values}}))
            out = predict(run, folder_root / "images" / f"{scene}.tif", tmp_path / "map.tif", "tuned")
            with rasterio.open(out) as made:
                labels = made.read(1)
            counts = np.zeros((3, 3), dtype=np.int64)
            np.add.at(counts, (truth[truth != 255], labels[truth != 255]), 1)
            assert np.abs(counts - value[i, 0]).sum() <= 4, (scene, metric)  # windows come in other batches
            total[metric] = total[metric] + value[i, 0]
    assert np.abs(crossfit["fixed"] - crossfit["iou"]).sum() > 100
    records = load_records(run)
    for point, name in (("untuned", "fixed"), ("iou", "iou"), ("dice", "dice")):
        np.testing.assert_array_equal(records.at(point), class_counts(crossfit[name], records.task)[..., :3])
    for key, counts in (("fixed", total["fixed"]), ("tuned", total["iou"])):
        hits = np.diag(counts).astype(float)
        assert stored[key] == pytest.approx((hits / (counts.sum(0) + counts.sum(1) - hits)).mean())


@pytest.mark.parametrize("loss", ["ce", "weighted_ce"])
def test_a_class_that_training_lacks_is_clipped_in_the_panel_without_a_word(tmp_path, folder_root, caplog, loss):
    """Four classes, of which the masks hold three."""
    data = [d for d in folder_data(folder_root) if "classes" not in d] + ["dataset.classes=[a,b,c,d]"]
    train(settings(tmp_path, *data, *QUICK, f"loss={loss}"), tmp_path / "run")
    said = [r.getMessage() for r in caplog.records if "weight" in r.getMessage()]
    asked = "loss.terms.ce: the weight of class d can't be counted and is clipped: no labelled training pixel is of it."
    assert said == [asked] * (loss == "weighted_ce")
    about = json.loads((tmp_path / "run" / "records" / "records.json").read_text())["heads"]["mask"]
    assert about["clipped"] == ["d"]
    counts = np.array(json.loads((tmp_path / "run" / "data.json").read_text())["positives"], dtype=float)
    raw = 1 / counts[:3]
    assert about["panel"]["weighted_ce"]["class_weights"] == pytest.approx([*raw / raw.mean(), raw.max() / raw.mean()])


def test_the_panel_takes_labels_that_all_pixels_or_none_have(caplog):
    config = compose(["dataset=folder", "dataset.task=multilabel", "dataset.classes=[a,b,c,d]"])
    numbers = Numbers(mean=[0], std=[1], targets={"mask": TargetNumbers([2, 0, 8, 0], [8, 8, 8, 0])})
    assert make_setup(config).panel("mask", numbers)["weighted_ce"]["pos_weight"] == [6 / 2, 1e3, 1e-3, 1]
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
