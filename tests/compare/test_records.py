"""Records are read as they are needed, and damage is named: which file, what was found, what to do."""

import json

import numpy as np
import pytest

from rsseg.compare.records import PLACES, load_records, read_arrays, write_arrays
from rsseg.compare.tuning import cross_fit
from rsseg.contract import InputError
from rsseg.metrics.calibration import SCORES, calibration
from rsseg.metrics.scores import class_counts
from rsseg.task import Binary

SCENES, CLASSES = 20, 6


@pytest.fixture
def large(tmp_path):
    """The records of one validation of a multiclass run."""
    rng, folder = np.random.default_rng(0), tmp_path / "records"
    folder.mkdir()
    head = {"task": "multiclass", "classes": [f"c{i}" for i in range(CLASSES)], "terms": ["ce"], "panel": {}}
    about = {"scenes": ["a"] * SCENES, "first_half": [True, False] * (SCENES // 2), "heads": {"mask": head}}
    (folder / "records.json").write_text(json.dumps(about))
    confusion = rng.integers(0, 99, (SCENES, 1, CLASSES, CLASSES))
    arrays = {"step": 3, "confusion": confusion, "values": np.ones((0, 2))}
    arrays |= {
        f"{place}.{name}": np.ones((1,) * n) for place in ("logits", "layer") for n, name in ((1, "norm"), (2, "cosine"))
    }
    write_arrays(folder / "step-000003.npz", {f"mask/{name}": value for name, value in arrays.items()})
    histogram = np.zeros((SCENES, CLASSES + 1, 2, 256), dtype=np.int64)
    histogram[..., 100:140] = rng.integers(0, 99, (*histogram.shape[:3], 40))
    shot = {"step": 3, "lost": 0, "histogram": histogram, "boundary": rng.integers(0, 9, (SCENES, CLASSES, 3))}
    shot |= {f"crossfit.{name}": confusion + i for i, name in enumerate(("fixed", "iou", "dice"))}
    write_arrays(folder / "best.npz", {f"mask/{key}": value for key, value in shot.items()})
    return tmp_path, confusion, shot


def test_what_is_read_is_what_was_written(large):
    folder, confusion, shot = large
    records = load_records(folder)
    hits = confusion[:, 0].diagonal(axis1=1, axis2=2)
    wrong, missed = confusion[:, 0].sum(1) - hits, confusion[:, 0].sum(2) - hits
    rest = confusion[:, 0].sum((1, 2))[:, None] - hits - wrong - missed
    expected = np.stack([hits, wrong, missed, rest], axis=-1)
    np.testing.assert_array_equal(records.counts[0], expected)
    assert records.own is None
    assert records.best.step == 3
    np.testing.assert_array_equal(records.at("fixed"), expected)
    np.testing.assert_array_equal(records.at("contours"), shot["boundary"])
    for point, name in (("untuned", "fixed"), ("iou", "iou"), ("dice", "dice")):
        np.testing.assert_array_equal(records.at(point), class_counts(shot[f"crossfit.{name}"], records.task)[..., :3])
    for name, (score, _) in SCORES.items():
        assert score(records.calibration[name].sum(0)) == calibration(shot["histogram"], records.task)[name]


@pytest.mark.parametrize("name", ["best", "step-000003"])
def test_a_byte_that_flipped_is_found_when_records_are_loaded(large, name):
    folder = large[0]
    path = folder / "records" / f"{name}.npz"
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 0xFF
    path.write_bytes(bytes(whole))
    with pytest.raises(InputError, match=f"{name}.npz can't be read"):
        load_records(folder)


def test_what_is_no_archive_is_damaged(large):
    path = large[0] / "records" / "best.npz"
    path.write_text("no archive")
    with pytest.raises(InputError, match=r"best.npz can't be read \(it is damaged\): train"):
        load_records(large[0])


def test_a_snapshot_of_another_head_is_refused(large):
    folder, _, shot = large
    write_arrays(folder / "records" / "best.npz", {f"water/{key}": value for key, value in shot.items()})
    with pytest.raises(InputError, match="lacks step, boundary of head mask"):
        load_records(folder)


@pytest.fixture
def run(tmp_path):
    """The records of a binary run with one validation of two scenes."""
    head = {"task": "binary", "classes": ["building"], "terms": ["ce"], "panel": {"ce": {}}}
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "records.json").write_text(
        json.dumps({"scenes": ["a", "b"], "first_half": [True, False], "heads": {"mask": head}})
    )
    arrays = {"step": 1, "confusion": np.random.default_rng(0).integers(0, 10**9, (2, 1, 2, 2)), "values": np.ones((1, 2))}
    arrays |= {f"{place}.norm": [1.0] for place in PLACES} | {f"{place}.cosine": [[1.0]] for place in PLACES}
    write_arrays(tmp_path / "records" / "step-000001.npz", {f"mask/{name}": array for name, array in arrays.items()})
    return tmp_path


def rewrite(path, **changes):
    """Change arrays of the head mask; None removes one."""
    arrays = read_arrays(path) | {f"mask/{name.replace('__', '.')}": array for name, array in changes.items()}
    write_arrays(path, {name: array for name, array in arrays.items() if array is not None})


def test_what_is_whole_is_read(run):
    assert load_records(run).steps.tolist() == [1]
    write_arrays(run / "records" / "best.npz", {"mask/step": 1, "mask/boundary": np.zeros((2, 1, 3), dtype=int)})
    assert (load_records(run).best.step, load_records(run).best.lost) == (1, 0)
    assert np.isnan(load_records(run).at("iou")).all()


def test_a_binary_run_is_tuned_where_a_class_is_in_both_halves(run):
    histogram = np.zeros((2, 1, 2, 256), dtype=int)
    histogram[:, 0, 1, 100], histogram[:, 0, 0, [90, 95]] = 1, 1
    arrays = {"mask/step": 1, "mask/boundary": np.zeros((2, 1, 3), dtype=int), "mask/histogram": histogram}
    write_arrays(run / "records" / "best.npz", arrays)
    records, first = load_records(run), np.array([True, False])
    assert records.task == Binary(("building",))
    for point in ("iou", "dice"):
        fixed, tuned = cross_fit(histogram, point, first)
        np.testing.assert_array_equal(records.at("untuned"), fixed)
        np.testing.assert_array_equal(records.at(point), tuned)
    histogram[1, 0, 1] = 0
    write_arrays(run / "records" / "best.npz", arrays)
    records = load_records(run)
    assert np.isnan(records.at("dice")).all()
    assert records.best.untuned.startswith("tuning on one half of the scenes and scoring on the other needs 1 class")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{", "can't be read"),
        ("[]", "can't be read: a mapping is expected"),
        ('{"scenes": ["a"]}', "lacks scenes or first_half or heads"),
        (
            '{"scenes": ["a"], "first_half": [true], "heads": {"mask": {"task": "binary"}}}',
            "lacks classes, terms, panel of head mask",
        ),
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
            assert "step-000001.npz" in str(error) or "not validated" in str(error)  # noqa: PT017
    assert noticed > len(good) // 7 // 2


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"values": None}, "lacks values of head mask"),
        ({"layer__cosine": None}, r"lacks layer\.cosine of head mask"),
        ({"confusion": np.zeros((3, 1, 2, 2))}, r"holds 3 scenes and 1 losses, records\.json names 2 and 1"),
        ({"values": np.ones((2, 2))}, r"holds 2 scenes and 2 losses, records\.json names 2 and 1"),
    ],
)
def test_a_validation_that_lacks_something(run, changes, found):
    rewrite(run / "records" / "step-000001.npz", **changes)
    with pytest.raises(InputError, match=rf"step-000001\.npz {found}: train"):
        load_records(run)


@pytest.mark.parametrize(
    ("arrays", "found"),
    [
        ({"other/step": 1}, "lacks step, boundary of head mask"),
        (
            {"mask/step": 1, "mask/boundary": np.zeros((2, 1, 3)), "mask/crossfit.fixed": np.zeros((2, 1, 2, 2))},
            r"lacks crossfit\.iou, crossfit\.dice of head mask",
        ),
    ],
)
def test_a_snapshot_that_lacks_something(run, arrays, found):
    write_arrays(run / "records" / "best.npz", arrays)
    with pytest.raises(InputError, match=rf"best\.npz {found}: train"):
        load_records(run)
