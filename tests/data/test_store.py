import multiprocessing
import os
import pickle
import shutil
import time
import tracemalloc

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from readers import read_window
from stores import TASK, store_of, whole_scene
from tiny import checker, coloured, make_scene, mask_file, write_tif

import rsseg.data.build as build
import rsseg.data.store as room
from rsseg.contract import InputError
from rsseg.data.decoded import PART, map_array, parts, store_name
from rsseg.data.labels import Labels
from rsseg.data.scene import Scene, SceneReader
from rsseg.data.store import left_of_limits, load_scenes, put
from rsseg.task import Binary, make_task

RNG = np.random.default_rng(3)


def scene(folder, image, mask, name="s", **options):
    planes = mask if mask is None or mask.ndim == 3 else mask[None]
    path = None if mask is None else write_tif(folder / "m" / f"{name}.tif", planes)
    return make_scene(name, write_tif(folder / "i" / f"{name}.tif", image, **options), path)


def scenes(folder, count=3, size=64, **options):
    """Scenes with pixels of their own."""
    masks = [checker(RNG, size, 3) for _ in range(count)]
    return [scene(folder, coloured(RNG, mask), mask, f"s{i}", **options) for i, mask in enumerate(masks)]


def written(store):
    """The time of each scene's last file."""
    return [(store.folder / f"{name}.counts").stat().st_mtime_ns for name in store._names]


LAYOUTS = {
    "plain": {},
    "tiled": {"tiled": True, "blockxsize": 16, "blockysize": 32},
    "deflate": {"compress": "deflate"},
    "band": {"interleave": "band"},
    "big": {"ENDIANNESS": "BIG"},
}


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "int32", "float32", "float64"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_scenes_are_what_rasterio_reads(tmp_path, dtype, layout):
    image = (RNG.random((4, 50, 70)) * 250).astype(dtype)
    mask = RNG.integers(0, 3, (50, 70), dtype=np.uint8)
    one = scene(tmp_path, image, mask, photometric="minisblack", **LAYOUTS[layout])  # else band 4 is alpha
    for bands in ((1, 2, 3, 4), (3, 1)):
        store = store_of([one], tmp_path / "store", bands=bands)
        with rasterio.open(one.image) as file:
            pixels, labels = whole_scene(store, 0)
            assert pixels.dtype == store.dtype == file.dtypes[0]
            np.testing.assert_array_equal(pixels, file.read(bands))
        np.testing.assert_array_equal(labels, mask)


