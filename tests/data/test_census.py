import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from stores import LABELS, TASK, store_of
from tiny import make_scene, write_tif

from rsseg.contract import InputError
from rsseg.data.blocks import SIZE, Blocks, Counter
from rsseg.data.census import PERCENTILES, BandStatistics, Census, check_absent, describe_other_radiometry
from rsseg.data.decoded import parts
from rsseg.data.labels import Labels
from rsseg.data.masks import Mask
from rsseg.task import Binary, Multiclass, Multilabel

RNG = np.random.default_rng(4)


def scene(folder, image, mask, name="s", **options):
    return make_scene(
        name, write_tif(folder / "i" / f"{name}.tif", image, **options), write_tif(folder / "m" / f"{name}.tif", mask)
    )


def test_statistics_are_those_of_all_pixels_with_data(tmp_path):
    """Two scenes of different size and dtype, against NumPy in float64 on the pixels put together."""
    images = [RNG.integers(0, 60000, (3, 70, 300), dtype=np.uint16), RNG.integers(0, 255, (3, 150, 90), dtype=np.uint8)]
    images[0][:, 3:9, :50] = 0
    masks = [RNG.integers(0, 3, (1, *image.shape[1:]), dtype=np.uint8) for image in images]
    scenes = [scene(tmp_path, i, m, f"s{n}", nodata=0) for n, (i, m) in enumerate(zip(images, masks, strict=True))]
    bands = store_of(scenes, tmp_path / "store").census.bands
    there = [image[:, ~(image == 0).all(axis=0)].astype(np.float64) for image in images]
    pixels = np.concatenate(there, axis=1)
    assert bands.count == pixels.shape[1]
    assert bands.missing == pytest.approx(1 - pixels.shape[1] / (70 * 300 + 150 * 90))
    for name in ("mean", "std", "min", "max"):
        np.testing.assert_allclose(getattr(bands, name), getattr(pixels, name)(axis=1), rtol=1e-12)
    lattice = np.concatenate([i[:, 16::32, 16::32].reshape(3, -1) for i in images], axis=1).astype(np.float64)
    np.testing.assert_allclose(bands.percentiles, np.percentile(lattice, PERCENTILES, axis=1))


