"""What the executor holds: the arms, the seeds' lives, and what waits for its step. Actions change it, nobody else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from esper.core.errors import ConfigError, GraftFailed
from esper.kasmina.executor.blueprints.own import Factory
from esper.kasmina.executor.collected import MemoryNote
from esper.kasmina.executor.graft.arm import TrainingArm
from esper.kasmina.executor.graft.graft import Graft, SeedPlan
from esper.kasmina.executor.judge.incubate import Incubation
from esper.kasmina.executor.judge.macs import NO_MACS, MacCount, count_macs
from esper.kasmina.executor.judge.scores import probe_outputs
from esper.kasmina.executor.judge.teacher import Teacher
from esper.kasmina.executor.memory.bursts import Bursts, MakeStep
from esper.kasmina.executor.memory.footprint import Precision, held_by
from esper.kasmina.executor.memory.forecast import AUTO, Decision, FreeMemory
from esper.kasmina.executor.memory.free import free_memory
from esper.kasmina.executor.memory.peaks import Peaks, gauge_of
from esper.kasmina.executor.passes.keys import draw_key
from esper.kasmina.executor.passes.statistics import GradientStatistics
from esper.kasmina.executor.passes.task import Task
from esper.kasmina.executor.passes.trace import in_words, trace_forward
from esper.kasmina.executor.slots.slot import Slot, refreshed
from esper.kasmina.executor.stack_slots import StackSlot
from esper.kasmina.executor.stacks.run import Run
from esper.leyline import (
    DirectiveKind,
    JudgeResult,
    PairedScore,
    ProbeResult,
    SeedDirective,
    SlotSpec,
    StackEvaluation,
)

# What an action tells of itself: fields of its report.
Facts = dict[str, Any]

# Directives that mean nothing once their seed is gone.
SEED_BOUND = frozenset(
    {
        DirectiveKind.DIRECTIVE_KIND_ATTACH,
        DirectiveKind.DIRECTIVE_KIND_INCUBATE,
        DirectiveKind.DIRECTIVE_KIND_SET_BLEND,
        DirectiveKind.DIRECTIVE_KIND_PROBE,
        DirectiveKind.DIRECTIVE_KIND_JUDGE,
        DirectiveKind.DIRECTIVE_KIND_MUTE,
        DirectiveKind.DIRECTIVE_KIND_UNMUTE,
        DirectiveKind.DIRECTIVE_KIND_FOLD,
        DirectiveKind.DIRECTIVE_KIND_FADE,
    }
)


REFUSE, LOADER = CONFIG_WIDTHS = ("refuse", "loader")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecutorConfig:
    """Settings of the executor."""

    run_seed: int
    slots: tuple[str, ...] | None = None
    """Slots by name, e.g. "fc1-fc2" or "act1"; None: those that the host offers."""
    config_widths: str = REFUSE
    """Widths that a network's configuration can't say: refused before the graft, or left to a loader."""
    measure_every_steps: int = 10
    """Steps between two measurements of rms(seed output) / rms(host activation)."""
    factories: Mapping[str, Factory] = field(default_factory=dict)
    """Verified factories of the run's user, by the name that their recipes give them."""
    offers_layers: bool = False
    """Whether each linear layer is a slot for an adapter, named or not."""
    merges_adapters: bool = True
    """Whether a kept low-rank adapter becomes part of its layer's weight."""
    twin: str = AUTO
    """How a twin makes its steps: live, in bursts, or as memory allows."""
    pass_samples: int = 64
    """Samples of one forward and backward pass in training."""
    gradient_rows: int = 0
    """Gradients of microbatches that are kept side by side."""
    accumulates: bool = False
    """Whether a step adds up the gradients of several passes, so that all are there in the later ones."""
    precision: Precision = nullcontext
    """Training's precision, for the passes that measure its memory."""
    free_memory: FreeMemory = free_memory
    draws_seed: int | None = None
    """Of the seeds' own draws in training steps, where each of several processes has its samples; None: `run_seed`."""
    agreed: Callable[[Decision], Decision] | None = None
    """What several processes of a run make of each one's decision on a twin; None: it is the only one."""
    halves_ends: bool = False
    """Whether the layers that end the branches of doubled blocks are halved, with those of their copies."""
    is_of_stacks: bool = False
    """Whether runs of blocks are the only slots: weights are in parts, and a module would need whole ones."""
    is_in_place: bool = False
    """Whether an installed twin lives on in the objects of the arm that it replaces, because others hold them."""

    @property
    def step_seed(self) -> int:
        """Seed of the draws in training steps."""
        return self.run_seed if self.draws_seed is None else self.draws_seed


