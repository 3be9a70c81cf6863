"""Saving a moment and going back to it: what is put back, what goes on, and when it is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from esper.core.clock import SYSTEM_CLOCK
from esper.core.errors import ConfigError, RollbackFailed
from esper.kasmina.executor import Collected
from esper.leyline import SystemStatePacket
from esper.tolaria.config import TrainConfig
from esper.tolaria.loop.arm_steps import ArmSteps
from esper.tolaria.loop.session import Session
from esper.tolaria.loop.setback import Setback
from esper.tolaria.plane.hardware import HardwareMeter
from esper.tolaria.plane.null_control import NullControl
from esper.tolaria.plane.packets import PacketBuilder
from esper.tolaria.plane.pipeline import Pipeline
from esper.tolaria.record.history import History
from esper.tolaria.record.observer import Notice, Observer, RollbackFigures
from esper.tolaria.record.packet_result import PacketResult
from esper.tolaria.record.progress import Progress
from esper.tolaria.record.signals import Signals
from esper.tolaria.recovery.checkpoint import CheckpointStore
from esper.tolaria.recovery.going_back import GoingBack
from esper.tolaria.recovery.saves import Saves
from esper.tolaria.recovery.tiers.fast import FastTier
from esper.tolaria.task.prepare import prepare

CONFIG = TrainConfig(samples=300, hidden=(4,), epochs=9, min_samples=20, checkpoint_every_epochs=1, max_rollbacks=2)


class Heard(Observer):
    """Keeps what it is told out of the ordinary."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []
        self.rollbacks: list[RollbackFigures] = []

    def on_events(self, notices: Any) -> None:
        self.notices.extend(notices)

    def on_rollback(self, figures: RollbackFigures) -> None:
        self.rollbacks.append(figures)


class Stateless(NullControl):
    """Services that answer, but can't give their states."""

    def take(self, packet_index: int) -> PacketResult:
        return replace(super().take(packet_index), states=None)


class Moments:
    """A session whose steps a test makes, and what saves and restores it."""

    def __init__(self, store: CheckpointStore | None = None, **settings: Any) -> None:
        run = prepare(replace(CONFIG, **settings))
        self.heard = Heard()
        self.session = Session(
            run=run,
            progress=Progress(signals=Signals(CONFIG.smoothing)),
            packets=PacketBuilder(run.run_id, HardwareMeter(run.device, run.config.threads, SYSTEM_CLOCK)),
            observer=self.heard,
            clock=SYSTEM_CLOCK,
        )
        self.steps = ArmSteps(self.session)
        self.saves = Saves(self.session, self.steps, store)
        self.going_back = GoingBack(self.session, self.saves)
        self.pipeline = Pipeline(NullControl(), lag=1)

    def make(self, steps: int) -> None:
        for _ in range(steps):
            self.steps.make()

    def hand_over(self) -> None:
        self.pipeline.hand_over(SystemStatePacket(), Collected(), want_state=True)

    def save(self) -> bool:
        """Save what stands, with one packet in flight, as at a boundary."""
        self.hand_over()
        return self.saves.write(self.pipeline, at_once=True)

    def digest(self) -> str:
        return self.session.run.executor.arm.digest()

    def whole(self) -> str:
        """All of the executor that a checkpoint would hold, tensors by their bytes; the count of changes rises."""
        return repr(_plain({**self.session.run.executor.state_dict(), "topology": 0}))

    @property
    def fast(self) -> FastTier:
        return self.saves._rollback.fast


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return (value.dtype, tuple(value.shape), value.detach().numpy().tobytes())
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value


@pytest.fixture
def moments() -> Moments:
    return Moments()


def test_a_save_that_is_owed_already_is_told_when_it_is_postponed_and_once(moments: Moments) -> None:
    moments.make(1)
    moments.pipeline = Pipeline(Stateless(), lag=1)
    moments.saves.owe()
    for _ in range(2):
        assert not moments.save()
    assert [notice.name for notice in moments.heard.notices] == ["tolaria.checkpoint_postponed"]
    moments.pipeline = Pipeline(NullControl(), lag=1)
    assert moments.save()
    assert not moments.saves.is_due


def test_going_back_restores_the_weights_and_books_what_is_undone(moments: Moments) -> None:
    moments.make(2)
    assert moments.save()
    saved, spent = moments.digest(), moments.session.progress.macs.total
    moments.make(2)
    moments.session.progress.generation = 5
    wasted = moments.session.progress.macs.total - spent
    snapshot = moments.going_back.go(Setback(why="the loss is nan"))
    progress = moments.session.progress
    assert (moments.digest(), progress.step, snapshot.next_packet) == (saved, 2, 1)
    assert (progress.generation, progress.history.rollbacks, progress.macs.undone) == (5, 1, wasted)
    assert not moments.saves.is_due
    (told,) = moments.heard.notices
    assert told.message.startswith("the loss is nan; back to step 2 from memory in ")


