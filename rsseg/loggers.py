"""Loggers beside metrics.csv: what they can't be told does not stop a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from rsseg.contract import InputError

log = logging.getLogger(__name__)


class SideLogger(Logger):
    """Passes everything on to a logger until that fails; then says so once and goes on without it.

    Args:
        name: Its name in the config.
        make: Makes the logger; called on first use.
    """

    def __init__(self, name: str, make: Callable[[], Logger]) -> None:
        super().__init__()
        self._name, self._make = name, make
        self.inner: Logger | None = None
        self._failed = False

    def _try(self, action: Callable[[Logger], Any]) -> Any:
        if self._failed or getattr(rank_zero_only, "rank", None):  # the main process alone logs
            return None
        try:
            if self.inner is None:
                self.inner = self._make()
            return action(self.inner)
        except InputError:
            raise  # a wrong argument, not a server that is away
        except Exception as error:  # whatever a client raises that does not reach its server
            self._failed = True
            reason = (str(error).strip().splitlines() or [""])[0]
            log.warning(
                "logger.%s can't be used (%s: %s): the run goes on without it, metrics.csv has everything.",
                self._name, type(error).__name__, reason[:200],
            )  # fmt: skip
            return None

    @property
    def name(self) -> str | None:
        """The name in the config."""
        return self._name

    @property
    def version(self) -> int | str | None:
        """The inner logger's."""
        version: int | str | None = self._try(lambda inner: inner.version)
        return version

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Pass metrics on."""
        self._try(lambda inner: inner.log_metrics(dict(metrics), step))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Pass the config on."""
        self._try(lambda inner: inner.log_hyperparams(params, *args, **kwargs))

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Pass a checkpoint on, to loggers that were asked to keep them."""
        self._try(lambda inner: inner.after_save_checkpoint(checkpoint_callback))

    def show(self, name: str, picture: Path, step: int) -> None:
        """Pass a PNG on, to loggers that take pictures."""
        self._try(lambda inner: send_picture(inner, name, picture, step))

    def tabulate(self, name: str, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        """Pass a table on, to loggers that take tables."""
        self._try(lambda inner: send_table(inner, name, rows, step))

    def save(self) -> None:
        """Let the inner logger write."""
        self._try(lambda inner: inner.save())

    def finalize(self, status: str) -> None:
        """Let the inner logger note how the run ended."""
        self._try(lambda inner: inner.finalize(status))

    def close(self) -> None:
        """Let the inner logger write what it holds back and end: the next run of a sweep gets one of its own."""
        if self.inner is not None:
            self._try(close)


def given_to_logger(node: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """What rsseg adds to a logger's arguments: the run folder, unless it has a place of its own."""
    return {} if "tracking_uri" in node else {"save_dir": str(folder)}


def send_picture(logger: Logger, name: str, picture: Path, step: int) -> None:
    """Show a PNG in a logger; one that takes no pictures is left alone."""
    if isinstance(logger, TensorBoardLogger):
        import numpy as np
        from PIL import Image

        logger.experiment.add_image(name, np.asarray(Image.open(picture).convert("RGB")), step, dataformats="HWC")
    elif isinstance(logger, WandbLogger):
        logger.log_image(name, [str(picture)], step=step)
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_artifact(logger.run_id, str(picture), name)


def send_table(logger: Logger, name: str, rows: Sequence[Mapping[str, Any]], step: int) -> None:
    """Show a table in a logger; one that takes no tables is left alone."""
    columns = list(rows[0])
    if isinstance(logger, TensorBoardLogger):
        lines = [columns, ["---"] * len(columns), *([_cell(row[c]) for c in columns] for row in rows)]
        logger.experiment.add_text(name, "\n".join(f"| {' | '.join(line)} |" for line in lines), step)
    elif isinstance(logger, WandbLogger):
        logger.log_table(name, columns=columns, data=[[row[c] for c in columns] for row in rows], step=step)
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_table(logger.run_id, {c: [row[c] for row in rows] for c in columns}, f"{name}.json")


def close(logger: Logger) -> None:
    """Write out and end what a logger keeps open beyond `finalize`."""
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.close()
    elif isinstance(logger, WandbLogger):
        logger.experiment.finish()


def side_loggers(trainer: Any) -> list[SideLogger]:
    """The loggers of a trainer beside metrics.csv; none in a process that does not write."""
    return [logger for logger in trainer.loggers if isinstance(logger, SideLogger)] if trainer.is_global_zero else []


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value).replace("|", "\\|")  # which would end a Markdown cell
