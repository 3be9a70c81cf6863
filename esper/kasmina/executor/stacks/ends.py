"""Ends of a block's branches: the layers whose outputs are added to what the block has read.

A run that is doubled as it is adds to the residual stream twice what it added before. With these layers halved in
originals and copies it adds as much as before, in twice as many steps of half the size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from esper.kasmina.executor.passes.side_pass import side_pass
from esper.kasmina.executor.stacks.run import leading

TOLERANCE = 1e-2
"""Of a layer's effect: what float32 loses is far below, what a layer in the middle of a branch bends is above."""


def branch_ends(model: nn.Module, block: nn.Module, run: Callable[[], Any], *, key: int) -> tuple[str, ...]:
    """Paths of these layers in the block; empty where it isn't what it reads plus branches that layers of its own end.

    `run` passes a few samples through the model. A layer ends a branch if the block's output is affine in its scale;
    with all of them at zero the block must give back what it reads. So it must be in training as well, where a norm
    over the batch takes the scale of what is before it out again. Weights are changed for a pass and put back to the
    bit.
    """
    found = [_ends(model, block, run, key=key, training=training) for training in (False, True)]
    return found[0] if found[0] == found[1] else ()


def _ends(model: nn.Module, block: nn.Module, run: Callable[[], Any], *, key: int, training: bool) -> tuple[str, ...]:
    def added() -> Tensor | None:
        return _added(model, block, run, key=key, training=training)

    layers = _backwards(model, block, run, key=key, training=training)
    ends: list[str] = []
    left = added()
    if left is None:
        return ()
    size = float(left.norm())
    with torch.no_grad(), ExitStack() as silenced:
        while float(left.norm()) > TOLERANCE * size:
            end = next(((path, module) for path, module in layers if _is_end(module, left, added, size)), None)
            if end is None:
                return ()
            ends.append(end[0])
            silenced.enter_context(_scaled(end[1], 0.0))
            rest = added()
            if rest is None:
                return ()
            left = rest
    return tuple(ends)


def _backwards(
    model: nn.Module, block: nn.Module, run: Callable[[], Any], *, key: int, training: bool
) -> list[tuple[str, nn.Module]]:
    """The block's layers, the last that ran first: a norm before near-linear attention looks like an end, too.

    A layer whose weights its owner uses without calling it, as `nn.MultiheadAttention` does, runs when its owner does.
    """
    modules = dict(block.named_modules())
    ended: list[nn.Module] = []
    handles = [module.register_forward_hook(lambda module, *_: ended.append(module)) for module in modules.values()]
    try:
        with side_pass([model], key=key, training=training), torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    places = {module: place for place, module in enumerate(ended)}

    def place_of(path: str) -> int:
        owners = (path.rsplit(".", depth)[0] for depth in range(path.count(".") + 1))
        return next((places[modules[owner]] for owner in owners if modules[owner] in places), len(ended))

    layers = [(path, module) for path, module in modules.items() if path and _own(module)]
    layers.reverse()  # of equal places, the last that was declared
    return sorted(layers, key=lambda layer: -place_of(layer[0]))


def _is_end(layer: nn.Module, whole: Tensor, added: Callable[[], Tensor | None], size: float) -> bool:
    """Whether what the block adds is affine in the layer's scale, and hangs on it."""
    with _scaled(layer, 0.0):
        none = added()
    if none is None or float((whole - none).norm()) <= TOLERANCE * size:
        return False
    with _scaled(layer, 0.5):
        half = added()
    return half is not None and float((half - (whole + none) / 2).norm()) <= TOLERANCE * float((whole - none).norm())


def _added(model: nn.Module, block: nn.Module, run: Callable[[], Any], *, key: int, training: bool) -> Tensor | None:
    """What the block adds to what it reads, in float32; None where they are of different shapes or not finite."""
    seen: list[tuple[Any, Any]] = []

    def note(_: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any], output: Any) -> None:
        read, gave = leading((*arguments, *options.values())), leading(output)
        seen.append((None if read is None else read.detach().clone(), None if gave is None else gave.detach().clone()))

    handle = block.register_forward_hook(note, with_kwargs=True)
    try:
        with side_pass([model], key=key, training=training), torch.no_grad():
            run()
    finally:
        handle.remove()
    read, gave = seen[0] if len(seen) == 1 else (None, None)
    if read is None or gave is None or read.shape != gave.shape:
        return None
    added = gave.float() - read.float()
    return added if bool(torch.isfinite(added).all()) else None


def _own(module: nn.Module) -> Sequence[nn.Parameter]:
    return list(module.parameters(recurse=False))


@contextmanager
def _scaled(layer: nn.Module, factor: float) -> Iterator[None]:
    """With the layer's own parameters times `factor`."""
    kept = [(parameter, parameter.detach().clone()) for parameter in _own(layer)]
    try:
        for parameter, _ in kept:
            parameter.mul_(factor)
        yield
    finally:
        for parameter, value in kept:
            parameter.copy_(value)
