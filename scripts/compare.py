"""Compare losses: python scripts/compare.py runs=runs/sweep/synthetic"""

from dataclasses import dataclass
from pathlib import Path

from rsseg.config.arguments import run_script


@dataclass
class Arguments:
    """Compare finished runs: losses x metrics over seeds, and how validation loss and metrics go together.

    runs=FOLDER[,FOLDER...]    a sweep's folder, or several run folders
    out=FOLDER                 default: comparison in the first folder
    """

    runs: str
    out: str | None = None


def main(arguments: Arguments) -> None:
    """Compare as the command line says."""
    from rsseg.run import compare

    whole = Path(arguments.runs)  # a run folder's own name may hold commas
    places = [whole] if whole.exists() else [Path(place) for place in arguments.runs.split(",")]
    compare(places, Path(arguments.out) if arguments.out else None)


if __name__ == "__main__":
    run_script(Arguments, main)
