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
from torch.autograd import forward_ad

from esper.core.errors import KernelsNotBuilt

BUILD_COMMAND = "python -m pip install --no-build-isolation -e ."
CUDA_BUILD_COMMAND = f"ESPER_CUDA=1 {BUILD_COMMAND}"

try:
    from esper.kernels import _C
except ImportError as error:
    raise KernelsNotBuilt(
        "kernels", "compiled extension", "esper.kernels._C", f"build it with `{BUILD_COMMAND}` ({error})"
    ) from error

_cuda_complaint: str | None = None

# The library of CUDA kernels needs torch's own CUDA libraries in the process, so a CPU torch leaves it alone.
if torch.version.cuda is None:
    _cuda_complaint = f"torch {torch.__version__} is a CPU build"
elif importlib.util.find_spec("esper.kernels._C_cuda") is None:
    _cuda_complaint = "it was not built"
else:
    try:
        importlib.import_module("esper.kernels._C_cuda")
    except ImportError as error:  # a CPU-only run is not to suffer from it
        _cuda_complaint = f"it does not load under torch {torch.__version__}: {error}"


def require_cuda() -> None:
    """Raise KernelsNotBuilt, with the command that builds them, where the CUDA kernels are not loaded."""
    if _cuda_complaint is not None:
        remedy = f"{_cuda_complaint}; where nvcc and a CUDA torch are, build it with `{CUDA_BUILD_COMMAND}`"
        raise KernelsNotBuilt("kernels", "library of CUDA kernels", "esper.kernels._C_cuda", remedy)


cpu_isa: Callable[[], str] = _C.cpu_isa
force_cpu_isa: Callable[[str], None] = _C.force_cpu_isa


_Function = TypeVar("_Function", bound=Callable[..., Any])


def fake(name: str) -> Callable[[_Function], _Function]:
    """Registers what `esper::<name>` returns for tensors without data, which is how compilers see it."""
    register: Callable[[_Function], _Function] = torch.library.register_fake(f"esper::{name}")
    return register


def check_one_device(name: str, *tensors: torch.Tensor | None) -> None:
    """For fake kernels, which see tensors whose devices the compiled ones would refuse."""
    found = {str(tensor.device) for tensor in tensors if tensor is not None and tensor.numel() != 0}
    if len(found) > 1:
        raise RuntimeError(f"{name} needs its tensors on one device, they are on {' and '.join(sorted(found))}")


def operator(name: str) -> Callable[..., Any]:
    """The overload `esper::<name>`, resolved once: a lookup through torch.ops costs more than a small operator."""
    overload: Callable[..., Any] = getattr(torch.ops.esper, name).default
    return overload


_requires_grad = attrgetter("requires_grad")


def refuse_gradients(tensors: Sequence[torch.Tensor], name: str) -> None:
    """An operator without a derivative would cut the graph in silence; it takes detached tensors only."""
    refuse_tangents(tensors, name)
    if not torch.is_grad_enabled():
        return
    # The compiler does not follow map over attrgetter, which halves the time for thousands of tensors.
    if not torch.compiler.is_compiling() and not any(map(_requires_grad, tensors)):
        return
    offender = next((tensor for tensor in tensors if tensor.requires_grad), None)
    if offender is None:
        return
    raise RuntimeError(
        f"{name} has no derivative, but a tensor of shape {list(offender.shape)} requires one: pass detached tensors "
        "(a parameter's .grad, not the parameter), or call it under torch.no_grad()"
    )


def refuse_tangents(tensors: Sequence[torch.Tensor], name: str) -> None:
    """Forward-mode derivatives would be dropped in silence: no operator has one."""
    if forward_ad._current_level < 0 or torch.compiler.is_compiling():
        return
    unpack: Callable[[torch.Tensor], Any] = forward_ad.unpack_dual
    if any(unpack(tensor).tangent is not None for tensor in tensors):
        raise RuntimeError(f"{name} has no forward-mode derivative, but an input carries a tangent")
