"""Publishes the same ids to a Redis, round after round, until it is killed: `URL COUNT`."""

from __future__ import annotations

import asyncio
import sys

from esper.oona.bus import BusConfig
from esper.oona.redis import RedisBus
from tests.unit.oona.buses import an_envelope


async def publish(url: str, count: int) -> None:
    bus = RedisBus.connect(url, BusConfig())
    print("ready", flush=True)
    for number in range(count):
        await bus.publish([an_envelope(f"e{number}")])


if __name__ == "__main__":
    asyncio.run(publish(sys.argv[1], int(sys.argv[2])))
