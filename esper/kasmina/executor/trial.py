"""Whether a twin can be made of a host: tried once, on copies, before anyone relies on it.

A copy computes as the original does; after real steps it still does, and learns the same; values of one that are
destroyed never reach another. The original is left bit for bit as it was.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from esper.core.errors import ConfigError
from esper.kasmina.executor.contents.forms import is_writable
from esper.kasmina.executor.contents.held import MODULE_HOOKS
from esper.kasmina.executor.contents.objects import variables
from esper.kasmina.executor.contents.shared import Shared
from esper.kasmina.executor.graft.arm import TrainingArm
from esper.kasmina.executor.judge.scores import GRADIENT_SAMPLES, probe_outputs
from esper.kasmina.executor.passes.batches import first
from esper.kasmina.executor.passes.keys import draw_key
from esper.kasmina.executor.passes.side_pass import side_pass
from esper.kasmina.executor.passes.task import Task

Step = Callable[[TrainingArm, int], None]
HOLD = "let hooks and layers use the module that they are given, and hold what they need in its attributes"


def try_twin(arm: TrainingArm, task: Task, step: Step) -> None:
    """Two copies, two real steps (`step` makes the one of a number). Raises ConfigError with what isn't copied."""
    trial = _Trial(task, arm)
    at_first = trial.outputs(arm)
    first = arm.clone()
    trial.check_apart(arm, first, at_first)
    trial.check_gradients(arm, first)
    step(first, 0)
    second = first.clone()
    later = trial.outputs(first)
    trial.check_apart(first, second, later)
    trial.check_apart(second, first, later)
    for each in (first, second):
        step(each, 1)
    if differing := differences(tensors_of(first), tensors_of(second)):
        raise trial.refusal(first, second, f"after one more step a copy has another {differing[0]}")
    for each in (first, second):
        _spoil(tensors_of(each))
    if not _is_same(trial.outputs(arm), at_first):
        raise trial.refusal(arm, first, "steps of a copy change the original's outputs")


def unkept(arm: TrainingArm, step: Step) -> list[str]:
    """Paths of what a step makes of the host that no checkpoint can hold; tried on a copy."""
    copied = arm.clone()
    step(copied, 0)
    return copied.unkept()


def tensors_of(arm: TrainingArm) -> dict[str, Tensor]:
    """The host's parameters and buffers by name, those that no state_dict holds included."""
    return dict(chain(arm.model.named_parameters(), arm.model.named_buffers()))


