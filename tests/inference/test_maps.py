from itertools import pairwise

import geopandas
import numpy as np
import pytest
import rasterio
import torch
from rasterio.control import GroundControlPoint
from rasterio.features import rasterize
from rasterio.transform import from_origin
from scipy.ndimage import label as components
from scipy.ndimage import maximum_filter
from tiny import open_files, write_tif

from rsseg.files import UnwritableError
from rsseg.inference.maps import bands_of, kinds_of, made_by, new_map, write_styles
from rsseg.inference.trained import Head
from rsseg.inference.vectors import Objects, write_polygons
from rsseg.metrics.objects import SCORE
from rsseg.task import Binary, Centres, Multiclass, Multilabel, Regression

THREE = Multiclass(("land", "water", "road"))
COLOURS = ["#102030", "#405060", "#708090"]
PLACE = {"crs": "EPSG:32633", "transform": from_origin(500000, 4000000, 0.5, 0.5)}
POINTS = [GroundControlPoint(row, col, 500000 + 10 * col, 4000000 - 10 * row) for row in (0, 300) for col in (0, 700)]
BY_POINTS = {"gcps": POINTS, "crs": "EPSG:32633"}


def written(path, kind, task, planes, hidden, dtype="uint8", threshold=None, place=PLACE, how="{}"):
    bands = bands_of(kind, Head(task, None if task.real else tuple(COLOURS[: len(task.label_names)])), threshold, dtype)
    with new_map(path, "mask", bands, hidden.shape, place, {"RSSEG": how}) as output:
        for top in range(0, hidden.shape[0], 100):
            rows, parts = slice(top, top + 100), (slice(0, 300), slice(300, None))
            output.write(top, [output.block(planes[:, rows, part], hidden[rows, part]) for part in parts])
    return rasterio.open(path)


def probabilities(channels, height=300, width=700, exclusive=True):
    torch.manual_seed(0)
    logits = torch.randn(channels, height, width)
    return logits.softmax(0) if exclusive else logits.sigmoid()


@pytest.fixture
def hidden():
    found = np.zeros((300, 700), bool)
    found[40:90, :50] = True
    return found


def test_labels_are_a_cog_with_classes(tmp_path, hidden):
    planes = probabilities(3)
    with written(tmp_path / "map.tif", "labels", THREE, planes, hidden) as raster:
        expected = np.where(hidden, 255, planes.argmax(0).numpy())
        assert (raster.read(1) == expected).all()
        assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert raster.overviews(1) == [2]
        assert (raster.crs.to_epsg(), raster.transform) == (32633, PLACE["transform"])
        assert raster.nodata == 255
        assert raster.colormap(1)[1][:3] == (0x40, 0x50, 0x60)
        assert raster.tags(1) == {"CLASS_0": "land", "CLASS_1": "water", "CLASS_2": "road"}
        assert set(np.unique(raster.read(1, out_shape=(150, 350)))) <= {0, 1, 2, 255}
    assert [path.name for path in tmp_path.iterdir()] == ["map.tif"]


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_probabilities_can_be_read_again(tmp_path, hidden, dtype):
    planes = probabilities(3)
    with written(tmp_path / "map.tif", "probabilities", THREE, planes, hidden, dtype) as raster:
        found = raster.read(masked=True) * np.array(raster.scales)[:, None, None]
        assert (np.ma.getmaskarray(found) == hidden).all()
        np.testing.assert_allclose(found[:, ~hidden], planes.numpy()[:, ~hidden], atol=0.0021 if dtype == "uint8" else 0.0003)
        assert raster.descriptions == THREE.classes


