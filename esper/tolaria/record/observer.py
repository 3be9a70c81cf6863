"""What the trainer tells about a run while it runs: values only, so that displays and logs can't disturb it.

Every call comes from the training thread. Steps are told at the boundary that follows them, because reading a loss
earlier would make an accelerator wait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from esper.leyline import SystemStatePacket
from esper.tolaria.record.figures.gradients import Aggregation
from esper.tolaria.record.figures.graph_counts import GraphCounts
from esper.tolaria.record.growth_reason import Reason
from esper.tolaria.record.mode import Standing
from esper.tolaria.record.network import Network

if TYPE_CHECKING:
    from esper.kasmina.executor import Collected
    from esper.tolaria.record.packet_result import PacketResult


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStarted:
    """A run begins, or goes on in a new generation."""

    run_id: str
    generation: int
    seed: int
    step: int
    total_steps: int
    epochs: int
    steps_per_epoch: int
    splits: Mapping[str, int]
    parameters: int
    task: str
    is_resumed: bool
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What it was started with, as `facts.facts_of` has it."""


class StepDone(NamedTuple):
    """One training step of the main arm."""

    step: int
    epoch: int
    loss: float
    accuracy: float | None
    gradient_norm: float | None
    learning_rate: float
    conflict_rate: float | None
    step_ms: float
    pairs: int = 0
    """Of sources that were held against each other."""
    named: Mapping[str, float] = MappingProxyType({})
    """Several losses (`loss NAME`) and the cosines of their gradients (`cosine NAME, NAME`)."""


def named_means(steps: Sequence[StepDone]) -> dict[str, float]:
    """What steps tell by name, in means over those that tell it."""
    found: dict[str, list[float]] = {}
    for done in steps:
        for name, value in done.named.items():
            found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class TwinStep:
    """One training step of a seed's twin: a series of its own, and never part of the main arm's."""

    seed_id: str
    step: int
    loss: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedView:
    """A seed as a display shows it; alpha is the one that the next step uses."""

    seed_id: str
    slot_id: str
    blueprint_id: str
    stage: str
    alpha: float
    gain: float | None
    gain_standard_error: float | None
    is_paused: bool = False

    @property
    def standing(self) -> str:
        """Its stage, and whether it is paused there."""
        return f"{self.stage}, paused" if self.is_paused else self.stage


@dataclass(frozen=True, kw_only=True, slots=True)
class Boundary:
    """What was done between two steps, and how long it took.

    `result` is what was executed here (of packet `packet.packet_index - lag`), `collected` the executor's evidence
    that went out with `packet`. Times are in milliseconds: waiting for the answer, executing directives, and the rest
    of the boundary's own work.
    """

    step: int
    epoch: int
    packet: SystemStatePacket
    collected: Collected
    result: PacketResult | None
    seeds: Sequence[SeedView]
    mode: str
    plane: Standing = field(default_factory=Standing)
    """The plane as it binds the run."""
    wait_ms: float
    apply_ms: float
    hook_ms: float
    input_wait_ms: float | None = None
    """Mean wait of the steps before it for their batches; None before any."""
    h2d_copy_ms: float | None = None
    """Mean copy of these batches onto the device; None where nothing is copied ahead."""
    reason: Reason | None = None
    """Why the run grows or waits now; None before the first answer."""
    macs: Mapping[str, int] = field(default_factory=dict)
    """Training multiply-accumulates so far, by what they were spent on."""
    graphs: GraphCounts | None = None
    """What became of the steps so far with CUDA graphs; None without."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochDone:
    """An epoch is over; `validation_loss` and `validation_accuracy` were measured on the judging data."""

    epoch: int
    step: int
    train_loss: float
    train_accuracy: float | None
    validation_loss: float
    validation_accuracy: float | None
    duration_s: float
    reason: Reason | None = None
    """Why the run grows or waits, with its numbers of now; None before the first answer."""
    validation_metrics: Mapping[str, float] = field(default_factory=dict)
    """Further figures of the judging data, by name."""
    aggregation: Aggregation | None = None
    """How its gradients came together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointWritten:
    """A checkpoint is durable."""

    path: Path
    step: int
    size_bytes: int
    duration_ms: float


