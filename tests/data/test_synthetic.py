"""The synthetic scenes: what the recipe promises of pictures, labels and files."""

from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from tiny import compose

from rsseg.assembly import make_setup
from rsseg.contract import InputError
from rsseg.data import sources
from rsseg.data.clouds import draw_sky
from rsseg.data.sources import Synthetic, write_scenes
from rsseg.data.synthetic import BUILDING, CLASSES, FIELD, LAND, PALETTE, ROAD, WATER, SceneRecipe, generate
from rsseg.data.vehicles import VEHICLES

SMALL = SceneRecipe(size=128)


def test_same_arguments_same_scene():
    cloudy = replace(SMALL, clouds=0.3)
    for one, again in zip(generate(cloudy, 3, 5), generate(cloudy, 3, 5), strict=True):
        np.testing.assert_array_equal(one, again)


@pytest.mark.parametrize("other", [(4, 5), (3, 6)])
def test_other_seed_or_index_other_scene(other):
    for one, changed in zip(generate(SMALL, 3, 5)[:3], generate(SMALL, *other)[:3], strict=True):
        assert (one != changed).any()


def test_shapes_types_and_every_class():
    image, mask, *_ = generate(SceneRecipe(), 0, 0)
    assert (image.shape, image.dtype, mask.shape, mask.dtype) == ((3, 512, 512), np.uint8, (512, 512), np.uint8)
    assert set(np.unique(mask)) == set(range(len(CLASSES)))
    assert image.std(axis=(1, 2)).min() > 10


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1])
def test_building_share(share):
    masks = [generate(SceneRecipe(building_share=share), 0, index)[1] for index in range(3)]
    assert share / 2 < np.mean([mask == BUILDING for mask in masks]) < share * 2


def test_shares_below_one_house_hold_on_average():
    masks = [generate(SceneRecipe(size=64, building_share=0.004), 0, index)[1] for index in range(150)]
    holding = [(mask == BUILDING).any() for mask in masks]
    assert any(holding)
    assert not all(holding)
    assert 0.002 < np.mean([mask == BUILDING for mask in masks]) < 0.008


def test_no_buildings_at_all():
    assert BUILDING not in generate(replace(SMALL, building_share=0), 0, 0)[1]


def test_label_noise_changes_the_mask_alone_and_the_more_the_worse():
    scenes = [generate(SceneRecipe(label_noise=flaw), 1, 0) for flaw in (0, 0.1, 0.6)]
    wrong = [np.mean(mask != scenes[0][1]) for _, mask, *_ in scenes]
    assert 0 < wrong[1] < wrong[2] < 0.2
    for image, *_ in scenes:
        np.testing.assert_array_equal(image, scenes[0][0])


@pytest.mark.parametrize("flaw", [{"blur": 3.0}, {"noise": 20.0}])
def test_blur_and_noise_change_the_image_alone(flaw):
    (image, mask, *_), (flawed, same, *_) = generate(SMALL, 1, 0), generate(replace(SMALL, **flaw), 1, 0)
    np.testing.assert_array_equal(mask, same)
    assert (image != flawed).any()


def test_blur_softens_and_noise_roughens():
    def roughness(**flaw):
        return np.abs(np.diff(generate(replace(SMALL, **flaw), 1, 0)[0].astype(float))).mean()

    assert roughness(blur=3, noise=0) < roughness(noise=0) < roughness(noise=20)


