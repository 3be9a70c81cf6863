"""The gates: each a predicate over measured evidence, giving the evidence back with its verdict.

Nothing here moves a seed. A gate whose evidence is incomplete waits; one whose evidence is missing where it must
be there, or is not finite, fails.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from esper.core.enums import short_name
from esper.kasmina.control.judge.twin_test import MUTED_Z, Look, standard_error, take_look, z_score
from esper.leyline import (
    DirectiveKind,
    DirectiveReport,
    GateEvidence,
    GateVerdict,
    JudgeMode,
    LifeSettings,
    PairedScore,
    SeedGate,
    SeedObservation,
    SeedRecord,
    StackTest,
)

PASS = GateVerdict.GATE_VERDICT_PASS
FAIL = GateVerdict.GATE_VERDICT_FAIL
EXTEND = GateVerdict.GATE_VERDICT_EXTEND
WAIT = GateVerdict.GATE_VERDICT_WAIT

G0 = SeedGate.SEED_GATE_G0_SANITY
G1 = SeedGate.SEED_GATE_G1_GRADIENT_HEALTH
G2 = SeedGate.SEED_GATE_G2_STABILITY
G3 = SeedGate.SEED_GATE_G3_INTERFACE
G4 = SeedGate.SEED_GATE_G4_SYSTEM_IMPACT
G5 = SeedGate.SEED_GATE_G5_RESET

HARM_Z = -2.0
MAX_RMS_RATIO = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedTraits:
    """What the gates must know of a seed's blueprint and slot."""

    is_control: bool
    is_residual: bool
    incubates: bool
    is_stack: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """What was measured, with its unit, and what it is held against; absent figures are None."""

    quantity: str
    value: float | None = None
    threshold: float | None = None
    standard_error: float | None = None
    score: PairedScore | None = None


def g0_sanity(record: SeedRecord, report: DirectiveReport, traits: SeedTraits) -> GateEvidence:
    """Of the reports until the graft: done, the right artefact, finite, and no change of the host's function.

    A stack changes it, and nothing may cull it for that.
    """
    delta = report.max_logit_delta if report.HasField("max_logit_delta") else None
    threshold = None if traits.is_stack else 0.0
    measure = Measure(quantity="largest change of any logit", value=delta, threshold=threshold)
    evidence = _evidence(record, G0, report.step, measure, "built and sound")
    problem = _g0_problem(report, traits)
    return _failed(evidence, problem) if problem else evidence


def _g0_problem(report: DirectiveReport, traits: SeedTraits) -> str | None:
    if not report.succeeded:
        return f"{_kind_name(report.kind)} failed: {report.failure}"
    if report.kind == DirectiveKind.DIRECTIVE_KIND_BUILD:
        if not report.digest_matched:
            return "the artefact's digest doesn't match the catalogue's"
        return None if report.parameters_finite else "a built parameter is not finite"
    if report.kind != DirectiveKind.DIRECTIVE_KIND_ATTACH:
        return None
    if not report.HasField("max_logit_delta"):
        return "the graft's effect on the logits was not measured"
    if traits.is_stack:
        return None if math.isfinite(report.max_logit_delta) else "the graft's effect on the logits is not finite"
    if report.max_logit_delta != 0.0:
        return f"the graft changed the host's logits by {report.max_logit_delta:g}, a graft must change nothing"
    return None


def g1_gradient_health(record: SeedRecord, observation: SeedObservation, traits: SeedTraits) -> GateEvidence:
    """Finite, non-zero seed gradients without a leak; after incubation also no harm on held-out data."""
    norm = observation.gradient_norm if observation.HasField("gradient_norm") else None
    measure = Measure(quantity="L2 norm of the seed's gradient", value=norm, threshold=0.0)
    evidence = _evidence(record, G1, observation.step, measure, "healthy")
    if traits.is_control:
        evidence.detail = "exempt: a control's weights are frozen and have no gradient"
        return evidence
    problem = _g1_problem(observation, traits)
    return _failed(evidence, problem) if problem else evidence


