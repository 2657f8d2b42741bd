"""Classes have the colours that people expect of them, and never two that look alike."""

import colorsys
import itertools

import kornia
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from rsseg.pictures.colours import FOUND, GREY, MISSED, WRONG, colours, usual_colours
from rsseg.task import Binary, Centres, Multiclass, Multilabel


def hue(colour):
    return colorsys.rgb_to_hsv(*to_rgb(colour))


def is_a(kind, colour):
    """Whether a colour is what people call it: by hue in degrees, saturation and value."""
    degrees, saturation, value = hue(colour)[0] * 360, *hue(colour)[1:]
    return {
        "blue": 190 < degrees < 250 and saturation > 0.3,
        "green": 70 < degrees < 170 and saturation > 0.3 and value < 0.7,
        "light green": 65 < degrees < 170 and value > 0.7,
        "red": (degrees < 15 or degrees > 345) and saturation > 0.5,
        "grey": saturation < 0.1 and 0.1 < value < 0.9,
        "brown": 15 < degrees < 45 and value < 0.85,
        "yellow": 42 < degrees < 65 and saturation > 0.6,
        "cyan": 170 < degrees < 200 and value > 0.85,
        "white": saturation < 0.05 and value > 0.95,
        "dark": value < 0.45,
        "black": value == 0,
    }[kind]


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("blue", ["water", "Water", "water_body", "open water", "waterBodies", "river", "lakes", "Wasser", "água", "eau"]),
        ("green", ["forest", "trees", "Tree", "vegetation", "woodland", "Wald", "forêt", "street tree"]),
        ("light green", ["grass", "meadow", "low vegetation", "low_vegetation", "grassland", "pastures"]),
        ("red", ["building", "buildings", "Building2", "houses", "Gebäude", "bâtiments"]),
        ("grey", ["road", "roads", "forest road", "Straße"]),
        ("brown", ["bare", "bare soil", "barren land", "sand"]),
        ("yellow", ["crop", "cropland", "fields", "agricultural land", "farmland"]),
        ("cyan", ["snow", "snow/ice", "sea ice"]),
        ("white", ["cloud", "thin cloud", "Wolken"]),
        ("dark", ["shadow", "cloud shadow", "building_shadows"]),
        ("black", ["background", "no building", "non-forest", "none of them"]),
    ],
)
def test_usual_names_have_usual_colours(kind, names):
    for name in names:
        assert is_a(kind, usual_colours(name)[0]), name


@pytest.mark.parametrize("name", ["broadleaf", "rice", "season", "device", "carbon", "solar panel", "tile 3", "", "東京"])
def test_parts_of_words_are_no_words(name):
    assert usual_colours(name) == ()


def lightest_difference(shades):
    """The least CIELAB distance of any two, by kornia."""
    lab = kornia.color.rgb_to_lab(torch.tensor([to_rgb(shade) for shade in shades]).T[None, :, :, None].float())
    flat = lab[0, :, :, 0].T.numpy()
    return min(np.linalg.norm(one - other) for one, other in itertools.combinations(flat, 2))


POTSDAM = ("impervious surfaces", "building", "low vegetation", "tree", "car", "clutter")
GID = (
    "industrial land", "urban residential", "rural residential", "traffic land", "paddy field", "irrigated land",
    "dry cropland", "garden land", "arbor forest", "shrub land", "natural meadow", "artificial meadow", "river", "lake", "pond",
)  # fmt: skip


@pytest.mark.parametrize(
    "task",
    [
        Binary(("water",)), Binary(("building",)), Binary(("road",)), Binary(("x",)), Multiclass(POTSDAM), Multiclass(GID),
        Multiclass(("clear", "thin cloud", "cloud", "cloud shadow", "snow")), Multilabel(("background", "road")),
        Multiclass(tuple(f"water {i}" for i in range(6))), Multiclass(tuple(f"class {i}" for i in range(30))),
        Centres(("car", "tree")),
    ],
)  # fmt: skip
def test_no_two_colours_of_a_legend_are_alike(task):
    errors = [WRONG, MISSED] if len(task.error_names) > 2 else []
    found = colours(task, None)
    assert len(found) == len(task.drawn_names)
    assert lightest_difference([*found, GREY, *errors, *[FOUND] * isinstance(task, Centres)]) > 12


def test_many_classes_are_all_different():
    assert len(set(colours(Multiclass(tuple(map(str, range(254)))), None))) == 254


def test_a_palette_is_taken_as_it_is():
    assert colours(Multiclass(("water", "road")), ["#112233", "#808080"]) == ["#112233", "#808080"]
    assert colours(Multilabel(("water", "road")), ["#112233", "#445566"]) == ["#000000", "#112233", "#445566"]


def test_plain_names_come_before_longer_ones():
    cloud, thin = colours(Multiclass(("cloud", "thin cloud")), None)
    assert [cloud, thin] == colours(Multiclass(("thin cloud", "cloud")), None)[::-1]
    assert is_a("white", cloud)
