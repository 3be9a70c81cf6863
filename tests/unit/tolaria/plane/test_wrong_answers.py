"""Services that answer wrongly, field by field: no packet waits in vain, no thread dies, and the run ends well."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.kasmina.executor import Collected
from esper.leyline import SignedCommand, SystemStatePacket
from esper.tolaria.config import TrainConfig
from esper.tolaria.plane.answer_rules import RunFacts
from esper.tolaria.plane.control import ControlConfig, ServiceControl
from esper.tolaria.plane.null_control import NullControl
from esper.tolaria.record.observer import Notice, Observer
from esper.tolaria.record.packet_result import PacketResult
from esper.tolaria.task.prepare import prepare
from esper.tolaria.trainer import Trainer
from tests.unit.tolaria.plane.wire import SLOT, Spoil, clients, whole

METHODS = ("control", "apply_command", "advance", "get_command", "get_run_state", "submit_outcome")
# Longer than any test may take: a packet that waited for it would show as a timeout, and as a hanging test.
DEADLINE_S = 60.0
NUMBERS = (0, 1, 7, 2**31 - 1, math.nan, math.inf, -math.inf, -1.0, 1e300)
TEXTS = ("", "x", "another", "\x00", "y" * 100_000)


def places(message: Message) -> Iterator[tuple[Message, FieldDescriptor]]:
    """Every field of a message and of those in it, set or not."""
    for field in message.DESCRIPTOR.fields:
        yield message, field
        if field.message_type is None:
            continue
        if field.is_repeated:
            for child in getattr(message, field.name):
                yield from places(child)
        elif message.HasField(field.name):
            yield from places(getattr(message, field.name))


def put(message: Message, field: FieldDescriptor, choose: Any) -> None:
    """Another value than the field has: nothing, one element more, or anything of its type."""
    deed = choose(("clear", "change", "change", "double"))
    if deed == "clear":
        message.ClearField(field.name)
    elif field.is_repeated:
        held = getattr(message, field.name)
        if field.message_type is not None:
            held.add()
            if deed == "double" and len(held) > 1:
                held[-1].CopyFrom(held[0])
        else:
            held.append(held[0] if deed == "double" and held else value_of(field, choose))
    elif field.message_type is not None:
        getattr(message, field.name).Clear()
        getattr(message, field.name).SetInParent()
    else:
        setattr(message, field.name, value_of(field, choose))


def value_of(field: FieldDescriptor, choose: Any) -> Any:
    kinds = FieldDescriptor
    if field.cpp_type == kinds.CPPTYPE_STRING:
        text = choose(TEXTS)
        return text.encode() if field.type == kinds.TYPE_BYTES else text
    if field.cpp_type == kinds.CPPTYPE_BOOL:
        return choose((True, False))
    if field.cpp_type in (kinds.CPPTYPE_DOUBLE, kinds.CPPTYPE_FLOAT):
        return choose(NUMBERS) if field.cpp_type == kinds.CPPTYPE_DOUBLE else choose(NUMBERS[:7])
    return choose((0, 1, 3, 99, 2**31 - 1))


def spoiling(wrong: str, packets: set[int], dice: list[int]) -> tuple[Spoil, list[str]]:
    """Spoils one field of that method's answers, as long as `packets` holds a packet; the dice are thrown before."""
    done: list[str] = []
    throws = cycle(dice)

    def choose(choices: Sequence[Any]) -> Any:
        return choices[next(throws) % len(choices)]

    def spoil(method: str, answer: Message) -> bytes:
        if method != wrong or not packets:
            return answer.SerializeToString()
        message, field = choose(list(places(answer)))
        put(message, field, choose)
        done.append(field.full_name)
        return answer.SerializeToString()

    return spoil, done


def opened(spoil: Spoil) -> ServiceControl:
    tamiyo, kasmina = clients(spoil)
    facts = RunFacts(slots=frozenset({SLOT}), seeds={"s1"})
    config = ControlConfig(deadline_s=DEADLINE_S, advance_every_packets=1)
    return ServiceControl(tamiyo, kasmina, config, facts=facts, sign=lambda command: SignedCommand())


def packet(index: int) -> SystemStatePacket:
    return SystemStatePacket(training_run_id="run", packet_index=index, step=10 * index, generation=1)


def result_of(control: ServiceControl, index: int) -> PacketResult:
    control.hand_over(packet(index), Collected(observations=(), reports=(), slots=()), want_state=True)
    return control.take(index)


def test_services_that_answer_well_are_believed() -> None:
    control = opened(whole)
    results = [result_of(control, index) for index in range(4)]
    assert [result.failure for result in results] == [None] * 4
    assert all(result.states is not None for result in results)
    control.close()


@pytest.mark.parametrize("wrong", METHODS)
@given(dice=st.lists(st.integers(0, 10_000), min_size=12, max_size=12))
@settings(max_examples=60)
def test_a_spoilt_answer_costs_its_own_packet_at_most(wrong: str, dice: list[int]) -> None:
    packets = {1, 2}
    spoil, done = spoiling(wrong, packets, dice)
    control = opened(spoil)
    try:
        for index in (1, 2):
            result = result_of(control, index)
            assert result.packet_index == index
            assert result.cause in (None, "tamiyo_invalid", "kasmina_invalid", "tamiyo_unavailable"), done
        packets.clear()
        # The first whole answers settle what was left open; then all is as if nothing had happened.
        result_of(control, 3)
        assert result_of(control, 4).failure is None, done
    finally:
        control.close()


def garbage(method: str, answer: Message) -> bytes:
    """A message without anything in it."""
    return b""


class Heard(Observer):
    def __init__(self) -> None:
        self.notices: list[Notice] = []

    def on_events(self, notices: Any) -> None:
        self.notices.extend(notices)


CONFIG = TrainConfig(samples=600, hidden=(5, 5), epochs=6, min_samples=50, evaluate_every_steps=4)


def test_a_run_whose_services_answer_wrongly_trains_on_and_says_why_it_is_not_reproducible() -> None:
    heard = Heard()
    trainer = Trainer(prepare(CONFIG), lambda opening: opened(garbage), heard)
    summary = trainer.train()
    alone = Trainer(prepare(CONFIG), lambda opening: NullControl(), Observer()).train()
    assert summary["finished"]
    assert summary["weights_digest"] == alone["weights_digest"]
    assert not summary["reproducible"]
    assert "gave an answer that can't be used" in summary["reproducible_cause"]
    assert summary["timeouts"] == 0
    names = [notice.name for notice in heard.notices]
    assert names.count("tolaria.mode_changed") == 1
    failures = [notice.message for notice in heard.notices if notice.name == "tolaria.service_failure"]
    assert len(set(failures)) == len(failures) <= 2, "each service is told once, not at every packet"