def _g1_problem(observation: SeedObservation, traits: SeedTraits) -> str | None:
    norm = observation.gradient_norm
    if not observation.HasField("gradient_norm") or not (math.isfinite(norm) and norm > 0.0):
        return "the seed has no finite, non-zero gradient"
    if observation.HasField("gradients_finite") and not observation.gradients_finite:
        return "a gradient of the seed was not finite"
    if observation.isolation_violations:
        return f"{observation.isolation_violations} gradient leaks"
    if traits.is_residual and observation.HasField("rms_ratio") and not observation.rms_ratio <= MAX_RMS_RATIO:
        return f"the seed's output is {observation.rms_ratio:g} times the activation, at most {MAX_RMS_RATIO:g}"
    if observation.HasField("incubation_score"):
        z = z_score(observation.incubation_score)
        if not z >= HARM_Z:
            return f"worse than the host on held-out data: z = {z:.2f}, at least {HARM_Z:g} is needed"
    return None


def g2_stability(record: SeedRecord, observation: SeedObservation, life: LifeSettings) -> GateEvidence:
    """The smoothed loss stayed within a few standard errors of where it was at the graft."""
    rise = observation.smoothed_loss - observation.smoothed_loss_at_graft
    error = observation.smoothed_loss_standard_error
    measure = Measure(
        quantity="rise of the smoothed loss since the graft, in loss units",
        value=rise,
        threshold=life.stability_limit * error,
        standard_error=error,
    )
    evidence = _evidence(record, G2, observation.step, measure, "stable")
    if not math.isfinite(observation.smoothed_loss):
        return _failed(evidence, f"the smoothed loss is {observation.smoothed_loss}")
    if not observation.HasField("smoothed_loss_at_graft") or not observation.HasField("smoothed_loss_standard_error"):
        evidence.verdict, evidence.detail = WAIT, "too few steps for a standard error"
        evidence.ClearField("measured")
        return evidence
    if not rise <= evidence.threshold:
        return _failed(evidence, f"the loss rose by {rise:.4g}, {evidence.threshold:.4g} is allowed")
    return evidence


def g3_interface(record: SeedRecord, observation: SeedObservation, life: LifeSettings) -> GateEvidence:
    """The seed's output fits its write tap, and muting it doesn't help by more than runs differ anyway.

    Without a calibrated `tau` only the noise of the samples counts; with many of them any harm shows, however small.
    """
    probe = observation.probe
    z = z_score(probe.muted, life.tau)
    quantity = "z of the score without the seed minus the score with it"
    measure = Measure(quantity=quantity, value=z, threshold=HARM_Z, score=probe.muted)
    evidence = _evidence(record, G3, observation.step, measure, "fits, and muting it doesn't help")
    if not probe.interface_matches:
        return _failed(evidence, f"the interface doesn't match: {probe.mismatch}")
    if not z > HARM_Z:
        return _failed(evidence, f"the host is better without it: z = {z:.2f}")
    return evidence


def g3_stack(record: SeedRecord, report: DirectiveReport, problem: str | None) -> GateEvidence:
    """A stack that stands was proven at its graft; `problem` is why it couldn't be judged."""
    measure = Measure(quantity="blocks' parameters added", value=float(report.added_parameters))
    evidence = _evidence(record, G3, report.step, measure, "every copy runs once, and the loss reaches all of it")
    return _failed(evidence, problem) if problem else evidence


def g4_stack(record: SeedRecord, step: int, test: StackTest, verdict: GateVerdict, detail: str) -> GateEvidence:
    """One look at a stack."""
    measure = Measure(
        quantity="z of the mean gain over the twin beyond the margin",
        value=test.z if test.HasField("z") else None,
        threshold=test.z_threshold,
        score=record.evaluations[-1].twin,
    )
    evidence = _evidence(record, G4, step, measure, detail)
    evidence.verdict = verdict
    evidence.stack.CopyFrom(test)
    return evidence


def g4_system_impact(
    record: SeedRecord, observation: SeedObservation, life: LifeSettings, *, may_extend: bool
) -> GateEvidence:
    """Judge the seed against its twin, or, where the run says so, against itself muted."""
    if life.judge == JudgeMode.JUDGE_MODE_MUTED:
        return _g4_muted(record, observation, life)
    look = take_look(observation.judgement, life, record.look)
    quantity = "z of the gain over the twin beyond the margin"
    threshold, score = look.test.z_threshold, observation.judgement.twin
    measure = Measure(quantity=quantity, value=look.test.z, threshold=threshold, score=score)
    verdict, detail = _g4_verdict(look, may_extend)
    evidence = _evidence(record, G4, observation.step, measure, detail)
    evidence.verdict = verdict
    evidence.twin.CopyFrom(look.test)
    return evidence


