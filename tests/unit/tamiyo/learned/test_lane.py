from __future__ import annotations

from collections.abc import Callable

import pytest

from esper.core.security.keys import Keyring
from esper.leyline import BusEnvelope, PolicyUpdate
from esper.rpc.clients.aio import BusClient, aio_channel
from esper.simic.publication import sealed, update_of
from esper.tamiyo.learned.lane import PolicyLane
from esper.tamiyo.learned.reward import PRICE
from esper.tamiyo.learned.standing import HEURISTIC
from tests.unit.tamiyo.conftest import Home
from tests.unit.tamiyo.learned.test_adoption import report
from tests.unit.tamiyo.learned.weighing import content

Take = Callable[[BusEnvelope], object]
GOOD = content(constant=0.1)


@pytest.fixture(autouse=True)
async def born(home: Home) -> None:
    """A ledger fences off its own birth: what was signed before it is refused."""
    await home.parts().close()
    home.clock.advance(0.001)


async def taken(home: Home, *envelopes: BusEnvelope) -> list[tuple[str, str]]:
    """Events about policies, and their reasons, after these envelopes reached a service."""
    parts, link = home.parts(), aio_channel("unix:/nonexistent/bus")
    lane = PolicyLane(BusClient(link, metadata={}), home.keyring, home.clock, parts.runs, parts.adoption)
    for envelope in envelopes:
        await lane.take(envelope)
    await link.close()
    await parts.close()
    events = [event for packet in home.telemetry.packets for event in packet.events if event.name.startswith("policy_")]
    reasons = [next((a.text for a in event.attributes if a.key == "reason"), "") for event in events]
    return [(event.name, reason) for event, reason in zip(events, reasons, strict=True)]


def made(home: Home, keyring: Keyring | None = None) -> BusEnvelope:
    return sealed(update_of(GOOD, home.clock), keyring or home.keyring, home.clock)


async def test_what_simic_publishes_is_tried(home: Home) -> None:
    assert await taken(home, made(home)) == [("policy_shadowed", "")]


async def test_a_forged_update_is_refused(home: Home) -> None:
    other = Keyring.from_secret("another secret that is long enough 0123456789")
    assert await taken(home, made(home, other)) == [("policy_update_rejected", "unauthentic")]


async def test_an_envelope_that_was_changed_on_its_way_is_refused(home: Home) -> None:
    envelope = made(home)
    envelope.payload = envelope.payload[:-1] + b"\0"
    assert await taken(home, envelope) == [("policy_update_rejected", "unauthentic")]


async def test_an_update_of_yesterday_is_refused(home: Home) -> None:
    envelope = made(home)
    home.clock.advance(86_400)
    assert await taken(home, envelope) == [("policy_update_rejected", "unauthentic")]


@pytest.mark.parametrize("lives", [1, 2])
async def test_a_replayed_update_is_refused_also_after_a_restart(home: Home, lives: int) -> None:
    envelope = made(home)
    if lives == 1:
        found = await taken(home, envelope, envelope)
    else:
        await taken(home, envelope)
        found = await taken(home, envelope)
    assert found == [("policy_shadowed", ""), ("policy_update_rejected", "replayed")]


async def test_the_same_update_signed_anew_was_decided_on_before(home: Home) -> None:
    assert await taken(home, made(home), made(home)) == [
        ("policy_shadowed", ""),
        ("policy_update_rejected", "replayed"),
    ]


async def test_what_learned_decisions_turned_out_to_be_worth_is_measured(home: Home) -> None:
    parts = home.parts()
    for number, effect in enumerate((0.4, 0.2)):
        parts.adoption.learned_from(HEURISTIC, [report(f"r{number}", effect)])
    found = {metric.name: metric.value for metric in parts._gauges()}
    assert found["tamiyo.policy.learned_decisions"] == 2
    assert found["tamiyo.policy.reward"] == pytest.approx(0.3 - PRICE * 0.5)
    await parts.close()


def test_an_update_carries_what_tamiyo_checks(home: Home) -> None:
    update = update_of(GOOD, home.clock)
    assert isinstance(update, PolicyUpdate)
    assert (update.policy_id, update.version) == ("bandit", "1.1.0")
    assert update.weights_digest in update.update_id + update.weights_digest
