"""Plays a scenario against Kasmina: the real service over its database, and an executor told what to measure."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from esper.core.errors import CommandRejected
from esper.core.validation import require_valid
from esper.kasmina.control.dispatch import WEATHERLIGHT
from esper.kasmina.server import KasminaConfig
from esper.leyline import (
    AdaptationCommand,
    AdvanceResponse,
    ApplyCommandRequest,
    CircuitBreakerOrder,
    CircuitState,
    CommandOutcome,
    EmergencyOrder,
    Event,
    GateEvidence,
    GateVerdict,
    IncubationMode,
    JudgeMode,
    KasminaRunState,
    KasminaServiceCloseRunRequest,
    OptimizerAdjustment,
    PauseOrder,
    PrefetchKernelRequest,
    PruneOrder,
    RegisterTeacherRequest,
    RegistryReset,
    RejectionReason,
    ResetRegistryRequest,
    ResetTeacherRequest,
    ResumeOrder,
    RollbackOrder,
    RunClosure,
    SeedGate,
    SeedStage,
    TeacherRegistration,
    TeacherReset,
)
from esper.leyline import DirectiveKind as Kind
from esper.leyline import EmergencyLevel as Level
from tests.scenarios.reading import Seen, must_be, must_have_told
from tests.unit.kasmina.control.fake_executor import FakeExecutor
from tests.unit.kasmina.control.making import (
    RESIDUAL_SLOT,
    RUN,
    SLOT,
    command,
    double,
    germinate,
    on_seed,
    rising_blend,
    stack_judging,
    stack_run,
)
from tests.unit.kasmina.control.service import Service

EVERY_STEPS = 10
OPERATOR = "operator:ada"
RESIDUAL = {"slot_id": RESIDUAL_SLOT, "blueprint_id": "residual.linear", "blend": rising_blend()}
Words = list[str]


@dataclass(kw_only=True)
class Stage:
    """Orders, then some boundaries, and what must have been seen at the end of them."""

    orders: list[str] = field(default_factory=list)
    """In words: see ORDERS and CALLS; "again" repeats the last one under its id."""
    boundaries: int = 1
    faults: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What the executor reports of a kind of directive, from now on."""
    mends: list[str] = field(default_factory=list)
    """Kinds that are reported as they should be again."""
    evidence: dict[str, Any] = field(default_factory=dict)
    """What it observes of each seed, from now on."""
    absent: list[str] = field(default_factory=list)
    """What it doesn't observe, from now on."""
    gain: float | None = None
    """What each judgement finds, from now on."""
    judging: dict[str, Any] = field(default_factory=dict)
    """Figures of each judgement, from now on."""
    probing: dict[str, Any] = field(default_factory=dict)
    """Figures of each probe, from now on."""
    clipped_share: float | None = None
    documents: dict[str, Any] = field(default_factory=dict)
    """What a stack's evaluations say of their documents, from now on."""
    width: int | None = None
    """Of the first slot, as the executor tells it with each boundary of the stage."""
    resumes: bool = False
    """Whether the run is resumed from where it is, under the next generation."""
    restarts: bool = False
    loses: bool = False
    """Whether the answer to the first boundary gets lost."""

    gates: list[str] = field(default_factory=list)
    """"GATE VERDICT" of each gate that was asked, once."""
    stages: dict[str, str] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class Scene:
    """The run, and the stages."""

    name: str
    says: str
    then: list[Stage]
    life: dict[str, Any] = field(default_factory=dict)
    judge: str = "TWIN"
    incubation: str = "NONE"
    budget: dict[str, Any] = field(default_factory=dict)
    stack: dict[str, Any] = field(default_factory=dict)
    """Settings of a stack's judgement."""
    max_nonces: int = 10_000
    """Live nonces that the service remembers."""


def play(scene: Scene, state_dir: Path, seen: Seen) -> None:
    """Go through the stages. Raises AssertionError for whatever isn't as the scenario says."""
    player = _Player(scene, state_dir, seen)
    try:
        for number, stage in enumerate(scene.then, 1):
            player.stage(f"{scene.name}, stage {number}", stage)
        player.end()
    finally:
        player.close()