def test_a_state_that_has_proven_itself_is_preferred_to_a_newer_one(moments: Moments) -> None:
    for _ in range(2):
        moments.make(1)
        moments.save()
    moments.going_back.go(Setback(why="why", proven_to=1))
    assert moments.session.progress.step == 1
    moments.going_back.go(Setback(why="why", proven_to=0))
    assert moments.session.progress.step == 1, "none is proven, so the newest is tried"


def test_what_is_newer_than_the_state_gone_back_to_is_of_a_course_given_up(tmp_path: Path) -> None:
    kept = Moments(CheckpointStore(tmp_path, keep=3))
    for _ in range(3):
        kept.make(1)
        kept.save()
    kept.going_back.go(Setback(why="why", to_step=1))
    assert CheckpointStore(tmp_path, keep=3).steps() == [1]
    kept.make(1)
    kept.going_back.go(Setback(why="why"))
    assert kept.session.progress.step == 1


def test_each_return_is_slower_whichever_state_it_leads_to(moments: Moments) -> None:
    slower, factors = Setback(why="why", is_slower=True), []
    moments.make(1)
    moments.save()
    for _ in range(2):
        moments.going_back.go(slower)
        factors.append(moments.session.run.executor.arm.scheduler.factor)
    assert factors == [pytest.approx(CONFIG.rollback_lr_factor ** (n + 1)) for n in range(2)]
    assert moments.saves.is_due
    moments.make(1)
    moments.save()
    assert not moments.saves.is_due
    moments.session.progress.history.rollbacks = 0
    moments.going_back.go(slower)
    assert moments.session.run.executor.arm.scheduler.factor == pytest.approx(CONFIG.rollback_lr_factor**3)


def test_a_rate_that_a_command_changed_stays_changed(moments: Moments) -> None:
    moments.session.run.executor.arm.scheduler.factor = 0.1
    moments.make(1)
    moments.save()
    moments.going_back.go(Setback(why="why", is_slower=True))
    assert moments.session.run.executor.arm.scheduler.factor == pytest.approx(0.1 * CONFIG.rollback_lr_factor)


def test_a_batch_that_fails_twice_is_passed_over_with_the_one_before_it(moments: Moments) -> None:
    moments.make(1)
    moments.save()
    for expected in ([], [6, 7]):
        moments.going_back.go(Setback(why="why", is_slower=True, failed_step=7))
        assert moments.session.progress.history.passed_over == expected
    assert History.from_state(moments.session.progress.history.state_dict()).passed_over == [6, 7]


def test_once_too_often_is_refused_and_so_is_going_back_to_nothing(moments: Moments) -> None:
    with pytest.raises(RollbackFailed, match="why; nothing to go back to"):
        moments.going_back.go(Setback(why="why"))
    moments.make(1)
    moments.save()
    moments.session.progress.history.rollbacks = CONFIG.max_rollbacks
    with pytest.raises(RollbackFailed, match="why; 2 of max_rollbacks = 2 were made already"):
        moments.going_back.go(Setback(why="why"))


def test_an_order_is_told_where_it_can_lead(moments: Moments) -> None:
    obstacle = moments.going_back.obstacle
    assert obstacle(Setback(why="why")) == "no state was kept yet"
    moments.make(2)
    moments.save()
    assert obstacle(Setback(why="why")) == obstacle(Setback(why="why", to_step=2)) == ""
    assert obstacle(Setback(why="why", to_step=1)).startswith("no state up to step 1 is kept; it can go back to 2: ")
    moments.session.progress.history.rollbacks = CONFIG.max_rollbacks
    assert obstacle(Setback(why="why")) == "2 of max_rollbacks = 2 were made already"


def test_a_moment_without_the_services_states_is_owed(moments: Moments) -> None:
    moments.make(1)
    assert not moments.saves.write(Pipeline(NullControl(), lag=1), at_once=True)
    assert moments.saves.is_due
    assert [notice.name for notice in moments.heard.notices] == ["tolaria.checkpoint_postponed"]
    assert moments.save()
    assert not moments.saves.is_due


def test_only_a_run_that_keeps_checkpoints_and_is_not_finished_goes_on(moments: Moments, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="keeps no checkpoints"):
        moments.saves.newest()
    kept = Moments(CheckpointStore(tmp_path, keep=2))
    kept.make(2)
    kept.save()
    assert kept.saves.newest().progress["step"] == 2
    kept.saves.write_final(kept.pipeline, {"weights_digest": "0" * 64})
    with pytest.raises(ConfigError, match="the run is finished"):
        kept.saves.newest()
