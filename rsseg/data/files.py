"""Scenes in files: images and masks paired by the parts of their paths. Most datasets are this and a few lines of YAML."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from rsseg.contract import InputError
from rsseg.data.scene import Scene
from rsseg.data.splits import FRACTIONS, SPLITS, by_fraction

log = logging.getLogger(__name__)

IMAGES = frozenset({".tif", ".tiff", ".jpg", ".jpeg", ".png", ".jp2", ".vrt", ".img", ".bmp"})

FIELD = re.compile(r"\{(\w+)\}|(\*\*/)|(\*)")


def path_pattern(pattern: str) -> re.Pattern[str]:
    """What a pattern of paths stands for, as a regular expression of relative paths with forward slashes.

    ``{field}`` is a part of a path without a slash, and the same part wherever the field occurs again; ``*`` is any such
    part; ``**/`` any folders, or none; a suffix ``.*`` that of any image format.

    Example:
        >>> path_pattern("**/{part}/images/{tile}.tif").fullmatch("AerialImageDataset/train/images/austin1.tif").groupdict()
        {'part': 'train', 'tile': 'austin1'}
    """
    found, end, seen = "", 0, set()
    for match in FIELD.finditer(pattern):
        found += re.escape(pattern[end : match.start()])
        end = match.end()
        field, folders, _ = match.groups()
        if field:
            found += f"(?P={field})" if field in seen else f"(?P<{field}>[^/]+)"
            seen.add(field)
        else:
            found += "(?:.+/)?" if folders else "[^/]*"
    return re.compile(found + re.escape(pattern[end:]), re.IGNORECASE)


def find(root: Path, pattern: str) -> dict[tuple[str, ...], Path]:
    """The files below a folder whose paths fit a pattern, by the values of its fields, sorted.

    Raises:
        InputError: If two files have the same fields.
    """
    fits, any_image = path_pattern(pattern), pattern.endswith(".*")
    found: dict[tuple[str, ...], Path] = {}
    fixed = re.split(r"[{*]", pattern)[0].rpartition("/")[0]  # the folder that all such paths begin with
    for folder, _, names in os.walk(root / fixed, followlinks=True):
        for name in names:
            path = Path(folder, name)
            match = fits.fullmatch(path.relative_to(root).as_posix())
            if match is None or name.startswith(".") or (any_image and path.suffix.lower() not in IMAGES):
                continue
            if match.groups() in found:
                raise InputError(f"{found[match.groups()]} and {path} share a name: one file per scene is expected")
            found[match.groups()] = path
    return dict(sorted(found.items()))


class Files:
    """Images and masks in files, paired by the fields of their paths: most datasets, and the user's own.

    A scene's name is the values of the image pattern's fields, joined by "-".

    Args:
        root: The folder that holds everything.
        image: The images' paths below it, as `path_pattern` reads them.
        mask: The masks' paths, with the same fields.
        split: Per split a fraction (``{train: 0.7, val: 0.3}``: in the order of a hash of the names), a list of names or
            name patterns (``{val: [tile3_*]}``; one with a slash is for the image's path below the root; the rest
            trains unless train is listed too), or a text file below the root that lists one name a line; null
            where a part of the dataset's YAML shall not hold. None: `FRACTIONS`.

    Raises:
        InputError: If there is no such folder or no image in it, or the split can't be understood.
    """

    def __init__(
        self,
        root: str,
        image: str,
        mask: str,
        split: Mapping[str, float | str | Sequence[str]] | None = None,
        published: int | None = None,
    ) -> None:
        self.root = Path(root).expanduser()
        if not self.root.is_dir():
            raise InputError(
                f"there is no folder {self.root}: set dataset.source.root, or RSSEG_DATA to the folder that holds your datasets"
            )
        self.image, self.mask = image, mask
        fields = [sorted({field for field, _, _ in FIELD.findall(pattern) if field}) for pattern in (image, mask)]
        if fields[0] != fields[1] or not fields[0]:
            raise InputError(
                f"dataset.source.image={image} and dataset.source.mask={mask} pair files by their fields, such as {{name}}: "
                f"the same fields must stand in both; found {fields[0]} and {fields[1]}"
            )
        split = FRACTIONS if split is None else split
        if not isinstance(split, Mapping):
            raise InputError(f"dataset.source.split={split}: a mapping such as {{train: 0.8, val: 0.2}} is expected")
        self.split = {key: part for key, part in split.items() if part is not None}
        wrong = [key for key in self.split if key not in SPLITS]
        if wrong or not self.split:
            raise InputError(f"dataset.source.split={self.split}: give one or more of {', '.join(SPLITS)}")
        images = find(self.root, image)
        if not images:
            raise InputError(f"no image below {self.root} fits dataset.source.image={image}{self._archives()}")
        if published and len(images) < published:
            found = "%d of the %d published images are below %s%s"
            log.warning(found, len(images), published, self.root, self._archives())
        order = list(path_pattern(image).groupindex)
        masks = {
            tuple(values[path_pattern(mask).groupindex[field] - 1] for field in order): path
            for values, path in find(self.root, mask).items()
        }
        self._all = [Scene("-".join(values), path, masks.get(values)) for values, path in images.items()]

    def _archives(self) -> str:
        packed = sorted(p.name for p in self.root.iterdir() if p.name.endswith((".zip", ".tar", ".tar.gz", ".tgz", ".7z")))
        if packed:
            return f"; there are archives: extract {', '.join(packed[:5])} there"
        return ": is it the right folder, and was the archive extracted whole?"

    def scenes(self, split: str) -> list[Scene]:
        """The scenes of train, val or test, sorted by name.

        Raises:
            InputError: If there are none, or masks are missing of train or val.
        """
        kinds = {self._kind(part) for part in self.split.values()}
        if len(kinds) > 1:
            raise InputError(
                f"dataset.source.split={self.split} mixes {' and '.join(sorted(kinds))}: take one way for all; "
                "null removes a part that the dataset's YAML sets"
            )
        choose = {"fractions": self._by_fraction, "name patterns": self._by_pattern, "list files": self._by_list}
        names = choose[kinds.pop()](split)
        found = [scene for scene in self._all if scene.name in names]
        bare = [scene for scene in found if scene.mask is None]
        if not found and split in self.split:
            raise InputError(
                f"no scene of the {split} split is below {self.root}: dataset.source.split.{split}={self.split[split]} fits "
                f"none of the {len(self._all)} images, such as {self._all[0].name}{self._archives()}"
            )
        if bare and split != "test":
            raise InputError(
                f"{len(bare)} of {len(found)} {split} images below {self.root} have no mask that fits "
                f"dataset.source.mask={self.mask}, first {bare[0].image}{self._archives()}"
            )
        return found

    @staticmethod
    def _kind(part: Any) -> str:
        if isinstance(part, int | float):
            return "fractions"
        return "list files" if isinstance(part, str) else "name patterns"

    def _by_fraction(self, split: str) -> set[str]:
        shares = {key: float(part) for key, part in self.split.items() if isinstance(part, int | float)}
        if min(shares.values()) < 0 or not 0 < sum(shares.values()) <= 1 + 1e-9:
            raise InputError(f"dataset.source.split={self.split}: fractions must be at least 0 and add up to 1 at most")
        return set(by_fraction([scene.name for scene in self._all], shares).get(split, []))

    def _by_pattern(self, split: str) -> set[str]:
        owner: dict[str, str] = {}
        for key, listed in self.split.items():
            patterns = list(map(str, listed)) if isinstance(listed, Sequence) else []
            hits = {pattern: {s.name for s in self._all if self._fits(s, pattern)} for pattern in patterns}
            lost = [pattern for pattern, names in hits.items() if not names]
            if lost and "train" not in self.split:  # what is not named trains: a misspelt name must not
                raise InputError(
                    f"dataset.source.split.{key}: no image's name is '{lost[0]}'; found {self._all[0].name} and so on. "
                    f"For all names that start so, write '{lost[0]}*'"
                )
            if key == split and 0 < len(lost) < len(patterns):
                log.warning(
                    "%d of %d scenes in dataset.source.split.%s are not there, first %s.",
                    len(lost),
                    len(patterns),
                    key,
                    lost[0],
                )
            for name in sorted(set().union(*hits.values())):
                if owner.setdefault(name, key) != key:
                    raise InputError(f"dataset.source.split puts {name} in {owner[name]} and {key}")
        rest = set() if "train" in self.split or split != "train" else {s.name for s in self._all} - owner.keys()
        return rest | {name for name, key in owner.items() if key == split}

    def _fits(self, scene: Scene, pattern: str) -> bool:
        return fnmatchcase(scene.image.relative_to(self.root).as_posix() if "/" in pattern else scene.name, pattern)

    def _by_list(self, split: str) -> set[str]:
        listed = {key: self._listed(key) for key in self.split}
        for other in listed.keys() - {split}:
            twice = sorted(listed[other] & listed.get(split, set()))
            if twice:
                raise InputError(f"dataset.source.split puts {twice[0]} in {split} and {other}: no scene may be in two splits")
        return listed.get(split, set())

    def _listed(self, split: str) -> set[str]:
        path = self.root / str(self.split[split])
        if not path.is_file():
            raise InputError(f"dataset.source.split.{split}: there is no file {path}; it should list one name a line")
        known = {scene.name for scene in self._all}
        lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
        names = {line if line in known else Path(line).stem for line in lines}
        unknown = sorted(names - known)
        if unknown:
            raise InputError(f"{path} lists {len(unknown)} names without an image: {', '.join(unknown[:5])}")
        return names
