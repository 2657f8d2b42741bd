"""Files on another grid, alpha and mask bands, and handles: against arithmetic, pyproj and rasterio's own functions."""

import json
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
import rasterio
from PIL import Image
from pyproj import Transformer
from rasterio.control import GroundControlPoint
from rasterio.enums import Resampling
from rasterio.transform import from_origin
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window
from readers import read_labels, read_window
from tiny import checker, make_scene, mask_file, write_tif

from rsseg.contract import IGNORE, InputError
from rsseg.data import raster
from rsseg.data.inspection import compare_scenes
from rsseg.data.labels import Labels
from rsseg.data.scene import Scene, SceneReader
from rsseg.task import Multiclass

TASK = Multiclass(("a", "b", "c"))
LABELS = Labels(TASK, [3, 7, -2], [-1])
VALUES = np.array([3, 7, -2, -1], np.int16)
RNG = np.random.default_rng(5)
GRID = from_origin(500000, 4000000, 10, 10)


def whole(reader):
    height, width = reader.size
    return Window(0, 0, width, height)


def decoded(raw, outside):
    labels = np.array([0, 1, 2, IGNORE], np.uint8)[np.argmax(raw[None] == VALUES[:, None, None], axis=0)]
    return np.where(outside, IGNORE, labels)


@pytest.mark.parametrize("nodata", [None, 3])  # 3 is a label: it stays one
def test_a_mask_of_larger_pixels_is_repeated_and_ignored_beyond_its_edge(tmp_path, nodata):
    image = write_tif(tmp_path / "i.tif", np.ones((1, 60, 80), np.uint8), transform=GRID)
    raw = VALUES[RNG.integers(0, 4, (20, 20))]
    coarse = from_origin(500000 + 200, 4000000 - 100, 20, 20)
    mask = write_tif(tmp_path / "m.tif", raw[None], transform=coarse, nodata=nodata)
    reader = SceneReader(make_scene("s", image, mask), [LABELS], [1])
    rows, columns = np.indices((60, 80))
    row, column = (rows - 10) // 2, (columns - 20) // 2  # what 20 m pixels from 100 m below and 200 m right cover
    outside = (row < 0) | (row >= 20) | (column < 0) | (column >= 20)
    expected = decoded(raw[row.clip(0, 19), column.clip(0, 19)], outside)
    np.testing.assert_array_equal(read_labels(reader, whole(reader)), expected)
    np.testing.assert_array_equal(read_window(reader, 5, 9, 32)[1], expected[5:37, 9:41])


@pytest.fixture
def abroad(tmp_path):
    """An image in UTM and its mask in Web Mercator, which covers most of it."""
    image = write_tif(tmp_path / "i.tif", RNG.integers(1, 99, (2, 300, 200), dtype=np.uint8), transform=GRID)
    x, y = Transformer.from_crs(32633, 3857, always_xy=True).transform(500500, 3999800)
    mask = write_tif(
        tmp_path / "m.tif",
        VALUES[RNG.integers(0, 4, (180, 200))][None],
        crs="EPSG:3857",
        transform=from_origin(x, y, 17, 13),
        nodata=-1,
    )
    return make_scene("s", image, mask)


def test_a_mask_in_another_crs_takes_the_pixel_under_each_centre(abroad):
    reader = SceneReader(abroad, [LABELS], [1, 2])
    got = reader.read_mask(whole(reader))
    rows, columns = np.indices((300, 200)) + 0.5
    x, y = Transformer.from_crs(32633, 3857, always_xy=True).transform(500000 + 10 * columns, 4000000 - 10 * rows)
    with rasterio.open(mask_file(abroad)) as file:
        raw, inverse = file.read(1), ~file.transform
    column, row = inverse.a * x + inverse.c, inverse.e * y + inverse.f
    outside = (row < 0) | (row >= 180) | (column < 0) | (column >= 200)
    expected = decoded(raw[row.astype(int).clip(0, 179), column.astype(int).clip(0, 199)], outside)
    clear = (abs(row - row.round()) > 0.13) & (abs(column - column.round()) > 0.13)  # GDAL places within an eighth of a pixel
    assert clear.mean() > 0.5
    np.testing.assert_array_equal(got[clear], expected[clear])


