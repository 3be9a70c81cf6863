"""The control worker over fake services that answer, refuse, hang up or keep silent on demand."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Generator, Iterator

import pytest
from google.protobuf.message import Message

from esper.core.errors import AsyncTimeoutError, NonceReplayed, ServiceUnavailable
from esper.kasmina.executor import Collected
from esper.leyline import (
    AdaptationCommand,
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
    Embargo,
    GetCommandRequest,
    GetCommandResponse,
    GrowthState,
    KasminaRunState,
    KasminaServiceGetRunStateResponse,
    RejectionReason,
    ReplayedCommand,
    RunStateBlob,
    SeedDirective,
    SeedObservation,
    SignedCommand,
    SubmitOutcomeRequest,
    SubmitOutcomeResponse,
    SystemStatePacket,
    TamiyoRunState,
    TamiyoServiceGetRunStateResponse,
)
from esper.rpc.clients import Responses
from esper.tolaria.plane.answer_rules import RunFacts
from esper.tolaria.plane.calls.breaker import CLOSED, OPEN, BreakerConfig
from esper.tolaria.plane.calls.decision_stream import DecisionStream
from esper.tolaria.plane.control import ControlConfig, ServiceControl
from esper.tolaria.record.packet_result import PacketResult


def signed(command: AdaptationCommand) -> SignedCommand:
    return SignedCommand(payload=command.SerializeToString(), audience="kasmina/r")


def command(command_id: str) -> SignedCommand:
    payload = AdaptationCommand(command_id=command_id).SerializeToString()
    return SignedCommand(payload=payload, payload_type=AdaptationCommand.DESCRIPTOR.full_name, audience="kasmina/run")


def blob(message: type[Message]) -> RunStateBlob:
    """An empty state of a service."""
    digest = hashlib.sha256(b"").hexdigest()
    return RunStateBlob(state_type=message.DESCRIPTOR.full_name, state=b"", digest=digest, step=0)


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
            commands = [command(command_id) for command_id in ids]
            yield ControlResponse(
                decision=Decision(packet_index=index, generation=1, commands=commands, command_ids=ids)
            )

    def submit_outcome(self, request: SubmitOutcomeRequest, *, timeout_s: float) -> SubmitOutcomeResponse:
        self.submitted.append(request)
        return SubmitOutcomeResponse()

    def get_run_state(self, request: object, *, timeout_s: float) -> TamiyoServiceGetRunStateResponse:
        return TamiyoServiceGetRunStateResponse(state=blob(TamiyoRunState))


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
        command_id = AdaptationCommand.FromString(request.command.payload).command_id
        if self.refuse_as_replay:
            raise NonceReplayed(RejectionReason.REJECTION_REASON_NONCE_REPLAYED, "used before", command_id)
        if self.lose_requests:
            self.lose_requests -= 1
            raise ServiceUnavailable("tolaria", "service", "kasmina", "connection lost")
        directive = SeedDirective(
            directive_id=f"d-{command_id}", kind=DirectiveKind.DIRECTIVE_KIND_BUILD, seed_id="s1", slot_id=SLOT
        )
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
        return KasminaServiceGetRunStateResponse(state=blob(KasminaRunState))


SLOT = "span_linear:fc1-fc2"
NOTHING = Collected(observations=(), reports=(), slots=())


def packet(index: int, *, is_epoch_end: bool = False) -> SystemStatePacket:
    return SystemStatePacket(
        training_run_id="run", packet_index=index, step=10 * index, generation=1, is_epoch_end=is_epoch_end
    )


def facts() -> RunFacts:
    return RunFacts(slots=frozenset({SLOT}))


@pytest.fixture
def tamiyo() -> FakeTamiyo:
    return FakeTamiyo()


@pytest.fixture
def kasmina() -> FakeKasmina:
    return FakeKasmina()


@pytest.fixture
def control(tamiyo: FakeTamiyo, kasmina: FakeKasmina) -> Iterator[ServiceControl]:
    control = ServiceControl(tamiyo, kasmina, ControlConfig(deadline_s=10.0), facts=facts(), sign=signed)  # type: ignore[arg-type]
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
    assert first.cause == "kasmina_timeout"
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


def end_epoch(control: ServiceControl, index: int, collected: Collected = NOTHING, **growth: object) -> None:
    ending = packet(index, is_epoch_end=True)
    ending.growth.MergeFrom(GrowthState(**growth))
    control.hand_over(ending, collected)
    control.take(index)


def test_kasmina_advances_every_fifth_packet_and_at_epoch_ends_while_a_seed_lives(
    control: ServiceControl, kasmina: FakeKasmina
) -> None:
    for index in range(1, 7):
        run(control, index)
    end_epoch(control, 7, Collected(observations=(SeedObservation(seed_id="s1", alpha=0.5),)))
    assert [request.step for request in kasmina.advanced] == [50, 70]


def test_an_epoch_s_end_without_a_seed_waits_for_the_fifth_packet(
    control: ServiceControl, kasmina: FakeKasmina
) -> None:
    for index in range(1, 5):
        end_epoch(control, index)
    assert not kasmina.advanced
    run(control, 5)
    assert [request.step for request in kasmina.advanced] == [50]


def test_a_closed_slot_and_a_new_command_are_looked_after_at_an_epoch_s_end(
    control: ServiceControl, tamiyo: FakeTamiyo, kasmina: FakeKasmina
) -> None:
    end_epoch(control, 1, embargoes=[Embargo(slot_id=SLOT, until_step=30)])
    tamiyo.commands[2] = ["c1"]
    end_epoch(control, 2)
    tamiyo.commands[3] = ["c2"]
    kasmina.lose_answers = 1
    end_epoch(control, 3)
    assert [request.step for request in kasmina.advanced] == [10, 20, 30]


def test_the_last_packet_brings_all_that_waits(control: ServiceControl, kasmina: FakeKasmina) -> None:
    control.hand_over(packet(1), NOTHING, is_last=True)
    control.take(1)
    assert [request.step for request in kasmina.advanced] == [10]


def test_a_replay_is_fetched_where_no_gate_is_due(tamiyo: FakeTamiyo, kasmina: FakeKasmina) -> None:
    control = ServiceControl(
        tamiyo,
        kasmina,
        ControlConfig(),
        facts=facts(),
        replay=[ReplayedCommand(command_id="c", decision_step=30, delivery_step=30, issued_by="tamiyo")],
        sign=signed,
    )  # type: ignore[arg-type]
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
    control = ServiceControl(tamiyo, kasmina, ControlConfig(deadline_s=0.2), facts=facts(), sign=signed)  # type: ignore[arg-type]
    tamiyo.commands[1] = ["c1"]
    tamiyo.may_answer.clear()
    missed = run(control, 1)
    assert missed.cause == "tamiyo_timeout"
    assert missed.directives == ()
    tamiyo.may_answer.set()
    control.hand_over(packet(2), NOTHING)
    late = control.take(2)
    while "d-c1" not in directive_ids(late) and late.is_timeout:  # a loaded machine may need another wait
        control.hand_over(packet(late.packet_index + 1), NOTHING)
        late = control.take(late.packet_index + 1)
    assert directive_ids(late) == ["d-c1"]
    control.close()


class Forgetful(FakeTamiyo):
    """Never answers one packet, and says nothing more on that stream until it is cancelled."""

    forgotten = 1

    def control(self, requests: Iterator[ControlRequest], *, timeout_s: float) -> Iterator[ControlResponse]:
        cancelled = threading.Event()

        def answers() -> Generator[ControlResponse, None, None]:
            for response in FakeTamiyo.control(self, requests, timeout_s=timeout_s):
                if response.decision.packet_index == self.forgotten:
                    cancelled.wait()
                    raise ServiceUnavailable("rpc", "service", "tamiyo", "CANCELLED")
                yield response

        return Responses(answers(), cancelled.set)


def test_an_answer_that_never_comes_does_not_cost_every_later_packet_its_deadline(kasmina: FakeKasmina) -> None:
    config = ControlConfig(deadline_s=0.2, breaker=BreakerConfig(misses_to_open=2, open_s=0.01))
    control = ServiceControl(Forgetful(), kasmina, config, facts=facts(), sign=signed)  # type: ignore[arg-type]
    assert [run(control, index).cause for index in (1, 2)] == ["tamiyo_timeout"] * 2
    index = 3
    while run(control, index).failure and index < 50_000:  # until the trial after the breaker's time
        index += 1
    assert run(control, index + 1).failure is None
    control.close()


class Hanging(FakeTamiyo):
    """Answers no packet until it is told to; a call ends when it is cut."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []
        self.hangs = True

    def control(self, requests: Iterator[ControlRequest], *, timeout_s: float) -> Iterator[ControlResponse]:
        cancelled = threading.Event()

        def answers() -> Generator[ControlResponse, None, None]:
            for request in requests:
                self.asked.append(request.packet.packet_index)
                if self.hangs:
                    cancelled.wait()
                    raise ServiceUnavailable("rpc", "service", "tamiyo", "CANCELLED")
                yield ControlResponse(decision=Decision(packet_index=request.packet.packet_index, generation=1))

        return Responses(answers(), cancelled.set)


