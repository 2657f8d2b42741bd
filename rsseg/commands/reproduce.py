"""Train a run again and compare: rsseg reproduce run=runs/..."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from rsseg.config.folder import RunFolder


@dataclass
class Arguments:
    """Check the code, the versions and the data of a finished run, train it again, and say whether the outcome is the same.

    It ends with "identical" (scores and weights), "within the noise" (scores differ by at most twice the deviation of runs that
    lie beside it and differ in the seed alone), or "different", with what has changed since, and then with exit code 1.

    run=FOLDER    the run folder
    out=FOLDER    where it is trained again; default: beside it, <run>-again
    trust=PACKAGE[,PACKAGE...]    packages of your own that the run was trained with: their code runs
    """

    run: str
    out: Path | None = None
    trust: list[str] = field(default_factory=list)


def run(arguments: Arguments) -> None:
    """Reproduce as the command line says."""
    folder = Path(arguments.run)
    RunFolder(folder).check_trained()
    from rsseg.reproduction import reproduce  # torch takes seconds to import: report a wrong folder first

    if not reproduce(folder, arguments.out, arguments.trust):
        sys.exit(1)
