"""Follows lanes of the bus from a position on: one question for each page, and none while there is nothing new."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from esper.leyline import BusEnvelope, BusLane
from esper.oona.bus import Bus


async def followed(
    bus: Bus, lanes: Sequence[BusLane], after: int, limit: int, wait_s: float
) -> AsyncIterator[list[BusEnvelope]]:
    """Pages of what stands after a position, as it comes, for ever; the bus is asked anew every `wait_s` seconds."""
    # What was forgotten up to here never comes: who waited for it would be told again and again that it had been there.
    seen = await bus.last_sequence()
    while True:
        page = await bus.read(lanes, after, limit)
        if page:
            after = page[-1].sequence
            yield page
        if len(page) < limit:
            after = max(after, seen)
            await bus.wait(after, wait_s, lanes)
        if not page:
            seen = await bus.last_sequence()
