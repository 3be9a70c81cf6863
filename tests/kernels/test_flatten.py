"""Tensors into one buffer and back, bit for bit."""

from __future__ import annotations

import pytest
import torch

import esper.kernels as kernels
from tests.kernels.reference import DTYPES

SIZES = [0, 1, 15, 16, 17, 65_535, 65_536, 65_537]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_flattening_and_unflattening_return_every_bit(device: torch.device, dtype: torch.dtype) -> None:
    grads = [torch.randn(size).to(dtype).to(device) for size in SIZES]
    out = torch.full((sum(SIZES),), float("nan"), dtype=dtype, device=device)
    assert kernels.flatten_(grads, out) == (True,) * len(SIZES)
    for view, grad in zip(kernels.unflatten(out, [g.shape for g in grads]), grads, strict=True):
        assert torch.equal(view, grad)
        assert view.numel() == 0 or view.untyped_storage().data_ptr() == out.untyped_storage().data_ptr()


def test_special_values_are_copied_as_they_are(device: torch.device) -> None:
    bits = torch.tensor([0x7FC00001, 0x7F800000, -0x80000000, 1, -0x7FFFFFFF], dtype=torch.int32, device=device)
    out = torch.zeros(5, device=device)
    kernels.flatten_([bits.view(torch.float32)], out)
    assert torch.equal(out.view(torch.int32), bits)


@pytest.mark.parametrize("offset", [1, 2, 3, 5, 7])
def test_misaligned_starts_are_handled(device: torch.device, offset: int) -> None:
    source = torch.randn(70_000, device=device)[offset:]
    out = torch.zeros(70_000, device=device)[offset : offset + source.numel()]
    kernels.flatten_([source[:3], source[3:]], out)
    assert torch.equal(out, source)


def test_any_strides_are_read_in_logical_order(device: torch.device) -> None:
    base = torch.randn(4, 6, 5, 3, device=device)
    views = [
        base,
        base.contiguous(memory_format=torch.channels_last),
        base.transpose(0, 2),
        base[::2, 1:4, ::3],
        base[:1].expand(4, 6, 5, 3),
        base.permute(3, 1, 0, 2)[1:],
        base[0, 0, 0, 0],
        torch.randn(300, 700, device=device).T,
    ]
    out = torch.empty(sum(v.numel() for v in views), device=device)
    kernels.flatten_(views, out)
    assert torch.equal(out, torch.cat([v.reshape(-1) for v in views]))


@pytest.mark.parametrize("to", DTYPES, ids=str)
@pytest.mark.parametrize("source", DTYPES, ids=str)
def test_conversion_rounds_as_torch_does(device: torch.device, source: torch.dtype, to: torch.dtype) -> None:
    values = torch.cat([torch.randn(5000), torch.randn(5000) * 1e-7, torch.randn(2000) * 1e5]).double()
    values = torch.cat([values, torch.tensor([0.0, -0.0, float("inf"), -float("inf"), 65519.0, 65520.0, 2.0**-25])])
    grad = values.to(source).to(device)
    out = torch.empty(2 * grad.numel(), dtype=to, device=device)
    kernels.flatten_([grad, grad.view(1, -1).T], out, convert=True)
    assert torch.equal(out[: grad.numel()], grad.to(to))
    assert torch.equal(out[grad.numel() :], grad.to(to))


@pytest.mark.parametrize("to", DTYPES[1:], ids=str)
def test_nan_stays_nan_in_conversion(device: torch.device, to: torch.dtype) -> None:
    out = torch.zeros(3, dtype=to, device=device)
    kernels.flatten_([torch.tensor([float("nan")] * 3, dtype=torch.float64, device=device)], out, convert=True)
    assert out.isnan().all()


def test_every_half_and_bfloat16_converts_to_float32_exactly(device: torch.device) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype).to(device)
        out = torch.empty(2**16, device=device)
        kernels.flatten_([patterns], out, convert=True)
        assert torch.equal(out.nan_to_num(0.5), patterns.float().nan_to_num(0.5))
        assert torch.equal(out.isnan(), patterns.isnan())


