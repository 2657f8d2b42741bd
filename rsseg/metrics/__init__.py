"""Scores from counts over whole scenes, in NumPy; `rsseg.metrics.counters` counts, in torch."""

from rsseg.metrics.base import Metric
from rsseg.metrics.calibration import calibration, calibration_sums
from rsseg.metrics.pixel_sample import Pixels, SampledLogits, choose_pixels
from rsseg.metrics.split_scores import Scores, metrics

__all__ = ["Metric", "Pixels", "SampledLogits", "Scores", "calibration", "calibration_sums", "choose_pixels", "metrics"]
