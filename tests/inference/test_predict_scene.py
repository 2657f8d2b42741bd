import logging
import tracemalloc

import geopandas
import numpy as np
import pytest
import rasterio
import torch
from rasterio.windows import Window
from shapely.geometry import box
from tiny import write_tif
from torch import nn

from rsseg.data.labels import make_mask_reader
from rsseg.data.masks import Mask
from rsseg.data.scene import Scene, SceneReader
from rsseg.inference.blending import Grid, Windows
from rsseg.inference.scene import StripReader, blocks, predict_scene
from rsseg.task import Binary

CPU = torch.device("cpu")


class Gather:
    """An output that keeps everything."""

    head = "mask"

    def __init__(self, reader, planes=1):
        self.planes = np.full((planes, *reader.size), np.nan, np.float32)
        self.hidden = np.zeros(reader.size, bool)
        self.tops = []

    def block(self, planes, hidden):
        return planes.clone().numpy(), hidden.copy()

    def write(self, top, blocks):
        planes, hidden = (np.concatenate(parts, axis=-1) for parts in zip(*blocks, strict=True))
        self.tops.append(top)
        self.planes[:, top : top + planes.shape[1]] = planes
        self.hidden[top : top + len(hidden)] = hidden


def run(reader, network, windows, planes=1):
    gathered = Gather(reader, planes)
    predict_scene(
        lambda batch: {"mask": network(batch.float())}, lambda _: planes, reader, [gathered], windows, CPU, "predicting"
    )
    assert gathered.tops == sorted(set(gathered.tops))
    return gathered


def scene_file(folder, height, width, bands=3, dtype=np.uint8, **options):
    top = 255 if dtype == np.uint8 else 3000
    image = np.random.default_rng(0).integers(1, top, (bands, height, width)).astype(dtype)
    return image, write_tif(folder / "scene.tif", image, **options)


def network(reach, planes=1):
    """Convolutions that see so many pixels to each side."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3 if i == 0 else 4, 4 if i < reach - 1 else planes, 3, padding=1) for i in range(reach)]
    return nn.Sequential(*[part for layer in layers for part in (layer, nn.Tanh())])


@pytest.mark.parametrize("size", [24, 40, 64])
@torch.inference_mode()
def test_windows_with_wide_margins_are_exact(tmp_path, size):
    """Cores at least the receptive field from the windows' borders: the scene predicted whole and in windows is the same."""
    image, path = scene_file(tmp_path, 90, 130)
    reader, net = SceneReader(Scene("a", path), [], [1, 2, 3]), network(4, 2)
    whole = net(torch.from_numpy(image[None]).float())[0].numpy()
    found = run(reader, net, Windows(size, 4, "none", 3), 2)
    np.testing.assert_allclose(found.planes, whole, atol=1e-5)
    narrow = run(reader, net, Windows(size, 1, "none", 3), 2)
    assert abs(narrow.planes - whole).max() > 1e-3


@pytest.mark.parametrize("size", [24, 40, 64])
@torch.inference_mode()
def test_the_seam_of_blended_windows_is_small(tmp_path, size):
    """What blending leaves of windows' borders, for values from -1 to 1, away from the scene's own.

    Measured: at most 0.007, against 0.20 of cores without a margin.
    """
    image, path = scene_file(tmp_path, 90, 130)
    reader, net = SceneReader(Scene("a", path), [], [1, 2, 3]), network(4)
    whole = net(torch.from_numpy(image[None]).float() / 255)[0].numpy()
    inside = np.s_[:, 8:-8, 8:-8]

    def apart(windows):
        return abs(run(reader, lambda x: net(x / 255), windows).planes - whole)[inside]

    blended, cut = apart(Windows(size, 4, "gaussian", 3)), apart(Windows(size, 0, "none", 3))
    assert blended.max() < 0.02
    assert cut.max() > 0.1
    assert blended.mean() < 0.25 * cut.mean()


@pytest.mark.parametrize("shape", [(1, 1), (5, 200), (64, 64), (33, 70)])
@pytest.mark.parametrize("blend", ["gaussian", "none"])
@torch.inference_mode()
def test_scenes_of_any_size(tmp_path, shape, blend):
    image, path = scene_file(tmp_path, *shape)
    reader = SceneReader(Scene("a", path), [], [1, 2, 3])
    found = run(reader, lambda batch: batch[:, :1] + 2 * batch[:, 2:], Windows(32, 4, blend, 5))
    np.testing.assert_allclose(found.planes[0], image[0].astype(float) + 2.0 * image[2], rtol=1e-5)
    assert not found.hidden.any()


@pytest.mark.parametrize("shape", [(1, 1), (20, 90), (64, 64), (79, 70)])
def test_borders_are_reflected(tmp_path, shape):
    """What strips see is what NumPy pads the whole image to."""
    image, path = scene_file(tmp_path, *shape)
    grid, beyond = Grid(shape, Windows(32, 5, "gaussian", 4)), 40
    rows = StripReader(SceneReader(Scene("a", path), [], [1, 2, 3]), grid, reflect=True)
    whole = np.pad(image, ((0, 0), (beyond, beyond), (beyond, beyond)), "reflect")
    for strip in grid.strips:
        found, hidden = rows.read(strip)
        above, below = strip.tops[0] + beyond, strip.tops[-1] + 32 + beyond
        left, right = grid.columns.starts[0] + beyond, grid.columns.starts[-1] + 32 + beyond
        np.testing.assert_array_equal(found, whole[:, above:below, left:right])
        assert not hidden.any()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
