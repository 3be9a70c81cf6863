"""rollback: a run loses its weights while a seed is in its host, and goes back to an older state, three times.

| Run    | The older state is in | And                                                                |
| fast   | memory                | it is restored                                                     |
| full   | a checkpoint          | it is restored                                                     |
| missed | both                  | each takes longer than the deadline: the run ends, the plane halts |

What restoring takes by size is measured apart (tools/bench/rollback.py): transformers with Adam, each tier beside
copying as many bytes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from typing import Any

from esper.core.errors import RollbackLate
from esper.tolaria.record.observer import CheckpointWritten, Observer
from tools.bench.rollback import measure
from tools.harness.faults.training import breaking_down, slow_restores
from tools.harness.live import Lived, live
from tools.harness.packets import last, names_of
from tools.harness.result import Result, unlearnt, unless
from tools.harness.workload import ROWS, settings

SCENARIO = SLUG = "rollback_deadline"
BREAKS_AT = 0.2
"""Share of the run; a seed is in the host then."""
TOO_SLOW = 3.0
"""Times the deadline that a piece of a restore takes where it is to be missed."""
REPEATS = 5
MISSED = (
    *("tolaria.rollback.deadline_exceeded", "rollback_deadline_triggered", "emergency_signal_received"),
    *("mode_changed", "alert_raised"),
)


class Sizes(Observer):
    """Observer that notes how large a checkpoint is."""

    def __init__(self) -> None:
        self.checkpoint_bytes = 0

    def on_checkpoint(self, written: CheckpointWritten) -> None:
        self.checkpoint_bytes = written.size_bytes


def run(options: argparse.Namespace) -> Result:
    steps = options.epochs * (ROWS["train"] // options.batch_size)
    tiers = {
        "fast": {"snapshot_every_steps": 20, "checkpoint_every_epochs": 5},
        "full": {"snapshot_every_steps": 0, "checkpoint_every_epochs": 1},
    }
    sizes, lived = Sizes(), {}
    with breaking_down(round(BREAKS_AT * steps)):
        for tier, kept in tiers.items():
            lived[tier] = live(_configured(options, **kept), sizes, expected=("tolaria.rollback",))
        deadline_s = options.deadline_ms / 1e3
        deadlines = {"rollback_fast_deadline_s": deadline_s, "rollback_full_deadline_s": deadline_s}
        with slow_restores(TOO_SLOW * deadline_s):
            missed = live(_configured(options, **tiers["fast"], **deadlines), expected=MISSED, ends_by=RollbackLate)
    found = [measure(depth, width, REPEATS, options.device) for depth, width in options.sizes]
    return result_of(lived["fast"], lived["full"], missed, found, sizes.checkpoint_bytes)


def _configured(options: argparse.Namespace, **further: Any) -> Any:
    return partial(
        settings,
        epochs=options.epochs,
        batch_size=options.batch_size,
        device=options.device,
        on_nonfinite="rollback",
        **further,
    )


def result_of(fast: Lived, full: Lived, missed: Lived, sizes: list[dict[str, Any]], checkpoint_bytes: int) -> Result:
    """What the runs and the sizes showed."""
    late = missed.error
    halted = "emergency_signal_received" in names_of(missed.packets)
    exceeded = last(missed.packets, "tolaria.rollback.deadline_exceeded_total")
    return Result(
        scenario=SCENARIO,
        slug=SLUG,
        metrics={
            "timeout_kasmina": last(missed.packets, "tolaria.timeout.kasmina_total"),
            "rollback_deadline_exceeded": exceeded,
            "rollback_restore_latency_ms": fast.meter.rollbacks.restore_latency_ms,
            "full_restore_latency_ms": full.meter.rollbacks.restore_latency_ms,
            "deadline_ms": late.deadline_ms if isinstance(late, RollbackLate) else 0.0,
            "missed_after_ms": late.elapsed_ms if isinstance(late, RollbackLate) else 0.0,
            "snapshot_bytes": fast.meter.rollbacks.fast_size_bytes,
            "checkpoint_bytes": checkpoint_bytes,
            **{name: figure for found in sizes for name, figure in _of_size(found)},
        },
        phases=fast.meter.phases(),
        telemetry=missed.packets,
        details={"halted": halted, "ended_by": str(late), "sizes": sizes},
        failures=[
            *(f"{name}: {line}" for name, run in _named(fast, full, missed) for line in run.failures),
            *(f"{name}: {line}" for name, run in _named(fast, full) for line in unlearnt(run.meter.epochs)),
            *unless(fast.meter.rollbacks.fast_hits == 1, "fast: the state didn't come from memory"),
            *unless(full.meter.rollbacks.fast_hits == 0, "full: the state didn't come from a checkpoint"),
            *unless(exceeded >= 1, "missed: no missed deadline was counted"),
            *unless(halted, "missed: no emergency was raised"),
        ],
    )


def _named(*runs: Lived) -> Iterator[tuple[str, Lived]]:
    return zip(("fast", "full", "missed"), runs, strict=False)


def _of_size(found: dict[str, Any]) -> Iterator[tuple[str, float]]:
    size = f"{found['size_bytes'] / 1e6:.1f}mb"
    for tier in ("fast", "full"):
        yield f"{tier}_{size}_restore_ms", found[tier]["restore_ms"]
        yield f"{tier}_{size}_share_of_copy", found[tier]["share_of_copy"]
