"""What a folder of images and masks holds, found by looking: a dataset's config without a word from its user."""

from __future__ import annotations

import csv
import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf
from rasterio.windows import Window

from rsseg.contract import IGNORE, InputError
from rsseg.data.files import Files
from rsseg.data.paths import IMAGES, files_below
from rsseg.data.raster import brief_crs, has_palette, open_raster, read_bands
from rsseg.data.splits import FRACTIONS, SPLITS
from rsseg.data.vector import VECTORS
from rsseg.files import normal, read_text, write_text

log = logging.getLogger(__name__)

MASK_WORDS = ("mask", "label", "annot", "ann_", "truth", "gt", "seg", "target", "reference", "lbl")
IMAGE_WORDS = ("image", "img", "rgb", "ortho", "sat", "tile", "scene", "top", "s2", "s1", "input")
"""What folders and file names are called that hold masks, and images."""

FOLDER_WORDS = (*MASK_WORDS, "image", "img", "ortho", "rgb")
"""Those that tell folders apart; other folders are areas, or parts of a split."""

PART = re.compile(r"(train|val|test)(?:ing|id|idation)?(?:[_-]?(?:data|set|images|scenes))?", re.IGNORECASE)
"""What folders, and lists of names, are called that hold a part of a split."""

LOOKED_AT = 24
"""Masks whose values are looked at."""

SIDE = 2048
"""The largest height and width of what is looked at of a mask."""

MANY = 32
"""More values than these are no labels."""

UNLISTED = 0.02
"""The share of pixels whose colours need not be among the labels where masks are blurred, as in a JPEG."""


@dataclass(frozen=True)
class Kind:
    """Files that look alike: in folders of one structure, of one ending.

    Attributes:
        pattern: The pattern of their folders, with fields where these differ.
        ending: The ending of their names, ``.png`` or ``_mask.png``.
        files: By the fields of the folder and the rest of the name, the files.
    """

    pattern: str
    ending: str
    files: dict[tuple[str, ...], Path]

    @property
    def path(self) -> str:
        """The pattern of their paths."""
        return f"{self.pattern}/{{name}}{self.ending}".lstrip("/")

    @property
    def worded(self) -> int:
        """How far their names say that they are masks: above 0; below it: images."""
        text = f"{self.pattern}/{self.ending}"
        return sum(says(text, [word]) for word in MASK_WORDS) - sum(says(text, [word]) for word in IMAGE_WORDS)


@dataclass
class Discovery:
    """What a folder is believed to hold.

    Attributes:
        root: The folder.
        config: The dataset's config.
        beliefs: What is believed and why, a sentence each.
    """

    root: Path
    config: dict[str, Any] = field(default_factory=dict)
    beliefs: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The dataset's name."""
        return str(self.config["name"])

    def text(self) -> str:
        """The file for ``configs/dataset``."""
        said = "".join(f"# - {belief}\n" for belief in self.beliefs)
        return f"# Found in {self.root} by scripts/describe.py; change what is wrong:\n{said}{OmegaConf.to_yaml(self.config)}"


def discover(root: Path) -> Discovery:
    """Look into a folder of images and masks.

    Raises:
        InputError: If no images and masks that belong together are found.
    """
    root = root.expanduser().absolute()
    if not root.is_dir():
        raise InputError(f"{root}: there is no such folder")
    image, mask = best_pair(root, find_kinds(root))
    found = Discovery(root)
    name = re.sub(r"\W+", "_", normal(root.name).lower()).strip("_") or "mine"
    shared = image.files.keys() & mask.files.keys()
    found.beliefs.append(f"{len(shared)} pairs: images are {image.path}, masks {mask.path}; {len(image.files)} images in all.")
    labels = describe_masks([mask.files[key] for key in sorted(shared)], root, found.beliefs)
    found.beliefs.append(describe_images([image.files[key] for key in sorted(shared)]))
    split, only = find_split(root, image, shared, found.beliefs)
    read = [path.relative_to(root).as_posix() for key, path in image.files.items() if not only or only in key[:-1]]
    group = find_group(read, 2 if split else len(FRACTIONS), found.beliefs)
    paths = [kind.path.replace("{part}", only) if only else kind.path for kind in (image, mask)]
    source = {
        "_target_": "rsseg.data.files.Files",
        "root": str(root),
        "image": paths[0],
        "mask": paths[1],
        **({"threshold": labels.pop("threshold")} if "threshold" in labels else {}),
        "group": group,
        "split": split,
    }
    found.config = {"name": name, **labels, "bands": None, "window": 256, "steps": 2000, "source": source}
    Files(**{key: value for key, value in source.items() if key != "_target_"})
    return found


