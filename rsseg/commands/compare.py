"""Compare losses: rsseg compare runs=runs/sweep/synthetic"""

from dataclasses import dataclass
from pathlib import Path

from rsseg.comparison.question import Question
from rsseg.config.arguments import split_places


@dataclass(kw_only=True)
class Arguments(Question):
    """Compare finished runs: which loss serves which metric, by how much, how surely and why, as report.html.

    runs=FOLDER[,FOLDER...]    a sweep's folder, or several run folders
    out=FOLDER                 default: comparison in the first folder (comparison_dice, ... by another metric)
    metric=METRIC              the measure that ranks the losses: iou (the default), dice, precision, recall, f0.5, f2, kappa,
                               balanced_accuracy or boundary_iou; of a class: recall/road; recall_micro, recall_weighted,
                               scene_recall; of a regression rmse (the default), mae, r2, absolute_bias; of a value: rmse/height
    head=NAME                  of runs with several heads, the one that is compared; default: the first
    without=CLASS[,CLASS...]   classes that are left out of mean scores; default: as the runs were trained (metrics.without)
    split=test                 score the best checkpoints on the test split; default: val, by checkpoints of the other half
    equal_within=0.01          losses whose scores differ by less are practically equal
    allow_different=true       compare runs although they differ in more than a sweep varies: settings, training data, code
    trust=PACKAGE[,PACKAGE...] packages of your own that the runs were trained with: their code runs
    """

    runs: str
    out: Path | None = None


def run(arguments: Arguments) -> None:
    """Compare as the command line says."""
    from rsseg.answer import compare  # SciPy takes a second to import: report wrong words first

    compare(split_places(arguments.runs), arguments, arguments.out)
