"""Discovery of images and masks in a folder, and the dataset config that follows from them."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, permutations, takewhile
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from rsseg.config.entry import CONFIGS
from rsseg.contract import InputError
from rsseg.data.files import Files
from rsseg.data.grids import brief_crs
from rsseg.data.masks import VECTORS
from rsseg.data.paths import IMAGES, files_below, path_pattern
from rsseg.data.raster import alpha_band, colour_bands, open_raster
from rsseg.data.splits import FRACTIONS, SPLITS, cut, propose_blocks
from rsseg.dataset import WINDOW_STEP
from rsseg.describe.mask_values import MANY, count_values, describe_masks, spread_out
from rsseg.files import write_text

log = logging.getLogger(__name__)

MASK_WORDS = ("mask", "label", "semantic", "annot", "ann_", "truth", "gt", "seg", "target", "reference", "lbl")
IMAGE_WORDS = ("image", "img", "rgb", "ortho", "sat", "tile", "scene", "top", "s2", "s1", "input")
INSTANCE_WORDS = ("instance", "object")  # in names of masks that number single objects, beside those of classes
WORDS = (*MASK_WORDS, *IMAGE_WORDS)
"""Words in the names of folders and files that hold masks, and images."""

WORD_FIRST = re.compile(rf"(?:(?:{'|'.join(WORDS)})[a-z]*(?:[ _-]+|(?=\d)|$))+", re.IGNORECASE)
"""The words at the start of a name, or all of it, that tell masks from images, as in mask_7, img7 and satellite_image_7."""

PATTERNS = "or give the patterns of images and masks: image='photos/{name}.tif' mask='drawn/{name}_v2.png'"  # ends a message

FOLDER_WORDS = (*MASK_WORDS, "image", "img", "ortho", "rgb")
"""Words that tell folders of masks and images apart; other folders are areas, or parts of a split."""

PART = re.compile(r"(train|val|test)(?:ing|id|idation)?(?:[_-]?(?:data|set|images|scenes))?", re.IGNORECASE)
"""The names of folders, and of lists of names, that hold a part of a split."""

PART_WORD = re.compile(rf"(?<![a-z])(?:train|val|test)(?:ing|id|idation)?(?=[^a-z]|$|{'|'.join(FOLDER_WORDS)})", re.IGNORECASE)
"""A word for a part of a split in the name of a folder, as in train_images, masks-val and TestImages."""

SENTINEL_2 = (12, 13)  # bands of its scenes, without and with band 10; blue, green and red are 2, 3 and 4

ANY = ".*"  # the ending in a pattern of images with several endings

WINDOW = 256  # the side of training windows, if scenes are not smaller

LISTED = 5  # names of files in a sentence

IN_FRACTIONS = "70 % train, 15 % validate, 15 % test, by groups"

AREAS = {
    r"([^/]+?)[ _-](?:r?\d+[ _-]c?\d+|part[ _-]?\d+|\d+)(?:[ _-][A-Za-z]+)?\.\w+$": "the part of the name before the number",
    r"([A-Za-z-]{3,})\d+\.\w+$": "the word in the name",
}
"""Usual parts of names that scenes of one area share: expressions for `dataset.source.group`, and their description."""


@dataclass(frozen=True)
class FileKind:
    """Files of one kind: in folders of one structure, usually with one ending."""

    path: str  # the pattern of their paths, with fields for folders that differ and for the name; for a single file, its path
    files: dict[tuple[str, ...], Path]  # by the values of the fields

    @property
    def fields(self) -> list[str]:
        """The fields of their paths."""
        return list(path_pattern(self.path).groupindex)

    @property
    def vectors(self) -> bool:
        """Whether they are vector files."""
        return Path(self.path).suffix.lower() in VECTORS

    @cached_property
    def drawn(self) -> bool:
        """Whether the first and the last file are vectors, or have few values, or few colours."""
        some = [path for path in (min(self.files.values()), max(self.files.values())) if not self.vectors]
        return all(open_raster(p).count in (1, 3, 4) and len(count_values(p, open_raster(p).count > 1)) <= MANY for p in some)

    @property
    def worded(self) -> int:
        """The number of mask words minus that of image words, and of words for single objects, in the path pattern."""
        others = (*IMAGE_WORDS, *INSTANCE_WORDS)
        return sum(says(self.path, [word]) for word in MASK_WORDS) - sum(says(self.path, [word]) for word in others)

    def without_ending(self) -> FileKind:
        """The same files, by their names without the ending that all names share, such as ``_lab`` or ``.jpg``."""
        names = [key[-1] for key in self.files]
        letters = takewhile(lambda own: len({*own}) == 1, zip(*(name[::-1] for name in names), strict=False))
        shared = "".join(own[0] for own in letters)[::-1]
        ending = re.search(r"[^a-z0-9].*", shared) if len(names) > 1 else None
        if ending is None:
            return self
        files = {(*key[:-1], key[-1].removesuffix(ending[0])): path for key, path in self.files.items()}
        return FileKind(self.path.replace("{name}", f"{{name}}{ending[0]}"), files)


class Discovery(NamedTuple):
    """A dataset's config, and the conclusions about its folder, one sentence each."""

    config: dict[str, Any]
    beliefs: list[str]


