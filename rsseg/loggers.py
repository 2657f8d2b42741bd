"""metrics.csv, and loggers beside it, which may fail without stopping a run."""

from __future__ import annotations

import csv
import io
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from rsseg.contract import InputError, first_line
from rsseg.files import atomic_write, file_error

log = logging.getLogger(__name__)


class MetricsFile(Logger):
    """A CSV file with a row per call of `log_metrics`; a resumed run keeps the rows up to its `step`.

    The step of a row is the number of optimiser steps done when it was logged, as in checkpoints, records and pictures.
    """

    name, version = "metrics", ""

    def __init__(self, path: Path, step: int = 0) -> None:
        super().__init__()
        self.path, self.rows = path, earlier_rows(path, step)
        self._columns = sorted({key for row in self.rows for key in row})
        if getattr(rank_zero_only, "rank", None):
            return
        if self.rows:
            self._write_all()
        else:
            path.unlink(missing_ok=True)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write a row."""
        if getattr(rank_zero_only, "rank", None):
            return
        self.rows.append({**{key: str(value) for key, value in metrics.items()}, "step": str(steps_done(step))})
        if not self.rows[-1].keys() <= set(self._columns):
            self._columns = sorted({*self._columns, *self.rows[-1]})
            self._write_all()
            return
        try:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerow(self.rows[-1])
        except OSError as error:
            raise file_error(self.path, error) from None

    def _write_all(self) -> None:
        with atomic_write(self.path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(self.rows)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: ``config.yaml`` holds the hyperparameters."""

    @property
    def numbers(self) -> list[dict[str, float]]:
        """The rows as numbers by column; the step counts from 1."""
        try:
            return [{key: float(cell) for key, cell in row.items()} for row in self.rows]
        except ValueError as error:
            raise InputError(f"metrics.csv was edited: {error}") from None


def steps_done(step: int | None) -> int | None:
    """The number of optimiser steps done after the step with this index, which Lightning passes to loggers, counted from 0."""
    return None if step is None else step + 1


def earlier_rows(path: Path, step: int) -> list[dict[str, str]]:
    """The rows of a metrics file that were logged up to a step; an incomplete last line is ignored."""
    if step == 0 or not path.exists():
        return []
    try:
        text = path.read_text(encoding="utf-8")
        lines = io.StringIO(text[: text.rfind("\n") + 1], newline="")
        rows = [{key: cell for key, cell in row.items() if cell} for row in csv.DictReader(lines)]
        return [row for row in rows if int(row["step"]) <= step]
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise InputError(
            f"{path} can't be read ({error}): remove it, and the run goes on without the rows that it had"
        ) from None


class TrackioLogger(Logger):
    """A Lightning logger for Trackio, which writes runs into a SQLite database on this machine.

    Trackio reads the database's folder from the environment on import, so all runs of a process use the folder of the first.

    Args:
        project: The project's name.
        folder: The folder of the database, unless the environment sets TRACKIO_DIR.
        save_dir: The run folder, which names the run; a resumed run appends to its log.

    Attributes:
        experiment: Trackio's run object.
    """

    name, version = "trackio", ""

    def __init__(self, project: str, folder: str, save_dir: str) -> None:
        super().__init__()
        os.environ.setdefault("TRACKIO_DIR", str(Path(folder).resolve()))
        import trackio

        run = Path(save_dir).resolve()
        self.experiment = trackio.init(project, name=f"{run.parent.name} {run.name}", resume="allow", embed=False)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers at a step."""
        self.experiment.log(dict(metrics), step)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Keep the config, which Trackio writes with the first metrics."""
        self.experiment.config.update(params)


class SideLogger(Logger):
    """Passes all calls on to a logger that is made on first use; if that fails, warns once and drops later calls."""

    version = ""

    def __init__(self, name: str, make: Callable[[], Logger]) -> None:
        super().__init__()
        self._name, self._make = name, make
        self.inner: Logger | None = None
        self._failed = False

    def _try(self, action: Callable[[Logger], Any]) -> None:
        if self._failed or getattr(rank_zero_only, "rank", None):  # only the main process logs
            return
        try:
            if self.inner is None:
                self.inner = self._make()
            action(self.inner)
        except InputError:
            raise  # a wrong argument, not an unreachable server
        except Exception as error:  # clients raise anything if they can't reach their server
            self._failed = True
            reason = first_line(error)
            log.warning(
                "logger.%s can't be used (%s: %s): the run goes on without it, metrics.csv has everything.",
                self._name, type(error).__name__, reason[:200],
            )  # fmt: skip

    @property
    def name(self) -> str | None:
        """The name in the config."""
        return self._name

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Pass metrics on."""
        self._try(lambda inner: inner.log_metrics(dict(metrics), steps_done(step)))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Pass the config on."""
        self._try(lambda inner: inner.log_hyperparams(params, *args, **kwargs))

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Pass a checkpoint on, to loggers that were asked to keep them."""
        self._try(lambda inner: inner.after_save_checkpoint(checkpoint_callback))

    def show(self, name: str, picture: Path, step: int) -> None:
        """Show a PNG in a logger that takes pictures."""
        self._try(lambda inner: _show(inner, name, picture, step))

    def tabulate(self, name: str, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        """Show a table in a logger that takes tables."""
        self._try(lambda inner: _tabulate(inner, name, rows, step))

    def finalize(self, status: str) -> None:
        """Pass the final status of the run on."""
        self._try(lambda inner: inner.finalize(status))

    def close(self) -> None:
        """Flush and close the inner logger: the next run of a sweep makes its own."""
        if self.inner is not None:
            self._try(_close)


def _show(logger: Logger, name: str, picture: Path, step: int) -> None:
    if isinstance(logger, TensorBoardLogger):
        import numpy as np
        from PIL import Image

        logger.experiment.add_image(name, np.asarray(Image.open(picture).convert("RGB")), step, dataformats="HWC")
    elif isinstance(logger, WandbLogger):
        logger.log_image(name, [str(picture)], step=step)
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_artifact(logger.run_id, str(picture), name)
    elif isinstance(logger, TrackioLogger):
        import trackio

        logger.experiment.log({name: trackio.Image(picture)}, step)


def _tabulate(logger: Logger, name: str, rows: Sequence[Mapping[str, Any]], step: int) -> None:
    columns = list(rows[0])
    if isinstance(logger, TensorBoardLogger):
        lines = [columns, ["---"] * len(columns), *([_cell(row[c]) for c in columns] for row in rows)]
        logger.experiment.add_text(name, "\n".join(f"| {' | '.join(line)} |" for line in lines), step)
    elif isinstance(logger, WandbLogger):
        logger.log_table(name, columns=columns, data=[[row[c] for c in columns] for row in rows], step=step)
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_table(logger.run_id, {c: [row[c] for row in rows] for c in columns}, f"{name}.json")
    elif isinstance(logger, TrackioLogger):
        import trackio

        logger.experiment.log({name: trackio.Table(data=[dict(row) for row in rows])}, step)


def _close(logger: Logger) -> None:
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.close()
    elif isinstance(logger, WandbLogger | TrackioLogger):
        logger.experiment.finish()


def side_loggers(trainer: Any) -> list[SideLogger]:
    """The loggers of a trainer besides ``metrics.csv``; empty in a process that does not write."""
    return [logger for logger in trainer.loggers if isinstance(logger, SideLogger)] if trainer.is_global_zero else []


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value).replace("|", "\\|")  # which would end a Markdown cell
