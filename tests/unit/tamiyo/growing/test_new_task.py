"""A loss that has jumped and not come back is of a new task: its growth waits for no plateau, but for every risk."""

from __future__ import annotations

import math
from collections.abc import Callable

from esper.tamiyo.deciding.decide import Verdict
from tests.unit.tamiyo.builders import EVERY_STEPS, TOTAL_STEPS, Simulation, context, reasons

CHANGE = 800


def settled(step: int) -> float:
    """So low that nothing is left to gain."""
    return 0.01 + 2.2 * math.exp(-step / 40)


def halving(steps: int) -> float:
    """Falls by 80 % in 100 steps: no plateau before it is as low as it was."""
    return 3.0 * math.exp(-steps / 87)


def course(after: Callable[[int], float], *, is_kept: bool = True) -> list[Verdict]:
    """What is decided on a course that settles and is another one from the change on, by the steps since then."""

    def curve(step: int) -> tuple[float, float]:
        return (settled(step) if step < CHANGE else after(step - CHANGE)), 0.7

    return list(Simulation(curve=curve, is_kept=lambda seed: is_kept).run())


def growths(verdicts: list[Verdict]) -> list[tuple[int, str]]:
    """Step and first reason of each germination."""
    found = [(verdict, issue) for verdict in verdicts for issue in verdict.issues]
    return [
        (issue.command.step, reasons(verdict)[0])
        for verdict, issue in found
        if verdict.metadata.policy.action == "germinate"
    ]


def at(verdicts: list[Verdict], step: int) -> Verdict:
    return verdicts[step // EVERY_STEPS - 1]


def test_after_a_lasting_jump_growth_waits_out_the_risk_and_no_plateau() -> None:
    verdicts = course(halving)
    (step, reason), *later = growths(verdicts)
    assert reason == "NEW_TASK"
    assert CHANGE + context().config.conservative_dwell_steps < step < CHANGE + 2 * context().trigger.window_steps
    grown = at(verdicts, step)
    assert grown.signals.slope is not None
    assert grown.signals.slope > 0
    assert not at(verdicts, step - EVERY_STEPS).issues
    assert "jumped from 0.01" in grown.metadata.detail
    assert all(reason != "NEW_TASK" for _, reason in later)


def test_until_then_every_packet_is_held_by_a_risk() -> None:
    verdicts = course(halving)
    (step, _), *_ = growths(verdicts)
    held = [at(verdicts, now) for now in range(CHANGE, step, EVERY_STEPS)]
    assert {reasons(verdict)[0] for verdict in held} == {"RISK", "CONSERVATIVE"}
    assert all(verdict.state.conservative for verdict in held[:-1])


def test_one_growth_follows_a_jump_whether_it_is_kept_or_not() -> None:
    for is_kept in (True, False):
        found = growths(course(lambda steps: 2.0 + halving(steps), is_kept=is_kept))
        assert [reason for _, reason in found].count("NEW_TASK") == 1
        assert {reason for _, reason in found[1:]} <= {"PLATEAU"}


def test_a_jump_that_the_loss_comes_back_from_is_no_new_task() -> None:
    verdicts = course(lambda steps: settled(CHANGE + steps) + (3.0 if steps < 30 else 0.0))
    assert growths(verdicts) == []
    assert not verdicts[-1].state.HasField("jumped_from")


def test_a_loss_that_goes_on_rising_after_its_jump_is_never_grown_into() -> None:
    assert growths(course(lambda steps: math.exp(steps / 60))) == []


def test_a_loss_that_jumps_again_and_again_is_never_grown_into() -> None:
    assert growths(course(lambda steps: 1.0 if steps % 40 else 3.0)) == []


def test_a_loss_that_breaks_after_its_jump_is_held_as_before() -> None:
    assert growths(course(lambda steps: math.nan if steps else 3.0)) == []


def test_a_loss_that_still_falls_and_never_jumped_waits_as_before() -> None:
    assert growths(course(lambda steps: settled(CHANGE))) == []
    verdicts = list(Simulation(curve=lambda step: (2.3 * 0.5 ** (step / 90), 0.5)).run(to_step=400))
    assert growths(verdicts) == []
    assert {reasons(verdict)[0] for verdict in verdicts[TOTAL_STEPS // 100 :]} == {"STILL_IMPROVING"}


def test_where_too_few_steps_are_left_for_a_verdict_nothing_is_grown() -> None:
    late = CHANGE - 300

    def curve(step: int) -> tuple[float, float]:
        return (settled(step) if step < TOTAL_STEPS - late else halving(step - TOTAL_STEPS + late)), 0.7

    verdicts = list(Simulation(curve=curve).run())
    assert growths(verdicts) == []
