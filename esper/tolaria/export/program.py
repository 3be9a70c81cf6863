"""A network as a program of torch's own operators with an open number of rows, or why there is none, in a few words."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from esper.core.plain import clause

# What torch says in words that only its authors understand.
REASONS = {
    "GuardOnDataDependentSymNode": "its control flow depends on the values of its inputs",
    "ConstraintViolationError": "it fixes the number of rows",
}
LONGEST_REASON = 160
OWN_NAMESPACES = frozenset({"aten", "prim", "prims", "quantized", "higher_order", "inductor"})

_OPEN = {0: Dim.DYNAMIC}


def traced(module: nn.Module, example: Tensor) -> tuple[ExportedProgram | None, str]:
    """The program of a module in eval mode, or None and the reason. `example` shows shapes, its values don't matter."""
    reason = ""
    # The second way reads Python itself, which keeps sizes open that the first has to fix.
    for strict in (False, True):
        try:
            with quiet():
                program = torch.export.export(module, (example,), dynamic_shapes=(_OPEN,), strict=strict)
        except Exception as error:  # noqa: BLE001 - the tracer runs anybody's code, and raises whatever that raises
            reason = reason or in_words(error)
            continue
        _forget_sources(program)
        return program, ""
    return None, _script_in(module) or reason


def _script_in(module: nn.Module) -> str:
    """What the tracer can't look into, if there is such a part: its own words for that are about its insides."""
    parts = module.named_modules()
    script = next((path or "it" for path, part in parts if isinstance(part, torch.jit.ScriptModule)), None)
    return "" if script is None else f"{script} is a compiled script (torch.jit)"


def foreign_operator(program: ExportedProgram) -> str:
    """An operator that some library registers and torch itself lacks, if the program calls one."""
    modules = [module for module in program.graph_module.modules() if isinstance(module, torch.fx.GraphModule)]
    targets = [node.target for module in modules for node in module.graph.nodes]
    called = [target for target in targets if isinstance(target, torch._ops.OpOverload)]
    return next((str(target.name()) for target in called if target.namespace not in OWN_NAMESPACES), "")  # type: ignore[no-untyped-call]


def in_words(error: BaseException) -> str:
    """An error of the tracer in one line."""
    name = type(error).__name__
    first_line = next(iter(str(error).splitlines()), "")
    return REASONS.get(name, clause(f"{name}: {first_line}"[:LONGEST_REASON]))


def _forget_sources(program: ExportedProgram) -> None:
    """A file for others has no business with paths and lines of the code that it came from."""
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what torch prints, such as the whole graph when it gives up."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
