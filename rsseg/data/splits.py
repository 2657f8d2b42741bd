"""Splits: the scenes of training, validation and test."""

from __future__ import annotations

import csv
import glob
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from typing import Any

from rasterio.windows import Window

from rsseg.contract import InputError, counted, nearest
from rsseg.data.groups import by_fraction, group_names, in_fold
from rsseg.data.raster import open_raster
from rsseg.data.scene import Scene
from rsseg.files import normal, read_text
from rsseg.quiet import warn_once

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}
SPATIAL = ("blocks", "buffer")
SPLIT_WORDS = {"train", "training", "val", "valid", "validation", "test", "testing"}
HEADER = {"name", "names", "image", "images", "image_id", "file", "filename", "file_name", "path", "id", "scene", "mask"}


class Split:
    """Assigns scenes to the splits train, val and test.

    Args:
        parts: Per split one of these; None: `FRACTIONS`.

            - A fraction, ``{train: 0.7, val: 0.3}``: groups are assigned in the order of a hash.
            - Fractions with ``blocks: 1024, buffer: 64``: blocks of 1024 pixels are assigned instead of whole scenes, with 64
              pixels or more between splits. With a buffer each block is a group, without one the whole image.
            - A list of names or patterns, ``{val: [tile3_*]}``; one with a slash stands for the image's path below the root.
            - A file below the root, or a pattern of such files, that list names (see `rows_of`).
            - null, to remove a part that the dataset's YAML sets.

            Without a part for train, the remaining scenes train. Images of the test part may be missing if only train and val
            are used; but if the remaining scenes train, names of the test part without a slash must have an image.
        root: The folder that paths are relative to.
        skip: Leave out names in list files that have no image, instead of refusing them.

    Attributes:
        fold: In cross-validation, the fold that validates, see `in_fold`; else None.

    Raises:
        InputError: If the split can't be understood.
    """

    def __init__(self, parts: Mapping[str, float | str | Sequence[str] | None] | None, root: Path, skip: bool = False) -> None:
        given = FRACTIONS if parts is None else parts
        setting = f"dataset.source.split={given}"
        if not isinstance(given, Mapping):
            raise InputError(f"{setting}: a mapping such as {{train: 0.8, val: 0.2}} is expected")
        self.root, self.skip = root, skip
        self.parts: dict[str, Any] = {key: part for key, part in given.items() if part is not None and key not in SPATIAL}
        wrong = [key for key in self.parts if key not in SPLITS]
        if wrong or not self.parts:
            hint = nearest(str(wrong[0]), [*SPLITS, *SPATIAL]) if wrong else ""
            raise InputError(f"{setting}{hint}: give one or more of {', '.join(SPLITS)}")
        kinds = {_kind(part) for part in self.parts.values()}
        if len(kinds) > 1:
            raise InputError(
                f"{setting} mixes {' and '.join(sorted(kinds))}: take one way for all; null removes a part that the dataset's "
                "YAML sets"
            )
        self.kind = kinds.pop()
        if self.kind == "fractions":
            if "train" not in self.parts and sum(self.parts.values()) < 1:
                self.parts = {"train": 1 - sum(self.parts.values()), **self.parts}
            if min(self.parts.values()) < 0 or not 0 < sum(self.parts.values()) <= 1 + 1e-9:
                raise InputError(f"{setting}: fractions must be at least 0 and add up to 1 at most")
        side, buffer = given.get("blocks") or 0, given.get("buffer") or 0
        if not (
            isinstance(side, int)
            and isinstance(buffer, int)
            and 0 <= 2 * buffer <= side
            and (self.kind == "fractions" or not side)
        ):
            raise InputError(
                f"{setting}: blocks is their side in pixels, and buffer at most half of it; they are dealt out by fractions, "
                "such as {blocks: 1024, buffer: 64, train: 0.7, val: 0.3}"
            )
        self.side, self.buffer = side, buffer
        self.fold: str | None = None

    def of(self, split: str, scenes: Sequence[Scene]) -> list[Scene]:
        """The scenes of train, val or test, in the given order; with `blocks` their parts."""
        if not self.side:
            owner = self.owners(scenes, asked=split)
            left = [scene.name for scene in scenes if scene.name not in owner]
            if left and split == "train" and self.kind == "list files":
                warn_once(log, f"No list of dataset.source.split names {counted(len(left), 'image')}, first {left[0]}.")
            return [scene for scene in scenes if owner.get(scene.name) == split]
        groups = ["" if self.buffer else name for name in group_names(scenes)]
        images = [
            blocks_of(replace(scene, group=group), open_raster(scene.image).shape, self.side)
            for scene, group in zip(scenes, groups, strict=True)
        ]
        owner = self.owners([block for blocks in images for block in blocks.values()])
        return [block for blocks in images for block in apart(blocks, owner, self.buffer) if owner[block.name] == split]

    def owners(self, scenes: Sequence[Scene], asked: str | None = None) -> dict[str, str]:
        """The split of each scene or block by name, without those that are in no split.

        Many copies of a dataset lack its test part: its files are needed only if `asked` is test.
        """
        owner = dict[str, str]()
        groups = dict(zip((scene.name for scene in scenes), group_names(scenes), strict=True))
        if self.kind == "fractions":
            dealt = {name: name for name in groups} if self.side else groups
            parts = by_fraction(Counter(dealt.values()), self.parts)
            of_group = {group: key for key, names in parts.items() for group in names}
            owner = {name: of_group[group] for name, group in dealt.items() if group in of_group}
        else:
            for key in self.parts:
                for name in sorted((self._fitting if self.kind == "name patterns" else self._listed)(key, asked, scenes)):
                    if owner.setdefault(name, key) != key:
                        raise InputError(
                            f"dataset.source.split puts {name} in {owner[name]} and {key}: no scene may be in two splits"
                        )
            if "train" not in self.parts:
                owner = dict.fromkeys(groups, "train") | owner
        return in_fold(owner, groups, self.fold) if self.fold else owner

    def _fitting(self, split: str, asked: str | None, scenes: Sequence[Scene]) -> set[str]:
        """The scenes that fit the patterns of a split."""
        hits = {pattern: self._named(scenes, pattern) for pattern in map(str, self.parts[split])}
        lost = [pattern for pattern, names in hits.items() if not names]
        misspelt = [pattern for pattern in lost if split != "test" or "/" not in pattern]  # a path: may be missing
        if misspelt and "train" not in self.parts:  # the scene of a misspelt name would train
            raise InputError(
                f"dataset.source.split.{split}: no image's name is '{misspelt[0]}'; found {scenes[0].name} and so on. "
                f"For all names that start so, write '{misspelt[0].rstrip('*')}*'"
            )
        if split == asked and 0 < len(lost) < len(hits):
            line = "%d of %d scenes in dataset.source.split.%s are not there, first %s."
            log.warning(line, len(lost), len(hits), split, lost[0])
        return set().union(*hits.values())

    def _named(self, scenes: Sequence[Scene], pattern: str) -> set[str]:
        """The scenes named `pattern`, or else those that match it; a pattern with a slash stands for the image's path."""
        names = {(s.image.relative_to(self.root).as_posix() if "/" in pattern else s.name): s.name for s in scenes}
        return {names[text] for text in matching_names(pattern, names)}

    def _listed(self, split: str, asked: str | None, scenes: Sequence[Scene]) -> set[str]:
        """The scenes that the list files of a split name, by their own names or those of their files.

        A list in a folder that contains scenes applies only to them.
        """
        pattern, needed = str(self.parts[split]), split != "test" or asked == "test"
        listed = sorted(glob.glob(pattern, root_dir=self.root, recursive=True)) if "*" in pattern else [pattern]
        paths = [self.root / name for name in listed if (self.root / name).is_file()]
        if not paths and needed:
            raise InputError(
                f"dataset.source.split.{split}: there is no file {self.root / pattern}; it should list one name a line"
            )
        found, shared = set[str](), list(self.parts.values()).count(self.parts[split]) > 1
        for path in paths:
            known = called([scene for scene in scenes if path.parent in scene.image.parents] or scenes)
            unknown = []
            for number, names in enumerate(rows_of(path, split, shared)):
                name = next((known[name] for name in names if name in known), None)
                if name is not None:
                    found.add(name)
                elif names[0][0] != "#" and (number or names[0].partition(",")[0].lower() not in HEADER):
                    unknown.append(names[0])
            if unknown and needed:
                fault = f"{path} lists {counted(len(unknown), 'name')} without an image: {', '.join(sorted(unknown)[:5])}"
                if not self.skip:
                    raise InputError(f"{fault}; dataset.source.on_missing=skip leaves them out")
                warn_once(log, f"{fault}; left out (dataset.source.on_missing=skip).")
        return found


