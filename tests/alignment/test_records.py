"""Records are read as they are needed: a comparison of many runs must not hold all their histograms."""

import json
import tracemalloc

import numpy as np
import pytest
import torch

from rsseg.alignment.records import Crossfit, Snapshot, load_records, snapshot_arrays, write_arrays
from rsseg.contract import InputError
from rsseg.metrics import SampledLogits

SCENES, CLASSES = 200, 6


@pytest.fixture
def run(tmp_path):
    """The records of one validation of a multiclass run, with a sparse histogram of 200 scenes."""
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
    sample = SampledLogits(torch.randn(50, CLASSES), *(torch.arange(50) for _ in range(2)), torch.ones(50).double())
    shot = Snapshot(3, histogram, sample, rng.integers(0, 9, (SCENES, CLASSES, 3)), Crossfit(*[confusion] * 3))
    for name in ("best", "last"):
        write_arrays(folder / f"{name}.npz", {f"mask/{key}": value for key, value in snapshot_arrays(shot).items()})
    return tmp_path, confusion, shot


def test_what_is_read_later_is_what_was_written(run):
    folder, confusion, shot = run
    records = load_records(folder)
    hits = confusion[:, 0].diagonal(axis1=1, axis2=2)
    expected = np.stack([hits, confusion[:, 0].sum(1) - hits, confusion[:, 0].sum(2) - hits], axis=-1)
    np.testing.assert_array_equal(records.counts[0], expected)
    assert records.own is None
    for found in (records.best, records.last):
        assert found.step == 3
        np.testing.assert_array_equal(found.histogram, shot.histogram)
        np.testing.assert_array_equal(found.boundary, shot.boundary)
        assert all(torch.equal(a, b) for a, b in zip(found.sample, shot.sample, strict=True))
        assert all((a == b).all() for a, b in zip(found.crossfit, shot.crossfit, strict=True))


def test_records_in_memory_are_a_fraction_of_a_histogram(run):
    folder, _, shot = run
    tracemalloc.start()
    kept = [load_records(folder) for _ in range(3)]
    assert all(records.best.histogram.any() for records in kept)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 0.1 * len(kept) * shot.histogram.nbytes  # 5.7 MB each


@pytest.mark.parametrize("name", ["best", "last", "step-000003"])
def test_a_byte_that_flipped_is_found_when_records_are_loaded(run, name):
    folder = run[0]
    path = folder / "records" / f"{name}.npz"
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 0xFF
    path.write_bytes(bytes(whole))
    with pytest.raises(InputError, match=f"{name}.npz can't be read"):
        load_records(folder)


def test_a_snapshot_of_another_head_is_refused(run):
    folder, _, shot = run
    write_arrays(folder / "records" / "best.npz", {f"water/{key}": value for key, value in snapshot_arrays(shot).items()})
    with pytest.raises(InputError, match="holds no head 'mask'"):
        load_records(folder)
