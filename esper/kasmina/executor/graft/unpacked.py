"""Torch's encoder around a seed keeps its batches as they are: in evaluation it packs what isn't padding, and seeds
can't work on that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from esper.kasmina.executor.contents.objects import GoesBy


def keep_unpacked(model: nn.Module, path: str) -> Iterator[RemovableHandle]:
    """Sees to it for each encoder around the path, one call at a time."""
    names = path.split(".")
    for length in range(len(names)):
        module = model.get_submodule(".".join(names[:length]))
        if isinstance(module, nn.TransformerEncoder):
            tap = UnpackTap()
            yield module.register_forward_pre_hook(tap)
            yield module.register_forward_hook(PackTap(tap), always_call=True)


class UnpackTap(GoesBy):
    """Switches packing off for a call."""

    def __init__(self) -> None:
        self.has_switched = False

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if not torch.compiler.is_compiling() and getattr(module, "use_nested_tensor", False):
            module.use_nested_tensor, self.has_switched = False, True  # type: ignore[assignment]


class PackTap(GoesBy):
    """Switches it on again where its own tap, and not that of another seed, has switched it off."""

    def __init__(self, tap: UnpackTap) -> None:
        self._tap = tap

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        if self._tap.has_switched:
            module.use_nested_tensor, self._tap.has_switched = True, False  # type: ignore[assignment]
