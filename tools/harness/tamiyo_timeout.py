"""tamiyo-timeout: Tamiyo's process is stopped at every N-th packet for longer than the deadline of an answer.

Each stop costs one deadline, the run is conservative meanwhile and trains on, and it is normal again at its end.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from esper.tolaria.config import TrainConfig
from esper.tolaria.plane.faults import freeze
from esper.tolaria.record.observer import Boundary, Observer, RunStarted
from esper.tolaria.task.prepare import Prepared
from tools.harness.faults.processes import services_of
from tools.harness.figures import statistics
from tools.harness.live import Lived, live
from tools.harness.packets import last
from tools.harness.result import Result, unlearnt, unless
from tools.harness.workload import settings

SCENARIO = SLUG = "tamiyo_timeout"
DEADLINE_S = 0.5
FREEZE_S = 1.5 * DEADLINE_S  # longer than one deadline, shorter than two: each stop makes one packet late
FROM, UNTIL = 0.2, 0.6
"""Shares of the run: a seed is there by the one, and enough answers come after the other to be normal again."""
EXPECTED = ("tolaria.tamiyo_timeout", "tolaria.mode_changed")


class Freezer(Observer):
    """Observer that stops Tamiyo at every so many packets in the middle of a run."""

    def __init__(self, every: int) -> None:
        self.stops = 0
        self._every = every
        self._run: Prepared | None = None
        self._total = 1
        self._tamiyo: int | None = None

    def prepared(self, run: Prepared) -> None:
        """Whose Tamiyo it is."""
        self._run = run

    def on_start(self, started: RunStarted) -> None:
        self._total = started.total_steps
        if self._run is not None:
            self._tamiyo = services_of(self._run.config.run_dir)["tamiyo"]

    def on_boundary(self, boundary: Boundary) -> None:
        is_due = boundary.packet.packet_index % self._every == 0
        if self._tamiyo is not None and is_due and FROM <= boundary.step / self._total < UNTIL:
            freeze(self._tamiyo, FREEZE_S)
            self.stops += 1


def configured(run_dir: Path, options: argparse.Namespace) -> TrainConfig:
    """The growing run, with a deadline that a stop outlasts."""
    return settings(run_dir, options.epochs, options.batch_size, options.device, deadline_s=DEADLINE_S)


def run(options: argparse.Namespace) -> Result:
    freezer = Freezer(options.timeout_every)
    lived = live(partial(configured, options=options), freezer, expected=EXPECTED, shown=(freezer.prepared,))
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
            "delay_ms": FREEZE_S * 1e3,
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