def test_windows_of_a_warped_mask_are_warpedvrts(abroad):
    reader = SceneReader(abroad, [LABELS], [1])
    grid = {"crs": "EPSG:32633", "transform": GRID, "width": 200, "height": 300}
    with rasterio.open(mask_file(abroad)) as file, WarpedVRT(file, src_nodata=None, nodata=None, add_alpha=True, **grid) as vrt:
        expected = decoded(vrt.read(1), vrt.read(2) == 0)
    assert 0.3 < (expected != IGNORE).mean() < 0.9
    np.testing.assert_array_equal(read_labels(reader, whole(reader)), expected)
    for top, left in ((0, 0), (140, 77), (290, 190)):
        window = Window(left, top, min(64, 200 - left), min(64, 300 - top))
        rows, columns = window.toslices()
        np.testing.assert_array_equal(read_labels(reader, window), expected[rows, columns])


@pytest.mark.parametrize(("nodata", "tagged"), [(None, False), (-9999.0, True), (-9999.0, False)])
def test_stacked_files_are_warped_bilinearly_and_missing_beyond(tmp_path, nodata, tagged):
    first = RNG.integers(0, 3000, (3, 96, 80), dtype=np.uint16)
    image = write_tif(tmp_path / "a.tif", first, transform=GRID)
    other = RNG.normal(100, 20, (2, 25, 30)).astype(np.float32)
    if nodata is not None:
        other[:, 3:6, 4:8] = nodata
    places = {"crs": "EPSG:32633", "transform": from_origin(500200, 4000000 - 100, 20, 20)}
    stacked = write_tif(tmp_path / "b.tif", other, nodata=nodata if tagged else None, **places)
    reader = SceneReader(Scene("s", image, stack=(stacked,), nodata=None if tagged else nodata), [LABELS], [5, 2, 4])
    got, missing = reader.read_pixels(whole(reader))
    assert got.dtype == np.float32
    grid = {"crs": "EPSG:32633", "transform": GRID, "width": 80, "height": 96, "resampling": Resampling.bilinear}
    beyond = np.nan if nodata is None else nodata
    with rasterio.open(stacked) as file, WarpedVRT(file, src_nodata=nodata, nodata=beyond, **grid) as vrt:
        expected = vrt.read()
    absent = np.isnan(expected[0]) if nodata is None else expected[0] == nodata
    np.testing.assert_array_equal(missing, absent)
    assert 0.3 < absent.mean() < 0.9
    np.testing.assert_allclose(got[0][~absent], expected[1][~absent], rtol=1e-5)
    np.testing.assert_array_equal(got[1][~absent], first[1][~absent])
    np.testing.assert_allclose(got[2][~absent], expected[0][~absent], rtol=1e-5)
    assert (got[:, absent] == 0).all()


def test_a_no_data_value_that_a_file_can_not_hold_is_none_of_it(tmp_path):
    image = write_tif(tmp_path / "a.tif", np.ones((1, 40, 40), np.float32), transform=GRID)
    place = from_origin(500000 + 200, 4000000, 20, 20)
    stacked = write_tif(tmp_path / "b.tif", np.full((1, 20, 10), 7, np.uint8), transform=place)
    reader = SceneReader(Scene("s", image, stack=(stacked,), nodata=-9999), [LABELS], [2])
    got, missing = reader.read_pixels(whole(reader))
    assert missing[:, :20].all()
    assert not missing[:, 20:].any()
    assert (got[0, :, 20:] == 7).all()


