"""Score a run: rsseg evaluate run=runs/... split=test"""

from dataclasses import dataclass, field
from pathlib import Path

from rsseg.config.arguments import split_places
from rsseg.config.folder import check_places


@dataclass
class Arguments:
    """Score the best checkpoint of a run, or of several as an ensemble, on whole scenes; or a finished map by a mask.

    run=FOLDER[,FOLDER...]    the run folder; several, or a folder that holds runs (a sweep, a k-fold): an ensemble of the
                              finished ones, by the mean of their probabilities, with its gain over its members
    split=NAME                train, val (default) or test
    scene=IMAGE mask=FILE     score an image of your own instead of a split, by a raster or vector file in any CRS
    map=MAP mask=FILE         score a finished map, such as rsseg predict writes, on its grid
    head=NAME                 the head that mask= is for; default: the first
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
    split: str = ""
    scene: str | None = None
    map: str | None = None
    mask: str | None = None
    head: str = ""
    threshold: str = "fixed"
    weights: str = "equal"
    scaling: str = "temperature"
    without: list[str] = field(default_factory=list)
    out: str | None = None
    trust: list[str] = field(default_factory=list)


def run(arguments: Arguments) -> None:
    """Evaluate as the command line says."""
    places = split_places(arguments.run)
    check_places(places)
    from rsseg.contract import InputError  # torch takes seconds to import: report a wrong folder first
    from rsseg.evaluation.scores import evaluate, evaluate_map

    scene, a_map, mask, out = (
        Path(text) if text else None for text in (arguments.scene, arguments.map, arguments.mask, arguments.out)
    )
    given = [f"{key}={getattr(arguments, key)}" for key in ("split", "scene", "map") if getattr(arguments, key)]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} exclude each other: name one of them")
    if a_map:
        if len(places) > 1 or not mask:
            raise InputError("map=... needs mask=... beside it, and run=... of one run whose classes it has")
        evaluate_map(places[0], a_map, mask, head=arguments.head, out=out, trust=arguments.trust, without=arguments.without)
        return
    evaluate(
        places,
        arguments.split or "val",
        arguments.threshold,
        arguments.trust,
        weights=arguments.weights,
        scaling=arguments.scaling,
        scene=scene,
        mask=mask,
        head=arguments.head,
        without=arguments.without,
        out=out,
    )
