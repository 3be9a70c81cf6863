"""Faults on demand: a forged command, a replayed one, a useless seed and a slow Tamiyo, injected into a live run.

`--demo-faults` shows what the control plane does about each; every injection and what came of it is an event.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from esper.core.clock import Clock
from esper.core.errors import CommandRejected, EsperError
from esper.core.security.keys import Keyring, new_secret
from esper.core.security.signing import Signer
from esper.kasmina.executor import Collected
from esper.leyline import (
    AdaptationCommand,
    ApplyCommandRequest,
    BlendConfig,
    BlendMode,
    BlendSchedule,
    CommandOutcome,
    SeedOperation,
    SeedOperationKind,
    SignedCommand,
    SystemStatePacket,
)
from esper.rpc.clients import KasminaClient
from esper.tolaria.plane.answer import refusal
from esper.tolaria.plane.control import Control
from esper.tolaria.plane.open_control import OpenControl
from esper.tolaria.record.observer import Boundary, Notice, Observer, RunStarted
from esper.tolaria.record.packet_result import PacketResult

TIMEOUT_S = 5.0
USELESS_BLUEPRINT = "control.random_frozen"
USELESS_SEED = "useless"
USELESS_BLEND_SHARE = 0.06  # long enough for the host to lean on it: muted, it then looks useful


class FaultInjector(Observer):
    """Observer that injects one fault each at fixed shares of the run."""

    def __init__(
        self,
        kasmina: Callable[[], KasminaClient],
        keyring: Keyring,
        clock: Clock,
        *,
        tamiyo_pid: Callable[[], int | None],
        freeze_s: float,
        tell: Callable[[Sequence[Notice]], None],
    ) -> None:
        self._kasmina = kasmina
        self._keyring = keyring
        self._clock = clock
        self._tamiyo_pid = tamiyo_pid
        self._freeze_s = freeze_s
        self._tell = tell
        self._refusals: list[CommandOutcome] = []
        self._total_steps = 1
        self._due: list[tuple[float, str, Callable[[Boundary], str]]] = [
            (0.01, "forged command", self._forge),
            (0.02, "replayed command", self._replay),
            (0.03, "useless seed", self._germinate_useless),
            (0.85, "slow Tamiyo", self._freeze_tamiyo),
        ]

    def around(self, open_control: OpenControl) -> OpenControl:
        """The same control plane, from which the trainer also hears of the refusals that only the sender is told."""
        return lambda opening: _WithRefusals(open_control(opening), self._refusals)

    def on_start(self, started: RunStarted) -> None:
        self._total_steps = started.total_steps
        # What is due at the step from which a run goes on was injected before it.
        self._due = [fault for fault in self._due if not started.is_resumed or not self._is_due(fault[0], started.step)]

    def on_boundary(self, boundary: Boundary) -> None:
        while self._due and self._is_due(self._due[0][0], boundary.step):
            _, name, inject = self._due.pop(0)
            message = f"{name}: {inject(boundary)}"
            notice = Notice(step=boundary.step, name="tolaria.fault_injected", level="WARNING", message=message)
            self._tell([notice])

    def _is_due(self, share: float, step: int) -> bool:
        return step >= share * self._total_steps

    def _forge(self, boundary: Boundary) -> str:
        """A pause order signed with another secret."""
        forger = Signer(Keyring.from_secret(new_secret()), self._clock)
        command = self._command(boundary, "forged")
        command.pause.rationale = "forged"
        return self._send(self._sealed(forger, command), command)

    def _replay(self, boundary: Boundary) -> str:
        """An order that changes nothing, accepted once, then the same bytes again."""
        signer = Signer(self._keyring, self._clock)
        command = self._command(boundary, "replay")
        command.optimizer.learning_rate_factor = 1.0
        envelope = self._sealed(signer, command)
        first, second = self._send(envelope, command), self._send(envelope, command)
        return f"first: {first}; again: {second}"

    def _germinate_useless(self, boundary: Boundary) -> str:
        """A seed of random frozen weights, commanded by an operator."""
        slots = boundary.packet.slots
        if not slots:
            return "no slot is open"
        blend = BlendConfig(
            mode=BlendMode.BLEND_MODE_RESIDUAL,
            alpha_start=0.0,
            alpha_target=1.0,
            schedule=BlendSchedule.BLEND_SCHEDULE_LINEAR,
            schedule_steps=round(USELESS_BLEND_SHARE * self._total_steps),
        )
        command = self._command(boundary, USELESS_SEED)
        command.seed.CopyFrom(
            SeedOperation(
                seed_id=USELESS_SEED,
                operation=SeedOperationKind.SEED_OPERATION_KIND_GERMINATE,
                slot_id=slots[0].slot_id,
                blueprint_id=USELESS_BLUEPRINT,
                initialization_seed=0,
                blend=blend,
            )
        )
        return self._send(self._sealed(Signer(self._keyring, self._clock), command), command)

    def _freeze_tamiyo(self, boundary: Boundary) -> str:
        """Stop Tamiyo's process for longer than the deadline, then let it go on."""
        pid = self._tamiyo_pid()
        if pid is None:
            return "Tamiyo was not started by this run"
        freeze(pid, self._freeze_s)
        return f"stopped for {self._freeze_s:g} s"

    def _command(self, boundary: Boundary, name: str) -> AdaptationCommand:
        packet = boundary.packet
        return AdaptationCommand(
            command_id=f"demo-{name}-g{packet.generation}",
            training_run_id=packet.training_run_id,
            generation=packet.generation,
            step=packet.step,
            issued_by="operator:demo",
        )

    def _sealed(self, signer: Signer, command: AdaptationCommand) -> SignedCommand:
        return signer.sign(command, audience=f"kasmina/{command.training_run_id}")

    def _send(self, envelope: SignedCommand, command: AdaptationCommand) -> str:
        """Send it, and say what came of it in words."""
        try:
            outcome = self._kasmina().apply_command(ApplyCommandRequest(command=envelope), timeout_s=TIMEOUT_S).outcome
        except CommandRejected as error:
            self._refusals.append(refusal(command.command_id, error))
            return f"refused: {error}"
        except EsperError as error:
            return f"failed: {error}"
        return "accepted" if outcome.accepted else f"refused: {outcome.detail}"


class _WithRefusals:
    """A control plane whose next result begins with what was refused since the last one."""

    def __init__(self, control: Control, refusals: list[CommandOutcome]) -> None:
        self.policy_digest = control.policy_digest
        self.replayed = control.replayed
        self._control = control
        self._refusals = refusals

    def hand_over(
        self, packet: SystemStatePacket, collected: Collected, *, want_state: bool = False, is_last: bool = False
    ) -> None:
        self._control.hand_over(packet, collected, want_state=want_state, is_last=is_last)

    def order(self, command: AdaptationCommand) -> None:
        self._control.order(command)

    def take(self, packet_index: int) -> PacketResult:
        result = self._control.take(packet_index)
        told = tuple(self._refusals)
        self._refusals.clear()
        return replace(result, outcomes=(*told, *result.outcomes))

    def close(self) -> None:
        self._control.close()


def freeze(pid: int, seconds: float) -> Callable[[], None]:
    """Stop a process for so long; what is returned at once lets it go on earlier."""
    _send_signal(pid, signal.SIGSTOP)
    timer = threading.Timer(seconds, _send_signal, (pid, signal.SIGCONT))
    timer.daemon = True
    timer.start()

    def thaw() -> None:
        timer.cancel()
        _send_signal(pid, signal.SIGCONT)

    return thaw


def _send_signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it may have ended, and been started again, in the meantime
        os.kill(pid, number)
