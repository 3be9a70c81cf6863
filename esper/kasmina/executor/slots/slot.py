"""Slots: the places in a host where a seed reads and writes.

A span slot reads the input of layer k and adds to the output of layer k+1: exactly a wider layer k. A residual slot
reads and adds to one activation. Sizes are read from the live model, so that a slot knows of earlier folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from esper.kasmina.executor.passes.trace import ForwardTrace
from esper.kasmina.executor.slots.between import Step, between_taps, gates, halves, moved_step, width_unit
from esper.kasmina.executor.slots.heads import Heads
from esper.kasmina.executor.slots.layers import features_in, features_out, kernel_taps
from esper.leyline import SlotKind, SlotSpec

RESIDUAL_KINDS = (SlotKind.SLOT_KIND_RESIDUAL_LINEAR, SlotKind.SLOT_KIND_RESIDUAL_CONV)


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """A pair of taps. `between` and `columns` (positions flattened into features per channel) matter to spans."""

    slot_id: str
    kind: SlotKind
    read_path: str
    write_path: str
    order: int
    dims: int
    features: int
    read_positions: int
    write_positions: int
    between: tuple[Step, ...] = ()
    columns: int = 1
    obstacle: str = ""
    is_causal: bool = False
    heads: Heads | None = None
    """What a slot of heads knows of its attention."""
    is_repeated: bool = False
    """Whether its layers run more than once in a forward pass."""
    least: int = 1
    """The groups of heads by whose multiples the slot grows."""
    container: str = ""
    """The list of whose blocks each has such a slot, all of which a seed widens at once; this one is the first's."""

    @property
    def is_span(self) -> bool:
        return self.kind not in RESIDUAL_KINDS

    @property
    def is_conv(self) -> bool:
        """True if channels are dimension 1 of what the seed writes."""
        return self.kind in (SlotKind.SLOT_KIND_SPAN_CONV, SlotKind.SLOT_KIND_RESIDUAL_CONV)

    @property
    def whole_id(self) -> str:
        """The slot's id over all blocks of its container."""
        return self.slot_id.replace(f"{self.container}.0.", f"{self.container}.*.")

    def parts(self, model: nn.Module) -> list[Slot]:
        """The slots of each block of the container as it is now; without a container the slot itself."""
        if not self.container:
            return [self]
        first = f"{self.container}.0."
        blocks = range(len(model.get_submodule(self.container)._modules))
        return [moved(replace(self, container=""), first, f"{self.container}.{block}.") for block in blocks]

    def channels(self, model: nn.Module) -> int:
        """Channels or features of what the seed writes, now."""
        return features_out(model.get_submodule(self.write_path)) if self.is_span else self.features

    def spec(self, model: nn.Module) -> SlotSpec:
        """The slot as the services know it, with the sizes of now."""
        parts = self.parts(model)
        spec = parts[0]._spec(model)
        if self.container:
            spec.slot_id, spec.order = self.slot_id, self.order
            for name in ("read_kernel", "write_kernel", "between_kernel"):
                setattr(spec, name, len(parts) * getattr(spec, name))
        return spec

    def _spec(self, model: nn.Module) -> SlotSpec:
        if self.heads is not None:
            return self._spec_of_heads(model, self.heads)
        read, write = model.get_submodule(self.read_path), model.get_submodule(self.write_path)
        return SlotSpec(
            slot_id=self.slot_id,
            kind=self.kind,
            read_path=self.read_path,
            write_path=self.write_path,
            in_features=features_in(read) if self.is_span else self.features,
            out_features=self.channels(model),
            width=features_out(read) // halves(self.between) if self.is_span else self.features,
            read_positions=self.read_positions,
            write_positions=self.write_positions,
            read_kernel=kernel_taps(read) * self._readers() if self.is_span else self._residual_taps(),
            write_kernel=kernel_taps(write) * self.columns if self.is_span else self._residual_taps(),
            is_foldable=self.is_span and not self.obstacle,
            fold_obstacle=self.obstacle if self.is_span else "a residual seed has no layer to be merged into",
            order=self.order,
            width_unit=width_unit(model, self.between),
            between_kernel=between_taps(model, self.between),
        )

    def _spec_of_heads(self, model: nn.Module, heads: Heads) -> SlotSpec:
        """The width is counted in groups of heads that share keys and values."""
        read = model.get_submodule(heads.paths(self.read_path)[0])
        write = model.get_submodule(self.write_path)
        return SlotSpec(
            slot_id=self.slot_id,
            kind=self.kind,
            read_path=self.read_path,
            write_path=self.write_path,
            in_features=features_in(read),
            out_features=features_out(write),
            width=features_in(write) // heads.columns,
            read_positions=self.read_positions,
            write_positions=self.write_positions,
            read_kernel=heads.rows,
            write_kernel=heads.columns,
            is_foldable=not self.obstacle,
            fold_obstacle=self.obstacle,
            order=self.order,
            width_unit=self.least,
        )

    def _readers(self) -> int:
        """Features of reading layers for each one of the width."""
        return halves(self.between) + len(gates(self.between))

    def _residual_taps(self) -> int:
        return 3 ** (self.dims - 2) if self.is_conv else 1


def moved(slot: Slot, old: str, new: str) -> Slot:
    """The same slot in another block."""
    return replace(
        slot,
        slot_id=slot.slot_id.replace(old, new),
        read_path=slot.read_path.replace(old, new, 1),
        write_path=slot.write_path.replace(old, new, 1),
        between=tuple(moved_step(step, old, new) for step in slot.between),
        obstacle=slot.obstacle.replace(old, new),
    )


def refreshed(slots: Sequence[Slot], trace: ForwardTrace) -> tuple[Slot, ...]:
    """The slots with the activation sizes of a new trace: a fold widens what residual slots read."""
    return tuple(slot if slot.is_span else replace(slot, features=_features(slot, trace)) for slot in slots)


def _features(slot: Slot, trace: ForwardTrace) -> int:
    shape = trace.visits[slot.read_path].output_shape
    return slot.features if shape is None else shape[1 if slot.is_conv else -1]
