"""A run's whole state, written when it is due and put back when it is asked for; on the training thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from esper.core.counted import counted
from esper.core.errors import ConfigError, StorageError
from esper.core.lasted import lasted_ms
from esper.tolaria.loop.room import Room
from esper.tolaria.loop.session import Session
from esper.tolaria.plane.pipeline import Flight, Pipeline
from esper.tolaria.record.observer import CheckpointWritten
from esper.tolaria.record.packet_result import PacketResult, RunStates
from esper.tolaria.recovery.beside import Beside
from esper.tolaria.recovery.checkpoint import CheckpointStore, Found, encode, encode_proven
from esper.tolaria.recovery.extending import extended
from esper.tolaria.recovery.finished import finished_already
from esper.tolaria.recovery.packed import Bytes, State
from esper.tolaria.recovery.parts import PartFiles, whole
from esper.tolaria.recovery.rollback import Restored, Rollback
from esper.tolaria.recovery.snapshot import Snapshot, settings_of
from esper.tolaria.recovery.tiers.fast import snapshot_steps
from esper.tolaria.task.feeds.feed import FedLoader
from esper.tolaria.task.prepare import AnyLoader

# Paths that a message lists.
SHOWN = 3


class Regrouped(Protocol):
    """Whoever lists the parameters of the arms."""

    def regroup(self) -> None:
        """List them anew."""


class Saves:
    """The checkpoints of a session: the newest in memory, and on the disk where there is a store."""

    def __init__(self, session: Session, steps: Regrouped, store: CheckpointStore | None) -> None:
        self._session = session
        self._steps = steps
        self._room = Room(session, steps.regroup)
        self._store = store
        self._rollback = Rollback(
            store, session.clock, session.run.config, session.ranks, in_parts=session.run.shards is not None
        )
        self._snapshot_steps = snapshot_steps(session.run.total_steps, session.run.config.snapshot_every_steps)
        self._refusal: str | None = None
        self._owes_one = False
        self._is_postponed = False
        self._is_proven = False
        self._losses = list(session.run.outside)  # told at the start
        self._extension: Snapshot | None = None
        self._resumed_at = 0
        self._beside: Beside[CheckpointWritten | None] = Beside()
        self._shards = session.run.shards
        self._part_files = None if self._shards is None else PartFiles(session.ranks)

    @cached_property
    def _data_digest(self) -> str:
        return self._session.run.splits.digest()

    @property
    def is_due(self) -> bool:
        """Whether to save the boundary of now: the first since an epoch after which a save is wanted, or the last."""
        config, step = self._session.run.config, self._session.progress.step
        every_steps = config.checkpoint_every_epochs * self._session.run.loader.steps_per_epoch
        if self._owes_one or not every_steps:
            return self._owes_one
        is_last = step + config.packet_steps > self._session.run.total_steps  # where more epochs go on from
        return is_last or self._is_first_of(every_steps)

    @property
    def is_snapshot_due(self) -> bool:
        """Whether to keep the boundary of now in memory: the first of all, and the first since so many steps.

        A loss that is about to diverge, and a twin that would have to be fetched for it, are waited out.
        """
        session = self._session
        if not self._snapshot_steps or not (self._is_first or self._is_first_of(self._snapshot_steps)):
            return False
        is_steady = session.run.config.on_divergence != "rollback" or not session.progress.divergence.is_near
        return is_steady and not session.run.executor.is_twin_waiting

    @property
    def _is_first(self) -> bool:
        return self._session.progress.step <= self._session.run.config.packet_steps

    def _is_first_of(self, every_steps: int) -> bool:
        """Whether a boundary is the first since a multiple of so many steps."""
        step = self._session.progress.step
        return step // every_steps > max(0, step - self._session.run.config.packet_steps) // every_steps

    def write(self, pipeline: Pipeline, *, at_once: bool) -> bool:
        """Save this moment; whether that is done by now. Raises StorageError.

        Training waits for a copy in memory alone, where that is kept, unless it is to be done `at_once`.
        """
        self._settle()
        is_free = not at_once and not self._owes_one and self._store is not None and self._is_proven
        may_wait = is_free and bool(self._snapshot_steps) and self._rollback.fast.refusal is None
        if self._session.ranks.told(bytes([may_wait])) == bytes([True]):
            self._write_beside(pipeline)
            return False
        return self._write_now(pipeline)

    def hear(self) -> None:
        """At every boundary, what has become of a checkpoint that is written meanwhile. Raises StorageError."""
        self._take()
        self._owes_one = self._session.ranks.any(self._owes_one)

    def close(self) -> None:
        """Write to its end what is being written."""
        self._beside.close()

    def _take(self) -> None:
        if not self._beside.go_on():
            self._postpone()
        self._tell_written(self._beside.taken())

    def _settle(self) -> None:
        """Have no checkpoint on its way: one that still waits for answers is owed. Raises StorageError."""
        self._take()
        self._owes_one |= self._beside.settle()
        self._take()

    def _write_beside(self, pipeline: Pipeline) -> None:
        """Each rank that has something to write keeps a copy of it, and writes that meanwhile."""
        session, step = self._session, self._session.progress.step
        started_ns = session.clock.monotonic_ns()
        self.agree_with_ranks()
        snapshot = self._snapshot(pipeline, (), None)
        self._tell_losses(snapshot.losses)
        flight, folder = self._keep(lambda: snapshot, pipeline), self._folder_for(step)
        if session.ranks.any(flight is None) or flight is None:
            self._owes_one = True
            return

        def write() -> CheckpointWritten | None:
            kept = self._rollback.fast.whole(step)
            if kept is None or kept[0] != step:
                raise StorageError(f"the copy of step {step} that was to be written is gone from memory")
            return self._written(kept[1], folder, step, started_ns)

        self._beside.begin(flight, write)

    def _write_now(self, pipeline: Pipeline) -> bool:
        """Without both services' states it would not be this moment, so it is tried again later."""
        session, step = self._session, self._session.progress.step
        started_ns = session.clock.monotonic_ns()
        in_flight, states = pipeline.settle()
        if states is None:
            self._postpone()
            return False
        self._is_postponed = self._owes_one = False
        self.agree_with_ranks()
        snapshot = self._snapshot(pipeline, in_flight, states)
        self._tell_losses(snapshot.losses)
        written = self._written(snapshot, self._folder_for(step), step, started_ns)
        if self._snapshot_steps and step < session.run.total_steps:
            self._keep(lambda: snapshot, pipeline)
        self._tell_written(written)
        return True

    def _folder_for(self, step: int | None) -> Path | None:
        """Where all ranks put their parts; None where the first rank's file holds all, or nothing is kept."""
        if self._part_files is None:
            return None
        own = "" if self._store is None else str(self._store.parts_of(step))
        told = self._session.ranks.told(own.encode()).decode()
        return Path(told) if told else None

    def _state_of(self, snapshot: Snapshot, folder: Path | None) -> State:
        """The state that belongs into the first rank's file, with the parts on the disk."""
        if self._part_files is not None and folder is not None:
            snapshot = replace(snapshot, executor=self._part_files.write(snapshot.executor, folder))
        return snapshot.to_state()

    def _written(self, snapshot: Snapshot, folder: Path | None, step: int, started_ns: int) -> CheckpointWritten | None:
        """What the first rank has to tell of what was written."""
        state = self._state_of(snapshot, folder)
        if self._store is None:
            return None
        content = self._encoded(state)
        path = self._store.write(content, step)
        size = len(content) + (0 if folder is None else sum(part.stat().st_size for part in folder.iterdir()))
        duration_ms = (self._session.clock.monotonic_ns() - started_ns) / 1e6
        return CheckpointWritten(path=path, step=step, size_bytes=size, duration_ms=duration_ms)

    def _postpone(self) -> None:
        was_postponed, self._is_postponed, self._owes_one = self._is_postponed, True, True
        if not was_postponed:
            message = "the services' states could not be had; it is tried again at every boundary"
            self._session.notice("tolaria.checkpoint_postponed", "WARNING", message)

    def _tell_written(self, written: CheckpointWritten | None) -> None:
        if written is not None:
            self._rollback.full.note(written.step)
            self._session.observer.on_checkpoint(written)

    def agree_with_ranks(self) -> None:
        """What is written is of all ranks: one whose weights went astray unseen must not be taken for them."""
        if self._session.ranks.count == 1:
            return
        executor = self._session.run.executor
        executor.catch_up()  # which saving does, and no rank alone can
        self._session.ranks.agree("set of weights", executor.arm.digest())

    def keep(self, pipeline: Pipeline) -> None:
        """Keep this moment in memory; what is in flight at it is noted as it is executed, so that nothing waits."""
        self._settle()  # its copy may be written over
        self._keep(lambda: self._snapshot(pipeline, (), None), pipeline)

    def _keep(self, make: Callable[[], Snapshot], pipeline: Pipeline) -> Flight | None:
        """What was in flight at the moment that is kept; None where there is no room for it."""
        session, rollback = self._session, self._rollback
        started_ns, flight = session.clock.monotonic_ns(), pipeline.follow()
        try:
            is_kept, refusal = rollback.fast.keep(session.progress.step, make(), flight), rollback.fast.refusal
        except Exception as error:  # noqa: BLE001 - whatever a host holds, or memory lacks, no run ends for a snapshot
            is_kept, refusal = False, f"a snapshot can't be made: {type(error).__name__}: {error}"
            rollback.fast.refuse(refusal)
        rollback.figures = replace(
            rollback.figures,
            snapshots=rollback.figures.snapshots + is_kept,
            fast_size_bytes=rollback.fast.size_bytes,
            snapshot_ms=(session.clock.monotonic_ns() - started_ns) / 1e6,
        )
        if is_kept:
            session.observer.on_snapshot(session.progress.step)
        session.observer.on_rollback(rollback.figures)
        if refusal is not None and self._refusal is None:
            session.notice("tolaria.no_snapshots", "WARNING", f"a rollback reads the disk: {refusal}")
        self._refusal = refusal
        return flight if is_kept else None

    def keep_last_good(self, to_step: int) -> str:
        """Before the run ends for a step that can't be used: have the newest good state on the disk, in words."""
        with suppress(StorageError):  # the run ends for another reason
            self._settle()
        ranks, store, kept = self._session.ranks, self._store, self._rollback.fast.whole(to_step)
        if ranks.any(kept is None) or kept is None or not ranks.any(store is not None):
            return ""
        step, snapshot = kept
        try:
            if ranks.any(store is not None and step > max(store.steps(), default=-1)):
                self._written(snapshot, self._folder_for(step), step, self._session.clock.monotonic_ns())
        except (StorageError, ConfigError) as error:
            return f"; the state of step {step} could not be kept: {error}"
        return f"; the state of step {step} is kept as a checkpoint"

    def write_final(self, pipeline: Pipeline, summary: Mapping[str, Any]) -> None:
        """Keep the finished run, with the summary that is about to be written."""
        self._settle()
        final = replace(self._snapshot(pipeline, (), None), summary=summary, weights_digest=summary["weights_digest"])
        state = self._state_of(final, self._folder_for(None))
        if self._store is not None:
            self._store.write_final(self._encoded(state))

    def newest(self) -> Snapshot:
        """Where to go on from, checked against the settings, which may have more epochs than the run had."""
        if self._store is None:
            raise ConfigError("resume", True, "this run keeps no checkpoints")
        config, final = self._session.run.config, self._store.final()
        found = self._store.newest() if final is None else self._last_of(self._store, Snapshot.from_state(final))
        for damage in found.damaged:
            self._session.notice("tolaria.checkpoint_damaged", "ERROR", f"passed over: {damage}")
        self._rollback.full.note(*self._store.steps())
        snapshot = Snapshot.from_state(found.state)
        if self._shards is None:
            snapshot = replace(snapshot, executor=whole(snapshot.executor, self._store.folder))
        ranks = self._session.ranks.count
        if self._session.run.has_own_loaders and snapshot.ranks != ranks:
            what = f"the checkpoint's run had {snapshot.ranks}, each with batches of its own loader; start as many"
            raise ConfigError("ranks", ranks, what)
        snapshot.check_continues(config, self._session.run.run_id, self._data_digest)
        self._resumed_at = snapshot.progress["step"]
        self._is_proven = True  # it was read; and what the run goes back to must not depend on how often it was killed
        if snapshot.is_shorter_than(config):
            self._extension = snapshot = extended(snapshot, config)
        return snapshot

    @property
    def is_extending(self) -> bool:
        """Whether the run goes on for more epochs than the state that was put back was to have."""
        return self._extension is not None

    def _last_of(self, store: CheckpointStore, final: Snapshot) -> Found:
        """The last boundary of a finished run, with all that grew then; else its end, at which growth was over."""
        if not final.is_shorter_than(self._session.run.config):
            raise finished_already(store.final_path, final)
        found, damaged = store.search()
        if found is not None:
            missed = final.progress["step"] - found.state["progress"]["step"]
            if missed < self._session.run.config.packet_steps:
                return found
        return Found(state=final.to_state(), path=store.final_path, damaged=damaged)

    def keep_extension(self) -> None:
        """A run that goes on for more epochs has begun to: it is the longer one from now on, and no longer finished."""
        snapshot, self._extension = self._extension, None
        step, parts = self._session.progress.step, self._parts_again(snapshot is not None)
        if snapshot is None or self._store is None:
            return
        if parts is not None:
            snapshot = replace(snapshot, executor=parts)
        self._store.write(encode(snapshot.to_state()), step)
        self._store.unfinish()
        schedule = self._session.run.executor.arm.scheduler
        outlook = getattr(schedule, "outlook", None)
        rate = "" if outlook is None else f": the learning rate, {schedule.rate(step):.3g} from here, {outlook}"
        message = f"{snapshot.progress['history']['causes'][-1]}{rate}"
        self._session.notice("tolaria.extended", "WARNING", message)
        if self._session.run.config.grow != "never" and not snapshot.has_services:
            message = "the run's end kept no state of the services, so training goes on without growth"
            self._session.notice("tolaria.growth_over", "WARNING", message)

    def _parts_again(self, is_extended: bool) -> State | None:
        """What the first rank's file holds of parts that were written anew: those of a finished run go with it."""
        session, shards = self._session, self._shards
        if shards is None or self._part_files is None or session.ranks.told(bytes([is_extended])) == bytes(1):
            return None
        folder = self._folder_for(session.progress.step)
        own = shards.in_parts(session.run.executor, session.run.executor.state_dict())
        return None if folder is None else self._part_files.write(own, folder)

    def owe(self) -> None:
        """Have the next boundary saved."""
        self._owes_one = True

    def steps_to_go_back_to(self) -> list[int]:
        """Those of the states that are kept, in memory or on the disk, oldest first."""
        self._settle()
        return sorted({*self._rollback.fast.steps(), *self._rollback.full.steps()})

    def go_back(self, bounds: tuple[int | None, ...]) -> tuple[Snapshot, str]:
        """Put the newest state within the first bound that has one in place; says from where. Raises RollbackFailed."""
        session, rollback, loaded = self._session, self._rollback, list[Snapshot]()
        self._settle()

        def load(snapshot: Snapshot) -> None:
            self.restore(snapshot)
            loaded.append(snapshot)

        try:
            restored = rollback.restore(bounds, session.run.executor, load)
        finally:
            session.observer.on_rollback(rollback.figures)
        for known in (rollback.fast, rollback.full):
            known.forget_after(session.progress.step)
        self._tell(restored)
        return loaded[-1], f"from {restored.tier} in {lasted_ms(rollback.figures.restore_latency_ms)}"

    def _tell(self, restored: Restored) -> None:
        """What of a restore was not as it should be; what chose another state than memory's makes one doubt the run."""
        session, refusal = self._session, self._rollback.fast.refusal
        for failure in restored.failures:
            session.notice("tolaria.rollback.tier_failed", "ERROR", str(failure))
        if restored.late is not None:
            session.notice("tolaria.rollback.late", "WARNING", f"{restored.late}: the state was loaded all the same")
        if why := "; ".join(map(str, restored.failures)) or refusal:
            session.progress.history.doubt(f"time or memory decided where a rollback went back to: {why}")
        if self._snapshot_steps and session.progress.step < self._resumed_at:
            cause = f"resumed at step {self._resumed_at} without the snapshots of before, and back to step"
            session.progress.history.doubt(f"{cause} {session.progress.step}")

    def restore(self, snapshot: Snapshot) -> None:
        """Put a saved state in place of the present one."""
        self._session.run.executor.load_state_dict(self._taken(snapshot.executor))
        self._session.progress.load_state_dict(snapshot.progress)
        self._session.packets.load_state_dict(snapshot.violations)
        self._steps.regroup()
        self._restore_position(snapshot)
        if snapshot.ranks != (count := self._session.ranks.count):
            on = "1 goes on" if count == 1 else f"{count} go on"
            self._session.progress.history.doubt(f"{counted(snapshot.ranks, 'rank')} trained it to here, and {on}")
        if snapshot.losses:
            step = self._session.progress.step
            self._session.progress.history.doubt(
                f"the checkpoint of step {step} couldn't hold {_listed(snapshot.losses)}"
            )

    def _taken(self, executor: State) -> State:
        """What this rank's executor takes of a saved one."""
        if self._shards is None or self._part_files is None:
            return executor
        folder = "" if self._store is None else str(self._store.folder)
        return self._shards.taken(
            self._part_files.read(executor, Path(self._session.ranks.told(folder.encode()).decode()))
        )

    def _restore_position(self, snapshot: Snapshot) -> None:
        """Have a loader go on where it stood; one that can't makes the run another than it was."""
        loader, step = self._session.run.loader, self._session.progress.step
        if isinstance(loader, FedLoader) and (why := loader.load_state_dict(snapshot.loader or {}, step)):
            self._session.progress.history.doubt(why)

    def _encoded(self, state: State) -> Bytes:
        """A state as bytes; the first is read back, before anyone relies on it."""
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
        executor = self._room.measured(session.run.executor.state_dict, "the checkpoint")
        if self._shards is not None:
            executor = self._shards.in_parts(session.run.executor, executor)
        return Snapshot(
            settings=settings_of(session.run.config),
            run_id=session.run.run_id,
            executor=executor,
            progress=session.progress.state_dict(),
            violations=session.packets.state_dict(),
            next_packet=pipeline.next_packet,
            in_flight=in_flight,
            states=states,
            is_final=states is None,
            data_digest=self._data_digest,
            ranks=session.ranks.count,
            losses=[*session.run.outside, *session.run.executor.arm.unkept()],
            network=None if session.run.interface is None else session.run.interface.to_state(),
            loader=_position(session.run.loader, session.progress.step),
        )


def _position(loader: AnyLoader, step: int) -> State | None:
    return loader.state_dict(step) if isinstance(loader, FedLoader) else None


def _listed(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return ", ".join(paths[:SHOWN]) + more
