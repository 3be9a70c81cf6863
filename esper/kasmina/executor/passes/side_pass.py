"""Side passes: forward passes that measure or incubate and leave no trace in the host.

Generators, train and eval flags, buffers (BatchNorm's running statistics) and attributes (counters, caches) are as
before afterwards. Compiled parts run eagerly: a pass that is made now and then is not worth a graph, hooks that were
attached a moment ago act, and what counts operators can't end compilation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from esper.kasmina.executor.passes.compiled import eagerly
from esper.kasmina.executor.passes.held import held
from esper.kasmina.executor.passes.keys import forked_generators


@contextmanager
def side_pass(modules: Sequence[nn.Module], *, key: int, training: bool | None) -> Iterator[None]:
    """Runs the modules in the given mode (None: as they are), seeded with `key`."""
    flags = [(module, module.training) for root in modules for module in root.modules()]
    with held(modules), eagerly(), forked_generators(key, device_of(modules[0])):
        if training is not None:
            for module, _ in flags:
                module.training = training
        try:
            yield
        finally:
            for module, flag in flags:
                module.training = flag


def device_of(module: nn.Module) -> torch.device:
    """Device of the module's first parameter."""
    parameter = next(module.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device
