"""A whole plane on ports of its own, under orders, faults, restarts and clock jumps: nothing is lost, done twice,
or moved where it may not.

Weatherlight, Tamiyo and Kasmina serve over TCP in a loop of this process and share a clock that the test owns. Around
them stand a trainer whose executor does what it is told, a policy's relay, operators, and somebody who listens.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from esper.core.clock import ManualClock, timestamp
from esper.core.errors import CommandRejected, EsperError, LifecycleConflict
from esper.core.messages.validation import violations
from esper.core.security.keys import Keyring
from esper.core.security.signing import Signer
from esper.kasmina.control.stages.lifecycle import NEXT
from esper.kasmina.server import KasminaConfig
from esper.kasmina.server import build_service as build_kasmina
from esper.leyline import (
    AcknowledgeEmergencyRequest,
    AdaptationCommand,
    AdvanceResponse,
    ApplyCommandRequest,
    CommandOutcome,
    Decision,
    DirectiveKind,
    EmergencyAcknowledgement,
    EmergencyLevel,
    EmergencySignal,
    EvaluateRequest,
    GetCommandRequest,
    GrowthState,
    GrowthTrigger,
    HealthStatus,
    KasminaRunSpec,
    KasminaRunState,
    KasminaServiceGetRunStateRequest,
    KasminaServiceOpenRunRequest,
    ListFieldReportsRequest,
    ListSeedsRequest,
    ModeUpdate,
    PauseOrder,
    RaiseEmergencyRequest,
    ResumeOrder,
    SeedRecord,
    SeedStage,
    SignedCommand,
    SlotKind,
    SlotSignal,
    SubmitOutcomeRequest,
    SystemMode,
    SystemStatePacket,
    TamiyoRunSpec,
    TamiyoServiceOpenRunRequest,
    TelemetryPacket,
    TriggerSettings,
    WeatherlightServiceGetStatusRequest,
)
from esper.rpc.auth import service_metadata
from esper.rpc.clients import Channel, KasminaClient, TamiyoClient, WeatherlightClient, channel
from esper.rpc.process import ServiceContext
from esper.rpc.reporting.alarm import Alarm
from esper.rpc.server.server import Server, ServerConfig, start
from esper.tamiyo.config import TamiyoConfig
from esper.tamiyo.server import build as build_tamiyo
from esper.weatherlight.config import WeatherlightConfig
from esper.weatherlight.server import build as build_weatherlight
from tests.scenarios.reading import MEMORY
from tests.unit.kasmina.control.fake_executor import FakeExecutor
from tests.unit.kasmina.control.making import RUN, command, fresh_state, on_seed, stack_run
from tests.unit.kasmina.control.seen_stages import Stages
from tests.unit.tamiyo.builders import packet as tamiyo_packet

T = TypeVar("T")
SECRET = "a secret that is long enough for machines 0123456789"
OPERATOR = "operator:ada"
TIMEOUT_S = 20.0
EVERY_STEPS = 10
WHICH = st.integers(0, 20)
"""Of what is there: what is drawn must not depend on it, because what is there depends on time."""


def _picked(which: int, there: list[T]) -> T:
    return there[which % len(there)]


class Heard:
    """A reporter that knows the plane's mode and sends nothing."""

    dropped = 0

    def __init__(self) -> None:
        self.plane = ModeUpdate(mode=SystemMode.SYSTEM_MODE_NORMAL)

    def send(self, packet: TelemetryPacket) -> None:
        return

    def report_health(self, health: HealthStatus, summary: str = "", run: str | None = None) -> None:
        return

    def close(self, timeout_s: float) -> None:
        return


