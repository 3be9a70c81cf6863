"""What can befall a trainer: slow steps, lost weights, late restores, a kill in one, leaking seeds, missing inputs."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from esper.core.messages.required_fields import REQUIRED
from esper.kasmina.executor.graft.graft import Graft
from esper.leyline import SystemStatePacket
from esper.tolaria.loop.step import Stepper
from esper.tolaria.plane.packets import PacketBuilder
from esper.tolaria.recovery.tiers.deadline import Deadline
from tools.harness.faults.replaced import replaced


def breaking_down(at_step: int) -> AbstractContextManager[None]:
    """A weight becomes NaN just before a step, as long as no rollback has lowered the rate."""
    run = Stepper.run

    def step(self: Stepper, arm: Any, batch: Any, number: int, *rest: Any, **options: Any) -> Any:
        if number == at_step and arm.scheduler.factor == 1.0:
            next(iter(arm.model.parameters())).data.fill_(float("nan"))
        return run(self, arm, batch, number, *rest, **options)

    return replaced(Stepper, "run", step)


def slow_restores(seconds: float) -> AbstractContextManager[None]:
    """Every piece of a restore takes so long in addition, in whichever thread it is read."""
    check = Deadline.check

    def asked(self: Deadline) -> None:
        time.sleep(seconds)  # the fault
        check(self)

    return replaced(Deadline, "check", asked)


def dying_in_restore(pieces: int) -> AbstractContextManager[None]:
    """The process is killed after so many pieces of a restore, when part of the optimiser's state is written over."""
    check, done = Deadline.check, list[int]()

    def asked(self: Deadline) -> None:
        check(self)
        done.append(1)
        if len(done) == pieces:
            os.kill(os.getpid(), signal.SIGKILL)

    return replaced(Deadline, "check", asked)


def slow_steps(seconds: float) -> AbstractContextManager[None]:
    """Every step of an arm takes so long in addition."""
    run = Stepper.run

    def step(self: Stepper, *given: Any, **options: Any) -> Any:
        time.sleep(seconds)  # the fault
        return run(self, *given, **options)

    return replaced(Stepper, "run", step)


def leaking_seeds() -> AbstractContextManager[None]:
    """A seed that must be apart from its host reads the host's own activation, through which gradients reach it."""
    join = Graft.join

    def joined(self: Graft, *given: Any, **options: Any) -> Any:
        before, self.is_isolated = self.is_isolated, False
        try:
            return join(self, *given, **options)
        finally:
            self.is_isolated = before

    return replaced(Graft, "join", joined)


def blinded() -> AbstractContextManager[None]:
    """Packets come without anything measured that may be missing."""
    build = PacketBuilder.build

    def built(self: PacketBuilder, *given: Any, **options: Any) -> SystemStatePacket:
        packet = build(self, *given, **options)
        for message in (packet.metrics, packet.hardware, *packet.slots, *packet.seeds):
            required = REQUIRED.get(message.DESCRIPTOR.name, "").split()
            for field, _ in message.ListFields():
                if field.name not in required:
                    message.ClearField(field.name)
        return packet

    return replaced(PacketBuilder, "build", built)


FAULTS: Mapping[str, tuple[Callable[[Any], AbstractContextManager[None]], type]] = {
    "breaking-down": (breaking_down, int),
    "slow-restores": (slow_restores, float),
    "dying-in-restore": (dying_in_restore, int),
}
"""By name, with the type of their one value."""
