"""The confidence gate against softmax in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import esper.kernels as kernels
from tests.kernels.reference import DTYPES

CLASSES = [2, 3, 7, 10, 16, 17, 100, 1000, 1023, 1024, 1025, 5000]


def _reference(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    p = torch.softmax(logits.double(), dim=1)
    top = p.topk(2, dim=1).values
    entropy = -(p * torch.where(p > 0, p.log(), p)).sum(1)
    return top[:, 0] - top[:, 1], torch.logsumexp(logits.double(), 1), entropy


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("classes", CLASSES)
def test_one_pass_gives_margin_log_sum_exp_and_entropy(device: torch.device, classes: int, dtype: torch.dtype) -> None:
    logits = (torch.randn(37, classes) * 3).to(dtype).to(device)
    margin, log_sum_exp, entropy = _reference(logits)
    result = kernels.confidence_gate(logits, k=4.0, tau=0.2)
    assert torch.allclose(result.margin.double(), margin, atol=2e-6)
    assert torch.allclose(result.log_sum_exp.double(), log_sum_exp, rtol=1e-6, atol=1e-6)
    assert torch.allclose(result.entropy.double(), entropy, rtol=2e-6, atol=2e-6)
    assert torch.allclose(result.gate.double(), torch.sigmoid(4 * (margin - 0.2)), atol=2e-6)
    assert int(result.events) == 0


def test_the_entropy_gate_grows_with_certainty(device: torch.device) -> None:
    logits = torch.randn(50, 20, device=device) * 4
    _, _, entropy = _reference(logits)
    result = kernels.confidence_gate(logits, k=5.0, tau=0.1, kind="entropy")
    expected = torch.sigmoid(5.0 * (1 - entropy / math.log(20) - 0.1))
    assert torch.allclose(result.gate.double(), expected, atol=2e-6)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 50.0, 1e4, 1e30])
def test_extreme_logits_neither_overflow_nor_lose_the_margin(device: torch.device, scale: float) -> None:
    logits = torch.randn(20, 33, device=device) * scale
    margin, _, entropy = _reference(logits)
    result = kernels.confidence_gate(logits)
    assert torch.allclose(result.margin.double(), margin, atol=2e-6)
    assert torch.allclose(result.entropy.double(), entropy, atol=5e-6)
    assert torch.isfinite(result.gate).all()


def test_equal_largest_logits_have_no_margin(device: torch.device) -> None:
    logits = torch.zeros(3, 40, device=device)
    logits[:, 5] = logits[:, 39] = 2.0
    assert not kernels.confidence_gate(logits).margin.any()


def test_a_class_ruled_out_by_minus_infinity_adds_nothing(device: torch.device) -> None:
    logits = torch.randn(9, 30, device=device)
    masked = torch.cat([logits, torch.full((9, 5), -torch.inf, device=device)], dim=1)
    a, b = kernels.confidence_gate(logits), kernels.confidence_gate(masked)
    assert int(b.events) == 0
    assert torch.allclose(a.gate, b.gate, atol=1e-6)
    assert torch.allclose(a.entropy, b.entropy, atol=1e-6)


def test_one_infinite_logit_is_certainty(device: torch.device) -> None:
    logits = torch.randn(2, 30, device=device)
    logits[0, 3] = torch.inf
    result = kernels.confidence_gate(logits)
    assert int(result.events) == 0
    assert float(result.margin[0]) == 1.0
    assert float(result.entropy[0]) == 0.0


def test_rows_without_a_softmax_are_gated_off_and_counted(device: torch.device) -> None:
    logits = torch.randn(6, 50, device=device)
    logits[0, 17] = torch.nan
    logits[1] = -torch.inf
    logits[2, 3] = logits[2, 4] = torch.inf
    logits[3, 1], logits[3, 2] = torch.inf, torch.nan
    logits[4] = torch.nan
    result = kernels.confidence_gate(logits)
    assert int(result.events) == 5
    assert not result.gate[:5].any()
    assert result.gate[5] > 0
    assert result.margin[:5].isnan().all()


@pytest.mark.parametrize("kind", ["margin", "entropy"])
def test_a_single_class_has_no_confidence(device: torch.device, kind: str) -> None:
    result = kernels.confidence_gate(torch.randn(4, 1, device=device), kind=kind)  # type: ignore[arg-type]
    assert int(result.events) == 4
    assert not result.gate.any()


def test_no_samples_give_no_gates(device: torch.device) -> None:
    result = kernels.confidence_gate(torch.randn(0, 5, device=device))
    assert result.gate.shape == (0,)
    assert int(result.events) == 0


def test_strided_logits_are_read_correctly(device: torch.device) -> None:
    base = torch.randn(40, 60, device=device)
    for logits in (base.T, base[:, ::2], base[:1].expand(7, 60)):
        assert torch.equal(kernels.confidence_gate(logits).gate, kernels.confidence_gate(logits.contiguous()).gate)


def test_the_gate_is_detached(device: torch.device) -> None:
    logits = torch.randn(4, 5, device=device, requires_grad=True)
    assert not any(t.requires_grad for t in kernels.confidence_gate(logits))


def test_misuse_says_what_arrived_and_what_was_expected(device: torch.device) -> None:
    for logits in (
        torch.randn(5, device=device),
        torch.randn(5, 0, device=device),
        torch.randn(2, 3, 4, device=device),
    ):
        with pytest.raises(RuntimeError, match=r"expected \[samples, classes\]"):
            kernels.confidence_gate(logits)
    with pytest.raises(RuntimeError, match="kind is 'top1', expected 'margin' or 'entropy'"):
        kernels.confidence_gate(torch.randn(2, 3, device=device), kind="top1")  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="has dtype"):
        kernels.confidence_gate(torch.ones(2, 3, dtype=torch.int32, device=device))


@pytest.mark.gpu
def test_more_than_2_to_the_31_logits_are_all_seen(cuda_only: None, device: torch.device) -> None:
    logits = torch.zeros(3, 2**30, dtype=torch.bfloat16, device=device)
    logits[:, -1] = 20.0
    result = kernels.confidence_gate(logits)
    total = math.exp(20.0) + 2**30 - 1
    assert result.margin.tolist() == pytest.approx([(math.exp(20.0) - 1) / total] * 3, rel=1e-5)
    assert result.log_sum_exp.tolist() == pytest.approx([math.log(total)] * 3, rel=1e-6)
