"""A service over a fresh directory."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.kasmina.control.service import Service


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    running = Service(tmp_path)
    yield running
    running.close()
