"""Metrics from counts pooled over whole scenes: confusion matrices, score histograms, contours."""

from typing import TypeAlias

from torch import Tensor

from rsseg.metrics.boundary import Boundary, boundary_counts
from rsseg.metrics.calibration import brier, calibration, calibration_error
from rsseg.metrics.confusion import Confusion
from rsseg.metrics.errors import ErrorScores, ErrorSums, error_scores
from rsseg.metrics.histogram import ScoreHistogram
from rsseg.metrics.sample import LogitSample, SampledLogits
from rsseg.metrics.scores import Scores, scores
from rsseg.task import Task

AnyScores: TypeAlias = Scores | ErrorScores
"""The scores of a head, whatever its task."""

SCENE_SUMS: dict[str, type[Confusion | ErrorSums]] = {"confusion": Confusion, "errors": ErrorSums}
"""What is counted of each scene, by `Task.counted`."""


def score_scenes(counts: Tensor, task: Task) -> AnyScores:
    """The scores of what a head's `SCENE_SUMS` have counted."""
    return (error_scores if task.real else scores)(counts, task)


__all__ = [
    "SCENE_SUMS",
    "AnyScores",
    "Boundary",
    "Confusion",
    "ErrorScores",
    "ErrorSums",
    "LogitSample",
    "SampledLogits",
    "ScoreHistogram",
    "Scores",
    "boundary_counts",
    "brier",
    "calibration",
    "calibration_error",
    "error_scores",
    "score_scenes",
    "scores",
]
