"""Tiny copies of the shipped datasets in their published layouts, with random pixels."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import geopandas
import numpy as np
import pandas as pd
from omegaconf import OmegaConf
from PIL import Image
from rasterio.transform import array_bounds, from_origin
from rasterio.warp import calculate_default_transform, reproject
from shapely.geometry import LineString, box, mapping
from tiny import CONFIGS, checker, coloured, write_tif

SIZE = 96


def facts(name: str) -> dict:
    """What a dataset's YAML says of its masks and bands."""
    return OmegaConf.to_container(OmegaConf.load(CONFIGS / "dataset" / f"{name}.yaml"))


def facts_of_experiment(name: str) -> str:
    """The dataset of an experiment."""
    defaults = OmegaConf.load(CONFIGS / "experiment" / f"{name}.yaml").defaults
    return str(next(entry["override /dataset"] for entry in defaults if "override /dataset" in entry))


def pixels(rng: np.random.Generator, name: str) -> tuple[np.ndarray, np.ndarray]:
    """An image ``[bands, H, W]`` and a mask ``[H, W]`` (of colours: ``[H, W, 3]``) with its values."""
    known = facts(name)
    values = [v[0] if isinstance(v, list) else v for v in known["mask_values"]] + known["ignore_values"]
    labels = checker(rng, SIZE, len(values))
    image = coloured(rng, labels, len(known["bands"]))
    if isinstance(values[0], str):
        return image, np.array([[int(v[i : i + 2], 16) for i in (1, 3, 5)] for v in values], np.uint8)[labels]
    return image, np.array(values, np.int16)[labels]


def save(path: Path, array: np.ndarray) -> None:
    """Write ``[H, W]`` or ``[H, W, 3]`` as PNG, JPEG or JPEG 2000 (without loss)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.astype(np.uint8)).save(path)


class Samples(NamedTuple):
    """torchgeo's dataset of the same files, whose samples have to be equal."""

    kind: str  # its class
    labels: Sequence[int]  # its label for each of rsseg's
    ignored: int | None = None  # its label of ignored pixels
    splits: Sequence[str] = ("train", "val", "test")  # those that it has
    arguments: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Layout:
    """What writes a tiny copy of a dataset below a folder, and what is to be found there.

    Attributes:
        train: The names of the training scenes.
        val: Those of the validation scenes.
        test: Patterns of the files that many copies lack, since they are published apart; empty if no part can be missing.
        groups: Some of the groups of these scenes; empty if every scene is a group of its own.
    """

    write: Callable[[Path, np.random.Generator], None]
    train: list[str]
    val: list[str]
    test: list[str]
    groups: set[str] = field(default_factory=set)
    torchgeo: Samples | None = None

    def __call__(self, root: Path, rng: np.random.Generator) -> None:
        self.write(root, rng)


LAYOUTS: dict[str, Layout] = {}
"""Layouts with one mask for each image."""
BURNT: dict[str, Layout] = {}
"""Layouts with vectors that become masks."""
OBJECTS: dict[str, Layout] = {}
"""Layouts of objects."""
SEVERAL: dict[str, Layout] = {}
"""Layouts with several targets."""


def layout(among: dict[str, Layout] = LAYOUTS, **facts: Any) -> Callable[[Callable[[Path, np.random.Generator], None]], Layout]:
    """The function's name is that of the dataset; the facts are those of `Layout`."""

    def listed(write: Callable[[Path, np.random.Generator], None]) -> Layout:
        among[write.__name__] = Layout(write, **facts)
        return among[write.__name__]

    return listed


@layout(
    train=["M-33_0", "M-33_1"],
    val=["M-34_2"],
    test=["output/M-34_3*", "test.txt"],
    groups={"M-33", "M-34"},
    torchgeo=Samples("LandCoverAI", range(5)),
)
def landcoverai(root: Path, rng: np.random.Generator) -> None:
    for split, chips in {"train": ["M-33_0", "M-33_1"], "val": ["M-34_2"], "test": ["M-34_3"]}.items():
        for chip in chips:
            image, mask = pixels(rng, "landcoverai")
            save(root / f"output/{chip}.jpg", image.transpose(1, 2, 0))
            save(root / f"output/{chip}_m.png", mask)
        (root / f"{split}.txt").write_text("\n".join(chips) + "\n")


