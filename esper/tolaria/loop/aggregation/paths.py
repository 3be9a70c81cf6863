"""Seeds as sources of a step's gradient: what came through each seed's output, and what came past all of them.

A gradient is a sum over paths from the loss back to a parameter. Each path belongs to the last seed that it passes (the
first on the way back), or to the host if it passes none, so that the parts add up to the gradient. A seed's own slice
is its alone; the host's parameters are what all of them pull at. One more backward pass from each seed's output, over
the graph of the step's own, tells its part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from esper.kernels import GradientPool
from esper.tolaria.loop.aggregation.owners import Owners

Gradients = list[Tensor | None]


class SourceRows(NamedTuple):
    """`rows` is [1 + seeds, N]: what came past all seeds, then what came through each; no row has another's slice."""

    pool: GradientPool
    rows: Tensor
    host_columns: int
    """How many columns, from the first, are the host's parameters."""
    owner_of: list[int]
    """The row of whom each parameter of the pool is."""
    was_present: list[bool]
    """For which parameters there is a gradient."""


class SeedPaths:
    """The parts of one step's gradient, added up over its passes."""

    def __init__(self, owners: Owners) -> None:
        self.owners = owners
        self._found: list[Gradients] = [[None] * len(owners.parameters) for _ in owners.grafts]
        self._outputs: list[tuple[int, Tensor]] = []

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Around a forward pass: seeds leave their outputs here."""
        for place, graft in enumerate(self.owners.grafts):
            graft.tell_output = partial(self._keep, place)
        try:
            yield
        finally:
            for graft in self.owners.grafts:
                graft.tell_output = None

    def _keep(self, place: int, output: Tensor) -> None:
        if output.requires_grad:  # not in a pass that asks for values alone
            output.retain_grad()
            self._outputs.append((place, output))

    def split(self) -> None:
        """After a backward pass that kept its graph: follow the gradient from each output, the last one first."""
        outputs, self._outputs = self._outputs, []
        parameters = self.owners.parameters
        pulls = [output.grad for _, output in outputs]
        for at in reversed(range(len(outputs))):
            pull = pulls[at]
            if pull is None:
                continue
            place, output = outputs[at]
            earlier = [before for _, before in outputs[:at]]
            found = torch.autograd.grad(output, [*parameters, *earlier], pull, retain_graph=at > 0, allow_unused=True)
            _add(self._found[place], found[: len(parameters)])
            pulls[:at] = [_less(old, passed) for old, passed in zip(pulls[:at], found[len(parameters) :], strict=True)]

    def collect(self, pool: GradientPool, all_of: Callable[[GradientPool, list[bool]], list[bool]]) -> SourceRows:
        """Lay the parts out in a pool of this layout; the parameters' gradients stay as they are.

        `all_of` makes rows and presence those of all ranks.
        """
        parameters = self.owners.parameters
        whole = [parameter.grad for parameter in parameters]
        was_present = list(pool.collect(0))
        for row, part in enumerate(self._found, 1):
            for parameter, gradient in zip(parameters, part, strict=True):
                parameter.grad = gradient
            pool.collect(row)
        for parameter, gradient in zip(parameters, whole, strict=True):
            parameter.grad = gradient
        was_present = all_of(pool, was_present)
        rows, host_columns = pool.rows, self._host_columns(pool)
        for row in rows[1:]:
            rows[0, :host_columns] -= row[:host_columns]
        rows[0, host_columns:] = 0.0  # a seed's parameters are reached through its output alone
        return SourceRows(pool, rows, host_columns, self.owners.of_each, was_present)

    def _host_columns(self, pool: GradientPool) -> int:
        end = self.owners.spans[0].end
        if end == len(self.owners.parameters):
            return pool.rows.size(1)
        return int(pool.views(pool.rows[0])[end].storage_offset())


def _add(sums: Gradients, found: Sequence[Tensor | None]) -> None:
    for at, gradient in enumerate(found):
        if gradient is not None:
            old = sums[at]
            sums[at] = gradient if old is None else old + gradient


def _less(pull: Tensor | None, passed: Tensor | None) -> Tensor | None:
    return pull if pull is None or passed is None else pull - passed
