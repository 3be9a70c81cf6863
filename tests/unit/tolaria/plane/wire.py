"""Services behind a channel without a network: real clients, real bytes, and answers that a test may spoil."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf.message import Message

from esper.core.clock import timestamp
from esper.core.growth import no_growth
from esper.leyline import (
    AdaptationCommand,
    AdvanceRequest,
    AdvanceResponse,
    ApplyCommandRequest,
    ApplyCommandResponse,
    CommandOutcome,
    ControlRequest,
    ControlResponse,
    CoverageGroup,
    CoverageSummary,
    Decision,
    DecisionMetadata,
    DecisionReason,
    DirectiveKind,
    GateEvidence,
    GateVerdict,
    GetCommandRequest,
    GetCommandResponse,
    HealthStatus,
    KasminaRunState,
    KasminaServiceGetRunStateResponse,
    PolicyMetadata,
    PolicySignal,
    PolicySignalId,
    RunStateBlob,
    SeedDirective,
    SeedGate,
    SeedStage,
    SeedState,
    SignedCommand,
    StageTransition,
    SubmitOutcomeResponse,
    SystemStatePacket,
    TamiyoRunState,
    TamiyoServiceGetRunStateResponse,
)
from esper.rpc.clients import Channel, KasminaClient, TamiyoClient
from esper.rpc.contract import snake_case
from esper.rpc.endpoint import Endpoint

SLOT = "span_linear:fc1-fc2"
Spoil = Callable[[str, Message], bytes]


def whole(method: str, answer: Message) -> bytes:
    """The answer as it is."""
    return answer.SerializeToString()


class Wire:
    """What grpc's own channel does, without a peer: `spoil` makes the bytes of each answer."""

    def __init__(self, service: object, spoil: Spoil) -> None:
        self._service = service
        self.spoil = spoil

    def unary_unary(self, path: str, *, request_serializer: Any, response_deserializer: Any) -> Callable[..., Any]:
        method = snake_case(path.rpartition("/")[2])

        def call(request: Message, *, timeout: float, metadata: object) -> Any:
            answer = getattr(self._service, method)(request)
            return response_deserializer(self.spoil(method, answer))

        return call

    def stream_stream(self, path: str, *, request_serializer: Any, response_deserializer: Any) -> Callable[..., Any]:
        method = snake_case(path.rpartition("/")[2])

        def call(requests: Iterator[Message], *, timeout: float, metadata: object) -> Any:
            answers = getattr(self._service, method)(requests)
            return Answers(response_deserializer(self.spoil(method, answer)) for answer in answers)

        return call


class Answers:
    """A stream's answers; who leaves it cancels it."""

    def __init__(self, answers: Iterator[Any]) -> None:
        self._answers = answers

    def __iter__(self) -> Iterator[Any]:
        return self._answers

    def cancel(self) -> None:
        """Nothing goes on elsewhere."""


def clients(spoil: Spoil) -> tuple[TamiyoClient, KasminaClient]:
    """Clients of a Tamiyo that commands at every second packet and of a Kasmina that obeys."""
    here = Endpoint.parse("unix:/wire")
    channels = [Channel(Wire(service, spoil), here) for service in (Tamiyo(), Kasmina())]  # type: ignore[arg-type]
    return TamiyoClient(channels[0], token="T"), KasminaClient(channels[1], token="K")


def decision(packet: SystemStatePacket) -> Decision:
    """A decision with everything that it must have."""
    ids = [f"run-g1-c{packet.packet_index}"] if packet.packet_index % 2 else []
    policy = PolicyMetadata(
        policy_id="heuristic",
        version="1",
        action="wait",
        log_probability=0.0,
        observation_digest="0" * 64,
        signals=[PolicySignal(id=PolicySignalId.POLICY_SIGNAL_ID_SMOOTHED_LOSS, value=1.0)],
    )
    coverage = CoverageSummary(
        average=1.0, provenance="packet:v1", groups=[CoverageGroup(group="loss", present=1, expected=1)]
    )
    reasons = [DecisionReason.DECISION_REASON_STILL_IMPROVING]
    metadata = DecisionMetadata(policy=policy, coverage=coverage, reasons=reasons, conservative=False)
    return Decision(
        packet_index=packet.packet_index,
        generation=packet.generation,
        commands=[_signed(command_id, packet) for command_id in ids],
        command_ids=ids,
        metadata=metadata,
        latency_ms=1.0,
    )


