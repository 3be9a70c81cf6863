"""The Redis servers that tests share: each is started once a process, and emptied by whoever takes it next."""

from __future__ import annotations

import atexit
from functools import cache

import pytest

from esper.core.errors import ConfigError
from tools.harness.faults.redis_server import RedisServer


@cache
def _started(*, is_cluster: bool) -> RedisServer:
    server = RedisServer(is_cluster=is_cluster)
    server.start()
    atexit.register(server.close)
    return server


def running(*, is_cluster: bool = False) -> RedisServer:
    """A server that runs, or the one node of a cluster. The test is skipped where there is no redis-server."""
    try:
        return _started(is_cluster=is_cluster)
    except ConfigError as error:
        pytest.skip(str(error))
