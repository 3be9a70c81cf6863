"""One arm's step as a graph, for batches of one form: what it reads and writes stays where it is in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from esper.kasmina.executor import TrainingArm
from esper.kasmina.executor.passes.batches import leaves, mapped
from esper.tolaria.loop.aggregation import Note
from esper.tolaria.loop.arm import Batch
from esper.tolaria.loop.graphs.backend import Backend, Graph
from esper.tolaria.loop.graphs.measures import NOTHING, Measures, RecordedMeasures
from esper.tolaria.loop.graphs.rates import Rates
from esper.tolaria.loop.step import Groups, SeedNorms, Stepper, norms_of
from esper.tolaria.loop.step_log import MEASURED, Replays, Row, StepResult
from esper.tolaria.task.feeds.resident import Resident

NORM = "gradient_norm"
SEED = "seed "
"""What names of seeds' norms begin with."""


class CapturedStep:
    """Everything of a step but its batch, its rates and its draws is recorded.

    So is the gradient's norm where gradients are clipped by it; else it is measured behind those replays that tell it.
    A step that also measures seeds shares the batch and the gradients of the one that doesn't.
    """

    def __init__(
        self,
        stepper: Stepper,
        arm: TrainingArm,
        groups: Groups,
        batch: Batch,
        *,
        resident: Resident | None,
        is_main: bool,
        rates: Rates | None,
        seed_norms: SeedNorms | None,
        rows: Tensor | None = None,
        measures: Measures = NOTHING,
        plain: CapturedStep | None = None,
    ) -> None:
        """A resident batch is read where it is; others are copied. The main arm's step gathers it first.

        Without `rates` the optimiser's step is made eagerly, behind each replay. What the main arm's step tells of a
        resident batch it also writes into `rows`, where the batch is in its epoch: [batches, values]. Where something
        is measured, `plain` is the same step without.
        """
        self._stepper = stepper
        self._arm = arm
        self._groups = groups
        self._seed_norms = seed_norms
        self._rates = rates
        self._measures = RecordedMeasures(arm, measures)
        self._plain = plain
        if plain is None:
            self._batch: Batch = mapped(batch, _owned) if resident is None else batch
        else:
            self._batch = plain._batch
        self._resident = resident if is_main else None
        self._rows = rows if is_main else None
        self._leaves = list(leaves(self._batch))
        self._gradients: list[tuple[nn.Parameter, Tensor | None]] = []
        self._places: list[int] = []
        self._clips = stepper.clips
        self._result: StepResult | None = None
        self._names: tuple[str, ...] = ()
        self._graph: Graph | None = None
        self._is_prepared: bool | None = None
        """Whether each step has to be; None until the first was made."""

    def capture(self, backend: Backend, step: int, generators: Sequence[torch.Generator]) -> None:
        """Record the step. Raises whatever keeps it from that; nothing has moved on the device then."""
        scaler = self._arm.scaler
        if self._resident is not None:
            self._resident.place()  # for a backend that computes what it records
        self._stepper.prepare_replay(step)
        try:
            with self._measures.recorded():
                self._graph = backend.capture(lambda: self._compute(backend, step), generators)
        except BaseException:
            if scaler is not None:  # half a step's notes would be taken for the next one's
                scaler._per_optimizer_states.clear()
            raise
        self._gradients = [(parameter, parameter.grad) for parameter in self._parameters]
        self._places = self._where()

    @property
    def _parameters(self) -> tuple[nn.Parameter, ...]:
        return (*self._groups.host, *self._groups.seeds)

    @property
    def is_intact(self) -> bool:
        """Whether its gradients are still where it writes them: an arm that waited in host memory took them along."""
        return self._places == self._where()

    def _where(self) -> list[int]:
        return [gradient.data_ptr() for _, gradient in self._gradients if gradient is not None]

    def replay(self, batch: Batch, step: int, *, measures_norm: bool, note: Note | None = None) -> Replays:
        """The step with this batch, which has the form of the recorded one; `note` takes what seeds ask of it."""
        graph, _ = self._recorded()
        if batch is not self._batch:
            torch._foreach_copy_(self._leaves, list(leaves(batch)))
        if self._resident is not None:
            self._resident.place()
        if self._rates is not None:
            self._rates.refresh()
        self._stepper.prepare_replay(step)
        graph.replay()
        if self._is_prepared is None:
            self._is_prepared = self._stepper.is_prepared(step)
        if self._rates is None:
            self._arm.optimizer.step()
        rows = graph.told.clone()[None]
        self._measures.tell(self._names, rows[0], note)
        return self._told(rows, measures_norm=measures_norm)

    def replay_row(self, steps: range, *, measures_norm: bool) -> tuple[Replays, list[float]]:
        """Steps of one epoch in a row with resident batches, and their rates: the host does what none can do without.

        The norm that is measured is of the last.
        """
        graph, _ = self._recorded()
        if self._resident is None or self._rows is None:
            raise RuntimeError("steps whose batches aren't resident can't be replayed in a row")
        arm, rates, is_prepared = self._arm, self._rates, self._is_prepared is not False
        apply, replay, told = arm.scheduler.apply, graph.replay, list[float]()
        first = self._resident.place(len(steps))
        for step in steps:
            told.append(apply(arm.optimizer, step))
            if rates is not None:
                rates.refresh()
            if is_prepared:
                self._stepper.prepare_replay(step)
            replay()
            if rates is None:
                arm.optimizer.step()
        return self._told(self._rows[first : first + len(steps)].clone(), measures_norm=measures_norm), told

    def _recorded(self) -> tuple[Graph, StepResult]:
        if self._graph is None or self._result is None:
            raise RuntimeError("a step that wasn't captured can't be replayed")
        return self._graph, self._result

    def _told(self, rows: Tensor, *, measures_norm: bool) -> Replays:
        """What replays told, with the norm of the gradients that the last of them left, where it is wanted."""
        _, recorded = self._recorded()
        norm, norms = norms_of(self._groups.host) if measures_norm and not self._clips else (None, {})
        return Replays(
            rows=rows,
            names=self._names,
            named=tuple(recorded.named),
            pairs=recorded.pairs,
            gradient_norm=norm,
            parameter_norms=norms,
            seed_norms={seed_id: rows[-1, self._names.index(SEED + seed_id)] for seed_id in recorded.seed_norms},
        )

    def bind_gradients(self) -> None:
        """Parameters' gradients are those that the graph writes: another step has left its own."""
        for parameter, gradient in self._gradients:
            parameter.grad = gradient

    def take_gradients(self) -> bool:
        """Copy the gradients that another step has left to where the graph writes its own, and bind these.

        False where other parameters have gradients; then nothing is done.
        """
        pairs = [(to, parameter.grad) for parameter, to in self._gradients]
        if any((to is None) != (made is None) for to, made in pairs):
            return False
        there = [(to, made) for to, made in pairs if to is not None and made is not None]
        torch._foreach_copy_([to for to, _ in there], [made for _, made in there])
        self.bind_gradients()
        return True

    def _compute(self, backend: Backend, step: int) -> Tensor:
        if self._resident is not None:
            self._resident.gather(self._batch)
        with nullcontext() if self._rates is None else self._rates.in_place():
            result = self._stepper.compute(
                self._arm,
                self._batch,
                step,
                self._groups,
                seed_norms=self._seed_norms,
                steps_optimizer=self._rates is not None,
                note=self._measures.note,
                beside=backend.beside,
            )
        # Graphs that were made before this one may write over what it leaves, and none over what the plain one leaves.
        if self._plain is not None and not self._plain.take_gradients():
            raise RuntimeError("a step that measures seeds leaves gradients to other parameters than one that doesn't")
        measured = self._measures.values()
        if result.gradient_norm is not None or result.conflict_rate is not None or result.seed_norms or measured:
            backend.join()  # else all that is told was known before the backward pass
        with backend.beside(result):
            row = row_of(result, has_norm=self._clips, measured=measured)
            if self._rows is not None and self._resident is not None:
                self._resident.keep(self._rows, row.values)
        backend.join()
        self._result, self._names = result, row.names
        return row.values


def row_of(result: StepResult, *, has_norm: bool, measured: Mapping[str, Tensor] | None = None) -> Row:
    """All that a recorded step tells, in one piece, with what it measured by name."""
    wanted = (name for name in MEASURED if has_norm or name != NORM)
    found = {name: value for name in wanted if (value := getattr(result, name)) is not None}
    of_seeds = {SEED + seed_id: norm for seed_id, norm in result.seed_norms.items()}
    told = {"loss": result.loss, **found, **result.named, **of_seeds, **(measured or {})}
    return Row(torch.stack(list(told.values())), tuple(told))


def _owned(leaf: Any) -> Any:
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf
