"""Which steps are replayed: when a network's step is recorded, what makes a recording void, and why a step is eager.

An arm's graphs are known by the form of the batch. They hold for one network at one place in memory: a graft, a fold,
a blend of another kind, a restored state void them all, and after as many eager steps as at first they are made anew.
What changes from step to step is in device memory: the batch, rates, draws, a seed's alpha. Steps that also measure
seeds have recordings of their own, each made once the plain one is there.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.optim import Optimizer

from esper.core.clock import Clock
from esper.kasmina.executor import TrainingArm, first_line, is_out_of_memory
from esper.kasmina.executor.passes.batches import mapped
from esper.kasmina.executor.slots.between import KeyedDropout
from esper.tolaria.config import TrainConfig
from esper.tolaria.loop.aggregation import Note
from esper.tolaria.loop.arm import Batch
from esper.tolaria.loop.graphs.backend import Backend
from esper.tolaria.loop.graphs.captured import CapturedStep, row_of
from esper.tolaria.loop.graphs.measures import NOTHING, Measures
from esper.tolaria.loop.graphs.obstacles import captures_optimizer, obstacle
from esper.tolaria.loop.graphs.rates import Rates
from esper.tolaria.loop.step import Groups, SeedNorms, Stepper
from esper.tolaria.loop.step_log import Replays, StepResult, Told
from esper.tolaria.record.figures.graph_counts import GraphCounts
from esper.tolaria.task.feeds.resident import Resident

WARM_UP_STEPS = 3
"""Eager steps of each form of batches before it is recorded."""
MEASURED_WARM_UP_STEPS = 2
"""Eager steps that measure the same of seeds before one is recorded: recording costs about as much as one of them, so
that a phase which is over after the next has lost less than that."""
FORMS = 4
"""Forms of batches that an arm has graphs of; others are stepped eagerly."""
Eagerly = Callable[[bool], StepResult]
"""Makes a step without a graph, and measures the gradient's norm if told so."""
MAIN, TWIN = "main", "twin"
WARM_UP, MEASURED, SHAPE, BEHIND, LATE, GIVEN_UP = "warm_up", "measured", "shape", "behind", "late", "given_up"
"""Why a step is eager: before a recording, because measuring seeds in it can't be recorded, by the batch, because the
main arm's graph isn't there yet, because a twin that waits makes it, or because none could be made."""
OUT_OF_MEMORY, FAILED = "out_of_memory", "capture_failed"


@dataclass(slots=True)
class _Recording:
    """Of steps that measure the same."""

    warm_steps: int = 0
    step: CapturedStep | None = None


@dataclass(slots=True)
class _Form:
    """What is known of batches of one form."""

    rows: Tensor | None = None
    """Room for what steps tell that are replayed in a row; None where none are."""
    recordings: dict[Measures, _Recording] = field(default_factory=dict)

    @property
    def step(self) -> CapturedStep | None:
        """The recorded step that measures nothing."""
        return self.of(NOTHING).step

    def of(self, measures: Measures) -> _Recording:
        """What is known of steps that measure this."""
        return self.recordings.setdefault(measures, _Recording())


@dataclass(slots=True)
class _ArmGraphs:
    network: Hashable = None
    """That they were made for."""
    memory: Hashable = None
    """Where its optimiser's state was when the first was made; None before that, as the first steps make state."""
    forms: dict[Hashable, _Form] = field(default_factory=dict)
    bound: CapturedStep | None = None
    """Whose gradients the parameters hold."""
    given_up: str = ""
    unrecorded: set[Measures] = field(default_factory=set)
    """What can't be measured in a recorded step."""

    def forget(self) -> None:
        """The graphs are void, and what kept others from being made may be gone."""
        self.void()
        self.given_up = ""
        self.unrecorded.clear()

    def void(self) -> None:
        """The graphs are void."""
        self.forms.clear()
        self.memory, self.bound = None, None

    def look(self, arm: TrainingArm | None) -> bool:
        """Whether the arm is still the one that the graphs were made for; else it is from now on, without graphs."""
        network = None if arm is None else network_of(arm)
        is_same = network == self.network
        if is_same and arm is not None and self.memory is not None:
            recordings = [each for form in self.forms.values() for each in form.recordings.values()]
            steps = [recording.step for recording in recordings if recording.step is not None]
            is_same = self.memory == state_of(arm) and all(step.is_intact for step in steps)
        if not is_same:
            self.forget()
            self.network = network
        return is_same


