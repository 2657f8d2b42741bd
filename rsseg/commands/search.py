"""Search for settings: rsseg search loss=ce_dice 'loss.terms.dice.weight=tag(log,interval(0.01,10))'"""

from dataclasses import dataclass

from rsseg.config.entry import own_configs, search_path
from rsseg.config.search import Search


@dataclass
class Arguments(Search):
    """Search for the settings that score best on validation; started again, a search goes on; started twice, both share it.

    key=interval(0,1)                what to search, any setting of rsseg train: a number between two,
    key=tag(log,interval(0.01,10))   or drawn by its logarithm,
    key=a,b,c                        or one of several; all other settings as for rsseg train
    objectives=NAME[,NAME...]        scores of a run: iou (default), dice, boundary_iou, scene_iou, ...; several: Pareto front
    trials=NUMBER                    finished trials that the study is to have, default 20
    study=NAME                       default: search; its folder is <output>/search/<study>
    race=NUMBER                      how many of the best trials are raced on 8 further seeds afterwards, default 0: none
    storage=URL                      default: a SQLite file in that folder; or mysql://..., postgresql+psycopg://...
    """


def run(arguments: Arguments) -> None:
    """Search as the command line says."""
    arguments.overrides = [*search_path(own_configs()), *arguments.overrides]
    arguments.config(arguments.first())
    from rsseg.search import search  # torch takes seconds to import: report mistakes in the command first

    search(arguments)
