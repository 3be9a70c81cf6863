"""Runs that meet what takes them back: they recover from memory or the disk, or stop loudly with a good state."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from esper.core.errors import LossDiverged, NonFiniteLoss, RollbackFailed, RollbackLate
from esper.kasmina.executor import Collected
from esper.kasmina.executor.contents import filling
from esper.kasmina.executor.contents.filling import Pair
from esper.leyline import GateEvidence, GateVerdict, HealthStatus, SeedGate, SeedState, SystemStatePacket
from esper.tolaria.config import TrainConfig
from esper.tolaria.plane.open_control import Opening
from esper.tolaria.recovery.checkpoint import CheckpointStore
from esper.tolaria.recovery.tiers import fast, placing
from esper.tolaria.task.prepare import Prepared, prepare
from esper.tolaria.trainer import Trainer
from tests.unit.tolaria.scripted_control import ScriptedControl, fetch_artifact, germination
from tests.unit.tolaria.test_trainer import CONFIG as GROWING
from tests.unit.tolaria.test_trainer import KEPT, KilledError, Recorder

CONFIG = replace(
    GROWING,
    on_nonfinite="rollback",
    snapshot_every_steps=4,
    checkpoint_every_epochs=0,
    # No load makes a restore late that isn't meant to be.
    rollback_fast_deadline_s=60.0,
    rollback_full_deadline_s=60.0,
)
BAD_STEP = 14
"""Its twin lives from 8 to 24."""


class Poisoned:
    """A loader with a batch of NaN at one step, in every pass over it."""

    def __init__(self, run: Prepared, steps: set[int]) -> None:
        self._loader = run.loader
        self._steps = steps
        self.is_replayable, self.steps_per_epoch = run.loader.is_replayable, run.loader.steps_per_epoch
        self.given: list[int] = []

    def batch(self, step: int) -> Any:
        self.given.append(step)
        inputs, targets = self._loader.batch(step)
        return (torch.full_like(inputs, float("nan")) if step in self._steps else inputs), targets


class Course:
    """One run under a scripted plane, with what a test breaks in it."""

    def __init__(self, config: TrainConfig, store: CheckpointStore | None = None, *, bad: set[int] | None = None):
        self.run = prepare(config, fetch_artifact)
        self.loader = Poisoned(self.run, bad or set())
        self.run.loader = self.loader  # type: ignore[assignment]
        self.recorder = Recorder()
        self.openings: list[Opening] = []
        self.control: Callable[[], ScriptedControl] = lambda: ScriptedControl(KEPT)
        self.trainer = Trainer(self.run, self._open, self.recorder, store=store)

    def _open(self, opening: Opening) -> ScriptedControl:
        self.openings.append(opening)
        return self.control()

    def train(self, *, resume: bool = False) -> dict[str, Any]:
        return self.trainer.train(resume=resume)

    def told(self, name: str) -> list[str]:
        return [notice.message for notice in self.recorder.notices if notice.name == name]

    @property
    def is_finite(self) -> bool:
        return all(bool(part.isfinite().all()) for part in self.run.executor.arm.model.parameters())


@pytest.mark.parametrize("tier", ["memory", "disk"])
def test_a_poisoned_batch_is_tried_twice_and_then_passed_over(tmp_path: Path, tier: str) -> None:
    other = {"snapshot_every_steps": 0, "checkpoint_every_epochs": 1}
    settings = replace(CONFIG, **(other if tier == "disk" else {}))
    course = Course(settings, CheckpointStore(tmp_path, keep=3), bad={BAD_STEP})
    summary = course.train()
    assert summary["finished"]
    assert course.is_finite
    assert (summary["rollbacks"], summary["passed_over"]) == (2, [BAD_STEP - 1, BAD_STEP])
    first, second = course.told("tolaria.rollback")
    assert "step 14: the training loss is nan; back to step" in first
    assert all(f"from {tier} in " in message for message in (first, second))
    assert first.endswith(" ms, at 0.5 of the learning rate")
    assert second.endswith(" ms, at 0.25 of the learning rate")
    assert course.loader.given.count(BAD_STEP) == 2
    assert [opening.gives_up_course for opening in course.openings] == [False, True, True]
    assert summary["reproducible"]


def test_a_run_goes_back_to_the_same_weights_whichever_tier_it_goes_back_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A twin is in flight then: both arms, their moments and the seed's schedule come back."""
    settings = replace(CONFIG, checkpoint_every_epochs=1)
    digests = []
    for has_memory in (True, False):
        if not has_memory:
            monkeypatch.setattr(fast.FastTier, "newest", lambda self, to_step=None: None)
        course = Course(settings, CheckpointStore(tmp_path / str(has_memory), keep=3), bad={BAD_STEP})
        told, twins = course.recorder.on_events, list[bool]()

        def see(notices: Any, told: Any = told, twins: list[bool] = twins, course: Course = course) -> None:
            told(notices)
            twins.append(course.run.executor.twin is not None)

        course.recorder.on_events = see  # type: ignore[method-assign]
        digests.append(course.train()["weights_digest"])
        assert any(twins)
        tier = "memory" if has_memory else "disk"
        # Not to 12: what was in flight there had not been executed when the loss broke.
        assert f"to step 8 from {tier}" in course.told("tolaria.rollback")[0]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("every", [None, 0, 8])
