"""What a folder holds, found by looking: layouts of known structure, and that the config which is written trains."""

import json
from itertools import product
from pathlib import Path, PureWindowsPath

import geopandas
import numpy as np
import pandas as pd
import pytest
import rasterio
import tiny
from omegaconf import OmegaConf
from PIL import Image
from pyogrio import write_dataframe
from shapely.geometry import LineString, box
from tiny import CONFIGS, mask_file, write_tif

from rsseg.assembly import make_setup, with_bands
from rsseg.config.cli import compose, own_part
from rsseg.config.entry import invocation
from rsseg.contract import InputError
from rsseg.data.files import Files
from rsseg.data.labels import Labels
from rsseg.data.vector import chosen_layer
from rsseg.dataset import open_data
from rsseg.describe import discovery
from rsseg.describe.discovery import discover, find_group, write_dataset
from rsseg.describe.pairing import part_of
from rsseg.task import Multiclass

RNG = np.random.default_rng(0)


def png(path, values, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values, mode).save(path)


def picture():
    return RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)


def labels(*values):
    return np.array(values, np.uint8)[RNG.integers(0, len(values), (32, 32))]


def fill(root, places, mask):
    """Write an image and a mask at each of some places, ``{kind}`` standing for what tells them apart."""
    for image_path, mask_path in places:
        png(root / image_path, picture())
        png(root / mask_path, mask())


LAYOUTS = {
    "folders": ([(f"images/{n}.png", f"masks/{n}.png") for n in "abcd"], "images/{name}.png", "masks/{name}.png", None),
    "side by side": ([(f"{n}_sat.png", f"{n}_mask.png") for n in "abcd"], "{name}_sat.png", "{name}_mask.png", None),
    "parts": (
        [(f"{part}/images/{part}{n}.png", f"{part}/gt/{part}{n}.png") for part in ("train", "val", "test") for n in "ab"],
        "{part}/images/{name}.png",
        "{part}/gt/{name}.png",
        {"train": ["train/images/*"], "val": ["val/images/*"], "test": ["test/images/*"]},
    ),
    "parts below": (
        [(f"img_dir/{p}/{p}{n}.png", f"ann_dir/{p}/{p}{n}_label.png") for p in ("Train", "Validation") for n in "ab"],
        "img_dir/{part}/{name}.png",
        "ann_dir/{part}/{name}_label.png",
        {"train": ["img_dir/Train/*"], "val": ["img_dir/Validation/*"]},
    ),
    "parts in folders' names": (
        [(f"{part}_images/{part}{n}.png", f"{part}_masks/{part}{n}.png") for part in ("train", "val", "test") for n in "ab"],
        "{part}_images/{name}.png",
        "{part}_masks/{name}.png",
        {part: [f"{part}_images/*"] for part in ("train", "val", "test")},
    ),
    "parts at the end of folders' names": (
        [(f"data/Images-{p}/{p}{n}.png", f"data/Masks-{p}/{p}{n}.png") for p in ("Train", "Val") for n in "ab"],
        "data/Images-{part}/{name}.png",
        "data/Masks-{part}/{name}.png",
        {"train": ["data/Images-Train/*"], "val": ["data/Images-Val/*"]},
    ),
    "parts twice": (
        [(f"{p}/{p}_img/{p}{n}.png", f"{p}/{p}_gt/{p}{n}.png") for p in ("train", "val") for n in "ab"],
        "{part}/{part}_img/{name}.png",
        "{part}/{part}_gt/{name}.png",
        {"train": ["train/train_img/*"], "val": ["val/val_img/*"]},
    ),
    "areas": (
        [(f"{area}/rgb/{n}.png", f"{area}/labels/{n}.png") for area in ("north", "south") for n in "ab"],
        "{area}/rgb/{name}.png",
        "{area}/labels/{name}.png",
        None,
    ),
    "masks beside images": ([(f"{n}.png", f"{n}_mask.png") for n in "abcd"], "{name}.png", "{name}_mask.png", None),
    "words first": ([(f"img_{n}.png", f"mask_{n}.png") for n in range(7, 12)], "img_{name}.png", "mask_{name}.png", None),
    "words first, endings": ([(f"img-{n}.tif", f"gt-{n}.png") for n in "abcd"], "img-{name}.tif", "gt-{name}.png", None),
    "words first in folders": (
        [(f"Photos 2023/IMG {n:04}.PNG", f"drawn/label_{n:04}.png") for n in range(4)],
        "Photos 2023/IMG {name}.PNG",
        "drawn/label_{name}.png",
        None,
    ),
    "words before numbers": ([(f"img{n}.png", f"mask{n}.png") for n in range(4)], "img{name}.png", "mask{name}.png", None),
    "several words": (
        [(f"image_{n}.png", f"gt_image_{n}.png") for n in range(4)],
        "image_{name}.png",
        "gt_image_{name}.png",
        None,
    ),
    "several words last": (
        [(f"a/{n}.png", f"b/{n}_RGB_mask.png") for n in "xyz"],
        "a/{name}.png",
        "b/{name}_RGB_mask.png",
        None,
    ),
    "endings that are no words": (
        [
            (f"{part}/{part}-org/{part}{n}.jpg", f"{part}/{part}-lab/{part}{n}_lab.png")
            for part in ("train", "val")
            for n in "ab"
        ],
        "{part}/{part}-org/{name}.jpg",
        "{part}/{part}-lab/{name}_lab.png",
        {"train": ["train/train-org/*"], "val": ["val/val-org/*"]},
    ),
    "endings within names": (
        [(f"ds0/img/{n}.jpg", f"ds0/masks_machine/{n}.jpg.png") for n in "abcd"],
        "ds0/img/{name}.jpg",
        "ds0/masks_machine/{name}.jpg.png",
        None,
    ),
    "words last in areas": (
        [(f"{area}/{n}.png", f"{area}/{n}_label.png") for area in ("porto", "vigo", "faro") for n in "xy"],
        "{area}/{name}.png",
        "{area}/{name}_label.png",
        None,
    ),
    "folders without words": (
        [(f"s2/img_{n}.png", f"water/img_{n}.png") for n in "wxyz"],
        "s2/{name}.png",
        "water/{name}.png",
        None,
    ),
    "words alone": (
        [(f"scene{n}/image.png", f"scene{n}/mask.png") for n in range(4)],
        "{area}/image.png",
        "{area}/mask.png",
        None,
    ),
    "letters that differ in case": (
        [(f"photos/Img_{n}1.png", f"drawn/MASK_{n.lower()}1.png") for n in "ABCD"],
        "photos/Img_{name}.png",
        "drawn/MASK_{name}.png",
        None,
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_and_masks_are_paired(tmp_path, layout):
    places, image, mask, split = LAYOUTS[layout]
    fill(tmp_path, places, lambda: labels(0, 1, 2))
    found = discover(tmp_path)
    source = found.config["source"]
    assert (source["image"], source["mask"], source["split"]) == (image, mask, split)
    assert found.beliefs[0].startswith(f"{len(places)} pairs: {len(places)} images are {image}, {len(places)} masks {mask}.")
    own = {key: value for key, value in source.items() if key != "_target_"}
    scenes = [scene for part in ("train", "val", "test") for scene in Files(**own).scenes(part)]
    paired = {(str(scene.image.relative_to(tmp_path)), str(mask_file(scene).relative_to(tmp_path))) for scene in scenes}
    assert paired == {*places}


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (lambda: labels(0, 1), {"task": "binary", "mask_values": [0, 1], "ignore_values": [255]}),
        (lambda: labels(0, 255), {"task": "binary", "mask_values": [0, 255], "ignore_values": []}),
        (lambda: labels(0, 1, 255), {"task": "binary", "mask_values": [0, 1], "ignore_values": [255]}),
        (
            lambda: labels(1, 2, 5),
            {"task": "multiclass", "mask_values": [1, 2, 5], "classes": ["class_1", "class_2", "class_5"]},
        ),
        (lambda: np.stack([labels(0, 255)] * 3, -1), {"task": "binary", "mask_values": [0, 255]}),
        (
            lambda: np.array([[0, 0, 0], [0, 0, 255], [255, 0, 0]], np.uint8)[labels(0, 1, 2)],
            {"task": "multiclass", "mask_values": ["#000000", "#0000ff", "#ff0000"], "colour_tolerance": None},
        ),
    ],
)
def test_masks_are_known_by_their_values(tmp_path, mask, expected):
    fill(tmp_path, LAYOUTS["folders"][0], mask)
    found = discover(tmp_path).config
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("below", "expected"),
    [(lambda: np.zeros((32, 32, 3), np.uint8), ["#000000", "#ff0000"]), (picture, ["#0000ff", "#ff0000"])],
)
def test_colours_that_are_hidden(tmp_path, below, expected):
    """Below a transparent background lies its colour, or what an editor left there, which is no class."""

    def mask():
        seen = labels(0, 1, 2)[..., None]
        drawn = np.where(seen == 2, [0, 0, 255] if below is picture else [255, 0, 0], [255, 0, 0])
        return np.concatenate([np.where(seen > 0, drawn, below()), 255 * (seen > 0)], axis=-1).astype(np.uint8)

    fill(tmp_path, LAYOUTS["folders"][0], mask)
    found = discover(tmp_path).config
    assert (found["mask_values"], found["colour_tolerance"]) == (expected, None)


