from __future__ import annotations

from dataclasses import replace

import pytest

from esper.core.clock import NS_PER_S, timestamp
from esper.core.messages.validation import violations
from esper.leyline import (
    CommandOutcome,
    DirectiveKind,
    DirectiveReport,
    FieldReport,
    GateEvidence,
    GateVerdict,
    Observation,
    PolicySignalId,
    RejectionReason,
    SeedGate,
    SeedStage,
    StageTransition,
    SubmitOutcomeRequest,
    TwinTest,
)
from esper.tamiyo.field_reports.reports import (
    ABORTED,
    FATES,
    NEUTRAL,
    REGRESSION,
    SUCCESS,
    Moment,
    Origin,
    absorbed,
    closed,
    digested,
    is_open,
    opened,
)
from esper.tamiyo.signals import value_of
from tests.unit.tamiyo.builders import ALWAYS, Simulation, seed_state, spec

GERMINATION, VERDICT = [
    issue.command for verdict in Simulation(run_spec=spec(ALWAYS)).run(to_step=430) for issue in verdict.issues
]
OPENED_AT = timestamp(1_760_000_000 * NS_PER_S)
NOW = Moment(time=timestamp(1_760_000_100 * NS_PER_S), step=600, smoothed_loss=0.25, hook_latency_ms=0.4)


def report(action: str = "germinate") -> FieldReport:
    command = GERMINATION if action == "germinate" else VERDICT
    made = opened(command, Origin(time=OPENED_AT, latency_ms=1.5))
    made.decision.policy.action = action
    return made


def moved(stage: int, seed_id: str = "s1") -> StageTransition:
    return StageTransition(
        seed_id=seed_id,
        from_stage=SeedStage.SEED_STAGE_PROBATIONARY,
        to_stage=stage,  # type: ignore[arg-type]
        step=600,
        command_id="c",
        reason="test",
    )


def evidence(step: int = 590) -> GateEvidence:
    return GateEvidence(
        seed_id="s1",
        gate=SeedGate.SEED_GATE_G4_SYSTEM_IMPACT,
        verdict=GateVerdict.GATE_VERDICT_PASS,
        step=step,
        quantity="gain",
        detail="passed",
    )


def after(request: SubmitOutcomeRequest, action: str = "germinate") -> FieldReport | None:
    return absorbed(report(action), digested(request), NOW)


def test_a_report_opens_with_the_decision_and_without_an_outcome() -> None:
    made = report()
    assert is_open(made)
    assert violations(made) == []
    assert (made.report_id, made.seed_id, made.slot_id) == (f"fr-{GERMINATION.command_id}", "s1", "span:fc1-fc2")
    assert made.decision.policy.signals
    assert made.delta.tamiyo_latency_ms == 1.5
    assert not made.HasField("closed_at")


@pytest.mark.parametrize(
    ("action", "stage", "outcome"),
    [
        ("germinate", SeedStage.SEED_STAGE_FOSSILIZED, SUCCESS),
        ("germinate", SeedStage.SEED_STAGE_CULLED, REGRESSION),
        ("germinate", SeedStage.SEED_STAGE_TERMINATED, ABORTED),
        ("fossilize", SeedStage.SEED_STAGE_FOSSILIZED, SUCCESS),
        ("fossilize", SeedStage.SEED_STAGE_CULLED, REGRESSION),
        ("cull", SeedStage.SEED_STAGE_CULLED, NEUTRAL),
        ("cull", SeedStage.SEED_STAGE_FOSSILIZED, ABORTED),
    ],
)
def test_the_outcome_is_what_was_observed_of_the_seed(action: str, stage: int, outcome: int) -> None:
    done = after(SubmitOutcomeRequest(step=600, transitions=[moved(stage)]), action)
    assert done is not None
    assert done.outcome == outcome
    assert violations(done) == []
    assert done.closed_step == 600
    assert done.delta.steps == 600 - done.opened_step
    assert FATES[stage] in done.follow_ups  # type: ignore[index]


def test_stages_that_go_on_close_nothing() -> None:
    for stage in set(SeedStage.values()) - set(FATES) - {SeedStage.SEED_STAGE_UNSPECIFIED}:
        assert after(SubmitOutcomeRequest(step=600, transitions=[moved(stage)])) is None


def test_a_fate_is_also_read_from_the_seeds_themselves_and_from_an_outcome() -> None:
    seeds = SubmitOutcomeRequest(step=600, seeds=[seed_state("s1", SeedStage.SEED_STAGE_EMBARGOED)])
    outcome = CommandOutcome(command_id="x", accepted=True, transitions=[moved(SeedStage.SEED_STAGE_CULLED)])
    for request in (seeds, SubmitOutcomeRequest(step=600, outcomes=[outcome])):
        done = after(request)
        assert done is not None
        assert done.outcome == REGRESSION


def test_news_of_another_seed_says_nothing() -> None:
    assert after(SubmitOutcomeRequest(step=600, transitions=[moved(SeedStage.SEED_STAGE_CULLED, "s2")])) is None


def test_a_refused_command_is_aborted_with_its_reason() -> None:
    refusal = CommandOutcome(
        command_id=GERMINATION.command_id,
        accepted=False,
        rejection=RejectionReason.REJECTION_REASON_SLOT_EMBARGOED,
        detail="closed until step 700",
    )
    done = after(SubmitOutcomeRequest(step=600, outcomes=[refusal]))
    assert done is not None
    assert done.outcome == ABORTED
    assert done.notes == "refused: slot_embargoed: closed until step 700"


