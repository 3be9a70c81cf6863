"""Tamiyo over a unix socket, in its own process and in this one."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from esper.core.clock import SYSTEM_CLOCK
from esper.core.errors import (
    AccessDenied,
    CommandRejected,
    ContractError,
    DependencyViolationError,
    EsperError,
    LifecycleConflict,
)
from esper.core.process.child import child_command
from esper.core.security.keys import Keyring
from esper.core.security.signing import Signer, Verifier, open_payload
from esper.leyline import (
    AdaptationCommand,
    ApplyPolicyUpdateRequest,
    BusLane,
    ConsumeRequest,
    ControlRequest,
    Decision,
    EvaluateRequest,
    FieldReport,
    FieldReportOutcome,
    FlushHistoryRequest,
    HealthStatus,
    ListFieldReportsRequest,
    PolicyUpdate,
    PolicyUpdateRejection,
    RejectionReason,
    RunClosure,
    SeedStage,
    SubmitOutcomeRequest,
    TamiyoRunSpec,
    TamiyoServiceCloseRunRequest,
    TamiyoServiceGetRunStateRequest,
    TamiyoServiceGetStatusRequest,
    TamiyoServiceOpenRunRequest,
    TriggerSettings,
    WeatherlightServiceGetStatusRequest,
)
from esper.oona.envelope import check
from esper.rpc.auth import service_metadata
from esper.rpc.clients import BusClient, TamiyoClient, WeatherlightClient, channel
from esper.rpc.clients.health import wait_serving
from tests.unit.tamiyo.builders import ALWAYS, RUN, packet, seed_state, spec

SECRET = "integration secret of tamiyo 0123456789 abcdefgh"
T = 10.0


class Process:
    """One life of a service's process."""

    def __init__(self, directory: Path, *arguments: str, name: str = "tamiyo") -> None:
        self.endpoint = f"unix:{directory / name}.sock"
        self.process = subprocess.Popen(
            [
                *child_command(f"esper.{name}.server"),
                *("--listen", self.endpoint, "--state-dir", str(directory / "state")),
                *arguments,
            ],
            env={**os.environ, "ESPER_LEYLINE_SECRET": SECRET},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout is not None
        assert "listens on" in self.process.stdout.readline()
        self.channel = channel(self.endpoint)
        wait_serving(self.channel, "", timeout_s=T)

    def client(self, token: str | None = None) -> TamiyoClient:
        return TamiyoClient(self.channel, token=token)

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.channel.close()
        self.process.send_signal(how)
        code = self.process.wait(T)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Process]:
    started = Process(tmp_path)
    yield started
    if started.process.poll() is None:
        started.end()


def signer() -> Signer:
    return Signer(Keyring.from_secret(SECRET), SYSTEM_CLOCK)


def open_request(run_spec: TamiyoRunSpec | None = None) -> TamiyoServiceOpenRunRequest:
    return TamiyoServiceOpenRunRequest(command=signer().sign(run_spec or spec(ALWAYS), audience=f"tamiyo/{RUN}"))


def opened(service: Process, run_spec: TamiyoRunSpec | None = None) -> TamiyoClient:
    return service.client(service.client().open_run(open_request(run_spec), timeout_s=T).run_token)


def decisions(client: TamiyoClient, steps: range) -> list[Decision]:
    requests = (ControlRequest(packet=packet(step)) for step in steps)
    return [response.decision for response in client.control(requests, timeout_s=T)]


def kept_at(step: int) -> SubmitOutcomeRequest:
    return SubmitOutcomeRequest(step=step, seeds=[seed_state("s1", SeedStage.SEED_STAGE_FOSSILIZED)])


def test_the_state_that_comes_with_a_decision_is_the_one_that_is_asked_for_after_its_outcomes(service: Process) -> None:
    client = opened(service)
    requests = (ControlRequest(packet=packet(step), want_state=step == 220) for step in range(10, 230, 10))
    answers = list(client.control(requests, timeout_s=T))
    assert [answer.HasField("state") for answer in answers] == [False] * 21 + [True]
    client.submit_outcome(kept_at(220), timeout_s=T)
    assert answers[-1].state == client.get_run_state(TamiyoServiceGetRunStateRequest(), timeout_s=T).state


