"""What an optimiser remembers of two parameters that become one.

Whatever is kept value by value is joined: momentum, sums and averages of squares. Adam and its relatives keep one step
count for a whole tensor; the seed's moments are rescaled so that their bias-corrected values, and so the next update,
stay what they were. Later steps deviate, because the count of the seed's part has jumped. What isn't kept value by
value, as factored or preconditioning matrices aren't, can't be joined; a class of one's own is tried on stand-ins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from esper.core.errors import GraftFailed
from esper.kasmina.executor.graft.wiring import optimizer_like

State = dict[str, Any]
Options = Mapping[str, Any]

COUNTS = frozenset({"step", "mu_product"})
"""What is one number for a whole tensor, and is the host's after a fold."""
JOINED = (
    *(torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adamax),
    *(torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.Adadelta),
)


def optimizer_obstacle(optimizer: torch.optim.Optimizer) -> str:
    """Why this optimiser's state can't be folded; empty if it can."""
    if type(optimizer) in JOINED:
        return ""
    name = type(optimizer).__name__
    try:
        tried = [(part, state) for stand_in in _stand_ins(optimizer) for part, state in stand_in.state.items()]
    except Exception as error:  # noqa: BLE001 - a class of the user's own may raise anything
        return f"what optimiser {name} remembers can't be known: {str(error).partition(chr(10))[0]}"
    for part, state in (*tried, *optimizer.state.items()):
        if wrong := _not_by_value(part, state):
            return f"optimiser {name} remembers {wrong}, which can't be joined"
    return ""


def merged_state(optimizer: torch.optim.Optimizer, host: nn.Parameter, seed: nn.Parameter, dim: int) -> State:
    """Optimiser state of the joined parameter; empty if neither has any."""
    host_state, seed_state = dict(optimizer.state.get(host, {})), dict(optimizer.state.get(seed, {}))
    if not host_state and not seed_state:
        return {}
    if not host_state or not seed_state:
        raise GraftFailed("one of the parameters was never stepped: its optimiser state can't be merged")
    if _present(host_state) != _present(seed_state):
        raise GraftFailed("the parameters remember different things: their optimiser state can't be merged")
    options = next(group for group in optimizer.param_groups if any(member is host for member in group["params"]))
    scales = _scales(host_state, seed_state, options)
    return {
        name: torch.cat([value, seed_state[name] * scales.get(name, 1.0)], dim)
        if isinstance(value, Tensor) and name not in COUNTS
        else value
        for name, value in host_state.items()
    }


def _stand_ins(optimizer: torch.optim.Optimizer) -> Iterator[torch.optim.Optimizer]:
    """Optimisers like this one after two steps on small parameters, one for each group and number of dimensions.

    All sizes are different, so that nothing has a parameter's shape by accident.
    """
    for index, group in enumerate(optimizer.param_groups):
        for shown in {member.dim(): member for member in group["params"]}.values():
            part = nn.Parameter(shown.detach().new_ones(tuple(range(2, 2 + shown.dim()))))
            alike = optimizer_like(optimizer, {index: [part]})
            for _ in range(2):
                part.grad = torch.ones_like(part)
                alike.step()
            yield alike


def _not_by_value(parameter: Tensor, state: Mapping[str, Any]) -> str:
    """What of a parameter's state is neither kept value by value nor a count."""
    for name, value in state.items():
        if value is None or name in COUNTS:
            continue
        if not isinstance(value, Tensor):
            return f"{name}, of type {type(value).__name__}"
        if value.shape != parameter.shape:
            return f"{name} of shape {list(value.shape)} for a parameter {list(parameter.shape)}"
    return ""


def _present(state: State) -> set[str]:
    return {name for name, value in state.items() if value is not None}


def _scales(host: State, seed: State, options: Options) -> dict[str, float]:
    """What keeps the seed's bias-corrected moments as they are under the host's count, by name; absent: 1."""
    if "betas" not in options or "step" not in host or not {"exp_avg_sq", "exp_inf"} & host.keys():
        return {}
    beta1, beta2 = (float(beta) for beta in options["betas"])
    first, second = (_correction(beta, host) / _correction(beta, seed) for beta in (beta1, beta2))
    if "mu_product" in host:  # NAdam's beta changes from step to step
        first = (1.0 - float(host["mu_product"])) / (1.0 - float(seed["mu_product"]))
    return {"exp_avg": first, "exp_avg_sq": second, "max_exp_avg_sq": second}


def _correction(beta: float, state: State) -> float:
    return 1.0 - float(beta ** float(state["step"]))
