"""Epochs of a run, each beside one of the bare loop that follows it at once, sorted into phases.

| Phase   | An epoch that                                                             |
| cold    | was the first                                                             |
| compile | compiled something, be it the first                                       |
| change  | had a seed grafted, folded or taken out                                   |
| seeded  | had a seed in the host all along, and its twin                            |
| steady  | had none of this: the network alone under its control plane               |
| end     | was the last: answers in flight are waited for, and growth ends           |

What comes after the last epoch (summary, final packets) belongs to none.
"""

from __future__ import annotations

from dataclasses import dataclass

from esper.tolaria.record.ending.summary import quantile
from esper.tolaria.record.observer import Boundary, EpochDone, Observer, RollbackFigures, RunStarted
from esper.tolaria.record.terminal.screen import living
from esper.tolaria.task.prepare import Prepared
from tools.harness.bare import BareLoop
from tools.harness.figures import Figures, Spent, Watch, statistics

PHASES = ("cold", "compile", "change", "seeded", "steady", "end")


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch: its phase, its time and the bare loop's (0 without one), and its training loss."""

    phase: str
    spent: Spent
    bare: Spent
    loss: float


class Meter(Observer):
    """Observer that measures a run which `prepared` is given of before it starts."""

    def __init__(self, *, beside_bare: bool = True) -> None:
        self._beside_bare = beside_bare
        self.epochs: list[Epoch] = []
        self.evaluations = 0
        """Packets that Tamiyo decided on."""
        self.startup_s = 0.0
        self.seeds: set[str] = set()
        """Ids of the seeds that were in the host."""
        self.rollbacks = RollbackFigures()
        self._run: Prepared | None = None
        self._bare: BareLoop | None = None
        self._total = 0
        self._has_seed = False
        self._graphs = self._topology = 0
        self._watch = Watch()

    def prepared(self, run: Prepared) -> None:
        """What is trained."""
        self._run = run

    def on_start(self, started: RunStarted) -> None:
        self.startup_s, self._total = self._watch.spent().wall_ms / 1e3, started.epochs
        if self._run is not None and self._beside_bare:
            self._bare = BareLoop(self._run)
            self._bare.warm_up()
        self._graphs, self._topology = self._compiled(), self._changes()
        self._watch = Watch()

    def on_boundary(self, boundary: Boundary) -> None:
        alive = {seed.seed_id for seed in living(boundary.seeds)}
        self.seeds |= alive
        self._has_seed |= bool(alive) or (self._run is not None and self._run.executor.twin is not None)
        self.evaluations += boundary.result is not None and boundary.result.decision is not None

    def on_rollback(self, figures: RollbackFigures) -> None:
        self.rollbacks = figures

    def on_epoch(self, done: EpochDone) -> None:
        spent = self._watch.spent()
        phase = self._phase(done.epoch)
        bare = self._bare.epoch() if self._bare is not None else Spent(0.0, 0.0)
        self.epochs.append(Epoch(phase, spent, bare, done.train_loss))
        self._has_seed, self._graphs, self._topology = False, self._compiled(), self._changes()
        self._watch = Watch()

    def _phase(self, epoch: int) -> str:
        if self._compiled() > self._graphs:
            return "compile"
        if epoch == 1:
            return "cold"
        if epoch == self._total:
            return "end"
        if self._changes() != self._topology:
            return "change"
        return "seeded" if self._has_seed else "steady"

    def _compiled(self) -> int:
        counts = None if self._run is None else self._run.executor.compilations
        return 0 if counts is None else counts.graphs + counts.recompilations

    def _changes(self) -> int:
        return 0 if self._run is None else self._run.executor.topology

    def phases(self) -> dict[str, Figures]:
        """Of each phase that there was: epochs, their times, and how much longer than the bare loop's they took.

        Processor time is the training thread's: on a machine that others use it says more than the wall.
        """
        found = {}
        for phase in PHASES:
            if epochs := [epoch for epoch in self.epochs if epoch.phase == phase]:
                found[phase] = {
                    "epochs": len(epochs),
                    **statistics([epoch.spent.wall_ms for epoch in epochs], "latency"),
                    "bare_p50_ms": quantile([epoch.bare.wall_ms for epoch in epochs], 0.5),
                    "ratio_p50": quantile([epoch.spent.wall_ms / epoch.bare.wall_ms for epoch in epochs], 0.5),
                    "cpu_ratio_p50": quantile([epoch.spent.cpu_ms / epoch.bare.cpu_ms for epoch in epochs], 0.5),
                }
        return found