class _Player:
    def __init__(self, scene: Scene, state_dir: Path, seen: Seen) -> None:
        self._seen = seen
        self._service = Service(state_dir, KasminaConfig(max_nonces=scene.max_nonces))
        judge = JudgeMode.Value(f"JUDGE_MODE_{scene.judge}")
        incubation = IncubationMode.Value(f"INCUBATION_MODE_{scene.incubation}")
        judging = stack_judging(**scene.stack)
        run = self._run = stack_run(**{"judge": judge, "incubation": incubation, "stack": judging, **scene.life})
        for limit, value in scene.budget.items():
            setattr(run.budget, limit, value)
        self._seen.note(run, self._service.open(run))
        self._executor = FakeExecutor()
        self._step, self._answered, self._numbers = 100, 0, 0
        self._gates: list[GateEvidence] = []
        self._refusals: list[str] = []

    def stage(self, where: str, stage: Stage) -> None:
        self._gates, self._refusals = [], []
        self._executor.faults |= {Kind.Value(f"DIRECTIVE_KIND_{kind}"): fields for kind, fields in stage.faults.items()}
        for kind in stage.mends:
            del self._executor.faults[Kind.Value(f"DIRECTIVE_KIND_{kind}")]
        self._executor.evidence |= stage.evidence | dict.fromkeys(stage.absent)
        self._executor.gain = self._executor.gain if stage.gain is None else stage.gain
        self._executor.judging |= stage.judging
        self._executor.probing |= stage.probing
        self._executor.documents |= stage.documents
        if stage.clipped_share is not None:
            self._executor.clipped_share = stage.clipped_share
        if stage.restarts:
            self._service.restart()
        if stage.resumes:
            self._resume()
        for words in stage.orders:
            self._order(words.split())
        for number in range(stage.boundaries):
            self._boundary(stage, is_lost=stage.loses and number == 0)
        must_have_told(where, self._told(), stage.events)
        asked = {f"{_short(SeedGate, gate.gate)} {_short(GateVerdict, gate.verdict)}" for gate in self._gates}
        must_be(where, "gates", asked, set(stage.gates))
        must_be(where, "refusals", self._refusals, stage.refusals)
        stages = {seed.state.seed_id: _short(SeedStage, seed.state.stage) for seed in self._service.seeds()}
        must_be(where, "stages", {seed_id: stages[seed_id] for seed_id in stage.stages}, stage.stages)

    def end(self) -> None:
        """The run ends; its state is noted before."""
        self._seen.note(KasminaRunState.FromString(self._service.blob().state))
        closure = RunClosure(
            training_run_id="run-1", generation=self._run.generation, step=self._step, reason="finished"
        )
        request = KasminaServiceCloseRunRequest(command=self._service.sign(closure))
        self._seen.note(self._service.run(self._service.servicer.close_run(request, self._service.call)))
        self._told()

    def close(self) -> None:
        self._service.close()

    def _told(self) -> list[Event]:
        packets = list(self._service.recorder.packets)
        self._service.recorder.packets.clear()
        return list(self._seen.tell(packets))

    def _resume(self) -> None:
        self._run.generation += 1
        self._run.resume.CopyFrom(self._service.blob())
        self._seen.note(self._run, self._service.open(self._run))

    def _boundary(self, stage: Stage, *, is_lost: bool) -> None:
        self._step += EVERY_STEPS
        request = self._executor.evidence_at(self._step, self._run.generation)
        request.last_answered_step = self._answered
        request.training_macs = 1000 * self._step
        if stage.width is not None:
            request.slots.add(slot_id=SLOT, width=stage.width, in_features=64, out_features=6)
        require_valid(request)
        answer: AdvanceResponse = self._service.advance(request)
        require_valid(answer)
        self._seen.note(request, answer)
        if is_lost:
            return
        self._answered = answer.step
        self._gates += answer.gates
        self._take(answer.outcomes)
        self._executor.take(answer.directives, self._step)

    def _take(self, outcomes: Iterable[CommandOutcome]) -> None:
        for outcome in outcomes:
            self._executor.take(outcome.directives, self._step)

    def _order(self, words: Words) -> None:
        """Give an order; the policy's is carried out at once, an operator's comes with the next answer."""
        self._numbers += 1
        what = {"step": self._step, "generation": self._run.generation, "command_id": f"c{self._numbers}"}
        if words[0] in CALLS:
            self._seen.note(*self._service.run(CALLS[words[0]](self._service, words[1:])))
            return
        asked = self._asked = self._asked if words[0] == "again" else ORDERS[words[0]](words[1:], **what)
        outcome = self._service.apply(asked)
        require_valid(outcome)
        self._seen.note(asked, outcome)
        if not outcome.accepted:
            self._refusals.append(_short(RejectionReason, outcome.rejection))
        elif asked.issued_by == "tamiyo":
            self._take([outcome])


