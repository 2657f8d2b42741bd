"""Aerial scenes made by a program: something to train on without a download, with known and tunable flaws."""

from __future__ import annotations

import math
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.transform import from_origin
from scipy.ndimage import distance_transform_edt, gaussian_filter

from rsseg.contract import InputError, nearest
from rsseg.data.clouds import draw_sky
from rsseg.data.raster import new_raster
from rsseg.data.splits import SPLITS
from rsseg.files import UnwritableError, file_error, remove_parts
from rsseg.progress import progress

CLASSES = ("land", "building", "road", "field", "water")
PALETTE = ("#d8d2b8", "#d1495b", "#55555f", "#e0a92e", "#2e86ab")
LAND, BUILDING, ROAD, FIELD, WATER = range(5)

VEHICLES = ("car", "truck")

SKY = ("clouds", "shadows", "water")
"""The bands of the layer `sky`, and the layers that hold each of them alone."""

PIXEL = 0.5
"""The side of a pixel in metres."""

CRS = "EPSG:32633"

Floats = NDArray[np.float64]
Labels = NDArray[np.uint8]

# Colours overlap on purpose: asphalt and slate, concrete and flat roofs, dirt road and soil, crop and grass.
_GRASS, _SOIL, _CROWN = (104, 122, 74), (164, 146, 112), (56, 74, 46)
_WATERS = ((48, 70, 76), (66, 82, 62), (88, 98, 84))
_PAVINGS = ((122, 122, 122), (164, 160, 150), (158, 138, 108))
_CROPS = ((196, 176, 118), (92, 122, 60), (70, 98, 52), (146, 118, 90), (170, 170, 84), (124, 132, 84))
_PAINTS = ((232, 232, 230), (40, 42, 46), (150, 152, 156), (176, 44, 40), (52, 76, 140), (206, 200, 188))
_ROOFS = ((152, 82, 62), (112, 82, 66), (122, 122, 124), (84, 86, 92), (196, 192, 182), (118, 120, 88))


@dataclass(frozen=True)
class SceneRecipe:
    """What a synthetic scene is made of, and how flawed its picture and its labels are.

    Attributes:
        size: Side of the square scene in pixels, 64 to 4096.
        building_share: Share of the pixels that are building, 0 to 0.15: the class imbalance.
        road_width: Width of the roads in pixels, 2 to 16.
        blur: Sigma in pixels of the blur over the image, 0 to 8. The mask stays sharp.
        label_noise: Share of the buildings that the mask shifts by a pixel or two, drops or invents, and share of all
            borders that it draws ragged, 0 (exact) to 0.99. The image stays the same.
        noise: Standard deviation of the sensor noise in grey levels, 0 to 64.
        height_outliers: Share of the pixels of a training scene whose height is a wrong one, as laser echoes from birds, masts
            or below the ground are, 0 (exact) to 0.99. Heights of other splits are exact.
        vehicles: How many cars and trucks stand on the roads of a scene, 0 to 1000; fewer where there is no room. The mask
            shows the road below them.
        clouds: Share of the pixels with cloud, 0 to 0.6. Clouds and their shadows change the image alone.

    Example:
        >>> SceneRecipe(building_share=0.5)
        Traceback (most recent call last):
        rsseg.contract.InputError: dataset.source.recipe.building_share=0.5: a number from 0 to 0.15 is expected
    """

    size: int = 512
    building_share: float = 0.06
    road_width: int = 7
    blur: float = 0.8
    label_noise: float = 0.0
    noise: float = 4.0
    height_outliers: float = 0.0
    vehicles: int = 0
    clouds: float = 0.0

    def __post_init__(self) -> None:
        tops = {"size": 4096, "building_share": 0.15, "road_width": 16, "blur": 8, "noise": 64, "vehicles": 1000}
        tops |= {"label_noise": 0.99, "height_outliers": 0.99, "clouds": 0.6}
        for name, top in tops.items():
            low, value = {"size": 64, "road_width": 2}.get(name, 0), getattr(self, name)
            if not low <= value <= top:
                raise InputError(f"dataset.source.recipe.{name}={value}: a number from {low} to {top} is expected")