def test_the_control_stream_answers_every_packet_in_order_and_signs_for_kasmina(service: Process) -> None:
    answers = decisions(opened(service), range(10, 400, 10))
    assert [answer.packet_index for answer in answers] == list(range(1, 40))
    (decided,) = [answer for answer in answers if answer.commands]
    verifier = Verifier(Keyring.from_secret(SECRET), SYSTEM_CLOCK)
    envelope = decided.commands[0]
    verifier.verify(envelope, audience=f"kasmina/{RUN}", payload_type=AdaptationCommand.DESCRIPTOR.full_name)
    command = open_payload(envelope, AdaptationCommand)
    assert command.step == 210
    assert command.command_id == f"{RUN}-g1-c1"


def test_two_services_decide_alike_bit_for_bit(tmp_path: Path) -> None:
    def history(name: str) -> list[bytes]:
        directory = tmp_path / name
        directory.mkdir()
        service = Process(directory)
        answers = decisions(opened(service), range(10, 600, 10))
        service.end()
        return [
            a.metadata.SerializeToString(deterministic=True) + b"".join(e.payload for e in a.commands) for a in answers
        ]

    assert history("a") == history("b")


def test_kill_9_loses_no_acknowledged_outcome_and_the_run_goes_on_with_its_token(tmp_path: Path) -> None:
    first = Process(tmp_path)
    token = first.client().open_run(open_request(), timeout_s=T).run_token
    decisions(first.client(token), range(10, 300, 10))
    closed = first.client(token).submit_outcome(kept_at(300), timeout_s=T).closed_report_ids
    assert first.end(signal.SIGKILL) == -signal.SIGKILL
    second = Process(tmp_path)
    client = second.client(token)
    (report,) = client.list_field_reports(ListFieldReportsRequest(), timeout_s=T).reports
    assert [report.report_id] == list(closed)
    assert report.outcome == FieldReportOutcome.FIELD_REPORT_OUTCOME_SUCCESS
    (answer,) = decisions(client, range(310, 320, 10))
    assert answer.packet_index == 31
    status = client.get_status(TamiyoServiceGetStatusRequest(), timeout_s=T)
    assert (status.open_runs, status.reports, status.log_repaired) == (1, 1, False)
    assert second.end() == 0


def test_a_checkpoint_opens_the_next_generation_where_it_was_taken(service: Process) -> None:
    client = opened(service)
    decisions(client, range(10, 110, 10))
    state = client.get_run_state(TamiyoServiceGetRunStateRequest(), timeout_s=T).state
    rest = [a.metadata for a in decisions(client, range(110, 210, 10))]
    resumed = opened(service, spec(ALWAYS, generation=2, resume=state))
    requests = (ControlRequest(packet=packet(step, generation=2)) for step in range(110, 210, 10))
    assert [r.decision.metadata for r in resumed.control(requests, timeout_s=T)] == rest
    with pytest.raises(AccessDenied):
        client.evaluate(EvaluateRequest(packet=packet(210)), timeout_s=T)


