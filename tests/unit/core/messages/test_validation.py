from __future__ import annotations

import math

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

import esper.leyline as leyline
from esper.core.errors import ContractError
from esper.core.messages.field_rules import RANGES, RULES
from esper.core.messages.validation import require_valid, submessages, violations
from esper.leyline import (
    AdaptationCommand,
    AdvanceRequest,
    BlendConfig,
    BlendMode,
    BlendSchedule,
    DecisionMetadata,
    DecisionReason,
    DirectiveKind,
    DirectiveReport,
    Event,
    Metric,
    OptimizerAdjustment,
    ParameterValue,
    PauseOrder,
    PolicyMetadata,
    SeedDirective,
    SeedOperation,
    SeedOperationKind,
    SystemStatePacket,
    TelemetryLevel,
    TelemetryPacket,
)


def blend(**changes: object) -> BlendConfig:
    config = BlendConfig(
        mode=BlendMode.BLEND_MODE_RESIDUAL,
        alpha_target=1.0,
        alpha_start=0.0,
        schedule=BlendSchedule.BLEND_SCHEDULE_LINEAR,
        schedule_steps=0,
    )
    config.MergeFrom(BlendConfig(**changes))  # type: ignore[arg-type]
    return config


def test_a_complete_message_has_no_violation() -> None:
    assert violations(blend()) == []
    require_valid(blend())


def test_every_violation_is_named_with_its_path() -> None:
    command = AdaptationCommand(
        command_id="c", seed=SeedOperation(operation=SeedOperationKind.SEED_OPERATION_KIND_GERMINATE, blend=blend())
    )
    with pytest.raises(ContractError) as refused:
        require_valid(command)
    assert refused.value.message_type == "AdaptationCommand"
    assert refused.value.violations == (
        "training_run_id is required",
        "generation is required",
        "step is required",
        "issued_by is required",
        "seed.seed_id is required",
        "seed.slot_id is required for GERMINATE",
        "seed.blueprint_id is required for GERMINATE",
        "seed.initialization_seed is required for GERMINATE",
    )


def test_an_oneof_is_required_as_a_whole() -> None:
    assert "action is required" in violations(AdaptationCommand())
    assert "action is required" not in violations(AdaptationCommand(pause=PauseOrder()))


def test_zero_is_a_value_where_presence_is_kept() -> None:
    packet = SystemStatePacket(packet_index=0)
    assert "packet_index is required" not in violations(packet)
    assert "step is required" in violations(packet)


def test_what_is_wrong_in_a_repeated_message_carries_its_index() -> None:
    packet = TelemetryPacket(metrics=[Metric(name="a", value=1, unit="ms"), Metric(name="b", unit="ms")])
    assert "metrics[1].value is required" in violations(packet)
    assert not any("metrics[0]" in violation for violation in violations(packet))


@pytest.mark.parametrize("value", [-0.001, 1.001, math.nan, math.inf])
def test_a_share_outside_its_range_is_refused(value: float) -> None:
    assert any("alpha_target is" in violation for violation in violations(blend(alpha_target=value)))


@pytest.mark.parametrize(("factor", "is_valid"), [(0.01, True), (100, True), (0.009, False), (101, False), (-1, False)])
def test_a_learning_rate_factor_has_its_own_range(factor: float, is_valid: bool) -> None:
    assert (violations(OptimizerAdjustment(learning_rate_factor=factor)) == []) is is_valid


@pytest.mark.parametrize("value", [math.inf, math.nan, -math.inf])
def test_no_range_holds_what_is_not_finite(value: float) -> None:
    assert violations(OptimizerAdjustment(weight_decay=value)) != []
    assert violations(ParameterValue(name="width", value=value)) != []


def test_an_absent_optional_number_is_in_range() -> None:
    assert violations(OptimizerAdjustment()) == []


def test_a_channel_blend_needs_its_vector_within_bounds() -> None:
    channel = BlendMode.BLEND_MODE_CHANNEL
    assert violations(blend(mode=channel)) == ["alpha_vec is required for CHANNEL"]
    assert violations(blend(mode=channel, alpha_vec=[0.5] * 64)) == []
    assert violations(blend(mode=channel, alpha_vec=[0.5] * 65)) == ["alpha_vec has 65 entries, at most 64 are allowed"]
    assert violations(blend(mode=channel, alpha_vec=[2.0])) == ["alpha_vec is 2, expected 0 to 1"]


