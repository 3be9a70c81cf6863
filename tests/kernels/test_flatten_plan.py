"""A plan of a flattening: the same bits as without one, whatever happens to the tensors between two calls."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import esper.kernels as kernels
from esper.kernels import FlattenPlan
from tests.kernels.reference import DTYPES

Gradients = list[Tensor | None]


def _expected(grads: Gradients, sizes: list[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    parts = [
        torch.zeros(size, dtype=dtype, device=device) if grad is None else grad.reshape(-1).to(dtype)
        for grad, size in zip(grads, sizes, strict=True)
    ]
    return torch.cat(parts)


def _count_plans(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    made: list[int] = []
    make = torch.ops.esper.flatten_plan.default

    def counted(*arguments: object) -> Tensor:
        made.append(1)
        return make(*arguments)

    monkeypatch.setattr("esper.kernels._flatten._flatten_plan", counted)
    return made


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_planned_call_gives_the_bits_of_a_plain_one_each_time(
    device: torch.device, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = _count_plans(monkeypatch)
    grads: Gradients = [
        torch.randn(7, 5).to(dtype).to(device),
        None,
        torch.randn(60, 9).to(dtype).to(device).t(),
        torch.randn(0).to(dtype).to(device),
        torch.randn(4097).to(dtype).to(device)[1:],
    ]
    sizes = [35, 3, 540, 0, 4096]
    plan = FlattenPlan()
    for _ in range(3):
        for grad in grads:
            if grad is not None:
                grad.copy_(torch.randn(grad.shape))
        out = torch.full((sum(sizes),), float("nan"), dtype=dtype, device=device)
        assert kernels.flatten_(grads, out, sizes=sizes, plan=plan) == (True, False, True, True, True)
        assert torch.equal(out, _expected(grads, sizes, dtype, device))
    assert len(made) == 1


@pytest.mark.parametrize("count", [2000, 5000])
def test_thousands_of_tensors_share_a_plan(device: torch.device, count: int) -> None:
    grads = [torch.full((index % 130,), float(index), device=device) for index in range(count)]
    out = torch.empty(sum(grad.numel() for grad in grads), device=device)
    plan = FlattenPlan()
    for _ in range(2):
        out.fill_(float("nan"))
        kernels.flatten_(grads, out, plan=plan)
        assert torch.equal(out, torch.cat(grads))


def _transpose(grads: Gradients) -> None:
    grads[1].t_()  # type: ignore[union-attr]


def _resize(grads: Gradients) -> None:
    grads[0].resize_(5000).resize_(12)  # type: ignore[union-attr]


def _set_data(grads: Gradients) -> None:
    grads[0].data = torch.randn(12, device=grads[0].device)  # type: ignore[union-attr]


def _replace(grads: Gradients) -> None:
    grads[0] = torch.randn_like(grads[0])  # type: ignore[arg-type]


def _drop(grads: Gradients) -> None:
    grads[2] = None


def _swap(grads: Gradients) -> None:
    grads[0], grads[2] = grads[2], grads[0]


CHANGES: dict[str, Callable[[Gradients], None]] = {
    "transposed in place": _transpose,
    "resized": _resize,
    "given other memory": _set_data,
    "replaced in the same list": _replace,
    "now absent": _drop,
    "in another order": _swap,
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_the_tensors_is_noticed(device: torch.device, name: str) -> None:
    grads: Gradients = [
        torch.randn(12, device=device),
        torch.randn(5, 3, device=device),
        torch.randn(12, device=device),
    ]
    sizes = [12, 15, 12]
    out = torch.empty(39, device=device)
    plan = FlattenPlan()
    kernels.flatten_(grads, out, sizes=sizes, plan=plan)
    CHANGES[name](grads)
    for _ in range(2):
        out.fill_(float("nan"))
        kernels.flatten_(grads, out, sizes=sizes, plan=plan)
        assert torch.equal(out, _expected(grads, sizes, torch.float32, device))


@settings(max_examples=40)
@given(st.lists(st.sampled_from([*CHANGES, "nothing"]), max_size=8))
def test_no_sequence_of_changes_leaves_a_stale_result(names: list[str]) -> None:
    device = torch.device("cpu")
    grads: Gradients = [torch.randn(12), torch.randn(5, 3), torch.randn(12)]
    out, plan = torch.empty(39), FlattenPlan()
    for name in names:
        if name == "resized" and (grads[0] is None or not grads[0].is_contiguous()):
            continue
        if None not in (grads[0], grads[2]) or name == "in another order":
            CHANGES.get(name, lambda _: None)(grads)
        kernels.flatten_(grads, out, sizes=[12, 15, 12], plan=plan)
        assert torch.equal(out, _expected(grads, [12, 15, 12], torch.float32, device))


@pytest.mark.parametrize("left_bytes", [0, 4, 59])
def test_freed_memory_is_an_error_and_the_plan_recovers(device: torch.device, left_bytes: int) -> None:
    grads = [torch.randn(15, device=device)[3:], torch.randn(3, device=device)]
    out, plan = torch.zeros(15, device=device), FlattenPlan()
    kernels.flatten_(grads, out, plan=plan)
    before = out.clone()
    grads[0].untyped_storage().resize_(left_bytes)
    with pytest.raises(RuntimeError, match=f"its storage holds {left_bytes}: it was freed or resized"):
        kernels.flatten_(grads, out, plan=plan)
    assert torch.equal(out, before)
    grads[0].untyped_storage().resize_(60)
    grads[0].fill_(7.0)
    kernels.flatten_(grads, out, plan=plan)
    assert out[:12].tolist() == [7.0] * 12


def test_another_type_at_the_same_address_is_noticed(device: torch.device) -> None:
    grads = [torch.randn(12, device=device)]
    out, plan = torch.zeros(12, device=device), FlattenPlan()
    kernels.flatten_(grads, out, plan=plan)
    grads[0].data = grads[0].data.view(torch.int32)
    with pytest.raises(RuntimeError, match="Int"):
        kernels.flatten_(grads, out, plan=plan)


def test_one_plan_serves_several_outputs_and_types_in_turn(device: torch.device) -> None:
    grads = [torch.randn(12, device=device), torch.randn(3, device=device)]
    plan = FlattenPlan()
    for dtype in (torch.float32, torch.float64, torch.float32):
        out = torch.empty(2, 15, dtype=dtype, device=device)
        for row in out:
            kernels.flatten_(grads, row, convert=True, plan=plan)
            assert torch.equal(row, torch.cat(grads).to(dtype))


def test_an_output_that_overlaps_or_does_not_fit_is_refused_by_a_known_plan_too(device: torch.device) -> None:
    memory = torch.arange(30.0, device=device)
    grads = [memory[:10], memory[10:15]]
    plan = FlattenPlan()
    kernels.flatten_(grads, torch.empty(15, device=device), plan=plan)
    refused = {
        "shares memory with out": memory[12:27],
        "flat gradient has 14 elements but 15": torch.empty(14, device=device),
        "expected a contiguous vector": torch.empty(30, device=device)[::2],
        "requires one": torch.empty(15, device=device, requires_grad=True),
    }
    for message, out in refused.items():
        with pytest.raises(RuntimeError, match=message):
            kernels.flatten_(grads, out, plan=plan)
    assert torch.equal(memory, torch.arange(30.0, device=device))


def test_a_plan_holds_its_tensors_until_it_forgets_them(device: torch.device) -> None:
    grads = [torch.randn(4, device=device)]
    storage = weakref.ref(grads[0].untyped_storage())
    watched = weakref.ref(grads[0])
    plan = FlattenPlan()
    kernels.flatten_(grads, torch.empty(4, device=device), plan=plan)
    grads.clear()
    assert watched() is not None
    plan.forget()
    assert watched() is None
    assert storage() is None


def test_only_what_flatten_plan_made_is_a_plan(device: torch.device) -> None:
    out = torch.zeros(3, device=device)
    made = torch.ops.esper.flatten_plan([torch.ones(3, device=device)], [], out)
    for other in (made.clone(), torch.zeros(1, dtype=torch.uint8), torch.ones(3), torch.zeros(0)):
        with pytest.raises(RuntimeError, match="plan is not one that flatten_plan made"):
            torch.ops.esper.flatten_planned_(other, out)
    made.fill_(77)
    assert torch.ops.esper.flatten_planned_(made, out)
    assert out.tolist() == [1.0] * 3


def test_compiled_code_flattens_without_the_plan_and_refuses_the_bare_operator(device: torch.device) -> None:
    grads = [torch.randn(4, device=device), torch.randn(3, device=device)]
    out, plan = torch.empty(7, device=device), FlattenPlan()
    compiled = torch.compile(lambda: kernels.flatten_(grads, out, plan=plan), fullgraph=True, backend="aot_eager")
    compiled()
    assert torch.equal(out, torch.cat(grads))
    bare = torch.compile(lambda: torch.ops.esper.flatten_plan(grads, [], out), fullgraph=True, backend="aot_eager")
    with pytest.raises(RuntimeError, match="a plan holds tensors that a compiler cannot see"):
        bare()


@pytest.mark.gpu
def test_a_captured_plan_replays_with_what_the_tensors_hold_then(cuda_only: None, device: torch.device) -> None:
    grads = [torch.randn(128, device=device) for _ in range(2500)] + [torch.randn(40, 9, device=device).t()]
    out, plan = torch.empty(2500 * 128 + 360, device=device), FlattenPlan()
    kernels.flatten_(grads, out, plan=plan)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kernels.flatten_(grads, out, plan=plan)
    for grad in grads:
        grad.copy_(torch.randn_like(grad))
    out.fill_(float("nan"))
    graph.replay()
    assert torch.equal(out, torch.cat([grad.reshape(-1) for grad in grads]))


@pytest.mark.gpu
def test_a_planned_call_does_not_wait_for_the_device(cuda_only: None, device: torch.device) -> None:
    grads = [torch.randn(128, device=device) for _ in range(50)]
    out, plan = torch.empty(50 * 128, device=device), FlattenPlan()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(2):
            kernels.flatten_(grads, out, plan=plan)
    finally:
        torch.cuda.set_sync_debug_mode(before)
    assert torch.equal(out, torch.cat(grads))
