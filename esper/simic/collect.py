"""From the bus into the store: each report is kept before it is acknowledged, so that none is lost and none twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from esper.core.security.keys import Keyring
from esper.leyline import BusLane, ConsumeRequest
from esper.rpc.auth import service_metadata
from esper.rpc.clients import Tls
from esper.rpc.clients.aio import BusClient, aio_channel
from esper.simic.replay import ReplayStore

GROUP = SOURCE = "simic"
STREAM_TIMEOUT_S = 86_400.0
IN_FLIGHT = 64


async def collect(store: ReplayStore, endpoint: str, tls: Tls | None, keyring: Keyring, *, idle_s: float) -> None:
    """Take reports until none came for `idle_s` seconds. Raises the error tree."""
    link = aio_channel(endpoint, tls)
    try:
        client = BusClient(link, metadata=service_metadata(keyring, SOURCE))
        await _collect(store, client, keyring, idle_s)
    finally:
        await link.close()


async def _collect(store: ReplayStore, client: BusClient, keyring: Keyring, idle_s: float) -> None:
    handled: asyncio.Queue[str | None] = asyncio.Queue()

    async def requests() -> AsyncIterator[ConsumeRequest]:
        lanes = [BusLane.BUS_LANE_NORMAL]
        yield ConsumeRequest(group=GROUP, consumer=SOURCE, lanes=lanes, max_in_flight=IN_FLIGHT)
        while (done := await handled.get()) is not None:
            yield ConsumeRequest(acknowledged_event_ids=[done])

    stream = aiter(client.consume(requests(), timeout_s=STREAM_TIMEOUT_S))
    is_over = False
    while not is_over:
        try:
            response = await asyncio.wait_for(anext(stream), idle_s)
        except (TimeoutError, StopAsyncIteration):
            is_over = True
        else:
            await asyncio.to_thread(store.take, response.envelope, keyring)
            handled.put_nowait(response.envelope.event_id)
    handled.put_nowait(None)
