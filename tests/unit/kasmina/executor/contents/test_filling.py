"""Tensors are filled by others, in groups."""

from __future__ import annotations

import pytest
import torch

from esper.kasmina.executor.contents import filling


@pytest.mark.parametrize("piece_bytes", [16, 64, 10**6])
def test_every_tensor_gets_its_own_content_whatever_the_pieces(
    monkeypatch: pytest.MonkeyPatch, piece_bytes: int
) -> None:
    monkeypatch.setattr(filling, "PIECE_BYTES", piece_bytes)
    sources = [
        torch.randn(100),
        torch.randn(3, 5).t(),
        torch.arange(7),
        torch.tensor(2.5),
        torch.empty(0),
        torch.ones(9),
    ]
    targets = [torch.zeros_like(source) for source in sources]
    filling.fill(list(zip(targets, sources, strict=True)))
    assert all(torch.equal(target, source) for target, source in zip(targets, sources, strict=True))


def test_a_parameter_is_filled_in_its_own_memory() -> None:
    parameter, source = torch.nn.Parameter(torch.zeros(3)), torch.ones(3)
    before = parameter.data_ptr()
    filling.fill([(parameter, source)])
    assert parameter.data_ptr() == before
    assert parameter.tolist() == [1.0, 1.0, 1.0]
    assert parameter.grad_fn is None
