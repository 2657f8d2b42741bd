"""Checkpoint files: what is read is what was written, or is refused."""

import os
import random
import resource

import numpy as np
import pytest
import torch

from rsseg.checkpoints import DamagedError, plain_values, read_checkpoint, write_checkpoint
from rsseg.contract import InputError

WEIGHTS = {f"layer{i}.weight": torch.randn(40, 9, generator=torch.Generator().manual_seed(i)) for i in range(4)}
CONTENT = {"state_dict": WEIGHTS, "global_step": 7, "callbacks": {"timer": {"seconds": [0.5, 1]}}}


@pytest.fixture
def path(tmp_path):
    write_checkpoint(tmp_path / "a.ckpt", CONTENT)
    return tmp_path / "a.ckpt"


def same(content):
    return (
        content["global_step"] == 7
        and content["callbacks"] == CONTENT["callbacks"]
        and all(torch.equal(content["state_dict"][name], value) for name, value in WEIGHTS.items())
    )


def test_what_is_read_is_what_was_written(path):
    assert same(read_checkpoint(path))
    assert same(torch.load(path, weights_only=True))  # torch reads it too
    assert os.listdir(path.parent) == ["a.ckpt"]


def test_a_flipped_bit_is_seen_or_changes_nothing(path):
    """In every part of the file: records, their headers, the directory, its end."""
    whole, rng = path.read_bytes(), random.Random(0)
    tail = range(len(whole) - 80, len(whole))
    refused = 0
    for place in [*rng.sample(range(len(whole)), 200), *tail]:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        try:
            assert same(read_checkpoint(path)), place
        except DamagedError:
            refused += 1
    assert refused >= 220  # the rest is padding


def test_a_bit_that_zip_archives_have_no_sum_of_is_seen(path):
    """Of a record that the directory calls a folder, torch reads other weights without a word."""
    whole = bytearray(path.read_bytes())
    place = whole.rfind(b"PK\x01\x02", 0, whole.rfind(b"data/0")) + 38
    whole[place] ^= 16
    path.write_bytes(whole)
    with pytest.raises(DamagedError, match="its record archive/data/0 is called a folder"):
        read_checkpoint(path)


@pytest.mark.parametrize("size", [0, 1, 1000, -1000, -60, -20])
def test_a_cut_file_is_damaged(path, size):
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DamagedError, match=r"a\.ckpt is damaged"):
        read_checkpoint(path)


def test_a_file_with_the_check_sum_of_earlier_versions_is_read(path):
    """It was the comment of the zip archive, whose length is in its last two bytes."""
    path.write_bytes(path.read_bytes()[:-2] + bytes([16, 0]) + bytes(range(16)))
    assert same(read_checkpoint(path))


class Payload:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_file_does_not_run(path, tmp_path, legacy):
    torch.save({**CONTENT, "more": Payload(tmp_path / "mark")}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(InputError, match="damaged" if legacy else "might run code"):
        read_checkpoint(path)
    assert not (tmp_path / "mark").exists()


def test_damaged_weights_are_not_taken_for_pretrained_ones(path):
    from rsseg.models.weights import load_weights

    whole = bytearray(path.read_bytes())
    whole[whole.find(WEIGHTS["layer1.weight"].numpy().tobytes()) + 5] ^= 1
    path.write_bytes(whole)
    with pytest.raises(InputError, match=r"a\.ckpt can't be read as weights: the check sum of its record"):
        load_weights(torch.nn.Identity(), str(path))


def test_files_that_are_no_checkpoints(tmp_path, path):
    with pytest.raises(InputError, match="there is no"):
        read_checkpoint(tmp_path / "b.ckpt")
    with pytest.raises(InputError, match="can't be read"):
        read_checkpoint(tmp_path)
    write_checkpoint(path, {"weights": torch.ones(2)})
    with pytest.raises(InputError, match="no checkpoint of a run"):
        read_checkpoint(path)


def test_the_file_that_is_replaced_is_kept(path):
    previous = path.with_name("previous.ckpt")
    write_checkpoint(path, {**CONTENT, "global_step": 8}, previous)
    write_checkpoint(path, {**CONTENT, "global_step": 9}, previous)
    assert [read_checkpoint(p)["global_step"] for p in (path, previous)] == [9, 8]


def test_a_full_disk_leaves_the_file_as_it_was(path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(InputError, match=r"a\.ckpt can't be written \(File too large\)"):
            write_checkpoint(path, {"a": torch.zeros(100_000)}, path.with_name("previous.ckpt"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert same(read_checkpoint(path))
    assert os.listdir(path.parent) == ["a.ckpt"]


def test_only_what_can_be_read_again_is_written(path):
    with pytest.raises(InputError, match=r"the checkpoint\.callbacks\.mine would hold a Payload"):
        write_checkpoint(path, {"callbacks": {"mine": [Payload("")]}})
    values = plain_values({"a": np.float32(0.5), "b": (np.int64(3), True), "c": {"d"}, "e": torch.float16})
    assert values == {"a": 0.5, "b": (3, True), "c": {"d"}, "e": torch.float16}
    assert type(values["a"]) is float
