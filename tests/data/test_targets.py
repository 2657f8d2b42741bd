"""Several targets of a scene from their files to windows and counts; classes that are not labelled in some scenes."""

import geopandas
import numpy as np
import pytest
from rasterio.windows import Window
from shapely.geometry import box
from tiny import checker, coloured, compose, write_tif

from rsseg.assembly import make_setup
from rsseg.contract import IGNORE, InputError
from rsseg.data.build import open_store
from rsseg.data.files import Files
from rsseg.data.labels import Labels, Values
from rsseg.data.masks import Mask
from rsseg.data.scene import Scene, SceneReader
from rsseg.data.sources import Synthetic
from rsseg.data.synthetic import CLASSES, SceneRecipe, generate
from rsseg.data.windows import GridWindows
from rsseg.dataset import TrainStatistics
from rsseg.task import Binary, Multiclass, Multilabel, Regression

COVER = Multiclass(("land", "road", "water"), target="cover")
HEIGHT = Regression(("height",), target="height")
DECODERS = [Labels(COVER), Values(HEIGHT)]


@pytest.fixture
def truth(tmp_path):
    """Two scenes of 70 x 90 pixels on disk; the second has no heights: masks and heights."""
    rng, masks = np.random.default_rng(0), []
    for name in ("a", "b"):
        mask = checker(rng, 90, 3)[:70]
        masks.append(mask)
        write_tif(tmp_path / "images" / f"{name}.tif", coloured(rng, mask))
        write_tif(tmp_path / "masks" / f"{name}.tif", mask[None])
    heights = rng.normal(10, 3, (70, 90)).astype(np.float32)
    heights[:7] = np.nan
    write_tif(tmp_path / "heights" / "a.tif", heights[None])
    return masks, heights


def files(root, **targets):
    return Files(
        str(root),
        "images/{name}.tif",
        targets=targets or {"cover": {"mask": "masks/{name}.tif"}, "height": {"mask": "heights/{name}.tif"}},
    )


def store_of(scenes, folder, mask_readers=DECODERS):
    return open_store(scenes, mask_readers, [1, 2, 3], folder)


def test_every_target_has_its_layer_and_its_counts(tmp_path, truth):
    masks, heights = truth
    store = store_of(files(tmp_path).scenes("train") + files(tmp_path).scenes("val"), tmp_path / "store")
    place = [scene.name for scene in store.scenes].index("a")
    _, layers = store.cut([(place, 3, 5), (1 - place, 3, 5), (place, 50, 60)], 32)
    np.testing.assert_array_equal(layers["cover"][0], masks[0][3:35, 5:37])
    np.testing.assert_array_equal(layers["height"][0, 0], heights[3:35, 5:37])
    np.testing.assert_array_equal(layers["cover"][1], masks[1][3:35, 5:37])
    assert np.isnan(layers["height"][1]).all()  # the scene has none
    assert (layers["cover"][2] == IGNORE).sum() == np.isnan(layers["height"][2]).sum() == 32 * 32 - 20 * 30
    cover, height = (store.censuses[name] for name in ("cover", "height"))
    assert cover.positives.sum(0).tolist() == [sum(int((mask == c).sum()) for mask in masks) for c in range(3)]
    assert height.valid[:, 0].tolist() == ([63 * 90, 0] if place == 0 else [0, 63 * 90])
    numbers = TrainStatistics.of(store)
    assert numbers.targets["height"].value_mean == pytest.approx([np.nanmean(heights, dtype=np.float64)])
    assert numbers.targets["height"].value_std == pytest.approx([np.nanstd(heights.astype(np.float64))])
    assert TrainStatistics.read(numbers.record(), ["cover", "height"]) == numbers


def test_a_grid_blanks_every_target_outside_of_what_counts(tmp_path, truth):
    masks, heights = truth
    store = store_of([scene for split in ("train", "val") for scene in files(tmp_path).scenes(split)], tmp_path / "store")
    windows, counted, summed = GridWindows(store, 32, 4), np.zeros(3, int), 0.0
    for k in range(len(windows)):
        batch = windows.batch([k])
        counted += np.bincount(batch["cover"].numpy().ravel(), minlength=256)[:3]
        summed += float(np.nansum(batch["height"].numpy(), dtype=np.float64))
    assert counted.tolist() == [sum(int((mask == c).sum()) for mask in masks) for c in range(3)]
    assert summed == pytest.approx(np.nansum(heights, dtype=np.float64))


def test_the_store_of_one_target_is_that_of_several_as_far_as_it_goes(tmp_path, truth):
    scenes = [scene for split in ("train", "val") for scene in files(tmp_path).scenes(split)]
    both, alone = store_of(scenes, tmp_path / "both"), store_of(scenes, tmp_path / "alone", DECODERS[:1])
    assert both.census.fingerprint([]) == alone.census.fingerprint([])
    np.testing.assert_array_equal(both.census.blocks.counts, alone.census.blocks.counts)
    assert both.pixel_hash != alone.pixel_hash


