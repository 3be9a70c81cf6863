"""Refusals are told as CRITICAL, one by one at first; a flood is counted to the last and told in few packets."""

from __future__ import annotations

import asyncio

import pytest

from esper.core.errors import CommandRejected, InvalidSignature
from esper.core.flood import TOLD_SINGLY, WINDOW_S
from esper.core.telemetry import attribute_value
from esper.leyline import EmergencySignal, RejectionReason, TelemetryLevel

from .conftest import Plane

FLOOD = 4 * TOLD_SINGLY
INVALID = RejectionReason.REJECTION_REASON_INVALID_SIGNATURE


async def forge(plane: Plane) -> None:
    envelope = plane.signer.sign(EmergencySignal(emergency_id="e1"), audience="weatherlight/-")
    envelope.security.signature = "0" * 64
    with pytest.raises(InvalidSignature):
        await plane.actions.raise_emergency(envelope)


async def refusals(plane: Plane) -> list[dict[str, object]]:
    rejected = [event for event in await plane.events() if event.name == "command_rejected"]
    assert {event.level for event in rejected} <= {TelemetryLevel.TELEMETRY_LEVEL_CRITICAL}
    return [{a.key: attribute_value(a) for a in event.attributes} for event in rejected]


async def test_a_forged_request_is_told_with_its_reason(plane: Plane) -> None:
    await forge(plane)
    [told] = await refusals(plane)
    assert told["reason"] == RejectionReason.Name(INVALID)
    assert told["method"] == EmergencySignal.DESCRIPTOR.full_name


async def test_a_flood_of_forged_requests_is_told_in_few_packets_and_counted_to_the_last(plane: Plane) -> None:
    for _ in range(FLOOD):
        await forge(plane)
    assert len(await refusals(plane)) == TOLD_SINGLY
    assert plane.actions.rejections[INVALID] == FLOOD
    plane.clock.advance(2 * WINDOW_S)
    await forge(plane)
    while len(told := await refusals(plane)) < TOLD_SINGLY + 2:
        await asyncio.sleep(0)
    assert sorted(int(each.get("count", 1)) for each in told) == [1] * (TOLD_SINGLY + 1) + [FLOOD - TOLD_SINGLY]


async def test_a_request_that_names_no_payload_type_is_told_as_such(plane: Plane) -> None:
    envelope = plane.signer.sign(EmergencySignal(emergency_id="e1"), audience="weatherlight/-")
    envelope.payload_type = ""
    with pytest.raises(CommandRejected):
        await plane.actions.raise_emergency(envelope)
    [told] = await refusals(plane)
    assert told["method"] == "no payload type"
