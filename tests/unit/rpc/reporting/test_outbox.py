"""The outbox keeps what matters: CRITICAL always, and the newest of the rest."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from esper.leyline import MessagePriority, TelemetryPacket
from esper.rpc.reporting.outbox import CRITICAL, URGENCY, Batch, Outbox

LOW, NORMAL, HIGH = (MessagePriority.Value(f"MESSAGE_PRIORITY_{name}") for name in ("LOW", "NORMAL", "HIGH"))


def packet(name: str, priority: int = NORMAL) -> TelemetryPacket:
    return TelemetryPacket(packet_id=name, priority=priority)


def names(batch: Batch | None) -> list[str]:
    return [each.packet_id for each in batch.packets] if batch else []


def test_the_most_urgent_go_first_and_the_oldest_within_them() -> None:
    outbox = Outbox(capacity=10, max_batch=10)
    for name, priority in (
        ("n1", NORMAL),
        ("c1", CRITICAL),
        ("l1", LOW),
        ("h1", HIGH),
        ("n2", NORMAL),
        ("c2", CRITICAL),
    ):
        outbox.put(packet(name, priority))
    assert names(outbox.take()) == ["c1", "c2", "h1", "n1", "n2", "l1"]
    assert outbox.take() is None


def test_a_full_outbox_drops_the_oldest_of_the_least_urgent_and_says_how_many() -> None:
    outbox = Outbox(capacity=3, max_batch=10)
    for name, priority in (("l1", LOW), ("n1", NORMAL), ("n2", NORMAL), ("h1", HIGH), ("n3", NORMAL)):
        outbox.put(packet(name, priority))
    assert outbox.dropped == 2
    batch = outbox.take()
    assert (names(batch), batch.dropped if batch else None) == (["h1", "n2", "n3"], 2)


def test_a_flood_never_drops_critical_packets() -> None:
    outbox = Outbox(capacity=5, max_batch=1000)
    for number in range(100):
        outbox.put(packet(f"c{number}", CRITICAL))
        outbox.put(packet(f"n{number}"))
    taken = names(outbox.take())
    assert [name for name in taken if name.startswith("c")] == [f"c{number}" for number in range(100)]
    assert taken[100:] == [f"n{number}" for number in range(95, 100)]


def test_what_did_not_arrive_goes_again_in_its_old_place() -> None:
    outbox = Outbox(capacity=10, max_batch=2)
    for name in ("n1", "n2", "n3"):
        outbox.put(packet(name))
    first = outbox.take()
    assert first is not None
    outbox.restore(first)
    assert names(outbox.take()) == ["n1", "n2"]


def test_a_packet_without_a_priority_is_a_mistake_of_its_builder() -> None:
    with pytest.raises(ValueError, match="build_packet"):
        Outbox(capacity=1, max_batch=1).put(TelemetryPacket(packet_id="x"))


def test_a_batch_never_exceeds_what_a_server_takes_at_once() -> None:
    outbox = Outbox(capacity=10, max_batch=10, max_batch_bytes=100)
    for number in range(4):
        outbox.put(TelemetryPacket(packet_id=f"p{number}", priority=NORMAL, source="x" * 40))
    assert [names(outbox.take()), names(outbox.take())] == [["p0", "p1"], ["p2", "p3"]]
    outbox.put(TelemetryPacket(packet_id="big", priority=CRITICAL, source="x" * 200))
    told = outbox.take()
    assert (names(told), outbox.dropped) == ([], 1)
    assert told is not None
    assert told.dropped == 1


class OutboxMachine(RuleBasedStateMachine):
    """Whatever happens: nothing CRITICAL is lost, everything else is delivered or counted, and the bound holds."""

    def __init__(self) -> None:
        super().__init__()
        self.outbox = Outbox(capacity=4, max_batch=3)
        self.sent: dict[str, int] = {}
        self.delivered: list[str] = []
        self.reported = 0

    @rule(priority=st.sampled_from(URGENCY))
    def put(self, priority: int) -> None:
        name = f"p{len(self.sent)}"
        self.sent[name] = priority
        self.outbox.put(packet(name, priority))

    @rule(arrives=st.booleans())
    def send(self, arrives: bool) -> None:
        batch = self.outbox.take()
        if batch is None:
            return
        if arrives:
            self.delivered += names(batch)
            self.reported += batch.dropped
        else:
            self.outbox.restore(batch)

    @invariant()
    def ordinary_packets_are_bounded(self) -> None:
        ordinary = len(self.sent) - sum(priority == CRITICAL for priority in self.sent.values())
        done = sum(self.sent[name] != CRITICAL for name in self.delivered)
        assert ordinary - done - self.outbox.dropped <= 4

    def teardown(self) -> None:
        while (batch := self.outbox.take()) is not None:
            self.delivered += names(batch)
            self.reported += batch.dropped
        assert len(set(self.delivered)) == len(self.delivered)
        assert len(self.delivered) + self.outbox.dropped == len(self.sent)
        assert self.reported == self.outbox.dropped
        assert {name for name, priority in self.sent.items() if priority == CRITICAL} <= set(self.delivered)


OutboxMachine.TestCase.settings = settings(max_examples=50, stateful_step_count=30)
TestOutboxMachine = OutboxMachine.TestCase


@given(st.integers(1, 5), st.integers(0, 30))
def test_a_batch_is_never_larger_than_it_may_be(max_batch: int, count: int) -> None:
    outbox = Outbox(capacity=100, max_batch=max_batch)
    for number in range(count):
        outbox.put(packet(str(number)))
    sizes = []
    while (batch := outbox.take()) is not None:
        sizes.append(len(batch.packets))
    assert sum(sizes) == count
    assert all(size <= max_batch for size in sizes)
