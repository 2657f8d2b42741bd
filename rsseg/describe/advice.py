"""Advice on what to compare first: common rules of thumb as tables, applied to the census.

A rule of thumb only selects candidates; the sweep decides between them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rsseg.data.census import Census
from rsseg.describe.objects import SMALL, ObjectSizes
from rsseg.task import Task

COMPARED = 3  # losses in the first comparison

MODERATE, EXTREME = 4, 99
"""Imbalance ratios: pixels of the most frequent class per pixel of the rarest. With two classes the rarer has 20 % and 1 %."""

THIN = 8  # objects with a mean width of fewer pixels are thin: a quarter or more of their pixels are at an edge


@dataclass(frozen=True)
class SplitFacts:
    """The facts of a training split that the rules ask about."""

    subject: str  # of the masks, see `rsseg.task.Task.subject`
    frequent: str = ""  # the class with the most pixels
    rare: str = ""  # the class with the fewest, of those that occur
    ratio: float = 1.0  # pixels of `frequent` per pixel of `rare`; multilabel: of pixels without the label per pixel with it
    majority: float = 1.0  # the share of the most frequent class
    quiet: float = 0.0  # the share of blocks that show only the most frequent class
    thin: Sequence[str] = ()  # the classes whose objects are thinner than `THIN`
    small: Sequence[str] = ()  # the classes with half or more of their pixels in small objects, see `ObjectSizes`
    uneven: float = 1.0  # how many times larger the largest scene is than the smallest
    patchy: Sequence[str] = ()  # the classes that are missing from half of the scenes or more

    @classmethod
    def of(cls, census: Census, task: Task, sizes: NDArray[np.int64], objects: Mapping[str, ObjectSizes]) -> SplitFacts:
        """Derive the facts from a census, the scenes' sizes ``[S, 2]`` and the objects of each class."""
        names, counts = task.label_names, census.blocks.by_label(task)
        positive, valid = census.positives.sum(axis=0), census.valid.sum(axis=0)
        totals = task.label_counts(positive, valid)[0]
        if task.separate:
            rarest = int(np.where(positive, positive / np.maximum(valid, 1), np.inf).argmin())
            totals = np.array([valid[rarest] - positive[rarest], positive[rarest]])
            names = ("everything else", task.classes[rarest])
            others = counts.sum(axis=1)
        else:
            others = np.delete(counts, totals.argmax(), axis=1).sum(axis=1)
        most = int(totals.argmax())
        least = int(np.where(totals, totals, np.iinfo(np.int64).max).argmin())
        area = sizes.prod(axis=1)
        absent = (census.positives == 0).mean(axis=0)
        return cls(
            subject=task.subject,
            frequent=names[most],
            rare=names[least],
            ratio=float(totals[most] / totals[least]),
            majority=float(totals[most] / totals.sum()),
            quiet=float((others[census.blocks.labelled > 0] == 0).mean()),
            thin=[name for name, own in objects.items() if own.width < THIN],
            small=[name for name, own in objects.items() if own.small >= 0.5],
            uneven=float(area.max() / area.min()),
            patchy=[name for name, share in zip(task.classes, absent, strict=True) if 0.5 <= share < 1],
        )


def _pixels(facts: SplitFacts) -> bool:
    return facts.subject in ("land cover", "foreground")


SITUATIONS: Mapping[str, Callable[[SplitFacts], bool]] = {
    "land cover": lambda f: f.subject == "land cover",
    "buildings, roads, water": lambda f: f.subject == "foreground",
    "detection": lambda f: f.subject == "detection",
    "regression": lambda f: f.subject == "regression",
    "no imbalance to speak of": lambda f: f.ratio < MODERATE,
    "imbalance": lambda f: f.ratio >= MODERATE,
    "moderate imbalance": lambda f: _pixels(f) and MODERATE <= f.ratio < EXTREME,
    "extreme imbalance": lambda f: _pixels(f) and f.ratio >= EXTREME,
    "empty windows": lambda f: f.ratio >= MODERATE and f.quiet >= 0.5,
    "thin objects": lambda f: _pixels(f) and bool(f.thin),
    "small objects": lambda f: _pixels(f) and bool(f.small),
    "rare small objects": lambda f: _pixels(f) and f.ratio >= EXTREME and f.rare in f.small,
    "classes that many scenes lack": lambda f: bool(f.patchy),
    "scenes of very different size": lambda f: f.uneven >= MODERATE,
    "if misses cost more than false alarms": _pixels,
}
"""When a rule holds. The data do not tell whether misses cost more than false alarms: its rule is named but not compared."""


class Rule(NamedTuple):
    """A rule of thumb."""

    situation: str  # when the rule holds, a key of `SITUATIONS`
    take: Sequence[str]  # names in `configs/loss`, or overrides, or names of metrics
    why: str  # the reason, a format string of `SplitFacts`


