"""Where the scenes of each dataset lie: one small class per on-disk layout, each with ``scenes(split)``.

A source lists files and decides the split; it reads no pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from rsseg.contract import InputError
from rsseg.data.scene import Scene
from rsseg.data.synthetic import SceneRecipe, write_scenes

SPLITS = ("train", "val", "test")
FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}
IMAGES = frozenset({".tif", ".tiff", ".jpg", ".jpeg", ".png", ".jp2", ".vrt", ".img", ".bmp"})


class Source(Protocol):
    """What `dataset.source` must be."""

    def scenes(self, split: str) -> list[Scene]:
        """The scenes of train, val or test, in a fixed order."""


def existing(root: str | Path, hint: str) -> Path:
    """The folder, if it is there.

    Raises:
        InputError: If it is not.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}: {hint}")
    return folder


def images_in(folder: Path) -> dict[str, Path]:
    """The image files directly in a folder by name without extension, sorted.

    Raises:
        InputError: If there are none, or two share a name.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in IMAGES and not path.name.startswith("."):
            if path.stem in found:
                raise InputError(f"{found[path.stem]} and {path} share a name: one image per scene is expected")
            found[path.stem] = path
    if not found:
        raise InputError(f"{folder} holds no images: files ending in {', '.join(sorted(IMAGES))} are expected")
    return found


class Folder:
    """The user's own images and masks, paired by name.

    Args:
        root: The folder that holds both.
        images: The images' folder below it.
        masks: The masks' folder below it.
        split: Per split a fraction (``{train: 0.7, val: 0.3}``: in the order of a hash of the names), a list of name
            prefixes (``{val: [tile3_]}``; the rest trains), or a text file below the root that lists one name a line.
            None: `FRACTIONS`.

    Raises:
        InputError: For a missing folder, images without masks, or a split that can't be understood.
    """

    def __init__(
        self,
        root: str,
        images: str = "images",
        masks: str = "masks",
        split: Mapping[str, float | str | Sequence[str]] | None = None,
    ) -> None:
        self.root = existing(root, "set dataset.source.root to the folder that holds your images and masks")
        found = images_in(existing(self.root / images, "dataset.source.images names the images' folder below the root"))
        labels = images_in(existing(self.root / masks, "dataset.source.masks names the masks' folder below the root"))
        bare = [name for name in found if name not in labels]
        if bare:
            listed = ", ".join(bare[:5]) + (", ..." if len(bare) > 5 else "")
            raise InputError(
                f"{len(bare)} of {len(found)} images in {self.root / images} have no mask of the same name in "
                f"{self.root / masks}: {listed}"
            )
        split = FRACTIONS if split is None else split
        if not isinstance(split, Mapping):
            raise InputError(f"dataset.source.split={split}: a mapping such as {{train: 0.8, val: 0.2}} is expected")
        self.split = dict(split)
        wrong = [key for key in self.split if key not in SPLITS]
        if wrong or not self.split:
            raise InputError(f"dataset.source.split={self.split}: give one or more of {', '.join(SPLITS)}")
        self._all = [Scene(name, found[name], labels[name]) for name in found]

    def scenes(self, split: str) -> list[Scene]:
        """The scenes of train, val or test, sorted by name."""
        kinds = {self._kind(part) for part in self.split.values()}
        if len(kinds) > 1:
            raise InputError(f"dataset.source.split={self.split} mixes {' and '.join(sorted(kinds))}: take one way for all")
        names = {"fractions": self._by_fraction, "prefixes": self._by_prefix, "list files": self._by_list}[kinds.pop()](split)
        return [scene for scene in self._all if scene.name in names]

    @staticmethod
    def _kind(part: Any) -> str:
        if isinstance(part, int | float):
            return "fractions"
        return "list files" if isinstance(part, str) else "prefixes"

    def _by_fraction(self, split: str) -> set[str]:
        shares = {key: float(part) for key, part in self.split.items() if isinstance(part, int | float)}
        if min(shares.values()) < 0 or not 0 < sum(shares.values()) <= 1 + 1e-9:
            raise InputError(f"dataset.source.split={self.split}: fractions must be at least 0 and add up to 1 at most")
        names = sorted((s.name for s in self._all), key=lambda name: hashlib.blake2b(name.encode()).digest())
        start = 0.0
        for key, share in shares.items():
            stop = start + share
            if key == split:
                return set(names[round(start * len(names)) : round(stop * len(names))])
            start = stop
        return set()

    def _by_prefix(self, split: str) -> set[str]:
        prefixes = {key: tuple(map(str, part)) for key, part in self.split.items() if isinstance(part, Sequence)}
        for key, starts in prefixes.items():
            for start in starts:
                if not any(s.name.startswith(start) for s in self._all):
                    raise InputError(f"dataset.source.split.{key}: no image's name starts with '{start}'")
        by_split: dict[str, set[str]] = {key: set() for key in SPLITS}
        for scene in self._all:
            claims = [key for key, starts in prefixes.items() if scene.name.startswith(starts)]
            if len(claims) > 1:
                raise InputError(f"dataset.source.split puts {scene.name} in {' and '.join(claims)}")
            rest = [] if "train" in prefixes else ["train"]
            for key in claims or rest:
                by_split[key].add(scene.name)
        return by_split[split]

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
            raise InputError(f"dataset.source.split.{split}: there is no file {path}")
        known = {scene.name for scene in self._all}
        lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
        names = {line if line in known else Path(line).stem for line in lines}
        unknown = sorted(names - known)
        if unknown:
            raise InputError(f"{path} lists {len(unknown)} names without an image: {', '.join(unknown[:5])}")
        return names


class Inria:
    """Inria Aerial Image Labeling as it lies after extraction: ``AerialImageDataset/{train/{images,gt},test/images}``.

    Tiles 1 to 5 of each city validate, as the authors recommend; the others train. torchgeo 0.8.1 looks for the tile's
    number in the whole path, so that a root such as ``/mnt/disk1`` puts every tile in validation: here only the file's
    name counts.

    Args:
        root: The folder that holds ``AerialImageDataset``, or that folder itself.

    Raises:
        InputError: If the layout is not found, or images lack masks.
    """

    def __init__(self, root: str) -> None:
        hint = "set dataset.source.root or RSSEG_DATA to where AerialImageDataset was extracted"
        folder = existing(root, hint)
        if (folder / "AerialImageDataset").is_dir():
            folder = folder / "AerialImageDataset"
        archives = [p.name for p in folder.glob("*.zip")]
        if not (folder / "train").is_dir() and archives:
            raise InputError(f"{folder} holds {archives[0]} but no AerialImageDataset/train: extract the archive there")
        self.root = existing(folder / "train", hint).parent

    def scenes(self, split: str) -> list[Scene]:
        """The scenes of train, val or test; those of test carry no mask."""
        if split == "test":
            folder = existing(self.root / "test" / "images", "the test images were not extracted")
            return [Scene(name, path, None) for name, path in images_in(folder).items()]
        found = images_in(existing(self.root / "train" / "images", "the archive was extracted in part: extract it again"))
        masks = images_in(existing(self.root / "train" / "gt", "the archive was extracted in part: extract it again"))
        bare = [name for name in found if name not in masks]
        if bare:
            raise InputError(f"{self.root / 'train'}: {len(bare)} images have no mask in gt, first {bare[0]}: extract again")
        return [Scene(n, p, masks[n]) for n, p in found.items() if (self.tile_number(n) <= 5) == (split == "val")]

    @staticmethod
    def tile_number(name: str) -> int:
        """The number at the end of a tile's name.

        Example:
            >>> Inria.tile_number("west-tyrol-w12")
            12
        """
        digits = name[len(name.rstrip("0123456789")) :]
        if not digits:
            raise InputError(f"'{name}' is no Inria tile: a city and a number are expected, as in austin1")
        return int(digits)


class Synthetic:
    """Made-up scenes, written on first use as GeoTIFFs in a folder of their own per recipe.

    Args:
        root: Where those folders go.
        scenes: How many scenes each split has.
        recipe: What they look like.
        seed: Same seed and recipe, same scenes.
    """

    def __init__(self, root: str, scenes: Mapping[str, int], recipe: SceneRecipe, seed: int = 0) -> None:
        wrong = {key: n for key, n in scenes.items() if key not in SPLITS or not isinstance(n, int) or n < 0}
        if wrong:
            raise InputError(f"dataset.source.scenes={dict(scenes)}: whole numbers for {', '.join(SPLITS)} are expected")
        self.counts, self.recipe, self.seed = dict(scenes), recipe, seed
        facts = repr((sorted(self.counts.items()), sorted(asdict(recipe).items()), seed))
        self.root = Path(root).expanduser() / hashlib.blake2b(facts.encode(), digest_size=6).hexdigest()

    def scenes(self, split: str) -> list[Scene]:
        """The scenes of train, val or test; writes all of them if they are not there yet."""
        try:
            write_scenes(self.root, self.recipe, self.counts, self.seed)
        except OSError as error:
            raise InputError(f"the synthetic scenes can't be written to {self.root}: {error}") from None
        return [
            Scene(name, path, self.root / "masks" / path.name)
            for name, path in images_in(self.root / "images").items()
            if name.startswith(split)
        ]
