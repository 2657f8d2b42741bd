"""Make docs/configuration.md from the schema and the YAML files: python docs/make_configuration.py"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml  # type: ignore[import-untyped]
from omegaconf import MISSING

from rsseg.config.schema import DatasetConfig, LossConfig, MetricsConfig, ModelConfig, RecordConfig

INTRODUCTION = """\
# Settings

Made from `rsseg/config/schema.py` and `configs/` by `make docs`; a test holds it to them.

[Hydra](https://hydra.cc) composes the config of a run. `group=choice` picks a file of a group, `group=[one,two]` several
(augment, callbacks, logger), and `key=value` sets any value. A file of your own in `configs/<group>` of the working directory
is a choice too. Arguments of a `_target_` that no file lists can be set; one that the target does not know is refused, with the
nearest name that it does. `rsseg train --cfg job` prints the config of a command without running it.

The tables of choices write a setting as `key=default (what it means)`. It is set below its group, as in `sampler.power=0.5`;
those of `loss/term` are below `loss.terms.<name>`, those of an experiment or a sweep at the root.

## Code of your own

What a `_target_` may name is decided by its place. `trust=[mypackage]` allows your package in all of them. Give it in each
command, also beside `resume=...` and to `rsseg evaluate run=... trust=mypackage`; it is neither written into a run folder nor
read from one, so that a config from somebody else runs no code.

| place | a class of your own derives from |
| --- | --- |
| `loss.terms`, `model.net` | `torch.nn.Module` ([a loss of your own](losses.md#a-loss-of-your-own)) |
| `optimizer`, `scheduler` | torch's `Optimizer`, `LRScheduler` |
| `balancing` | `rsseg.losses.balancing.Balancing`: it learns in `update` and gives its factors in `factors` |
| `sampler`, `dataset.source` | `rsseg.data.sampling.Sampler`, `rsseg.data.scene.Source` |
| `augment` | `rsseg.data.augment.Augmentation`: `augment(image, layers, k)` returns both; `layers` holds \
the tensor `mask` and, where there is one, `weight`. `rsseg.data.augment.erase` hides pixels in all of them |
| `callbacks`, `logger`, `trainer` | Lightning's `Callback`, `Logger`, `Trainer` |
"""

GROUPS = {
    "dataset": DatasetConfig,
    "model": ModelConfig,
    "loss": LossConfig,
    "loss/term": None,
    "balancing": None,
    "optimizer": None,
    "scheduler": None,
    "sampler": None,
    "augment": None,
    "trainer": None,
    "callbacks": None,
    "logger": None,
    "experiment": None,
    "experiment/imbalance": None,
    "experiment/mtl": None,
    "sweep": None,
}

UNSHOWN = re.compile(r"(.*\.)?palette$")
"""Colours of classes, which say nothing in a table."""


class Setting(NamedTuple):
    """A value of a YAML file: its dotted key, the text of its value, and what the comment beside or above it says."""

    key: str
    value: str
    meaning: str


def attributes(schema: type[Any]) -> dict[str, str]:
    """What the docstrings of a dataclass and of its bases say of each attribute."""
    found: dict[str, str] = {}
    for base in reversed(schema.__mro__):
        _, _, section = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")
        own = re.findall(r"^ {4}(\w+): ((?:.+\n?)(?: {8}.+\n?)*)", section, re.MULTILINE)
        found |= {name: " ".join(text.split()) for name, text in own}
    return found


def table(head: str, rows: list[str]) -> str:
    """A table of Markdown, from cells joined by bars."""
    return "\n".join([f"| {head} |", "|" + " --- |" * (head.count("|") + 1), *rows])


def cell(text: str) -> str:
    """A text as it stands in a cell."""
    return " ".join(text.split()).replace("|", "\\|")


def schema_table(schema: type[Any]) -> str:
    """A table of a dataclass's fields: name, type, default, meaning."""
    meanings, rows = attributes(schema), []
    items = sorted(dataclasses.fields(schema), key=lambda item: item.name != "name")  # what it is called comes first
    for item in items:
        default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
        shown = "" if default == MISSING else "null" if default is None else f"`{default}`"
        kind = str(item.type).replace("|", "or").replace(" or None", " or null")
        rows.append(f"| `{item.name}` | {kind} | {shown} | {cell(meanings.get(item.name, ''))} |")
    return table("key | type | default | meaning", rows)


def comment_of(lines: list[str], first: int, last: int) -> str:
    """The comment behind the last line of a value, and those on the lines above its first one."""
    said: list[str] = []
    for line in reversed(lines[:first]):
        if not line.lstrip().startswith("#"):
            break
        said.insert(0, line.strip(" #"))
    _, _, beside = lines[last].partition(" #")
    return " ".join([*said, beside.strip()]).strip()


def settings(text: str) -> Iterator[Setting]:
    """The values of a YAML file; an entry of its defaults list has the key ``defaults``."""
    lines = text.splitlines()

    def walk(node: yaml.Node, data: Any, place: str) -> Iterator[Setting]:
        for key, value in node.value:
            name = f"{place}{key.value}"
            if isinstance(value, yaml.MappingNode) and value.value:
                yield from walk(value, data[key.value], f"{name}.")
            elif name == "defaults":
                for entry in value.value:
                    scalar = isinstance(entry, yaml.ScalarNode)
                    shown = entry.value if scalar else text[entry.start_mark.index : entry.end_mark.index]
                    line = entry.start_mark.line
                    yield Setting(name, shown.partition(" #")[0].strip(), comment_of(lines, line, line))
            else:
                shown = text[value.start_mark.index : value.end_mark.index]
                if isinstance(value, yaml.CollectionNode) and not value.flow_style:
                    shown = yaml.safe_dump(data[key.value], default_flow_style=True, width=10_000).strip()
                top = 0 if key.start_mark.line == introduction(lines) else key.start_mark.line
                yield Setting(name, shown, comment_of(lines, top, value.start_mark.line))

    root = yaml.compose(text)
    if isinstance(root, yaml.MappingNode):
        yield from walk(root, yaml.safe_load(text), "")


def introduction(lines: list[str]) -> int:
    """How many lines of comment a file begins with."""
    return next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))


def summary(path: Path) -> str:
    """What the comment at a file's beginning says; the example commands in it are left out."""
    lines = path.read_text(encoding="utf-8").splitlines()
    said = [line.lstrip("# ") for line in lines[: introduction(lines)] if "@package" not in line and "#   python" not in line]
    return cell(" ".join(said))


def choice(path: Path) -> str:
    """The row of a file of a group: its name, what it is, and its settings."""
    shown, target, about = [], "", ""
    for item in settings(path.read_text(encoding="utf-8")):
        value = item.value.replace("`", "")
        if item.key == "defaults":
            name, _, chosen = value.partition(": ")
            name = re.sub(r"^override /|^/|^term@", "", name)
            shown += [f"`{name}={chosen}`" if chosen else f"`{name}`"] if name != "_self_" else []
        elif item.key == "_target_" or item.key.endswith("._target_"):
            target, about = (target, about) if target else (value.rpartition(".")[2], item.meaning)
        elif not UNSHOWN.match(item.key):
            key = item.key.removeprefix("hydra.sweeper.params.")
            shown.append(f"`{key}={value}`" + (f" ({item.meaning})" if item.meaning else ""))
    named = f"`{target}`" if target and path.parent.name != "dataset" else ""
    what = cell(" ".join([named, summary(path), about]))
    return f"| `{path.stem}` | {what} | {cell(', '.join(shown))} |"


def root_table(path: Path) -> str:
    """The settings of train.yaml, the groups first; those of Hydra itself are left out."""
    rows = []
    for item in settings(path.read_text(encoding="utf-8")):
        name, _, chosen = item.value.partition(": ")
        if item.key == "defaults" and chosen:
            rows.append(f"| `{name}` | `{chosen}` | {cell(item.meaning)} |")
        elif item.key != "defaults" and not item.key.startswith("hydra."):
            rows.append(f"| `{item.key}` | `{item.value}` | {cell(item.meaning)} |")
    return table("key | default | meaning", rows)


def reference(configs: Path) -> str:
    """The page.

    Args:
        configs: The folder of the YAML files.
    """
    parts = [INTRODUCTION, f"## The root: `train.yaml`\n\n{root_table(configs / 'train.yaml')}\n"]
    parts.append(f"## `record`\n\n{schema_table(RecordConfig)}\n\n## `metrics`\n\n{schema_table(MetricsConfig)}\n")
    known = {path.parent.relative_to(configs).as_posix() for path in configs.rglob("*.yaml")} - {"."}
    assert known == set(GROUPS), f"groups without a place in the reference: {known ^ set(GROUPS)}"
    for group, schema in GROUPS.items():
        parts.append(f"## `{group}`\n")
        if schema is not None:
            parts.append(schema_table(schema) + "\n")
        rows = [choice(path) for path in sorted((configs / group).glob("*.yaml"))]
        parts.append(table(f"`{group}=` | what | settings", rows) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    (here / "configuration.md").write_text(reference(here.parent / "configs"), encoding="utf-8")