def test_a_replayed_unsigned_or_foreign_request_is_refused_counted_and_changes_nothing(service: Process) -> None:
    once = open_request()
    client = service.client()
    token = client.open_run(once, timeout_s=T).run_token
    with pytest.raises(CommandRejected) as replayed:
        client.open_run(once, timeout_s=T)
    assert replayed.value.reason == RejectionReason.REJECTION_REASON_NONCE_REPLAYED
    unsigned = open_request()
    unsigned.command.ClearField("security")
    with pytest.raises(CommandRejected):
        client.open_run(unsigned, timeout_s=T)
    with pytest.raises(AccessDenied):
        service.client("x" * 43).evaluate(EvaluateRequest(packet=packet(10)), timeout_s=T)
    with pytest.raises(AccessDenied):
        list(service.client().control(iter([ControlRequest(packet=packet(10))]), timeout_s=T))
    status = client.get_status(TamiyoServiceGetStatusRequest(), timeout_s=T)
    assert (status.rejected, status.open_runs) == (4, 1)
    assert decisions(service.client(token), range(10, 20, 10))[0].packet_index == 1


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"trigger": TriggerSettings(trigger=ALWAYS, blueprint_ids=["span.round"])}, DependencyViolationError),
        ({"trigger": TriggerSettings(trigger=ALWAYS, slope_threshold=-1.0)}, EsperError),
        ({"training_run_id": "another"}, CommandRejected),
    ],
)
def test_a_run_that_cannot_be_opened_says_why(service: Process, change: dict[str, object], error: type) -> None:
    with pytest.raises(error) as caught:
        service.client().open_run(open_request(spec(ALWAYS, **change)), timeout_s=T)
    assert any(word in str(caught.value) for word in ("span.round", "slope_threshold", "another"))


def test_a_packet_that_is_incomplete_or_out_of_order_is_refused(service: Process) -> None:
    client = opened(service)
    client.evaluate(EvaluateRequest(packet=packet(100)), timeout_s=T)
    incomplete = packet(110)
    incomplete.ClearField("growth")
    with pytest.raises(ContractError, match="growth"):
        client.evaluate(EvaluateRequest(packet=incomplete), timeout_s=T)
    with pytest.raises(ContractError, match="growth"):
        list(client.control(iter([ControlRequest(packet=incomplete)]), timeout_s=T))
    with pytest.raises(LifecycleConflict):
        client.evaluate(EvaluateRequest(packet=packet(90)), timeout_s=T)


def test_thresholds_can_be_replaced_while_a_run_goes_on(service: Process) -> None:
    client = opened(service)

    def applied(update_id: str, version: str):  # type: ignore[no-untyped-def]
        update = PolicyUpdate(
            update_id=update_id,
            policy_id="heuristic",
            version=version,
            issued_at={"seconds": 1_760_000_000},
            trigger=TriggerSettings(warmup_steps=50),
        )
        request = ApplyPolicyUpdateRequest(command=signer().sign(update, audience=f"tamiyo/{RUN}"))
        return client.apply_policy_update(request, timeout_s=T)

    stale = applied("u1", "0.5.0")
    assert (stale.accepted, stale.policy_version) == (False, "1.0.0")
    assert stale.rejection == PolicyUpdateRejection.POLICY_UPDATE_REJECTION_STALE_VERSION
    assert applied("u2", "1.1.0").accepted
    answers = decisions(client, range(10, 100, 10))
    assert [a.packet_index for a in answers if a.commands] == [5]
    assert answers[0].metadata.policy.version == "1.1.0"


def test_reports_are_listed_page_by_page_and_closed_with_the_run(service: Process) -> None:
    client = opened(service)
    decisions(client, range(10, 300, 10))
    flushed = client.flush_history(FlushHistoryRequest(), timeout_s=T)
    assert (flushed.reports, flushed.open) == (1, 1)
    page = client.list_field_reports(ListFieldReportsRequest(page_size=1), timeout_s=T)
    assert len(page.reports) == 1
    assert page.next_page_token == ""
    with pytest.raises(ContractError, match="page_token"):
        client.list_field_reports(ListFieldReportsRequest(page_token="fr-unknown"), timeout_s=T)
    closure = RunClosure(training_run_id=RUN, generation=1, step=300, reason="finished")
    request = TamiyoServiceCloseRunRequest(command=signer().sign(closure, audience=f"tamiyo/{RUN}"))
    assert client.close_run(request, timeout_s=T).reports == 1
    with pytest.raises(AccessDenied):
        client.get_run_state(TamiyoServiceGetRunStateRequest(), timeout_s=T)
    status = client.get_status(TamiyoServiceGetStatusRequest(), timeout_s=T)
    assert (status.open_runs, status.health) == (0, HealthStatus.HEALTH_STATUS_HEALTHY)


