"""Keys are rotated under traffic without one rejected command, and a revoked key is refused at once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from esper.cli.main import main
from esper.core.clock import SYSTEM_CLOCK
from esper.core.errors import CommandRejected, InvalidSignature
from esper.core.security.keys import Keyring
from esper.core.security.signing import Signer, Verifier
from esper.leyline import PauseOrder, SignedCommand

AUDIENCE = "kasmina/run-1"
TYPE = PauseOrder.DESCRIPTOR.full_name
ROTATIONS = 20


@pytest.fixture
def keyring(tmp_path: Path) -> Path:
    path = tmp_path / "keyring"
    assert main(["keys", "new", str(path)]) == 0
    return path


def sign(keyring: Path) -> SignedCommand:
    return Signer(Keyring.load(keyring), SYSTEM_CLOCK).sign(PauseOrder(rationale="r"), audience=AUDIENCE)


class Traffic(threading.Thread):
    """A policy that signs and a service that verifies, each with a keyring of its own, until told to stop."""

    def __init__(self, keyring: Path) -> None:
        super().__init__()
        self._signer = Signer(Keyring.load(keyring), SYSTEM_CLOCK)
        self._verifier = Verifier(Keyring.load(keyring), SYSTEM_CLOCK)
        self._is_over = threading.Event()
        self.keys_used: set[str] = set()
        self.rejected: list[CommandRejected] = []
        self.accepted = 0

    def run(self) -> None:
        while not self._is_over.is_set():
            envelope = self._signer.sign(PauseOrder(rationale="r"), audience=AUDIENCE)
            self.keys_used.add(envelope.security.key_id)
            try:
                self._verifier.verify(envelope, audience=AUDIENCE, payload_type=TYPE)
                self.accepted += 1
            except CommandRejected as error:
                self.rejected.append(error)

    def stop(self) -> None:
        self._is_over.set()
        self.join()


def test_a_rotation_under_traffic_rejects_no_command(keyring: Path) -> None:
    traffic = Traffic(keyring)
    traffic.start()
    for _ in range(ROTATIONS):
        assert main(["keys", "rotate", str(keyring)]) == 0
        before = traffic.accepted
        while traffic.accepted < before + 5 and not traffic.rejected:
            pass
    traffic.stop()
    assert traffic.rejected == []
    assert f"k{ROTATIONS + 1}" in traffic.keys_used
    assert traffic.accepted >= 5 * ROTATIONS


def test_a_running_verifier_refuses_a_revoked_key_at_once(keyring: Path) -> None:
    verifier = Verifier(Keyring.load(keyring), SYSTEM_CLOCK)
    signed_before = sign(keyring)
    main(["keys", "rotate", str(keyring)])
    verifier.verify(signed_before, audience=AUDIENCE, payload_type=TYPE)
    main(["keys", "revoke", str(keyring), "k1"])
    with pytest.raises(InvalidSignature):
        verifier.verify(signed_before, audience=AUDIENCE, payload_type=TYPE)
    verifier.verify(sign(keyring), audience=AUDIENCE, payload_type=TYPE)
