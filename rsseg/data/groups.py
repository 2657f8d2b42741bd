"""Groups of scenes: independent areas, such as towns or flight strips, which splits, folds and bootstraps keep whole."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from rsseg.contract import ENOUGH_GROUPS, InputError, counted, nearest
from rsseg.data.raster import open_raster
from rsseg.data.scene import Scene

LEAVE_ONE_OUT = "groups"  # the number of folds, as in `dataset.fold=2/groups`, that makes every group a fold

FIELD = re.compile(r"\{([^\W\d]\w*)\}")


def find_groups(
    group: str | float | None, fields: Sequence[str], images: Mapping[tuple[str, ...], Path], root: Path
) -> list[str]:
    """The group of each image; empty if the image is its own group.

    Args:
        group: Fields of the image pattern, such as ``{city}``; or a regular expression that is searched for in the image's path
            below the root, with the group in parentheses: ``([a-z]+)[0-9]``, or ``(.*)/`` for the image's folder; or the side
            of a square in the units of the images' coordinates: scenes with centres in the same square are a group. None: every
            scene is its own group.
        fields: The fields of the image pattern.
        images: The images by the values of these fields.
        root: The folder that paths are relative to.

    Raises:
        InputError: If `group` is none of these, a path holds no group, or an image has no coordinates.
    """
    if group is None:
        return [""] * len(images)
    setting = f"dataset.source.group={group}"
    if isinstance(group, float | int) and not isinstance(group, bool) and 0 < group < math.inf:
        return [_square_of(image, group, setting) for image in images.values()]
    named = FIELD.findall(str(group))
    for field in named:
        if field not in fields:
            there = ", ".join(fields) or "none"
            raise InputError(f"{setting}: dataset.source.image has no field {field}{nearest(field, fields)}; it has {there}")
    if named:
        return [FIELD.sub(lambda match, own=own: own[fields.index(match[1])], str(group)) for own in images]  # type: ignore[misc]
    try:
        expression = re.compile(str(group), re.IGNORECASE)
    except re.error:
        expression = re.compile("")
    if not expression.groups:
        raise InputError(
            f"{setting}: a field such as {{city}} is expected, or a regular expression with the group in parentheses, "
            "such as (tile[0-9]+)_, or the side of a square, a number above 0"
        )
    found = []
    for path in (image.relative_to(root).as_posix() for image in images.values()):
        match = expression.search(path)
        found.append("-".join(filter(None, match.groups())) if match else "")
        if not found[-1]:
            raise InputError(f"{setting} finds no group in the path {path}: every image's path has to hold one")
    return found


def _square_of(image: Path, side: float, setting: str) -> str:
    """A name for the square of this side that contains an image's centre."""
    raster = open_raster(image)
    if raster.crs is None:
        raise InputError(f"{setting} is the side of a square on the map, but {image} has no coordinates")
    left, bottom, right, top = raster.bounds
    column, row = (math.floor(centre / side) for centre in ((left + right) / 2, (bottom + top) / 2))
    return f"{raster.crs.to_string()} {column} {row}"


def group_names(scenes: Iterable[Scene]) -> list[str]:
    """The group of each scene; the scene's name if it is its own group."""
    return [scene.group or scene.name for scene in scenes]


def by_hash(name: str) -> bytes:
    """A sort key for names that depends on the name alone: a hash."""
    return hashlib.blake2b(name.encode()).digest()


def by_fraction(sizes: Mapping[str, int], shares: Mapping[str, float]) -> dict[str, list[str]]:
    """Assign groups to splits in the order of a hash, by shares of the scenes; groups beyond the sum of shares are left out.

    A split with a share above 0 gets at least one group if another has several. `sizes`: the number of scenes by group.

    Example:
        >>> by_fraction({"a": 1, "b": 1, "c": 1, "d": 1}, {"train": 0.75, "val": 0.25})
        {'train': ['d', 'a', 'c'], 'val': ['b']}
        >>> by_fraction({"a": 1, "b": 1, "c": 1, "d": 5}, {"train": 0.6, "val": 0.4})
        {'train': ['d'], 'val': ['a', 'c', 'b']}
    """
    order = sorted(sizes, key=by_hash)
    filled = [sum(sizes[name] for name in order[:i]) for i in range(len(order) + 1)]
    wanted = [round(sum(list(shares.values())[: i + 1]) * filled[-1]) for i in range(len(shares))]
    stops = [min(range(len(filled)), key=lambda i, most=most: abs(filled[i] - most)) for most in wanted]  # type: ignore[misc]
    counts = [stop - start for start, stop in zip([0, *stops], stops, strict=False)]
    for i, share in enumerate(shares.values()):
        if share > 0 and counts[i] == 0 and max(counts) > 1:
            counts[counts.index(max(counts))] -= 1
            counts[i] = 1
    starts = [sum(counts[:i]) for i in range(len(counts))]
    return {key: order[start : start + n] for key, start, n in zip(shares, starts, counts, strict=True)}