PALETTE = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (128, 128, 128)], np.uint8)


def blurred(root, palette, quality, side=20):
    """Images, and masks of squares in these colours as JPEG; the true labels by name."""
    truth = {}
    for name in "abcd":
        truth[name] = RNG.integers(0, len(palette), (12, 12)).repeat(side, 0).repeat(side, 1)
        png(root / f"images/{name}.png", RNG.integers(0, 256, (*truth[name].shape, 3), dtype=np.uint8))
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(palette[truth[name]]).save(root / f"masks/{name}.jpg", quality=quality)
    return truth


@pytest.mark.parametrize("quality", [95, 75, 40])
@pytest.mark.parametrize("palette", [PALETTE, np.array([0, 60, 120, 200], np.uint8)], ids=["colours", "greys"])
def test_colours_of_jpeg_masks_are_those_of_flat_areas(tmp_path, palette, quality):
    truth = blurred(tmp_path, palette, quality)
    found = discover(tmp_path)
    colours = np.array([list(bytes.fromhex(colour[1:])) for colour in found.config["mask_values"]])
    apart = abs(np.resize(palette.T, (3, len(palette))).T[:, None].astype(int) - colours).max(axis=-1)
    assert len(colours) == len(palette)
    assert apart.min(axis=1).max() <= 8
    reader = Labels(Multiclass(found.config["classes"]), found.config["mask_values"], [], found.config["colour_tolerance"])
    for name, labels in truth.items():
        pixels = np.asarray(Image.open(tmp_path / f"masks/{name}.jpg").convert("RGB"))
        decoded = reader.decode(pixels.transpose(2, 0, 1))
        assert (decoded == apart.argmin(axis=1)[labels]).mean() > 0.9
    assert "blurred as by JPEG" in found.beliefs[1]


