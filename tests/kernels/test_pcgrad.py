"""Gradient surgery against the textbook loop in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import esper.kernels as kernels
from tests.kernels.reference import DTYPES, TOLERANCE, pcgrad, random_order, relative_error

SIZES = [0, 1, 7, 8, 9, 63, 64, 1000, 65_535, 65_536, 65_537, 200_003]


def _flat(value: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(value)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", SIZES)
def test_the_gram_matrix_equals_a_float64_product(device: torch.device, dtype: torch.dtype, n: int) -> None:
    rows = torch.randn(5, n, dtype=torch.float64).to(dtype).to(device)
    expected = rows.double() @ rows.double().T
    assert relative_error(kernels.gram(rows), expected) < 1e-12


@pytest.mark.parametrize("k", [*range(1, 18), 24, 31, 32, 33, 63, 64])
def test_every_number_of_rows_up_to_64_is_handled(device: torch.device, k: int) -> None:
    rows = torch.randn(k, 777, device=device)
    order = random_order(k, device, seed=k)
    result = kernels.pcgrad(rows, order)
    expected = pcgrad(rows.cpu().numpy(), order.cpu().numpy())
    assert relative_error(kernels.gram(rows), rows.double() @ rows.double().T) < 1e-13
    assert relative_error(result.flat, _flat(expected.flat)) < 1e-6
    assert (int(result.conflicts_raw), int(result.conflicts_applied)) == (expected.raw, expected.applied)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [1, 9, 65_537])
def test_the_result_equals_the_textbook_loop_in_every_dtype(device: torch.device, dtype: torch.dtype, n: int) -> None:
    rows = torch.randn(6, n).to(dtype).to(device)
    order = random_order(6, device)
    result = kernels.pcgrad(rows, order)
    expected = pcgrad(rows.double().cpu().numpy(), order.cpu().numpy())
    assert result.flat.dtype == dtype
    # One element makes all rows collinear: what is left after surgery is rounding of the rows' own size.
    scale = 1e-3 * float(rows.abs().max())
    assert relative_error(result.flat, _flat(expected.flat), scale=scale) < TOLERANCE[dtype]


def _random_case(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Independent rows, or rows that differ by little from one direction and its opposite."""
    k, n = int(generator.integers(2, 9)), int(generator.integers(4, 33))
    rows = generator.standard_normal((k, n))
    if generator.random() < 0.5:
        spread = 10.0 ** -generator.uniform(0, 5)
        rows = generator.choice([-1.0, 1.0], (k, 1)) * generator.standard_normal(n) + spread * rows
    rows *= 10.0 ** generator.uniform(-6, 6, (k, 1))
    order = np.stack([generator.permutation(k) for _ in range(k)])
    return rows.astype(np.float32), order


def test_ten_thousand_random_cases_agree_with_the_textbook_in_counts_and_values(device: torch.device) -> None:
    generator = np.random.default_rng(7)
    undecidable = 0
    for case in range(10_000 if device.type == "cpu" else 1_000):
        rows, order = _random_case(generator)
        expected = pcgrad(rows, order)
        result = kernels.pcgrad(torch.from_numpy(rows).to(device), torch.from_numpy(order).to(device))
        undecidable += not expected.is_decidable
        if expected.is_decidable:
            counts = (int(result.conflicts_raw), int(result.conflicts_applied))
            assert counts == (expected.raw, expected.applied), case
            assert relative_error(result.flat, _flat(expected.flat)) <= 1e-5, case
    assert undecidable < 50


@pytest.mark.parametrize("spread", [1e-2, 1e-4, 1e-6])
def test_near_collinear_rows_keep_float64_accuracy(device: torch.device, spread: float) -> None:
    signs = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, -1.0, 1.0, -1.0]).unsqueeze(1)
    rows = (signs * torch.randn(100_000) + spread * torch.randn(8, 100_000)).to(device)
    order = random_order(8, device)
    expected = pcgrad(rows.cpu().numpy(), order.cpu().numpy())
    assert relative_error(kernels.pcgrad(rows, order).flat, _flat(expected.flat)) < 1e-6


def test_exact_opposites_cancel_without_a_spurious_projection(device: torch.device) -> None:
    row = torch.randn(1000, device=device)
    result = kernels.pcgrad(torch.stack([row, -row]), random_order(2, device))
    assert float(result.flat.abs().max()) <= 1e-6
    assert (int(result.conflicts_raw), int(result.conflicts_applied)) == (1, 2)


