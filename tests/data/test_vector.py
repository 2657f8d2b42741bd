"""Vector masks: windows against the whole image burnt at once, against shapely, and what is refused."""

from dataclasses import replace

import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely
from rasterio.features import rasterize
from rasterio.transform import from_origin
from rasterio.windows import Window
from readers import read_window
from shapely.geometry import Point, Polygon, box
from stores import store_of
from tiny import compose, make_scene, mask_file, write_tif

from rsseg.assembly import make_setup, with_bands
from rsseg.contract import IGNORE, InputError
from rsseg.data import vector
from rsseg.data.files import Files, mask_settings
from rsseg.data.inspection import compare_scenes
from rsseg.data.labels import Labels
from rsseg.data.masks import Mask
from rsseg.data.scene import Scene, SceneReader
from rsseg.dataset import open_data
from rsseg.task import Binary, Multiclass, Multilabel

LABELS = Labels(Multiclass(("land", "house", "road")), None, [255])
GRID = from_origin(500000, 4000000, 10, 10)
RNG = np.random.default_rng(2)


@pytest.fixture
def image(tmp_path):
    return write_tif(tmp_path / "images/a.tif", np.ones((1, 90, 120), np.uint8), transform=GRID)


def blob(rng):
    centre = np.array([500000, 4000000]) + rng.random(2) * [1200, -900]
    angles = np.sort(rng.random(7)) * 2 * np.pi
    return Polygon(centre + rng.uniform(30, 200, (7, 1)) * np.stack([np.cos(angles), np.sin(angles)], axis=1))


def frame(n=25, **columns):
    rng = np.random.default_rng(4)
    return geopandas.GeoDataFrame(columns, geometry=[blob(rng) for _ in range(n)], crs="EPSG:32633")


def reader_of(image, path, attribute=None, values=(), **settings):
    settings |= {"attribute": attribute, "values": values}
    return SceneReader(make_scene("a", image, path, settings), [LABELS], [1])


@pytest.mark.parametrize("ending", ["gpkg", "geojson", "shp", "fgb"])
def test_windows_are_the_whole_burnt_at_once(tmp_path, image, ending):
    kinds = RNG.choice(["house", "road", "unclear"], 25)
    shapes, path = frame(kind=kinds), tmp_path / f"m.{ending}"
    crs = "EPSG:4326" if ending == "geojson" else "EPSG:3857"
    shapes.to_crs(crs).to_file(path, **({"SPATIAL_INDEX": "NO"} if ending == "fgb" else {}))  # an index sorts the features
    values = {"house": 1, "road": 2, "unclear": 255}
    reader = reader_of(image, path, "kind", tuple(values.items()))
    back = geopandas.read_file(path).to_crs("EPSG:32633").geometry
    pairs = [(shape, values[kind]) for shape, kind in zip(back, kinds, strict=True)]
    expected = rasterize(pairs, out_shape=(90, 120), transform=GRID)
    assert set(np.unique(expected)) == {0, 1, 2, 255}
    np.testing.assert_array_equal(reader.read_mask(Window(0, 0, 120, 90)), expected)
    for top in range(0, 90, 13):
        for left in range(0, 120, 37):
            got = read_window(reader, top, left, 40)[1]
            part = expected[top : top + 40, left : left + 40]
            np.testing.assert_array_equal(got[: part.shape[0], : part.shape[1]], part)


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:4326", "EPSG:3857"])
def test_lines_are_widened_by_metres_on_the_ground(tmp_path, image, crs):
    """Whatever the vectors' CRS; in that of the image, a UTM zone, metres are metres to 0.1 %."""
    lines = [
        shapely.LineString([(500100, 3999900), (500900, 3999300)]),
        shapely.LineString([(470000, 3999500), (500300, 3999505)]),
    ]
    far = shapely.LineString([(-80, 10), (-70, 20)])
    shapes = geopandas.GeoSeries(lines, crs="EPSG:32633").segmentize(100).to_crs(crs)
    away = geopandas.GeoSeries([far], crs="EPSG:4326").to_crs(crs)
    geopandas.GeoDataFrame(geometry=pd.concat([shapes, away])).to_file(tmp_path / "m.gpkg")
    got = reader_of(image, tmp_path / "m.gpkg", buffer=35).read_mask(Window(0, 0, 120, 90))
    rows, columns = np.indices((90, 120)) + 0.5
    points = shapely.points(500000 + 10 * columns, 4000000 - 10 * rows)
    distance = np.minimum(shapely.distance(points, lines[0]), shapely.distance(points, lines[1]))
    sure = abs(distance - 35) > 0.3
    assert 0 < got.sum() < got.size
    np.testing.assert_array_equal(got[sure] == 1, (distance < 35)[sure])


