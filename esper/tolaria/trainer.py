"""The training loop: steps, boundaries, epochs, checkpoints, and going back when a step can't be used.

No call leaves the process in a step; the control plane is heard at boundaries only. After a kill or a rollback a run
goes on from a checkpoint under a new generation, as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from esper.core.clock import SYSTEM_CLOCK, Clock
from esper.core.errors import ConfigError, NonFiniteLoss, RollbackFailed
from esper.leyline import HostManifest
from esper.tolaria.arm_steps import ArmSteps
from esper.tolaria.boundaries import Boundaries
from esper.tolaria.checkpoint import CheckpointStore, encode
from esper.tolaria.observer import CheckpointWritten, EpochDone, Observer, RunStarted
from esper.tolaria.packet_result import PacketResult, RunStates
from esper.tolaria.packets import PacketBuilder
from esper.tolaria.pipeline import Pipeline
from esper.tolaria.prepare import Prepared
from esper.tolaria.progress import EpochMeter, Progress
from esper.tolaria.rollback import Rollback
from esper.tolaria.session import Session
from esper.tolaria.signals import Signals
from esper.tolaria.snapshot import Snapshot, settings_of
from esper.tolaria.summary import build_summary
from esper.tolaria.task import evaluate

if TYPE_CHECKING:
    from esper.tolaria.control import Control


@dataclass(frozen=True, kw_only=True, slots=True)
class Opening:
    """What opens a run at the control plane, or goes on with one under a new generation."""

    generation: int
    step: int
    total_steps: int
    manifest: Callable[[], HostManifest]
    """The host as it was before any growth. Raises ConfigError where it has no usable slot."""
    states: RunStates | None
    """State of both services at the checkpoint from which the run goes on; None for a new run."""


OpenControl = Callable[[Opening], "Control"]


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
    ) -> None:
        self._run = run
        self._config = run.config
        self._open_control = open_control
        self._store = store
        self._should_stop = should_stop
        self._session = Session(
            run=run,
            progress=Progress(signals=Signals(run.config.smoothing)),
            packets=PacketBuilder(run.run_id, run.device, run.config.threads),
            observer=observer,
            clock=clock,
        )
        self._steps = ArmSteps(self._session)
        self._rollback = Rollback(store, clock)
        self._owes_checkpoint = False
        self._slower = 0
        self._stop_reason: str | None = None
        self._epoch_started_ns = clock.monotonic_ns()

    def train(self, *, resume: bool = False) -> dict[str, Any]:
        """Train to the end, or until told to stop; returns the summary. Raises StepFailed, RollbackFailed."""
        self._begin(self._saved() if resume else None)
        session = self._session
        try:
            while session.progress.step < self._run.total_steps and self._stop_reason is None:
                self._advance()
            if self._stop_reason is None:
                self._boundaries.drain()
        finally:
            self._control.close()
        session.timings.surgery_ms = self._steps.surgery_ms
        summary = build_summary(self._run, session.progress, session.timings, self._stop_reason)
        if self._store is not None and self._stop_reason is None:
            self._store.write_final(encode(self._snapshot((), None, is_final=True).to_state()))
        session.observer.on_finish(summary)
        return summary

    def _saved(self) -> Snapshot:
        """The newest checkpoint, checked against the settings."""
        if self._store is None:
            raise ConfigError("resume", True, "this run keeps no checkpoints")
        if self._store.final_path.exists():
            raise ConfigError("resume", True, f"the run is finished: {self._store.final_path} is there")
        found = self._store.newest()
        for damage in found.damaged:
            self._session.notice("tolaria.checkpoint_damaged", "ERROR", f"passed over: {damage}")
        snapshot = Snapshot.from_state(found.state)
        snapshot.check_continues(self._config, self._run.run_id)
        return snapshot

    def _begin(self, snapshot: Snapshot | None) -> None:
        run, progress = self._run, self._session.progress
        if self._config.grow != "never":
            # Taken before anything is restored: the services know the host as it was at first.
            run.manifest()
        if snapshot is not None:
            self._restore(snapshot)
        elif self._store is not None:
            self._store.clear()
        self._open(snapshot)
        self._session.observer.on_start(
            RunStarted(
                run_id=run.run_id,
                generation=progress.generation,
                seed=self._config.seed,
                step=progress.step,
                total_steps=run.total_steps,
                epochs=self._config.epochs,
                steps_per_epoch=run.loader.steps_per_epoch,
                splits=run.splits.sizes,
                parameters=run.executor.arm.parameter_count(),
                is_resumed=snapshot is not None,
            )
        )

    def _open(self, snapshot: Snapshot | None) -> None:
        """Open the control plane under a generation that the run never had."""
        progress = self._session.progress
        least = progress.generation + (snapshot is not None)
        progress.generation = least if self._store is None else self._store.next_generation(least)
        self._control = self._open_control(
            Opening(
                generation=progress.generation,
                step=progress.step,
                total_steps=self._run.total_steps,
                manifest=self._run.manifest,
                states=None if snapshot is None else snapshot.states,
            )
        )
        position = (0, ()) if snapshot is None else (snapshot.next_packet, snapshot.in_flight)
        self._boundaries = Boundaries(self._session, Pipeline(self._control, self._config.packet_lag, *position))

    def _restore(self, snapshot: Snapshot) -> None:
        self._run.executor.load_state_dict(snapshot.executor)
        self._session.progress.load_state_dict(snapshot.progress)
        self._session.packets.load_state_dict(snapshot.violations)
        self._steps.regroup()

    def _advance(self) -> None:
        """One step, and the boundary after it if there is one."""
        try:
            self._steps.make()
            if self._is_boundary:
                self._cross()
        except NonFiniteLoss as error:
            if self._config.on_nonfinite != "rollback":
                raise
            self._go_back(str(error), slower=True)
            return
        if self._boundaries.order_to_go_back is not None:
            why, to_step = self._boundaries.order_to_go_back
            self._go_back(why, to_step)

    @property
    def _is_boundary(self) -> bool:
        return self._session.progress.step % self._config.evaluate_every_steps == 0 or self._session.is_epoch_end

    def _cross(self) -> None:
        """A boundary, then what an epoch's end and a checkpoint ask for."""
        stop_reason = "interrupted" if self._should_stop() else None
        wants_state = self._is_checkpoint_due or stop_reason is not None
        self._boundaries.cross(want_state=wants_state)
        if self._session.is_epoch_end:
            self._end_epoch()
        if wants_state:
            self._checkpoint()
        if self._boundaries.order_to_stop is not None:
            stop_reason = f"halted: {self._boundaries.order_to_stop}"
            self._session.progress.history.doubt(stop_reason)
        self._stop_reason = stop_reason
        if stop_reason is not None:
            self._session.notice(
                "tolaria.stopped", "WARNING", f"{stop_reason} after step {self._session.progress.step}"
            )

    def _end_epoch(self) -> None:
        session, meter = self._session, self._session.progress.meter
        loss, accuracy = evaluate(self._run.executor.arm, self._run.task, self._run.splits.judge)
        now_ns = session.clock.monotonic_ns()
        session.observer.on_epoch(
            EpochDone(
                epoch=session.epoch,
                step=session.progress.step,
                train_loss=meter.loss / max(1, meter.steps),
                train_accuracy=meter.accuracy / max(1, meter.steps) if self._run.task.counts_hits else None,
                validation_loss=loss,
                validation_accuracy=accuracy,
                duration_s=(now_ns - self._epoch_started_ns) / 1e9,
            )
        )
        session.progress.meter = EpochMeter()
        self._epoch_started_ns = now_ns

    @property
    def _is_checkpoint_due(self) -> bool:
        every, session = self._config.checkpoint_every_epochs, self._session
        is_last = session.progress.step == self._run.total_steps
        is_due = every > 0 and session.is_epoch_end and session.epoch % every == 0 and not is_last
        return is_due or self._owes_checkpoint

    def _checkpoint(self) -> None:
        """Save this moment; without both services' states it would not be one, so it is tried again later."""
        session = self._session
        started_ns = session.clock.monotonic_ns()
        in_flight, states = self._boundaries.pipeline.settle()
        self._owes_checkpoint = states is None
        if states is None:
            session.notice("tolaria.checkpoint_postponed", "WARNING", "the services' states could not be had")
            return
        content = encode(self._snapshot(in_flight, states, is_final=False).to_state())
        self._rollback.remember(session.progress.step, content)
        self._slower = 0
        if self._store is None:
            return
        path = self._store.write(content, session.progress.step)
        duration_ms = (session.clock.monotonic_ns() - started_ns) / 1e6
        session.observer.on_checkpoint(
            CheckpointWritten(path=path, step=session.progress.step, size_bytes=len(content), duration_ms=duration_ms)
        )

    def _snapshot(self, in_flight: Sequence[PacketResult], states: RunStates | None, *, is_final: bool) -> Snapshot:
        return Snapshot(
            settings=settings_of(self._config),
            run_id=self._run.run_id,
            executor=self._run.executor.state_dict(),
            progress=self._session.progress.state_dict(),
            violations=self._session.packets.state_dict(),
            next_packet=self._boundaries.pipeline.next_packet,
            in_flight=in_flight,
            states=states,
            is_final=is_final,
        )

    def _go_back(self, why: str, to_step: int | None = None, *, slower: bool = False) -> None:
        """Restore the last good state under a new generation; what is in flight is dropped with the old one."""
        session, progress = self._session, self._session.progress
        rollbacks, costs, generation = progress.history.rollbacks + 1, progress.macs.total, progress.generation
        if rollbacks > self._config.max_rollbacks:
            raise RollbackFailed(f"{why}; {rollbacks - 1} rollbacks were made already, which is max_rollbacks")
        restored = self._rollback.restore(to_step)
        self._control.close()
        session.log.flush()
        snapshot = Snapshot.from_state(restored.state)
        self._restore(snapshot)
        progress.generation = generation
        progress.history.rollbacks = rollbacks
        progress.macs.undone += costs - progress.macs.total
        if slower:
            self._slow_down()
        message = f"{why}; back to step {progress.step} from {restored.tier} in {restored.latency_ms:.1f} ms"
        session.notice("tolaria.rollback", "ERROR", message)
        self._open(snapshot)

    def _slow_down(self) -> None:
        """The same steps at the same rate would end the same way, so each further try is slower."""
        self._slower += 1
        for arm in filter(None, (self._run.executor.arm, self._run.executor.twin)):
            arm.scheduler.factor *= self._config.rollback_lr_factor**self._slower
