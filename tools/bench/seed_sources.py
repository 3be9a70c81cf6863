#!/usr/bin/env python3
"""What it costs to know what seeds ask of the gradient: steps of a network with a seed, by how much is asked.

    python tools/bench/seed_sources.py [--width 64 512] [--rounds 30] [--device cpu] [--json [FILE]]

Arms, each the ten steps from one packet to the next of an MLP with three hidden layers and a residual seed behind the
second, whose batches are at hand:

  bare        nothing is measured (no trainer does that)
  slices      the default: each owner's slice of the gradient, in one step of ten
  conflicts   --seed-conflicts: the gradient split by the seed that it came through, in one step of ten
  surgery     --pcgrad --surgery seeds: split, measured and put together again in every step
  microbatches for comparison: --pcgrad --accumulate 2, gradient surgery between two microbatches

All arms take part in every round, each first in turn; ratios are within rounds. On the CPU it is the thread's own time
that counts.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timing.paired import order, ratios, spread

from esper.leyline import BlendConfig, BlendMode, BlendSchedule, DirectiveKind, ParameterValue, SeedDirective
from esper.tolaria.config import TrainConfig
from esper.tolaria.loop.aggregation import SeedMeter
from esper.tolaria.loop.step import Groups, Stepper
from esper.tolaria.task.prepare import prepare
from esper.urza.artifacts import ArtifactStore
from esper.urza.catalog import Catalog

SLOT = "residual_linear:act2-act2"
SURGERY: dict[str, Any] = {"pcgrad": True, "surgery": "seeds"}
# Settings, and of ten steps those that are measured.
ARMS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "bare": ({}, ()),
    "slices": ({}, (9,)),
    "conflicts": ({"seed_conflicts": True}, (9,)),
    "surgery": (SURGERY, tuple(range(10))),
    "microbatches": ({"pcgrad": True, "accumulate": 2}, (9,)),
}
ON = BlendConfig(
    mode=BlendMode.BLEND_MODE_RESIDUAL,
    alpha_target=1.0,
    alpha_start=1.0,
    schedule=BlendSchedule.BLEND_SCHEDULE_LINEAR,
    schedule_steps=1,
)


def packet_of(settings: dict[str, Any], measured: tuple[int, ...], width: int, device: str) -> Callable[[], None]:
    """Ten steps of an arm, and at their end the device at rest."""
    config = TrainConfig(hidden=(width,) * 3, batch_size=64, device=device, deterministic=True, **settings)
    run = prepare(config, ArtifactStore(None).get)
    arm, executor = run.executor.arm, run.executor
    blueprint = Catalog.builtin().get("residual.linear")
    ordered: dict[str, Any] = {"seed_id": "s1", "slot_id": SLOT, "blueprint_id": blueprint.blueprint_id}
    build = SeedDirective(
        kind=DirectiveKind.DIRECTIVE_KIND_BUILD,
        directive_id="build",
        parameters=[ParameterValue(name="width", value=width)],
        artifact_digest=blueprint.artifact.digest,
        initialization_seed=7,
        **ordered,
    )
    attach = SeedDirective(kind=DirectiveKind.DIRECTIVE_KIND_ATTACH, directive_id="attach", blend=ON, **ordered)
    executor.execute([build, attach], 0)
    if not arm.grafts:
        raise SystemExit("; ".join(report.failure for report in executor.collect(0).reports))
    groups = Groups(host=executor.host_parameters(), seeds=executor.seed_parameters())
    stepper, meter = Stepper(run.task, config, run.device), SeedMeter(config.seed_layer_topk)
    batches = [run.loader.batch(step) for step in range(10)]

    def packet() -> None:
        for step, batch in enumerate(batches):
            is_packet = step == 9
            stepper.run(
                arm, batch, step, groups, measures_norm=is_packet, note=meter.note if step in measured else None
            )
        meter.read()
        if run.device.type == "cuda":
            torch.cuda.synchronize(run.device)

    return packet


def measure(width: int, rounds: int, device: str) -> dict[str, Any]:
    """Milliseconds of a step by arm, and ratios to the bare one."""
    packets = {name: packet_of(*arm, width, device) for name, arm in ARMS.items()}
    for packet in packets.values():
        for _ in range(3):
            packet()
    # One thread computes on the CPU: its own time is the same however busy the machine is.
    clock = time.thread_time if device == "cpu" else time.perf_counter
    found = []
    for index in range(rounds):
        times = {}
        for name in order(list(ARMS), index):
            started_s = clock()
            packets[name]()
            times[name] = (clock() - started_s) * 1e3 / 10
        found.append(times)
    return {
        "width": width,
        "device": device,
        "rounds": rounds,
        "step_ms": {name: spread([times[name] for times in found]).to_json() for name in ARMS},
        "over_bare": {name: spread(ratios(found, name, "bare")).to_json() for name in ARMS if name != "bare"},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE")
    given = parser.parse_args()
    results = [measure(width, given.rounds, given.device) for width in given.width]
    if given.json:
        text = json.dumps(results, indent=2)
        print(text) if given.json == "-" else Path(given.json).write_text(text + "\n")
        return 0
    for result in results:
        print(f"width {result['width']} on {result['device']}, {result['rounds']} rounds: a bare step ", end="")
        print(f"{result['step_ms']['bare']['median']:.3f} ms")
        for name, found in result["over_bare"].items():
            print(f"  {name:12} {found['median']:.3f} of it (range {found['low']:.3f} to {found['high']:.3f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