def test_a_window_is_float_after_normalisation_as_it_was(tmp_path):
    """torch does little with uint16, but what a batch undergoes it does."""
    store = store_of([scene(tmp_path, np.full((3, 40, 40), 60000, np.uint16), np.zeros((40, 40), np.uint8))], tmp_path / "s")
    image, _ = store.cut([(0, 0, 0)] * 2, 32)
    assert image.dtype == torch.uint16
    assert (image.float() == 60000).all()
    assert image.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_photographs(tmp_path, suffix):
    image = RNG.integers(0, 255, (33, 47, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / f"a.{suffix}")
    mask = write_tif(tmp_path / "m.tif", np.zeros((1, 33, 47), np.uint8))
    store = store_of([make_scene("a", tmp_path / f"a.{suffix}", mask)], tmp_path / "store")
    np.testing.assert_array_equal(whole_scene(store, 0)[0], np.asarray(Image.open(tmp_path / f"a.{suffix}")).transpose(2, 0, 1))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("cache", ["disk", "ram", "gpu"])
def test_windows_are_the_readers(tmp_path, dtype, task, cache):
    """Anywhere, over edges and pixels without data, from scenes of one or several planes: as read by rasterio one by one."""
    labels = Labels(make_task(task, ("a", "b")), None, [255])
    made = []
    for i, (height, width) in enumerate([(40, 90), (20, 20), (64, 64)]):
        image = RNG.integers(1, 200, (3, height, width)).astype(dtype)
        image[:, RNG.random((height, width)) < 0.1] = 0
        mask = RNG.choice(np.array([0, 1, 255], np.uint8), (2 if task == "multilabel" else 1, height, width))
        made.append(scene(tmp_path, image, mask, f"s{i}", **({} if i == 2 else {"nodata": 0})))
    store, readers = store_of(made, tmp_path / "store", labels), [SceneReader(one, [labels], [1, 2, 3]) for one in made]
    store.fill = np.array([7.0, 8.0, 9.0])
    for reader in readers:
        reader.fill, reader.dtype = store.fill, store.dtype
    if cache != "disk":
        load_scenes([store], torch.device("cpu") if cache == "gpu" else None)
    places = [(int(RNG.integers(3)), int(RNG.integers(20)), int(RNG.integers(20))) for _ in range(12)]
    image, layers = store.cut(places, 32)
    mask = layers["mask"]
    for i, (number, top, left) in enumerate(places):
        pixels, truth = read_window(readers[number], top, left, 32)
        np.testing.assert_array_equal(image[i].numpy(), pixels)
        np.testing.assert_array_equal(mask[i].numpy(), truth)


@pytest.mark.parametrize("kinds", [("uint8", "uint8"), ("uint16", "uint16"), ("uint8", "int16"), ("uint16", "float32")])
def test_torch_and_numpy_copy_alike(kinds):
    source, target = (RNG.integers(0, 200, (6, 5, 3)).astype(kind) for kind in kinds)
    where = RNG.random((6, 5, 1)) < 0.5
    for pixels in (source, source[0, 0]):
        for chosen in ((), (where,)):
            ours, theirs = target.copy(), torch.from_numpy(target.copy())
            put(ours, pixels, *chosen)
            put(theirs, torch.from_numpy(pixels), *map(torch.from_numpy, chosen))
            np.testing.assert_array_equal(ours, theirs.numpy())
            np.testing.assert_array_equal(ours, np.where(chosen[0] if chosen else True, pixels, target))


def test_scenes_of_different_types_come_as_their_common_one(tmp_path):
    made = [
        scene(tmp_path, np.full((3, 9, 9), v, t), np.zeros((9, 9), np.uint8), t) for v, t in ((200, "uint8"), (-3, "int16"))
    ]
    store = store_of(made, tmp_path / "store")
    image, _ = store.cut([(0, 0, 0), (1, 0, 0)], 8)
    assert image.dtype == torch.int16
    assert image[:, 0, 0, 0].tolist() == [200, -3]


@settings(deadline=None, max_examples=100)
@given(st.tuples(st.integers(1, 9000), st.integers(1, 9000)), st.tuples(st.integers(1, 5000), st.integers(1, 5000)))
def test_parts_cover_a_scene_once_in_whole_blocks(size, block):
    block = tuple(min(pair) for pair in zip(size, block, strict=True))
    area = 0
    for window in parts(size, block):
        area += window.height * window.width
        assert window.row_off % block[0] == window.col_off % block[1] == 0
        assert window.row_off + window.height <= size[0]
        assert window.col_off + window.width <= size[1]
        assert window.height * window.width <= max(PART, block[0] * block[1])
    assert area == size[0] * size[1]


def test_a_large_map_is_the_same_as_a_small_one(tmp_path, monkeypatch):
    """From 1 GB on a file is mapped in another way; here from the first byte on."""
    store = store_of([scene(tmp_path, coloured(RNG, checker(RNG, 64, 3)), checker(RNG, 64, 3))], tmp_path / "store")
    small = store.cut([(0, 3, 5)], 32)
    monkeypatch.setattr("rsseg.data.decoded.LARGE", 1)
    map_array.cache_clear()
    again = store.cut([(0, 3, 5)], 32)
    assert torch.equal(small[0], again[0])
    assert torch.equal(small[1]["mask"], again[1]["mask"])
    map_array.cache_clear()


def test_only_what_changed_is_decoded_again(tmp_path):
    made = scenes(tmp_path)
    first = store_of(made, tmp_path / "store")
    again = store_of(made, tmp_path / "store")
    assert written(again) == written(first)
    write_tif(mask_file(made[1]), np.full((1, 64, 64), 2, np.uint8))
    os.utime(mask_file(made[1]), ns=(1, 1))
    changed = store_of(made, tmp_path / "store")
    assert [ours == theirs for ours, theirs in zip(changed._names, first._names, strict=True)] == [True, False, True]
    assert [ours == theirs for ours, theirs in zip(written(changed), written(first), strict=True)] == [True, False, True]
    assert (whole_scene(changed, 1)[1] == 2).all()
    assert changed.census.positives[1].tolist() == [0, 0, 64 * 64]
    assert store_of(made, tmp_path / "store", bands=(3, 2, 1))._names[0] != first._names[0]
    assert store_of(made, tmp_path / "store", Labels(TASK, [0, 2, 1], [255]))._names[0] != first._names[0]


def test_an_existing_store_opens_no_raster(tmp_path, monkeypatch):
    made = scenes(tmp_path)
    first = store_of(made, tmp_path / "store")
    for index in (tmp_path / "store").glob("index-*"):
        monkeypatch.setattr("rsseg.data.raster._open", None)
        again = store_of(made, tmp_path / "store")
        index.unlink()
        anew = store_of(made, tmp_path / "store")
        for store in (again, anew):
            assert store.census.fingerprint([]) == first.census.fingerprint([])
            for name, value in vars(first.census.bands).items():
                np.testing.assert_array_equal(getattr(store.census.bands, name), value)
            np.testing.assert_array_equal(store.census.blocks.counts, first.census.blocks.counts)


def test_an_interrupted_build_goes_on(tmp_path, monkeypatch):
    made = scenes(tmp_path, count=5, compress="deflate")
    monkeypatch.setattr(build, "cores", lambda: 1)
    write, count = build.decode_scene, [0]
    read = SceneReader.read_mask

    def cut_off(reader, folder, name):
        count[0] += 1
        if count[0] == 3:
            monkeypatch.setattr(SceneReader, "read_mask", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        write(reader, folder, name)

    monkeypatch.setattr(build, "decode_scene", cut_off)
    with pytest.raises(KeyboardInterrupt):
        store_of(made, tmp_path / "store")
    monkeypatch.setattr(SceneReader, "read_mask", read)
    left = sorted(p.name for p in (tmp_path / "store").iterdir())
    assert len([name for name in left if name.endswith(".counts")]) == 2
    assert not [name for name in left if name.endswith(".part")]
    count[0] = 10
    store = store_of(made, tmp_path / "store")
    assert count[0] == 13  # three were left
    for i, one in enumerate(made):
        with rasterio.open(one.image) as file:
            np.testing.assert_array_equal(whole_scene(store, i)[0], file.read())


def test_what_a_killed_process_left_behind_is_removed_in_time(tmp_path):
    (tmp_path / "store").mkdir()
    old, young = (tmp_path / "store" / f".{name}.image.part" for name in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"half a scene")
    os.utime(old, (time.time() - 7200,) * 2)
    store_of(scenes(tmp_path), tmp_path / "store")
    assert not old.exists()
    assert young.exists()


def open_in_process(made, folder, queue):
    store = store_of(made, folder)
    queue.put((os.getpid(), store.census.fingerprint([s.name for s in made])))


def test_two_processes_build_one_store(tmp_path):
    made = scenes(tmp_path, count=12, compress="deflate")
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    both = [context.Process(target=open_in_process, args=(made, tmp_path / "store", queue)) for _ in range(2)]
    for process in both:
        process.start()
    found = [queue.get(timeout=60) for _ in both]
    for process in both:
        process.join()
    assert {process.exitcode for process in both} == {0}
    assert found[0][1] == found[1][1]
    store = store_of(made, tmp_path / "store")
    files = [p.name for p in (tmp_path / "store").iterdir()]
    assert sorted(files) == sorted(
        [f"{name}.{kind}" for name in store._names for kind in ("image.npy", "labels.npy", "counts")]
        + [name for name in files if name.startswith("index-")]
    )
    for i, one in enumerate(made):
        with rasterio.open(one.image) as file, rasterio.open(mask_file(one)) as mask:
            np.testing.assert_array_equal(whole_scene(store, i)[0], file.read())
            np.testing.assert_array_equal(whole_scene(store, i)[1], mask.read(1))


def truncated(path, keep=0.5):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


def test_bad_scenes_are_named_together_or_skipped(tmp_path):
    made = scenes(tmp_path, count=9, size=96)
    for i in range(6):
        write_tif(mask_file(made[i]), np.zeros((1, 10, 96), np.uint8), crs=None, transform=None)
    with pytest.raises(InputError, match=r"is 96 x 10 pixels, but .* is 96 x 96(.|\n)*and 1 more") as error:
        store_of(made, tmp_path / "store")
    assert str(error.value).count("  - ") == 5
    made[6].image.unlink()
    write_tif(mask_file(made[7]), np.full((1, 96, 96), 7, np.uint8))
    with pytest.raises(InputError, match="mask holds the value 7"):
        store_of(made[7:], tmp_path / "store")
    with pytest.raises(InputError, match=r"s6\.tif can't be read: No such file"):
        store_of([made[6], made[8]], tmp_path / "store")
    for _ in range(2):  # once decoded, and once found
        store = store_of(made, tmp_path / "store", skip=True)
        assert [s.name for s in store.scenes] == ["s8"]
        assert sorted(store.skipped) == [f"s{i}" for i in range(8)]
        assert "value 7" in store.skipped["s7"]
    with pytest.raises(InputError, match="and 3 more"):
        store_of(made[:8], tmp_path / "store", skip=True)  # nothing is left


@pytest.mark.parametrize("which", ["image", "mask"])
@pytest.mark.parametrize("compress", ["none", "deflate"])
def test_truncated_files_are_named(tmp_path, which, compress):
    image, mask = (RNG.integers(0, 3, (bands, 200, 200), dtype=np.uint8) for bands in (3, 1))
    one = scene(tmp_path, image, mask, compress=compress)
    path = one.image if which == "image" else mask_file(one)
    truncated(path)
    with pytest.raises(InputError, match=rf"{path.name}.*truncated or damaged"):
        store_of([one], tmp_path / "store")
    assert not list((tmp_path / "store").glob("*.counts"))


def test_a_disk_too_small_is_refused_before_decoding(tmp_path, monkeypatch):
    made = scenes(tmp_path, compress="deflate")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: type("Usage", (), {"free": 3 * 64 * 64 * 4 - 1})())
    monkeypatch.setattr(build, "decode_scene", None)
    with pytest.raises(InputError, match=r"3 scenes to decode take under 1 MB, and"):
        store_of(made, tmp_path / "store")


@pytest.mark.parametrize("skip", [False, True])
def test_a_disk_that_fills_up_is_no_bad_scene(tmp_path, monkeypatch, skip):
    def full(self, window, planes):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rsseg.data.decoded.ArrayFile.write", full)
    with pytest.raises(InputError, match=r"can't be written.*No space left"):
        store_of(scenes(tmp_path, compress="deflate"), tmp_path / "store", skip=skip)
    assert not list((tmp_path / "store").iterdir())


def test_the_start_says_what_is_to_be_done(tmp_path, caplog):
    with caplog.at_level("INFO"):
        store_of(scenes(tmp_path), tmp_path / "store", title="train split")
        store_of(scenes(tmp_path)[:1], tmp_path / "alone", title="val split")
    assert "train split: 3 scenes to decode take under 1 MB, and" in caplog.text
    assert "val split: 1 scene to decode takes under 1 MB, and" in caplog.text
    caplog.clear()
    store_of(scenes(tmp_path), tmp_path / "store")


def test_memory_does_not_grow_with_the_scene(tmp_path, monkeypatch):
    """Of what NumPy allocates, which tracemalloc sees; GDAL's cache is bounded by its own setting."""
    monkeypatch.setattr("rsseg.data.decoded.PART", 1 << 14)
    monkeypatch.setattr(build, "cores", lambda: 1)
    peaks = []
    for size in (256, 256, 2048):  # the first one is for what is allocated once
        one = scene(tmp_path, np.ones((3, size, size), np.uint8), np.zeros((size, size), np.uint8), "s", compress="deflate")
        tracemalloc.start()
        store_of([one], tmp_path / "store")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 2 * peaks[1]  # of 64 times the pixels


def test_memory_too_small_is_refused(tmp_path, monkeypatch):
    store = store_of(scenes(tmp_path), tmp_path / "store")
    assert store.nbytes == 3 * (64 * 64 * 4 + 2 * 128)  # a header of each file too
    monkeypatch.setattr(room, "free_memory", lambda device: store.nbytes - 1)
    with pytest.raises(InputError, match=r"this machine has 0\.0 GB of memory left: take cache=disk"):
        load_scenes([store], None)
    with pytest.raises(InputError, match="take cache=ram or cache=disk"):
        load_scenes([store], torch.device("cpu"))
    monkeypatch.setattr(room, "free_memory", lambda device: store.nbytes)
    load_scenes([store], None)
    assert store.loaded


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        ({"": None, "job": "1000", "job/step": "max"}, 1000 - 700 + 150),
        ({"": None, "job": "5000", "job/step": "800"}, 800 - 700 + 150),
        ({"": None, "job": "1000", "job/step": None}, 1000 - 700 + 150),  # memory is limited above alone
        ({"": "900"}, 900 - 700 + 150),  # in a container the limit is that of the root
        ({"": None, "job": "max", "job/step": "max"}, float("inf")),
    ],
)
def test_memory_that_a_container_or_a_job_may_take(tmp_path, limits, left):
    """Folders of cgroup v2 in which 700 bytes are taken, 150 of them by cached files."""
    for name, limit in limits.items():
        folder = tmp_path / "cgroup" / name
        folder.mkdir(parents=True, exist_ok=True)
        if limit:
            (folder / "memory.max").write_text(f"{limit}\n")
            (folder / "memory.current").write_text("700\n")
            (folder / "memory.stat").write_text("anon 550\nfile 150\ninactive_file 100\nactive_file 50\n")
    (tmp_path / "own").write_text(f"4:memory:/old\n0::/{name}\n")
    assert left_of_limits(tmp_path / "cgroup", tmp_path / "own") == left
    assert left_of_limits(tmp_path / "cgroup", tmp_path / "none") == float("inf")


