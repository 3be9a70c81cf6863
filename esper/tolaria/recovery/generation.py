"""A generation: one opening of the run at its control plane, with boundaries of its own. No run ever has one twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from esper.tolaria.loop.boundaries import Boundaries, Obstacle
from esper.tolaria.loop.session import Session
from esper.tolaria.plane.open_control import OpenControl, Opening, TeacherFacts
from esper.tolaria.plane.pipeline import Pipeline
from esper.tolaria.recovery.checkpoint import CheckpointStore
from esper.tolaria.recovery.snapshot import Snapshot
from esper.tolaria.task.prepare import Prepared

if TYPE_CHECKING:
    from esper.tolaria.plane.control import Control


@dataclass(frozen=True, slots=True)
class Generation:
    """The control plane of a run, from one opening to the next."""

    control: Control
    boundaries: Boundaries


def open_generation(
    session: Session,
    open_control: OpenControl,
    store: CheckpointStore | None,
    snapshot: Snapshot | None,
    *,
    obstacle_to: Obstacle,
    gives_up_course: bool = False,
) -> Generation:
    """Open the run where its progress stands; a snapshot says what was in flight there."""
    run, progress = session.run, session.progress
    least = progress.generation + (snapshot is not None)
    progress.generation = least if store is None else store.next_generation(least)
    control = open_control(
        Opening(
            generation=progress.generation,
            step=progress.step,
            total_steps=run.total_steps,
            manifest=run.manifest,
            states=None if snapshot is None else snapshot.states,
            gives_up_course=gives_up_course,
            judge_samples=len(run.splits.judge),
            teacher=_teacher_of(run) if snapshot is None else None,
        )
    )
    progress.history.pin_policy(control.policy_digest)
    position = (0, ()) if snapshot is None else (snapshot.next_packet, snapshot.in_flight)
    if gives_up_course:
        progress.reason.forget(position[0])
    return Generation(control, Boundaries(session, Pipeline(control, run.config.packet_lag, *position), obstacle_to))


def _teacher_of(run: Prepared) -> TeacherFacts | None:
    """The network that the run's seeds may learn from, as the control plane is told of it."""
    teacher, name = run.executor.teacher, run.config.teacher
    if teacher is None or name is None:
        return None
    return TeacherFacts(name=name, digest=teacher.digest, size_bytes=teacher.size_bytes)
