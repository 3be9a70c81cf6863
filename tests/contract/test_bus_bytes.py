"""A bus that is killed with -9 and started with fewer bytes loses nothing that a group was promised."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper.core.clock import SYSTEM_CLOCK
from esper.core.errors import BackPressure
from esper.oona.bus import MIB, BusConfig
from esper.oona.log import SqliteLog
from tests.contract.crash import acknowledged_before_kill
from tests.unit.oona.buses import NORMAL_LANE, an_envelope

PUBLISHES_UNTIL_KILLED = """
import asyncio, itertools, pathlib, sys
from esper.core.clock import SYSTEM_CLOCK
from esper.core.errors import BackPressure
from esper.oona.bus import MIB, BusConfig
from esper.oona.log import SqliteLog
from tests.unit.oona.buses import NORMAL_LANE, an_envelope

async def main():
    bus = SqliteLog(pathlib.Path(sys.argv[1]), SYSTEM_CLOCK, BusConfig(max_lane_bytes=24 * MIB))
    for number in itertools.count():
        try:
            await bus.publish([an_envelope(f"{sys.argv[2]}-{number}", more_bytes=MIB)])
            print("published", f"{sys.argv[2]}-{number}", flush=True)
        except BackPressure:
            await bus.trim()
        if number % 2:
            for each in await bus.fetch("g", "c", [NORMAL_LANE], 1):
                print("handled", each.event_id, flush=True)  # or about to be, when it is killed here
                await bus.acknowledge("g", [each.event_id])

asyncio.run(main())
"""


@pytest.mark.parametrize("at_least", [12, 40])
async def test_what_waits_for_a_group_outlives_kill_9_and_a_smaller_bound(tmp_path: Path, at_least: int) -> None:
    path, told = tmp_path / "oona.db", list[str]()
    for life in range(2):
        told += acknowledged_before_kill(PUBLISHES_UNTIL_KILLED, str(path), f"life{life}", at_least=at_least)
    words = [line.split() for line in told]
    published, handled = ([name for word, name in words if word == wanted] for wanted in ("published", "handled"))
    bus = SqliteLog(path, SYSTEM_CLOCK, BusConfig(max_lane_bytes=16 * MIB))
    await bus.trim()
    kept = [each.event_id for each in await bus.read([NORMAL_LANE], 0, 1000)]
    waiting = [name for name in published if name not in handled]
    assert set(waiting) <= {*kept}, "what no group has handled went"
    got = [each.event_id for each in await bus.fetch("g", "c", [NORMAL_LANE], 1000)]
    assert {*waiting} <= {*got}
    if len(waiting) >= 15:
        with pytest.raises(BackPressure):
            await bus.publish([an_envelope("more", more_bytes=2 * MIB)])
    await bus.acknowledge("g", got)
    await bus.trim()
    assert len(await bus.read([NORMAL_LANE], 0, 1000)) <= 8
    await bus.publish([an_envelope("more", more_bytes=2 * MIB)])
    await bus.close()