def test_a_store_can_be_sent_to_a_spawned_process(tmp_path):
    store = store_of(scenes(tmp_path), tmp_path / "store")
    sent = pickle.loads(pickle.dumps(store))
    (image, layers), (sent_image, sent_layers) = store.cut([(1, 2, 3)], 32), sent.cut([(1, 2, 3)], 32)
    assert torch.equal(image, sent_image)
    assert torch.equal(layers["mask"], sent_layers["mask"])


def test_complex_pixels_are_refused(tmp_path):
    with pytest.raises(InputError, match="complex numbers"):
        store_of([scene(tmp_path, np.ones((3, 9, 9), np.complex64), np.zeros((9, 9), np.uint8))], tmp_path / "store")


def test_the_users_files_are_copied(tmp_path):
    """A file that is cut while a run reads it kills no process, and changes no pixel."""
    image = RNG.integers(0, 250, (3, 64, 64), dtype=np.uint8)
    one = scene(tmp_path, image, np.zeros((64, 64), np.uint8))
    store = store_of([one], tmp_path / "store")
    one.image.write_bytes(b"")
    np.testing.assert_array_equal(whole_scene(store, 0)[0], image)


def test_many_scenes_open_at_once(tmp_path):
    """Scenes that share one file of pixels: opening them again stats files and reads the index, nothing else."""
    from dataclasses import replace

    one = scene(tmp_path, np.ones((1, 4, 4), np.uint8), np.zeros((4, 4), np.uint8))
    made = [replace(one, name=f"s{i}") for i in range(2000)]
    first = store_of(made, tmp_path / "store", bands=(1,))
    began = time.process_time()
    again = store_of(made, tmp_path / "store", bands=(1,))
    assert len(again) == len(first) == 2000
    assert time.process_time() - began < 1


