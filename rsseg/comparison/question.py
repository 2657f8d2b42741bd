"""The question that a comparison answers."""

from __future__ import annotations

from dataclasses import dataclass, field

from rsseg.task import TASKS

EQUAL = 0.01
"""Losses whose scores differ by less are practically equal, unless the user says otherwise."""


@dataclass(kw_only=True)
class Question:
    """The settings of a comparison; ``rsseg compare --help`` explains them."""

    metric: str = ""  # ranks the losses, see rsseg.comparison.measures.measures; empty: Task.score, IoU or RMSE
    head: str = ""  # the head that is compared; empty: the first of each run
    without: list[str] = field(default_factory=list)  # classes that means leave out; empty: those that the runs leave out
    split: str = "val"  # scenes that score: val, where each half scores checkpoints that the other half chose, or test
    equal_within: float = EQUAL  # losses whose scores differ by less are practically equal
    allow_different: bool = False  # compare runs although they differ in settings that no plan varies
    trust: list[str] = field(default_factory=list)  # packages whose classes the runs' configs may name

    @property
    def folder(self) -> str:
        """The name of the folder of the answer."""
        metric = "" if self.metric in {task.score for task in TASKS.values()} else self.metric
        without = "_".join(["without", *self.without]) if self.without else ""
        words = ["comparison", self.head, metric, without, "" if self.split == "val" else self.split]
        return "_".join(filter(None, words)).replace("/", "_")
