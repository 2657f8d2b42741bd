"""Objects decoded from vector layers, and moved with their windows, against boxes that are moved by themselves."""

import geopandas
import numpy as np
import pytest
import torch
from rasterio.windows import Window
from shapely.geometry import Point, box
from tiny import write_tif

from rsseg.contract import InputError
from rsseg.data.augment import D4, ScaleCrop, dihedral_matrix, erase, rescale
from rsseg.data.boxes import Boxes
from rsseg.data.masks import Mask
from rsseg.metrics.objects import labelled_objects
from rsseg.task import Centres
from rsseg.task.centres import OVERLAP, gaussian_radius

TWO = Centres(("car", "truck"))


def random_boxes(rng, count, size, smallest=3, largest=20):
    """Mask value, top, left, bottom, right; centres in different pixels, at least 4 apart so that none hides another."""
    cells = rng.choice((size // 6) ** 2, count, replace=False)
    centre = np.stack(np.divmod(cells, size // 6), axis=1) * 6 + rng.uniform(1, 5, (count, 2))
    sides = rng.uniform(smallest, largest, (count, 2))
    return np.column_stack([rng.integers(1, 3, count), centre - sides / 2, centre + sides / 2])


def table(target, task=TWO):
    """The objects of one window as sorted rows: label, row, column, height, width."""
    rows = labelled_objects(task.standardise(target), task).numpy()
    return rows[np.lexsort((rows[:, 4], rows[:, 3]))][:, [1, 3, 4, 5, 6]]


def rows_of(boxes):
    """The same of boxes, by hand."""
    label, top, left, bottom, right = boxes.T
    rows = np.column_stack([label - 1, (top + bottom) / 2, (left + right) / 2, bottom - top, right - left])
    return rows[np.lexsort((rows[:, 2], rows[:, 1]))]


def three_radii(height, width, overlap=0.7):
    """CornerNet's three cases, each the root of its quadratic, found by bisection on the IoU itself."""

    def iou(case, r):
        if case == "both inside":
            return max(height - 2 * r, 0) * max(width - 2 * r, 0) / (height * width)
        if case == "both outside":
            return height * width / ((height + 2 * r) * (width + 2 * r))
        common = max(height - r, 0) * max(width - r, 0)
        return common / (2 * height * width - common)

    found = []
    for case in ("both inside", "both outside", "shifted"):
        low, high = 0.0, max(height, width)
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if iou(case, middle) > overlap else (low, middle)
        found.append(low)
    return found


def test_the_radius_is_the_least_of_cornernets_three():
    for height, width in [(1, 1), (100, 100), (10, 5), (300, 7), (2.5, 64)]:
        assert float(gaussian_radius(height, width)) == pytest.approx(min(three_radii(height, width, OVERLAP)), abs=1e-6)


def test_heat_against_a_loop_over_objects():
    """Maxima of Gaussians around whole centre pixels; objects of two classes lie far enough apart not to hide each other."""
    boxes = np.array([[1, 10.0, 8.0, 70.0, 60.0], [1, 90.2, 90.0, 95.9, 101.0], [2, 100.0, 20.0, 104.0, 24.0]])
    target = torch.from_numpy(Boxes(TWO).draw(boxes, (128, 128)))[None]
    heat = TWO.standardise(target)[0, :2].double().numpy()
    expected = np.zeros((2, 128, 128))
    for label, row, column, height, width in rows_of(boxes):
        radius = max(2, int(min(three_radii(height, width))))
        for i in range(128):
            for j in range(128):
                down, across = i - int(row), j - int(column)
                if max(abs(down), abs(across)) <= radius:
                    value = np.exp(-(down**2 + across**2) / (2 * ((2 * radius + 1) / 6) ** 2))
                    expected[int(label), i, j] = max(expected[int(label), i, j], value)
    np.testing.assert_allclose(heat, expected, atol=1e-6)
    assert (heat == 1).sum() == 3


def test_objects_come_back_exactly():
    boxes = random_boxes(np.random.default_rng(0), 40, 96)
    target = torch.from_numpy(Boxes(TWO).draw(boxes, (96, 96)))[None]
    np.testing.assert_allclose(table(target), rows_of(boxes), atol=1e-4)
    scaled = TWO.scaled([10.0, 12.0], [4.0, 3.0])
    np.testing.assert_allclose(table(target, scaled), rows_of(boxes), atol=1e-4)


def test_parts_of_a_scene_are_parts_of_the_whole():
    boxes = random_boxes(np.random.default_rng(1), 40, 96)
    whole = Boxes(TWO).draw(boxes, (96, 96))
    shifted = boxes - np.array([0, 30, 40, 30, 40])
    np.testing.assert_allclose(Boxes(TWO).draw(shifted, (50, 33)), whole[:, 30:80, 40:73], atol=1e-5)


@pytest.mark.parametrize("element", range(8))
def test_turned_windows_hold_turned_boxes(element):
    boxes, size = random_boxes(np.random.default_rng(2), 30, 72), 72
    target = torch.from_numpy(Boxes(TWO).draw(boxes, (size, size)))[None]
    image = torch.rand(1, 1, size, size)
    # the draws of windows are searched for one that turns as wanted
    layers = {}
    for k in range(200):
        turned, layers = D4(seed=1, tasks=[TWO])(image, {"mask": target}, torch.tensor([k]))
        wanted = torch.rot90(image.flip(-1) if element >= 4 else image, element % 4, dims=(-2, -1))
        if torch.equal(turned, wanted):
            break
    else:
        pytest.fail("no such draw")
    corners = boxes[:, 1:].reshape(-1, 2, 2) - size / 2
    moved = corners @ dihedral_matrix(element).T + size / 2
    expected = np.column_stack([boxes[:, 0], moved.min(axis=1), moved.max(axis=1)])
    np.testing.assert_allclose(table(layers["mask"]), rows_of(expected), atol=1e-4)
    heat = TWO.standardise(layers["mask"])[:, :2]
    again = TWO.standardise(torch.from_numpy(Boxes(TWO).draw(expected, (size, size)))[None])[:, :2]
    assert float((heat - again).abs().max()) < 1e-5


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.0, 1.7, 3.0])
def test_scaled_windows_hold_scaled_boxes(scale):
    rng = np.random.default_rng(3)
    boxes, size = random_boxes(rng, 25, 96, smallest=8), 96
    keep = [i for i, own in enumerate(boxes) if abs(boxes[:, 1:3] - own[1:3]).max(axis=1).argsort().argmin() == i]
    target = torch.from_numpy(Boxes(TWO).draw(boxes[keep], (size, size)))[None]
    shift = np.array([[0.2, -0.1]]) * abs(1 - 1 / scale)
    _, layers = rescale(torch.rand(1, 1, size, size), {"mask": target}, np.array([scale]), shift, [TWO])
    corners = boxes[keep][:, 1:].reshape(-1, 2, 2) / size * 2 - 1
    moved = ((corners - shift) * scale + 1) / 2 * size
    expected = np.column_stack([boxes[keep][:, 0], moved.reshape(-1, 4)])
    inside = (moved.mean(axis=1) > 0.01) & (moved.mean(axis=1) < size - 0.01)
    np.testing.assert_allclose(table(layers["mask"]), rows_of(expected[inside.all(axis=1)]), atol=2e-3)


def test_scale_crop_scales_what_it_crops():
    boxes = np.array([[1, 30.0, 30.0, 38.0, 36.0]])
    target = torch.from_numpy(Boxes(TWO).draw(boxes, (64, 64)))[None]
    _, layers = ScaleCrop(seed=1, scale=(0.5, 0.5), tasks=[TWO])(torch.zeros(1, 1, 64, 64), {"mask": target}, torch.tensor([0]))
    np.testing.assert_allclose(table(layers["mask"])[0, 3:], [4, 3], atol=1e-4)


def test_labels_and_values_have_no_direction():
    mask = torch.arange(16, dtype=torch.uint8).view(1, 4, 4)
    from rsseg.task import Binary

    plain = D4(seed=1)(torch.zeros(1, 1, 4, 4), {"mask": mask}, torch.tensor([3]))[1]["mask"]
    assert torch.equal(
        D4(seed=1, tasks=[Binary(("a",))])(torch.zeros(1, 1, 4, 4), {"mask": mask}, torch.tensor([3]))[1]["mask"], plain
    )


def test_erased_pixels_are_unknown_and_objects_beside_them_stay():
    target = torch.from_numpy(Boxes(TWO).draw(np.array([[1, 10.0, 10.0, 50.0, 50.0]]), (64, 64)))[None]
    where = torch.zeros(1, 64, 64, dtype=torch.bool)
    where[:, :, :31] = True
    _, layers = erase(torch.zeros(1, 1, 64, 64), {"mask": target}, where)
    planes = TWO.standardise(layers["mask"])
    assert planes[:, :2, :, :31].isnan().all()
    assert len(table(layers["mask"])) == 0
    assert float(planes[0, 0, 30, 31]) == pytest.approx(np.exp(-1 / (2 * (7 / 6) ** 2)))  # the radius is 3


@pytest.fixture
def scene(tmp_path):
    """An image of 60 x 80 pixels of 0.5 m."""
    return write_tif(tmp_path / "image.tif", np.zeros((3, 60, 80), np.uint8))


def features(path, geometries, crs="EPSG:32633", **columns):
    geopandas.GeoDataFrame({**columns, "geometry": geometries}, crs=crs).to_file(path)
    return path


def test_features_in_another_crs_become_boxes_in_pixels(tmp_path, scene):
    shapes = [box(500_010, 3_999_985, 500_015, 3_999_990), Point(500_020, 3_999_990)]
    there = geopandas.GeoSeries(shapes, crs="EPSG:32633").to_crs("EPSG:4326")
    path = features(tmp_path / "objects.gpkg", list(there), "EPSG:4326", kind=["truck", "car"])
    mask_reader = Boxes(TWO, size=6)
    mask = Mask(path, attribute="kind", values=(("car", 1), ("truck", 2)))
    planes = mask_reader.read(mask, Window(0, 0, 80, 60), scene)
    np.testing.assert_allclose(table(torch.from_numpy(planes)[None]), [[0, 20, 40, 6, 6], [1, 25, 25, 10, 10]], atol=0.01)
    part = mask_reader.read(mask, Window(20, 10, 30, 40), scene)
    np.testing.assert_allclose(part, planes[:, 10:50, 20:50], atol=1e-4)


def test_points_without_a_size(tmp_path, scene):
    path = features(tmp_path / "points.gpkg", [Point(500_020, 3_999_990)])
    planes = Boxes(TWO).read(Mask(path), Window(0, 0, 80, 60), scene)
    one = TWO.scaled([0.0, 0.0], [1.0, 1.0])  # what a census of no sizes says
    rows = labelled_objects(one.standardise(torch.from_numpy(planes)[None]), one).numpy()
    np.testing.assert_allclose(rows[:, 3:], [[20, 40, np.nan, np.nan]], atol=1e-4)
    assert [len(values) for values in TWO.values(planes)] == [0, 0]


def test_ignored_features_are_unknown_boxes(tmp_path, scene):
    path = features(
        tmp_path / "objects.gpkg", [box(500_010, 3_999_985, 500_015, 3_999_990), Point(500_035, 3_999_975)], sort=[9, 1]
    )
    planes = Boxes(TWO, size=4, ignore=[9]).read(Mask(path, attribute="sort"), Window(0, 0, 80, 60), scene)
    unknown = np.isnan(planes[0])
    assert unknown[20:30, 20:30].all()
    assert unknown.sum() == 100
    assert len(table(torch.from_numpy(planes)[None])) == 1


@pytest.mark.parametrize("centre", [10.5, 10.0])
def test_an_ignored_point_is_unknown_as_the_box_that_it_stands_for(centre):
    point, around = (np.array([[9, *[centre - half] * 2, *[centre + half] * 2]]) for half in (0, 3))
    found, expected = (np.isnan(Boxes(TWO, size=6, ignore=[9]).draw(boxes, (20, 20))) for boxes in (point, around))
    np.testing.assert_array_equal(found, expected)
    assert np.isnan(Boxes(TWO, ignore=[9]).draw(point, (20, 20)))[0].nonzero() == (np.array([10]), np.array([10]))


def test_objects_are_counted_where_their_centres_lie():
    boxes = random_boxes(np.random.default_rng(4), 30, 96)
    target = Boxes(TWO).draw(boxes, (96, 96))
    target[:, :10] = np.nan
    hard = TWO.hard_labels(target)
    inside = boxes[(boxes[:, 1] + boxes[:, 3]) / 2 >= 10]
    assert [(hard[c] == 1).sum() for c in (0, 1)] == [(inside[:, 0] == c + 1).sum() for c in (0, 1)]
    assert (hard[:, :10] == 255).all()
    assert torch.equal(TWO.hard_labels(torch.from_numpy(target)[None])[0], torch.from_numpy(hard))
    heights, widths = TWO.values(target)
    np.testing.assert_allclose(sorted(heights), sorted(inside[:, 3] - inside[:, 1]), rtol=1e-5)
    np.testing.assert_allclose(sorted(widths), sorted(inside[:, 4] - inside[:, 2]), rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Boxes(TWO, size=0), "dataset.size has to be a number of 1 or more; found 0"),
        (lambda: Boxes(TWO, ignore=[1]), r"dataset.ignore_values=\[1\]: 1 is the class car"),
        (lambda: Boxes(TWO, ignore=["x"]), "mask values of features are expected, whole numbers"),
    ],
)
def test_mistakes_in_settings(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_a_class_that_is_not_known():
    Boxes(TWO, ignore=[7]).check_features("a.gpkg", np.array([1, 2, 7]))
    with pytest.raises(
        InputError, match=r"2 features have the mask value 3, but classes are .*: 1 car, 2 truck\. .*ignore_values=\[3\]"
    ):
        Boxes(TWO).check_features("a.gpkg", np.array([1, 3, 3]))
