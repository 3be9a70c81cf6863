"""A Redis server of the test's own: Debian's `redis-server`, on a socket in a directory that goes with it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

START_S = 10.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def redis_server() -> Iterator[str]:
    """Its URL; it keeps what it acknowledged, as the bus asks for."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server isn't installed (Debian: apt-get install redis-server)")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="esper-redis-") as directory:
        keeping = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")
        place = ("--port", str(port), "--bind", "127.0.0.1", "--dir", directory)
        process = subprocess.Popen([program, *place, *keeping], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _wait(port)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()
            process.wait(START_S)


def _wait(port: int) -> None:
    deadline_s = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.02)
        else:
            return