class Plane:
    """The services; each may end and begin again over its own directory, on another port."""

    BUILDERS: ClassVar[dict[str, tuple[Any, Any]]] = {
        "weatherlight": (build_weatherlight, WeatherlightConfig()),
        "tamiyo": (build_tamiyo, TamiyoConfig()),
        "kasmina": (build_kasmina, KasminaConfig()),
    }

    def __init__(self, folder: Path) -> None:
        self.clock, self.keyring, self.heard = ManualClock(), Keyring.from_secret(SECRET), Heard()
        self.signer = Signer(self.keyring, self.clock)
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._servers: dict[str, tuple[Server, Any]] = {}
        self._channels: dict[str, Channel] = {}
        for name in self.BUILDERS:
            self.begin(name)
        self.clock.advance(1.0)

    def begin(self, name: str) -> None:
        self._servers[name] = self._do(self._serve(name))
        self._channels[name] = channel(str(self._servers[name][0].endpoint))

    def end(self, name: str) -> None:
        """As a kill would, but for what the service had stored."""
        self._channels.pop(name).close()
        server, servicers = self._servers.pop(name)
        self._do(self._stop(server, servicers))

    def close(self) -> None:
        for name in list(self._servers):
            self.end(name)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TIMEOUT_S)
        self._loop.close()

    def kasmina(self, token: str = "") -> KasminaClient:
        return KasminaClient(self._channels["kasmina"], token=token)

    def tamiyo(self, token: str = "") -> TamiyoClient:
        return TamiyoClient(self._channels["tamiyo"], token=token)

    def weatherlight(self) -> WeatherlightClient:
        return WeatherlightClient(self._channels["weatherlight"], metadata=service_metadata(self.keyring, "operator"))

    def sign(self, message: Any, service: str, run: str = RUN) -> SignedCommand:
        self.clock.advance(0.001)
        return self.signer.sign(message, audience=f"{service}/{run}")

    async def _serve(self, name: str) -> tuple[Server, Any]:
        build, config = self.BUILDERS[name]
        state_dir = self._folder / name
        state_dir.mkdir(exist_ok=True)
        context = ServiceContext(
            name=name,
            config=config,
            keyring=self.keyring,
            clock=self.clock,
            state_dir=state_dir,
            reporter=self.heard,
            alarm=Alarm(None, self.keyring, self.clock, name, state_dir / "alarms"),
            weatherlight=None,
            weatherlight_tls=None,
            stop=lambda grace_s=None: None,
        )
        built = build(context)
        servicers = await built if asyncio.iscoroutine(built) else built
        return await start(ServerConfig(listen="127.0.0.1:0", reflection=False), servicers), servicers

    async def _stop(self, server: Server, servicers: Any) -> None:
        await server.drain(0.1)
        for servicer in servicers:
            await servicer.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(TIMEOUT_S)


