"""Which positions a host's own attention leaves out, for seeds that attend beside it.

A mask is taken from the host's calls, by the names that torch and Hugging Face give it: of the host itself, of the
modules around the seed, and of torch attentions beside it. What is said last before the seed runs, the nearest, holds.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from esper.core.errors import GraftFailed
from esper.kasmina.executor.contents.objects import GoesBy

HIDDEN = -1e4
"""What hosts add, or less, to the products of positions that aren't to be seen."""
REMEDY = (
    "name the mask attention_mask or key_padding_mask where the host calls a module around it, or leave the seed out"
)

Said = Mapping[str, Any]
"""Masks by the names of the arguments that hold them."""


def _true_is_seen(mask: Tensor) -> Tensor:
    """Hugging Face's: numbers are 1 where a position is seen; what is added to products is 0 there."""
    is_added = mask.is_floating_point() and mask.dim() > 2
    return mask > HIDDEN if is_added else mask != 0


def _true_is_padding(mask: Tensor) -> Tensor:
    """Torch's: true for padding, or what is added to products."""
    return mask > HIDDEN if mask.is_floating_point() else mask == 0


NAMES: dict[str, Callable[[Tensor], Tensor]] = {
    "attention_mask": _true_is_seen,
    "decoder_attention_mask": _true_is_seen,
    "key_padding_mask": _true_is_padding,
    "src_key_padding_mask": _true_is_padding,
    "tgt_key_padding_mask": _true_is_padding,
}


class Masks(GoesBy):
    """What the pass in progress has said so far of the positions that one seed may attend to."""

    def __init__(self, seed_id: str, *, is_conv: bool) -> None:
        self.seed_id = seed_id
        self._is_conv = is_conv
        self.reached_seed = False
        """Whether the seed was told a mask in its last pass that wasn't compiled."""
        self.forget()

    @property
    def given(self) -> dict[str, Any]:
        """The masks that hold now."""
        return {name: mask for name, mask in self._said.items() if mask is not None}

    def forget(self) -> None:
        """Lets go of the passes of a step."""
        self._said: Said = {}
        self._said_in_backward = False
        self._passes = 0
        """Masked forward passes that backward hasn't come back to."""

    def __getstate__(self) -> dict[str, Any]:
        """A copy begins without the values of a pass."""
        return {**self.__dict__, "_said": {}}

    def watch(self, model: nn.Module, path: str) -> list[RemovableHandle]:
        """Listens to the calls that can say something to a seed at `path`."""
        taps = {module: MaskTap(self, module, is_root=module is model) for module in _around(model, path)}
        taps.update({module: MaskTap(self, module) for module in _attentions_beside(model, path)})
        return [module.register_forward_pre_hook(tap, with_kwargs=True) for module, tap in taps.items()]

    def hear(self, said: Said) -> None:
        self._said = said
        if not torch.compiler.is_compiling():
            self._said_in_backward = _is_in_backward()

    def over(self, activation: Tensor, *, is_training: bool) -> Tensor | None:
        """Which positions each one may attend to: bool [batch, 1, 1 or positions, positions]; None for all.

        Raises GraftFailed where what the host says isn't about these positions.
        """
        given = self.given
        if not torch.compiler.is_compiling():
            self._refuse_mixture(is_training=is_training)
            self.reached_seed = bool(given)
        if not given:
            return None
        for name, mask in given.items():
            if not isinstance(mask, Tensor):
                raise GraftFailed(f"{name} is {type(mask).__name__}, expected a tensor")
        shape = _positions_of(activation, is_conv=self._is_conv)
        views = [_fitted(name, mask, shape) for name, mask in given.items()]
        fitting = [view for view in views if view is not None]
        if len(fitting) != 1:
            shapes = " and ".join(f"{name} {list(mask.shape)}" for name, mask in given.items())
            raise GraftFailed(
                f"seed {self.seed_id} attends over {list(activation.shape)}, the host gives {shapes}; "
                f"expected one mask of [batch, positions] = {[shape[0], prod(shape[1:])]}: {REMEDY}"
            )
        return fitting[0]

    def _refuse_mixture(self, *, is_training: bool) -> None:
        """Where backward runs the seed again alone, it must be plain of which pass."""
        if not _is_in_backward():
            self._passes += is_training and bool(self.given)
            return
        if not self._said_in_backward and self._passes > 1:
            raise GraftFailed(
                "backward runs a checkpoint again with a seed that attends, after several masked forward passes: "
                "go back after each pass, or call a module inside the checkpoint with the mask by its name"
            )
        self._passes = 0


