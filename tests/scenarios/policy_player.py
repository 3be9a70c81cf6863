"""Plays a scenario against Tamiyo: the real service over its database and report log, one packet after another."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from esper.core.clock import ManualClock, timestamp
from esper.core.errors import AccessDenied, AsyncTimeoutError
from esper.core.messages.validation import require_valid
from esper.core.security.keys import Keyring
from esper.core.security.signing import Signer, open_payload
from esper.core.training_metrics import MEASURED
from esper.leyline import (
    AdaptationCommand,
    ApplyPolicyUpdateRequest,
    BlueprintTier,
    CommandOutcome,
    Decision,
    DecisionReason,
    EmergencyLevel,
    EvaluateRequest,
    GateVerdict,
    GrowthTrigger,
    HandlingClass,
    HazardBand,
    IssuedCommand,
    PolicyUpdate,
    RejectionReason,
    RiskEffect,
    RiskReason,
    RunClosure,
    SeedGate,
    SeedOperation,
    SeedStage,
    SlotKind,
    StepSample,
    SubmitOutcomeRequest,
    SystemMode,
    SystemStatePacket,
    TamiyoRunState,
    TamiyoServiceCloseRunRequest,
    TamiyoServiceGetRunStateRequest,
    TamiyoServiceOpenRunRequest,
    TaskType,
    TelemetryPacket,
    TriggerSettings,
)
from esper.nissa.alerts import Alerts
from esper.rpc.reporting.alarm import Alarm
from esper.rpc.server.call import RUN_TOKEN, Call
from esper.tamiyo.config import TamiyoConfig
from esper.tamiyo.field_reports.report_log import ReportLog
from esper.tamiyo.policy import HeuristicPolicy, Proposal, View
from esper.tamiyo.server import TamiyoService
from esper.tamiyo.service.parts import Parts, Surroundings
from esper.urza.catalog import Catalog
from tests.scenarios.reading import Seen, Telling, must_be, must_have_told, told_where
from tests.unit.tamiyo.builders import EVERY_STEPS, life, manifest, packet, seed_state, spec

SECRET = "a secret that is long enough for scenarios 0123456789"
START_STEP = 500
STALLED_S = 0.05
ENUMS: dict[str, Any] = {
    "stage": SeedStage,
    "verdict": GateVerdict,
    "gate": SeedGate,
    "mode": SystemMode,
    "emergency": EmergencyLevel,
    "tier": BlueprintTier,
    "hazard": HazardBand,
    "handling": HandlingClass,
}
PREFIXES = {
    SeedStage: "SEED_STAGE_",
    GateVerdict: "GATE_VERDICT_",
    SeedGate: "SEED_GATE_",
    SystemMode: "SYSTEM_MODE_",
    EmergencyLevel: "EMERGENCY_LEVEL_",
    BlueprintTier: "BLUEPRINT_TIER_",
    HazardBand: "HAZARD_BAND_",
    HandlingClass: "HANDLING_CLASS_",
}


@dataclass(kw_only=True)
class Stage:
    """Some packets, and what must be seen at the last of them."""

    packets: int = 1
    set: dict[str, Any] = field(default_factory=dict)
    """Fields of every packet of the stage, by path."""
    absent: list[str] = field(default_factory=list)
    """Fields that are not there."""
    drift: float = 1.0
    """Factor on the loss from one packet to the next."""
    seeds: list[dict[str, Any]] = field(default_factory=list)
    embargoes: list[dict[str, Any]] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    """Losses of the steps before each packet."""
    fate: str = ""
    """What the trainer reports of the last command first: a rejection, or the stage that its seed has come to."""
    waits_for: str = ""
    """Event of a background duty that must come within seconds."""
    depth: int | None = None
    """Blocks of the stack now."""
    stalls: bool = False
    """Whether the policy thinks for longer than it may."""
    update: dict[str, Any] = field(default_factory=dict)
    """A policy update before the packets: its fields, those of its trigger among them."""
    forged: bool = False
    """Whether somebody with a made-up token asks first."""
    restarts: str = ""
    """Whether another process goes on, and how the one before ended."""
    measured: bool = True
    """Whether anything was measured in time, and of the machine."""

    findings: list[str] = field(default_factory=list)
    """"REASON effect" of each finding on the last packet."""
    reason: str = ""
    """The first reason of the last decision."""
    coverage: float = 1.0
    conservative: bool = False
    events: list[str] = field(default_factory=list)
    alerts: list[str] = field(default_factory=list)
    """Alerts that are raised at the end of the stage."""
    rejection: str = ""
    """Of the update."""


@dataclass(kw_only=True)
class Scene:
    """The run that the packets are of."""

    name: str
    says: str
    then: list[Stage]
    trigger: dict[str, Any] = field(default_factory=dict)
    task: str = "CLASSIFICATION"
    latency_rules: bool = False
    budget: dict[str, Any] = field(default_factory=dict)
    life: dict[str, Any] = field(default_factory=dict)
    generation: int = 1
    has_lost_bus: bool = False
    """Whether closed reports are to be published on a bus that isn't there."""
    start_step: int = START_STEP
    start_loss: float = 0.5
    sheets: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Safety sheets that the catalogue has in place of its own, by blueprint."""
    stack: bool = False
    """Whether the host is a run of blocks."""
    replays: list[str] = field(default_factory=list)
    """Commands that Kasmina delivers again with the first packet."""


class Thinking(HeuristicPolicy):
    """The policy, which can be made to think for long."""

    def __init__(self) -> None:
        self.may_answer = threading.Event()
        self.may_answer.set()

    def propose(self, view: View) -> Proposal:
        assert self.may_answer.wait(10.0)
        return super().propose(view)


def play(scene: Scene, state_dir: Path, seen: Seen) -> None:
    """Go through the stages. Raises AssertionError for whatever isn't as the scenario says."""
    asyncio.run(_Player(scene, state_dir, seen).play())


