"""Scenes in files: images and masks paired by the parts of their paths. Most datasets need only this and some lines of YAML."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from rsseg.contract import InputError, check_number, counted, nearest
from rsseg.data.groups import find_groups, group_names
from rsseg.data.masks import VECTORS, Mask, text_of
from rsseg.data.paths import IMAGES, files_below, find_files, fits_any, path_pattern, unique_names
from rsseg.data.raster import check_parts, open_raster
from rsseg.data.remote import fetch
from rsseg.data.scene import Scene, Source
from rsseg.data.splits import Split, propose_blocks
from rsseg.files import is_archive, is_remote
from rsseg.quiet import warn_once

log = logging.getLogger(__name__)

Fields: TypeAlias = tuple[str, ...]  # the values of the image pattern's fields

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
    """A target's mask settings from the config; `path` is the pattern of its files."""
    values = {} if values is None else values
    if isinstance(values, list):
        pairs = [PAIR.fullmatch(str(pair)) for pair in values]
        values = {pair[1]: int(pair[2]) for pair in pairs if pair} if all(pairs) else values
    if not isinstance(values, Mapping) or not all(type(value) is int for value in values.values()):
        raise InputError(f"dataset.{place}.values={values}: a mapping such as {{building: 1, road: 2}} is expected")
    if values and attribute is None:
        raise InputError(f"dataset.{place}.values maps an attribute's values: name it in dataset.{place}.attribute")
    if not mask:
        raise InputError(f"dataset.{place}.mask is not set: give the pattern of the target's paths, such as masks/{{name}}.tif")
    if threshold is not None:
        threshold = check_number(f"dataset.{place}.threshold", threshold, -math.inf)
    return Mask(
        Path(mask),
        threshold,
        attribute,
        tuple((text_of(name), value) for name, value in values.items()),
        None if layer is None else str(layer),
        check_number(f"dataset.{place}.buffer", buffer or 0),
    )


def by_letters(keys: Iterable[Fields]) -> dict[Fields, list[Fields]]:
    """Group tuples of field values by their lower case."""
    found: dict[Fields, list[Fields]] = {}
    for key in keys:
        found.setdefault(tuple(map(str.lower, key)), []).append(key)
    return found


