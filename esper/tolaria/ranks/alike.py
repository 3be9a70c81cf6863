"""What all ranks must hold alike, as digests that are compared, and how they come to hold it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Protocol

from torch import Tensor, nn

from esper.kasmina.executor import TrainingArm
from esper.tolaria.ranks.group import Ranks


class Arms(Protocol):
    """The arms that train."""

    @property
    def arm(self) -> TrainingArm: ...

    @property
    def twin(self) -> TrainingArm | None: ...

    @property
    def is_twin_live(self) -> bool: ...


def topology_of(arms: Arms) -> str:
    """SHA-256 (hex) over names, shapes, dtypes and trainability of all parameters and buffers, seeds and twin alike.

    And over whether that twin makes its steps at once: a rank whose twin waits reduces no gradients of it.
    """
    digest = hashlib.sha256(f"live: {arms.is_twin_live}\n".encode())
    for name, arm in (("arm", arms.arm), ("twin", arms.twin)):
        for line in [] if arm is None else _lines(arm):
            digest.update(f"{name} {line}\n".encode())
    return digest.hexdigest()


def start_alike(ranks: Ranks, arm: TrainingArm) -> None:
    """Gives all ranks the first one's weights and buffers: a script may have drawn others in each process."""
    ranks.agree("network", topology_of(_Alone(arm)))
    ranks.spread(_contents([arm], lambda module: (*module.parameters(), *module.buffers())))


def buffers_alike(ranks: Ranks, arms: Arms) -> None:
    """Gives all ranks the first one's buffers: a BatchNorm's statistics are of each rank's own samples."""
    if ranks.count > 1:
        there = [arm for arm in (arms.arm, arms.twin) if arm is not None]
        ranks.spread(_contents(there, nn.Module.buffers))


class _Alone:
    """An arm without a twin."""

    def __init__(self, arm: TrainingArm) -> None:
        self.arm = arm
        self.twin = None
        self.is_twin_live = False


def _lines(arm: TrainingArm) -> Iterable[str]:
    parts = [("", arm.model), *((f"seed {graft.seed_id} ", graft.module) for graft in arm.grafts)]
    for prefix, module in parts:
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            shape = () if nn.parameter.is_lazy(tensor) else tuple(tensor.shape)
            yield f"{prefix}{name} {shape} {tensor.dtype} {tensor.requires_grad}"


def _contents(arms: Iterable[TrainingArm], held: Callable[[nn.Module], Iterable[Tensor]]) -> list[Tensor]:
    """What the arms' modules hold, as far as it can be written."""
    tensors = (tensor for arm in arms for module in arm.modules for tensor in held(module))
    return [tensor.detach() for tensor in tensors if not nn.parameter.is_lazy(tensor) and not tensor.is_inference()]