def test_a_dot_product_below_its_own_rounding_error_counts_as_zero(device: torch.device) -> None:
    """Row 0 projected against its opposite is rounding noise; whether that noise meets row 2 has no answer."""
    row = torch.randn(5000, device=device)
    rows = torch.stack([row, -row, torch.randn(5000, device=device)])
    order = torch.tensor([[1, 2, 0], [0, 2, 1], [0, 1, 2]], device=device)
    result = kernels.pcgrad(rows, order)
    products = rows.double() @ rows.double().T
    opposes = int(products[2, 0] < 0) + int(products[2, 1] < 0)
    assert int(result.conflicts_applied) == 2 + opposes


@pytest.mark.parametrize(
    ("dtype", "scale"), [(torch.float16, 300.0), (torch.float32, 3e19), (torch.float32, 1e-23), (torch.bfloat16, 1e30)]
)
def test_surgery_is_not_skipped_where_the_rows_own_type_overflows(
    device: torch.device, dtype: torch.dtype, scale: float
) -> None:
    direction = torch.randn(64, dtype=torch.float64)
    rows = torch.stack([direction, -direction + 0.5 * torch.randn(64, dtype=torch.float64)])
    rows = (rows / rows.norm(dim=1, keepdim=True) * scale).to(dtype).to(device)
    order = random_order(2, device)
    expected = pcgrad(rows.double().cpu().numpy(), order.cpu().numpy())
    result = kernels.pcgrad(rows, order)
    assert int(result.conflicts_applied) == 2
    assert relative_error(result.flat, _flat(expected.flat)) < TOLERANCE[dtype]


def test_without_conflicts_the_result_is_the_plain_sum(device: torch.device) -> None:
    rows = torch.rand(4, 1001, device=device)
    result = kernels.pcgrad(rows, random_order(4, device))
    assert int(result.conflicts_raw) == int(result.conflicts_applied) == 0
    assert torch.equal(result.coefficients.cpu(), torch.ones(4, dtype=torch.float64))
    assert torch.equal(result.flat, rows.double().sum(0).float())


def test_scaling_by_a_power_of_two_scales_the_result_exactly(device: torch.device) -> None:
    rows = torch.randn(5, 3001, device=device)
    order = random_order(5, device)
    assert torch.equal(kernels.pcgrad(rows * 1024, order).flat, kernels.pcgrad(rows, order).flat * 1024)


def test_a_zero_row_is_inert(device: torch.device) -> None:
    rows = torch.randn(3, 500, device=device)
    padded = torch.cat([rows, torch.zeros(1, 500, device=device)])
    order = torch.tensor([[0, 3, 1, 2], [3, 0, 1, 2], [0, 1, 3, 2], [0, 1, 2, 3]], device=device)
    small = torch.tensor([[0, 1, 2], [0, 1, 2], [0, 1, 2]], device=device)
    assert torch.equal(kernels.pcgrad(padded, order).flat, kernels.pcgrad(rows, small).flat)


def test_one_row_is_copied(device: torch.device) -> None:
    row = torch.randn(1, 4097, device=device)
    result = kernels.pcgrad(row, torch.zeros(1, 1, dtype=torch.int64, device=device))
    assert torch.equal(result.flat, row[0])


def test_the_order_decides_which_projection_comes_first(device: torch.device) -> None:
    rows = torch.randn(4, 200, device=device)
    results = set()
    for seed in range(6):
        order = random_order(4, device, seed)
        expected = pcgrad(rows.cpu().numpy(), order.cpu().numpy())
        flat = kernels.pcgrad(rows, order).flat
        assert relative_error(flat, _flat(expected.flat)) < 1e-6
        results.add(flat.cpu().numpy().tobytes())
    assert len(results) > 1


def test_permuting_rows_and_order_together_changes_nothing_but_rounding(device: torch.device) -> None:
    rows = torch.randn(6, 2000, device=device)
    order = random_order(6, device)
    permutation = torch.randperm(6)
    inverse = torch.argsort(permutation)
    moved = kernels.pcgrad(rows[permutation.to(device)], inverse[order.cpu()][permutation].to(device))
    still = kernels.pcgrad(rows, order)
    assert relative_error(moved.flat, still.flat) < 1e-6
    assert int(moved.conflicts_applied) == int(still.conflicts_applied)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_non_finite_row_is_named_and_the_result_is_zeros(device: torch.device, bad: float) -> None:
    rows = torch.randn(5, 70_000, device=device)
    rows[1, 69_999] = bad
    rows[3, 0] = bad
    result = kernels.pcgrad(rows, random_order(5, device))
    assert result.status.tolist() == [0b01010, 0]
    assert not result.flat.any()
    assert not result.coefficients.any()


