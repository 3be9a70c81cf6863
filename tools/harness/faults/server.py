"""A program that serves, of one's own: in a directory that goes with it, killed and started again at will."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from esper.core.errors import ConfigError

HOST = "127.0.0.1"
START_S = 30.0
BREATH_S = 0.02


class Server(ABC):
    """One process on a port of its own; what it keeps in `folder` survives `kill`, and goes with `close`."""

    PROGRAM: ClassVar[str]
    PACKAGE: ClassVar[str]
    """Debian's."""

    def __init__(self) -> None:
        program = shutil.which(self.PROGRAM)
        if program is None:
            raise ConfigError(self.PROGRAM, "PATH", f"isn't installed (Debian: apt-get install {self.PACKAGE})")
        self._program = program
        self._directory = tempfile.TemporaryDirectory(prefix=f"esper-{self.PROGRAM}-")
        self.folder = Path(self._directory.name)
        self.port = free_port()

    @abstractmethod
    def options(self) -> Sequence[str]:
        """What the program is started with."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether it serves; an OSError says that it doesn't."""

    def start(self) -> None:
        """Start it and wait until it serves."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([self._program, *self.options()], stdout=log, stderr=log)
        self.wait_until(self.is_ready)

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        """Raises ConfigError with its last word where it ends before, or takes too long."""
        deadline_s = time.monotonic() + START_S
        while not _is(is_so):
            if self.process.poll() is not None or time.monotonic() > deadline_s:
                said = (self.folder / "log").read_text().strip().splitlines()
                raise ConfigError(
                    self.PROGRAM, self._program, f"doesn't serve: {said[-1] if said else 'it says nothing'}"
                )
            time.sleep(BREATH_S)

    def kill(self) -> None:
        """End it as a power cut of its process would."""
        self.process.kill()
        self.process.wait(START_S)

    def close(self) -> None:
        """End it, and forget what it kept."""
        if self.process.poll() is None:
            self.kill()
        self._directory.cleanup()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _is(so: Callable[[], bool]) -> bool:
    try:
        return so()
    except OSError:
        return False


def free_port() -> int:
    """A port of this machine that nobody has at the moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
