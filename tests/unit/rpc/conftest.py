"""Servers on unix sockets for the tests of rpc."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from esper.rpc.server.bases import Servicer
from esper.rpc.server.server import Server, ServerConfig, start

Serve = Callable[..., Awaitable[Server]]


@pytest.fixture
def socket_dir() -> Iterator[Path]:
    """A directory whose path is short enough for a socket, which tmp_path's may not be."""
    with tempfile.TemporaryDirectory(prefix="esper-") as name:
        yield Path(name)


@pytest.fixture
async def serve(socket_dir: Path) -> AsyncIterator[Serve]:
    """Start servers that are drained when the test ends."""
    servers: list[Server] = []

    async def make(*servicers: Servicer, **settings: object) -> Server:
        config = ServerConfig(**{"listen": f"unix:{socket_dir}/s{len(servers)}", "grace_s": 2.0, **settings})
        servers.append(await start(config, servicers))
        return servers[-1]

    yield make
    for server in servers:
        await server.drain(0.1)
