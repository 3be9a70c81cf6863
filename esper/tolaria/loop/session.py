"""What the parts of the trainer share: the prepared run, its progress, its clock, and who watches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from esper.core.clock import Clock
from esper.leyline import ModeUpdate
from esper.rpc.reporting.telemetry import UNHEARD
from esper.tolaria.loop.aggregation import SeedMeter
from esper.tolaria.loop.step_log import StepLog
from esper.tolaria.plane.packets import Measured, PacketBuilder
from esper.tolaria.ranks.group import Ranks
from esper.tolaria.record.ending.summary import Timings, name_of_stage
from esper.tolaria.record.figures.graph_counts import GraphCounts
from esper.tolaria.record.observer import Notice, Observer, SeedView
from esper.tolaria.record.progress import Progress
from esper.tolaria.task.feeds.carrier import DeviceTimes
from esper.tolaria.task.prepare import Prepared


@dataclass(kw_only=True, slots=True)
class Session:
    """One process's work on one run."""

    run: Prepared
    progress: Progress
    packets: PacketBuilder
    observer: Observer
    clock: Clock
    log: StepLog = field(default_factory=StepLog)
    timings: Timings = field(default_factory=Timings)
    measured: Measured = field(default_factory=Measured)
    seed_meter: SeedMeter = field(init=False)
    """What the seeds of the main arm ask of the gradient."""
    obeyed: set[str] = field(default_factory=set)
    """Commands that took the run back; one that is in flight at the state gone back to must not do so again."""
    graphs: GraphCounts | None = None
    """What became of its steps with CUDA graphs; None without."""
    release: Callable[[], bool] = lambda: False
    """Gives back device memory that only makes steps faster; whether there was any."""
    plane: Callable[[], ModeUpdate] = lambda: UNHEARD
    """The plane as last heard."""
    _inputs: list[float | DeviceTimes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.seed_meter = SeedMeter(self.run.config.seed_layer_topk)

    @property
    def ranks(self) -> Ranks:
        """The processes that train the run."""
        return self.run.ranks

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self.progress.step // self.run.loader.steps_per_epoch

    @property
    def is_epoch_end(self) -> bool:
        """Whether the last step ended an epoch."""
        return self.progress.step % self.run.loader.steps_per_epoch == 0

    def note_input(self, asked_ns: int, batches: int = 1) -> None:
        """Keep what each batch that came now cost: by the device, which is read later, else by the clock."""
        by_clock = (self.clock.monotonic_ns() - asked_ns) / 1e6 / batches
        self._inputs += [by_clock if self.run.carrier.times is None else self.run.carrier.times] * batches

    def read_inputs(self) -> None:
        """Take what the batches since the last call cost as numbers; the device has passed them."""
        inputs, self._inputs = self._inputs, []
        for each in inputs:
            if isinstance(each, float):
                self.timings.input_wait_ms.append(each)
            else:
                self.timings.input_wait_ms.append(each.wait_ms())
                self.timings.h2d_copy_ms.append(each.copy_ms())

    def notice(
        self, name: str, level: str, message: str, cause: str = "", facts: Mapping[str, str | float] | None = None
    ) -> None:
        """Tell the observer of something out of the ordinary."""
        at = self.progress.step
        told = Notice(step=at, name=name, level=level, message=message, cause=cause, facts=facts or {})
        self.observer.on_events([told])

    def seed_views(self) -> list[SeedView]:
        """Every seed as Kasmina last told, with the alpha of now."""
        executor = self.run.executor
        alive = set(executor.seeds)
        return [
            SeedView(
                seed_id=seed.seed_id,
                slot_id=seed.slot_id,
                blueprint_id=seed.blueprint_id,
                stage=name_of_stage(seed.stage),
                alpha=executor.alpha_of(seed.seed_id) if seed.seed_id in alive else seed.alpha,
                is_paused=seed.is_paused,
                gain=seed.gain if seed.HasField("gain") else None,
                gain_standard_error=seed.gain_standard_error if seed.HasField("gain_standard_error") else None,
            )
            for seed in self.progress.history.seeds.values()
        ]
