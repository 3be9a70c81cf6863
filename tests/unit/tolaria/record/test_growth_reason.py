"""The reason of now: the policy's own, an order's, or that of a missing answer; it survives a checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from esper.leyline import (
    CommandOutcome,
    Decision,
    DecisionMetadata,
    DecisionReason,
    DirectiveKind,
    EmergencySignal,
    GrowthState,
    SeedDirective,
    SystemMode,
)
from esper.tolaria.record.growth_reason import GrowthReason, in_words
from esper.tolaria.record.mode import CLEAN_RESULTS, L3, RunMode, Standing
from esper.tolaria.record.packet_result import PacketResult

R = DecisionReason
SATURATED = R.DECISION_REASON_SATURATED


def decided(reason: DecisionReason = SATURATED, detail: str = "99.5 % are right", **fields: Any) -> PacketResult:
    metadata = DecisionMetadata(reasons=[reason, R.DECISION_REASON_PLATEAU], detail=detail)
    return PacketResult(packet_index=0, decision=Decision(metadata=metadata), **fields)


def ordered(kind: DirectiveKind, rationale: str, **fields: Any) -> PacketResult:
    directive = SeedDirective(directive_id="d1", kind=kind, command_id="op-1", rationale=rationale)
    outcome = CommandOutcome(command_id="op-1", accepted=True, issued_by="operator:ada", directives=[directive])
    return decided(outcomes=(outcome,), directives=(directive,), **fields)


def told(why: GrowthReason) -> tuple[str, str, int]:
    assert why.now is not None
    return why.now.name, why.now.detail, why.now.since_step


def test_the_first_reason_of_a_decision_holds_since_the_step_at_which_it_was_first_heard() -> None:
    why = GrowthReason()
    assert why.now is None
    why.note(decided(), 10)
    why.note(decided(detail="99.6 % are right"), 20)
    assert told(why) == ("SATURATED", "99.6 % are right", 10)
    why.note(decided(R.DECISION_REASON_TOO_LATE, "5 steps are left"), 30)
    assert told(why) == ("TOO_LATE", "5 steps are left", 30)


def test_a_missing_answer_is_a_reason_of_its_own() -> None:
    why = GrowthReason()
    why.note(PacketResult(packet_index=0, failure="tamiyo: gone", cause="tamiyo_unavailable"), 10)
    assert told(why) == ("CONSERVATIVE", "tamiyo can't be reached", 10)


def test_a_pause_tells_who_ordered_it_and_why_until_growth_may_go_on() -> None:
    why = GrowthReason()
    paused = GrowthState(paused=True)
    why.note(ordered(DirectiveKind.DIRECTIVE_KIND_PAUSE_GROWTH, "new data comes at noon", growth=paused), 50)
    assert told(why) == ("PAUSED", "by operator:ada: new data comes at noon", 50)
    why.note(decided(growth=paused), 60)
    assert told(why) == ("PAUSED", "by operator:ada: new data comes at noon", 50)
    resumed = GrowthState(paused=False)
    why.note(ordered(DirectiveKind.DIRECTIVE_KIND_RESUME_GROWTH, "it is here", growth=resumed), 70)
    assert told(why) == ("SATURATED", "99.5 % are right", 70)


def test_a_pause_whose_order_was_not_heard_is_told_all_the_same() -> None:
    why = GrowthReason()
    why.note(decided(growth=GrowthState(paused=True)), 10)
    assert told(why)[:2] == ("PAUSED", "by an earlier order")
    why.note(decided(growth=GrowthState(paused=False)), 20)
    assert told(why)[0] == "SATURATED"


def test_what_held_before_too_little_was_left_is_kept_through_a_checkpoint() -> None:
    why, again = GrowthReason(), GrowthReason()
    why.note(decided(R.DECISION_REASON_BUDGET, "max_parameters is 9"), 10)
    why.note(decided(R.DECISION_REASON_TOO_LATE, "5 steps are left"), 20)
    again.load_state_dict(json.loads(json.dumps(why.state_dict())))
    assert again.before_late is not None
    assert again.before_late.in_words() == "budget: max_parameters is 9"
    assert told(again)[0] == "TOO_LATE"
    again.forget(next_packet=3)
    assert again.before_late is None


def test_where_no_policy_decides_growth_is_off() -> None:
    why = GrowthReason()
    why.note(PacketResult(packet_index=0), 10)
    assert told(why)[0] == "GROWTH_OFF"


@pytest.mark.parametrize("is_paused", [False, True])
def test_it_goes_on_from_a_checkpoint(is_paused: bool) -> None:
    why, again = GrowthReason(), GrowthReason()
    if is_paused:
        growth = GrowthState(paused=True)
        why.note(ordered(DirectiveKind.DIRECTIVE_KIND_PAUSE_GROWTH, "lunch", growth=growth), 10)
    else:
        why.note(decided(), 10)
    again.load_state_dict(json.loads(json.dumps(why.state_dict())))
    assert again.now == why.now
    for each in (why, again):
        each.note(decided(), 20)
    assert again.now == why.now


def test_a_fresh_state_goes_through_a_checkpoint_too() -> None:
    again = GrowthReason()
    again.load_state_dict(json.loads(json.dumps(GrowthReason().state_dict())))
    assert again.now is None


def test_a_reason_in_words_needs_no_detail() -> None:
    assert in_words("STILL_IMPROVING", "the loss falls") == "still improving: the loss falls"
    assert in_words("NO_SLOT", "") == "no slot"


def test_an_emergency_of_the_plane_is_the_reason_also_behind_a_missing_answer() -> None:
    why, mode = GrowthReason(), RunMode()
    why.note(PacketResult(packet_index=0, failure="tamiyo: gone", cause="tamiyo_unavailable"), 10)
    signal = EmergencySignal(level=L3, detail="a drill", origin="operator:ada", emergency_id="e1")
    mode.hear(Standing(mode=SystemMode.SYSTEM_MODE_EMERGENCY, emergencies=(signal,)))
    why.note(decided(), 20, is_conservative=mode.is_conservative, plane=mode.plane.word)
    said = "the plane is EMERGENCY, L3_CONSERVATIVE: a drill (raised by operator:ada, id e1)"
    assert told(why) == ("CONSERVATIVE", said, 10)
    mode.hear(Standing())
    why.note(decided(), 30, is_conservative=mode.is_conservative, plane=mode.plane.word)
    assert told(why)[0] == "SATURATED"


def test_while_the_mode_is_conservative_so_is_the_reason() -> None:
    why, mode = GrowthReason(), RunMode()
    lost = PacketResult(packet_index=0, failure="tamiyo: gone", cause="tamiyo_unavailable")
    course = [decided(), lost, decided(), lost, *[decided()] * (CLEAN_RESULTS - 1)]
    heard = []
    for step, result in enumerate(course):
        mode.note(result.reason)
        why.note(result, step, is_conservative=mode.is_conservative)
        heard.append(told(why))
    assert heard[0] == ("SATURATED", "99.5 % are right", 0)
    assert set(heard[1:]) == {("CONSERVATIVE", "tamiyo can't be reached", 1)}
    mode.note(None)
    why.note(decided(), 20, is_conservative=mode.is_conservative)
    assert told(why) == ("SATURATED", "99.5 % are right", 20)


def test_another_course_forgets_what_was_decided_on_the_old_one_but_no_order() -> None:
    why = GrowthReason()
    why.note(decided(), 10)
    why.forget(next_packet=7)
    assert why.now is None
    old = ordered(DirectiveKind.DIRECTIVE_KIND_PAUSE_GROWTH, "noon", growth=GrowthState(paused=True))
    why.note(replace(old, packet_index=6), 20)
    assert why.now is None
    why.note(replace(decided(growth=GrowthState(paused=True)), packet_index=7), 30)
    assert told(why) == ("PAUSED", "by operator:ada: noon", 30)
