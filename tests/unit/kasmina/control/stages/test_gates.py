"""Each gate: what passes, what fails, what waits."""

import math

import pytest

from esper.kasmina.control.stages import gates
from esper.kasmina.control.stages.gates import EXTEND, FAIL, PASS, WAIT, SeedTraits
from esper.leyline import DirectiveKind, DirectiveReport, JudgeMode, ProbeResult, SeedObservation, SeedRecord, SeedState
from tests.unit.kasmina.control.making import judgement, life, observation, probe, score, warm_blend

K = DirectiveKind
PLAIN = SeedTraits(is_control=False, is_residual=False, incubates=False)
RESIDUAL = SeedTraits(is_control=False, is_residual=True, incubates=True)
CONTROL = SeedTraits(is_control=True, is_residual=False, incubates=False)


@pytest.fixture
def record() -> SeedRecord:
    record = SeedRecord(state=SeedState(seed_id="s1"), look=1)
    record.germination.blend.CopyFrom(warm_blend())
    return record


def done(kind: DirectiveKind, **fields: object) -> DirectiveReport:
    return DirectiveReport(directive_id="d1", seed_id="s1", kind=kind, step=5, **{"succeeded": True, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("report", "verdict"),
    [
        (done(K.DIRECTIVE_KIND_BUILD, digest_matched=True, parameters_finite=True), PASS),
        (done(K.DIRECTIVE_KIND_BUILD, digest_matched=False, parameters_finite=True), FAIL),
        (done(K.DIRECTIVE_KIND_BUILD, digest_matched=True, parameters_finite=False), FAIL),
        (done(K.DIRECTIVE_KIND_BUILD, succeeded=False, failure="no factory"), FAIL),
        (done(K.DIRECTIVE_KIND_SNAPSHOT_TWIN), PASS),
        (done(K.DIRECTIVE_KIND_SNAPSHOT_TWIN, succeeded=False, failure="memory"), FAIL),
        (done(K.DIRECTIVE_KIND_ATTACH, max_logit_delta=0.0), PASS),
        (done(K.DIRECTIVE_KIND_ATTACH, max_logit_delta=1e-7), FAIL),
        (done(K.DIRECTIVE_KIND_ATTACH, max_logit_delta=math.nan), FAIL),
        (done(K.DIRECTIVE_KIND_ATTACH), FAIL),
        (done(K.DIRECTIVE_KIND_ATTACH, succeeded=False, failure="no slot"), FAIL),
    ],
)
def test_g0_wants_a_sound_build_and_a_graft_that_changes_nothing(
    record: SeedRecord, report: DirectiveReport, verdict: int
) -> None:
    assert gates.g0_sanity(record, report, PLAIN).verdict == verdict


@pytest.mark.parametrize(
    ("seen", "traits", "verdict"),
    [
        (observation(5), PLAIN, PASS),
        (observation(5, gradient_norm=0.0), PLAIN, FAIL),
        (observation(5, gradient_norm=math.nan), PLAIN, FAIL),
        (observation(5, gradient_norm=math.inf), PLAIN, FAIL),
        (observation(5, gradient_norm=None), PLAIN, FAIL),
        (observation(5, gradients_finite=False), PLAIN, FAIL),
        (observation(5, isolation_violations=1), PLAIN, FAIL),
        (observation(5, gradient_norm=None), CONTROL, PASS),
        (observation(5, rms_ratio=1.0), RESIDUAL, PASS),
        (observation(5, rms_ratio=1.01), RESIDUAL, FAIL),
        (observation(5, rms_ratio=math.nan), RESIDUAL, FAIL),
        (observation(5, rms_ratio=3.0), PLAIN, PASS),
        (observation(5, incubation_score=score(-0.010, 0.01, 400)), RESIDUAL, PASS),
        (observation(5, incubation_score=score(-0.011, 0.01, 400)), RESIDUAL, FAIL),
        (observation(5, incubation_score=score(math.nan)), RESIDUAL, FAIL),
    ],
)
def test_g1_wants_finite_gradients_without_a_leak_or_harm(
    record: SeedRecord, seen: SeedObservation, traits: SeedTraits, verdict: int
) -> None:
    assert gates.g1_gradient_health(record, seen, traits).verdict == verdict


def test_g1_says_that_a_control_is_exempt(record: SeedRecord) -> None:
    assert "exempt" in gates.g1_gradient_health(record, observation(5), CONTROL).detail


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        (observation(5), PASS),
        (observation(5, smoothed_loss=0.35), PASS),
        (observation(5, smoothed_loss=0.3501), FAIL),
        (observation(5, smoothed_loss=math.nan), FAIL),
        (observation(5, smoothed_loss=math.inf), FAIL),
        (observation(5, smoothed_loss_standard_error=None), WAIT),
        (observation(5, smoothed_loss_at_graft=None), WAIT),
    ],
)
def test_g2_allows_a_rise_of_a_few_standard_errors(record: SeedRecord, seen: SeedObservation, verdict: int) -> None:
    assert gates.g2_stability(record, seen, life(stability_limit=4.0)).verdict == verdict


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        (observation(5, probe=probe(0.01)), PASS),
        (observation(5, probe=probe(0.01, matches=False)), FAIL),
        (observation(5, probe=probe(-0.02)), FAIL),
        (observation(5, probe=probe(math.nan)), FAIL),
    ],
)
def test_g3_refuses_a_seed_whose_muting_helps(record: SeedRecord, seen: SeedObservation, verdict: int) -> None:
    assert gates.g3_interface(record, seen, life()).verdict == verdict


