"""What a comparison found: the arrays that all words, tables and figures are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from rsseg.compare.bootstrap import Interval, WinMatrix
from rsseg.compare.counts import Array, Overlap
from rsseg.compare.runs import Run
from rsseg.task import Task

MEASURES = {
    "iou": ("IoU", True), "dice": ("Dice", True), "scene_iou": ("IoU per scene", True), "scene_dice": ("Dice per scene", True),
    "boundary_iou": ("boundary IoU", True), "ece": ("calibration error", False),
    "class_ece": ("calibration error by class", False), "brier": ("Brier score", False),
}  # fmt: skip
"""By name: what people call it, and whether higher is better."""

Grid: TypeAlias = list[list[Run]]
Shares: TypeAlias = dict[tuple[str, str], tuple[list[str], NDArray[np.int64], Array]]
Cosines: TypeAlias = dict[tuple[str, str], Array]
Gains: TypeAlias = dict[str, tuple[list[str], NDArray[np.int64], Array]]


@dataclass(frozen=True)
class Findings:
    """What a comparison found. L losses, R seeds, S scenes, C classes, V validations; None: not recorded.

    Attributes:
        labels: The losses.
        plain: Which of them are cross-entropy and no more.
        seeds: The seeds.
        scenes: The validation scenes' names.
        task: The head's task.
        metric: What losses are ranked by.
        measures: By name, ``[L, R]``, of the best checkpoint.
        last: The metric of the last checkpoint, ``[L, R]``.
        wins: By metric, every loss against every other.
        counts: ``[L, R, S, C, 3]`` of the best checkpoint.
        fixed: Counts at 0.5 (argmax), ``[L, R, S, C, 3]``, from the same histograms or passes as the next.
        tuned: Counts at cross-fitted thresholds (biases).
        wins_tuned: Every tuned loss against every other.
        moved: How much more tuning adds to the row's loss than to the column's, ``[L, L]``.
        panel: The losses that were evaluated whichever one trained.
        values: Their values at the best checkpoint, ``[L, R, panel]``.
        selection: Selection regret, ``[L, R]``.
        tau: Kendall's tau-b of falling loss and rising metric, ``[L, R, 2]``: whole run, last half.
        shares: By loss of two terms or more and by place, the terms, the steps and the terms' shares ``[V, T]``.
        cosines: Likewise, ``[V, T, T]``.
        gains: By loss, its terms, the steps and the terms' one-step gains ``[V, T]``.
        notes: What could not be known, a sentence each.
    """

    labels: list[str]
    plain: list[bool]
    seeds: list[int]
    scenes: list[str]
    task: Task
    metric: str
    measures: dict[str, Array]
    last: Array
    wins: dict[str, WinMatrix]
    counts: Array | None
    fixed: Array | None
    tuned: Array | None
    wins_tuned: WinMatrix | None
    moved: Interval | None
    panel: list[str]
    values: Array | None
    selection: Array | None
    tau: Array
    shares: Shares
    cosines: Cosines
    gains: Gains
    notes: list[str]

    @property
    def order(self) -> list[int]:
        """The losses, best first."""
        return [int(i) for i in np.argsort(-self.wins[self.metric].score.value, kind="stable")]

    @property
    def tuned_metric(self) -> Overlap:
        """What thresholds are tuned for."""
        return "dice" if self.metric == "dice" else "iou"
