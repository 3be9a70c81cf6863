"""Seeds as sources: a gradient split by the seeds that it came through, and put together as a textbook would."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from esper.leyline import SeedStage
from esper.tolaria.loop.aggregation import SeedMeter, weight_of
from esper.tolaria.loop.aggregation.owners import Owners
from esper.tolaria.loop.step import Stepper
from tests.unit.tolaria.loop.aggregation.grown import FIRST, LAST, MIDDLE, Grown

SURGERY: dict[str, Any] = {"pcgrad": True, "surgery": "seeds"}
SEEDS = ([MIDDLE], [LAST, MIDDLE], [FIRST, LAST, MIDDLE])
EXACT: dict[str, Any] = {"rtol": 0, "atol": 1e-12}


@cache
def grown(slots: tuple[str, ...], **settings: Any) -> Grown:
    return Grown(slots, **settings)


def gradients(run: Grown) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in run.parameters])


def stepped(run: Grown, *, weights: list[float] | None = None, meter: SeedMeter | None = None, step: int = 0) -> Any:
    """One step that leaves the weights alone; returns its result and the gradient that it came to."""
    for group in run.arm.optimizer.param_groups:
        group["lr"] = 0.0
    by_seed = dict(zip((graft.seed_id for graft in run.arm.grafts), weights or [1.0] * 9, strict=False))
    stepper = Stepper(run.run.task, run.config, torch.device("cpu"), weigh=lambda graft: by_seed[graft.seed_id])
    return stepper.run(run.arm, run.batch, step, run.groups, note=None if meter is None else meter.note), gradients(run)


@pytest.mark.parametrize("slots", SEEDS, ids=len)
@pytest.mark.parametrize("accumulate", [1, 3])
def test_surgery_between_seeds_matches_a_textbook_in_float64(slots: list[str], accumulate: int) -> None:
    """The reference cuts seeds' outputs off one by one; it knows nothing of backward passes from their outputs."""
    run = grown(tuple(slots), accumulate=accumulate, **SURGERY)
    weights = [0.7, 1.3, 0.4][: len(slots)]
    rows = run.sources()
    products = torch.stack([row[: run.host_columns] for row in rows])
    result, found = stepped(run, weights=weights)
    assert torch.allclose(found, run.textbook(rows, [1.0, *weights], 0), **EXACT)
    pairs = torch.triu(products @ products.T < 0, diagonal=1)
    assert float(result.conflict_rate) == pytest.approx(float(pairs.sum()) / (len(rows) * (len(rows) - 1) / 2))
    assert result.pairs == len(rows) * (len(rows) - 1) // 2


@settings(max_examples=12)
@given(
    alphas=st.lists(st.just(0.0) | st.floats(0.05, 1.0), min_size=3, max_size=3),
    weights=st.lists(st.floats(0.1, 2.0), min_size=3, max_size=3),
    step=st.integers(0, 1000),
)
def test_whatever_the_alphas_and_weights_the_parts_add_up_and_surgery_follows_the_textbook(
    alphas: list[float], weights: list[float], step: int
) -> None:
    run = grown((FIRST, LAST, MIDDLE), **SURGERY)
    run.set_alphas(*alphas)
    rows = run.sources()
    assert torch.allclose(sum(rows), run.gradient(), **EXACT)
    _, found = stepped(run, weights=weights, step=step)
    assert torch.allclose(found, run.textbook(rows, [1.0, *weights], step), **EXACT)


def test_no_conflict_and_equal_weights_leave_the_gradient_as_it_is() -> None:
    """The first seed reads the data: nothing of the host lies before it, so that it can't pull at any."""
    run = grown((FIRST,), **SURGERY)
    result, found = stepped(run)
    assert float(result.conflict_rate) == 0.0
    assert torch.equal(found, run.gradient())


def test_of_two_that_conflict_the_result_leads_down_for_both() -> None:
    run = Grown((MIDDLE,), **SURGERY)
    draws = torch.Generator().manual_seed(0)
    conflict = 1.0
    while conflict >= 0:
        for parameter in run.arm.grafts[0].module.parameters():
            parameter.data = torch.randn(parameter.shape, generator=draws, dtype=torch.float64)
        host, through = (row[: run.host_columns] for row in run.sources())
        conflict = float(host @ through)
    found = stepped(run)[1][: run.host_columns]
    assert found @ host > -1e-12
    assert found @ through > -1e-12


