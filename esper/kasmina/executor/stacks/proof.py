"""The proof of a repeated run: every copied block ran as often as its original, and the loss reaches all of it.

Some models silently ignore blocks beyond a count of their own; such a copy would be dead weight for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from esper.core.errors import GraftFailed
from esper.kasmina.executor.passes.side_pass import side_pass


def prove(
    model: nn.Module,
    copies: Sequence[tuple[str, nn.Module]],
    loss: Callable[[], Tensor],
    *,
    key: int,
    original: tuple[str, nn.Module],
    behind: Sequence[tuple[str, nn.Module]] = (),
) -> None:
    """Run `loss` (forward pass and scalar loss of a few samples) once. Raises GraftFailed for a block that is idle.

    `behind` are former blocks that the copies have moved up: a count of the model's own may leave them out instead.
    """
    counted = [
        (*original, "original"),
        *((path, block, "copied") for path, block in copies),
        *((path, block, "moved") for path, block in behind),
    ]
    calls = {path: 0 for path, _, _ in counted}

    def count(path: str) -> Callable[..., None]:
        def note(*_: object) -> None:
            calls[path] += 1

        return note

    handles = [block.register_forward_hook(count(path)) for path, block, _ in counted]
    named = [(f"{path}.{name}", p) for path, block in copies for name, p in block.named_parameters() if p.requires_grad]
    try:
        with side_pass([model], key=key, training=False), torch.enable_grad():
            gradients = torch.autograd.grad(loss(), [parameter for _, parameter in named], allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    expected = max(1, calls[original[0]])
    for path, _, what in counted:
        if calls[path] != expected:
            often = "once" if expected == 1 else f"{expected} times"
            raise GraftFailed(f"the {what} block {path} ran {calls[path]} times in a forward pass, expected {often}")
    for (name, _), gradient in zip(named, gradients, strict=True):
        if gradient is None:
            raise GraftFailed(f"the loss doesn't reach {name} of a copied block")
        if not bool(torch.isfinite(gradient).all()):
            raise GraftFailed(f"the gradient of {name} of a copied block is not finite")