class SyntheticScene(NamedTuple):
    """A made-up scene.

    Attributes:
        image: RGB, uint8 ``[3, H, W]``.
        mask: uint8 ``[H, W]``, with the labels of `CLASSES`.
        height: float32 ``[H, W]``, how far buildings and trees stand above the ground, in metres.
        vehicles: float64 ``[N, 5]``, of each the number in `VEHICLES`, and the top, left, bottom and right of its bounding box
            in pixels.
        sky: uint8 ``[3, H, W]`` of 0 and 1, the bands of `SKY`, which overlap; None without clouds.
    """

    image: Labels
    mask: Labels
    height: NDArray[np.float32]
    vehicles: Floats
    sky: Labels | None


class _Plan(NamedTuple):
    """The map without its buildings, one array per fact."""

    ground: Labels
    road: Floats  # distance to the axis of the nearest road
    shore: Floats  # distance to the nearest water, negative inside it
    paving: NDArray[np.int64]  # of the nearest road
    parcel: NDArray[np.int64]  # a number from 0 to 4095 for each parcel
    rows: Floats  # the coordinate across the rows of a parcel
    heading: Floats  # direction of the streets in radians
    village: NDArray[np.bool_]


@dataclass(frozen=True)
class _House:
    """A rotated rectangle: centre, sides and height in pixels, angle in radians."""

    y: float
    x: float
    length: float
    width: float
    height: float
    angle: float

    def stamp(self, size: int, margin: float = 0.0) -> tuple[tuple[slice, slice], NDArray[np.bool_], Floats]:
        """The window of the scene around the house, which of its pixels are house, and how far beyond the ridge."""
        reach = int(math.hypot(self.length, self.width) / 2 + margin) + 2
        rows, cols = (slice(max(int(c) - reach, 0), min(int(c) + reach, size)) for c in (self.y, self.x))
        dy, dx = np.mgrid[rows, cols] - np.array([self.y, self.x])[:, None, None]
        along, across = (c * dx + s * dy for c, s in _turn(self.angle))
        return (rows, cols), (abs(along) <= self.length / 2 + margin) & (abs(across) <= self.width / 2 + margin), across


def generate(recipe: SceneRecipe, seed: int, index: int) -> SyntheticScene:
    """Make one scene; the same arguments always give the same scene.

    Args:
        recipe: What the scene is made of.
        seed: Which world, 0 or more.
        index: Which scene of that world, 0 or more. Every scene has its own tints and light.

    Example:
        >>> scene = generate(SceneRecipe(size=64), seed=0, index=0)
        >>> scene.image.shape, scene.mask.shape, scene.height.shape, scene.vehicles.shape
        ((3, 64, 64), (64, 64), (64, 64), (0, 5))
    """
    if seed < 0 or index < 0:
        raise InputError(f"generate: seed is {seed} and index is {index}; both must be 0 or more")
    land, paint, sensor, labels, echoes, weather, traffic = np.random.default_rng([seed, index]).spawn(7)
    plan = _draw_plan(land, recipe)
    houses = _place_houses(land, plan, recipe)
    scene, standing, sun = _paint(paint, plan, houses)
    vehicles = _park(traffic, plan, scene, recipe.vehicles)
    sky = draw_sky(weather, recipe.size, recipe.clouds, sun) if recipe.clouds else None
    scene = sky.over(scene) if sky else scene
    picture = gaussian_filter(scene, (0, recipe.blur, recipe.blur))
    picture += recipe.noise * sensor.standard_normal(picture.shape, dtype=np.float32)
    mask, heights = _label(labels, plan.ground, houses, recipe.label_noise), PIXEL * standing
    wrong = echoes.random(heights.shape) < recipe.height_outliers
    heights[wrong] = echoes.uniform(-10, 60, int(wrong.sum()))
    image, seen = picture.clip(0, 255).round().astype(np.uint8), sky.labels(plan.ground == WATER) if sky else None
    return SyntheticScene(image, mask, heights.astype(np.float32), vehicles, seen)


