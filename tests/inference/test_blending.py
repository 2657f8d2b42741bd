import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rsseg.contract import InputError
from rsseg.inference.blending import Blend, Windows, check_blend, place_windows, reflected, starts

KINDS = ("gaussian", "cosine", "none")


@given(st.integers(1, 300), st.integers(4, 64), st.integers(0, 15))
def test_every_pixel_lies_in_a_core(length, size, margin):
    margin = min(margin, (size - 1) // 3)
    at = starts(length, size, margin)
    covered = {pixel for start in at for pixel in range(start + margin, start + size - margin)}
    assert covered >= set(range(length))
    assert at == sorted(set(at))
    assert at[0] == -margin
    if length + 2 * margin >= size:
        assert at[-1] + size == length + margin


@given(st.integers(-40, 40), st.integers(1, 90), st.integers(1, 30))
def test_reflection_is_numpys(start, size, length):
    line = np.arange(length)
    after = max(0, start + size - length)
    padded = np.pad(line, (max(0, -start), after), mode="reflect") if length > 1 else np.zeros(max(0, -start) + 1 + after, int)
    first = start + max(0, -start)
    assert reflected(start, size, length).tolist() == padded[first : first + size].tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(7, 9), (64, 64), (150, 201), (33, 300)])
def test_windows_that_agree_stay_as_they_are(kind, shape):
    """A field cut into windows and blended is the field again, whatever the weights."""
    windows = Windows(32, 6, kind, 4)
    field = torch.from_numpy(np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32))
    blend = Blend(2, shape, windows, torch.device("cpu"))
    found, rows = torch.full_like(field, torch.nan), 0
    for top in blend.tops:
        assert blend.top == top
        for left in blend.lefts:
            at = [torch.from_numpy(reflected(start, 32, side)) for start, side in ((top, shape[0]), (left, shape[1]))]
            blend.add(field[:, at[0]][:, :, at[1]], left)
        first, last = blend.finished
        assert first == rows
        rows = last
        found[:, first:last] = blend.take()
        blend.advance()
    assert rows == shape[0]
    torch.testing.assert_close(found, field, rtol=1e-5, atol=1e-5)


def test_blended_values_are_the_weighted_mean():
    """Against the sum over all windows in NumPy float64."""
    shape, windows, rng = (50, 61), Windows(24, 4, "gaussian", 4), np.random.default_rng(1)
    (tops, down), (lefts, across) = (place_windows(side, *windows[:3]) for side in shape)
    said = rng.normal(size=(len(tops), len(lefts), 24, 24))
    total, weight = np.zeros((100, 120)), np.zeros((100, 120))
    for i, top in enumerate(tops):
        for j, left in enumerate(lefts):
            place = np.s_[top + 20 : top + 44, left + 20 : left + 44]
            total[place] += said[i, j] * np.outer(down[i], across[j])
            weight[place] += np.outer(down[i], across[j])
    expected = (total[20:70, 20:81]) / weight[20:70, 20:81]
    blend, found = Blend(1, shape, windows, torch.device("cpu")), []
    for i in range(len(tops)):
        for j, left in enumerate(lefts):
            blend.add(torch.from_numpy(said[i, j][None]).float(), left)
        found.append(blend.take().clone())
        blend.advance()
    np.testing.assert_allclose(torch.cat(found, 1)[0].numpy(), expected, atol=1e-4)


def test_cosine_weights_sum_to_one_between_neighbours():
    _, weights = place_windows(1000, 64, 8, "cosine")
    np.testing.assert_allclose(weights[0][-16:] + weights[1][:16], 1)
    assert (weights[0][16:-16] == 1).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((64, 8, "mean"), "blend=mean: gaussian, cosine, none is expected"),
        ((64, 20, "cosine"), "margin=20: windows of 64 px with blend=cosine have margins from 0 to 16"),
        ((64, 32, "gaussian"), "from 0 to 21"),
        ((64, -1, "none"), "margin=-1"),
    ],
)
def test_what_is_refused(words, message):
    with pytest.raises(InputError, match=message):
        check_blend(Windows(*words, 4))
