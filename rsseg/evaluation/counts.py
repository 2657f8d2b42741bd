"""What is counted of a run, or of an ensemble, on whole scenes, as tables, files and pictures."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rsseg.comparison.intervals import Interval
from rsseg.comparison.measures import Measure, calibration_measure, calibration_measures, measures
from rsseg.contract import Batch, layers_of
from rsseg.data.groups import group_names
from rsseg.data.store import Store
from rsseg.data.windows import Batches, GridWindows
from rsseg.evaluation.gains import ensemble_gain
from rsseg.files import write_csv
from rsseg.inference.ensemble import Ensemble
from rsseg.metrics import Scores
from rsseg.metrics.average import present_mean
from rsseg.metrics.calibration import calibration, calibration_sums
from rsseg.metrics.counters import SCENE_SUMS, Confusion, ScoreHistogram, score_scenes
from rsseg.pictures.diagnostics import draw_confusion
from rsseg.pictures.panels import draw_windows
from rsseg.pictures.windows import of_head, pick_windows, predict_windows
from rsseg.progress import progress
from rsseg.setup import Setup
from rsseg.table import print_table
from rsseg.training.scoring import (
    cache_scenes,
    confusion_rows,
    feed,
    print_scores,
    scene_rows,
    score_rows,
    scoring_trainer,
)

log = logging.getLogger(__name__)


class Counted:
    """What is counted of an ensemble, or of one model, while whole scenes are predicted.

    At the ``fixed`` point every head is counted, at ``tuned`` those that have thresholds; the histograms of scores are kept by
    head with labels and kind of scaling. `without` are the classes that means leave out, by head.
    """

    def __init__(
        self, ensemble: Ensemble, scenes: int, kinds: Mapping[str, Sequence[str]], without: Mapping[str, Sequence[str]]
    ) -> None:
        self.ensemble, self.tasks, self.without = ensemble, ensemble.tasks, without
        self.name = ensemble.models[0].spec.name if len(ensemble.models) == 1 else "ensemble"
        tuned = ensemble.thresholds.items()
        self.points: dict[str, dict[str, Any]] = {
            "fixed": {head: SCENE_SUMS[task.counted](task, scenes) for head, task in self.tasks.items()},
            "tuned": {head: Confusion(self.tasks[head], scenes, threshold) for head, threshold in tuned},
        }
        self.histograms = {
            head: {kind: ScoreHistogram(task, scenes) for kind in kinds[head]}
            for head, task in self.tasks.items()
            if not task.real
        }

    def update(self, each: Sequence[Mapping[str, Tensor]], batch: Batch) -> None:
        """Count a batch by the logits of each model."""
        layers, device = layers_of(batch), self.ensemble.device
        for head, task in self.tasks.items():
            logits, target = self.ensemble.pool(each, head, self.ensemble.scaling), layers[task.target]
            for sums in self.points.values():
                if head in sums:
                    sums[head].to(device).update(logits, task.standardise(target), batch["scene"], batch.get("corner"))
            for kind, histogram in self.histograms.get(head, {}).items():
                scaled = self.ensemble.pool(each, head, kind)
                histogram.to(device).update(scaled, task.hard_labels(target), batch["scene"])

    def scores(self, point: str) -> dict[str, Scores]:
        """The scores of each head at a point, or where it has none, at the fixed one."""
        sums = {head: self.points[point].get(head, fixed) for head, fixed in self.points["fixed"].items()}
        return {head: score_scenes(own, self.tasks[head], self.without[head]) for head, own in sums.items()}

    def calibration_sums(self, head: str, kind: str) -> dict[str, np.ndarray[Any, Any]]:
        """What the scores of a head's calibration are functions of."""
        return calibration_sums(self.histograms[head][kind].compute().cpu().numpy(), self.tasks[head])


