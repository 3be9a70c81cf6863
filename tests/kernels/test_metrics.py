"""Norms, dots and shares of seeds, per layer and in all."""

from __future__ import annotations

import itertools

import pytest
import torch

import esper.kernels as kernels
from tests.kernels.reference import DTYPES, relative_error

BOUNDARIES = [0, 0, 1, 10, 10, 70_000, 135_600, 135_601]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("seeds", [1, 2, 5, 16])
def test_metrics_equal_float64_sums(device: torch.device, seeds: int, dtype: torch.dtype) -> None:
    rows = torch.randn(seeds, BOUNDARIES[-1]).to(dtype).to(device)
    offsets = torch.tensor(BOUNDARIES, device=device)
    metrics = kernels.seed_metrics(rows, offsets)
    wide = rows.double()
    layers = torch.stack([wide[:, a:b].norm(dim=1) for a, b in itertools.pairwise(BOUNDARIES)], dim=1)
    assert relative_error(metrics.layer_norms, layers) < 1e-12
    assert relative_error(metrics.dots, wide @ wide.T) < 1e-12
    assert relative_error(metrics.norms, wide.norm(dim=1)) < 1e-12
    assert relative_error(metrics.shares, wide.norm(dim=1) / wide.norm(dim=1).sum()) < 1e-12


def test_shares_of_vanishing_seeds_are_zero(device: torch.device) -> None:
    metrics = kernels.seed_metrics(torch.zeros(3, 10, device=device), torch.tensor([0, 10], device=device))
    assert not metrics.shares.any()


def test_many_small_layers_are_each_measured(device: torch.device) -> None:
    rows = torch.randn(2, 3000, device=device)
    metrics = kernels.seed_metrics(rows, torch.arange(0, 3001, 3, device=device))
    assert relative_error(metrics.layer_norms, rows.double().view(2, 1000, 3).norm(dim=2)) < 1e-12


def test_a_non_finite_seed_is_visible_in_its_layer_alone(device: torch.device) -> None:
    rows = torch.ones(2, 20, device=device)
    rows[1, 15] = float("nan")
    metrics = kernels.seed_metrics(rows, torch.tensor([0, 10, 20], device=device))
    assert metrics.layer_norms.isnan().tolist() == [[False, False], [False, True]]


def test_offsets_that_do_not_cover_the_rows_are_refused(cpu_only: None) -> None:
    rows = torch.randn(2, 10)
    for offsets in ([0, 5], [1, 10], [0, 7, 5, 10], [0]):
        with pytest.raises(RuntimeError, match="offsets do not ascend from 0 to the rows' length, 10"):
            kernels.seed_metrics(rows, torch.tensor(offsets))


@pytest.mark.gpu
def test_layers_beyond_2_to_the_31_elements_are_measured(cuda_only: None, device: torch.device) -> None:
    n = 2**31 + 77
    rows = torch.zeros(2, n, dtype=torch.bfloat16, device=device)
    rows[0, -2:] = 3.0
    rows[1, -1] = -4.0
    metrics = kernels.seed_metrics(rows, torch.tensor([0, n - 40, n], device=device))
    assert metrics.layer_norms.tolist() == [[0.0, pytest.approx(18**0.5)], [0.0, 4.0]]
    assert metrics.dots.tolist() == [[18.0, -12.0], [-12.0, 16.0]]


@pytest.mark.gpu
def test_layers_that_do_not_cover_the_rows_have_no_length(cuda_only: None, device: torch.device) -> None:
    """Bounds on the device are not read by the host: what cannot be measured is NaN, and nothing else is read."""
    rows = torch.ones(2, 100, device=device)
    for bounds in ([1, 100], [0, 99], [0, 60, 40, 100], [0, 10**12, 100], [-5, 100]):
        norms = kernels.seed_metrics(rows, torch.tensor(bounds, device=device)).layer_norms
        assert norms.isnan().any()
    torch.cuda.synchronize()
