"""Traces of a few steps, to be opened in Perfetto: some after the start, some after each change of the network.

torch.profiler writes them, with the boundaries that fall between the steps. No run ends for a trace that can't be kept.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from esper.core.errors import ConfigError
from esper.core.storage.files import why_not_made
from esper.tolaria.loop.arm_steps import ArmSteps
from esper.tolaria.loop.session import Session

SETTLED = 10
"""Steps of a network before they are traced: the first ones compile, allocate and choose algorithms."""
WARMUP = 2
TRACED = 10


def trace_folder(name: object) -> Path | None:
    """The folder that is asked for, None for no traces. Raises ConfigError for what names none."""
    if name is None:
        return None
    if not isinstance(name, (str, Path)) or not str(name):
        raise ConfigError("profile", name, "expected the path of a folder for traces")
    return Path(name)


def steps_in(folder: Path | None) -> Callable[[Session], ArmSteps]:
    """What makes a session's steps, with traces in a folder, or none. Raises ConfigError where it can't be written."""
    if folder is None:
        return ArmSteps
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("profile", str(folder), f"{why_not_made(error)}; give another folder") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError("profile", str(folder), "can't be written to; give another folder")
    return lambda session: ProfiledSteps(session, folder)


class ProfiledSteps(ArmSteps):
    """Makes the steps of a session, and traces some of them."""

    def __init__(self, session: Session, folder: Path) -> None:
        super().__init__(session)
        self._folder = folder
        self._traced_topology = -1
        self._of_network = 0
        self._open: profile | None = None
        self._left = 0
        self._first = 0

    def make(self) -> None:
        """Make the next step, under the profiler where it is due."""
        self._begin()
        with record_function("esper.step"):
            super().make()
        self._end()

    def _row(self, step: int) -> range:
        """One after another, as they are traced."""
        return super()._row(step)[:1]

    def close(self) -> None:
        """Write what a run that ends, wherever it does, has traced so far."""
        super().close()
        if self._open is not None:
            ended, self._open = self._open, None
            ended.stop()

    def _begin(self) -> None:
        topology = self._session.run.executor.topology
        if topology != self._traced_topology:
            self.close()
            self._traced_topology, self._of_network = topology, 0
        self._of_network += 1
        if self._of_network == SETTLED:
            accelerated = [ProfilerActivity.CUDA] if self._session.run.device.type == "cuda" else []
            self._first, self._left = self._session.progress.step + WARMUP + 1, WARMUP + TRACED
            self._open = profile(
                activities=[ProfilerActivity.CPU, *accelerated],
                schedule=schedule(wait=0, warmup=WARMUP, active=TRACED, repeat=1),
                on_trace_ready=self._write,
            )
            self._open.start()

    def _end(self) -> None:
        if self._open is None:
            return
        self._open.step()
        self._left -= 1
        if not self._left:
            self.close()

    def _write(self, finished: profile) -> None:
        session, now = self._session, datetime.now(UTC)
        last, rank = session.progress.step, session.ranks.rank
        if self._left >= TRACED:  # the run failed in the first traced step
            return
        name = f"{session.run.run_id}-rank{rank}-steps{self._first}-{last}-{now:%Y%m%dT%H%M%S.%f}Z.json"
        path = self._folder / name
        part = path.with_suffix(".part")
        try:
            if session.run.device.type == "cuda":
                torch.cuda.synchronize()
            finished.export_chrome_trace(str(part))
            part.replace(path)
        except (OSError, RuntimeError) as error:
            with suppress(OSError):
                part.unlink()
            session.notice("tolaria.profiler.export_failed", "WARNING", f"{path} can't be written: {error}")
            return
        session.notice("tolaria.profiler.trace_written", "INFO", f"trace of steps {self._first} to {last}: {path}")
