"""The scenarios use the whole vocabulary of the rules: whatever is declared and appears in none of them is named.

A new reason, event, gate, verdict or input needs a scenario in which it appears, or a line in one of the tables below
that names the test in which it does. tools/check_contract looks for uses in the source; here they are seen.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from google.protobuf.descriptor import FieldDescriptor

import esper.leyline as leyline
from esper.kasmina import metrics as kasmina
from esper.nissa import metrics as nissa
from esper.tamiyo import metrics as tamiyo
from esper.tolaria import metrics as tolaria
from esper.weatherlight import metrics as weatherlight
from tests.scenarios import gate_player, policy_player
from tests.scenarios.reading import MEMORY, Seen, files, read
from tools.declared.schema import MESSAGES, closure

ROOT = Path(__file__).parents[2]
PLAYED = ("kasmina", "tamiyo")

# What the rules are given and what they answer; each field of it, and of what is in it, takes at least two values.
HEARD_AND_SAID = (
    *("SystemStatePacket", "Decision", "AdaptationCommand", "CommandOutcome", "AdvanceRequest", "AdvanceResponse"),
    *("SeedRecord", "FieldReport", "PolicyUpdate", "ApplyPolicyUpdateResponse"),
)
NOT_THE_RULES = {
    "SignedCommand": "the envelope: tests/contract/test_forgery.py",
    "CommandSecurity": "the same",
    "TraceContext": "tests/unit/core/test_tracing.py",
    "BlendSettings": "a run's own wishes: tests/unit/tamiyo/growing/test_blends.py",
    "Observation": "the scenarios don't explore: tests/unit/tamiyo/learned/test_exploring.py",
    "ObservedCandidate": "the same",
}
SPOKEN = sorted(closure(MESSAGES[name] for name in HEARD_AND_SAID) - NOT_THE_RULES.keys())

# Fields that have one value in every scenario, and the test or the reason.
SAME = {
    **dict.fromkeys(
        (
            f"{kind}.rationale"
            for kind in ("EmergencyOrder", "PauseOrder", "PruneOrder", "ResumeOrder", "RollbackOrder")
        ),
        "a person's words, which decide nothing",
    ),
    **dict.fromkeys(
        (f"OptimizerAdjustment.{name}" for name in ("learning_rate_factor", "momentum", "weight_decay")),
        "tests/unit/kasmina/control/orders/test_dispatch.py",
    ),
    "CircuitBreakerOrder.breaker": "there is one",
    "CircuitBreakerOrder.rationale": "a person's words, which decide nothing",
    "PruneOrder.seed_id": "the scenario keeps one seed",
    "AdvanceRequest.delivery_only": "a trainer's resume: tests/unit/tolaria/plane/test_control.py",
    "Decision.latency_ms": "the scenarios' clock stands still: tests/unit/tamiyo/service/test_evaluation.py",
    "FieldReportDelta.tamiyo_latency_ms": "their clock stands still: tests/unit/tamiyo/field_reports/test_reports.py",
    "FieldReportDelta.twin_score": "the scenarios' twins score alike: tests/unit/tamiyo/field_reports/test_reports.py",
    "PolicyMetadata.log_probability": "the heuristic is deterministic: tests/unit/tamiyo/learned/test_exploring.py",
    "PolicyMetadata.policy_id": "the scenarios have one policy",
    "SeedDirective.part": "judging sets are scored whole: tests/unit/kasmina/control/stages/test_stack_course.py",
    "SeedDirective.parts": "the same: tests/unit/kasmina/control/stages/test_stack_course.py",
    "StackEvaluation.part": "the same: tests/unit/kasmina/executor/judge/test_scores.py",
    "TriggerSettings.stack_rule": "the scenarios' stacks come at fixed steps: tests/unit/tamiyo/test_stack_rules.py",
}

# Enums of which every value appears, and the field that carries it.
VOCABULARY = {
    "RiskReason": [("RiskFinding", "reason")],
    "RiskEffect": [("RiskFinding", "effect")],
    "DecisionReason": [("DecisionMetadata", "reasons")],
    "PolicySignalId": [("PolicySignal", "id")],
    "PolicyUpdateRejection": [("ApplyPolicyUpdateResponse", "rejection")],
    "SeedGate": [("GateEvidence", "gate")],
    "GateVerdict": [("GateEvidence", "verdict")],
    "SeedStage": [("SeedState", "stage")],
    "DirectiveKind": [("SeedDirective", "kind")],
    "SeedOperationKind": [("SeedOperation", "operation")],
    "BlendMode": [("BlendConfig", "mode")],
    "BlendSchedule": [("BlendConfig", "schedule")],
    "ConfidenceKind": [("BlendConfig", "confidence")],
}
VALUES_ELSEWHERE: dict[str, str] = {
    "DECISION_REASON_EXPLORED": "tests/unit/tamiyo/learned/test_exploring.py",
    "DECISION_REASON_LEARNED": "tests/unit/tamiyo/learned/test_policy.py",
    "POLICY_UPDATE_REJECTION_FEATURE_VERSION": "tests/unit/tamiyo/learned/test_weights.py",
    "POLICY_UPDATE_REJECTION_INVALID_WEIGHTS": "tests/unit/tamiyo/learned/test_weights.py",
    "POLICY_UPDATE_REJECTION_REPLAYED": "tests/unit/tamiyo/learned/test_lane.py",
    "POLICY_UPDATE_REJECTION_UNAUTHENTIC": "tests/unit/tamiyo/learned/test_lane.py",
}

# Events that no scenario brings about, and the file whose tests do.
EVENTS_ELSEWHERE = {
    "replay_diverged": "tests/unit/kasmina/control/test_authority.py",
    "policy_shadowed": "tests/unit/tamiyo/learned/test_adoption.py",
    "policy_swapped": "tests/unit/tamiyo/learned/test_adoption.py",
    "policy_rolled_back": "tests/unit/tamiyo/learned/test_adoption.py",
}
METRICS_ELSEWHERE: dict[str, str] = {
    "tamiyo.policy.learned_decisions": "tests/unit/tamiyo/learned/test_lane.py",
    "tamiyo.policy.reward": "tests/unit/tamiyo/learned/test_lane.py",
}
# Services whose every event is walked by a test of their own.
WALKED = {"tolaria": "tests/unit/tolaria/record/test_telemetry.py"}


def test_the_scenarios_use_the_whole_vocabulary() -> None:
    """One test, because it plays every scenario; it names everything that fails or is missing at once."""
    seen, failures = Seen(), []
    for room, player in (("policy", policy_player), ("gates", gate_player)):
        for path in files(room):
            scene = read(path, player.Scene, player.Stage)  # type: ignore[attr-defined]
            with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
                try:
                    player.play(scene, Path(folder), seen)  # type: ignore[attr-defined]
                except AssertionError as error:
                    failures.append(f"{room}/{path.name}: {error}")
    assert [*failures, *fields(seen), *values(seen), *events(seen), *measured(seen)] == []


def fields(seen: Seen) -> Iterator[str]:
    same = {
        f"{name}.{field.name}"
        for name in SPOKEN
        for field in getattr(leyline, name).DESCRIPTOR.fields
        if len(seen.values.get((name, field.name), ())) < least(field)
    }
    return compared(same, SAME, "no scenario shows it with two values: write one, or remove the field", "SAME")


def least(field: FieldDescriptor) -> int:
    """A message's values are those of its own fields; the field that holds one is always there, or may be absent."""
    return 1 if field.message_type is not None and not field.is_repeated else 2