def write_scenes(root: Path, recipe: SceneRecipe, counts: Mapping[str, int], seed: int) -> None:
    """Write scenes as GeoTIFFs: ``root/images/train_000.tif``, its ``root/masks/train_000.tif`` and ``root/heights/...``.

    Scenes with vehicles have the bounding boxes of these beside them, in ``root/vehicles/train_000.gpkg``, with a `kind` each.
    Scenes with clouds have ``root/sky/train_000.tif`` too, with a band for each of `SKY`, and a folder for each of these alone.

    `root` appears only when complete. If it is there already, nothing happens. How many scenes one split has does not
    change those of another.

    Args:
        root: The folder to make.
        recipe: What the scenes are made of.
        counts: How many scenes each split (train, val, test) gets, up to 1000.
        seed: Which world the scenes come from.

    Raises:
        InputError: If a split has another name or number of scenes; `UnwritableError` if the folder can't be written.
    """
    for split, count in counts.items():
        if split not in SPLITS:
            raise InputError(f"write_scenes: no split '{split}'{nearest(split, SPLITS)}; there are {', '.join(SPLITS)}")
        if not 0 <= count <= 1000:
            raise InputError(f"write_scenes: {split} has {count} scenes; it must be from 0 to 1000")
    if root.exists():
        return
    remove_parts(root.parent)
    draft = root.with_name(f".{root.name}.{uuid.uuid4().hex}.part")
    todo = [(split, i) for split, count in counts.items() for i in range(count)]
    try:
        beside = ["vehicles"] * bool(recipe.vehicles) + ["sky", *SKY] * bool(recipe.clouds)
        for kind in ("images", "masks", "heights", *beside):
            (draft / kind).mkdir(parents=True)
        with progress(todo, "Making scenes") as steps:
            for split, i in steps:
                number = 1000 * SPLITS.index(split) + i
                own = recipe if split == "train" else replace(recipe, height_outliers=0)
                image, mask, height, vehicles, sky = generate(own, seed, number)
                if recipe.vehicles:
                    _write_vehicles(draft / "vehicles" / f"{split}_{i:03d}.gpkg", vehicles, _place(recipe.size, number))
                layers: dict[str, NDArray[Any]] = {"images": image, "masks": mask[None], "heights": height[None]}
                if sky is not None:
                    layers["sky"] = sky
                    layers |= {kind: band[None] for kind, band in zip(SKY, sky, strict=True)}
                for kind, bands in layers.items():
                    _write(draft / kind / f"{split}_{i:03d}.tif", bands, number)
        draft.rename(root)
    except UnwritableError as error:
        raise UnwritableError(str(error).replace(str(draft), str(root))) from None
    except OSError as error:
        if not root.exists():  # where it does, another process was faster
            raise file_error(root, error) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write(path: Path, bands: NDArray[np.generic], number: int) -> None:
    """Write a GeoTIFF of the layer that its folder is called after; `number` says where on the ground it lies."""
    count, height, width = bands.shape
    form = {
        "count": count,
        "height": height,
        "width": width,
        "dtype": bands.dtype.name,
        "crs": CRS,
        "transform": _place(width, number),
    }
    form |= {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate"}
    photometric = {"images": "RGB", "masks": "PALETTE"}.get(path.parent.name, "MINISBLACK")
    with new_raster(path, sync=False, photometric=photometric, **form) as file:
        if photometric == "PALETTE":
            file.write_colormap(1, {label: (*bytes.fromhex(tint[1:]), 255) for label, tint in enumerate(PALETTE)})
        file.write(bands)


def _place(size: int, number: int) -> Affine:
    """Where on the ground a scene lies."""
    pitch = PIXEL * size + 100  # metres: scenes do not touch
    return from_origin(300_000 + number % 100 * pitch, 5_400_000 - number // 100 * pitch, PIXEL, PIXEL)


def _write_vehicles(path: Path, vehicles: Floats, place: Affine) -> None:
    """Write the bounding boxes of vehicles as a GeoPackage."""
    import geopandas
    from shapely.affinity import affine_transform
    from shapely.geometry import box

    corners = [affine_transform(box(left, top, right, bottom), place.to_shapely()) for _, top, left, bottom, right in vehicles]
    frame = geopandas.GeoDataFrame({"kind": [VEHICLES[int(kind)] for kind in vehicles[:, 0]]}, geometry=corners, crs=CRS)
    frame.to_file(path, driver="GPKG", engine="pyogrio", geometry_type="Polygon")


def _turn(angle: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """The weights of x and y in the two coordinates of a system turned by `angle`."""
    return (math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))


def _noise(rng: np.random.Generator, size: int, scale: float) -> Floats:
    """Smooth noise of mean 0 and spread 1, with hills of about `scale` pixels."""
    knots = np.arange(-2, math.ceil(size / scale) + 3)
    weight = np.exp(-((np.arange(size)[:, None] / scale - knots) ** 2) / 0.72)
    weight /= np.linalg.norm(weight, axis=1, keepdims=True)
    return weight @ rng.standard_normal((len(knots), len(knots))) @ weight.T


def _draw_plan(rng: np.random.Generator, recipe: SceneRecipe) -> _Plan:
    """Lay a river, then streets along a warped irregular grid, then parcels in its blocks."""
    size = recipe.size
    y, x = np.mgrid[:size, :size] - size / 2
    bend = rng.uniform(0, 6.3, 4)
    s, t = (a * x + b * y for a, b in _turn(bend[3]))
    meander = 24 * np.sin(t / 75 + bend[0]) + 9 * np.sin(t / 31 + bend[1]) + rng.uniform(-0.3, 0.3) * size
    shore = abs(s - meander) - rng.uniform(5, 18) * (1 + 0.3 * np.sin(t / 47 + bend[2]))
    shore = np.minimum(shore, 30 * (1.7 - _noise(rng, size, 110)))  # ponds

    angle = rng.uniform(0, 3.2)
    axes = [a * x + b * y + rng.uniform(4, 14) * _noise(rng, size, 160) for a, b in _turn(angle)]
    cuts, near, cell, main = [], [], [], size // 120 + 3
    for axis in axes:
        marks = np.cumsum(rng.uniform(70, 190, 2 * main))
        marks += rng.uniform(-0.25, 0.25) * size - marks[main]
        cuts.append(marks)
        near.append(np.searchsorted((marks[1:] + marks[:-1]) / 2, axis))
        cell.append(np.searchsorted(marks, axis))
    road, paving = np.full(x.shape, np.inf), np.zeros(x.shape, int)
    for one, other in ((0, 1), (1, 0)):
        surface = rng.choice(4, (len(cuts[one]), len(cuts[other]) + 1), p=(0.4, 0.15, 0.15, 0.3))  # 3 is no road
        surface[main] = 0
        surface = surface[near[one], cell[other]]
        there = (surface < 3) & ((shore > 4) | (near[one] == main))  # the main road has a bridge
        distance = np.where(there, abs(axes[one] - cuts[one][near[one]]), np.inf)
        paving = np.where(distance < road, surface, paving)
        road = np.minimum(road, distance)
    blocks = (len(cuts[0]) + 1, len(cuts[1]) + 1)
    lively = _noise(rng, max(blocks), 2)[: blocks[0], : blocks[1]][cell[0], cell[1]]
    village = lively >= np.quantile(lively, 0.85 - 4 * recipe.building_share)
    lengthwise = rng.random(blocks)[cell[0], cell[1]] < 0.5
    rows = np.where(lengthwise, *axes)
    strip = rng.choice((26, 38, 55, 80, 400), blocks)[cell[0], cell[1]]
    parcel = (cell[0] * 733 + cell[1] * 149 + np.floor(rows / strip).astype(int) * 61) % 4096
    crop = (rng.random(4096) < 0.75)[parcel] & ~village & (road > recipe.road_width / 2 + 4) & (shore > 7)
    cover = {ROAD: road <= recipe.road_width / 2, WATER: shore <= 0, FIELD: crop & (rows % strip > 2)}
    ground = np.select(list(cover.values()), list(cover), LAND).astype(np.uint8)
    return _Plan(ground, road, shore, paving, parcel, rows, np.arctan2(*np.gradient(axes[0])), village)


def _place_houses(rng: np.random.Generator, plan: _Plan, recipe: SceneRecipe) -> list[_House]:
    """Build along the roads, in the villages first, until the recipe's share is reached."""
    size, left, houses = recipe.size, recipe.building_share * recipe.size**2, list[_House]()
    taken = (plan.road < recipe.road_width / 2 + 3) | (plan.shore < 5)
    spots = rng.integers(0, size, (2, size**2 // 50))
    detour = abs(plan.road[*spots] - recipe.road_width / 2 - 16) + 120 * ~plan.village[*spots]
    for y, x in spots[:, np.argsort(detour + rng.uniform(0, 50, len(detour)))].T:
        if taken[y, x] or left <= 0:
            continue
        width = rng.uniform(12, 21) if rng.random() < 0.85 else rng.uniform(24, 44)  # a house or a hall
        length = width * rng.uniform(1.1, 2)
        shrink = max(min(1, math.sqrt(left / (length * width))), 6 / width)
        angle = plan.heading[y, x] + rng.choice((0, math.pi / 2)) + rng.normal(0, 0.06)
        house = _House(y, x, length * shrink, width * shrink, rng.uniform(7, 13), angle)
        window, inside, _ = house.stamp(size, margin=4)
        if taken[window][inside].any():
            continue
        footprint = int(house.stamp(size)[1].sum())
        if rng.random() * footprint > left:  # so that shares below one small house hold on average
            break
        left -= footprint
        taken[window] |= inside
        houses.append(house)
    return houses


def _trees(rng: np.random.Generator, plan: _Plan, sun: Floats) -> tuple[Floats, Floats]:
    """Height in pixels (0 where no tree stands) and brightness of the crowns: woods, lone trees, trees by the water."""
    size = len(plan.ground)
    spots = rng.integers(0, size, (2, size**2 // 60))
    woods = _noise(rng, size, 70)[*spots] > rng.uniform(0.9, 1.7)
    bank = abs(plan.shore[*spots] - 8) < 8
    stands = np.zeros(plan.ground.shape, bool)
    stands[*spots[:, woods | (rng.random(len(bank)) < 0.05 + 0.25 * bank)]] = True
    stands[0, 0] = True
    distance, trunk = distance_transform_edt(~stands, return_indices=True)
    radius = rng.uniform(2.5, 7, stands.shape)[*trunk]
    crown = (distance < radius) & (plan.ground == LAND)
    slope = np.tensordot(sun, np.indices(stands.shape) - trunk, 1) / radius
    tone = rng.normal(1, 0.12, stands.shape)[*trunk]
    return np.where(crown, 2 * np.sqrt(np.maximum(radius**2 - distance**2, 0)), 0), tone + 0.4 * slope


def _paint(rng: np.random.Generator, plan: _Plan, houses: list[_House]) -> tuple[NDArray[np.float32], Floats, Floats]:
    """The scene in clear air, ``[3, H, W]`` in grey levels: surfaces, then trees and roofs, then shadows and light.

    Beside it the height of trees and roofs in pixels, and the direction to the sun.
    """
    size = len(plan.ground)
    rough, fine = _noise(rng, size, 60) + _noise(rng, size, 14), _noise(rng, size, 2) + rng.normal(0, 0.5, (size, size))
    grass, soil, crown, water = (_tints(rng, table, 1, 10)[0] for table in ((_GRASS,), (_SOIL,), (_CROWN,), _WATERS))
    bare = np.clip(rng.uniform(0.1, 0.7) + 0.22 * rough + 0.08 * fine, 0, 1)[..., None]
    picture = grass + (soil - grass) * bare + 5 * fine[..., None]
    field, road, wet = (plan.ground == label for label in (FIELD, ROAD, WATER))
    period, depth = rng.uniform(2.5, 7, 4096), rng.uniform(0, 11, 4096)
    parcel = plan.parcel[field]
    texture = depth[parcel] * np.sin(6.28 / period[parcel] * plan.rows[field]) + 5 * rough[field] + 3 * fine[field]
    picture[field] = _tints(rng, _CROPS, 4096, 10)[parcel] + texture[:, None]
    paved = np.concatenate([_tints(rng, (paving,), 1, 7) for paving in _PAVINGS])
    picture[road] = paved[plan.paving[road]] + 4 * fine[road, None] + 3 * rough[road, None]
    picture[wet] = water + (2 * rough[wet] + fine[wet] - 8 * np.tanh(plan.shore[wet] / 6 + 1))[:, None]

    sun, reach, dusk = np.array(_turn(rng.uniform(0, 6.28))[0]), rng.uniform(0.5, 1.3), rng.uniform(0.4, 0.6)
    light = rng.uniform(0.8, 1.15) * rng.normal(1, 0.035, 3) * (1 + 0.04 * _noise(rng, size, 200)[..., None])
    glare = rng.uniform(-5, 18)
    height, tone = _trees(rng, plan, sun)
    leafy = height > 0
    picture[leafy] = crown * tone[leafy, None] + 4 * fine[leafy, None]
    for house, tint in zip(houses, _tints(rng, _ROOFS, len(houses), 9), strict=True):
        window, inside, across = house.stamp(size)
        steep = 0.2 * (house.width < 22) * (math.cos(house.angle) * sun[0] - math.sin(house.angle) * sun[1])
        shade = 1 + steep * np.sign(across[inside]) + 0.02 * fine[window][inside]
        picture[window][inside] = tint * shade[:, None]
        height[window][inside] = house.height
    picture *= np.where(_shadow(height, sun, reach), dusk, 1)[..., None]
    scene: NDArray[np.float32] = (picture * light + glare).transpose(2, 0, 1).astype(np.float32)
    return scene, height, sun


def _park(rng: np.random.Generator, plan: _Plan, scene: NDArray[np.float32], count: int) -> Floats:
    """Draw vehicles on a scene ``[3, H, W]``, along the roads, none upon another; their kinds and boxes, ``[N, 5]``.

    A quarter of them are trucks.
    """
    size, boxes = len(plan.ground), list[tuple[float, ...]]()
    if not count:
        return np.zeros((0, 5))
    heading, free = _road_direction(plan), plan.ground == ROAD
    spots = rng.permutation(np.argwhere(free))[: 40 * count]
    for (row, column), shift in zip(spots, rng.uniform(-0.5, 0.5, spots.shape), strict=True):
        truck = rng.random() < 1 / 4
        length, width = (rng.uniform(14, 20), rng.uniform(4.6, 5.4)) if truck else (rng.uniform(8, 10), rng.uniform(3.6, 4.2))
        angle = heading[row, column] + rng.normal(0, 0.05)
        body = _House(row + shift[0], column + shift[1], length, width, 0, angle)
        window, inside, _ = body.stamp(size)
        if len(boxes) == count or not free[window][inside].all():
            continue
        around, near, _ = body.stamp(size, margin=1)
        free[around] &= ~near
        boxes.append((float(truck), *_extent(body)))
        _draw_vehicle(scene, body, _tints(rng, _PAINTS, 1, 12)[0])
    return np.array(boxes).reshape(-1, 5)


def _road_direction(plan: _Plan) -> Floats:
    """The direction of the nearest road in radians, from x to y: across the gradient of the distance to its axis."""
    down, across = np.gradient(np.where(np.isfinite(plan.road), plan.road, len(plan.road)))
    squares = (gaussian_filter(part, 4) for part in (across**2, down**2, across * down))  # of either side alike
    along, over, both = squares
    return np.arctan2(2 * both, along - over) / 2 + math.pi / 2


def _extent(body: _House) -> tuple[float, float, float, float]:
    """Top, left, bottom and right of a rotated rectangle, counted from the corner of the first pixel."""
    cosine, sine = abs(math.cos(body.angle)), abs(math.sin(body.angle))
    tall, wide = (body.length * sine + body.width * cosine) / 2, (body.length * cosine + body.width * sine) / 2
    y, x = body.y + 0.5, body.x + 0.5  # the coordinates of pixels are those of their centres
    return y - tall, x - wide, y + tall, x + wide


def _draw_vehicle(scene: NDArray[np.float32], body: _House, paint: Floats) -> None:
    """Draw a shadow, then the body, then a windscreen."""
    size, ahead = scene.shape[1], np.array([math.sin(body.angle), math.cos(body.angle)])
    glass = body.length * 0.2 * ahead
    screen = _House(body.y + glass[0], body.x + glass[1], body.length * 0.16, body.width * 0.8, 0, body.angle)
    for part, tint in ((replace(body, y=body.y + 1, x=body.x + 1), None), (body, paint), (screen, paint * 0.3)):
        window, inside, _ = part.stamp(size)
        pixels = scene[:, *window]
        pixels[:, inside] = pixels[:, inside] * 0.55 if tint is None else tint[:, None]


def _tints(rng: np.random.Generator, table: tuple[tuple[int, ...], ...], count: int, spread: float) -> Floats:
    """Draw `count` colours from a table, each a little lighter, darker or otherwise tinted than there."""
    drawn = np.array(table)[rng.integers(len(table), size=count)]
    return drawn + rng.normal(0, spread, (count, 1)) + rng.normal(0, spread / 2, (count, 3))


def _shadow(height: Floats, sun: Floats, reach: float) -> NDArray[np.bool_]:
    """Where something taller stands between a pixel and the sun; a pixel of height throws `reach` pixels of shadow."""
    size, far = len(height), 24
    padded = np.pad(height, far)
    dark = np.zeros(height.shape, bool)
    for step in range(1, math.ceil(float(np.max(height)) * reach) + 1):
        row, col = (far + np.rint(step * sun)).astype(int)
        dark |= padded[row : row + size, col : col + size] - step / reach > height
    return dark


def _label(rng: np.random.Generator, ground: Labels, houses: list[_House], flaw: float) -> Labels:
    """The mask, where a share `flaw` of the houses and of the borders is wrong."""
    size, mask = len(ground), ground.copy()
    for house in houses:
        fate = rng.choice(("shifted", "dropped", "joined")) if rng.random() < flaw else "exact"
        (dy, dx), (y, x) = rng.choice((-2, -1, 1, 2), 2), rng.integers(0, size, 2)
        drawn = [] if fate == "dropped" else [house]
        if fate == "shifted":
            drawn = [replace(house, y=house.y + dy, x=house.x + dx)]
        elif fate == "joined":  # by a house that is not there
            drawn.append(replace(house, y=y, x=x))
        for each in drawn:
            window, inside, _ = each.stamp(size)
            mask[window][inside] = BUILDING
    if flaw == 0:
        return mask
    patch = _noise(rng, size, 24)
    ragged = patch < np.quantile(patch, flaw)
    dy, dx = (np.rint(1.2 * _noise(rng, size, 3)).astype(int) * ragged for _ in range(2))
    y, x = np.indices(mask.shape)
    mask[:] = mask[(y + dy).clip(0, size - 1), (x + dx).clip(0, size - 1)]
    return mask
