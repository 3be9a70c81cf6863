"""An average of the weights (`AveragedModel`) that follows a network which grows, and one of the twin beside it.

What is new begins in the average as it is in the network. A cull puts the twin's average into the user's object.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from esper.core.errors import ConfigError
from esper.kasmina.executor import TrainingArm
from esper.kasmina.executor.graft.surgery import adopt_shapes
from esper.kasmina.executor.stacks.repeat import repeat, take_out
from esper.kasmina.executor.stacks.run import Run


class Average:
    """The user's average, and that of a twin while there is one."""

    def __init__(self, ema: Any, model: nn.Module) -> None:
        if not isinstance(getattr(ema, "module", None), nn.Module) or not hasattr(ema, "update_parameters"):
            raise ConfigError("ema", type(ema).__name__, "expected a torch.optim.swa_utils.AveragedModel of the model")
        mine, theirs = ({name: p.shape for name, p in net.named_parameters()} for net in (ema.module, model))
        if other := next((name for name in {**theirs, **mine} if mine.get(name) != theirs.get(name)), None):
            raise ConfigError("ema", type(ema).__name__, f"is of another model: {other} isn't of one shape in both")
        self._ema = ema
        self._stacks: list[Run] = []
        self._twin: TrainingArm | None = None
        self._of_twin: Any = None
        self._counted = 0

    def begin(self) -> None:
        """A step begins: how often it is updated shows after it."""
        self._counted = int(self._ema.n_averaged)

    def after_twin(self, twin: TrainingArm) -> None:
        """The twin has made its step: its average is updated as often as the user's was."""
        for _ in range(int(self._ema.n_averaged) - self._counted):
            self._of_twin.update_parameters(twin.model)

    def follow(self, arm: TrainingArm, twin: TrainingArm | None) -> None:
        """Take the shape of the network of now; where a twin took its place, its average too."""
        if twin is not self._twin:
            # A new twin is the network as it was before its graft, and so after the last one's end.
            self._end(arm if twin is None else twin)
            self._twin, self._of_twin = twin, None if twin is None else copy.deepcopy(self._ema)
        self._reshape(arm)

    def _end(self, network: TrainingArm) -> None:
        """The twin is gone; the network is what it was, or has kept what the twin was without."""
        if self._twin is None:
            self._reshape(network)
            return
        is_culled = _held(network) == _held(self._twin)
        self._reshape(network)
        if is_culled and _fits(self._ema, self._of_twin):
            self._ema.load_state_dict(self._of_twin.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Of both."""
        twin = None if self._of_twin is None else self._of_twin.state_dict()
        return {"ema": dict(self._ema.state_dict()), "twin": twin if twin is None else dict(twin)}

    def load_state_dict(self, state: dict[str, Any], arm: TrainingArm, twin: TrainingArm | None) -> None:
        """Go on from a saved state, on a network that is there again."""
        if twin is not None:
            self._of_twin, self._twin = copy.deepcopy(self._ema), twin
            self._of_twin.load_state_dict(state["twin"])
        self._reshape(arm)
        self._ema.load_state_dict(state["ema"])

    def _reshape(self, arm: TrainingArm) -> None:
        module = self._ema.module
        nobody = Optimizer([{"params": []}], {})
        while self._stacks != arm.stacks[: len(self._stacks)]:
            take_out(module, nobody, self._stacks.pop())
        for run in arm.stacks[len(self._stacks) :]:
            repeat(module, nobody, run)
            self._stacks.append(run)
        now = arm.model.state_dict()
        before = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
        changed = [name for name, tensor in before.items() if name in now and tensor.shape != now[name].shape]
        if not changed:
            return
        adopt_shapes(module, {name: now[name] for name in changed}, nobody)
        held = module.state_dict()
        with torch.no_grad():
            for name in changed:
                held[name].copy_(_filled(now[name], before[name]))


def _held(arm: TrainingArm) -> tuple[list[Run], list[str]]:
    """What was grown, but for what is folded."""
    return arm.stacks, [graft.seed_id for graft in arm.grafts]


def _filled(new: Tensor, old: Tensor) -> Tensor:
    """The new values, but for the former ones where these were."""
    filled = new.detach().clone()
    filled[tuple(slice(0, size) for size in old.shape)] = old
    return filled


def _fits(first: Any, second: Any) -> bool:
    mine, theirs = first.state_dict(), second.state_dict()
    return mine.keys() == theirs.keys() and all(mine[name].shape == theirs[name].shape for name in mine)
