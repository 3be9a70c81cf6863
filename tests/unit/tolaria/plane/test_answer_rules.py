"""Each rule by itself: what an answer must have in common with its question and with the run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from esper.core.errors import InvalidAnswer
from esper.leyline import (
    AdvanceRequest,
    AdvanceResponse,
    Decision,
    DirectiveKind,
    SeedDirective,
    SeedState,
    SubmitOutcomeResponse,
    SystemStatePacket,
)
from esper.tolaria.plane.answer_rules import (
    RunFacts,
    advance_violations,
    decision_violations,
    directive_violations,
    report_violations,
    require,
    state_violations,
)
from tests.unit.tolaria.plane.wire import SLOT, decision, state_blob

K = DirectiveKind
PACKET = SystemStatePacket(training_run_id="run", packet_index=1, step=10, generation=1)
FACTS = RunFacts(slots=frozenset({SLOT}), seeds={"s1"})


def spoilt(spoil: Callable[[Decision], object]) -> list[str]:
    given = decision(PACKET)
    spoil(given)
    return list(decision_violations(given, PACKET))


def twice(given: Decision) -> None:
    given.commands.append(given.commands[0])
    given.command_ids.append(given.command_ids[0])


def test_a_decision_on_the_packet_breaks_no_rule() -> None:
    assert spoilt(lambda given: None) == []


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda given: setattr(given, "packet_index", 0), "packet_index is 0, expected 1"),
        (lambda given: setattr(given, "generation", 7), "generation is 7, expected 1"),
        (lambda given: given.command_ids.append("c"), "it names 2 commands and holds 1"),
        (lambda given: given.ClearField("command_ids"), "it names 0 commands and holds 1"),
        (twice, "it holds 2 commands; with 0 seeds there can be 1"),
        (twice, "command 'run-g1-c1' stands there 2 times"),
        (lambda given: setattr(given.commands[0], "audience", "kasmina/other"), "audience is 'kasmina/other'"),
        (lambda given: setattr(given.commands[0], "payload_type", "RunClosure"), "payload_type is 'RunClosure'"),
        (lambda given: setattr(given.commands[0], "payload", b"\xff"), "command 'run-g1-c1' doesn't parse"),
        (lambda given: given.replayed_command_ids.append("c7"), "command 'c7' is replayed; Kasmina replays none"),
        (lambda given: given.command_ids.__setitem__(0, "c9"), "the command's own id is 'run-g1-c1', expected 'c9'"),
    ],
)
def test_a_decision_that_answers_something_else_is_refused(spoil: Callable[[Decision], object], complaint: str) -> None:
    assert any(complaint in found for found in spoilt(spoil))


@pytest.mark.parametrize("kind", [K.DIRECTIVE_KIND_INSTALL_TWIN, K.DIRECTIVE_KIND_DROP_TWIN, K.DIRECTIVE_KIND_FOLD])
def test_a_directive_for_a_seed_that_the_run_never_had_is_refused(kind: DirectiveKind) -> None:
    given = SeedDirective(directive_id="d1", kind=kind, seed_id="stranger")
    assert list(directive_violations([given], FACTS)) == [
        "directive 'd1' is about seed 'stranger'; the run has no such seed"
    ]
    given.seed_id = "s1"
    assert list(directive_violations([given], FACTS)) == []


def test_a_seed_is_known_from_the_answer_that_builds_it_on() -> None:
    twin = SeedDirective(directive_id="d1", kind=K.DIRECTIVE_KIND_SNAPSHOT_TWIN, seed_id="s2")
    build = SeedDirective(directive_id="d2", kind=K.DIRECTIVE_KIND_BUILD, seed_id="s2", slot_id=SLOT)
    assert list(directive_violations([twin, build], FACTS)) == []
    build.slot_id = "elsewhere"
    assert list(directive_violations([twin, build], FACTS)) == [
        "directive 'd2' is about slot 'elsewhere'; the run has no such slot"
    ]


@pytest.mark.parametrize("kind", [K.DIRECTIVE_KIND_HALT, K.DIRECTIVE_KIND_PAUSE_GROWTH, K.DIRECTIVE_KIND_ROLLBACK])
def test_an_order_about_the_whole_run_names_no_seed(kind: DirectiveKind) -> None:
    assert list(directive_violations([SeedDirective(directive_id="d1", kind=kind)], FACTS)) == []


def test_an_answer_to_another_advance_is_refused() -> None:
    request = AdvanceRequest(generation=2, step=50)
    seeds = [SeedState(seed_id="s1", slot_id=SLOT), SeedState(seed_id="s1", slot_id="elsewhere")]
    given = AdvanceResponse(generation=1, step=40, seeds=seeds)
    assert list(advance_violations(given, request, FACTS)) == [
        "generation is 1, expected 2",
        "step is 40, expected 50",
        "seed 's1' stands there 2 times",
        "seed 's1' is in slot 'elsewhere', which this run doesn't have",
    ]


def test_a_state_that_is_damaged_or_another_services_is_refused() -> None:
    blob = state_blob("kasmina")
    assert list(state_violations("kasmina", blob)) == []
    assert "state_type" in next(state_violations("tamiyo", blob))
    blob.state += b"\x00"
    assert list(state_violations("kasmina", blob)) == ["the digest doesn't match the state"]


def test_a_flood_of_violations_is_told_in_one_short_line() -> None:
    with pytest.raises(InvalidAnswer) as refused:
        require("Decision of tamiyo", (f"violation {number}" for number in range(100_000)))
    assert len(str(refused.value)) < 200
    assert str(refused.value).endswith("and more")


def test_a_command_that_kasmina_replays_may_be_told_of_once() -> None:
    given = decision(PACKET)
    given.replayed_command_ids.append("c7")
    assert list(decision_violations(given, PACKET, {"c7"})) == []
    given.replayed_command_ids.append("c7")
    assert list(decision_violations(given, PACKET, {"c7"})) == ["command 'c7' stands there 2 times"]


def test_a_closed_report_is_that_of_one_command() -> None:
    assert list(report_violations(SubmitOutcomeResponse(closed_report_ids=["fr-c1", "fr-c2"]))) == []
    twice = SubmitOutcomeResponse(closed_report_ids=["fr-c1", "fr-c1"])
    assert list(report_violations(twice)) == ["closed report 'fr-c1' stands there 2 times"]
    for report_id in ("c1", "fr-"):
        (told,) = report_violations(SubmitOutcomeResponse(closed_report_ids=[report_id]))
        assert told == f"closed report {report_id!r} is that of no command"
