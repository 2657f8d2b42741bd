"""Metrics from counts pooled over whole scenes: confusion matrices, score histograms, contours."""

from rsseg.metrics.boundary import Boundary, boundary_counts
from rsseg.metrics.calibration import brier, calibration, calibration_error
from rsseg.metrics.confusion import Confusion
from rsseg.metrics.histogram import ScoreHistogram
from rsseg.metrics.sample import LogitSample, SampledLogits
from rsseg.metrics.scores import Scores, metrics

__all__ = [
    "Boundary",
    "Confusion",
    "LogitSample",
    "SampledLogits",
    "ScoreHistogram",
    "Scores",
    "boundary_counts",
    "brier",
    "calibration",
    "calibration_error",
    "metrics",
]
