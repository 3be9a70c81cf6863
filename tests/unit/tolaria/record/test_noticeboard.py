"""What other threads say is told by the training thread, at the newest step, once and in order."""

from __future__ import annotations

import threading

from esper.tolaria.record.noticeboard import Noticeboard
from esper.tolaria.record.observer import Notice
from tests.unit.tolaria.observed import boundary, started


def test_what_was_pinned_is_told_at_the_next_boundary_with_its_step() -> None:
    told: list[Notice] = []
    board = Noticeboard(told.extend)
    board.on_start(started(step=500))
    board.pin("service_lost", "tamiyo ended")
    board.pin("service_restarted", "tamiyo started again")
    assert told == []
    board.on_boundary(boundary(510))
    assert [(notice.step, notice.name, notice.message) for notice in told] == [
        (510, "service_lost", "tamiyo ended"),
        (510, "service_restarted", "tamiyo started again"),
    ]
    board.on_boundary(boundary(520))
    assert len(told) == 2


def test_it_is_told_on_the_training_thread_alone() -> None:
    tellers: list[int] = []
    board = Noticeboard(lambda notices: tellers.append(threading.get_ident()))
    others = [threading.Thread(target=board.pin, args=("service_lost", "x")) for _ in range(8)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    board.on_boundary(boundary(10))
    assert tellers == [threading.get_ident()] * 8


def test_what_came_before_the_start_and_after_the_last_boundary_is_told_too() -> None:
    told: list[Notice] = []
    board = Noticeboard(told.extend)
    assert board.step is None
    board.pin("service_lost", "early")
    board.on_start(started())
    board.on_boundary(boundary(1000))
    board.pin("service_lost", "late")
    board.on_finish({})
    assert [(notice.step, notice.message) for notice in told] == [(0, "early"), (1000, "late")]
