"""What was recorded once is read the same for ever, and every message is recorded."""

from __future__ import annotations

import pytest

from esper.core.security.signing import unknown_fields
from tests.contract.golden import encoded, message_classes, recorded, samples

RECORDED = recorded()
SAMPLES = samples()


def test_every_message_and_every_member_of_a_oneof_is_recorded() -> None:
    assert set(SAMPLES) == set(RECORDED), "record new messages with `python -m tests.contract.golden`"
    assert set(message_classes()) < set(SAMPLES)
    assert {"AdaptationCommand.seed", "AdaptationCommand.emergency"} < set(SAMPLES)


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_the_bytes_are_as_recorded(name: str) -> None:
    assert encoded(SAMPLES[name]) == RECORDED[name], "wire format changed; see tests/contract/golden.py"


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_recorded_bytes_are_read_back_without_loss(name: str) -> None:
    message = type(SAMPLES[name]).FromString(bytes.fromhex(RECORDED[name]))
    assert unknown_fields(message) == []
    assert message == SAMPLES[name]
    assert encoded(message) == RECORDED[name]
