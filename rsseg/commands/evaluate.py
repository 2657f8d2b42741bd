"""Score a run: rsseg evaluate run=runs/... split=test"""

import logging
from dataclasses import dataclass
from pathlib import Path

from rsseg.config.arguments import split_places
from rsseg.config.entry import next_map
from rsseg.config.folder import check_places
from rsseg.contract import InputError
from rsseg.evaluation.options import EvaluationOptions

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Arguments(EvaluationOptions):
    """Score the best checkpoint of a run, or of several as an ensemble, on whole scenes; or a finished map by a mask.

    run=FOLDER[,FOLDER...]    the run folder; several, or a folder that holds runs (a sweep, a k-fold): an ensemble of the
                              finished ones, by the mean of their probabilities, with its gain over its members
    split=NAME                train, val (default) or test
    scene=IMAGE mask=FILE     score an image of your own instead of a split, by a raster or vector file in any CRS
    map=MAP mask=FILE         score a finished map, such as rsseg predict writes, on its grid
    head=NAME                 the head that mask= is for; default: the first. Of a split all heads are scored
    threshold=tuned           draw at the thresholds (multiclass: biases) that were tuned on the validation scenes, not at 0.5
                              (argmax), and end if there are none; tables have both
    weights=quality           members of an ensemble count by their validation scores; default: equal
    scaling=KIND              of their probabilities before they are averaged: temperature (default), vector or none
    without=CLASS[,CLASS...]  classes that are left out of mean scores; default: as the run was trained (metrics.without)
    out=FOLDER                where tables and pictures go, evaluation-<split>*; default: the run folder; of an ensemble
                              ensemble-<split>*, beside the runs
    trust=PACKAGE[,PACKAGE...]    packages of your own that the run was trained with: their code runs
    """

    run: str
    map: Path | None = None


def run(arguments: Arguments) -> None:
    """Evaluate as the command line says."""
    places = split_places(arguments.run)
    check_places(places)
    from rsseg.evaluation.scores import evaluate, evaluate_map  # torch takes seconds to import: report a wrong folder first

    given = [f"{key}={value}" for key in ("split", "scene", "map") if (value := getattr(arguments, key))]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} exclude each other: name one of them")
    if not arguments.map:
        evaluate(places, arguments)
        log.info("%s", next_map(arguments.run))
    elif len(places) > 1 or not arguments.mask:
        raise InputError("map=... needs mask=... beside it, and run=... of one run whose classes it has")
    elif arguments.threshold != "fixed":
        raise InputError(f"threshold={arguments.threshold} is for a run's probabilities: a map has labels already")
    else:
        evaluate_map(places[0], arguments.map, arguments)
