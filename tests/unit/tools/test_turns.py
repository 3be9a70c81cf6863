"""Threads in turns: one at a time, forth and back, clocks that stand while others run."""

from __future__ import annotations

import sys
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PATH = Path(__file__).parents[3] / "tools" / "bench" / "turns.py"


def load() -> ModuleType:
    spec = spec_from_file_location("turns", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    # A dataclass with slots looks its module up.
    sys.modules["turns"] = module
    spec.loader.exec_module(module)
    return module


turns = load()


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


def test_a_clock_stands_while_others_have_their_turn() -> None:
    def quick(turn: Any) -> Any:
        turn.hand_over()
        turn.stop_clock()
        return turn.spent

    def slow(turn: Any) -> Any:
        time.sleep(0.5)
        turn.stop_clock()
        return turn.spent

    spent = turns.take_turns({"quick": quick, "slow": slow})
    assert spent["slow"].wall_s >= 0.5
    assert spent["quick"].wall_s < 0.4
    assert spent["quick"].stolen_s >= 0


def test_what_came_before_the_clock_started_is_not_counted() -> None:
    def task(turn: Any) -> float:
        time.sleep(0.5)
        turn.start_clock()
        turn.stop_clock()
        return float(turn.spent.wall_s)

    assert turns.take_turns({"only": task})["only"] < 0.4


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
