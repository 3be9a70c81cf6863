"""Processor time by who used it: threads by the turn in which they came up, processes by their number."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from tests.unit.tools.benches import TIMING, load

processor_time = load("processor_time", TIMING)


@pytest.fixture
def ran_s(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """The threads that there are, and how long each has run; a test lets them come, run and end."""
    threads: dict[int, float] = {threading.get_native_id(): 1.0}

    def thread_s(thread_id: int) -> float:
        if thread_id not in threads:
            raise OSError
        return threads[thread_id]

    def listed(path: str) -> list[str]:
        assert path == "/proc/self/task"
        return [str(thread_id) for thread_id in threads]

    monkeypatch.setattr(processor_time, "thread_s", thread_s)
    monkeypatch.setattr(processor_time.os, "listdir", listed)
    return threads


def test_a_thread_belongs_to_the_one_in_whose_turn_it_came_up(ran_s: dict[int, float]) -> None:
    helpers = processor_time.Helpers()
    helpers.leave_out()
    ran_s[1] = 2.0
    assert helpers.spent_s("a") == 2.0
    ran_s |= {1: 3.0, 2: 5.0}
    assert helpers.spent_s("b") == 5.0
    assert helpers.spent_s("a") == 3.0


def test_a_thread_that_trains_is_no_helper_even_if_it_was_taken_for_one(ran_s: dict[int, float]) -> None:
    helpers = processor_time.Helpers()
    assert helpers.spent_s("a") == 1.0
    helpers.leave_out()
    assert helpers.spent_s("a") == 0.0


def test_a_thread_that_has_ended_counts_with_what_was_last_seen(ran_s: dict[int, float]) -> None:
    helpers = processor_time.Helpers()
    helpers.leave_out()
    ran_s[1] = 2.0
    helpers.spent_s("a")
    del ran_s[1]
    assert helpers.spent_s("a") == 2.0


def test_this_thread_and_this_process_have_run() -> None:
    before = time.thread_time()
    assert processor_time.thread_s(threading.get_native_id()) >= before > 0
    assert processor_time.process_s(os.getpid()) >= before


def test_what_runs_beside_is_told_by_name(ran_s: dict[int, float]) -> None:
    helpers = processor_time.Helpers()
    helpers.leave_out()
    ran_s[1] = 2.0
    told = processor_time.spent_beside_s(helpers, "a", {"self": os.getpid()})
    assert told["threads"] == 2.0
    assert told["self"] > 0
    assert list(told) == ["threads", "self"]


def test_a_process_that_is_gone_is_refused() -> None:
    child: Any = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert processor_time.process_s(child.pid) >= 0
    child.communicate(b"\n")
    with pytest.raises(OSError, match="Invalid"):
        processor_time.process_s(child.pid)
