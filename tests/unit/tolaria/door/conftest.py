"""A control plane in memory for whole runs of the door: what it orders, and when, is a script's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from tests.unit.tolaria.door.planes import let_follow
from tests.unit.tolaria.scripted_control import Script


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Script], None]:
    """Let every run from here on follow the script."""
    return partial(let_follow, monkeypatch)
