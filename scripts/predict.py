"""Map a scene: python scripts/predict.py run=runs/... scene=big.tif"""

from dataclasses import dataclass, field
from pathlib import Path

from rsseg.config.arguments import run_script
from rsseg.config.folder import RunFolder


@dataclass
class Arguments:
    """Write a georeferenced map of a scene, or its objects, with a run's best checkpoint, window by window.

    run=FOLDER    the run folder
    scene=FILE    an image with the bands that the run was trained on
    out=FILE      the GeoTIFF to write; default: <run>/maps/<scene>.tif, or <folder>-<scene>.tif
                  where another scene has that name; of objects a GeoPackage or GeoJSON, <scene>.gpkg; with
                  head= <scene>-<head>
    head=NAME     of a run with several heads, the one whose map it is; default: the first
    threshold=tuned    at the thresholds (multiclass: biases) that were tuned on the validation scenes, not at 0.5 (argmax)
    trust=PACKAGE[,PACKAGE...]    packages of your own that the run was trained with: their code runs
    """

    run: str
    scene: str
    out: str | None = None
    threshold: str = "fixed"
    head: str = ""
    trust: list[str] = field(default_factory=list)


def main(arguments: Arguments) -> None:
    """Predict as the command line says."""
    RunFolder(Path(arguments.run)).check_trained()
    from rsseg.prediction import predict  # torch takes seconds to import: mistakes in the command are told before

    out = Path(arguments.out) if arguments.out else None
    predict(Path(arguments.run), Path(arguments.scene), out, arguments.threshold, arguments.trust, arguments.head)


if __name__ == "__main__":
    run_script(Arguments, main)