class Files(Source):
    """Images and masks in files, paired by the fields of their paths: most datasets, and the user's own.

    A scene's name is the values of the image pattern's fields, joined by "-"; without fields, the file's name.

    Args:
        root: The folder that holds everything; or an archive or URL, which `rsseg.data.remote.fetch` copies.
        image: The pattern of the images' paths below `root`, see `path_pattern`. A list of patterns stacks the bands of
            several files in this order; the files of the first pattern define the scenes and their pixel grids.
        mask: The pattern of the masks' paths, rasters or vectors. It may have only some of the image's fields, like further
            image patterns: a file then belongs to all scenes with the same values, a file without fields to all scenes.
        targets: For several targets, by name, each one's ``mask``, ``attribute``, ``values``, ``layer``, ``buffer`` and
            ``threshold``, instead of these arguments. A scene may lack some of the targets.
        split: See `Split`.
        attribute: For vector masks, the attribute that holds a feature's mask value; None: 1 for every feature.
        values: The mask value for each of the attribute's values, where they are not integers already: a mapping, or a list
            such as ``["house: 1", "road: 2"]``.
        layer: For vector masks with several layers, the layer to read.
        buffer: For vector masks, the distance in metres on the ground by which features are widened.
        threshold: For raster masks, the value above which a pixel is 1; other pixels are 0.
        on_missing: The treatment of images without a file to stack, of images to train or validate on without a mask, and of
            listed names without an image: ``raise`` refuses them, ``skip`` leaves them out and says how many.
        published: The number of images in the complete dataset; a warning tells if there are fewer.
        weight: The pattern of rasters with the weight of each pixel in the loss, paired like the masks. Pixels of an
            image without one have the weight 1; None: all pixels have.
        group: The independent area of a scene, see `find_groups`; None: every scene is its own group.

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
        self.masks = {place: mask_settings(place, **own) for place, own in of_targets.items()}
        if not patterns:
            raise InputError("dataset.source.image=[]: list one pattern of paths at least")
        if on_missing not in ("raise", "skip"):
            raise InputError(f"dataset.source.on_missing={on_missing}: raise or skip is expected")
        self.skip = on_missing == "skip"
        of_masks = [own.path.as_posix() for own in self.masks.values()]
        fits = fits_any([*patterns, *of_masks, *filter(None, [weight])])
        self.root = fetch(root, fits) if is_remote(root) else Path(root).expanduser()
        if not self.root.is_dir():
            raise InputError(f"there is no folder {self.root}: set dataset.source.root, of a finished run in its config.yaml")
        self.split = Split(split, self.root, self.skip)
        if group is not None and self.split.side and self.split.buffer:
            raise InputError(
                f"dataset.source.group={group}: blocks with a buffer between them are groups of their own; leave one out"
            )
        self.image, self.fields = patterns[0], list(path_pattern(patterns[0]).groupindex)
        self.images = find_files(self.root, self.image)
        if not self.images:
            there = [path.relative_to(self.root).as_posix() for path in islice(files_below(self.root), 3)]
            held = f"; it holds {', '.join(there)}, ..." if there else ""
            raise InputError(f"no image below {self.root} fits dataset.source.image={self.image}{held}{self._archives()}")
        masks = [self._masks(place, own) for place, own in self.masks.items()]
        of_another = {mask.path for own in masks for fields, mask in own.items() if mask.path != self.images[fields]}
        self.images = {fields: path for fields, path in self.images.items() if path not in of_another}
        stacks = [self._stacked(pattern) for pattern in patterns[1:]]
        weights = self._weights(weight) if weight is not None else {}
        names = dict(zip(self.images, unique_names(self.images), strict=True))
        whole = {fields: path for fields, path in self.images.items() if all(fields in files for files in stacks)}
        self.every = []
        for (fields, path), area in zip(whole.items(), find_groups(group, self.fields, whole, self.root), strict=True):
            stack, own = tuple(files[fields] for files in stacks), tuple(files.get(fields) for files in masks)
            self.every.append(Scene(names[fields], path, own, stack, weight=weights.get(fields), group=area))
        for file in (file for scene in self.every for file in scene.files if file.suffix.lower() == ".vrt"):
            check_parts(file, self.root)
        if published and len(self.images) < published:
            found = "%d of the %d published images are below %s%s"
            log.warning(found, len(self.images), published, self.root, self._archives())

    def _partners(self, setting: str, pattern: str, endings: frozenset[str] = IMAGES) -> dict[Fields, Path]:
        """The existing files that fit another pattern with the field values of an image, by the field values of the image."""
        own = list(path_pattern(pattern).groupindex)
        if unknown := sorted(set(own) - set(self.fields)):
            raise InputError(
                f"dataset.{setting}={pattern} has the field {unknown[0]}{nearest(unknown[0], self.fields)}, which "
                f"dataset.source.image={self.image} lacks: files are paired by equal fields, so the image has to have all of "
                f"them; its fields are {', '.join(self.fields) or 'none'}"
            )
        there, places = find_files(self.root, pattern, endings), [self.fields.index(field) for field in own]
        wanted = {fields: tuple(fields[place] for place in places) for fields in self.images}
        files, keys = by_letters(there), by_letters(dict.fromkeys(wanted.values()))
        for letters, alike in keys.items():
            if len(alike) == len(files.get(letters, [])) == 1:  # else upper and lower case tell them apart
                there.setdefault(alike[0], there[files[letters][0]])
        return {fields: there[key] for fields, key in wanted.items() if key in there}

    def _masks(self, place: str, own: Mask) -> dict[Fields, Mask]:
        """A target's masks by the field values of the image, see `_partners`."""
        files = self._partners(f"{place}.mask", own.path.as_posix(), IMAGES | VECTORS)
        masks = {fields: replace(own, path=path) for fields, path in files.items()}
        if masks and own.buffer and not any(mask.vector for mask in masks.values()):
            raise InputError(
                f"dataset.{place}.buffer={own.buffer:g} widens features of vectors, but all masks are rasters, such as "
                f"{next(iter(files.values()))}: leave it out"
            )
        return masks

    def _stacked(self, pattern: str) -> dict[Fields, Path]:
        """Further files to stack, see `_partners`; a missing file is refused unless `on_missing` is skip."""
        files = self._partners("source.image", pattern)
        alone = [path for fields, path in self.images.items() if fields not in files]
        if alone:
            self._refuse(
                f"{len(alone)} of {len(self.images)} images below {self.root} have no file to stack that fits "
                f"dataset.source.image={pattern}, first {alone[0]}",
                every=not files,
            )
        return files

    def _weights(self, pattern: str) -> dict[Fields, Path]:
        """Weight files, see `_partners`; at least one must exist."""
        files = self._partners("source.weight", pattern)
        if not files:
            self._refuse(f"no file below {self.root} fits dataset.source.weight={pattern} for any image", every=True)
        if len(files) < len(self.images):
            log.info("%d of %d images have a weight; all pixels of the others count 1.", len(files), len(self.images))
        return files

    def _refuse(self, fault: str, every: bool) -> None:
        """Raise an error about missing files; if `on_missing` is skip, warn instead, unless `every` image is affected."""
        if every or not self.skip:
            add = ": add them, or leave these images out by dataset.source.on_missing=skip"
            raise InputError(f"{fault}{self._archives() if every else add}")
        warn_once(log, f"{fault}; left out (dataset.source.on_missing=skip).")

    def _archives(self) -> str:
        """The end of a message about missing files."""
        packed = sorted(path.name for path in self.root.iterdir() if is_archive(path.name))
        if packed:
            return f"; there are archives: extract {', '.join(packed[:5])} there"
        return ": is it the right folder, and was the archive extracted whole?"

    def scenes(self, split: str) -> list[Scene]:
        """The scenes of train, val or test, sorted by name; there has to be one, and those of train and val need masks."""
        found, every = self.split.of(split, self.every), self.every
        if not found and split in self.split.parts:
            way_out = self._archives()
            if self.split.kind == "fractions":
                blocks = str(propose_blocks(open_raster(every[0].image).shape)).replace("'", "")
                way_out = (
                    f", which lie in {counted(len(set(group_names(every))), 'group')} (dataset.source.group): fractions never "
                    f"divide a group; split the images into blocks, {blocks}, or into smaller ones"
                )
            raise InputError(
                f"no scene of the {split} split is below {self.root}: dataset.source.split.{split}={self.split.parts[split]} "
                f"fits none of the {len(every)} images, such as {every[0].name}{way_out}"
            )
        if split == "test":
            return found
        patterns = [f"dataset.{place}.mask={own.path.as_posix()}" for place, own in self.masks.items()]
        bare = [scene for scene in found if not any(scene.masks)]
        if bare:
            self._refuse(
                f"{len(bare)} of {len(found)} {split} images below {self.root} have no mask that fits "
                f"{' or '.join(patterns)}, first {', '.join(scene.name for scene in bare[:5])}",
                every=len(bare) == len(found),
            )
            found = [scene for scene in found if any(scene.masks)]
        for place, pattern in enumerate(patterns):
            there = sum(scene.masks[place] is not None for scene in found)
            if there < len(found):
                log.info("%d of %d %s images have a mask that fits %s.", there, len(found), split, pattern)
        return found
