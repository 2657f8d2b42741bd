"""Objects and their sizes against shapes whose sizes are known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rsseg.describe.objects import SMALL, SPECK, ObjectSizes, find_regions


def disc(radius, canvas):
    y, x = np.mgrid[:canvas, :canvas] - (canvas - 1) / 2
    return y**2 + x**2 <= radius**2


def test_a_disc_is_two_thirds_of_its_diameter_wide():
    sizes = ObjectSizes.of(find_regions(disc(60, 140)))
    assert sizes.count == 1
    assert sizes.pixels == pytest.approx([np.pi * 60**2] * 3, rel=0.01)
    assert sizes.width == pytest.approx(120 * 2 / 3, rel=0.02)
    assert sizes.small == 0


@pytest.mark.parametrize(("width", "expected"), [(2, 2), (3, 3 + 1 / 3), (4, 4), (10, 10), (15, 15 + 1 / 15)])
@pytest.mark.parametrize("turned", [False, True])
def test_a_strip_is_as_wide_as_it_is(width, expected, turned):
    strip = np.zeros((40, 3000), bool)
    strip[10 : 10 + width] = True
    assert ObjectSizes.of(find_regions(strip.T if turned else strip)).width == pytest.approx(expected, rel=0.005)


def test_a_slanted_strip_is_as_wide_as_a_straight_one():
    y, x = np.mgrid[:600, :600]
    assert ObjectSizes.of(find_regions(np.abs(y - x) <= 10 * np.sqrt(2) / 2)).width == pytest.approx(10, rel=0.05)


def test_pixels_that_touch_at_a_corner_are_one_object():
    assert find_regions(np.eye(7, dtype=bool))[0].tolist() == [7]


def test_specks_are_counted_apart_and_at_the_border_not_at_all():
    mask = np.zeros((60, 60), bool)
    mask[10:30, 10:30] = True
    for row in (40, 44, 48):
        mask[row, 10:12] = True  # three specks of two pixels
    mask[0, 40] = mask[59, 20] = mask[20, 0] = mask[30, 59] = True  # what is seen of objects outside, maybe
    objects = find_regions(mask)
    assert sorted(objects[0, objects[2] == 0].tolist()) == [1, 1, 1, 1]
    sizes = ObjectSizes.of(objects)
    assert (sizes.count, sizes.specks) == (1, 3)
    assert sizes.pixels == [400, 400, 400]
    assert sizes.small == 1


def test_small_is_a_share_of_pixels_not_of_objects():
    mask = np.zeros((200, 200), bool)
    mask[:150, :150] = True
    for column in range(0, 200, 10):
        mask[170:175, column : column + 5] = True
    sizes = ObjectSizes.of(find_regions(mask))
    assert sizes.count == 21
    assert sizes.pixels[1] == 25 < SMALL
    assert sizes.small == pytest.approx(500 / (150**2 + 500))


def test_no_objects():
    sizes = ObjectSizes.of(find_regions(np.zeros((5, 5), bool)))
    assert (sizes.count, sizes.specks, sizes.pixels) == (0, 0, [])
    assert np.isnan(sizes.width)


def by_flooding(mask):
    """Areas by flooding from pixel to pixel."""
    left, areas = {tuple(at) for at in np.argwhere(mask).tolist()}, []
    while left:
        queue, area = [left.pop()], 0
        while queue:
            y, x = queue.pop()
            area += 1
            near = {(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            queue += near
        areas.append(area)
    return sorted(areas)


@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_any_mask_is_cut_into_the_regions_that_flooding_finds(mask):
    objects = find_regions(mask)
    assert sorted(objects[0].tolist()) == by_flooding(mask)
    sizes = ObjectSizes.of(objects)
    assert sizes.count == sum(area >= SPECK for area in by_flooding(mask))
    edged = np.pad(mask, 1)
    depth = sum(
        min(np.hypot(y - i, x - j) for i, j in np.argwhere(~edged)) - 0.5 for y, x in np.argwhere(edged)
    )  # every pixel against every other
    assert objects[1].sum() == pytest.approx(depth)