def test_colour_alone_does_not_solve_it():
    """A nearest-mean colour classifier, fitted on other scenes, confuses buildings with much else."""
    train, test = ([generate(SceneRecipe(), 0, i) for i in indices] for indices in (range(3), range(3, 6)))
    colours = np.concatenate([image.reshape(3, -1).T for image, *_ in train]).astype(float)
    labels = np.concatenate([mask.ravel() for _, mask, *_ in train])
    means = np.stack([colours[labels == label].mean(0) for label in range(len(CLASSES))])
    pixels = np.concatenate([image.reshape(3, -1).T for image, *_ in test]).astype(float)
    found = np.stack([((pixels - mean) ** 2).sum(1) for mean in means]).argmin(0) == BUILDING
    truth = np.concatenate([mask.ravel() for _, mask, *_ in test]) == BUILDING
    assert (found & truth).sum() / (found | truth).sum() < 0.4


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 32}, r"^dataset\.source\.recipe\.size=32: a number from 64 to 4096 is expected"),
        ({"building_share": 0.5}, r"^dataset\.source\.recipe\.building_share=0.5: a number from 0 to 0.15 is expected"),
        ({"road_width": 0}, r"^dataset\.source\.recipe\.road_width=0: a number from 2 to 16 is expected"),
        ({"blur": -1.0}, r"^dataset\.source\.recipe\.blur=-1.0: a number from 0 to 8 is expected"),
        ({"blur": float("nan")}, r"^dataset\.source\.recipe\.blur=nan: a number from 0 to 8 is expected"),
        ({"label_noise": 1.0}, r"^dataset\.source\.recipe\.label_noise=1.0: a number from 0 to 0.99 is expected"),
        ({"noise": 65.0}, r"^dataset\.source\.recipe\.noise=65.0: a number from 0 to 64 is expected"),
        ({"vehicles": 1001}, r"^dataset\.source\.recipe\.vehicles=1001: a number from 0 to 1000 is expected"),
        ({"height_outliers": 1.0}, r"^dataset\.source\.recipe\.height_outliers=1.0: a number from 0 to 0.99 is expected"),
        ({"clouds": 0.7}, r"^dataset\.source\.recipe\.clouds=0.7: a number from 0 to 0.6 is expected"),
    ],
)
def test_bad_recipes_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        SceneRecipe(**wrong)


def test_a_bad_recipe_of_a_config_is_told_by_its_place_once():
    setup = make_setup(compose(["dataset.source.recipe.blur=9"]))
    with pytest.raises(InputError, match=r"^dataset\.source\.recipe\.blur=9: a number from 0 to 8 is expected$"):
        setup.source()


def test_bad_requests_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="seed is -1"):
        generate(SMALL, -1, 0)
    for counts in ({"vall": 1}, {"train": -1}, {"train": 1001}, {"train": 0.5}, {}, 6):
        with pytest.raises(InputError, match="whole numbers up to 1000, such as"):
            Synthetic(str(tmp_path), counts, SMALL)


def test_files_hold_the_scenes_and_where_they_lie(tmp_path: Path):
    root = tmp_path / "new" / "scenes"
    write_scenes(root, SceneRecipe(size=320), {"train": 2, "test": 1}, seed=7)
    names = ["test_000.tif", "train_000.tif", "train_001.tif"]
    assert sorted(p.name for p in root.iterdir()) == ["heights", "images", "masks"]
    assert [sorted(p.name for p in (root / kind).iterdir()) for kind in ("images", "masks")] == [names, names]
    assert [p.name for p in root.parent.iterdir()] == ["scenes"]
    origins = set()
    for name in names:
        with rasterio.open(root / "images" / name) as image, rasterio.open(root / "masks" / name) as mask:
            assert image.crs == mask.crs == "EPSG:32633"
            assert image.transform == mask.transform
            assert image.res == (0.5, 0.5)
            assert image.block_shapes == [(256, 256)] * 3
            assert image.profile["compress"] == mask.profile["compress"] == "deflate"
            assert (image.count, mask.count, mask.dtypes) == (3, 1, ("uint8",))
            colours = ["#{:02x}{:02x}{:02x}".format(*mask.colormap(1)[label][:3]) for label in range(len(CLASSES))]
            assert colours == list(PALETTE)
            origins.add(image.transform[2:6:3])
    assert len(origins) == 3
    expected = generate(SceneRecipe(size=320), 7, 1)
    for kind, pixels in zip(("images", "masks", "heights"), expected[:3], strict=True):
        with rasterio.open(root / kind / "train_001.tif") as file:
            np.testing.assert_array_equal(file.read().squeeze(), pixels)


