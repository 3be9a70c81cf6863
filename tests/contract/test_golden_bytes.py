"""What was recorded once is read the same for ever, and every message is recorded."""

from __future__ import annotations

import pytest

from esper.core.signing import unknown_fields
from tests.contract.golden import encoded, message_classes, recorded, sample

RECORDED = recorded()
CLASSES = message_classes()


def test_every_message_is_recorded() -> None:
    assert set(CLASSES) == set(RECORDED), "record new messages with `python -m tests.contract.golden`"


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_the_bytes_are_as_recorded(name: str) -> None:
    assert encoded(CLASSES[name]) == RECORDED[name], "wire format changed; see tests/contract/golden.py"


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_recorded_bytes_are_read_back_without_loss(name: str) -> None:
    message = CLASSES[name].FromString(bytes.fromhex(RECORDED[name]))
    assert unknown_fields(message) == []
    assert message == sample(CLASSES[name])
    assert message.SerializeToString(deterministic=True).hex() == RECORDED[name]
