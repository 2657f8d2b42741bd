"""Counts of a run, or of an ensemble and its members, on whole scenes, as tables, files and pictures."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from rsseg.comparison.intervals import Interval, estimate, sum_groups
from rsseg.comparison.measures import Measure, calibration_measure, calibration_measures, measures
from rsseg.console import print_table
from rsseg.contract import Batch
from rsseg.data.store import Store
from rsseg.data.windows import GridWindows
from rsseg.files import write_csv
from rsseg.inference.ensemble import Ensemble
from rsseg.metrics import Scores
from rsseg.metrics.average import Array, present_mean
from rsseg.metrics.calibration import calibration
from rsseg.pictures.diagnostics import draw_confusion
from rsseg.pictures.panels import draw_windows
from rsseg.pictures.windows import of_head, pick_windows, predict_windows
from rsseg.setup import Setup
from rsseg.training.counting import SceneCounter
from rsseg.training.scoring import predict_scenes, score_rows

log = logging.getLogger(__name__)


class Counted:
    """The counts of an ensemble, or of one model, on whole scenes.

    Every head is counted at the ``fixed`` point, and at ``tuned`` if it has thresholds.
    """

    def __init__(self, ensemble: Ensemble, setup: Setup, store: Store, kinds: Mapping[str, Sequence[str]]) -> None:
        self.ensemble = ensemble
        self.name = ensemble.specs[0].name if len(ensemble.specs) == 1 else "ensemble"
        self.heads = {}
        for head, task in ensemble.tasks.items():
            tuned = {"tuned": ensemble.thresholds[head]} if head in ensemble.thresholds else {}
            self.heads[head] = SceneCounter(task, store.sizes, tuned, kinds[head], setup.without_of(head))

    def update(self, each: Sequence[Mapping[str, Tensor]], batch: Batch) -> None:
        """Count a batch by the logits of each model."""
        for head, counter in self.heads.items():
            scaled = {kind: self.ensemble.pool(each, head, kind) for kind in counter.histograms}
            counter.update(self.ensemble.pool(each, head, self.ensemble.scaling), batch, scaled=scaled)

    def scores(self) -> dict[str, dict[str, Scores]]:
        """The scores by head at ``fixed``, and at ``tuned`` if a head is counted there; the others are repeated."""
        points = dict.fromkeys(point for counter in self.heads.values() for point in counter.sums)
        return {point: {head: counter.scores(point) for head, counter in self.heads.items()} for point in points}


def count_ensemble(setup: Setup, ensemble: Ensemble, store: Store) -> list[Counted]:
    """Count whole scenes in one pass over their windows, on the device and in the precision of `scoring_trainer`.

    Returns:
        The counts of the ensemble, followed by those of each member if there are several.
    """
    models: Any = list(ensemble.models)
    kinds = {head: ensemble.kinds(head) for head in ensemble.tasks}
    alone: Any = [Ensemble([model], heads=list(kinds)) for model in models if len(models) > 1]
    together, *members = [Counted(each, setup, store, kinds) for each in (ensemble, *alone)]
    for each, batch in predict_scenes(setup, models, GridWindows(store, setup.window, setup.margin)):
        together.update(each, batch)
        for counted, logits in zip(members, each, strict=False):
            counted.update([logits], batch)
    return [together, *members]


def calibration_rows(every: Sequence[Counted]) -> list[dict[str, Any]]:
    """Rows of calibration scores: one per head with labels and kind of scaling, for the ensemble and each member."""
    return [
        {"model": counted.name, "head": head, "scaling": kind} | calibration(counter.calibration_sums(kind))
        for counted in every
        for head, counter in counted.heads.items()
        for kind in counter.histograms
    ]


CALIBRATION_NAMES = {
    "ece": "expected\ncalibration error",
    "class_ece": "its mean\nover classes",
    "brier": "Brier score",
    "nll": "negative\nlog-likelihood",
}
"""The printed names of calibration scores."""


def print_calibration(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print `calibration_rows` without columns that say nothing, and warn where the usual scaling makes them worse."""
    hidden = {key for key in ("model", "head") if len({row[key] for row in rows}) == 1}
    hidden |= {"class_ece"} if all(row["class_ece"] == row["ece"] for row in rows) else set()
    print_table(
        [{CALIBRATION_NAMES.get(key, key): value for key, value in row.items() if key not in hidden} for row in rows],
        "Calibration",
    )
    nll = {(row["head"], row["scaling"]): row["nll"] for row in rows if row["model"] == rows[0]["model"]}
    worse = [head for head, scaling in nll if scaling == "temperature" and nll[head, scaling] > nll[head, "none"]]
    if worse:
        of = f" of {', '.join(worse)}" * ("head" not in hidden)
        log.warning("Temperature scaling makes the likelihood%s worse here: predict with scaling=none.", of)


class Gain(NamedTuple):
    """The gain of an ensemble in a score; positive is better, for errors too."""

    over_mean: Interval  # over the mean of its members' scores
    over_best: Interval  # over the score of the member passed as the best


