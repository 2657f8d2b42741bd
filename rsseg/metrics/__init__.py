"""Scores of what is counted over whole scenes, in NumPy alone; `rsseg.metrics.counters` counts it, in torch."""

from collections.abc import Sequence
from typing import TypeAlias

from rsseg.metrics.calibration import calibration, calibration_sums
from rsseg.metrics.errors import ErrorScores, error_metrics
from rsseg.metrics.matches import MatchScores, match_metrics
from rsseg.metrics.metric import Metric
from rsseg.metrics.sample import Pixels, Sample, choose_pixels
from rsseg.metrics.scaling import scaling_facts
from rsseg.metrics.scores import Scores, label_metrics
from rsseg.task import Task

AnyScores: TypeAlias = Scores | ErrorScores | MatchScores
"""The scores of a head, whatever its task."""

SCORES: dict[str, type[AnyScores]] = {"confusion": Scores, "errors": ErrorScores, "matches": MatchScores}
"""What heads can be scored by, by `Task.counted`."""


def metrics(task: Task, without: Sequence[str] = ()) -> dict[str, Metric]:
    """What a head can be scored by, by name: see `label_metrics`, `error_metrics` and `match_metrics`."""
    return SCORES[task.counted].named(task, without)


__all__ = [
    "AnyScores",
    "ErrorScores",
    "MatchScores",
    "Metric",
    "Pixels",
    "Sample",
    "Scores",
    "calibration",
    "calibration_sums",
    "choose_pixels",
    "error_metrics",
    "label_metrics",
    "match_metrics",
    "metrics",
    "scaling_facts",
]