def add_dataset(folder: Path, into: Path) -> str:
    """Write the config of a folder of images and masks, unless there is one of its name, and tell what was found.

    Args:
        folder: The folder.
        into: Where the config is written.

    Returns:
        The dataset's name.

    Raises:
        InputError: If the folder holds nothing that can be trained on.
        UnwritableError: If the config can't be written.
    """
    found = discover(folder)
    path = into / f"{found.name}.yaml"
    log.info("\n".join(found.beliefs))
    if path.exists():
        log.info("%s is there already and is used as it is: remove it to have it written again.", path)
    else:
        write_text(path, found.text())
        log.info("Config: %s. Look whether this is right, and give the classes their names.", path)
    return found.name


def find_kinds(root: Path) -> list[Kind]:
    """The kinds of images and vector files below a folder: of one depth and ending, and one place by the words that say so."""
    kinds: dict[tuple[object, ...], list[PurePosixPath]] = {}
    for path in files_below(root):
        if path.suffix.lower() in IMAGES | VECTORS:
            place = PurePosixPath(path.relative_to(root).as_posix())
            folders = [name.lower() for name in place.parts[:-1]]
            worded = [(level, name) for level, name in enumerate(folders) if says(name, FOLDER_WORDS)]
            kinds.setdefault((len(folders), *(worded or folders[-1:]), tail(place.stem), place.suffix), []).append(place)
    return [_kind(root, places) for places in kinds.values()]


def part_of(name: str) -> str:
    """The part of a split that a name says; empty: none.

    Example:
        >>> part_of("Training"), part_of("val"), part_of("test_data"), part_of("valley")
        ('train', 'val', 'test', '')
    """
    found = PART.fullmatch(name)
    return found[1].lower() if found else ""


def says(name: str, words: Iterable[str]) -> bool:
    """Whether a name holds one of some words; short ones have to stand alone."""
    tokens = re.split(r"[^a-z0-9]+", name.lower())
    return any(word in tokens if len(word) < 3 else word in name.lower() for word in words)


def tail(stem: str) -> str:
    """What stands at the end of a name and says what the file is, as in x_sat and x_mask; empty: nothing."""
    found = re.search(r"[_-][A-Za-z0-9]+$", stem)
    return found[0] if found and says(found[0], (*MASK_WORDS, *IMAGE_WORDS)) else ""


def _kind(root: Path, places: Sequence[PurePosixPath]) -> Kind:
    """The kind of files that lie in folders of one depth."""
    folders = [place.parent.parts for place in places]
    fields, pattern = list[int](), list[str]()
    for level, names in enumerate(zip(*folders, strict=True)):
        if len({name.lower() for name in names}) == 1 and not part_of(names[0]):
            pattern.append(names[0])
            continue
        fields.append(level)
        split = all(part_of(name) for name in names)
        pattern.append("{part}" if split else f"{{area{len(fields) if '{area}' in pattern else ''}}}")
    last, files = tail(places[0].stem), {}
    for place, folder in zip(places, folders, strict=True):
        key = (*(folder[level] for level in fields), place.stem.removesuffix(last))
        files[key] = root / place
    return Kind("/".join(pattern), last + places[0].suffix, files)


def best_pair(root: Path, kinds: Sequence[Kind]) -> tuple[Kind, Kind]:
    """The images and the masks that belong together.

    Raises:
        InputError: If there are none.
    """
    pairs = []
    for image in kinds:
        for mask in kinds:
            shared = len(image.files.keys() & mask.files.keys())
            fields = re.findall(r"\{\w+\}", image.path) == re.findall(r"\{\w+\}", mask.path)
            if image is not mask and fields and 2 * shared >= len(mask.files) and Path(image.ending).suffix not in VECTORS:
                pairs.append(((mask.worded - image.worded, looks_like_mask(mask), shared), image, mask))
    pairs = [pair for pair in pairs if pair[0][0] > 0 or pair[0][1]]
    if not pairs:
        found = "; ".join(f"{len(kind.files)} {kind.path}" for kind in kinds[:5])
        raise InputError(
            f"{root}: no images and masks of equal names are found ({found or 'no images at all'}): name both, as in "
            "dataset=folder dataset.source.root=... 'dataset.source.image=\"images/{name}.tif\"' dataset.source.mask=..."
        )
    _, image, mask = max(pairs, key=lambda pair: pair[0])
    return image, mask


def looks_like_mask(kind: Kind) -> bool:
    """Whether a file of a kind holds few values, in one band or in a palette."""
    path = next(iter(kind.files.values()))
    if path.suffix.lower() in VECTORS:
        return True
    raster = open_raster(path)
    return bool(raster.count == 1 and len(np.unique(_middle(path, [1]))) <= MANY)


