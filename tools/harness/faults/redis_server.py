"""A Redis server of one's own: `redis-server` in a directory that goes with it, killed and started again at will."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

from esper.core.errors import ConfigError

PROGRAM = "redis-server"
START_S = 20.0
# It keeps what it acknowledged, as the bus asks for.
DURABLE = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")
SLOTS = (0, 16_383)


class RedisServer:
    """One server; the one node of a cluster if it is asked for. Its data survive `kill`."""

    def __init__(self, *, is_cluster: bool = False) -> None:
        program = shutil.which(PROGRAM)
        if program is None:
            raise ConfigError(PROGRAM, "PATH", "isn't installed (Debian: apt-get install redis-server)")
        self._program = program
        self._is_cluster = is_cluster
        self._directory = tempfile.TemporaryDirectory(prefix="esper-redis-")
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it and wait until it answers."""
        place = ("--port", str(self.port), "--bind", "127.0.0.1", "--dir", self._directory.name)
        # The nodes' own port would be 10,000 higher, which may be more than there are.
        kind = ("--cluster-enabled", "yes", "--cluster-port", str(free_port())) if self._is_cluster else ()
        with (Path(self._directory.name) / "log").open("ab") as log:
            self.process = subprocess.Popen([self._program, *place, *DURABLE, *kind], stdout=log, stderr=log)
        self._wait_for("PING", "+PONG")
        if self._is_cluster:
            self._ask(f"CLUSTER ADDSLOTSRANGE {SLOTS[0]} {SLOTS[1]}")
            self._wait_for("CLUSTER INFO", "cluster_state:ok")

    def kill(self) -> None:
        """End it as a power cut of its process would."""
        self.process.kill()
        self.process.wait(START_S)

    def close(self) -> None:
        """End it, and forget what it kept."""
        if self.process.poll() is None:
            self.kill()
        self._directory.cleanup()

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wait_for(self, command: str, answer: str) -> None:
        deadline_s = time.monotonic() + START_S
        while True:
            try:
                if answer in self._ask(command):
                    return
            except OSError:
                pass
            if self.process.poll() is not None or time.monotonic() > deadline_s:
                said = (Path(self._directory.name) / "log").read_text().strip().splitlines()[-1:]
                raise TimeoutError(f"{PROGRAM} doesn't answer {command} with {answer}: {said}")
            time.sleep(0.02)

    def _ask(self, command: str) -> str:
        with socket.create_connection(("127.0.0.1", self.port), 1.0) as line:
            line.sendall(f"{command}\r\n".encode())
            return line.recv(4096).decode()


def free_port() -> int:
    """A port of this machine that nobody has at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