def patient_with(tamiyo: Hanging, kasmina: FakeKasmina, told: list[str], *, open_s: float) -> ServiceControl:
    """Asks until two deadlines in a row were missed; the names of events go to `told`."""
    return ServiceControl(
        tamiyo,  # type: ignore[arg-type]
        kasmina,  # type: ignore[arg-type]
        ControlConfig(deadline_s=0.1, breaker=BreakerConfig(misses_to_open=2, open_s=open_s)),
        facts=facts(),
        sign=signed,
        tell=lambda name, message: told.append(name),
    )


def test_a_tamiyo_that_hangs_at_every_packet_costs_a_few_their_deadline_and_is_tried_again(
    kasmina: FakeKasmina,
) -> None:
    tamiyo, told = Hanging(), list[str]()
    control = patient_with(tamiyo, kasmina, told, open_s=3600.0)
    assert [run(control, index).cause for index in (1, 2)] == ["tamiyo_timeout"] * 2
    spared = [run(control, index) for index in range(3, 40)]
    assert {result.cause for result in spared} == {"tamiyo_unavailable"}
    assert tamiyo.asked == [1]
    assert told == ["tolaria.breaker_opened"]
    assert kasmina.advanced, "Kasmina goes on being asked"
    calls = spared[-1].calls
    assert calls is not None
    assert (calls.breakers["tamiyo"], calls.breakers["kasmina"]) == (OPEN, CLOSED)
    assert calls.last_ms["tamiyo"] == 0.0
    assert calls.worker["submitted"] == 39
    control.close()