@layout(
    train=["Train-Rural-1", "Train-Urban-0"],
    val=["Val-Rural-3", "Val-Urban-2"],
    test=["Test"],
    groups={"Train-Rural", "Val-Urban"},
    torchgeo=Samples("LoveDA", range(1, 8), 0),
)
def loveda(root: Path, rng: np.random.Generator) -> None:
    number = 0
    for split in ("Train", "Val", "Test"):
        for area in ("Urban", "Rural"):
            image, mask = pixels(rng, "loveda")
            save(root / f"{split}/{area}/images_png/{number}.png", image.transpose(1, 2, 0))
            if split != "Test":
                save(root / f"{split}/{area}/masks_png/{number}.png", mask)
            number += 1


@layout(
    train=["2_10", "3_10"],
    val=["2_11"],
    test=["top_potsdam_2_13_label.tif", "4_Ortho_RGBIR/top_potsdam_2_13_RGBIR.tif"],
    torchgeo=Samples("Potsdam2D", range(6), splits=("train", "test")),
)
def potsdam(root: Path, rng: np.random.Generator) -> None:
    for tile in ("2_10", "3_10", "2_11", "2_13"):
        image, mask = pixels(rng, "potsdam")
        write_tif(root / f"4_Ortho_RGBIR/top_potsdam_{tile}_RGBIR.tif", image)
        write_tif(root / f"top_potsdam_{tile}_label.tif", mask.transpose(2, 0, 1))


@layout(
    train=["area1", "area3"],
    val=["area11"],
    test=["top/*_area2.tif", "top_mosaic_09cm_area2.tif"],
    torchgeo=Samples("Vaihingen2D", range(6), splits=("train", "test")),
)
def vaihingen(root: Path, rng: np.random.Generator) -> None:
    for area in (1, 3, 11, 2):
        image, mask = pixels(rng, "vaihingen")
        write_tif(root / f"top/top_mosaic_09cm_area{area}.tif", image)
        write_tif(root / f"top_mosaic_09cm_area{area}.tif", mask.transpose(2, 0, 1))


@layout(
    train=["training-2", "training-3"],
    val=["training-11"],
    test=["data/test_data"],
    torchgeo=Samples("DeepGlobeLandCover", range(6), 6, splits=("train", "test")),
)
def deepglobe(root: Path, rng: np.random.Generator) -> None:
    for part, numbers in {"training": [2, 3, 11], "test": [8]}.items():
        for number in numbers:
            image, mask = pixels(rng, "deepglobe")
            save(root / f"data/{part}_data/images/{number}_sat.jpg", image.transpose(1, 2, 0))
            save(root / f"data/{part}_data/masks/{number}_mask.png", mask)


@layout(
    train=["train-GF2_train1-MSS1", "train-GF2_train2-MSS1"],
    val=["val-GF2_val1-MSS1", "val-GF2_val2-MSS1"],
    test=["GID/img_dir/test"],
    torchgeo=Samples("GID15", range(1, 16), 0),
)
def gid15(root: Path, rng: np.random.Generator) -> None:
    for part in ("train", "val", "test"):
        for number in (1, 2):
            image, mask = pixels(rng, "gid15")
            write_tif(root / f"GID/img_dir/{part}/GF2_{part}{number}-MSS1.tif", image)
            if part != "test":
                save(root / f"GID/ann_dir/{part}/GF2_{part}{number}-MSS1_15label.png", mask)


@layout(
    train=["water-LC80420082013221LGN01", "water-LC80420082013222LGN01"],
    val=["barren-LC80420082013222LGN00"],
    test=[],
)
def l8biome(root: Path, rng: np.random.Generator) -> None:
    for biome in ("barren", "water"):
        for number in (1, 2):
            image, mask = pixels(rng, "l8biome")
            scene = f"LC8042008201322{number}LGN0{'01'[biome == 'water']}"
            image = image.astype(np.uint16) * 200
            write_tif(root / f"l8biome/{biome}/{scene}/{scene}.TIF", image)
            write_tif(root / f"l8biome/{biome}/{scene}/{scene}_fixedmask.TIF", mask[None].astype(np.uint8))


