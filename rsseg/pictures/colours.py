"""The colours of classes: the usual ones of known names, otherwise colours that are easy to tell apart."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from rsseg.task import Regression, Task

GREY = "#808080"
"""The colour of unknown pixels."""

FOUND, WRONG, MISSED = "#1a9641", "#d6006c", "#1f6fd6"
"""The colours of objects that are found, false alarms, and missed objects."""

USUAL = {
    r"background|(?:no|not|non|none) .*": ("#000000", "#2b2b2b"),
    "shadow|schatten|ombre|sombra": ("#3b2f5e",),
    "cloud|wolken?|nuage|nuvem": ("#ffffff", "#cbb9d6"),
    "snow|ice|glacier|schnee|eis|neige|neve": ("#a8e8f5", "#d3f7f7"),
    "wetland|swamp|marsh|mangrove": ("#2f9e94", "#7cc9b2"),
    "water|river|lake|sea|ocean|pond|reservoir|canal|stream|wasser|eau|[aá]gua": ("#2f86e0", "#5cc3f2", "#123a7a"),
    "grass|meadow|pasture|rangeland|low vegetation|lawn|wiese|prairie": ("#a6d96a", "#dcf0a8"),
    "crop|field|farm|agricultur(?:e|al)|arable|acker": ("#f5d327", "#c9a516"),
    "shrub|bush|scrub": ("#8c9c3c", "#c0c47a"),
    "forest|tree|vegetation|wood|canopy|wald|b[aä]um|for[eê]t|floresta": ("#1b7837", "#5aae61", "#0b4a20"),
    "bare|barren|soil|sand|rock|desert|beach|boden|solo?": ("#9c5a1e", "#cf9d66"),
    "road|street|highway|runway|pavement|asphalt|stra(?:ss|ß)e|route|rua": ("#4f4f4f", "#b8b8b8"),
    "building|house|roof|geb[aä]ude|haus|b[aâ]timent|edif[ií]cio": ("#e0312b", "#8f1d18"),
    "urban|impervious|built|developed|city|settlement|residential|industrial": ("#b497a8", "#7d5a77"),
}
"""The usual colours of maps, by words in class names; colours after the first are for further classes of the same kind."""

FREE = (
    "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#332288", "#44aa99", "#882255", "#999933",
)  # fmt: skip
"""Colours for other names, from the palettes of Okabe and Ito and of Tol, which colour-blind people can tell apart."""

GRID = tuple("#{:02x}{:02x}{:02x}".format(*levels) for levels in product(range(34, 239, 17), repeat=3))
"""Candidates for still more names: the one furthest from all used colours is taken."""

APART = 60.0
"""The least `_distance` between two colours of a legend; black and white are 765 apart."""


def colours(task: Task, palette: Sequence[str] | None) -> list[str]:
    """One "#rrggbb" colour per value of a drawn mask: the palette's, else chosen by the names of the classes.

    Example:
        >>> from rsseg.task import Multiclass
        >>> colours(Multiclass(("buildings", "water_body")), None)
        ['#e0312b', '#2f86e0']
    """
    errors = (WRONG, MISSED, FOUND) if len(task.error_names) > 2 else ()
    return task.shades(palette) if palette else list(_chosen(task.drawn_names, (GREY, *errors)))


@cache
def _chosen(names: tuple[str, ...], taken: tuple[str, ...]) -> tuple[str, ...]:
    """A colour for each name, at least `APART` from the others and from `taken` ones while such colours are left."""
    used, found = list(taken), dict[int, str]()
    near = _distance(GRID, used)  # each colour's distance from the used ones
    shortest = sorted(range(len(names)), key=lambda i: len(names[i]))  # "cloud" before "thin cloud"
    for i, usual in [*((i, True) for i in shortest), *((i, False) for i in range(len(names)))]:
        wanted = usual_colours(names[i]) if usual else FREE
        free = [colour for colour in wanted if _distance([colour], used)[0] >= APART]
        if i in found or (usual and not free):
            continue
        found[i] = free[0] if free else GRID[int(near.argmax())]
        used.append(found[i])
        near = np.minimum(near, _distance(GRID, used[-1:]))
    return tuple(found[i] for i in range(len(names)))


def usual_colours(name: str) -> tuple[str, ...]:
    """The colours of `USUAL` for the last known word of a name, such as "shadow" in "cloud shadow"; empty if none is known.

    Example:
        >>> usual_colours("cloud_shadows"), usual_colours("broadcast")
        (('#3b2f5e',), ())
    """
    text = re.sub(r"[\W\d_]+", " ", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)).lower().strip()
    found = {}
    for words, shades in USUAL.items():
        for match in re.finditer(rf"\b(?:{words})(?:e?s|ed|body|bodies|lands?|cover(?:ed)?)?\b", text):
            found[match.end(), -match.start()] = shades
    return found[max(found)] if found else ()


def errors_shown(task: Task) -> str:
    """A description of the way in which errors are drawn over an image."""
    if isinstance(task, Regression):
        return "prediction minus target"
    if len(task.error_names) > 2:
        return "the image, and over it false alarms in magenta and missed pixels in blue"
    return "the image where labels are right, and where they are wrong the colour of the predicted class"


def as_rgb(colours: Sequence[str]) -> NDArray[np.uint8]:
    """Colours "#rrggbb" as uint8 ``[N, 3]``."""
    return np.array([list(bytes.fromhex(colour[1:7])) for colour in colours], np.uint8).reshape(-1, 3)


def _distance(some: Sequence[str], others: Sequence[str]) -> NDArray[np.float64]:
    """Each colour's perceptual distance to the nearest of the others (https://www.compuphase.com/cmetric.htm)."""
    one, other = as_rgb(some)[:, None].astype(float), as_rgb(others).astype(float)
    red = (one + other)[..., 0] / 512
    weights = np.stack([2 + red, np.full_like(red, 4.0), 3 - red], axis=-1)
    return np.asarray(np.sqrt((weights * (one - other) ** 2).sum(axis=-1)).min(axis=1))


def paint(mask: NDArray[np.uint8], palette: Sequence[str]) -> NDArray[np.uint8]:
    """Colours of a drawn mask, uint8 ``[H, W, 3]``; grey where nothing is known."""
    table = np.repeat(as_rgb([GREY]), 256, axis=0)
    table[: len(palette)] = as_rgb(palette)
    return table[mask]
