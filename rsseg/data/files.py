"""Scenes in files: images and masks paired by the parts of their paths. Most datasets are this and a few lines of YAML."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from rsseg.contract import InputError, counted
from rsseg.data.groups import find_groups, group_names
from rsseg.data.masks import VECTORS, Burn, is_vector, text_of
from rsseg.data.paths import IMAGES, files_below, find, fits_any, path_pattern, unique_names
from rsseg.data.raster import check_parts, open_raster
from rsseg.data.remote import fetch
from rsseg.data.scene import Mask, Scene, Source
from rsseg.data.splits import Split, propose_blocks
from rsseg.files import is_remote

log = logging.getLogger(__name__)

Images: TypeAlias = dict[tuple[str, ...], Path]  # files by the values of the image pattern's fields

PAIR = re.compile(r"\s*(.*?)\s*:\s*(-?\d+)\s*")
"""An entry of `values` as text, such as "house: 1"; Hydra's mappings take no accents in their keys."""


def mask_settings(
    place: str,
    mask: str = "",
    attribute: str | None = None,
    values: Any = None,
    layer: str | None = None,
    threshold: float | None = None,
    buffer: float | None = None,
) -> Mask:
    """What a config says of a target's files, at this place of the dataset; the path is the pattern of theirs."""
    values = {} if values is None else values
    if isinstance(values, list):
        pairs = [PAIR.fullmatch(str(pair)) for pair in values]
        values = {pair[1]: int(pair[2]) for pair in pairs if pair} if all(pairs) else values
    if not isinstance(values, Mapping) or not all(type(value) is int for value in values.values()):
        raise InputError(f"dataset.{place}.values={values}: a mapping such as {{building: 1, road: 2}} is expected")
    if values and attribute is None:
        raise InputError(f"dataset.{place}.values says what an attribute's values mean: name it in dataset.{place}.attribute")
    if not mask:
        raise InputError(f"dataset.{place}.mask is not set: give the pattern of the target's paths, such as masks/{{name}}.tif")
    if threshold is not None and not isinstance(threshold, int | float):
        raise InputError(f"dataset.{place}.threshold={threshold}: a number is expected, above which a pixel is 1")
    if buffer is not None and (not isinstance(buffer, int | float) or not 0 <= buffer < math.inf):
        raise InputError(f"dataset.{place}.buffer={buffer}: metres are expected, by which features are widened")
    table = tuple((text_of(name), value) for name, value in values.items())
    burn = Burn(attribute, table, None if layer is None else str(layer), float(buffer or 0))
    return Mask(Path(mask), burn, threshold)


def mask_at(path: Path, settings: Mask) -> Mask:
    """A file of a target with these settings, of which those of vectors do not concern rasters, nor the other way round."""
    return Mask(path, settings.burn) if is_vector(path) else Mask(path, threshold=settings.threshold)


def by_letters(keys: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], list[tuple[str, ...]]]:
    """The values of fields by what they are in lower case."""
    found: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for key in keys:
        found.setdefault(tuple(map(str.lower, key)), []).append(key)
    return found