def test_what_cannot_be_told_of_jpeg_masks_is_said(tmp_path):
    blurred(tmp_path / "two", np.array([0, 60], np.uint8), 75)
    found = discover(tmp_path / "two")
    assert (found.config["task"], found.config["source"]["threshold"]) == ("binary", 30)
    blurred(tmp_path / "small", np.array([0, 1, 2, 3], np.uint8), 75)
    assert any("JPEG, which changes such values at edges" in belief for belief in discover(tmp_path / "small").beliefs)
    for name in "abcd":
        png(tmp_path / f"photos/images/{name}.png", picture())
        png(tmp_path / f"photos/masks/{name}.png", picture())
    with pytest.raises(InputError, match=r"colours in 4 of 4 masks, of which \d+ fill flat areas: from 2 to 32 are expected"):
        discover(tmp_path / "photos")


def test_a_word_that_begins_some_names_alone_parts_nothing(tmp_path):
    """Segovia is a town."""
    names = ["segovia_1", "segovia_2", "topeka_1", "avila_1", "avila_2"]
    fill(tmp_path, [(f"images/{n}.png", f"masks/{n}.png") for n in names], lambda: labels(0, 1))
    found = discover(tmp_path)
    assert found.beliefs[0] == "5 pairs: 5 images are images/{name}.png, 5 masks masks/{name}.png."


def test_files_that_words_part_from_others_are_named(tmp_path):
    fill(tmp_path, [(f"img_{n}.png", f"mask_{n}.png") for n in range(4)], lambda: labels(0, 1))
    png(tmp_path / "overview.png", picture())
    assert discover(tmp_path).beliefs[0].endswith("4 masks mask_{name}.png. Not used: 1 {name}.png.")


def test_patterns_that_are_given_pair_what_names_do_not(tmp_path):
    places = [(f"photos/{part}_{n}.png", f"drawn/{part}/{n}_v2.png") for part in ("north", "south") for n in range(4)]
    fill(tmp_path, places, lambda: labels(0, 1))
    png(tmp_path / "photos/north_9.png", picture())
    with pytest.raises(
        InputError, match=r"or give the patterns of images and masks: image='photos/\{name\}\.tif' mask='drawn/"
    ):
        discover(tmp_path)
    image, mask = "photos/{area}_{name}.png", "drawn/{area}/{name}_v2.png"
    found = discover(tmp_path, image, mask)
    assert (found.config["source"]["image"], found.config["source"]["mask"]) == (image, mask)
    assert found.beliefs[0].startswith(f"8 pairs: 9 images are {image}, 8 masks {mask}.")
    assert found.config["mask_values"] == [0, 1]
    for wrong, said in (
        (
            ("photos/{area}_{name}.png", "drawn/{name}.png"),
            r"no file fits mask=drawn/\{name\}\.png with the fields of an image",
        ),
        (("photo/{name}.png", mask), r"no image below .* fits dataset\.source\.image=photo/\{name\}\.png; it holds "),
        (("photos/*.png", "drawn/*/*.png"), "share a name: write a field such as {name} where paths of scenes differ"),
        ((image, ""), "give both patterns"),
    ):
        with pytest.raises(InputError, match=said):
            discover(tmp_path, *wrong)


def test_one_mask_that_is_given_is_for_all_images(tmp_path):
    for name in "abcd":
        write_tif(tmp_path / f"{name}.tif", np.ones((3, 32, 32), np.uint8))
    write_tif(tmp_path / "whole.tif", labels(0, 1)[None])
    found = discover(tmp_path, "{name}.tif", "whole.tif")
    assert found.beliefs[0] == "4 pairs: 4 images are {name}.tif, 1 mask whole.tif."


def test_the_parts_of_given_patterns_are_the_split(tmp_path):
    places = [(f"{part}_images/{part}{n}.png", f"{part}_masks/{part}{n}.png") for part in ("train", "val") for n in range(3)]
    fill(tmp_path, places, lambda: labels(0, 1))
    source = discover(tmp_path, "{part}_images/{name}.png", "{part}_masks/{name}.png").config["source"]
    assert source["split"] == {"train": ["train_images/*"], "val": ["val_images/*"]}
    assert source["group"] is None


def test_folders_of_areas_are_groups(tmp_path):
    towns = ["Portugal/Porto", "Portugal/Lisboa", "Spain/Vigo"]
    fill(tmp_path, [(f"{t}/rgb/{n}.png", f"{t}/labels/{n}.png") for t in towns for n in "ab"], lambda: labels(0, 1))
    source = discover(tmp_path).config["source"]
    own = {key: value for key, value in source.items() if key != "_target_"}
    groups = {scene.group for part in ("train", "val", "test") for scene in Files(**own).scenes(part)}
    assert groups == {f"{town}/rgb" for town in towns}


@pytest.mark.parametrize(("value", "expected"), [(1, [0, 1]), (255, [0, 255]), (0, [0, 1])])
def test_masks_of_one_label(tmp_path, value, expected):
    fill(tmp_path, LAYOUTS["folders"][0], lambda: labels(value))
    found = discover(tmp_path)
    assert (found.config["task"], found.config["mask_values"]) == ("binary", expected)
    assert any(belief.startswith("Only one label is seen") for belief in found.beliefs)


