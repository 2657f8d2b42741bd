import numpy as np
import pytest
from rasterio.windows import Window
from readers import read_window
from stores import store_of
from tiny import make_scene, write_tif

from rsseg.contract import IGNORE, InputError
from rsseg.data.labels import Labels
from rsseg.data.scene import Scene, SceneReader
from rsseg.task import Multiclass

TASK = Multiclass(("a", "b", "c"))
LABELS = Labels(TASK, None, [255])
RNG = np.random.default_rng(3)


def scene(tmp_path, image, mask, name="s", **options):
    mask_path = None if mask is None else write_tif(tmp_path / "m" / f"{name}.tif", mask[None], crs=None, transform=None)
    return make_scene(name, write_tif(tmp_path / "i" / f"{name}.tif", image, **options), mask_path)


def test_window_equals_rasterio(tmp_path):
    image = RNG.integers(0, 60000, (4, 50, 70), dtype=np.uint16)
    mask = RNG.integers(0, 3, (50, 70), dtype=np.uint8)
    reader = SceneReader(scene(tmp_path, image, mask), [LABELS], [3, 1])
    got, labels = read_window(reader, 10, 20, 32)
    assert got.dtype == np.uint16
    assert (got == image[[2, 0], 10:42, 20:52]).all()
    assert (labels == mask[10:42, 20:52]).all()


def test_beyond_the_edge_is_zero_and_ignored(tmp_path):
    image, mask = np.full((3, 20, 24), 9, np.uint8), np.ones((20, 24), np.uint8)
    got, labels = read_window(SceneReader(scene(tmp_path, image, mask), [LABELS], [1, 2, 3]), 0, 0, 32)
    assert got[:, :20, :24].min() == 9
    assert got[:, 20:].max() == got[:, :, 24:].max() == 0
    assert (labels[:20, :24] == 1).all()
    assert (labels[20:] == IGNORE).all()
    assert (labels[:, 24:] == IGNORE).all()


def test_nodata_and_nan_are_ignored(tmp_path):
    image = np.ones((2, 16, 16), np.float32)
    image[:, 0, 0] = -99
    image[0, 1, 1] = np.nan
    image[0, 2, 2] = -99
    reader = SceneReader(scene(tmp_path, image, np.zeros((16, 16), np.uint8), nodata=-99), [LABELS], [1, 2])
    got, labels = read_window(reader, 0, 0, 16)
    assert (labels == IGNORE).sum() == 3
    assert labels[0, 0] == labels[1, 1] == labels[2, 2] == IGNORE
    assert np.isfinite(got).all()
    assert got.min() == 0


def test_a_nodata_value_that_may_be_a_reading_has_to_stand_in_all_bands(tmp_path):
    image = np.ones((2, 16, 16), np.uint16)
    image[:, 0, 0] = image[0, 2, 2] = 0
    reader = SceneReader(scene(tmp_path, image, np.zeros((16, 16), np.uint8), nodata=0), [LABELS], [1, 2])
    got, labels = read_window(reader, 0, 0, 16)
    assert (labels == IGNORE).sum() == 1
    assert got[:, 2, 2].tolist() == [0, 1]


def test_all_faults_of_files_are_reported_together(tmp_path):
    good = scene(tmp_path, np.ones((3, 20, 20), np.uint8), np.zeros((20, 20), np.uint8), "good")
    small = scene(tmp_path, np.ones((3, 20, 20), np.uint8), np.zeros((10, 20), np.uint8), "small")
    grey = scene(tmp_path, np.ones((1, 20, 20), np.uint8), np.zeros((20, 20), np.uint8), "grey")
    with pytest.raises(InputError) as caught:
        store_of([good, small, grey], tmp_path / "store")
    assert "small.tif is 20 x 10 pixels, but" in str(caught.value)
    assert "grey.tif has 1 bands" in str(caught.value)
    assert "good" not in str(caught.value)


@pytest.mark.parametrize("keep", [0.5, 0.98])
@pytest.mark.parametrize("compress", ["none", "deflate"])
def test_truncated_file_is_named_before_training(tmp_path, keep, compress):
    image = RNG.integers(0, 255, (3, 200, 200), dtype=np.uint8)
    cut = scene(tmp_path, image, np.zeros((200, 200), np.uint8), compress=compress)
    data = cut.image.read_bytes()
    cut.image.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(InputError, match=r"s\.tif"):
        SceneReader(cut, [LABELS], [1, 2, 3])


def test_fill_stands_where_there_is_no_image(tmp_path):
    image = np.full((3, 20, 20), 50, np.uint8)
    image[:, 0, 0] = 0
    reader = SceneReader(scene(tmp_path, image, np.zeros((20, 20), np.uint8), nodata=0), [LABELS], [1, 2, 3])
    reader.fill = np.array([1.0, 2.0, 3.0])
    got, _ = read_window(reader, 0, 0, 32)
    assert got[:, 0, 0].tolist() == got[:, 31, 31].tolist() == [1, 2, 3]
    assert got[:, 1, 1].tolist() == [50, 50, 50]


def test_a_no_data_value_may_be_given_for_files_without_one(tmp_path):
    pixels = np.array([[[5, -9999], [7, 8]]], np.int16)
    bare = write_tif(tmp_path / "a.tif", pixels)
    own = write_tif(tmp_path / "b.tif", pixels, nodata=7)
    labels = Labels(Multiclass(("a", "b")))
    missing = []
    for path in (bare, own):
        reader = SceneReader(Scene("s", path, nodata=-9999), [labels], [1])
        missing.append(reader.read_pixels(Window(0, 0, 2, 2))[1].tolist())
    assert missing == [[[False, True], [False, False]], [[False, False], [True, False]]]
    assert Scene("s", bare).signature() != Scene("s", bare, nodata=-9999).signature()


def test_what_stands_beside_an_image_is_part_of_it(tmp_path):
    """A world file that moves an image, or a header that says how it is read, makes another scene of it."""
    for suffix, beside in ((".png", ".pgw"), (".tif", ".tfw"), (".img", ".hdr"), (".jpg", ".jgw")):
        image, world = tmp_path / f"a{suffix}", tmp_path / f"a{beside}"
        image.write_bytes(b"pixels")
        scene = Scene("a", image)
        bare = repr(scene.signature())
        world.write_text("0.5\n0\n0\n-0.5\n0\n0\n")
        first = repr(scene.signature())
        world.write_text("0.5\n0\n0\n-0.5\n16\n0\n")
        assert len({bare, first, repr(scene.signature())}) == 3
