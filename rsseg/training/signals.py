"""Signals that stop a run: it saves its state, logs how to resume, and requeues its job under SLURM."""

from __future__ import annotations

import logging
import signal
import subprocess
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

import lightning as L
import torch

from rsseg.config.folder import RunFolder
from rsseg.config.naming import slurm_job
from rsseg.config.plan import FILE as SWEEP
from rsseg.distributed import is_main

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)]

log = logging.getLogger(__name__)


class StoppedError(SystemExit):
    """A signal has stopped a run; the exit code is 128 plus the signal's number, as for a process killed by it."""

    def __init__(self, number: int, done: str = "") -> None:  # `done`: the run's progress, in words
        super().__init__(128 + number)
        self.number, self.done, self.by_all = number, done, bool(done)


class Interrupts:
    """A context in which SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 stop a run: after the current step in training, else at once.

    When a signal has stopped the run, a log line tells how to resume, and the job of a SLURM batch script is requeued.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.received: int | None = None  # the signal that will stop the run after the step
        self.waits = False  # whether signals wait for the end of the step; a second SIGINT never waits
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():  # other threads can't handle signals
            self._before = {number: signal.getsignal(number) for number in SIGNALS}
        self.listen()
        return self

    def listen(self) -> None:
        """Install the signal handlers; call this again after a library has replaced them."""
        self._take(self._note)

    def _take(self, handler: Callable[[int, FrameType | None], None]) -> None:
        for number in self._before:
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.waits or (number == signal.SIGINT and self.received is not None):
            raise StoppedError(number)
        self.received = number

    def arrived(self, trainer: L.Trainer, number: int = 0) -> bool:
        """Whether any of the processes that train together has received a signal; all get the same answer.

        With several processes, asking the others synchronises them and the GPU, so it is done only if `number`, of a step or
        batch, is a multiple of `log_every_n_steps`; otherwise the answer is False.
        """
        if trainer.world_size > 1:
            if number % trainer.log_every_n_steps:  # type: ignore[attr-defined]
                return False
            received = torch.tensor(self.received or 0, device=trainer.strategy.root_device)
            self.received = int(trainer.strategy.reduce(received, reduce_op="max")) or None
        return self.received is not None

    def stop(self, trainer: L.Trainer) -> None:
        """End the run, whose state has been saved."""
        raise StoppedError(self.received or signal.SIGTERM, f" at step {trainer.global_step} of {trainer.max_steps}")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._take(lambda *_: None)  # further signals must not interrupt the requeueing
        try:
            if isinstance(error, StoppedError) and is_main():
                name = signal.Signals(error.number).name
                way_on = "the same command, which begins anew"
                if (self.run.path.parent / SWEEP).is_file():
                    way_on = "the sweep's command, which leaves finished runs as they are"
                elif self.run.run_file.is_file():
                    way_on = self.run.resume_command
                log.warning("Stopped by %s%s; go on with %s", name, error.done or " outside training", way_on)
                requeue(error.number)
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)


def requeue(number: int) -> None:
    """Requeue a SLURM job stopped by SIGUSR1 or SIGUSR2, which ``#SBATCH --signal`` sends before the time limit.

    SIGTERM does not requeue it: it is also sent when a job is cancelled, and SLURM itself requeues a preempted job.
    """
    job = slurm_job()
    if job is None or number in (signal.SIGINT, signal.SIGTERM):
        return
    try:
        subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60, check=True)
        log.info("SLURM job %s is queued again and goes on by itself.", job)
    except (OSError, subprocess.SubprocessError) as error:
        fault = getattr(error, "stderr", None) or error
        log.warning("SLURM job %s can't be queued again (%s): submit it again, it goes on by itself", job, str(fault).strip())
