"""Rules that the whole schema keeps, and its comments against the code that enforces them."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

import esper.leyline as leyline
from esper.core.messages.field_rules import RULES
from esper.core.messages.required_fields import REQUIRED
from esper.core.training_metrics import DETERMINISTIC, MEASURED
from tests.contract.proto_comments import UNCONDITIONAL, comments

COMMENTS = comments()
FILES = {
    getattr(leyline, name).DESCRIPTOR.file.name: getattr(leyline, name).DESCRIPTOR.file for name in leyline.__all__
}

# Conditions that no single message shows; whoever holds the context checks them.
NOT_IN_THE_MESSAGE = {
    ("BusEnvelope", "payload"): "empty is legal",
    ("BusEnvelope", "sequence"): "the bus fills it in",
    ("BusEnvelope", "attempt"): "the bus fills it in",
    ("ConsumeRequest", "group"): "whether a message is the first is known to the stream",
    ("GateEvidence", "twin"): "the judge is in the run's settings",
    ("GateEvidence", "stack"): "the slot says whether it is a stack",
    ("JudgeResult", "twin"): "the judge is in the run's settings",
    ("JudgeResult", "mean_twin_score"): "the judge is in the run's settings",
    ("SeedDirective", "parameters"): "the blueprint says whether there are any",
    ("SignedCommand", "payload"): "empty is legal",
}


def messages() -> list[Descriptor]:
    return [message for file in FILES.values() for message in file.message_types_by_name.values()]


def enums() -> list[EnumDescriptor]:
    return [enum for file in FILES.values() for enum in file.enum_types_by_name.values()]


def fields() -> Iterator[FieldDescriptor]:
    for message in messages():
        yield from message.fields


def comment_of(field: FieldDescriptor) -> str:
    return COMMENTS[field.containing_type.name][field.name]


def test_the_schema_is_whole() -> None:
    assert {message.name for message in messages()} | {enum.name for enum in enums()} == set(leyline.__all__)
    assert len(messages()) > 100


def test_no_message_nests_types_or_has_a_map() -> None:
    assert [m.name for m in messages() if m.nested_types or m.enum_types] == []
    assert [f.full_name for f in fields() if f.message_type and f.message_type.GetOptions().map_entry] == []


def test_every_enum_starts_at_unspecified_and_repeats_its_name() -> None:
    for enum in enums():
        prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper()
        assert enum.values_by_number[0].name == f"{prefix}_UNSPECIFIED"
        assert all(value.name.startswith(f"{prefix}_") for value in enum.values)


def test_every_message_field_enum_value_service_and_method_has_a_comment() -> None:
    bare = [f"{owner}.{name}" for owner, entries in COMMENTS.items() for name, text in entries.items() if not text]
    assert bare == []
    known = {owner: set(entries) for owner, entries in COMMENTS.items()}
    for field in fields():
        assert field.name in known[field.containing_type.name], field.full_name
    for enum in enums():
        assert {value.name for value in enum.values} <= known[enum.name], enum.full_name
    for file in FILES.values():
        for service in file.services_by_name.values():
            assert {method.name for method in service.methods} <= known[service.name]


def test_every_field_says_whether_it_is_required() -> None:
    silent = [
        field.full_name
        for field in fields()
        if field.containing_oneof is None and not re.search(r"Required|Optional|UNSPECIFIED while", comment_of(field))
    ]
    assert silent == []


def test_a_required_number_or_flag_keeps_its_presence() -> None:
    scalar = {FieldDescriptor.CPPTYPE_STRING, FieldDescriptor.CPPTYPE_ENUM, FieldDescriptor.CPPTYPE_MESSAGE}
    hidden = [
        field.full_name
        for field in fields()
        if not field.is_repeated and field.cpp_type not in scalar and not field.has_presence
    ]
    assert hidden == [], "an absent number must not look like zero"


def test_positional_numbers_stand_only_where_their_index_means_a_channel_or_a_position() -> None:
    numeric = {FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE}
    assert [f.full_name for f in fields() if f.is_repeated and f.cpp_type in numeric] == [
        "esper.leyline.v1.BlendConfig.alpha_vec",
        "esper.leyline.v1.BlendSettings.alpha_vec",
    ]


def test_the_table_of_required_fields_says_what_the_comments_say() -> None:
    expected = {
        message.name: {name for name, text in COMMENTS[message.name].items() if name and UNCONDITIONAL.search(text)}
        for message in messages()
    }
    actual = {message.name: set(REQUIRED.get(message.name, "").split()) for message in messages()}
    assert {name: actual[name] ^ expected[name] for name in expected if actual[name] != expected[name]} == {}
    assert set(REQUIRED) <= set(expected)


def test_every_conditional_requirement_of_the_comments_has_a_rule() -> None:
    conditional = {
        (message.name, name)
        for message in messages()
        for name, text in COMMENTS[message.name].items()
        if re.search(r"[Rr]equired", text) and not UNCONDITIONAL.search(text)
    }
    ruled = {(rule.message, path.split(".")[0]) for rule in RULES for path in rule.fields.split()}
    ruled |= {("DecisionMetadata", path.split(".")[1]) for rule in RULES for path in rule.fields.split() if "." in path}
    ruled |= {("TriggerSettings", "trigger")}
    assert conditional - ruled - set(NOT_IN_THE_MESSAGE) == set()
    assert set(NOT_IN_THE_MESSAGE) <= conditional


def test_what_is_measured_in_time_is_marked_so_in_the_comments() -> None:
    marked = {name for name, text in COMMENTS["TrainingMetrics"].items() if "(measured" in text}
    assert marked == set(MEASURED)
    assert not marked & set(DETERMINISTIC)


@pytest.mark.parametrize("name", ["SignedCommand", "CommandSecurity"])
def test_the_envelopes_numbers_never_change(name: str) -> None:
    numbers = {field.name: field.number for field in getattr(leyline, name).DESCRIPTOR.fields}
    assert (
        numbers
        == {
            "SignedCommand": {"payload": 1, "payload_type": 2, "audience": 3, "security": 4},
            "CommandSecurity": {
                "signature": 1,
                "nonce": 2,
                "issued_at": 3,
                "freshness_window": 4,
                "key_id": 5,
                "algorithm": 6,
            },
        }[name]
    )
