"""Runs with weights, class shares, weighted borders and softened labels: what each must be equal to."""

import csv
import json

import numpy as np
import pytest
import torch
from test_run import folder_data, settings
from tiny import checker, coloured, map_scene, write_tif

from rsseg.comparison.records import load_records
from rsseg.contract import IGNORE, InputError
from rsseg.evaluation.scores import evaluate
from rsseg.run import train

pytestmark = pytest.mark.usefixtures("quick_runs")

QUICK = ["pictures=1", "trainer.log_every_n_steps=1", "loss=ce_dice", "augment=[d4,scale_crop,cutout]"]
QUICK += ["dataset.source.split={train: ['s[2-5]'], val: ['s[01]'], test: null}"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Scenes of 64 pixels with labels, the same as shares, labels without a stripe, and weights that are 0 in that stripe."""
    root, rng = tmp_path_factory.mktemp("layers"), np.random.default_rng(0)
    for i in range(6):
        mask = checker(rng, 64, 3)
        image = coloured(rng, mask)
        mask[:4, :4] = IGNORE
        name = f"s{i}.tif"
        write_tif(root / "images" / name, image)
        write_tif(root / "masks" / name, mask[None])
        shares = np.where(mask == IGNORE, np.nan, np.eye(3)[np.minimum(mask, 2)].transpose(2, 0, 1))
        write_tif(root / "shares" / name, (100 * shares).astype(np.float32))
        striped, weight = mask.copy(), np.full((64, 64), 7, np.uint8)
        striped[20:40] = IGNORE
        weight[20:40] = 0
        write_tif(root / "striped" / name, striped[None])
        write_tif(root / "weights" / name, weight[None])
        write_tif(root / "sevens" / name, np.full((1, 64, 64), 7, np.uint8))
    return root


@pytest.fixture(scope="module")
def started(root, tmp_path_factory):
    """Trains, once for the same words; gives the run folder."""
    runs, folder = {}, tmp_path_factory.mktemp("runs")

    def start(*words):
        if words not in runs:
            runs[words] = folder / str(len(runs))
            train(settings(folder, *folder_data(root, *QUICK, *words)), runs[words])
        return runs[words]

    return start


def losses(run, stage):
    rows = csv.DictReader((run / "metrics.csv").open())
    return [float(row[f"{stage}/loss"]) for row in rows if row[f"{stage}/loss"]]


def test_a_pixel_of_weight_0_trains_as_an_ignored_one_but_is_scored(started):
    weighted = started("dataset.source.weight='weights/{name}.*'", "loss=ce")
    ignored = started("dataset.source.mask='striped/{name}.*'", "loss=ce")
    assert losses(weighted, "train") == pytest.approx(losses(ignored, "train"), rel=1e-4)
    assert losses(weighted, "val") == pytest.approx(losses(ignored, "val"), rel=1e-4)
    scored, fewer = (load_records(run).counts[..., [0, 2]].sum() for run in (weighted, ignored))
    assert fewer < scored == load_records(started("loss=ce")).counts[..., [0, 2]].sum()
    counted = [json.loads((run / "data.json").read_text())["valid"] for run in (weighted, started("loss=ce"))]
    assert counted[0] == counted[1]
    assert load_records(weighted).own == pytest.approx(load_records(ignored).own, rel=1e-4)


def test_equal_weights_train_as_none(started):
    found, plain = started("dataset.source.weight='sevens/{name}.*'", "loss=ce"), started("loss=ce")
    for stage in ("train", "val"):
        assert losses(found, stage) == pytest.approx(losses(plain, stage), rel=1e-4)


@pytest.mark.slow
def test_whole_shares_train_as_the_labels_that_they_are(started, root, tmp_path):
    shares, labels = started("dataset.source.mask='shares/{name}.*'", "dataset.fractions=100"), started()
    for stage in ("train", "val"):
        assert losses(shares, stage) == pytest.approx(losses(labels, stage), rel=1e-4)
    ours, theirs = load_records(shares), load_records(labels)
    np.testing.assert_array_equal(ours.counts, theirs.counts)
    np.testing.assert_allclose(ours.values, theirs.values, rtol=1e-3)  # the panel
    np.testing.assert_allclose(ours.own, theirs.own, rtol=1e-3)
    counted = [json.loads((run / "data.json").read_text()) for run in (shares, labels)]
    assert counted[0]["positives"] == counted[1]["positives"]
    assert counted[0]["fingerprint"] == counted[1]["fingerprint"]
    assert counted[0]["pixels"] != counted[1]["pixels"]
    assert evaluate(shares)["mask"]["iou"] == pytest.approx(evaluate(labels)["mask"]["iou"], abs=1e-3)
    map_scene(shares, root / "images" / "s0.tif", tmp_path / "map.tif")


@pytest.mark.parametrize(
    ("task", "classes", "mask"), [("binary", "[b]", "one"), ("multilabel", "[a,b]", "two")], ids=["binary", "multilabel"]
)
def test_shares_of_other_tasks_train(root, tmp_path, task, classes, mask):
    rng = np.random.default_rng(1)
    for i in range(6):
        planes = rng.random((1 if mask == "one" else 2, 64, 64)).astype(np.float32)
        planes[:, :3] = np.nan
        write_tif(root / mask / f"s{i}.tif", planes)
    words = [f"dataset.task={task}", f"dataset.classes={classes}", f"dataset.source.mask='{mask}/{{name}}.*'"]
    more = ["dataset.fractions=1", "sampler=balanced", "augment=[paste,d4]", "augment.paste.min_area=1"]
    assert 0 <= train(settings(tmp_path, *folder_data(root, *QUICK, *words, *more)), tmp_path / "run") <= 1
    assert np.isfinite(load_records(tmp_path / "run").values).all()


def test_borders_and_softened_labels_change_the_loss_and_are_kept_in_the_run(started):
    plain = losses(started(), "val")
    edged, softened = started("loss.edge_weight={amount: 5, sigma: 2}"), started("loss.label_smoothing=0.2")
    assert losses(edged, "val") != pytest.approx(plain, rel=1e-3)
    assert losses(softened, "val") != pytest.approx(plain, rel=1e-3)
    for run in (edged, softened):
        records, val = load_records(run), losses(run, "val")
        assert records.own.shape == (1, 2)
        assert abs(records.own.mean() - val[-1]) < 0.3  # of the same loss, over halves instead of batches
        assert evaluate(run)["mask"]["iou"] >= 0


def test_pasted_objects_bring_their_weights(started):
    run = started("dataset.source.weight='weights/{name}.*'", "augment=[paste,d4]", "augment.paste.min_area=1")
    assert np.isfinite(losses(run, "train")).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dataset.fractions=1", "dataset.mask_values=[0,1,2]"], "shares or labels; set dataset.mask_values=null"),
        (["dataset.fractions=100", "dataset.ignore_values=[255]"], "shares or labels; set dataset.ignore_values=null"),
        (["dataset.fractions=0"], "dataset.fractions=0: the value of a whole pixel has to be above 0"),
        (["dataset.fractions=1", "loss=lovasz"], "loss.terms.lovasz: Lovasz needs labels; found class shares"),
        (["dataset.fractions=1", "loss=ce_dice_boundary"], "loss.terms.boundary: Boundary needs labels"),
        (["loss.edge_weight={sgma: 2}"], r"loss\.edge_weight\.sgma: there is no such setting \(did you mean 'sigma'\?\)"),
        (["loss.edge_weight=3"], r"loss\.edge_weight=3: null or a mapping such as"),
    ],
)
def test_what_does_not_go_together(root, tmp_path, words, message):
    with pytest.raises(InputError, match=message):
        train(settings(tmp_path, *folder_data(root, *words)), tmp_path / "run")
    assert not (tmp_path / "cache").exists()  # before anything is decoded


def test_the_weight_of_a_batch_reaches_the_gradients_that_are_recorded(started):
    weighted, plain = (load_records(started(*words, "loss=ce")) for words in (["dataset.source.weight='weights/{name}.*'"], []))
    norms = [records.gradient["logits"][0] for records in (weighted, plain)]
    assert not np.allclose(*norms)
    assert torch.isfinite(torch.from_numpy(np.asarray(norms[0]))).all()