def test_deviation_of_large_values_that_are_nearly_alike():
    """The mean of squares less the square of the mean would give 0 or nonsense here."""
    values = 1e9 + RNG.normal(0, 0.01, (1, 40, 40))
    counter = Counter([TASK], (40, 40), 1)
    for top in range(0, 40, 8):
        part = values[:, top : top + 8]
        counter.add(top, 0, part, np.zeros(part.shape[1:], bool), {"mask": np.zeros(part.shape[1:], np.uint8)})
    _, squares, *_ = counter.counts(np.dtype(np.float64))["bands"][:, 0]
    np.testing.assert_allclose(np.sqrt(squares / 1600), (values - 1e9).std(), rtol=1e-5)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 400),
    st.integers(1, 400),
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from([Binary(("a",)), Multiclass(("a", "b")), Multilabel(("a", "b"))]),
)
def test_counts_do_not_depend_on_the_parts(height, width, block_height, block_width, task):
    """Labels by block against a plain loop, whatever the parts that a scene is decoded in."""
    rng = np.random.default_rng(height * width)
    planes = (2,) if task.kind == "multilabel" else ()
    labels = rng.choice(np.array([0, 1, 255], np.uint8), (*planes, height, width), p=[0.5, 0.2, 0.3])
    image = rng.integers(0, 9, (1, height, width), dtype=np.uint8)
    counter = Counter([task], (height, width), 1)
    for window in parts((height, width), (block_height, block_width)):
        at = (..., *window.toslices())
        counter.add(window.row_off, window.col_off, image[at], np.zeros(image[at].shape[1:], bool), {"mask": labels[at]})
    found = counter.counts(image.dtype)
    labels_found, blocks_found = found["0_labels"], found["0_blocks"]
    ignored = (labels == 255).all(axis=0) if planes else labels == 255
    for row, line in enumerate(blocks_found):
        for col, counts in enumerate(line):
            at = (..., slice(row * SIZE, (row + 1) * SIZE), slice(col * SIZE, (col + 1) * SIZE))
            part = labels[at] if planes else labels[at][None]
            own = {"binary": [(part == 1).sum()], "multiclass": [(part == 0).sum(), (part == 1).sum()]}
            assert counts.tolist() == [*own.get(task.kind, (part == 1).sum(axis=(1, 2)).tolist()), ignored[at].sum()]
    every = labels if planes else labels[None]
    assert labels_found[1].tolist() == [int((plane != 255).sum()) for plane in every] * (task.channels // len(every))
    np.testing.assert_array_equal(labels_found[0], blocks_found[..., :-1].sum(axis=(0, 1), dtype=int))
    assert found["bands"][2:, 0].tolist() == [image.min(), image.max()]


def test_blocks_say_where_they_lie():
    blocks = Blocks(np.zeros((2 * 3 + 1, 2), np.uint16), np.array([[129, 300], [5, 5]]))
    assert blocks.scene.tolist() == [0] * 6 + [1]
    assert blocks.top.tolist() == [0, 0, 0, 128, 128, 128, 0]
    assert blocks.left.tolist() == [0, 128, 256, 0, 128, 256, 0]


def test_fingerprints_are_those_of_names_and_labels(tmp_path):
    mask = RNG.integers(0, 3, (1, 40, 40), dtype=np.uint8)
    image = RNG.integers(0, 255, (3, 40, 40), dtype=np.uint8)
    found = []
    for i, labels in enumerate((mask, mask, mask * 0)):
        census = store_of([scene(tmp_path / str(i), image // (i + 1), labels)], tmp_path / "store").census
        found.append(census.fingerprint(["s"]))
    assert found[0] == found[1] != found[2]
    assert census.fingerprint(["s"]) != census.fingerprint(["t"])


def test_binary_and_multilabel(tmp_path):
    mask = np.array([[[0, 255, 255]], [[1, 255, 0]]], np.uint8)
    labels = Labels(Multilabel(("a", "b")), [0, 255], [1])
    census = store_of([scene(tmp_path, np.ones((1, 1, 3), np.uint8), mask)], tmp_path / "store", labels, [1]).census
    assert census.positives.tolist() == [[2, 1]]
    assert census.valid.tolist() == [[3, 2]]
    assert census.blocks.counts.tolist() == [[2, 1, 0]]
    assert census.bands.std.tolist() == [1]  # a constant band


def test_pixels_without_data_are_not_counted(tmp_path):
    image = np.ones((3, 20, 30), np.uint8)
    image[:, :5] = 0
    census = store_of([scene(tmp_path, image, np.zeros((1, 20, 30), np.uint8), nodata=0)], tmp_path / "store").census
    assert census.positives.tolist() == [[15 * 30, 0, 0]]
    assert census.blocks.counts.tolist() == [[15 * 30, 0, 0, 5 * 30]]
    assert census.bands.min.tolist() == [1, 1, 1]


def test_what_cannot_be_learnt_is_refused(tmp_path, caplog):
    image, task = np.ones((3, 9, 9), np.uint8), Binary(("building",))

    def census(value, labels, name):
        return store_of([scene(tmp_path, image, np.full((1, 9, 9), value, np.uint8), name)], tmp_path / "store", labels).census

    with pytest.raises(InputError, match="no pixel of the train split is labelled in 1 scenes, all are ignored"):
        check_absent(census(255, LABELS, "ignored"), TASK, "train")
    with pytest.raises(InputError, match="no pixel of the val split is labelled building"):
        check_absent(census(0, Labels(task), "empty"), task, "val")
    drawn = tmp_path / "drawn.png"
    Image.fromarray(np.stack([image[0] * 0, image[0]], -1), "LA").save(drawn)
    with pytest.raises(InputError, match=r"\(1 mask, first .*drawn\.png\): labels in the alpha band .*gdal_translate -b 2"):
        check_absent(census(0, Labels(task), "empty"), task, "train", masks=[Mask(drawn)])
    check_absent(census(1, LABELS, "one"), TASK, "train")
    assert "No pixel of class a, c in the train split" in caplog.text


def test_the_lattice_is_that_of_the_scene_whatever_its_parts(monkeypatch):
    monkeypatch.setattr("rsseg.data.decoded.PART", 64 * 100)
    image = RNG.integers(0, 60000, (2, 200, 150), dtype=np.uint16)
    missing = RNG.random((200, 150)) < 0.3
    counter = Counter([TASK], (200, 150), 2)
    windows = list(parts((200, 150), (50, 50)))
    assert len(windows) > 3
    for window in windows:
        at = window.toslices()
        counter.add(window.row_off, window.col_off, image[:, *at], missing[at], {"mask": np.zeros(missing[at].shape, np.uint8)})
    lattice = np.zeros_like(missing)
    lattice[16::32, 16::32] = True
    expected = image[:, lattice & ~missing]
    np.testing.assert_array_equal(np.sort(counter.counts(image.dtype)["sample"], axis=0), np.sort(expected, axis=1).T)


def test_a_split_without_any_class_is_refused(tmp_path):
    for task in (TASK, Multilabel(("a", "b"))):
        planes = 1 if task is TASK else 2
        image = write_tif(tmp_path / "i.tif", np.ones((3, 40, 40), np.uint8))
        mask = write_tif(tmp_path / "m.tif", np.zeros((planes, 40, 40), np.uint8))
        store = store_of([make_scene("s", image, mask)], tmp_path / "store", Labels(task))
        if task is TASK:
            check_absent(store.census, task, "train")  # all of class a
        else:
            with pytest.raises(InputError, match="no pixel of the train split is labelled a or b"):
                check_absent(store.census, task, "train")


def census_of(positives, valid, with_data):
    """A census of scenes of one band with these pixels of the classes, those that are labelled, and those that have data."""
    positives, valid = np.array(positives, dtype=np.int64), np.array(valid, dtype=np.int64)
    bands = BandStatistics(
        **dict.fromkeys(("mean", "std", "min", "max"), np.ones(1)),
        count=int(sum(with_data)),
        percentiles=np.ones((9, 1)),
        missing=0.0,
    )
    return Census(positives, valid, bands, None, None, np.array(with_data))


def test_masks_of_0_and_255_taken_for_two_classes_are_refused():
    """The class is 255, which is ignored: background alone would be learnt."""
    two = Multiclass(("land", "water"))
    with pytest.raises(InputError, match=r"holds land alone, and 40 pixels that are ignored.*dataset\.mask_values=\[0,255\]"):
        check_absent(census_of([[60, 0]], [[60, 60]], [100]), two, "train")
    check_absent(census_of([[60, 40]], [[100, 100]], [100]), two, "train")
    check_absent(census_of([[60, 0]], [[60, 60]], [100]), two, "val")


def test_a_binary_split_without_background_is_refused():
    with pytest.raises(InputError, match="every labelled pixel of the train split is road, and there is no background to tell"):
        check_absent(census_of([[60], [40]], [[60], [40]], [100, 40]), Binary(("road",)), "train")


def test_masks_that_write_the_class_in_two_ways_are_named(caplog):
    road = Binary(("road",))
    check_absent(census_of([[30], [0], [20]], [[100], [70], [100]], [100, 100, 100]), road, "train")
    assert "In 1 of 3 scenes of the train split some pixels are ignored and none is road" in caplog.text
    assert "dataset.mask_values=[0,[1,255]] dataset.ignore_values=[]" in caplog.text
    caplog.clear()
    check_absent(census_of([[30], [0]], [[90], [70]], [100, 100]), road, "train")  # ignored pixels beside the class
    check_absent(census_of([[30], [0]], [[100], [100]], [100, 100]), road, "train")
    assert not caplog.text


def test_pixels_of_another_kind_are_told_by_type_and_range():
    mean, std = np.array([100.0, 90.0]), np.array([20.0, 0.5])
    alike = describe_other_radiometry(mean, std, "uint8", np.array([140.0, 91.0]), "uint8", "it")
    assert not alike
    assert describe_other_radiometry(mean, std, "", mean, "uint16", "it") == ""
    far = describe_other_radiometry(mean, std, "uint8", np.array([100.0, 93.0]), "uint8", "a.tif")
    assert far.startswith("of a.tif the mean of band 2 is 93, 6 standard deviations from the 90 of training")
    assert not describe_other_radiometry(mean, std, "uint8", mean, "uint8", "it", std / 9)
    for narrow in (std / [1, 11], std * [11, 1]):
        line = describe_other_radiometry(mean, std, "uint8", mean, "uint8", "it", narrow)
        assert line.startswith("of it the standard deviation of band")
