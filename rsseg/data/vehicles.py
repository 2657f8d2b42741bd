"""Vehicles on the roads of a made-up scene, and rectangles in any direction, which houses are too."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Floats = NDArray[np.float64]

VEHICLES = ("car", "truck")

_PAINTS = ((232, 232, 230), (40, 42, 46), (150, 152, 156), (176, 44, 40), (52, 76, 140), (206, 200, 188))


@dataclass(frozen=True)
class Rectangle:
    """A rotated rectangle: centre, sides and height in pixels, angle in radians."""

    y: float
    x: float
    length: float
    width: float
    height: float
    angle: float

    def stamp(self, size: int, margin: float = 0.0) -> tuple[tuple[slice, slice], NDArray[np.bool_], Floats]:
        """The scene's window around the rectangle; bool, true for pixels inside; their signed distance from its long axis."""
        reach = int(math.hypot(self.length, self.width) / 2 + margin) + 2
        rows, cols = (slice(max(int(c) - reach, 0), min(int(c) + reach, size)) for c in (self.y, self.x))
        dy, dx = np.mgrid[rows, cols] - np.array([self.y, self.x])[:, None, None]
        along, across = (c * dx + s * dy for c, s in turn(self.angle))
        return (rows, cols), (abs(along) <= self.length / 2 + margin) & (abs(across) <= self.width / 2 + margin), across


def turn(angle: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """The weights of x and y in the two coordinates of a system turned by `angle`."""
    return (math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))


def draw_tints(rng: np.random.Generator, table: tuple[tuple[int, ...], ...], count: int, spread: float) -> Floats:
    """Draw `count` colours from a table, each a little lighter, darker or otherwise tinted than there."""
    drawn = np.array(table)[rng.integers(len(table), size=count)]
    return drawn + rng.normal(0, spread, (count, 1)) + rng.normal(0, spread / 2, (count, 3))


def park_vehicles(
    rng: np.random.Generator, roads: NDArray[np.bool_], axis: Floats, scene: NDArray[np.float32], count: int
) -> Floats:
    """Draw vehicles on a scene ``[3, H, W]`` along the roads, without overlaps; returns kinds and boxes, ``[N, 5]``."""
    size, boxes = len(roads), list[tuple[float, ...]]()
    if not count:
        return np.zeros((0, 5))
    heading, free = _road_direction(axis), roads.copy()
    spots = rng.permutation(np.argwhere(free))[: 40 * count]
    for (row, column), shift in zip(spots, rng.uniform(-0.5, 0.5, spots.shape), strict=True):
        truck = rng.random() < 1 / 4
        length, width = (rng.uniform(14, 20), rng.uniform(4.6, 5.4)) if truck else (rng.uniform(8, 10), rng.uniform(3.6, 4.2))
        angle = heading[row, column] + rng.normal(0, 0.05)
        body = Rectangle(row + shift[0], column + shift[1], length, width, 0, angle)
        window, inside, _ = body.stamp(size)
        if len(boxes) == count or not free[window][inside].all():
            continue
        around, near, _ = body.stamp(size, margin=1)
        free[around] &= ~near
        boxes.append((float(truck), *_extent(body)))
        _draw_vehicle(scene, body, draw_tints(rng, _PAINTS, 1, 12)[0])
    return np.array(boxes).reshape(-1, 5)


def _road_direction(axis: Floats) -> Floats:
    """The direction of the nearest road in radians, from x to y: across the gradient of the distance to its axis."""
    down, across = np.gradient(np.where(np.isfinite(axis), axis, len(axis)))
    squares = (gaussian_filter(part, 4) for part in (across**2, down**2, across * down))  # equal on both sides of the axis
    along, over, both = squares
    return np.arctan2(2 * both, along - over) / 2 + math.pi / 2


def _extent(body: Rectangle) -> tuple[float, float, float, float]:
    """Top, left, bottom and right of a rotated rectangle, counted from the corner of the first pixel."""
    cosine, sine = abs(math.cos(body.angle)), abs(math.sin(body.angle))
    tall, wide = (body.length * sine + body.width * cosine) / 2, (body.length * cosine + body.width * sine) / 2
    y, x = body.y + 0.5, body.x + 0.5  # the coordinates of pixels are those of their centres
    return y - tall, x - wide, y + tall, x + wide


def _draw_vehicle(scene: NDArray[np.float32], body: Rectangle, paint: Floats) -> None:
    """Draw a shadow, then the body, then a windscreen."""
    size, ahead = scene.shape[1], np.array([math.sin(body.angle), math.cos(body.angle)])
    glass = body.length * 0.2 * ahead
    screen = Rectangle(body.y + glass[0], body.x + glass[1], body.length * 0.16, body.width * 0.8, 0, body.angle)
    for part, tint in ((replace(body, y=body.y + 1, x=body.x + 1), None), (body, paint), (screen, paint * 0.3)):
        window, inside, _ = part.stamp(size)
        pixels = scene[:, *window]
        pixels[:, inside] = pixels[:, inside] * 0.55 if tint is None else tint[:, None]