def test_g3_takes_no_harm_for_one_that_is_within_the_calibrated_noise(record: SeedRecord) -> None:
    slight = observation(
        150, probe=ProbeResult(interface_matches=True, muted=score(-0.0002, variance=1e-6, samples=900))
    )
    assert gates.g3_interface(record, slight, life()).verdict == FAIL
    assert gates.g3_interface(record, slight, life(tau=0.01)).verdict == PASS
    harmful = observation(
        150, probe=ProbeResult(interface_matches=True, muted=score(-0.05, variance=1e-6, samples=900))
    )
    assert gates.g3_interface(record, harmful, life(tau=0.01)).verdict == FAIL


@pytest.mark.parametrize(
    ("gain", "may_extend", "verdict"),
    [(0.05, True, PASS), (0.05, False, PASS), (0.01, True, EXTEND), (0.01, False, FAIL), (-0.05, True, FAIL)],
)
def test_g4_keeps_extends_or_culls(record: SeedRecord, gain: float, may_extend: bool, verdict: int) -> None:
    seen = observation(5, judgement=judgement(gain))
    evidence = gates.g4_system_impact(record, seen, life(), may_extend=may_extend)
    assert evidence.verdict == verdict
    assert evidence.twin.look == 1
    assert evidence.samples == 356


def test_g4_without_a_twin_says_what_it_does_not_prove(record: SeedRecord) -> None:
    settings = life(judge=JudgeMode.JUDGE_MODE_MUTED)
    kept = gates.g4_system_impact(
        record, observation(5, judgement=judgement(0.0, muted=0.02)), settings, may_extend=True
    )
    assert kept.verdict == PASS
    assert "not proven" in kept.detail
    assert not kept.HasField("twin")
    culled = gates.g4_system_impact(
        record, observation(5, judgement=judgement(0.9, muted=0.005)), settings, may_extend=True
    )
    assert culled.verdict == FAIL


def test_g5_wants_nothing_left_behind(record: SeedRecord) -> None:
    assert gates.g5_reset(record, 5, [], "").verdict == PASS
    left = gates.g5_reset(record, 5, ["a hook on fc1"], "")
    assert left.verdict == FAIL
    assert "a hook on fc1" in left.detail
    assert gates.g5_reset(record, 5, [], "host is gone").verdict == FAIL


def test_evidence_says_of_how_many_documents_its_samples_are(record: SeedRecord) -> None:
    seen = observation(5, judgement=judgement(0.05))
    assert not gates.g4_system_impact(record, seen, life(), may_extend=False).HasField("documents")
    seen.judgement.twin.documents, seen.judgement.twin.standard_error = 120, 0.002
    evidence = gates.g4_system_impact(record, seen, life(), may_extend=False)
    assert (evidence.samples, evidence.documents) == (356, 120)
