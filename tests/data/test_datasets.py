"""Every shipped dataset: its windows are torchgeo's own samples, pixel for pixel, and what is broken is named."""

import shutil
from collections import Counter
from pathlib import Path

import geopandas
import layouts
import numpy as np
import pyproj
import pytest
import rasterio
import shapely
import torch
import torchgeo.datasets as tg
from stores import whole_scene
from tiny import CONFIGS, compose, mask_file, write_tif

from rsseg.assembly import make_setup
from rsseg.contract import IGNORE, InputError
from rsseg.dataset import open_split, scenes_of
from rsseg.metrics.objects import boxes, labelled_objects

FILES = sorted(layouts.LAYOUTS)

HEADS = {
    "geonrw": ["+loss@model.heads.cover.loss=ce_dice", "+loss@model.heads.elevation.loss=huber"],
    "l8biome_tasks": ["+loss@model.heads.cloud.loss=ce_dice", "+loss@model.heads.shadow.loss=ce_dice"],
}


@pytest.fixture(scope="session")
def roots(tmp_path_factory):
    base = tmp_path_factory.mktemp("layouts")
    return {name: layouts.write(base, name) for name in FILES}


def settings(name, root, *overrides):
    return compose([f"dataset={name}", f"dataset.source.root={root}", f"output={root}/runs", *overrides])


def source_of(config):
    return make_setup(config).source()


def store_of(config, split):
    setup = make_setup(config)
    return open_split(setup.dataset, scenes_of(setup.source(), setup.dataset, split), split)


def samples(name, root, split):
    """torchgeo's samples of a split in the order of rsseg's scenes: image, and mask in torchgeo's labels."""
    geo = layouts.LAYOUTS[name].torchgeo
    dataset = getattr(tg, geo.kind)(root=str(root), split=split, **geo.arguments)
    found = [dataset[i] for i in range(len(dataset))]
    stacked = [s["image"].flatten(end_dim=-3).numpy() for s in found]  # of several dates
    return [(image, s["mask"].numpy() if "mask" in s else None) for image, s in zip(stacked, found, strict=True)]


def ours_of_theirs(labels, ignored, mask):
    table = np.full(256, 99, np.uint8)
    table[list(labels)] = range(len(labels))
    if ignored is not None:
        table[ignored] = IGNORE
    return table[mask.squeeze()]


@pytest.mark.parametrize("name", [name for name, layout in layouts.LAYOUTS.items() if layout.torchgeo])
def test_windows_are_torchgeos_samples(roots, name):
    """All samples that torchgeo has of its training and test splits, whatever rsseg's split of them."""
    config = settings(name, roots[name])
    ours = {}
    for split in ("train", "val", "test"):
        store = store_of(config, split)
        assert store.census.bands.missing == 0
        for i, scene in enumerate(store.scenes):
            image, mask = whole_scene(store, i)
            ours[scene.image] = image, mask if mask_file(scene) else None
    geo = layouts.LAYOUTS[name].torchgeo
    theirs = [s for split in geo.splits for s in samples(name, roots[name], split)]
    assert len(theirs) == len(ours)
    for image, mask in theirs:
        twin = [pair for pair in ours.values() if np.array_equal(pair[0], image)]
        assert len(twin) == 1
        assert (mask is None) == (twin[0][1] is None)
        if mask is not None:
            np.testing.assert_array_equal(twin[0][1], ours_of_theirs(geo.labels, geo.ignored, mask))


def test_l8biome_windows_are_torchgeos_samples(roots):
    config = settings("l8biome", roots["l8biome"])
    for split in ("train", "val", "test"):
        store = store_of(config, split)
        for i, scene in enumerate(store.scenes):
            pair = [
                kind([str(path)]) for kind, path in zip(_l8biome_parts(), (scene.image, mask_file(scene)), strict=True)
            ]  # each on the scene's own grid: the joint dataset warps to another CRS
            image, mask = (dataset[dataset.bounds] for dataset in pair)
            pixels, labels = whole_scene(store, i)
            np.testing.assert_array_equal(pixels, image["image"].numpy())
            np.testing.assert_array_equal(labels, ours_of_theirs(range(1, 5), 0, mask["mask"].numpy()))


