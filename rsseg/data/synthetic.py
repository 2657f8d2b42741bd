"""Synthetic aerial scenes: training data without a download, with known and adjustable flaws."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter

from rsseg.contract import InputError
from rsseg.data.clouds import draw_sky
from rsseg.data.vehicles import Floats, Rectangle, draw_tints, park_vehicles, turn

CLASSES = ("land", "building", "road", "field", "water")
PALETTE = ("#d8d2b8", "#d1495b", "#55555f", "#e0a92e", "#2e86ab")
LAND, BUILDING, ROAD, FIELD, WATER = range(5)

SKY = ("clouds", "shadows", "water")  # the bands of the layer `sky`, and the layers that hold each of them alone
PIXEL = 0.5  # the side of a pixel in metres

CRS = "EPSG:32633"

LabelArray = NDArray[np.uint8]

# Colours overlap on purpose: asphalt and slate, concrete and flat roofs, dirt road and soil, crop and grass.
_GRASS, _SOIL, _CROWN = (104, 122, 74), (164, 146, 112), (56, 74, 46)
_WATERS = ((48, 70, 76), (66, 82, 62), (88, 98, 84))
_PAVINGS = ((122, 122, 122), (164, 160, 150), (158, 138, 108))
_CROPS = ((196, 176, 118), (92, 122, 60), (70, 98, 52), (146, 118, 90), (170, 170, 84), (124, 132, 84))
_ROOFS = ((152, 82, 62), (112, 82, 66), (122, 122, 124), (84, 86, 92), (196, 192, 182), (118, 120, 88))


@dataclass(frozen=True)
class SceneRecipe:
    """The composition of a synthetic scene, and the flaws of its picture and labels.

    Attributes:
        size: Side of the square scene in pixels, 64 to 4096.
        building_share: Share of the pixels that are building, 0 to 0.15: the class imbalance.
        road_width: Width of the roads in pixels, 2 to 16.
        blur: Sigma in pixels of the blur over the image, 0 to 8. The mask stays sharp.
        label_noise: Share of the buildings that the mask shifts by a pixel or two, drops or invents, and share of all
            borders that it draws ragged, 0 (exact) to 0.99. The image stays the same.
        noise: Standard deviation of the sensor noise in grey levels, 0 to 64.
        height_outliers: Share of the pixels of a training scene with a wrong height, like laser echoes from birds, masts or
            below the ground, 0 (exact) to 0.99. Heights of other splits are exact.
        vehicles: How many cars and trucks stand on the roads of a scene, 0 to 1000; fewer where there is no room. The mask
            shows the road below them.
        clouds: Share of the pixels with cloud, 0 to 0.6. Clouds and their shadows change only the image.
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
        ranges = {"size": (64, 4096), "building_share": (0, 0.15), "road_width": (2, 16), "blur": (0, 8), "noise": (0, 64)}
        ranges |= {"label_noise": (0, 0.99), "height_outliers": (0, 0.99), "vehicles": (0, 1000), "clouds": (0, 0.6)}
        for name, (low, top) in ranges.items():
            if not low <= (value := getattr(self, name)) <= top:
                raise InputError(f"dataset.source.recipe.{name}={value}: a number from {low} to {top} is expected")


class SyntheticScene(NamedTuple):
    """A made-up scene."""

    image: LabelArray  # RGB, uint8 [3, H, W]
    mask: LabelArray  # uint8 [H, W], with the labels of CLASSES
    height: NDArray[np.float32]  # [H, W], how far buildings and trees stand above the ground, in metres
    vehicles: Floats  # [N, 5], of each the number in VEHICLES, and top, left, bottom and right of its bounding box in pixels
    sky: LabelArray | None  # uint8 [3, H, W] of 0 and 1, the bands of SKY, which overlap; None without clouds


class _Plan(NamedTuple):
    """The map without its buildings, one array per fact."""

    ground: LabelArray
    road: Floats  # distance to the axis of the nearest road
    shore: Floats  # distance to the nearest water, negative inside it
    paving: NDArray[np.int64]  # of the nearest road
    parcel: NDArray[np.int64]  # a number from 0 to 4095 for each parcel
    rows: Floats  # the coordinate across the rows of a parcel
    heading: Floats  # direction of the streets in radians
    village: NDArray[np.bool_]


def generate(recipe: SceneRecipe, seed: int, index: int) -> SyntheticScene:
    """Make one scene of a world; the same arguments always give the same scene, which has its own tints and light."""
    if seed < 0 or index < 0:
        raise InputError(f"generate: seed is {seed} and index is {index}; both must be 0 or more")
    land, paint, sensor, labels, echoes, weather, traffic = np.random.default_rng([seed, index]).spawn(7)
    plan = _draw_plan(land, recipe)
    houses = _place_houses(land, plan, recipe)
    scene, standing, sun = _paint(paint, plan, houses)
    vehicles = park_vehicles(traffic, plan.ground == ROAD, plan.road, scene, recipe.vehicles)
    sky = draw_sky(weather, recipe.size, recipe.clouds, sun) if recipe.clouds else None
    scene = sky.over(scene) if sky else scene
    picture = gaussian_filter(scene, (0, recipe.blur, recipe.blur))
    picture += recipe.noise * sensor.standard_normal(picture.shape, dtype=np.float32)
    mask, heights = _label(labels, plan.ground, houses, recipe.label_noise), PIXEL * standing
    wrong = echoes.random(heights.shape) < recipe.height_outliers
    heights[wrong] = echoes.uniform(-10, 60, int(wrong.sum()))
    image, seen = picture.clip(0, 255).round().astype(np.uint8), sky.labels(plan.ground == WATER) if sky else None
    return SyntheticScene(image, mask, heights.astype(np.float32), vehicles, seen)


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
    s, t = (a * x + b * y for a, b in turn(bend[3]))
    meander = 24 * np.sin(t / 75 + bend[0]) + 9 * np.sin(t / 31 + bend[1]) + rng.uniform(-0.3, 0.3) * size
    shore = abs(s - meander) - rng.uniform(5, 18) * (1 + 0.3 * np.sin(t / 47 + bend[2]))
    shore = np.minimum(shore, 30 * (1.7 - _noise(rng, size, 110)))  # ponds

    angle = rng.uniform(0, 3.2)
    axes = [a * x + b * y + rng.uniform(4, 14) * _noise(rng, size, 160) for a, b in turn(angle)]
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