@dataclass(frozen=True)
class Evaluated:
    """What was counted of whole scenes: of a run, or of an ensemble and its members."""

    together: Counted
    members: Sequence[Counted]
    scenes: Sequence[str]
    groups: Sequence[str]

    def scores(self, point: str = "fixed") -> dict[str, Scores]:
        """The scores of each head at an operating point; see `Counted.scores`."""
        return self.together.scores(point)

    @property
    def points(self) -> list[str]:
        """The operating points that some head was counted at."""
        return [point for point, sums in self.together.points.items() if sums]

    def calibration(self) -> list[dict[str, Any]]:
        """The calibration of each head with labels by each kind of scaling, of the members too."""
        return [
            {"model": counted.name, "head": head, "scaling": kind} | calibration(counted.calibration_sums(head, kind))
            for counted in (self.together, *self.members)
            for head, kinds in counted.histograms.items()
            for kind in kinds
        ]

    def gains(self) -> list[dict[str, Any]]:
        """The ensemble's gain over the mean of its members, and over the member that is best on these very scenes."""
        rows = []
        for head in self.together.tasks:
            best = -1
            for point, measure, sums in self._scored(head):
                score, *members = (float(present_mean(measure.parts(own.sum(0)))) for own in sums)
                if best < 0:
                    signed = measure.sign * np.array(members)
                    best = int(np.nanargmax(signed)) if not np.isnan(signed).all() else 0
                gain = ensemble_gain(sums, measure, self.groups, best)
                rows.append(
                    {"head": head, "score": measure.label, "point": point, "ensemble": score}
                    | {"members": float(np.mean(members)), **_ends("over_members", gain.over_mean)}
                    | {"best": members[best], "best_member": self.members[best].name, **_ends("over_best", gain.over_best)}
                )
        return rows

    def _scored(self, head: str) -> Iterator[tuple[str, Measure, list[Any]]]:
        """The scores of a head that are compared, each with what it is made of: of the ensemble, then of each member."""
        every, task = (self.together, *self.members), self.together.tasks[head]
        measure = measures(task, self.together.without[head])[task.score]
        for point in ("fixed", "tuned"):
            if all(head in counted.points[point] for counted in every):
                scores = [counted.scores(point)[head] for counted in every]
                yield point, measure, [own.counts[..., measure.classes, :] for own in scores]
        if task.real:
            return
        scaling = self.together.ensemble.scaling
        kind = scaling if scaling in self.together.histograms[head] else "none"
        sums = [counted.calibration_sums(head, kind) for counted in every]
        for name, label in (("ece", calibration_measures(task)["ece"].label), ("nll", "negative log-likelihood")):
            yield kind, calibration_measure(name, label), [own[name] for own in sums]

    def show(self, title: str) -> None:
        """Print the scores, the calibration and, of an ensemble, what it gains."""
        print_scores(self.scores(), title, self.scores("tuned") if "tuned" in self.points else None)
        if rows := self.calibration():
            hidden = () if self.members else ("model",)
            print_table([{key: value for key, value in row.items() if key not in hidden} for row in rows], "Calibration")
        for row in self.gains() if self.members else ():
            log.info("%s", _sentence(row, len(self.members)))

    def say_limits(self, split: str) -> None:
        """Log which runs lack scalings or thresholds, and which scores are too optimistic."""
        ensemble = self.together.ensemble
        for model in ensemble.models:
            heads = [model.spec.heads[head] for head in self.together.histograms]
            if any(not head.scaling for head in heads):
                line = "%s has no scaling.json, as older runs and those with record.enabled=false: nothing is scaled."
                log.info(line, model.spec.name)
            if any(head.threshold is None for head in heads):
                log.info("%s has no tuned thresholds: there are scores at fixed ones alone.", model.spec.name)
        fitted = "tuned" in self.points or any(len(ensemble.kinds(head)) > 1 for head in ensemble.tasks)
        if split == "val" and fitted:
            line = (
                "Thresholds were tuned and scalings fitted on these scenes: scores by them are too good; threshold.json and "
                "scaling.json in %s have those to expect of others."
            )
            log.info(line, ensemble.models[0].spec.name)

    def write(self, path: Path) -> None:
        """Write the tables, those at tuned thresholds beside those at fixed ones."""
        for point in self.points:
            write_tables(at_point(path, point), self.scores(point), self.scenes)
        if rows := self.calibration():
            write_csv(path.with_name(f"{path.stem}-calibration.csv"), rows)

    def facts(self) -> dict[str, Any]:
        """What the JSON file of an ensemble holds."""
        ensemble = self.together.ensemble
        return {
            "members": {model.spec.name: share for model, share in zip(ensemble.models, ensemble.shares, strict=True)},
            "scaling": ensemble.scaling,
            "scenes": list(self.scenes),
            "scores": {
                own.name: {point: {h: s.means() for h, s in own.scores(point).items()} for point in self.points}
                for own in (self.together, *self.members)
            },
            "calibration": self.calibration(),
            "gains": self.gains(),
        }


