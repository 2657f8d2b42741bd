"""The dataset config of a folder of images and masks."""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from rsseg.config.arguments import names
from rsseg.config.entry import CONFIGS
from rsseg.contract import InputError, counted
from rsseg.data.files import Files
from rsseg.data.grids import brief_crs
from rsseg.data.masks import VECTORS
from rsseg.data.paths import files_below
from rsseg.data.raster import alpha_band, colour_bands, open_raster
from rsseg.data.splits import FRACTIONS, SPLITS, Split, cut, propose_blocks, read_table, split_column
from rsseg.dataset import WINDOW_STEP
from rsseg.describe.mask_values import describe_masks, spread_out
from rsseg.describe.pairing import ANY, LISTED, PATTERNS, FileKind, find_pair, given_pair, part_of
from rsseg.files import write_text

log = logging.getLogger(__name__)

SENTINEL_2 = (12, 13)  # bands of its scenes, without and with band 10; blue, green and red are 2, 3 and 4

WINDOW = 256  # the side of training windows, if scenes are not smaller

LARGEST_LIST = 2**24  # bytes; a larger text file is not read in search of a split
IN_FRACTIONS = "70 % train, 15 % validate, 15 % test, by groups"

AREAS = {
    r"([^/]+?)[ _-](?:r?\d+[ _-]c?\d+|part[ _-]?\d+|[A-Z]?\d+)(?:[ _-][A-Z]+)?\.\w+$": "the part of the name before the number",
    r"([A-Za-z-]{3,})\d+\.\w+$": "the word in the name",
}
"""Usual parts of names that scenes of one area share: expressions for `dataset.source.group`, and their description."""


class Discovery(NamedTuple):
    """A dataset's name and config, and the conclusions about its folder, one sentence each."""

    name: str
    config: dict[str, Any]
    beliefs: list[str]