class Graphs:
    """The graphs of a session's arms."""

    def __init__(
        self,
        backend: Backend,
        stepper: Stepper,
        config: TrainConfig,
        clock: Clock,
        *,
        resident: Resident | None = None,
        tell: Callable[[str, str], None] = lambda reason, why: None,
    ) -> None:
        """The main arm's graph gathers `resident` batches; `tell` hears the reason and the words of each fallback."""
        self.counts = GraphCounts()
        self._backend = backend
        self._stepper = stepper
        self._config = config
        self._clock = clock
        self._resident = resident
        self._tell = tell
        self._arms = {MAIN: _ArmGraphs(), TWIN: _ArmGraphs()}
        self._rates: WeakKeyDictionary[Optimizer, Rates | None] = WeakKeyDictionary()

    def look(self, main: TrainingArm, twin: TrainingArm | None) -> None:
        """At the arms as they are now: graphs of what has changed are void.

        The main arm's are made before the twin's, which would otherwise write over what those leave to be read.
        """
        of_main, of_twin = self._arms.values()
        if not of_main.look(main):
            of_twin.forget()
            self._rates.clear()
            self._forget_memory()
        of_twin.look(twin)

    def forget(self) -> None:
        """Let go of all graphs and of their memory."""
        for graphs in self._arms.values():
            graphs.forget()
            graphs.network = None
        self._rates.clear()
        self._forget_memory()

    def release(self) -> bool:
        """Let go of them for the memory that they hold; whether there was any."""
        has_any = any(form.step is not None for graphs in self._arms.values() for form in graphs.forms.values())
        if has_any:
            self.forget()
        return has_any

    def _forget_memory(self) -> None:
        self._backend.forget()

    def step(
        self,
        role: str,
        arm: TrainingArm,
        batch: Batch,
        step: int,
        groups: Groups,
        *,
        eagerly: Eagerly,
        measures_norm: bool = False,
        measures: Measures = NOTHING,
        note: Note | None = None,
        seed_norms: SeedNorms | None = None,
    ) -> Told:
        """Make the step by a graph, or `eagerly`; `note` takes what seeds ask of the gradient, where it is measured."""
        graphs = self._arms[role]
        form = self._form_of(batch)
        known = graphs.forms.get(form)
        made = None if known is None else known.of(measures).step
        reason = self._why_eager(role, graphs, form, known, measures)
        if not reason and known is not None and made is None:
            made = self._captured(role, arm, batch, step, groups, seed_norms, known, measures)
            reason = "" if made is not None else MEASURED if measures else GIVEN_UP
        if reason or made is None:
            if reason != WARM_UP:
                return self.eager(reason, arm, partial(eagerly, measures_norm), graphs)
            known = graphs.forms.setdefault(form, _Form())
            return self._warm(role, arm, partial(eagerly, measures_norm), known, measures)
        self._bind(graphs, made)
        self.counts.replays += 1
        self.counts.measured_replays += bool(measures)
        return made.replay(batch, step, measures_norm=measures_norm, note=note)

    def has_rows(self, batch: Batch) -> bool:
        """Whether the main arm's steps with such a batch can be replayed in a row."""
        known = self._arms[MAIN].forms.get(self._form_of(batch))
        return known is not None and known.step is not None and known.rows is not None

    def row(self, batch: Batch, steps: range, *, measures_norm: bool) -> tuple[Replays, list[float]]:
        """The main arm's steps in a row, all with such a batch, of which it `has_rows`; and their rates."""
        graphs = self._arms[MAIN]
        made = graphs.forms[self._form_of(batch)].step
        if made is None:
            raise RuntimeError("a step that wasn't captured can't be replayed")
        self._bind(graphs, made)
        self.counts.replays += len(steps)
        return made.replay_row(steps, measures_norm=measures_norm)

    def _bind(self, graphs: _ArmGraphs, made: CapturedStep) -> None:
        if graphs.bound is not made:
            made.bind_gradients()
            graphs.bound = made

    def _form_of(self, batch: Batch) -> Hashable:
        """The form; batches that come in the same memory are of one."""
        return form_of(batch) if self._resident is None else id(batch)

    def _why_eager(self, role: str, graphs: _ArmGraphs, form: Hashable, known: _Form | None, measures: Measures) -> str:
        if graphs.given_up:
            return GIVEN_UP
        if measures in graphs.unrecorded:
            return MEASURED
        if known is None and len(graphs.forms) >= FORMS:
            return SHAPE
        if known is None:
            return WARM_UP
        recording = known.of(measures)
        if recording.step is None and recording.warm_steps < (MEASURED_WARM_UP_STEPS if measures else WARM_UP_STEPS):
            return WARM_UP
        main = self._arms[MAIN]
        if role == TWIN and known.step is None and not main.given_up:
            of_main = main.forms.get(form)
            return "" if of_main is not None and of_main.step is not None else BEHIND
        return ""

    def _warm(
        self, role: str, arm: TrainingArm, make: Callable[[], StepResult], form: _Form, measures: Measures
    ) -> StepResult:
        """A step that does all that will be recorded, so that nothing is loaded while it is.

        Of a step that measures, this is known once the plain one is recorded, whose gradients it shares.
        """
        graphs, plain = self._arms[role], form.step
        with self._backend.warm_up():
            result = self.eager(WARM_UP, arm, make, graphs)
            told = row_of(result, has_norm=self._stepper.clips).values
            if measures and plain is not None:
                graphs.bound = plain if plain.take_gradients() else None
            elif self._resident is not None and role == MAIN and not arm.grafts:
                form.rows = self._resident.rows(told) if form.rows is None else form.rows
                self._resident.keep(form.rows, told)
        if not measures or plain is not None:
            form.of(measures).warm_steps += 1
        return result

    def eager(
        self, reason: str, arm: TrainingArm, make: Callable[[], StepResult], graphs: _ArmGraphs | None = None
    ) -> StepResult:
        """Make a step without a graph, with the arithmetic of one: where a run was resumed must not show."""
        if graphs is not None:
            graphs.bound = None
        rates = self._rates_of(arm)
        if rates is None:
            result = make()
        else:
            rates.refresh()
            with rates.in_place():
                result = make()
        self.counts.eager[reason] += 1
        return result

    def _rates_of(self, arm: TrainingArm) -> Rates | None:
        """Rates that a graph can read; None where the optimiser's step stays out of it."""
        if arm.optimizer not in self._rates:
            self._rates[arm.optimizer] = Rates(arm.optimizer, arm.device) if captures_optimizer(arm) else None
        return self._rates[arm.optimizer]

    def _captured(
        self,
        role: str,
        arm: TrainingArm,
        batch: Batch,
        step: int,
        groups: Groups,
        seed_norms: SeedNorms | None,
        form: _Form,
        measures: Measures,
    ) -> CapturedStep | None:
        """The recorded step, which the form knows from now on; None where it can't be, which is told."""
        graphs = self._arms[role]
        name, words = obstacle(self._config, arm)
        if name:
            self._give_up(graphs, name, words)
            return None
        started_ns = self._clock.monotonic_ns()
        rates = self._rates_of(arm)
        made = CapturedStep(
            self._stepper,
            arm,
            groups,
            batch,
            resident=self._resident,
            is_main=role == MAIN,
            rates=rates,
            seed_norms=seed_norms,
            rows=form.rows,
            measures=measures,
            plain=form.step if measures else None,
        )
        try:
            made.capture(self._backend, step, _generators(arm))
        except Exception as error:  # noqa: BLE001 - a host's own code, under a recording, may raise anything
            self._fall_back(graphs, measures, error)
            return None
        form.of(measures).step = made
        graphs.memory = state_of(arm)
        self.counts.capture_ms.append((self._clock.monotonic_ns() - started_ns) / 1e6)
        self.counts.steps_optimizer = rates is not None
        self.counts.pool_bytes = max(self.counts.pool_bytes, self._backend.pool_bytes)
        return made

    def _fall_back(self, graphs: _ArmGraphs, measures: Measures, error: Exception) -> None:
        """A recording failed: all graphs are void, because generators have forgotten the draws that they are bound to.

        Where it measured, the plain step is recorded anew; else the arm is given up.
        """
        for each in self._arms.values():
            each.void()
        self._forget_memory()
        if measures:
            graphs.unrecorded.add(measures)
            self._count_fallback(MEASURED, first_line(error))
        else:
            self._give_up(graphs, OUT_OF_MEMORY if is_out_of_memory(error) else FAILED, first_line(error))

    def _give_up(self, graphs: _ArmGraphs, reason: str, why: str) -> None:
        graphs.forms.clear()
        graphs.given_up = reason
        self._count_fallback(reason, why)

    def _count_fallback(self, reason: str, why: str) -> None:
        self.counts.fallbacks[reason] += 1
        self._tell(reason, why)


