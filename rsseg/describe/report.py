"""Description of a dataset: its splits, hints of label noise, and the losses, sampling and metrics to start with."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsseg.assembly import make_setup, with_bands
from rsseg.config.entry import invocation
from rsseg.console import print_table
from rsseg.contract import counted
from rsseg.data.census import PERCENTILES
from rsseg.data.groups import describe_few_groups, folds_of, group_names
from rsseg.data.store import Store
from rsseg.dataset import open_data, open_test
from rsseg.describe.advice import COMPARED, EXTREME, MODERATE, RULES, THIN, Rule, SplitFacts, advise, candidates
from rsseg.describe.objects import SMALL, SPECK, ObjectSizes, survey
from rsseg.files import write_json
from rsseg.pictures.portrait import COLUMNS, draw_dataset
from rsseg.pictures.windows import label_rows, pick_windows
from rsseg.quiet import quiet
from rsseg.setup import Setup
from rsseg.task import Regression

log = logging.getLogger(__name__)

SPECKLED = 0.05  # from this share of specks among regions on, they are reported as a hint of label noise
APART = 4  # a class whose share is this many times larger in one split than in another is reported
FREQUENT = 0.01  # unless its share is smaller in all splits
SEEDS = "seed=1,2,3,4,5"  # fewer than five seeds per loss are exploratory


def describe(config: Any, out: Path | None = None, overrides: list[str] | None = None) -> Path:
    """Describe the splits of a dataset: print it, and write numbers and a picture.

    With several targets, each further one is described in a subfolder with its name.

    Args:
        config: The composed config, as for `train`.
        out: Where to write; ``<output>/describe/<dataset>`` if None.
        overrides: The command line's overrides, for the sweep that is recommended.

    Raises:
        InputError: For anything in config or data that can't be used.
    """
    quiet()
    setup, source = with_bands(make_setup(config, config.trust))
    data = open_data(setup.dataset, source, setup.window)
    test = open_test(setup.dataset, source, data)
    stores = data.stores if test is None else {**data.stores, "test": test}
    out = out or setup.output / "describe" / setup.dataset.name
    first, *further = setup.dataset.tasks
    for target, folder in {first: out, **{name: out / name for name in further}}.items():
        if further:
            log.info("\nTarget %s", target)
        write_description(setup, {split: store.seen_by(target) for split, store in stores.items()}, folder, overrides or [])
    return out


def write_description(setup: Setup, stores: Mapping[str, Store], out: Path, overrides: Sequence[str]) -> None:
    """Describe the splits of a dataset; print it, and write ``description.json`` and ``description.png``.

    With several targets, the first target of the stores is described. Tables and picture leave out classes that train lacks.
    """
    train = stores["train"]
    called = train.scenes[0].named_bands()
    bands = {band: called.get(band, "") for band in setup.dataset.read_bands}
    splits = {split: split_facts(store, bands) for split, store in stores.items()}
    task, present = train.task, [name for name, own in splits["train"]["classes"].items() if own["pixels"]]
    found, share = survey(train, setup.seed)
    named = {} if isinstance(task, Regression) else dict(zip(task.classes, found, strict=True))
    objects = {name: sizes for name, sizes in named.items() if name in present}
    groups = {split: group_names(stores[split].scenes) for split in ("train", "val")}
    in_folds = setup.plain["dataset"]["fold"] is not None
    folds = folds_of(**groups, in_folds=in_folds)
    facts = SplitFacts.of(train.census, task, train.sizes, objects)
    advice, losses = {about: advise(about, facts) for about in RULES}, candidates(facts)
    heads = [head for head, own in setup.tasks.items() if own.target == task.target]
    place = f"loss@model.heads.{heads[0]}.loss" if heads and len(setup.dataset.tasks) > 1 else "loss"
    description = {
        "dataset": setup.dataset.name,
        "task": task.kind,
        "splits": splits,
        "few_groups": describe_few_groups(**groups, in_folds=in_folds),
        "uneven_splits": "" if task.directed else describe_uneven_splits(splits),
        "facts": asdict(facts),
        "objects": {name: asdict(sizes) for name, sizes in objects.items()},
        "limits": {"thin": THIN, "small": SMALL, "speck": SPECK},
        "share_surveyed": share,
        "noise": hints_of_noise(splits, objects),
        "advice": {about: [rule._asdict() for rule in rules] for about, rules in advice.items()},
        "losses": losses,
        "sweep": sweep_command(losses[:COMPARED], [*overrides, *folds], place),
    }
    print_description(description, present, advice)
    write_json(out / "description.json", description)
    windows = pick_windows(train, setup.window, COLUMNS, every_class=True)
    rows, palette = label_rows(windows, task, [scene.name for scene in train.scenes]), setup.dataset.palette(task.target)
    draw_dataset(out / "description.png", task, palette, description, rows, setup.shown_bands)
    log.info("Numbers and picture: %s", out)


def label_shares(store: Store) -> NDArray[np.float64]:
    """``[S, labels]``: the share of each label among a scene's labelled pixels, NaN without any; for objects, their number."""
    census, task = store.census, store.task
    if task.directed:
        return census.positives.astype(np.float64)
    own, valid = task.label_counts(census.positives, census.valid)
    return np.where(valid > 0, own / np.maximum(valid, 1), np.nan)