def test_a_pixel_belongs_to_the_polygon_around_its_centre(tmp_path, image):
    shapes = frame(9)
    shapes.to_file(tmp_path / "m.gpkg")
    got = reader_of(image, tmp_path / "m.gpkg").read_mask(Window(0, 0, 120, 90))
    rows, columns = np.indices((90, 120)) + 0.5
    x, y = 500000 + 10 * columns, 4000000 - 10 * rows
    np.testing.assert_array_equal(got == 1, shapely.contains_xy(shapes.geometry.union_all(), x, y))


def test_integers_need_no_mapping_and_the_last_feature_lies_on_top(tmp_path, image):
    squares = [box(500000, 3999900, 500100, 4000000), box(500050, 3999900, 500100, 4000000)]
    for values in ([1, 2], [1.0, 2.0]):
        geopandas.GeoDataFrame({"code": values}, geometry=squares, crs="EPSG:32633").to_file(tmp_path / "m.gpkg")
        vector._read.cache_clear()
        got = reader_of(image, tmp_path / "m.gpkg", "code").read_mask(Window(0, 0, 12, 1))
        assert got.tolist() == [[1] * 5 + [2] * 5 + [0] * 2]


def test_null_is_a_value_and_points_take_their_pixel(tmp_path, image):
    shapes = geopandas.GeoDataFrame(
        {"kind": ["road", None, "road"]},
        geometry=[Point(500015, 3999995), Point(500035, 3999995), None],
        crs="EPSG:32633",
    )
    shapes.to_file(tmp_path / "m.gpkg")
    got = reader_of(image, tmp_path / "m.gpkg", "kind", (("road", 2), ("null", 255))).read_mask(Window(0, 0, 5, 1))
    assert got.tolist() == [[0, 2, 0, IGNORE, 0]]


def test_one_file_for_all_scenes_or_for_some(tmp_path):
    for i, name in enumerate(["x_1", "x_2", "y_1"]):
        write_tif(tmp_path / f"images/{name}.tif", np.ones((1, 9, 9), np.uint8), transform=from_origin(100 * i, 100, 10, 10))
    one = geopandas.GeoDataFrame({"code": [1]}, geometry=[box(0, 0, 40, 100)], crs="EPSG:32633")
    for name in ("all", "x", "y"):
        one.to_file(tmp_path / f"{name}.geojson")
    split = {"train": 1.0}
    shared = Files(str(tmp_path), "images/{name}.tif", "all.geojson", split, "code").scenes("train")
    assert [mask_file(scene).name for scene in shared] == ["all.geojson"] * 3
    assert shared[0].masks[0].attribute == "code"
    some = Files(str(tmp_path), "images/{area}_{n}.tif", "{area}.geojson", split).scenes("train")
    assert [mask_file(scene).name for scene in some] == ["x.geojson", "x.geojson", "y.geojson"]
    readers = [SceneReader(scene, [LABELS], [1]) for scene in shared]  # those beyond all features are land
    assert [int(reader.read_mask(Window(0, 0, 9, 9)).sum()) for reader in readers] == [36, 0, 0]


@pytest.mark.parametrize(
    ("attribute", "values", "message"),
    [
        ("knd", (), r"m\.gpkg has no attribute knd \(did you mean 'kind'\?\).*\(kind, code\)"),
        ("kind", (), r"kind holds barn, house, but integers are expected, or dataset\.source\.values.*\{barn: 1\}"),
        ("kind", (("house", 1),), r"holds barn, which dataset\.source\.values does not know: \{house: 1\}"),
        ("code", (), r"code holds 1\.5"),
    ],
)
def test_attributes_that_do_not_fit(tmp_path, image, attribute, values, message):
    frame(2, kind=["house", "barn"], code=[1, 1.5]).to_file(tmp_path / "m.gpkg")
    with pytest.raises(InputError, match=message):
        reader_of(image, tmp_path / "m.gpkg", attribute, values)


def test_vector_files_that_do_not_fit(tmp_path, image):
    path = tmp_path / "m.gpkg"
    geopandas.GeoDataFrame(geometry=[box(0, 0, 1, 1)], crs="EPSG:32633").to_file(path)
    with pytest.raises(InputError, match=r"m\.gpkg does not overlap .*a\.tif: .* spans 0 to 1"):
        store_of([make_scene("a", image, path)], tmp_path / "store", LABELS, (1,))
    (tmp_path / "broken.gpkg").write_bytes(path.read_bytes()[:3000])
    with pytest.raises(InputError, match=r"broken\.gpkg can't be read as a vector file"):
        reader_of(image, tmp_path / "broken.gpkg")
    geopandas.GeoDataFrame(geometry=[box(0, 0, 1, 1)]).to_file(tmp_path / "bare.shp")
    with pytest.raises(InputError, match=r"bare\.shp has no CRS"):
        reader_of(image, tmp_path / "bare.shp")
    bare = write_tif(tmp_path / "bare.tif", np.ones((1, 9, 9), np.uint8), crs=None)
    with pytest.raises(InputError, match=r"bare\.tif has no coordinates"):
        reader_of(bare, path)
    multilabel = Labels(Multilabel(("a", "b")))
    with pytest.raises(InputError, match="one value a pixel, as vectors have, but a multilabel task needs 2"):
        SceneReader(make_scene("a", image, path), [multilabel], [1])


