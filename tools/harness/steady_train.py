"""steady-train: epochs of a growing run under real services, beside a bare loop that takes turns with it."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from functools import partial
from typing import Any

from tools.harness.figures import statistics
from tools.harness.live import Lived, live
from tools.harness.result import Result, unlearnt, unless
from tools.harness.workload import settings

SCENARIO = SLUG = "steady_train"
RATIOS = ("ratio_p50", "cpu_ratio_p50")


def run(options: argparse.Namespace) -> Result:
    compiles = "off" if options.disable_compile else "blocks"
    configure = partial(
        settings, epochs=options.epochs, batch_size=options.batch_size, device=options.device, compile=compiles
    )
    return result_of(live(configure))


def result_of(lived: Lived) -> Result:
    """What the run measured, and what is wrong with it."""
    meter, summary = lived.meter, lived.summary or {}
    phases = meter.phases()
    epochs = [epoch for epoch in meter.epochs if epoch.phase in ("seeded", "steady")]
    missing = [phase for phase in ("seeded", "steady") if phase not in phases]
    return Result(
        scenario=SCENARIO,
        slug=SLUG,
        metrics={
            "epochs": len(meter.epochs),
            **statistics([epoch.spent.wall_ms for epoch in epochs], "latency"),
            "accuracy_final": summary["val_accuracy"],
            "loss_final": meter.epochs[-1].loss,
            "startup_s": meter.startup_s,
            **{f"{phase}_{name}": of[name] for phase, of in phases.items() for name in RATIOS},
        },
        phases=phases,
        telemetry=lived.packets,
        details={
            "tamiyo_evaluations": meter.evaluations,
            "kasmina_commands": summary["commands"],
            "growth": summary["growth"],
            "compile": summary["compile"],
            "epochs": [asdict(epoch) for epoch in meter.epochs],
        },
        failures=[
            *lived.failures,
            *unlearnt(meter.epochs),
            *(f"no epoch was {phase}: give more epochs" for phase in missing),
            *unless(summary["growth"]["judged"] > 0, "no seed was judged"),
            *unless(summary["control_failures"] == 0, f"{summary['control_failures']} answers were missing"),
        ],
    )


def comparison(result: Result) -> dict[str, Any]:
    """What the control plane and a live seed cost an epoch: medians, differences and ratios to the bare loop."""
    return {
        phase: {
            "epochs": figures["epochs"],
            "bare_ms": figures["bare_p50_ms"],
            "esper_ms": figures["latency_p50_ms"],
            "delta_ms": figures["latency_p50_ms"] - figures["bare_p50_ms"],
            "ratio": figures["ratio_p50"],
            "cpu_ratio": figures["cpu_ratio_p50"],
        }
        for phase, figures in result.phases.items()
    }