def count_ensemble(setup: Setup, ensemble: Ensemble, store: Store) -> Evaluated:
    """Count whole scenes in one pass over their windows, on the device and in the precision of scores."""
    windows, trainer = GridWindows(store, setup.window, setup.overlap), scoring_trainer(setup)
    device = trainer.strategy.root_device
    cache_scenes(setup, [store], trainer)
    for model in ensemble.models:
        trainer.precision_plugin.convert_module(model.to(device))
    kinds = {head: ensemble.kinds(head) for head in ensemble.tasks}
    without = {head: setup.without_of(head) for head in ensemble.tasks}
    several = ensemble.models if len(ensemble.models) > 1 else []
    alone = [Ensemble([model], heads=list(kinds)) for model in several]
    together, *members = [Counted(each, len(store), kinds, without) for each in (ensemble, *alone)]
    batches: Any = feed(setup, windows, Batches(len(windows), setup.batch_size))
    with torch.inference_mode(), trainer.precision_plugin.forward_context(), progress(batches, "scoring") as steps:
        for given in steps:
            batch: Any = {key: value if key == "k" else value.to(device) for key, value in given.items()}
            each = [model.logits(batch["image"]) for model in ensemble.models]
            together.update(each, batch)
            for counted, logits in zip(members, each, strict=False):
                counted.update([logits], batch)
    return Evaluated(together, members, [scene.name for scene in store.scenes], group_names(store.scenes))


def _ends(name: str, interval: Interval) -> dict[str, float]:
    """An interval as columns: its middle, its low and its high end."""
    return dict(zip((name, f"{name}_low", f"{name}_high"), interval.at(), strict=True))


def _sentence(row: Mapping[str, Any], members: int) -> str:
    """A row of `Evaluated.gains` as a sentence."""

    def by(name: str) -> str:
        low, high = row[f"{name}_low"], row[f"{name}_high"]
        interval = "no interval: the scenes are of one group" if low != low else f"{low:+.4f} to {high:+.4f}"
        return f"{row[name]:+.4f} ({interval})"

    said = f"{row['head']}, {row['score']} ({row['point']}): {row['ensemble']:.4f}"
    mean = f"{by('over_members')} over the mean of {members} members, {row['members']:.4f}"
    return f"{said}, a gain of {mean}, and of {by('over_best')} over the best, {row['best']:.4f}, {row['best_member']}"


def at_point(path: Path, point: str) -> Path:
    """The table at an operating point, by that at the fixed one.

    Example:
        >>> at_point(Path("evaluation-val-without-road.csv"), "tuned").name
        'evaluation-val-tuned-without-road.csv'
    """
    if point == "fixed":
        return path
    stem, without, left = path.stem.partition("-without-")
    return path.with_name(f"{stem}-{point}{without}{left}{path.suffix}")


def write_tables(path: Path, scores: Mapping[str, Scores], scenes: Sequence[str]) -> None:
    """Write the table of classes and averages, that of scenes beside it, and that of the confusion matrices."""
    write_csv(path, score_rows(scores))
    write_csv(path.with_name(f"{path.stem}-scenes.csv"), scene_rows(scores, scenes))
    if confusions := confusion_rows(scores):
        write_csv(path.with_name(f"{path.stem}-confusion.csv"), confusions)


def draw_matrices(path: Path, scores: Mapping[str, Scores]) -> None:
    """Draw the confusion matrices of heads with labels beside their table."""
    place = path.with_name(f"{path.stem}-confusion.png")
    for head, own in scores.items():
        if not own.task.real:
            draw_confusion(of_head(place, head, scores), own)


def draw_examples(path: Path, ensemble: Ensemble, setup: Setup, store: Store) -> None:
    """Draw some windows of the scenes with what a run, or an ensemble, makes of them, beside its table."""
    if not setup.pictures:
        return
    place = path.with_name(f"{path.stem}-picture.png")
    windows = pick_windows(store, setup.window, setup.pictures)
    drawn = predict_windows(ensemble, windows, [scene.name for scene in store.scenes])
    for head, rows in drawn.items():
        draw_windows(of_head(place, head, drawn), ensemble.tasks[head], setup.palette(head), rows, setup.shown_bands)