def test_a_split_does_not_depend_on_the_others(tmp_path: Path):
    for train in (0, 2):
        write_scenes(tmp_path / str(train), SMALL, {"train": train, "val": 1}, seed=7)
    one, other = ((tmp_path / train / "images" / "val_000.tif").read_bytes() for train in ("0", "2"))
    assert one == other


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def stop_at_the_second(recipe, seed, index):
        if index == 1:
            raise KeyboardInterrupt
        return generate(recipe, seed, index)

    monkeypatch.setattr(sources, "generate", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path / "scenes", SMALL, {"train": 2}, 0)
    assert not list(tmp_path.iterdir())


def test_what_is_there_stays(tmp_path: Path):
    (tmp_path / "scenes").mkdir()
    write_scenes(tmp_path / "scenes", SMALL, {"train": 1}, 0)
    assert not list((tmp_path / "scenes").iterdir())


def test_a_faster_process_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = tmp_path / "scenes"

    def meanwhile(recipe, seed, index):
        root.mkdir()
        (root / "theirs").touch()
        return generate(recipe, seed, index)

    monkeypatch.setattr(sources, "generate", meanwhile)
    write_scenes(root, SMALL, {"train": 1}, 0)
    assert [p.name for p in root.iterdir()] == ["theirs"]
    assert [p.name for p in tmp_path.iterdir()] == ["scenes"]


def test_heights_are_those_of_buildings_and_trees():
    _, mask, height, *_ = generate(SceneRecipe(), 0, 0)
    assert height.dtype == np.float32
    assert (height[mask == BUILDING] >= 3.5).all()
    assert (height[mask == BUILDING] <= 6.5).all()
    assert not height[np.isin(mask, (ROAD, FIELD, WATER))].any()
    trees = height[mask == LAND]
    assert 0.01 < (trees > 0).mean() < 0.5
    assert trees.max() <= 7


def test_outliers_are_as_many_as_asked_for_and_in_training_scenes_alone(tmp_path):
    recipe = SceneRecipe(size=128, height_outliers=0.2)
    write_scenes(tmp_path / "scenes", recipe, {"train": 1, "val": 1}, seed=0)
    for name, index, share in (("train_000", 0, 0.2), ("val_000", 1000, 0.0)):
        with rasterio.open(tmp_path / "scenes" / "heights" / f"{name}.tif") as file:
            wrong = file.read(1) != generate(SceneRecipe(size=128), 0, index).height
        assert wrong.mean() == pytest.approx(share, abs=0.02)


def test_vehicles_change_the_image_in_their_boxes_alone():
    plain, busy = (generate(SceneRecipe(size=256, blur=0, noise=0, vehicles=count), 0, 1) for count in (0, 40))
    assert busy.vehicles.shape == (40, 5)
    assert plain.vehicles.shape == (0, 5)
    np.testing.assert_array_equal(plain.mask, busy.mask)
    np.testing.assert_array_equal(plain.height, busy.height)
    changed = (plain.image != busy.image).any(axis=0)
    covered = np.zeros_like(changed)
    for kind, top, left, bottom, right in busy.vehicles:
        rows, columns = (slice(max(0, int(a)), int(np.ceil(b)) + 1) for a, b in ((top, bottom), (left, right)))  # and a shadow
        covered[rows, columns] = True
        body = changed[rows, columns]
        assert body[body.any(axis=1)].shape[0] >= min(bottom, 256) - max(top, 0) - 2
        assert 3.5 < min(bottom - top, right - left) <= max(bottom - top, right - left) < (21 if kind else 11)
    assert not (changed & ~covered).any()
    assert (busy.mask[changed] == ROAD).mean() > 0.8
    assert len(np.unique(busy.vehicles[:, 0])) == 2