def ensemble_gain(sums: Sequence[Array], measure: Measure, groups: Sequence[str], best: int) -> Gain:
    """The gain of an ensemble, with intervals over other groups of scenes, for the same models.

    `sums` holds an array ``[S, ...]`` for the ensemble and then one for each member; `best` is the index of the best member.

    Example:
        >>> from rsseg.comparison.measures import measures
        >>> from rsseg.task import Binary
        >>> better, worse = np.full((6, 1, 4), 8.0), np.full((6, 1, 4), 8.0)
        >>> worse[:, 0, 1] = 16  # false positives
        >>> found = ensemble_gain([better, worse, better], measures(Binary(("road",)))["iou"], list("abcdef"), 1)
        >>> round(float(found.over_mean.value), 4), round(float(found.over_best.value), 4)
        (0.0417, 0.0)
    """
    summed = np.stack([sum_groups(each, groups) for each in sums], axis=1)  # [groups, 1 + members, ...]
    one_loss = np.stack([summed, summed])[None]  # with two equal seeds: the models are fixed, so seeds have no variance
    members = len(sums) - 1

    def over(shares: Array) -> Interval:
        def parts(sums: Array) -> Array:
            each = measure.parts(sums)  # [..., 1 + members, parts]
            return measure.sign * (each[..., 0, :] - np.einsum("...mp,m->...p", each[..., 1:, :], shares))

        gain = replace(measure, parts=parts, pixels=lambda sums: measure.pixels(sums[:, 0]), higher_is_better=True)
        return estimate(one_loss, gain).mean.interval()[0]

    return Gain(over(np.full(members, 1 / members)), over(np.eye(members)[best]))


def gain_rows(every: Sequence[Counted], groups: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of the gain of an ensemble over the mean of its members, and over the member that is best on the same scenes."""
    rows, members = list[dict[str, Any]](), every[1:]
    for head in every[0].heads if members else ():
        best = -1  # the first score decides
        for point, measure, sums in _scored(every, head):
            score, *others = (float(present_mean(measure.parts(own.sum(0)))) for own in sums)
            if best < 0:
                best = int(np.argmax(np.nan_to_num(measure.sign * np.array(others), nan=-np.inf)))
            gain = ensemble_gain(sums, measure, groups, best)
            row: dict[str, Any] = {"head": head, "score": measure.label, "point": point, "ensemble": score}
            row |= {"members": float(np.mean(others)), "best": others[best], "best_member": members[best].name}
            for name, interval in (("over_members", gain.over_mean), ("over_best", gain.over_best)):
                row |= dict(zip((name, f"{name}_low", f"{name}_high"), interval.at(), strict=True))
            rows.append(row)
    return rows


def _scored(every: Sequence[Counted], head: str) -> Iterator[tuple[str, Measure, list[Array]]]:
    """The compared scores of a head: name, measure, and the sums of the ensemble and then of each member."""
    scaling, counters = every[0].ensemble.scaling, [counted.heads[head] for counted in every]
    first = counters[0]
    measure = measures(first.task, first.without)[first.task.score]
    for point in first.sums:
        if all(point in counter.sums for counter in counters):
            yield point, measure, [counter.scores(point).counts[..., measure.classes, :] for counter in counters]
    if not first.task.real:
        kind = scaling if scaling in first.histograms else "none"
        sums = [counter.calibration_sums(kind) for counter in counters]
        for name, label in (("ece", calibration_measures(first.task)["ece"].label), ("nll", "negative log-likelihood")):
            yield kind, calibration_measure(name, label), [own[name] for own in sums]


def gain_sentence(row: Mapping[str, Any], members: int) -> str:
    """A row of `gain_rows` as a sentence."""

    def by(name: str) -> str:
        low, high = row[f"{name}_low"], row[f"{name}_high"]
        interval = "no interval: the scenes are of one group" if low != low else f"{low:+.4f} to {high:+.4f}"
        return f"{row[name]:+.4f} ({interval})"

    said = f"{row['head']}, {row['score']} ({row['point']}): {row['ensemble']:.4f}"
    mean = f"{by('over_members')} over the mean of {members} members, {row['members']:.4f}"
    return f"{said}, a gain of {mean}, and of {by('over_best')} over the best, {row['best']:.4f}, {row['best_member']}"


def write_tables(path: Path, scores: Mapping[str, Scores], scenes: Sequence[str]) -> None:
    """Write the table of classes and averages, and beside it the tables of scenes and of confusion matrices."""
    write_csv(path, score_rows(scores))
    write_csv(path.with_name(f"{path.stem}-scenes.csv"), score_rows(scores, lambda own: own.scene_table(scenes)))
    if confusions := score_rows(scores, Scores.pair_table):
        write_csv(path.with_name(f"{path.stem}-confusion.csv"), confusions)


def draw_matrices(path: Path, scores: Mapping[str, Scores]) -> None:
    """Draw the confusion matrices of heads with labels beside their table."""
    place = path.with_name(f"{path.stem}-confusion.png")
    for head, own in scores.items():
        if not own.task.real:
            draw_confusion(of_head(place, head, scores), own)


def draw_examples(path: Path, ensemble: Ensemble, setup: Setup, store: Store, tuned: bool) -> None:
    """Draw some windows of the scenes with the predictions of a run, or an ensemble, beside its table."""
    windows = pick_windows(store, setup.window, setup.pictures) if setup.pictures else []
    if windows:  # there are none without a labelled pixel of a class
        place = path.with_name(f"{path.stem}-picture.png")
        names = [scene.name for scene in store.scenes]
        drawn = predict_windows(ensemble, windows, names, ensemble.thresholds if tuned else {})
        for head, rows in drawn.items():
            draw_windows(of_head(place, head, drawn), ensemble.tasks[head], setup.palette(head), rows, setup.shown_bands)
