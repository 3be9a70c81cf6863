"""Checkpoints are written while training goes on, hold their own moment, and fail as loudly as ever."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from esper.core.errors import StorageError
from esper.tolaria.plane.null_control import NullControl
from esper.tolaria.record.packet_result import PacketResult
from esper.tolaria.recovery.checkpoint import CheckpointStore
from tests.unit.tolaria.scripted_control import ScriptedControl
from tests.unit.tolaria.test_trainer import CONFIG, KEPT, KilledError, Recorder, run

PATIENCE_S = 60.0
SECOND = 12  # the step of the run's second checkpoint: the first is written at once, to be read back


class SlowStore(CheckpointStore):
    """Writes the second checkpoint once it is let."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, keep=9)
        self.may_go_on = threading.Event()
        self.writers: dict[int, str] = {}

    def write(self, content: bytes, step: int) -> Path:
        self.writers[step] = threading.current_thread().name
        if step == SECOND:
            assert self.may_go_on.wait(PATIENCE_S)
        return super().write(content, step)


class FullStore(CheckpointStore):
    """Has no room for a second checkpoint."""

    def write(self, content: bytes, step: int) -> Path:
        if step == SECOND:
            raise StorageError("no space left on device")
        return super().write(content, step)


class Releasing(Recorder):
    """Lets the second checkpoint be written once so many more steps were made."""

    def __init__(self, store: SlowStore, at_step: int, kill_at: int | None = None) -> None:
        super().__init__(kill_at)
        self.store, self.at_step = store, at_step

    def on_steps(self, steps: Any) -> None:
        if not self.store.may_go_on.is_set():
            assert SECOND not in [written.step for written in self.checkpoints]
        if any(done.step >= self.at_step for done in steps):
            self.store.may_go_on.set()
        super().on_steps(steps)


def test_training_goes_on_while_a_checkpoint_is_written_and_ends_in_the_same_weights(tmp_path: Path) -> None:
    store = SlowStore(tmp_path)
    recorder = Releasing(store, at_step=17)
    summary = run(CONFIG, ScriptedControl(KEPT), observer=recorder, store=store)
    assert summary["weights_digest"] == run(CONFIG, ScriptedControl(KEPT))["weights_digest"]
    assert [written.step for written in recorder.checkpoints][:3] == [8, SECOND, 20]
    main = threading.main_thread().name
    assert store.writers[8] == main  # the first is read back before anyone relies on it
    assert store.writers[SECOND] != main
    assert store.writers[48] == main  # at the end nothing is left to be done beside


@pytest.mark.parametrize(("kill_at", "newest"), [(17, SECOND), (23, SECOND), (27, 20)])
def test_what_is_written_later_is_the_moment_at_which_it_was_due(tmp_path: Path, kill_at: int, newest: int) -> None:
    whole = run(CONFIG, ScriptedControl(KEPT))["weights_digest"]
    store = SlowStore(tmp_path)
    with pytest.raises(KilledError):
        run(CONFIG, ScriptedControl(KEPT), observer=Releasing(store, at_step=16, kill_at=kill_at), store=store)
    recorder = Recorder()
    resumed = run(CONFIG, ScriptedControl(KEPT), observer=recorder, store=CheckpointStore(tmp_path, 9), resume=True)
    assert recorder.started[0].step == newest
    assert resumed["weights_digest"] == whole


def test_a_full_disk_ends_the_run_at_the_next_boundary(tmp_path: Path) -> None:
    recorder = Recorder()
    with pytest.raises(StorageError, match="no space left"):
        run(CONFIG, observer=recorder, store=FullStore(tmp_path, 9))
    assert recorder.steps[-1].step <= 24
    assert CheckpointStore(tmp_path, 9).steps() == [8]


class Forgetful(NullControl):
    """Can't tell the services' states after the packet of the second checkpoint's boundary."""

    def take(self, packet_index: int) -> PacketResult:
        result = super().take(packet_index)
        return replace(result, states=None) if packet_index == SECOND // 4 - 1 else result


def test_a_moment_whose_states_never_come_is_made_up_for(tmp_path: Path) -> None:
    recorder = Recorder()
    run(CONFIG, Forgetful(), observer=recorder, store=CheckpointStore(tmp_path, 9))
    assert "tolaria.checkpoint_postponed" in [notice.name for notice in recorder.notices]
    assert [written.step for written in recorder.checkpoints][:3] == [8, 20, 24]


def test_an_interruption_is_saved_at_once_behind_what_is_being_written(tmp_path: Path) -> None:
    store, recorder = SlowStore(tmp_path), Recorder()
    store.may_go_on.set()
    run(CONFIG, observer=recorder, store=store, should_stop=lambda: len(recorder.steps) >= SECOND)
    assert store.steps()[-2:] == [8, SECOND] or store.steps()[-2:] == [SECOND, 16]
    assert [written.step for written in recorder.checkpoints] == store.steps()


def test_without_copies_in_memory_training_waits(tmp_path: Path) -> None:
    store = SlowStore(tmp_path)
    store.may_go_on.set()
    run(replace(CONFIG, snapshot_every_steps=0), store=store)
    assert set(store.writers.values()) == {threading.main_thread().name}
