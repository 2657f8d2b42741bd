"""Scenes mapped by a trained run, as ``rsseg predict`` does it."""

import functools
import http.server
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin
from rasterio.warp import Resampling, reproject
from shapely.geometry import box
from test_run import folder_data, settings
from tiny import map_scene, write_tif

from rsseg.commands import predict as command
from rsseg.config.build import plain
from rsseg.config.folder import RunFolder
from rsseg.contract import InputError
from rsseg.data.scene import Scene
from rsseg.dataset_source import trained_on
from rsseg.evaluation.options import EvaluationOptions
from rsseg.evaluation.scores import evaluate, evaluate_map
from rsseg.inference.inputs import find_scenes, fit_resolution
from rsseg.inference.options import MapOptions
from rsseg.prediction import Mapper, load_models, predict, start_others
from rsseg.run import train

ROOT = Path(__file__).parent.parent

HOLD = """
import sys
from pathlib import Path
from rsseg.files import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    input()
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory, folder_root):
    """Two seeds of one run."""
    place = tmp_path_factory.mktemp("runs")
    for seed in (1, 2):
        words = folder_data(folder_root)
        train(settings(place, *words, "pictures=0", f"seed={seed}"), place / f"seed{seed}")
    return [place / "seed1", place / "seed2"]


@pytest.fixture
def scenes(tmp_path, folder_root):
    """Three scenes in a folder."""
    images = sorted((folder_root / "images").iterdir())[:3]
    for i, image in enumerate(images):
        (tmp_path / "scenes").mkdir(exist_ok=True)
        (tmp_path / "scenes" / f"s{i}.tif").write_bytes(image.read_bytes())
    return tmp_path / "scenes"


def read(path):
    with rasterio.open(path) as raster:
        return raster.read()


def test_scenes_are_named_in_many_ways(tmp_path, scenes):
    names = ["s0", "s1", "s2"]

    def found(text, **options):
        return [scene.name for scene in find_scenes(str(text), [], **options)]

    assert found(scenes) == names
    assert found(scenes / "s*.tif") == names
    assert found(f"{scenes / 's0.tif'},{scenes / 's2.tif'}") == ["s0", "s2"]
    listed = tmp_path / "list.txt"
    listed.write_text(f"# scenes\nscenes/s1.tif\n\n{scenes / 's0.tif'}\n")
    assert found(listed) == ["s1", "s0"]
    odd = tmp_path / "tile[4], a.tif"
    odd.write_bytes((scenes / "s0.tif").read_bytes())
    assert found(odd) == ["tile[4], a"]
    (stacked,) = find_scenes(f"{scenes / 's0.tif'},{scenes / 's1.tif'}", [], stack=True)
    assert [path.name for path in stacked.images] == ["s0.tif", "s1.tif"]
    (tmp_path / "empty").mkdir()
    for text, message in ((tmp_path / "no.tif", "no such file or folder"), (tmp_path / "empty", "no image in that folder")):
        with pytest.raises(InputError, match=message):
            find_scenes(str(text), [])


def test_scenes_of_several_files_by_the_patterns_of_training(tmp_path, scenes):
    for name in ("s0", "s1"):
        for band in ("B1", "B2"):
            (tmp_path / "bands" / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "bands" / name / f"{band}.tif").write_bytes((scenes / f"{name}.tif").read_bytes())
    found = find_scenes(str(tmp_path / "bands"), ["{name}/B1.tif", "{name}/B2.tif"])
    assert [(scene.name, [path.name for path in scene.images]) for scene in found] == [
        ("s0", ["B1.tif", "B2.tif"]),
        ("s1", ["B1.tif", "B2.tif"]),
    ]
    (tmp_path / "bands" / "s1" / "B2.tif").unlink()
    with pytest.raises(InputError, match="have no file to stack"):
        find_scenes(str(tmp_path / "bands"), ["{name}/B1.tif", "{name}/B2.tif"])
    assert len(find_scenes(str(scenes), ["images/{name}.tif"])) == 3  # patterns that fit nothing: every image


@pytest.mark.slow
@pytest.mark.parametrize("form", ["a file", "a folder", "an archive"])
def test_scenes_elsewhere_give_the_same_maps(tmp_path, runs, scenes, monkeypatch, form):
    monkeypatch.setenv("RSSEG_CACHE", str(tmp_path / "cache"))
    archive = shutil.make_archive(str(tmp_path / "all"), "zip", scenes)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(scenes))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    root = f"http://127.0.0.1:{server.server_port}"
    named = {"a file": f"{root}/s0.tif", "a folder": root, "an archive": archive}[form]
    predict([runs[0]], named, tmp_path / "remote", MapOptions())
    server.shutdown()
    predict([runs[0]], str(scenes), tmp_path / "local", MapOptions())
    maps = sorted(path.name for path in (tmp_path / "remote").glob("*.tif"))
    expected = ["s0.tif"] if form == "a file" else ["s0.tif", "s1.tif", "s2.tif"]
    assert maps == expected
    for name in maps:
        assert np.array_equal(read(tmp_path / "remote" / name), read(tmp_path / "local" / name))


def test_a_batch_goes_on_where_it_stopped(tmp_path, runs, scenes, caplog):
    caplog.set_level(logging.INFO)
    (scenes / "s1.tif").rename(tmp_path / "whole.tif")
    (scenes / "s1.tif").write_bytes((tmp_path / "whole.tif").read_bytes()[:5000])
    with pytest.raises(InputError, match=r"1 of 3 scenes are not mapped: s1\.tif"):
        predict(runs[:1], str(scenes), tmp_path / "maps")
    made = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "maps").glob("*.tif")}
    assert set(made) == {"s0.tif", "s2.tif"}
    assert not [path for path in (tmp_path / "maps").iterdir() if "part" in path.name or path.name.endswith("tif.lock")]
    (tmp_path / "whole.tif").replace(scenes / "s1.tif")
    assert [path.name for path in predict(runs[:1], str(scenes), tmp_path / "maps")] == ["s0.tif", "s1.tif", "s2.tif"]
    assert {name: (tmp_path / "maps" / name).stat().st_mtime_ns for name in made} == made
    assert "s0.tif is kept, as it was made; overwrite=true makes it again" in caplog.text
    predict(runs[:1], str(scenes / "s0.tif"), tmp_path / "maps", MapOptions(margin=8))
    assert "s0.tif is kept, it was made with margin=" in caplog.text
    predict(runs[:1], str(scenes / "s0.tif"), tmp_path / "maps", MapOptions(overwrite=True))
    assert (tmp_path / "maps" / "s0.tif").stat().st_mtime_ns > made["s0.tif"]


def test_scenes_of_another_process_are_left_to_it(tmp_path, runs, scenes, caplog):
    caplog.set_level(logging.INFO)
    (tmp_path / "maps").mkdir()
    command = [sys.executable, "-c", HOLD, str(tmp_path / "maps" / ".s1.tif.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline()
        found = predict(runs[:1], str(scenes), tmp_path / "maps")
        other.communicate(b"\n")
    assert [path.name for path in found] == ["s0.tif", "s2.tif"]
    assert "other processes are mapping them: 1 scene" in caplog.text


def test_an_ensemble_and_what_it_disagrees_about(tmp_path, runs, scenes):
    options = {"write": ["labels", "probabilities", "entropy", "disagreement"], "dtype": "float16", "scaling": "none"}
    scene = scenes / "s0.tif"
    predict(runs, str(scene), tmp_path / "both.tif", MapOptions(**options))
    single = [
        read(
            map_scene(
                run, scene, tmp_path / run.name / "m.tif", write=["labels", "probabilities"], dtype="float16", scaling="none"
            ).with_name("m-probabilities.tif")
        )
        for run in runs
    ]
    mean = read(tmp_path / "both-probabilities.tif")
    np.testing.assert_allclose(mean, np.mean(single, axis=0), atol=0.002)
    assert (read(tmp_path / "both.tif")[0] == mean.argmax(0)).mean() > 0.999
    assert read(tmp_path / "both-disagreement.tif").max() > 0
    weighted = MapOptions(**(options | {"weights": "quality", "write": ["labels", "probabilities"]}))
    predict(runs, str(scene), tmp_path / "weighted.tif", weighted)
    scores = [RunFolder(run).summary()["iou"] for run in runs]
    expected = np.average(single, axis=0, weights=scores)
    np.testing.assert_allclose(read(tmp_path / "weighted-probabilities.tif"), expected, atol=0.002)
    parents = predict([runs[0].parent], str(scene), tmp_path / "folder.tif", MapOptions(**options))
    assert (read(parents[0]) == read(tmp_path / "both.tif")).all()


def test_polygons_lie_on_the_map(tmp_path, runs, scenes):
    out = map_scene(runs[0], scenes / "s0.tif", tmp_path / "m.tif", polygons=True)
    frame = geopandas.read_file(tmp_path / "m-polygons.gpkg")
    labels = read(out)[0]
    for label, name in enumerate("abc"):
        assert frame[frame["class"] == name].geometry.area.sum() == pytest.approx((labels == label).sum() / 4)
    assert {path.name for path in tmp_path.glob("m*")} >= {"m.qml", "m-polygons.gpkg", "m.tif.aux.xml"}


def test_the_unit_of_areas_without_a_crs_is_said(tmp_path, runs, scenes, caplog):
    caplog.set_level(logging.INFO)
    pixels = read(scenes / "s0.tif")
    for name, place, units in (("bare", None, "pixels"), ("world", from_origin(0, 9, 0.5, 0.5), "units of its coordinates")):
        scene = write_tif(tmp_path / f"{name}.tif", pixels, crs=None, transform=place)
        out = map_scene(runs[0], scene, tmp_path / f"{name}-map.tif", polygons=True)
        assert f"{name}.tif has no CRS: area, min_area and simplify of its polygons are in {units}" in caplog.text
        frame, labels = geopandas.read_file(tmp_path / f"{name}-map-polygons.gpkg"), read(out)[0]
        assert frame["area"].sum() == pytest.approx((labels < 255).sum() * (0.25 if place else 1))
    caplog.clear()
    map_scene(runs[0], scenes / "s0.tif", tmp_path / "m.tif", polygons=True)
    assert "CRS" not in caplog.text


def test_nothing_is_mapped_outside_the_area(tmp_path, runs, scenes):
    geopandas.GeoDataFrame(geometry=[box(500_000, 4_000_000 - 10, 500_020, 4_000_000)], crs=32633).to_file(tmp_path / "a.gpkg")
    labels = read(map_scene(runs[0], scenes / "s0.tif", tmp_path / "m.tif", area=str(tmp_path / "a.gpkg")))[0]
    assert (labels[:20, :40] != 255).all()
    assert (labels[20:] == 255).all()
    assert (labels[:, 40:] == 255).all()
    with pytest.raises(InputError, match=r"no\.gpkg: there is no such file"):
        map_scene(runs[0], scenes / "s0.tif", tmp_path / "n.tif", area=str(tmp_path / "no.gpkg"))


def test_another_resolution_is_refused_or_resampled(tmp_path, runs, scenes, caplog):
    caplog.set_level(logging.INFO)
    with rasterio.open(scenes / "s0.tif") as raster:
        fine = raster.read().repeat(2, axis=1).repeat(2, axis=2)
    path = write_tif(tmp_path / "fine.tif", fine, transform=from_origin(500000, 4000000, 0.25, 0.25))
    with pytest.raises(InputError, match=r"has 0\.25 m a pixel, and the run was trained on 0\.5 m: resample=true"):
        map_scene(runs[0], path, tmp_path / "a.tif")
    made = map_scene(runs[0], path, tmp_path / "b.tif", resample=True)
    with rasterio.open(made) as raster:
        assert raster.transform == from_origin(500000, 4000000, 0.5, 0.5)
        labels = raster.read(1)
    assert (labels == read(map_scene(runs[0], scenes / "s0.tif", tmp_path / "c.tif"))[0]).mean() > 0.999
    assert "resampled from 0.25 to 0.5 m a pixel" in caplog.text
    with rasterio.open(map_scene(runs[0], path, tmp_path / "d.tif", allow_different=True)) as raster:
        assert raster.shape == fine.shape[1:]


def test_resampling_is_gdals(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (2, 61, 83)).astype(np.uint16)
    path = write_tif(tmp_path / "a.tif", image)
    (scene,) = find_scenes(str(path), [])
    coarse = fit_resolution(scene, 1.3, MapOptions(resample=True), tmp_path)
    with rasterio.open(coarse.image) as raster:
        found, transform = raster.read(), raster.transform
    expected = np.zeros_like(found)
    reproject(
        image, expected, src_transform=from_origin(500000, 4000000, 0.5, 0.5), src_crs="EPSG:32633", dst_transform=transform,
        dst_crs="EPSG:32633", resampling=Resampling.average,
    )  # fmt: skip
    assert abs(found.astype(int) - expected).max() <= 1
    assert transform.a == pytest.approx(1.3, rel=0.03)


def test_no_data_is_not_averaged_with_pixels(tmp_path):
    image = np.full((1, 60, 60), 100, np.float32)
    image[:, :31, :31] = -9999
    path = write_tif(tmp_path / "a.tif", image)
    coarse = fit_resolution(Scene("a", path, nodata=-9999), 1.0, MapOptions(resample=True), tmp_path)
    assert sorted(np.unique(read(coarse.image))) == [-9999, 100]


def test_numbers_of_colours_are_not_averaged(tmp_path):
    path = write_tif(tmp_path / "a.tif", np.zeros((1, 8, 8), np.uint8), photometric="palette")
    with rasterio.open(path, "r+") as raster:
        raster.write_colormap(1, {0: (255, 0, 0, 255)})
    with pytest.raises(InputError, match=r"a\.tif holds the numbers of colours in a palette, which can't be averaged"):
        fit_resolution(Scene("a", path), 1.0, MapOptions(resample=True), tmp_path)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["s0.tif", "s0-entropy.tif", "s0-polygons.gpkg"])
def test_no_file_of_others_is_taken_for_a_map_or_overwritten(tmp_path, runs, scenes, name, overwrite):
    other = tmp_path / "masks" / name
    other.parent.mkdir()
    if other.suffix == ".tif":
        write_tif(other, np.ones((1, 8, 8), np.uint8))
    else:
        geopandas.GeoDataFrame(geometry=[box(0, 0, 1, 1)], crs=32633).to_file(other)
    before = other.read_bytes()
    options = MapOptions(overwrite=overwrite, write=["labels", "entropy"], polygons=True)
    with pytest.raises(InputError, match=rf"{name} was not made by rsseg predict and is not overwritten"):
        predict(runs[:1], str(scenes / "s0.tif"), other.parent, options)
    assert other.read_bytes() == before
    assert [path.name for path in other.parent.iterdir()] == [name]


@pytest.mark.parametrize(("device", "own"), [("cpu", "OMP_NUM_THREADS"), ("auto", "CUDA_VISIBLE_DEVICES")])
def test_processes_share_what_they_compute_on(monkeypatch, device, own):
    began = []

    class Process:
        def __init__(self, words, env):
            began.append(env.keys() - os.environ.keys())

        def wait(self):
            return 0

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("rsseg.prediction.scoring_accelerator", lambda name: "cpu" if name == "cpu" else "cuda")
    monkeypatch.setattr(subprocess, "Popen", Process)
    for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    with start_others(2, device):
        assert began == [{own}]
    if device == "auto":
        with pytest.raises(InputError, match="devices=3: this machine has 2 GPUs"), start_others(3, device):
            pass
    else:
        with start_others(3, device):
            pass


def test_a_place_that_is_not_read_is_called_as_it_was_given(tmp_path):
    with pytest.raises(InputError, match=r"^scene=ftp://host/a: ftp:// is not read"):
        find_scenes("ftp://host/a", [])
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("notes.md", "none")
    with pytest.raises(InputError, match=r"^scene=.*a\.zip: no file in it is an image to map; it holds notes\.md"):
        find_scenes(str(tmp_path / "a.zip"), [])


def test_other_pixels_are_refused(tmp_path, runs, scenes):
    wide = write_tif(tmp_path / "wide.tif", read(scenes / "s0.tif").astype(np.uint16) * 257)
    with pytest.raises(
        InputError, match=r"wide\.tif is uint16 and trained pixels are uint8; the mean of band .*allow_different=true"
    ):
        map_scene(runs[0], wide, tmp_path / "m.tif")
    assert map_scene(runs[0], wide, tmp_path / "m.tif", allow_different=True).is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"write": ["labels", "probability"]}, "(did you mean 'probabilities'?): labels, probabilities"),
        ({"write": ["disagreement"]}, "write=disagreement: one run sees every window once"),
        ({"dtype": "half"}, "dtype=half: uint8 or float16 is expected"),
        ({"tta": "d8"}, "none, flips, d4 or scales is expected"),
        ({"blend": "mean"}, "blend=mean: gaussian or none is expected"),
        ({"margin": 40}, "margin=40: windows of"),
        ({"weights": "iou"}, "weights=iou: equal or quality"),
        ({"scaling": "platt"}, "scaling=platt: none, temperature or vector"),
        ({"write": []}, "write=: labels, probabilities"),
        ({"min_area": -1.0}, "min_area has to be a number of 0 or more; found -1.0"),
        ({"head": "maks"}, "head=maks (did you mean 'mask'?)"),
        ({"threshold": "best"}, "threshold=best: fixed or tuned"),
        ({"batch_size": 0}, "batch_size=0: 1 or more"),
        ({"window": 0}, "window=0: 1 or more"),
        ({"min_area": float("nan")}, "min_area has to be a number"),
        ({"window": 32, "margin": 11}, "margin=11: windows of 32 px"),
    ],
)
def test_what_is_refused_in_one_line(tmp_path, runs, scenes, options, message):
    with pytest.raises(InputError, match=re.escape(message)):
        map_scene(runs[0], scenes / "s0.tif", tmp_path / "m.tif", **options)
    assert not (tmp_path / "m.tif").exists()


def test_scenes_that_cannot_be_mapped(tmp_path, runs, scenes):
    with pytest.raises(InputError, match="would overwrite the scene"):
        map_scene(runs[0], scenes / "s0.tif", scenes / "s0.tif")
    with pytest.raises(InputError, match="there are 3 scenes; name"):
        predict(runs[:1], str(scenes), tmp_path / "m.tif")
    with pytest.raises(InputError, match=r"has 1 bands, but .* was trained on the bands"):
        map_scene(runs[0], write_tif(tmp_path / "grey.tif", read(scenes / "s0.tif")[:1]))
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").write_text((runs[0] / "config.yaml").read_text())
    with pytest.raises(InputError, match="holds a run that never started training"):
        map_scene(tmp_path / "begun", scenes / "s0.tif")


def test_a_map_says_how_it_was_made(tmp_path, runs, scenes):
    with rasterio.open(map_scene(runs[0], scenes / "s0.tif", tmp_path / "m.tif", tta="flips", window=32, margin=10)) as raster:
        facts = json.loads(raster.tags()["RSSEG"])
    assert (facts["tta"], facts["size"], facts["margin"]) == ("flips", 32, 10)
    assert facts["runs"] == [str(runs[0])]
    assert facts["scene"] == str(scenes / "s0.tif")


@pytest.mark.parametrize("split", ["train", "val"])
def test_scores_of_what_the_run_was_trained_on_come_with_a_warning(split, tmp_path, runs, folder_root, caplog):
    caplog.set_level(logging.INFO)
    name = RunFolder(runs[0]).data()["scenes"][split][0]
    image, mask = (folder_root / kind / f"{name}.tif" for kind in ("images", "masks"))
    command.run(command.Arguments(run=str(runs[0]), scene=str(image), out=tmp_path / "map.tif"))
    said = f"{runs[0]} was trained on {image}"
    assert caplog.messages[-1].startswith("Next: ")
    assert "head=" not in caplog.messages[-1]
    command.run(command.Arguments(run=str(runs[0]), scene=str(image), out=tmp_path / "again.tif", head="mask"))
    assert "again.tif' head=mask mask=" in caplog.messages[-1]
    for scored in (
        lambda: evaluate_map(runs[0], tmp_path / "map.tif", EvaluationOptions(mask=mask, out=tmp_path)),
        lambda: evaluate(runs[0], EvaluationOptions(scene=image, mask=mask, out=tmp_path)),
    ):
        caplog.clear()
        scored()
        assert (said in caplog.text) == (split == "train")


def test_images_whose_blocks_a_run_was_trained_on(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        write_tif(tmp_path / f"data/images/{name}.tif", rng.integers(0, 255, (3, 256, 256), dtype=np.uint8))
        write_tif(tmp_path / f"data/masks/{name}.tif", rng.integers(0, 3, (1, 256, 256), dtype=np.uint8))
    words = [*folder_data(tmp_path / "data")[:-1], "dataset.source.image=images/one.tif", "dataset.source.mask=masks/one.tif"]
    split = "dataset.source.split={blocks: 64, buffer: 0, train: 0.7, val: 0.3}"
    (tmp_path / "run").mkdir()
    RunFolder(tmp_path / "run").write_config(plain(settings(tmp_path, *words, split)))
    one, two = (tmp_path / f"data/images/{name}.tif" for name in ("one", "two"))
    (tmp_path / "link.tif").symlink_to(one)
    assert trained_on(tmp_path / "run", [two]) == ""
    assert trained_on(tmp_path / "run", [two, tmp_path / "link.tif"]) == f"{tmp_path / 'run'} was trained on blocks of {one}"
    one.unlink()
    assert trained_on(tmp_path / "run", [one]) == ""


@pytest.mark.slow
def test_the_command_line_in_two_processes(tmp_path, runs, scenes):
    command = [
        sys.executable,
        str(ROOT / "scripts/predict.py"),
        f"run={runs[0]}",
        f"scene={scenes}",
        f"out={tmp_path / 'maps'}",
    ]
    done = subprocess.run([*command, "devices=2", "write=labels,entropy"], capture_output=True, text=True, check=True)
    assert len(re.findall("Map: ", done.stdout + done.stderr)) == 3
    assert len(list((tmp_path / "maps").glob("*.tif"))) == 6


def test_a_scene_that_is_named_twice_is_one_but_in_a_stack(tmp_path, scenes):
    image = scenes / "s0.tif"
    (tmp_path / "list.txt").write_text(f"{image}\n{scenes}/./s0.tif\n")
    for named in (f"{image},{image}", f"{tmp_path}/list.txt", f"{image},{tmp_path}/list.txt"):
        assert [scene.image for scene in find_scenes(named, ())] == [image]
    (stack,) = find_scenes(f"{image},{image}", (), stack=True)
    assert stack.images == (image, image)


def test_lists_that_name_nothing_or_lists(tmp_path, scenes):
    (tmp_path / "empty.txt").write_text("\n# nothing\n")
    (tmp_path / "self.txt").write_text("self.txt\n")
    for name, message in (("empty", "it names no scene"), ("self", "it lists a list")):
        with pytest.raises(InputError, match=message):
            find_scenes(str(tmp_path / f"{name}.txt"), [], stack=True)


def test_polygons_that_lack_are_made(tmp_path, runs, scenes, caplog):
    caplog.set_level(logging.INFO)
    out = map_scene(runs[0], scenes / "s0.tif", tmp_path / "m.tif")
    map_scene(runs[0], scenes / "s0.tif", out, polygons=True)
    assert (tmp_path / "m-polygons.gpkg").is_file()
    with pytest.raises(InputError, match="is the map of"):
        predict(runs[:1], f"{scenes / 's0.tif'},{scenes / 's1.tif'}", out, MapOptions(stack=True))


def test_a_map_is_made_again_beside_further_files_with_its_own_settings_alone(tmp_path, runs, scenes):
    image, both = scenes / "s0.tif", {"write": ["labels", "probabilities"]}
    out = map_scene(runs[0], image, tmp_path / "m.tif", threshold="tuned")
    before, labels = out.read_bytes(), read(out)
    with pytest.raises(InputError, match=r"^\S*m\.tif was made with threshold=tuned: overwrite=true replaces it[^\n]*$"):
        map_scene(runs[0], image, out, **both)
    assert out.read_bytes() == before
    assert not (tmp_path / "m-probabilities.tif").exists()
    window = RunFolder(runs[0]).config().window  # what it is without the setting
    map_scene(runs[0], image, out, **both, threshold="tuned", window=window, polygons=True, min_area=50)
    assert (read(out) == labels).all()
    assert read(tmp_path / "m-probabilities.tif").shape == (3, *labels.shape[1:])
    assert geopandas.read_file(tmp_path / "m-polygons.gpkg").geometry.area.min() >= 50
    (tmp_path / "m-probabilities.tif").unlink()
    with pytest.raises(InputError, match=r"m-polygons\.gpkg was made with min_area=50"):
        map_scene(runs[0], image, out, **both, threshold="tuned", polygons=True)


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ([{}, {"resolution": 1.0}], "run0 and run1 were trained on 0.5 and 1 m a pixel"),
        ([{"resolution": None}, {}, {"resolution": 1.0}], "run1 and run2 were trained on 0.5 and 1 m a pixel"),
        ([{}, {"dtype": "uint16"}], "run0 and run1 were trained on uint8 and uint16 pixels"),
    ],
)
def test_runs_that_no_scene_fits_are_refused(tmp_path, runs, scenes, own, said):
    models = [load_models(runs[:1], ())[0] for _ in own]
    for i, (model, changes) in enumerate(zip(models, own, strict=True)):
        model.spec = replace(model.spec, name=f"run{i}", **changes)
    with pytest.raises(InputError, match=rf"^{said}: no scene fits both\. [^\n]*allow_different=true$"):
        Mapper(models, MapOptions())
    (scene,) = find_scenes(str(scenes / "s0.tif"), ())
    assert Mapper(models, MapOptions(allow_different=True)).map(scene, tmp_path / "m.tif").is_file()


def test_scenes_outside_of_the_area_are_left_out(tmp_path, runs, scenes, caplog):
    caplog.set_level(logging.INFO)
    geopandas.GeoDataFrame(geometry=[box(500_000, 4_000_000 - 10, 500_020, 4_000_000)], crs=32633).to_file(tmp_path / "a.gpkg")
    write_tif(scenes / "s1.tif", read(scenes / "s1.tif"), transform=from_origin(600_000, 4_000_000, 0.5, 0.5))
    found = predict(runs[:1], str(scenes), tmp_path / "maps", MapOptions(area=str(tmp_path / "a.gpkg")))
    assert [path.name for path in found] == ["s0.tif", "s2.tif"]
    assert "s1.tif lies outside of area=" in caplog.text
    with pytest.raises(InputError, match="lies outside of area"):
        map_scene(runs[0], scenes / "s1.tif", tmp_path / "m.tif", area=str(tmp_path / "a.gpkg"))


def test_two_scenes_of_one_name_have_maps_of_their_own(tmp_path, runs, scenes):
    (tmp_path / "other").mkdir()
    shutil.copy(scenes / "s1.tif", tmp_path / "other" / "s0.tif")
    named = f"{scenes / 's0.tif'},{tmp_path / 'other' / 's0.tif'}"
    first = predict(runs[:1], named, tmp_path / "maps")
    assert [path.name for path in first] == ["s0.tif", "other-s0.tif"]
    assert predict(runs[:1], ",".join(reversed(named.split(","))), tmp_path / "maps") == first[::-1]
    assert (read(first[1]) == read(map_scene(runs[0], scenes / "s1.tif", tmp_path / "m.tif"))).all()


def test_maps_below_the_folder_of_the_scenes_are_not_mapped_again(tmp_path, runs, scenes, caplog):
    out, options = scenes / "maps", MapOptions(write=["labels", "probabilities"])
    first = predict(runs[:1], str(scenes), out, options)
    made = sorted(out.iterdir())
    caplog.set_level(logging.INFO)
    for named in (str(scenes), f"{scenes}/**/*.tif"):
        assert predict(runs[:1], named, out, options) == first
        assert sorted(out.iterdir()) == made
    assert f"{2 * len(first)} files in {out} are left out: they are maps, not scenes." in caplog.messages


def test_what_a_killed_process_left_is_removed(tmp_path, runs, scenes):
    old, new = (tmp_path / f".s0.{name}.part.rows.tif" for name in ("old", "new"))
    for part in (old, new):
        part.write_bytes(b"rows")
    os.utime(old, (0, 0))
    predict(runs[:1], str(scenes / "s0.tif"), tmp_path)
    assert not old.exists()
    assert new.exists()  # another process may be writing it


def test_nothing_is_left_of_a_scene_that_is_refused(tmp_path, runs, scenes):
    grey = write_tif(tmp_path / "grey.tif", read(scenes / "s0.tif")[:1])
    with pytest.raises(InputError, match="has 1 bands"):
        predict(runs[:1], str(grey), tmp_path / "maps")
    assert not (tmp_path / "maps").exists()


def test_maps_are_written_as_tif_and_a_folder_may_be_called_anything(tmp_path, runs, scenes):
    assert map_scene(runs[0], scenes / "s0.tif", tmp_path / "m.png").parent.name == "m.png"
    with pytest.raises(InputError, match=r"m\.gpkg: \.tif or \.tiff is written"):
        map_scene(runs[0], scenes / "s0.tif", tmp_path / "m.gpkg")
