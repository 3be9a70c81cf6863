"""tools/check_contract finds what nobody uses, however it is hidden: in a string, in a keyword, in an answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.declared import schema
from tools.declared.findings import compared, findings
from tools.declared.reader import Uses
from tools.declared.schema import FIELDS, MESSAGES, ordered, shown
from tools.declared.typed import Module, typed_modules

ROOT = Path(__file__).resolve().parents[3]

# Each function is one way to use, or not to use, a field of Budget.
SOURCE = '''
"""max_seeds in words."""
from collections.abc import Iterator
from dataclasses import dataclass
from google.protobuf.message import Message
from esper.leyline import Budget, BreakerStatus, CircuitState, RejectionReason, SeedRecord, KasminaRunState

LIMITS = ("max_memory_bytes",)
CLOSED = {CircuitState.CIRCUIT_STATE_CLOSED: "closed"}

def read(budget: Budget) -> int:
    return budget.max_parameters

def read_by_table(budget: Budget) -> list[int]:
    return [getattr(budget, name) for name in LIMITS if budget.HasField(name)]  # type: ignore[arg-type]

def generic(message: Message, *names: str) -> list[object]:
    return [getattr(message, name) for name in names]

def read_by_call(budget: Budget) -> list[object]:
    return generic(budget, "max_forward_macs")

def named_in_a_string(budget: Budget) -> str:
    raise ValueError("max_training_macs")

def named_in_a_keyword() -> dict[str, int]:
    return dict(max_training_macs=1)

def printed(budget: Budget) -> str:
    return str(budget)

@dataclass
class Other:
    max_training_macs: int

def read_of_another(other: Other) -> int:
    return other.max_training_macs

def written(budget: Budget, state: KasminaRunState) -> Budget:
    budget.max_seeds = 1
    state.seeds.add(germinated_step=1)
    return Budget(max_parameters=1, **more())

def more() -> dict[str, int]:
    return {"max_memory_bytes": 1}

def produced() -> CircuitState:
    return CircuitState.CIRCUIT_STATE_OPEN

def compared(state: CircuitState) -> bool:
    return state == CircuitState.CIRCUIT_STATE_HALF_OPEN
'''


@pytest.fixture(scope="module")
def uses(tmp_path_factory: pytest.TempPathFactory) -> Uses:
    path = tmp_path_factory.mktemp("planted") / "planted.py"
    path.write_text(SOURCE)
    modules: dict[str, Module] = typed_modules([path, ROOT / "esper" / "leyline"])
    assert list(modules) == ["planted"]
    return Uses(modules.values())


def test_a_field_is_read_where_its_own_message_is_asked_for_it(uses: Uses) -> None:
    read = {field for message, field in uses.read if message == "Budget"} & FIELDS["Budget"]
    assert read == {"max_parameters", "max_memory_bytes", "max_forward_macs"}


def test_a_field_that_is_only_named_in_a_string_a_keyword_or_another_class_is_not_read(uses: Uses) -> None:
    found = findings(uses)["unread"]
    assert {"Budget.max_training_macs", "Budget.max_seeds"} <= set(found)
    assert "Budget.max_parameters" not in found


def test_a_field_is_written_where_its_own_message_is_given_it(uses: Uses) -> None:
    assert {field for message, field in uses.written if message == "Budget"} == {"max_seeds", "max_parameters"}
    assert ("SeedRecord", "germinated_step") in uses.written


def test_a_field_that_nobody_sets_is_not_written(uses: Uses) -> None:
    found = findings(uses)["unwritten"]
    assert "SeedRecord.grafted_step" in found
    assert "SeedRecord.germinated_step" not in found


def test_a_value_that_is_compared_or_translated_is_not_produced(uses: Uses) -> None:
    found = set(findings(uses)["values"])
    assert {"CIRCUIT_STATE_HALF_OPEN", "CIRCUIT_STATE_CLOSED"} <= found
    assert "CIRCUIT_STATE_OPEN" not in found


def test_a_field_that_is_added_to_a_message_is_found_at_once(uses: Uses, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(schema.FIELDS, "SeedRecord", FIELDS["SeedRecord"] | {"planted"})
    found = findings(uses)
    lines = compared(found, {}, "table.toml")
    assert any(line.startswith("SeedRecord.planted: nobody reads it") for line in lines)
    assert any(line.startswith("SeedRecord.planted: nobody writes it") for line in lines)


def test_an_excuse_stands_for_what_is_unused_and_for_nothing_else() -> None:
    found = {"unread": ["Budget.max_seeds"]}
    assert compared(found, {"unread": {"Budget.max_seeds": "why"}}, "table.toml") == []
    (line,) = compared({"unread": []}, {"unread": {"Budget.max_seeds": "why"}}, "table.toml")
    assert line == "Budget.max_seeds: is used now: take it out of table.toml under [unread]"


def test_a_metric_that_nobody_emits_is_found(uses: Uses) -> None:
    assert findings(uses, [("NEVER", "a.metric"), ("LIMITS", "b.metric")])["unemitted"] == ["a.metric"]


def test_an_answer_is_for_a_person_only_if_that_is_what_its_call_is_for() -> None:
    assert {"KasminaServiceGetStatusResponse", "BreakerStatus", "ListFieldReportsResponse"} <= shown()
    # What the trainer and the services answer each other with, and what a seed's state or a decision says.
    for name in ("AdvanceResponse", "SubmitOutcomeResponse", "PublishTelemetryResponse", "Decision", "FieldReport"):
        assert name not in shown()
    assert all(MESSAGES[name].file.name.endswith("_service.proto") for name in shown())


def test_a_person_writes_what_is_signed_by_operators_and_no_packet_of_the_trainer() -> None:
    assert {"AdaptationCommand", "PolicyUpdate"} <= ordered()
    assert not {"SystemStatePacket", "SubmitOutcomeRequest", "TelemetryPacket"} & ordered()
