"""The run folder: its files and their contents."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rsseg.config.build import plain
from rsseg.config.contents import ROOT_KEYS, fault, flat, typed_config
from rsseg.config.entry import invocation
from rsseg.config.naming import resume_word
from rsseg.contract import InputError
from rsseg.files import LockedError, UnwritableError, lock, read_json, remove_parts, write_text
from rsseg.task import Scaling

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

PLACE_KEYS = ("output", "resume", "workers", "cache", "verify", "pictures", "logger", "checkpoint_every", "trust")
"""Settings that do not change the result, so that two runs of the same config may differ in them."""

FOUND_KEYS = ("dataset.bands", "dataset.rgb")  # null until a run has seen the data

GRAPHS = {".onnx": "onnxruntime and Deepness in QGIS", ".pt2": "PyTorch"}
"""The programs that read exported graphs, by suffix."""

ANOTHER_FOLDER = "choose another folder (hydra.run.dir=..., for a sweep hydra.sweep.dir=...) or remove it"


class RunFolder:
    """A run folder. Faults of its files raise an `InputError` of one line with the remedy."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.yaml"  # resolved; its presence says that a run was begun
        self.run_file = path / "run.json"  # provenance: overrides, code, libraries
        self.data_file = path / "data.json"  # scenes, fingerprints and statistics of the splits
        self.summary_file = path / "summary.json"  # scores of the best checkpoint; its presence says that the run is finished
        self.metrics_file = path / "metrics.csv"  # logged values by step
        self.classes_file = path / "classes.csv"  # the scores of the best checkpoint by class
        self.thresholds_file = path / "threshold.json"  # thresholds, or biases, tuned at the best checkpoint
        self.scaling_file = path / "scaling.json"  # scaling of the best checkpoint's logits, for calibrated probabilities
        self.log_file = path / "train.log"  # console output and stack traces
        self.lock_file = path / "run.lock"  # held while a process trains
        self.records = path / "records"  # for comparisons
        self.pictures = path / "pictures"  # drawn while training
        self.checkpoints = path / "checkpoints"  # the one with the best score, the newest, and the one before the newest:
        self.best, self.last, self.previous = (self.checkpoints / f"{name}.ckpt" for name in ("best", "last", "previous"))

    def __str__(self) -> str:
        return str(self.path)

    @property
    def begun(self) -> bool:
        """Whether there is a run in the folder."""
        return self.config_file.is_file()

    @property
    def finished(self) -> bool:
        """Whether the run is finished."""
        return self.summary_file.is_file()

    @property
    def in_training(self) -> bool:
        """Whether another process trains in the folder; False also where the folder can't be written to."""
        if not self.lock_file.is_file():
            return False
        try:
            with lock(self.lock_file):
                return False
        except LockedError:
            return True
        except UnwritableError:
            return False

    @property
    def resume_command(self) -> str:
        """The command that continues the run."""
        return f"{invocation('train')} {resume_word(self.path)}"

    @contextmanager
    def lock(self, wait: bool = False) -> Iterator[None]:
        """Keep other processes from training in the folder; temporary files of a killed process are removed.

        Raises:
            LockedError: If another process trains in the folder, unless `wait`.
            UnwritableError: If the folder can't be written to.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(lock(self.lock_file, wait))
            except LockedError:
                raise LockedError(f"{self}: another process is training this run; wait for it, or stop it") from None
            except UnwritableError as error:
                raise UnwritableError(f"{error}{', copy the run there and resume it' if self.begun else ''}") from None
            for folder in (self.checkpoints, self.records, self.pictures):
                remove_parts(folder, older=0)
            remove_parts(self.path)  # only old ones: another process may be writing a table now
            yield

    def discard(self) -> None:
        """Remove the folder of a run that ended before it began, unless its log holds a stack trace."""
        with suppress(OSError):
            if self.begun or (self.log_file.is_file() and b"Traceback (most recent call last)" in self.log_file.read_bytes()):
                return
            self.log_file.unlink(missing_ok=True)
            self.lock_file.unlink(missing_ok=True)
            self.path.rmdir()  # fails, and so keeps the folder, if it holds anything else
            self.path.parent.rmdir()

    def config(self) -> Any:
        """The config of the run, typed by the schema, with interpolations unresolved; keys that the schema lacks are kept."""
        if not self.begun:
            why = "it has no config.yaml" if self.path.is_dir() else "it is a file" if self.path.exists() else "it is not there"
            for own in (self.path, *sorted(self.path.glob("*"))):
                if own.suffix in GRAPHS:
                    why = f"{own.name} is a graph for {GRAPHS[own.suffix]}; rsseg predict reads runs, or exports of to=folder"
            raise InputError(f"{self} is no run folder: {why}")
        try:
            content: Any = OmegaConf.to_container(OmegaConf.load(self.config_file), resolve=False)
            if wrong := fault(self.config_file.name, content):
                raise InputError(wrong)
            return typed_config(content)
        except (InputError, OSError, ValueError, RecursionError, yaml.YAMLError, OmegaConfBaseException) as error:
            raise self._unusable(self.config_file, str(error)) from None

    def origin(self) -> dict[str, Any]:
        """The content of ``run.json``: overrides, code, libraries, machine."""
        return self._json(self.run_file)

    def data(self) -> dict[str, Any]:
        """The content of ``data.json``: scenes, fingerprints, and the training images' statistics."""
        if not self.data_file.is_file() and not self.last.is_file():
            raise InputError(f"{self} holds a run that never started training: go on with {self.resume_command}")
        return self._json(self.data_file)

    def summary(self) -> dict[str, Any]:
        """The content of ``summary.json``: scores of the best checkpoint, NaN if not known; or the step where it `diverged`."""
        return {name: math.nan if value is None else value for name, value in self._json(self.summary_file).items()}

    def thresholds(self, tasks: Mapping[str, Any]) -> dict[str, Tensor]:
        """The tuned thresholds, or biases, that `Task.predict` takes: float32 ``[classes]``, by head.

        Raises:
            InputError: If the run has none, or they can't be read.
        """
        import torch

        stored = self._json(self.thresholds_file) if self.thresholds_file.is_file() else {}
        missing = [name for name in tasks if name not in stored]
        if missing:
            raise InputError(
                f"threshold=tuned: {self} has no threshold.json of head {', '.join(missing)}: the run is not finished, was "
                "trained with record.enabled=false or has diverged; leave threshold=tuned out"
            )
        try:
            return {name: torch.tensor([stored[name]["values"][c] for c in task.classes]) for name, task in tasks.items()}
        except (KeyError, TypeError, ValueError):
            raise self._unusable(self.thresholds_file, "it lacks a number for each class") from None

    def scalings(self, head: str, classes: int) -> dict[str, Scaling]:
        """The scalings of a head's logits that were fitted on the validation scenes, by kind; empty without a file.

        Raises:
            InputError: If they can't be read.
        """
        stored = self._json(self.scaling_file) if self.scaling_file.is_file() else {}
        try:
            found = {
                kind: Scaling(*(tuple(float(number) for number in own[name]) for name in ("scale", "shift")))
                for kind, own in stored.get(head, {}).items()
            }
            if any(len(numbers) != classes for each in found.values() for numbers in (each.scale, each.shift)):
                raise ValueError
        except (AttributeError, KeyError, TypeError, ValueError):
            lacks = f"it lacks a scale and a shift for each of {classes} classes of head {head}"
            raise self._unusable(self.scaling_file, lacks) from None
        return found

    def find(self, name: str = "best") -> Path:
        """The file of a checkpoint: best, last or previous.

        Raises:
            InputError: If there is none.
        """
        path = self.checkpoints / f"{name}.ckpt"
        if not path.exists():
            way_out = self._train_again if self.finished else f"The run is not finished; go on with {self.resume_command}"
            raise InputError(f"{self} has no checkpoints/{name}.ckpt. {way_out}")
        return path

    def check_trained(self) -> None:
        """Check, without torch, that the folder holds a trained run.

        Raises:
            InputError: If it does not, or its files can't be read.
        """
        self.config()
        self.find()

    def load_state(self, name: str = "best") -> tuple[dict[str, Tensor], int]:
        """The weights of a checkpoint (best, last or previous), and the step at which it was saved.

        Raises:
            InputError: If there is none, or it can't be read.
        """
        from rsseg.checkpoints import DamagedError, read_checkpoint

        try:
            content = read_checkpoint(self.find(name))
        except DamagedError as error:
            raise InputError(f"{error}. {self._train_again}") from None
        return content["state_dict"], int(content["global_step"])

    def last_good(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest undamaged checkpoint to resume from (last or previous) and its content; None if there is none.

        Raises:
            InputError: If there are checkpoints but none can be used.
        """
        from rsseg.checkpoints import DamagedError, read_checkpoint

        faults = []
        for path in (self.last, self.previous):
            if not path.exists():
                continue
            try:
                content = read_checkpoint(path)
            except DamagedError as error:
                faults.append(str(error))
                continue
            if faults:
                log.warning("%s: going on from the checkpoint before it, %s.", faults[0], path)
            return path, content
        if faults:
            raise InputError(f"{faults[-1]}. {self._train_again}")
        return None

    @property
    def _train_again(self) -> str:
        return (
            f"Training gives the same weights again: remove {self.checkpoints} and {self.summary_file}, then "
            f"{self.resume_command}"
        )

    def write_config(self, values: Mapping[str, Any]) -> None:
        """Write the config of the run from plain values, with absolute data folders.

        Raises:
            UnwritableError: If it can't be written.
        """
        content = OmegaConf.create(dict(values))
        for key in ROOT_KEYS:
            root = OmegaConf.select(content, key)
            if isinstance(root, str):
                OmegaConf.update(content, key, _absolute(root))
        write_text(self.config_file, OmegaConf.to_yaml(content))

    def differences(self, config: Any) -> dict[str, tuple[Any, Any]]:
        """The flattened keys in which the run's config and another one differ, with both values; empty for the same run.

        `PLACE_KEYS` do not count, nor do settings that the run found in the data and the other config leaves open.
        """
        before, now = flat(plain(self.config())), flat(plain(config))
        left_open = {key for key in FOUND_KEYS if now.get(key) is None}
        for each in (before, now):
            each |= {key: _absolute(each[key]) for key in ROOT_KEYS if isinstance(each.get(key), str)}
        both = {key: (before.get(key), now.get(key)) for key in sorted((before.keys() | now.keys()) - left_open)}
        return {key: (a, b) for key, (a, b) in both.items() if a != b and key.split(".")[0] not in PLACE_KEYS}

    def refuse_other(self, config: Any) -> None:
        """Refuse to continue the run with another config.

        Raises:
            InputError: If the folder holds a run of another config.
        """
        changed = self.differences(config) if self.begun else {}
        if changed:
            listed = ", ".join(f"{key}: {before} -> {now}" for key, (before, now) in list(changed.items())[:5])
            raise InputError(f"{self} holds a run of another config ({listed}): {ANOTHER_FOLDER}")

    def _json(self, path: Path) -> dict[str, Any]:
        try:
            content = read_json(path)
            if wrong := fault(path.name, content):
                raise InputError(wrong)
        except InputError as error:
            raise self._unusable(path, str(error).removeprefix(f"{path} can't be read: ")) from None
        return content

    def _unusable(self, path: Path, found: str) -> InputError:
        remedy = "Put a copy of the file there, or remove the folder and train the run again"
        if path in (self.summary_file, self.thresholds_file, self.scaling_file):
            remedy = f"Remove summary.json and go on with {self.resume_command}: it scores the run again"
        return InputError(f"{path} can't be read: {' '.join(found.split())}. {remedy}")


def check_places(places: Sequence[Path]) -> None:
    """Check, without torch, that the folders that should hold runs exist.

    Raises:
        InputError: If a folder does not exist or is empty.
    """
    for place in places:
        if not place.is_dir() or not any(place.iterdir()):
            RunFolder(place).check_trained()


def _absolute(root: str) -> str:
    """The absolute path of a folder; the path of a folder that does not exist is returned unchanged."""
    path = Path(root).expanduser()
    return str(path.absolute()) if path.exists() else root
