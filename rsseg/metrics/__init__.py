"""Metrics from confusion matrices and score histograms, pooled over whole scenes."""

from rsseg.metrics.confusion import Confusion, predicted_labels
from rsseg.metrics.histogram import ScoreHistogram
from rsseg.metrics.scores import Scores, scores

__all__ = ["Confusion", "ScoreHistogram", "Scores", "predicted_labels", "scores"]
