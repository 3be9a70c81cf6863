"""The tiers of a rollback: copies that are true and nobody else's, and deadlines that end work."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from esper.core.clock import SYSTEM_CLOCK, ManualClock
from esper.core.errors import RollbackLate
from esper.tolaria.recovery.checkpoint import CheckpointStore, encode
from esper.tolaria.recovery.tiers.copies import Buffers, size_of
from esper.tolaria.recovery.tiers.deadline import Deadline
from esper.tolaria.recovery.tiers.fast import FastTier, snapshot_steps
from esper.tolaria.recovery.tiers.full import FullTier
from esper.tolaria.recovery.tiers.placing import placed
from tests.unit.tolaria.recovery.test_going_back import Moments
from tests.unit.tolaria.recovery.test_saves import Host

PATIENCE_S = 20.0


def state() -> dict[str, Any]:
    shared = torch.arange(4.0)
    turned = torch.randn(3, 5).t()
    return {"a": [torch.randn(5), (torch.ones(2, dtype=torch.int8), turned)], "x": shared, "y": shared, 3: {"n": 7}}


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from tensors(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors(part)


def test_a_copy_is_equal_to_the_bit_and_layout_and_stays_what_it_was() -> None:
    made = state()
    copied = Buffers().take(made)
    pairs = list(zip(tensors(made), tensors(copied), strict=True))
    assert all(torch.equal(one, two) and one.stride() == two.stride() for one, two in pairs)
    assert copied[3] == {"n": 7}
    assert copied["x"] is copied["y"], "one memory under two names stays one"
    before = [two.clone() for _, two in pairs]
    for one, _ in pairs:
        one.add_(1)
    assert all(torch.equal(one, two) for one, two in zip(before, tensors(copied), strict=True))


def test_the_next_copy_takes_the_memory_of_the_last_where_it_fits() -> None:
    made, buffers = state(), Buffers()
    first = {tensor.data_ptr() for tensor in tensors(buffers.take(made))}
    assert {tensor.data_ptr() for tensor in tensors(buffers.take(made))} == first
    made["a"][0] = torch.randn(6)
    assert torch.equal(buffers.take(made)["a"][0], made["a"][0])


def test_the_size_of_a_state_is_that_of_its_tensors() -> None:
    assert size_of({"a": [torch.zeros(3), (torch.zeros(2, dtype=torch.int8),)], "b": "text"}) == 14


def test_a_deadline_once_missed_is_missed() -> None:
    clock = ManualClock()
    deadline = Deadline(clock, "memory", 0.5)
    deadline.check()
    clock.advance(0.6)
    for _ in range(2):
        with pytest.raises(RollbackLate, match="memory took 600 ms; its deadline is 500 ms"):
            deadline.check()


def test_work_that_outlives_its_deadline_ends_at_its_next_piece_and_is_never_heard() -> None:
    deadline, may_go_on, ended = Deadline(SYSTEM_CLOCK, "disk", 0.05), threading.Event(), threading.Event()

    def work() -> str:
        assert may_go_on.wait(PATIENCE_S)
        try:
            deadline.check()
        except RollbackLate:
            ended.set()
            raise
        return "too late"

    with pytest.raises(RollbackLate):
        deadline.within(work)
    may_go_on.set()
    assert ended.wait(PATIENCE_S)


def test_work_in_time_gives_its_result_or_its_own_error() -> None:
    deadline = Deadline(SYSTEM_CLOCK, "disk", PATIENCE_S)
    assert deadline.within(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        deadline.within(lambda: 1 // 0)


def test_a_snapshot_can_be_gone_back_to_again_and_again_and_shares_nothing_with_the_run() -> None:
    """Restored optimiser states would be trained on, were they the snapshot's own tensors."""
    moments = Moments()
    moments.make(3)
    assert moments.save()
    whole = moments.whole()
    for _ in range(2):
        moments.make(4)
        assert moments.whole() != whole
        moments.saves.go_back((None,))
        assert moments.whole() == whole


def test_what_a_loop_keeps_beside_the_network_is_copied_as_well() -> None:
    moments, average = Moments(), torch.ones(3)
    moments.make(1)
    assert moments.save()
    snapshot = replace(moments.saves._snapshot(moments.pipeline, (), None), loader={"average": average})
    tier = FastTier(PATIENCE_S, lambda: None)
    assert tier.keep(1, snapshot, moments.pipeline.follow())
    average.zero_()
    executor = moments.session.run.executor
    for _ in range(2):
        read = placed(tier.read(None, Deadline(SYSTEM_CLOCK, "memory", PATIENCE_S)), executor)
        assert read.loader is not None
        assert torch.equal(read.loader["average"], torch.ones(3))
        read.loader["average"].zero_()


