import numpy as np
import pytest
import rasterio
from rasterio.windows import Window
from tiny import write_tif

from rsseg.contract import IGNORE, Head, InputError, TaskKind
from rsseg.data.census import check_absent, take_census
from rsseg.data.labels import Labels
from rsseg.data.scene import Scene, SceneReader

HEAD = Head(TaskKind.multiclass, ("a", "b", "c"))
LABELS = Labels(HEAD, None, [255])
RNG = np.random.default_rng(3)


def scene(tmp_path, image, mask, name="s", **options):
    mask_path = None if mask is None else write_tif(tmp_path / "m" / f"{name}.tif", mask[None], crs=None, transform=None)
    return Scene(name, write_tif(tmp_path / "i" / f"{name}.tif", image, **options), mask_path)


def test_window_equals_rasterio(tmp_path):
    image = RNG.integers(0, 60000, (4, 50, 70), dtype=np.uint16)
    mask = RNG.integers(0, 3, (50, 70), dtype=np.uint8)
    reader = SceneReader([scene(tmp_path, image, mask)], LABELS, [3, 1])
    got, labels = reader.read(0, 10, 20, 32)
    assert got.dtype == np.uint16
    assert (got == image[[2, 0], 10:42, 20:52]).all()
    assert (labels == mask[10:42, 20:52]).all()


def test_beyond_the_edge_is_zero_and_ignored(tmp_path):
    image, mask = np.full((3, 20, 24), 9, np.uint8), np.ones((20, 24), np.uint8)
    got, labels = SceneReader([scene(tmp_path, image, mask)], LABELS, [1, 2, 3]).read(0, 0, 0, 32)
    assert got[:, :20, :24].min() == 9
    assert got[:, 20:].max() == got[:, :, 24:].max() == 0
    assert (labels[:20, :24] == 1).all()
    assert (labels[20:] == IGNORE).all()
    assert (labels[:, 24:] == IGNORE).all()


def test_nodata_and_nan_are_ignored(tmp_path):
    image = np.ones((2, 16, 16), np.float32)
    image[:, 0, 0] = -99
    image[0, 1, 1] = np.nan
    image[0, 2, 2] = -99  # no-data in one band alone is a value
    reader = SceneReader([scene(tmp_path, image, np.zeros((16, 16), np.uint8), nodata=-99)], LABELS, [1, 2])
    got, labels = reader.read(0, 0, 0, 16)
    assert (labels == IGNORE).sum() == 2
    assert labels[0, 0] == labels[1, 1] == IGNORE
    assert np.isfinite(got).all()
    assert got[0, 2, 2] == -99


def test_all_faults_of_files_are_reported_together(tmp_path):
    good = scene(tmp_path, np.ones((3, 20, 20), np.uint8), np.zeros((20, 20), np.uint8), "good")
    small = scene(tmp_path, np.ones((3, 20, 20), np.uint8), np.zeros((10, 20), np.uint8), "small")
    grey = scene(tmp_path, np.ones((1, 20, 20), np.uint8), np.zeros((20, 20), np.uint8), "grey")
    with pytest.raises(InputError) as caught:
        SceneReader([good, small, grey], LABELS, [1, 2, 3])
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
        SceneReader([cut], LABELS, [1, 2, 3])


def test_truncated_mask_is_named_by_the_census(tmp_path):
    image = np.ones((3, 200, 200), np.uint8)
    cut = scene(tmp_path, image, RNG.integers(0, 3, (200, 200), dtype=np.uint8))
    data = cut.mask.read_bytes()
    cut.mask.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"m/s\.tif"):
        take_census(SceneReader([cut], LABELS, [1, 2, 3]), 32, tmp_path / "cache", "counting")


