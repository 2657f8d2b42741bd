"""Map scenes: rsseg predict run=runs/... scene=big.tif"""

import logging
from dataclasses import dataclass, field, fields
from pathlib import Path

from rsseg.config.arguments import split_places
from rsseg.config.entry import invocation
from rsseg.config.folder import RunFolder, check_places
from rsseg.inference.options import MapOptions

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Arguments(MapOptions):
    """Write georeferenced maps of scenes of any size with a run's best checkpoint, window by window.

    run=FOLDER[,FOLDER...]    run folders, exported folders, or folders of runs; several are averaged
    scene=WHAT    a file, several with commas, a folder, a pattern such as 'tiles/*.tif', a list (.txt) with one a line, an
                  archive or a URL
    stack=true    the files of scene= are the bands of one scene, in this order
    out=PLACE     the file to write, or a folder; default: <run>/maps/<scene>.tif (objects: .gpkg), or <folder>-<scene>.tif
                  where another scene has that name; further heads and kinds have theirs behind it. A map that is there is kept:
                  the same command goes on where it was stopped, and may run several times at once
    overwrite=true    make maps again that are there
    head=NAME     of a run with several heads, the one that is mapped; default: all

    write=KIND[,KIND...]      labels (default; of a regression its values), probabilities, entropy, disagreement (of several
                              runs, or of views)
    dtype=float16     of all but labels; default uint8: 0 to 250, with a scale of 1/250
    threshold=tuned   at the thresholds (multiclass: biases) that were tuned on the validation scenes, not at 0.5 (argmax)
    scaling=KIND      of probabilities: temperature (default), vector, or none
    polygons=true     also the areas of the labels, as a GeoPackage; min_area=50 leaves out smaller ones (square metres),
                      simplify=1 lets borders move so far (metres); of scenes without a CRS both are in pixels

    tta=KIND      predict every window in several views and average them: flips, d4 or scales
    weights=quality   of several runs: by their validation scores; default: equal
    area=FILE     a vector file: nothing is mapped outside of it
    resample=true     bring scenes to the resolution that the run was trained at
    allow_different=true      map scenes as they are whose resolution, number type or range is not that of training

    blend=none    windows are cut where validation cuts them, not blended; default: gaussian
    window=PIXELS, margin=PIXELS, batch_size=N    the windows; default: as trained and validated
    device=cpu    default: auto
    devices=N     so many processes, each on a GPU of its own where there are some
    trust=PACKAGE[,PACKAGE...]    packages of your own that the run was trained with: their code runs
    """

    run: str
    scene: str
    out: Path | None = None
    devices: int = 1
    trust: list[str] = field(default_factory=list)


def run(arguments: Arguments) -> None:
    """Predict as the command line says."""
    places = split_places(arguments.run)
    check_places(places)
    from rsseg.prediction import predict, start_others  # torch takes seconds to import: report a wrong folder first

    options = MapOptions(**{item.name: getattr(arguments, item.name) for item in fields(MapOptions)})
    with start_others(arguments.devices, arguments.device):
        maps = predict(places, arguments.scene, arguments.out, options, arguments.trust)
    if maps and maps[0].suffix == ".tif" and "labels" in arguments.write and RunFolder(places[0]).begun:
        head = f" head={arguments.head}" if arguments.head else ""
        line = "Next: %s run='%s' map='%s'%s mask=<file> scores the map by labels"
        log.info(line, invocation("evaluate"), places[0], maps[0], head)