def split_facts(store: Store, names: Mapping[int, str]) -> dict[str, Any]:
    """The numbers of a split, as ``description.json`` holds them; `names` are those of the bands that are read, by number."""
    census, task = store.census, store.task
    area, bands = int(store.sizes.prod(axis=1).sum()), census.bands
    own, valid = (part.sum(axis=0) for part in task.label_counts(census.positives, census.valid))
    shares = label_shares(store)
    spread = [np.nanpercentile(share, (5, 50, 95)) if np.isfinite(share).any() else np.zeros(3) for share in shares.T]
    return {
        "scenes": len(store),
        "unit": store.unit,
        "groups": len(set(group_names(store.scenes))),
        "pixels": area,
        "ignored": float(census.blocks.counts[:, -1].sum(dtype=np.int64) / area),
        "missing": bands.missing,
        "classes": {
            name: {
                "pixels": int(own[i]),
                "share": float(own[i] / max(valid[i], 1)),
                "scenes_p5_p50_p95": spread[i].tolist(),
                "scenes_without": int((np.nan_to_num(shares[:, i]) == 0).sum()),
            }
            for i, name in enumerate(task.label_names)
        },
        "bands": [
            {"band": number, "name": name, "mean": bands.mean[i], "std": bands.std[i], "min": bands.min[i], "max": bands.max[i]}
            | {f"p{p}": value for p, value in zip(PERCENTILES, bands.percentiles[:, i].tolist(), strict=True)}
            for i, (number, name) in enumerate(names.items())
        ],
        "values": {
            name: {key: float(value[i]) for key, value in asdict(census.values).items()}
            for i, name in enumerate(task.value_names)
        },
    }


def describe_uneven_splits(splits: Mapping[str, Any]) -> str:
    """One line if the share of a class differs much between splits; else empty.

    Example:
        >>> splits = {split: {"classes": {"water": {"share": share}}} for split, share in {"train": 0.4, "val": 0.02}.items()}
        >>> describe_uneven_splits(splits).partition(":")[0]
        'Shares of water differ much between splits (train 40.0%, val 2.0%)'
    """
    found = []
    for name in splits["train"]["classes"]:
        shares = {split: part["classes"][name]["share"] for split, part in splits.items()}
        if max(shares.values()) >= max(FREQUENT, APART * min(shares.values())):
            found.append(f"{name} differ much between splits ({', '.join(f'{key} {s:.1%}' for key, s in shares.items())})")
    return (
        f"Shares of {'; of '.join(found)}: scores of one split say little of the other. Choose the scenes of each in "
        "dataset.source.split, or validate on every area in turn (sweep=kfold)"
        if found
        else ""
    )


def hints_of_noise(splits: Mapping[str, Any], objects: Mapping[str, ObjectSizes]) -> list[str]:
    """Hints of label noise, one sentence each; opening a split has already reported the classes that it lacks."""
    hints = [
        f"{name}: {own.specks:,} specks of fewer than {SPECK} pixels beside {own.count:,} objects: {own.speck_share:.1%} of "
        "its regions"
        for name, own in objects.items()
        if own.speck_share >= SPECKLED
    ]
    return hints + [
        f"{facts['ignored']:.2%} of the {split} split is ignored, {facts['missing']:.2%} because the image has no data"
        for split, facts in splits.items()
        if facts["ignored"]
    ]


