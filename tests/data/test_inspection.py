"""Bad input: each fault names the file, says what was found and what to do; five of them together."""

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin
from rasterio.windows import Window
from readers import read_window
from stores import store_of
from tiny import make_scene, write_tif

from rsseg.contract import InputError
from rsseg.data.files import Files
from rsseg.data.labels import Labels
from rsseg.data.scene import Scene, SceneReader
from rsseg.task import Multiclass

LABELS = Labels(Multiclass(("a", "b")))
NEAR, FAR = from_origin(500000, 4000000, 10, 10), from_origin(600000, 4000000, 10, 10)
RNG = np.random.default_rng(1)


def tif(path, bands=1, size=40, dtype=np.uint8, **options):
    return write_tif(path, RNG.integers(0, 2, (bands, size, size)).astype(dtype), **{"transform": NEAR, **options})


def check(*scenes, bands=(1,)):
    return store_of(scenes, scenes[0].image.parent / "store", LABELS, bands)


def fault(*scenes, bands=(1,)):
    with pytest.raises(InputError) as error:
        check(*scenes, bands=bands)
    return str(error.value)


def test_a_mask_of_another_place_size_or_without_crs(tmp_path):
    image = tif(tmp_path / "i.tif")
    far = fault(make_scene("s", image, tif(tmp_path / "far.tif", transform=FAR)))
    assert "far.tif does not overlap" in far
    assert "spans 600000 to 600400" in far
    assert "500000 to 500400" in far
    bare = fault(make_scene("s", image, tif(tmp_path / "bare.tif", size=30, crs=None, transform=None)))
    assert "bare.tif is 30 x 30 pixels, but" in bare
    assert "i.tif is 40 x 40" in bare
    assert f"these have none: {tmp_path / 'bare.tif'}" in bare
    both = fault(make_scene("s", tif(tmp_path / "j.tif", crs=None), tif(tmp_path / "m.tif", size=30, crs=None)))
    assert f"these have none: {tmp_path / 'm.tif'}, {tmp_path / 'j.tif'}" in both


def test_coordinates_that_one_of_two_lacks_do_not_matter_at_equal_sizes(tmp_path):
    mask = tif(tmp_path / "m.tif", crs=None, transform=None)
    assert SceneReader(make_scene("s", tif(tmp_path / "i.tif"), mask), [LABELS], [1]).size == (40, 40)


def test_faults_are_listed_five_at_a_time_and_once_for_all_blocks_of_a_file(tmp_path):
    scenes = [make_scene(str(i), tif(tmp_path / f"{i}.tif"), tif(tmp_path / f"m{i}.tif", transform=FAR)) for i in range(7)]
    text = fault(*scenes, *scenes)
    assert text.count("does not overlap") == 5
    assert "and 2 more" in text


def test_bands_out_of_range_count_through_the_stack(tmp_path):
    scene = Scene("s", tif(tmp_path / "a.tif", 3), stack=(tif(tmp_path / "b.tif", 2),))
    assert SceneReader(scene, [LABELS], [5]).bands == [5]
    text = fault(scene, bands=[6])
    assert "a.tif" in text
    assert "b.tif has 5 bands, but dataset.bands=[6]: list bands from 1 to 5" in text


def test_band_counts_may_differ_as_long_as_the_chosen_bands_are_there(tmp_path):
    wide, narrow = (Scene(str(n), tif(tmp_path / f"{n}.tif", n)) for n in (4, 2))
    assert len(check(wide, narrow, bands=[2, 1])) == 2
    assert "2.tif has 2 bands" in fault(wide, narrow, bands=[3])
    more = tif(tmp_path / "more.tif", 2)
    one, other = (Scene(s.name, s.image, stack=(more,)) for s in (wide, narrow))  # in a stack they would shift the others
    assert "2.tif has 2 bands but" in fault(one, other)


def test_differing_types_are_said(tmp_path, caplog):
    scenes = [Scene(t, tif(tmp_path / f"{t}.tif", dtype=t)) for t in ("uint8", "int16", "uint16")]
    assert check(*scenes).dtype == np.int32
    assert "uint8 (" in caplog.text
    assert "All are read as int32" in caplog.text


def test_differing_numbers_of_bands_are_said(tmp_path, caplog):
    scenes = [Scene(str(n), tif(tmp_path / f"{n}.tif", n)) for n in (3, 4, 3)]
    check(*scenes, bands=[1, 2, 3])
    assert "number of bands: 3 (" in caplog.text
    assert "4.tif)" in caplog.text


def test_a_warp_is_said(tmp_path, caplog):
    caplog.set_level("INFO", "rsseg")
    mask = tif(tmp_path / "m.tif", transform=from_origin(500000, 4000000, 20, 20))
    check(make_scene("s", tif(tmp_path / "i.tif"), mask))
    assert "warped to it (1 file, first" in caplog.text


def test_an_alpha_band_that_a_warp_needs(tmp_path):
    other = tif(tmp_path / "b.tif", 4, transform=from_origin(500000, 4000000, 20, 20))
    scene = Scene("s", tif(tmp_path / "a.tif"), stack=(other,))
    assert "band 4 of" in fault(scene, bands=[5])
    with rasterio.open(other, "r+") as file:
        file.write(np.zeros(file.shape, file.dtypes[0]), 4)
    assert SceneReader(scene, [LABELS], [4]).read_pixels(Window(0, 0, 8, 8))[1].all()


@pytest.mark.parametrize("which", ["image", "stack", "mask"])
@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_a_truncated_file_is_named(tmp_path, which, keep):
    grid = from_origin(500000, 4000000, 10.5, 10.5)
    paths = {name: tif(tmp_path / f"{name}.tif", size=300, transform=grid) for name in ("stack", "mask")}
    paths["image"] = tif(tmp_path / "image.tif", size=300)
    data = paths[which].read_bytes()
    paths[which].write_bytes(data[: int(len(data) * keep)])
    scene = make_scene("s", paths["image"], paths["mask"], stack=(paths["stack"],))
    with pytest.raises(InputError, match=rf"{which}\.tif can't be"):
        read_window(SceneReader(scene, [LABELS], [1, 2]), 0, 0, 320)


def test_every_image_needs_its_partners(tmp_path):
    for name in ("a", "b"):
        tif(tmp_path / f"one/{name}.tif")
    tif(tmp_path / "two/a.tif")
    with pytest.raises(InputError, match=r"1 of 2 images .* no file to stack that fits .*two/\{n\}\.tif, first .*b\.tif"):
        Files(str(tmp_path), ["one/{n}.tif", "two/{n}.tif"], "m/{n}.tif")
    with pytest.raises(InputError, match=r"two/\{m\}_\{n\}\.tif has the field m, which .*one/\{n\}\.tif lacks"):
        Files(str(tmp_path), ["one/{n}.tif", "two/{m}_{n}.tif"], "m/{n}.tif")
    with pytest.raises(InputError, match="one pattern"):
        Files(str(tmp_path), [], "m/{n}.tif")
    tif(tmp_path / "two/b.tif")
    found = Files(str(tmp_path), ["one/{n}.tif", "two/{n}.tif"], "m/{n}.tif", {"test": 1.0}).scenes("test")
    assert [[path.parent.name for path in scene.images] for scene in found] == [["one", "two"]] * 2
