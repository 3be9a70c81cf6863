"""kasmina-prefetch: a burst of prefetches over the bus of a real Weatherlight, whose Urza takes a stated time for each.

Measured by who asks (tools/bench/kasmina_prefetch.py, which has Redis and cancellations too): request to READY above
the injected time, and on to what is attached at a boundary, beside calls that ask for nothing.
"""

from __future__ import annotations

import argparse

from tools.bench.kasmina_prefetch import Arm, measured
from tools.harness.figures import statistics
from tools.harness.result import Result, unless

SCENARIO, SLUG = "kasmina_prefetch_burst", "kasmina_prefetch"
THROUGH, BACKEND = "plane", "sqlite"
BOUNDARY_MS = 10.0


def run(options: argparse.Namespace) -> Result:
    asked = argparse.Namespace(
        requests=options.requests,
        concurrency=options.concurrency,
        ready_latency_ms=options.ready_latency_ms,
        jitter_ms=0.0,
        cancel=0,
        boundary_ms=BOUNDARY_MS,
        dir=None,
    )
    return result_of(options, measured(THROUGH, BACKEND, asked, fsyncs=True))


def result_of(options: argparse.Namespace, arm: Arm) -> Result:
    """What the burst took; the bench itself ends for an error, a miscount, or anything that is left behind."""
    bare = statistics(arm.bare_call, "bare_call")["bare_call_p50_ms"]
    above = statistics(arm.above, "above_injected")
    return Result(
        scenario=SCENARIO,
        slug=SLUG,
        metrics={
            "requests": len(arm.to_ready),
            **statistics(arm.to_ready, "latency"),
            **above,
            **statistics(arm.to_attached, "attached"),
            "bare_call_p50_ms": bare,
            "above_injected_ratio_p50": above["above_injected_p50_ms"] / bare,
        },
        details={
            "durations_ms": arm.to_ready,
            "concurrency": options.concurrency,
            "injected_ms": options.ready_latency_ms,
            "counts": arm.counts,
        },
        failures=[
            *unless(len(arm.to_ready) == options.requests, f"{len(arm.to_ready)} of {options.requests} were READY"),
            *unless(min(arm.above, default=-1.0) >= 0, "an artefact was READY before its delay was over"),
        ],
    )