class Files(Source):
    """Images and masks in files, paired by the fields of their paths: most datasets, and the user's own.

    A scene's name is the values of the image pattern's fields, joined by "-"; without fields, the file's name.

    Args:
        root: The folder that holds everything; or what `rsseg.data.remote.fetch` copies: an archive, a URL.
        image: The images' paths below it, as `path_pattern` reads them; or a list of patterns: the files whose bands are
            stacked in this order, the first of which decide what scenes there are and on which pixel grid.
        mask: The masks' paths, rasters or vectors. Here and in the further images all or some of the fields may stand: a
            file with fewer belongs to all scenes that share them, one without any to all.
        targets: Of several targets what this says of each, by name, instead: ``mask`` and, of vectors, ``attribute`` and
            ``values``. A scene may lack some of them.
        split: As `Split` takes it.
        attribute: Of vector masks, the attribute that holds a feature's mask value; None: 1 for every feature.
        values: The mask value for each of the attribute's values, where they are not integers already: a mapping, or a list
            such as ``["house: 1", "road: 2"]``.
        layer: Of vector masks with several layers, the one that is read.
        buffer: Of vector masks, by how many metres on the ground features are widened.
        threshold: Of raster masks, the value above which a pixel is 1, and else 0.
        on_missing: What becomes of images without a file to stack, of images to train or validate on without a mask, and of
            listed names without an image: ``raise`` refuses them, ``skip`` leaves them out and says how many.
        published: How many images the dataset has in full; fewer are reported, unless its test part is not there.
        weight: The paths of rasters that say what each pixel counts for in the loss, paired as the masks are. Pixels of an
            image that none fits count 1; None: all do.
        group: The independent area that a scene lies in, as `find_groups` takes it; None: every scene is one of its own.

    Raises:
        InputError: If there is no such folder or no image in it, or the split or the groups can't be understood.
    """

    def __init__(
        self,
        root: str,
        image: str | Sequence[str],
        mask: str = "",
        split: Mapping[str, float | str | Sequence[str] | None] | None = None,
        attribute: str | None = None,
        values: Mapping[Any, int] | Sequence[str] | None = None,
        layer: str | None = None,
        buffer: float | None = None,
        threshold: float | None = None,
        on_missing: str = "raise",
        published: int | None = None,
        weight: str | None = None,
        targets: Mapping[str, Mapping[str, Any]] | None = None,
        group: str | float | None = None,
    ) -> None:
        patterns = [image] if isinstance(image, str) else list(image)
        one = {"mask": mask, "attribute": attribute, "values": values, "layer": layer, "buffer": buffer, "threshold": threshold}
        beside = [setting for setting, given in one.items() if setting != "mask" and given is not None]
        if targets and beside:
            raise InputError(
                f"dataset.source.{beside[0]} beside dataset.targets: set it for a target, dataset.targets.<name>.{beside[0]}"
            )
        of_targets = {f"targets.{name}": own for name, own in targets.items()} if targets else {"source": one}
        settings = {place: mask_settings(place, **own) for place, own in of_targets.items()}
        self.masks = {place: str(own["mask"]) for place, own in of_targets.items()}
        if not patterns:
            raise InputError("dataset.source.image=[]: list one pattern of paths at least")
        fits = fits_any([*patterns, *self.masks.values(), *([weight] if weight else [])])
        self.root = fetch(root, fits) if is_remote(root) else Path(root).expanduser()
        if not self.root.is_dir():
            raise InputError(
                f"there is no folder {self.root}: set dataset.source.root, or RSSEG_DATA to the folder that holds your datasets"
            )
        if on_missing not in ("raise", "skip"):
            raise InputError(f"dataset.source.on_missing={on_missing}: raise or skip is expected")
        self.skip = on_missing == "skip"
        self.split = Split(split, self.root, self.skip)
        if group is not None and self.split.side and self.split.buffer:
            raise InputError(
                f"dataset.source.group={group}: blocks with a buffer between them are groups of their own; leave one out"
            )
        self.image, self.fields = patterns[0], list(path_pattern(patterns[0]).groupindex)
        images = find(self.root, self.image)
        if not images:
            there = [path.relative_to(self.root).as_posix() for path in islice(files_below(self.root), 3)]
            held = f"; it holds {', '.join(there)}, ..." if there else ""
            raise InputError(f"no image below {self.root} fits dataset.source.image={self.image}{held}{self._archives()}")
        stacks = [self._stacked(images, pattern) for pattern in patterns[1:]]
        masks = [self._masks(images, place, pattern, settings[place]) for place, pattern in self.masks.items()]
        weights = self._weights(images, weight) if weight is not None else {}
        names = dict(zip(images, unique_names(images), strict=True))
        whole = {fields: path for fields, path in images.items() if all(fields in files for files in stacks)}
        groups = find_groups(group, self.fields, whole, self.root)
        self._all = []
        for (fields, path), area in zip(whole.items(), groups, strict=True):
            stack = tuple(files[fields] for files in stacks)
            own = tuple(files.get(fields) for files in masks)
            scene = Scene(names[fields], path, own, stack, weight=weights.get(fields), group=area)
            for file in scene.files:
                if file.suffix.lower() == ".vrt":
                    check_parts(file, self.root)
            self._all.append(scene)
        if published and len(images) < published and self._tests():
            found = "%d of the %d published images are below %s%s"
            log.warning(found, len(images), published, self.root, self._archives())

    def _tests(self) -> bool:
        """Whether any image is for testing."""
        with suppress(InputError):  # `scenes` tells it
            return bool(self.split.side) or "test" in self.split.owners(self._all).values()
        return True

    def _partners(self, images: Images, pattern: str, what: str, endings: frozenset[str] = IMAGES) -> Images:
        """The files that fit another pattern with the values of images' fields, by these, as far as they are there."""
        own = list(path_pattern(pattern).groupindex)
        if set(own) - set(self.fields):
            raise InputError(
                f"dataset.source.image={self.image} and dataset.{what}={pattern} pair files by their fields, such "
                f"as {{name}}: those of the second must stand in the first; found {sorted(self.fields)} and {sorted(own)}"
            )
        there, places = find(self.root, pattern, endings), [self.fields.index(field) for field in own]
        wanted = {fields: tuple(fields[place] for place in places) for fields in images}
        partners = {key: there[key] for key in {*wanted.values()} & there.keys()}
        alone = by_letters({*wanted.values()} - partners.keys()), by_letters(there.keys() - partners.keys())
        for letters, keys in alone[0].items():  # those whose names differ in upper and lower case alone
            if len(keys) == len(alone[1].get(letters, [])) == 1:
                partners[keys[0]] = there[alone[1][letters][0]]
        return {fields: partners[key] for fields, key in wanted.items() if key in partners}

    def _masks(self, images: Images, place: str, pattern: str, settings: Mask) -> dict[tuple[str, ...], Mask]:
        """As `_partners`, a target's files."""
        files = self._partners(images, pattern, f"{place}.mask", IMAGES | VECTORS)
        buffer = settings.burn.buffer if settings.burn else 0
        if files and buffer and not any(map(is_vector, files.values())):
            raise InputError(
                f"dataset.{place}.buffer={buffer:g} widens features of vectors, but all masks are rasters, such as "
                f"{next(iter(files.values()))}: leave it out"
            )
        return {fields: mask_at(path, settings) for fields, path in files.items()}

    def _stacked(self, images: Images, pattern: str) -> Images:
        """As `_partners`, where none may be missing unless it is to be skipped."""
        files = self._partners(images, pattern, "source.image")
        alone = [path for fields, path in images.items() if fields not in files]
        if alone:
            self._refuse(
                f"{len(alone)} of {len(images)} images below {self.root} have no file to stack that fits "
                f"dataset.source.image={pattern}, first {alone[0]}",
                every=not files,
            )
        return files

    def _weights(self, images: Images, pattern: str) -> Images:
        """As `_partners`, where one at least has to be there."""
        files = self._partners(images, pattern, "source.weight")
        if not files:
            raise InputError(
                f"no file below {self.root} fits dataset.source.weight={pattern} for any of {len(images)} images"
                f"{self._archives()}"
            )
        if len(files) < len(images):
            log.info("%d of %d images have a weight; all pixels of the others count 1.", len(files), len(images))
        return files

    def _refuse(self, fault: str, every: bool) -> None:
        """Raise an error about files that are missing, or say that what needs them is left out, unless that is every image."""
        if every or not self.skip:
            raise InputError(f"{fault}{self._archives()}")
        log.warning("%s; left out (dataset.source.on_missing=skip).", fault)

    def _archives(self) -> str:
        """The end of a message about files that are not there."""
        packed = sorted(p.name for p in self.root.iterdir() if p.name.endswith((".zip", ".tar", ".tar.gz", ".tgz", ".7z")))
        if packed:
            return f"; there are archives: extract {', '.join(packed[:5])} there"
        return ": is it the right folder, and was the archive extracted whole?"

    def scenes(self, split: str) -> list[Scene]:
        """The scenes of train, val or test, sorted by name; there has to be one, and those of train and val need masks."""
        found = self.split.of(split, self._all)
        if not found and split in self.split.parts:
            groups = len(set(group_names(self._all)))
            blocks = str(propose_blocks(open_raster(self._all[0].image).shape)).replace("'", "")
            few = f"; an image can be split into blocks: {blocks}"
            if groups < len(self._all):
                few = f"; they lie in {counted(groups, 'group')} (dataset.source.group), and fractions do not cut one"
            raise InputError(
                f"no scene of the {split} split is below {self.root}: "
                f"dataset.source.split.{split}={self.split.parts[split]} fits none of the "
                f"{len(self._all)} images, such as {self._all[0].name}"
                f"{few if self.split.kind == 'fractions' else self._archives()}"
            )
        if split == "test":
            return found
        patterns = [f"dataset.{place}.mask={pattern}" for place, pattern in self.masks.items()]
        bare = [scene for scene in found if not any(scene.masks)]
        if bare:
            self._refuse(
                f"{len(bare)} of {len(found)} {split} images below {self.root} have no mask that fits "
                f"{' or '.join(patterns)}, first {bare[0].image}",
                every=len(bare) == len(found),
            )
            found = [scene for scene in found if any(scene.masks)]
        for number, pattern in enumerate(patterns):
            there = sum(scene.masks[number] is not None for scene in found)
            if there < len(found):
                log.info("%d of %d %s images have a mask that fits %s.", there, len(found), split, pattern)
        return found