@pytest.mark.parametrize("tier", ["memory", "disk"])
def test_a_restore_takes_the_memory_that_the_optimiser_holds_already(tmp_path: Path, tier: str) -> None:
    moments = Moments(CheckpointStore(tmp_path, keep=1))
    moments.make(1)
    moments.save()
    if tier == "disk":
        moments.fast.forget_after(0)
    state = moments.session.run.executor.arm.optimizer.state

    def held() -> set[int]:
        return {value[name].data_ptr() for value in state.values() for name in ("exp_avg", "exp_avg_sq")}

    before = held()
    assert f"from {tier}" in moments.saves.go_back((None,))[1]
    assert held() == before


def test_a_restore_that_is_given_up_at_any_moment_has_changed_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often the deadline is asked before it turns out to be missed: nothing, or the whole state."""
    moments = Moments(CheckpointStore(tmp_path, keep=1))
    moments.make(2)
    moments.save()
    saved = moments.whole()
    moments.make(1)
    present, ends = moments.whole(), []
    asked = itertools.count()

    def check(deadline: Deadline) -> None:
        if next(asked) >= len(ends):
            raise deadline.late()

    monkeypatch.setattr(Deadline, "check", check)
    while saved not in ends:
        assert len(ends) < 100
        asked = itertools.count()
        with suppress(RollbackLate):
            moments.saves.go_back((None,))
        ends.append(moments.whole())
    assert ends[:-1] == [present] * (len(ends) - 1)
    assert len(ends) > 2


def test_the_older_moment_stands_until_the_newer_ones_answers_have_been_executed() -> None:
    moments = Moments()
    moments.make(1)
    moments.save()
    moments.make(1)
    moments.hand_over()
    moments.saves.keep(moments.pipeline)
    assert moments.fast.newest() == 1
    while moments.pipeline.in_flight:
        moments.pipeline.take()
    assert moments.fast.newest() == 2


@pytest.mark.parametrize("free", [None, 10**12])
def test_where_there_is_room_two_moments_are_kept(free: int | None) -> None:
    moments = Moments()
    moments.fast._free_bytes = lambda: free
    for _ in range(3):
        moments.make(1)
        moments.save()
    assert (moments.fast.newest(), moments.fast.newest(2), moments.fast.newest(1)) == (3, 2, None)


def test_where_there_is_no_room_nothing_is_kept_and_that_is_said_once() -> None:
    moments = Moments()
    moments.fast._free_bytes = lambda: 100
    for _ in range(2):
        moments.make(1)
        moments.save()
    assert moments.fast.newest() is None
    (told,) = moments.heard.notices
    assert (told.name, told.level) == ("tolaria.no_snapshots", "WARNING")
    assert "more than a quarter of the 1e-07 GB of host memory" in told.message


@pytest.mark.parametrize(
    ("total", "wished", "steps"),
    [(40, None, 100), (2000, None, 100), (9000, None, 450), (10**6, None, 1000), (9000, 7, 7), (9000, 0, 0)],
)
def test_how_often_a_run_is_kept(total: int, wished: int | None, steps: int) -> None:
    assert snapshot_steps(total, wished) == steps


def test_a_tier_without_moments_has_none() -> None:
    tier = FastTier(0.5)
    assert tier.newest() is None
    assert tier.whole() is None


@pytest.mark.parametrize("host", ["Counting", "Averaging", "Remembering", "Noisy", "Norm"])
def test_whatever_a_host_holds_comes_back_from_memory(host: str) -> None:
    """A counter, a buffer that no state_dict holds, earlier values, noise, metadata: each decides what follows."""
    moments = Moments(model=f"tests.unit.tolaria.recovery.test_saves:{host}", hidden=(), dropout=0.0, grow="never")
    moments.make(3)
    moments.save()
    courses = []
    for _ in range(2):
        moments.make(5)
        courses.append(moments.whole())
        moments.saves.go_back((None,))
    assert courses[0] == courses[1]


class Locked(Host):
    """Its state_dict holds what nobody can copy."""

    def get_extra_state(self) -> Any:
        return threading.Lock()

    def set_extra_state(self, state: Any) -> None:
        """Never called."""


def test_a_host_that_cant_be_copied_trains_without_snapshots_and_that_is_said_once() -> None:
    settings = {"model": f"{__name__}:Locked", "hidden": (), "dropout": 0.0, "grow": "never"}
    moments = Moments(checkpoint_every_epochs=0, **settings)
    for _ in range(2):
        moments.make(1)
        moments.hand_over()
        moments.saves.keep(moments.pipeline)
    assert moments.fast.newest() is None
    (told,) = moments.heard.notices
    assert told.message.startswith("a rollback reads the disk: a snapshot can't be made: TypeError: ")


def test_the_full_tier_knows_of_no_checkpoint_that_was_dropped(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    tier = FullTier(store, 1.0)
    for step in (10, 20):
        store.write(encode({"step": step}), step)
        tier.note(step)
    assert (tier.newest(None), tier.newest(15)) == (20, None)
