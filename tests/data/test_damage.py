"""A store whose files are missing, cut, flipped or old gives the pixels of the scenes all the same, or says what is wrong."""

import hashlib
import multiprocessing
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from stores import store_of
from tiny import make_scene, write_tif

import rsseg.data.build as build
from rsseg.contract import InputError
from rsseg.data.decoded import map_array
from rsseg.data.scene import SceneReader
from rsseg.data.store import load_scenes

SIZES = ((64, 90), (70, 64), (300, 310))
KINDS = ("image.npy", "labels.npy", "weight.npy", "missing.npy")


@pytest.fixture(autouse=True)
def _no_maps_of_before():
    map_array.cache_clear()


def made_scenes(folder):
    """Scenes with an image, a mask, a weight and missing pixels, and what these files hold."""
    rng, scenes, truth = np.random.default_rng(5), [], []
    for i, size in enumerate(SIZES):
        image = rng.integers(1, 250, (3, *size), dtype=np.uint8)
        image[:, 5:9, 7] = 0
        mask, weight = rng.integers(0, 3, size, dtype=np.uint8), rng.random(size).astype(np.float32)
        paths = [
            write_tif(folder / kind / f"s{i}.tif", planes, **options)
            for kind, planes, options in (("i", image, {"nodata": 0}), ("m", mask[None], {}), ("w", weight[None], {}))
        ]
        scenes.append(make_scene(f"s{i}", paths[0], paths[1], weight=paths[2]))
        truth.append((image, np.where(image[0] == 0, 255, mask), weight))
    return scenes, truth


@pytest.fixture(scope="module")
def decoded(tmp_path_factory):
    """Scenes, what they hold, and a store of them."""
    folder = tmp_path_factory.mktemp("made")
    scenes, truth = made_scenes(folder)
    store_of(scenes, folder / "store")
    return scenes, truth, folder / "store"


@pytest.fixture
def made(tmp_path, decoded):
    """The scenes, with a store of their own to damage."""
    scenes, truth, folder = decoded
    shutil.copytree(folder, tmp_path / "store")
    return scenes, truth


def pixels_of(store):
    """The arrays of each scene, by way of windows that are larger."""
    found = []
    for scene, (height, width) in enumerate(store.sizes.tolist()):
        image, layers = store.cut([(scene, 0, 0)], max(height, width))
        found.append([each[0, ..., :height, :width].numpy() for each in (image, layers["mask"], layers["weight"])])
    return found


def assert_right(store, truth):
    for arrays, expected in zip(pixels_of(store), truth, strict=True):
        for array, right in zip(arrays, expected, strict=True):
            np.testing.assert_array_equal(array, right)


def flip(place):
    def harm(path):
        content = bytearray(path.read_bytes())
        content[int(place * (len(content) - 1))] ^= 4
        path.write_bytes(content)

    return harm


def old(path):
    """As the version before wrote counts: arrays of NumPy one after the other."""
    with path.open("wb") as file:
        for array in (np.array([64, 90, 4]), np.zeros((4, 3)), np.zeros((4, 3), np.uint8)):
            np.save(file, array)


HARMS = {
    "missing": lambda path: path.unlink(),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "header": lambda path: path.write_bytes(b"0" * 80 + path.read_bytes()[80:]),
    "first byte": flip(0),
    "byte of the header": flip(0.001),
    "middle byte": flip(0.5),
    "last byte": flip(1),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
}


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("kind", [*KINDS, "counts"])
def test_a_damaged_scene_is_decoded_again(tmp_path, made, caplog, kind, harm, held):
    scenes, truth = made
    folder = tmp_path / "store"
    first = store_of(scenes, folder)
    assert_right(first, truth)
    map_array.cache_clear()
    HARMS[harm](folder / f"{first._names[0]}.{kind}")
    if kind == "counts":  # else they are not read: the index holds them
        next(folder.glob("index-*")).unlink()
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir() if not path.name.startswith(first._names[0])}
    for lines in (1 if (kind, harm) != ("counts", "missing") else 0, 0):  # then it looks as if the scene were new
        caplog.clear()
        store = store_of(scenes, folder)
        if held:
            load_scenes([store], None)
        assert_right(store, truth)
        assert store.pixel_hash == first.pixel_hash
        assert len([line for line in caplog.messages if "again" in line]) == lines
        map_array.cache_clear()
    assert all(path.stat().st_mtime_ns == time for path, time in before.items() if "index" not in path.name)


def test_a_mapped_file_is_mapped_anew(tmp_path, made):
    """A byte that is flipped in the file of a map is so in the map: what is decoded again lies in another file."""
    scenes, truth = made
    first = store_of(scenes, tmp_path / "store")
    assert_right(first, truth)
    with (tmp_path / "store" / f"{first._names[0]}.image.npy").open("r+b") as file:
        file.seek(1000)
        file.write(bytes(500))
    assert_right(store_of(scenes, tmp_path / "store"), truth)


