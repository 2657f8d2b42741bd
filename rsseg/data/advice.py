"""What is worth comparing first on a dataset: the field's rules of thumb as tables, held against what the census counted.

A rule of thumb is where a comparison starts, not how it ends: the last word has the sweep.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rsseg.data.census import Census
from rsseg.data.objects import SMALL, ObjectSizes
from rsseg.task import Task

MODERATE, EXTREME = 4, 99
"""Pixels of the most frequent class for each one of the rarest; of two classes, the rarer then has 20 % and 1 % of them."""

THIN = 8
"""A mean width of fewer pixels is thin: a quarter of such an object's pixels and more lie at its edge."""


class Kind(StrEnum):
    """What a mask is about.

    * ``land cover``: every pixel has one of several classes.
    * ``foreground``: something is to be found, such as buildings, roads or water.
    * ``detection``: objects are to be found by their centres.
    * ``regression``: a value per pixel.
    """

    land_cover = "land cover"
    foreground = "foreground"
    detection = "detection"
    regression = "regression"


@dataclass(frozen=True)
class Facts:
    """What the rules ask about a training split.

    Attributes:
        kind: What the masks are about.
        frequent: The class with the most pixels.
        rare: The class with the fewest, of those that occur.
        ratio: How many pixels of the one there are for one of the other; multilabel: of unlabelled ones for one of the label.
        majority: The share of the most frequent class.
        quiet: The share of blocks that show nothing but the most frequent class.
        thin: The classes whose objects are thinner than `THIN`.
        small: The classes half of whose pixels or more lie in objects smaller than `SMALL`.
        uneven: How many times larger the largest scene is than the smallest.
        patchy: The classes that are missing from half of the scenes or more.
    """

    kind: Kind
    frequent: str = ""
    rare: str = ""
    ratio: float = 1.0
    majority: float = 1.0
    quiet: float = 0.0
    thin: Sequence[str] = ()
    small: Sequence[str] = ()
    uneven: float = 1.0
    patchy: Sequence[str] = ()

    @classmethod
    def of(cls, census: Census, task: Task, sizes: NDArray[np.int64], objects: Mapping[str, ObjectSizes]) -> Facts:
        """Draw them from what was counted.

        Args:
            census: Of the training split.
            task: The head's task.
            sizes: int64 ``[S, 2]``, height and width of each scene.
            objects: By class.
        """
        names, counts = task.label_names, census.blocks.by_label(task, sizes)
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
        labelled = census.blocks.counts[:, -1] < census.blocks.extent(sizes).height * census.blocks.extent(sizes).width
        area = sizes.prod(axis=1)
        absent = (census.positives == 0).mean(axis=0)
        return cls(
            kind=Kind(task.subject),
            frequent=names[most],
            rare=names[least],
            ratio=float(totals[most] / totals[least]),
            majority=float(totals[most] / totals.sum()),
            quiet=float((others[labelled] == 0).mean()),
            thin=[name for name, own in objects.items() if own.width < THIN],
            small=[name for name, own in objects.items() if own.small >= 0.5],
            uneven=float(area.max() / area.min()),
            patchy=[name for name, share in zip(task.classes, absent, strict=True) if 0.5 <= share < 1],
        )


class Rule(NamedTuple):
    """A rule of thumb.

    Attributes:
        situation: When it holds, in words.
        holds: Whether it does.
        take: Names in `configs/loss`, or overrides, or names of metrics.
        why: The reason; facts stand in it in braces.
        asked: Whether you alone know if it holds, as the data do not say: it is named but stays out of the sweep.
    """

    situation: str
    holds: Callable[[Facts], bool]
    take: tuple[str, ...]
    why: str
    asked: bool = False


def _pixels(facts: Facts) -> bool:
    return facts.kind in (Kind.land_cover, Kind.foreground)


def _thin(facts: Facts) -> bool:
    return _pixels(facts) and bool(facts.thin)


def _small(facts: Facts) -> bool:
    return _pixels(facts) and bool(facts.small)


BESIDE_CE = "but beside CE: alone it was far behind on small buildings"
"""What docs/evidence.md measured of plain Lovasz."""

