"""What callers provoke is told once a window, and counted to the last."""

from __future__ import annotations

import logging

import pytest

from esper.core.clock import ManualClock
from esper.core.errors import UnparsableMessage
from esper.leyline import AdvanceRequest
from esper.rpc.mishaps import WINDOW_S, Mishaps
from esper.rpc.parse import parsed


async def test_a_flood_is_a_line_and_a_count(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    mishaps = Mishaps(clock)
    with caplog.at_level(logging.WARNING, "esper.rpc"):
        for _ in range(1000):
            mishaps.unparsable("S/A", "unix:", "its 3 bytes are no A")
            mishaps.unexpected("S/A", ValueError("a bug"))
        assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]
        clock.advance(WINDOW_S + 1)
        mishaps.unparsable("S/A", "unix:", "its 3 bytes are no A")
    told = [record.getMessage() for record in caplog.records[2:]]
    assert told == ["S/A: 999 more unparsable requests within 10 s", "S/A from unix: refused: its 3 bytes are no A"]


async def test_methods_and_kinds_of_error_are_told_apart(caplog: pytest.LogCaptureFixture) -> None:
    mishaps = Mishaps(ManualClock())
    with caplog.at_level(logging.WARNING, "esper.rpc"):
        for method in ("S/A", "S/B"):
            for error in (ValueError("v"), KeyError("k")):
                mishaps.unexpected(method, error)
    assert len(caplog.records) == 4


def test_bytes_are_the_message_or_an_error_that_says_how_many_they_are() -> None:
    request = AdvanceRequest(generation=1, step=2, is_epoch_end=False)
    assert parsed(AdvanceRequest, request.SerializeToString()) == request
    with pytest.raises(UnparsableMessage, match=r"its 2 bytes are no serialized esper\.leyline\.v1\.AdvanceRequest"):
        parsed(AdvanceRequest, b"\xff\xff")