class _Player:
    def __init__(self, scene: Scene, state_dir: Path, seen: Seen) -> None:
        self._scene, self._seen, self._dir = scene, seen, state_dir
        self._clock = ManualClock()
        self._keyring = Keyring.from_secret(SECRET)
        self._telling = Telling()
        self._policy = Thinking()
        self._alerts = Alerts(self._clock)
        self._raised: set[str] = set()
        self._step, self._loss = scene.start_step, scene.start_loss
        self._decision = Decision()
        self._seed: SeedOperation | None = None
        self._command_id = ""
        self._waited: list[TelemetryPacket] = []
        self._call = Call(method="scenario")

    def _open(self) -> None:
        config = TamiyoConfig(telemetry_every_packets=1, inference_timeout_s=STALLED_S if self._stalls else 5.0)
        around = Surroundings(
            keyring=self._keyring,
            clock=self._clock,
            state_dir=self._dir,
            bus_endpoint=NO_BUS if self._scene.has_lost_bus else None,
            reporter=self._telling,
            alarm=Alarm(None, self._keyring, self._clock, "tamiyo", self._dir / "alarms"),
        )
        self._parts = Parts(config, around)
        catalog = _catalog(self._scene.sheets)
        self._parts.evaluator = replace(self._parts.evaluator, catalog=catalog, policy_of=lambda digest: self._policy)
        self._parts.start()
        self._service = TamiyoService(self._parts)

    @property
    def _stalls(self) -> bool:
        return any(stage.stalls for stage in self._scene.then)

    async def play(self) -> None:
        self._open()
        self._clock.advance(1.0)
        run = self._spec()
        request = TamiyoServiceOpenRunRequest(command=self._sign(run))
        opened = await self._service.open_run(request, self._call)
        self._call = Call(method="scenario", metadata={RUN_TOKEN: opened.run_token})
        self._seen.note(run, opened)
        for number, stage in enumerate(self._scene.then, 1):
            where = f"{self._scene.name}, stage {number}"
            with told_where(where):
                await self._stage(where, stage)
        await self._end()

    async def _stage(self, where: str, stage: Stage) -> None:
        if stage.restarts:
            await self._restart(stage.restarts)
        if stage.forged:
            await self._forge(where)
        if stage.update:
            await self._update(where, stage)
        if stage.fate:
            await self._report(stage.fate)
        if stage.waits_for:
            await self._come(stage.waits_for)
        is_late = False
        for _ in range(stage.packets):
            is_late = await self._packet(stage)
        self._seen.note(*self._parts.reports.of_run(self._scene.name))
        packets = [*self._waited, *self._telling.taken()]
        self._waited = []
        changes = [change for told in packets for change in self._alerts.judge(told)]
        for change in changes:
            if not change.alert.event:  # those clear by time, which these stages don't let pass
                (self._raised.add if change.is_raised else self._raised.discard)(change.alert.rule)
        events = list(self._seen.tell(packets))
        must_have_told(where, events, stage.events)
        must_be(where, "alerts", self._raised, set(stage.alerts))
        must_be(where, "no decision in time", is_late, stage.stalls)
        if stage.packets and not is_late:
            self._compare(where, stage)

    def _compare(self, where: str, stage: Stage) -> None:
        made = self._decision.metadata
        findings = [
            f"{_short(RiskReason, 'RISK_REASON_', found.reason)} {_short(RiskEffect, 'RISK_EFFECT_', found.effect)}"
            for found in made.risk.findings
        ]
        must_be(where, "findings", sorted(findings), sorted(found.upper() for found in stage.findings))
        reason = _short(DecisionReason, "DECISION_REASON_", made.reasons[0])
        must_be(where, f"reason ({made.detail})", reason, stage.reason or reason)
        must_be(where, "coverage", round(made.coverage.average, 2), stage.coverage)
        must_be(where, "conservative mode", self._decision.metadata.conservative, stage.conservative)

    async def _packet(self, stage: Stage) -> bool:
        """One packet; whether no decision came in time."""
        given = self._made(stage)
        self._step += EVERY_STEPS
        self._loss *= stage.drift
        self._clock.advance(0.05)
        request = EvaluateRequest(packet=given)
        require_valid(request)
        self._seen.note(request)
        if stage.stalls:
            self._policy.may_answer.clear()
        try:
            answer = await self._service.evaluate(request, self._call)
        except AsyncTimeoutError:
            return True
        finally:
            self._policy.may_answer.set()
        require_valid(answer)
        self._decision = answer.decision
        self._seen.note(answer)
        for envelope in answer.decision.commands:
            command = open_payload(envelope, AdaptationCommand)
            self._seen.note(command)
            self._seed, self._command_id = command.seed, command.command_id
        return False

    def _made(self, stage: Stage) -> SystemStatePacket:
        given = packet(self._step, self._loss)
        given.training_run_id = self._scene.name
        if self._scene.stack:
            del given.slots[:]
            given.slots.add(slot_id=STACK, width=8, in_features=8, out_features=8, depth=stage.depth or 3)
        given.generation = self._scene.generation
        given.recent_steps.extend(
            StepSample(step=self._step - number, loss=loss) for number, loss in enumerate(reversed(stage.steps))
        )
        for number, seed in enumerate(stage.seeds, 1):
            made = seed_state(f"s{number}")
            for path, value in seed.items():
                _set(made, path, value)
            given.seeds.append(made)
        for closed in stage.embargoes:
            given.growth.embargoes.add(**closed)
        for path, value in stage.set.items():
            _set(given, path, value)
        for path in stage.absent if stage.measured else [*stage.absent, *MEASURED_PATHS]:
            _clear(given, path)
        return given

    def _spec(self) -> Any:
        scene = self._scene
        host = manifest()
        host.task = TaskType.Value(f"TASK_TYPE_{scene.task}")
        if scene.stack:
            del host.slots[1:]
            (slot,) = host.slots
            slot.slot_id, slot.kind, slot.is_foldable = STACK, SlotKind.SLOT_KIND_STACK, False
            slot.depth, slot.block_parameters, slot.block_forward_macs = 3, 100, 80
        wanted = {"trigger": "AUTO", **scene.trigger}
        settings = TriggerSettings(
            **{**wanted, "trigger": GrowthTrigger.Value(f"GROWTH_TRIGGER_{wanted['trigger']}")}  # type: ignore[arg-type]
        )
        made = spec(
            training_run_id=scene.name,
            generation=scene.generation,
            trigger=settings,
            latency_rules=scene.latency_rules,
            kasmina_audience=f"kasmina/{scene.name}",
            manifest=host,
            life=life(**scene.life),
            replay=[IssuedCommand(command_id=i, decision_step=scene.start_step) for i in scene.replays],
        )
        for limit, value in scene.budget.items():
            setattr(made.budget, limit, value)
        return made

    async def _update(self, where: str, stage: Stage) -> None:
        written = dict(stage.update)
        trigger = TriggerSettings(**written.pop("trigger", {}))
        if "weights" in written:
            written["weights"] = written["weights"].encode()
        fields = {"policy_id": "heuristic", "version": "2.0.0", **written}
        update = PolicyUpdate(
            update_id=f"u{self._step}", issued_at=timestamp(self._clock.now_ns()), trigger=trigger, **fields
        )
        request = ApplyPolicyUpdateRequest(command=self._sign(update))
        answer = await self._service.apply_policy_update(request, self._call)
        self._seen.note(update, answer)
        assert answer.accepted == (not stage.rejection), f"{where}: {answer.detail}"
        assert (
            stage.rejection
            in type(answer).DESCRIPTOR.fields_by_name["rejection"].enum_type.values_by_number[answer.rejection].name
        ), where

    async def _forge(self, where: str) -> None:
        request = TamiyoServiceGetRunStateRequest()
        try:
            await self._service.get_run_state(request, Call(method="GetRunState", metadata={RUN_TOKEN: "x" * 43}))
        except AccessDenied:
            return
        raise AssertionError(f"{where}: a made-up token was believed")

    async def _report(self, fate: str) -> None:
        """What became of the last command, as the trainer tells it."""
        assert self._seed is not None
        stage = SeedStage.Value(f"SEED_STAGE_{fate}") if f"SEED_STAGE_{fate}" in STAGES else None
        outcome = CommandOutcome(command_id=self._command_id, accepted=stage is not None, ledger_seq=1)
        outcome.recorded_at.CopyFrom(timestamp(self._clock.now_ns()))
        if stage is None:
            outcome.rejection = RejectionReason.Value(f"REJECTION_REASON_{fate}")
        request = SubmitOutcomeRequest(step=self._step, outcomes=[outcome])
        if stage is not None:
            seed_id, gate = self._seed.seed_id, SeedGate.SEED_GATE_G4_SYSTEM_IMPACT
            judged = {"gain": 0.02, "gain_standard_error": 0.004}
            request.seeds.append(seed_state(seed_id, stage, command_id=self._command_id, **judged))
            verdict = GateVerdict.GATE_VERDICT_PASS
            request.gates.add(
                seed_id=seed_id, gate=gate, verdict=verdict, step=self._step, quantity="z", detail="better"
            )
        require_valid(request)
        self._seen.note(request, await self._service.submit_outcome(request, self._call))

    async def _come(self, name: str) -> None:
        async with asyncio.timeout(20.0):
            while all(event.name != name for packet in self._waited for event in packet.events):
                self._waited += self._telling.taken()
                await asyncio.sleep(0.005)

    async def _restart(self, why: str) -> None:
        """The process ends and another begins over what is left."""
        await self._parts.close()
        log = self._dir / "field_reports.log"
        if why == "after a torn write":
            log.write_bytes(log.read_bytes() + b"\x07\x00")
        else:
            assert why in ("in order", "after weeks"), f"{self._scene.name}: a process doesn't begin {why!r}"
        if why == "after weeks":
            self._clock.advance(3600.0 * TamiyoConfig().report_retention_hours + 1)
        self._open()

    async def _end(self) -> None:
        closure = RunClosure(
            training_run_id=self._scene.name, generation=self._scene.generation, step=self._step, reason="finished"
        )
        state = await self._service.get_run_state(TamiyoServiceGetRunStateRequest(), self._call)
        self._seen.note(state, TamiyoRunState.FromString(state.state.state))
        await self._service.close_run(TamiyoServiceCloseRunRequest(command=self._sign(closure)), self._call)
        reports: ReportLog = self._parts.reports
        self._seen.note(*reports.of_run(self._scene.name))
        list(self._seen.tell(self._telling.taken()))
        await self._parts.close()

    def _sign(self, message: Message) -> Any:
        self._clock.advance(0.001)
        return Signer(self._keyring, self._clock).sign(message, audience=f"tamiyo/{self._scene.name}")


