"""What growth has done to a network, told by the names and shapes of its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from esper.kasmina.executor import TrainingArm

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One change of shape. Parameters of a seed stand under `seed:ID:NAME` until it is folded or gone."""

    step: int
    """Steps done before it."""
    seed_id: str
    kind: str
    """grafted, kept, or undone."""
    added: Mapping[str, Shape]
    removed: Mapping[str, Shape]
    resized: Mapping[str, tuple[Shape, Shape]]
    """Shapes before and after; such a parameter is a new object in the same module and group."""
    depths: Mapping[str, int]
    """Equal blocks of each run that was repeated, by the path of its list."""


def shapes_of(arm: TrainingArm) -> dict[str, Shape]:
    """Every parameter of the network and of the seeds in it."""
    found = {name: tuple(parameter.shape) for name, parameter in arm.model.named_parameters()}
    for graft in arm.grafts:
        named = graft.module.named_parameters()
        found |= {f"seed:{graft.seed_id}:{name}": tuple(parameter.shape) for name, parameter in named}
    return found


def change_between(
    before: Mapping[str, Shape],
    after: Mapping[str, Shape],
    *,
    step: int,
    seed_id: str,
    kind: str,
    depths: Mapping[str, int],
) -> Change | None:
    """None where no shape changed."""
    added = {name: shape for name, shape in after.items() if name not in before}
    removed = {name: shape for name, shape in before.items() if name not in after}
    both = [name for name in before if name in after and before[name] != after[name]]
    if not (added or removed or both):
        return None
    resized = {name: (before[name], after[name]) for name in both}
    return Change(step=step, seed_id=seed_id, kind=kind, added=added, removed=removed, resized=resized, depths=depths)