@pytest.mark.parametrize("slots", SEEDS, ids=len)
def test_who_is_measured_without_surgery_is_left_alone_to_the_last_bit(slots: list[str]) -> None:
    run, meter = grown(tuple(slots), seed_conflicts=True), SeedMeter(3)
    before = run.gradient()
    result, found = stepped(run, meter=meter)
    assert torch.equal(found, before)
    assert result.conflict_rate is None
    rows = torch.stack(run.sources())
    told = {seed.seed_id: seed for seed in meter.read()}
    names = dict(zip([*map(id, run.parameters)], _names(run), strict=True))
    assert set(names.values()) >= {name for seed in told.values() for name, _ in seed.layers}
    norms = rows.norm(dim=1)
    pulls = rows[:, : run.host_columns].norm(dim=1)
    for place, graft in enumerate(run.arm.grafts, 1):
        seed = told[graft.seed_id]
        assert seed.norm == pytest.approx(float(norms[place]), rel=1e-9)
        assert seed.share == pytest.approx(float(norms[place] / norms.sum()), rel=1e-9)
        assert seed.teacher_share == pytest.approx(float(pulls[place] / pulls.sum()), rel=1e-9, abs=1e-12)
        assert seed.conflicts == float((rows @ rows[place] < -1e-15).sum())
        assert seed.parameters == sum(parameter.numel() for parameter in graft.module.parameters())
        assert len(seed.layers) == 3
        largest = sorted(_layer_norms(run, rows[place]).items(), key=lambda layer: -layer[1])[:3]
        assert dict(seed.layers) == pytest.approx(dict(largest), rel=1e-9)


def _names(run: Grown) -> list[str]:
    owners = Owners(run.arm)
    by_parameter = dict(zip(map(id, owners.parameters), owners.names, strict=True))
    return [by_parameter[id(parameter)] for parameter in run.parameters]


def _layer_norms(run: Grown, row: Tensor) -> dict[str, float]:
    pieces = row.split([parameter.numel() for parameter in run.parameters])
    return {name: float(piece.norm()) for name, piece in zip(_names(run), pieces, strict=True)}


def test_slices_alone_are_measured_where_nobody_asks_for_paths() -> None:
    run, meter = grown((LAST, MIDDLE)), SeedMeter(2)
    _, found = stepped(run, meter=meter)
    sizes = [run.host_columns, *(sum(p.numel() for p in graft.module.parameters()) for graft in run.arm.grafts)]
    norms = torch.stack([part.norm() for part in found.split(sizes)])
    for place, seed in enumerate(meter.read(), 1):
        assert seed.norm == pytest.approx(float(norms[place]), rel=1e-9)
        assert seed.share == pytest.approx(float(norms[place] / norms.sum()), rel=1e-9)
        assert (seed.conflicts, seed.conflict_ratio, seed.teacher_share) == (None, None, None)
        assert all(name.startswith(f"{seed.seed_id}.") for name, _ in seed.layers)
        assert seed.blended == pytest.approx((1.0, 1.0, 0.0, 0.0))


def test_a_step_that_is_not_finite_counts_for_nothing() -> None:
    run, meter = grown((MIDDLE,), seed_conflicts=True), SeedMeter(3)
    stepped(run, meter=meter)
    whole = run.batch
    run.batch = whole[0].clone().fill_(float("inf")), whole[1]
    try:
        stepped(run, meter=meter)
    finally:
        run.batch = whole
    (seed,) = meter.read()
    assert seed.steps == 1
    assert 0 < seed.norm < float("inf")
    assert meter.read() == []


def test_a_void_step_of_surgery_moves_nothing() -> None:
    run = grown((MIDDLE,), **SURGERY)
    whole = run.batch
    run.batch = whole[0].clone().fill_(float("inf")), whole[1]
    try:
        stepper = Stepper(run.run.task, run.config, torch.device("cpu"))
        stepper.run(run.arm, run.batch, 0, run.groups)
    finally:
        run.batch = whole
    assert all(parameter.grad is None for parameter in run.parameters)


def test_of_a_seed_that_is_gone_nothing_is_left_in_the_rows() -> None:
    run = Grown((LAST, MIDDLE), **SURGERY)
    stepped(run)
    run.arm.detach(run.arm.grafts[0])
    run.groups = type(run.groups)(host=run.groups.host, seeds=run.run.executor.seed_parameters())
    rows = run.sources()
    assert torch.allclose(stepped(run)[1], run.textbook(rows, [1.0, 1.0], 0), **EXACT)


@given(alpha=st.floats(0.0, 1.0), stage=st.sampled_from(list(SeedStage.values())))
def test_weights_rise_with_alpha_and_are_halved_while_blending(alpha: float, stage: int) -> None:
    weight = weight_of(stage, alpha)
    assert 0.1 <= weight <= 1.0
    assert weight_of(stage, 1.0) >= weight
    assert weight_of(SeedStage.SEED_STAGE_PROBATIONARY, 1.0) == 1.0
    assert weight_of(SeedStage.SEED_STAGE_BLENDING, 1.0) == 0.5
    assert weight_of(SeedStage.SEED_STAGE_PROBATIONARY, 0.0) == 0.5
    assert weight_of(SeedStage.SEED_STAGE_BLENDING, 0.0) == 0.25
