"""Records that are damaged: which file, what was found, what to do."""

import json

import numpy as np
import pytest

from rsseg.alignment.records import PLACES, load_records, read_arrays, write_arrays
from rsseg.contract import InputError


@pytest.fixture
def run(tmp_path):
    """The records of a binary run with one validation of two scenes."""
    head = {"task": "binary", "classes": ["building"], "terms": ["ce"], "panel": {"ce": {}}}
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "records.json").write_text(json.dumps({"scenes": ["a", "b"], "heads": {"mask": head}}))
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


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{", "can't be read"),
        ("[]", "lacks scenes or heads"),
        ('{"scenes": ["a"]}', "lacks scenes or heads"),
        ('{"scenes": ["a"], "heads": {"mask": {"task": "binary"}}}', "lacks classes, terms, panel of head mask"),
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
            np.testing.assert_array_equal(load_records(run).confusion, whole.confusion)
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
            {"mask/step": 1, "mask/boundary": np.zeros((2, 1, 3)), "mask/sample.logits": np.zeros((1, 2))},
            "holds logits of a sample alone",
        ),
    ],
)
def test_a_snapshot_that_lacks_something(run, arrays, found):
    write_arrays(run / "records" / "best.npz", arrays)
    with pytest.raises(InputError, match=rf"best\.npz {found}: train"):
        load_records(run)
