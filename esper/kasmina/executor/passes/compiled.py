"""Hosts with compiled parts: seeds act in them, copies of them are compiled too, and some passes run eagerly.

Compiled code is what was traced once. By torch's defaults it ignores hooks that were attached later, a copy of a module
that was compiled in place is eager, and a pass under a counter of operators ends compilation for good.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import cache, partial
from types import CodeType, MethodType
from typing import Any

import torch
from torch import nn

from esper.core.errors import ConfigError

# Each seed, the steps that measure it and each fold make a graph of their own; torch stops compiling after eight.
GRAPHS_OF_ONE_CODE = 256
GRAPHS_IN_ALL = 4096
BACKEND: Any = "inductor"
"""What compiles blocks on request; a host that compiles itself names its own."""

# Inductor's advice, once a process, to whoever has left float32 products as precise as torch makes them.
TF32_ADVICE = "TensorFloat32 tensor cores for float32 matrix multiplication available but not enabled"

_HOOKS = (
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks"),
)


def eagerly() -> AbstractContextManager[Any]:
    """Compiled code runs as it was written inside; its graphs are there again afterwards."""
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


def through_compiled() -> AbstractContextManager[Any]:
    """A symbolic trace sees what compiled parts do, instead of failing at them."""
    from torch._dynamo import config

    patch: AbstractContextManager[Any] = config.patch(error_on_nested_fx_trace=False)
    return patch


def compiled_in_place(model: nn.Module) -> nn.Module:
    """The same host without torch.compile's wrappers: what they wrap is compiled in place, hooks included.

    Names are those of the plain network then.
    """
    if not compiled_parts(model):
        return model
    _set_up_compiler()
    for module in model.modules():
        if _is_compiled(compiled := vars(module).get("_compiled_call_impl")):
            _compile(module, _context(module, compiled))
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None:
                parent._modules[name] = _unwrapped(child)
    return _unwrapped(model)


def compile_in_place(modules: Iterable[nn.Module]) -> None:
    """Compiles modules that are not yet; equal ones share their graphs, and so do their copies."""
    _set_up_compiler()
    for module in modules:
        _compile(module, partial(torch.compile, backend=BACKEND, dynamic=False))


def _set_up_compiler() -> None:
    from torch._dynamo import config

    # Otherwise a graph made before a seed joined would go on serving, and one with a seed would serve the twin.
    config.skip_nnmodule_hook_guards = False
    # A graph for each size of a batch: one for all rounds otherwise, and a resumed run would make it at another step.
    config.automatic_dynamic_shapes = False
    config.recompile_limit = max(config.recompile_limit, GRAPHS_OF_ONE_CODE)
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, GRAPHS_IN_ALL)
    torch._dynamo.reset()
    warnings.filterwarnings("ignore", message=TF32_ADVICE, category=UserWarning)


def compiled_parts(model: nn.Module) -> tuple[str, ...]:
    """Paths of the modules that are compiled as such or by one of their methods; "" is the host itself."""
    return tuple(
        path
        for path, module in model.named_modules()
        if _is_wrapper(module) or any(map(_is_compiled, vars(module).values()))
    )


def is_one_graph(module: nn.Module) -> bool:
    """True if the module is compiled so that nothing in it may run as plain Python."""
    compiled = vars(module).get("_compiled_call_impl")
    return _is_compiled(compiled) and bool(getattr(_context(module, compiled), "fullgraph", False))


def compile_copy(source: nn.Module, copy: nn.Module, *, around_hooks: bool = True) -> None:
    """Compiles in a deep copy what is compiled in its source; equal code shares its graphs.

    With `around_hooks` off a module's own hooks run eagerly. Raises ConfigError for what was compiled by other means.
    """
    compiles = _compile if around_hooks else _compile_forward
    copies = dict(zip(source.modules(), copy.modules(), strict=True))
    for module, twin in copies.items():
        for name, value in list(vars(module).items()):
            if name == "_compiled_call_impl" and value is not None:
                compiles(twin, _context(module, value))
            elif _is_compiled(value) and getattr(value._torchdynamo_orig_callable, "__self__", None) in copies:
                method = value._torchdynamo_orig_callable
                own = MethodType(method.__func__, copies[method.__self__])
                vars(twin)[name] = _context(module, value)(own)


def _compile(module: nn.Module, context: Callable[[Any], Any]) -> None:
    def call(*arguments: Any, **keywords: Any) -> Any:
        return module._call_impl(*arguments, **keywords)  # type: ignore[no-untyped-call]

    call.__code__ = _code(type(module), call.__code__)  # type: ignore[arg-type]
    module._compiled_call_impl = context(call)


def _compile_forward(module: nn.Module, context: Callable[[Any], Any]) -> None:
    module.forward = context(module.forward)


@cache
def _code(kind: type[nn.Module], code: CodeType) -> CodeType:
    """Graphs are kept by code: each class has its own, which a copy shares."""
    return code.replace(co_name=f"call_{kind.__name__}")


def _unwrapped(module: nn.Module) -> nn.Module:
    while _is_wrapper(module):
        inner: Any = module._orig_mod
        for hooks in _HOOKS:
            vars(inner)[hooks].update(vars(module)[hooks])
        _compile(inner, module.dynamo_ctx)  # type: ignore[arg-type]
        module = inner
    return module


def _is_wrapper(module: nn.Module) -> bool:
    return "dynamo_ctx" in vars(module) and "_orig_mod" in module._modules


def _is_compiled(value: Any) -> bool:
    is_function = inspect.isfunction(value) and hasattr(value, "_torchdynamo_orig_callable")
    return is_function and not hasattr(value, "_torchdynamo_disable")


def _context(module: nn.Module, compiled: Any) -> Callable[[Any], Any]:
    """How something was compiled: backend, mode and options, ready to compile something else."""
    context = inspect.getclosurevars(compiled).nonlocals.get("self") if inspect.isfunction(compiled) else None
    if not callable(context):
        remedy = "is compiled by other means than torch.compile: its copy can't be; leave it uncompiled"
        raise ConfigError("model", type(module).__name__, remedy)
    return context  # type: ignore[no-any-return]
