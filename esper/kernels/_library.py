"""Loads the compiled operators and binds a Python function to each.

Importing this module is what makes `torch.ops.esper` exist. There is no substitute in plain torch: without the
extension the import fails and says how to build it.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, TypeVar

import torch

from esper.core.errors import KernelsNotBuilt

BUILD_COMMAND = "python -m pip install --no-build-isolation -e ."

try:
    from esper.kernels import _C
except ImportError as error:
    raise KernelsNotBuilt(
        "kernels", "compiled extension", "esper.kernels._C", f"build it with `{BUILD_COMMAND}` ({error})"
    ) from error

# The library of CUDA kernels needs torch's own CUDA libraries in the process, so a CPU torch leaves it alone.
if torch.version.cuda is not None and importlib.util.find_spec("esper.kernels._C_cuda") is not None:
    importlib.import_module("esper.kernels._C_cuda")

cpu_isa: Callable[[], str] = _C.cpu_isa
force_cpu_isa: Callable[[str], None] = _C.force_cpu_isa


_Function = TypeVar("_Function", bound=Callable[..., Any])


def fake(name: str) -> Callable[[_Function], _Function]:
    """Registers what `esper::<name>` returns for tensors without data, which is how compilers see it."""
    register: Callable[[_Function], _Function] = torch.library.register_fake(f"esper::{name}")
    return register


def operator(name: str) -> Callable[..., Any]:
    """The overload `esper::<name>`, resolved once: a lookup through torch.ops costs more than a small operator."""
    overload: Callable[..., Any] = getattr(torch.ops.esper, name).default
    return overload


_requires_grad = attrgetter("requires_grad")


def refuse_gradients(tensors: Sequence[torch.Tensor], name: str) -> None:
    """An operator without a derivative would cut the graph in silence; it takes detached tensors only."""
    if not torch.is_grad_enabled() or not any(map(_requires_grad, tensors)):
        return
    offender = next(tensor for tensor in tensors if tensor.requires_grad)
    raise RuntimeError(
        f"{name} has no derivative, but an input of shape {list(offender.shape)} requires one: pass detached tensors "
        "(a parameter's .grad, not the parameter), or call it under torch.no_grad()"
    )
