import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rsseg.contract import InputError
from rsseg.inference.blending import Blend, Grid, Side, Windows, check_windows

KINDS = ("gaussian", "none")


@given(st.integers(1, 300), st.integers(4, 64), st.integers(0, 15))
def test_every_pixel_lies_in_a_core(length, size, margin):
    margin = min(margin, (size - 1) // 3)
    at = Side(length, Windows(size, margin, "gaussian", 1)).starts
    covered = {pixel for start in at for pixel in range(start + margin, start + size - margin)}
    assert covered >= set(range(length))
    assert at == sorted(set(at))
    assert at[0] == -margin
    if length + 2 * margin >= size:
        assert at[-1] + size == length + margin


def swept(shape, windows, planes, predicted):
    """The blended planes of a scene, from what is predicted of each window."""
    grid = Grid(shape, windows)
    lefts_of_all = grid.columns.starts
    blend, found = Blend(grid, planes, torch.device("cpu")), torch.full((planes, *shape), torch.nan)
    for strip in grid.strips:
        start = 0
        for first in range(0, len(lefts_of_all), windows.batch_size):
            lefts = lefts_of_all[first : first + windows.batch_size]
            blend.widen(strip, lefts[-1] + windows.size)
            for top in strip.tops:
                for left in lefts:
                    blend.add(strip, predicted(top, left), top, left)
            following = lefts_of_all[first + len(lefts) :]
            stop = max(0, following[0]) if following else shape[1]
            part = found[:, strip.first : strip.below, start:stop]
            assert part.isnan().all()
            part[:] = blend.take(strip, stop)
            start = stop
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(7, 9), (64, 64), (150, 201), (33, 300)])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_windows_that_agree_stay_as_they_are(kind, shape, batch_size):
    """A field cut into windows and blended is the field again, whatever the weights."""
    field = torch.from_numpy(np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32))
    padded = torch.from_numpy(np.pad(field.numpy(), ((0, 0), (50, 50), (50, 50)), "reflect"))

    def cut(top, left):
        return padded[:, top + 50 : top + 82, left + 50 : left + 82]

    found = swept(shape, Windows(32, 6, kind, batch_size), 2, cut)
    torch.testing.assert_close(found, field, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 100])
@pytest.mark.parametrize("shape", [(50, 61), (88, 61), (70, 40)])
def test_blended_values_are_the_weighted_mean(shape, batch_size):
    """Against the sum over all windows in NumPy float64."""
    windows, rng = Windows(24, 4, "gaussian", batch_size), np.random.default_rng(1)
    rows, columns = (Side(length, windows) for length in shape)
    tops, lefts = rows.starts, columns.starts
    said = {(top, left): rng.normal(size=(24, 24)) for top in tops for left in lefts}
    total, weight = np.zeros((2, 140, 120))
    for top in tops:
        for left in lefts:
            place = np.s_[top + 20 : top + 44, left + 20 : left + 44]
            total[place] += said[top, left] * np.outer(rows.weights[top], columns.weights[left])
            weight[place] += np.outer(rows.weights[top], columns.weights[left])
    inside = np.s_[20 : 20 + shape[0], 20 : 20 + shape[1]]
    found = swept(shape, windows, 1, lambda top, left: torch.from_numpy(said[top, left][None]).float())
    np.testing.assert_allclose(found[0].numpy(), total[inside] / weight[inside], atol=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((64, 8, "mean"), "blend=mean: gaussian or none is expected"),
        ((64, 32, "none"), "margin=32: windows of 64 px with blend=none have margins from 0 to 31"),
        ((64, 32, "gaussian"), "from 0 to 21"),
        ((64, -1, "none"), "margin=-1"),
    ],
)
def test_what_is_refused(words, message):
    with pytest.raises(InputError, match=message):
        check_windows(Windows(*words, 4))


@pytest.mark.parametrize("blend", KINDS)
@pytest.mark.parametrize("height", range(1, 500, 3))
def test_the_finished_rows_are_each_row_once(height, blend):
    """Scenes of any height, also those a little lower than a window: bands finish rows in order, none twice."""
    grid = Grid((height, 40), Windows(128, 16, blend, 4))
    assert [row for strip in grid.strips for row in range(strip.first, strip.below)] == list(range(height))
    assert [top for strip in grid.strips for top in strip.tops] == Side(height, Windows(128, 16, blend, 4)).starts
    assert grid.overlap <= 32  # what is kept for the whole width is no more than neighbours ordinarily share
