"""Make docs/configuration.md from the schema and the YAML files: python docs/make_configuration.py"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from rsseg.config.schema import DatasetConfig, LossConfig, ModelConfig, RecordConfig

INTRODUCTION = """\
# Configuration

Made from `rsseg/config/schema.py` and `configs/` by `make docs`; a test holds it to them.

A run's config is put together by [Hydra](https://hydra.cc): each line of the defaults list below picks one file of a group,
`group=file` on the command line picks another, `group=[one,two]` several (augment, callbacks, logger), and `key=value` sets any
value. Arguments of a `_target_` that a file does not list can be set too: what the target does not know is refused, with the
nearest name that it does. A `_target_` is a class that its place accepts, of a package of your own too: `trust=[mypackage]`,
see [losses.md](losses.md#a-loss-of-your-own). `python train.py --cfg job` prints the config without running it.
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


def attributes(schema: type[Any]) -> dict[str, str]:
    """What the docstrings of a dataclass and of its bases say of each attribute."""
    found: dict[str, str] = {}
    for base in reversed(schema.__mro__):
        _, _, section = (base.__doc__ or "").partition("Attributes:\n")
        own = re.findall(r"^ {8}(\w+): ((?:.+\n?)(?: {12}.+\n?)*)", section, re.MULTILINE)
        found |= {name: " ".join(text.split()) for name, text in own}
    return found


def schema_table(schema: type[Any]) -> str:
    """A table of a dataclass's fields: name, type, default, meaning."""
    meanings, rows = attributes(schema), ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    items = sorted(dataclasses.fields(schema), key=lambda item: item.name != "name")  # what it is called comes first
    for item in items:
        default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
        shown = "" if default == MISSING else "null" if default is None else f"`{default}`"
        kind = str(item.type).replace("|", "or").replace(" or None", " or null")
        rows.append(f"| `{item.name}` | {kind} | {shown} | {meanings.get(item.name, '')} |")
    return "\n".join(rows)


def text(path: Path) -> str:
    """The text of a YAML file, whose comments say what it is."""
    return f"```yaml\n{path.read_text(encoding='utf-8').strip()}\n```\n"


def reference(configs: Path) -> str:
    """The page.

    Args:
        configs: The folder of the YAML files.
    """
    parts = [INTRODUCTION, f"## The root: `train.yaml`\n\n{text(configs / 'train.yaml')}"]
    parts.append(f"## `record`\n\n{schema_table(RecordConfig)}\n")
    known = {path.parent.relative_to(configs).as_posix() for path in configs.rglob("*.yaml")} - {"."}
    assert known == set(GROUPS), f"groups without a place in the reference: {known ^ set(GROUPS)}"
    for group, schema in GROUPS.items():
        parts.append(f"## `{group}`\n")
        if schema is not None:
            parts.append(schema_table(schema) + "\n")
        parts += [f"**`{path.stem}`**\n\n{text(path)}" for path in sorted((configs / group).glob("*.yaml"))]
    return "\n".join(parts)


if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    (here / "configuration.md").write_text(reference(here.parent / "configs"), encoding="utf-8")