def in_fold(owner: Mapping[str, str], groups: Mapping[str, str], fold: str) -> dict[str, str]:
    """The split of each scene in cross-validation: with the fold 2/5, the second fifth of the train and val scenes validates.

    Groups are assigned to folds in turn, in the order of a hash, or of their names with `LEAVE_ONE_OUT`; the numbers of groups
    per fold differ by at most one.

    Example:
        >>> scenes = {"a1": "train", "a2": "val", "b1": "train", "c1": "test"}
        >>> in_fold(scenes, {name: name[0] for name in scenes}, "2/groups")
        {'a1': 'train', 'a2': 'train', 'b1': 'val', 'c1': 'test'}
    """
    pooled = [name for name, split in owner.items() if split in ("train", "val")]
    found = sorted({groups[name] for name in pooled})
    first, _, folds = fold.partition("/")
    number = len(found) if folds == LEAVE_ONE_OUT else int(folds)
    if len(found) < max(number, 2) or int(first) > number:
        some = f"{', '.join(found[:3])}{', ...' * (len(found) > 3)}"
        raise InputError(
            f"dataset.fold={fold}: the scenes have {counted(len(found), 'group')} ({some}), and at "
            "most as many folds. Groups are never split: take fewer folds, or set finer groups in dataset.source.group"
        )
    order = found if folds == LEAVE_ONE_OUT else sorted(found, key=by_hash)
    validates = set(order[int(first) - 1 :: number])
    return {**owner, **{name: "val" if groups[name] in validates else "train" for name in pooled}}


def describe_groups(train: Sequence[Scene], val: Sequence[Scene], fold: str | None = None) -> list[str]:
    """Warnings, one line each: validation groups that also train, and a single validation group, with a fold's remedy."""
    scored, trained = set(group_names(val)), set(group_names(train))
    cut = sorted(scored & trained)
    lines = []
    if cut:
        lines.append(
            f"Of {counted(len(scored), 'group')} with validation scenes, {len(cut)} train too, such as {cut[0]}: scores are "
            "those of places near the training scenes, not of new areas."
        )
    if len(scored) == 1:
        harm = "have no intervals and say nothing of other areas, and no comparison can separate losses"
        way_out, folds = "Validate on more groups: dataset.source.split, or sweep=kfold.", (1 + len(trained)) // 2
        if fold:
            harm, way_out = "thresholds are not tuned", f"Take fewer folds: dataset.fold=1/{folds}." * (folds > 1)
        lines.append(
            f"{f'In fold {fold} all' if fold else 'All'} validation scenes ({len(val)}) are of one group, {min(scored)}: it "
            f"selects the checkpoint and scores it. So scores are optimistic, {harm}. {way_out}".rstrip()
        )
    return lines


def describe_few_groups(train: Collection[str], val: Collection[str], in_folds: bool = False) -> str:
    """One line if few groups validate, else empty; with `in_folds`, the groups of train validate too."""
    every, scored = {*train, *val}, {*val}
    scored |= every if in_folds else set()
    if len(scored) >= ENOUGH_GROUPS:
        return ""
    way_out = [f"; {folds} lets all {len(every)} validate in turn" for folds in folds_of(train, val, in_folds)]
    return (
        f"Only {counted(len(scored), 'group')} of scenes to validate on, fewer than {ENOUGH_GROUPS}: differences between "
        f"losses can hardly be separated from differences between groups{''.join(way_out)}."
    )


def folds_of(train: Collection[str], val: Collection[str], in_folds: bool = False) -> list[str]:
    """The override of a sweep that lets all groups validate in turn; none if enough of them validate, or all do.

    Example:
        >>> folds_of("ab", "c"), folds_of("a", "a")
        (['dataset.fold=1/groups,2/groups,3/groups'], [])
    """
    every, scored = {*train, *val}, {*val}
    if in_folds or len(scored) >= ENOUGH_GROUPS or scored == every:
        return []
    number, folds = (len(every), LEAVE_ONE_OUT) if len(every) < ENOUGH_GROUPS else (5, 5)
    return [f"dataset.fold={','.join(f'{i}/{folds}' for i in range(1, number + 1))}"]