def test_files_of_one_band_each_and_of_different_types(tmp_path):
    arrays = [RNG.integers(0, 200, (1, 40, 50)).astype(dtype) for dtype in (np.uint8, np.int16, np.float32)]
    image, *stack = (write_tif(tmp_path / f"{i}.tif", array) for i, array in enumerate(arrays))
    reader = SceneReader(Scene("s", image, stack=tuple(stack)), [LABELS], [3, 1, 2])
    got, missing = reader.read_image(4, 7, 32)
    assert not missing.any()
    np.testing.assert_array_equal(got, np.concatenate([arrays[i] for i in (2, 0, 1)])[:, 4:36, 7:39].astype(np.float32))
    assert SceneReader(reader.scene, [LABELS], [2, 1]).dtype == np.int16  # of the bands that are read


def test_alpha_is_no_band_but_says_what_is_missing(tmp_path, caplog):
    caplog.set_level("INFO", "rsseg")
    image = RNG.integers(1, 255, (4, 30, 40), dtype=np.uint8)
    image[3] = 255
    image[3, :7, :5] = 0
    path = write_tif(tmp_path / "i.tif", image)  # GDAL marks the fourth of four bytes as alpha
    scene = make_scene("s", path, write_tif(tmp_path / "m.tif", np.full((1, 30, 40), 3, np.int16)))
    assert list(scene.named_bands()) == [1, 2, 3]
    reader = SceneReader(scene, [LABELS], [1, 2, 3])
    compare_scenes([scene], [reader.facts], reader.bands)
    assert "Images with an alpha band" in caplog.text
    np.testing.assert_array_equal(read_labels(reader, whole(reader)) == IGNORE, image[3] == 0)
    caplog.clear()
    infrared = SceneReader(scene, [LABELS], [4, 1])  # asked for, it is a band like any other
    np.testing.assert_array_equal(infrared.read_image(0, 0, 30)[0], image[[3, 0], :, :30])
    assert not infrared.read_pixels(whole(infrared))[1].any()
    compare_scenes([scene], [infrared.facts], infrared.bands)
    assert not caplog.text


@pytest.mark.parametrize("internal", [True, False])
def test_mask_bands_say_what_is_missing(tmp_path, internal):
    path = write_tif(tmp_path / "i.tif", np.full((3, 30, 40), 9, np.uint8))
    valid = RNG.random((30, 40)) < 0.5
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal), rasterio.open(path, "r+") as file:
        file.write_mask(valid)
    scene = make_scene("s", path, write_tif(tmp_path / "m.tif", np.full((1, 30, 40), 3, np.int16)))
    assert (tmp_path / "i.tif.msk").is_file() != internal
    assert (tmp_path / "i.tif.msk" in scene.files) != internal
    reader = SceneReader(scene, [LABELS], [1])
    np.testing.assert_array_equal(read_labels(reader, whole(reader)) == 0, valid)


def test_a_masks_nodata_is_ignored_unless_it_is_a_label(tmp_path):
    image = write_tif(tmp_path / "i.tif", np.ones((1, 2, 2), np.uint8))
    raw = np.array([[[3, 9], [7, -2]]], np.int16)
    for nodata, expected in ((9, [[0, 255], [1, 2]]), (3, None)):
        mask = write_tif(tmp_path / f"m{nodata}.tif", raw, nodata=nodata)
        reader = SceneReader(make_scene("s", image, mask), [LABELS], [1])
        if expected:
            assert reader.read_mask(whole(reader)).tolist() == expected
        else:
            with pytest.raises(Exception, match="value 9"):
                reader.read_mask(whole(reader))


def test_threads_have_handles_of_their_own_and_read_the_same(abroad):
    reader = SceneReader(abroad, [LABELS], [1, 2])
    expected = read_labels(reader, whole(reader))
    found, handles = [], set()

    def work():
        strips = {top: read_labels(reader, Window(0, top, 200, 50)) for top in range(0, 300, 50)}
        found.extend(bool((strip == expected[top : top + 50]).all()) for top, strip in strips.items())
        handles.add(id(raster.Raster(mask_file(abroad), abroad.image).opened))

    keep = raster.Raster(mask_file(abroad), abroad.image).opened
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found)
    assert len(found) == 48
    assert id(keep) not in handles


