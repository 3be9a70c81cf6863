"""Demo faults: each is what it claims to be, comes once, and its refusal reaches the trainer."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from esper.core.clock import SYSTEM_CLOCK
from esper.core.errors import NonceReplayed, ServiceUnavailable
from esper.core.security.keys import Keyring, new_secret
from esper.core.security.signing import Verifier
from esper.leyline import (
    AdaptationCommand,
    ApplyCommandRequest,
    ApplyCommandResponse,
    CommandOutcome,
    RejectionReason,
    SlotSignal,
    SystemStatePacket,
)
from esper.tolaria.plane.faults import FaultInjector
from esper.tolaria.record.history import History
from esper.tolaria.record.observer import Notice
from tests.unit.tolaria.observed import boundary, started
from tests.unit.tolaria.scripted_control import ScriptedControl

SLOTS = [SlotSignal(slot_id="span_linear:fc1-fc2"), SlotSignal(slot_id="span_linear:fc2-fc3")]


class FakeKasmina:
    """Verifies as the real one does, with a nonce ledger in memory."""

    def __init__(self, keyring: Keyring) -> None:
        self._verifier = Verifier(keyring, SYSTEM_CLOCK)
        self._nonces: set[str] = set()
        self.accepted: list[AdaptationCommand] = []
        self.is_away = False

    def apply_command(self, request: ApplyCommandRequest, *, timeout_s: float) -> ApplyCommandResponse:
        if self.is_away:
            raise ServiceUnavailable("tolaria", "service", "kasmina", "connection lost")
        envelope = request.command
        kind = AdaptationCommand.DESCRIPTOR.full_name
        self._verifier.verify(envelope, audience="kasmina/r", payload_type=kind)
        if envelope.security.nonce in self._nonces:
            raise NonceReplayed(RejectionReason.REJECTION_REASON_NONCE_REPLAYED, "its nonce was used before")
        self._nonces.add(envelope.security.nonce)
        command = AdaptationCommand.FromString(envelope.payload)
        self.accepted.append(command)
        return ApplyCommandResponse(outcome=CommandOutcome(command_id=command.command_id, accepted=True))


class Scene:
    """An injector between a fake Kasmina and someone who is told."""

    def __init__(self, pid: int | None = None, freeze_s: float = 0.2) -> None:
        keyring = Keyring.from_secret(new_secret())
        self.kasmina = FakeKasmina(keyring)
        self.told: list[Notice] = []
        self.injector = FaultInjector(
            lambda: self.kasmina,  # type: ignore[arg-type,return-value]
            keyring,
            SYSTEM_CLOCK,
            tamiyo_pid=lambda: pid,
            freeze_s=freeze_s,
            tell=self.told.extend,
        )

    def start(self, step: int = 0) -> None:
        self.injector.on_start(started(step=step, is_resumed=step > 0))

    def cross(self, *steps: int) -> None:
        for step in steps:
            packet = SystemStatePacket(step=step, training_run_id="r", generation=1, slots=SLOTS)
            self.injector.on_boundary(boundary(step, packet=packet))

    def messages(self) -> list[tuple[int, str]]:
        return [(notice.step, notice.message) for notice in self.told]


def named(told: list[Notice], name: str) -> list[Notice]:
    return [notice for notice in told if notice.message.startswith(name)]


@contextmanager
def child() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def state_of(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(") ")[2][0]


def wait_for_state(pid: int, states: str) -> None:
    for _ in range(500):
        if state_of(pid) in states:
            return
        time.sleep(0.01)  # polling another process
    raise AssertionError(f"process is {state_of(pid)}, not one of {states}")


def test_each_fault_comes_once_at_its_share_of_the_run() -> None:
    scene = Scene()
    scene.start()
    scene.cross(*range(5, 1001, 5))
    assert [(step, text.partition(":")[0]) for step, text in scene.messages()] == [
        (10, "forged command"),
        (20, "replayed command"),
        (30, "useless seed"),
        (850, "slow Tamiyo"),
    ]
    assert {(notice.name, notice.level) for notice in scene.told} == {("tolaria.fault_injected", "WARNING")}


def test_a_resumed_run_gets_only_the_faults_that_are_still_to_come() -> None:
    scene = Scene()
    scene.start(step=20)
    scene.cross(30, 40, 850)
    assert [text.partition(":")[0] for _, text in scene.messages()] == ["useless seed", "slow Tamiyo"]


def test_in_a_short_run_they_come_at_one_boundary_in_their_order() -> None:
    scene = Scene()
    scene.start()
    scene.cross(100)
    assert [text.partition(":")[0] for _, text in scene.messages()] == [
        "forged command",
        "replayed command",
        "useless seed",
    ]


def test_the_forged_command_is_refused_for_its_signature_and_never_acts() -> None:
    scene = Scene()
    scene.start()
    scene.cross(10)
    assert scene.kasmina.accepted == []
    assert "refused: the signature doesn't match" in scene.told[0].message


def test_the_replayed_command_is_accepted_once_and_changes_nothing() -> None:
    scene = Scene()
    scene.start()
    scene.cross(10, 20)
    assert [command.command_id for command in scene.kasmina.accepted] == ["demo-replay-g1"]
    assert scene.kasmina.accepted[0].optimizer.learning_rate_factor == 1.0
    assert scene.told[1].message == "replayed command: first: accepted; again: refused: its nonce was used before"


def test_the_useless_seed_is_a_control_in_the_first_open_slot_and_long_enough_in_the_host() -> None:
    scene = Scene()
    scene.start()
    scene.cross(10, 20, 30)
    seed = scene.kasmina.accepted[-1].seed
    assert (seed.seed_id, seed.slot_id, seed.blueprint_id) == (
        "useless",
        "span_linear:fc1-fc2",
        "control.random_frozen",
    )
    assert (seed.blend.alpha_start, seed.blend.alpha_target, seed.blend.schedule_steps) == (0.0, 1.0, 60)


def test_without_an_open_slot_no_seed_is_commanded() -> None:
    scene = Scene()
    scene.start()
    packet = SystemStatePacket(step=30, training_run_id="r", generation=1)
    scene.injector.on_boundary(boundary(30, packet=packet))
    assert named(scene.told, "useless seed")[0].message == "useless seed: no slot is open"


def test_a_kasmina_that_is_away_is_told_and_ends_nothing() -> None:
    scene = Scene()
    scene.kasmina.is_away = True
    scene.start()
    scene.cross(10)
    assert "failed: " in scene.told[0].message
    assert "connection lost" in scene.told[0].message


def test_the_trainer_hears_of_refusals_with_the_next_result_once() -> None:
    scene = Scene()
    inner = ScriptedControl()
    control = scene.injector.around(lambda opening: inner)(None)  # type: ignore[arg-type]
    scene.start()
    scene.cross(10, 20)
    control.hand_over(SystemStatePacket(packet_index=0), boundary(0).collected)
    control.hand_over(SystemStatePacket(packet_index=1), boundary(0).collected)
    history = History()
    history.note(control.take(0))
    assert history.command_counts()["rejected"] == {"invalid_signature": 1, "nonce_replayed": 1}
    assert control.take(1).outcomes == ()
    control.close()
    assert inner.is_closed


def test_tamiyo_stands_still_and_goes_on() -> None:
    with child() as process:
        scene = Scene(pid=process.pid)
        scene.start(step=100)
        scene.cross(850)
        wait_for_state(process.pid, "T")
        wait_for_state(process.pid, "RS")
    assert scene.messages() == [(850, "slow Tamiyo: stopped for 0.2 s")]


def test_a_tamiyo_that_is_gone_or_elsewhere_is_left_alone() -> None:
    with child() as process:
        pass
    for pid, message in ((process.pid, "stopped for"), (None, "Tamiyo was not started by this run")):
        scene = Scene(pid=pid)
        scene.start(step=100)
        scene.cross(850)
        assert message in scene.told[0].message