def discover(root: Path, image_pattern: str = "", mask_pattern: str = "") -> Discovery:
    """Find the config of a folder of images and masks; patterns that are not given are inferred."""
    root = root.expanduser().absolute()
    if not root.is_dir():
        raise InputError(f"{root}: there is no such folder")
    image, mask, kinds = given_pair(root, image_pattern, mask_pattern) if image_pattern or mask_pattern else find_pair(root)
    shared = sorted(image.files.keys() & mask.files.keys())
    images, masks = [image.files[key] for key in shared], [mask.files[key] for key in shared]
    pairs = f"{len(shared)} pairs: {len(image.files)} images are {image.path}, {len({*mask.files.values()})} masks {mask.path}."
    used = {*image.files.values(), *mask.files.values()}
    unread = [f"{len(kind.files)} {kind.path}" for kind in kinds if ANY not in kind.path and not used & {*kind.files.values()}]
    if unread:
        pairs += f" Not used: {', '.join(sorted(unread)[:LISTED])}."
    if len(shared) == 1:
        image, mask = (
            FileKind(files[0].relative_to(root).as_posix(), kind.files) for kind, files in ((image, images), (mask, masks))
        )
        pairs = f"One image has a mask: {image.path}, {mask.path}."
    of_source: dict[str, Any] = {}
    if masks[0].suffix.lower() in VECTORS:
        from rsseg.describe.vector_labels import describe_vectors  # its libraries take 70 MB

        labels, of_source, of_masks = describe_vectors(spread_out(list(dict.fromkeys(masks))))
    else:
        labels, of_masks = describe_masks(masks)
    smallest = min(min(open_raster(path).shape) for path in spread_out(images))
    split: dict[str, Any] | None
    untested = ""
    if len(shared) == 1:
        split, of_split = find_blocks(images[0])
        smallest, only, group, of_group = split["blocks"] - split["buffer"], "", None, ""
    else:
        split, only, of_split = find_split(root, image, shared)
        read = [path.relative_to(root).as_posix() for key, path in image.files.items() if not only or only in key[:-1]]
        group, of_group = find_group(read, 2 if split else len(FRACTIONS), image.path)
        if "test" not in split if split else len(shared) < len(FRACTIONS):
            untested = "There is no test part: rsseg evaluate takes split=val, or name scenes in source.split.test."
    source = {
        "root": str(root),
        "image": image.path.replace("{part}", only or "{part}"),
        "mask": mask.path.replace("{part}", only or "{part}"),
        **({"threshold": labels.pop("threshold")} if "threshold" in labels else {}),
        **of_source,
        "group": group,
        "split": split,
    }
    try:
        scenes = Files(**source)
        scenes.split.of("train", scenes.every)
    except InputError as error:
        if not split or "blocks" in split:
            raise
        source["split"], of_split, untested = None, f"No split is found: {IN_FRACTIONS}. {error}", ""
    plain = unicodedata.normalize("NFKD", root.name).encode("ascii", "ignore").decode()  # a command line takes it as it stands
    name = re.sub(r"\W+", "_", plain.lower()).strip("_") or "mine"
    if is_shipped(name) or not name[0].isalpha() or name in ("null", "true", "false", "yes", "no", "on", "off"):
        name = f"my_{name}"
    node = {"_target_": "rsseg.data.files.Files", **source}
    rgb, of_images = describe_images(images)
    window = max(WINDOW_STEP, min(WINDOW, smallest // WINDOW_STEP * WINDOW_STEP))
    config = {"name": name, **labels, "bands": None, "rgb": rgb, "window": window, "steps": 2000, "source": node}
    return Discovery(config, [*filter(None, [pairs, *of_masks, *of_images, of_split, untested, of_group])])


def add_dataset(
    folder: Path, into: Path, name: str = "", image: str = "", mask: str = "", settings: Mapping[str, Any] | None = None
) -> str:
    """Write the config of a folder of images and masks, unless one of this name exists, and log the conclusions.

    Args:
        folder: The folder.
        into: Where the config is written.
        name: The dataset's name; empty: the folder's name.
        image: The pattern of the images' paths, as in a config; empty: it is inferred.
        mask: The pattern of the masks' paths; empty: it is inferred.
        settings: Settings of the config by their dotted keys, which replace those that are found.

    Returns:
        The dataset's name.

    Raises:
        InputError: If the folder holds no training data, or an image pattern is given but the config exists already.
        UnwritableError: If the config can't be written.
    """
    config, beliefs = discover(folder, image, mask)
    config["name"] = name = name or str(config["name"])
    if is_shipped(name):
        raise InputError(f"name={name}: rsseg has a dataset of this name: choose another")
    path = into / f"{name}.yaml"
    if image and path.exists():
        raise InputError(f"{path} is there already: remove it to have it written anew; dataset={name} describes it as it is")
    written = OmegaConf.create(config)
    for key, value in (settings or {}).items():
        OmegaConf.update(written, key, value, merge=False)
    log.info("\n".join(beliefs))
    if path.exists():
        log.info("%s is there already and is used as it is: remove it to have it written again.", path)
    else:
        found = "".join(f"# - {belief}\n" for belief in beliefs)
        head = f"# Found in {config['source']['root']} by rsseg describe; correct it where it is wrong:\n{found}"
        write_text(path, head + OmegaConf.to_yaml(written))
        log.info("Config: %s. Look whether this is right, and give the classes their names.", path)
    return name


def is_shipped(name: str) -> bool:
    """Whether rsseg itself has a dataset of this name."""
    return (CONFIGS / "dataset" / f"{name}.yaml").is_file()


def find_kinds(root: Path, by_start: bool = False, by_folder: bool = False) -> list[FileKind]:
    """Group images and vector files below a folder by depth, ending, and the mask and image words in their paths.

    Words are looked for in folders, at the end of names and, with `by_start`, at their start. With `by_folder`, folders without
    such words separate kinds too. Images that differ only in their endings are also one joint kind.
    """
    kinds: dict[tuple[object, ...], dict[str, list[PurePosixPath]]] = {}
    for path in files_below(root):
        if path.suffix.lower() in IMAGES | VECTORS:
            place = PurePosixPath(path.relative_to(root).as_posix())
            folders = [parted(name).lower() for name in place.parts[:-1]]
            worded = [(level, name) for level, name in enumerate(folders) if says(name, FOLDER_WORDS)]
            head, last = map(str.lower, find_affixes(place.stem, by_start))
            endings = kinds.setdefault((len(folders), *(worded or folders[-1:] * by_folder), head, last), {})
            endings.setdefault(place.suffix, []).append(place)
    by_ending = [places for endings in kinds.values() for places in endings.values()]
    every = [place for places in by_ending for place in places]
    if len(every) == 2:  # whatever they are called
        return [FileKind(str(place), {("",): root / place}) for place in every]
    found = [_kind(root, places, by_start) for places in by_ending]
    for endings in kinds.values():
        places = list(chain(*endings.values()))
        joint = _kind(root, places, by_start)
        if len(endings) > 1 and len(joint.files) == len(places) and not VECTORS & {ending.lower() for ending in endings}:
            found.append(joint)
    return found


def part_of(name: str) -> str:
    """The part of a split that a name stands for; empty: none.

    Example:
        >>> part_of("Training"), part_of("val"), part_of("test_data"), part_of("valley")
        ('train', 'val', 'test', '')
    """
    found = PART.fullmatch(name)
    return found[1].lower() if found else ""


def parted(folder: str) -> str:
    """The name of a folder with the field `part` in place of its word for a part of a split.

    Example:
        >>> parted("Training"), parted("train_images"), parted("masks-val"), parted("valley"), parted("test_data")
        ('{part}', '{part}_images', 'masks-{part}', 'valley', '{part}_data')
    """
    return PART_WORD.sub("{part}", folder, count=1)


def says(name: str, words: Iterable[str]) -> bool:
    """Whether a name contains one of some words; words of fewer than three letters have to be separate."""
    tokens = re.split(r"[^a-z0-9]+", name.lower())
    return any(word in tokens if len(word) < 3 else word in name.lower() for word in words)


def find_affixes(stem: str, by_start: bool) -> tuple[str, str]:
    """The words at the start of a name, with `by_start`, and at its end that tell masks from images."""
    first = WORD_FIRST.match(stem) if by_start else None
    head, last = first[0] if first else "", ""
    while (found := re.search(r"[ _-][A-Za-z0-9]+$", stem[len(head) :].removesuffix(last))) and says(found[0], WORDS):
        last = found[0] + last
    return head, last


def _kind(root: Path, places: Sequence[PurePosixPath], by_start: bool) -> FileKind:
    """The kind of files that lie in folders of one depth."""
    pattern = list[str]()
    for names in zip(*(place.parts[:-1] for place in places), strict=True):
        shared = {parted(name).lower(): parted(name) for name in names}
        if len(shared) == 1:
            pattern += shared.values()
            continue
        areas = sum("{area" in name for name in pattern)
        pattern.append(f"{{area{areas + 1 if areas else ''}}}")
    folder = path_pattern("/".join(pattern))
    (head, last), endings, files = find_affixes(places[0].stem, by_start), {place.suffix for place in places}, {}
    for place in places:
        name = place.stem[len(head) : len(place.stem) - len(last)]
        if found := folder.fullmatch(place.parent.as_posix() if pattern else ""):  # else the parts of its folders differ
            files[*found.groups(), name.lower()] = root / place
    pattern.append(f"{head}{'{name}' * bool(name)}{last}{ANY if len(endings) > 1 else places[0].suffix}")
    return FileKind("/".join(pattern), files)


def given_pair(root: Path, image: str, mask: str) -> tuple[FileKind, FileKind, list[FileKind]]:
    """The images and masks that fit a user's patterns, and the kinds of all files."""
    if not image or not mask:
        raise InputError("give both patterns, image=... and mask=..., or none of them")
    source = Files(str(root), image, mask, split={"train": 1.0}, on_missing="skip")
    masks = {key: own.path for key, scene in zip(source.images, source.every, strict=True) if (own := scene.mask_of(0))}
    if not masks:
        raise InputError(f"{root}: no file fits mask={mask} with the fields of an image that fits image={image}")
    if not {*masks.values()}.isdisjoint(source.images.values()):
        raise InputError(f"image={image} and mask={mask} fit the same files: the patterns have to tell images from masks")
    return FileKind(image, source.images), FileKind(mask, masks), find_kinds(root)


def find_pair(root: Path) -> tuple[FileKind, FileKind, list[FileKind]]:
    """The images and the masks that belong together, and all kinds; kinds are split further until some of them pair."""
    for by_start, by_folder, by_ending in (
        (False, False, False),
        (True, False, False),
        (False, True, False),
        (False, True, True),
    ):
        kinds = find_kinds(root, by_start, by_folder)
        kinds = [kind.without_ending() for kind in kinds] if by_ending else kinds
        if len(kinds) < 100 and (pair := best_pair(root, kinds)):  # more folders are areas
            return *pair, kinds
    there = "; ".join(f"{len(kind.files)} {kind.path}" for kind in kinds[:LISTED])
    raise InputError(
        f"{root}: no images and masks of equal names are found ({there or 'no images at all'}): rename them, as x.tif and "
        f"x_mask.tif or in folders images and masks, {PATTERNS}"
    )


def best_pair(root: Path, kinds: Sequence[FileKind]) -> tuple[FileKind, FileKind] | None:
    """The kinds of images and masks that belong together; None if there are none.

    Words and values tell masks from images; what has few colours is no image if there are others. Among several datasets in the
    folder the one with the most pairs is taken; in a tie, the one with the fewest files without a partner.
    """
    pairs = []
    for image, mask in permutations(kinds, 2):
        shared = len(image.files.keys() & mask.files.keys())
        if not shared and mask.vectors and len(mask.files) == 1:  # one for all images
            (file,) = mask.files.values()
            mask, shared = FileKind(file.relative_to(root).as_posix(), dict.fromkeys(image.files, file)), len(image.files)
        alike = (image.fields == mask.fields or not mask.fields) and {*image.files.values()}.isdisjoint(mask.files.values())
        if alike and 2 * shared >= len(mask.files) and not image.vectors:
            likely = mask.worded - image.worded, mask.drawn > image.drawn, shared, -len(image.files) - len(mask.files)
            pairs += [(likely, image, mask)] if likely[0] > 0 or likely[1] else []
    if not pairs:
        return None
    most = max(likely[2] for likely, *_ in pairs)
    _, image, mask = max(pairs, key=lambda pair: (2 * pair[0][2] >= most, not pair[1].drawn, *pair[0]))
    return image, mask


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
        shown = "Bands are taken for those of Sentinel-2: pictures show 4, 3, 2 as red, green and blue"
        return [4, 3, 2], [*beliefs, f"{shown}; rgb in the config changes it."]
    said = (
        "Bands have no names of colours: pictures show 1, 2, 3 as red, green and blue; if blue comes first, set rgb: [3, 2, 1]."
    )
    return None, [*beliefs, said]


def find_blocks(image: Path) -> tuple[dict[str, Any], str]:
    """The split of a single image into spatial blocks, and the conclusion."""
    shape = open_raster(image).shape
    split = propose_blocks(shape)
    side, buffer = split["blocks"], split["buffer"]
    if len(cut(shape[0], side)) + len(cut(shape[1], side)) < 6:  # two rows and two columns
        raise InputError(
            f"only {image} has a mask, and its {shape[1]} x {shape[0]} px are too few to be split into blocks that train and "
            "others that validate: label a larger image, or more of them, " + PATTERNS
        )
    belief = (
        f"It is cut into blocks of about {side} px, with {buffer} px between those of different splits: 70 % train, 15 % "
        "validate, 15 % test. Blocks of one image are not other places: scores say how well the rest of this image is mapped, "
        "not how well another one. Label a second image to learn that."
    )
    return split, belief


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
    for path in sorted(files_below(root)):
        if path.suffix.lower() in (".csv", ".txt") and (part := part_of(path.stem)):
            found.setdefault(path.parent, {})[part] = path.relative_to(root).as_posix()
    lists = next((own for own in found.values() if {"train", "val"} <= own.keys()), {})
    if lists:
        return dict(lists), only, f"The lists {', '.join(lists.values())} are the split."
    return None, only, f"No split is found: {IN_FRACTIONS}."


def find_group(paths: Sequence[str], least: int, pattern: str = "") -> tuple[str | None, str]:
    """An expression for the part of a path that scenes of one area share, such as a folder, or None; and the conclusion."""
    looked_for = {"(.*)/": "a folder"} | AREAS if re.search(r"\{(?!part\}).*/", pattern) else AREAS
    for expression, what in looked_for.items():
        found = [match[1] for path in paths if (match := re.search(expression, path, re.IGNORECASE))]
        areas = len(set(found))
        if len(found) == len(paths) and least <= areas <= len(paths) / 2 and not all(map(part_of, found)):
            return expression, f"Scenes of one area share {what}: {areas} areas, such as {found[0]}."
    return None, "Every scene is taken for an area of its own; dataset.source.group names areas of several scenes."
