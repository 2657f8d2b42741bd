"""Counters that accumulate batches on the device and over processes: confusion, errors, matches, histograms, contours."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rsseg.metrics.counters.boundary import Boundary
from rsseg.metrics.counters.logits import LogitSample
from rsseg.metrics.counters.matches import ObjectMatches
from rsseg.metrics.counters.sums import Confusion, ErrorSums, ScoreHistogram
from rsseg.metrics.split_scores import Scores
from rsseg.task import Task

SCENE_SUMS: dict[str, type[Confusion | ErrorSums | ObjectMatches]] = {
    "confusion": Confusion, "errors": ErrorSums, "matches": ObjectMatches,
}  # fmt: skip
"""The counters per scene, by `Task.counted`."""


def score_scenes(sums: Any, task: Task, without: Sequence[str] = ()) -> Scores:
    """The scores from a head's counter of `SCENE_SUMS`."""
    counts: np.ndarray[Any, Any] = sums.compute().cpu().numpy()
    beside = {"ap50": sums.average_precision} if isinstance(sums, ObjectMatches) else {}
    return Scores(counts, task, tuple(without), beside)


__all__ = ["SCENE_SUMS", "Boundary", "Confusion", "ErrorSums", "LogitSample", "ObjectMatches", "ScoreHistogram", "score_scenes"]
