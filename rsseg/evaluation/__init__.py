"""Trained runs scored again: on whole scenes, on scenes with labels from elsewhere, and finished maps by masks."""

from rsseg.evaluation.scores import evaluate, evaluate_map, record_splits

__all__ = ["evaluate", "evaluate_map", "record_splits"]