def _g4_verdict(look: Look, may_extend: bool) -> tuple[GateVerdict, str]:
    test = look.test
    if look.invalid:
        return FAIL, f"no usable evidence: {look.invalid}"
    said = f"look {test.look}: z = {test.z:.2f} against {test.z_threshold:.2f}"
    if look.is_better:
        return PASS, f"{said}, better than the twin by {test.gain:.4g}"
    if look.is_hopeless:
        return FAIL, f"{said}, the gain of {test.gain:.4g} stays below the margin of {test.margin:.4g}"
    if may_extend:
        return EXTEND, f"{said}, undecided: one more window"
    return FAIL, f"{said}, undecided, and no further window is left"


def _g4_muted(record: SeedRecord, observation: SeedObservation, life: LifeSettings) -> GateEvidence:
    """Cheaper, and blind to a host that adapted around the seed: the detail says so."""
    score = observation.judgement.muted
    z = z_score(score)
    quantity = "z of the muted score minus the grown network's"
    measure = Measure(quantity=quantity, value=z, threshold=MUTED_Z, score=score)
    detail = f"muted z = {z:.2f}; without a twin it is not proven that the host needed the seed"
    evidence = _evidence(record, G4, observation.step, measure, detail)
    if observation.judgement.look != record.look:
        return _failed(evidence, f"judged look {observation.judgement.look}, look {record.look} was asked for")
    if score.samples < life.min_samples:
        return _failed(evidence, f"{score.samples} samples, at least {life.min_samples} are needed")
    return evidence if z >= MUTED_Z else _failed(evidence, f"muted z = {z:.2f}, at least {MUTED_Z:g} is needed")


def g5_reset(record: SeedRecord, step: int, remains: Sequence[str], failure: str) -> GateEvidence:
    """Nothing of the seed is left in host, optimiser, registry or hooks."""
    measure = Measure(quantity="remains of the seed", value=float(len(remains)), threshold=0.0)
    evidence = _evidence(record, G5, step, measure, "clean")
    if failure:
        return _failed(evidence, f"the check failed: {failure}")
    return _failed(evidence, f"left behind: {', '.join(remains)}") if remains else evidence


def _kind_name(kind: int) -> str:
    return short_name(DirectiveKind, kind)


def _evidence(record: SeedRecord, gate: SeedGate, step: int, measure: Measure, detail: str) -> GateEvidence:
    """Evidence that passes, until something says otherwise."""
    score = measure.score
    return GateEvidence(
        seed_id=record.state.seed_id,
        gate=gate,
        verdict=PASS,
        step=step,
        quantity=measure.quantity,
        measured=measure.value,
        threshold=measure.threshold,
        standard_error=measure.standard_error,
        samples=None if score is None else score.samples,
        documents=None if score is None or not score.HasField("documents") else score.documents,
        detail=detail,
    )


def _failed(evidence: GateEvidence, detail: str) -> GateEvidence:
    evidence.verdict, evidence.detail = FAIL, detail
    return evidence


def undone(record: SeedRecord, gate: SeedGate, report: DirectiveReport) -> GateEvidence:
    """A directive whose result the gate needs, and which the executor could not carry out."""
    measure = Measure(quantity=f"result of {_kind_name(report.kind)}")
    return _failed(
        _evidence(record, gate, report.step, measure, ""), f"{_kind_name(report.kind)} failed: {report.failure}"
    )


def gave_way(record: SeedRecord, gate: SeedGate, report: DirectiveReport) -> GateEvidence:
    """The executor has taken the seed out by itself, and says why."""
    measure = Measure(quantity="room for the grown network")
    return _failed(_evidence(record, gate, report.step, measure, ""), report.failure)


def gain_of(score: PairedScore) -> tuple[float, float]:
    """Mean and standard error, as a seed's state reports them."""
    return score.mean, standard_error(score)