def matching_names(pattern: str, names: Iterable[str]) -> set[str]:
    """The names that a user's pattern stands for: an equal name, or else the names that match it.

    Example:
        >>> sorted(matching_names("tile[45]", ["tile4", "tile5"])), matching_names("tile[4]", ["tile4", "tile[4]"])
        (['tile4', 'tile5'], {'tile[4]'})
    """
    texts, wanted = {name: normal(name) for name in names}, normal(pattern)
    called = {name for name, text in texts.items() if text == wanted}
    return called or {name for name, text in texts.items() if fnmatchcase(text, wanted)}


def _kind(part: Any) -> str:
    """The way in which a part of a split is given."""
    if isinstance(part, int | float):
        return "fractions"
    return "list files" if isinstance(part, str) else "name patterns"


def called(scenes: Sequence[Scene]) -> dict[str, str]:
    """Scenes by the names that lists may use: the scene's name, and names of its files, without endings, if they are unique."""
    files = {
        (normal(path.stem), scene.name) for scene in scenes for path in (*scene.images, *(m.path for m in scene.masks if m))
    }
    shared = Counter(stem for stem, _ in files)
    return {stem: name for stem, name in files if shared[stem] == 1} | {scene.name: scene.name for scene in scenes}


def rows_of(path: Path, split: str, shared: bool) -> list[list[str]]:
    """The names that each line of a list may mean: the line, its cells, and all of these without folder and ending.

    Where a column says the split of each line, see `split_column`, the lines of that split count; a list that is `shared` by
    several splits needs such a column.
    """
    rows = read_table(path)
    column = split_column(rows)
    if shared and column is None:
        raise InputError(
            f"{path} is the list of several splits, but no column of it says train, val or test in every row: add one, or give "
            "each split a list of its own"
        )
    if column is not None:
        if short := [row for row in rows if len(row) <= column and row[0][:1] != "#"]:
            raise InputError(f"{path}: the row '{','.join(short[0])}' has no cell that says its split: add it")
        rows = [row[:column] + row[column + 1 :] for row in rows if row[column:] and row[column].lower().startswith(split)]
    whole = [[",".join(row), *row] if len(row) > 1 else row for row in rows if any(row)]
    return [[*row, *(Path(name.replace("\\", "/")).stem for name in row)] for row in whole]