def values(seen: Seen) -> Iterator[str]:
    """Every value of the rules' enums."""
    missing = {
        value.name
        for name, places in VOCABULARY.items()
        for value in getattr(leyline, name).DESCRIPTOR.values
        if value.number and not any(value.number in seen.values.get(place, ()) for place in places)
    }
    what = "no scenario shows it: write one, or remove the value"
    return compared(missing, VALUES_ELSEWHERE, what, "VALUES_ELSEWHERE")


def events(seen: Seen) -> Iterator[str]:
    missing = {name for name, service in declared() if service in PLAYED} - seen.events
    what = "no scenario brings it about: write one, or name its test"
    return compared(missing, EVENTS_ELSEWHERE, what, "EVENTS_ELSEWHERE")


def measured(seen: Seen) -> Iterator[str]:
    missing = {spec.name for registry in (kasmina, tamiyo) for spec in registry.METRICS} - seen.metrics
    what = "no scenario measures it: write one, or name its test"
    return compared(missing, METRICS_ELSEWHERE, what, "METRICS_ELSEWHERE")


def compared(missing: set[str], excused: Mapping[str, str], what: str, table: str) -> Iterator[str]:
    yield from (f"{name}: {what} in {table}" for name in sorted(missing - excused.keys()))
    yield from (f"{name}: a scenario shows it now: take it out of {table}" for name in sorted(excused.keys() - missing))


def declared() -> Iterator[tuple[str, str]]:
    """Every event by its name, with the service that tells it."""
    for service in (kasmina, nissa, tamiyo, tolaria, weatherlight):
        yield from ((spec.name, service.__name__.split(".")[1]) for spec in service.EVENTS)


def test_the_tests_that_are_named_speak_of_it() -> None:
    for name, path in (EVENTS_ELSEWHERE | METRICS_ELSEWHERE).items():
        assert name in (ROOT / path).read_text(), f"{path} doesn't speak of {name}"


def test_every_other_event_is_spoken_of_in_a_test() -> None:
    texts = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    others = {name for name, service in declared() if service not in {*PLAYED, *WALKED}}
    assert {name for name in others if name not in texts} == set(), "no test waits for it"
    for path in WALKED.values():
        assert "EVENTS" in (ROOT / path).read_text()


def test_whatever_is_missing_is_named() -> None:
    assert len(list(fields(Seen()))) > 100
    assert any(line.startswith("RISK_REASON_LOSS_SPIKE: no scenario shows it") for line in values(Seen()))
    assert any(line.startswith("loss_spike: no scenario brings it about") for line in events(Seen()))
    assert list(compared(set(), {"gone": "once"}, "", "TABLE")) == [
        "gone: a scenario shows it now: take it out of TABLE"
    ]
