"""Metrics from counts pooled over whole scenes: confusion matrices, score histograms, contours."""

from typing import TypeAlias

from rsseg.metrics.boundary import Boundary, boundary_counts
from rsseg.metrics.calibration import brier, calibration, calibration_error
from rsseg.metrics.confusion import Confusion
from rsseg.metrics.errors import ErrorScores, ErrorSums, error_scores
from rsseg.metrics.histogram import ScoreHistogram
from rsseg.metrics.sample import LogitSample, SampledLogits
from rsseg.metrics.scores import Scores, metrics

AnyScores: TypeAlias = Scores | ErrorScores
"""The scores of a head, whatever its task."""

__all__ = [
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
    "metrics",
]