def test_every_kind_of_head(tmp_path, hidden):
    several = Multilabel(("road", "roof"))
    planes = probabilities(2, exclusive=False)
    with written(tmp_path / "a.tif", "labels", several, planes, hidden) as raster:
        assert (raster.read()[:, ~hidden] == (planes > 0.5).numpy()[:, ~hidden]).all()
        assert raster.descriptions == ("road", "roof")
    tuned = torch.tensor([0.4, -0.4])
    with written(tmp_path / "t.tif", "labels", several, planes, hidden, threshold=tuned) as raster:
        assert (raster.read()[:, ~hidden] == (planes > tuned.sigmoid()[:, None, None]).numpy()[:, ~hidden]).all()
    heights = Regression(("height",), units=("m",))
    values = 30 * torch.randn(1, 300, 700)
    with written(tmp_path / "b.tif", "labels", heights, values, hidden) as raster:
        assert np.isnan(raster.read(1)[hidden]).all()
        assert (raster.read(1)[~hidden] == values[0].numpy()[~hidden]).all()
        assert (raster.units, raster.descriptions) == (("m",), ("height",))
    with written(tmp_path / "c.tif", "entropy", Binary(("roof",)), probabilities(1, exclusive=False), hidden) as raster:
        assert 0.5 < raster.read(1)[~hidden].mean() / 250 < 1
    assert kinds_of(heights) == ("labels", "disagreement")
    assert kinds_of(Centres(("car",))) == ("labels",)


def test_control_points_stay(tmp_path, hidden):
    with written(tmp_path / "map.tif", "labels", THREE, probabilities(3), hidden, place=BY_POINTS) as raster:
        assert len(raster.gcps[0]) == 4
        assert raster.gcps[1].to_epsg() == 32633


def test_what_made_a_map_is_read_and_the_map_closed(tmp_path, hidden):
    path, how = tmp_path / "map.tif", '{"tta": "d4"}'
    written(path, "labels", THREE, probabilities(3), hidden, how=how).close()
    write_polygons(tmp_path / "map.GPKG", path, {1: {1: "water"}}, 0, 0, {"RSSEG": how})
    for made in (path, tmp_path / "map.GPKG"):
        assert made_by(made) == {"tta": "d4"}
        assert str(made) not in open_files(tmp_path)  # on Windows an open file can't be replaced