def test_handles_are_bounded(tmp_path):
    raster._open.cache_clear()
    paths = [write_tif(tmp_path / f"{i}.tif", np.ones((1, 2, 2), np.uint8)) for i in range(150)]
    for path in paths:
        raster.open_raster(path)
    assert raster._open.cache_info().currsize == 128


def test_the_files_of_a_vrt_belong_to_the_scene(tmp_path):
    tif = write_tif(tmp_path / "a.tif", np.ones((1, 8, 8), np.uint8), transform=GRID)
    text = (
        '<VRTDataset rasterXSize="8" rasterYSize="8"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        '<SourceFilename relativeToVRT="1">a.tif</SourceFilename><SourceBand>1</SourceBand></SimpleSource>'
        "</VRTRasterBand></VRTDataset>"
    )
    (tmp_path / "b.vrt").write_text(text)
    assert set(Scene("s", tmp_path / "b.vrt").files) == {tmp_path / "b.vrt", tif}


@pytest.mark.parametrize("form", [{}, {"compress": "deflate", "tiled": True, "blockxsize": 64, "blockysize": 64}])
def test_a_raster_is_whole_or_not_there_wherever_the_disk_ends(tmp_path, form):
    """GDAL raises nothing about what it writes as it closes a file. A limit on the size of files stands in for the disk's."""
    code = (
        "import json, resource, signal, sys; from pathlib import Path; import numpy as np, rasterio\n"
        "from rsseg.data.raster import new_raster; from rsseg.files import UnwritableError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "path, form, seen = Path(sys.argv[1]), json.loads(sys.argv[2]), []\n"
        "pixels = np.random.default_rng(0).integers(0, 255, (3, 200, 200), dtype=np.uint8)\n"
        "for limit in [*range(1000, 125000, 6000), resource.RLIM_INFINITY]:\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))\n"
        "    try:\n"
        "        with new_raster(path, count=3, height=200, width=200, dtype='uint8', **form) as file:\n"
        "            file.write(pixels)\n"
        "        seen.append(bool((rasterio.open(path).read() == pixels).all()))\n"
        "    except UnwritableError:\n"
        "        seen.append([p.name for p in path.parent.iterdir()])\n"
        "print(json.dumps(seen))"
    )
    words = [sys.executable, "-c", code, tmp_path / "a.tif", json.dumps(form)]
    *refused, whole = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert whole is True
    assert refused[:15] == [[]] * 15
    assert all(one in ([], True) for one in refused)


@pytest.mark.parametrize(
    ("code", "corner"), [(32633, (500000, 5000000)), (3413, (-200000, -300000)), (32760, (340000, 5000000))]
)
def test_a_map_of_the_whole_earth_lies_on_any_scene(tmp_path, code, corner):
    """Each pixel takes the value of the degree that its centre lies in, as pyproj has it: near the pole, at 179 degrees."""
    place = from_origin(*corner, 1000, 1000)
    image = write_tif(tmp_path / "i.tif", np.ones((1, 40, 50), np.uint8), crs=f"EPSG:{code}", transform=place)
    world = RNG.integers(0, 3, (180, 360), dtype=np.uint8)
    mask = write_tif(tmp_path / "m.tif", world[None], crs="EPSG:4326", transform=from_origin(-180, 90, 1, 1))
    reader = SceneReader(make_scene("s", image, mask), [Labels(TASK)], [1])
    rows, columns = np.indices((40, 50)) + 0.5
    to_degrees = Transformer.from_crs(code, 4326, always_xy=True)
    x, y = to_degrees.transform(corner[0] + columns * 1000, corner[1] - rows * 1000)
    expected = world[np.floor(90 - y).astype(int), np.floor(x + 180).astype(int) % 360]
    close = np.minimum(abs(x - np.round(x)), abs(y - np.round(y))) < 0.1  # GDAL interpolates, to an eighth of a pixel
    found = reader.read_mask(whole(reader))
    assert (found == expected)[~close].mean() > 0.999


