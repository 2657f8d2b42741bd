"""Score a run: python scripts/evaluate.py run=runs/... split=test"""

from dataclasses import dataclass, field
from pathlib import Path

from rsseg.config.arguments import run_script
from rsseg.config.folder import RunFolder


@dataclass
class Arguments:
    """Score a run's best checkpoint on whole scenes; tables and pictures evaluation-<split>* go into its folder.

    run=FOLDER    the run folder
    split=NAME    train, val (default) or test
    threshold=tuned    at the thresholds (multiclass: biases) that were tuned on the validation scenes, not at 0.5 (argmax)
    without=CLASS[,CLASS...]      classes that are left out of mean scores; default: as the run was trained (metrics.without)
    trust=PACKAGE[,PACKAGE...]    packages of your own that the run was trained with: their code runs
    """

    run: str
    split: str = "val"
    threshold: str = "fixed"
    without: list[str] = field(default_factory=list)
    trust: list[str] = field(default_factory=list)


def main(arguments: Arguments) -> None:
    """Evaluate as the command line says."""
    RunFolder(Path(arguments.run)).check_trained()
    from rsseg.evaluation import evaluate  # torch takes seconds to import: mistakes in the command are told before

    evaluate(Path(arguments.run), arguments.split, arguments.threshold, arguments.trust, arguments.without)


if __name__ == "__main__":
    run_script(Arguments, main)