def _l8biome_parts():
    from torchgeo.datasets.l8biome import L8BiomeImage, L8BiomeMask

    return L8BiomeImage, L8BiomeMask


def test_geonrw_targets_are_torchgeos(tmp_path, monkeypatch):
    root = layouts.write(tmp_path, "geonrw")
    monkeypatch.setattr(tg.GeoNRW, "train_list", ("aachen", "essen", "bonn", "hamm", "kleve", "siegen"))
    monkeypatch.setattr(tg.GeoNRW, "test_list", ("neuss",))
    config, found = settings("geonrw", root, *HEADS["geonrw"]), {}
    for split in ("train", "val", "test"):
        store = store_of(config, split)
        for i, scene in enumerate(store.scenes):
            image, layers = store.cut([(i, 0, 0)], layouts.SIZE)
            found[scene.image] = split, image[0], layers["cover"][0], layers["elevation"][0]
    assert Counter(split for split, *_ in found.values()) == {"train": 2, "val": 4, "test": 1}
    for part in ("train", "test"):
        theirs = tg.GeoNRW(root=str(root), split=part)
        for path, sample in zip(theirs.file_list, theirs, strict=True):
            split, image, cover, elevation = found.pop(Path(path))
            assert (split == "test") == (part == "test")
            np.testing.assert_array_equal(image, (255 * sample["image"].numpy()).round())
            np.testing.assert_array_equal(cover, np.where(sample["mask"] == 0, IGNORE, sample["mask"] - 1))
            np.testing.assert_array_equal(elevation, sample["dem"].numpy())
    assert not found


def test_cloud_and_shadow_of_l8biome_are_those_of_its_mask(tmp_path):
    root = layouts.write(tmp_path, "l8biome_tasks")
    store = store_of(settings("l8biome_tasks", root, *HEADS["l8biome_tasks"]), "train")
    for i, scene in enumerate(store.scenes):
        _, layers = store.cut([(i, 0, 0)], layouts.SIZE)
        with rasterio.open(mask_file(scene)) as file:
            raw = file.read(1)
        for name, values in (("cloud", [192, 255]), ("shadow", [64])):
            np.testing.assert_array_equal(layers[name][0], np.where(raw == 0, IGNORE, np.isin(raw, values)))


@pytest.mark.parametrize("name", layouts.every())
def test_splits_and_groups(tmp_path, name):
    layout, more = layouts.every()[name], ["loss=centres"] if name in layouts.OBJECTS else HEADS.get(name, [])
    source = source_of(settings(name, layouts.write(tmp_path, name), *more))
    train, val, test = (source.scenes(split) for split in ("train", "val", "test"))
    assert ([scene.name for scene in train], [scene.name for scene in val]) == (layout.train, layout.val)
    assert not {scene.name for scene in test} & {*layout.train, *layout.val}
    found = {scene.group for scene in train + val} - {""}
    assert layout.groups <= found
    assert bool(layout.groups) == bool(found)


@pytest.mark.parametrize("name", ["potsdam", "vaihingen"])
def test_published_splits_are_torchgeos(name):
    kind = {"potsdam": tg.Potsdam2D, "vaihingen": tg.Vaihingen2D}[name]
    split = layouts.facts(name)["source"]["split"]
    strip = {"potsdam": "top_potsdam_", "vaihingen": "top_mosaic_09cm_"}[name]
    theirs = {key: {n.removeprefix(strip).removesuffix(".tif") for n in names} for key, names in kind.splits.items()}
    assert set(split["train"]) | set(split["val"]) == theirs["train"]
    assert set(split["test"]) == theirs["test"]
    assert not set(split["train"]) & set(split["val"])


def test_levircd_in_a_folder_for_each_part(tmp_path, roots):
    """As its archives give it if each is extracted into a folder of its own."""
    for path in roots["levircd"].glob("*/*.png"):
        target = tmp_path / path.name.partition("_")[0] / path.relative_to(roots["levircd"])
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    source, flat = (source_of(settings("levircd", root)) for root in (tmp_path, roots["levircd"]))
    for split in ("train", "val", "test"):
        assert [scene.name for scene in source.scenes(split)] == [scene.name for scene in flat.scenes(split)]


