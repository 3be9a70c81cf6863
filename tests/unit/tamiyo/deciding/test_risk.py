from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.leyline import (
    EmergencyLevel,
    HardwareContext,
    RiskReason,
    StepSample,
    SystemMode,
    SystemStatePacket,
    TelemetryLevel,
)
from esper.tamiyo.config import RiskLimits
from esper.tamiyo.deciding.risk import CONSERVATIVE, HOLD, NOTE, RULES, RiskView, as_metadata, assess
from tests.unit.tamiyo.builders import CATALOG, packet


def view(given: SystemStatePacket | None = None, **changes: object) -> RiskView:
    defaults: dict[str, object] = {
        "packet": given or packet(500),
        "limits": RiskLimits(),
        "previous_loss": 0.5,
        "loss_floor": 0.08,
        "previous_violations": 0,
        "coverage": 1.0,
    }
    return RiskView(**{**defaults, **changes})  # type: ignore[arg-type]


def found(given: RiskView) -> dict[str, int]:
    """Effects by reason."""
    return {RiskReason.Name(finding.reason).removeprefix("RISK_REASON_"): finding.effect for finding in assess(given)}


def test_a_quiet_packet_gives_no_finding_and_no_metadata() -> None:
    assert found(view()) == {}
    assert as_metadata(assess(view())) is None


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_makes_a_run_conservative_wherever_it_stands(loss: float) -> None:
    assert found(view(packet(500, loss=loss)))["NON_FINITE_LOSS"] == CONSERVATIVE
    sample = packet(500, recent_steps=[StepSample(step=499, loss=loss)])
    (finding,) = assess(view(sample))
    assert finding.level == TelemetryLevel.TELEMETRY_LEVEL_CRITICAL


def test_a_rise_of_the_loss_is_noted_and_a_sharp_one_makes_conservative() -> None:
    assert found(view(packet(500, loss=0.6))) == {}
    assert found(view(packet(500, loss=0.65))) == {"LOSS_SPIKE": NOTE}
    assert found(view(packet(500, loss=0.8))) == {"LOSS_SPIKE": CONSERVATIVE}
    assert found(view(packet(500, loss=0.8), previous_loss=None)) == {}


def test_noise_around_zero_is_no_spike() -> None:
    assert found(view(packet(500, loss=0.02), previous_loss=0.01)) == {}


def test_only_new_isolation_violations_speak() -> None:
    leaked = packet(500, isolation_violations=3)
    assert found(view(leaked)) == {"ISOLATION_VIOLATION": CONSERVATIVE}
    assert found(view(leaked, previous_violations=3)) == {}


def test_missing_inputs_hold_and_hardly_any_input_makes_conservative() -> None:
    assert found(view(coverage=0.5)) == {}
    assert found(view(coverage=0.49)) == {"DEGRADED_INPUTS": HOLD}
    assert found(view(coverage=0.3)) == {"DEGRADED_INPUTS": CONSERVATIVE}


def test_noise_and_conflict_are_noted_only() -> None:
    given = packet(500)
    given.metrics.smoothed_loss_standard_error = 0.2
    given.metrics.gradient_norm_variance = 5.0
    given.metrics.gradient_conflict_rate = 0.6
    assert found(view(given)) == {"LOSS_VOLATILITY": NOTE, "GRADIENT_VARIANCE": NOTE, "GRADIENT_CONFLICT": NOTE}


def test_measured_times_alert_and_decide_only_where_the_run_asks_for_it() -> None:
    hardware = HardwareContext(device_type="cuda", memory_total_bytes=100, memory_used_bytes=99)
    slow = packet(500, hardware=hardware)
    slow.metrics.step_latency_ms, slow.metrics.hook_latency_ms = 130.0, 60.0
    reasons = {"STEP_LATENCY", "HOOK_BUDGET", "DEVICE_PRESSURE"}
    assert found(view(slow)) == dict.fromkeys(reasons, NOTE)
    assert found(view(slow, latency_rules=True)) == dict.fromkeys(reasons, HOLD)
    busy = packet(500, hardware=HardwareContext(device_type="cpu", processor_wait=0.6))
    assert found(view(busy, latency_rules=True)) == {"CPU_PRESSURE": HOLD}


def test_the_severity_that_a_policy_expects_holds_and_then_makes_conservative() -> None:
    assert found(view(severity=0.84)) == {}
    assert found(view(severity=0.9)) == {"POLICY_RISK": HOLD}
    assert found(view(severity=0.99)) == {"POLICY_RISK": CONSERVATIVE}


def test_a_dangerous_blueprint_is_held_unless_the_run_names_it() -> None:
    control = CATALOG.get("control.random_frozen")
    reasons = {"BLUEPRINT_QUARANTINE", "HAZARD_CRITICAL", "BLUEPRINT_RISK"}
    assert found(view(blueprint=control)) == dict.fromkeys(reasons, HOLD)
    named = view(blueprint=control, is_named=True)
    assert found(named) == dict.fromkeys(reasons, NOTE)
    assert all(finding.level < TelemetryLevel.TELEMETRY_LEVEL_CRITICAL for finding in assess(named))


def test_the_ordinary_blueprints_are_never_held() -> None:
    for blueprint in CATALOG.all():
        if not blueprint.is_control:
            assert HOLD not in found(view(blueprint=blueprint)).values(), blueprint.blueprint_id


@pytest.mark.parametrize(
    "changes",
    [{"mode": SystemMode.SYSTEM_MODE_DEGRADED}, {"mode": SystemMode.SYSTEM_MODE_EMERGENCY}],
)
def test_a_plane_that_is_not_normal_holds(changes: dict[str, object]) -> None:
    assert found(view(packet(500, **changes))) == {"CONSERVATIVE_MODE": HOLD}


def test_conservative_mode_and_an_open_emergency_hold() -> None:
    assert found(view(is_conservative=True)) == {"CONSERVATIVE_MODE": HOLD}
    growth = packet(500).growth
    growth.emergency = EmergencyLevel.EMERGENCY_LEVEL_L3_CONSERVATIVE
    assert found(view(packet(500, growth=growth))) == {"CONSERVATIVE_MODE": HOLD}
    growth.emergency = EmergencyLevel.EMERGENCY_LEVEL_L2_ELEVATED
    assert found(view(packet(500, growth=growth))) == {}


def test_every_finding_is_kept_and_the_worst_one_gives_the_score() -> None:
    given = view(packet(500, loss=0.9, isolation_violations=1), coverage=0.2, is_conservative=True)
    metadata = as_metadata(assess(given))
    assert metadata is not None
    assert len(metadata.findings) == 4
    assert metadata.score == 1.0


@given(
    st.floats(0, 5), st.floats(0, 5), st.integers(0, 3), st.floats(0, 1), st.floats(0, 1), st.booleans(), st.booleans()
)
def test_the_table_of_rules_is_the_sum_of_its_rules(
    loss: float,
    previous: float,
    violations: int,
    coverage: float,
    severity: float,
    latency_rules: bool,
    conservative: bool,
) -> None:
    given_view = view(
        packet(500, loss=loss, isolation_violations=violations),
        previous_loss=previous,
        coverage=coverage,
        severity=severity,
        latency_rules=latency_rules,
        is_conservative=conservative,
    )
    assert list(assess(given_view)) == [finding for rule in RULES for finding in rule(given_view)]
    for finding in assess(given_view):
        assert finding.effect in (NOTE, HOLD, CONSERVATIVE)