class PlaneMachine(RuleBasedStateMachine):
    """Anything at any time."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory(dir=MEMORY)
        self.plane = self._plane(Path(self.folder.name))
        run = self._run_spec()
        run.total_steps, run.generation = 110_000, 1
        opening = KasminaServiceOpenRunRequest(command=self.plane.sign(run, "kasmina"))
        self.kasmina_token = self.plane.kasmina().open_run(opening, timeout_s=TIMEOUT_S).run_token
        self.spec = TamiyoRunSpec(
            training_run_id=RUN,
            seed=1,
            generation=1,
            total_steps=run.total_steps,
            manifest=run.manifest,
            life=run.life,
            trigger=TriggerSettings(trigger=GrowthTrigger.GROWTH_TRIGGER_ALWAYS, warmup_steps=1),
            kasmina_audience=f"kasmina/{RUN}",
            latency_rules=False,
        )
        opened = TamiyoServiceOpenRunRequest(command=self.plane.sign(self.spec, "tamiyo"))
        self.tamiyo_token = self.plane.tamiyo().open_run(opened, timeout_s=TIMEOUT_S).run_token
        self.executor = FakeExecutor()
        self.step, self.answered, self.numbers, self.index = 200, 0, 0, 0
        self.growth = GrowthState()
        self.growth.CopyFrom(fresh_state().growth)
        self.outcomes: dict[str, CommandOutcome] = {}
        self.envelopes: dict[str, SignedCommand] = {}
        self.stages = Stages()
        self.given: list[str] = []
        self.issued: set[str] = set()
        self.emergencies = 0

    def _plane(self, folder: Path) -> Plane:
        return Plane(folder)

    def _run_spec(self) -> KasminaRunSpec:
        return stack_run(growth_end_step=100_000, max_culls_in_row=4)

    def teardown(self) -> None:
        if hasattr(self, "plane"):
            self.plane.close()
            self.folder.cleanup()

    # What the trainer does.

    @rule(boundaries=st.integers(1, 25), gain=st.sampled_from([0.05, 0.012, -0.05]), is_lost=st.booleans())
    def train(self, boundaries: int, gain: float, is_lost: bool) -> None:
        """Boundaries, of whose answers the first may get lost."""
        self.executor.gain = gain
        for number in range(boundaries):
            self.step += EVERY_STEPS
            request = self.executor.evidence_at(self.step, 1)
            request.last_answered_step = self.answered
            answer = self._kasmina().advance(request, timeout_s=TIMEOUT_S)
            if not (is_lost and number == 0):
                self._take(answer)
        if self.answered == self.step:
            asked = KasminaServiceGetRunStateRequest()
            blob = self._kasmina().get_run_state(asked, timeout_s=TIMEOUT_S).state
            issued = KasminaRunState.FromString(blob.state).directives_issued
            assert sorted(self.given) == sorted(f"d{number + 1}" for number in range(issued)), "a directive was lost"

    def _take(self, answer: AdvanceResponse) -> None:
        self.answered, self.growth = answer.step, answer.growth
        accepted = [outcome for outcome in answer.outcomes if outcome.accepted]
        directives = [*(d for outcome in accepted for d in outcome.directives), *answer.directives]
        self.given += [directive.directive_id for directive in directives]
        self.executor.take(directives, self.step)
        self._report(SubmitOutcomeRequest(step=self.step, gates=answer.gates, transitions=answer.transitions))
        self._require_agreement(answer)

    def _require_agreement(self, answer: AdvanceResponse) -> None:
        """Registry and executor, but for what the executor has just been told and does at its next boundary."""
        waiting = {directive.seed_id for _, directive in self.executor.queue}
        held = set(self.executor.living) - waiting
        assert held <= {seed.seed_id for seed in answer.seeds if seed.stage not in GONE}
        attached = {seed.seed_id for seed in answer.seeds if seed.stage in ATTACHED} - waiting
        assert attached <= set(self.executor.living)

    def _report(self, request: SubmitOutcomeRequest) -> None:
        if request.outcomes or request.gates or request.transitions:
            self._tamiyo().submit_outcome(request, timeout_s=TIMEOUT_S)

    @rule(is_lost=st.booleans(), lives=st.booleans())
    def decide(self, is_lost: bool, lives: bool) -> None:
        """Ask the policy, and relay what it wants; the answer of each relay may get lost, and is settled then."""
        self._hear()
        self.step += EVERY_STEPS
        asked = EvaluateRequest(packet=self._packet())
        decision: Decision = self._tamiyo().evaluate(asked, timeout_s=TIMEOUT_S).decision
        again: Decision = self._tamiyo().evaluate(asked, timeout_s=TIMEOUT_S).decision
        assert list(again.command_ids) == list(decision.command_ids), "a packet is decided on once"
        for command_id, envelope in zip(decision.command_ids, again.commands, strict=True):
            assert command_id not in self.issued
            self.issued.add(command_id)
            outcome = self._relay(command_id, envelope, is_lost=is_lost)
            self._report(SubmitOutcomeRequest(step=self.step, outcomes=[outcome]))
        if lives:
            self.train(boundaries=25, gain=0.05, is_lost=False)

    def _relay(self, command_id: str, envelope: SignedCommand, *, is_lost: bool) -> CommandOutcome:
        outcome = self._kasmina().apply_command(ApplyCommandRequest(command=envelope), timeout_s=TIMEOUT_S).outcome
        if is_lost:
            outcome = self._settled(command_id)
        self.outcomes[command_id], self.envelopes[command_id] = outcome, envelope
        if outcome.accepted:
            self.given += [directive.directive_id for directive in outcome.directives]
            self.executor.take(outcome.directives, self.step)
        return outcome

    def _packet(self) -> SystemStatePacket:
        """The run as the trainer sees it."""
        self.index += 1
        slots = [
            SlotSignal(
                slot_id=slot.slot_id,
                width=slot.width,
                in_features=slot.in_features,
                out_features=slot.out_features,
                gradient_norm=0.5,
                depth=slot.depth if slot.kind == SlotKind.SLOT_KIND_STACK else None,
            )
            for slot in self.spec.manifest.slots
        ]
        seeds = [record.state for record in self._seeds()]
        mode = self.plane.heard.plane.mode
        made = tamiyo_packet(self.step, slots=slots, seeds=seeds, growth=self.growth, mode=mode)
        made.packet_index = self.index
        return made

    # What operators do.

    @rule(kind=st.sampled_from(["CULL", "FOSSILIZE", "ADVANCE_TO"]), which=WHICH, stage=st.sampled_from(sorted(NEXT)))
    def override(self, kind: str, which: int, stage: int) -> None:
        seed_id = _picked(which, ["s-nobody", *(record.state.seed_id for record in self._seeds())])
        operation = {"target_stage": stage} if kind == "ADVANCE_TO" else {}
        self._order(on_seed(kind, seed_id, step=self.step, operation=operation, **self._by_operator()))

    @rule(is_short=st.booleans())
    def pause(self, is_short: bool) -> None:
        self._order(command(pause=PauseOrder(rationale="r"), step=self.step, **self._by_operator()))
        if is_short:
            self.resume()

    @rule()
    def resume(self) -> None:
        self._order(command(resume=ResumeOrder(rationale="r"), step=self.step, **self._by_operator()))

    def _by_operator(self) -> dict[str, Any]:
        self.numbers += 1
        return {"command_id": f"o{self.numbers}", "issued_by": OPERATOR, "generation": 1}

    def _order(self, asked: AdaptationCommand) -> None:
        """An operator's command; what comes of it the trainer hears with the next answer."""
        envelope = self.plane.sign(asked, "kasmina")
        request = ApplyCommandRequest(command=envelope)
        outcome = self._kasmina().apply_command(request, timeout_s=TIMEOUT_S).outcome
        assert violations(outcome) == []
        self.outcomes[asked.command_id], self.envelopes[asked.command_id] = outcome, envelope

    @rule(level=st.sampled_from(["L2_ELEVATED", "L3_CONSERVATIVE", "L4_HALT"]), is_short=st.booleans())
    def raise_emergency(self, level: str, is_short: bool) -> None:
        self.emergencies += 1
        signal = EmergencySignal(
            emergency_id=f"e{self.emergencies}",
            level=EmergencyLevel.Value(f"EMERGENCY_LEVEL_{level}"),
            cause="drill",
            detail="a drill",
            origin=OPERATOR,
            raised_at=timestamp(self.plane.clock.now_ns()),
        )
        request = RaiseEmergencyRequest(command=self.plane.sign(signal, "weatherlight", "-"))
        self.plane.weatherlight().raise_emergency(request, timeout_s=TIMEOUT_S)
        if is_short:
            self.acknowledge()

    @precondition(lambda self: self.emergencies)
    @rule()
    def acknowledge(self) -> None:
        for signal in self._hear().open_emergencies:
            word = EmergencyAcknowledgement(emergency_id=signal.emergency_id, acknowledged_by=OPERATOR, resolved=True)
            request = AcknowledgeEmergencyRequest(command=self.plane.sign(word, "weatherlight", "-"))
            self.plane.weatherlight().acknowledge_emergency(request, timeout_s=TIMEOUT_S)
        assert not self._hear().open_emergencies

    # What goes wrong.

    @rule(name=st.sampled_from(sorted(Plane.BUILDERS)))
    def restart(self, name: str) -> None:
        self.plane.end(name)
        self.plane.begin(name)

    @rule(seconds=st.sampled_from([0.01, 5.0, 121.0, 1800.0]))
    def pass_time(self, seconds: float) -> None:
        self.plane.clock.advance(seconds)

    @rule(seconds=st.sampled_from([-3600.0, -1.0, 600.0]))
    def jump(self, seconds: float) -> None:
        """Somebody sets the wall clock, and sets it right again before anything else is signed."""
        clock = self.plane.clock
        now_ns = clock.now_ns()
        clock.set(now_ns + round(seconds * 1e9))
        with suppress(EsperError):
            self.train(boundaries=1, gain=0.05, is_lost=False)
        clock.set(now_ns)

    @rule(which=WHICH)
    def replay(self, which: int) -> None:
        """An envelope that was heard is sent once more: it is refused, and changes nothing."""
        if not self.envelopes:
            return
        command_id = _picked(which, sorted(self.envelopes))
        before = self._seeds()
        request = ApplyCommandRequest(command=self.envelopes[command_id])
        with suppress(CommandRejected):
            self._kasmina().apply_command(request, timeout_s=TIMEOUT_S)
            raise AssertionError(f"{command_id} was believed twice")
        assert self._seeds() == before

    @rule(kind=st.sampled_from(["BUILD", "ATTACH", "PROBE", "JUDGE", "INSTALL_TWIN", "FOLD"]), breaks=st.booleans())
    def break_or_mend(self, kind: str, breaks: bool) -> None:
        number = DirectiveKind.Value(f"DIRECTIVE_KIND_{kind}")
        self.executor.faults = {number: {"succeeded": False, "failure": "broken"}} if breaks else {}

    @rule()
    def ask_out_of_order(self) -> None:
        """A packet from before is never decided on anew."""
        if self.index < 2:
            return
        late = self._packet()
        self.index -= 1
        late.packet_index = self.index - 1
        with suppress(LifecycleConflict):
            self._tamiyo().evaluate(EvaluateRequest(packet=late), timeout_s=TIMEOUT_S)
            raise AssertionError("an old packet was decided on")

    # What always holds.

    @invariant()
    def stages_follow_each_other_as_they_may(self) -> None:
        if not hasattr(self, "plane"):
            return
        self.stages.see(self._seeds())

    @invariant()
    def no_directive_is_given_twice(self) -> None:
        if hasattr(self, "plane"):
            assert len(self.given) == len(set(self.given))

    @invariant()
    def no_outcome_is_lost(self) -> None:
        """The first and the last command can be settled for ever, with the outcome that they got."""
        if not hasattr(self, "plane") or not self.outcomes:
            return
        for command_id in {next(iter(self.outcomes)), next(reversed(self.outcomes))}:
            known, settled = self.outcomes[command_id], self._settled(command_id)
            assert (settled.accepted, settled.rejection) == (known.accepted, known.rejection)
            assert settled.directives == known.directives

    @invariant()
    def every_command_of_the_policy_has_its_report(self) -> None:
        if not hasattr(self, "plane"):
            return
        request = ListFieldReportsRequest(page_size=500)
        reports = self._tamiyo().list_field_reports(request, timeout_s=TIMEOUT_S).reports
        assert self.issued == {report.command_id for report in reports}

    def _hear(self) -> ModeUpdate:
        """The plane's mode, as every service hears it."""
        request = WeatherlightServiceGetStatusRequest()
        update = self.plane.weatherlight().get_status(request, timeout_s=TIMEOUT_S).mode
        self.plane.heard.plane = update
        return update

    def _settled(self, command_id: str) -> CommandOutcome:
        answer = self._kasmina().get_command(GetCommandRequest(command_id=command_id), timeout_s=TIMEOUT_S)
        assert answer.found, f"{command_id} was answered and is not known any more"
        return answer.outcome

    def _seeds(self) -> list[SeedRecord]:
        return list(self._kasmina().list_seeds(ListSeedsRequest(), timeout_s=TIMEOUT_S).seeds)

    def _kasmina(self) -> KasminaClient:
        return self.plane.kasmina(self.kasmina_token)

    def _tamiyo(self) -> TamiyoClient:
        return self.plane.tamiyo(self.tamiyo_token)


GONE = frozenset(
    {
        *(SeedStage.SEED_STAGE_DORMANT, SeedStage.SEED_STAGE_EMBARGOED, SeedStage.SEED_STAGE_RESETTING),
        *(SeedStage.SEED_STAGE_TERMINATED, SeedStage.SEED_STAGE_FOSSILIZED),
    }
)


ATTACHED = frozenset({SeedStage.SEED_STAGE_BLENDING, SeedStage.SEED_STAGE_SHADOWING, SeedStage.SEED_STAGE_PROBATIONARY})
