"""What is made of seeds' figures: changes since the last ones, and warnings once a limit is passed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.tolaria.record.figures.gradients import (
    CALM,
    CONFLICT,
    EPOCH,
    HOOK,
    JUMP,
    MIN_STEPS,
    Aggregation,
    Blended,
    GradientWatch,
    Limits,
    SeedGradient,
    SeedTold,
)

LIMITS = Limits(conflict_ratio=0.5, share_jump=0.3, hook_ms=50.0, epoch_ms=250.0)
SHARES = st.floats(0.0, 1.0)


def gradient(seed_id: str = "s1", **fields: Any) -> SeedGradient:
    told: dict[str, Any] = {
        "seed_id": seed_id,
        "steps": 10,
        "weight": 0.5,
        "norm": 2.0,
        "share": 0.25,
        "blended": Blended(0.75, 1.0, 0.0, 0.25),
        "parameters": 10,
        "mask_fraction": 0.1,
        "conflicts": 3.0,
        "conflict_ratio": 0.3,
        "teacher_share": 0.2,
        "layers": (("fc1.weight", 1.5), ("s1.write.weight", 0.5)),
    }
    return SeedGradient(**told | fields)


def aggregation(*seeds: SeedTold, **fields: Any) -> Aggregation:
    told: dict[str, Any] = {
        "microbatches": 100,
        "is_surgical": True,
        "conflicts": 4.0,
        "conflict_ratio": 0.4,
        "hook_ms": 1.0,
    }
    return Aggregation(seeds=seeds, **told | fields)


def warned(watch: GradientWatch, *found: SeedGradient, hook_ms: float = 1.0, epoch_ms: float = 1.0) -> list[str]:
    told = aggregation(*watch.with_past(found, {"s1": "BLENDING"}), hook_ms=hook_ms)
    return [warning.name for warning in watch.warnings(told, LIMITS, epoch_ms)]


@given(st.lists(SHARES, min_size=1, max_size=12))
def test_a_seed_is_told_once_each_time_its_conflicts_pass_the_limit(ratios: list[float]) -> None:
    watch, was_told = GradientWatch(), False
    for ratio in ratios:
        is_high = ratio >= LIMITS.conflict_ratio
        assert (CONFLICT in warned(watch, gradient(conflict_ratio=ratio))) == (is_high and not was_told)
        was_told = is_high or (was_told and ratio >= CALM * LIMITS.conflict_ratio)


def test_a_seed_that_stays_about_the_limit_is_told_once() -> None:
    watch = GradientWatch()
    told = [warned(watch, gradient(conflict_ratio=ratio)) for ratio in (0.5, 0.49, 0.51, 0.45, 0.55, 0.3, 0.5)]
    assert told == [[CONFLICT], [], [], [], [], [], [CONFLICT]]


def test_a_seed_that_is_paused_jumps_neither_out_nor_back() -> None:
    watch = GradientWatch()
    assert [warned(watch, gradient(share=share)) for share in (0.4, 0.0, 0.0, 0.42, 0.0, 0.9)] == [[]] * 5 + [[JUMP]]


@given(st.lists(SHARES, min_size=1, max_size=12))
def test_a_share_jumps_against_the_last_one_and_the_first_never_does(shares: list[float]) -> None:
    watch, last = GradientWatch(), None
    for share in shares:
        told = watch.with_past([gradient(share=share)], {})
        delta = None if last is None or not share else share - last
        assert told[0].share_delta == delta
        names = [warning.name for warning in watch.warnings(aggregation(*told), LIMITS, 1.0)]
        assert (JUMP in names) == (delta is not None and abs(delta) >= LIMITS.share_jump)
        last = share or last


@given(st.lists(st.floats(0.0, 100.0), min_size=1, max_size=12))
def test_slow_boundaries_are_told_once_until_they_are_fast_again(times: list[float]) -> None:
    watch, was_slow = GradientWatch(), False
    for hook_ms in times:
        is_slow = hook_ms > LIMITS.hook_ms
        assert (HOOK in warned(watch, hook_ms=hook_ms)) == (is_slow and not was_slow)
        was_slow = is_slow


@given(st.lists(st.floats(0.0, 500.0), min_size=1, max_size=12))
def test_long_epochs_are_told_once_until_they_are_short_again_and_never_without_a_budget(times: list[float]) -> None:
    watch, free, was_long = GradientWatch(), GradientWatch(), False
    for epoch_ms in times:
        is_long = epoch_ms > 250.0
        assert (EPOCH in warned(watch, epoch_ms=epoch_ms)) == (is_long and not was_long)
        assert not list(free.warnings(aggregation(), Limits(), epoch_ms))
        watch, was_long = GradientWatch(**watch.state_dict()), is_long


@given(st.lists(st.tuples(SHARES, SHARES), min_size=2, max_size=8), st.data())
def test_what_is_remembered_survives_a_checkpoint(course: list[tuple[float, float]], data: st.DataObject) -> None:
    saved_at, whole, resumed = data.draw(st.integers(0, len(course) - 1)), GradientWatch(), GradientWatch()
    for place, (share, ratio) in enumerate(course):
        found = gradient(share=share, conflict_ratio=ratio)
        if place == saved_at:
            resumed = GradientWatch(**resumed.state_dict())
        assert warned(whole, found) == warned(resumed, found)


def test_a_seed_that_was_hardly_measured_is_not_judged() -> None:
    few = gradient(conflict_ratio=1.0, steps=MIN_STEPS - 1)
    assert warned(GradientWatch(), few) == []
    assert warned(GradientWatch(), gradient(conflict_ratio=1.0, steps=MIN_STEPS)) == [CONFLICT]


def test_a_seed_that_is_gone_is_forgotten_and_an_epoch_without_figures_forgets_nobody() -> None:
    watch = GradientWatch()
    watch.with_past([gradient("s1"), gradient("s2")], {})
    watch.with_past([], {})
    assert set(watch.shares) == {"s1", "s2"}
    watch.with_past([gradient("s2")], {})
    assert set(watch.shares) == {"s2"}


def test_what_nobody_looked_at_is_no_conflict() -> None:
    watch = GradientWatch(high=["s1"])
    assert warned(watch, gradient(conflicts=None, conflict_ratio=None)) == []
    assert watch.high == ["s1"]


def test_the_hosts_part_is_what_its_seeds_leave() -> None:
    both = [SeedTold(gradient=gradient(name), stage="", share_delta=None) for name in ("s1", "s2")]
    assert aggregation(*both).teacher_share == pytest.approx(0.6)
    assert aggregation(*both).weights_mean == 0.5
    assert aggregation().teacher_share is None
    assert aggregation().weights_mean is None