def test_snapshots_change_nothing_of_a_run(every: int | None) -> None:
    settings = replace(CONFIG, snapshot_every_steps=every, on_nonfinite="stop" if every == 0 else "rollback")
    same = ("weights_digest", "val_loss", "training_macs", "reproducible")
    summary = Course(settings).train()
    assert {name: summary[name] for name in same} == {name: unbroken()[name] for name in same}


def unbroken() -> dict[str, Any]:
    return Course(replace(GROWING, on_nonfinite="stop")).train()


def test_a_loss_that_stays_broken_ends_after_so_many_rollbacks_with_a_state_to_go_on_from(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=3)
    course = Course(replace(CONFIG, max_rollbacks=2), store, bad=set(range(BAD_STEP, 100)))
    with pytest.raises(RollbackFailed, match=r"2 of max_rollbacks = 2 were made already.*the state of step 12 is kept"):
        course.train()
    mended = Course(CONFIG, store)
    assert mended.train(resume=True)["finished"]
    assert mended.recorder.started[0].step == 12


def test_by_default_a_broken_loss_stops_the_run_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=3)
    with pytest.raises(NonFiniteLoss, match=r"loss is nan.*; the state of step 8 is kept as a checkpoint"):
        Course(replace(CONFIG, on_nonfinite="stop"), store, bad={BAD_STEP}).train()
    resumed = Course(CONFIG, store, bad={BAD_STEP})
    assert resumed.train(resume=True)["finished"]
    assert resumed.is_finite


def test_a_state_that_nobody_saw_a_loss_of_is_not_kept_nor_gone_back_to(tmp_path: Path) -> None:
    """Weights are lost in step 12, whose own loss was fine: what is copied at that boundary is NaN."""
    store = CheckpointStore(tmp_path, keep=3)
    course = Course(CONFIG, store)
    course.trainer.begin()
    make, is_lost = course.trainer.steps.make, []

    def lose() -> None:
        make()
        if course.trainer.step == 12 and not is_lost:
            is_lost.append(True)
            next(iter(course.run.executor.arm.model.parameters())).data.fill_(float("nan"))

    while course.trainer.is_going:
        course.trainer.advance(lose)
    course.trainer.drain()
    course.trainer.close()
    assert course.trainer.finish()["finished"]
    assert course.is_finite
    assert "to step 8 from memory" in course.told("tolaria.rollback")[0]


def test_a_loss_that_breaks_after_the_last_boundary_takes_the_run_back_too() -> None:
    settings = replace(CONFIG, steps=30, max_rollbacks=3)
    course = Course(settings, bad={29})
    summary = course.train()
    assert summary["finished"]
    assert summary["passed_over"] == [28, 29]
    assert course.is_finite


class Blown:
    """Weights that are a hundred times too large from one step on: finite, and far from any use."""

    def __init__(self, course: Course) -> None:
        self._make = course.trainer.steps.make
        self._course = course
        self.times = 0

    def __call__(self) -> None:
        self._make()
        if self._course.trainer.step == 100 and not self.times:
            self.times += 1
            for part in self._course.run.executor.arm.model.parameters():
                part.data.mul_(100.0)


def driven(course: Course) -> dict[str, Any]:
    make = Blown(course)
    course.trainer.begin()
    while course.trainer.is_going:
        course.trainer.advance(make)
    course.trainer.drain()
    course.trainer.close()
    return course.trainer.finish()


LONG = replace(CONFIG, epochs=30, grow="never")


def test_a_loss_that_diverges_takes_the_run_back_to_before_it_rose() -> None:
    course = Course(replace(LONG, on_divergence="rollback", lr=0.01))
    course.control = ScriptedControl
    summary = driven(course)
    (told,) = course.told("tolaria.rollback")
    assert "the smoothed loss of" in told
    assert re.search(r"back to step (96|100) from memory", told), told
    assert (summary["finished"], summary["rollbacks"], summary["passed_over"]) == (True, 1, [])
    assert summary["val_loss"] < 2.3


def test_a_loss_that_diverges_may_also_stop_the_run_or_mean_nothing() -> None:
    stopping = Course(replace(LONG, on_divergence="stop", lr=0.01))
    stopping.control = ScriptedControl
    with pytest.raises(LossDiverged, match="the smoothed loss of"):
        driven(stopping)
    ignoring = Course(replace(LONG, lr=0.01))
    ignoring.control = ScriptedControl
    assert driven(ignoring)["rollbacks"] == 0


