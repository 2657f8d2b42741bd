"""What a folder of images and masks holds, found by looking: a dataset's config without a word from its user."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from omegaconf import OmegaConf

from rsseg.contract import InputError
from rsseg.data.files import Files
from rsseg.data.grids import brief_crs
from rsseg.data.masks import VECTORS
from rsseg.data.paths import IMAGES, files_below
from rsseg.data.raster import open_raster, read_bands
from rsseg.data.splits import FRACTIONS, SPLITS
from rsseg.describe.mask_values import MANY, describe_masks, middle, spread_out
from rsseg.files import normal, write_text

log = logging.getLogger(__name__)

MASK_WORDS = ("mask", "label", "annot", "ann_", "truth", "gt", "seg", "target", "reference", "lbl")
IMAGE_WORDS = ("image", "img", "rgb", "ortho", "sat", "tile", "scene", "top", "s2", "s1", "input")
"""What folders and file names are called that hold masks, and images."""

FOLDER_WORDS = (*MASK_WORDS, "image", "img", "ortho", "rgb")
"""Those that tell folders apart; other folders are areas, or parts of a split."""

PART = re.compile(r"(train|val|test)(?:ing|id|idation)?(?:[_-]?(?:data|set|images|scenes))?", re.IGNORECASE)
"""What folders, and lists of names, are called that hold a part of a split."""

IN_FRACTIONS = "70 % train, 15 % validate, 15 % test, by groups"

AREAS = {
    r"([^/]+?)[_-](?:r?\d+[_-]c?\d+|part[_-]?\d+|\d+)(?:[_-][A-Za-z]+)?\.\w+$": "what stands before the number in the name",
    r"([A-Za-z-]{3,})\d+\.\w+$": "the word in the name",
}
"""What the names of scenes of one area share: expressions for `dataset.source.group`, and the same in words."""


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
    def fields(self) -> list[str]:
        """The fields of their folders."""
        return re.findall(r"\{(\w+)\}", self.pattern)

    @property
    def worded(self) -> int:
        """How far their names say that they are masks: above 0; below it: images."""
        text = f"{self.pattern}/{self.ending}"
        return sum(says(text, [word]) for word in MASK_WORDS) - sum(says(text, [word]) for word in IMAGE_WORDS)


class Discovery(NamedTuple):
    """A dataset's config, and what is believed of its folder and why, a sentence each."""

    config: dict[str, Any]
    beliefs: list[str]


def discover(root: Path) -> Discovery:
    """Look into a folder of images and masks.

    Raises:
        InputError: If no images and masks that belong together are found.
    """
    root = root.expanduser().absolute()
    if not root.is_dir():
        raise InputError(f"{root}: there is no such folder")
    (image, mask), *others = find_pairs(root, find_kinds(root))
    shared = sorted(image.files.keys() & mask.files.keys())
    if len(shared) < 2:
        raise InputError(
            f"{root}: only {image.files[shared[0]]} has a mask, and a split needs two scenes: label more, or split it into "
            "blocks, as dataset=geotiff does"
        )
    pairs = f"{len(shared)} pairs: images are {image.path}, masks {mask.path}; there are {len(image.files)} such images."
    beside = [f"{other.path} with {masks.path}" for other, masks in others]
    if beside:
        pairs += f" Not read: {'; '.join(beside)}. Describe the folder of one alone to train on it."
    labels, of_masks = describe_masks([mask.files[key] for key in shared], root)
    split, only, of_split = find_split(root, image, shared)
    read = [path.relative_to(root).as_posix() for key, path in image.files.items() if not only or only in key[:-1]]
    group, of_group = find_group(read, 2 if split else len(FRACTIONS))
    source = {
        "root": str(root),
        "image": image.path.replace("{part}", only or "{part}"),
        "mask": mask.path.replace("{part}", only or "{part}"),
        **({"threshold": labels.pop("threshold")} if "threshold" in labels else {}),
        "group": group,
        "split": split,
    }
    Files(**source)
    name = re.sub(r"\W+", "_", normal(root.name).lower()).strip("_") or "mine"
    node = {"_target_": "rsseg.data.files.Files", **source}
    beliefs = [pairs, *of_masks, describe_images([image.files[key] for key in shared]), of_split, of_group]
    return Discovery({"name": name, **labels, "bands": None, "window": 256, "steps": 2000, "source": node}, beliefs)


def add_dataset(folder: Path, into: Path, name: str = "") -> str:
    """Write the config of a folder of images and masks, unless there is one of its name, and tell what was found.

    Args:
        folder: The folder.
        into: Where the config is written.
        name: The dataset's name; empty: by the folder.

    Returns:
        The dataset's name.

    Raises:
        InputError: If the folder holds nothing that can be trained on.
        UnwritableError: If the config can't be written.
    """
    config, beliefs = discover(folder)
    config["name"] = name = name or str(config["name"])
    path = into / f"{name}.yaml"
    log.info("\n".join(beliefs))
    if path.exists():
        log.info("%s is there already and is used as it is: remove it to have it written again.", path)
    else:
        found = "".join(f"# - {belief}\n" for belief in beliefs)
        head = f"# Found in {config['source']['root']} by rsseg describe; change what is wrong:\n{found}"
        write_text(path, head + OmegaConf.to_yaml(config))
        log.info("Config: %s. Look whether this is right, and give the classes their names.", path)
    return name


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
    pattern, fields = list[str](), list[int]()
    for level, names in enumerate(zip(*(place.parts[:-1] for place in places), strict=True)):
        if len({name.lower() for name in names}) == 1 and not part_of(names[0]):
            pattern.append(names[0])
            continue
        fields.append(level)
        area = f"{{area{len(fields) if '{area}' in pattern else ''}}}"
        pattern.append("{part}" if all(map(part_of, names)) else area)
    last, files = tail(places[0].stem), {}
    for place in places:
        files[*(place.parts[level] for level in fields), place.stem.removesuffix(last)] = root / place
    return Kind("/".join(pattern), last + places[0].suffix, files)


