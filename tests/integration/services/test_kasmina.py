"""Kasmina as a process on a unix socket: what it believes, what it refuses, what survives kill -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from esper.core.clock import SYSTEM_CLOCK, ManualClock
from esper.core.errors import AccessDenied, AsyncTimeoutError, CommandRejected, EsperError, ServiceUnavailable
from esper.core.security.keys import Keyring
from esper.core.security.signing import Signer, signature_of
from esper.leyline import (
    AdaptationCommand,
    AdvanceRequest,
    ApplyCommandRequest,
    CommandOutcome,
    FetchArtifactRequest,
    GetCommandRequest,
    KasminaRunSpec,
    KasminaServiceCloseRunRequest,
    KasminaServiceGetRunStateRequest,
    KasminaServiceGetStatusRequest,
    KasminaServiceOpenRunRequest,
    ListSeedsRequest,
    PauseOrder,
    RejectionReason,
    RunClosure,
    SeedStage,
    SignedCommand,
)
from esper.rpc.clients import KasminaClient, channel
from esper.rpc.clients.health import wait_serving
from tests.unit.kasmina.control.making import CATALOG, RUN, command, germinate, kinds, refusal_of, request, spec

SECRET = "integration secret of kasmina 0123456789 abcdefgh"
AUDIENCE = f"kasmina/{RUN}"
OPERATOR = "operator:ada"
NS_PER_S = 1_000_000_000
T = 10.0


class Kasmina:
    """A state directory, and the process that serves it now."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.endpoint = f"unix:{directory / 'k.sock'}"
        self.keyring = Keyring.from_secret(SECRET)
        self.token: str | None = None
        self.start()

    def start(self) -> None:
        self.process = launched(self.directory, "--listen", self.endpoint)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert "listens on" in line, line + self.process.stdout.read()
        self.channel = channel(self.endpoint)
        wait_serving(self.channel, "KasminaService", timeout_s=T)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.channel.close()
        self.process.send_signal(how)
        code = self.process.wait(T)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def crash(self) -> None:
        """kill -9, and a new process on the same state."""
        self.stop(signal.SIGKILL)
        self.start()

    @property
    def client(self) -> KasminaClient:
        return KasminaClient(self.channel, token=self.token)

    def sign(
        self,
        message: AdaptationCommand | KasminaRunSpec | RunClosure,
        *,
        audience: str = AUDIENCE,
        ahead_s: float = 0.0,
    ) -> SignedCommand:
        clock = ManualClock(now_ns=SYSTEM_CLOCK.now_ns() + round(ahead_s * NS_PER_S))
        return Signer(self.keyring, clock).sign(message, audience=audience)

    def resigned(self, envelope: SignedCommand) -> SignedCommand:
        """The envelope with a right signature over what it holds now."""
        key = self.keyring.key("k1", SYSTEM_CLOCK.now_ns())
        assert key is not None
        envelope.security.signature = signature_of(key, envelope)
        return envelope

    def open(self, run: KasminaRunSpec) -> list[str]:
        opened = self.client.open_run(KasminaServiceOpenRunRequest(command=self.sign(run)), timeout_s=T)
        self.token = opened.run_token
        return [row.command_id for row in opened.replay]

    def send(self, envelope: SignedCommand) -> CommandOutcome:
        return self.client.apply_command(ApplyCommandRequest(command=envelope), timeout_s=T).outcome

    def outcome_of(self, command_id: str) -> CommandOutcome | None:
        found = self.client.get_command(GetCommandRequest(command_id=command_id), timeout_s=T)
        return found.outcome if found.found else None

    def seeds(self) -> list[tuple[str, int]]:
        seeds = self.client.list_seeds(ListSeedsRequest(), timeout_s=T).seeds
        return [(record.state.seed_id, record.state.stage) for record in seeds]