@pytest.mark.parametrize("kind", KINDS)
def test_files_that_vanish_while_a_run_goes_on(tmp_path, made, kind):
    """Each scene was opened and looked at; then its files are gone, and no map of them is left."""
    scenes, truth = made
    store = store_of(scenes, tmp_path / "store")
    assert_right(store, truth)
    for path in (tmp_path / "store").glob(f"*.{kind}"):
        path.unlink()
    map_array.cache_clear()
    assert_right(store, truth)


@pytest.mark.parametrize("size", [0, 200, 20_000])
@pytest.mark.parametrize("kind", KINDS)
def test_files_that_are_cut_while_they_are_mapped(tmp_path, made, caplog, kind, size):
    """To read beyond the end of a mapped file kills the process: each window looks at the sizes first."""
    scenes, truth = made
    store = store_of(scenes, tmp_path / "store")
    assert_right(store, truth)
    for path in (tmp_path / "store").glob(f"*.{kind}"):
        os.truncate(path, min(size, path.stat().st_size - 1))
    assert_right(store, truth)
    assert caplog.text.count("is decoded again") == len(SIZES)


def test_a_file_that_goes_on_after_its_last_block(tmp_path, decoded, monkeypatch):
    for module in ("decoded", "store"):
        monkeypatch.setattr(f"rsseg.data.{module}.BLOCK", 1024)
    scenes, truth, _ = decoded
    path = tmp_path / "store" / f"{store_of(scenes, tmp_path / 'store')._names[0]}.image.npy"
    assert path.stat().st_size % 1024 == 0
    HARMS["longer"](path)
    assert_right(store_of(scenes, tmp_path / "store"), truth)


@pytest.mark.parametrize("harm", [*HARMS, "old"])
def test_a_damaged_index_is_made_again(tmp_path, made, monkeypatch, harm):
    scenes, truth = made
    first = store_of(scenes, tmp_path / "store")
    (index,) = (tmp_path / "store").glob("index-*")
    (HARMS | {"old": old})[harm](index)
    monkeypatch.setattr(build, "decode_scene", None)
    store = store_of(scenes, tmp_path / "store")
    assert_right(store, truth)
    for name, value in vars(first.census.bands).items():
        np.testing.assert_array_equal(getattr(store.census.bands, name), value)


def test_a_store_of_the_version_before_is_written_over(tmp_path, made, caplog):
    scenes, truth = made
    first = store_of(scenes, tmp_path / "store")
    files = sorted(path.name for path in (tmp_path / "store").iterdir())
    next((tmp_path / "store").glob("index-*")).unlink()
    for name in first._names:
        old(tmp_path / "store" / f"{name}.counts")
    assert_right(store_of(scenes, tmp_path / "store"), truth)
    assert [line for line in caplog.messages if "3 scenes in" in line and "of an earlier version" in line]
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == files


@pytest.mark.parametrize(("place", "full", "found"), [(0, 0, True), (1, 0, True), (0.5, 0, False), (0.5, 1, True)])
def test_what_is_looked_at(tmp_path, decoded, monkeypatch, caplog, place, full, found):
    """Of many blocks the first and the last at least; with full=True all."""
    for module in ("decoded", "store"):
        monkeypatch.setattr(f"rsseg.data.{module}.BLOCK", 1000)
    monkeypatch.setattr("rsseg.data.decoded.SAMPLED", 2)
    scenes, truth, _ = decoded
    name = store_of(scenes, tmp_path / "store")._names[2]
    flip(place)(tmp_path / "store" / f"{name}.image.npy")
    store = store_of(scenes, tmp_path / "store", full=bool(full))
    equal = np.array_equal(pixels_of(store)[2][0], truth[2][0])
    assert (equal, "scene s2 is decoded again" in caplog.text) == (found, found)


def test_other_blocks_are_looked_at_each_time(tmp_path, decoded, monkeypatch):
    for module in ("decoded", "store"):
        monkeypatch.setattr(f"rsseg.data.{module}.BLOCK", 10_000)  # 28 of them
    scenes, truth, _ = decoded
    for _ in range(100):
        name = store_of(scenes, tmp_path / "store")._names[2]
        flip(0.5)(tmp_path / "store" / f"{name}.image.npy")
        if np.array_equal(pixels_of(store_of(scenes, tmp_path / "store"))[2][0], truth[2][0]):
            return
        flip(0.5)(tmp_path / "store" / f"{name}.image.npy")
        map_array.cache_clear()
    raise AssertionError("a hundred draws of 6 of 26 blocks never hold one of them")


def open_all(scenes, folder, start, queue):
    torch.set_num_threads(1)  # threads do not survive a fork
    start.wait(120)
    store = store_of(scenes, folder)
    queue.put(hashlib.sha256(b"".join(array.tobytes() for arrays in pixels_of(store) for array in arrays)).hexdigest())


