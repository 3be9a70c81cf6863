"""A network in a few words: its layers with their widths, the slots where it may grow, and where it may not.

Read from modules alone: no forward pass, so that telling a change costs the training thread next to nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from esper.core.enums import short_name
from esper.leyline import DirectiveKind, SlotKind, SlotSpec

if TYPE_CHECKING:
    from torch import nn

    from esper.kasmina.executor import SeedExecutor

# What may have changed the network's layers, and with them what its optimiser holds.
RESHAPING = frozenset(
    (
        DirectiveKind.DIRECTIVE_KIND_ATTACH,
        DirectiveKind.DIRECTIVE_KIND_FOLD,
        DirectiveKind.DIRECTIVE_KIND_INSTALL_TWIN,
        DirectiveKind.DIRECTIVE_KIND_REMOVE,
    )
)
# Where torch's layers, and those made like them, say how many features or channels they give.
WIDTHS = ("out_features", "out_channels", "embedding_dim", "embed_dim", "hidden_size")
MATRIX = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """A module with a weight matrix of its own; norms and biases are no layers here."""

    path: str
    kind: str
    """Class name."""
    width: int
    """Features or channels that it gives."""
    parameters: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """The network that trains, without seeds that are only grafted."""

    step: int
    parameters: int
    """Of all layers, biases and norms."""
    layers: tuple[Layer, ...]
    """In the order in which they are declared."""
    slots: tuple[dict[str, Any], ...]
    """Where it may grow: id, kind and what a kept seed can't be folded for."""
    refused: tuple[str, ...]
    """Where it can't, each with the reason."""

    def as_fields(self) -> dict[str, Any]:
        """As files hold it."""
        return {
            "step": self.step,
            "parameters": self.parameters,
            "layers": [asdict(layer) for layer in self.layers],
            "slots": list(self.slots),
            "refused": list(self.refused),
        }


def look_at(executor: SeedExecutor, step: int) -> Network:
    """The network as it is now."""
    model = executor.arm.model
    return Network(
        step=step,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        layers=tuple(_layers(model)),
        slots=tuple(_slot(slot, executor.places.halved_by(slot.slot_id)) for slot in executor.slots),
        refused=(*executor.places.unseen, *executor.places.refused_runs),
    )


def _layers(model: nn.Module) -> Iterator[Layer]:
    for path, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        matrices = [parameter for parameter in own if parameter.dim() >= MATRIX]
        if matrices:
            yield Layer(
                path=path or type(module).__name__,
                kind=type(module).__name__,
                width=_width(module, int(matrices[0].shape[0])),
                parameters=sum(parameter.numel() for parameter in own),
            )


def _width(module: nn.Module, rows: int) -> int:
    told = (getattr(module, name, None) for name in WIDTHS)
    return next((width for width in told if isinstance(width, int) and not isinstance(width, bool)), rows)


def _slot(slot: SlotSpec, halves: Sequence[str]) -> dict[str, Any]:
    """`depth` and what is halved in each block are of a stack, `width` of the others."""
    measure = (
        {"depth": slot.depth, "halves": list(halves)}
        if slot.kind == SlotKind.SLOT_KIND_STACK
        else {"width": slot.width}
    )
    obstacle = {"fold_obstacle": slot.fold_obstacle} if slot.fold_obstacle else {}
    return {"slot_id": slot.slot_id, "kind": short_name(SlotKind, slot.kind), **measure, **obstacle}
