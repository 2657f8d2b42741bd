"""Trained runs scored again: on whole scenes, on scenes with labels from elsewhere, and finished maps by masks."""

from rsseg.evaluation.rescoring import count_baselines, draw_disagreements, record_split
from rsseg.evaluation.scores import evaluate, evaluate_map

__all__ = ["count_baselines", "draw_disagreements", "evaluate", "evaluate_map", "record_split"]
