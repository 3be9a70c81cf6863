"""Threads in turns: one at a time, forth and back, clocks that stand while others run."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.tools.benches import TIMING, load

turns = load("turns", TIMING)


def test_turns_go_forth_and_back_and_whoever_is_done_is_left_out() -> None:
    went: list[str] = []

    def task(name: str, times: int) -> Any:
        def run(turn: Any) -> str:
            for _ in range(times - 1):
                went.append(name)
                turn.hand_over()
            went.append(name)
            return name.upper()

        return run

    results = turns.take_turns({"a": task("a", 3), "b": task("b", 3), "c": task("c", 1)})
    assert results == {"a": "A", "b": "B", "c": "C"}
    assert went == ["a", "b", "c", "b", "a", "a", "b"]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What all clocks of turns show; a task moves it on by hand."""
    shown = turns.Spent()

    def now() -> Any:
        return turns.Spent(shown.wall_s, shown.wall_s / 2, shown.wall_s / 4, shown.wall_s / 8)

    monkeypatch.setattr(turns.Spent, "now", now)
    return shown


def test_a_clock_stands_while_others_have_their_turn(clock: Any) -> None:
    def task(before_s: float, after_s: float) -> Any:
        def run(turn: Any) -> Any:
            clock.wall_s += before_s
            turn.hand_over()
            clock.wall_s += after_s
            turn.stop_clock()
            return turn.spent

        return run

    spent = turns.take_turns({"quick": task(1.0, 2.0), "slow": task(100.0, 200.0)})
    assert spent == {
        "quick": turns.Spent(3.0, 1.5, 0.75, 0.375),
        "slow": turns.Spent(300.0, 150.0, 75.0, 37.5),
    }


def test_what_came_before_the_clock_started_is_not_counted(clock: Any) -> None:
    def task(turn: Any) -> Any:
        clock.wall_s += 5.0
        turn.start_clock()
        clock.wall_s += 1.0
        turn.stop_clock()
        return turn.spent

    assert turns.take_turns({"only": task})["only"] == turns.Spent(1.0, 0.5, 0.25, 0.125)


def test_what_others_do_for_a_turn_counts_until_it_has_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    worked = {"service": 0.0}

    def sleep(seconds: float) -> None:
        worked["service"] += 1.0

    def with_service(turn: Any) -> Any:
        turn.beside = lambda: dict(worked)
        turn.start_clock()
        worked["service"] += 10.0
        turn.hand_over()
        worked["service"] += 20.0
        turn.settle()
        return turn.spent_beside_s

    def without(turn: Any) -> Any:
        worked["service"] += 100.0
        turn.settle()
        return turn.spent_beside_s

    monkeypatch.setattr(turns.time, "sleep", sleep)
    spent = turns.take_turns({"with": with_service, "without": without})
    assert spent == {"with": {"service": 10.0 + 1.0 + 20.0 + 1.0}, "without": {}}


def test_clocks_go_forward() -> None:
    first = turns.Spent.now()
    later = turns.Spent.now()
    assert later.wall_s >= first.wall_s > 0
    assert later.cpu_s >= first.cpu_s > 0
    assert later.stolen_s >= first.stolen_s >= 0
    assert later.thread_s >= first.thread_s > 0


def test_a_task_that_fails_lets_the_others_end_and_is_heard() -> None:
    ended: list[str] = []

    def failing(turn: Any) -> None:
        turn.hand_over()
        raise RuntimeError("broken")

    def sound(turn: Any) -> None:
        turn.hand_over()
        turn.hand_over()
        ended.append("sound")

    with pytest.raises(RuntimeError, match="broken"):
        turns.take_turns({"failing": failing, "sound": sound})
    assert ended == ["sound"]