@pytest.mark.parametrize("name", ["a.tif", "a.gpkg", "a.vrt"])
@pytest.mark.parametrize("content", [b"", b"no map", b"II*\0"])
def test_nothing_is_said_of_what_made_a_file_that_can_not_be_read(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert made_by(tmp_path / name) == made_by(tmp_path / "none.tif") == {}


def test_nothing_is_left_of_a_map_that_failed(tmp_path, hidden):
    with (
        pytest.raises(ZeroDivisionError),
        new_map(tmp_path / "map.tif", "mask", bands_of("labels", Head(THREE), None, "uint8"), (9, 9), {}, {}),
    ):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(UnwritableError, match=r"map.tif can't be written"):
        written(tmp_path / "file" / "map.tif", "labels", THREE, probabilities(3), hidden)


def test_styles_name_the_classes(tmp_path):
    path = tmp_path / "map.tif"
    write_styles(path, [("background", COLOURS[0]), ("roof & <tiles>", COLOURS[1])], transparent=0)
    text = (tmp_path / "map.qml").read_text()
    assert 'value="0" color="#102030" label="background" alpha="0"' in text
    assert 'label="roof &amp; &lt;tiles&gt;" alpha="255"' in text
    assert "<Category>roof &amp; &lt;tiles&gt;</Category>" in (tmp_path / "map.tif.aux.xml").read_text()


def test_polygons_are_the_areas_of_the_labels(tmp_path):
    """Their areas sum to the pixels of each class; small ones go; holes stay holes."""
    labels = np.zeros((80, 100), np.uint8)
    labels[10:40, 10:60] = 1
    labels[20:30, 20:40] = 0  # a hole
    labels[35, 50] = 2  # of one pixel
    labels[60:70, 60:90] = 2
    labels[75:, :] = 255
    path = write_tif(tmp_path / "map.tif", labels[None], nodata=255)
    count = len(write_polygons(tmp_path / "a.gpkg", path, {1: {1: "roof", 2: "road"}}, 0, 0))
    frame = geopandas.read_file(tmp_path / "a.gpkg")
    assert count == len(frame) == sum(components(labels == label)[1] for label in (1, 2))
    assert frame.crs.to_epsg() == 32633
    for name, label in (("roof", 1), ("road", 2)):
        own = frame[frame["class"] == name]
        assert own.geometry.area.sum() == pytest.approx((labels == label).sum() / 4)
        assert own["area"].sum() == pytest.approx((labels == label).sum() / 4)
    assert len(write_polygons(tmp_path / "b.gpkg", path, {1: {1: "roof", 2: "road"}}, 1, 0)) == 2
    roof = geopandas.read_file(tmp_path / "b.gpkg").set_index("class").geometry["roof"]
    assert roof.area == pytest.approx((labels == 1).sum() / 4)
    write_polygons(tmp_path / "c.gpkg", path, {1: {1: "roof"}}, 0, 2)
    assert geopandas.read_file(tmp_path / "c.gpkg").geometry.iloc[0].area == pytest.approx(roof.area, rel=0.1)


def test_simplified_neighbours_share_their_border(tmp_path):
    rng = np.random.default_rng(0)
    edge = (50 + 6 * np.sin(np.arange(100) / 7) + rng.integers(-1, 2, 100)).astype(int)
    labels = (np.arange(100)[None] >= edge[:, None]).astype(np.uint8) + 1
    path = write_tif(tmp_path / "map.tif", labels[None])
    write_polygons(tmp_path / "a.gpkg", path, {1: {1: "a", 2: "b"}}, 0, 3)
    frame = geopandas.read_file(tmp_path / "a.gpkg")
    assert len(frame) == 2
    assert frame.geometry.area.sum() == pytest.approx(2500)
    assert frame.geometry.iloc[0].intersection(frame.geometry.iloc[1]).area == pytest.approx(0, abs=1e-6)
    points = sum(len(area.geoms[0].exterior.coords) for area in frame.geometry)
    assert points < 60


@pytest.mark.parametrize(
    ("place", "metres"),
    [
        ({"crs": "EPSG:3857", "transform": from_origin(1e6, 8399738, 1, 1)}, 0.5),  # Web Mercator at 60 degrees
        ({"crs": "EPSG:2263", "transform": from_origin(984000, 200000, 1, 1)}, 0.3048),  # feet
        ({"crs": "EPSG:4326", "transform": from_origin(179.9995, 10, 1e-5, 1e-5)}, 1.105),  # across the antimeridian
        ({"crs": 'LOCAL_CS["site",UNIT["metre",1]]', "transform": from_origin(0, 100, 2, 2)}, 2.0),
        ({"crs": None}, 1.0),
        (BY_POINTS, 10.0),
    ],
)
def test_areas_are_those_of_the_ground_in_any_crs(tmp_path, place, metres):
    labels = np.zeros((100, 100), np.uint8)
    labels[10:60, 10:60] = labels[80, 80] = 1
    path = write_tif(tmp_path / "map.tif", labels[None], **({"transform": None} | place))
    assert len(write_polygons(tmp_path / "a.gpkg", path, {1: {1: "roof"}}, 9 * metres**2, metres)) == 1
    frame = geopandas.read_file(tmp_path / "a.gpkg")
    assert frame["area"].iloc[0] == pytest.approx(2500 * metres**2, rel=0.02)
    assert frame.geometry.is_valid.all()
    if place["crs"] == "EPSG:4326":  # the square is given in the CRS of the map
        assert frame.crs.to_epsg() == 4326
        assert np.ptp(frame.total_bounds[1::2]) == pytest.approx(50e-5)
    if place == BY_POINTS:
        assert frame.crs.to_epsg() == 32633
        assert frame.total_bounds == pytest.approx([500100, 3999400, 500600, 3999900], rel=0, abs=0.01)


def test_polygons_without_coordinates_lie_where_qgis_draws_the_map(tmp_path):
    """QGIS gives an image without a place the transform (0, 1, 0, 0, 0, -1): its first row lies from 0 down to -1."""
    labels = np.zeros((40, 70), np.uint8)
    labels[3:20, 5:30] = labels[30:, 60:] = 1
    path = write_tif(tmp_path / "map.tif", labels[None], crs=None, transform=None)
    write_polygons(tmp_path / "a.gpkg", path, {1: {1: "roof"}}, 0, 0)
    frame = geopandas.read_file(tmp_path / "a.gpkg")
    burnt = rasterize(frame.geometry, out_shape=labels.shape, transform=from_origin(0, 0, 1, 1))
    assert (burnt == labels).all()
    assert frame["area"].tolist() == [17 * 25, 100]


def test_labels_that_overlap_are_simplified_each_for_itself(tmp_path):
    labels = np.zeros((2, 60, 60), np.uint8)
    labels[0, 5:40, 5:40] = labels[1, 20:55, 20:55] = 1
    path = write_tif(tmp_path / "map.tif", labels)
    assert len(write_polygons(tmp_path / "a.gpkg", path, {1: {1: "a"}, 2: {1: "b"}}, 0, 1)) == 2
    frame = geopandas.read_file(tmp_path / "a.gpkg")
    assert frame.geometry.area.tolist() == pytest.approx([35 * 35 / 4] * 2)


@pytest.mark.parametrize("rows", [(0, 300), (0, 13, 14, 15, 140, 300)])
@pytest.mark.parametrize("columns", [(0, 400), (0, 1, 255, 257, 300, 400)])
def test_objects_are_those_of_the_whole_scene_however_it_is_cut(rows, columns):
    """Against SciPy's maximum of the neighbours."""
    rng, task = np.random.default_rng(0), Centres(("car", "boat"))
    heat = rng.random((2, 300, 400), np.float32) * (rng.random((2, 300, 400)) < 0.005).astype(np.float32)
    hidden = rng.random((300, 400)) < 0.3
    planes, objects = torch.cat([torch.from_numpy(heat), torch.zeros(4, 300, 400)]), Objects("mask", task, (300, 400))
    for top, below in pairwise(rows):
        parts = [(slice(top, below), slice(*ends)) for ends in pairwise(columns)]
        objects.write(top, [objects.block(planes[:, own, part], hidden[own, part]) for own, part in parts])
    found = torch.cat(objects._found)[:, [1, 3, 4]].int().tolist()
    highest = (heat == maximum_filter(heat, (1, 3, 3), mode="constant")) & (heat >= SCORE) & ~hidden
    assert sorted(found) == np.argwhere(highest).tolist()


def test_objects_are_located_by_control_points(tmp_path):
    image, task = write_tif(tmp_path / "i.tif", np.zeros((1, 40, 50), np.uint8), transform=None, **BY_POINTS), Centres(("car",))
    for name, centres in (("one", [(20, 30)]), ("none", [])):
        planes, objects = torch.zeros(task.outputs, 40, 50), Objects("mask", task, (40, 50))
        for row, column in centres:
            planes[0, row, column] = 1
        objects.write(0, [objects.block(planes, np.zeros((40, 50), bool))])
        assert objects.save(tmp_path / f"{name}.gpkg", image, {}) == len(centres)
        frame = geopandas.read_file(tmp_path / f"{name}.gpkg")
        assert frame.crs.to_epsg() == 32633
        found = [(shape.centroid.x, shape.centroid.y) for shape in frame.geometry]  # an offset of 0 is a pixel's corner
        assert found == [pytest.approx((500000 + 10 * x, 4000000 - 10 * y), rel=0, abs=0.01) for y, x in centres]