def network_of(arm: TrainingArm) -> Hashable:
    """What a recording of the arm's step depends on and no step changes: its parts, where they are, its settings."""
    tensors = [tensor for module in arm.modules for tensor in (*module.parameters(), *module.buffers())]
    return (
        id(arm),
        tuple((tensor.data_ptr(), tensor.shape, tensor.requires_grad) for tensor in tensors),
        tuple(graft.recorded_as() for graft in arm.grafts),
        tuple(
            (len(group["params"]), *((name, str(value)) for name, value in group.items() if name not in RATES))
            for group in arm.optimizer.param_groups
        ),
    )


def state_of(arm: TrainingArm) -> Hashable:
    """Where the optimiser's state is."""
    held = (value for state in arm.optimizer.state.values() for value in state.values())
    return tuple(value.data_ptr() for value in held if isinstance(value, Tensor))


RATES = frozenset({"params", "lr", "initial_lr"})
"""What of a group changes with each step, and isn't recorded."""


def _generators(arm: TrainingArm) -> list[torch.Generator]:
    parts = (part for graft in arm.grafts for part in graft.module.modules())
    return [generator for part in parts if isinstance(part, KeyedDropout) for generator in part.generators]


def form_of(batch: Batch) -> Hashable:
    """Of batches that one recording serves: the same tensors in the same places, and the same of everything else."""
    inputs, targets = batch
    if isinstance(inputs, Tensor) and isinstance(targets, Tensor):
        return _leaf(inputs), _leaf(targets)
    found: list[Hashable] = []
    mapped(batch, lambda leaf: found.append(_leaf(leaf) if isinstance(leaf, Tensor) else repr(leaf)))
    return tuple(found)


def _leaf(tensor: Tensor) -> Hashable:
    return tensor.shape, tensor.stride(), tensor.dtype
