"""What shows the classes of a map in a GIS: a QGIS style, and the categories that GDAL reads beside a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from rsseg.files import write_text
from rsseg.pictures.colours import as_rgb
from rsseg.task import Binary, Task


def write_styles(path: Path, task: Task, names: Sequence[str], colours: Sequence[str]) -> None:
    """Write ``<map>.qml``, which QGIS takes by itself, and ``<map>.tif.aux.xml``, which GDAL does.

    What is not the class is transparent on a binary map.
    """
    style = Element("qgis", version="3.22", styleCategories="Symbology")
    renderer = SubElement(
        SubElement(style, "pipe"), "rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1", nodataColor=""
    )
    palette = SubElement(renderer, "colorPalette")
    for label, (name, colour) in enumerate(zip(names, colours, strict=True)):
        alpha = "0" if isinstance(task, Binary) and label == 0 else "255"
        SubElement(palette, "paletteEntry", value=str(label), color=colour, label=name, alpha=alpha)
    write_text(path.with_suffix(".qml"), _text(style, "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"))
    beside = Element("PAMDataset")
    categories = SubElement(SubElement(beside, "PAMRasterBand", band="1"), "CategoryNames")
    for name in names:
        SubElement(categories, "Category").text = name
    write_text(path.with_name(f"{path.name}.aux.xml"), _text(beside))


def write_vector_style(path: Path, attribute: str, colours: Mapping[str, str]) -> None:
    """Write ``<file>.qml`` of polygons, a colour for each value of an attribute."""
    style = Element("qgis", version="3.22", styleCategories="Symbology")
    renderer = SubElement(style, "renderer-v2", type="categorizedSymbol", attr=attribute)
    categories, symbols = SubElement(renderer, "categories"), SubElement(renderer, "symbols")
    for place, (value, colour) in enumerate(colours.items()):
        SubElement(categories, "category", value=value, label=value, symbol=str(place), render="true")
        symbol = SubElement(symbols, "symbol", type="fill", name=str(place), alpha="0.7")
        options = SubElement(SubElement(symbol, "layer", {"class": "SimpleFill", "enabled": "1"}), "Option", type="Map")
        red, green, blue = as_rgb([colour])[0]
        SubElement(options, "Option", type="QString", name="color", value=f"{red},{green},{blue},255")
        SubElement(options, "Option", type="QString", name="outline_color", value="35,35,35,255")
        SubElement(options, "Option", type="QString", name="outline_width", value="0.1")
    write_text(path.with_suffix(".qml"), _text(style, "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"))


def _text(root: Element, head: str = "") -> str:
    ElementTree.indent(root)
    return head + ElementTree.tostring(root, encoding="unicode") + "\n"