def test_what_a_scenes_name_depends_on(tmp_path):
    one = scenes(tmp_path, count=1)[0]
    task = Binary(("a",))
    colours, numbers = Labels(task, ["#000000", "#0000ff"]), Labels(task, [0, 255])  # equal as numbers
    burnt = [make_scene("s", one.image, mask_file(one), settings={"attribute": attribute}) for attribute in ("a", "b")]
    names = [
        store_name(one, [numbers], [1]),
        store_name(one, [colours], [1]),
        store_name(one, [numbers], [2]),
        *(store_name(scene, [numbers], [1]) for scene in burnt),
    ]
    assert len(set(names)) == len(names)


def test_a_vrt_of_vrts_is_what_its_parts_are(tmp_path):
    image = write_tif(tmp_path / "a.tif", np.ones((1, 40, 40), np.uint8))
    inner, outer = tmp_path / "b.vrt", tmp_path / "c.vrt"
    for path, source in ((inner, image), (outer, inner)):
        path.write_text(
            '<VRTDataset rasterXSize="40" rasterYSize="40"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
            f"<SourceFilename>{source}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
        )
    assert set(Scene("s", outer).files) == {outer, inner, image}


def test_scenes_are_compared_with_those_in_the_store(tmp_path):
    def stacked(name, bands):
        first = write_tif(tmp_path / f"{name}1.tif", np.ones((bands, 40, 40), np.uint8))
        second = write_tif(tmp_path / f"{name}2.tif", np.ones((2, 40, 40), np.uint8))
        return Scene(name, first, stack=(second,))

    made = [stacked("a", 2), stacked("b", 2), stacked("c", 3)]
    store_of(made[:2], tmp_path / "store")
    with pytest.raises(InputError, match=r"c1\.tif has 3 bands but .*a1\.tif has 2"):
        store_of(made, tmp_path / "store")


def test_fill_is_rounded_to_what_pixels_can_hold(tmp_path):
    store = store_of(scenes(tmp_path, count=1), tmp_path / "store")
    store.fill = np.array([0.8, 300.0, 7.2])
    image, _ = store.cut([(0, 0, 0)], 96)
    assert image[0, :, 95, 95].tolist() == [1, 255, 7]
