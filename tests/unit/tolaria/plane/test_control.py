"""The control worker over fake services that answer, refuse, hang up or keep silent on demand."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from esper.core.errors import AsyncTimeoutError, NonceReplayed, ServiceUnavailable
from esper.kasmina.executor import Collected
from esper.leyline import (
    AdvanceRequest,
    AdvanceResponse,
    ApplyCommandRequest,
    ApplyCommandResponse,
    CommandOutcome,
    ControlRequest,
    ControlResponse,
    Decision,
    DirectiveKind,
    DirectiveReport,
    GetCommandRequest,
    GetCommandResponse,
    GrowthState,
    KasminaServiceGetRunStateResponse,
    RejectionReason,
    RunStateBlob,
    SeedDirective,
    SeedObservation,
    SignedCommand,
    SubmitOutcomeRequest,
    SubmitOutcomeResponse,
    SystemStatePacket,
    TamiyoServiceGetRunStateResponse,
)
from esper.tolaria.plane.control import ControlConfig, ServiceControl
from esper.tolaria.plane.decision_stream import DecisionStream
from esper.tolaria.record.packet_result import PacketResult


class FakeTamiyo:
    """Commands what the test scheduled per packet."""

    def __init__(self) -> None:
        self.commands: dict[int, list[str]] = {}
        self.seen: list[int] = []
        self.submitted: list[SubmitOutcomeRequest] = []
        self.broken_packets: set[int] = set()
        self.may_answer = threading.Event()
        self.may_answer.set()

    def control(self, requests: Iterator[ControlRequest], *, timeout_s: float) -> Iterator[ControlResponse]:
        for request in requests:
            index = request.packet.packet_index
            self.may_answer.wait(10)
            if index in self.broken_packets:
                raise ServiceUnavailable("tolaria", "service", "tamiyo", "connection lost")
            self.seen.append(index)
            ids = self.commands.get(index, [])
            commands = [SignedCommand(payload=command_id.encode()) for command_id in ids]
            yield ControlResponse(decision=Decision(packet_index=index, commands=commands, command_ids=ids))

    def submit_outcome(self, request: SubmitOutcomeRequest, *, timeout_s: float) -> SubmitOutcomeResponse:
        self.submitted.append(request)
        return SubmitOutcomeResponse()

    def get_run_state(self, request: object, *, timeout_s: float) -> TamiyoServiceGetRunStateResponse:
        return TamiyoServiceGetRunStateResponse(state=RunStateBlob(state_type="tamiyo"))


class FakeKasmina:
    """Accepts every command with one directive; can lose answers."""

    def __init__(self) -> None:
        self.recorded: dict[str, CommandOutcome] = {}
        self.advanced: list[AdvanceRequest] = []
        self.lose_answers = 0
        self.lose_requests = 0
        self.refuse_as_replay = False
        self.advance_fails = 0

    def apply_command(self, request: ApplyCommandRequest, *, timeout_s: float) -> ApplyCommandResponse:
        command_id = request.command.payload.decode()
        if self.refuse_as_replay:
            raise NonceReplayed(RejectionReason.REJECTION_REASON_NONCE_REPLAYED, "used before", command_id)
        if self.lose_requests:
            self.lose_requests -= 1
            raise ServiceUnavailable("tolaria", "service", "kasmina", "connection lost")
        directive = SeedDirective(directive_id=f"d-{command_id}", kind=DirectiveKind.DIRECTIVE_KIND_BUILD)
        outcome = CommandOutcome(command_id=command_id, accepted=True, directives=[directive])
        self.recorded[command_id] = outcome
        if self.lose_answers:
            self.lose_answers -= 1
            raise AsyncTimeoutError("ApplyCommand", timeout_s)
        return ApplyCommandResponse(outcome=outcome)

    def get_command(self, request: GetCommandRequest, *, timeout_s: float) -> GetCommandResponse:
        outcome = self.recorded.get(request.command_id)
        return GetCommandResponse(found=outcome is not None, outcome=outcome)

    def advance(self, request: AdvanceRequest, *, timeout_s: float) -> AdvanceResponse:
        if self.advance_fails:
            self.advance_fails -= 1
            raise ServiceUnavailable("tolaria", "service", "kasmina", "connection lost")
        self.advanced.append(request)
        return AdvanceResponse(generation=request.generation, step=request.step, growth=GrowthState(germinated=1))

    def get_run_state(self, request: object, *, timeout_s: float) -> KasminaServiceGetRunStateResponse:
        return KasminaServiceGetRunStateResponse(state=RunStateBlob(state_type="kasmina"))


NOTHING = Collected(observations=(), reports=(), slots=())


def packet(index: int, *, is_epoch_end: bool = False) -> SystemStatePacket:
    return SystemStatePacket(packet_index=index, step=10 * index, generation=1, is_epoch_end=is_epoch_end)


@pytest.fixture
def tamiyo() -> FakeTamiyo:
    return FakeTamiyo()


@pytest.fixture
def kasmina() -> FakeKasmina:
    return FakeKasmina()


@pytest.fixture
def control(tamiyo: FakeTamiyo, kasmina: FakeKasmina) -> Iterator[ServiceControl]:
    control = ServiceControl(tamiyo, kasmina, ControlConfig(deadline_s=10.0))  # type: ignore[arg-type]
    yield control
    tamiyo.may_answer.set()
    control.close()


def run(control: ServiceControl, index: int, collected: Collected = NOTHING) -> PacketResult:
    control.hand_over(packet(index), collected)
    return control.take(index)


def directive_ids(result: PacketResult) -> list[str]:
    return [directive.directive_id for directive in result.directives]


def test_a_command_s_directives_come_with_the_packet_that_caused_it(
    control: ServiceControl, tamiyo: FakeTamiyo
) -> None:
    tamiyo.commands[1] = ["c1"]
    assert directive_ids(run(control, 0)) == []
    assert directive_ids(run(control, 1)) == ["d-c1"]
    assert [outcome.command_id for outcome in tamiyo.submitted[-1].outcomes] == ["c1"]


def test_a_lost_answer_is_settled_and_executed_exactly_once(
    control: ServiceControl, tamiyo: FakeTamiyo, kasmina: FakeKasmina
) -> None:
    tamiyo.commands[1] = ["c1"]
    kasmina.lose_answers = 1
    first = run(control, 1)
    assert first.failure is not None
    assert first.cause == "timeout"
    assert directive_ids(first) == []
    assert directive_ids(run(control, 2)) == ["d-c1"]
    assert directive_ids(run(control, 3)) == []


def test_a_command_that_never_arrived_is_relayed_again(
    control: ServiceControl, tamiyo: FakeTamiyo, kasmina: FakeKasmina
) -> None:
    tamiyo.commands[1] = ["c1"]
    kasmina.lose_requests = 1
    assert directive_ids(run(control, 1)) == []
    assert directive_ids(run(control, 2)) == ["d-c1"]


def test_a_refused_command_is_an_outcome_with_its_reason(
    control: ServiceControl, tamiyo: FakeTamiyo, kasmina: FakeKasmina
) -> None:
    tamiyo.commands[1] = ["c1"]
    kasmina.refuse_as_replay = True
    result = run(control, 1)
    assert result.failure is None
    assert result.outcomes[0].rejection == RejectionReason.REJECTION_REASON_NONCE_REPLAYED
    assert tamiyo.submitted[-1].outcomes[0].command_id == "c1"


def test_evidence_survives_a_failed_advance(control: ServiceControl, kasmina: FakeKasmina) -> None:
    kasmina.advance_fails = 1
    report = DirectiveReport(directive_id="d1", succeeded=True)
    seen = SeedObservation(seed_id="s1", isolation_violations=2, is_schedule_done=True)
    assert run(control, 1, Collected(observations=(seen,), reports=(report,), slots=())).failure is not None
    again = SeedObservation(seed_id="s1", isolation_violations=1, alpha=0.5)
    assert run(control, 2, Collected(observations=(again,), reports=(), slots=())).failure is None
    sent = kasmina.advanced[-1]
    assert [r.directive_id for r in sent.reports] == ["d1"]
    assert sent.observations[0].isolation_violations == 3
    assert sent.observations[0].alpha == 0.5
    run(control, 5)
    assert not kasmina.advanced[-1].reports


def test_kasmina_advances_every_fifth_packet_and_at_epoch_ends(control: ServiceControl, kasmina: FakeKasmina) -> None:
    for index in range(1, 7):
        run(control, index)
    control.hand_over(packet(7, is_epoch_end=True), NOTHING)
    control.take(7)
    assert [request.step for request in kasmina.advanced] == [50, 70]


def test_a_replay_is_fetched_where_no_gate_is_due(tamiyo: FakeTamiyo, kasmina: FakeKasmina) -> None:
    control = ServiceControl(tamiyo, kasmina, ControlConfig(), replay_until_step=30)  # type: ignore[arg-type]
    seen = SeedObservation(seed_id="s1", alpha=0.5)
    run(control, 1, Collected(observations=(seen,), reports=(), slots=()))
    assert run(control, 3).growth is None
    for index in (4, 5):
        run(control, index)
    control.close()
    asked = kasmina.advanced
    assert [(request.step, request.delivery_only) for request in asked] == [(10, True), (30, True), (50, False)]
    assert [len(request.observations) for request in asked] == [0, 0, 1]
    assert [request.last_answered_step for request in asked[1:]] == [10, 30]


def test_a_broken_stream_is_a_failure_at_once_and_opens_again(control: ServiceControl, tamiyo: FakeTamiyo) -> None:
    tamiyo.broken_packets = {1}
    assert run(control, 1).cause == "tamiyo_unavailable"
    assert run(control, 2).failure is None
    assert tamiyo.seen == [2]


def test_a_late_answer_is_executed_at_the_next_boundary(tamiyo: FakeTamiyo, kasmina: FakeKasmina) -> None:
    control = ServiceControl(tamiyo, kasmina, ControlConfig(deadline_s=0.2))  # type: ignore[arg-type]
    tamiyo.commands[1] = ["c1"]
    tamiyo.may_answer.clear()
    missed = run(control, 1)
    assert missed.cause == "timeout"
    assert missed.directives == ()
    tamiyo.may_answer.set()
    control.hand_over(packet(2), NOTHING)
    late = control.take(2)
    while "d-c1" not in directive_ids(late) and late.cause == "timeout":  # a loaded machine may need another wait
        control.hand_over(packet(late.packet_index + 1), NOTHING)
        late = control.take(late.packet_index + 1)
    assert directive_ids(late) == ["d-c1"]
    control.close()


def test_states_are_those_after_the_packet(control: ServiceControl) -> None:
    control.hand_over(packet(3), NOTHING, want_state=True)
    states = control.take(3).states
    assert states is not None
    assert (states.kasmina.state_type, states.tamiyo.state_type) == ("kasmina", "tamiyo")


def test_a_state_that_cannot_be_had_is_a_failure_of_its_service(control: ServiceControl, kasmina: FakeKasmina) -> None:
    def lost(request: object, *, timeout_s: float) -> object:
        raise ServiceUnavailable("rpc", "service", "kasmina", "it is away")

    kasmina.get_run_state = lost  # type: ignore[method-assign,assignment]
    control.hand_over(packet(3), NOTHING, want_state=True)
    result = control.take(3)
    assert (result.states, result.cause) == (None, "kasmina_unavailable")
    assert "kasmina" in str(result.reason)


def test_a_result_survives_the_checkpoint(control: ServiceControl, tamiyo: FakeTamiyo) -> None:
    tamiyo.commands[5] = ["c1"]
    result = run(control, 5)
    assert PacketResult.from_bytes(result.to_bytes()) == result


def test_a_stream_is_renewed_before_its_deadline_ends_it(tamiyo: FakeTamiyo) -> None:
    opened: list[float] = []

    class Counting(FakeTamiyo):
        def control(self, requests: Iterator[ControlRequest], *, timeout_s: float) -> Iterator[ControlResponse]:
            opened.append(timeout_s)
            return super().control(requests, timeout_s=timeout_s)

    old = DecisionStream(Counting(), lifetime_s=0.0)  # type: ignore[arg-type]
    for index in range(3):
        assert old.ask(packet(index)).packet_index == index
    assert len(opened) == 3
    young = DecisionStream(Counting(), lifetime_s=3600.0)  # type: ignore[arg-type]
    for index in range(3):
        assert young.ask(packet(index)).packet_index == index
    assert len(opened) == 4