def find_pairs(root: Path, kinds: Sequence[Kind]) -> list[tuple[Kind, Kind]]:
    """The images and the masks that belong together: the best pair first, then those of other files, each with the best masks.

    Words and values tell masks from images; of datasets that lie beside each other the one with most pairs is the best.

    Raises:
        InputError: If there are none.
    """
    pairs = []
    for image, mask in permutations(kinds, 2):
        shared = len(image.files.keys() & mask.files.keys())
        if image.fields == mask.fields and 2 * shared >= len(mask.files) and Path(image.ending).suffix not in VECTORS:
            likely = mask.worded - image.worded, looks_like_mask(mask), shared
            pairs += [(likely, image, mask)] if likely[0] > 0 or likely[1] else []
    if not pairs:
        there = "; ".join(f"{len(kind.files)} {kind.path}" for kind in kinds[:5])
        raise InputError(
            f"{root}: no images and masks of equal names are found ({there or 'no images at all'}): name both, as in "
            "dataset=folder dataset.source.root=... 'dataset.source.image=\"images/{name}.tif\"' dataset.source.mask=..."
        )
    most = max(likely[-1] for likely, *_ in pairs)
    found: list[tuple[Kind, Kind]] = []
    for _, image, mask in sorted(pairs, key=lambda pair: (2 * pair[0][-1] >= most, *pair[0]), reverse=True):
        taken = [names for pair in found for kind in pair for names in kind.files.values()]
        if not found or not {*taken} & {*image.files.values(), *mask.files.values()}:
            found.append((image, mask))
    return found


def looks_like_mask(kind: Kind) -> bool:
    """Whether a file of a kind holds few values, in one band or in a palette."""
    path = next(iter(kind.files.values()))
    if path.suffix.lower() in VECTORS:
        return True
    return bool(open_raster(path).count == 1 and len(np.unique(read_bands(path, [1], middle(path)))) <= MANY)


def describe_images(paths: Sequence[Path]) -> str:
    """The bands, sizes and coordinate systems of images, in a sentence."""
    rasters = [open_raster(path) for path in spread_out(paths)]
    first = rasters[0]
    sizes = sorted({raster.shape for raster in rasters})
    kinds = ", ".join(sorted({f"{raster.count} bands of {raster.dtypes[0]}" for raster in rasters}))
    systems = sorted({"no CRS" if raster.crs is None else brief_crs(raster.crs) for raster in rasters})
    small, large = (f"{size[1]} x {size[0]}" for size in (sizes[0], sizes[-1]))
    sides = small if small == large else f"{small} to {large}"
    names = [name for name in first.descriptions if name]
    called = f", called {', '.join(names)}" if names else ""
    return f"Images have {kinds}{called}, {sides} px, {', '.join(systems[:3])}."


def find_split(root: Path, image: Kind, labelled: Collection[tuple[str, ...]]) -> tuple[dict[str, Any] | None, str, str]:
    """The split of a config.

    Args:
        root: The folder.
        image: The images.
        labelled: Those that have masks.

    Returns:
        The patterns or lists of the parts, None for a split by fractions; the only folder that is read, empty for all; and what
        is believed.
    """
    at = image.fields.index("part") if "part" in image.fields else None
    folders = {} if at is None else {part_of(key[at]): key[at] for key in image.files}
    masked = set() if at is None else {part_of(key[at]) for key in labelled}
    if "train" in folders and len(folders) > 1:
        before, _, after = (re.sub(r"\{\w+\}", "*", text) for text in image.pattern.partition("{part}"))
        split = {part: [f"{before}{folders[part]}{after}/*"] for part in SPLITS if part in masked}
        if len(split) == 1:
            return None, folders["train"], f"Only {folders['train']} has masks, of it {IN_FRACTIONS}."
        belief = f"The folders {', '.join(folders[part] for part in split)} are the split."
        if "val" not in split:
            belief += " No folder for validation has masks: the test folder validates."
            split["val"] = split.pop("test")
        return split, "", belief
    lists = {part_of(path.stem): path.name for path in root.glob("*.txt") if part_of(path.stem)}
    if {"train", "val"} <= lists.keys():
        return dict(lists), "", f"The lists {', '.join(lists.values())} are the split."
    return None, "", f"No split is found: {IN_FRACTIONS}."


def find_group(paths: Sequence[str], least: int) -> tuple[str | None, str]:
    """What the names of scenes that lie in one area share, None if nothing is seen; and what is believed.

    Args:
        paths: The paths of the scenes' images.
        least: The number of groups that a split needs.
    """
    for expression, what in AREAS.items():
        found = [match[1] for path in paths if (match := re.search(expression, path, re.IGNORECASE))]
        areas = len(set(found))
        if len(found) == len(paths) and least <= areas <= len(paths) / 2:
            return expression, f"Scenes of one area share {what}: {areas} areas, such as {found[0]}."
    return None, "Every scene is taken for an area of its own; dataset.source.group says what neighbours share."