def differences(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that are not the same bit for bit."""
    return [name for name, tensor in first.items() if name not in second or not _is_same(tensor, second[name])]


class _Trial:
    """Probe passes, all with the same draws."""

    def __init__(self, task: Task, arm: TrainingArm) -> None:
        self._task = task
        self._key = draw_key("trial")
        self._shared = Shared(arm.model)

    def refusal(self, original: TrainingArm, copied: TrainingArm, what: str) -> ConfigError:
        """What differs, with what the copy knows of the original or changes beside it: the likely cause."""
        changed = [f"a pass writes {name}, which all networks share" for name in self._shared.changed()]
        found = next(chain(_references(original, copied), changed), None)
        why = "" if found is None else f": {found}"
        return ConfigError("model", type(original.model).__name__, f"has no independent twin, {what}{why}; {HOLD}")

    def outputs(self, arm: TrainingArm) -> Tensor:
        return probe_outputs(arm, self._task, key=self._key)

    def check_apart(self, original: TrainingArm, copied: TrainingArm, expected: Tensor) -> None:
        """The copy's outputs are the original's, also while the original's values are destroyed."""
        if shared := _shared(original, copied):
            raise self.refusal(original, copied, f"a copy shares the memory of {shared[0]} with the original")
        if differing := differences(tensors_of(original), tensors_of(copied)):
            raise self.refusal(original, copied, f"a copy has another {differing[0]}")
        if not self._reaches(original, copied, list(tensors_of(original)), expected):
            return
        if not _is_same(self.outputs(copied), expected):
            raise self.refusal(original, copied, "a copy gives other outputs")
        reaching = [name for name in tensors_of(original) if self._reaches(original, copied, [name], expected)]
        source = reaching[0] if reaching else "several values"
        raise self.refusal(original, copied, f"a copy's outputs depend on {source} of the original")

    def check_gradients(self, original: TrainingArm, copied: TrainingArm) -> None:
        """The copy learns as the original does, also where that is decided on the way back."""
        pairs = zip(self._gradients(original, copied), self._gradients(copied, original), strict=True)
        for name, (mine, theirs) in zip(_trained(original), pairs, strict=True):
            is_same = mine is theirs if mine is None or theirs is None else _is_same(mine, theirs)
            if not is_same:
                raise self.refusal(original, copied, f"a copy has another gradient of {name}")

    def _gradients(self, arm: TrainingArm, like: TrainingArm) -> list[Tensor | None]:
        """Of a few samples in the arm's own mode; hooks may do what they like, the arm is that of before afterwards."""
        inputs, targets = first(next(iter(self._task.judge_batches())), GRADIENT_SAMPLES)
        parameters = list(_trained(arm).values())
        before = [parameter.grad for parameter in parameters]
        with _restored(arm, like, list(tensors_of(arm))), side_pass(arm.modules, key=self._key, training=None):
            _set_gradients(parameters, [None] * len(parameters))
            self._task.loss(self._task.forward(arm.model, inputs), targets).backward()  # type: ignore[no-untyped-call]
            found = [parameter.grad for parameter in parameters]
            _set_gradients(parameters, before)
        return found

    def _reaches(self, original: TrainingArm, copied: TrainingArm, names: list[str], expected: Tensor) -> bool:
        """Whether destroying those values of one shows in the other."""
        with _restored(original, copied, names) as tensors:
            _spoil(tensors)
            try:
                return not _is_same(self.outputs(copied), expected)
            except Exception:  # noqa: BLE001 - a host may fail in any way on numbers without sense: it saw them
                return True


def _is_same(first: Tensor, second: Tensor) -> bool:
    """Bit for bit, except that every NaN is like another."""
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    first, second = (each if each.layout == torch.strided else each.to_dense() for each in (first, second))
    both = (first == second) | ((first != first) & (second != second))
    return bool(both.all())


def _shared(first: TrainingArm, second: TrainingArm) -> list[str]:
    places = {tensor.data_ptr() for tensor in tensors_of(first).values() if tensor.numel()}
    return [name for name, tensor in tensors_of(second).items() if tensor.numel() and tensor.data_ptr() in places]


def _trained(arm: TrainingArm) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in arm.model.named_parameters() if parameter.requires_grad}


def _set_gradients(parameters: list[nn.Parameter], gradients: list[Tensor | None]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient


@contextmanager
def _restored(arm: TrainingArm, like: TrainingArm, names: list[str]) -> Iterator[dict[str, Tensor]]:
    """The arm's tensors of these names to do with as one likes; afterwards they are again what those of `like` are."""
    own, kept = tensors_of(arm), tensors_of(like)
    chosen = {name: own[name] for name in names if is_writable(own[name])}
    try:
        yield chosen
    finally:
        with torch.no_grad():
            for name, tensor in chosen.items():
                tensor.copy_(kept[name])


def _spoil(tensors: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for tensor in tensors.values():
            if not is_writable(tensor):
                continue
            if tensor.is_floating_point() or tensor.is_complex():
                tensor.fill_(float("nan"))
            else:
                tensor.bitwise_not_()


def _references(original: TrainingArm, copied: TrainingArm) -> Iterator[str]:
    """Functions of the copy that know a part of the original by a global name, or close over one."""
    parts = {id(part) for part in (*original.model.modules(), *tensors_of(original).values())}
    for path, module in copied.model.named_modules():
        hooks = [hook for name in MODULE_HOOKS for hook in getattr(module, name).values()]
        functions = (*vars(module).values(), *hooks, type(module).forward)
        for function in filter(_is_function, functions):
            for name, value in _known(function):
                if id(value) in parts:
                    where = f"{Path(function.__code__.co_filename).name}:{function.__code__.co_firstlineno}"
                    yield f"{function.__name__} at {where}, in {path or 'the model'}, reaches it by the name {name}"


def _is_function(value: Any) -> TypeGuard[types.FunctionType]:
    return isinstance(value, types.FunctionType)


def _known(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    codes = [function.__code__, *(part for part in function.__code__.co_consts if isinstance(part, types.CodeType))]
    for name in (name for code in codes for name in code.co_names):
        if name in function.__globals__:
            yield name, function.__globals__[name]
    for name, cell in variables(function):
        content = cell.cell_contents
        members = (
            content.values() if isinstance(content, dict) else content if isinstance(content, (list, tuple)) else ()
        )
        yield from ((name, member) for member in (content, *members))