@dataclass(frozen=True, kw_only=True, slots=True)
class RollbackFigures:
    """Snapshots and restores of this process so far."""

    snapshots: int = 0
    fast_size_bytes: int = 0
    """Of the snapshots in memory."""
    snapshot_ms: float = 0.0
    """Time of the training thread for the last one."""
    fast_hits: int = 0
    fast_misses: int = 0
    """Restores that memory could not serve in time, or at all."""
    failures: int = 0
    """Restores that nothing could serve."""
    deadline_exceeded: int = 0
    """Tiers that missed their deadline."""
    restore_latency_ms: float = 0.0
    """Of the last restore, what failed before it included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Notice:
    """Something that the run's reader must know: a timeout, a changed mode, a rollback, a skipped checkpoint."""

    step: int
    name: str
    level: str
    message: str
    cause: str = ""
    """What lies behind it, at any length: for the event log."""
    facts: Mapping[str, str | float] = field(default_factory=dict)
    """Of whom it is and by how much: attributes of its event."""


class Observer:
    """Someone who watches a run: each kind overrides what it wants to hear, and the rest passes it by."""

    def on_start(self, started: RunStarted) -> None:
        """The run begins or goes on."""

    def on_network(self, network: Network) -> None:
        """The network is this one from here on: told at the start and whenever growth changed it."""

    def on_steps(self, steps: Sequence[StepDone]) -> None:
        """Steps were made; called at the boundary after them."""

    def on_twin_steps(self, steps: Sequence[TwinStep]) -> None:
        """The twin made steps; called after `on_steps`, where there is a twin."""

    def on_boundary(self, boundary: Boundary) -> None:
        """A packet was handed over and an older one's consequences were executed."""

    def on_events(self, notices: Sequence[Notice]) -> None:
        """Something out of the ordinary happened."""

    def on_epoch(self, done: EpochDone) -> None:
        """An epoch is over."""

    def on_checkpoint(self, written: CheckpointWritten) -> None:
        """A checkpoint is durable."""

    def on_snapshot(self, step: int) -> None:
        """The state of this boundary is kept in memory; a restore may go back to it, and a checkpoint be made of it."""

    def on_rollback(self, figures: RollbackFigures) -> None:
        """A snapshot was kept, or a restore was tried."""

    def on_finish(self, summary: Mapping[str, Any]) -> None:
        """The run is over; the summary is what summary.json holds."""


class Observers(Observer):
    """Several observers as one, told in order."""

    def __init__(self, *observers: Observer) -> None:
        groups = (observer._observers if type(observer) is Observers else (observer,) for observer in observers)
        self._observers: tuple[Observer, ...] = tuple(chain.from_iterable(groups))

    def on_start(self, started: RunStarted) -> None:
        for observer in self._observers:
            observer.on_start(started)

    def on_network(self, network: Network) -> None:
        for observer in self._observers:
            observer.on_network(network)

    def on_steps(self, steps: Sequence[StepDone]) -> None:
        for observer in self._observers:
            observer.on_steps(steps)

    def on_twin_steps(self, steps: Sequence[TwinStep]) -> None:
        for observer in self._observers:
            observer.on_twin_steps(steps)

    def on_boundary(self, boundary: Boundary) -> None:
        for observer in self._observers:
            observer.on_boundary(boundary)

    def on_events(self, notices: Sequence[Notice]) -> None:
        for observer in self._observers:
            observer.on_events(notices)

    def on_epoch(self, done: EpochDone) -> None:
        for observer in self._observers:
            observer.on_epoch(done)

    def on_checkpoint(self, written: CheckpointWritten) -> None:
        for observer in self._observers:
            observer.on_checkpoint(written)

    def on_snapshot(self, step: int) -> None:
        for observer in self._observers:
            observer.on_snapshot(step)

    def on_rollback(self, figures: RollbackFigures) -> None:
        for observer in self._observers:
            observer.on_rollback(figures)

    def on_finish(self, summary: Mapping[str, Any]) -> None:
        for observer in self._observers:
            observer.on_finish(summary)