@layout(
    train=["Ghana_3", "Ghana_4"],
    val=["Spain_15"],
    test=["data/flood_events/HandLabeled/*/Ghana_7_*", "splits/flood_handlabeled/flood_test_data.csv"],
    groups={"Ghana", "Spain"},
)
def sen1floods11(root: Path, rng: np.random.Generator) -> None:
    """Lists name the radar image and the label of each chip, and stand apart from both."""
    lists = {"train": ["Ghana_3", "Ghana_4"], "valid": ["Spain_15"], "test": ["Ghana_7"], "bolivia": ["Bolivia_1"]}
    for split, chips in lists.items():
        for chip in chips:
            image, mask = pixels(rng, "sen1floods11")
            write_tif(root / f"data/flood_events/HandLabeled/S2Hand/{chip}_S2Hand.tif", image.astype(np.int16) * 20)
            write_tif(root / f"data/flood_events/HandLabeled/LabelHand/{chip}_LabelHand.tif", mask[None])
        place = root / f"splits/flood_handlabeled/flood_{split}_data.csv"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("".join(f"{chip}_S1Hand.tif,{chip}_LabelHand.tif\n" for chip in chips))


@layout(
    train=["ROI_00000__20200422T141729_20200422T142243_T19GDN", "ROI_00001__20200422T141729_20200422T142243_T19GDN"],
    val=["ROI_00002__20200422T141729_20200422T142243_T19GDN"],
    test=["cloud_s2/*/ROI_00003*", "cloud_s2/test.csv"],
    groups={"ROI_00000", "ROI_00002"},
    torchgeo=Samples("CopernicusBenchCloudS2", range(4)),
)
def cloudsen12(root: Path, rng: np.random.Generator) -> None:
    for number, split in enumerate(["train", "train", "val", "test"]):
        scene = f"ROI_0000{number}__20200422T141729_20200422T142243_T19GDN"
        image, mask = pixels(rng, "cloudsen12")
        write_tif(root / f"cloud_s2/s2_toa/{scene}.tif", image.astype(np.uint16) * 40)
        write_tif(root / f"cloud_s2/cloud/{scene}.tif", mask[None].astype(np.uint8))
        with (root / f"cloud_s2/{split}.csv").open("a") as file:
            file.write(f"{scene}\n")


@layout(
    train=["aachen_1", "al_qurnah_12"],
    val=["aachen_11"],
    test=["OpenEarthMap_wo_xBD/aachen/*/aachen_2.tif", "OpenEarthMap_wo_xBD/test.txt"],
    groups={"aachen", "al_qurnah"},
)
def openearthmap(root: Path, rng: np.random.Generator) -> None:
    """Regions in folders; the lists name a file of xBD whose image is not there."""
    tiles = {"train": ["aachen_1.tif", "al_qurnah_12.tif", "joplin_14.tif"], "val": ["aachen_11.tif"], "test": ["aachen_2.tif"]}
    for split, names in tiles.items():
        for name in names:
            region = name.rpartition("_")[0]
            image, mask = pixels(rng, "openearthmap")
            write_tif(root / f"OpenEarthMap_wo_xBD/{region}/labels/{name}", mask[None].astype(np.uint8))
            if region != "joplin":
                write_tif(root / f"OpenEarthMap_wo_xBD/{region}/images/{name}", image)
        (root / f"OpenEarthMap_wo_xBD/{split}.txt").write_text("\n".join(names) + "\n")