def launched(directory: Path, *arguments: str, secret: str | None = SECRET) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != "ESPER_LEYLINE_SECRET"}
    return subprocess.Popen(
        [sys.executable, "-m", "esper.kasmina.server", "--state-dir", str(directory / "state"), *arguments],
        env={**environment, **({"ESPER_LEYLINE_SECRET": secret} if secret else {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture
def kasmina(tmp_path: Path) -> Iterator[Kasmina]:
    service = Kasmina(tmp_path)
    yield service
    if service.process.poll() is None:
        assert service.stop() == 0


def paused(command_id: str) -> AdaptationCommand:
    return command(command_id, issued_by=OPERATOR, pause=PauseOrder(rationale="look"))


def unsigned(service: Kasmina) -> SignedCommand:
    envelope = service.sign(germinate())
    envelope.ClearField("security")
    return envelope


def forged(service: Kasmina) -> SignedCommand:
    stranger = Signer(Keyring.from_secret("another secret altogether 0123456789 zyxwvu"), SYSTEM_CLOCK)
    return stranger.sign(germinate(), audience=AUDIENCE)


def with_an_unknown_key(service: Kasmina) -> SignedCommand:
    envelope = service.sign(germinate())
    envelope.security.key_id = "k9"
    return envelope


def tampered(service: Kasmina) -> SignedCommand:
    envelope = service.sign(germinate())
    envelope.payload = germinate(step=101).SerializeToString()
    return envelope


def without_a_time(service: Kasmina) -> SignedCommand:
    envelope = service.sign(germinate())
    envelope.security.ClearField("issued_at")
    return service.resigned(envelope)


def with_an_unknown_field(service: Kasmina) -> SignedCommand:
    envelope = service.sign(germinate())
    envelope.payload += b"\xf2\x3f\x01x"  # field 1022, one byte
    return service.resigned(envelope)


def without_an_id(service: Kasmina) -> SignedCommand:
    return service.sign(germinate(command_id=""))


def as_another_message(service: Kasmina) -> SignedCommand:
    return service.sign(RunClosure(training_run_id=RUN, generation=0, step=1, reason="finished"))


def too_large(service: Kasmina) -> SignedCommand:
    return service.sign(command("big", issued_by=OPERATOR, pause=PauseOrder(rationale="x" * 300_000)))


REFUSED: dict[str, Callable[[Kasmina], SignedCommand]] = {
    "MISSING_SIGNATURE": unsigned,
    "INVALID_SIGNATURE": forged,
    "MISSING_TIMESTAMP": without_a_time,
    "STALE_COMMAND": lambda service: service.sign(germinate(), ahead_s=-100),
    "ISSUED_IN_FUTURE": lambda service: service.sign(germinate(), ahead_s=60),
    "WRONG_AUDIENCE": lambda service: service.sign(germinate(), audience="tamiyo/run-1"),
    "WRONG_PAYLOAD_TYPE": as_another_message,
    "MALFORMED_PAYLOAD": lambda service: service.sign(command()),
    "UNKNOWN_FIELD": with_an_unknown_field,
    "MISSING_COMMAND_ID": without_an_id,
    "TOO_LARGE": too_large,
}


def test_what_cannot_be_believed_is_refused_with_its_reason_and_a_good_command_acts(kasmina: Kasmina) -> None:
    kasmina.open(spec())
    for reason, make in REFUSED.items():
        with pytest.raises(CommandRejected) as caught:
            kasmina.send(make(kasmina))
        assert RejectionReason.Name(caught.value.reason) == f"REJECTION_REASON_{reason}"
    assert kasmina.seeds() == []
    outcome = kasmina.send(kasmina.sign(germinate()))
    assert outcome.accepted
    assert kinds(outcome.directives) == ["SNAPSHOT_TWIN", "BUILD", "ATTACH"]
    status = kasmina.client.get_status(KasminaServiceGetStatusRequest(), timeout_s=T)
    assert sum(row.count for row in status.rejected) == len(REFUSED)
    used = {"UNKNOWN_FIELD", "MALFORMED_PAYLOAD", "MISSING_COMMAND_ID", "the opening", "the good command"}
    assert status.nonces == len(used)


def test_to_a_stranger_an_unknown_key_a_wrong_secret_and_a_changed_payload_look_alike(kasmina: Kasmina) -> None:
    kasmina.open(spec())
    said = set()
    for make in (forged, with_an_unknown_key, tampered):
        with pytest.raises(CommandRejected) as caught:
            kasmina.send(make(kasmina))
        said.add((type(caught.value), caught.value.reason, str(caught.value)))
    assert len(said) == 1


def test_a_command_of_another_run_or_generation_does_not_act(kasmina: Kasmina) -> None:
    kasmina.open(spec())
    elsewhere = germinate()
    elsewhere.training_run_id = "run-2"
    with pytest.raises(CommandRejected):
        kasmina.send(kasmina.sign(elsewhere))
    assert refusal_of(kasmina.send(kasmina.sign(elsewhere, audience="kasmina/run-2"))) == "WRONG_RUN"
    assert refusal_of(kasmina.send(kasmina.sign(germinate(generation=4)))) == "WRONG_GENERATION"
    assert kasmina.seeds() == []


def test_kill_9_keeps_nonces_registry_tokens_and_outcomes(kasmina: Kasmina) -> None:
    kasmina.open(spec())
    envelope = kasmina.sign(germinate())
    outcome = kasmina.send(envelope)
    before = kasmina.client.get_run_state(KasminaServiceGetRunStateRequest(), timeout_s=T).state
    kasmina.crash()
    with pytest.raises(CommandRejected) as caught:
        kasmina.send(envelope)
    assert caught.value.reason == RejectionReason.REJECTION_REASON_NONCE_REPLAYED
    assert kasmina.seeds() == [("s1", SeedStage.SEED_STAGE_GERMINATED)]
    assert kasmina.client.get_run_state(KasminaServiceGetRunStateRequest(), timeout_s=T).state == before
    settled = kasmina.outcome_of("g-s1")
    assert settled is not None
    assert settled.directives == outcome.directives
    retried = kasmina.send(kasmina.sign(germinate()))
    assert retried.repeated_id
    assert retried.directives == outcome.directives


def test_no_acknowledged_command_is_lost_to_kill_9_and_unknown_ones_are_settled(kasmina: Kasmina) -> None:
    kasmina.open(spec())
    acknowledged: list[CommandOutcome] = []
    unknown: list[str] = []
    for life in range(3):
        waiting = [kasmina.client.apply_command] * 20
        for number, send in enumerate(waiting):
            command_id = f"p-{life}-{number}"
            if number == 12:
                kasmina.process.send_signal(signal.SIGKILL)
            try:
                envelope = kasmina.sign(paused(command_id))
                acknowledged.append(send(ApplyCommandRequest(command=envelope), timeout_s=1.0).outcome)
            except (ServiceUnavailable, AsyncTimeoutError):
                unknown.append(command_id)
                break
        kasmina.process.wait(T)
        assert kasmina.process.stdout is not None
        kasmina.process.stdout.close()
        kasmina.channel.close()
        kasmina.start()
    assert len(acknowledged) >= 36
    for outcome in acknowledged:
        settled = kasmina.outcome_of(outcome.command_id)
        assert settled is not None
        assert settled.ledger_seq == outcome.ledger_seq
    for command_id in unknown:
        assert kasmina.send(kasmina.sign(paused(command_id))).accepted


def test_after_a_resume_the_same_directives_are_delivered_once(kasmina: Kasmina) -> None:
    kasmina.open(spec())
    checkpoint = kasmina.client.get_run_state(KasminaServiceGetRunStateRequest(), timeout_s=T).state
    recorded = kasmina.send(kasmina.sign(germinate()))
    kasmina.crash()
    assert kasmina.open(spec(1, resume=checkpoint)) == ["g-s1"]
    kasmina.crash()
    delivered = [o for step in (90, 100, 110) for o in advanced(kasmina, request(step, 1)).outcomes]
    assert [o.command_id for o in delivered] == ["g-s1"]
    assert delivered[0].directives == recorded.directives
    kasmina.crash()
    assert not advanced(kasmina, request(120, 1)).outcomes


def advanced(kasmina: Kasmina, asked: AdvanceRequest):  # type: ignore[no-untyped-def]
    return kasmina.client.advance(asked, timeout_s=T)


def test_a_run_without_its_token_is_closed_to_strangers(kasmina: Kasmina) -> None:
    kasmina.open(spec())
    stranger = KasminaClient(kasmina.channel, token="x" * 43)
    for call in (
        lambda: stranger.list_seeds(ListSeedsRequest(), timeout_s=T),
        lambda: stranger.advance(request(10), timeout_s=T),
        lambda: list(stranger.fetch_artifact(FetchArtifactRequest(digest="0" * 64), timeout_s=T)),
    ):
        with pytest.raises(AccessDenied):
            call()
    digest = CATALOG.get("span.linear").artifact.digest
    content = b"".join(r.chunk for r in kasmina.client.fetch_artifact(FetchArtifactRequest(digest=digest), timeout_s=T))
    assert len(content) == CATALOG.get("span.linear").artifact.size_bytes
    closure = kasmina.sign(RunClosure(training_run_id=RUN, generation=0, step=5, reason="finished"))
    kasmina.client.close_run(KasminaServiceCloseRunRequest(command=closure), timeout_s=T)
    with pytest.raises(EsperError, match="closed"):
        kasmina.seeds()


@pytest.mark.parametrize(
    ("arguments", "secret", "code", "said"),
    [
        (("--listen", "unix:k.sock"), None, 78, "ESPER_LEYLINE_SECRET"),
        (("--listen", "nowhere"), SECRET, 78, "listen"),
        (("--lisen", "unix:k.sock"), SECRET, 64, "--listen"),
        (("--listen", "unix:k.sock", "--config", "kasmina.toml"), SECRET, 78, "max_nonces"),
    ],
)
def test_bad_settings_end_the_process_with_one_line_and_its_code(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    secret: str | None,
    code: int,
    said: str,
) -> None:
    (tmp_path / "kasmina.toml").write_text("[kasmina]\nmax_nonce = 10\n")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    monkeypatch.chdir(tmp_path)
    process = launched(tmp_path, *arguments, secret=secret)
    output, _ = process.communicate(timeout=T)
    assert process.returncode == code
    assert said in output
    assert len(output.strip().splitlines()) == 1


def test_a_state_directory_serves_one_process_only(kasmina: Kasmina) -> None:
    second = launched(kasmina.directory, "--listen", f"unix:{kasmina.directory / 'second.sock'}")
    output, _ = second.communicate(timeout=T)
    assert second.returncode == 78
    assert "in use by another process" in output
