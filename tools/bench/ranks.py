#!/usr/bin/env python3
"""What more ranks give: tokens a second of one process, of DDP and of fully_shard, with a stack grafted in the run.

    python tools/bench/ranks.py [--ranks 2] [--device cuda] [--depth 12] [--width 768] [--heads 12] [--context 512]
                                [--batch 64] [--steps 360] [--amp bf16] [--json [FILE]]

Arms, each a run of the launcher with services of its own, whose batch is --batch sequences for each rank:

  one    a process that is alone
  ddp    torchrun with --ranks processes, --parallel ddp
  shard  the same with --parallel shard

Times are those of events.jsonl at boundaries, which wait for the device. `before` is the median over boundaries until
the stack comes, `twin` while it is tried beside its twin, `after` from then on; `whole` is all of it from the second
boundary to the last, with grafts, evaluations and boundaries. Ratios are to `one`. What is told to be met are the
ratios of `before`, where all arms do the same work for each rank.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TARGETS = {"ddp": 1.9, "shard": 1.8}
"""For two ranks."""
PHASES = ("before", "twin", "after")
GROWN, SETTLED = "ATTACH", ("DROP_TWIN", "INSTALL_TWIN")
PATIENCE_S = 600


def command(options: argparse.Namespace, arm: str, run_dir: Path) -> list[str]:
    """The launcher's, of one arm."""
    ranks = 1 if arm == "one" else options.ranks
    own = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)) if ranks > 1 else ()
    flags: dict[str, Any] = {
        "data": "pytext",
        "samples": options.samples,
        "context": options.context,
        "model": "transformer",
        "depth": options.depth,
        "width": options.width,
        "heads": options.heads,
        "batch-size": options.batch * ranks,
        "steps": options.steps,
        "device": options.device,
        "amp": options.amp,
        "optimizer": "adamw",
        "lr": 3e-4,
        "clip-norm": 1,
        "warmup-steps": 10,
        "twin": "live",
        "target-depth": 2 * options.depth,
        "stack-shares": 0.15,
        "stack-recovery-steps": options.steps // 6,
        "window-fraction": 0.2,
        "stack-evaluations": 4,
        "checkpoint-every-epochs": 0,
        "run-dir": run_dir,
        **({} if arm == "one" else {"parallel": arm}),
    }
    given = [word for key, value in flags.items() for word in (f"--{key}", str(value))]
    return [sys.executable, *own, "-m", "esper.tolaria", "--plain", *given]


def trained(options: argparse.Namespace, arm: str, folder: Path) -> dict[str, Any]:
    """One arm's figures."""
    run_dir = folder / arm
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        command(options, arm, run_dir),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "4")},
    )
    if done.returncode:
        raise SystemExit(f"{arm}: exit code {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    summary = json.loads((run_dir / "summary.json").read_text())
    tokens = options.batch * options.context * (1 if arm == "one" else options.ranks)
    return {
        **figures(events, tokens),
        "parameters": [event["parameters"] for event in events if event["kind"] == "network"],
        "seeds": [seed["fate"] for seed in summary["seeds"]],
        "test_loss": summary.get("test_loss"),
    }


def figures(events: Sequence[Mapping[str, Any]], tokens: int) -> dict[str, Any]:
    """Tokens a second by phase, and of all; `tokens` are those of a step."""
    times = [(int(event["step"]), _seconds(event)) for event in events if event["kind"] == "boundary"]
    grown, settled = _steps(events, (GROWN,)), _steps(events, SETTLED)
    began, ended = min(grown, default=None), min(settled, default=None)
    phases: dict[str, list[float]] = {name: [] for name in PHASES}
    for (step, at), (later, then) in pairwise(times[1:]):
        if began is None or later <= began:
            name = "before"
        else:
            name = "twin" if ended is None or later <= ended else "after"
        phases[name].append((then - at) / (later - step))
    (first, start), (last, end) = times[1], times[-1]
    return {
        "tokens_per_s": {
            **{name: tokens / statistics.median(steps) for name, steps in phases.items() if steps},
            "whole": tokens * (last - first) / (end - start),
        },
        "step_ms": {name: 1e3 * statistics.median(steps) for name, steps in phases.items() if steps},
        "stack": [began, ended],
    }


def _steps(events: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> list[int]:
    return [int(each["step"]) for each in events if each["kind"] == "directive" and each["directive"] in kinds]


def _seconds(event: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()


def ratios(arms: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Each arm's tokens a second over those of one process, by phase."""
    one = arms["one"]["tokens_per_s"]
    return {
        arm: {phase: rate / one[phase] for phase, rate in found["tokens_per_s"].items() if phase in one}
        for arm, found in arms.items()
        if arm != "one"
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--amp", default="bf16")
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--batch", type=int, default=64, help="sequences for each rank")
    parser.add_argument("--samples", type=int, default=12_000)
    parser.add_argument("--steps", type=int, default=360)
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="print JSON, or write it there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        arms = {arm: trained(options, arm, Path(folder)) for arm in ("one", "ddp", "shard")}
    told = {
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, {options.device}",
        "settings": {key: value for key, value in vars(options).items() if key != "json"},
        "arms": arms,
        "ratios": ratios(arms),
        "targets": TARGETS,
    }
    text = json.dumps(told, indent=2)
    if options.json == "-":
        print(text)
        return
    if options.json:
        Path(options.json).write_text(text + "\n")
    for arm, found in told["arms"].items():
        rates = ", ".join(f"{phase} {rate:,.0f}" for phase, rate in found["tokens_per_s"].items())
        print(f"{arm:6} tokens/s: {rates}; parameters {found['parameters']}; stack {found['seeds']} {found['stack']}")
    for arm, by_phase in told["ratios"].items():
        rates = ", ".join(f"{phase} {ratio:.2f}" for phase, ratio in by_phase.items())
        limit = TARGETS[arm] * options.ranks / 2
        print(f"{arm:6} over one: {rates}; {'met' if by_phase['before'] >= limit else 'MISSED'}: at least {limit:.2f}")


if __name__ == "__main__":
    main()