def test_a_trial_that_is_answered_closes_the_breaker_and_one_that_hangs_opens_it_again(kasmina: FakeKasmina) -> None:
    tamiyo, told = Hanging(), list[str]()
    control = patient_with(tamiyo, kasmina, told, open_s=0.0)
    index = 1
    while told.count("tolaria.breaker_opened") < 2:
        run(control, index)
        index += 1
    tamiyo.hangs = False
    while run(control, index).failure is not None:
        index += 1
    assert told[-1] == "tolaria.breaker_closed"
    result = run(control, index + 1)
    assert result.failure is None
    assert result.calls is not None
    assert result.calls.breakers["tamiyo"] == CLOSED
    assert result.calls.last_ms["tamiyo"] > 0.0
    control.close()


def test_closing_cuts_a_call_that_hangs(kasmina: FakeKasmina) -> None:
    tamiyo = Hanging()
    control = ServiceControl(tamiyo, kasmina, ControlConfig(rpc_timeout_s=3600.0), facts=facts(), sign=signed)  # type: ignore[arg-type]
    control.hand_over(packet(1), NOTHING)
    while not tamiyo.asked:
        pass
    control.close()
    assert control.take(1).cause == "tamiyo_unavailable"


@pytest.mark.parametrize("is_damaged", [False, True])
def test_tamiyos_state_comes_with_its_decision_and_only_a_whole_one_counts(
    control: ServiceControl, tamiyo: FakeTamiyo, *, is_damaged: bool
) -> None:
    asked: list[ControlRequest] = []
    given = blob(TamiyoRunState)
    given.step = 70
    given.state += b"damaged" * is_damaged

    def answered(requests: Iterator[ControlRequest], *, timeout_s: float) -> Iterator[ControlResponse]:
        for request in requests:
            asked.append(request)
            decision = Decision(packet_index=request.packet.packet_index, generation=1)
            yield ControlResponse(decision=decision, state=given if request.want_state else None)

    def unasked(request: object, *, timeout_s: float) -> TamiyoServiceGetRunStateResponse:
        raise AssertionError("it was asked for what came with the decision")

    tamiyo.control = answered  # type: ignore[method-assign]
    tamiyo.get_run_state = unasked  # type: ignore[method-assign]
    control.hand_over(packet(3), NOTHING)
    assert control.take(3).states is None
    control.hand_over(packet(4), NOTHING, want_state=True)
    result = control.take(4)
    assert [request.want_state for request in asked] == [False, True]
    assert result.decision is not None
    if is_damaged:
        assert result.states is None
        assert result.failure is not None
        assert "the digest doesn't match the state" in result.failure
    else:
        assert result.states is not None
        assert result.states.tamiyo.step == 70


