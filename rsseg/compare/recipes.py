"""What runs were made with beside their loss: what they differ in, whether by design, and what rows are called.

A key is one of a flattened ``config.yaml``, such as ``optimizer.lr``. Keys that leave training as it is are no part of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any, TypeAlias

from rsseg.compare.runs import Run

Column: TypeAlias = list[Hashable]
"""One value per run."""


def is_cross_entropy(losses: Mapping[str, Any]) -> bool:
    """Whether a flattened loss is cross-entropy, not weighted and not smoothed; terms of weight 0 do not count.

    Example:
        >>> is_cross_entropy({"terms.ce._target_": "rsseg.losses.CrossEntropy", "terms.ce.weight": 1.0})
        True
    """
    terms = [key.removesuffix("._target_") for key in losses if key.endswith("._target_")]
    on = [term for term in terms if losses.get(f"{term}.weight", 1) != 0]
    if len(on) != 1 or str(losses[f"{on[0]}._target_"]).rpartition(".")[2] not in ("CrossEntropy", "BinaryCrossEntropy"):
        return False
    return not any(losses.get(f"{on[0]}.{name}") for name in ("class_weights", "pos_weight", "label_smoothing"))


def differing(runs: Sequence[Run]) -> list[str]:
    """The keys that some runs differ in, in the config's order."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    return [key for key in keys if len(set(column(runs, key))) > 1]


def column(runs: Sequence[Run], key: str) -> Column:
    """What a key is in each run, as text; "none" where a run lacks it."""
    return [as_text(run.settings.get(key)) for run in runs]


def as_text(value: Any) -> str:
    """A setting as text; numbers alike whether they are written 1 or 1.0.

    Example:
        >>> as_text(1), as_text(1.0), as_text(None)
        ('1', '1', 'none')
    """
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
        values = {(run.loss, words[key]) for run, words in zip(runs, told, strict=True)}
        if key == "experiment" or len(values) > len({run.loss for run in runs}):
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
    losses: Column = [run.loss for run in runs]
    loss_keys = dict.fromkeys(key for run in runs for key in run.losses)
    own: dict[str, Column] = {key: [as_text(run.losses.get(key)) for run in runs] for key in loss_keys}
    other = {key: column(runs, key) for key in differing(runs)}
    told = {word.split("=")[0].lstrip("+").removeprefix("loss.") for run in runs for word in run.origin["overrides"]}
    rates: list[Column] = [[run.rate for run in runs]] if searched else []
    words: list[list[str]] = [[run.loss] for run in runs]
    for key, values in [*_telling(own, [losses], told), *_telling(other, rates)]:
        usual, often = Counter(values).most_common(1)[0]
        short = [str(value).rpartition(".")[2] if key.endswith("_target_") else _rounded(str(value)) for value in values]
        exact = len(set(short)) == len(set(values))
        for i, value in enumerate(values):
            of_loss = {v for v, loss in zip(values, losses, strict=True) if loss == losses[i]}
            follows_loss = key in own and len(of_loss) == 1
            if not follows_loss and (value != usual or 2 * often <= len(runs)):
                name = key.removesuffix("._target_").removeprefix("terms.")
                words[i].append(f"{name}={short[i] if exact else value}")
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
