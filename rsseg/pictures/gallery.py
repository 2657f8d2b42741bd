"""Pictures during training: the same few windows after every validation."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L

from rsseg.contract import Batch
from rsseg.files import UnwritableError
from rsseg.loggers import side_loggers
from rsseg.module import SegmentationModule
from rsseg.pictures.panels import draw_windows
from rsseg.pictures.windows import Row, of_head, predict_windows

log = logging.getLogger(__name__)


class Gallery(L.Callback):
    """Draws some windows into ``pictures/step-000240.png`` of the run folder, and sends the picture to the loggers.

    Further heads have pictures of their own, ``pictures/step-000240-water.png``. `scenes` are the names of the scenes that the
    windows are cut from, `palettes` the colours of each head's labels, and `shown` the bands for red, green and blue.
    """

    def __init__(
        self,
        folder: Path,
        windows: Sequence[Batch],
        scenes: Sequence[str],
        palettes: Mapping[str, Sequence[str] | None],
        shown: Sequence[int] | None,
    ) -> None:
        self.folder, self.windows, self.scenes, self.palettes, self.shown = folder, list(windows), scenes, palettes, shown
        self._rows: dict[str, list[Row]] = {}

    def on_validation_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Predict with the weights that are scored: averaged weights are in place from the first batch on."""
        if not self._rows and trainer.state.fn == "fit" and trainer.is_global_zero and self.windows:
            assert isinstance(pl_module, SegmentationModule)
            with trainer.precision_plugin.forward_context():
                self._rows = predict_windows(pl_module, self.windows, self.scenes)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw and show the predictions."""
        if self._rows:
            self.draw(trainer, self.folder / f"step-{trainer.global_step:06d}.png", self._rows, "windows")
            self._rows = {}

    def draw(self, trainer: L.Trainer, path: Path, rows: Mapping[str, list[Row]], name: str) -> None:
        """Write and log a picture per head from rows of `predict_windows`; a full disk does not stop the run."""
        tasks: Any = trainer.lightning_module.tasks
        for head, own in rows.items():
            place = of_head(path, head, rows)
            try:
                draw_windows(place, tasks[head], self.palettes[head], own, self.shown)
            except UnwritableError as error:
                log.warning("%s; the run goes on without this picture", error)
                return
            for logger in side_loggers(trainer):
                logger.show(of_head(Path(name), head, rows).name, place, trainer.global_step)
