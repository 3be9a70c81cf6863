"""A control plane in memory in the place of services, for whole runs of the door."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from esper.rpc.reporting.telemetry import UNHEARD
from esper.tolaria import run as runs
from tests.unit.tolaria.scripted_control import Script, ScriptedControl, fetch_artifact


def let_follow(monkeypatch: pytest.MonkeyPatch, script: Script) -> None:
    """Let every run from here on follow the script."""
    link = SimpleNamespace(fetch_artifact=fetch_artifact, finish=lambda step, reason: None)

    @contextmanager
    def connected(*_: Any) -> Iterator[Any]:
        yield SimpleNamespace(link=link, services=SimpleNamespace(wake=lambda: None))

    def grown(run: Any, plane: Any, watching: Any, *_: Any) -> Any:
        return watching, lambda opening: ScriptedControl(script), lambda: UNHEARD

    monkeypatch.setattr(runs, "connected", connected)
    monkeypatch.setattr(runs, "require_normal", lambda *_: None)
    monkeypatch.setattr(runs, "_alarm", lambda *_: None)
    monkeypatch.setattr(runs, "_grown", grown)
