"""The gradient pool through the life of a growing model."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import esper.kernels as kernels
from esper.kernels import GradientPool
from esper.kernels._pool import Plan


def _model(device: torch.device) -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 2)).to(device)


def _loss(model: nn.Module, seed: int, device: torch.device) -> Tensor:
    inputs = torch.randn(8, 5, generator=torch.Generator().manual_seed(seed)).to(device)
    return model(inputs).square().sum()


def _clear(parameters: Iterable[Tensor]) -> None:
    for parameter in parameters:
        parameter.grad = None


def _expected(model: nn.Module, parameters: list[Tensor], seed: int, device: torch.device) -> list[Tensor]:
    _clear(parameters)
    _loss(model, seed, device).backward()
    grads = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]
    _clear(parameters)
    return grads


@pytest.mark.parametrize("mode", ["copy", "view"])
def test_each_row_holds_the_gradients_of_its_source(device: torch.device, mode: str) -> None:
    model = _model(device)
    parameters: list[Tensor] = [*model.parameters(), nn.Parameter(torch.ones(7, device=device))]
    expected = [_expected(model, parameters, row, device) for row in range(3)]
    pool = GradientPool(parameters, rows=3, mode=mode)  # type: ignore[arg-type]
    for row in range(3):
        _clear(parameters)
        if mode == "view":
            pool.bind(row)
        _loss(model, row, device).backward()
        pool.collect(row)
    for row in range(3):
        for view, grad in zip(pool.views(pool.rows[row]), expected[row], strict=True):
            assert torch.equal(view, grad)


def test_absent_gradients_clear_their_presence_bits(device: torch.device) -> None:
    model = _model(device)
    unused = nn.Parameter(torch.ones(7, device=device))
    pool = GradientPool([*model.parameters(), unused], rows=2)
    _loss(model, 0, device).backward()
    assert pool.collect(0) == (True, True, True, True, False)
    _clear(model.parameters())
    assert pool.collect(1) == (False,) * 5
    assert not pool.rows[1].any()
    assert pool.presence(0) == (True, True, True, True, False)


def test_a_bound_gradient_is_the_rows_memory(device: torch.device) -> None:
    model = _model(device)
    pool = GradientPool(model.parameters(), mode="view")
    pool.bind(0)
    _loss(model, 0, device).backward()
    weight = model[0].weight
    assert weight.grad.data_ptr() == pool.rows.data_ptr()
    once = pool.rows.clone()
    _loss(model, 0, device).backward()
    assert torch.allclose(pool.rows, 2 * once)


def test_a_binding_broken_by_clearing_gradients_is_repaired(device: torch.device) -> None:
    model = _model(device)
    parameters = list(model.parameters())
    expected = _expected(model, parameters, 1, device)
    pool = GradientPool(parameters, mode="view")
    pool.bind(0)
    _loss(model, 0, device).backward()
    torch.optim.SGD(parameters, lr=0.0).zero_grad(set_to_none=True)
    _loss(model, 1, device).backward()
    assert parameters[0].grad.data_ptr() != pool.rows.data_ptr()
    pool.collect(0)
    assert parameters[0].grad.data_ptr() == pool.rows.data_ptr()
    for view, grad in zip(pool.views(pool.rows[0]), expected, strict=True):
        assert torch.equal(view, grad)


@pytest.mark.parametrize("mode", ["copy", "view"])
def test_a_graft_extends_the_layout_and_keeps_what_the_rows_hold(device: torch.device, mode: str) -> None:
    model = _model(device)
    pool = GradientPool(model.parameters(), rows=2, mode=mode)  # type: ignore[arg-type]
    if mode == "view":
        pool.bind(0)
    _loss(model, 0, device).backward()
    pool.collect(0)
    before = pool.rows.clone()
    graft = nn.Parameter(torch.randn(10_000, device=device))
    pool.extend([graft])
    assert torch.equal(pool.rows[:, : before.size(1)], before)
    (graft.sum() * 2 + _loss(model, 1, device)).backward()
    pool.collect(0)
    assert torch.equal(pool.views(pool.rows[0])[-1], torch.full_like(graft, 2.0))
    for parameter, view in zip(pool.parameters, pool.views(pool.rows[0]), strict=True):
        assert torch.equal(parameter.grad, view)


def test_growing_within_capacity_moves_nothing(device: torch.device) -> None:
    model = _model(device)
    pool = GradientPool(model.parameters(), mode="view", capacity=4096)
    pool.bind(0)
    address = model[0].weight.grad.data_ptr()
    pool.extend([nn.Parameter(torch.ones(100, device=device))])
    assert model[0].weight.grad.data_ptr() == address == pool.rows.data_ptr()


def test_a_removal_leaves_zeros_that_a_later_graft_may_take(device: torch.device) -> None:
    first, second, third = (nn.Parameter(torch.ones(n, device=device)) for n in (16, 8, 16))
    pool = GradientPool([first, second, third], rows=2)
    (first.sum() + 2 * second.sum() + 3 * third.sum()).backward()
    pool.collect(0)
    pool.remove([second])
    assert all(kept is given for kept, given in zip(pool.parameters, [first, third], strict=True))
    assert not pool.rows[:, 16:24].any()
    width = pool.rows.size(1)
    graft = nn.Parameter(torch.ones(6, device=device))
    pool.extend([graft])
    assert pool.rows.size(1) == width
    graft.sum().backward()
    pool.collect(1)
    assert pool.views(pool.rows[1])[2].tolist() == [1.0] * 6
    assert float(kernels.gram(pool.rows)[0, 0]) == 16 + 9 * 16


def test_removing_the_last_slots_shortens_the_rows(device: torch.device) -> None:
    first, second = (nn.Parameter(torch.ones(16, device=device)) for _ in range(2))
    pool = GradientPool([first, second])
    pool.remove([second])
    assert pool.rows.shape == (1, 16)


def test_the_result_of_surgery_becomes_the_gradients(device: torch.device) -> None:
    model = _model(device)
    parameters = list(model.parameters())
    pool = GradientPool(parameters, rows=2)
    for row in range(2):
        _clear(parameters)
        _loss(model, row, device).backward()
        pool.collect(row)
    result = kernels.pcgrad(pool.rows, torch.tensor([[0, 1], [0, 1]], device=device))
    pool.assign(result.flat)
    torch.optim.SGD(parameters, lr=0.1).step()
    for parameter, view in zip(parameters, pool.views(result.flat), strict=True):
        assert parameter.grad.data_ptr() == view.data_ptr()


@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop])
def test_training_in_bound_views_equals_training_without_a_pool(device: torch.device, optimiser: type) -> None:
    plain = _model(device)
    pooled = _model(device)
    pooled.load_state_dict(plain.state_dict())
    pool = GradientPool(pooled.parameters(), mode="view")
    optimisers = [optimiser(m.parameters(), lr=0.01) for m in (plain, pooled)]
    for step in range(4):
        optimisers[0].zero_grad()
        pool.bind(0)
        for micro in range(2):
            for model in (plain, pooled):
                _loss(model, 10 * step + micro, device).backward()
        pool.collect(0)
        for opt in optimisers:
            opt.step()
    for a, b in zip(plain.parameters(), pooled.parameters(), strict=True):
        assert torch.equal(a, b)


def test_unscaling_works_in_the_rows_memory(device: torch.device) -> None:
    model = _model(device)
    parameters = list(model.parameters())
    expected = _expected(model, parameters, 0, device)
    pool = GradientPool(parameters, mode="view")
    optimiser = torch.optim.SGD(parameters, lr=0.0)
    scaler = torch.amp.GradScaler(device.type, init_scale=1024.0)
    pool.bind(0)
    scaler.scale(_loss(model, 0, device)).backward()
    scaler.unscale_(optimiser)
    pool.collect(0)
    for view, grad in zip(pool.views(pool.rows[0]), expected, strict=True):
        assert torch.allclose(view, grad)


DATA_PARALLEL = """
import itertools, os, sys
import torch
from torch import nn
from esper.kernels import GradientPool

