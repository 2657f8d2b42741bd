"""A dataset described: what its splits hold, hints of label noise, and which losses, sampling and metric to begin with."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsseg.data.advice import EXTREME, LOSSES, METRICS, MODERATE, SAMPLING, Advice, Facts, advise, candidates
from rsseg.data.census import PERCENTILES, Census
from rsseg.data.groups import counted, describe_few_groups, group_names, words_of_folds
from rsseg.data.objects import SPECK, ObjectSizes
from rsseg.data.store import Store
from rsseg.data.survey import Survey, survey
from rsseg.files import write_json
from rsseg.inference.portrait import draw_portrait
from rsseg.setup import Setup
from rsseg.table import print_table
from rsseg.task import Task

log = logging.getLogger(__name__)

SEEDS = "seed=1,2,3,4,5"
"""Fewer than five seeds per loss are exploratory."""


def write_description(setup: Setup, stores: Mapping[str, Store], out: Path, overrides: Sequence[str]) -> None:
    """Describe the training and validation split; print it, and write ``description.json`` and ``description.png``.

    Of several targets the stores' first one is described.

    Args:
        setup: The setup.
        stores: The scenes by split.
        out: The folder to write into, made if it is not there.
        overrides: The command line's overrides, for the command that is recommended.
    """
    train, bands = stores["train"], setup.dataset.read_bands
    found = survey(train, setup.dataset.decoders, bands, setup.seed, "train split: objects")
    objects = dict(zip(train.task.classes, found.objects, strict=True))
    groups = {split: group_names(store.scenes) for split, store in stores.items()}
    splits = {
        split: {"groups": len(set(groups[split])), **split_facts(store.census, store.task, store.sizes, bands)}
        for split, store in stores.items()
    }
    in_folds = setup.plain["dataset"]["folds"] is not None
    folds = [] if in_folds else words_of_folds(groups["train"], groups["val"])
    facts = Facts.of(train.census, train.task, train.sizes, objects)
    advice = {name: advise(rules, facts) for name, rules in RULES.items()}
    description = {
        "dataset": setup.dataset.name,
        "task": train.task.kind,
        "splits": splits,
        "few_groups": describe_few_groups(groups["train"], groups["val"], in_folds=in_folds),
        "facts": asdict(facts),
        "objects": {name: asdict(sizes) for name, sizes in objects.items()},
        "survey": {"pixels": found.pixels, "share": found.share, "missing": found.missing, "labelled": found.labelled},
        "noise": hints_of_noise(splits, objects, found, train.task),
        "advice": {name: [item._asdict() for item in items] for name, items in advice.items()},
        "sweep": sweep_command(facts, [*overrides, *folds], _place_of_loss(setup, train.task.target)),
    }
    say(description, advice)
    write_json(out / "description.json", description)
    rgb = None if setup.dataset.rgb is None else list(setup.dataset.rgb)
    draw_portrait(out / "description.png", stores, objects, setup.dataset.palette(train.task.target), setup.window, bands, rgb)
    log.info("\nNumbers and picture: %s\nWhat would settle it, a comparison of these losses:\n%s", out, description["sweep"])


RULES = {"losses": LOSSES, "sampling": SAMPLING, "metrics": METRICS}


def split_facts(census: Census, task: Task, sizes: NDArray[np.int64], numbers: Sequence[int]) -> dict[str, Any]:
    """The numbers of a split.

    Args:
        census: Of the split.
        task: The head's task.
        sizes: int64 ``[S, 2]``, height and width of each scene.
        numbers: Of the bands that are read.
    """
    pixels, bands, names = int(sizes.prod(axis=1).sum()), census.bands, task.label_names
    own, valid = task.label_counts(census.positives, census.valid)
    with np.errstate(invalid="ignore", divide="ignore"):
        per_scene = own / valid  # NaN where nothing is labelled
    spread = np.nan_to_num(np.nanpercentile(per_scene, (5, 50, 95), axis=0)) if valid.any() else np.zeros((3, len(names)))
    shares = own.sum(axis=0) / np.maximum(valid.sum(axis=0), 1)
    return {
        "scenes": len(sizes),
        "pixels": pixels,
        "ignored": float(census.blocks.counts[:, -1].sum(dtype=np.int64) / pixels),
        "missing": bands.missing,
        "classes": {
            name: {
                "pixels": int(own[:, i].sum()),
                "share": float(shares[i]),
                "scenes_p5_p50_p95": spread[:, i].tolist(),
                "scenes_without": int((own[:, i] == 0).sum()),
            }
            for i, name in enumerate(names)
        },
        "bands": [
            {"band": number, "mean": bands.mean[i], "std": bands.std[i], "min": bands.min[i], "max": bands.max[i]}
            | {f"p{p}": value for p, value in zip(PERCENTILES, bands.percentiles[:, i].tolist(), strict=True)}
            for i, number in enumerate(numbers)
        ],
        "values": {
            name: {key: float(getattr(census.values, key)[i]) for key in ("mean", "std", "min", "max")}
            for i, name in enumerate(task.value_names)
        },
    }


def hints_of_noise(splits: Mapping[str, Any], objects: Mapping[str, ObjectSizes], found: Survey, task: Task) -> list[str]:
    """What may be wrong with the labels, one sentence each; values that no label has are refused before it comes to this.

    Args:
        splits: What `split_facts` says, by split.
        objects: Of the training split, by class.
        found: In the training split.
        task: The head's task.
    """
    hints = []
    for name, sizes in objects.items():
        share = sizes.specks / max(sizes.specks + sizes.count, 1)
        if sizes.specks:
            hints.append(
                f"{name}: {sizes.specks:,} specks of fewer than {SPECK} pixels ({sizes.speck_pixels:,} pixels in all) beside "
                f"{sizes.count:,} objects: {share:.1%} of its regions"
            )
    for split, facts in splits.items():
        absent = [name for name in task.classes if not facts["classes"][name]["pixels"]]
        hints += [f"{name}: no pixel of it in the {split} split" for name in absent]
        if facts["ignored"]:
            hints.append(
                f"{facts['ignored']:.2%} of the {split} split is ignored, {facts['missing']:.2%} because the image has no data"
            )
    if found.labelled:
        hints.append(
            f"{found.labelled / found.missing:.1%} of the train pixels without data have a label in the masks "
            "(they are ignored): labels and images may come from different sources, or 0 means both"
        )
    return hints


def _place_of_loss(setup: Setup, target: str) -> str:
    """Where the loss of a target is chosen: that of its first head, if the dataset has several targets."""
    heads = [head for head, task in setup.tasks.items() if task.target == target]
    return f"loss@model.heads.{heads[0]}.loss" if heads and len(setup.dataset.tasks) > 1 else "loss"


def sweep_command(facts: Facts, overrides: Sequence[str], place: str = "loss") -> str:
    """The command that compares the losses, with the overrides that the dataset was described with.

    Args:
        facts: Of the training split.
        overrides: The overrides.
        place: Where the loss is chosen.

    Example:
        >>> from rsseg.data.advice import Kind
        >>> sweep_command(Facts(Kind.land_cover, ratio=2), ["dataset=loveda", "loss=ce"])
        'python train.py -m dataset=loveda loss=ce,weighted_ce,focal,ce_dice seed=1,2,3,4,5'
    """
    chosen = ("loss", "seed", "resume", place)
    names = {word: word.lstrip("+~").partition("=")[0] for word in overrides}
    kept = [word for word, name in names.items() if name not in chosen and name.partition(".")[0] not in chosen]
    words = ["python", "train.py", "-m", *(shlex.quote(word) for word in kept)]
    return " ".join([*words, f"{place}={','.join(candidates(facts))}", SEEDS])


def say(description: Mapping[str, Any], advice: Mapping[str, Sequence[Advice]]) -> None:
    """Print a description."""
    splits = description["splits"]
    first = next(iter(splits.values()))
    scenes = "; ".join(
        f"{split} {part['scenes']} scenes in {counted(part['groups'])}, {part['pixels'] / 1e6:.3g} Mpx"
        for split, part in splits.items()
    )
    title = f"{description['dataset']}: {scenes}"
    if description["task"] == "centres":
        say_objects(description, title)
    else:
        say_shares(splits, title)
        if first["values"]:
            say_values(splits, "Values of the targets; training standardises them by mean and std of train")
        else:
            say_classes(description)
    if description["few_groups"]:
        log.info("%s", description["few_groups"])
    bands = [{key: short(value) for key, value in band.items()} for band in first["bands"]]
    print_table(bands, f"Bands of train, as read; {first['missing']:.2%} of the pixels have no data")
    print_list("Hints of label noise", description["noise"] or ["none found"])
    for name, items in advice.items():
        print_list(f"Where to begin: {name}", [f"{item.situation}: {', '.join(item.take)} ({item.why})" for item in items])


def say_shares(splits: Mapping[str, Any], title: str) -> None:
    """Print how many of the labelled pixels are of each class."""
    rows = [
        {"class": name}
        | {f"{split} share": part["classes"][name]["share"] for split, part in splits.items()}
        | {"scenes: 5 / 50 / 95 %": " / ".join(f"{share:.3f}" for share in own["scenes_p5_p50_p95"])}
        | {"scenes without": own["scenes_without"]}
        for name, own in splits["train"]["classes"].items()
    ]
    print_table(rows, f"{title}. Shares of labelled pixels")


def say_objects(description: Mapping[str, Any], title: str) -> None:
    """Print how many objects there are of each class, and how large they are."""
    splits = description["splits"]
    rows = [
        {"class": name}
        | {f"{split} objects": part["classes"][name]["pixels"] for split, part in splits.items()}
        | {"scenes without": own["scenes_without"]}
        for name, own in splits["train"]["classes"].items()
    ]
    print_table(rows, f"{title}. Objects whose centres lie in them")
    say_values(splits, "Sides of objects in pixels; training standardises them by mean and std of train")
    boxes = [object_row(name, own) for name, own in description["objects"].items()]
    print_table(boxes, "Areas of bounding boxes in train; width: the shorter side")


def say_values(splits: Mapping[str, Any], title: str) -> None:
    """Print what real values there are in each split."""
    rows = [
        {"value": name, "split": split} | {key: short(value) for key, value in own.items()}
        for split, part in splits.items()
        for name, own in part["values"].items()
    ]
    print_table(rows, title)


def say_classes(description: Mapping[str, Any]) -> None:
    """Print how rare classes are, and how large their objects."""
    facts = description["facts"]
    degree = "no" if facts["ratio"] < MODERATE else "moderate" if facts["ratio"] < EXTREME else "extreme"
    line = "Imbalance ratio in train, %s to %s: %s, %s imbalance"
    log.info(line, facts["frequent"], facts["rare"], short(facts["ratio"]), degree)
    print_table([object_row(name, own) for name, own in description["objects"].items()], objects_title(description["survey"]))


def objects_title(found: Mapping[str, float]) -> str:
    """What stands above the table of objects."""
    part = "all of train" if found["share"] == 1 else f"a sample of {found['share']:.1%} of train"
    return f"Objects (regions of {SPECK} pixels and more) in {part}; width: 4 x the mean distance to the edge"


def object_row(name: str, own: Mapping[str, Any]) -> dict[str, Any]:
    """A class's line in the table of objects."""
    row = {
        "class": name,
        "objects": own["count"],
        "pixels: 5 / 50 / 95 %": " / ".join(short(area) for area in own["pixels"]) or "-",
    }
    if own["square_metres"]:
        row["m2: 5 / 50 / 95 %"] = " / ".join(short(area) for area in own["square_metres"])
    return row | {"mean width, pixels": short(own["width"]), "specks": own["specks"]}


def short(value: float) -> str:
    """A number in few characters, NaN as a dash.

    Example:
        >>> short(1234567.0), short(0.012345), short(float("nan"))
        ('1,234,567', '0.0123', '-')
    """
    if value != value:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def print_list(title: str, lines: Sequence[str]) -> None:
    """Print a title and lines below it."""
    log.info("\n%s\n%s", title, "\n".join(f"  - {line}" for line in lines))