class MaskTap(GoesBy):
    """Tells one seed what a module is called with."""

    def __init__(self, masks: Masks, module: nn.Module, *, is_root: bool = False) -> None:
        self.masks = masks
        self._is_root = is_root
        self._is_attention = isinstance(module, nn.MultiheadAttention)
        self._places = _places(module)

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        if self._is_attention and not _attends_itself(arguments, named):
            return
        said = {name: arguments[place] for name, place in self._places.items() if place < len(arguments)}
        for holder in (*(value for value in arguments if isinstance(value, Mapping)), named):
            said.update({name: holder[name] for name in NAMES if name in holder})
        # A call that leaves the argument out says nothing; one that passes None says that all is seen.
        if said or self._is_root:
            self.masks.hear(said)


@contextmanager
def masks_given(model: nn.Module) -> Iterator[list[str]]:
    """Collects where any module of the host, whatever it is, is told of padding.

    Masks with a row for each position may be of windows, or of what comes later.
    """
    given: list[str] = []
    handles = []
    for path, module in model.named_modules():
        if module is model or _places(module):
            heard = _Heard(given, path or "the host", module, is_root=module is model)
            handles.append(module.register_forward_pre_hook(heard, with_kwargs=True))
    try:
        yield given
    finally:
        for handle in handles:
            handle.remove()


class _Heard(MaskTap):
    def __init__(self, given: list[str], path: str, module: nn.Module, *, is_root: bool) -> None:
        super().__init__(Masks("", is_conv=False), module, is_root=is_root)
        self._given = given
        self._path = path

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        super().__call__(module, arguments, named)
        self._given += [f"{name} of {self._path}" for name, mask in self.masks.given.items() if _has_one_row(mask)]
        self.masks.forget()


def _around(model: nn.Module, path: str) -> Iterator[nn.Module]:
    """The host, and whatever around the path, itself included, may be given a mask."""
    names = path.split(".")
    yield model
    for length in range(1, len(names) + 1):
        module = model.get_submodule(".".join(names[:length]))
        if _places(module) or _takes_any_name(module):
            yield module


def _attentions_beside(model: nn.Module, path: str) -> Sequence[nn.Module]:
    """Torch's attentions in the nearest module around the path, itself included, that holds any."""
    names = path.split(".")
    for length in range(len(names), -1, -1):
        module = model.get_submodule(".".join(names[:length]))
        if found := [part for part in module.modules() if isinstance(part, nn.MultiheadAttention)]:
            return found
    return []


def _places(module: nn.Module) -> dict[str, int]:
    """Where in its arguments the module's forward takes masks; where it takes them by name alone, beyond all."""
    parameters = _parameters(module)
    by_name = {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
    places = {parameter.name: place for place, parameter in enumerate(parameters)}
    return {name: sys.maxsize if name in by_name else place for name, place in places.items() if name in NAMES}


def _takes_any_name(module: nn.Module) -> bool:
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in _parameters(module))


def _parameters(module: nn.Module) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError):
        return []


def _attends_itself(arguments: tuple[Any, ...], named: Mapping[str, Any]) -> bool:
    """Whether queries and keys are the same; else the mask is of another sequence."""
    given = dict(zip(("query", "key"), arguments, strict=False)) | {
        name: named[name] for name in ("query", "key") if name in named
    }
    return given.get("query") is given.get("key")


def _positions_of(activation: Tensor, *, is_conv: bool) -> tuple[int, ...]:
    return (activation.shape[0], *(activation.shape[2:] if is_conv else activation.shape[1:-1]))


def _fitted(name: str, mask: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """The mask as bool [batch or 1, 1, 1 or positions, positions]; None where it is of other positions."""
    batch, positions = shape[0], prod(shape[1:])
    seen = NAMES[name](mask)
    if seen.shape == shape:
        return seen.reshape(batch, 1, 1, positions)
    if seen.dim() == 2:
        seen = seen.unsqueeze(1)
    if seen.dim() == 4:
        seen = seen.any(1)  # what any of the host's heads may see
    if seen.dim() != 3:
        return None
    rows, columns = seen.shape[1:]
    fits = seen.shape[0] in (1, batch) and rows in (1, positions) and columns == positions
    return seen.unsqueeze(1) if fits else None


def _has_one_row(mask: Any) -> bool:
    return isinstance(mask, Tensor) and (mask.dim() == 2 or (mask.dim() > 2 and mask.shape[-2] == 1))


def _is_in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1