def _middle(path: Path, bands: Sequence[int], palette: bool = False) -> NDArray[np.generic]:
    """The middle of a file, or all of a small one, ``[bands, h, w]``."""
    raster = open_raster(path)
    height, width = min(SIDE, raster.height), min(SIDE, raster.width)
    window = Window((raster.width - width) // 2, (raster.height - height) // 2, width, height)
    return read_bands(path, bands, window, palette=palette)


def _spread(paths: Sequence[Path]) -> list[Path]:
    """At most `LOOKED_AT` of some files, all over their list."""
    return [paths[i] for i in sorted({round(x) for x in np.linspace(0, len(paths) - 1, LOOKED_AT)})]


def describe_masks(paths: Sequence[Path], root: Path, beliefs: list[str]) -> dict[str, Any]:
    """What a config says of masks, by the values in some of them."""
    looked = _spread(paths)
    if looked[0].suffix.lower() in VECTORS:
        beliefs.append("Masks are vectors: every feature is the class; name an attribute if there are several.")
        return {"task": "binary", "classes": ["feature"], "mask_values": None, "ignore_values": None}
    coloured = any(_has_colours(path) for path in looked)
    counts = Counter[Any]()
    for path in looked:
        counts += _colours(path) if coloured else _values(path)
    some = f"in {len(looked)} of {len(paths)} masks"
    named = read_names(root)
    if coloured:
        return _of_colours(counts, named, some, beliefs)
    values = sorted(counts)
    if len(values) > MANY or not all(float(value).is_integer() for value in values):
        middle = (values[0] + values[-1]) / 2
        threshold = 127 if 1 < values[-1] <= 255 else round(middle, 3)
        beliefs.append(f"Masks are grey, {len(values)} values {some}: above {threshold:g} is taken for the class.")
        return {"task": "binary", "classes": ["foreground"], "mask_values": None, "ignore_values": None, "threshold": threshold}
    whole = [int(value) for value in values]
    labels = [value for value in whole if 0 <= value != IGNORE] if len(whole) > 2 else whole
    ignored = [value for value in whole if value not in labels]
    if IGNORE not in whole and max(labels, default=0) < IGNORE:
        ignored.append(IGNORE)  # what is seen in other masks perhaps
    shares = ", ".join(f"{value} ({counts[value] / counts.total():.1%})" for value in whole)
    unlabelled = f"; {', '.join(map(str, ignored))} are not labelled" if ignored else ""
    beliefs.append(f"Masks hold {shares} {some}{unlabelled}.")
    if len(labels) < 2:
        beliefs.append("Only one label is seen: add the others.")
    if len(labels) == 2:
        classes = named.get("names", [])[-1:] or ["foreground"]
        return {"task": "binary", "classes": classes, "mask_values": labels, "ignore_values": ignored}
    classes = named.get("names") or [f"class_{value}" for value in labels]
    if len(classes) != len(labels):
        beliefs.append(f"The list of names has {len(classes)} and the masks {len(labels)} labels: names are left out.")
        classes = [f"class_{value}" for value in labels]
    return {"task": "multiclass", "classes": classes, "mask_values": labels, "ignore_values": ignored}


def _of_colours(counts: Counter[Any], named: Mapping[str, Any], some: str, beliefs: list[str]) -> dict[str, Any]:
    """What a config says of masks in colours."""
    listed: dict[str, str] = named.get("colours", {})
    frequent = [colour for colour, _ in counts.most_common(MANY)]
    blurred = len(counts) > MANY
    if blurred:
        least = UNLISTED * counts.total()
        frequent = [colour for colour in frequent if counts[colour] > least]
    chosen = list(listed) if {*listed} & {*frequent} else sorted(frequent)
    shares = ", ".join(f"{colour} ({counts[colour] / counts.total():.1%})" for colour in chosen)
    beliefs.append(f"Masks hold colours, {shares} {some}{', and many near them, as JPEG leaves them' * blurred}.")
    classes = [listed.get(colour, f"colour_{colour[1:]}") for colour in chosen]
    return {
        "task": "multiclass", "classes": classes, "palette": chosen, "mask_values": chosen, "ignore_values": [],
        "colour_tolerance": 60 if blurred else None,
    }  # fmt: skip


def _has_colours(path: Path) -> bool:
    """Whether a mask's pixels are colours: three bands that differ, or a palette whose numbers are no labels from 0 on."""
    raster = open_raster(path)
    if has_palette(raster):
        return bool(_middle(path, [1]).max() > MANY)
    if raster.count < 3:
        return False
    pixels = _middle(path, [1, 2, 3])
    return bool((pixels != pixels[:1]).any())


def _values(path: Path) -> Counter[Any]:
    """How many pixels have each value."""
    pixels = _middle(path, [1])
    values, numbers = np.unique(pixels[pixels == pixels], return_counts=True)
    return Counter(dict(zip(values.tolist(), numbers.tolist(), strict=True)))


def _colours(path: Path) -> Counter[Any]:
    """How many pixels have each colour."""
    palette = has_palette(open_raster(path))
    bands = [1, 2, 3] if palette or open_raster(path).count >= 3 else [1, 1, 1]
    pixels = _middle(path, bands, palette=palette).reshape(3, -1)
    colours, numbers = np.unique(pixels, axis=1, return_counts=True)
    texts = [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in colours.T.tolist()]
    return Counter(dict(zip(texts, numbers.tolist(), strict=True)))


def read_names(root: Path) -> dict[str, Any]:
    """The names of classes in a list beside the images: ``names``, or ``colours`` by "#rrggbb"; empty: none."""
    for path in sorted(path for path in root.glob("*class*") if path.suffix.lower() in (".txt", ".csv")):
        rows = [row for row in csv.reader(read_text(path).splitlines()) if row]
        if rows and len(rows[0]) >= 4:
            numbers = [row for row in rows if all(cell.strip().isdigit() for cell in row[1:4])]
            return {"colours": {"#{:02x}{:02x}{:02x}".format(*map(int, row[1:4])): row[0].strip() for row in numbers}}
        return {"names": [row[-1].strip() for row in rows]}
    return {}


def describe_images(paths: Sequence[Path]) -> str:
    """The bands, sizes and coordinate systems of images, in a sentence."""
    rasters = [open_raster(path) for path in _spread(paths)]
    first = rasters[0]
    sizes = sorted({raster.shape for raster in rasters})
    kinds = ", ".join(sorted({f"{raster.count} bands of {raster.dtypes[0]}" for raster in rasters}))
    systems = sorted({"no CRS" if raster.crs is None else brief_crs(raster.crs) for raster in rasters})
    small, large = (f"{size[1]} x {size[0]}" for size in (sizes[0], sizes[-1]))
    sides = small if small == large else f"{small} to {large}"
    names = [name for name in first.descriptions if name]
    called = f", called {', '.join(names)}" if names else ""
    return f"Images have {kinds}{called}, {sides} px, {', '.join(systems[:3])}."


def find_split(
    root: Path, image: Kind, labelled: Collection[tuple[str, ...]], beliefs: list[str]
) -> tuple[dict[str, Any] | None, str]:
    """The split of a config, and the only folder that is read.

    Args:
        root: The folder.
        image: The images.
        labelled: Those that have masks.
        beliefs: Takes what is believed.

    Returns:
        The patterns or lists of the parts, None for a split by fractions; and the folder, empty for all.
    """
    fields = re.findall(r"\{(\w+)\}", image.pattern)
    folders, masked = dict[str, str](), set[str]()
    if "part" in fields:
        at = fields.index("part")
        folders = {part_of(key[at]): key[at] for key in image.files}
        masked = {part_of(key[at]) for key in labelled}
    if "train" in folders and len(folders) > 1:
        before, _, after = image.pattern.partition("{part}")
        before, after = (re.sub(r"\{\w+\}", "*", text) for text in (before, after))
        split = {part: [f"{before}{folders[part]}{after}/*"] for part in SPLITS if part in masked}
        if len(split) == 1:
            beliefs.append(f"Only {folders['train']} has masks: 70 % of it train, 15 % validate, 15 % test, by groups.")
            return None, folders["train"]
        beliefs.append(f"The folders {', '.join(folders[part] for part in split)} are the split.")
        if "val" not in split:
            beliefs.append("No folder for validation has masks: the test folder validates.")
            split["val"] = split.pop("test")
        return split, ""
    lists = {part_of(path.stem): path.name for path in root.glob("*.txt") if part_of(path.stem)}
    if {"train", "val"} <= lists.keys():
        beliefs.append(f"The lists {', '.join(lists.values())} are the split.")
        return dict(lists), ""
    beliefs.append("No split is found: 70 % train, 15 % validate, 15 % test, by groups.")
    return None, ""


def find_group(paths: Sequence[str], least: int, beliefs: list[str]) -> str | None:
    """What the names of scenes that were cut from one image, or lie in one place, share; None: nothing is seen.

    Args:
        paths: The paths of the scenes' images.
        least: The number of groups that a split needs.
        beliefs: Takes what is believed.
    """
    for expression, what in (
        (
            r"([^/]+?)[_-](?:r?\d+[_-]c?\d+|part[_-]?\d+|\d+)(?:[_-][A-Za-z]+)?\.\w+$",
            "what stands before the number in the name",
        ),
        (r"([A-Za-z-]{3,})\d+\.\w+$", "the word in the name"),
    ):
        found = [re.search(expression, path, re.IGNORECASE) for path in paths]
        if all(found):
            number = len({match[1] for match in found if match})
            if least <= number <= len(paths) / 2:
                beliefs.append(f"Scenes of one area share {what}: {number} areas, such as {found[0][1]}.")  # type: ignore[index]
                return expression
    beliefs.append("Every scene is taken for an area of its own; dataset.source.group says what neighbours share.")
    return None