def _place_houses(rng: np.random.Generator, plan: _Plan, recipe: SceneRecipe) -> list[Rectangle]:
    """Build along the roads, in the villages first, until the recipe's share is reached."""
    size, left, houses = recipe.size, recipe.building_share * recipe.size**2, list[Rectangle]()
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
        house = Rectangle(y, x, length * shrink, width * shrink, rng.uniform(7, 13), angle)
        window, inside, _ = house.stamp(size, margin=4)
        if taken[window][inside].any():
            continue
        footprint = int(house.stamp(size)[1].sum())
        if rng.random() * footprint > left:  # so that shares below one small house are right on average
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


def _paint(rng: np.random.Generator, plan: _Plan, houses: list[Rectangle]) -> tuple[NDArray[np.float32], Floats, Floats]:
    """The scene in clear air, ``[3, H, W]`` in grey levels; the height of trees and roofs; the direction to the sun."""
    size = len(plan.ground)
    rough, fine = _noise(rng, size, 60) + _noise(rng, size, 14), _noise(rng, size, 2) + rng.normal(0, 0.5, (size, size))
    grass, soil, crown, water = (draw_tints(rng, table, 1, 10)[0] for table in ((_GRASS,), (_SOIL,), (_CROWN,), _WATERS))
    bare = np.clip(rng.uniform(0.1, 0.7) + 0.22 * rough + 0.08 * fine, 0, 1)[..., None]
    picture = grass + (soil - grass) * bare + 5 * fine[..., None]
    field, road, wet = (plan.ground == label for label in (FIELD, ROAD, WATER))
    period, depth = rng.uniform(2.5, 7, 4096), rng.uniform(0, 11, 4096)
    parcel = plan.parcel[field]
    texture = depth[parcel] * np.sin(6.28 / period[parcel] * plan.rows[field]) + 5 * rough[field] + 3 * fine[field]
    picture[field] = draw_tints(rng, _CROPS, 4096, 10)[parcel] + texture[:, None]
    paved = np.concatenate([draw_tints(rng, (paving,), 1, 7) for paving in _PAVINGS])
    picture[road] = paved[plan.paving[road]] + 4 * fine[road, None] + 3 * rough[road, None]
    picture[wet] = water + (2 * rough[wet] + fine[wet] - 8 * np.tanh(plan.shore[wet] / 6 + 1))[:, None]

    sun, reach, dusk = np.array(turn(rng.uniform(0, 6.28))[0]), rng.uniform(0.5, 1.3), rng.uniform(0.4, 0.6)
    light = rng.uniform(0.8, 1.15) * rng.normal(1, 0.035, 3) * (1 + 0.04 * _noise(rng, size, 200)[..., None])
    glare = rng.uniform(-5, 18)
    height, tone = _trees(rng, plan, sun)
    leafy = height > 0
    picture[leafy] = crown * tone[leafy, None] + 4 * fine[leafy, None]
    for house, tint in zip(houses, draw_tints(rng, _ROOFS, len(houses), 9), strict=True):
        window, inside, across = house.stamp(size)
        steep = 0.2 * (house.width < 22) * (math.cos(house.angle) * sun[0] - math.sin(house.angle) * sun[1])
        shade = 1 + steep * np.sign(across[inside]) + 0.02 * fine[window][inside]
        picture[window][inside] = tint * shade[:, None]
        height[window][inside] = house.height
    picture *= np.where(_shadow(height, sun, reach), dusk, 1)[..., None]
    scene: NDArray[np.float32] = (picture * light + glare).transpose(2, 0, 1).astype(np.float32)
    return scene, height, sun


def _shadow(height: Floats, sun: Floats, reach: float) -> NDArray[np.bool_]:
    """Bool ``[H, W]``, true in cast shadows: something h pixels tall casts a shadow ``h * reach`` pixels long."""
    size, far = len(height), 24
    padded = np.pad(height, far)
    dark = np.zeros(height.shape, bool)
    for step in range(1, math.ceil(float(np.max(height)) * reach) + 1):
        row, col = (far + np.rint(step * sun)).astype(int)
        dark |= padded[row : row + size, col : col + size] - step / reach > height
    return dark


def _label(rng: np.random.Generator, ground: LabelArray, houses: list[Rectangle], flaw: float) -> LabelArray:
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
