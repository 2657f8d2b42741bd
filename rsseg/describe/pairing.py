"""Images and masks of a folder, told apart and paired by the words and patterns of their paths."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, permutations, takewhile
from pathlib import Path, PurePosixPath

from rsseg.contract import InputError
from rsseg.data.files import Files
from rsseg.data.masks import VECTORS
from rsseg.data.paths import IMAGES, files_below, path_pattern
from rsseg.data.raster import open_raster
from rsseg.describe.mask_values import MANY, count_values

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

ANY = ".*"  # the ending in a pattern of images with several endings

LISTED = 5  # names of files in a sentence


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


def given_pair(root: Path, images: Sequence[str], mask: str) -> tuple[FileKind, FileKind, list[FileKind]]:
    """The images and masks that fit a user's patterns, of which several stack images, and the kinds of all files."""
    image = images[0]
    if not image or not mask:
        raise InputError("give both patterns, image=... and mask=..., or none of them")
    source = Files(str(root), images, mask, split={"train": 1.0}, on_missing="skip")
    keys = {path: key for key, path in source.images.items()}
    masks = {keys[scene.image]: own.path for scene in source.every if (own := scene.mask_of(0))}
    if not masks:
        raise InputError(f"{root}: no file fits mask={mask} with the fields of an image that fits image={image}")
    if not {*masks.values()}.isdisjoint(source.images.values()):
        raise InputError(f"image={image} and mask={mask} fit the same files: the patterns have to tell images from masks")
    return FileKind(image, source.images), FileKind(mask, masks), find_kinds(root) if len(images) == 1 else []


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
