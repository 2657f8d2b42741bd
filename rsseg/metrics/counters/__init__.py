"""What counts batches, on the device and over processes: confusion matrices, sums of errors, matches, histograms, contours."""

from collections.abc import Sequence
from typing import Any

from rsseg.metrics import SCORES, AnyScores
from rsseg.metrics.counters.boundary import Boundary, boundary_counts
from rsseg.metrics.counters.histogram import ScoreHistogram
from rsseg.metrics.counters.logits import LogitSample
from rsseg.metrics.counters.matches import ObjectMatches
from rsseg.metrics.counters.sums import Confusion, ErrorSums
from rsseg.task import Task

SCENE_SUMS: dict[str, type[Confusion | ErrorSums | ObjectMatches]] = {
    "confusion": Confusion, "errors": ErrorSums, "matches": ObjectMatches,
}  # fmt: skip
"""What is counted of each scene, by `Task.counted`."""


def score_scenes(sums: Any, task: Task, without: Sequence[str] = ()) -> AnyScores:
    """The scores of what a head's `SCENE_SUMS` have counted."""
    counts = sums.compute().cpu().numpy()
    beside = (sums.average_precision,) if isinstance(sums, ObjectMatches) else ()
    return SCORES[task.counted](counts, task, tuple(without), *beside)


__all__ = [
    "SCENE_SUMS",
    "Boundary",
    "Confusion",
    "ErrorSums",
    "LogitSample",
    "ObjectMatches",
    "ScoreHistogram",
    "boundary_counts",
    "score_scenes",
]