def discover(root: Path, image_pattern: str = "", mask_pattern: str = "", given: Mapping[str, Any] | None = None) -> Discovery:
    """Find the config of a folder of images and masks; patterns that are not given are inferred.

    `given` are settings of the config by their dotted keys, which replace those that are found.
    """
    root = Path(os.path.abspath(root.expanduser()))  # without ".."
    if not root.is_dir():
        raise InputError(f"{root}: there is no such folder")
    first, *stacked = names(image_pattern) or [""] if image_pattern.startswith("[") else [image_pattern]
    image, mask, kinds = given_pair(root, [first, *stacked], mask_pattern) if first or mask_pattern else find_pair(root)
    shared = sorted(image.files.keys() & mask.files.keys())
    images, masks = [image.files[key] for key in shared], [mask.files[key] for key in shared]
    used = {*image.files.values(), *mask.files.values()}
    unused = describe_unused([kind for kind in kinds if not used & {*kind.files.values()}], image, mask)
    if len(shared) == 1 and not stacked:
        image, mask = (
            FileKind(files[0].relative_to(root).as_posix(), kind.files) for kind, files in ((image, images), (mask, masks))
        )
    paths, drawn = " + ".join([image.path, *stacked]), counted(len({*mask.files.values()}), "mask")
    pairs = f"{len(shared)} pairs: {len(image.files)} images are {paths}, {drawn} {mask.path}.{unused}"
    if len(shared) == 1:
        pairs = f"One image has a mask: {paths}, {mask.path}.{unused}"
    of_source: dict[str, Any] = {}
    if masks[0].suffix.lower() in VECTORS:
        from rsseg.describe.vector_labels import describe_vectors  # its libraries take 70 MB

        labels, of_source, of_masks = describe_vectors(spread_out(list(dict.fromkeys(masks))))
    else:
        labels, of_masks = describe_masks(masks)
    smallest = min(min(open_raster(path).shape) for path in spread_out(images))
    split: dict[str, Any] | None
    only, of_split, untested, group, of_group = "", "", "", None, ""
    if len(shared) == 1:
        split = propose_blocks(open_raster(images[0]).shape)
    else:
        split, only, of_split = find_split(root, image, shared)
        read = [path.relative_to(root).as_posix() for key, path in image.files.items() if not only or only in key[:-1]]
        group, of_group = find_group(read, 2 if split else len(FRACTIONS), image.path)
        if "test" not in split if split else len(shared) < len(FRACTIONS):
            untested = "There is no test part: rsseg evaluate takes split=val, or name scenes in dataset.source.split.test."
    patterns = [path.replace("{part}", only or "{part}") for path in (image.path, *stacked)]
    source = {
        "root": str(root),
        "image": patterns if stacked else patterns[0],
        "mask": mask.path.replace("{part}", only or "{part}"),
        **({"threshold": labels.pop("threshold")} if "threshold" in labels else {}),
        **of_source,
        "group": group,
        "split": split,
    }
    rgb, of_images = describe_images(images)
    node = {"_target_": "rsseg.data.files.Files", **source}
    found = {"name": dataset_name(root), **labels, "bands": None, "rgb": rgb, "window": None, "steps": 2000, "source": node}
    settings, changed = given or {}, OmegaConf.create(found)
    for key, value in settings.items():
        OmegaConf.update(changed, key, value, merge=False)
    config: Any = OmegaConf.to_container(changed)
    source["split"] = config["source"]["split"]
    try:
        scenes = Files(**source, on_missing="skip" if stacked else "raise")
        scenes.split.of("train", scenes.every)
    except InputError as error:
        if source["split"] != split or not split or "blocks" in split:
            raise
        config["source"]["split"], of_split, untested = None, f"No split is found: {IN_FRACTIONS}. {error}", ""
    if len(shared) == 1:
        of_split, smallest = describe_blocks(images[0], scenes.split), scenes.split.side - scenes.split.buffer
    config["window"] = config["window"] or max(WINDOW_STEP, min(WINDOW, smallest // WINDOW_STEP * WINDOW_STEP))
    told = f"Set on the command line: {', '.join(f'{key}={value}' for key, value in settings.items())}." if settings else ""
    return Discovery(found["name"], config, [*filter(None, [pairs, *of_masks, *of_images, of_split, untested, of_group, told])])


def dataset_name(root: Path) -> str:
    """A folder's name as the name of a dataset, which a command line takes as it stands."""
    plain = unicodedata.normalize("NFKD", root.name).encode("ascii", "ignore").decode()
    name = re.sub(r"\W+", "_", plain.lower()).strip("_") or "mine"
    shipped = (CONFIGS / "dataset" / f"{name}.yaml").is_file()
    if shipped or not name[0].isalpha() or name in ("null", "true", "false", "yes", "no", "on", "off"):
        return f"my_{name}"
    return name


def describe_unused(kinds: Iterable[FileKind], image: FileKind, mask: FileKind) -> str:
    """The files that are not used, and how images of the same names are taken or stacked; empty: all are used."""
    named = {kind.path: kind for kind in sorted(kinds, key=lambda kind: kind.path) if ANY not in kind.path}
    said = [f"{len(kind.files)} {path}" for path, kind in named.items()][:LISTED]
    told = f" Not used: {', '.join(said)}." if said else ""
    other = next((path for path, own in named.items() if not own.drawn and own.files.keys() & image.files.keys()), "")
    if other:
        told += f" To take {other}, give mask='{mask.path}' image='{other}', or to stack both image='[{image.path},{other}]'."
    return told


def write_dataset(found: Discovery, path: Path) -> None:
    """Log the conclusions about a folder, and write its config, unless the file exists."""
    log.info("\n".join(found.beliefs))
    if path.exists():
        log.info("%s is there already and is used as it is: remove it to have it written again.", path)
        return
    listed = "".join(f"# - {belief}\n" for belief in found.beliefs)
    head = f"# Found in {found.config['source']['root']} by rsseg describe; correct it where it is wrong:\n{listed}"
    write_text(path, head + OmegaConf.to_yaml(OmegaConf.create(found.config)))
    log.info("Config: %s. Look whether this is right, and give the classes their names.", path)


def describe_images(paths: Sequence[Path]) -> tuple[list[int] | None, list[str]]:
    """The bands to show as red, green and blue (None: as they are called), and the conclusions on images, a sentence each."""
    rasters = [open_raster(path) for path in spread_out(paths)]
    first = rasters[0]
    sizes = sorted({raster.shape for raster in rasters})
    kinds = ", ".join(sorted({f"{raster.count} bands of {raster.dtypes[0]}" for raster in rasters}))
    systems = sorted({"no CRS" if raster.crs is None else brief_crs(raster.crs) for raster in rasters})
    small, large = (f"{size[1]} x {size[0]}" for size in (sizes[0], sizes[-1]))
    sides = small if small == large else f"{small} to {large}"
    names = [name for name in first.descriptions if name]
    called = f", called {', '.join(names)}" if names else ""
    beliefs = [f"Images have {kinds}{called}, {sides} px, {', '.join(systems[:3])}."]
    number = first.count - (alpha_band(first) > 0)
    if number <= 3 or colour_bands({i: name or "" for i, name in enumerate(first.descriptions, start=1)}):
        return None, beliefs
    if number in SENTINEL_2:
        said = "Bands are taken for Sentinel-2's: pictures show 4, 3, 2 as red, green, blue; rgb in the config changes it."
        return [4, 3, 2], [*beliefs, said]
    said = "Bands have no names of colours: pictures show 1, 2, 3 as red, green, blue; if blue comes first, set rgb: [3, 2, 1]."
    return None, [*beliefs, said]


def describe_blocks(image: Path, split: Split) -> str:
    """The conclusion about the split of a single image into spatial blocks; too few are refused."""
    shape = open_raster(image).shape
    if len(cut(shape[0], split.side)) + len(cut(shape[1], split.side)) < 6:  # two rows and two columns
        raise InputError(
            f"only {image} has a mask, and its {shape[1]} x {shape[0]} px are too few to be split into blocks that train and "
            "others that validate: label a larger image, or more of them, " + PATTERNS
        )
    shares = ", ".join(f"{100 * share:.0f} % {part}" for part, share in split.parts.items())
    return (
        f"It is cut into blocks of about {split.side} px, with {split.buffer} px between those of different splits: {shares}. "
        "Blocks of one image are not other places: scores say how well the rest of this image is mapped, not how well another "
        "one. Label a second image to learn that."
    )


def find_split(root: Path, image: FileKind, labelled: Collection[tuple[str, ...]]) -> tuple[dict[str, Any] | None, str, str]:
    """The split of the images, of which some are `labelled`, for a config.

    Returns the patterns or lists of the parts (None: split by fractions), the only folder that is read (empty: all), and the
    conclusions.
    """
    folder = str(PurePosixPath(image.path).parent)
    at = image.fields.index("part") if "{part}" in folder else None
    folders = {} if at is None else {part_of(key[at]): key[at] for key in image.files}
    masked = set() if at is None else {part_of(key[at]) for key in labelled}
    only = next(iter(folders.values())) if len(folders) == 1 else ""
    if "train" in folders and not only:
        places = {part: re.sub(r"\{\w+\}", "*", folder.replace("{part}", name)) for part, name in folders.items()}
        split = {part: [f"{places[part]}/*"] for part in SPLITS if part in masked}
        if len(split) == 1:
            return None, folders["train"], f"Only {folders['train']} has masks, of it {IN_FRACTIONS}."
        belief = f"The folders {', '.join(folders[part] for part in split)} are the split."
        if unlabelled := [folders[part] for part in folders if part not in masked]:
            belief += f" {' and '.join(unlabelled)} has no masks and is not used."
        if "val" not in split:
            belief += " No folder for validation has masks: the test folder validates."
            split["val"] = split.pop("test")
        return split, "", belief
    found = dict[Path, dict[str, str]]()
    tables = [path for path in sorted(files_below(root)) if path.suffix.lower() in (".csv", ".tsv", ".txt")]
    for path in tables:
        if part := part_of(path.stem):
            found.setdefault(path.parent, {})[part] = path.relative_to(root).as_posix()
    lists = next((own for own in found.values() if {"train", "val"} <= own.keys()), {})
    if lists:
        return dict(lists), only, f"The lists {', '.join(lists.values())} are the split."
    for path in tables:
        parts, name = parts_in(path), path.relative_to(root).as_posix()
        if {"train", "val"} <= parts:
            return {part: name for part in SPLITS if part in parts}, only, f"A column of {name} is the split."
    return None, only, f"No split is found: {IN_FRACTIONS}."


def parts_in(path: Path) -> set[str]:
    """The parts of a split that a column of a table names; empty if there is no such column, or the file is no small table."""
    if path.stat().st_size > LARGEST_LIST:
        return set()
    try:
        rows = read_table(path)
    except InputError:
        return set()
    column = split_column(rows)
    return set() if column is None else {part_of(row[column]) for row in rows if len(row) > column}


def find_group(paths: Sequence[str], least: int, pattern: str = "") -> tuple[str | None, str]:
    """An expression for the part of a path that scenes of one area share, such as a folder, or None; and the conclusion."""
    looked_for = {"(.*)/": "a folder"} | AREAS if re.search(r"\{(?!part\}).*/", pattern) else AREAS
    for expression, what in looked_for.items():
        found = [match[1] for path in paths if (match := re.search(expression, path, re.IGNORECASE))]
        groups = len(set(found))
        if len(found) == len(paths) and least <= groups <= len(paths) / 2 and not all(map(part_of, found)):
            return expression, f"Scenes of one group share {what}: {groups} groups, such as {found[0]}."
    return None, "Every scene is taken for a group of its own; dataset.source.group makes groups of several."