def test_a_south_up_mask_and_one_without_a_way_there(tmp_path):
    image = write_tif(tmp_path / "i.tif", np.ones((1, 8, 8), np.uint8), transform=GRID)
    world = np.ones((1, 180, 360), np.uint8)
    up = write_tif(tmp_path / "up.tif", world, crs="EPSG:4326", transform=rasterio.Affine(1, 0, -180, 0, 1, -90))
    reader = SceneReader(make_scene("s", image, up), [Labels(TASK)], [1])
    assert (reader.read_mask(whole(reader)) == 1).all()
    local = 'LOCAL_CS["site grid",UNIT["metre",1]]'
    site = write_tif(tmp_path / "site.tif", np.ones((1, 8, 8), np.uint8), crs=local, transform=from_origin(1, 1, 1, 1))
    with pytest.raises(InputError, match=r"site\.tif can't be brought together.*no way from EPSG:32633 to the CRS 'site grid'"):
        SceneReader(make_scene("s", image, site), [Labels(TASK)], [1])


def test_jpegs_in_cmyk_have_the_colours_that_viewers_show(tmp_path):
    colours = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    Image.fromarray(colours).convert("CMYK").save(tmp_path / "c.jpg", quality=95)
    pixels, _ = SceneReader(Scene("s", tmp_path / "c.jpg"), [Labels(TASK)], [1, 2, 3]).read_pixels(Window(0, 0, 64, 64))
    seen = np.asarray(Image.open(tmp_path / "c.jpg").convert("RGB"))
    assert (pixels.transpose(1, 2, 0) == seen).all()
    assert abs(seen.astype(int) - colours).mean() < 8


def test_a_jpeg_may_have_any_size(tmp_path):
    Image.new("L", (14_000, 13_000)).save(tmp_path / "large.jpg")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        reader = SceneReader(Scene("s", tmp_path / "large.jpg"), [Labels(TASK)], [1])
        reader.read_pixels(Window(13_990, 12_990, 10, 10))
    assert not [warning for warning in said if "bomb" in str(warning.message)]


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_a_picture_that_viewers_turn_is_named(tmp_path, caplog, ending):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (32, 16)).save(tmp_path / f"i.{ending}", exif=exif)
    Image.new("L", (16, 32)).save(tmp_path / "m.png")
    with pytest.raises(InputError, match=rf"Viewers turn i\.{ending}: write it turned"):
        SceneReader(make_scene("s", tmp_path / f"i.{ending}", tmp_path / "m.png"), [Labels(TASK)], [1])
    Image.new("L", (32, 32)).save(tmp_path / f"square.{ending}", exif=exif)
    Image.new("L", (32, 32)).save(tmp_path / "mask.png")
    square = make_scene("s", tmp_path / f"square.{ending}", tmp_path / "mask.png")
    compare_scenes([square], [square.check([Labels(TASK)], [1])], [1])
    assert "Images that viewers turn, by EXIF data or a TIFF tag" in caplog.text


def test_no_data_of_a_file_whose_white_is_zero_is_turned_with_it(tmp_path):
    pixels = np.array([[[0, 9], [200, 255]]], np.uint8)
    path = write_tif(tmp_path / "w.tif", pixels, photometric="MINISWHITE", nodata=9)
    reader = SceneReader(Scene("s", path), [Labels(TASK)], [1])
    image, missing = reader.read_pixels(whole(reader))
    assert missing.tolist() == [[False, True], [False, False]]
    assert image[0].tolist() == [[255, 0], [55, 0]]