def test_closed_reports_reach_the_bus_also_when_it_comes_up_late(tmp_path: Path) -> None:
    late = f"unix:{tmp_path / 'weatherlight'}.sock"
    service = Process(tmp_path, "--weatherlight", late)
    client = opened(service)
    decisions(client, range(10, 300, 10))
    closed = list(client.submit_outcome(kept_at(300), timeout_s=T).closed_report_ids)
    weatherlight = Process(tmp_path, name="weatherlight")
    bus = BusClient(weatherlight.channel, metadata=service_metadata(Keyring.from_secret(SECRET), "simic"))
    lanes = [BusLane.BUS_LANE_NORMAL]
    requests: queue.SimpleQueue[ConsumeRequest | None] = queue.SimpleQueue()
    requests.put(ConsumeRequest(group="simic", consumer="test", lanes=lanes))
    envelope = next(bus.consume(iter(requests.get, None), timeout_s=30.0)).envelope
    check(Keyring.from_secret(SECRET), envelope, SYSTEM_CLOCK.now_ns())
    assert (envelope.event_id, envelope.source) == (closed[0], "tamiyo")
    assert (
        FieldReport.FromString(envelope.payload)
        == client.list_field_reports(ListFieldReportsRequest(), timeout_s=T).reports[0]
    )
    requests.put(None)
    weatherlight.end()
    service.end()


def test_without_a_secret_the_service_does_not_start_and_says_so_in_one_line(tmp_path: Path) -> None:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("ESPER_")}
    command = [sys.executable, "-m", "esper.tamiyo.server", "--listen", f"unix:{tmp_path / 't.sock'}"]
    done = subprocess.run(
        [*command, "--state-dir", str(tmp_path)], env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 78
    assert len(done.stderr.strip().splitlines()) == 1
    assert "ESPER_LEYLINE_SECRET" in done.stderr


HELD = """
import sys
from esper.leyline import ControlRequest
from esper.rpc.clients import TamiyoClient, channel
from tests.unit.tamiyo.builders import packet

def packets():
    yield ControlRequest(packet=packet(10, loss=0.5))
    yield ControlRequest(packet=packet(20, loss=2.0))
    sys.stdin.read()

with channel(sys.argv[1]) as link:
    for answer in TamiyoClient(link, token=sys.argv[2]).control(packets(), timeout_s=600):
        print(answer.decision.metadata.conservative, flush=True)
"""


def test_a_conservative_run_that_was_killed_holds_the_plane_for_a_while_that_is_told(tmp_path: Path) -> None:
    supervisor = Process(tmp_path, name="weatherlight")
    service = Process(tmp_path, "--weatherlight", supervisor.endpoint)
    token = service.client().open_run(open_request(), timeout_s=T).run_token
    held = [sys.executable, "-c", HELD, service.endpoint, token]
    trainer = subprocess.Popen(held, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert trainer.stdout is not None
    assert [trainer.stdout.readline(), trainer.stdout.readline()] == ["False\n", "True\n"]
    weatherlight = WeatherlightClient(
        supervisor.channel, metadata=service_metadata(Keyring.from_secret(SECRET), "operator")
    )

    def told(word: str) -> str:
        """The plane's cause, once it has a word."""
        for _ in range(600):
            cause = weatherlight.get_status(WeatherlightServiceGetStatusRequest(), timeout_s=T).mode.cause
            if word in cause:
                return cause
            time.sleep(0.1)
        raise AssertionError(cause)

    assert told("conservative") == f"tamiyo is unwell: conservative about {RUN} (loss_spike)"
    trainer.kill()
    trainer.communicate()
    assert "its trainer has left without closing it; counts until 20" in told("counts until")
    service.end()
    supervisor.end()