STAGES = frozenset(value.name for value in SeedStage.DESCRIPTOR.values)
NO_BUS = "unix:/nonexistent/bus"
STACK = "stack:blocks"
MEASURED_PATHS = ["hardware", *(f"metrics.{name}" for name in MEASURED)]


def _catalog(sheets: dict[str, dict[str, Any]]) -> Catalog:
    blueprints = Catalog.builtin().all()
    unknown = sheets.keys() - {blueprint.blueprint_id for blueprint in blueprints}
    assert not unknown, f"no blueprint {unknown}"
    for blueprint in blueprints:
        for path, value in sheets.get(blueprint.blueprint_id, {}).items():
            _set(blueprint.safety, path, value)
    return Catalog(blueprints)


def _set(message: Message, path: str, value: Any) -> None:
    owner, name = _owner(message, path)
    kind = ENUMS.get(name)
    setattr(owner, name, kind.Value(PREFIXES[kind] + value) if kind is not None and isinstance(value, str) else value)


def _clear(message: Message, path: str) -> None:
    owner, name = _owner(message, path)
    owner.ClearField(name)


def _owner(message: Any, path: str) -> tuple[Any, str]:
    *steps, name = path.split(".")
    for step in steps:
        message = getattr(message, step)
    return message, name


def _short(kind: Any, prefix: str, number: int) -> str:
    name: str = kind.Name(number)
    return name.removeprefix(prefix)
