"""Cross-validation: one fold of the training and validation scenes validates, the others train."""

from __future__ import annotations

from dataclasses import replace

from rsseg.data.files import Files
from rsseg.data.groups import group_names, in_fold
from rsseg.data.scene import Scene, Source


class Folds(Source):
    """The scenes of another source, those of train and val pooled and dealt to folds by their groups.

    Args:
        source: The other source; its test scenes stay.
        folds: The number of folds, or "groups" for as many as there are groups.
        fold: The one that validates, counted from 1.
    """

    def __init__(self, source: Source, folds: int | str, fold: int) -> None:
        self.source, self.folds, self.fold = source, folds, fold

    def scenes(self, split: str) -> list[Scene]:
        """The scenes of train, val or test, sorted by name.

        Raises:
            InputError: If there are too few groups.
        """
        if split == "test":
            return self.source.scenes(split)
        parts = {part: self.source.scenes(part) for part in ("train", "val")}
        shared = set.intersection(*({scene.name for scene in part} for part in parts.values()))
        pooled = [
            replace(scene, name=f"{part}-{scene.name}") if scene.name in shared else scene  # names of torchgeo's are numbers
            for part, scenes in parts.items()
            for scene in scenes
        ]
        groups = dict(zip((scene.name for scene in pooled), group_names(pooled), strict=True))
        owner = in_fold(dict.fromkeys(groups, "train"), groups, self.folds, self.fold)
        return sorted((scene for scene in pooled if owner[scene.name] == split), key=lambda scene: scene.name)


def with_folds(source: Source, folds: int | str | None, fold: int | None) -> Source:
    """A source whose training and validation scenes are dealt to folds, if any are asked for."""
    if folds is None or fold is None:
        return source
    if isinstance(source, Files) and source.split.side:  # blocks are shrunk where another split's are beside them
        source.split.fold = folds, fold
        return source
    return Folds(source, folds, fold)
