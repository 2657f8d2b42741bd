"""Start a folder of your own: rsseg new mydataset root=/data/mine"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from rsseg.config.entry import CONFIGS
from rsseg.contract import InputError
from rsseg.files import write_text


@dataclass
class Arguments:
    """Start a folder to work in: the config of a dataset of your own, and the commands that come next.

    rsseg new NAME    the folder NAME, with configs/dataset/NAME.yaml and README.md
    root=FOLDER       the folder of your images and masks: the config is made from its files; without, it is to be filled in

    In that folder `rsseg train dataset=NAME` finds the config; so does every file below configs that you add, such as
    configs/loss/mine.yaml for loss=mine.
    """

    overrides: list[str]
    root: str = ""


README = """\
# {name}

```
rsseg describe dataset={name}                  # class shares, hints of label noise, which losses to compare
rsseg train dataset={name} loss=focal_dice     # one run
rsseg train -m sweep=losses dataset={name}     # a run for each of several losses and seeds
rsseg compare runs=<the sweep's folder>        # which loss to train with: report.html
rsseg predict run=<a run's folder> scene=<image>
```

`configs/dataset/{name}.yaml` names the images and masks, and the masks' values. Run the commands in this folder.
"""


def run(arguments: Arguments) -> None:
    """Write the folder.

    Raises:
        InputError: If the name can't be one, the folder exists, or nothing that can be trained on is found below `root`.
    """
    if len(arguments.overrides) != 1 or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", arguments.overrides[0]):
        found = " ".join(arguments.overrides) or "none"
        raise InputError(f"one name is expected, of letters, digits, - and _, such as rsseg new mydataset; found {found}")
    name = arguments.overrides[0]
    folder, into = Path(name), Path(name) / "configs" / "dataset"
    if folder.exists():
        raise InputError(f"{folder.absolute()} is there already: choose another name")
    if (CONFIGS / "dataset" / f"{name}.yaml").is_file():
        raise InputError(f"dataset={name} is one that rsseg has: choose another name")
    if arguments.root:
        from rsseg.describe.discovery import discover, write_dataset

        discovery = discover(Path(arguments.root))
        discovery.config["name"] = name
        write_dataset(discovery, into / f"{name}.yaml")
    else:
        template = (CONFIGS / "dataset" / "folder.yaml").read_text(encoding="utf-8")
        template = template.replace("dataset=folder", f"dataset={name}")
        template = template.replace("name: folder", f"name: {name}").replace("data}/folder", f"data}}/{name}")
        write_text(into / f"{name}.yaml", template)
    write_text(folder / "README.md", README.format(name=name))
    print(f"{folder}: look at {into / name}.yaml, then cd {folder} and go on as README.md says")
