"""Muon for hidden matrices and AdamW for everything else, as one optimiser with one state.

A group with `betas` is AdamW's, one with `momentum` is Muon's. Updates of matrices are scaled to the size of AdamW's
(`match_rms_adamw`, arXiv 2502.16982), so one learning rate holds for both halves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim._muon import muon
from torch.optim.adamw import adamw

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
EPSILON = {"muon": 1e-7, "adamw": 1e-8}


class MuonAdamW(Optimizer):
    """Each half computes what `torch.optim.Muon` and `torch.optim.AdamW` compute."""

    def __init__(self, params: Sequence[dict[str, Any]], lr: float = 1e-3, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's own; Muon is for matrices alone."""
        if "betas" not in param_group and "momentum" not in param_group:
            raise ValueError("a group needs betas for AdamW or momentum for Muon")
        super().add_param_group(param_group)
        members = self.param_groups[-1]["params"]
        if "betas" not in param_group and any(member.dim() != 2 for member in members):
            del self.param_groups[-1]
            raise ValueError("Muon takes matrices alone")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of both halves."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            members = [member for member in group["params"] if member.grad is not None]
            (self._adamw if "betas" in group else self._muon)(group, members)
        return loss

    def _muon(self, group: dict[str, Any], members: list[Tensor]) -> None:
        buffers = [self._remembered(member, "momentum_buffer") for member in members]
        muon(
            members,
            _gradients(members),
            buffers,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            nesterov=True,
            ns_coefficients=NEWTON_SCHULZ,
            ns_steps=5,
            eps=EPSILON["muon"],
            adjust_lr_fn="match_rms_adamw",
            has_complex=False,
        )

    def _adamw(self, group: dict[str, Any], members: list[Tensor]) -> None:
        first = [self._remembered(member, "exp_avg") for member in members]
        second = [self._remembered(member, "exp_avg_sq") for member in members]
        for member in members:
            self.state[member].setdefault("step", torch.tensor(0.0))
        beta1, beta2 = group["betas"]
        adamw(
            members,
            _gradients(members),
            first,
            second,
            [],
            [self.state[member]["step"] for member in members],
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=EPSILON["adamw"],
            maximize=False,
        )

    def _remembered(self, member: Tensor, name: str) -> Tensor:
        state = self.state[member]
        if name not in state:
            state[name] = torch.zeros_like(member, memory_format=torch.preserve_format)
        tensor: Tensor = state[name]
        return tensor


def _gradients(members: list[Tensor]) -> list[Tensor]:
    return [member.grad for member in members if member.grad is not None]