def test_census_counts_and_caches(tmp_path):
    mask = np.zeros((40, 40), np.uint8)
    mask[:10], mask[10:12] = 1, 255
    image = RNG.normal(100, 20, (3, 40, 40)).astype(np.float32)
    reader = SceneReader([scene(tmp_path, image, mask)], LABELS, [1, 2, 3])
    census = take_census(reader, 64, tmp_path / "cache", "counting")
    assert census.positives.tolist() == [[28 * 40, 10 * 40, 0]]
    assert census.valid.tolist() == [[38 * 40] * 3]
    np.testing.assert_allclose(census.mean, image.mean(axis=(1, 2)), rtol=1e-6)
    np.testing.assert_allclose(census.std, image.std(axis=(1, 2)), rtol=1e-5)
    again = take_census(reader, 64, tmp_path / "cache", "counting")
    assert again.fingerprint(["s"]) == census.fingerprint(["s"])
    assert len(list((tmp_path / "cache").iterdir())) == 1
    mask[0, 0] = 2
    with rasterio.open(reader.scenes[0].mask, "r+") as file:
        file.write(mask[None])
    import os

    os.utime(reader.scenes[0].mask, ns=(1, 1))
    fresh = SceneReader(reader.scenes, LABELS, [1, 2, 3])
    from rsseg.data import raster as module

    module._open.cache_clear()
    assert take_census(fresh, 64, tmp_path / "cache", "counting").positives[0, 2] == 1


def test_census_of_binary_and_multilabel(tmp_path):
    mask = np.array([[[0, 255, 255]], [[1, 255, 0]]], np.uint8)
    image = write_tif(tmp_path / "i.tif", np.ones((1, 1, 3), np.uint8))
    labels = Labels(Head(TaskKind.multilabel, ("a", "b")), [0, 255], [1])
    reader = SceneReader([Scene("i", image, write_tif(tmp_path / "m.tif", mask))], labels, [1])
    census = take_census(reader, 8, tmp_path / "cache", "counting")
    assert census.positives.tolist() == [[2, 1]]
    assert census.valid.tolist() == [[3, 2]]
    assert reader.read_mask(0, Window(0, 0, 3, 1)).tolist() == [[[0, 1, 1]], [[255, 1, 0]]]


def test_all_ignored_is_refused(tmp_path):
    reader = SceneReader([scene(tmp_path, np.ones((3, 9, 9), np.uint8), np.full((9, 9), 255, np.uint8))], LABELS, [1, 2, 3])
    with pytest.raises(InputError, match="no pixel is labelled"):
        take_census(reader, 32, tmp_path / "cache", "counting train")


def test_unknown_label_names_the_file(tmp_path):
    reader = SceneReader([scene(tmp_path, np.ones((3, 9, 9), np.uint8), np.full((9, 9), 7, np.uint8))], LABELS, [1, 2, 3])
    with pytest.raises(InputError, match=r"m/s\.tif: the mask holds the value 7"):
        take_census(reader, 32, tmp_path / "cache", "counting train")


def test_census_does_not_count_where_the_image_has_no_data(tmp_path):
    image = np.ones((3, 20, 30), np.uint8)
    image[:, :5] = 0
    reader = SceneReader([scene(tmp_path, image, np.zeros((20, 30), np.uint8), nodata=0)], LABELS, [1, 2, 3])
    assert take_census(reader, 32, tmp_path / "cache", "counting").positives.tolist() == [[15 * 30, 0, 0]]


def test_fill_stands_where_there_is_no_image(tmp_path):
    image = np.full((3, 20, 20), 50, np.uint8)
    image[:, 0, 0] = 0
    reader = SceneReader([scene(tmp_path, image, np.zeros((20, 20), np.uint8), nodata=0)], LABELS, [1, 2, 3])
    reader.fill = np.array([1.0, 2.0, 3.0])
    got, _ = reader.read(0, 0, 0, 32)
    assert got[:, 0, 0].tolist() == got[:, 31, 31].tolist() == [1, 2, 3]
    assert got[:, 1, 1].tolist() == [50, 50, 50]


def test_binary_split_without_positives_is_refused(tmp_path):
    head = Head(TaskKind.binary, ("building",))
    reader = SceneReader([scene(tmp_path, np.ones((3, 9, 9), np.uint8), np.zeros((9, 9), np.uint8))], Labels(head), [1, 2, 3])
    with pytest.raises(InputError, match="labelled building"):
        check_absent(take_census(reader, 32, tmp_path / "cache", "counting"), head, "val")
