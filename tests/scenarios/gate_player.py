"""Plays a scenario against Kasmina: the real service over its database, and an executor told what to measure."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from esper.core.errors import CommandRejected
from esper.core.messages.validation import require_valid
from esper.kasmina.control.artifacts.kernel_cache import CONTENTION_MS
from esper.kasmina.control.orders.dispatch import WEATHERLIGHT
from esper.kasmina.control.prefetch.prefetcher import TIMEOUT_S
from esper.kasmina.server import KasminaConfig
from esper.leyline import (
    AdaptationCommand,
    AdvanceResponse,
    ApplyCommandRequest,
    BlendConfig,
    CircuitBreakerOrder,
    CircuitState,
    CommandOutcome,
    EmergencyOrder,
    Event,
    FetchArtifactRequest,
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
    TaskType,
    TeacherRegistration,
    TeacherReset,
)
from esper.leyline import DirectiveKind as Kind
from esper.leyline import EmergencyLevel as Level
from esper.urza.catalog import Catalog
from tests.scenarios.disk import Kept
from tests.scenarios.reading import Seen, must_be, must_have_told, told_where
from tests.unit.kasmina.control.fake_executor import FakeExecutor
from tests.unit.kasmina.control.making import (
    CATALOG,
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
    warm_blend,
)
from tests.unit.kasmina.control.service import Service, own_library

EVERY_STEPS = 10
OPERATOR = "operator:ada"
ANSWER_S = 20.0
BLEND_WORDS = {"mode": "BLEND_MODE_", "schedule": "BLEND_SCHEDULE_", "confidence": "CONFIDENCE_KIND_"}
RESIDUAL = {"slot_id": RESIDUAL_SLOT, "blueprint_id": "residual.linear", "blend": rising_blend()}
OWN = {"slot_id": RESIDUAL_SLOT, "blueprint_id": "lab.gated"}
Words = list[str]


@dataclass(kw_only=True)
class Stage:
    """Orders, then some boundaries, and what must have been seen at the end of them."""

    orders: list[str] = field(default_factory=list)
    """In words: see ORDERS, CALLS, ASKED and HAPPENS; "again" repeats the last one under its id."""
    blends: dict[str, dict[str, Any]] = field(default_factory=dict)
    """How the orders blend a seed, where it isn't as usual; by seed."""
    artifact: str = ""
    """What the disk makes of the own blueprint's artefact from now on: whole, damaged or hanging."""
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
    task: str = "LANGUAGE_MODEL"
    own: bool = False
    """Whether the run brings lab.gated, a blueprint of its own."""
    max_nonces: int = 10_000
    """Live nonces that the service remembers."""


def play(scene: Scene, state_dir: Path, seen: Seen) -> None:
    """Go through the stages. Raises AssertionError for whatever isn't as the scenario says."""
    player = _Player(scene, state_dir, seen)
    try:
        for number, stage in enumerate(scene.then, 1):
            where = f"{scene.name}, stage {number}"
            with told_where(where):
                player.stage(where, stage)
        player.end()
    finally:
        player.close()


