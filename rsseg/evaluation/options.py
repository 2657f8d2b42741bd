"""The settings of an evaluation, which the command line shares. This module does not import torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rsseg.contract import InputError, check_choice
from rsseg.inference.options import MEMBER_WEIGHTS
from rsseg.task import SCALINGS


@dataclass
class EvaluationOptions:
    """The settings of `rsseg.evaluation.scores.evaluate`; ``rsseg evaluate --help`` explains them."""

    split: str = ""  # train, val or test; empty: val, unless an image is given
    threshold: str = "fixed"  # the operating point that is returned and drawn, fixed or tuned
    weights: str = "equal"  # of an ensemble's members, equal or quality
    scaling: str = "temperature"  # of their logits before probabilities are averaged: temperature, vector or none
    without: list[str] = field(default_factory=list)  # the classes that means leave out; empty: those that the run leaves out
    scene: Path | None = None  # an image to score instead of a split
    mask: Path | None = None  # the mask of this image, or of a map
    head: str = ""  # the head that the mask is for; empty: the first; of a split, all heads are scored
    out: Path | None = None  # the folder of the tables; None: the run folder, for an ensemble the folder that holds the runs
    trust: list[str] = field(default_factory=list)  # packages whose classes the run's config may name

    def __post_init__(self) -> None:
        check_choice("threshold", self.threshold, ("fixed", "tuned"))
        check_choice("weights", self.weights, MEMBER_WEIGHTS)
        check_choice("scaling", self.scaling, ("none", *SCALINGS))
        if self.out is not None and self.out.is_file():
            raise InputError(f"out={self.out} is a file: a folder for the tables is expected")
