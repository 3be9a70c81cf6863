"""The pool of each arm's gradients: one row for each source, laid out anew when the arm's parameters change."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.optim import Optimizer

from esper.kernels import GradientPool


class Pools:
    """Pools by optimiser, so that a resumed run has the same layout."""

    def __init__(self) -> None:
        self._pools: WeakKeyDictionary[Optimizer, GradientPool] = WeakKeyDictionary()

    def of(self, optimizer: Optimizer, parameters: Sequence[nn.Parameter], rows: int) -> GradientPool:
        """The optimiser's pool, with these parameters in this order."""
        pool = self._pools.get(optimizer)
        if pool is None or pool.row_count != rows or not _same(pool.parameters, parameters):
            pool = self._pools[optimizer] = GradientPool(parameters, rows=rows)
        return pool


def _same(left: Sequence[Tensor], right: Sequence[nn.Parameter]) -> bool:
    return len(left) == len(right) and all(a is b for a, b in zip(left, right, strict=True))