def _signed(command_id: str, packet: SystemStatePacket) -> SignedCommand:
    payload = AdaptationCommand(command_id=command_id).SerializeToString()
    kind = AdaptationCommand.DESCRIPTOR.full_name
    envelope = SignedCommand(payload=payload, payload_type=kind, audience=f"kasmina/{packet.training_run_id}")
    envelope.security.signature, envelope.security.nonce = "0" * 64, "n" * 22
    envelope.security.key_id, envelope.security.algorithm = "k1", "hmac-sha256"
    envelope.security.issued_at.seconds, envelope.security.freshness_window.seconds = 1, 60
    return envelope


class Tamiyo:
    """Waits, and at every second packet has a command."""

    def control(self, requests: Iterator[ControlRequest]) -> Iterator[ControlResponse]:
        for request in requests:
            yield ControlResponse(decision=decision(request.packet))

    def submit_outcome(self, request: Message) -> SubmitOutcomeResponse:
        return SubmitOutcomeResponse(closed_report_ids=["fr-1"])

    def get_run_state(self, request: Message) -> TamiyoServiceGetRunStateResponse:
        return TamiyoServiceGetRunStateResponse(state=state_blob("tamiyo"))


class Kasmina:
    """Accepts everything, orders nothing that would change a network, and tells of one culled seed."""

    def apply_command(self, request: ApplyCommandRequest) -> ApplyCommandResponse:
        command_id = AdaptationCommand.FromString(request.command.payload).command_id
        return ApplyCommandResponse(outcome=_outcome(command_id))

    def get_command(self, request: GetCommandRequest) -> GetCommandResponse:
        return GetCommandResponse(found=True, outcome=_outcome(request.command_id))

    def advance(self, request: AdvanceRequest) -> AdvanceResponse:
        gate = GateEvidence(
            seed_id="s1",
            gate=SeedGate.SEED_GATE_G3_INTERFACE,
            verdict=GateVerdict.GATE_VERDICT_WAIT,
            step=request.step,
            quantity="gain, loss",
            detail="not yet",
        )
        return AdvanceResponse(
            generation=request.generation,
            step=request.step,
            growth=no_growth(),
            seeds=[_seed()],
            gates=[gate],
            directives=[_directive("d0")],
            outcomes=[_outcome("op-1")],
        )

    def get_run_state(self, request: Message) -> KasminaServiceGetRunStateResponse:
        return KasminaServiceGetRunStateResponse(state=state_blob("kasmina"))


def state_blob(service: str) -> RunStateBlob:
    """A whole state of a service."""
    state, kind = b"\x08\x01", {"tamiyo": TamiyoRunState, "kasmina": KasminaRunState}[service]
    digest = hashlib.sha256(state).hexdigest()
    return RunStateBlob(state_type=kind.DESCRIPTOR.full_name, state=state, digest=digest, step=10)


def _seed() -> SeedState:
    return SeedState(
        seed_id="s1",
        stage=SeedStage.SEED_STAGE_DORMANT,
        slot_id=SLOT,
        blueprint_id="span.linear",
        alpha=0.0,
        age_steps=1,
        health=HealthStatus.HEALTH_STATUS_HEALTHY,
        stage_step=1,
        command_id="run-g1-c0",
    )


def _directive(directive_id: str) -> SeedDirective:
    kind = DirectiveKind.DIRECTIVE_KIND_REMOVE
    return SeedDirective(directive_id=directive_id, seed_id="s1", kind=kind, command_id="c")


def _outcome(command_id: str) -> CommandOutcome:
    transition = StageTransition(
        seed_id="s1",
        from_stage=SeedStage.SEED_STAGE_RESETTING,
        to_stage=SeedStage.SEED_STAGE_DORMANT,
        step=10,
        command_id=command_id,
        reason="nothing is left of it",
    )
    return CommandOutcome(
        command_id=command_id,
        accepted=True,
        ledger_seq=1,
        recorded_at=timestamp(10**18),
        directives=[_directive(f"d-{command_id}")],
        transitions=[transition],
        issued_by="tamiyo",
        verify_latency_ms=0.5,
    )