@dataclass(kw_only=True, slots=True)
class Evidence:
    """Results of one-off measurements that nobody has collected yet."""

    probe: ProbeResult | None = None
    judgement: JudgeResult | None = None
    incubation_score: PairedScore | None = None
    evaluations: list[StackEvaluation] = field(default_factory=list)

    def __bool__(self) -> bool:
        single = (self.probe, self.judgement, self.incubation_score)
        return any(part is not None for part in single) or bool(self.evaluations)


@dataclass(kw_only=True, slots=True)
class Life:
    """One seed from its building to its removal or permanence."""

    plan: SeedPlan
    module: nn.Module
    """What was built; empty for a stack, which copies what is there."""
    run: Run | None = None
    """The blocks that a stack repeated, from its graft on."""
    statistics: GradientStatistics = field(default_factory=GradientStatistics)
    evidence: Evidence = field(default_factory=Evidence)
    incubation: Incubation | None = None
    loss_at_graft: float | None = None
    leaks: int = 0
    fade: SeedDirective | None = None
    fade_end_step: int = 0
    is_permanent: bool = False
    was_schedule_done: bool = False
    paused_step: int | None = None
    """Steps that were done when it was paused; None while it isn't."""


@dataclass(kw_only=True, slots=True)
class ExecutorState:
    """Everything that a checkpoint keeps, beside the collaborators that measure it."""

    arm: TrainingArm
    task: Task
    config: ExecutorConfig
    fetch_artifact: Callable[[str], bytes]
    slots: dict[str, Slot]
    own_teacher: Teacher | None = None
    """The teacher that whoever trains has loaded."""
    is_teacher_dropped: bool = False
    """Whether an order made the run forget it."""
    stack_slots: dict[str, StackSlot] = field(default_factory=dict)
    specs: tuple[SlotSpec, ...] = ()
    slot_parameters: tuple[tuple[str, nn.Parameter], ...] = ()
    """Parameters of the layers at the slots' ends, by path."""
    measured_norms: Mapping[nn.Parameter, Tensor] = field(default_factory=dict)
    """Norms of the gradients of now, as far as the step measured them."""
    twin: TrainingArm | None = None
    bursts: Bursts | None = None
    """Where the twin waits while it isn't wanted; None for one that makes every step at once."""
    step_twin: MakeStep | None = None
    """Makes one step of a twin; whoever trains gives it."""
    twin_decision: Decision | None = None
    twin_seed: str = ""
    """The seed whose graft the twin is without."""
    steps_done: int = 0
    """Steps of the run, as far as the executor has been told."""
    to_build: dict[str, SeedDirective] = field(default_factory=dict)
    """What is about to be built, by seed."""
    given_up: dict[str, str] = field(default_factory=dict)
    """Why a seed has no room, by seed: whatever else is ordered for it fails for that."""
    memory_notes: list[MemoryNote] = field(default_factory=list)
    other_bytes: int = 0
    """Device memory that was taken by other things than the arm when its twin was made."""
    peaks: Peaks = field(init=False)
    lives: dict[str, Life] = field(default_factory=dict)
    folded: dict[str, int] = field(default_factory=dict)
    queue: list[SeedDirective] = field(default_factory=list)
    done: set[str] = field(default_factory=set)
    topology: int = 0
    boundary_step: int = 0
    side_macs: int = 0
    evaluation_macs: dict[str, int] = field(default_factory=dict)
    """What stacks' evaluations cost, both arms, by seed; part of `side_macs`."""
    smoothed_loss: float = float("nan")
    loss_standard_error: float | None = None
    parameters: int = 0
    macs: MacCount = NO_MACS
    twin_macs: MacCount = NO_MACS
    uncounted: str = ""
    """Why the host's work can't be counted; empty if it can. Such a host has no slots."""

    def __post_init__(self) -> None:
        self.peaks = Peaks(gauge_of(self.arm.device))

    @property
    def teacher(self) -> Teacher | None:
        """Whom seeds may learn from."""
        return None if self.is_teacher_dropped else self.own_teacher

    @contextmanager
    def twin_at_hand(self) -> Iterator[TrainingArm]:
        """The twin on its device, as after all steps that are done; one that waits is fetched for the time inside."""
        if self.twin is None:
            raise GraftFailed("there is no twin")
        if self.bursts is None:
            yield self.twin
            return
        with self.bursts.at_hand(self.arm, self.steps_done, self.step_twin) as twin:
            yield twin

    def catch_up(self) -> None:
        """Let a twin that is behind make its steps, before something changes that they would be made under."""
        if self.bursts is not None and self.bursts.steps_made < self.steps_done:
            with self.twin_at_hand():
                pass

    def begin_twin_phase(self) -> None:
        """A twin is about to be made."""
        self.peaks.end_phase(has_twin=False)
        device = self.arm.device
        if device.type == "cuda":
            self.other_bytes = max(0, torch.cuda.memory_allocated(device) - held_by(self.arm).total)

    def end_twin_phase(self) -> int | None:
        """The twin is gone; the peak of its time, None where none is measured."""
        return self.peaks.end_phase(has_twin=True)

    def life(self, seed_id: str) -> Life:
        """A seed that was built and is still there."""
        life = self.lives.get(seed_id)
        if life is None:
            raise GraftFailed(f"seed {seed_id!r} isn't built here; known are: {', '.join(self.lives) or 'none'}")
        return life

    def graft(self, seed_id: str) -> Graft:
        """A seed in the main arm's forward pass."""
        graft = self.arm.graft(seed_id)
        if graft is None:
            raise GraftFailed(f"seed {seed_id!r} isn't in the host's forward pass")
        return graft

    def slot(self, slot_id: str) -> Slot:
        slot = self.slots.get(slot_id)
        if slot is None:
            known = ", ".join((*self.slots, *self.stack_slots))
            raise GraftFailed(f"the host has no slot {slot_id!r} for a module; it has {known}")
        return slot

    def key(self, purpose: str, *parts: str | int) -> int:
        """Seed of a side pass."""
        return draw_key(self.config.run_seed, purpose, *parts)

    def outputs(self) -> Tensor:
        """The main arm's outputs for the probe batch."""
        return probe_outputs(self.arm, self.task, key=self.key("probe outputs"))

    def topology_changed(self) -> None:
        """Sizes and costs are measured anew."""
        self.topology += 1
        inputs = self.task.probe_inputs()
        if self.slots:
            trace = trace_forward(self.arm.model, inputs, seeds=self.arm.modules[1:], forward=self.task.forward)
            self.slots = {slot.slot_id: slot for slot in refreshed(list(self.slots.values()), trace)}
        self.specs = (
            *(slot.spec(self.arm.model) for slot in self.slots.values()),
            *(slot.spec(self.arm.stacks) for slot in self.stack_slots.values()),
        )
        self.slot_parameters = tuple(
            (path, parameter)
            for path in sorted({path for spec in self.specs for path in (spec.read_path, spec.write_path)})
            for parameter in self.arm.model.get_submodule(path).parameters(recurse=False)
        )
        self.parameters = self.arm.parameter_count()
        self.macs = self._counted(self.arm, inputs)
        if self.twin is not None and self.bursts is None:
            self.twin_macs = self._counted(self.twin, inputs)

    def _counted(self, arm: TrainingArm, inputs: Any) -> MacCount:
        """The arm's work; a host that can't be grown trains also where its work can't be counted."""
        try:
            return count_macs(arm, inputs, forward=self.task.forward)
        except ConfigError:
            raise
        except Exception as error:
            if self.slots or self.stack_slots:
                raise
            self.uncounted = in_words(error)
            return NO_MACS


def all_finite(module: nn.Module) -> bool:
    return all(bool(torch.isfinite(parameter).all()) for parameter in module.parameters())
