"""Metrics from counts pooled over whole scenes: confusion matrices, score histograms, contours."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from rsseg.metrics.boundary import Boundary, boundary_counts
from rsseg.metrics.calibration import brier, calibration, calibration_error
from rsseg.metrics.confusion import Confusion
from rsseg.metrics.errors import ErrorScores, ErrorSums, error_metrics
from rsseg.metrics.histogram import ScoreHistogram
from rsseg.metrics.matches import MatchScores, ObjectMatches, match_metrics
from rsseg.metrics.metric import Metric
from rsseg.metrics.sample import LogitSample, Pixels, Sample, choose_pixels
from rsseg.metrics.scaling import scaling_facts
from rsseg.metrics.scores import Scores, label_metrics
from rsseg.task import Task

AnyScores: TypeAlias = Scores | ErrorScores | MatchScores
"""The scores of a head, whatever its task."""

SCENE_SUMS: dict[str, type[Confusion | ErrorSums | ObjectMatches]] = {
    "confusion": Confusion, "errors": ErrorSums, "matches": ObjectMatches,
}  # fmt: skip
"""What is counted of each scene, by `Task.counted`."""

METRICS: dict[str, Callable[[Task, Sequence[str]], dict[str, Metric]]] = {
    "confusion": label_metrics, "errors": error_metrics, "matches": match_metrics,
}  # fmt: skip
"""What heads can be scored by, by `Task.counted`."""


def score_scenes(sums: Any, task: Task, without: Sequence[str] = ()) -> AnyScores:
    """The scores of what a head's `SCENE_SUMS` have counted."""
    counts = sums.compute().cpu()
    if isinstance(sums, ObjectMatches):
        return MatchScores(counts, task, tuple(without), sums.average_precision)
    return (ErrorScores if task.real else Scores)(counts, task, tuple(without))


def metrics(task: Task, without: Sequence[str] = ()) -> dict[str, Metric]:
    """What a head can be scored by, by name: see `label_metrics`, `error_metrics` and `match_metrics`."""
    return METRICS[task.counted](task, without)


__all__ = [
    "SCENE_SUMS",
    "AnyScores",
    "Boundary",
    "Confusion",
    "ErrorScores",
    "ErrorSums",
    "LogitSample",
    "MatchScores",
    "Metric",
    "ObjectMatches",
    "Pixels",
    "Sample",
    "ScoreHistogram",
    "Scores",
    "boundary_counts",
    "brier",
    "calibration",
    "calibration_error",
    "choose_pixels",
    "error_metrics",
    "label_metrics",
    "match_metrics",
    "metrics",
    "scaling_facts",
    "score_scenes",
]
