#!/usr/bin/env python3
"""Training steps as CUDA graphs: Esper with its control plane beside bare PyTorch loops, on one device in one run.

    python tools/bench/graphs.py [--steps 10000] [--captures 10] [--rows tiny,transformer] [--json [FILE]]

Every figure is the mean wall time of a step over `--steps` of them, after `--settle` others: batches, boundaries,
packets and checkpoints included. Evaluations at ends of epochs, which bare loops don't make, are told apart.

  bare          a PyTorch loop over the same network, batches, optimiser and precision; losses are read every ten steps
  bare graphs   the same with forward, backward and optimiser in a CUDA graph; a short last batch is stepped eagerly
  eager         Esper with its services, whose trigger germinates nothing
  graphs        the same with --graphs
  never         --graphs --grow never: no services

The last table is the first capture of the tiny network's training step in successive trainers of this process.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from esper.kasmina.executor.passes.batches import leaves
from esper.tolaria.config import TrainConfig
from esper.tolaria.plane.null_control import NullControl
from esper.tolaria.record.observer import EpochDone, Observer, Observers, StepDone
from esper.tolaria.run import Interruption, RunOptions, grow
from esper.tolaria.task.precision import autocast
from esper.tolaria.task.prepare import Prepared, prepare
from esper.tolaria.trainer import Trainer

ROWS = {
    "tiny": TrainConfig(data="digits", hidden=(6, 6), device="cuda"),
    "transformer": TrainConfig(
        data="pytext",
        model="transformer",
        samples=20_000,
        depth=2,
        width=48,
        context=64,
        device="cuda",
        amp="bf16",
        target_depth=2,  # its own: all arms train the same network
    ),
}
READ_EVERY = 10
WARM_UP = 3


class Clock(Observer):
    """When a step was done, as far as its loss was read."""

    def __init__(self, settle: int, steps: int) -> None:
        self._settle, self._last = settle, settle + steps
        self._times: dict[int, float] = {}
        self._evaluations: dict[int, float] = {}

    def on_steps(self, steps: Sequence[StepDone]) -> None:
        if steps:
            self._times[steps[-1].step] = time.perf_counter()

    def on_epoch(self, done: EpochDone) -> None:
        self._evaluations[done.step] = time.perf_counter() - self._times[done.step]

    def means_ms(self) -> tuple[float, float]:
        """Of a step, and of it for evaluations."""
        first = min(step for step in self._times if step >= self._settle)
        last = max(step for step in self._times if step <= self._last)
        evaluated = sum(took for step, took in self._evaluations.items() if first <= step < last)
        whole = self._times[last] - self._times[first]
        return whole / (last - first) * 1e3, evaluated / (last - first) * 1e3


def esper(config: TrainConfig, settle: int, steps: int) -> dict[str, Any]:
    """A run of Esper's."""
    clock = Clock(settle, steps)
    with tempfile.TemporaryDirectory(prefix="graphs-") as folder:
        total = settle + steps
        run = replace(config, run_dir=Path(folder) / "run", steps=total, growth_warmup_steps=2 * total)
        summary = grow(run, RunOptions(), [clock], Interruption())
    overhead = summary["control_overhead_ms"]
    whole_ms, evaluations_ms = clock.means_ms()
    return {
        "mean_ms": whole_ms - evaluations_ms,
        "evaluations_ms_per_step": evaluations_ms,
        "p50_ms": summary["step_ms"]["p50"],
        "boundaries_ms_per_step": overhead["per_step"],
        "p99_at_boundaries_ms": overhead["p99_at_boundaries"],
        "graphs": summary["graphs"],
        "parameters": summary["final_parameters"],
        "loss": summary["val_loss"],
    }


def bare(config: TrainConfig, settle: int, steps: int, *, graphs: bool) -> dict[str, Any]:
    """A plain loop over what Esper would train."""
    torch.manual_seed(0)
    run = prepare(replace(config, grow="never", steps=settle + steps))
    step_of = graphed(run) if graphs else eager(run)
    losses: list[torch.Tensor] = []
    started, last = 0.0, 0.0
    for step in range(settle + steps):
        if step == settle:
            torch.cuda.synchronize()
            started = time.perf_counter()
        losses.append(step_of(run.loader.batch(step)))
        if len(losses) == READ_EVERY:
            last = torch.stack(losses).tolist()[-1]
            losses.clear()
    torch.cuda.synchronize()
    return {"mean_ms": (time.perf_counter() - started) / steps * 1e3, "loss": last}