def test_vehicles_lie_beside_their_scene(tmp_path: Path):
    recipe = SceneRecipe(size=128, vehicles=8)
    write_scenes(tmp_path / "scenes", recipe, {"val": 1}, seed=3)
    boxes = geopandas.read_file(tmp_path / "scenes/vehicles/val_000.gpkg")
    vehicles = generate(recipe, 3, 1000).vehicles
    with rasterio.open(tmp_path / "scenes/images/val_000.tif") as image:
        assert boxes.crs == image.crs
        corners = boxes.geometry.affine_transform((~image.transform).to_shapely()).bounds[["miny", "minx", "maxy", "maxx"]]
    np.testing.assert_allclose(corners, vehicles[:, 1:], atol=1e-6)
    assert list(boxes["kind"]) == [VEHICLES[int(kind)] for kind in vehicles[:, 0]]


@pytest.mark.parametrize(
    ("recipe", "seed", "index", "hashes"),
    [
        (SMALL, 3, 5, ["845fa87e5d6ee5c5", "1ef33c9c3c762825", "7577261174f048dc"]),
        (
            SceneRecipe(size=256, label_noise=0.2, height_outliers=0.1, building_share=0.03),
            1,
            2,
            ["61cdf6560a13e50a", "eb8b776db172649f", "e1176fd6230b5f36"],
        ),
    ],
)
def test_scenes_without_clouds_are_those_of_before_there_were_any(recipe, seed, index, hashes):
    layers = generate(recipe, seed, index)[:3]
    assert [blake2b(layer.tobytes(), digest_size=8).hexdigest() for layer in layers] == hashes


def test_clouds_are_bright_and_soft_and_change_the_image_alone():
    clear, cloudy = (generate(SceneRecipe(size=256, blur=0, noise=0, clouds=share), 0, 2) for share in (0, 0.3))
    np.testing.assert_array_equal(clear.mask, cloudy.mask)
    np.testing.assert_array_equal(clear.height, cloudy.height)
    cloud, shadow, water = cloudy.sky.astype(bool)
    assert cloud.mean() == pytest.approx(0.3, abs=1e-3)
    before, after = (scene.image.mean(0) for scene in (clear, cloudy))
    assert after[cloud].mean() > before[cloud].mean() + 40
    assert after[shadow & ~cloud].mean() < 0.85 * before[shadow & ~cloud].mean()
    assert not water[clear.mask != WATER].any()
    for two in (cloud & water, cloud & shadow, shadow & water):
        assert two.any()
    share_of_white = ((after - before) / (225 - before))[cloud]
    assert 0.2 < ((share_of_white > 0.1) & (share_of_white < 0.7)).mean() < 0.8, "much of a cloud is thin"


def test_shadows_are_the_clouds_moved_away_from_the_sun():
    sun = np.array([0.6, -0.8])
    sky = draw_sky(np.random.default_rng(0), 200, 0.3, sun)
    moves = [np.rint(far * sun).astype(int) for far in np.arange(29, 71, 0.5)]
    assert any(np.array_equal(sky.shadow[:-row, -column:], sky.cloud[row:, :column]) for row, column in moves)


def test_the_sky_lies_beside_its_scene(tmp_path: Path):
    recipe = SceneRecipe(size=96, clouds=0.2)
    write_scenes(tmp_path / "scenes", recipe, {"val": 1}, seed=3)
    expected = generate(recipe, 3, 1000).sky
    with rasterio.open(tmp_path / "scenes/sky/val_000.tif") as file:
        np.testing.assert_array_equal(file.read(), expected)
    for kind, band in zip(("clouds", "shadows", "water"), expected, strict=True):
        with rasterio.open(tmp_path / f"scenes/{kind}/val_000.tif") as file:
            np.testing.assert_array_equal(file.read(1), band)
