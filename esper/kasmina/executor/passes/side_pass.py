"""Side passes: forward passes that measure or incubate and leave no trace in the host.

Generators, train and eval flags, buffers (BatchNorm's running statistics) and whatever else the modules hold (counters,
caches, generators of their own) are as before afterwards. Compiled parts run eagerly: a pass that is made now and then
is not worth a graph, hooks that were attached a moment ago act, and what counts operators can't end compilation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from esper.kasmina.executor.passes.compiled import eagerly
from esper.kasmina.executor.passes.forms import MACHINERY, is_writable
from esper.kasmina.executor.passes.held import keeps_attributes, put_back, remembered
from esper.kasmina.executor.passes.keys import forked_generators


@contextmanager
def side_pass(modules: Sequence[nn.Module], *, key: int, training: bool | None) -> Iterator[None]:
    """Runs the modules in the given mode (None: as they are), seeded with `key`."""
    parts = [module for root in modules for module in root.modules()]
    own = [module for module in parts if keeps_attributes(module)]
    registers = [(module, type(module), part, dict(part)) for module in own for part in _registers(module)]
    flags = [(module, module.training) for module in parts]
    there = [buffer for root in modules for buffer in root.buffers() if not nn.parameter.is_lazy(buffer)]
    buffers = [(buffer, buffer.detach().clone()) for buffer in there]
    trees = [(root, remembered(root)) for root in modules]
    if training is not None:
        for module in parts:
            module.training = training
    try:
        with eagerly(), forked_generators(key, device_of(modules[0])):
            yield
    finally:
        for module, kind, register, before in registers:
            # A lazy module that has just learnt its sizes is another class now, and stays that.
            if type(module) is kind:
                _refill(register, before)
        with torch.no_grad():
            for buffer, content in buffers:
                if is_writable(buffer):
                    buffer.copy_(content)
        for root, tree in trees:
            put_back(root, tree)
        for module, flag in flags:
            module.training = flag


def _registers(module: nn.Module) -> list[dict[str, Any]]:
    """Where torch keeps a module's parameters, buffers, children and hooks."""
    return [part for name, part in vars(module).items() if name in MACHINERY and isinstance(part, dict)]


def _refill(register: dict[str, Any], before: dict[str, Any]) -> None:
    if any(register.get(name) is not value for name, value in before.items()) or len(register) != len(before):
        register.clear()
        register.update(before)


def device_of(module: nn.Module) -> torch.device:
    """Device of the module's first parameter."""
    parameter = next(module.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device