def test_grey_masks_have_a_threshold(tmp_path):
    fill(tmp_path / "grey", LAYOUTS["folders"][0], lambda: RNG.integers(0, 256, (32, 32), dtype=np.uint8))
    assert discover(tmp_path / "grey").config["source"]["threshold"] == 127


def test_masks_of_classes_are_taken_before_pictures_of_them_and_single_objects(tmp_path):
    """As annotation tools export them, and as contests hand them out."""
    for name in "abcd":
        png(tmp_path / f"tool/JPEGImages/{name}.jpg", picture())
        png(tmp_path / f"contest/photos/{name}.jpg", picture())
        png(tmp_path / f"contest/RGB_image_masks/{name}.png", PALETTE[labels(0, 1, 2)])
        png(tmp_path / f"contest/label_images/{name}.png", labels(0, 1, 2))
        for kind in ("Class", "Object"):
            png(tmp_path / f"tool/Segmentation{kind}/{name}.png", PALETTE[labels(0, 1, 2)])
    source = discover(tmp_path / "tool").config["source"]
    assert (source["image"], source["mask"]) == ("JPEGImages/{name}.jpg", "SegmentationClass/{name}.png")
    source = discover(tmp_path / "contest").config["source"]
    assert (source["image"], source["mask"]) == ("photos/{name}.jpg", "label_images/{name}.png")


def test_lists_below_the_folder_are_seen_and_those_of_other_files_are_told(tmp_path):
    fill(tmp_path, [(f"set/images/{n}.png", f"set/masks/{n}.png") for n in "abcd"], lambda: labels(0, 1))
    (tmp_path / "set/lists").mkdir()
    for part, names in (("train", "abc"), ("val", "d")):
        (tmp_path / f"set/lists/{part}.csv").write_text("\n".join(["id;name", *(f"{i};{n}" for i, n in enumerate(names))]))
    assert discover(tmp_path).config["source"]["split"] == {"train": "set/lists/train.csv", "val": "set/lists/val.csv"}
    for part, names in (("train", "abc"), ("val", "d")):
        (tmp_path / f"set/lists/{part}.txt").write_text("\n".join(names))
    assert discover(tmp_path).config["source"]["split"] == {"train": "set/lists/train.txt", "val": "set/lists/val.txt"}
    (tmp_path / "set/lists/train.txt").write_text("a\nq\n")
    found = discover(tmp_path)
    assert found.config["source"]["split"] is None
    assert any("No split is found" in line and "lists 1 name without an image: q" in line for line in found.beliefs)


def test_lists_and_areas_are_seen(tmp_path):
    names = [f"tile{t}_part_{n}" for t in range(3) for n in range(4)]
    fill(tmp_path, [(f"images/{n}.png", f"masks/{n}.png") for n in names], lambda: labels(0, 1))
    for part, some in (("train", names[:8]), ("val", names[8:])):
        (tmp_path / f"{part}.txt").write_text("\n".join(some))
    source = discover(tmp_path).config["source"]
    assert source["split"] == {"train": "train.txt", "val": "val.txt"}
    own = {key: value for key, value in source.items() if key != "_target_"}
    assert {scene.group for scene in Files(**own).scenes("train")} == {"tile0", "tile1"}
    towns = ["images/austin1.tif", "images/austin2.tif", "images/wien1.tif", "images/wien2.tif"]
    assert find_group(towns, 2)[0]
    assert find_group(towns, 3)[0] is None
    assert find_group(["a.tif", "b.tif"], 2)[0] is None
    flights = [f"T{flight}-P00{number}_rgb.jpg" for flight in (1, 2, 3) for number in (1, 2)]
    assert "3 groups, such as T1" in find_group(flights, 3)[1]
    assert part_of("Testing") == "test"


def test_images_of_several_endings_are_one_kind_where_they_have_masks(tmp_path):
    names = [*(f"{n}.jpg" for n in "abcdefgh"), "i.png", "j.tif"]
    fill(tmp_path / "dxb", [(f"Img/{n}", f"gt/{n[0]}_label.png") for n in names], lambda: labels(0, 1))
    found = discover(tmp_path / "dxb")
    source = found.config["source"]
    assert (source["image"], source["mask"]) == ("Img/{name}.*", "gt/{name}_label.png")
    assert found.beliefs[0] == "10 pairs: 10 images are Img/{name}.*, 10 masks gt/{name}_label.png."
    own = {key: value for key, value in source.items() if key != "_target_"}
    assert sum(len(Files(**own).scenes(part)) for part in ("train", "val", "test")) == 10
    (tmp_path / "dxb/gt/j_label.png").rename(tmp_path / "dxb/gt/j_label.bmp")
    found = discover(tmp_path / "dxb")
    assert (found.config["source"]["image"], found.config["source"]["mask"]) == ("Img/{name}.*", "gt/{name}_label.*")
    # a picture beside the images that has no mask is none of them
    fill(tmp_path / "plain", [(f"images/{n}.tif", f"masks/{n}.tif") for n in "abcdef"], lambda: labels(0, 1))
    png(tmp_path / "plain/images/overview.png", picture())
    found = discover(tmp_path / "plain")
    assert found.config["source"]["image"] == "images/{name}.tif"
    assert found.beliefs[0].endswith("6 masks masks/{name}.tif. Not used: 1 images/{name}.png.")
    # endings tell images from masks in one folder: nothing of them can be joined
    fill(tmp_path / "flat", [(f"{n}.jpg", f"{n}.png") for n in "abcd"] + [("e.bmp", "e.png")], lambda: labels(0, 1))
    (belief, *_) = discover(tmp_path / "flat").beliefs
    assert belief.startswith("4 pairs: 4 images are {name}.jpg, 5 masks {name}.png.")
    assert belief.endswith(" Not used: 1 {name}.bmp.")


