"""Curves from events: what the trunk is made of, and that a fork's branches differ by their losses alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.tolaria.record.course.reading import standing
from esper.tolaria.record.page.curves import BRANCH_POINTS, TRUNK_POINTS, Curves, curves

Events = list[dict[str, Any]]


def boundary(step: int, loss: float) -> dict[str, Any]:
    return {"kind": "boundary", "step": step, "loss": loss, "smoothed_loss": 0.0, "seeds": []}


def twin(from_step: int, losses: list[float | None], seed_id: str = "s1") -> dict[str, Any]:
    step = from_step + len(losses) - 1
    return {"kind": "twin", "step": step, "from_step": from_step, "seed_id": seed_id, "losses": losses}


def moved(step: int, to_stage: str, seed_id: str = "s1") -> dict[str, Any]:
    return {"kind": "transition", "step": step, "seed_id": seed_id, "to_stage": to_stage, "reason": "because"}


def forked(fate: str, grown: float = 2.0, other: float = 4.0, stop: int = 60) -> Events:
    """Boundaries every 10 steps at a loss of 8; between steps 20 and 40 the arms are apart."""
    events: Events = []
    for step in range(10, stop + 1, 10):
        inside = 20 < step <= 40
        events.append(boundary(step, grown if inside else 8.0))
        events += [twin(step - 9, [other] * 10)] if inside else []
    return [*events, *([moved(40, fate)] if fate else [])]


def steps_of(found: Curves) -> list[list[int]]:
    return [[step for step, _ in piece] for piece in found.trunk]


def value_at(step: int, points: Any) -> float:
    return float(dict(points)[step])


@pytest.mark.parametrize(("fate", "survivor"), [("FOSSILIZED", "grown"), ("CULLED", "twin"), ("", "grown")])
def test_the_trunk_leaves_out_the_window_and_goes_on_from_the_arm_that_was_kept(fate: str, survivor: str) -> None:
    found = curves(forked(fate))
    (fork,) = found.forks
    assert (fork.start, fork.end, fork.fate) == (20, 40, fate)
    assert [step for step, _ in fork.grown] == [step for step, _ in fork.twin] == [20, 30, 40]
    assert steps_of(found) == [[10, 20], [40, 50, 60]]
    assert found.trunk[0][-1] == fork.grown[0] == fork.twin[0]
    assert found.trunk[1][0] == getattr(fork, survivor)[-1]
    assert [loss for _, loss in found.measured] == [8, 8, *([2, 2] if survivor == "grown" else [4, 4]), 8, 8]


def test_where_memory_ran_out_the_trunk_goes_on_from_the_twin_though_nobody_judged() -> None:
    installed = {"kind": "directive", "step": 40, "seed_id": "s1", "directive": "INSTALL_TWIN", "succeeded": True}
    assert curves([*forked(""), installed]) == curves(forked("CULLED"))
    assert curves([*forked(""), {**installed, "succeeded": False}]) == curves(forked(""))


def test_smoothing_weighs_every_step_as_the_run_does() -> None:
    found = curves(forked("CULLED"), 0.05)
    kept = 0.95**10
    assert value_at(30, found.forks[0].grown) == pytest.approx(2 + kept * (8 - 2))
    assert value_at(40, found.forks[0].twin) == pytest.approx(4 + kept**2 * (8 - 4))
    assert value_at(50, found.trunk[1]) == pytest.approx(8 + kept * (value_at(40, found.forks[0].twin) - 8))


@given(st.lists(st.floats(0.1, 9.0), min_size=20, max_size=20))
def test_two_arms_with_the_same_losses_have_one_curve(losses: list[float]) -> None:
    means = [sum(losses[:10]) / 10, sum(losses[10:]) / 10]
    events = [boundary(10, 5.0), boundary(20, means[0]), boundary(30, means[1]), twin(11, [*losses])]
    (fork,) = curves(events).forks
    assert fork.grown == fork.twin


def test_a_twin_that_made_its_steps_later_in_one_burst_is_drawn_at_its_own_steps() -> None:
    at_once = curves(forked("CULLED")).forks
    late = [event for event in forked("CULLED") if event["kind"] != "twin"]
    assert curves([*late, twin(21, [4.0] * 20)]).forks == at_once


def test_losses_that_are_no_numbers_leave_gaps_and_spoil_nothing() -> None:
    events = [boundary(10, 1.0), boundary(20, math.nan), boundary(30, 2.0), twin(11, [None] * 10), twin(21, [3.0] * 10)]
    found = curves(events)
    shown = [*found.measured, *(point for fork in found.forks for point in (*fork.grown, *fork.twin))]
    assert shown
    assert all(math.isfinite(value) for _, value in shown)
    assert curves([boundary(10, 1.0), twin(1, [None] * 10)]).forks == []


def test_two_forks_follow_each_other() -> None:
    events = [boundary(step, 1.0) for step in range(10, 101, 10)]
    events += [twin(11, [2.0] * 20), moved(30, "CULLED"), twin(31, [3.0] * 20, "s2"), moved(50, "FOSSILIZED", "s2")]
    found = curves(events)
    assert [(fork.seed_id, fork.start, fork.end) for fork in found.forks] == [("s1", 10, 30), ("s2", 30, 50)]
    assert found.forks[1].grown[0] == found.forks[0].twin[-1]
    assert steps_of(found) == [[10], [30], [50, 60, 70, 80, 90, 100]]


def test_what_a_resumed_run_undid_is_in_no_curve() -> None:
    events = [boundary(10, 1.0), {"kind": "checkpoint", "step": 10}, boundary(20, 9.0), twin(11, [9.0] * 10)]
    resumed = [{"kind": "resumed", "step": 10}, boundary(20, 1.0), twin(11, [2.0] * 10)]
    (fork,) = curves(standing([*events, *resumed])).forks
    assert [loss for _, loss in fork.measured_grown] == [1.0]
    assert [loss for _, loss in fork.measured_twin] == [2.0]


@pytest.mark.parametrize("boundaries", [1, 2, 399, 400, 401, 5_000])
def test_however_long_the_run_its_curves_have_few_points_and_their_ends(boundaries: int) -> None:
    events = [boundary(step, float(step)) for step in range(1, boundaries + 1)]
    events += [twin(2, [0.0] * (boundaries - 1))] if boundaries > 1 else []
    found = curves(events)
    for points in (found.measured, *found.trunk):
        assert len(points) <= TRUNK_POINTS + 2
    assert found.measured[0] == (1, 1.0)
    assert found.measured[-1][0] == boundaries
    for fork in found.forks:
        assert max(len(fork.grown), len(fork.twin)) <= BRANCH_POINTS + 2
        assert fork.twin[-1][0] == fork.grown[-1][0] == boundaries
    assert found.steps_a_point == max(1, math.ceil(boundaries / TRUNK_POINTS))


def test_an_empty_run_has_no_curves() -> None:
    assert curves([]) == Curves(measured=[], trunk=[], forks=[], steps_a_point=1)