@pytest.mark.parametrize("name", FILES)
def test_classes_palette_and_labels_agree(name):
    config = settings(name, "anywhere")
    assert len(config.dataset.palette) == make_setup(config).dataset.task.labels
    assert len(set(config.dataset.palette)) == len(config.dataset.palette)


@pytest.mark.parametrize("name", ["inria", "xbd"])
def test_wrong_root_and_unpacked_archive(tmp_path, name):
    with pytest.raises(InputError, match="no folder"):
        source_of(settings(name, tmp_path / "nowhere"))
    with pytest.raises(InputError, match="right folder"):
        source_of(settings(name, tmp_path))
    (tmp_path / "data.zip").touch()
    with pytest.raises(InputError, match=r"extract data\.zip"):
        source_of(settings(name, tmp_path))


def masks(config, root, split):
    return [mask_file(scene) for scene in source_of(config).scenes(split)]


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_half_an_archive(tmp_path, roots, name):
    root = shutil.copytree(roots[name], tmp_path / name)
    config = settings(name, root)
    masks(config, root, "val")[0].unlink()
    source = layouts.facts(name)["source"]
    if source.get("on_missing") == "skip":
        return  # what is not there is left out, tested below
    listed = r"flood_valid_data\.csv lists 1 name without an image: Spain_15_S1Hand\.tif,Spain_15_LabelHand\.tif"
    with pytest.raises(InputError, match=rf"1 of \d val images .* have no mask|{listed}"):
        source_of(config).scenes("val")
    for scene in source_of(settings(name, roots[name])).scenes("train"):
        (root / scene.image.relative_to(roots[name])).unlink()
    if any(isinstance(part, float) for part in source.get("split", {}).values()):
        return  # what is there is dealt out anew
    with pytest.raises(InputError, match=r"the train split|names without an image|can't be used"):
        store_of(config, "train")


@pytest.mark.parametrize("name", FILES)
def test_without_the_test_part(tmp_path, roots, name, caplog):
    """As many copies come: train and val are what they were, nothing is said of test until it is asked for."""
    root = layouts.without_test_part(shutil.copytree(roots[name], tmp_path / name), name)
    config = settings(name, root)
    with caplog.at_level("INFO"):
        found = {split: [scene.name for scene in source_of(config).scenes(split)] for split in ("train", "val")}
    assert "split.test" not in caplog.text
    whole = source_of(settings(name, roots[name]))
    assert found == {split: [scene.name for scene in whole.scenes(split)] for split in ("train", "val")}
    if not layouts.LAYOUTS[name].test:
        return
    with pytest.raises(InputError, match=r"split\.test") as error:
        source_of(config).scenes("test")
    assert str(root) in str(error.value)


def test_landcoverai_with_the_list_of_a_missing_test_part(tmp_path, roots):
    root = shutil.copytree(roots["landcoverai"], tmp_path / "data")
    for path in root.glob("output/M-34_3*"):
        path.unlink()
    config = settings("landcoverai", root)
    assert [scene.name for scene in source_of(config).scenes("train")] == ["M-33_0", "M-33_1"]
    with pytest.raises(InputError, match=r"test\.txt lists 1 name without an image: M-34_3"):
        source_of(config).scenes("test")
    (root / "val.txt").write_text("M-34_2\nM-34_9\n")
    for split in ("train", "val"):
        with pytest.raises(InputError, match=r"val\.txt lists 1 name without an image: M-34_9"):
            source_of(config).scenes(split)


@pytest.mark.parametrize(
    "parts",
    [
        {"val": ["austin1", "austn5"]},
        {"val": ["*trian/images/*1.tif"]},
        {"test": ["bellingham3"]},  # a name, not a folder that is not there: misspelt, it would train
        {"test": ["belingham*"]},
    ],
)
def test_a_misspelt_name_is_refused_where_the_rest_trains(roots, parts):
    words = [f"dataset.source.split.{key}=[{','.join(map(repr, names))}]" for key, names in parts.items()]
    source = source_of(settings("inria", roots["inria"], *words))
    with pytest.raises(InputError, match=rf"split\.{next(iter(parts))}: no image's name is"):
        source.scenes("train")


def test_landcoverai_without_its_list(tmp_path, roots):
    root = shutil.copytree(roots["landcoverai"], tmp_path / "data")
    (root / "val.txt").unlink()
    with pytest.raises(InputError, match=r"no file .*val\.txt"):
        source_of(settings("landcoverai", root)).scenes("train")