def test_what_is_not_used_is_named(tmp_path):
    fill(tmp_path, [(f"images_s2/{n}.png", f"masks/{n}.png") for n in "abcdef"], lambda: labels(0, 1))
    for name in "abcd":
        png(tmp_path / f"images_s1/{name}.png", picture())
    png(tmp_path / "images_s2/t.png", picture())
    png(tmp_path / "masks/q.png", labels(0, 1))
    found = discover(tmp_path)
    assert found.config["source"]["image"] == "images_s2/{name}.png"
    assert found.beliefs[0].endswith(
        "6 pairs: 7 images are images_s2/{name}.png, 7 masks masks/{name}.png. Not used: 4 images_s1/{name}.png. "
        "To take images_s1/{name}.png, give mask='masks/{name}.png' image='images_s1/{name}.png', or to stack both "
        "image='[images_s2/{name}.png,images_s1/{name}.png]'."
    )
    for quote in ("", '"'):
        given = f"[{quote}images_s2/{{name}}.png{quote},{quote}images_s1/{{name}}.png{quote}]"
        stacked = discover(tmp_path, given, "masks/{name}.png")
        assert stacked.config["source"]["image"] == ["images_s2/{name}.png", "images_s1/{name}.png"]
        assert stacked.beliefs[0].startswith("4 pairs: ")


def test_a_folder_that_is_not_read_is_no_area(tmp_path):
    """Images whose names begin with their part of the split, of which only one has masks."""
    fill(tmp_path, [(f"train/images/train{n}.png", f"train/gt/train{n}.png") for n in range(6)], lambda: labels(0, 1))
    for n in range(6):
        png(tmp_path / f"test/images/test{n}.png", picture())
    source = discover(tmp_path).config["source"]
    assert (source["image"], source["split"], source["group"]) == ("train/images/{name}.png", None, None)
    own = {key: value for key, value in source.items() if key != "_target_"}
    assert all(Files(**own).scenes(part) for part in ("train", "val", "test"))


def test_a_part_without_masks_is_no_part_of_the_split(tmp_path):
    """Challenges hand the masks of their test images to nobody."""
    fill(
        tmp_path,
        [(f"{part}/images/{part}{n}.png", f"{part}/gt/{part}{n}.png") for part in ("train", "val") for n in range(4)],
        lambda: labels(0, 1),
    )
    png(tmp_path / "test/images/test0.png", picture())
    found = discover(tmp_path)
    assert found.config["source"]["split"] == {"train": ["train/images/*"], "val": ["val/images/*"]}
    assert "The folders train, val are the split. test has no masks and is not used." in found.beliefs


def test_images_to_predict_beside_folders_of_one_part(tmp_path):
    """As contests hand them out."""
    fill(tmp_path, [(f"train_images/{n}.png", f"train_masks/{n}.png") for n in "abcd"], lambda: labels(0, 1))
    png(tmp_path / "test_images/t.png", picture())
    found = discover(tmp_path)
    source = found.config["source"]
    assert (source["image"], source["mask"]) == ("train_images/{name}.png", "train_masks/{name}.png")
    assert source["split"] is None
    assert "Only train has masks, of it 70 % train, 15 % validate, 15 % test, by groups." in found.beliefs


def test_a_split_without_a_test_part_is_told(tmp_path):
    parts = ("train", "val")
    fill(tmp_path / "a", [(f"{p}/images/{p}{n}.png", f"{p}/gt/{p}{n}.png") for p in parts for n in "ab"], lambda: labels(0, 1))
    fill(tmp_path / "b", [(f"images/{n}.png", f"masks/{n}.png") for n in "ab"], lambda: labels(0, 1))
    fill(tmp_path / "c", [(f"images/{n}.png", f"masks/{n}.png") for n in "abc"], lambda: labels(0, 1))
    for name, parts in (("a", {"train", "val"}), ("b", {"train", "val"}), ("c", {"train", "val", "test"})):
        found = discover(tmp_path / name)
        source = Files(**{key: value for key, value in found.config["source"].items() if key != "_target_"})
        assert set(source.split.owners(source.every).values()) == parts
        told = any("There is no test part: rsseg evaluate takes split=val" in belief for belief in found.beliefs)
        assert told == ("test" not in parts)


@pytest.mark.parametrize(("bands", "rgb"), [(13, [4, 3, 2]), (12, [4, 3, 2]), (8, None), (4, None), (3, None)])
def test_bands_without_names(tmp_path, bands, rgb):
    for name in "abcd":
        write_tif(tmp_path / "s2" / f"{name}.tif", np.ones((bands, 32, 32), np.uint16))
        write_tif(tmp_path / "masks" / f"{name}.tif", labels(0, 1, 2)[None])
    found = discover(tmp_path)
    assert found.config["rgb"] == rgb
    assert any("pictures show" in belief for belief in found.beliefs) == (bands > 3)


def test_bands_and_places_are_told(tmp_path):
    for name in "abcd":
        path = write_tif(tmp_path / "s2" / f"{name}.tif", np.ones((4, 32, 32), np.uint16))
        write_tif(tmp_path / "masks" / f"{name}.tif", labels(0, 1, 2)[None])
    with rasterio.open(path, "r+") as file:
        file.descriptions = ("blue", "green", "red", "nir")
    said = " ".join(discover(tmp_path).beliefs)
    assert "4 bands of uint16" in said
    assert "32 x 32 px, EPSG:32633" in said