def test_states_are_those_after_the_packet(control: ServiceControl) -> None:
    control.hand_over(packet(3), NOTHING, want_state=True)
    states = control.take(3).states
    assert states is not None
    assert states.kasmina.state_type.endswith("KasminaRunState")
    assert states.tamiyo.state_type.endswith("TamiyoRunState")


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
        assert old.ask(packet(index))[0].packet_index == index
    assert len(opened) == 3
    young = DecisionStream(Counting(), lifetime_s=3600.0)  # type: ignore[arg-type]
    for index in range(3):
        assert young.ask(packet(index))[0].packet_index == index
    assert len(opened) == 4


def test_a_decision_whose_ids_and_commands_differ_in_number_is_refused_and_the_next_packet_is_answered(
    control: ServiceControl, tamiyo: FakeTamiyo, kasmina: FakeKasmina
) -> None:
    whole = tamiyo.control

    def torn(requests: Iterator[ControlRequest], *, timeout_s: float) -> Iterator[ControlResponse]:
        for response in whole(requests, timeout_s=timeout_s):
            if response.decision.packet_index == 1:
                del response.decision.commands[:]
            yield response

    tamiyo.control = torn  # type: ignore[method-assign]
    tamiyo.commands = {1: ["c1"], 2: ["c2"]}
    result = run(control, 1)
    assert (result.cause, result.reason) == ("tamiyo_invalid", "tamiyo gave an answer that can't be used")
    assert "it names 1 commands and holds 0" in str(result.failure)
    assert kasmina.recorded == {}
    assert directive_ids(run(control, 2)) == ["d-c2"]


def test_an_outcome_of_another_command_is_settled_by_asking_for_the_right_one(
    control: ServiceControl, tamiyo: FakeTamiyo, kasmina: FakeKasmina
) -> None:
    whole = kasmina.apply_command

    def confused(request: ApplyCommandRequest, *, timeout_s: float) -> ApplyCommandResponse:
        whole(request, timeout_s=timeout_s)
        return ApplyCommandResponse(outcome=CommandOutcome(command_id="another", accepted=True))

    kasmina.apply_command = confused  # type: ignore[method-assign]
    tamiyo.commands[1] = ["c1"]
    first = run(control, 1)
    assert (first.cause, first.directives, first.outcomes) == ("kasmina_invalid", (), ())
    assert directive_ids(run(control, 2)) == ["d-c1"]


def test_evidence_survives_an_answer_that_is_refused(control: ServiceControl, kasmina: FakeKasmina) -> None:
    whole = kasmina.advance

    def foreign(request: AdvanceRequest, *, timeout_s: float) -> AdvanceResponse:
        response = whole(request, timeout_s=timeout_s)
        response.directives.add(directive_id="d1", kind=DirectiveKind.DIRECTIVE_KIND_INSTALL_TWIN, seed_id="stranger")
        return response

    kasmina.advance = foreign  # type: ignore[method-assign]
    report = DirectiveReport(directive_id="d1", succeeded=True)
    result = run(control, 5, Collected(observations=(), reports=(report,), slots=()))
    assert result.cause == "kasmina_invalid"
    assert "seed 'stranger'" in str(result.failure)
    assert (result.directives, result.seeds) == ((), None)
    kasmina.advance = whole  # type: ignore[method-assign]
    assert run(control, 6).failure is None
    assert [r.directive_id for r in kasmina.advanced[-1].reports] == ["d1"]
    assert not kasmina.advanced[-1].HasField("last_answered_step")


def test_an_error_that_nobody_foresaw_is_that_packets_failure_and_no_others(
    control: ServiceControl, tamiyo: FakeTamiyo, kasmina: FakeKasmina
) -> None:
    whole = kasmina.advance

    def broken(request: AdvanceRequest, *, timeout_s: float) -> AdvanceResponse:
        raise TypeError("nobody foresaw it")

    kasmina.advance = broken  # type: ignore[method-assign]
    tamiyo.commands[5] = ["c1"]
    result = run(control, 5)
    assert result.reason == "the control worker broke off"
    assert "unexpected TypeError: nobody foresaw it" in str(result.failure)
    assert directive_ids(result) == ["d-c1"], "what was done before the error counts"
    kasmina.advance = whole  # type: ignore[method-assign]
    assert run(control, 6).failure is None


def test_a_worker_that_is_gone_is_told_at_once(tamiyo: FakeTamiyo, kasmina: FakeKasmina) -> None:
    control = ServiceControl(tamiyo, kasmina, ControlConfig(deadline_s=3600.0), facts=facts(), sign=signed)  # type: ignore[arg-type]
    control.close()
    control.hand_over(packet(1), NOTHING)
    assert "the control worker has ended" in str(control.take(1).failure)
