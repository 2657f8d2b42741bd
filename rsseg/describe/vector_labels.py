"""Label settings of vector files, inferred from some of them: the layer, the attribute and its values."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
from pyogrio import read_info

from rsseg.contract import IGNORE, InputError, counted
from rsseg.data.vector import check_degrees, texts_of

MANY = 32  # an attribute with more values than this tells no classes
SHOWN = 8  # values of an attribute in a sentence
SHORT = 30  # letters of a value in a sentence
TELLING = re.compile(
    r"cla|klas|kind|typ|tipo|categ|label|cover|land_?use|nutzung|code|species|crop|damage|lulc|^(dn|use|uso|art|name|nome)$",
    re.IGNORECASE,
)
"""The names of attributes that tell classes; DN is what QGIS calls the values of a raster."""

BUFFER = 2  # metres by which lines are widened


def describe_vectors(paths: Sequence[Path]) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """The settings of labels and of their source from vector files, and the conclusions, one sentence each.

    Raises:
        InputError: If a file has no features, or can't be read.
    """
    layer, of_layers = choose_layer(paths[0])
    try:
        frame = pd.concat([geopandas.read_file(path, layer=layer if of_layers else None) for path in paths], ignore_index=True)
    except Exception as error:  # pyogrio's, GDAL's and shapely's errors over damaged files have no common type
        raise InputError(f"{paths[0]} and its like can't be read as vector files: {error}") from None
    shapes = frame.geometry[frame.geometry.notna()]
    if shapes.crs is not None:
        check_degrees(shapes, paths[0])
    texts = {str(name): Counter(texts_of(frame[name])) for name in frame.columns if name != frame.geometry.name}
    attribute = choose_attribute(texts)
    beliefs = [of_layers, f"{counted(len(frame), 'feature')} with {list_attributes(texts)}."]
    labels: dict[str, Any] = {"task": "binary", "classes": ["foreground"], "mask_values": None, "ignore_values": None}
    source: dict[str, Any] = {"layer": layer if of_layers else None, "attribute": attribute, "values": None}
    if attribute:
        values = sorted(texts[attribute].keys() - {"null", "background"})
        source["values"] = {value: number for number, value in enumerate(values, start=1)}
        source["values"] |= {value: of for value, of in (("null", IGNORE), ("background", 0)) if value in texts[attribute]}
        labels |= {"task": "multiclass", "classes": ["background", *values], "mask_values": list(range(len(values) + 1))}
        labels |= {"ignore_values": [IGNORE]}
        beliefs.append(
            f"{attribute} is taken for the class; another is set in dataset.source.attribute, with its values and classes. "
            f"What no feature covers is background; {IGNORE} in dataset.source.values leaves a value out."
        )
    else:
        beliefs.append(
            "No attribute has a name that tells classes: features are the class, all else is background. If one does, set "
            "dataset.source.attribute, its values and the classes."
        )
    kinds = set(shapes.geom_type)
    if "LineString" in kinds or "MultiLineString" in kinds:
        source["buffer"] = BUFFER
        beliefs.append(
            f"Features are lines: dataset.source.buffer widens them by {BUFFER} m on each side: set half their width."
        )
    elif kinds <= {"Point", "MultiPoint"}:
        beliefs.append("Features are points, a pixel each: task: centres finds objects, dataset.source.buffer makes discs.")
    elif shapes.crs is not None and len(shapes):
        areas = np.percentile(shapes.to_crs(shapes.estimate_utm_crs()).area, (5, 50, 95))  # in square metres
        small, usual, large = (f"{area:.0f}" if area >= 100 else f"{area:.3g}" for area in areas)
        beliefs.append(
            f"Polygons have {small} to {large} m2 (5 to 95 %), half of them less than {usual}. For maps of single ones, rsseg "
            f"predict polygons=true min_area={small} leaves out smaller specks; task: centres finds and counts them."
        )
    return labels, {key: value for key, value in source.items() if value is not None}, [*filter(None, beliefs)]


def choose_layer(path: Path) -> tuple[str, str]:
    """The layer of a file to read: areas before lines, then most features first; and the conclusion if it has several."""
    layers = geopandas.list_layers(path).dropna()  # QGIS keeps the styles of layers in one without geometries
    found = {}
    for name, kind in zip(layers["name"], layers["geometry_type"], strict=True):
        found[str(name)] = str(kind), int(read_info(path, layer=name, force_feature_count=True)["features"])
    if not found:
        raise InputError(f"{path} has no layer with geometries: is it the right file?")
    order = ("Polygon", "Line", "")
    best = min(found, key=lambda name: (next(i for i, word in enumerate(order) if word in found[name][0]), -found[name][1]))
    listed = ", ".join(f"{name} ({number} x {kind})" for name, (kind, number) in found.items())
    why = f"{path.name} has the layers {listed}: {best} is read, since areas come before lines, many features before few"
    return best, f"{why}; dataset.source.layer takes another." if len(found) > 1 else ""


def choose_attribute(texts: dict[str, Counter[str]]) -> str | None:
    """The attribute that tells classes: by its name, with several values, words rather than numbers, few rather than many.

    Example:
        >>> choose_attribute({"id": Counter("abcd"), "code": Counter("1122"), "class": Counter("xxyy")})
        'class'
    """
    fit = []
    for name, own in texts.items():
        values = own.keys() - {"null"}
        if TELLING.search(name) and 2 <= len(values) <= MANY and 2 * len(values) <= own.total():
            fit.append((all(re.fullmatch(r"[-\d.]+", value) for value in values), len(values), name))
    return min(fit)[-1] if fit else None


def list_attributes(texts: dict[str, Counter[str]]) -> str:
    """Attributes and their most frequent values.

    Example:
        >>> list_attributes({"kind": Counter(house=2, road=1)}), list_attributes({})
        ('the attributes kind (house: 2, road: 1)', 'no attributes')
    """
    said = []
    for name, own in texts.items():
        values = [f"{value[:SHORT]}: {number}" for value, number in own.most_common(SHOWN) if len(own) < own.total()]
        values = [*[f"{len(own)} values"] * (len(own) > SHOWN or not values), *values]
        said.append(f"{name} ({', '.join(values)})")
    return f"the attributes {', '.join(said)}" if said else "no attributes"
