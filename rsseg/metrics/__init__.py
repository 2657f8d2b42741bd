"""Metrics from confusion matrices pooled over whole scenes."""

from rsseg.metrics.confusion import Confusion, predicted_labels
from rsseg.metrics.scores import Scores, scores

__all__ = ["Confusion", "Scores", "predicted_labels", "scores"]