@layout(
    train=["austria-g_0", "austria-g_1", "kenya-g_0", "kenya-g_1"],
    val=["austria-g_2", "kenya-g_2"],
    test=["*/*/*/g_3.tif"],
    groups={"austria", "kenya"},
    torchgeo=Samples("FieldsOfTheWorld", range(2), 3, arguments={"countries": ["austria", "kenya"]}),
)
def ftw(root: Path, rng: np.random.Generator) -> None:
    """Chips of two countries, some of one name; one lacks the image of a window."""
    for country, last in (("austria", 3), ("kenya", 4)):
        for chip in range(last + 1):
            image, mask = pixels(rng, "ftw")
            for window, bands in {"a": image[4:], "b": image[:4]}.items():
                if (country, chip, window) != ("kenya", 4, "a"):
                    write_tif(root / f"{country}/s2_images/window_{window}/g_{chip}.tif", bands.astype(np.uint16) * 9)
            edged = np.where(mask == 1, checker(rng, SIZE, 2) + 1, mask)
            for kind, labels in {"semantic_2class": mask, "semantic_3class": edged}.items():
                write_tif(root / f"{country}/label_masks/{kind}/g_{chip}.tif", labels[None].astype(np.uint8), nodata=0)
        splits = ["train", "train", "val", "test", "train"][: last + 1]
        table = pd.DataFrame({"aoi_id": [f"g_{chip}" for chip in range(last + 1)], "split": splits})
        table.to_parquet(root / country / f"chips_{country}.parquet")


@layout(
    train=["tier3-sunda-tsunami-3", "train-joplin-tornado-1", "train-mexico-earthquake-2"],
    val=["test-mexico-earthquake-4"],
    test=["hold"],
    groups={"joplin-tornado", "mexico-earthquake", "sunda-tsunami"},
)
def xbd(root: Path, rng: np.random.Generator) -> None:
    """Pairs in a folder for each part of the challenge; buildings are labelled 1 before the disaster."""
    pairs = {"train": ["joplin-tornado_1", "mexico-earthquake_2"], "tier3": ["sunda-tsunami_3"]}
    pairs |= {"test": ["mexico-earthquake_4"], "hold": ["mexico-earthquake_5"]}
    for part, names in pairs.items():
        for name in names:
            image, mask = pixels(rng, "xbd")
            for date, bands in {"pre": image[:3], "post": image[3:]}.items():
                save(root / f"{part}/images/{name}_{date}_disaster.png", bands.transpose(1, 2, 0))
            save(root / f"{part}/targets/{name}_pre_disaster_target.png", np.minimum(mask, 1))
            save(root / f"{part}/targets/{name}_post_disaster_target.png", mask)


CITIES = ("2_Vegas", "3_Paris", "4_Shanghai", "5_Khartoum")
"""Of SpaceNet 2 and 3."""


def city_grid(city: str, number: int) -> dict:
    """Where an image of a SpaceNet city lies: longitude and latitude, pixels of about 0.3 m."""
    place = dict(zip(CITIES, [(-115.2, 36.2), (2.3, 48.9), (121.5, 31.2), (32.5, 15.6)], strict=True))[city]
    return {"crs": "EPSG:4326", "transform": from_origin(place[0] + 0.01 * number, place[1], 2.7e-6, 2.7e-6)}


def write_geojson(path: Path, shapes: list) -> None:
    """Write features as SpaceNet does: longitude and latitude, and a file for chips without any."""
    path.parent.mkdir(parents=True, exist_ok=True)
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}}
    features = [{"type": "Feature", "properties": {"id": i}, "geometry": mapping(s)} for i, s in enumerate(shapes)]
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}))


@layout(
    train=["2_Vegas-1", "2_Vegas-2", "4_Shanghai-1", "4_Shanghai-2"],
    val=["3_Paris-1", "3_Paris-2"],
    test=["AOI_5_Khartoum_Train"],
    groups={"2_Vegas", "3_Paris"},
    among=BURNT,
)
def spacenet2(root: Path, rng: np.random.Generator) -> None:
    """Footprints in a file for each image; one image has none."""
    for city in CITIES:
        for number in (1, 2):
            folder, name, grid = root / f"AOI_{city}_Train", f"AOI_{city}_img{number}", city_grid(city, number)
            image = coloured(rng, checker(rng, SIZE, 2), 3).astype(np.uint16) * 4
            write_tif(folder / f"RGB-PanSharpen/RGB-PanSharpen_{name}.tif", image, **grid)
            corners = [[grid["transform"] * (c, r) for c, r in rng.uniform(0, 60, (2, 2)).tolist()] for _ in range(3)]
            houses = [box(x, y - 20 * 2.7e-6, x + 30 * 2.7e-6, y) for pair in corners for x, y in pair]
            empty = (city, number) == ("2_Vegas", 2)
            write_geojson(folder / f"geojson/buildings/buildings_{name}.geojson", [] if empty else houses)