def test_names_with_spaces(tmp_path):
    for tile, part in product("123", "0123"):
        png(tmp_path / f"photos/Tile {tile} part {part}.png", picture())
        png(tmp_path / f"labels/Tile {tile} part {part} mask.png", labels(0, 1, 2))
    found = discover(tmp_path)
    assert found.config["source"]["mask"] == "labels/{name} mask.png"
    assert "3 groups, such as Tile " in " ".join(found.beliefs)


def test_a_slip_of_the_pen_is_no_class(tmp_path):
    for name in "abcd":
        png(tmp_path / f"images/{name}.png", np.zeros((300, 300, 3), np.uint8))
        colours = np.full((300, 300, 3), (255, 0, 0), np.uint8)
        colours[:100] = 0, 255, 0
        if name == "a":
            colours[200, 200] = 1, 2, 3
        png(tmp_path / f"masks/{name}.png", colours)
    found = discover(tmp_path)
    assert found.config["mask_values"] == ["#00ff00", "#ff0000"]
    assert found.config["ignore_values"] == ["#010203"]
    assert "Hardly any pixel is #010203 (1 px): taken for not labelled" in " ".join(found.beliefs)


def test_nothing_that_belongs_together(tmp_path):
    with pytest.raises(InputError, match="no images and masks of equal names are found"):
        discover(tmp_path)
    png(tmp_path / "photos/a.png", picture())
    with pytest.raises(InputError, match=r"found \(1 photos/\{name\}\.png\)"):
        discover(tmp_path)


@pytest.mark.slow
def test_the_config_that_is_written_is_used(tmp_path, capsys, caplog):
    caplog.set_level("INFO")
    from rsseg.commands.describe import Arguments, run

    fill(tmp_path / "My Data", LAYOUTS["folders"][0], lambda: labels(0, 1, 2))
    into = tmp_path / "dataset"
    settings = ["window=32", "dataset.source.on_missing=skip", "dataset.rgb=[3,2,1]"]
    words = [str(tmp_path / "My Data"), f"output={tmp_path}", *settings]
    for wrong, said in (("task=binry", "there is no task binry"), ("source.split={val: 3}", "fractions must be")):
        with pytest.raises(InputError, match=said):
            run(Arguments([*words, f"dataset.{wrong}"], str(into)))
        assert not into.exists()
    run(Arguments(words, str(into)))
    written = OmegaConf.load(into / "my_data.yaml")
    assert written.source.root == str(tmp_path / "My Data")
    assert (written.window, written.source.on_missing, written.rgb) == (32, "skip", [3, 2, 1])
    assert "output" not in written
    assert f"Train: {invocation('train')} --config-dir {tmp_path} dataset=my_data output={tmp_path}" in capsys.readouterr().out
    sweep = json.loads((tmp_path / "describe/my_data/description.json").read_text())["sweep"]
    assert sweep.startswith(f"{invocation('train')} -m --config-dir {tmp_path} dataset=my_data")
    assert (tmp_path / "describe/my_data/description.json").is_file()
    (into / "my_data.yaml").write_text((into / "my_data.yaml").read_text().replace("class_0", "land"))
    run(Arguments(words, str(tmp_path)))  # the folder that holds dataset is the same place
    assert "is there already and is used as it is" in caplog.text
    config = compose(CONFIGS, ["dataset=my_data", f"hydra.searchpath=[file://{tmp_path}]"])
    assert list(config.dataset.classes) == ["land", "class_1", "class_2"]
    given = {"image": "images/{name}.png", "mask": "masks/{name}.png"}
    with pytest.raises(InputError, match=r"my_data\.yaml is there already: remove it .* dataset=my_data describes it as it is"):
        run(Arguments(words, str(into), **given))
    with pytest.raises(InputError, match=r"are for a folder; of a dataset write dataset\.source\.image=\.\.\."):
        run(Arguments(["dataset=synthetic"], **given))
    with pytest.raises(InputError, match="dataset=folder: a folder gets a config of its own: leave out dataset=folder or "):
        run(Arguments([*words, "dataset=folder"], str(into)))
    (into / "my_data.yaml").unlink()
    run(Arguments(words, str(into), **given))
    assert OmegaConf.load(into / "my_data.yaml").source.mask == given["mask"]


@pytest.mark.slow
@pytest.mark.parametrize("form", [["--config-dir", "{}"], ["--config-dir={}"], ["-cd", "{}"]])
def test_a_folder_of_configs_is_not_the_one_to_describe(tmp_path, capsys, form):
    from rsseg.commands.describe import Arguments, run

    fill(tmp_path / "mine", LAYOUTS["folders"][0], lambda: labels(0, 1, 2))
    words = [*(word.format(tmp_path / "own") for word in form), f"output={tmp_path}", "window=32"]
    run(Arguments([str(tmp_path / "mine"), *words]))
    assert (tmp_path / "own/dataset/mine.yaml").is_file()
    (tmp_path / "describe/mine/description.json").unlink()
    run(Arguments([*words, "dataset=mine"]))
    assert (tmp_path / "describe/mine/description.json").is_file()


def pictured(path, names, size=640):
    """An image whose bands have names, and the shares of its blocks as labels."""
    write_tif(path, RNG.integers(0, 999, (len(names), size, size), dtype=np.uint16))
    with rasterio.open(path, "r+") as file:
        file.descriptions = names
    return path