def test_the_64th_row_is_named_by_the_sign_bit(device: torch.device) -> None:
    rows = torch.randn(64, 10, device=device)
    rows[63, 5] = float("nan")
    status = kernels.pcgrad(rows, random_order(64, device)).status
    assert status.tolist() == [-(2**63), 0]


def test_poisoned_outputs_are_overwritten(device: torch.device) -> None:
    rows = torch.randn(3, 1000, device=device)
    out = torch.full((1000,), float("nan"), device=device)
    assert kernels.pcgrad(rows, random_order(3, device), out=out).flat.data_ptr() == out.data_ptr()
    assert torch.isfinite(out).all()
    rows[0, 0] = float("nan")
    out.fill_(float("nan"))
    kernels.pcgrad(rows, random_order(3, device), out=out)
    assert not out.any()


def test_weights_multiply_the_projected_rows_and_a_mean_divides_by_their_sum(device: torch.device) -> None:
    rows = torch.randn(4, 300, device=device)
    order = random_order(4, device)
    weights = [0.5, 2.0, 1.0, 0.25]
    expected = pcgrad(rows.cpu().numpy(), order.cpu().numpy(), weights=np.array(weights))
    total = kernels.pcgrad(rows, order, weights=weights)
    mean = kernels.pcgrad(rows, order, weights=torch.tensor(weights, device=device), reduction="mean")
    assert relative_error(total.flat, _flat(expected.flat)) < 1e-6
    assert relative_error(mean.flat, _flat(expected.flat / sum(weights))) < 1e-6
    plain_mean = kernels.pcgrad(rows, order, reduction="mean")
    assert relative_error(plain_mean.flat, kernels.pcgrad(rows, order).flat / 4) < 1e-6


def test_tau_leaves_weak_conflicts_alone(device: torch.device) -> None:
    rows = torch.randn(8, 64, device=device)
    order = random_order(8, device)
    expected = pcgrad(rows.cpu().numpy(), order.cpu().numpy(), tau=0.1)
    result = kernels.pcgrad(rows, order, tau=0.1)
    assert (int(result.conflicts_raw), int(result.conflicts_applied)) == (expected.raw, expected.applied)
    assert relative_error(result.flat, _flat(expected.flat)) < 1e-6
    assert int(result.conflicts_raw) < int(kernels.pcgrad(rows, order).conflicts_raw)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_lists_and_pools_give_the_same_result(device: torch.device, dtype: torch.dtype) -> None:
    shapes = [(3, 5), (0,), (65_537,), (1,), (17, 31)]
    grads = [torch.randn(shape).to(dtype).to(device) for _ in range(3) for shape in shapes]
    rows = torch.stack([torch.cat([g.reshape(-1) for g in grads[i * 5 : i * 5 + 5]]) for i in range(3)])
    order = random_order(3, device)
    from_list, from_pool = kernels.pcgrad_list(grads, order), kernels.pcgrad(rows, order)
    if device.type == "cpu":
        assert torch.equal(kernels.gram_list(grads, 3), kernels.gram(rows))
        assert torch.equal(from_list.flat, from_pool.flat)
        assert torch.equal(from_list.coefficients, from_pool.coefficients)
    # On a GPU the columns that a lane adds up follow the tensors, so the last bits of a sum may differ.
    assert relative_error(kernels.gram_list(grads, 3), kernels.gram(rows)) < 1e-14
    assert relative_error(from_list.flat, from_pool.flat) < TOLERANCE[dtype]
    assert relative_error(from_list.coefficients, from_pool.coefficients) < 1e-12


def test_absent_gradients_of_a_list_are_zeros(device: torch.device) -> None:
    a, b, c = (torch.randn(n, device=device) for n in (40, 7, 40))
    grads = [a, None, None, c, b, None]
    rows = torch.zeros(2, 50, device=device)
    rows[0, :40], rows[1, :40], rows[1, 40:47] = a, c, b
    order = random_order(2, device)
    result = kernels.pcgrad_list(grads, order, sizes=[40, 7, 3])
    assert torch.equal(result.flat, kernels.pcgrad(rows, order).flat)
    with pytest.raises(RuntimeError, match="gradient 2 is absent from every row"):
        kernels.pcgrad_list(grads, order)


