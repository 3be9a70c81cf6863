"""What an optimiser remembers of two parameters that become one.

Momentum, and sums or averages of squares, are joined as they are. Adam keeps one step count for a whole tensor; the
seed's moments are rescaled so that their bias-corrected values, and so the next update, stay what they were. Later
steps deviate, because the count of the seed's part has jumped; an optimiser that isn't listed is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from esper.core.errors import GraftFailed

State = dict[str, Any]
Options = Mapping[str, Any]


def optimizer_obstacle(optimizer: torch.optim.Optimizer) -> str:
    """Why this optimiser's state can't be folded; empty if it can."""
    if type(optimizer) in MERGES:
        return ""
    known = ", ".join(kind.__name__ for kind in MERGES)
    return f"optimiser {type(optimizer).__name__} is not one whose state can be merged ({known})"


def merged_state(optimizer: torch.optim.Optimizer, host: nn.Parameter, seed: nn.Parameter, dim: int) -> State:
    """Optimiser state of the joined parameter; empty if neither has any."""
    host_state, seed_state = dict(optimizer.state.get(host, {})), dict(optimizer.state.get(seed, {}))
    if not host_state and not seed_state:
        return {}
    if not host_state or not seed_state:
        raise GraftFailed("one of the parameters was never stepped: its optimiser state can't be merged")
    options = next(group for group in optimizer.param_groups if any(member is host for member in group["params"]))
    return MERGES[type(optimizer)](host_state, seed_state, options, dim)


def _merge_sgd(host: State, seed: State, options: Options, dim: int) -> State:
    buffers = [state["momentum_buffer"] for state in (host, seed) if state.get("momentum_buffer") is not None]
    if len(buffers) == 1:
        raise GraftFailed("only one of the parameters has momentum: its optimiser state can't be merged")
    return {**host, "momentum_buffer": torch.cat(buffers, dim)} if buffers else host


def _merge_adam(host: State, seed: State, options: Options, dim: int) -> State:
    beta1, beta2 = options["betas"]
    host_steps, seed_steps = float(host["step"]), float(seed["step"])
    first, second = (
        _correction(float(beta), host_steps) / _correction(float(beta), seed_steps) for beta in (beta1, beta2)
    )
    scales = {"exp_avg": first, "exp_avg_sq": second, "max_exp_avg_sq": second}
    merged = dict(host)
    for name, scale in scales.items():
        if name in host:
            merged[name] = _cat_scaled(host[name], seed[name], scale, dim)
    return merged


def _merge_plain(host: State, seed: State, options: Options, dim: int) -> State:
    """What is remembered value by value is joined; a step count, which corrects nothing here, stays the host's."""
    if host.keys() != seed.keys():
        raise GraftFailed("the parameters remember different things: their optimiser state can't be merged")
    return {
        name: torch.cat([value, seed[name]], dim) if isinstance(value, Tensor) and value.dim() > 0 else value
        for name, value in host.items()
    }


def _correction(beta: float, steps: float) -> float:
    return 1.0 - float(beta**steps)


def _cat_scaled(host: Tensor, seed: Tensor, scale: float, dim: int) -> Tensor:
    return torch.cat([host, seed * scale], dim)


MERGES: dict[type[torch.optim.Optimizer], Callable[[State, State, Options, int], State]] = {
    torch.optim.SGD: _merge_sgd,
    torch.optim.Adam: _merge_adam,
    torch.optim.AdamW: _merge_adam,
    torch.optim.RMSprop: _merge_plain,
    torch.optim.Adagrad: _merge_plain,
}