class Leaving(ScriptedControl):
    """A plane whose reset gate finds something left of a seed, once."""

    was_told = False

    def hand_over(
        self, packet: SystemStatePacket, collected: Collected, *, want_state: bool = False, is_last: bool = False
    ) -> None:
        super().hand_over(packet, collected, want_state=want_state, is_last=is_last)
        if packet.step == 32 and not Leaving.was_told:
            Leaving.was_told = True
            result = self.results[packet.packet_index]
            seed = SeedState()
            seed.CopyFrom(next(seed for seed in result.seeds or () if seed.seed_id == "s1"))
            seed.health, seed.age_steps = HealthStatus.HEALTH_STATUS_CRITICAL, 24
            gate = GateEvidence(
                seed_id="s1",
                gate=SeedGate.SEED_GATE_G5_RESET,
                verdict=GateVerdict.GATE_VERDICT_FAIL,
                step=32,
                quantity="remains",
                detail="a hook is left",
            )
            self.results[packet.packet_index] = replace(result, seeds=(seed,), gates=(gate,))


@pytest.mark.parametrize("policy", ["ignore", "rollback"])
def test_a_critical_gate_takes_the_run_back_to_before_its_seed(
    tmp_path: Path, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Leaving, "was_told", False)
    settings = replace(CONFIG, on_critical_gate=policy, checkpoint_every_epochs=1, keep_checkpoints=20)
    course = Course(settings, CheckpointStore(tmp_path, keep=20))
    course.control = lambda: Leaving({8: germination("s1", "span_linear:fc1-fc2")})
    assert course.train()["finished"]
    if policy == "ignore":
        assert not course.told("tolaria.rollback")
        return
    (told,) = course.told("tolaria.rollback")
    assert told.startswith("CRITICAL gate G5_RESET of s1: a hook is left; back to step 8 from disk")
    assert [opening.gives_up_course for opening in course.openings] == [False, True]


def test_a_run_killed_while_it_is_being_restored_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(CONFIG, checkpoint_every_epochs=1)
    whole = Course(settings, CheckpointStore(tmp_path / "whole", keep=3), bad={BAD_STEP}).train()
    store = CheckpointStore(tmp_path / "killed", keep=3)
    killed = Course(settings, store, bad={BAD_STEP})

    def die(pairs: Sequence[Pair]) -> None:
        filling.fill(pairs[: len(pairs) // 2])
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(placing, "fill", die)
        with pytest.raises(KilledError):
            killed.train()
    resumed = Course(settings, store, bad={BAD_STEP}).train(resume=True)
    same = ("weights_digest", "rollbacks", "passed_over", "val_loss", "seeds")
    assert {name: resumed[name] for name in same} == {name: whole[name] for name in same}


def test_a_missed_deadline_ends_the_run_and_leaves_its_checkpoints_as_they_are(tmp_path: Path) -> None:
    settings = replace(CONFIG, checkpoint_every_epochs=1, rollback_fast_deadline_s=1e-9, rollback_full_deadline_s=1e-9)
    store = CheckpointStore(tmp_path, keep=3)
    course = Course(settings, store, bad={BAD_STEP})
    with pytest.raises(RollbackLate, match="the restore from disk took"):
        course.train()
    (told,) = [notice for notice in course.recorder.notices if notice.name == "tolaria.rollback.deadline_exceeded"]
    assert told.level == "CRITICAL"
    patient = replace(settings, rollback_fast_deadline_s=60.0, rollback_full_deadline_s=60.0)
    mended = Course(patient, store, bad={BAD_STEP})
    assert mended.train(resume=True)["finished"]
    assert mended.is_finite


def test_a_slow_epoch_takes_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    class SlowClock:
        """Every look at it takes a minute."""

        def __init__(self) -> None:
            self.ns = 0

        def now_ns(self) -> int:
            return self.monotonic_ns()

        def monotonic_ns(self) -> int:
            self.ns += 60 * 10**9
            return self.ns

    course = Course(replace(CONFIG, on_divergence="rollback", on_critical_gate="rollback"))
    course.trainer._session.clock = SlowClock()
    assert course.train()["rollbacks"] == 0


def test_a_state_that_no_checkpoint_can_hold_leaves_the_broken_loss_its_own_word(tmp_path: Path) -> None:
    model = "tests.unit.tolaria.recovery.test_saves:Extra"
    settings = replace(CONFIG, model=model, hidden=(), dropout=0.0, grow="never", on_nonfinite="stop")
    course = Course(settings, CheckpointStore(tmp_path, keep=3), bad={BAD_STEP})
    course.control = ScriptedControl
    with pytest.raises(NonFiniteLoss, match=r"loss is nan.*; the state of step 8 could not be kept: .*extra_state"):
        course.train()
    assert not list(tmp_path.glob("step-*"))
