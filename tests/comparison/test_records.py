"""Records are read as they are needed, and damage is named: which file, what was found, what to do."""

import json
from dataclasses import replace

import numpy as np
import pytest
from run_folders import BINARY, make_records

from rsseg.comparison.records import PLACES, POINTS, load_records, read_arrays, write_arrays
from rsseg.contract import InputError

SCENES, CLASSES = 20, 6


def crossed_arrays(rng, scenes, classes):
    counts, calibrated = rng.integers(0, 99, (4, scenes, classes, 4)).astype(float), rng.random((scenes, classes, 15, 3))
    facts = {"steps": np.array([3, 3]), "untuned": np.array(""), "lost": rng.integers(0, 2, scenes)}
    return facts | {"counts": counts, "ece": calibrated[:, 0], "class_ece": calibrated, "brier": rng.random((scenes, 1, 2))}


def rewrite(path, **changes):
    """Change arrays of the head mask; None removes one."""
    arrays = read_arrays(path) | {f"mask/{name.replace('__', '.')}": array for name, array in changes.items()}
    write_arrays(path, {name: array for name, array in arrays.items() if array is not None})


@pytest.fixture
def large(tmp_path):
    """The records of one validation of a multiclass run."""
    rng, folder = np.random.default_rng(0), tmp_path / "records"
    folder.mkdir()
    head = {"task": "multiclass", "classes": [f"c{i}" for i in range(CLASSES)], "terms": ["ce"], "panel": {}}
    scenes = [f"s{i}" for i in range(SCENES)]
    about = {"format": 2, "scenes": scenes, "groups": [name[:2] for name in scenes]}
    about |= {"first_half": [True, False] * (SCENES // 2), "heads": {"mask": head}}
    (folder / "records.json").write_text(json.dumps(about))
    counts = rng.integers(0, 99, (SCENES, CLASSES, 4))
    arrays = {"step": 3, "counts": counts, "values": np.ones((0, 2)), "own": [1.0, 2.0], "quality": [0.5, 0.6, 0.55]}
    arrays |= {
        f"{place}.{name}": np.ones((1,) * n) for place in ("logits", "layer") for n, name in ((1, "norm"), (2, "cosine"))
    }
    write_arrays(folder / "step-000003.npz", {f"mask/{name}": value for name, value in arrays.items()})
    crossed = crossed_arrays(rng, SCENES, CLASSES)
    write_arrays(folder / "crossed.npz", {f"mask/{key}": value for key, value in crossed.items()})
    return tmp_path, counts, crossed


def test_what_is_read_is_what_was_written(large):
    folder, counts, crossed = large
    records = load_records(folder)
    np.testing.assert_array_equal(records.counts[0], counts)
    np.testing.assert_array_equal(records.optimistic, counts)
    assert records.own.tolist() == [[1, 2]]
    assert (records.groups[0], records.groups[12]) == ("s0", "s1")
    assert not records.last_is_best  # of one validation nothing is known
    for i, point in enumerate(POINTS):
        np.testing.assert_array_equal(records.at(point), crossed["counts"][i])
    assert records.calibration.keys() == {"ece", "class_ece", "brier"}
    np.testing.assert_array_equal(records.calibration["ece"], crossed["ece"])
    assert records.lost == crossed["lost"].sum()


def test_scores_of_the_test_split_are_on_its_scenes(large):
    folder, counts, _ = large
    with pytest.raises(InputError, match="no records of the test split"):
        load_records(folder, split="test")
    test = crossed_arrays(np.random.default_rng(1), 5, CLASSES)
    arrays = {"scenes": list("abcde"), "groups": list("xxyyz")} | {f"mask/{key}": value for key, value in test.items()}
    write_arrays(folder / "records" / "test.npz", arrays)
    records = load_records(folder, split="test")
    assert records.scenes == list("abcde")
    assert records.groups.tolist() == list("xxyyz")
    np.testing.assert_array_equal(records.at("fixed"), test["counts"][0])
    np.testing.assert_array_equal(records.counts[0], counts)  # those of validations


def test_each_scene_is_counted_by_the_checkpoint_that_the_other_half_chose():
    counts = np.arange(3 * 4 * 2 * 4, dtype=float).reshape(3, 4, 2, 4)
    first, quality = np.array([True, False, True, False]), np.array([[0.1, 0.9, 0.5], [0.8, np.nan, 0.4], [0.2, 0.3, 0.6]])
    records = replace(make_records(BINARY, "ce", 1), counts=counts, quality=quality, first=first, chosen=None)
    found = records.at("fixed")
    np.testing.assert_array_equal(found[first], counts[0][first])  # the second half chooses the first checkpoint
    np.testing.assert_array_equal(found[~first], counts[1][~first])
    np.testing.assert_array_equal(records.optimistic, counts[2])
    assert np.isnan(records.at("iou")).all()
    alone = replace(records, first=np.ones(4, dtype=bool))
    np.testing.assert_array_equal(alone.at("fixed"), counts[2])


@pytest.mark.parametrize("name", ["crossed", "step-000003"])
def test_a_byte_that_flipped_is_found_when_records_are_loaded(large, name):
    folder = large[0]
    path = folder / "records" / f"{name}.npz"
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 0xFF
    path.write_bytes(bytes(whole))
    with pytest.raises(InputError, match=f"{name}.npz can't be read"):
        load_records(folder)


def test_what_is_no_archive_is_damaged(large):
    path = large[0] / "records" / "crossed.npz"
    path.write_text("no archive")
    with pytest.raises(InputError, match=r"crossed.npz can't be read \(it is damaged\): train"):
        load_records(large[0])


def test_records_of_another_version_say_so(large):
    path = large[0] / "records" / "records.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "format"}))
    with pytest.raises(InputError, match=r"records of format 1, and this version of rsseg reads format 2: train the run again"):
        load_records(large[0])


def test_a_chosen_checkpoint_of_another_head_is_not_taken(large):
    folder, _, crossed = large
    write_arrays(folder / "records" / "crossed.npz", {f"water/{key}": value for key, value in crossed.items()})
    assert load_records(folder).chosen is None  # as of a head of real values


@pytest.fixture
def run(tmp_path):
    """The records of a binary run with one validation of two scenes."""
    head = {"task": "binary", "classes": ["building"], "terms": ["ce"], "panel": {"ce": {}}}
    (tmp_path / "records").mkdir()
    about = {"format": 2, "scenes": ["a", "b"], "groups": ["a", "b"], "first_half": [True, False], "heads": {"mask": head}}
    (tmp_path / "records" / "records.json").write_text(json.dumps(about))
    arrays = {"step": 1, "counts": np.random.default_rng(0).integers(0, 10**9, (2, 1, 4)), "values": np.ones((1, 2))}
    arrays |= {"own": [1.0, 1.0], "quality": [0.1, 0.2, 0.3]}
    arrays |= {f"{place}.norm": [1.0] for place in PLACES} | {f"{place}.cosine": [[1.0]] for place in PLACES}
    write_arrays(tmp_path / "records" / "step-000001.npz", {f"mask/{name}": array for name, array in arrays.items()})
    return tmp_path


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{", "can't be read"),
        ("[]", "can't be read: a mapping is expected"),
    ],
)
def test_a_damaged_description(run, text, found):
    (run / "records" / "records.json").write_text(text)
    with pytest.raises(InputError, match=rf"records\.json {found}.*: train the run again in a new folder"):
        load_records(run)


def test_flipped_bytes_are_noticed_or_harmless(run):
    path = run / "records" / "step-000001.npz"
    whole, good = load_records(run), path.read_bytes()
    noticed = 0
    for place in range(0, len(good), 7):
        spoilt = bytearray(good)
        spoilt[place] ^= 0xFF
        path.write_bytes(bytes(spoilt))
        try:
            np.testing.assert_array_equal(load_records(run).counts, whole.counts)
        except InputError as error:
            noticed += 1
            assert "records" in str(error)  # noqa: PT017
    assert noticed > len(good) // 7 // 2


@pytest.mark.parametrize("changes", [{"counts": np.zeros((4, 19, 6, 4))}, {"counts": None}, {"lost": None}])
def test_chosen_checkpoints_of_other_scenes_are_refused(large, changes):
    rewrite(large[0] / "records" / "crossed.npz", **changes)
    with pytest.raises(InputError, match=r"records are damaged, or not of one run .*: train the run again"):
        load_records(large[0])


@pytest.mark.parametrize(
    "changes",
    [
        {"groups": ["a"]},
        {"first_half": [True, False, True]},
        {"heads": {"mask": {"task": "binary"}}},
        {"heads": {"mask": {"task": "ternary", "classes": [], "terms": [], "panel": {}}}},
    ],
)
def test_a_description_of_something_else_is_refused(run, changes):
    path = run / "records" / "records.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputError, match=r"records are damaged, or not of one run .*: train the run again") as caught:
        load_records(run)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("changes", [{"values": None}, {"layer__cosine": None}, {"counts": np.zeros((3, 1, 4))}])
def test_a_validation_that_lacks_something_is_refused(run, changes):
    rewrite(run / "records" / "step-000001.npz", **changes)
    with pytest.raises(InputError, match=r"records are damaged, or not of one run .*: train the run again"):
        load_records(run)