def split_column(rows: Sequence[Sequence[str]]) -> int | None:
    """The column of a table that says the split of each line: one called split, or one that holds such words alone.

    Example:
        >>> split_column([["file", "use"], ["a", "train"], ["b", "val"]]), split_column([["train_1"], ["train_2"]])
        (1, None)
    """
    header = [cell.lower() for cell in rows[0]] if rows else []
    if "split" in header:
        return header.index("split")
    for column in range(len(header)):
        words = {row[column].lower() for row in rows[1:] if len(row) > column}
        if words and words <= SPLIT_WORDS:
            return column
    return None


def read_table(path: Path) -> list[list[str]]:
    """The cells of a list: a text file with commas, or else semicolons or tabs, between cells, or a Parquet table."""
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path)
    lines = read_text(path).splitlines()
    between = next((mark for mark in ",;\t" if lines and mark in lines[0]), ",")
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=between, skipinitialspace=True)]
    except csv.Error as error:
        raise InputError(f"{path} can't be read as a table ({error}): is a quotation mark not closed?") from None
    return [row for row in rows if any(row)]


def _read_parquet(path: Path) -> list[list[str]]:
    """The cells of a Parquet table, its columns' names first if one says the split; geometries are left out."""
    import pandas as pd

    try:
        table = pd.read_parquet(path)
    except ImportError:
        raise InputError(f"{path} is a Parquet table, which takes a package to read: pip install pyarrow") from None
    except Exception as error:  # pyarrow's own errors
        raise InputError(f"{path} can't be read: {error}. Is it complete?") from None
    table = table.reset_index() if table.index.name else table
    table = table.loc[:, [not isinstance(value, bytes) for value in table.iloc[0]]] if len(table) else table
    rows = table.astype(str).to_numpy().tolist()
    named = [list(map(str, table.columns)), *rows]
    return rows if split_column(named) is None else named


def propose_blocks(shape: tuple[int, int]) -> dict[str, Any]:
    """A proposed split of an image of this height and width into blocks of about a quarter of its shorter side."""
    side = max(64, min(1024, min(shape) // 128 * 32))
    return {"blocks": side, "buffer": side // 16, **FRACTIONS}


def cut(length: int, side: int) -> list[int]:
    """Cut a line into equal parts of about `side` pixels; returns their ends: 0, 333, 666, 1000 for length 1000, side 300."""
    parts = max(1, round(length / side))
    return [length * i // parts for i in range(parts + 1)]


def blocks_of(scene: Scene, shape: tuple[int, int], side: int) -> dict[tuple[int, int], Scene]:
    """The blocks of a scene whose image has this height and width, as scenes by block row and column."""
    rows, columns = cut(shape[0], side), cut(shape[1], side)
    return {
        (i, j): replace(scene, name=f"{scene.name}-r{i}c{j}", region=Window(left, top, right - left, bottom - top))
        for i, (top, bottom) in enumerate(pairwise(rows))
        for j, (left, right) in enumerate(pairwise(columns))
    }


def apart(blocks: Mapping[tuple[int, int], Scene], owner: Mapping[str, str], buffer: int) -> list[Scene]:
    """Blocks of one image, shrunk so that at least `buffer` pixels separate any two blocks of different splits."""
    half, kept = -(-buffer // 2), []
    for (i, j), block in blocks.items():
        own, window = owner.get(block.name), block.region
        if own is None or window is None:
            continue
        around = [(di, dj) for di in (-1, 0, 1) for dj in (-1, 0, 1) if (i + di, j + dj) in blocks]
        foreign = [(di, dj) for di, dj in around if owner.get(blocks[i + di, j + dj].name, own) != own]
        top, bottom = (half * any(di == side for di, _ in foreign) for side in (-1, 1))
        left, right = (half * any(dj == side for _, dj in foreign) for side in (-1, 1))
        size = window.width - left - right, window.height - top - bottom
        kept.append(replace(block, region=Window(window.col_off + left, window.row_off + top, *size)))
    return kept