def test_gates_and_remarks_are_kept_once_while_the_report_stays_open() -> None:
    failed = DirectiveReport(
        directive_id="d",
        seed_id="s1",
        kind=DirectiveKind.DIRECTIVE_KIND_BUILD,
        step=590,
        succeeded=False,
        failure="no memory",
    )
    news = digested(SubmitOutcomeRequest(step=590, gates=[evidence()], reports=[failed]))
    first = absorbed(report(), news, NOW)
    assert first is not None
    assert is_open(first)
    assert (len(first.gates), list(first.follow_ups)) == (1, ["build failed: no memory"])
    assert absorbed(first, news, NOW) is None
    second = absorbed(first, digested(SubmitOutcomeRequest(step=600, gates=[evidence(600)])), NOW)
    assert second is not None
    assert [gate.step for gate in second.gates] == [590, 600]


def test_what_changed_is_measured_from_the_decision() -> None:
    kept = seed_state("s1", SeedStage.SEED_STAGE_FOSSILIZED, gain=0.03, gain_standard_error=0.01)
    done = after(SubmitOutcomeRequest(step=600, seeds=[kept]))
    assert done is not None
    loss_then = next(signal.value for signal in done.decision.policy.signals if signal.id == 1)
    assert done.delta.loss_delta == pytest.approx(0.25 - loss_then)
    assert (done.delta.gain, done.delta.gain_standard_error) == (0.03, 0.01)
    assert (done.delta.parameter_delta, done.delta.forward_macs_delta) == (568, 560)
    assert done.delta.hook_latency_ms == 0.4


def test_a_culled_seed_costs_the_host_nothing() -> None:
    done = after(SubmitOutcomeRequest(step=600, seeds=[seed_state("s1", SeedStage.SEED_STAGE_CULLED)]))
    assert done is not None
    assert (done.delta.parameter_delta, done.delta.forward_macs_delta) == (0, 0)


def test_the_old_version_is_left_as_it_was() -> None:
    old = report()
    before = old.SerializeToString(deterministic=True)
    assert closed(old, ABORTED, NOW, note="x") != old
    assert old.SerializeToString(deterministic=True) == before


JUDGED = TwinTest(
    look=1, mean_twin_score=0.2, gain=0.05, variance=0.01, samples=300, tau=0.004, margin=0.006, z=3.0, z_threshold=2.3
)


def of_worth(stage: int) -> FieldReport:
    """A germination at step 290 that was judged and ended in a stage 310 steps later, on a host of 480 MACs."""
    origin = Origin(
        time=OPENED_AT,
        latency_ms=1.5,
        observation=Observation(version="growth:v1"),
        training_macs=1_000_000,
        forward_macs=480,
        run_macs=30_000_000,
    )
    gate = evidence()
    gate.twin.CopyFrom(JUDGED)
    seed = seed_state("s1", stage, gain=0.05, gain_standard_error=0.01, forward_macs=240)
    request = SubmitOutcomeRequest(step=600, transitions=[moved(stage)], gates=[gate], seeds=[seed])
    made = opened(GERMINATION, origin)
    moment = replace(NOW, training_macs=1_000_000 + 200 * 2_000 * 480, step_macs_ratio=200.0)
    done = absorbed(made, digested(request), moment)
    assert done is not None
    return done


def test_a_kept_seed_leaves_its_gain_and_a_culled_one_nothing() -> None:
    kept, culled = of_worth(SeedStage.SEED_STAGE_FOSSILIZED).delta, of_worth(SeedStage.SEED_STAGE_CULLED).delta
    assert (kept.effect, culled.effect) == (0.05, 0.0)
    assert (kept.gain, culled.gain, kept.twin_score) == (0.05, 0.05, 0.2)
    assert kept.run_macs == 30_000_000


def test_a_judgement_costs_what_the_network_that_stayed_did_not() -> None:
    kept, culled = of_worth(SeedStage.SEED_STAGE_FOSSILIZED), of_worth(SeedStage.SEED_STAGE_CULLED)
    spent, steps = 200 * 2_000 * 480, kept.delta.steps
    assert kept.delta.judgement_macs == spent - steps * 200 * (480 + 240)
    assert culled.delta.judgement_macs == spent - steps * 200 * 480


def test_at_equal_macs_a_gain_is_less_by_what_the_host_would_have_gained_for_them() -> None:
    done = of_worth(SeedStage.SEED_STAGE_FOSSILIZED)
    slope = value_of(done.decision.policy.signals, PolicySignalId.POLICY_SIGNAL_ID_LOSS_SLOPE)
    assert slope is not None
    expected = 0.05 - max(0.0, slope) * 0.2 * done.delta.steps * (240 / 480) / 100
    assert done.delta.gain_at_equal_macs == pytest.approx(expected)


def test_what_was_not_measured_is_not_said() -> None:
    done = after(SubmitOutcomeRequest(step=600, transitions=[moved(SeedStage.SEED_STAGE_CULLED)]))
    assert done is not None
    for name in ("gain_at_equal_macs", "twin_score", "judgement_macs", "run_macs"):
        assert not done.delta.HasField(name)