@pytest.mark.parametrize("names", [("images/x.tif", "masks/x.tif"), ("image.tif", "mask.tif"), ("x_rgb.tif", "labels.gpkg")])
def test_one_image_is_cut_into_blocks(tmp_path, names):
    image = pictured(tmp_path / names[0], ("blue", "green", "red", "nir"))
    if names[1].endswith(".tif"):
        write_tif(tmp_path / names[1], np.kron(labels(0, 1), np.ones((20, 20), np.uint8))[None])
    else:
        place = box(500000, 3999700, 500300, 4000000)
        geopandas.GeoDataFrame({"kind": [1]}, geometry=[place], crs="EPSG:32633").to_file(tmp_path / names[1])
    found = discover(tmp_path)
    assert (found.config["source"]["image"], found.config["source"]["mask"]) == names
    assert found.config["source"]["split"] == {"blocks": 160, "buffer": 10, "train": 0.7, "val": 0.15, "test": 0.15}
    assert any("Blocks of one image are not other places" in belief for belief in found.beliefs)
    own = {key: value for key, value in found.config["source"].items() if key != "_target_"}
    regions = {part: [scene.region for scene in Files(**own).scenes(part)] for part in ("train", "val", "test")}
    whole = np.zeros((640, 640), int)
    for part in regions.values():
        assert min(min(region.width, region.height) for region in part) >= found.config["window"]
        for region in part:
            whole[region.toslices()] += 1
    assert whole.max() == 1
    smaller = discover(tmp_path, given={"source.split.blocks": 128, "source.split.train": 0.6})
    assert (smaller.config["source"]["split"]["blocks"], smaller.config["window"]) == (128, 96)
    assert any("blocks of about 128 px, with 10 px between" in belief and "60 % train" in belief for belief in smaller.beliefs)
    assert {scene.image for scene in Files(**own).scenes("val")} == {image}


def test_an_image_too_small_for_blocks(tmp_path):
    png(tmp_path / "images/x.png", picture())
    png(tmp_path / "masks/x.png", labels(0, 1))
    with pytest.raises(InputError, match=r"only .*images/x.png has a mask, and its 32 x 32 px are too few") as caught:
        discover(tmp_path)
    assert "\n" not in str(caught.value)


