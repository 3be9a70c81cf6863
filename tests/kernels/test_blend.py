"""Blends against float64, their exact ends, isolation and derivatives."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import esper.kernels as kernels
from tests.kernels import reference
from tests.kernels.reference import DTYPES, TOLERANCE, relative_error

Blend = Callable[..., Tensor]
SHAPES = [(), (0,), (1,), (7,), (64, 10), (3, 8, 5, 7), (2, 65_537), (4, 0, 3)]
# Few elements and many take different kernels on a GPU.
IMAGES = [(2, 12, 5, 6), (7, 12, 15, 18)]
ROWS = [(5, 333), (5, 3333)]
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda t: t,
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "transposed": lambda t: t.transpose(1, 3).contiguous().transpose(1, 3),
    "sliced": lambda t: torch.cat([t, t], dim=3)[..., : t.size(3)],
    "strided": lambda t: t.repeat_interleave(2, dim=3)[..., ::2],
    "expanded": lambda t: t[:, :1].expand_as(t),
}


def _alpha(value: float, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(value, dtype=dtype, device=device)


def _pair(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.randn(shape).to(dtype).to(device), torch.randn(shape).to(dtype).to(device)


@pytest.mark.parametrize("convex", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_blend_equals_its_formula(
    device: torch.device, shape: tuple[int, ...], dtype: torch.dtype, convex: bool
) -> None:
    host, seed = _pair(shape, dtype, device)
    alpha = _alpha(0.3, device, torch.float64)
    value = (kernels.blend_convex if convex else kernels.blend_residual)(host, seed, alpha)
    assert value.dtype == dtype
    assert value.shape == shape
    expected = reference.blend(host, seed, alpha, convex=convex)
    assert relative_error(value, expected) < TOLERANCE[dtype] * 2


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", IMAGES, ids=str)
def test_channel_weights_follow_the_channel_in_every_layout(
    device: torch.device, shape: tuple[int, ...], dtype: torch.dtype, layout: str, residual: bool
) -> None:
    host, seed = (LAYOUTS[layout](t) for t in _pair(shape, dtype, device))
    vector = torch.rand(12, dtype=torch.float64, device=device) * 1.5
    vector[3], vector[5] = 0.0, 5.0
    value = kernels.blend_channel(host, seed, vector, _alpha(0.5, device), residual=residual)
    e = (0.5 * vector).clamp(0, 1).view(1, 12, 1, 1)
    assert relative_error(value, reference.blend(host, seed, e, convex=not residual)) < TOLERANCE[dtype] * 2
    if layout in ("contiguous", "channels_last"):
        assert value.stride() == host.stride()


@pytest.mark.parametrize("entries", [1, 2, 3, 4, 6, 12])
def test_fewer_entries_than_channels_expand_by_groups(device: torch.device, entries: int) -> None:
    vector = torch.rand(entries, device=device)
    for shape in ((2, 12, 9, 9), (5, 12), (25, 12, 9, 9), (2000, 12)):
        host, seed = _pair(shape, torch.float32, device)
        value = kernels.blend_channel(host, seed, vector, _alpha(1.0, device))
        expanded = kernels.blend_channel(host, seed, vector.repeat_interleave(12 // entries), _alpha(1.0, device))
        assert torch.equal(value, expanded)


@pytest.mark.parametrize("rows", [9, 2000])
def test_channels_may_be_the_last_dimension(device: torch.device, rows: int) -> None:
    host, seed = _pair((2, rows, 6), torch.float32, device)
    vector = torch.rand(6, device=device)
    value = kernels.blend_channel(host, seed, vector, _alpha(1.0, device), dim=-1)
    assert relative_error(value, reference.blend(host, seed, vector, convex=True)) < 1e-6


@pytest.mark.parametrize("shape", [(33, 10), (33, 4, 3, 3), (33,), (33, 700), (300, 77), (20_000,)])
def test_each_sample_is_weighted_by_its_own_gate(device: torch.device, shape: tuple[int, ...]) -> None:
    host, seed = _pair(shape, torch.float32, device)
    gate = torch.rand(shape[0], device=device)
    value = kernels.blend_confidence(host, seed, gate, _alpha(0.8, device), lo=0.1, hi=0.5)
    e = (0.8 * gate.double()).clamp(0.1, 0.5).view(-1, *[1] * (len(shape) - 1))
    assert relative_error(value, reference.blend(host, seed, e, convex=True)) < 1e-6


@pytest.mark.parametrize("width", [16, 4000])
def test_alpha_zero_returns_the_host_whatever_the_lower_bound_says(device: torch.device, width: int) -> None:
    host, seed = _pair((8, width), torch.float32, device)
    gate = torch.rand(8, device=device)
    value = kernels.blend_confidence(host, torch.full_like(seed, torch.nan), gate, _alpha(0.0, device), lo=0.3)
    assert torch.equal(value, host)


@pytest.mark.parametrize("alpha", [0.0, -0.0, -2.0])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", ROWS, ids=str)
def test_alpha_zero_returns_the_host_even_where_the_seed_is_not_finite(
    device: torch.device, shape: tuple[int, ...], dtype: torch.dtype, bad: float, alpha: float
) -> None:
    host, seed = _pair(shape, dtype, device)
    seed[2] = bad
    a = _alpha(alpha, device)
    vector = torch.ones(3, device=device)
    assert torch.equal(kernels.blend_residual(host, seed, a), host)
    assert torch.equal(kernels.blend_convex(host, seed, a), host)
    assert torch.equal(kernels.blend_channel(host, seed, vector, a), host)


@pytest.mark.parametrize("alpha", [1.0, 7.0])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", ROWS, ids=str)
def test_alpha_one_is_exact(device: torch.device, shape: tuple[int, ...], dtype: torch.dtype, alpha: float) -> None:
    host, seed = _pair(shape, dtype, device)
    assert torch.equal(kernels.blend_residual(host, seed, _alpha(alpha, device)), host + seed)
    host[1] = float("nan")
    assert torch.equal(kernels.blend_convex(host, seed, _alpha(alpha, device)), seed)


def test_a_channel_with_weight_zero_or_one_is_exact_beside_others(device: torch.device) -> None:
    vector = torch.tensor([0.0, 1.0, 0.5], device=device)
    for shape in ((4, 3, 50), (4, 3), (400, 3, 50), (9000, 3)):
        host, seed = _pair(shape, torch.float32, device)
        host[:, 1] = float("nan")
        seed[:, 0] = float("inf")
        value = kernels.blend_channel(host, seed, vector, _alpha(1.0, device))
        assert torch.equal(value[:, 0], host[:, 0])
        assert torch.equal(value[:, 1], seed[:, 1])
        assert torch.isfinite(value[:, 2]).all()


@pytest.mark.parametrize("width", [6, 5000])
def test_a_nan_alpha_or_gate_is_not_hidden(device: torch.device, width: int) -> None:
    host, seed = _pair((4, width), torch.float32, device)
    assert torch.isnan(kernels.blend_residual(host, seed, _alpha(float("nan"), device))).all()
    gate = torch.tensor([0.5, float("nan"), 0.5, 0.5], device=device)
    value = kernels.blend_confidence(host, seed, gate, _alpha(1.0, device))
    assert torch.isnan(value).any(dim=1).tolist() == [False, True, False, False]


BLENDS: dict[str, Callable[[torch.device], Blend]] = {
    "residual": lambda device: kernels.blend_residual,
    "convex": lambda device: kernels.blend_convex,
    "channel": lambda device: (
        lambda h, s, a, **kw: kernels.blend_channel(
            h, s, torch.tensor([0.2, 0.0, 1.0], dtype=torch.float64, device=device), a, **kw
        )
    ),
    "channel residual": lambda device: (
        lambda h, s, a, **kw: kernels.blend_channel(
            h, s, torch.tensor([0.2, 0.0, 0.9], dtype=torch.float64, device=device), a, residual=True, **kw
        )
    ),
    "confidence": lambda device: (
        lambda h, s, a, **kw: kernels.blend_confidence(
            h, s, torch.tensor([0.9, 0.4], dtype=torch.float64, device=device), a, lo=0.05, hi=0.95, **kw
        )
    ),
}


@pytest.mark.parametrize("name", BLENDS)
def test_first_derivatives_hold_for_host_seed_and_alpha(device: torch.device, name: str) -> None:
    blend = BLENDS[name](device)
    host, seed = (t.requires_grad_() for t in _pair((2, 3, 4), torch.float64, device))
    alpha = _alpha(0.6, device, torch.float64).requires_grad_()
    assert gradcheck(blend, (host, seed, alpha))


@pytest.mark.parametrize("name", BLENDS)
def test_second_derivatives_hold_for_host_and_seed(device: torch.device, name: str) -> None:
    blend = BLENDS[name](device)
    host, seed = (t.requires_grad_() for t in _pair((2, 3, 4), torch.float64, device))
    alpha = _alpha(0.6, device, torch.float64)
    assert gradgradcheck(lambda h, s: blend(h, s, alpha), (host, seed))
    assert gradgradcheck(lambda s: blend(host.detach(), s, alpha), (seed,))
    assert gradgradcheck(lambda h: blend(h, seed.detach(), alpha), (host,))


def test_a_second_derivative_through_alpha_is_refused(device: torch.device) -> None:
    host, seed = (t.requires_grad_() for t in _pair((2, 3), torch.float32, device))
    alpha = _alpha(0.5, device).requires_grad_()
    value = kernels.blend_convex(host, seed, alpha)
    first = torch.autograd.grad(value.square().sum(), (seed, alpha), create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative that involves alpha"):
        torch.autograd.grad(first[0].sum(), alpha)


@pytest.mark.parametrize("name", BLENDS)
def test_isolation_gives_the_seed_its_gradient_and_the_host_none(device: torch.device, name: str) -> None:
    blend = BLENDS[name](device)
    host, seed = (t.requires_grad_() for t in _pair((2, 3, 4), torch.float64, device))
    alpha = _alpha(0.6, device)
    shared = torch.autograd.grad(blend(host, seed, alpha).sum(), (host, seed))
    isolated = blend(host, seed, alpha, isolate=True)
    host_gradient, seed_gradient = torch.autograd.grad(isolated.sum(), (host, seed), allow_unused=True)
    assert host_gradient is None
    assert shared[0].any()
    assert torch.equal(seed_gradient, shared[1])


def test_an_isolated_host_still_learns_through_its_other_uses(device: torch.device) -> None:
    host, seed = (t.requires_grad_() for t in _pair((4, 4), torch.float32, device))
    total = kernels.blend_residual(host, seed, _alpha(0.5, device), isolate=True).sum() + 3 * host.sum()
    total.backward()
    assert torch.equal(host.grad, torch.full_like(host, 3.0))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", ROWS, ids=str)
def test_gradients_at_the_ends_are_exact_even_where_the_arriving_one_is_not_finite(
    device: torch.device, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    host, seed = (t.requires_grad_() for t in _pair(shape, dtype, device))
    arriving = torch.randn(shape).to(dtype).to(device)
    arriving[1, 1] = float("nan")
    at_zero = torch.autograd.grad(kernels.blend_convex(host, seed, _alpha(0.0, device)), (host, seed), arriving)
    assert torch.equal(at_zero[0], arriving) or torch.equal(at_zero[0].isnan(), arriving.isnan())
    assert not at_zero[1].any()
    at_one = torch.autograd.grad(kernels.blend_convex(host, seed, _alpha(1.0, device)), (host, seed), arriving)
    assert not at_one[0].any()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", IMAGES, ids=str)
def test_gradients_follow_the_channel_in_every_layout(
    device: torch.device, shape: tuple[int, ...], layout: str
) -> None:
    host, seed = (LAYOUTS[layout](t).detach().requires_grad_() for t in _pair(shape, torch.float32, device))
    vector = torch.rand(12, device=device)
    arriving = LAYOUTS[layout](torch.randn(shape, device=device))
    value = kernels.blend_channel(host, seed, vector, _alpha(0.5, device))
    host_gradient, seed_gradient = torch.autograd.grad(value, (host, seed), arriving)
    e = 0.5 * vector.view(1, 12, 1, 1)
    assert relative_error(seed_gradient, e * arriving) < 1e-6
    assert relative_error(host_gradient, (1 - e) * arriving) < 1e-6


def test_gradients_of_alpha_are_summed_in_float64(device: torch.device) -> None:
    host, seed = _pair((3, 100_001), torch.bfloat16, device)
    alpha = _alpha(0.5, device).requires_grad_()
    value = kernels.blend_convex(host, seed, alpha)
    arriving = torch.randn(3, 100_001).to(torch.bfloat16).to(device)
    (gradient,) = torch.autograd.grad(value, alpha, arriving)
    expected = (arriving.double() * (seed.double() - host.double())).sum()
    assert abs(float(gradient) - float(expected)) < 1e-6 * float(expected.abs() + 1)


def test_a_clamped_alpha_has_no_gradient(device: torch.device) -> None:
    host, seed = _pair((3, 4), torch.float32, device)
    alpha = _alpha(1.5, device).requires_grad_()
    kernels.blend_residual(host, seed, alpha).sum().backward()
    assert float(alpha.grad) == 0.0


def test_changing_alpha_between_forward_and_backward_is_noticed(device: torch.device) -> None:
    host, seed = (t.requires_grad_() for t in _pair((3, 4), torch.float32, device))
    alpha = _alpha(0.5, device)
    value = kernels.blend_residual(host, seed, alpha)
    alpha.fill_(0.9)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.sum().backward()


def test_autocast_brings_host_and_seed_to_their_common_dtype(device: torch.device) -> None:
    host = torch.randn(4, 8, device=device)
    seed = torch.randn(4, 8, device=device).to(torch.bfloat16).requires_grad_()
    with torch.autocast(device.type, dtype=torch.bfloat16):
        value = kernels.blend_residual(host, seed, _alpha(0.5, device))
    assert value.dtype == torch.float32
    value.sum().backward()
    assert seed.grad.dtype == torch.bfloat16
    with pytest.raises(RuntimeError, match="seed has dtype"):
        kernels.blend_residual(host, seed, _alpha(0.5, device))


def test_outputs_never_share_memory_with_inputs(device: torch.device) -> None:
    host, seed = _pair((6, 7), torch.float32, device)
    for alpha in (0.0, 0.5, 1.0):
        for blend in (kernels.blend_residual, kernels.blend_convex):
            value = blend(host, seed, _alpha(alpha, device))
            assert value.data_ptr() not in (host.data_ptr(), seed.data_ptr())


def test_statistics_of_the_weights_follow_their_definitions(device: torch.device) -> None:
    for count in (1, 2, 19, 20, 21, 64, 5000):
        gate = torch.rand(count, device=device) * 1.4
        gate[0] = 0.0
        alpha = _alpha(0.9, device)
        stats = kernels.blend_stats(alpha, gate, lo=0.0, hi=0.8)
        raw = float(alpha) * gate.double()
        e = raw.clamp(0.0, 0.8)
        nearest_rank = e.sort().values[-(-count * 95 // 100) - 1]
        assert abs(float(stats.mean) - float(e.mean())) < 1e-6
        assert abs(float(stats.p95) - float(nearest_rank)) < 1e-6
        assert abs(float(stats.sparsity) - float((e == 0).double().mean())) < 1e-6
        assert abs(float(stats.clamped_fraction) - float((e != raw).double().mean())) < 1e-6


def test_statistics_of_a_single_alpha(device: torch.device) -> None:
    assert [float(x) for x in kernels.blend_stats(_alpha(0.25, device))] == [0.25, 0.25, 0.0, 0.0]
    assert [float(x) for x in kernels.blend_stats(_alpha(0.0, device))] == [0.0, 0.0, 1.0, 0.0]
    assert [float(x) for x in kernels.blend_stats(_alpha(1.5, device))] == [1.0, 1.0, 0.0, 1.0]


def test_statistics_of_nan_weights_are_nan(device: torch.device) -> None:
    gate = torch.tensor([0.1, float("nan"), 0.2], device=device)
    stats = kernels.blend_stats(_alpha(1.0, device), gate)
    assert torch.isnan(stats.mean)
    assert torch.isnan(stats.p95)


MISUSES: dict[str, tuple[Callable[[torch.device], object], str]] = {
    "shape": (
        lambda d: kernels.blend_residual(torch.ones(2, 3, device=d), torch.ones(3, 2, device=d), _alpha(0.5, d)),
        r"seed has shape \[3, 2\], expected that of host, \[2, 3\]",
    ),
    "dtype": (
        lambda d: kernels.blend_residual(torch.ones(2, device=d), torch.ones(2, device=d).double(), _alpha(0.5, d)),
        "seed has dtype",
    ),
    "integers": (
        lambda d: kernels.blend_residual(
            torch.ones(2, device=d, dtype=torch.int64), torch.ones(2, device=d, dtype=torch.int64), _alpha(0.5, d)
        ),
        "host has dtype Long, expected float64, float32, bfloat16 or float16",
    ),
    "alpha vector": (
        lambda d: kernels.blend_residual(torch.ones(2, device=d), torch.ones(2, device=d), torch.ones(2, device=d)),
        r"alpha has shape \[2\], expected a 0-d tensor",
    ),
    "alpha dtype": (
        lambda d: kernels.blend_residual(torch.ones(2, device=d), torch.ones(2, device=d), torch.tensor(1, device=d)),
        "alpha has dtype Long, expected float32 or float64",
    ),
    "gate length": (
        lambda d: kernels.blend_confidence(
            torch.ones(4, 2, device=d), torch.ones(4, 2, device=d), torch.ones(3, device=d), _alpha(0.5, d)
        ),
        r"gate has shape \[3\], expected one entry for each sample of \[4, 2\]",
    ),
    "channel count": (
        lambda d: kernels.blend_channel(
            torch.ones(4, 5, device=d), torch.ones(4, 5, device=d), torch.ones(3, device=d), _alpha(0.5, d)
        ),
        "gate has 3 entries, which do not divide the 5 elements of dimension 1",
    ),
    "too many entries": (
        lambda d: kernels.blend_channel(
            torch.ones(4, 65, device=d), torch.ones(4, 65, device=d), torch.ones(65, device=d), _alpha(0.5, d)
        ),
        "alpha_vec has 65 entries, expected 1 to 64",
    ),
    "bounds": (
        lambda d: kernels.blend_confidence(
            torch.ones(4, 2, device=d),
            torch.ones(4, 2, device=d),
            torch.ones(4, device=d),
            _alpha(0.5, d),
            lo=0.9,
            hi=0.1,
        ),
        "expected 0 <= lo <= hi <= 1",
    ),
    "gate gradient": (
        lambda d: kernels.blend_confidence(
            torch.ones(4, 2, device=d),
            torch.ones(4, 2, device=d),
            torch.ones(4, device=d, requires_grad=True),
            _alpha(0.5, d),
        ),
        "no derivative for its gate",
    ),
}


@pytest.mark.parametrize("name", MISUSES)
def test_misuse_says_what_arrived_and_what_was_expected(device: torch.device, name: str) -> None:
    call, message = MISUSES[name]
    with pytest.raises(RuntimeError, match=message):
        call(device)


def test_a_number_is_no_alpha(device: torch.device) -> None:
    with pytest.raises(TypeError, match=r"alpha is 0\.5, expected a 0-d tensor"):
        partial(kernels.blend_residual, torch.ones(2), torch.ones(2))(0.5)  # type: ignore[arg-type]


@pytest.mark.gpu
def test_a_blend_of_more_than_2_to_the_31_elements_reaches_its_end(cuda_only: None, device: torch.device) -> None:
    host = torch.ones(2**31 + 9, dtype=torch.bfloat16, device=device)
    seed = torch.ones_like(host)
    value = kernels.blend_residual(host, seed, _alpha(0.5, device))
    assert value[-1] == 1.5
    assert value[2**31] == 1.5


@pytest.mark.gpu
def test_tensors_on_different_devices_are_refused(cuda_only: None, device: torch.device) -> None:
    with pytest.raises(RuntimeError):
        kernels.blend_residual(torch.ones(3, device=device), torch.ones(3), _alpha(0.5, device))


@pytest.mark.gpu
def test_derivatives_of_more_than_2_to_the_31_elements_reach_their_end(cuda_only: None, device: torch.device) -> None:
    shape = (1, 2, 2**30 + 9)
    host, seed = (torch.ones(shape, dtype=torch.bfloat16, device=device).requires_grad_() for _ in range(2))
    alpha = _alpha(0.5, device).requires_grad_()
    vector = torch.tensor([0.5, 1.0], device=device)
    value = kernels.blend_channel(host, seed, vector, alpha, residual=True)
    assert value[0, :, -1].tolist() == [1.25, 1.5]
    arriving = torch.full_like(value, 2.0)
    for_host, for_seed, for_alpha = torch.autograd.grad(value, (host, seed, alpha), arriving)
    assert for_host[0, 1, -1] == 2.0
    assert for_seed[0, :, -1].tolist() == [0.5, 1.0]
    assert float(for_alpha) == pytest.approx(2 * 1.5 * (2**30 + 9), rel=1e-6)