def test_a_file_that_reads_other_files_has_to_be_called_a_vrt(tmp_path):
    inside = write_tif(tmp_path / "a.tif", np.ones((1, 4, 4), np.uint8))
    text = (
        '<VRTDataset rasterXSize="4" rasterYSize="4"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        "<SourceFilename>{}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    (tmp_path / "b.tif").write_text(text.format(inside))
    (tmp_path / "c.vrt").write_text(text.format(inside))
    with pytest.raises(InputError, match=r"b\.tif can't be opened as an image: .*not recognized"):
        SceneReader(Scene("s", tmp_path / "b.tif"), [Labels(TASK)], [1])
    reader = SceneReader(Scene("s", tmp_path / "c.vrt"), [Labels(TASK)], [1])
    assert (reader.read_pixels(whole(reader))[0] == 1).all()
    (tmp_path / "d.vrt").write_text(text.format("/vsicurl/http://localhost:1/a.tif"))
    (tmp_path / "e.vrt").write_text(text.format(tmp_path / "d.vrt"))
    (tmp_path / "g.vrt").write_text(text.format(tmp_path / "g.vrt"))  # itself
    with pytest.raises(InputError, match=r"g\.vrt can't be"):
        reader = SceneReader(Scene("s", tmp_path / "g.vrt"), [Labels(TASK)], [1])
        reader.read_pixels(whole(reader))
    gain = text.format(inside).replace(
        "</VRTDataset>", '<Argument name="gain_dataset_filename_1">/etc/hosts.no</Argument></VRTDataset>'
    )
    (tmp_path / "h.vrt").write_text(gain)
    with pytest.raises(InputError, match=r"h\.vrt reads /etc/hosts\.no, which is no file here"):
        SceneReader(Scene("s", tmp_path / "h.vrt"), [Labels(TASK)], [1])
    lower = text.format("/vsicurl/http://localhost:1/a.tif").replace("SourceFilename", "sourcefilename")  # as GDAL takes it too
    (tmp_path / "f.vrt").write_text(lower)
    with pytest.raises(InputError, match=r"f\.vrt reads /vsicurl/"):
        SceneReader(Scene("s", tmp_path / "f.vrt"), [Labels(TASK)], [1])
    for name in "de":
        with pytest.raises(InputError, match=r"d\.vrt reads /vsicurl/"):
            SceneReader(Scene("s", tmp_path / f"{name}.vrt"), [Labels(TASK)], [1])
    with pytest.raises(InputError, match=r"d\.vrt reads /vsicurl/http://localhost:1/a\.tif, which is no file here"):
        Scene("s", tmp_path / "d.vrt").signature()


def test_a_damaged_png_is_told_in_one_line(tmp_path):
    """In a process of its own, where no other test has silenced what GDAL logs."""
    path = write_tif(tmp_path / "a.png", checker(RNG, 96, 2)[None], driver="PNG")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])  # GDAL reads other pixels, without an error, unless it is told not to
    (tmp_path / "b.png").write_bytes(content[:29] + b"0000" + content[33:])  # the checksum of the header
    code = """
import logging, pathlib, sys
from rasterio.windows import Window
from rsseg.data.raster import InputError, Raster
logging.basicConfig(stream=sys.stdout)
for name in "ab":
    try:
        Raster(pathlib.Path(sys.argv[1]) / f"{name}.png").read([1], Window(0, 0, 96, 96))
    except InputError as error:
        print(error)"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    cut, damaged = done.stdout.splitlines()
    assert "a.png can't be read" in cut
    assert "b.png can't be opened as an image: libpng: IHDR: CRC error" in damaged
    assert done.stderr == ""


def test_a_place_is_a_transform_or_gcps_or_rpcs(tmp_path):
    pixels = np.ones((1, 8, 8), np.uint8)
    on_a_grid = raster.georeference(write_tif(tmp_path / "a.tif", pixels))
    assert (on_a_grid["crs"].to_epsg(), on_a_grid["transform"].a) == (32633, 0.5)
    bare = {"crs": None, "transform": None}
    points = [GroundControlPoint(row=r, col=c, x=10 + c, y=50 - r) for r, c in ((0, 0), (0, 8), (8, 0), (8, 8))]
    found = raster.georeference(write_tif(tmp_path / "b.tif", pixels, crs="EPSG:4326", transform=None, gcps=points))
    assert [(point.x, point.y) for point in found["gcps"]] == [(point.x, point.y) for point in points]
    with raster.new_raster(tmp_path / "map.tif", count=1, height=8, width=8, dtype="uint8", **found) as target:
        target.write(pixels)
    with rasterio.open(tmp_path / "map.tif") as file:
        assert len(file.gcps[0]) == 4
    assert raster.georeference(write_tif(tmp_path / "c.tif", pixels, **bare)) == {}


ERS = """DatasetHeader Begin
    Version = "6.0"
    DataSetType = Translated
    DataType = Raster
    ByteOrder = LSBFirst
    DataFile = "{}"
    RasterInfo Begin
        CellType = Unsigned8BitInteger
        NrOfLines = 8
        NrOfCellsPerLine = 8
        NrOfBands = 1
    RasterInfo End