VRT = '<OGRVRTDataSource><OGRVRTLayer name="m"><SrcDataSource>{}</SrcDataSource></OGRVRTLayer></OGRVRTDataSource>'
PIPELINE = '{{"type": "gdal_streamed_alg", "command_line": "gdal vector pipeline ! read {} ! limit 1"}}'


@pytest.mark.parametrize("ending", ["gpkg", "geojson", "shp", "fgb"])
@pytest.mark.parametrize("text", [VRT, PIPELINE])
def test_a_vector_file_reads_no_other_file(tmp_path, image, ending, text):
    frame(2).to_file(tmp_path / "other.gpkg")
    path = tmp_path / f"m.{ending}"
    path.write_text(text.format(tmp_path / "other.gpkg"))
    with pytest.raises(InputError, match=rf"m\.{ending} can't be read as a vector file: it is no"):
        reader_of(image, path)


def test_a_geojson_may_begin_with_a_byte_order_mark(tmp_path, image):
    frame(2).to_crs(4326).to_file(tmp_path / "m.geojson")
    (tmp_path / "m.geojson").write_bytes(b"\xef\xbb\xbf\n" + (tmp_path / "m.geojson").read_bytes())
    assert reader_of(image, tmp_path / "m.geojson").size == (90, 120)


def test_an_empty_file_is_all_background(tmp_path, image):
    frame(1, code=[1]).iloc[:0].to_file(tmp_path / "m.gpkg")
    reader = reader_of(image, tmp_path / "m.gpkg", "code")
    assert not reader.read_mask(Window(0, 0, 120, 90)).any()


def test_images_without_features_are_told(tmp_path, caplog):
    """Between two images with features, and of whole images, not of blocks."""
    caplog.set_level("INFO")
    scenes = []
    for i, name in enumerate("abc"):
        place = from_origin(1000 * i, 320, 10, 10)
        path = write_tif(tmp_path / f"{name}.tif", np.ones((3, 32, 32), np.uint8), transform=place)
        scenes.append(Scene(name, path, (Mask(tmp_path / "m.gpkg"),)))
    places = [box(0, 0, 100, 100), box(2000, 0, 2100, 100)]
    geopandas.GeoDataFrame(geometry=places, crs="EPSG:32633").to_file(tmp_path / "m.gpkg")
    for region, told in ((None, 1), (Window(0, 0, 9, 9), 0)):
        caplog.clear()
        own = [replace(scene, region=region) for scene in scenes]
        compare_scenes(own, [scene.check([Labels(Binary(("house",)))], [1]) for scene in own], [1])
        assert caplog.text.count("no feature of their vector labels lies") == told
        assert caplog.text.count(f"(1 file, first {tmp_path / 'b.tif'})") == told


def test_settings_that_do_not_fit(tmp_path, image):
    for wrong in (["house"], ["house: x"], ["house: -1.5"], [1], "house: 1"):
        with pytest.raises(InputError, match=r"values=.*building: 1"):
            Files(str(tmp_path), "images/{n}.tif", "{n}.gpkg", None, "kind", wrong)
    with pytest.raises(InputError, match=r"values=.*building: 1"):
        Files(str(tmp_path), "images/{n}.tif", "{n}.gpkg", None, "kind", {"house": "1"})
    with pytest.raises(InputError, match=r"dataset\.source\.attribute"):
        Files(str(tmp_path), "images/{n}.tif", "{n}.gpkg", None, None, {"house": 1})


def test_parts_beside_a_shapefile_belong_to_the_scene(tmp_path, image):
    frame(1).to_file(tmp_path / "m.shp")
    names = {path.name for path in make_scene("a", image, tmp_path / "m.shp").files}
    assert names == {"a.tif", "m.shp", "m.dbf", "m.shx", "m.prj", "m.cpg"}


def test_a_file_that_changes_is_read_again(tmp_path, image):
    path = tmp_path / "m.gpkg"
    found = []
    for side in (200, 400):
        path.unlink(missing_ok=True)
        geopandas.GeoDataFrame(geometry=[box(500000, 4000000 - side, 500000 + side, 4000000)], crs="EPSG:32633").to_file(path)
        found.append(int((reader_of(image, path).read_mask(Window(0, 0, 120, 90)) == 1).sum()))
    assert found == [400, 1600]