class _Player:
    def __init__(self, scene: Scene, state_dir: Path, seen: Seen) -> None:
        self._seen = seen
        own, config = own_library(state_dir / "artifacts") if scene.own else (None, KasminaConfig())
        self.artifact: Kept | None = None
        self.service = Service(state_dir, replace(config, max_nonces=scene.max_nonces))
        judge = JudgeMode.Value(f"JUDGE_MODE_{scene.judge}")
        incubation = IncubationMode.Value(f"INCUBATION_MODE_{scene.incubation}")
        judging = stack_judging(**scene.stack)
        run = self._run = stack_run(**{"judge": judge, "incubation": incubation, "stack": judging, **scene.life})
        run.manifest.task = TaskType.Value(f"TASK_TYPE_{scene.task}")
        if own is not None:
            run.own_blueprints.append(own)
            self.artifact = Kept(state_dir / "artifacts" / own.artifact.digest)
        for limit, value in scene.budget.items():
            setattr(run.budget, limit, value)
        self._seen.note(run, self.service.open(run))
        self._executor = FakeExecutor()
        self._step, self._answered, self._numbers = 100, 0, 0
        self._gates: list[GateEvidence] = []
        self._refusals: list[str] = []

    @property
    def catalog(self) -> Catalog:
        """The blueprints that the run knows."""
        return CATALOG.with_own(self._run.own_blueprints)

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
            self.service.restart()
        if stage.resumes:
            self._resume()
        if stage.artifact:
            assert self.artifact is not None, "only a run with `own = true` has an artefact on a disk"
            self.artifact.become(stage.artifact)
        calls = [self._order(words.split(), stage.blends) for words in stage.orders]
        for call in filter(None, calls):
            self._seen.note(*self.service.run(asyncio.wait_for(call, ANSWER_S)))
        for number in range(stage.boundaries):
            self._boundary(stage, is_lost=stage.loses and number == 0)
        must_have_told(where, self._told(), stage.events)
        asked = {f"{_short(SeedGate, gate.gate)} {_short(GateVerdict, gate.verdict)}" for gate in self._gates}
        must_be(where, "gates", asked, set(stage.gates))
        must_be(where, "refusals", self._refusals, stage.refusals)
        seeds = self.service.seeds()
        self._seen.note(*seeds)
        stages = {seed.state.seed_id: _short(SeedStage, seed.state.stage) for seed in seeds}
        must_be(where, "stages", {seed_id: stages[seed_id] for seed_id in stage.stages}, stage.stages)

    def end(self) -> None:
        """The run ends; its state is noted before."""
        self._seen.note(KasminaRunState.FromString(self.service.blob().state))
        closure = RunClosure(
            training_run_id="run-1", generation=self._run.generation, step=self._step, reason="finished"
        )
        request = KasminaServiceCloseRunRequest(command=self.service.sign(closure))
        self._seen.note(self.service.run(self.service.servicer.close_run(request, self.service.call)))
        self._told()

    def close(self) -> None:
        if self.artifact is not None:
            self.artifact.mend()
        self.service.close()

    def _told(self) -> list[Event]:
        packets = list(self.service.recorder.packets)
        self.service.recorder.packets.clear()
        return list(self._seen.tell(packets))

    def _resume(self) -> None:
        self._run.generation += 1
        self._run.resume.CopyFrom(self.service.blob())
        self._seen.note(self._run, self.service.open(self._run))

    def _boundary(self, stage: Stage, *, is_lost: bool) -> None:
        self._step += EVERY_STEPS
        request = self._executor.evidence_at(self._step, self._run.generation)
        request.last_answered_step = self._answered
        request.training_macs = 1000 * self._step
        if stage.width is not None:
            request.slots.add(slot_id=SLOT, width=stage.width, in_features=64, out_features=6)
        require_valid(request)
        answer: AdvanceResponse = self.service.advance(request)
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

    def _order(self, words: Words, blends: dict[str, dict[str, Any]]) -> asyncio.Task[list[Message]] | None:
        """Give an order; the policy's is carried out at once, an operator's comes with the next answer.

        What is only asked for goes on meanwhile.
        """
        if words[0] in ASKED:
            return self.service.begin(ASKED[words[0]](self, words[1]))
        if words[0] in HAPPENS:
            HAPPENS[words[0]](self)
        elif words[0] in CALLS:
            self._seen.note(*self.service.run(CALLS[words[0]](self.service, words[1:])))
        else:
            self._command(words, blends)
        return None

    def _command(self, words: Words, blends: dict[str, dict[str, Any]]) -> None:
        self._numbers += 1
        what = {"step": self._step, "generation": self._run.generation, "command_id": f"c{self._numbers}"}
        asked = self._asked = self._asked if words[0] == "again" else ORDERS[words[0]](words[1:], **what)
        if asked.HasField("seed") and asked.seed.seed_id in blends:
            asked.seed.blend.CopyFrom(_blend(blends[asked.seed.seed_id]))
        outcome = self.service.apply(asked)
        require_valid(outcome)
        self._seen.note(asked, outcome)
        if not outcome.accepted:
            self._refusals.append(_short(RejectionReason, outcome.rejection))
        elif asked.issued_by == "tamiyo":
            self._take([outcome])


