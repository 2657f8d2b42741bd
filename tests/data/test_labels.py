import numpy as np
import pytest

from rsseg.contract import InputError
from rsseg.data.labels import Labels, Shares
from rsseg.task import Binary, Multiclass, Multilabel

THREE = Multiclass(("a", "b", "c"))


def test_integers_of_any_dtype():
    raw = np.array([[[7, -1, 300]]], dtype=np.int16)
    assert Labels(THREE, [7, 300, 5], [-1]).decode(raw).tolist() == [[0, 255, 1]]


def test_table_and_search_agree():
    labels = Labels(THREE, [3, [9, 200], 0], [255])
    raw = np.random.default_rng(0).choice(np.array([3, 9, 200, 0, 255], np.uint8), (1, 20, 20))
    assert (labels.decode(raw) == labels.decode(raw.astype(np.int32))).all()


def test_colours():
    labels = Labels(THREE, ["#ff0000", "#00ff00", "#0000ff"], ["#000000"])
    raw = np.zeros((3, 1, 4), np.uint8)
    raw[0, 0, 0] = raw[1, 0, 1] = raw[2, 0, 2] = 255
    assert labels.decode(raw).tolist() == [[0, 1, 2, 255]]


def test_multilabel_planes():
    labels = Labels(Multilabel(("a", "b")), [0, 1], [9])
    assert labels.decode(np.array([[[1, 0]], [[9, 1]]], np.uint8)).tolist() == [[[1, 0]], [[255, 1]]]


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_unknown_value_is_named_with_its_count(dtype):
    with pytest.raises(InputError, match=r"value 4 \(2 pixels\).*mask_values=\[0, 1, 2\]"):
        Labels(THREE).decode(np.array([[[0, 4, 4]]], dtype=dtype))


def test_grey_masks_are_told_of_a_threshold():
    with pytest.raises(InputError, match=r"\.threshold=127, .* ranges such as .*\"0-127\",\"128-255\"") as caught:
        Labels(Binary(("x",))).decode(np.arange(256, dtype=np.uint8)[None, None])
    assert "ignore_values=[2" not in str(caught.value)
    ranges = Labels(Binary(("x",)), ["0-0", "1-255"])
    assert ranges.decode(np.array([[[0, 1, 255]]], np.uint8)).tolist() == [[0, 1, 1]]


def test_unknown_colour_is_named():
    with pytest.raises(InputError, match="#010203"):
        Labels(THREE, ["#ff0000", "#00ff00", "#0000ff"]).decode(np.array([1, 2, 3], np.uint8).reshape(3, 1, 1))


@pytest.mark.parametrize(
    ("values", "ignore", "message"),
    [
        ([0, 1, "#ffffff"], [], "mix"),
        ([0, 1, 1], [], "two meanings"),
        ([0, 1, 2], [2], "two meanings"),
        (["#ff", "#00ff00", "#0000ff"], [], "no colour"),
        ([0.5, 1, 2], [], "integers or colours"),
    ],
)
def test_bad_tables(values, ignore, message):
    with pytest.raises(InputError, match=message):
        Labels(THREE, values, ignore)


def test_the_advice_to_ignore_a_value_keeps_those_that_are_ignored():
    with pytest.raises(InputError, match=r"dataset\.ignore_values=\[5,255\]"):
        Labels(Binary(("water",)), ignore=[255]).decode(np.array([[[0, 5]]]))


def test_a_share_may_be_rounded_beyond_a_whole_pixel():
    mask = Shares(Binary(("water",), soft=True), 1).decode(np.array([[[1.0000001, -1e-7, 0.5]]]))
    assert mask.tolist() == [[[1.0, 0.0, 0.5]]]
