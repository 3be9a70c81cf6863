"""One step of everything that trains: the main arm, its twin with the same batch and draws, incubating seeds.

Where memory runs out, growth gives way (`Room`): the twin then makes the step later, or in the grown arm's place.
"""

from __future__ import annotations

from typing import cast

from esper.kasmina.executor import TrainingArm, first_line
from esper.kasmina.executor.graft.graft import Graft
from esper.kasmina.executor.passes.batches import samples_in
from esper.leyline import SeedStage
from esper.tolaria.config import BY_SEEDS, BY_STAGE
from esper.tolaria.loop.aggregation import weight_of
from esper.tolaria.loop.arm import Batch
from esper.tolaria.loop.graphs import Backend, CudaBackend, Graphs
from esper.tolaria.loop.graphs.graphs import LATE, MAIN, TWIN
from esper.tolaria.loop.graphs.measures import Measures
from esper.tolaria.loop.remade import Remade
from esper.tolaria.loop.room import Room
from esper.tolaria.loop.session import Session
from esper.tolaria.loop.step import Groups, Stepper
from esper.tolaria.loop.step_log import StepResult, Told
from esper.tolaria.task.feeds.loader import Loader
from esper.tolaria.task.feeds.resident import Resident


class ArmSteps:
    """Makes the steps of a session."""

    def __init__(self, session: Session, backend: Backend | None = None) -> None:
        """`backend` records steps where the settings don't say by what."""
        run = session.run
        self._session = session
        self._executor = run.executor
        self._loader = run.loader
        self._carrier = run.carrier
        self._norm_every = run.config.packet_steps
        self._measures_all = run.config.pcgrad and run.config.surgery == BY_SEEDS
        weigh = self._weight if run.config.seed_weights == BY_STAGE else lambda graft: 1.0
        self._stepper = Stepper(run.task, run.config, run.device, session.clock, run.ranks, weigh, run.shards)
        self._topology = self._done = -1
        self._groups = Groups(host=())
        self._twin_groups = Groups(host=())
        self._remade = Remade()
        self._room = Room(session, self.regroup)
        self._executor.step_twin_by(self._make_late)
        self._resident: Resident | None = None
        """What gathers batches for graphs, where the device holds the set."""
        if backend is None and run.config.graphs:
            backend = CudaBackend(run.device)
        self._graphs = None if backend is None else self._graphs_by(backend)
        if self._graphs is not None:
            session.graphs, session.release = self._graphs.counts, self._graphs.release

    def _graphs_by(self, backend: Backend) -> Graphs:
        session = self._session
        if isinstance(self._loader, Loader):
            self._resident = Resident(self._loader)
        return Graphs(
            backend,
            self._stepper,
            session.run.config,
            session.clock,
            resident=self._resident,
            tell=self._tell_fallback,
        )

    def make(self) -> None:
        """Make the next step and keep its results in the log; with it those after it that but repeat its graph."""
        steps = self._row(self._session.progress.step)
        if steps:
            self._replay(steps)
        else:
            self._make()

    def _row(self, step: int) -> range:
        """Steps from this one on that all do what one graph does, and between which nobody looks; empty without."""
        session = self._session
        if self._graphs is None or self._resident is None or not self._executor.is_alone:
            return range(0)
        ends = [(step // every + 1) * every for every in (self._norm_every, self._loader.steps_per_epoch)]
        ends += [passed for passed in session.progress.history.passed_over if passed >= step]
        stop = min(*ends, session.run.total_steps)
        self._look(step)
        if stop <= step or not self._graphs.has_rows(self._resident.memory(step)):
            return range(0)
        return range(step, self._resident.alike(step, stop))

    def _replay(self, steps: range) -> None:
        """Such steps."""
        session, executor = self._session, self._executor
        graphs, resident = cast(Graphs, self._graphs), cast(Resident, self._resident)
        started_ns = session.clock.monotonic_ns()
        batch = resident.memory(steps.start)
        session.note_input(started_ns, len(steps))
        executor.before_step(steps[-1])
        with executor.watched_step():
            result, rates = graphs.row(batch, steps, measures_norm=steps.stop % self._norm_every == 0)
        if steps.stop % self._loader.steps_per_epoch == 0:
            resident.ahead(steps.stop)
        executor.note_norms(result.parameter_norms)
        session.progress.macs.step(samples_in(batch[0]) * len(steps), executor.macs, executor.twin_macs)
        session.progress.step = steps.stop
        step_ms = (session.clock.monotonic_ns() - started_ns) / 1e6 / len(steps)
        session.timings.step_ms.extend([step_ms] * len(steps))
        epoch = steps.start // self._loader.steps_per_epoch
        session.log.add_row(steps.start + 1, epoch, result, rates=rates, step_ms=step_ms)

    def _make(self) -> None:
        session, executor = self._session, self._executor
        started_ns = session.clock.monotonic_ns()
        step = session.progress.step
        if session.run.shards is not None:
            session.run.shards.cut(executor)
        source = self._source(step)
        batch = self._loader.batch(source) if self._resident is None else self._resident.memory(source)
        session.note_input(started_ns)
        if self._loader.is_replayable:
            self._fetch(step + 1)
        result, rate = self._both(batch, step)
        executor.shadow_step(batch[0], batch[1], step)
        session.progress.macs.step(samples_in(batch[0]), executor.macs, executor.twin_macs)
        session.progress.step = step + 1
        if not self._loader.is_replayable:
            self._fetch(step + 1)
        step_ms = (session.clock.monotonic_ns() - started_ns) / 1e6
        session.timings.step_ms.append(step_ms)
        session.log.add(step + 1, step // self._loader.steps_per_epoch, result, rate=rate, step_ms=step_ms)

    def _fetch(self, step: int) -> None:
        """Have the batch of a step that comes next on its way, beside what the device computes.

        The earlier the better; but a loader that may draw from the step's own generators must have its turn after it.
        """
        if step < self._session.run.total_steps:
            self._carrier.ahead(self._source(step))

    def _source(self, step: int) -> int:
        """The step whose batch is taken: for one that is passed over an earlier one, or at the beginning a later."""
        passed_over = self._session.progress.history.passed_over
        if step not in passed_over:
            return step
        earlier = (before for before in range(step - 1, -1, -1) if before not in passed_over)
        return next(earlier, max(passed_over) + 1)

    def _both(self, batch: Batch, step: int) -> tuple[Told, float]:
        """The step of both arms, as often as it takes until there is memory for it."""
        where = f"step {step + 1}"
        while True:
            result, rate, why = self._main(batch, step)
            if result is None:
                self._room.give_up(step, where, why)
                continue
            self._executor.note_norms(result.parameter_norms)
            if not self._executor.is_twin_live or not (why := self._twin(batch, step)):
                return result, rate
            if not self._room.let_wait(step, where, why):
                self._room.give_up(step, where, why)
                continue
            return result, rate

    def _main(self, batch: Batch, step: int) -> tuple[Told | None, float, str]:
        """The main arm's step and its rate; no result but the reason where memory ran out."""
        executor = self._executor
        self._look(step)
        arm, twin = executor.arm, executor.twin
        rate = arm.scheduler.apply(arm.optimizer, step)
        if twin is not None and executor.is_twin_live:
            twin.scheduler.apply(twin.optimizer, step)
        executor.before_step(step)
        is_measured = (step + 1) % self._norm_every == 0
        try:
            with executor.watched_step():
                result = self._stepped(arm, batch, step, is_measured=is_measured)
            executor.note_seed_norms(result.seed_norms)
        except Exception as error:
            if twin is None or not self._room.may_give_way(error):
                raise
            # Only its words: the error holds the frames, and these the activations.
            self._forget_graphs()
            return None, rate, first_line(error)
        return result, rate, ""

    def _stepped(self, arm: TrainingArm, batch: Batch, step: int, *, is_measured: bool) -> Told:
        """The main arm's step, replayed where a graph has it."""
        seed_norms = self._executor.seed_norms if arm.grafts else None
        measures = Measures(
            gradients=bool(arm.grafts) and is_measured,
            outputs=any(graft.is_measuring for graft in arm.grafts),
        )
        notes = arm.grafts and (is_measured or self._measures_all)
        note = self._session.seed_meter.note if notes else None

        def eagerly(measures_norm: bool) -> StepResult:
            if self._resident is not None:
                self._resident.place()
                self._resident.gather(batch)
            return self._stepper.run(
                arm, batch, step, self._groups, measures_norm=measures_norm, seed_norms=seed_norms, note=note
            )

        if self._graphs is None:
            return eagerly(is_measured)
        return self._graphs.step(
            MAIN,
            arm,
            batch,
            step,
            self._groups,
            eagerly=eagerly,
            measures_norm=is_measured,
            measures=measures,
            note=note,
            seed_norms=seed_norms,
        )

    def _twin(self, batch: Batch, step: int) -> str:
        """A live twin's step; why not, where memory ran out and it can be made again."""
        twin = cast(TrainingArm, self._executor.twin)

        def eagerly(measures_norm: bool) -> StepResult:
            self._remade.begin(twin)
            return self._stepper.run(twin, batch, step, self._twin_groups, measures_norm=measures_norm)

        try:
            result: Told
            if self._graphs is None:
                result = eagerly(False)
            else:
                result = self._graphs.step(TWIN, twin, batch, step, self._twin_groups, eagerly=eagerly)
        except Exception as error:
            if not self._room.may_give_way(error) or not self._remade.restore():
                raise
            self._forget_graphs()
            return first_line(error)
        self._remade.end()
        self._session.log.add_twin(self._executor.twin_of, step + 1, result)
        return ""

    def _look(self, step: int) -> None:
        """Before a step, at the arms: what is known of those that have changed is void."""
        executor = self._executor
        is_changed = executor.topology != self._topology
        if is_changed:
            self._regroup()
        if self._graphs is not None and (is_changed or self._may_have_moved(step)):
            self._graphs.look(executor.arm, executor.twin if executor.is_twin_live else None)

    def _may_have_moved(self, step: int) -> bool:
        """Whether something was done since the last step that a recording of one might not outlive.

        Between boundaries a twin that waits may be fetched, and the arm's memory be elsewhere then.
        """
        done, self._done = self._done, self._executor.directives_done
        is_behind_boundary = step % self._norm_every == 0 and bool(self._executor.seeds)
        return done != self._done or is_behind_boundary or self._executor.is_twin_waiting

    def _forget_graphs(self) -> None:
        """Where memory runs out, that of graphs is wanted first."""
        if self._graphs is not None:
            self._graphs.forget()

    def _tell_fallback(self, reason: str, why: str) -> None:
        self._session.notice(
            "tolaria.graph_fallback",
            "WARNING",
            f"a step can't be recorded and stays eager: {reason}: {why}",
            facts={"reason": reason},
        )

    def _make_late(self, twin: TrainingArm, step: int) -> None:
        """A step that a twin which waits has missed: the same batch, the same draws."""
        if self._executor.topology != self._topology:
            self._regroup()
        twin.scheduler.apply(twin.optimizer, step)
        self._executor.before_twin_step(twin, step)
        batch = self._loader.batch(self._source(step))

        def made() -> StepResult:
            return self._stepper.run(twin, batch, step, self._twin_groups)

        result = made() if self._graphs is None else self._graphs.eager(LATE, twin, made)
        self._session.log.add_twin(self._executor.twin_of, step + 1, result)
        self._fetch(step + 1)

    def _weight(self, graft: Graft) -> float:
        """By the stage that Kasmina last told."""
        known = self._session.progress.history.seeds.get(graft.seed_id)
        return weight_of(SeedStage.SEED_STAGE_UNSPECIFIED if known is None else known.stage, graft.alpha)

    @property
    def surgery_ms(self) -> float | None:
        """Time spent on gradient surgery so far; None where it is off, or part of graphs, which tell no time."""
        return None if self._graphs is not None and self._graphs.counts.replays else self._stepper.surgery_ms

    def regroup(self) -> None:
        """Forget what is known of the arms: they were replaced."""
        self._groups, self._twin_groups, self._topology = Groups(host=()), Groups(host=()), -1
        self._session.seed_meter.forget()
        self._forget_graphs()

    def close(self) -> None:
        """Let go of the graphs."""
        self._forget_graphs()

    def _regroup(self) -> None:
        """List the parameters of both arms anew after a change of the topology."""
        executor, self._topology = self._executor, self._executor.topology
        self._groups = Groups(host=executor.host_parameters(), seeds=executor.seed_parameters())
        twin = executor.twin
        if twin is not None:
            seeds = [parameter for graft in twin.grafts for parameter in graft.module.parameters()]
            self._twin_groups = Groups(host=twin.host_parameters(), seeds=seeds)
