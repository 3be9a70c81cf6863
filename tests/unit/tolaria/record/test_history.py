"""A run's past for its summary: counted once, saved whole."""

from __future__ import annotations

import pytest

from esper.kasmina.executor import MemoryNote
from esper.leyline import (
    CommandOutcome,
    CoverageSummary,
    Decision,
    DecisionMetadata,
    GateEvidence,
    GrowthState,
    PolicyMetadata,
    RejectionReason,
    SeedGate,
    SeedStage,
    SeedState,
    StackTest,
)
from esper.tolaria.record.history import History
from esper.tolaria.record.packet_result import REASONS, PacketResult
from esper.tolaria.record.stack_judgement import judgement

RESULTS = [
    PacketResult(
        packet_index=0,
        decision=Decision(command_ids=["c1", "c2", "c3"]),
        outcomes=(
            CommandOutcome(command_id="c1", accepted=True),
            CommandOutcome(command_id="c2", accepted=False, rejection=RejectionReason.REJECTION_REASON_BUDGET_EXCEEDED),
        ),
        seeds=(SeedState(seed_id="s1", stage=SeedStage.SEED_STAGE_BLENDING),),
        growth=GrowthState(germinated=1),
    ),
    PacketResult(packet_index=1, failure="no answer", cause="timeout"),
    PacketResult(packet_index=2, failure="no answer", cause="timeout"),
    PacketResult(
        packet_index=3,
        outcomes=(CommandOutcome(command_id="c3", accepted=True), CommandOutcome(command_id="op", accepted=True)),
        seeds=(SeedState(seed_id="s1", stage=SeedStage.SEED_STAGE_FOSSILIZED),),
    ),
]


def look(step: int, gain: float | None = None) -> GateEvidence:
    test = StackTest(look=1, evaluations=8, graft_step=10, margin=0.002, z_threshold=2.3)
    if gain is not None:
        test.gain, test.standard_error, test.z, test.forecast_grown = gain, 0.1, 2.5, 0.3
    return GateEvidence(seed_id="s1", step=step, gate=SeedGate.SEED_GATE_G4_SYSTEM_IMPACT, stack=test)


def test_looks_at_a_stack_are_kept_in_order_told_once_and_saved_and_the_last_ones_figures_are_told() -> None:
    history = History()
    for step, gain in ((20, None), (30, 0.1), (30, 0.1), (40, 0.2)):
        history.note(PacketResult(packet_index=step, gates=(look(step, gain), GateEvidence(seed_id="s2", step=step))))
    for each in (history, History.from_state(history.state_dict())):
        assert list(each.looks) == ["s1"]
        told = judgement(each.looks["s1"], 77)
        assert told is not None
        assert (told["looks"], told["step"], told["gain"], told["gain_standard_error"]) == (3, 40, 0.2, 0.1)
        assert told["forecast"] == {"grown": 0.3, "twin": None, "twin_at_equal_flops": None}
        assert (told["gain_at_equal_flops"], told["evaluation_macs"], told["margin"]) == (None, 77, 0.002)
    assert judgement((), 0) is None


def noted() -> History:
    history = History()
    for result in RESULTS:
        history.note(result)
    return history


def test_commands_are_counted_once_by_their_outcome() -> None:
    assert noted().command_counts() == {"issued": 4, "accepted": 3, "rejected": {"budget_exceeded": 1}}


def test_a_command_that_was_sent_again_counts_with_each_of_its_outcomes() -> None:
    history = noted()
    replayed = CommandOutcome(
        command_id="c1", accepted=False, rejection=RejectionReason.REJECTION_REASON_NONCE_REPLAYED
    )
    history.note(PacketResult(packet_index=4, outcomes=(replayed, *RESULTS[0].outcomes)))
    rejected = {"budget_exceeded": 1, "nonce_replayed": 1}
    assert history.command_counts() == {"issued": 5, "accepted": 3, "rejected": rejected}
    assert History.from_state(history.state_dict()) == history


def test_a_command_without_an_outcome_is_issued_and_neither_accepted_nor_rejected() -> None:
    history = History()
    history.note(RESULTS[0])
    assert history.command_counts() == {"issued": 3, "accepted": 1, "rejected": {"budget_exceeded": 1}}


def test_failures_are_counted_and_their_cause_is_kept_once() -> None:
    history = noted()
    assert (history.timeouts, history.failures, history.causes) == (2, 2, ["an answer missed its deadline"])


def test_no_doubt_is_without_words() -> None:
    history = History()
    for words in ("", " "):
        with pytest.raises(ValueError, match="needs a cause in words"):
            history.doubt(words)
    assert history.causes == []


def test_every_failure_of_a_packet_is_a_cause_in_words() -> None:
    for cause in (None, "", "timeout", "kasmina_timeout", "tamiyo_invalid", "broken_off", *REASONS):
        history = History()
        history.note(PacketResult(packet_index=0, failure="no answer of kasmina", cause=cause))
        (told,) = history.causes
        assert told.strip()


def test_an_operators_command_that_acts_makes_the_run_irreproducible_and_a_policys_does_not() -> None:
    history = History()
    policys = CommandOutcome(command_id="c1", accepted=True, issued_by="tamiyo")
    refused = CommandOutcome(command_id="p1", accepted=False, issued_by="operator:ada")
    history.note(PacketResult(packet_index=0, outcomes=(policys, refused)))
    assert history.causes == []
    acted = CommandOutcome(command_id="p2", accepted=True, issued_by="operator:ada")
    for index in (1, 2):
        history.note(PacketResult(packet_index=index, outcomes=(acted,)))
    assert history.causes == ["operator:ada gave command p2"]


def test_another_policy_in_the_middle_of_a_run_makes_it_irreproducible() -> None:
    history = History()
    for version, causes in (
        ("1.0.0", []),
        ("1.0.0", []),
        ("1.1.0", ["policy heuristic 1.0.0 gave way to heuristic 1.1.0"]),
    ):
        policy = PolicyMetadata(policy_id="heuristic", version=version)
        history.note(PacketResult(packet_index=0, decision=Decision(metadata=DecisionMetadata(policy=policy))))
        assert history.causes == causes
    assert history.policy == "heuristic 1.1.0"
    assert History.from_state(history.state_dict()) == history


def test_decisions_that_rest_on_other_inputs_than_before_make_a_run_irreproducible() -> None:
    history = History()
    for inputs, causes in (("packet:v1", 0), ("packet:v1", 0), ("packet:v1+time", 1), ("packet:v1+time", 1)):
        coverage = CoverageSummary(provenance=inputs)
        history.note(PacketResult(packet_index=0, decision=Decision(metadata=DecisionMetadata(coverage=coverage))))
        assert len(history.causes) == causes
        history = History.from_state(history.state_dict())
    assert history.causes == ["decisions rested on the inputs packet:v1, now they rest on packet:v1+time"]


def test_a_run_that_goes_on_under_another_policy_is_not_reproducible() -> None:
    history = History()
    for digest, causes in (("a", 0), ("a", 0), ("b", 1), ("b", 1)):
        history.pin_policy(digest)
        assert len(history.causes) == causes
        history = History.from_state(history.state_dict())
    assert history.policy_digest == "b"
    assert "its digest was a, now it is b" in history.causes[0]


def test_the_last_word_about_a_seed_counts_and_silence_changes_nothing() -> None:
    history = noted()
    assert history.seeds["s1"].stage == SeedStage.SEED_STAGE_FOSSILIZED
    assert history.growth.germinated == 1


def test_what_was_saved_is_read_back() -> None:
    history = noted()
    assert History.from_state(history.state_dict()) == history


def memory(mode: str, step: int, seed_id: str = "s1", **figures: int | None) -> MemoryNote:
    return MemoryNote(seed_id=seed_id, step=step, mode=mode, why=f"why {mode}", figures=figures)


def test_each_twin_is_told_once_with_what_was_foreseen_measured_and_became_of_it() -> None:
    history = History()
    for note in (
        memory("live", 10, predicted_bytes=90, free_bytes=100),
        memory("bursts", 14, predicted_bytes=60, free_bytes=100),
        memory("ended", 20, measured_bytes=80),
        memory("refused", 40, "s2", predicted_bytes=200, free_bytes=100),
    ):
        history.note_memory(note)
    first, second = history.twins
    assert (first["mode"], first["became"]) == ("live", "bursts")
    assert (first["predicted_bytes"], first["measured_bytes"], first["ended_step"]) == (90, 80, 20)
    assert first["became_step"] == 14
    assert (second["mode"], second["why"], second["step"]) == ("refused", "why refused", 40)
    assert History.from_state(history.state_dict()).twins == history.twins
