"""Divergence: found where a loss has left what it ever was, in any unit, and never in noise."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.tolaria.record.divergence import BEGINNING_STEPS, Divergence
from esper.tolaria.record.signals import Smoothed


def course(losses: Iterable[float]) -> list[Divergence]:
    """The divergence after each loss, as plain copies."""
    smoothed, divergence, found = Smoothed(0.05), Divergence(), []
    for loss in losses:
        smoothed.add(loss)
        divergence.note(smoothed)
        found.append(Divergence(**divergence.state_dict()))  # type: ignore[arg-type]
    return found


def falling(steps: int, seed: int = 1) -> list[float]:
    draw = random.Random(seed)
    return [2.3 * 0.98**step + draw.gauss(0, 0.1) for step in range(steps)]


def test_a_loss_that_falls_with_noise_never_diverges_nor_comes_near() -> None:
    assert not any(seen.is_found or seen.is_near for seed in range(20) for seen in course(falling(300, seed)))


@given(st.floats(0.1, 1e3), st.floats(0.0, 1.0), st.integers(0, 2**32))
def test_nor_does_one_that_never_falls(level: float, noise: float, seed: int) -> None:
    draw = random.Random(seed)
    flat = [level * (1 + noise * draw.uniform(-1, 1)) for _ in range(200)]
    assert not any(seen.is_found for seen in course(flat))


def test_one_that_explodes_is_near_before_it_is_found() -> None:
    seen = course([*falling(200), *(0.1 * 1.2**step for step in range(60))])
    near = next(step for step, each in enumerate(seen) if each.is_near)
    assert near < next(step for step, each in enumerate(seen) if each.is_found)


def test_one_that_merely_returns_to_its_beginning_is_near_but_not_found() -> None:
    seen = course([*falling(200), *[2.3] * 200])
    assert seen[-1].is_near
    assert not seen[-1].is_found


@pytest.mark.parametrize(("scale", "shift"), [(1e-6, 0.0), (1e6, 0.0), (1.0, -50.0), (3.0, 1000.0)])
def test_unit_and_origin_of_a_loss_change_no_finding(scale: float, shift: float) -> None:
    losses = [*falling(150), *(0.1 * 1.2**step for step in range(60))]
    plain, other = course(losses), course([scale * loss + shift for loss in losses])
    assert [seen.is_found for seen in plain] == [seen.is_found for seen in other]


def test_nothing_is_said_of_the_first_steps() -> None:
    assert not any(seen.is_found or seen.is_near for seen in course([1.0, *[1e9] * (BEGINNING_STEPS - 2)]))