def test_several_processes_open_a_damaged_store(tmp_path, made):
    scenes, truth = made
    folder, names = tmp_path / "store", store_of(scenes, tmp_path / "store")._names
    HARMS["cut"](folder / f"{names[0]}.image.npy")
    old(folder / f"{names[1]}.counts")
    next(folder.glob("index-*")).unlink()
    HARMS["middle byte"](folder / f"{names[2]}.labels.npy")
    context = multiprocessing.get_context("fork")
    queue, start = context.Queue(), context.Barrier(3)
    several = [context.Process(target=open_all, args=(scenes, folder, start, queue)) for _ in range(3)]
    for process in several:
        process.start()
    found = [queue.get(timeout=120) for _ in several]
    for process in several:
        process.join()
    assert set(found) == {hashlib.sha256(b"".join(a.tobytes() for arrays in truth for a in arrays)).hexdigest()}


def test_threads_decode_a_damaged_scene_once(tmp_path, made, caplog):
    scenes, truth = made
    name = store_of(scenes, tmp_path / "store")._names[2]
    flip(0.5)(tmp_path / "store" / f"{name}.labels.npy")
    store = store_of(scenes, tmp_path / "store", full=True)
    with ThreadPoolExecutor(8) as pool:
        for image, layers in pool.map(lambda _: store.cut([(2, 0, 0)], 310), range(8)):
            np.testing.assert_array_equal(image[0, :, :300].numpy(), truth[2][0])
            np.testing.assert_array_equal(layers["mask"][0, :300].numpy(), truth[2][1])
    assert caplog.text.count("scene s2 is decoded again") == 1


def test_a_damaged_scene_without_its_files_is_refused(tmp_path):
    scenes, _ = made_scenes(tmp_path)
    store = store_of(scenes, tmp_path / "store")
    flip(0.5)(tmp_path / "store" / f"{store._names[0]}.image.npy")
    scenes[0].image.unlink()
    with pytest.raises(InputError, match=r"s0\.tif"):
        store.arrays(0)
    store.arrays(1)


@pytest.mark.parametrize("harm", ["middle byte", "missing"])
def test_other_pixels_than_before(tmp_path, made, monkeypatch, harm):
    """As another version of a library may decode them: they end a run that has begun, and are what the next one begins with."""
    scenes, truth = made
    store = store_of(scenes, tmp_path / "store")
    HARMS[harm](tmp_path / "store" / f"{store._names[0]}.image.npy")
    read = SceneReader.read_pixels
    monkeypatch.setattr(SceneReader, "read_pixels", lambda *given: (read(*given)[0] + 1, read(*given)[1]))
    if harm == "middle byte":
        with pytest.raises(InputError, match="scene s0: decoding again gave other pixels than recorded"):
            store.arrays(0)
    again = store_of(scenes, tmp_path / "store")
    np.testing.assert_array_equal(pixels_of(again)[0][0][:, 20:], truth[0][0][:, 20:] + 1)
    assert again.pixel_hash != store.pixel_hash


def test_the_pixels_hash_is_that_of_every_pixel(tmp_path, made):
    """Whatever is equal in number: a mirrored image or mask, darkened, two labels or two weights exchanged; not of the path."""
    scenes, truth = made
    whole = store_of(scenes, tmp_path / "store").pixel_hash
    copies, _ = made_scenes(tmp_path / "elsewhere")
    assert store_of(copies, tmp_path / "store").pixel_hash == whole

    def exchanged(array):
        (a, b), *_ = np.argwhere(array[1:] != array[:-1])
        array[a : a + 2, b] = array[a : a + 2, b][::-1].copy()
        return array

    found = {whole}
    image, mask, weight = truth[0]
    for i, (kind, planes) in enumerate(
        {
            "i": image[:, ::-1], "I": np.where(image > 0, image // 2 + 1, 0), "m": mask[None, :, ::-1],
            "M": exchanged(mask.copy())[None], "w": exchanged(weight.copy())[None],
        }.items()
    ):  # fmt: skip
        other, _ = made_scenes(tmp_path / str(i))
        write_tif(tmp_path / str(i) / kind.lower() / "s0.tif", planes, **({"nodata": 0} if kind in "iI" else {}))
        found.add(store_of(other, tmp_path / "store").pixel_hash)
    assert len(found) == 6


def test_verification_draws_no_number_that_training_draws(tmp_path, decoded, monkeypatch):
    import random

    for module in ("decoded", "store"):
        monkeypatch.setattr(f"rsseg.data.{module}.BLOCK", 1000)
    scenes, *_ = decoded
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    pixels_of(store_of(scenes, tmp_path / "store"))
    drawn = random.random(), np.random.random(), torch.rand(1).item()  # noqa: NPY002
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    assert drawn == (random.random(), np.random.random(), torch.rand(1).item())  # noqa: NPY002


def test_no_file_of_the_users_is_mapped(tmp_path, made):
    scenes, truth = made
    store = store_of(scenes, tmp_path / "store")
    assert_right(store, truth)
    if os.path.exists("/proc/self/maps"):
        with open("/proc/self/maps", encoding="utf-8") as file:
            mapped = file.read()
        assert f"{store._names[0]}.image.npy" in mapped
        assert not [path for scene in scenes for path in scene.files if str(path) in mapped]