LOSSES = (
    Rule("land cover", lambda f: f.kind is Kind.land_cover, ("ce", "weighted_ce", "focal"),
         "every pixel has a class, so each is a sample: alike, weighed by class, or by how hard it is"),
    Rule("buildings, roads, water", lambda f: f.kind is Kind.foreground, ("dice", "jaccard", "focal", "tversky", "ce_lovasz"),
         "what is to be found is judged by its overlap, and the background must not outvote it"),
    Rule("detection", lambda f: f.kind is Kind.detection, ("centres",),
         "almost all places are empty, which its focal loss plays down; smooth L1 fits the boxes"),
    Rule("regression", lambda f: f.kind is Kind.regression, ("mse", "mae", "huber", "log_cosh"),
         "from what follows outliers to what does not mind them"),
    Rule("moderate imbalance", lambda f: _pixels(f) and MODERATE <= f.ratio < EXTREME, ("weighted_ce",),
         "{ratio:.3g} pixels of {frequent} for one of {rare}: weights give it a say"),
    Rule("extreme imbalance", lambda f: _pixels(f) and f.ratio >= EXTREME, ("focal",),
         "{ratio:.3g} pixels of {frequent} for one of {rare}: such weights let few pixels decide; focal fades easy ones"),
    Rule("thin objects", _thin, ("ce_lovasz",), f"{{thin}}: thinner than {THIN} pixels, so a quarter of them and more lie at "
         f"an edge; Lovasz follows IoU itself, {BESIDE_CE}"),
    Rule("thin objects", _thin, ("ce_dice_boundary",), "{thin}: a mistake costs its distance to the edge; not measured yet"),
    Rule("thin objects", _thin, ("dice_cl_dice",), "{thin}: a gap costs its length, however narrow; not measured yet"),
    Rule("thin objects", _thin, ("ce_dice_skeleton_recall",), "{thin}: every pixel of a centre line counts; not measured yet"),
    Rule("small objects", _small, ("ce_lovasz",), f"{{small}}: mostly in objects below {SMALL} pixels, little in a mean over "
         f"all pixels; Lovasz follows IoU itself, {BESIDE_CE}"),
    Rule("small objects", _small, ("ce_dice_boundary",), "{small}: a false alarm costs its distance; not measured yet"),
    Rule("if misses cost more than false alarms", _pixels, ("tversky",),
         "its beta (misses) is larger than its alpha (false alarms): .7 and .3 unless you say otherwise", asked=True),
)  # fmt: skip
"""Which losses to begin with."""

SAMPLING = (
    Rule("no imbalance to speak of", lambda f: f.ratio < MODERATE, ("sampler=uniform",), "every pixel alike"),
    Rule("imbalance", lambda f: f.ratio >= MODERATE, ("sampler=balanced", "sampler.power=0.5"),
         "windows around {rare} more often; it multiplies with class weights: take one of the two"),
    Rule("empty windows", lambda f: f.ratio >= MODERATE and f.quiet >= 0.5, ("sampler=undersample", "sampler=near_border"),
         "{quiet:.0%} of the blocks show {frequent} alone"),
    Rule("rare small objects", lambda f: _small(f) and f.ratio >= EXTREME and f.rare in f.small, ("augment=[paste,d4]",),
         "{rare} can be pasted into other windows"),
    Rule("scenes of very different size", lambda f: f.uneven >= MODERATE, ("sampler=by_scene",),
         "the largest is {uneven:.3g} times as large as the smallest: if you are judged scene by scene"),
)  # fmt: skip
"""Which windows to draw."""

METRICS = (
    Rule("land cover", lambda f: f.kind is Kind.land_cover, ("mean IoU", "IoU of each class"),
         "not accuracy: who calls everything {frequent} has {majority:.0%} of it"),
    Rule("buildings, roads, water", lambda f: f.kind is Kind.foreground, ("IoU of the class", "Dice"),
         "not accuracy: who finds nothing has {majority:.0%} of it; tune the threshold before comparing losses"),
    Rule("detection", lambda f: f.kind is Kind.detection, ("F1", "average precision at an IoU of 0.5"),
         "one of what is called found, by its centre; the other of all boxes, ranked by their score"),
    Rule("regression", lambda f: f.kind is Kind.regression, ("RMSE", "MAE"), "one minds outliers, the other does not"),
    Rule("thin objects", _thin, ("boundary IoU",), "for {thin} IoU hangs on one pixel at the edge"),
    Rule("classes that many scenes lack", lambda f: bool(f.patchy), ("IoU pooled over scenes",),
         "{patchy}: a mean over scenes hangs on the few that have them"),
    Rule("scenes of very different size", lambda f: f.uneven >= MODERATE, ("IoU per scene",),
         "beside the pooled one, which the large scenes decide"),
)  # fmt: skip
"""What to judge by."""


class Advice(NamedTuple):
    """A rule that holds, in plain words.

    Attributes:
        situation: When it holds.
        take: What it recommends.
        why: The reason.
    """

    situation: str
    take: list[str]
    why: str


def advise(rules: Sequence[Rule], facts: Facts) -> list[Advice]:
    """The rules of a table that hold.

    Example:
        >>> [advice.take for advice in advise(LOSSES, Facts(Kind.land_cover, "land", "road", ratio=10))]
        [['ce', 'weighted_ce', 'focal'], ['weighted_ce'], ['tversky']]
    """
    words = {key: ", ".join(value) if isinstance(value, list | tuple) else value for key, value in asdict(facts).items()}
    return [Advice(rule.situation, list(rule.take), rule.why.format(**words)) for rule in rules if rule.holds(facts)]


def candidates(facts: Facts) -> list[str]:
    """The losses to compare: what the rules name, after the plain loss, before the sum that is rsseg's default.

    Example:
        >>> candidates(Facts(Kind.foreground, "background", "building", ratio=10))
        ['ce', 'dice', 'jaccard', 'focal', 'tversky', 'ce_lovasz', 'weighted_ce', 'ce_dice']
    """
    named = [loss for rule in LOSSES if rule.holds(facts) and not rule.asked for loss in rule.take]
    return list(dict.fromkeys(["ce", *named, "ce_dice"] if _pixels(facts) else named))