def test_features_of_the_whole_earth_lie_on_a_scene(tmp_path, image):
    """Half of the Earth, as a rectangle of degrees: its edge at 15 degrees is the middle of the UTM zone."""
    halves = geopandas.GeoDataFrame(geometry=[box(-180, -90, 15, 90), box(15, -90, 180, 90)], crs="EPSG:4326")
    path = tmp_path / "world.gpkg"
    halves[halves.index == 0].to_file(path)
    shifted = write_tif(tmp_path / "b.tif", np.ones((1, 90, 120), np.uint8), transform=from_origin(499400, 4000000, 10, 10))
    found = reader_of(shifted, path).read_mask(Window(0, 0, 120, 90))
    assert (found[:, :60] == 1).all()
    assert (found[:, 60:] == 0).all()
    assert (reader_of(image, path).read_mask(Window(0, 0, 120, 90)) == 0).all()


def test_a_scene_across_the_antimeridian(tmp_path):
    scene = write_tif(
        tmp_path / "fiji.tif",
        np.ones((1, 40, 100), np.uint8),
        crs="EPSG:3832",
        transform=from_origin(3320000, -1900000, 1000, 1000),
    )
    path = tmp_path / "m.gpkg"
    geopandas.GeoDataFrame(geometry=[box(179.5, -80, 180, 80), box(-180, -80, -179.7, 80)], crs="EPSG:4326").to_file(path)
    found = reader_of(scene, path).read_mask(Window(0, 0, 100, 40))
    columns = np.arange(100) * 1000 + 3320500
    degrees = np.degrees(columns / 6378137) + 150
    assert (found == ((degrees > 179.5) & (degrees < 180.3))[None]).all()


def test_several_layers_want_a_name(tmp_path, image):
    path = tmp_path / "map.gpkg"
    outline = geopandas.GeoDataFrame(geometry=[box(500000, 3999100, 501200, 4000000)], crs="EPSG:32633")
    outline.to_file(path, layer="outline")
    frame(3).to_file(path, layer="buildings")
    with pytest.raises(
        InputError, match=r"map\.gpkg has the layers outline, buildings, and none is chosen: set dataset\.source\.layer=outline"
    ):
        reader_of(image, path)
    with pytest.raises(
        InputError,
        match=r"has the layers outline, buildings, and dataset\.source\.layer=building \(did you mean 'buildings'\?\)",
    ):
        reader_of(image, path, layer="building")
    found = reader_of(image, path, layer="buildings").read_mask(Window(0, 0, 120, 90))
    assert (found == rasterize(frame(3).geometry, out_shape=(90, 120), transform=GRID)).all()


def test_a_tile_without_features_needs_no_attribute(tmp_path, image):
    path = tmp_path / "empty.geojson"
    path.write_text('{"type": "FeatureCollection", "features": []}')
    assert (reader_of(image, path, "kind", (("house", 1),)).read_mask(Window(0, 0, 120, 90)) == 0).all()


def test_coordinates_that_are_no_degrees_are_named(tmp_path, image):
    path = tmp_path / "m.geojson"
    frame(2).set_crs("EPSG:4326", allow_override=True).to_file(path)
    with pytest.raises(
        InputError, match=r"m\.geojson has coordinates such as .*, which are no degrees, but its CRS is EPSG:4326"
    ):
        reader_of(image, path)


def test_values_as_a_list_are_those_of_a_mapping():
    mapping = {"Gebäude": 1, "Wohn:weg": 2, "null": 255}
    for values in (
        mapping,
        [f"{name}: {value}" for name, value in mapping.items()],
        ["Gebäude:1", " Wohn:weg : 2", "null:255"],
    ):
        assert mask_settings("source", "{n}.gpkg", "kind", values).values == tuple(mapping.items())


def test_features_that_lie_in_no_scene_of_a_split(tmp_path):
    """Vectors have no 0 and 255: the advice is theirs."""
    for i, name in enumerate("ab"):
        write_tif(tmp_path / f"images/{name}.tif", np.ones((3, 32, 32), np.uint8), transform=from_origin(1000 * i, 320, 10, 10))
    places = [box(0, 0, 100, 100), box(1000, 0, 1100, 100)]
    geopandas.GeoDataFrame({"code": [1, 0]}, geometry=places, crs="EPSG:32633").to_file(tmp_path / "m.gpkg")
    words = ["dataset=geotiff", f"dataset.source.root={tmp_path}", "dataset.source.mask=m.gpkg", f"output={tmp_path}"]
    words += ["dataset.source.attribute=code"]
    words += ["dataset.task=binary", "dataset.classes=[house]", "dataset.source.split={train: [a], val: [b]}"]
    setup, source = with_bands(make_setup(compose(words)))
    with pytest.raises(InputError, match=r"is labelled house \(.*\): no feature in these scenes has such"):
        open_data(setup.dataset, source, 32)
