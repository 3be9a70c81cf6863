"""The seed executor: does at step boundaries what Kasmina's directives say, and measures what its gates need.

Order within a step, where `step` counts the steps done before it:

    before_step(step) -> forward, backward -> after_backward() -> optimiser -> shadow_step(...)

and at a boundary: execute(directives, step), at_boundary(step), collect(step). Between these calls nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from opentelemetry import trace
from torch import Tensor, nn

from esper.core.enums import short_name
from esper.core.errors import EsperError
from esper.core.process.leaving import kept_inside
from esper.kasmina.executor.actions.actions import RUN_WIDE, action_of, install_twin, remove, settle_in
from esper.kasmina.executor.actions.due import due_step, end_incubation, probe_isolation
from esper.kasmina.executor.actions.pause import is_held
from esper.kasmina.executor.collected import Collected, MemoryNote
from esper.kasmina.executor.graft.arm import TrainingArm
from esper.kasmina.executor.judge.macs import NO_MACS, MacCount
from esper.kasmina.executor.judge.teacher import Teacher
from esper.kasmina.executor.memory.bursts import MakeStep
from esper.kasmina.executor.memory.parked import gradient_bytes
from esper.kasmina.executor.memory.peaks import Peaks
from esper.kasmina.executor.observe import fossils_in, is_schedule_done, observe, slot_signals
from esper.kasmina.executor.passes.compilations import Compilations, compilations
from esper.kasmina.executor.passes.statistics import norm_of
from esper.kasmina.executor.passes.task import Task
from esper.kasmina.executor.passes.trace import in_words
from esper.kasmina.executor.places import Places
from esper.kasmina.executor.saved import load_network, restore, saved, saved_network
from esper.kasmina.executor.stack_slots import Depth
from esper.kasmina.executor.stacks.run import Run
from esper.kasmina.executor.state import SEED_BOUND, ExecutorConfig, ExecutorState, Facts, Life
from esper.kasmina.executor.twin import UNDONE, bring_back, end_twin, give_up_grown, let_wait
from esper.leyline import DirectiveKind, DirectiveReport, HostManifest, SeedDirective, SlotSpec

tracer = trace.get_tracer("esper.kasmina.executor")

# Errors that say enough by themselves: ours, and what torch raises for shapes, types and devices.
PLAIN_SPOKEN = (EsperError, RuntimeError, ValueError, TypeError)


class SeedExecutor:
    """Seeds of one run, in the trainer's process."""

    def __init__(
        self, arm: TrainingArm, task: Task, *, fetch_artifact: Callable[[str], bytes], config: ExecutorConfig
    ) -> None:
        self._state = ExecutorState(arm=arm, task=task, config=config, fetch_artifact=fetch_artifact, slots={})
        self.places = Places(self._state)
        """Where seeds fit, and where not."""
        self._reports: list[DirectiveReport] = []
        self._compiled_since: Compilations | None = None

    def teach(self, teacher: Teacher) -> None:
        """Let seeds that incubate learn from this network too, where directives say so."""
        self._state.own_teacher = teacher

    @property
    def teacher(self) -> Teacher | None:
        """The network that seeds may learn from; None where there is none, or an order made the run forget it."""
        return self._state.teacher

    @property
    def task(self) -> Task:
        """What the host learns."""
        return self._state.task

    @property
    def arm(self) -> TrainingArm:
        """The arm that the run is about; installing the twin replaces it."""
        return self._state.arm

    @property
    def twin(self) -> TrainingArm | None:
        """The never-grafted copy: the trainer makes the same steps with it."""
        return self._state.twin

    @property
    def is_twin_live(self) -> bool:
        """Whether a twin makes every step at once; one that waits makes them when it is wanted."""
        return self._state.twin is not None and self._state.bursts is None

    @property
    def is_alone(self) -> bool:
        """Whether steps are those of the main arm's network by itself: nothing grows in it or beside it, or waits to.

        Then no call between two steps does anything, and one `before_step` of the last prepares several.
        """
        state = self._state
        is_incubating = any(life.incubation is not None for life in state.lives.values())
        return state.twin is None and not (state.arm.grafts or state.queue or is_incubating)

    @property
    def peaks(self) -> Peaks:
        """The most memory that the run has held, with a twin and without."""
        return self._state.peaks

    @property
    def twin_of(self) -> str:
        """The seed that the twin is held against; empty where none is built."""
        return next((life.plan.seed_id for life in self._living()), "")

    @property
    def seeds(self) -> tuple[str, ...]:
        """Seeds that are built, permanent modules included; folded and removed ones are not."""
        return tuple(self._state.lives)

    @property
    def is_unsettled(self) -> bool:
        """Whether a seed is built that is neither permanent nor gone."""
        return bool(self._living())

    @property
    def fossils(self) -> dict[str, int]:
        """Seeds that are permanent, folded or as modules, by slot."""
        slot_ids = (*self._state.slots, *self._state.stack_slots)
        return {slot_id: count for slot_id in slot_ids if (count := fossils_in(self._state, slot_id))}

    @property
    def topology(self) -> int:
        """Rises with every change of parameters, in number or shape: lists of them are to be made anew."""
        return self._state.topology

    @property
    def directives_done(self) -> int:
        """How many directives were executed or refused."""
        return len(self._state.done)

    @property
    def parameters(self) -> int:
        """Parameters of the main arm, seeds included."""
        return self._state.parameters

    @property
    def macs(self) -> MacCount:
        """Work of the main arm for one sample."""
        return self._state.macs

    @property
    def twin_macs(self) -> MacCount:
        """Work of the twin for one sample; 0 without one."""
        return self._state.twin_macs if self._state.twin is not None else NO_MACS

    @property
    def side_macs(self) -> int:
        """Work of all incubation and judging passes so far."""
        running = [life.incubation.macs for life in self._state.lives.values() if life.incubation is not None]
        return self._state.side_macs + sum(running)

    @property
    def evaluation_macs(self) -> Mapping[str, int]:
        """Work of stacks' evaluations so far, both arms, by seed."""
        return self._state.evaluation_macs

    @property
    def has_evidence(self) -> bool:
        """True if a report, a measurement or the end of a schedule waits to be collected."""
        if self._reports:
            return True
        return any(life.evidence or self._has_finished(life) for life in self._living())

    @property
    def uncounted(self) -> str:
        """Why the host's multiply-accumulates are not counted; empty if they are."""
        return self._state.uncounted

    @property
    def slots(self) -> Sequence[SlotSpec]:
        """Where seeds fit; none on a host that can't be grown."""
        return self._state.specs

    def compile_blocks(self, runs: Iterable[Run]) -> None:
        """Compiles the blocks of these runs in place; the compiler's work is counted from here on."""
        self.arm.compile_blocks(runs)
        self._compiled_since = compilations()

    @property
    def compilations(self) -> Compilations | None:
        """The compiler's work since blocks were compiled on request; None where they weren't."""
        return None if self._compiled_since is None else compilations().since(self._compiled_since)

    def manifest(self) -> HostManifest:
        """The host and its slots; ConfigError if no seed fits anywhere."""
        return self.places.manifest()

    def depths(self) -> dict[str, Depth]:
        """The runs of blocks that were repeated, by the path of their list."""
        repeated = self.arm.stacks
        paths = {run.path for run in repeated}
        stacked = [slot for slot in self._state.stack_slots.values() if slot.run.path in paths]
        return {slot.run.path: slot.depth(self.arm.model, repeated) for slot in stacked}

    def host_parameters(self) -> list[nn.Parameter]:
        """The host's own trainable parameters: clipping looks at these."""
        return self.arm.host_parameters()

    def seed_parameters(self) -> list[nn.Parameter]:
        """Trainable parameters of the seeds in the forward pass."""
        modules = [graft.module for graft in self.arm.grafts]
        return [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]

    def alpha_of(self, seed_id: str) -> float:
        """Alpha of the last step prepared, 1 for a stack that stands; 0 for what isn't in the forward pass."""
        graft, life = self.arm.graft(seed_id), self._state.lives.get(seed_id)
        if graft is None:
            return float(life is not None and life.run is not None)
        return 0.0 if graft.is_muted else graft.alpha

    def execute(self, directives: Iterable[SeedDirective], step: int) -> tuple[SeedDirective, ...]:
        """Does directives in order; those for later steps wait. Returns the ones that are the trainer's own to do."""
        own, directives = [], list(directives)
        self._state.steps_done = step
        self._state.to_build = {d.seed_id: d for d in directives if d.kind == DirectiveKind.DIRECTIVE_KIND_BUILD}
        for directive in directives:
            if directive.directive_id in self._state.done:
                continue
            if directive.kind in RUN_WIDE:
                own.append(directive)
            elif directive.kind in SEED_BOUND and directive.seed_id in self._state.given_up:
                self._refuse(directive, step)
            elif (due := due_step(self._state, directive, step)) > step or is_held(self._state, directive):
                waiting = SeedDirective()
                waiting.CopyFrom(directive)
                waiting.at_step = due
                self._state.queue.append(waiting)
            else:
                self._do(directive, step)
        return tuple(own)

    def report(self, directive: SeedDirective, step: int, *, failure: str = "") -> None:
        """Notes a directive that the trainer did itself."""
        self._note(directive, step, {}, failure)

    def at_boundary(self, step: int) -> None:
        """Does what is due: waiting directives, ends of fades and of incubations, probes of isolated seeds."""
        self._state.boundary_step = self._state.steps_done = step
        for life in list(self._state.lives.values()):
            self._end_fade(life, step)
            end_incubation(self._state, life, step)
            probe_isolation(self._state, life, step)
        due = [d for d in self._state.queue if d.at_step <= step and not is_held(self._state, d)]
        for directive in sorted(due, key=lambda waiting: waiting.at_step):
            if directive in self._state.queue:
                self._state.queue.remove(directive)
                self._do(directive, step)

    def between_boundaries(self, step: int) -> None:
        """Evaluations of a stack that are due at this very step: their steps were fixed at its graft."""
        for directive in self._evaluations(step):
            self._state.queue.remove(directive)
            self._do(directive, step)

    def is_evaluated(self, step: int) -> bool:
        """Whether one of them is due."""
        return bool(self._evaluations(step))

    def _evaluations(self, step: int) -> list[SeedDirective]:
        return [d for d in self._state.queue if d.at_step <= step and self._is_evaluation(d)]

    def before_step(self, step: int) -> None:
        """Alpha, learning rates and dropout draws of the seeds; call it after the scheduler has set its rates."""
        state = self._state
        state.steps_done = step + 1
        if state.twin is not None and state.bursts is None:
            state.twin.set_step(step, run_seed=state.config.step_seed)
        if not state.arm.grafts:
            return
        state.arm.set_step(step, run_seed=state.config.step_seed)
        is_measuring = step % state.config.measure_every_steps == 0
        for graft in state.arm.grafts:
            graft.is_measuring = is_measuring

    def watched_step(self) -> AbstractContextManager[None]:
        """Around the main arm's step: what the first ones of a network take is measured where the device counts it."""
        return self._state.peaks.of_step(self._state.topology, partial(gradient_bytes, self.arm))

    def step_twin_by(self, make: MakeStep) -> None:
        """Let a twin that waits make its steps this way: `make(twin, step)` makes the one after `step` done ones."""
        self._state.step_twin = make

    @property
    def makes_late_steps(self) -> bool:
        """Whether somebody makes the steps of a twin that waits."""
        return self._state.step_twin is not None

    def before_twin_step(self, twin: TrainingArm, step: int) -> None:
        """As `before_step`, for a twin that makes the step by itself."""
        twin.set_step(step, run_seed=self._state.config.step_seed)

    def give_up(self, step: int, why: str) -> bool:
        """Memory has run out: the twin as after `step` steps takes the grown arm's place, as if it had never grown.

        False if there is no twin, or nothing that it is without. The caller has let go of what the step had made.
        """
        state, seed_id = self._state, self._state.twin_seed
        if state.twin is None or seed_id not in state.lives or state.lives[seed_id].is_permanent:
            return False
        state.steps_done = step
        told = f"{why}; the network is again the one without {seed_id}"
        state.given_up[seed_id] = told
        give_up_grown(state, step)
        settle_in(state)
        state.memory_notes.append(MemoryNote(seed_id=seed_id, step=step, mode=UNDONE, why=told))
        report = DirectiveReport(
            directive_id=f"{seed_id}:undone",
            seed_id=seed_id,
            kind=DirectiveKind.DIRECTIVE_KIND_INSTALL_TWIN,
            step=step,
            succeeded=True,
            failure=told,
        )
        self._reports.append(report)
        return True

    def _refuse(self, directive: SeedDirective, step: int) -> None:
        """Of a seed that had no room; what was to judge it goes with it, as what waits for its step does."""
        if directive.kind == DirectiveKind.DIRECTIVE_KIND_JUDGE:
            self._state.done.add(directive.directive_id)
        else:
            self._note(directive, step, {}, self._state.given_up[directive.seed_id])

    def catch_up(self) -> None:
        """Have a twin that waits make every step, as whoever saves it does."""
        self._state.catch_up()

    def let_twin_wait(self, step: int, why: str) -> None:
        """From now on the twin, which has made `step` steps, makes its steps in bursts. Raises if it can't wait."""
        let_wait(self._state, step, why)

    def after_backward(self) -> None:
        """Notes the gradients of living seeds."""
        self.note_seed_norms(self.seed_norms())

    def seed_norms(self) -> dict[str, Tensor]:
        """Norms of the gradients that a backward pass has left in living seeds; 0-d, by seed."""
        norms = {}
        for graft in self._state.arm.grafts:
            graft.forget()
            gradients = [part.grad for part in graft.module.parameters() if part.grad is not None]
            if gradients and not self._state.lives[graft.seed_id].is_permanent:
                norms[graft.seed_id] = norm_of(gradients)
        return norms

    def note_seed_norms(self, norms: Mapping[str, Tensor]) -> None:
        """Keeps what `seed_norms` gave, until somebody asks."""
        for seed_id, norm in norms.items():
            life = self._state.lives[seed_id]
            if not life.is_permanent:
                life.statistics.note(norm)

    def shadow_step(self, inputs: Any, targets: Any, step: int) -> None:
        """Trains incubating seeds on a quarter of the batch, after the host's own step."""
        state = self._state
        for life in state.lives.values():
            if life.incubation is not None and life.paused_step is None:
                batch, seed = (inputs, targets), state.config.run_seed
                life.statistics.add(life.incubation.step(state.arm, state.task, batch, step, seed))

    def note_norms(self, norms: Mapping[nn.Parameter, Tensor]) -> None:
        """Gradient norms that the last step measured anyway; those of slots that aren't among them are measured."""
        self._state.measured_norms = norms

    def note_loss(self, smoothed: float, standard_error: float | None) -> None:
        """The smoothed training loss of now, for the stability gate."""
        self._state.smoothed_loss, self._state.loss_standard_error = smoothed, standard_error

    def collect(self, step: int) -> Collected:
        """Evidence and reports since the last call."""
        reports, self._reports = tuple(self._reports), []
        memory, self._state.memory_notes = tuple(self._state.memory_notes), []
        observations = tuple(observe(self._state, life, step) for life in self._living())
        return Collected(observations=observations, reports=reports, slots=slot_signals(self._state), memory=memory)

    def finish(self, step: int) -> tuple[str, ...]:
        """Ends growth: an unsettled seed leaves by its twin. Returns those that stay because there is none.

        A host that has learnt around a seed for good is no network that anybody judged, so nothing is torn out of it
        but what was ordered out.
        """
        if self.twin is not None and self.is_unsettled:
            install_twin(self._state, SeedDirective(), step)
        if self.twin is not None:
            end_twin(self._state, step)
        staying = []
        for seed_id, life in list(self._state.lives.items()):
            if life.fade is not None or (not life.is_permanent and self.alpha_of(seed_id) == 0.0):
                remove(self._state, SeedDirective(seed_id=seed_id), step)
            elif not life.is_permanent:
                life.is_permanent = True
                staying.append(seed_id)
        self._state.queue.clear()
        return tuple(staying)

    @property
    def is_twin_waiting(self) -> bool:
        """Whether there is a twin that makes its steps in bursts."""
        return self._state.bursts is not None

    def state_dict(self) -> dict[str, Any]:
        """Everything as tensors and plain containers; tensors are the live ones."""
        return saved(self._state, self._reports)

    def network(self) -> dict[str, Any]:
        """The main arm's network alone, as it is now, in host memory."""
        return saved_network(self._state)

    def rebuilt(self, network: Mapping[str, Any]) -> TrainingArm:
        """A copy of the main arm with the weights and the growth of a network that `network` gave."""
        arm = self.arm.clone()
        load_network(self._state, arm, network)
        return arm

    def load_network(self, network: Mapping[str, Any]) -> None:
        """Give the main arm the weights and the growth of such a network: to be used, not trained on."""
        load_network(self._state, self.arm, network)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores topology, arms, seeds in every phase, and what waits."""
        self._reports = restore(self._state, state)

    def _living(self) -> list[Life]:
        return [life for life in self._state.lives.values() if not life.is_permanent]

    def _is_evaluation(self, directive: SeedDirective) -> bool:
        life = self._state.lives.get(directive.seed_id)
        return life is not None and life.run is not None and directive.kind == DirectiveKind.DIRECTIVE_KIND_JUDGE

    def _has_finished(self, life: Life) -> bool:
        graft = self.arm.graft(life.plan.seed_id)
        return not life.was_schedule_done and is_schedule_done(graft, self._state.boundary_step)

    def _do(self, directive: SeedDirective, step: int) -> None:
        attributes: dict[str, str | int] = {
            "esper.command.id": directive.command_id,
            "esper.seed.id": directive.seed_id,
            "esper.step": step,
        }
        with tracer.start_as_current_span(_span_name(directive), attributes=attributes) as span:
            try:
                with kept_inside():
                    facts, failure = action_of(directive)(self._state, directive, step), ""
                if facts is None:
                    self._state.done.add(directive.directive_id)
                    return
            except Exception as error:  # noqa: BLE001 - an action runs the host, which may raise anything
                facts, failure = {}, str(error) if isinstance(error, PLAIN_SPOKEN) and str(error) else in_words(error)
                span.set_attribute("esper.failure", failure)
        if why := bring_back(self._state):
            self.give_up(step, f"memory ran out at the boundary after step {step}: {why}")
        self._note(directive, step, facts, failure)

    def _note(self, directive: SeedDirective, step: int, facts: Facts, failure: str) -> None:
        self._state.done.add(directive.directive_id)
        report = DirectiveReport(
            directive_id=directive.directive_id,
            seed_id=directive.seed_id,
            kind=directive.kind,
            step=step,
            succeeded=not failure,
            **{"failure": failure, **facts},
        )
        self._reports.append(report)

    def _end_fade(self, life: Life, step: int) -> None:
        if life.fade is None or step < life.fade_end_step:
            return
        remove(self._state, life.fade, step)
        self._note(life.fade, step, {}, "")


def _span_name(directive: SeedDirective) -> str:
    if directive.kind == DirectiveKind.DIRECTIVE_KIND_ATTACH:
        return "executor.graft"
    if directive.kind not in DirectiveKind.values():
        return "executor.unknown"
    return f"executor.{short_name(DirectiveKind, directive.kind).lower()}"
