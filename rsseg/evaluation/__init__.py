"""Trained runs scored again: on whole scenes, on scenes with labels from elsewhere, and finished maps by masks."""

from rsseg.evaluation.commands import evaluate, evaluate_map, record_split

__all__ = ["evaluate", "evaluate_map", "record_split"]
