"""A run's whole state, written when it is due and put back when it is asked for; on the training thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from esper.core.errors import ConfigError
from esper.tolaria.loop.arm_steps import ArmSteps
from esper.tolaria.loop.session import Session
from esper.tolaria.plane.pipeline import Pipeline
from esper.tolaria.record.observer import CheckpointWritten
from esper.tolaria.record.packet_result import PacketResult, RunStates
from esper.tolaria.recovery.checkpoint import CheckpointStore, encode, encode_proven
from esper.tolaria.recovery.rollback import Restored, Rollback
from esper.tolaria.recovery.snapshot import Snapshot, settings_of

# Paths that a message lists.
SHOWN = 3


class Saves:
    """The checkpoints of a session: the newest in memory, and on the disk where there is a store."""

    def __init__(self, session: Session, steps: ArmSteps, store: CheckpointStore | None) -> None:
        self._session = session
        self._steps = steps
        self._store = store
        self._rollback = Rollback(store, session.clock)
        self._owes_one = False
        self._is_postponed = False
        self._is_proven = False
        self._losses: list[str] = []

    @cached_property
    def _data_digest(self) -> str:
        return self._session.run.splits.digest()

    @property
    def is_due(self) -> bool:
        """Whether the boundary of now is to be saved: it is the first since an epoch after which one is wanted."""
        config, step = self._session.run.config, self._session.progress.step
        every_steps = config.checkpoint_every_epochs * self._session.run.loader.steps_per_epoch
        if self._owes_one or not every_steps or step == self._session.run.total_steps:
            return self._owes_one
        return step // every_steps > max(0, step - config.evaluate_every_steps) // every_steps

    def write(self, pipeline: Pipeline) -> bool:
        """Save this moment; without both services' states it would not be one, so it is tried again later."""
        session = self._session
        started_ns = session.clock.monotonic_ns()
        in_flight, states = pipeline.settle()
        was_postponed, self._is_postponed = self._is_postponed, states is None
        self._owes_one = states is None
        if states is None:
            if not was_postponed:
                message = "the services' states could not be had; it is tried again at every boundary"
                session.notice("tolaria.checkpoint_postponed", "WARNING", message)
            return False
        snapshot = self._snapshot(pipeline, in_flight, states)
        self._tell_losses(snapshot.losses)
        content = self._encoded(snapshot)
        self._rollback.remember(session.progress.step, content)
        if self._store is None:
            return True
        path = self._store.write(content, session.progress.step)
        duration_ms = (session.clock.monotonic_ns() - started_ns) / 1e6
        session.observer.on_checkpoint(
            CheckpointWritten(path=path, step=session.progress.step, size_bytes=len(content), duration_ms=duration_ms)
        )
        return True

    def write_final(self, pipeline: Pipeline, weights_digest: str) -> None:
        """Keep the finished run, with the digest by which its network is known again."""
        if self._store is not None:
            snapshot = replace(self._snapshot(pipeline, (), None), weights_digest=weights_digest)
            self._store.write_final(self._encoded(snapshot))

    def newest(self) -> Snapshot:
        """The newest checkpoint on the disk, checked against the settings."""
        if self._store is None:
            raise ConfigError("resume", True, "this run keeps no checkpoints")
        if self._store.final_path.exists():
            raise ConfigError("resume", True, f"the run is finished: {self._store.final_path} is there")
        found = self._store.newest()
        for damage in found.damaged:
            self._session.notice("tolaria.checkpoint_damaged", "ERROR", f"passed over: {damage}")
        snapshot = Snapshot.from_state(found.state)
        snapshot.check_continues(self._session.run.config, self._session.run.run_id, self._data_digest)
        return snapshot

    def owe(self) -> None:
        """Have the next boundary saved."""
        self._owes_one = True

    def last_good(self, to_step: int | None) -> Restored:
        """The newest state, at most at `to_step`, from wherever it is at hand. Raises RollbackFailed."""
        return self._rollback.restore(to_step)

    def restore(self, snapshot: Snapshot) -> None:
        """Put a saved state in place of the present one."""
        self._session.run.executor.load_state_dict(snapshot.executor)
        self._session.progress.load_state_dict(snapshot.progress)
        self._session.packets.load_state_dict(snapshot.violations)
        self._steps.regroup()
        if snapshot.losses:
            step = self._session.progress.step
            self._session.progress.history.doubt(
                f"the checkpoint of step {step} couldn't hold {_listed(snapshot.losses)}"
            )

    def _encoded(self, snapshot: Snapshot) -> bytes:
        """The snapshot as bytes; the first is read back, before anyone relies on it."""
        state = snapshot.to_state()
        content = encode(state) if self._is_proven else encode_proven(state)
        self._is_proven = True
        return content

    def _tell_losses(self, losses: Sequence[str]) -> None:
        """Say what this checkpoint can't hold and none before could not."""
        if news := [path for path in losses if path not in self._losses]:
            self._losses += news
            consequence = "a run that goes on from it may end in other weights, and says so"
            remedy = "hold it as a buffer, a tensor, a plain value, or a list or dict of these"
            message = f"a checkpoint can't hold {_listed(news)} of the model: {consequence}; {remedy}"
            self._session.notice("tolaria.checkpoint_incomplete", "WARNING", message)

    def _snapshot(self, pipeline: Pipeline, in_flight: Sequence[PacketResult], states: RunStates | None) -> Snapshot:
        """This moment; without the services' states it is the finished run."""
        session = self._session
        return Snapshot(
            settings=settings_of(session.run.config),
            run_id=session.run.run_id,
            executor=session.run.executor.state_dict(),
            progress=session.progress.state_dict(),
            violations=session.packets.state_dict(),
            next_packet=pipeline.next_packet,
            in_flight=in_flight,
            states=states,
            is_final=states is None,
            data_digest=self._data_digest,
            losses=session.run.executor.arm.unkept(),
            network=session.run.interface.to_state(),
        )


def _listed(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return ", ".join(paths[:SHOWN]) + more