DatasetHeader End
"""


def test_a_raster_reads_no_file_elsewhere(tmp_path):
    """The header of ERS names another file, which GDAL opens in any format."""
    for place in (tmp_path / "other.tif", tmp_path / "data/beside.tif"):
        write_tif(place, np.full((1, 8, 8), 7, np.uint8))
    (tmp_path / "data/a.ers").write_text(ERS.format("beside.tif"))
    assert raster.open_raster(tmp_path / "data/a.ers").read(1).tolist() == [[7] * 8] * 8
    (tmp_path / "data/b.ers").write_text(ERS.format("../other.tif"))
    with pytest.raises(InputError, match=r"b\.ers (reads .*other\.tif, which is not beside it|can't be .* Path traversal)"):
        raster.open_raster(tmp_path / "data/b.ers")
    (tmp_path / "data/c.tif").write_text(ERS.format("beside.tif"))
    with pytest.raises(InputError, match=r"c\.tif can't be opened as an image"):
        raster.open_raster(tmp_path / "data/c.tif")


def test_a_jpeg_starts_no_program(tmp_path):
    """Pillow would draw an EPS with Ghostscript, whatever the file is called."""
    path = tmp_path / "a.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n")
    with Image.open(path) as image:
        assert image.format == "EPS"
    with pytest.raises(InputError, match=r"a\.jpg can't be opened"):
        raster.is_turned(path)


@pytest.mark.parametrize("name", ["a.tif", "a.jpg", "a.dat"])
@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_picture_of_another_name_is_read_as_what_it_is(tmp_path, name, mode):
    pixels = Image.fromarray(RNG.integers(0, 256, (8, 9, 3), dtype=np.uint8)).convert(mode)
    pixels.save(tmp_path / name, format="PNG")
    bands = [1] if mode == "L" else [1, 2, 3]
    reader = SceneReader(Scene("s", tmp_path / name), [LABELS], bands)
    expected = np.asarray(pixels.convert("RGB")).transpose(2, 0, 1)[: len(bands)]
    np.testing.assert_array_equal(reader.read_pixels(whole(reader))[0], expected)


@pytest.mark.parametrize("error", [SyntaxError("not a TIFF file"), IndexError(), ValueError("two\nlines")])
def test_whatever_a_decoder_raises_is_one_line_with_the_file(tmp_path, error):
    said = str(error).partition("\n")[0] or "IndexError"
    with pytest.raises(InputError, match=rf"a\.tif can't be read \({said}\)"), raster.reading(tmp_path / "a.tif"):
        raise error
