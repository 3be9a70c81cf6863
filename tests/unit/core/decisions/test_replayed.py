"""Differences are told by path, at any depth, and only where there are some."""

from __future__ import annotations

import pytest
from google.protobuf.message import Message

from esper.core.decisions.decision_ledger import Decided
from esper.core.decisions.replayed import Outcome, Replayed, differences
from esper.leyline import (
    AdaptationCommand,
    AdvanceResponse,
    Decision,
    DecisionMetadata,
    GateEvidence,
    GateVerdict,
    PairedScore,
    PauseOrder,
    PolicyMetadata,
    PruneOrder,
    SignedCommand,
)

ROW = Decided(
    run_id="r", generation=1, step=1, kind="packet", version=1, before=b"", given=b"", decision=b"", after=b""
)


def signed(**action: Message) -> SignedCommand:
    command = AdaptationCommand(command_id="c", **action)  # type: ignore[arg-type]
    return SignedCommand(payload=command.SerializeToString())


@pytest.mark.parametrize(
    ("recorded", "now", "told"),
    [
        (PairedScore(mean=1.0), PairedScore(mean=2.0), ["mean: 1.0 -> 2.0"]),
        (PairedScore(), PairedScore(mean=0.0), ["mean: nothing -> 0.0"]),
        (PairedScore(mean=float("nan")), PairedScore(mean=float("nan")), []),
        (PairedScore(mean=float("nan"), samples=1), PairedScore(mean=float("nan"), samples=2), ["samples: 1 -> 2"]),
        (
            AdvanceResponse(gates=[GateEvidence(seed_id="s1", verdict=GateVerdict.GATE_VERDICT_PASS)]),
            AdvanceResponse(gates=[GateEvidence(seed_id="s1", verdict=GateVerdict.GATE_VERDICT_FAIL)]),
            ["gates[0].verdict: GATE_VERDICT_PASS -> GATE_VERDICT_FAIL"],
        ),
        (
            AdvanceResponse(gates=[GateEvidence(seed_id="s1")]),
            AdvanceResponse(),
            ['gates[0]: {seed_id: "s1"} -> nothing'],
        ),
        (Decision(command_ids=["a"]), Decision(command_ids=["a", "b"]), ["command_ids[1]: nothing -> 'b'"]),
        (
            Decision(commands=[signed(pause=PauseOrder(rationale="a"))]),
            Decision(commands=[signed(pause=PauseOrder(rationale="b"))]),
            ["commands[0].pause.rationale: 'a' -> 'b'"],
        ),
        (
            Decision(commands=[signed(prune=PruneOrder(seed_id="s1", rationale="r"))]),
            Decision(),
            ["commands[0]: prune s1: r -> nothing"],
        ),
    ],
)
def test_what_differs_is_told_by_its_path(recorded: Message, now: Message, told: list[str]) -> None:
    assert differences(recorded, now) == told
    assert differences(recorded, recorded) == []


@pytest.mark.parametrize(("now", "told"), [("b", True), ("a", False)])
def test_whether_a_policy_saw_other_inputs_is_told_apart_from_what_it_decided(now: str, told: bool) -> None:
    def outcome(digest: str, command_id: str) -> Outcome:
        policy = PolicyMetadata(observation_digest=digest)
        decision = Decision(command_ids=[command_id], metadata=DecisionMetadata(policy=policy))
        return Outcome(decision=decision, after=Decision())

    again = Replayed(row=ROW, given=Decision(), recorded=outcome("a", "c1"), now=outcome(now, "c2"), version=1)
    assert again.inputs_differ is told
    gates = Outcome(decision=AdvanceResponse(), after=Decision())
    assert Replayed(row=ROW, given=Decision(), recorded=gates, now=gates, version=1).inputs_differ is None