RULES: Mapping[str, Sequence[Rule]] = {
    "losses": (
        Rule("extreme imbalance", ("dice", "focal"), "{ratio:.3g} pixels of {frequent} for one of {rare}: weights of that "
             "size let few pixels decide; Dice does not count true negatives, focal fades easy pixels"),
        Rule("thin objects", ("ce_lovasz",), f"{{thin}}: thinner than {THIN} pixels, so a quarter or more of them lie at an "
             "edge; Lovasz follows IoU itself, but beside CE: alone it was far behind on small buildings"),
        Rule("small objects", ("ce_lovasz",), f"{{small}}: mostly in objects below {SMALL} pixels, little in a mean over all "
             "pixels; Lovasz follows IoU itself"),
        Rule("moderate imbalance", ("weighted_ce",),
             "{ratio:.3g} pixels of {frequent} for one of {rare}: weights give it a say"),
        Rule("land cover", ("weighted_ce", "focal"), "every pixel has a class, so each is a sample: weighed by class, or by "
             "how hard it is"),
        Rule("buildings, roads, water", ("dice", "jaccard", "focal", "tversky", "ce_lovasz"),
             "the class is judged by its overlap, and the background must not outvote it"),
        Rule("thin objects", ("ce_dice_boundary", "dice_cl_dice", "ce_dice_skeleton_recall"), "{thin}: a mistake costs its "
             "distance to the edge; a gap costs its length; every pixel of a centre line counts; none is measured yet"),
        Rule("small objects", ("ce_dice_boundary",), "{small}: a false alarm costs its distance; not measured yet"),
        Rule("detection", ("centres",),
             "almost all places are empty, which its focal loss plays down; smooth L1 fits the boxes"),
        Rule("regression", ("mse", "mae", "huber", "log_cosh"), "from the one that follows outliers to the robust ones"),
        Rule("if misses cost more than false alarms", ("tversky",),
             "its beta (misses) is larger than its alpha (false alarms): .7 and .3 unless you say otherwise"),
    ),
    "sampling": (
        Rule("no imbalance to speak of", ("sampler=uniform",), "every pixel alike"),
        Rule("imbalance", ("sampler=balanced", "sampler.power=0.5"),
             "windows around {rare} more often; it multiplies with class weights: take one of the two"),
        Rule(
            "empty windows",
            ("sampler=undersample", "sampler=near_border"),
            "{quiet:.0%} of the blocks show {frequent} alone",
        ),
        Rule("rare small objects", ("augment=[paste,d4]",), "{rare} can be pasted into other windows"),
        Rule("scenes of very different size", ("sampler=by_scene",),
             "the largest is {uneven:.3g} times as large as the smallest: if you are judged scene by scene"),
    ),
    "metrics": (
        Rule("land cover", ("mean IoU", "IoU of each class"),
             "not accuracy: a map of {frequent} alone reaches {majority:.0%}"),
        Rule("buildings, roads, water", ("IoU of the class", "Dice"),
             "not accuracy: an empty map reaches {majority:.0%}; tune the threshold before comparing losses"),
        Rule("detection", ("F1", "average precision at an IoU of 0.5"),
             "F1 counts the objects found, by their centres; average precision ranks all boxes by their score"),
        Rule("regression", ("RMSE", "MAE"), "RMSE is sensitive to outliers, MAE is robust"),
        Rule("thin objects", ("boundary IoU",), "for {thin} IoU hangs on one pixel at the edge"),
        Rule("classes that many scenes lack", ("IoU pooled over scenes",),
             "{patchy}: a mean over scenes hangs on the few that have them"),
        Rule("scenes of very different size", ("IoU per scene",), "beside the pooled one, which the large scenes decide"),
    ),
}  # fmt: skip
"""The rules: losses to compare, the likeliest first; windows to draw; scores to judge by."""


def advise(about: str, facts: SplitFacts) -> list[Rule]:
    """The rules of one key of `RULES` that hold for a split, with the facts filled into their reasons.

    Example:
        >>> [rule.take[0] for rule in advise("losses", SplitFacts("land cover", "land", "road", ratio=10))]
        ['weighted_ce', 'weighted_ce', 'tversky']
    """
    words = {key: ", ".join(value) if isinstance(value, list | tuple) else value for key, value in asdict(facts).items()}
    holding = [rule for rule in RULES[about] if SITUATIONS[rule.situation](facts)]
    return [rule._replace(why=rule.why.format(**words)) for rule in holding]


def candidates(facts: SplitFacts) -> list[str]:
    """The losses to compare, the most promising first; for labels, `ce` and `ce_dice` come before the losses of the rules.

    Example:
        >>> candidates(SplitFacts("foreground", "background", "building", ratio=10))
        ['ce', 'ce_dice', 'weighted_ce', 'dice', 'jaccard', 'focal', 'tversky', 'ce_lovasz']
    """
    named = [loss for rule in advise("losses", facts) if SITUATIONS[rule.situation] is not _pixels for loss in rule.take]
    return list(dict.fromkeys([*(["ce", "ce_dice"] if _pixels(facts) else []), *named]))
