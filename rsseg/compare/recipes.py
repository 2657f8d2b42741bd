"""What runs were made with beside their loss: what they differ in, whether by design, and what rows are called.

A key is one of a flattened ``config.yaml``, such as ``optimizer.lr``. Keys that leave training as it is are no part of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from rsseg.config.folder import PLACE_KEYS, flat

if TYPE_CHECKING:
    from rsseg.compare.runs import Run

Column: TypeAlias = list[Hashable]
"""One value per run."""

APART = ("loss", "seed", "record", "dataset.palette", "dataset.rgb", *PLACE_KEYS)
"""What is compared, and what training does not depend on."""

ROOTS = ("root", "paths")
"""How keys of a dataset are called that say where it lies; what lies there is told by its fingerprint and its statistics."""

REBALANCING = ("sampler", "augment")
"""Where recipes against imbalance live beside the loss: with one of them cross-entropy is not plain any more."""


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config without its losses, its seed and the places it names, flattened.

    Example:
        >>> settings({"seed": 1, "loss": {}, "output": "runs", "optimizer": {"lr": 0.1}})
        {'optimizer.lr': 0.1}
    """
    return {key: value for key, value in flat(dict(config)).items() if not _apart(key)}


def _apart(key: str) -> bool:
    place = key.startswith("dataset.") and key.rpartition(".")[2] in ROOTS
    return place or within(key, APART) or (key.startswith("model.heads.") and ".loss." in f"{key}.")


def within(key: str, nodes: Iterable[str]) -> bool:
    """Whether a key is one of some nodes of the config, or lies in one.

    Example:
        >>> within("sampler.power", ["sampler"]), within("steps", ["step"])
        (True, False)
    """
    return any(f"{key}.".startswith(f"{node}.") for node in nodes)


def is_cross_entropy(losses: Mapping[str, Any]) -> bool:
    """Whether a flattened loss is cross-entropy, not weighted and not smoothed; terms of weight 0 do not count.

    Example:
        >>> is_cross_entropy({"terms.ce._target_": "rsseg.losses.CrossEntropy", "terms.ce.weight": 1.0})
        True
    """
    targets = {
        key.rpartition(".")[0]: str(value).rpartition(".")[2] for key, value in losses.items() if key.endswith("._target_")
    }
    on = [name for name in targets if losses.get(f"{name}.weight", 1) != 0]
    changed = ("class_weights", "pos_weight", "label_smoothing")
    return (
        len(on) == 1
        and targets[on[0]] in ("CrossEntropy", "BinaryCrossEntropy")
        and not any(losses.get(f"{on[0]}.{name}") for name in changed)
    )


def differing(runs: Sequence[Run]) -> list[str]:
    """The keys that some runs differ in, in the config's order."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    return [key for key in keys if len(set(column(runs, key))) > 1]


def column(runs: Sequence[Run], key: str) -> Column:
    """What a key is in each run, as text; "none" where a run lacks it."""
    return [_text(run.settings.get(key)) for run in runs]


def _text(value: Any) -> str:
    """Numbers alike whether they are written 1 or 1.0."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(float(value)).removesuffix(".0")
    return "none" if value is None else str(value)


def by_design(runs: Sequence[Run]) -> list[str]:
    """The keys that follow from what a sweep varies beside losses and seeds.

    It varies what every run's command line names, with several values for one loss at least; an experiment is a recipe by
    itself. So the batch size is by design where losses were trained with each of several, but not where every loss has another.
    """
    told = [dict(word.lstrip("+").split("=", 1) for word in run.origin["overrides"] if "=" in word) for run in runs]
    shared = [key for key in told[0] if not key.startswith("loss") and key != "seed" and all(key in words for words in told)]
    varied = []
    for key in shared:
        by_loss: dict[str, set[str]] = {}
        for run, words in zip(runs, told, strict=True):
            by_loss.setdefault(run.loss, set()).add(words[key])
        if key == "experiment" or any(len(values) > 1 for values in by_loss.values()):
            varied.append([words[key] for words in told])
    return [key for key in differing(runs) if follows(column(runs, key), varied)]


def follows(values: Column, known: Sequence[Sequence[Hashable]]) -> bool:
    """Whether other columns say what a column holds.

    Example:
        >>> follows([1, 2, 2], [["a", "b", "b"]]), follows([1, 2, 3], [["a", "b", "b"]])
        (True, False)
    """
    causes = list(zip(*known, strict=True)) or [()] * len(values)
    return len(set(causes)) == len(set(zip(causes, values, strict=True)))


def labels(runs: Sequence[Run], searched: bool) -> list[str]:
    """What each run's row is called: its loss, and what most others do not share, as briefly as tells all rows apart.

    Args:
        runs: The runs.
        searched: Learning rates, and what follows from them, tell no rows apart.
    """
    losses: list[Hashable] = [run.loss for run in runs]
    loss_keys = dict.fromkeys(key for run in runs for key in run.losses)
    own: dict[str, Column] = {key: [_text(run.losses.get(key)) for run in runs] for key in loss_keys}
    other = {key: column(runs, key) for key in differing(runs)}
    words: list[list[str]] = [[run.loss] for run in runs]
    told = {word.split("=")[0].lstrip("+").removeprefix("loss.") for run in runs for word in run.origin["overrides"]}
    rates: list[Column] = [[run.rate for run in runs]] if searched else []
    for key, values in [*_telling(own, [losses], told), *_telling(other, rates)]:
        usual, often = Counter(values).most_common(1)[0]
        short = [str(value).rpartition(".")[2] if key.endswith("_target_") else _rounded(str(value)) for value in values]
        name = key.removesuffix("._target_").removeprefix("terms.")
        for i, value in enumerate(values):
            varies = key not in own or len({v for v, loss in zip(values, losses, strict=True) if loss == losses[i]}) > 1
            if varies and not (value == usual and 2 * often > len(runs)):
                words[i].append(f"{name}={short[i] if len(set(short)) == len(set(values)) else value}")
    return [" ".join(row) for row in words]


def _rounded(text: str) -> str:
    """A number to four digits, such as one that a search drew."""
    try:
        return f"{float(text):.4g}"
    except ValueError:
        return text


def _telling(columns: Mapping[str, Column], known: Sequence[Column], told: Collection[str] = ()) -> list[tuple[str, Column]]:
    """The columns that were told apart or do not follow from those before them: ``sampler=Balanced`` says its power too.

    Shallow ones come first. Where every trial of a search has numbers of its own one would say them all, and hide the others.
    """
    chosen: list[tuple[str, Column]] = []
    ordered = sorted(columns, key=lambda key: (key.removesuffix("._target_").count("."), not key.endswith("._target_")))
    for key in ordered:
        several = key in told and len(set(columns[key])) > 1
        if several or not follows(columns[key], [*known, *(values for _, values in chosen)]):
            chosen.append((key, columns[key]))
    return chosen