def test_rows_of_any_strides_are_read_correctly(device: torch.device) -> None:
    base = torch.randn(401, 12, device=device)
    order = random_order(4, device)
    for rows in (base.T[:4], base.T[::3], base[:4].expand(4, 12), base[0].expand(4, 12)):
        contiguous = rows.contiguous()
        assert torch.equal(kernels.gram(rows), kernels.gram(contiguous))
        assert torch.equal(kernels.pcgrad(rows, order).flat, kernels.pcgrad(contiguous, order).flat)


def test_a_sharded_gram_solves_and_combines_to_the_whole(device: torch.device) -> None:
    """What data-parallel ranks do: sum the shards' inner products, solve once, combine each shard."""
    rows = torch.randn(5, 30_000, device=device)
    shards = [rows[:, :10_000], rows[:, 10_000:]]
    order = random_order(5, device)
    solution = kernels.pcgrad_solve(sum(kernels.gram(s) for s in shards), order)
    flat = torch.cat([kernels.combine(s, solution.coefficients, solution.status) for s in shards])
    whole = kernels.pcgrad(rows, order)
    assert int(solution.conflicts_applied) == int(whole.conflicts_applied)
    assert relative_error(flat, whole.flat) < 1e-6
    lists = [s.contiguous() for s in shards[0]]
    listed = kernels.combine_list(lists, solution.coefficients, solution.status)
    assert torch.equal(listed, flat[:10_000])


def test_the_fast_mode_is_near_the_exact_one_and_no_less_exact_than_it_need_be(device: torch.device) -> None:
    rows = torch.randn(8, 300_001, device=device)
    fast, exact = kernels.gram(rows, fast=True), kernels.gram(rows)
    assert relative_error(fast, exact) < 1e-6
    # A GPU adds up in float64 at the memory's speed: it needs no less exact way.
    assert torch.equal(fast, exact) == (device.type == "cuda")
    grads = [row[:1000].clone() for row in rows]
    assert relative_error(kernels.gram_list(grads, 8, fast=True), kernels.gram(rows[:, :1000])) < 1e-6
    order = random_order(8, device)
    assert relative_error(kernels.pcgrad(rows, order, fast=True).flat, kernels.pcgrad(rows, order).flat) < 1e-5


def test_two_calls_give_the_same_bits(device: torch.device) -> None:
    rows = torch.randn(7, 500_000, device=device)
    order = random_order(7, device)
    assert torch.equal(kernels.gram(rows), kernels.gram(rows))
    assert torch.equal(kernels.pcgrad(rows, order).flat, kernels.pcgrad(rows, order).flat)


@pytest.mark.gpu
def test_more_than_2_to_the_31_elements_are_counted_in_64_bits(cuda_only: None, device: torch.device) -> None:
    n = 2**31 + 77
    rows = torch.zeros(2, n, dtype=torch.bfloat16, device=device)
    rows[0, -5:] = 2.0
    rows[1, -5:] = -1.0
    rows[1, :3] = 1.0
    assert kernels.gram(rows).tolist() == [[20.0, -10.0], [-10.0, 8.0]]
    flat = kernels.pcgrad(rows, random_order(2, device)).flat
    assert flat[-1] != 0
    assert flat[0] != 0


@pytest.mark.gpu
def test_lists_of_more_than_2_to_the_31_elements_are_combined_to_their_end(
    cuda_only: None, device: torch.device
) -> None:
    n = 2**31 + 5
    grads = []
    for sign in (1.0, -1.0):
        big = torch.zeros(n, dtype=torch.bfloat16, device=device)
        big[-1], big[0] = sign, 1.0
        grads += [big, torch.full((7,), sign, dtype=torch.bfloat16, device=device)]
    result = kernels.pcgrad_list(grads, random_order(2, device))
    assert kernels.gram_list(grads, 2).tolist() == [[9.0, -7.0], [-7.0, 9.0]]
    # Each row gives up 7/9 of the other: (1 + 7/9) where both agree, nothing where they oppose.
    assert float(result.flat[0]) == pytest.approx(2 * (1 + 7 / 9), rel=1e-2)
    assert not result.flat[-8:].any()
