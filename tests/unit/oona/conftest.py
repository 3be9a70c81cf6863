"""Redis servers end with the tests that share them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.oona.redis_server import end_all


@pytest.fixture(scope="session", autouse=True)
def _servers_end() -> Iterator[None]:
    yield
    end_all()