def test_absent_gradients_become_zeros_and_clear_their_bit(device: torch.device) -> None:
    grads = [None, torch.ones(3, device=device), None, torch.ones(0, device=device), None]
    out = torch.full((10,), float("nan"), device=device)
    present = kernels.flatten_(grads, out, sizes=[2, 3, 0, 0, 5])
    assert present == (False, True, False, True, False)
    assert out.tolist() == [0, 0, 1, 1, 1, 0, 0, 0, 0, 0]


def test_all_gradients_absent_is_a_row_of_zeros(device: torch.device) -> None:
    out = torch.full((7,), float("nan"), device=device)
    assert kernels.flatten_([None, None], out, sizes=[3, 4]) == (False, False)
    assert not out.any()


def test_a_thousand_small_tensors_land_in_order(device: torch.device) -> None:
    grads = [torch.full((index % 130,), float(index), device=device) for index in range(1000)]
    out = torch.empty(sum(g.numel() for g in grads), device=device)
    kernels.flatten_(grads, out)
    assert torch.equal(out, torch.cat(grads))


def test_misuse_says_what_arrived_and_what_was_expected(device: torch.device) -> None:
    out = torch.zeros(6, device=device)
    ones = torch.ones(6, device=device)
    cases = [
        (lambda: kernels.flatten_([], out), "no gradients available for aggregation"),
        (lambda: kernels.flatten_([None], out), "pass sizes"),
        (lambda: kernels.flatten_([ones[:5]], out), "flat gradient has 6 elements but 5 were expected"),
        (lambda: kernels.flatten_([ones], out, sizes=[3, 3]), "sizes has 2 entries, expected one for each of 1"),
        (lambda: kernels.flatten_([ones], out, sizes=[5]), "gradient 0 has 6 elements, expected 5"),
        (lambda: kernels.flatten_([ones.double()], out), "must share the same dtype.*pass convert=True"),
        (lambda: kernels.flatten_([ones.to(torch.int64)], out), "has dtype Long"),
        (lambda: kernels.flatten_([ones], out.view(2, 3)), r"out has shape \[2, 3\]"),
        (lambda: kernels.flatten_([ones.clone().requires_grad_()], out), "flatten_ has no derivative"),
        (lambda: kernels.flatten_([ones.to_sparse()], out), "Sparse"),
        (lambda: kernels.unflatten(out, [(2, 2), (3,)]), "flat gradient has 6 elements but 7 were expected"),
    ]
    for call, message in cases:
        with pytest.raises(RuntimeError, match=message):
            call()
    assert not out.any()


def test_overlapping_memory_is_refused_before_anything_is_written(device: torch.device) -> None:
    buffer = torch.arange(12.0, device=device)
    with pytest.raises(RuntimeError, match="shares memory with out"):
        kernels.flatten_([buffer[2:8]], buffer[:6])
    with pytest.raises(RuntimeError, match="shares memory with out"):
        kernels.flatten_([buffer], buffer)
    assert torch.equal(buffer, torch.arange(12.0, device=device))
    rows = buffer.view(2, 6)
    order = torch.tensor([[0, 1], [1, 0]], device=device)
    with pytest.raises(RuntimeError, match="shares memory with out"):
        kernels.pcgrad(rows, order, out=buffer[3:9])


@pytest.mark.gpu
def test_tensors_on_different_devices_are_refused(cuda_only: None, device: torch.device) -> None:
    with pytest.raises(RuntimeError):
        kernels.flatten_([torch.ones(3), torch.ones(3, device=device)], torch.zeros(6, device=device))


@pytest.mark.gpu
def test_more_than_2_to_the_31_elements_are_flattened(cuda_only: None, device: torch.device) -> None:
    big = torch.zeros(2**31 + 5, dtype=torch.bfloat16, device=device)
    big[-1] = 3.0
    tail = torch.full((7,), 2.0, dtype=torch.bfloat16, device=device)
    out = torch.empty(big.numel() + 7, dtype=torch.bfloat16, device=device)
    kernels.flatten_([big, tail], out)
    assert out[2**31 + 4] == 3.0
    assert out[-1] == 2.0