def test_a_class_that_is_not_labelled_in_a_scene(tmp_path):
    """Beside the same masks with the values that stand for it ignored, plane by plane."""
    rng = np.random.default_rng(1)
    image = write_tif(tmp_path / "i.tif", coloured(rng, checker(rng, 40, 3)))
    layered = rng.integers(0, 2, (2, 40, 40), dtype=np.uint8)
    labels = checker(rng, 40, 3)
    paths = write_tif(tmp_path / "l.tif", layered), write_tif(tmp_path / "m.tif", labels[None])
    kinds = [
        (Multilabel(("road", "house"), target="many"), paths[0]),
        (Multiclass(("land", "road", "water"), target="one"), paths[1]),
        (Binary(("road",), target="yes"), write_tif(tmp_path / "b.tif", layered[:1])),
    ]
    masks = tuple(Mask(path) for _, path in kinds)
    scene = Scene("s", image, masks, unlabelled=("many/road", "one/road", "yes/road"))
    store = store_of([scene], tmp_path / "store", [Labels(task) for task, _ in kinds])
    _, layers = store.cut([(0, 0, 0)], 40)
    assert (layers["many"][0, 0] == IGNORE).all()
    np.testing.assert_array_equal(layers["many"][0, 1], layered[1])
    np.testing.assert_array_equal(layers["one"][0], np.where(labels == 1, IGNORE, labels))
    assert (layers["yes"][0] == IGNORE).all()
    assert store.censuses["many"].valid.tolist() == [[0, 1600]]
    whole = Scene("s", image, masks)
    assert (
        store_of([whole], tmp_path / "store", [Labels(task) for task, _ in kinds]).pixel_hash != store.pixel_hash
    )  # another tile


def test_messages_name_the_settings_of_the_target(tmp_path, truth):
    place = geopandas.GeoSeries([box(500_000, 3_999_990, 500_010, 4_000_000)], crs=32633)
    geopandas.GeoDataFrame({"kind": ["x"]}, geometry=place).to_file(tmp_path / "areas.gpkg")
    cover = {"task": "multiclass", "classes": ["land", "road"], "mask": "masks/{name}.tif"}
    area = {"task": "binary", "classes": ["area"], "mask": "areas.gpkg", "attribute": "sort"}
    config = compose(["dataset=geotiff", f"dataset.source.root={tmp_path}", "dataset.source.mask=null", "dataset.task=null"])
    config.dataset.targets, config.model.heads = {"cover": cover, "area": area}, {"cover": {"loss": "${loss}"}}
    setup = make_setup(config)
    scene, readers = setup.source().scenes("train")[0], setup.dataset.mask_readers
    reader = SceneReader(scene, readers[:1], [1])
    with pytest.raises(InputError, match=r"ignored: dataset\.targets\.cover\.mask_values=\[0, 1\] and dataset"):
        reader.read_mask(Window(0, 0, 90, 70))
    with pytest.raises(InputError, match=r"areas\.gpkg has no attribute sort: set dataset\.targets\.area\.attribute to one"):
        SceneReader(scene, readers, [1])


def test_vectors_and_values_of_a_target(tmp_path, truth):
    with pytest.raises(InputError, match=r"dataset\.targets\.cover\.mask is not set"):
        files(tmp_path, cover={"attribute": "kind"})
    with pytest.raises(InputError, match=r"dataset\.targets\.cover\.values=3: a mapping"):
        files(tmp_path, cover={"mask": "masks/{name}.tif", "values": 3})
    with pytest.raises(InputError, match=r"dataset\.targets\.cover\.mask=masks/\{tile\}\.tif has the field tile, which"):
        files(tmp_path, cover={"mask": "masks/{tile}.tif"})
    with pytest.raises(InputError, match=r"no mask that fits dataset\.targets\.cover\.mask=mask/"):
        files(tmp_path, cover={"mask": "mask/{name}.tif"}).scenes("train")


def test_every_layer_of_the_made_up_scenes_is_a_target(tmp_path):
    """Beside the scene that is drawn; without clouds there is no sky."""
    recipe, counts = SceneRecipe(size=64, clouds=0.3), {"train": 1}
    layers = {"sky": "sky", "cover": "masks", "wet": "water", "dark": "shadows"}
    source = Synthetic(str(tmp_path), counts, recipe, targets={name: {"mask": mask} for name, mask in layers.items()})
    tasks = [Multilabel(("cloud", "shadow", "water"), target="sky"), Multiclass(CLASSES, target="cover")]
    tasks += [Binary((name,), target=name) for name in ("wet", "dark")]
    store = store_of(source.scenes("train"), tmp_path / "store", [Labels(task) for task in tasks])
    _, found = store.cut([(0, 0, 0)], 64)
    drawn = generate(recipe, 0, 0)
    np.testing.assert_array_equal(found["sky"][0], drawn.sky)
    np.testing.assert_array_equal(found["cover"][0], drawn.mask)
    np.testing.assert_array_equal(found["wet"][0], drawn.sky[2])
    np.testing.assert_array_equal(found["dark"][0], drawn.sky[1])
    with pytest.raises(InputError, match=r"dataset\.targets\.sky\.mask=sky: there are no clouds; set dataset.source.recipe"):
        Synthetic(str(tmp_path), counts, SceneRecipe(), targets={"sky": {"mask": "sky"}})
    with pytest.raises(InputError, match=r"dataset\.source\.target=cloud \(did you mean 'clouds'\?\): one of masks, heights"):
        Synthetic(str(tmp_path), counts, SceneRecipe(), target="cloud")


@pytest.mark.parametrize(("setting", "value"), [("attribute", "kind"), ("values", [0, 1])])
def test_a_setting_of_the_one_target_beside_several_is_refused(tmp_path, truth, setting, value):
    with pytest.raises(InputError, match=rf"dataset\.source\.{setting} beside dataset\.targets.*<name>\.{setting}"):
        Files(str(tmp_path), "images/{name}.tif", targets={"cover": {"mask": "masks/{name}.tif"}}, **{setting: value})