@torch.inference_mode()
def test_no_data_is_hidden_and_filled(tmp_path, dtype):
    image, path = scene_file(tmp_path, 60, 70, dtype=dtype, nodata=0)
    image[:, 10:50, :40] = 0
    write_tif(path, image, nodata=0)
    reader, seen = SceneReader(Scene("a", path), [], [1, 2, 3]), []
    reader.fill = np.array([7.0, 8.0, 9.0])

    def net(batch):
        seen.append(batch)
        return batch[:, :1]

    found = run(reader, net, Windows(16, 2, "gaussian", 4))
    assert (found.hidden == (image == 0).all(0)).all()
    np.testing.assert_allclose(found.planes[0][~found.hidden], image[0].astype(float)[~found.hidden], rtol=1e-5)
    windows = torch.cat(seen)
    filled = (windows == torch.tensor([7.0, 8.0, 9.0])[:, None, None]).all(1)
    assert filled.any()
    assert not filled.all(dim=(1, 2)).any()  # a window without data is not predicted
    assert len(windows) < len(range(0, 60, 12)) * len(range(0, 70, 12))


@torch.inference_mode()
def test_only_the_area_is_mapped(tmp_path):
    _, path = scene_file(tmp_path, 60, 70)  # 0.5 m pixels from 500000, 4000000
    area = tmp_path / "area.geojson"
    square = geopandas.GeoDataFrame(geometry=[box(500_005, 4_000_000 - 20, 500_015, 4_000_000 - 5)], crs="EPSG:32633")
    square.to_crs(4326).to_file(area)
    scene = Scene("a", path, (Mask(area),))
    reader, count = SceneReader(scene, [make_mask_reader(Binary(("area",)))], [1, 2, 3]), []
    found = run(reader, lambda batch: (count.append(len(batch)), batch[:, :1])[1], Windows(16, 2, "gaussian", 4))
    expected = np.ones((60, 70), bool)
    expected[10:40, 10:30] = False
    assert (found.hidden != expected).mean() < 0.005
    assert sum(count) < 20


@torch.inference_mode()
def test_a_block_that_cannot_be_read_is_a_hole(tmp_path, caplog):
    image, path = scene_file(tmp_path, 128, 192, tiled=True, blockxsize=64, blockysize=64, compress="deflate")
    with rasterio.open(path) as raster:
        tag = {what: int(raster.get_tag_item(f"BLOCK_{what}_1_0", "TIFF", bidx=1)) for what in ("OFFSET", "SIZE")}
    content = bytearray(path.read_bytes())
    content[tag["OFFSET"] : tag["OFFSET"] + tag["SIZE"]] = b"\0" * tag["SIZE"]
    path.write_bytes(content)
    reader = SceneReader(Scene("a", path), [], [1, 2, 3])
    caplog.set_level(logging.WARNING)
    found = run(reader, lambda batch: batch[:, :1], Windows(48, 4, "gaussian", 4))
    hole = np.zeros((128, 192), bool)
    hole[:64, 64:128] = True
    assert (found.hidden == hole).all()
    np.testing.assert_allclose(found.planes[0][~hole], image[0].astype(float)[~hole], rtol=1e-5)
    assert "scene.tif" in caplog.text
    assert "1 of its blocks can't be read and have no data in the map" in caplog.text  # though two bands of rows meet it


@torch.inference_mode()
def test_a_scene_without_data_is_said(tmp_path, caplog):
    path = write_tif(tmp_path / "empty.tif", np.zeros((3, 40, 40), np.uint8), nodata=0)
    found = run(SceneReader(Scene("a", path), [], [1, 2, 3]), lambda _: 1 / 0, Windows(16, 2, "gaussian", 4))
    assert found.hidden.all()
    assert "has no data anywhere: its map is empty" in caplog.text


@pytest.mark.slow
@torch.inference_mode()
def test_memory_does_not_grow_with_the_height(tmp_path):
    """NumPy's peak over 512 and over 2048 rows, three times each: how full the threads' queues get varies."""

    def peak(height):
        _, path = scene_file(tmp_path, height, 4096)
        reader = SceneReader(Scene("a", path), [], [1, 2, 3])
        rows = []

        class Drop(Gather):
            def write(self, top, blocks):
                rows.append(len(blocks[0][1]))

        output = Drop.__new__(Drop)
        tracemalloc.start()
        predict_scene(
            lambda b: {"mask": b[:, :1].float()}, lambda _: 1, reader, [output], Windows(64, 8, "gaussian", 4), CPU, ""
        )
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert sum(rows) == height
        return most

    peak(256)
    assert min(peak(2048) for _ in range(3)) < 1.2 * max(peak(512) for _ in range(3))


def test_a_failure_to_write_is_told(tmp_path):
    _, path = scene_file(tmp_path, 60, 70)
    reader = SceneReader(Scene("a", path), [], [1, 2, 3])

    class Full(Gather):
        def write(self, top, blocks):
            raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        predict_scene(
            lambda b: {"mask": b[:, :1].float()}, lambda _: 1, reader, [Full(reader)], Windows(16, 2, "gaussian", 4), CPU, ""
        )


def test_blocks_cover_a_window():
    found = np.zeros((40, 50), int)
    for part in blocks(Window(3, 5, 40, 30), 16, 12):
        rows, columns = part.toslices()
        assert rows.start // 16 == (rows.stop - 1) // 16
        assert columns.start // 12 == (columns.stop - 1) // 12
        found[rows, columns] += 1
    assert (found[5:35, 3:43] == 1).all()
    assert found.sum() == 30 * 40
