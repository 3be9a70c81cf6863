"""Side passes: forward passes that measure or incubate and leave no trace in the host.

Generators, train and eval flags, buffers (BatchNorm's running statistics) and whatever else the modules hold (counters,
caches, generators of their own) are as before afterwards. Compiled parts run eagerly, unless asked for: a pass that is
made now and then is not worth a graph, hooks that were attached a moment ago act, and what counts operators can't end
compilation. Torch's fused kernels for whole transformer layers, which the first hook puts out of use, are so for all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import nn

from esper.kasmina.executor.contents.forms import is_writable
from esper.kasmina.executor.contents.held import Remembered
from esper.kasmina.executor.passes.compiled import eagerly
from esper.kasmina.executor.passes.keys import forked_generators


@contextmanager
def side_pass(
    modules: Sequence[nn.Module], *, key: int, training: bool | None, is_eager: bool = True
) -> Iterator[None]:
    """Runs the modules in the given mode (None: as they are), seeded with `key`."""
    parts = [module for root in modules for module in root.modules()]
    there = [buffer for root in modules for buffer in root.buffers() if not nn.parameter.is_lazy(buffer)]
    buffers = [(buffer, buffer.detach().clone()) for buffer in there]
    flags = [(module, module.training) for module in parts]
    held = Remembered(parts)
    if training is not None:
        for module in parts:
            module.training = training
    try:
        with eagerly() if is_eager else nullcontext(), forked_generators(key, device_of(modules[0])), unfused():
            yield
    finally:
        held.put_back()
        with torch.no_grad():
            for buffer, content in buffers:
                if is_writable(buffer):
                    buffer.copy_(content)
        for module, flag in flags:
            if module.training != flag:
                module.training = flag


@contextmanager
def unfused() -> Iterator[None]:
    """Without the kernels that run a whole `nn.TransformerEncoderLayer` in eval mode."""
    was_enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was_enabled)


def device_of(module: nn.Module) -> torch.device:
    """Device of the module's first parameter."""
    parameter = next(module.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device
