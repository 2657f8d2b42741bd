"""Baselines: constants and a logistic regression, held to NumPy and scikit-learn on whole scenes."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from stores import folder_scenes, store_of, whole_scene
from tiny import checker, coloured, write_tif

from rsseg.answer import count_baselines
from rsseg.comparison.question import Question
from rsseg.contract import IGNORE
from rsseg.data.files import Files
from rsseg.data.labels import make_mask_reader
from rsseg.evaluation import baselines as room
from rsseg.evaluation.baselines import baselines, constant, draw_pixels, fit_logistic
from rsseg.task import Binary, Centres, Multiclass, Multilabel, Regression

MULTICLASS = Multiclass(("a", "b", "c"))


def stores_of(root, folder, decoder):
    scenes = Files(str(root), "images/{name}.*", "masks/{name}.*", split={"train": 0.5, "val": 0.5})
    return {split: store_of(scenes.scenes(split), folder, decoder) for split in ("train", "val")}


def one_scene_counts(labels, predicted):
    """TP, FP, FN and TN of one class, both bool and of the same shape."""
    return [
        int((a & b).sum()) for a, b in ((labels, predicted), (~labels, predicted), (labels, ~predicted), (~labels, ~predicted))
    ]


def numpy_logits(store, scene, layer, bands):
    image, mask = whole_scene(store, scene)
    colours = (image.reshape(3, -1).T.astype(np.float64) - bands.mean) / bands.std
    return colours @ layer.weight.double().numpy().T + layer.bias.double().numpy(), mask


@pytest.fixture
def stores(folder_root, tmp_path):
    return {
        "train": store_of(folder_scenes(folder_root), tmp_path),
        "val": store_of(folder_scenes(folder_root, "val"), tmp_path),
    }


def test_multiclass_counts_are_numpys(stores, monkeypatch):
    monkeypatch.setattr(room, "WINDOW", 64)  # scenes of several windows
    train, val = stores.values()
    found = baselines(stores["train"], stores["val"], MULTICLASS, seed=3)
    assert list(found) == ["majority class", "logistic regression"]
    bands = train.census.bands
    pixels, labels = draw_pixels(train, 3)
    layer = fit_logistic((pixels - bands.mean) / bands.std, labels, MULTICLASS)
    every = np.concatenate([whole_scene(train, i)[1].ravel() for i in range(len(train))])
    majority = np.bincount(every[every != IGNORE]).argmax()
    for scene in range(len(val)):
        logits, mask = numpy_logits(val, scene, layer, bands)
        known = mask.ravel() != IGNORE
        true = mask.ravel()[known]
        for name, predicted in (
            ("majority class", np.full(len(true), majority)),
            ("logistic regression", logits.argmax(1)[known]),
        ):
            expected = [one_scene_counts(true == c, predicted == c) for c in range(3)]
            np.testing.assert_array_equal(found[name][scene], expected)
    hits = found["logistic regression"][..., 0].sum() / found["logistic regression"][:, 0].sum()
    assert hits > 0.9  # a scene's brightness follows its labels


def test_the_same_regression_as_scikit_learn(stores):
    train = stores["train"]
    bands = train.census.bands
    pixels, labels = draw_pixels(train, 0)
    pixels = (pixels - bands.mean) / bands.std
    for task, y in ((MULTICLASS, labels), (Binary(("b",)), (labels == 1).astype(np.uint8))):
        layer = fit_logistic(pixels, y, task)
        theirs = LogisticRegression(C=1.0, tol=1e-10, max_iter=5000).fit(pixels, y)
        np.testing.assert_allclose(layer.weight, theirs.coef_, atol=2e-3, rtol=2e-3)
        ours = pixels @ layer.weight.double().numpy().T + layer.bias.double().numpy()
        named = ours.argmax(1) if task.exclusive else ours[:, 0] > 0
        assert (named == theirs.predict(pixels)).mean() > 0.9999


def test_pixels_are_drawn_evenly_and_by_the_seed(stores, monkeypatch):
    train = stores["train"]
    pixels, labels = draw_pixels(train, 1)
    assert len(pixels) == len(labels) == len(train) * room.DRAWS * -(-room.PIXELS // (len(train) * room.DRAWS))
    assert IGNORE not in labels
    for other, same in ((1, True), (2, False)):
        assert np.array_equal(draw_pixels(train, other)[0], pixels) == same
    monkeypatch.setattr(room, "PIXELS", 48)
    few, of = draw_pixels(train, 1)
    assert len(few) == len(of) == 48 * len(train) // len(train)
    pairs = {(*image.reshape(3, -1).T[i], mask.ravel()[i]) for image, mask in map(whole_scene, [train] * 3, range(3))
             for i in range(mask.size)}  # fmt: skip
    assert {(*pixel, label) for pixel, label in zip(few, of, strict=True)} <= pairs


@pytest.fixture
def planes_root(tmp_path):
    """Four scenes of two labels each, of which one is unknown in places."""
    rng = np.random.default_rng(5)
    for i in range(4):
        planes = np.stack([checker(rng, 64, 2), checker(rng, 64, 2)])
        image = coloured(rng, planes.sum(axis=0))
        planes[1, :9] = planes[:, 60:] = IGNORE
        write_tif(tmp_path / f"images/{i}.tif", image)
        write_tif(tmp_path / f"masks/{i}.tif", planes)
    return tmp_path


def test_multilabel_counts_are_numpys(planes_root, tmp_path):
    task = Multilabel(("a", "b"))
    stores = stores_of(planes_root, tmp_path / "store", make_mask_reader(task))
    train, val = stores.values()
    found, bands = baselines(stores["train"], stores["val"], task), train.census.bands
    pixels, labels = draw_pixels(train, 0)
    assert (labels[:, 1] == IGNORE).any()
    layer = fit_logistic((pixels - bands.mean) / bands.std, labels, task)
    for label in (0, 1):  # each is a regression of its own
        known = labels[:, label] != IGNORE
        alone = LogisticRegression(C=1.0, tol=1e-10, max_iter=5000)
        alone.fit((pixels[known] - bands.mean) / bands.std, labels[known, label])
        np.testing.assert_allclose(layer.weight[label], alone.coef_[0], atol=2e-3, rtol=2e-3)
    for scene in range(len(val)):
        logits, mask = numpy_logits(val, scene, layer, bands)
        for label in (0, 1):
            known = mask[label].ravel() != IGNORE
            true = mask[label].ravel()[known] == 1
            ones = one_scene_counts(true, np.ones_like(true))
            np.testing.assert_array_equal(found["all positive"][scene, label], ones)
            np.testing.assert_array_equal(
                found["logistic regression"][scene, label], one_scene_counts(true, logits[known, label] > 0)
            )


def test_objects_and_real_values_have_none():
    assert baselines(None, None, Centres(("car",))) == baselines(None, None, Regression(("height",))) == {}


def test_all_positive_of_a_binary_task():
    census = SimpleNamespace(positives=np.array([[3], [0]]), valid=np.array([[10], [7]]))
    store = SimpleNamespace(task=Binary(("road",)), census=census)
    assert constant(store, store).tolist() == [[[3, 7, 0, 0]], [[0, 7, 0, 0]]]


def test_each_fold_has_those_of_its_own_training_scenes(tmp_path, monkeypatch):
    asked = []

    def call(module, function, folders, *given):
        asked.append(folders)
        return {"all positive": np.ones((4, 1, 4))}

    monkeypatch.setattr("rsseg.answer.scenes_version", lambda *_: "")
    monkeypatch.setattr("rsseg.answer.call_apart", call)
    folds = [
        SimpleNamespace(folder=tmp_path / name, data={"fingerprint": {"train": f"t-{name}", "val": f"v-{name}"}})
        for name in ("one", "two")
    ]
    pooled = SimpleNamespace(folds=folds, task=Binary(("road",)), records=SimpleNamespace(version=""))
    comparison = SimpleNamespace(runs=[[pooled]])
    for _ in range(2):
        assert count_baselines(comparison, Question(), tmp_path)["all positive"].shape == (4, 1, 4)
    assert asked == [[tmp_path / "one", tmp_path / "two"]]
    (key,) = json.loads((tmp_path / "baselines.json").read_text())
    assert "t-one" in key
    assert "v-two" in key