def eager(run: Prepared) -> Callable[[Any], torch.Tensor]:
    """The ordinary training step."""
    arm, task, config = run.executor.arm, run.task, run.config

    def step(batch: Any) -> torch.Tensor:
        arm.optimizer.zero_grad(set_to_none=True)
        with autocast(config.amp, run.device):
            loss = task.loss(task.forward(arm.model, batch[0]), batch[1])
        loss.backward()  # type: ignore[no-untyped-call]
        arm.optimizer.step()
        return loss.detach()

    return step


def graphed(run: Prepared) -> Callable[[Any], torch.Tensor]:
    """The same step in a graph, once a few have been made, for batches of the first one's size."""
    plain, held = eager(run), [tensor.clone() for tensor in leaves(run.loader.batch(0))]
    for group in run.executor.arm.optimizer.param_groups:
        group["capturable"] = True
    side, made = torch.cuda.Stream(), {"steps": 0}
    graph = torch.cuda.CUDAGraph()
    recorded: list[torch.Tensor] = []

    def step(batch: Any) -> torch.Tensor:
        if batch[0].shape != held[0].shape:
            return plain(batch)
        if made["steps"] < WARM_UP:
            made["steps"] += 1
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                loss = plain(batch)
            torch.cuda.current_stream().wait_stream(side)
            return loss
        for mine, theirs in zip(held, leaves(batch), strict=True):
            mine.copy_(theirs)
        if not recorded:
            with torch.cuda.graph(graph):
                recorded.append(plain(tuple(held)))
        graph.replay()
        return recorded[0].clone()

    return step


def first_captures(count: int) -> list[float]:
    """Milliseconds of the first capture in each of so many trainers, one after another."""
    found = []
    for seed in range(count):
        config = replace(ROWS["tiny"], seed=seed, grow="never", steps=30, graphs=True, checkpoint_every_epochs=0)
        trainer = Trainer(prepare(config), lambda opening: NullControl(), Observers())
        summary = trainer.train()
        found.append(float(summary["graphs"]["first_capture_ms"]))
    return found


def measure(row: str, settle: int, steps: int) -> dict[str, Any]:
    config = ROWS[row]
    eager_steps = min(steps, 500)
    found: dict[str, Any] = {}
    for name, act in {
        "bare": lambda: bare(config, settle, eager_steps, graphs=False),
        "bare graphs": lambda: bare(config, settle, steps, graphs=True),
        "eager": lambda: esper(config, settle, eager_steps),
        "graphs": lambda: esper(replace(config, graphs=True), settle, steps),
        "never": lambda: esper(replace(config, graphs=True, grow="never"), settle, steps),
    }.items():
        found[name] = act()
        print(f"{row:12} {name:12} {found[name]['mean_ms']:8.4f} ms a step", file=sys.stderr, flush=True)
    return found


def show(result: Mapping[str, Any]) -> None:
    print(f"{result['device']}, torch {result['torch']}")
    for row, arms in result["rows"].items():
        for name, figures in arms.items():
            boundaries = figures.get("boundaries_ms_per_step")
            more = "" if boundaries is None else f", of it boundaries {boundaries:.4f}; {figures['graphs']}"
            print(f"{row:12} {name:12} {figures['mean_ms']:8.4f} ms a step{more}")
    print("first captures, ms:", ", ".join(f"{took:.2f}" for took in result["first_capture_ms"]))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000, help="steps that are timed; of eager arms at most 500")
    parser.add_argument("--settle", type=int, default=500, help="steps before them")
    parser.add_argument("--captures", type=int, default=10, help="trainers whose first capture is timed")
    parser.add_argument("--rows", default=",".join(ROWS), help=f"of {', '.join(ROWS)}")
    parser.add_argument("--json", nargs="?", const="-", help="write JSON to a file, or print it")
    options = parser.parse_args(argv)
    unknown = [row for row in options.rows.split(",") if row not in ROWS]
    if unknown:
        raise SystemExit(f"--rows: {', '.join(unknown)} unknown, expected some of {', '.join(ROWS)}")
    if not torch.cuda.is_available():
        raise SystemExit("graphs needs a CUDA device; torch sees none")
    result = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "steps": options.steps,
        "first_capture_ms": first_captures(options.captures),
        "rows": {row: measure(row, options.settle, options.steps) for row in options.rows.split(",")},
    }
    if options.json == "-":
        print(json.dumps(result))
    elif options.json:
        Path(options.json).write_text(json.dumps(result, indent=1))
    if options.json != "-":
        show(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