@pytest.mark.parametrize("name", ["deepglobe", "inria", "loveda", "potsdam"])  # colours and numbers, in TIFF and PNG
def test_unknown_label_and_band(tmp_path, roots, name):
    root = shutil.copytree(roots[name], tmp_path / name)
    config = settings(name, root)
    path = masks(config, root, "train")[0]
    colours = isinstance(layouts.facts(name)["mask_values"][0], str)
    wrong = np.full((3 if colours else 1, layouts.SIZE, layouts.SIZE), 77, np.uint8)
    if path.suffix.lower() == ".tif":
        write_tif(path, wrong)
    else:
        layouts.save(path, wrong.transpose(1, 2, 0).squeeze())
    with pytest.raises(InputError, match="#4d4d4d" if colours else "value 77") as error:
        store_of(config, "train")
    assert str(path) in str(error.value)
    config = settings(name, roots[name], "dataset.bands=[99]", "dataset.rgb=null")
    with pytest.raises(InputError, match=r"dataset\.bands=\[99\]"):
        store_of(config, "train")


def test_every_layout_has_a_config():
    shipped = {path.stem for path in (CONFIGS / "dataset").glob("*.yaml")}
    made_up = {name for name in shipped if name.startswith("synthetic")}
    assert shipped - {"folder", "geotiff", "torchgeo"} - made_up == layouts.every().keys()


def test_idtrees_objects_are_torchgeos_boxes(tmp_path, monkeypatch):
    monkeypatch.setattr("torchgeo.datasets.idtrees.lazy_import", lambda name: None)  # laspy, for point clouds
    root = layouts.write(tmp_path, "idtrees")
    theirs = tg.IDTReeS(root=str(root))
    config, found = settings("idtrees", root, "loss=centres"), []
    task = make_setup(config).dataset.task
    for split in ("train", "val"):
        store = store_of(config, split)
        for i, scene in enumerate(store.scenes):
            _, target = whole_scene(store, i)
            rows = labelled_objects(task.standardise(torch.from_numpy(target)[None]), task)
            expected = theirs._load_boxes(str(scene.image)).float()
            assert len(expected) == 3
            ours = boxes(rows)
            order, other = (table[:, 0].argsort() for table in (ours, expected))
            torch.testing.assert_close(ours[order], expected[other], atol=1.0, rtol=0)  # theirs are of whole pixels
            found.append(scene.image.name)
    assert len(found) == len(set(found)) == len(theirs.images)


def test_what_lists_and_stacks_name_but_lack_is_left_out_and_said(roots, caplog):
    with caplog.at_level("WARNING"):
        source = source_of(settings("ftw", roots["ftw"]))
        assert "1 of 9 images" in caplog.text
        assert "kenya/s2_images/window_b/g_4.tif" in caplog.text
        assert [scene.name for scene in source.scenes("train")] == layouts.LAYOUTS["ftw"].train
        assert "chips_kenya.parquet lists 1 name without an image: g_4" in caplog.text
        source_of(settings("openearthmap", roots["openearthmap"])).scenes("train")
        assert "train.txt lists 1 name without an image: joplin_14.tif" in caplog.text
    strict = "dataset.source.on_missing=raise"
    with pytest.raises(InputError, match=r"1 of 9 images .* no file to stack .*window_a"):
        source_of(settings("ftw", roots["ftw"], strict))
    with pytest.raises(InputError, match=r"train\.txt lists 1 name without an image: joplin_14\.tif"):
        source_of(settings("openearthmap", roots["openearthmap"], strict)).scenes("train")
    with pytest.raises(InputError, match="on_missing=leave: raise or skip"):
        source_of(settings("ftw", roots["ftw"], "dataset.source.on_missing=leave"))


def test_bolivia_is_a_list_of_its_own(roots):
    def names(*words):
        return [scene.name for scene in source_of(settings("sen1floods11", roots["sen1floods11"], *words)).scenes("test")]

    assert names() == ["Ghana_7"]
    assert names("dataset.source.split.test=**/flood_bolivia_data.csv") == ["Bolivia_1"]