@layout(
    train=["2_Vegas-1", "2_Vegas-2", "2_Vegas-3", "4_Shanghai-1", "4_Shanghai-2"],
    val=["3_Paris-1", "3_Paris-2", "3_Paris-3"],
    test=["AOI_5_Khartoum"],
    groups={"2_Vegas", "3_Paris"},
    among=BURNT,
)
def spacenet3(root: Path, rng: np.random.Generator) -> None:
    """Centre lines in a file for each image; one image has no file."""
    for city in CITIES:
        for number in (1, 2, 3):
            folder, start = root / f"AOI_{city}", f"SN3_roads_train_AOI_{city}"
            grid = city_grid(city, number)
            image = coloured(rng, checker(rng, SIZE, 2), 3).astype(np.uint16) * 4
            write_tif(folder / f"PS-RGB/{start}_PS-RGB_img{number}.tif", image, **grid)
            ends = [[grid["transform"] * tuple(end) for end in rng.uniform(-20, 116, (2, 2)).tolist()] for _ in range(2)]
            if (city, number) != ("4_Shanghai", 3):
                roads = [LineString(pair) for pair in ends]
                write_geojson(folder / f"geojson_roads/{start}_geojson_roads_img{number}.geojson", roads)


@layout(
    train=["austin36", "austin6", "tyrol-w36", "tyrol-w6"],
    val=["austin1", "austin5", "tyrol-w1", "tyrol-w5"],
    test=["AerialImageDataset/test"],
    groups={"austin", "tyrol-w"},
    torchgeo=Samples("InriaAerialImageLabeling", range(2)),
)
def inria(root: Path, rng: np.random.Generator) -> None:
    for city in ("austin", "tyrol-w"):
        for number in (1, 5, 6, 36):
            image, mask = pixels(rng, "inria")
            write_tif(root / f"AerialImageDataset/train/images/{city}{number}.tif", image)
            write_tif(root / f"AerialImageDataset/train/gt/{city}{number}.tif", mask[None].astype(np.uint8))
        write_tif(root / f"AerialImageDataset/test/images/bellingham{number}.tif", pixels(rng, "inria")[0])


@layout(
    train=["train_1", "train_2"],
    val=["val_1"],
    test=["*/test_*"],
    torchgeo=Samples("LEVIRCD", range(2)),
)
def levircd(root: Path, rng: np.random.Generator) -> None:
    for part, numbers in {"train": [1, 2], "val": [1], "test": [1]}.items():
        for number in numbers:
            image, mask = pixels(rng, "levircd")
            for date, bands in {"A": image[:3], "B": image[3:]}.items():
                save(root / date / f"{part}_{number}.png", bands.transpose(1, 2, 0))
            save(root / "label" / f"{part}_{number}.png", mask)


@layout(
    train=["MLBS-1", "MLBS-4", "OSBS-1", "OSBS-2", "OSBS-3", "OSBS-4"],
    val=["MLBS-2", "MLBS-3"],
    test=[],
    among=OBJECTS,
)
def idtrees(root: Path, rng: np.random.Generator) -> None:
    """Plots of 20 m, the crowns of a site in one Shapefile, and tables that say which crown is on which plot."""
    names = []
    for site in ("MLBS", "OSBS"):
        rows = []
        for plot in range(1, 5):
            place = from_origin(540_000 + 300 * plot, 4_137_000, 0.1, 0.1)
            write_tif(root / f"train/RemoteSensing/RGB/{site}_{plot}.tif", coloured(rng, checker(rng, 200, 2)), transform=place)
            for left, down in rng.uniform(0, 15, (3, 2)).tolist():
                width, height = rng.uniform(2, 5, 2).tolist()
                top, number = 4_137_000 - down, len(rows)
                crown = box(540_000 + 300 * plot + left, top - height, 540_000 + 300 * plot + left + width, top)
                rows.append({"id": f"{site}{number}", "indvdID": f"NEON.{site}{number}", "geometry": crown})
                names.append(f"NEON.{site}{number},{site}_{plot}.tif,{site}{number}")
        (root / "train/ITC").mkdir(parents=True, exist_ok=True)
        geopandas.GeoDataFrame(rows, crs="EPSG:32633").to_file(root / f"train/ITC/train_{site}.shp")
    (root / "train/Field").mkdir()
    (root / "train/Field/itc_rsFile.csv").write_text("\n".join(["indvdID,rsFile,id", *names]) + "\n")
    species = [f"{name.partition(',')[0]},ACRU" for name in names]
    (root / "train/Field/train_data.csv").write_text("\n".join(["indvdID,taxonID", *species]) + "\n")


