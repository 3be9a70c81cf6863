"""Rollback: the newer of memory and disk, within its deadline; then the other; then an error that says which it was."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from esper.core.errors import RollbackFailed, RollbackLate
from esper.tolaria.record.observer import RollbackFigures
from esper.tolaria.recovery.checkpoint import CheckpointStore, Found
from esper.tolaria.recovery.snapshot import Snapshot
from esper.tolaria.recovery.tiers.deadline import Deadline
from tests.unit.tolaria.recovery.test_going_back import Moments


class SlowStore(CheckpointStore):
    """A disk that hangs in every read until the test is over."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, keep=3)
        self.is_over = threading.Event()

    def newest(
        self, to_step: int | None = None, check: Callable[[], None] = lambda: None, *, is_passing: bool = False
    ) -> Found:
        self.is_over.wait(20.0)
        check()
        return super().newest(to_step, check, is_passing=is_passing)


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[SlowStore]:
    store = SlowStore(tmp_path)
    yield store
    store.is_over.set()


def figures(moments: Moments) -> RollbackFigures:
    """What was told last, without what differs from machine to machine."""
    told = moments.heard.rollbacks[-1]
    return replace(told, fast_size_bytes=0, snapshot_ms=0.0, restore_latency_ms=0.0, snapshots=0)


def no_time(moments: Moments, *tiers: str) -> None:
    for name in tiers:
        getattr(moments.saves._rollback, name).deadline_s = -1.0 if name == "fast" else 0.02


def test_where_both_have_a_state_it_comes_from_memory(tmp_path: Path) -> None:
    moments = Moments(CheckpointStore(tmp_path, keep=2))
    moments.make(2)
    moments.save()
    saved = moments.whole()
    moments.make(1)
    _, told = moments.saves.go_back((None,))
    assert moments.whole() == saved
    assert told.startswith("from memory")
    assert figures(moments) == RollbackFigures(fast_hits=1)


def test_both_tiers_restore_the_same_to_the_bit(tmp_path: Path) -> None:
    course = []
    for is_fast in (True, False):
        moments = Moments(CheckpointStore(tmp_path / str(is_fast), keep=2))
        moments.make(3)
        moments.save()
        if not is_fast:
            moments.fast.forget_after(0)
        moments.make(2)
        _, told = moments.saves.go_back((None,))
        assert told.startswith("from memory" if is_fast else "from disk")
        moments.make(4)
        course.append(moments.whole())
    assert course[0] == course[1]


def test_what_is_too_late_from_memory_comes_from_the_disk_and_is_counted(tmp_path: Path) -> None:
    moments = Moments(CheckpointStore(tmp_path, keep=2))
    moments.make(2)
    moments.save()
    saved = moments.whole()
    moments.make(1)
    no_time(moments, "fast")
    _, told = moments.saves.go_back((None,))
    assert moments.whole() == saved
    assert told.startswith("from disk")
    assert figures(moments) == RollbackFigures(fast_misses=1, deadline_exceeded=1)
    assert [notice.name for notice in moments.heard.notices] == ["tolaria.rollback.tier_failed"]
    assert "time or memory decided" in moments.session.progress.history.causes[-1]


@pytest.mark.parametrize("every", [0, 2])
def test_a_resumed_run_that_went_further_back_than_it_was_resumed_may_have_lost_a_snapshot(
    tmp_path: Path, every: int
) -> None:
    store = CheckpointStore(tmp_path, keep=3)
    before = Moments(store, snapshot_every_steps=every)
    for _ in range(2):
        before.make(2)
        before.save()
    older, newer = store.steps()[0], store.steps()[-1]
    for bound, is_doubted in ((newer, False), (older, every > 0)):
        resumed = Moments(store, snapshot_every_steps=every)
        resumed.saves.restore(resumed.saves.newest())
        resumed.make(1)
        resumed.saves.go_back((bound,))
        cause = f"resumed at step {newer} without the snapshots of before, and back to step {older}"
        assert resumed.session.progress.history.causes == ([cause] if is_doubted else [])


def test_nothing_in_time_is_late_and_counted_and_the_hanging_disk_changes_nothing_later(slow: SlowStore) -> None:
    moments = Moments(slow)
    moments.make(2)
    moments.save()
    moments.make(1)
    no_time(moments, "fast", "full")
    left = moments.session.progress.step
    with pytest.raises(RollbackLate, match="from disk") as late:
        moments.saves.go_back((None,))
    assert late.value.deadline_ms == 20.0
    assert late.value.elapsed_ms >= 20.0
    assert figures(moments) == RollbackFigures(fast_misses=1, failures=1, deadline_exceeded=2)
    before = moments.whole()
    slow.is_over.set()
    for thread in threading.enumerate():
        if thread.name == "restore-disk":
            thread.join(20.0)
    assert (moments.whole(), moments.session.progress.step) == (before, left)


def test_a_disk_that_hangs_is_not_asked_while_memory_has_the_newest_state(slow: SlowStore) -> None:
    moments = Moments(slow)
    moments.make(1)
    moments.save()
    moments.make(1)
    assert moments.saves.go_back((None,))[1].startswith("from memory")


def test_a_damaged_checkpoint_is_passed_over_for_an_older_one(tmp_path: Path) -> None:
    moments = Moments(CheckpointStore(tmp_path, keep=2))
    for _ in range(2):
        moments.make(1)
        moments.save()
    moments.fast.forget_after(0)
    newest = max(tmp_path.glob("step-*"))
    newest.write_bytes(newest.read_bytes()[:-1])
    moments.saves.go_back((None,))
    assert moments.session.progress.step == 1


@pytest.mark.parametrize("has_store", [True, False])
def test_nothing_to_go_back_to_is_an_error_but_no_missed_deadline(tmp_path: Path, has_store: bool) -> None:
    moments = Moments(CheckpointStore(tmp_path, keep=2) if has_store else None)
    with pytest.raises(RollbackFailed, match="nothing to go back to"):
        moments.saves.go_back((None,))
    assert figures(moments) == RollbackFigures(fast_misses=1, failures=1)


def test_a_state_that_is_loaded_too_late_is_taken_counted_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = Moments(CheckpointStore(tmp_path, keep=2))
    moments.make(2)
    moments.save()
    saved = moments.whole()
    moments.make(1)
    restore, loaded = moments.saves.restore, list[Snapshot]()

    def late(snapshot: Snapshot) -> None:
        restore(snapshot)
        loaded.append(snapshot)

    moments.fast.deadline_s = 10.0
    monkeypatch.setattr(moments.saves, "restore", late)
    monkeypatch.setattr(Deadline, "is_missed", property(lambda deadline: bool(loaded)))
    _, told = moments.saves.go_back((None,))
    assert moments.whole() == saved
    assert told.startswith("from memory")
    assert figures(moments) == RollbackFigures(fast_hits=1, deadline_exceeded=1)
    assert [notice.name for notice in moments.heard.notices] == ["tolaria.rollback.late"]
    assert not moments.session.progress.history.causes
