"""The panel: losses that are functions of sums over pixels, valued on validation whichever loss trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from rsseg.losses import Term

PANEL: Mapping[str, Mapping[str, Any]] = {
    "ce": {"_target_": "rsseg.losses.CrossEntropy"},
    "weighted_ce": {"_target_": "rsseg.losses.CrossEntropy", "class_weights": "inverse_frequency"},
    "focal": {"_target_": "rsseg.losses.Focal", "gamma": 2.0},
    "dice": {"_target_": "rsseg.losses.Dice"},
    "jaccard": {"_target_": "rsseg.losses.Jaccard"},
    "tversky": {"_target_": "rsseg.losses.Tversky", "alpha": 0.3, "beta": 0.7},
    "focal_tversky": {"_target_": "rsseg.losses.FocalTversky", "alpha": 0.3, "beta": 0.7, "gamma": 0.75},
    "lovasz_binned": {"_target_": "rsseg.losses.Lovasz", "bins": 512},
}
"""Under the names of ``configs/loss/term``. Binned Lovasz joins the one pass, where the exact one would sort every error."""


class Panel(NamedTuple):
    """The losses that every validation of a head is valued by."""

    losses: Mapping[str, Term]  # by name, functions of sums over the batch
    facts: Mapping[str, Any]  # by name, what each of them was made with
    clipped: list[str]  # the classes whose weight in the weighted cross-entropy could not be counted