@layout(
    train=["aachen-32360-5655", "essen-32360-5655"],
    val=["bonn-32360-5655", "hamm-32360-5655", "kleve-32360-5655", "siegen-32360-5655"],
    test=["neuss"],
    groups={"aachen", "bonn"},
    among=SEVERAL,
)
def geonrw(root: Path, rng: np.random.Generator) -> None:
    """Tiles in a folder for each city: a photograph, land cover with some pixels of no class, and elevations."""
    for city in ("aachen", "essen", "bonn", "hamm", "kleve", "siegen", "neuss"):
        cover = checker(rng, SIZE, 11)
        image, start = coloured(rng, cover // 3), root / city / "32360_5655"
        save(start.with_name(f"{start.name}_rgb.jp2"), image.transpose(1, 2, 0))
        write_tif(start.with_name(f"{start.name}_seg.tif"), cover[None])
        elevation = (60 + image[:1] / 4 + rng.normal(size=image[:1].shape)).astype(np.float32)
        write_tif(start.with_name(f"{start.name}_dem.tif"), elevation, nodata=-9999)


def own_scenes(root: Path, rng: np.random.Generator) -> Path:
    """Scenes as `dataset=geotiff` may get them: masks in another CRS, a second sensor with larger pixels, one vector file."""
    rows = []
    for i, place in enumerate(["north", "south", "east", "west", "hill", "shore"]):
        labels = checker(rng, SIZE, 2)
        grid = {"crs": "EPSG:32633", "transform": from_origin(500000 + i * 2000, 4000000, 10, 10)}
        write_tif(root / f"images/{place}.tif", coloured(rng, labels, 5).astype(np.int16) * 20, **grid)
        radar = from_origin(500000 + i * 2000, 4000000, 20, 20)
        write_tif(
            root / f"radar/{place}.tif", rng.normal(size=(2, 48, 48)).astype(np.float32), crs="EPSG:32633", transform=radar
        )
        bounds = array_bounds(SIZE, SIZE, grid["transform"])
        transform, width, height = calculate_default_transform(grid["crs"], "EPSG:3857", SIZE, SIZE, *bounds)
        ours = {"src_transform": grid["transform"], "src_crs": grid["crs"]}
        theirs = {"dst_transform": transform, "dst_crs": "EPSG:3857"}
        warped, _ = reproject(labels.astype(np.int16), np.full((height, width), -1, np.int16), **ours, **theirs, dst_nodata=-1)
        write_tif(root / f"masks/{place}.tif", warped[None], crs="EPSG:3857", transform=transform)
        for j, kind in enumerate(["house", "road", "unclear"]):
            left, top = 500000 + i * 2000 + 50 + 300 * j, 4000000 - 100 * (j + 1)
            rows.append({"kind": kind, "geometry": box(left, top - 400, left + 200, top)})
    geopandas.GeoDataFrame(rows, crs="EPSG:32633").to_crs("EPSG:4326").to_file(root / "map.gpkg")
    return root


SEVERAL["l8biome_tasks"] = LAYOUTS["l8biome"]


def every() -> dict[str, Layout]:
    """All layouts, by the name of their dataset."""
    return LAYOUTS | BURNT | OBJECTS | SEVERAL


def without_test_part(folder: Path, name: str) -> Path:
    """Remove what many copies of a dataset lack."""
    for pattern in every()[name].test:
        found = list(folder.glob(pattern))
        assert found, pattern
        for path in found:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder


def write(root: Path, name: str, seed: int = 0) -> Path:
    """Write a tiny copy of a dataset below a folder of its name, whose path has digits in it, and return that folder."""
    folder = root / "disk1" / name
    every()[name](folder, np.random.default_rng(seed))
    return folder