def _operator(*, issued_by: str = OPERATOR, **what: Any) -> AdaptationCommand:
    return command(what.pop("command_id"), issued_by=issued_by, **what)


def _germinate(words: Words, **what: Any) -> AdaptationCommand:
    slot = {"slot_id": words[1]} if len(words) > 1 else {}
    return germinate(words[0], operation=slot, **what)


def _advance_to(words: Words, **what: Any) -> AdaptationCommand:
    target = {"target_stage": SeedStage.Value(f"SEED_STAGE_{words[1]}")}
    return on_seed("ADVANCE_TO", words[0], issued_by=OPERATOR, operation=target, **what)


def _rollback(words: Words, **what: Any) -> AdaptationCommand:
    to_step = int(words[0]) if words else None
    return _operator(rollback=RollbackOrder(rationale="a drill", to_step=to_step), **what)


async def _prefetch(service: Service, words: Words) -> list[Message]:
    request = PrefetchKernelRequest(blueprint_id=words[0])
    return [each async for each in service.servicer.prefetch_kernel(request, service.call)]


async def _forge(service: Service, words: Words) -> list[Message]:
    """A command that nobody signed with a key of this plane."""
    envelope = service.sign(ORDERS["pause"]([], step=0, generation=0, command_id="forged"))
    envelope.security.signature = "0" * 64
    with suppress(CommandRejected):
        await service.servicer.apply_command(ApplyCommandRequest(command=envelope), service.call)
        raise AssertionError("a forged command was believed")
    return []


async def _teach(service: Service, words: Words) -> list[Message]:
    teacher = TeacherRegistration(
        training_run_id=RUN, teacher_id=words[0], weights_digest=f"{len(words[0]):064x}", size_bytes=len(words[0])
    )
    request = RegisterTeacherRequest(command=service.sign(teacher))
    return [teacher, await service.servicer.register_teacher(request, service.call)]


async def _forget(service: Service, words: Words) -> list[Message]:
    request = ResetTeacherRequest(command=service.sign(TeacherReset(training_run_id=RUN, rationale="a drill")))
    return [await service.servicer.reset_teacher(request, service.call)]


async def _reset(service: Service, words: Words) -> list[Message]:
    request = ResetRegistryRequest(command=service.sign(RegistryReset(training_run_id=RUN, rationale="a drill")))
    return [await service.servicer.reset_registry(request, service.call)]


def _emergency(words: Words, **what: Any) -> AdaptationCommand:
    level = next(value for name, value in Level.items() if name.startswith(f"EMERGENCY_LEVEL_{words[0]}"))
    return _operator(emergency=EmergencyOrder(level=level, rationale="a drill"), **what)


def _breaker(words: Words, **what: Any) -> AdaptationCommand:
    state = CircuitState.Value(f"CIRCUIT_STATE_{words[0]}")
    order = CircuitBreakerOrder(breaker="artifacts", desired_state=state, rationale="a drill")
    return _operator(circuit_breaker=order, **what)


CALLS: dict[str, Any] = {"forge": _forge, "prefetch": _prefetch, "teach": _teach, "forget": _forget, "reset": _reset}
ORDERS: dict[str, Any] = {
    "germinate": _germinate,
    "incubate": lambda words, **what: germinate(words[0], operation=RESIDUAL, **what),
    "plane": lambda words, **what: _emergency(words, issued_by=WEATHERLIGHT, **what),
    "double": lambda words, **what: double(words[0], **what),
    "fossilize": lambda words, **what: on_seed("FOSSILIZE", words[0], **what),
    "cull": lambda words, **what: on_seed("CULL", words[0], **what),
    "blend": lambda words, **what: on_seed("CHANGE_BLEND", words[0], operation={"blend": rising_blend()}, **what),
    "advance": _advance_to,
    "prune": lambda words, **what: _operator(prune=PruneOrder(seed_id=words[0], rationale="a drill"), **what),
    "pause": lambda words, **what: _operator(pause=PauseOrder(rationale="a drill"), **what),
    "resume": lambda words, **what: _operator(resume=ResumeOrder(rationale="a drill"), **what),
    "rollback": _rollback,
    "slower": lambda words, **what: _operator(optimizer=OptimizerAdjustment(learning_rate_factor=0.5), **what),
    "emergency": _emergency,
    "breaker": _breaker,
}


def _short(kind: Any, number: int) -> str:
    name: str = kind.Name(number)
    prefix: str = kind.Name(0).removesuffix("UNSPECIFIED")
    return name.removeprefix(prefix)
