"""Scores of what is counted over whole scenes, in NumPy alone; `rsseg.metrics.counters` counts it, in torch."""

from rsseg.metrics.calibration import calibration, calibration_sums
from rsseg.metrics.metric import Metric
from rsseg.metrics.sample import Pixels, Sample, choose_pixels
from rsseg.metrics.split import Scores, metrics

__all__ = ["Metric", "Pixels", "Sample", "Scores", "calibration", "calibration_sums", "choose_pixels", "metrics"]
