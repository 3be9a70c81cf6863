"""tamiyo-timeout: Tamiyo's process is stopped at every N-th packet until the trainer has missed a deadline.

Each stop costs one deadline, the run is conservative meanwhile and trains on, and it is normal again at its end.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from esper.tolaria.config import TrainConfig
from esper.tolaria.metrics import TAMIYO_TIMEOUT
from esper.tolaria.plane.faults import freeze
from esper.tolaria.record.observer import Boundary, Notice, Observer, RunStarted
from esper.tolaria.task.prepare import Prepared
from tools.harness.faults.processes import services_of
from tools.harness.figures import statistics
from tools.harness.live import Lived, live
from tools.harness.packets import last
from tools.harness.result import Result, unlearnt, unless
from tools.harness.workload import settings

SCENARIO = SLUG = "tamiyo_timeout"
DEADLINE_S = 0.75
LONGEST_STOP_S = 20.0
FROM, UNTIL = 0.2, 0.6
"""Shares of the run: a seed is there by the one, and enough answers come after the other to be normal again."""
EXPECTED = ("tolaria.tamiyo_timeout", "tolaria.mode_changed")
TOLERATED = ("tolaria.checkpoint_postponed",)  # where a stop and a checkpoint coincide


class Freezer(Observer):
    """Observer that stops Tamiyo at every so many packets in the middle of a run."""

    def __init__(self, every: int) -> None:
        self.stops = 0
        self._every = every
        self._run: Prepared | None = None
        self._total = 1
        self._tamiyo: int | None = None
        self._thaw: Callable[[], None] | None = None

    def prepared(self, run: Prepared) -> None:
        """Whose Tamiyo it is."""
        self._run = run

    def on_start(self, started: RunStarted) -> None:
        self._total = started.total_steps
        if self._run is not None:
            self._tamiyo = services_of(self._run.config.run_dir)["tamiyo"]

    def on_boundary(self, boundary: Boundary) -> None:
        is_due = boundary.packet.packet_index % self._every == 0
        is_now = is_due and self._thaw is None and FROM <= boundary.step / self._total < UNTIL
        if self._tamiyo is not None and is_now:
            self._thaw = freeze(self._tamiyo, LONGEST_STOP_S)
            self.stops += 1

    def on_events(self, notices: Sequence[Notice]) -> None:
        is_missed = any(notice.name == TAMIYO_TIMEOUT.name for notice in notices)
        if self._thaw is not None and is_missed:
            self._thaw()
            self._thaw = None


def configured(run_dir: Path, options: argparse.Namespace) -> TrainConfig:
    """The growing run, with a deadline that a stop outlasts."""
    return settings(run_dir, options.epochs, options.batch_size, options.device, deadline_s=DEADLINE_S)


def run(options: argparse.Namespace) -> Result:
    freezer = Freezer(options.timeout_every)
    lived = live(
        partial(configured, options=options), freezer, expected=EXPECTED, tolerated=TOLERATED, shown=(freezer.prepared,)
    )
    return result_of(lived, freezer.stops)


def result_of(lived: Lived, stops: int) -> Result:
    """What the stops cost, and whether the run got over them."""
    summary, meter = lived.summary or {}, lived.meter
    told = {name: last(lived.packets, f"tolaria.timeout.{name}_total") for name in ("tamiyo", "kasmina")}
    undisturbed = [each.spent.wall_ms for each in meter.epochs if each.spent.wall_ms < DEADLINE_S * 1e3]
    return Result(
        scenario=SCENARIO,
        slug=SLUG,
        metrics={
            "timeout_tamiyo": told["tamiyo"],
            "timeout_kasmina": told["kasmina"],
            "evaluations": meter.evaluations,
            "stops": stops,
            "deadline_ms": DEADLINE_S * 1e3,
            **statistics(undisturbed, "undisturbed_latency"),
        },
        phases=meter.phases(),
        telemetry=lived.packets,
        details={"mode": summary["mode"], "growth": summary["growth"], "timeouts": summary["timeouts"]},
        failures=[
            *lived.failures,
            *unlearnt(meter.epochs),
            *unless(stops > 0, "Tamiyo was never stopped: give more epochs"),
            *unless(
                told["tamiyo"] >= stops, f"{stops} stops, but {told['tamiyo']:g} deadlines of Tamiyo's were missed"
            ),
            *unless(
                sum(told.values()) == summary["timeouts"],
                f"telemetry tells of {sum(told.values()):g} of {summary['timeouts']} missed deadlines",
            ),
            *unless(summary["mode"] == "normal", f"the run ended in mode {summary['mode']}"),
        ],
    )
