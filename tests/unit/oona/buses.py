"""The buses on a clock that tests own, and envelopes for them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import redis.asyncio as redis

from esper.core.clock import ManualClock
from esper.core.security.keys import Keyring
from esper.leyline import BusEnvelope, BusLane, MessagePriority, RunClosure
from esper.oona.bus import Bus, BusConfig
from esper.oona.envelope import seal
from esper.oona.log import SqliteLog
from esper.oona.redis import RedisBus
from tests.unit.oona.redis_server import running

KEYRING = Keyring.from_secret("test-secret-0123456789-abcdefghijklm")
NORMAL_LANE = BusLane.BUS_LANE_NORMAL
TELEMETRY_LANE = BusLane.BUS_LANE_TELEMETRY
EMERGENCY_LANE = BusLane.BUS_LANE_EMERGENCY
LOW, NORMAL, HIGH, CRITICAL = (
    MessagePriority.Value(f"MESSAGE_PRIORITY_{name}") for name in ("LOW", "NORMAL", "HIGH", "CRITICAL")
)


def an_envelope(
    event_id: str,
    lane: int = NORMAL_LANE,
    priority: int = NORMAL,
    clock: ManualClock | None = None,
    *,
    more_bytes: int = 0,
) -> BusEnvelope:
    return seal(
        KEYRING,
        clock or ManualClock(),
        RunClosure(reason=event_id + "." * more_bytes),
        source="test",
        lane=lane,
        priority=priority,
        event_id=event_id,
    )


@asynccontextmanager
async def sqlite_bus(directory: Path, clock: ManualClock, config: BusConfig) -> AsyncIterator[Bus]:
    bus = SqliteLog(directory / "oona.db", clock, config)
    try:
        yield bus
    finally:
        await bus.close()


@asynccontextmanager
async def redis_bus(directory: Path, clock: ManualClock, config: BusConfig) -> AsyncIterator[Bus]:
    async with _redis_bus(redis.from_url(running().url), clock, config) as bus:
        yield bus


@asynccontextmanager
async def redis_cluster_bus(directory: Path, clock: ManualClock, config: BusConfig) -> AsyncIterator[Bus]:
    async with _redis_bus(redis.RedisCluster.from_url(running(is_cluster=True).url), clock, config) as bus:
        yield bus


@asynccontextmanager
async def _redis_bus(client: Any, clock: ManualClock, config: BusConfig) -> AsyncIterator[Bus]:
    await client.flushall()
    bus = RedisBus(client, config, clock)
    try:
        yield bus
    finally:
        await bus.close()