torch.distributed.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=0, world_size=1)
batches = torch.randn(3, 8, 5, generator=torch.Generator().manual_seed(1))
for mode, bucket_view in itertools.product(("copy", "view"), (False, True)):
    model = nn.Linear(5, 3)
    wrapped = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=bucket_view)
    pool = GradientPool(model.parameters(), mode=mode)
    for batch in batches:
        expected = torch.autograd.grad(model(batch).square().sum(), list(model.parameters()))
        for parameter in model.parameters():
            parameter.grad = None
        wrapped(batch).square().sum().backward()
        pool.collect(0)
        for view, grad in zip(pool.views(pool.rows[0]), expected, strict=True):
            assert torch.equal(view, grad), (mode, bucket_view)
print("equal", flush=True)
os._exit(0)  # destructors of gloo's process group can wait for each other
"""


def test_gradients_that_data_parallelism_moved_are_still_found(cpu_only: None, tmp_path: Path) -> None:
    root = Path(kernels.__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", DATA_PARALLEL, str(tmp_path / "store")],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert run.stdout.strip() == "equal", run.stderr


def test_layer_offsets_serve_seed_metrics(device: torch.device) -> None:
    model = _model(device)
    pool = GradientPool(model.parameters(), rows=2)
    _loss(model, 0, device).backward()
    pool.collect(0)
    metrics = kernels.seed_metrics(pool.rows, pool.layer_offsets)
    norms = torch.stack([p.grad.double().norm() for p in model.parameters()])
    assert torch.allclose(metrics.layer_norms[0], norms)


def test_layer_offsets_stay_where_they_are_until_the_layout_changes(device: torch.device) -> None:
    parameters = [nn.Parameter(torch.ones(size, device=device)) for size in (4, 8, 4)]
    pool = GradientPool(parameters[:2])
    before = pool.layer_offsets
    assert pool.layer_offsets is before
    pool.extend(parameters[2:])
    assert pool.layer_offsets.tolist() == [0, 4, 12, 16]
    pool.remove(parameters[:1])
    assert pool.layer_offsets.tolist() == [0, 12, 16]
    assert before.tolist() == [0, 4, 12]


def test_views_outlive_the_pool(device: torch.device) -> None:
    pool = GradientPool([nn.Parameter(torch.ones(4, device=device))], mode="view")
    pool.bind(0)
    (parameter,) = pool.parameters
    parameter.sum().backward()
    del pool
    assert parameter.grad.tolist() == [1.0] * 4


def test_misuse_says_what_arrived_and_what_was_expected(device: torch.device) -> None:
    parameter = nn.Parameter(torch.ones(3, device=device))
    pool = GradientPool([parameter], rows=2)
    cases = [
        (lambda: GradientPool([]), "no gradients available for aggregation"),
        (lambda: GradientPool([parameter], mode="alias"), "expected 'copy' or 'view'"),  # type: ignore[arg-type]
        (lambda: GradientPool([parameter, parameter]), "in the pool already"),
        (lambda: pool.extend([parameter]), "in the pool already"),
        (
            lambda: pool.extend([nn.Parameter(torch.ones(3, dtype=torch.float64, device=device))]),
            "share the same device",
        ),
        (lambda: pool.remove([nn.Parameter(torch.ones(3))]), "is not in the pool"),
        (lambda: pool.collect(2), "row 2 of a pool with 2 rows"),
        (lambda: pool.collect(-1), "row -1 of a pool with 2 rows"),
        (lambda: pool.bind(0), "bind needs mode='view'"),
        (lambda: pool.views(torch.ones(3, device=device)), "flat gradient has 3 elements but 4 were expected"),
    ]
    for call, message in cases:
        with pytest.raises(RuntimeError, match=message):
            call()


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=40), st.integers(1, 8))
def test_slots_never_overlap_whatever_is_added_and_removed(changes: list[tuple[bool, int]], alignment: int) -> None:
    plan = Plan(rows=1, item_bytes=4, alignment=alignment)
    for is_removal, number in changes:
        live = plan.live()
        if is_removal and live:
            plan.remove(live[number % len(live)])
        else:
            plan.add(number)
        spans = sorted((plan.offset(slot), plan.offset(slot) + plan.numel(slot)) for slot in plan.live())
        filled = [span for span in spans if span[0] != span[1]]
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(filled))
        assert all(begin % alignment == 0 for begin, _ in filled)
        assert all(end <= plan.extent for _, end in spans)


def test_an_emptied_plan_gives_all_its_room_back() -> None:
    plan = Plan(rows=2, item_bytes=4, alignment=4)
    slots = [plan.add(n) for n in (5, 9, 1, 30)]
    for slot in (slots[1], slots[3], slots[0], slots[2]):
        plan.remove(slot)
    assert plan.extent == 0
    with pytest.raises(ValueError, match="was removed before"):
        plan.remove(slots[0])
