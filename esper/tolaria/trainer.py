"""The training loop: steps, boundaries, epochs, to the end of the run or until it is told to stop.

No call leaves the process in a step; the control plane is heard at boundaries only. After a kill or a rollback a run
goes on from a checkpoint under a new generation, as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from esper.core.clock import SYSTEM_CLOCK, Clock
from esper.core.errors import EsperError, LossDiverged, RollbackFailed, RollbackLate, StepFailed
from esper.leyline import ModeUpdate
from esper.rpc.reporting.telemetry import UNHEARD
from esper.tolaria.loop.aggregation.epoch import aggregation_of, limits_of
from esper.tolaria.loop.arm_steps import ArmSteps
from esper.tolaria.loop.best_epoch import BestEpoch
from esper.tolaria.loop.compile_watch import CompileWatch
from esper.tolaria.loop.graphs.watch import GraphWatch
from esper.tolaria.loop.room import Room
from esper.tolaria.loop.session import Session
from esper.tolaria.loop.setback import Setback, of_failed_step
from esper.tolaria.metrics import EMERGENCY_HALT
from esper.tolaria.plane.hardware import HardwareMeter
from esper.tolaria.plane.null_control import NullControl
from esper.tolaria.plane.open_control import OpenControl
from esper.tolaria.plane.packets import PacketBuilder
from esper.tolaria.ranks.alike import buffers_alike, start_alike
from esper.tolaria.record.course.facts import facts_of
from esper.tolaria.record.ending.summary import build_summary, evaluated_average
from esper.tolaria.record.network import look_at
from esper.tolaria.record.observer import EpochDone, Observer, RunStarted
from esper.tolaria.record.progress import EpochMeter, Progress
from esper.tolaria.record.signals import Signals
from esper.tolaria.recovery.checkpoint import CheckpointStore
from esper.tolaria.recovery.generation import Generation, open_generation
from esper.tolaria.recovery.going_back import GoingBack
from esper.tolaria.recovery.saves import Saves
from esper.tolaria.recovery.shared import shared_evaluation, shared_snapshot
from esper.tolaria.recovery.snapshot import Snapshot
from esper.tolaria.task.feeds.feed import FedLoader
from esper.tolaria.task.objective.task import Evaluation, evaluated
from esper.tolaria.task.prepare import Prepared

HALTED = "halted"


class Steps(Protocol):
    """What makes the steps of a session."""

    def make(self) -> None:
        """Make the next step and keep its results in the log."""

    def regroup(self) -> None:
        """Forget what is known of the arms: they were replaced."""

    def close(self) -> None:
        """After the last step, wherever the run ends; once more does nothing."""

    @property
    def surgery_ms(self) -> float | None:
        """Time spent on gradient surgery so far; None where it is off."""


class Trainer:
    """Trains one prepared run to its end; with `store` None nothing is kept on the disk."""

    def __init__(
        self,
        run: Prepared,
        open_control: OpenControl,
        observer: Observer,
        *,
        store: CheckpointStore | None = None,
        clock: Clock = SYSTEM_CLOCK,
        should_stop: Callable[[], bool] = lambda: False,
        steps: Callable[[Session], Steps] = ArmSteps,
        plane: Callable[[], ModeUpdate] = lambda: UNHEARD,
    ) -> None:
        self._run = run
        self._config = run.config
        self._open_control = open_control
        self._store = store
        self._should_stop = should_stop
        self._session = Session(
            run=run,
            progress=Progress(signals=Signals(run.config.smoothing)),
            packets=PacketBuilder(run.run_id, HardwareMeter(run.device, run.config.threads, clock)),
            observer=observer,
            clock=clock,
            plane=plane,
        )
        self.steps = steps(self._session)
        self._room = Room(self._session, self.steps.regroup)
        self._saves = Saves(self._session, self.steps, store)
        self._going_back = GoingBack(self._session, self._saves)
        self._compile_watch = CompileWatch(self._session)
        self._graph_watch = GraphWatch(self._session)
        self.summary: dict[str, Any] | None = None
        """Of the run, once it is over."""
        self._is_closed = False
        self._stop_reason: str | None = None
        self._epoch_started_ns = clock.monotonic_ns()
        self._validation: tuple[float, float | None] | None = None
        self._best = BestEpoch(self._session)

    def train(self, *, resume: bool = False) -> dict[str, Any]:
        """Train to the end, or until told to stop; returns the summary. Raises StepFailed, RollbackFailed."""
        self.begin(resume=resume)
        try:
            while self.is_going:
                self.advance(self.steps.make)
            self.drain()
        finally:
            self.close()
        return self.finish()

    def begin(self, *, resume: bool = False) -> None:
        """Open the run; from here on `close` must follow."""
        if self._run.compiled_runs:
            self._run.executor.compile_blocks(self._run.compiled_runs)
        self._generation = self._begin(self._newest() if resume else None)
        self._run.executor.peaks.begin()

    @property
    def is_going(self) -> bool:
        """Whether there is another step to make."""
        return not self._is_over and self._stop_reason is None

    @property
    def step(self) -> int:
        """Steps done."""
        return self._session.progress.step

    @property
    def generation(self) -> int:
        """Of the run, as it is open now."""
        return self._session.progress.generation

    def stop(self, why: str) -> None:
        """Make no more steps."""
        self._stop_reason = why
        self._session.notice("tolaria.stopped", "WARNING", f"{why} after step {self.step}")

    def drain(self) -> None:
        """After the last step: hear what is in flight, end growth, and take the last figures."""
        if self._stop_reason is None:
            self._end_run()

    def close(self) -> None:
        """Let go of the steps and of the control plane; once more does nothing."""
        if not self._is_closed:
            self._is_closed = True
            try:
                self.steps.close()
            finally:
                self._saves.close()
                self._generation.control.close()

    def finish(self) -> dict[str, Any]:
        """The summary of the run, which is kept and told."""
        session = self._session
        session.timings.surgery_ms = self.steps.surgery_ms
        self._saves.agree_with_ranks()
        summary = build_summary(
            self._run,
            session.progress,
            session.timings,
            self._stop_reason,
            validation=self._validation,
            why_early=self._best.why_end if session.progress.step < self._run.total_steps else None,
            graphs=session.graphs,
        )
        self._compile_watch.look()
        self._graph_watch.end()
        for contradiction in summary["contradictions"]:
            session.notice("tolaria.contradiction", "ERROR", contradiction)
        if self._stop_reason is None:
            self._saves.write_final(self._generation.boundaries.pipeline, summary)
        session.observer.on_finish(summary)
        if isinstance(self._run.loader, FedLoader):
            self._run.loader.close()
        self.summary = summary
        return summary

    def _newest(self) -> Snapshot:
        """Where the run goes on, for all ranks: the first one alone reads checkpoints."""
        return shared_snapshot(self._session.ranks, self._saves.newest)

    def _begin(self, snapshot: Snapshot | None) -> Generation:
        """Open the run from its start, or from where a snapshot left it."""
        run, progress = self._run, self._session.progress
        if self._config.grow != "never":
            # Taken before anything is restored: the services know the host as it was at first.
            run.manifest()
        if snapshot is not None:
            self._saves.restore(snapshot)
            if self._config.grow != "never" and not snapshot.has_services:
                self._open_control = lambda opening: NullControl()
        else:
            start_alike(self._session.ranks, run.executor.arm)
            if self._store is not None:
                self._store.clear()
        generation = open_generation(
            self._session,
            self._open_control,
            self._store,
            snapshot,
            obstacle_to=self._going_back.obstacle,
            gives_up_course=self._saves.is_extending,
        )
        self._session.observer.on_start(
            RunStarted(
                run_id=run.run_id,
                generation=progress.generation,
                seed=self._config.seed,
                step=progress.step,
                total_steps=run.total_steps,
                epochs=-(-run.total_steps // run.loader.steps_per_epoch),
                steps_per_epoch=run.loader.steps_per_epoch,
                splits=run.splits.sizes,
                parameters=run.executor.arm.parameter_count(),
                task=run.task_line,
                is_resumed=snapshot is not None,
                facts=facts_of(run),
            )
        )
        self._session.observer.on_network(look_at(run.executor, progress.step))
        self._saves.keep_extension()
        if uncounted := run.executor.uncounted:
            self._session.notice("tolaria.uncounted", "WARNING", f"multiply-accumulates count as 0: {uncounted}")
        if run.start_line and snapshot is None:
            self._session.notice("tolaria.started_from", "INFO", run.start_line)
        for doubt in [*run.doubts, *([run.used_line] if run.used_line and snapshot is None else [])]:
            self._session.notice("tolaria.data_doubt", "WARNING", doubt)
        return generation

    def advance(self, make: Callable[[], None]) -> None:
        """One step, and the boundary after it if there is one; going back where the policy says so."""
        try:
            setback = self._made(make)
            if setback is not None:
                self._go_back(setback)
        except (StepFailed, RollbackFailed) as error:
            error.args = (f"{error}{self._kept_last_good(error)}",)
            raise

    def _made(self, make: Callable[[], None]) -> Setback | None:
        """Make a step; what it or its boundary came upon that takes the run back."""
        try:
            make()
            self._after_step()
        except StepFailed as error:
            setback = of_failed_step(error, self._config, self._session.progress)
            if setback is None:
                raise
            return setback
        return self._generation.boundaries.order_to_go_back

    def _kept_last_good(self, error: EsperError) -> str:
        """What stands on the disk for a resume; a disk that was too slow isn't waited for once more."""
        progress = self._session.progress
        good = progress.steady_step if isinstance(error, LossDiverged) else progress.proven_step
        is_late = self._session.ranks.any(isinstance(error, RollbackLate))
        return "" if is_late else self._saves.keep_last_good(good)

    @property
    def _is_over(self) -> bool:
        return self._session.progress.step >= self._run.total_steps or self._best.why_end is not None

    def _end_run(self) -> None:
        """The end of growth may change the network, and the last figures are to be its own."""
        session, why = self._session, self._best.why_end
        if session.progress.step < self._run.total_steps:
            session.notice("tolaria.ended_early", "INFO", f"ended after step {session.progress.step}: {why}")
        self._generation.boundaries.drain()
        self._saves.hear()
        if session.progress.step < self._run.total_steps:  # its last epoch was told
            self._validation = self._evaluated().figures
        else:
            self._end_epoch()

    @property
    def _is_boundary(self) -> bool:
        return self._session.progress.step % self._config.packet_steps == 0

    def _after_step(self) -> None:
        """A boundary, an epoch's end, a checkpoint: whichever is due, in this order. A run ends its last epoch."""
        session, boundaries = self._session, self._generation.boundaries
        is_boundary = self._is_boundary
        if is_boundary or session.is_epoch_end or self._is_over or self._run.executor.is_evaluated(self.step):
            self._have_whole()
        stop_reason = self._reason_to_stop() if is_boundary else None
        wants_state = is_boundary and (self._saves.is_due or stop_reason is not None)
        wants_snapshot = is_boundary and not (wants_state or self._is_over) and self._saves.is_snapshot_due
        if is_boundary:
            boundaries.cross(want_state=wants_state or wants_snapshot)
            self._saves.hear()
            self._compile_watch.look()
            self._graph_watch.look()
        else:
            self._run.executor.between_boundaries(session.progress.step)
        if session.is_epoch_end or self._is_over:
            boundaries.read_steps()
        if session.is_epoch_end and session.progress.step < self._run.total_steps:
            self._end_epoch()
        at_once = stop_reason is not None or self._is_over or boundaries.order_to_go_back is not None
        is_saved = wants_state and self._saves.write(boundaries.pipeline, at_once=at_once)
        if wants_snapshot:
            self._saves.keep(boundaries.pipeline)
        self._stop_reason = stop_reason
        if stop_reason is not None:
            kept = (
                ""
                if is_saved or self._store is None
                else "; this step could not be saved, the newest checkpoint stands"
            )
            session.notice("tolaria.stopped", "WARNING", f"{stop_reason} after step {session.progress.step}{kept}")
        if boundaries.order_to_stop is not None and stop_reason is not None:
            session.progress.history.doubt(stop_reason)
            session.notice(EMERGENCY_HALT.name, "CRITICAL", f"{stop_reason} at step {session.progress.step}")

    def _have_whole(self) -> None:
        """Between steps anybody may look at the arms."""
        if self._run.shards is not None:
            self._run.shards.gather(self._run.executor)

    def _reason_to_stop(self) -> str | None:
        """Of a run that ends at this boundary, with its state: the plane's order, or whoever interrupts it."""
        boundaries = self._generation.boundaries
        boundaries.heed()
        if boundaries.order_to_stop is not None:
            return f"{HALTED}: {boundaries.order_to_stop}"
        return "interrupted" if self._should_stop() else None

    def _end_epoch(self) -> None:
        session, meter = self._session, self._session.progress.meter
        told = self._evaluated()
        self._validation = told.figures
        average = self._room.measured(lambda: evaluated_average(self._run, self._run.splits.judge))
        now_ns = session.clock.monotonic_ns()
        aggregation = aggregation_of(session.progress, session.seed_meter, self._config)
        duration_ms = (now_ns - self._epoch_started_ns) / 1e6
        session.observer.on_epoch(
            EpochDone(
                epoch=session.epoch,
                step=session.progress.step,
                train_loss=meter.loss / max(1, meter.steps),
                train_accuracy=meter.accuracy / max(1, meter.steps) if self._run.task.counts_hits else None,
                validation_loss=told.loss,
                validation_accuracy=told.accuracy,
                validation_metrics={**told.metrics, **(average.named("EMA") if average else {})},
                duration_s=duration_ms / 1e3,
                reason=session.progress.reason.now,
                aggregation=aggregation,
            )
        )
        for name, message, facts in session.progress.gradients.warnings(
            aggregation, limits_of(self._config), duration_ms
        ):
            session.notice(name, "WARNING", message, facts=facts)
        self._best.note(told)
        session.progress.meter = EpochMeter()
        self._epoch_started_ns = now_ns

    def _evaluated(self) -> Evaluation:
        """The network as it is, on the judging data; every rank goes by the first one's figures."""
        run = self._run
        buffers_alike(run.ranks, run.executor)
        found = self._room.measured(lambda: evaluated(run.executor.arm, run.task, run.splits.judge))
        return shared_evaluation(run.ranks, found)

    def _go_back(self, setback: Setback) -> None:
        """Go on from the last good state under a new generation; what is in flight is dropped with the old one."""
        self._have_whole()
        snapshot = self._going_back.go(setback)
        self._generation.control.close()
        self._generation = open_generation(
            self._session,
            self._open_control,
            self._store,
            snapshot,
            obstacle_to=self._going_back.obstacle,
            gives_up_course=setback.gives_up_course,
        )
