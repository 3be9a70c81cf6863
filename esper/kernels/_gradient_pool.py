"""Gradients of K sources in K rows of one buffer, one slot per parameter.

Copy mode writes `.grad` into a row after each backward pass. View mode binds `.grad` to the row, so that backward
accumulates in place: it saves memory, not time. Slots keep their place for life: a graft takes free room or extends
the rows, a removal leaves a gap of zeros, and a gap adds nothing to any inner product.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor

from esper.kernels._flatten import flatten_
from esper.kernels._pool import Plan

# Slots begin at multiples of this, so that vectorised optimisers see aligned tensors.
_ALIGNMENT_BYTES = 16
_GROWTH = 1.5


class GradientPool:
    """`rows` is `[K, N]`; slot i of each row belongs to `parameters[i]`."""

    def __init__(
        self, parameters: Iterable[Tensor], *, rows: int = 1, mode: Literal["copy", "view"] = "copy", capacity: int = 0
    ) -> None:
        initial = list(parameters)
        if not initial:
            raise RuntimeError("no gradients available for aggregation: the pool was given no parameters")
        if mode not in ("copy", "view"):
            raise RuntimeError(f"mode is {mode!r}, expected 'copy' or 'view'")
        self.mode = mode
        self._like = initial[0]
        item_bytes = self._like.element_size()
        self._plan = Plan(rows=rows, item_bytes=item_bytes, alignment=max(_ALIGNMENT_BYTES // item_bytes, 1))
        self._slots: dict[Tensor, int] = {}
        self._storage = self._like.new_zeros((rows, capacity)).detach()
        self._bound: int | None = None
        self._pieces: tuple[list[int], list[int]] | None = None
        self._layer_offsets: Tensor | None = None
        self.extend(initial)

    @property
    def parameters(self) -> list[Tensor]:
        """In slot order."""
        return list(self._slots)

    @property
    def rows(self) -> Tensor:
        """`[K, N]`, gaps included as zeros; a view that stays valid until the pool grows."""
        return self._storage[:, : self._plan.extent]

    @property
    def row_count(self) -> int:
        return self._plan.rows

    @property
    def layer_offsets(self) -> Tensor:
        """Where each parameter's slot begins, in memory order, then N; a gap counts to the slot before it.

        The same tensor until the layout changes: a CUDA graph can't record the copy of another.
        """
        if self._layer_offsets is None:
            self._layer_offsets = self._found_offsets()
        return self._layer_offsets

    def _found_offsets(self) -> Tensor:
        starts = sorted(self._plan.offset(slot) for slot in self._slots.values())
        starts = [0, *starts[1:], self._plan.extent]
        found, device = torch.tensor(starts, dtype=torch.int64), self._storage.device
        # Pinned, so that nobody waits for what the device still does.
        return found.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else found

    def presence(self, row: int) -> tuple[bool, ...]:
        """Per parameter: whether the last `collect` of this row found a gradient."""
        return tuple(self._plan.presence(row))

    def views(self, flat: Tensor) -> list[Tensor]:
        """Views of a vector of N elements, shaped as the parameters."""
        if flat.shape != (self._plan.extent,):
            raise RuntimeError(
                f"flat gradient has {flat.numel()} elements but {self._plan.extent} were expected "
                f"(shape {list(flat.shape)})"
            )
        return [self._view(flat, parameter) for parameter in self._slots]

    def bind(self, row: int) -> None:
        """View mode: zeroes the row and makes it the memory of the parameters' gradients."""
        if self.mode != "view":
            raise RuntimeError("bind needs mode='view': a pool either copies gradients or holds them, never both")
        memory = self._row(row)
        memory.zero_()
        self._bound = row
        for parameter in self._slots:
            parameter.grad = self._view(memory, parameter)

    def collect(self, row: int) -> tuple[bool, ...]:
        """Makes the row hold the parameters' gradients, absent ones as zeros; returns which were present.

        In view mode this costs an address comparison, and repairs bindings that were broken by `grad = None`.
        """
        memory = self._row(row)
        grads = [parameter.grad for parameter in self._slots]
        addresses = [0 if grad is None else grad.data_ptr() for grad in grads]
        elsewhere = self._plan.unbound(row, memory.data_ptr(), addresses)
        if self.mode == "view":
            self._repair(memory, elsewhere, grads)
            self._bound = row
        elif elsewhere:
            self._copy(memory, grads)
        return self.presence(row)

    def assign(self, flat: Tensor) -> None:
        """Makes views of `flat` (a result of `pcgrad`, say) the parameters' gradients."""
        for parameter, view in zip(self._slots, self.views(flat.detach()), strict=True):
            parameter.grad = view
        self._bound = None

    def extend(self, parameters: Iterable[Tensor]) -> None:
        """Adds slots for new parameters; what the rows hold stays, and bound gradients stay bound."""
        added = list(parameters)
        for position, parameter in enumerate(added):
            self._check(parameter, added[:position])
        for parameter in added:
            self._slots[parameter] = self._plan.add(parameter.numel())
        self._pieces = self._layer_offsets = None
        if self._plan.extent > self._storage.size(1):
            self._grow(self._plan.extent)
        if self._bound is not None:
            memory = self._row(self._bound)
            for parameter in added:
                parameter.grad = self._view(memory, parameter)

    def remove(self, parameters: Iterable[Tensor]) -> None:
        """Gives up the slots of these parameters, leaving zeros; their bound gradients become None."""
        self._pieces = self._layer_offsets = None
        for parameter in parameters:
            slot = self._slots.pop(parameter, None)
            if slot is None:
                raise RuntimeError(f"a parameter of shape {list(parameter.shape)} is not in the pool")
            begin = self._plan.offset(slot)
            self._storage[:, begin : begin + self._plan.numel(slot)].zero_()
            self._plan.remove(slot)
            if self._bound is not None:
                parameter.grad = None

    def _row(self, row: int) -> Tensor:
        if not 0 <= row < self._plan.rows:
            raise RuntimeError(f"row {row} of a pool with {self._plan.rows} rows")
        return self._storage[row, : self._plan.extent]

    def _view(self, flat: Tensor, parameter: Tensor) -> Tensor:
        return self._place(flat, parameter).view(parameter.shape)

    def _place(self, flat: Tensor, parameter: Tensor) -> Tensor:
        slot = self._slots[parameter]
        begin = self._plan.offset(slot)
        return flat[begin : begin + self._plan.numel(slot)]

    def _check(self, parameter: Tensor, before: Sequence[Tensor]) -> None:
        if parameter in self._slots or any(parameter is other for other in before):
            raise RuntimeError(f"a parameter of shape {list(parameter.shape)} is in the pool already")
        if parameter.dtype != self._like.dtype or parameter.device != self._like.device:
            raise RuntimeError(
                f"gradient tensors must share the same device and dtype: a parameter is {parameter.dtype} on "
                f"{parameter.device}, the pool {self._like.dtype} on {self._like.device}"
            )

    def _repair(self, memory: Tensor, elsewhere: Sequence[int], grads: Sequence[Tensor | None]) -> None:
        parameters = self.parameters if elsewhere else []
        for position in elsewhere:
            parameter, grad = parameters[position], grads[position]
            place = self._place(memory, parameter)
            with torch.no_grad():
                flatten_([grad], place, sizes=[place.numel()])
            parameter.grad = place.view(parameter.shape)

    def _copy(self, memory: Tensor, grads: Sequence[Tensor | None]) -> None:
        """One call for the whole row; what lies between slots is written as absent, that is, as zeros."""
        if self._pieces is None:
            self._pieces = self._arrange()
        sources, sizes = self._pieces
        choices = [*grads, None]
        with torch.no_grad():  # a gradient may have a graph of its own (create_graph); the row takes its values
            flatten_([choices[source] for source in sources], memory, sizes=sizes)

    def _arrange(self) -> tuple[list[int], list[int]]:
        """The row from end to end: whose gradient each piece is, -1 for what lies between slots, and its elements."""
        sources: list[int] = []
        sizes: list[int] = []
        end = 0
        slots = sorted((self._plan.offset(slot), index) for index, slot in enumerate(self._slots.values()))
        widths = [self._plan.numel(slot) for slot in self._slots.values()]
        for offset, index in [*slots, (self._plan.extent, -1)]:
            if offset > end:
                sources.append(-1)
                sizes.append(offset - end)
            if index >= 0:
                sources.append(index)
                sizes.append(widths[index])
                end = offset + widths[index]
        return sources, sizes

    def _grow(self, extent: int) -> None:
        old = self._storage
        capacity = max(extent, int(old.size(1) * _GROWTH))
        self._storage = old.new_zeros((old.size(0), capacity))
        self._storage[:, : old.size(1)] = old
        if self._bound is None:
            return
        base, memory = old[self._bound].data_ptr(), self._row(self._bound)
        for parameter, slot in self._slots.items():
            expected = base + self._plan.offset(slot) * old.element_size()
            if parameter.grad is not None and parameter.grad.data_ptr() == expected:
                parameter.grad = self._view(memory, parameter)
