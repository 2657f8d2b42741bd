"""Metrics from counts pooled over whole scenes: confusion matrices, score histograms, contours."""

from collections.abc import Sequence
from typing import TypeAlias

from torch import Tensor

from rsseg.metrics.boundary import Boundary, boundary_counts
from rsseg.metrics.calibration import brier, calibration, calibration_error
from rsseg.metrics.confusion import Confusion
from rsseg.metrics.errors import ErrorScores, ErrorSums, error_metrics
from rsseg.metrics.histogram import ScoreHistogram
from rsseg.metrics.metric import Metric
from rsseg.metrics.sample import LogitSample, SampledLogits
from rsseg.metrics.scores import Scores, label_metrics
from rsseg.task import Task

AnyScores: TypeAlias = Scores | ErrorScores
"""The scores of a head, whatever its task."""

SCENE_SUMS: dict[str, type[Confusion | ErrorSums]] = {"confusion": Confusion, "errors": ErrorSums}
"""What is counted of each scene, by `Task.counted`."""


def score_scenes(counts: Tensor, task: Task, without: Sequence[str] = ()) -> AnyScores:
    """The scores of what a head's `SCENE_SUMS` have counted."""
    return (ErrorScores if task.real else Scores)(counts.cpu(), task, tuple(without))


def metrics(task: Task, without: Sequence[str] = ()) -> dict[str, Metric]:
    """What a head can be scored by, by name: see `label_metrics` and `error_metrics`."""
    return (error_metrics if task.real else label_metrics)(task, without)


__all__ = [
    "SCENE_SUMS",
    "AnyScores",
    "Boundary",
    "Confusion",
    "ErrorScores",
    "ErrorSums",
    "LogitSample",
    "Metric",
    "SampledLogits",
    "ScoreHistogram",
    "Scores",
    "boundary_counts",
    "brier",
    "calibration",
    "calibration_error",
    "error_metrics",
    "label_metrics",
    "metrics",
    "score_scenes",
]
