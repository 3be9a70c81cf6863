#!/usr/bin/env python3
"""What more ranks give: tokens a second of one process, of DDP and of fully_shard, with a stack grafted in the run.

    python tools/bench/ranks.py [--ranks 2] [--device cuda] [--depth 12] [--width 768] [--heads 12] [--context 512]
                                [--batch 96] [--steps 360] [--until STEP] [--amp bf16] [--json [FILE]]

Arms, each a run of the launcher with services of its own, whose batch is --batch sequences for each rank:

  one    a process that is alone
  ddp    torchrun with --ranks processes, --parallel ddp
  shard  the same with --parallel shard

Times are those of events.jsonl at boundaries, which wait for the device. `before` is the median over boundaries until
the stack comes, `twin` while it is tried beside its twin, `after` from then on; `whole` is all of it from the second
boundary to the last, with grafts, evaluations and boundaries; `--until` breaks a run off after some step, for those who
pay by the minute. Ratios are to `one`. What is told to be met are the ratios of `whole`: the few boundaries before a
stack that comes early have the start in them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
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
        "stack-shares": 0.05,
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
    events = _ended(
        command(options, arm, run_dir),
        {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "4")},
        run_dir / "events.jsonl",
        options.until,
    )
    tokens = options.batch * options.context * (1 if arm == "one" else options.ranks)
    return {
        **figures(events, tokens),
        "parameters": [event["parameters"] for event in events if event["kind"] == "network"],
    }


def _ended(words: Sequence[str], environ: Mapping[str, str], log: Path, until: int | None) -> list[dict[str, Any]]:
    """The events of a run, which is broken off where it has come far enough."""
    with tempfile.TemporaryFile("w+") as told:
        process = subprocess.Popen(words, env=environ, stdout=told, stderr=told)
        deadline = time.monotonic() + PATIENCE_S
        try:
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.5)
                if until is not None and any(int(event.get("step", 0)) >= until for event in _read(log)[-4:]):
                    return _read(log)
        finally:
            for pid in [process.pid, *_below(process.pid)] if process.poll() is None else []:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
        if process.returncode:
            told.seek(0)
            raise SystemExit(f"exit code {process.returncode}: {' '.join(words)}\n{told.read()[-4000:]}")
    return _read(log)


def _below(pid: int) -> list[int]:
    """All that a process has started; torchrun gives each rank a session of its own, and services end with theirs."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *_below(child)]
    return found


def _read(log: Path) -> list[dict[str, Any]]:
    """Whole lines: the last one may be under way."""
    text = log.read_text() if log.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


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
    parser.add_argument("--batch", type=int, default=96, help="sequences for each rank")
    parser.add_argument("--samples", type=int, default=12_000)
    parser.add_argument("--steps", type=int, default=360)
    parser.add_argument("--until", type=int, help="break each run off after this step")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="print JSON, or write it there")
    options = parser.parse_args()
    arms: dict[str, dict[str, Any]] = {}
    told: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, {options.device}",
        "settings": {key: value for key, value in vars(options).items() if key != "json"},
        "targets": TARGETS,
        "arms": arms,
    }
    with tempfile.TemporaryDirectory() as folder:
        for arm in ("one", "ddp", "shard"):
            arms[arm] = trained(options, arm, Path(folder))
            told["ratios"] = ratios(arms)
            print(f"{arm}: {arms[arm]}", file=sys.stderr, flush=True)
            if options.json and options.json != "-":
                Path(options.json).write_text(json.dumps(told, indent=2) + "\n")
    if options.json == "-":
        print(json.dumps(told, indent=2))
        return
    for arm, found in told["arms"].items():
        rates = ", ".join(f"{phase} {rate:,.0f}" for phase, rate in found["tokens_per_s"].items())
        print(f"{arm:6} tokens/s: {rates}; parameters {found['parameters']}; stack at {found['stack']}")
    for arm, by_phase in told["ratios"].items():
        rates = ", ".join(f"{phase} {ratio:.2f}" for phase, ratio in by_phase.items())
        limit = TARGETS[arm] * options.ranks / 2
        print(f"{arm:6} over one: {rates}; {'met' if by_phase['whole'] >= limit else 'MISSED'}: at least {limit:.2f}")


if __name__ == "__main__":
    main()