def test_a_confidence_blend_needs_its_gate() -> None:
    found = violations(blend(mode=BlendMode.BLEND_MODE_CONFIDENCE))
    assert [violation.split()[0] for violation in found] == ["confidence", "gate_slope", "gate_threshold"]


def test_shares_must_be_in_order() -> None:
    assert violations(blend(share_min=0.6, share_max=0.4)) == ["share_min is 0.6, above share_max 0.4"]


def test_an_unknown_enum_value_is_refused() -> None:
    event = Event(name="a")
    event.time.seconds = 1
    event.MergeFromString(b"\x10\x2a")
    assert violations(event) == ["level has the unknown value 42"]


@pytest.mark.parametrize("seconds", [253_402_300_799, -62_135_596_800, 2**63 - 1])
def test_a_time_that_64_bits_of_nanoseconds_cannot_hold_is_refused(seconds: int) -> None:
    event = Event(name="a", level=TelemetryLevel.TELEMETRY_LEVEL_INFO, time=Timestamp(seconds=seconds))
    assert violations(event) == [f"time.seconds is {seconds}, expected -9223372035 to 9223372035"]


def test_an_integer_that_no_database_holds_is_refused_but_a_seed_is_a_bit_pattern() -> None:
    request = AdvanceRequest(generation=2**63 - 1, step=2**63)
    assert violations(request) == [f"step is {2**63}, expected at most {2**63 - 1}"]
    directive = SeedDirective(initialization_seed=2**64 - 1)
    assert not any("initialization_seed" in text for text in violations(directive))


def test_a_time_with_more_than_a_second_of_nanoseconds_is_refused() -> None:
    event = Event(name="a", level=TelemetryLevel.TELEMETRY_LEVEL_INFO, time=Timestamp(nanos=1_000_000_000))
    assert violations(event) == ["time.nanos is 1000000000, expected less than a second"]


def test_a_run_wide_directive_needs_no_seed() -> None:
    halt = SeedDirective(directive_id="d", kind=DirectiveKind.DIRECTIVE_KIND_HALT, command_id="c")
    assert violations(halt) == []
    halt.kind = DirectiveKind.DIRECTIVE_KIND_MUTE
    assert violations(halt) == ["seed_id is required for a seed's directive"]


def test_a_failed_report_must_say_why() -> None:
    report = DirectiveReport(
        directive_id="d", seed_id="s", kind=DirectiveKind.DIRECTIVE_KIND_BUILD, step=1, succeeded=False
    )
    assert violations(report) == ["failure is required when not succeeded"]


def test_a_policy_must_give_its_reasons_and_an_operator_need_not() -> None:
    command = AdaptationCommand(
        command_id="c",
        training_run_id="r",
        generation=0,
        step=0,
        issued_by="operator:me",
        pause=PauseOrder(rationale="r"),
    )
    assert violations(command) == []
    command.issued_by = "tamiyo"
    assert violations(command) == ["metadata is required from a policy"]
    command.metadata.CopyFrom(
        DecisionMetadata(policy=PolicyMetadata(), reasons=[DecisionReason.DECISION_REASON_PLATEAU], conservative=False)
    )
    assert "metadata.coverage is required from a policy" in violations(command)


def test_submessages_are_found_with_their_names() -> None:
    packet = TelemetryPacket(metrics=[Metric(), Metric()], time=Timestamp(seconds=1))
    assert [name for name, _ in submessages(packet)] == ["time", "metrics[0]", "metrics[1]"]


def test_every_rule_and_range_names_a_message_and_its_fields() -> None:
    for rule in RULES:
        descriptor = getattr(leyline, rule.message).DESCRIPTOR
        for path in rule.fields.split():
            assert path.split(".")[0] in descriptor.fields_by_name, rule
    for key in RANGES:
        message, field = key.split(".")
        assert field in getattr(leyline, message).DESCRIPTOR.fields_by_name, key
