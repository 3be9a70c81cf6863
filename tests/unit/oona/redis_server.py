"""The Redis servers that tests share: each is started once a process, and emptied by whoever takes it next."""

from __future__ import annotations

import pytest

from esper.core.errors import ConfigError
from tools.harness.faults.redis_server import RedisServer

_servers: dict[bool, RedisServer] = {}


def running(*, is_cluster: bool = False) -> RedisServer:
    """A server that runs, or the one node of a cluster. The test is skipped where there is no redis-server."""
    if is_cluster not in _servers:
        try:
            server = RedisServer(is_cluster=is_cluster)
        except ConfigError as error:
            pytest.skip(str(error))
        server.start()
        _servers[is_cluster] = server
    return _servers[is_cluster]


def end_all() -> None:
    """None of them runs afterwards."""
    while _servers:
        _servers.popitem()[1].close()