def sweep_command(losses: Sequence[str], overrides: Sequence[str], place: str = "loss") -> str:
    """The command that compares losses, with the overrides that the dataset was described with.

    Example:
        >>> sweep_command(["ce", "dice"], ["dataset=loveda", "loss=ce"])
        'python train.py -m dataset=loveda loss=ce,dice seed=1,2,3,4,5'
    """
    chosen = ("loss", "seed", "resume", place)
    names = {word: word.lstrip("+~").partition("=")[0] for word in overrides}
    kept = [word for word, name in names.items() if name not in chosen and name.partition(".")[0] not in chosen]
    words = [invocation("train"), "-m", *(shlex.quote(word) for word in kept)]
    return " ".join([*words, f"{place}={','.join(losses)}", SEEDS])


def print_description(description: Mapping[str, Any], present: Sequence[str], advice: Mapping[str, Sequence[Rule]]) -> None:
    """Print a description."""
    splits, centres = description["splits"], description["facts"]["subject"] == "detection"
    first = splits["train"]
    scenes = "; ".join(
        f"{split} {counted(part['scenes'], part['unit'])} in {counted(part['groups'], 'group')}, {part['pixels'] / 1e6:.3g} Mpx"
        for split, part in splits.items()
    )
    title = "Objects whose centres lie in them" if centres else "Shares of labelled pixels"
    log.info("%s: %s.", description["dataset"], scenes)
    print_table(class_rows(splits, present, centres), title)
    if first["values"]:
        values = [
            {"value": name, "split": split} | {key: short(value) for key, value in own.items()}
            for split, part in splits.items()
            for name, own in part["values"].items()
        ]
        of = "Sides of objects in pixels" if centres else "Values of the targets"
        print_table(values, f"{of}; training standardises them by mean and std of train")
    elif facts := description["facts"]:
        degree = "no" if facts["ratio"] < MODERATE else "moderate" if facts["ratio"] < EXTREME else "extreme"
        line = "Imbalance ratio in train, %s to %s: %s, %s imbalance"
        log.info(line, facts["frequent"], facts["rare"], short(facts["ratio"]), degree)
    if description["objects"]:
        rows = [object_row(name, own) for name, own in description["objects"].items()]
        share = description["share_surveyed"]
        part = "all of train" if share == 1 else f"a sample of {share:.1%} of train"
        title = f"Objects (regions of {SPECK} pixels and more) in {part}; width: 4 x the mean distance to the edge"
        print_table(rows, "Areas of bounding boxes in train; width: the shorter side" if centres else title)
    for line in filter(None, (description["few_groups"], description["uneven_splits"])):
        log.info("%s", line)
    bands = [{key: value or "-" if key == "name" else short(value) for key, value in band.items()} for band in first["bands"]]
    print_table(bands, f"Bands of train, as read; {first['missing']:.2%} of the pixels have no data")
    print_list("Hints of label noise", description["noise"] or ["none found"])
    for about, rules in advice.items():
        print_list(f"Rules of thumb: {about}", [f"{rule.situation}: {', '.join(rule.take)} ({rule.why})" for rule in rules])
    losses = description["losses"]
    further = f"; then {', '.join(losses[COMPARED:])}" if len(losses) > COMPARED else ""
    what = "Compare first" if len(losses) > 1 else "The one loss for this task, with several seeds"
    log.info("\n%s: %s%s\n%s", what, ", ".join(losses[:COMPARED]), further, description["sweep"])


def class_rows(splits: Mapping[str, Any], present: Sequence[str], centres: bool) -> list[dict[str, Any]]:
    """One row per class: its share of labelled pixels, or its objects, in each split, and percentiles over scenes of train."""
    rows = []
    for name in present:
        parts = {split: part["classes"][name] for split, part in splits.items()}
        unit, key = ("objects", "pixels") if centres else ("share", "share")
        spread = " / ".join(f"{value:.3g}" for value in parts["train"]["scenes_p5_p50_p95"])
        rows.append(
            {"class": name}
            | {f"{split} {unit}": own[key] for split, own in parts.items()}
            | {"scenes: 5 / 50 / 95 %": spread, "scenes without": parts["train"]["scenes_without"]}
        )
    return rows


def object_row(name: str, own: Mapping[str, Any]) -> dict[str, Any]:
    """A class's line in the table of objects."""
    return {
        "class": name,
        "objects": own["count"],
        "pixels: 5 / 50 / 95 %": " / ".join(map(short, own["pixels"])) or "-",
        "mean width, pixels": short(own["width"]),
        "specks": own["specks"],
    }


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
