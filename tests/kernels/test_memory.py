"""Memory that was freed, resized, shared or poisoned: a clear error or the right result, never silence."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import esper.kernels as kernels
from esper.kernels import GradientPool
from tests.kernels.reference import random_order
from tests.kernels.samples import SAMPLE_IDS, call, same_bits, samples, tensors, written

EVERY_SAMPLE = pytest.mark.parametrize("index", range(len(SAMPLE_IDS)), ids=SAMPLE_IDS)


def _resize_storage(tensor: Tensor, size_bytes: int) -> None:
    tensor.untyped_storage().resize_(size_bytes)


@pytest.mark.parametrize("left_bytes", [0, 2])
@EVERY_SAMPLE
def test_a_tensor_whose_memory_was_freed_or_shrunk_is_refused(
    device: torch.device, index: int, left_bytes: int
) -> None:
    count = len(list(tensors(samples(device)[index][1])))
    assert count > 0
    for position in range(count):
        name, arguments = samples(device)[index]
        victim = list(tensors(arguments))[position]
        kept = victim.untyped_storage().nbytes()
        _resize_storage(victim, left_bytes)
        with pytest.raises(RuntimeError, match=f"but its storage holds {left_bytes}: it was freed or resized"):
            call(name, arguments)
        _resize_storage(victim, kept)


@EVERY_SAMPLE
def test_what_was_in_an_output_before_does_not_matter(device: torch.device, index: int) -> None:
    name, arguments = samples(device)[index]
    clean = call(name, arguments)
    for out in written(name, arguments):
        out.fill_(float("nan"))
    poisoned = call(name, arguments)
    assert same_bits(clean, poisoned)


@EVERY_SAMPLE
def test_no_output_shares_memory_with_an_input(device: torch.device, index: int) -> None:
    name, arguments = samples(device)[index]
    given = {tensor.untyped_storage().data_ptr() for tensor in tensors(arguments)}
    for value in call(name, arguments):
        assert value.numel() == 0 or value.untyped_storage().data_ptr() not in given


OUTPUTS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "flatten_": lambda rows, out: kernels.flatten_([rows[0]], out),
    "flatten_ with a plan": lambda rows, out: kernels.flatten_([rows[0]], out, plan=kernels.FlattenPlan()),
    "combine": lambda rows, out: kernels.combine(rows, *_solution(rows), out=out),
    "combine_list": lambda rows, out: kernels.combine_list(list(rows), *_solution(rows), out=out),
    "pcgrad": lambda rows, out: kernels.pcgrad(rows, random_order(len(rows), rows.device), out=out),
    "pcgrad_list": lambda rows, out: kernels.pcgrad_list(list(rows), random_order(len(rows), rows.device), out=out),
}


def _solution(rows: Tensor) -> tuple[Tensor, Tensor]:
    k = len(rows)
    return torch.ones(k, dtype=torch.float64, device=rows.device), torch.zeros(2, dtype=torch.int64, device=rows.device)


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_output_that_cannot_be_written_is_refused_and_left_alone(device: torch.device, name: str) -> None:
    write = OUTPUTS[name]
    rows = torch.randn(3, 40, device=device)
    elsewhere = "cpu" if device.type == "cuda" else "meta"
    refused = {
        "requires one": nn.Parameter(torch.zeros(40, device=device)),
        "expected a contiguous vector": torch.zeros(80, device=device)[::2],
        r"expected a contiguous vector|\[40, 1\]": torch.zeros(1, device=device).expand(40),
        "shares memory with out": rows.view(-1)[20:60],
        "elements": torch.zeros(39, device=device),
        r"out (is|has dtype)|same dtype": torch.zeros(40, dtype=torch.float16, device=device),
        "is on|is not on|one device|a compiler cannot see|backend": torch.zeros(40, device=elsewhere),
    }
    for message, out in refused.items():
        if not name.startswith("flatten") and out.dtype == torch.float16 and device.type == "cpu":
            continue  # the CPU rounds a combination to any of the four types
        before = out.detach().clone()
        with pytest.raises((RuntimeError, NotImplementedError), match=message):
            write(rows, out)
        assert out.is_meta or torch.equal(out, before), message


def test_expanded_and_repeated_gradients_are_read_as_what_they_show(device: torch.device) -> None:
    value = torch.randn(1, device=device)
    grad = torch.randn(12, device=device)
    out = torch.full((40,), float("nan"), device=device)
    kernels.flatten_([value.expand(16), grad, grad], out)
    assert torch.equal(out, torch.cat([value.expand(16), grad, grad]))
    order = random_order(2, device)
    listed = kernels.pcgrad_list([value.expand(12), grad], order).flat
    assert torch.equal(listed, kernels.pcgrad(torch.stack([value.expand(12), grad]), order).flat)


def test_rows_that_overlap_each_other_are_read_correctly(device: torch.device) -> None:
    rows = torch.randn(50, device=device).unfold(0, 20, 10)
    assert not rows.is_contiguous()
    order = random_order(len(rows), device)
    assert torch.equal(kernels.pcgrad(rows, order).flat, kernels.pcgrad(rows.contiguous(), order).flat)


def test_a_gradient_replaced_between_two_passes_is_found_in_both_modes(device: torch.device) -> None:
    for mode in ("copy", "view"):
        parameter = nn.Parameter(torch.ones(6, device=device))
        pool = GradientPool([parameter], mode=mode)  # type: ignore[arg-type]
        for value in (1.0, 2.0, 3.0):
            parameter.grad = torch.full((6,), value, device=device)
            pool.collect(0)
            assert pool.views(pool.rows[0])[0].tolist() == [value] * 6
        parameter.grad.data = torch.full((6,), 4.0, device=device)
        pool.collect(0)
        assert pool.views(pool.rows[0])[0].tolist() == [4.0] * 6


def test_a_gradient_whose_memory_was_freed_is_no_absent_one(device: torch.device) -> None:
    for mode in ("copy", "view"):
        parameter = nn.Parameter(torch.ones(6, device=device))
        pool = GradientPool([parameter], mode=mode)  # type: ignore[arg-type]
        parameter.grad = torch.ones(6, device=device)
        _resize_storage(parameter.grad, 0)
        with pytest.raises(RuntimeError, match="it was freed or resized"):
            pool.collect(0)


def test_a_parameter_resized_under_a_pool_is_refused(device: torch.device) -> None:
    for mode in ("copy", "view"):
        parameter = nn.Parameter(torch.ones(6, device=device))
        pool = GradientPool([parameter], mode=mode)  # type: ignore[arg-type]
        parameter.data = torch.ones(9, device=device)
        parameter.grad = torch.ones(9, device=device)
        with pytest.raises(RuntimeError, match="9 elements"):
            pool.collect(0)


def test_rows_handed_out_before_the_pool_grew_keep_their_memory(device: torch.device) -> None:
    parameter = nn.Parameter(torch.ones(6, device=device))
    pool = GradientPool([parameter])
    parameter.grad = torch.full((6,), 2.0, device=device)
    pool.collect(0)
    before = pool.rows
    pool.extend([nn.Parameter(torch.ones(5000, device=device))])
    assert before[0, :6].tolist() == [2.0] * 6
    assert before.untyped_storage().data_ptr() != pool.rows.untyped_storage().data_ptr()


def test_results_live_on_when_their_rows_are_gone(device: torch.device) -> None:
    rows = torch.randn(3, 5000, device=device)
    order = random_order(3, device)
    kept = rows.clone()
    flat = kernels.pcgrad(rows, order).flat
    _resize_storage(rows, 0)
    assert torch.equal(flat, kernels.pcgrad(kept, order).flat)