def squares(n, side=20):
    """Squares of this side in metres in the images of `located`."""
    corners = [(500000 + 100 * (i % 4) + 5, 3999900 + 20 * (i // 4)) for i in range(n)]
    return [box(x, y, x + side, y + side) for x, y in corners]


def located(root):
    """Four images of 32 pixels of 3 m that touch."""
    for i, name in enumerate("abcd"):
        place = rasterio.transform.from_origin(500000 + 100 * i, 4000000, 100 / 32, 100 / 32)
        write_tif(root / f"images/{name}.tif", RNG.integers(0, 255, (3, 32, 32), dtype=np.uint8), transform=place)


def test_the_layer_and_attribute_of_a_geopackage_are_proposed_and_others_listed(tmp_path):
    located(tmp_path)
    path = tmp_path / "map.gpkg"
    kinds, crs = [("house", "road", "house", None)[(i + i // 4) % 4] for i in range(16)], "EPSG:32633"
    lines = geopandas.GeoDataFrame({"n": [1]}, geometry=[LineString([(0, 0), (1, 1)])], crs=crs)
    lines.to_file(path, layer="axes")
    geopandas.GeoDataFrame({"id": range(2)}, geometry=squares(2), crs=crs).to_file(path, layer="areas")
    columns = {"id": range(16), "class": kinds, "editor": ["x", "y"] * 8}
    geopandas.GeoDataFrame(columns, geometry=squares(16), crs=crs).to_file(path, layer="landuse")
    found = discover(tmp_path)
    source, said = found.config["source"], " ".join(found.beliefs)
    assert (source["layer"], source["attribute"]) == ("landuse", "class")
    assert source["values"] == {"house": 1, "road": 2, "null": 255}
    assert (found.config["classes"], found.config["mask_values"]) == (["background", "house", "road"], [0, 1, 2])
    assert "map.gpkg has the layers axes (1 x LineString), areas (2 x Polygon), landuse (16 x Polygon): landuse is read" in said
    assert "source.layer takes another" in said
    assert "class (house: 8, road: 4, null: 4), editor (x: 8, y: 8)" in said
    assert "Polygons have 400 to 400 m2 (5 to 95 %)" in said
    assert "min_area=400 leaves out smaller specks" in said
    write_dataset(found, tmp_path / "configs/dataset/mine.yaml")
    words = [f"hydra.searchpath=[file://{tmp_path}/configs]", "dataset=mine", f"output={tmp_path}"]
    setup, files = with_bands(make_setup(own_part(compose(CONFIGS, words))))
    counted = sum(store.census.positives for store in open_data(setup.dataset, files, 32).stores.values()).sum(axis=0)
    assert (counted[1:] > 0).all()


def test_vectors_without_classes_and_lines(tmp_path):
    located(tmp_path)
    path, crs = tmp_path / "map.shp", "EPSG:32633"
    columns = {"height": [3.5, 4.5] * 4, "floors": [1, 2] * 4}
    geopandas.GeoDataFrame(columns, geometry=squares(8), crs=crs).to_file(path)
    found = discover(tmp_path)
    assert found.config["task"] == "binary"
    assert not {"layer", "attribute", "values", "buffer"} & found.config["source"].keys()
    assert "8 features with the attributes height (3.5: 4, 4.5: 4), floors (1: 4, 2: 4)." in found.beliefs
    shapes = [LineString(shape.exterior.coords) for shape in squares(8)]
    geopandas.GeoDataFrame(columns, geometry=shapes, crs=crs).to_file(path)
    assert discover(tmp_path).config["source"]["buffer"] == 2


def test_vectors_in_metres_without_a_crs(tmp_path):
    located(tmp_path)
    geopandas.GeoDataFrame(geometry=squares(8)).to_file(tmp_path / "map.geojson")
    with pytest.raises(InputError, match=r"map\.geojson has coordinates such as .*, which are no degrees") as caught:
        discover(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_styles_of_layers_are_no_layer(tmp_path):
    """QGIS writes them into the file, as a table without geometries."""
    located(tmp_path)
    geopandas.GeoDataFrame(geometry=squares(8), crs="EPSG:32633").to_file(tmp_path / "map.gpkg", layer="houses")
    write_dataframe(pd.DataFrame({"styleName": ["x"]}), tmp_path / "map.gpkg", layer="layer_styles")
    found = discover(tmp_path)
    assert "layer" not in found.config["source"]
    assert chosen_layer(tmp_path / "map.gpkg", None) == "houses"


def test_one_vector_file_is_for_all_images(tmp_path):
    for name in "abc":
        png(tmp_path / f"images/{name}.png", picture())
    geopandas.GeoDataFrame({"kind": [1]}, geometry=[box(0, 0, 1, 1)], crs="EPSG:32633").to_file(tmp_path / "roads.gpkg")
    source = discover(tmp_path).config["source"]
    assert (source["image"], source["mask"]) == ("images/{name}.png", "roads.gpkg")


@pytest.mark.parametrize(
    ("names", "rgb", "of_four"),
    [
        (("B01", "B02", "B03", "B04", "B08"), [4, 3, 2], [3, 0, 1]),
        (("SR_B1", "SR_B2", "SR_B3", "SR_B4", "SR_B5"), [4, 3, 2], [3, 0, 1]),
        (("coastal blue", "blue", "green", "red edge", "red", "near infra-red"), [5, 3, 2], None),
        (("a", "b", "c", "d", "e"), None, None),
    ],
)
def test_bands_that_are_called_by_their_colours_are_shown(tmp_path, names, rgb, of_four):
    for name in "abc":
        pictured(tmp_path / "images" / f"{name}.tif", names, 32)
        write_tif(tmp_path / "masks" / f"{name}.tif", labels(0, 1)[None])
    words = [f"dataset.source.root={tmp_path}", "dataset=geotiff", "dataset.classes=[a,b]"]
    for bands, shown in (("null", rgb and [band - 1 for band in rgb]), ("[3,2,1,4]", of_four), ("[1,2,3]", None)):
        setup, _ = with_bands(make_setup(tiny.compose([*words, f"dataset.bands={bands}"])))
        assert setup.shown_bands == shown


def test_a_label_that_is_stored_as_transparency(tmp_path):
    """A GeoTIFF of four bands of uint8 has transparency in the fourth, if its writer does not say otherwise."""
    for name in "ab":
        png(tmp_path / f"images/{name}.png", picture())
        drawn, none = labels(0, 1), labels(0)
        write_tif(tmp_path / f"masks/{name}.tif", np.stack([drawn, none, none, none]))
    with pytest.raises(InputError, match=r"masks/a\.tif and its like are transparent everywhere"):
        discover(tmp_path)


@pytest.mark.parametrize(("bands", "dtype"), [(3, np.float32), (2, np.uint8), (5, np.uint8)])
def test_bands_of_masks_that_are_no_colours(tmp_path, bands, dtype):
    for name in "ab":
        png(tmp_path / f"images/{name}.png", picture())
        write_tif(tmp_path / f"masks/{name}.tif", np.stack([labels(0, 1)] * (bands - 1) + [labels(1)]).astype(dtype))
    with pytest.raises(InputError, match=rf"masks/a\.tif has {bands} bands of .* that differ and are no colours") as caught:
        discover(tmp_path)
    assert "\n" not in str(caught.value)


def test_patterns_have_the_slashes_of_configs_on_any_system(monkeypatch):
    files = {(part, "a"): Path(f"{part}/images/a.tif") for part in ("train", "val")}
    monkeypatch.setattr(discovery, "Path", PureWindowsPath)
    split, *_ = discovery.find_split(Path(), discovery.FileKind("{part}/images/{name}.tif", files), files)
    assert split == {"train": ["train/images/*"], "val": ["val/images/*"]}


def test_a_name_with_accents_is_one_that_a_command_line_takes(tmp_path):
    root = tmp_path / "Projekt ÄÖ"
    fill(root, LAYOUTS["folders"][0], lambda: labels(0, 1))
    assert discover(root).config["name"] == "projekt_ao"


@pytest.mark.parametrize("name", ["synthetic", "2024", "null"])
def test_a_name_that_means_something_else_on_a_command_line(tmp_path, name):
    fill(tmp_path / name, LAYOUTS["folders"][0], lambda: labels(0, 1))
    assert discover(tmp_path / name).config["name"] == f"my_{name}"


def test_patterns_that_do_not_tell_images_from_masks(tmp_path):
    fill(tmp_path, LAYOUTS["folders"][0], lambda: labels(0, 1))
    with pytest.raises(InputError, match="fit the same files"):
        discover(tmp_path, "images/{name}.png", "images/{name}.png")
    with pytest.raises(InputError, match="give both patterns"):
        discover(tmp_path, mask_pattern="masks/{name}.png")