def _operator(*, issued_by: str = OPERATOR, **what: Any) -> AdaptationCommand:
    return command(what.pop("command_id"), issued_by=issued_by, **what)


def _one(words: Words) -> str | None:
    """The seed that is meant, if any."""
    return words[0] if words else None


def _germinate(words: Words, **what: Any) -> AdaptationCommand:
    slot = {"slot_id": words[1]} if len(words) > 1 else {}
    return germinate(words[0], operation=slot, **what)


def _advance_to(words: Words, **what: Any) -> AdaptationCommand:
    target = {"target_stage": SeedStage.Value(f"SEED_STAGE_{words[1]}")}
    return on_seed("ADVANCE_TO", words[0], issued_by=OPERATOR, operation=target, **what)


def _rollback(words: Words, **what: Any) -> AdaptationCommand:
    to_step = int(words[0]) if words else None
    return _operator(rollback=RollbackOrder(rationale="a drill", to_step=to_step), **what)


def _blend(written: dict[str, Any]) -> BlendConfig:
    names = {name: f"{prefix}{written[name]}" for name, prefix in BLEND_WORDS.items() if name in written}
    return warm_blend(**{"alpha_start": 0.0, "schedule": "BLEND_SCHEDULE_LINEAR", **written, **names})


async def _prefetch(player: _Player, blueprint_id: str) -> list[Message]:
    service, request = player.service, PrefetchKernelRequest(blueprint_id=blueprint_id)
    return [each async for each in service.servicer.prefetch_kernel(request, service.call)]


async def _fetch(player: _Player, blueprint_id: str) -> list[Message]:
    service, request = player.service, FetchArtifactRequest(digest=player.catalog.get(blueprint_id).artifact.digest)
    return [each async for each in service.servicer.fetch_artifact(request, service.call)]


def _arrive(player: _Player) -> None:
    """After so long that whoever waited for another's reading says so."""
    assert player.artifact is not None
    time.sleep(1.5 * CONTENTION_MS / 1e3)
    player.artifact.mend()


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


HAPPENS: dict[str, Any] = {"silence": lambda player: player.service.skip(TIMEOUT_S), "arrival": _arrive}
ASKED: dict[str, Any] = {"prefetch": _prefetch, "fetch": _fetch}
CALLS: dict[str, Any] = {"forge": _forge, "teach": _teach, "forget": _forget, "reset": _reset}
ORDERS: dict[str, Any] = {
    "germinate": _germinate,
    "incubate": lambda words, **what: germinate(words[0], operation=RESIDUAL, **what),
    "learn": lambda words, **what: germinate(words[0], operation=RESIDUAL | {"include_teacher": True}, **what),
    "own": lambda words, **what: germinate(words[0], operation=OWN, **what),
    "plane": lambda words, **what: _emergency(words, issued_by=WEATHERLIGHT, **what),
    "double": lambda words, **what: double(words[0], **what),
    "fossilize": lambda words, **what: on_seed("FOSSILIZE", words[0], **what),
    "cull": lambda words, **what: on_seed("CULL", words[0], **what),
    "blend": lambda words, **what: on_seed("CHANGE_BLEND", words[0], operation={"blend": rising_blend()}, **what),
    "advance": _advance_to,
    "prune": lambda words, **what: _operator(prune=PruneOrder(seed_id=words[0], rationale="a drill"), **what),
    "pause": lambda words, **what: _operator(pause=PauseOrder(rationale="a drill", seed_id=_one(words)), **what),
    "resume": lambda words, **what: _operator(resume=ResumeOrder(rationale="a drill", seed_id=_one(words)), **what),
    "rollback": _rollback,
    "slower": lambda words, **what: _operator(optimizer=OptimizerAdjustment(learning_rate_factor=0.5), **what),
    "emergency": _emergency,
    "breaker": _breaker,
}


def _short(kind: Any, number: int) -> str:
    name: str = kind.Name(number)
    prefix: str = kind.Name(0).removesuffix("UNSPECIFIED")
    return name.removeprefix(prefix)