def test_xbd_is_the_mask_after_and_both_images(roots):
    ours = {}
    for split in ("train", "val"):
        store = store_of(settings("xbd", roots["xbd"]), split)
        ours |= {scene.image: whole_scene(store, i) for i, scene in enumerate(store.scenes)}
    kind = getattr(tg, "xBD", None) or tg.XView2
    count = 0
    for split in ("train", "test"):
        dataset = kind(root=str(roots["xbd"]), split=split)
        for files, sample in zip(dataset.files, dataset, strict=True):
            image, mask = ours[Path(files.get("image1") or files["image"])]
            np.testing.assert_array_equal(image, sample["image"].flatten(end_dim=1))
            with rasterio.open(str(files["mask2"])) as after:
                np.testing.assert_array_equal(mask, after.read(1))
            count += 1
    assert count == 3


def test_spacenet_buildings_are_torchgeos(tmp_path):
    root = layouts.write(tmp_path, "spacenet2")
    found = {}
    for split in ("train", "val", "test"):
        store = store_of(settings("spacenet2", root), split)
        found |= {scene.image.name: (split, *whole_scene(store, i)) for i, scene in enumerate(store.scenes)}
    (tmp_path / "theirs/SN2_buildings").mkdir(parents=True)
    (tmp_path / "theirs/SN2_buildings/train").symlink_to(root)
    theirs = tg.SpaceNet2(root=str(tmp_path / "theirs"), split="train", image="RGB-PanSharpen")
    assert len(theirs) == len(found) == 8
    for path, sample in zip(theirs.images, theirs, strict=True):
        split, image, mask = found[Path(path).name]
        assert split == {"Paris": "val", "Khartoum": "test"}.get(path.split("_")[-2], "train")
        np.testing.assert_array_equal(image, sample["image"])
        np.testing.assert_array_equal(mask, sample["mask"])
        assert mask.any() == (not path.endswith("Vegas_img2.tif"))


def test_spacenet_roads_are_what_lies_within_two_metres_of_a_line(tmp_path):
    """Distances on the ellipsoid, by pyproj's geodesics, from each pixel's centre to points along the lines."""
    root = layouts.write(tmp_path, "spacenet3")
    scenes = source_of(settings("spacenet3", root)).scenes("train")
    assert [scene.name for scene in scenes] == ["2_Vegas-1", "2_Vegas-2", "2_Vegas-3", "4_Shanghai-1", "4_Shanghai-2"]
    store = store_of(settings("spacenet3", root), "train")
    geod = pyproj.Geod(ellps="WGS84")
    for i, scene in enumerate(store.scenes[3:], start=3):
        lines = geopandas.read_file(mask_file(scene)).geometry
        along = np.concatenate([shapely.get_coordinates(line.interpolate(np.linspace(0, line.length, 400))) for line in lines])
        rows, columns = np.mgrid[:96:5, :96:5] + 0.5
        with rasterio.open(scene.image) as image:
            east, north = (np.ravel(v) for v in image.transform * (columns, rows))
        far = np.full(len(east), np.inf)
        for x, y in along:
            far = np.minimum(far, geod.inv(east, north, np.full_like(east, x), np.full_like(east, y))[2])
        sure = np.abs(far - 2) > 0.1
        mask = whole_scene(store, i)[1][::5, ::5].ravel()
        assert 0 < mask.sum() < mask.size
        np.testing.assert_array_equal(mask[sure], far[sure] < 2)


def test_spacenet_roads_without_a_file_of_roads(tmp_path, caplog):
    root = layouts.write(tmp_path, "spacenet3")
    with caplog.at_level("WARNING"):
        source_of(settings("spacenet3", root)).scenes("train")
    assert "1 of 6 train images" in caplog.text
    with pytest.raises(InputError, match=r"1 of 6 train images .* have no mask"):
        source_of(settings("spacenet3", root, "dataset.source.on_missing=raise")).scenes("train")
    with pytest.raises(InputError, match=r"6 of 6 train images .* have no mask"):
        source_of(settings("spacenet3", root, "dataset.source.mask='no/{city}_{number}.tif'")).scenes("train")
    with pytest.raises(InputError, match="buffer has to be a number of 0 or more; found -1"):
        source_of(settings("spacenet3", root, "dataset.source.buffer=-1"))
