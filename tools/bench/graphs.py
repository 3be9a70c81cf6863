#!/usr/bin/env python3
"""Training steps as CUDA graphs: Esper with its control plane beside bare PyTorch loops, on one device in one run.

    python tools/bench/graphs.py [--steps 10000] [--captures 10] [--rows tiny,transformer,judged,seed] [--json [FILE]]
    python tools/bench/graphs.py --rows none --captures 10      # first captures alone
    python tools/bench/graphs.py --rows tiny --steps 1 --trace 200      # where a replayed step's time goes

Every figure of tiny and transformer is the mean wall time of a step over `--steps` of them, after `--settle` others:
batches, boundaries, packets and checkpoints included. Evaluations at ends of epochs, which bare loops don't make, are
told apart.

  bare          a PyTorch loop over the same network, batches, optimiser and precision; losses are read every ten steps
  bare graphs   the same with forward, backward and optimiser in a CUDA graph; a short last batch is stepped eagerly
  eager         Esper with its services, whose trigger germinates nothing
  graphs        the same with --graphs
  never         --graphs --grow never: no services

`judged` is the transformer's row while a seed is judged, with its twin beside it: eager, graphs, and graphs whose steps
that measure seeds stay eager; and how many steps of which kind there were. Its figure is the mean of both arms' steps
between the graft and the verdict, boundaries and looks included.

First captures are those of the tiny network's training step in successive trainers, before anything else of this
process; the first of them loads what all need. `seed` is the step of an isolated seed's first stage, written by hand:
capture, replay, replay with a batch and an alpha that are staged from the device or from pinned memory, and without a
graph; a replay whose losses differ from eager ones is an error. `--trace` adds tables of kernels.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from timing.kernel_times import kernel_times, many, table
from torch import Tensor, nn

from esper.kasmina.executor.passes.batches import leaves
from esper.kernels import blend_convex
from esper.tolaria.config import TrainConfig
from esper.tolaria.loop.graphs import graphs as bookkeeping
from esper.tolaria.plane.null_control import NullControl
from esper.tolaria.record.observer import EpochDone, Observer, Observers, StepDone, TwinStep
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
JUDGED_ROW = "judged"
JUDGED = replace(
    ROWS["transformer"],
    target_depth=None,
    slots=("span_linear:blocks.0.mlp.fc1-blocks.0.mlp.fc2",),
    grow="always",
    max_seeds=1,
    window_fraction=0.4,
)
SEED_ROW = "seed"
READ_EVERY = 10
WARM_UP = 3
MOST_CAPTURE_MS = 10.0
SETTLED = 100
MOST_JUDGED = 2_000
"""Steps of a run whose seed is judged."""
SEED_TRAINERS, SEED_REPEATS, SEED_BLOCK = 10, 20, 100
WIDTH, BATCH = 32, 32
"""Of the isolated seed's step."""


class Phase(Observer):
    """The time from a seed's graft to its verdict, by the boundaries at which it was seen with a twin."""

    def __init__(self) -> None:
        self._seen: list[tuple[int, float]] = []

    def on_twin_steps(self, steps: Sequence[TwinStep]) -> None:
        self._seen.append((max(done.step for done in steps), time.perf_counter()))

    def entry(self) -> dict[str, Any]:
        """The mean of a step of both arms, and their number."""
        if len(self._seen) < 2:
            raise SystemExit("judged: no seed was judged; give more --steps")
        (first, began), (last, ended) = self._seen[0], self._seen[-1]
        return {"mean_ms": (ended - began) / (last - first) * 1e3, "steps": last - first}


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
    run = prepare(replace(config, grow="never", target_depth=None, steps=settle + steps))
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


class IsolatedSeed(nn.Module):
    """A seed's first stage: the host's activation is given, the seed alone learns, alpha is on the device."""

    def __init__(self) -> None:
        super().__init__()
        self.seed = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, host: Tensor, alpha: Tensor) -> Tensor:
        return blend_convex(host, self.seed(host), alpha, isolate=True)


class SeedTrainer:
    """One such seed, its optimiser and the one buffer that a captured step reads: batch, targets and alpha."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = IsolatedSeed().cuda()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9, fused=True)
        self.staged = torch.zeros(2 * BATCH * WIDTH + 1, device="cuda")
        self.loss = torch.zeros((), device="cuda")

    def stage(self, packed: Tensor) -> None:
        self.staged.copy_(packed, non_blocking=True)

    def step(self) -> None:
        batch, targets = self.staged[:-1].view(2, BATCH, WIDTH)
        self.optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.mse_loss(self.model(batch, self.staged[-1]), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.loss = loss.detach()

    def captured(self) -> tuple[torch.cuda.CUDAGraph, float]:
        """The graph of one step, and the milliseconds from an idle device to a graph ready to replay."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self.step()
        torch.cuda.synchronize()
        started = time.perf_counter()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        torch.cuda.synchronize()
        return graph, (time.perf_counter() - started) * 1e3

    def state(self) -> list[Tensor]:
        momenta = [entry["momentum_buffer"] for entry in self.optimizer.state.values()]
        return [*(parameter.detach() for parameter in self.model.parameters()), *momenta]


def draw_batches(count: int) -> list[Tensor]:
    """Pinned and packed, one copy each: what a loader would hand over. The last number is alpha."""
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randn(2 * BATCH * WIDTH + 1, generator=generator) for _ in range(count)]
    for index, batch in enumerate(batches):
        batch[-1] = index / count
    return [batch.pin_memory() for batch in batches]


def check_replay(trainer: SeedTrainer, graph: torch.cuda.CUDAGraph, batches: Sequence[Tensor]) -> None:
    """From one state, replays and eager steps must give the same losses, bit for bit."""
    before, told = [tensor.clone() for tensor in trainer.state()], trainer.loss
    replayed, stepped = [], []
    for batch in batches:
        trainer.stage(batch)
        graph.replay()
        replayed.append(float(told))
    for tensor, value in zip(trainer.state(), before, strict=True):
        tensor.copy_(value)
    for batch in batches:
        trainer.stage(batch)
        trainer.step()
        stepped.append(float(trainer.loss))
    if replayed != stepped:
        raise SystemExit(f"graph replay differs from the eager step: {replayed} != {stepped}")


def median_us(act: Callable[[], None], trainer: SeedTrainer, batches: Sequence[Tensor], repeats: int) -> float:
    """Median over blocks of steps: the rate that a training loop sees. Without batches nothing is staged."""
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for index in range(SEED_BLOCK):
            if batches:
                trainer.stage(batches[index % len(batches)])
            act()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - started) / SEED_BLOCK * 1e6)
    return statistics.median(times)


def seed_steps(count: int) -> dict[str, list[float]]:
    """Of so many trainers of an isolated seed, one after another: microseconds a step, and of the capture."""
    batches = draw_batches(16)
    found: dict[str, list[float]] = {}
    for number in range(count):
        trainer = SeedTrainer(number)
        graph, capture_ms = trainer.captured()
        check_replay(trainer, graph, batches)
        there = [batch.cuda() for batch in batches]
        times = {
            "capture_us": capture_ms * 1e3,
            "replay_us": median_us(graph.replay, trainer, [], SEED_REPEATS),
            "staged_us": median_us(graph.replay, trainer, there, SEED_REPEATS),
            "pinned_us": median_us(graph.replay, trainer, batches, SEED_REPEATS),
            "eager_us": median_us(trainer.step, trainer, there, SEED_REPEATS // 4),
        }
        for name, took in times.items():
            found.setdefault(name, []).append(took)
    return found


def traces(config: TrainConfig, steps: int) -> dict[str, Any]:
    """Kernels of a replayed step: of the bare loop's graph, and of Esper's without boundaries and evaluations."""
    run = prepare(replace(config, grow="never", target_depth=None, steps=10 * steps))
    step_of, numbers = graphed(run), itertools.count()
    trainer = Trainer(
        prepare(replace(config, grow="never", target_depth=None, graphs=True, steps=10 * steps)),
        lambda opening: NullControl(),
        Observers(),
    )
    trainer.begin()

    def bare_step() -> int:
        step_of(run.loader.batch(next(numbers)))
        return 1

    def made() -> int:
        before = trainer.step
        trainer.steps.make()
        return trainer.step - before

    found = {}
    for name, act in {"bare graphs": bare_step, "esper graphs": made}.items():
        many(act, SETTLED)  # epochs enough to record their short last batches too
        found[name] = kernel_times(act, steps)
    trainer.stop("all is traced")
    trainer.close()
    return found


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
        "never": lambda: esper(replace(config, graphs=True, grow="never", target_depth=None), settle, steps),
    }.items():
        found[name] = act()
        print(f"{row:12} {name:12} {found[name]['mean_ms']:8.4f} ms a step", file=sys.stderr, flush=True)
    return found


def judged(steps: int) -> dict[str, Any]:
    """A run in which a seed is judged most of the time, without graphs and with."""
    found = {}
    graphs, recorded_after = replace(JUDGED, graphs=True), bookkeeping.MEASURED_WARM_UP_STEPS
    arms = {
        "eager": (JUDGED, recorded_after),
        "graphs": (graphs, recorded_after),
        "measured eager": (graphs, steps),
    }
    for name, (config, bookkeeping.MEASURED_WARM_UP_STEPS) in arms.items():
        phase = Phase()
        with tempfile.TemporaryDirectory(prefix="graphs-") as folder:
            run = replace(config, run_dir=Path(folder) / "run", steps=steps)
            summary = grow(run, RunOptions(), [phase], Interruption())
        counts = {"graphs": summary["graphs"], "evaluate_every_steps": config.packet_steps}
        found[name] = {**phase.entry(), **counts, "boundaries_ms_per_step": summary["control_overhead_ms"]["per_step"]}
        print(f"{JUDGED_ROW:12} {name:14} {found[name]['mean_ms']:8.4f} ms a step", file=sys.stderr, flush=True)
    bookkeeping.MEASURED_WARM_UP_STEPS = recorded_after
    return found


def show(result: Mapping[str, Any]) -> None:
    print(f"{result['device']}, torch {result['torch']}")
    for row, arms in result["rows"].items():
        for name, figures in arms.items():
            boundaries = figures.get("boundaries_ms_per_step")
            more = "" if boundaries is None else f", of it boundaries {boundaries:.4f}; {figures['graphs']}"
            print(f"{row:12} {name:12} {figures['mean_ms']:8.4f} ms a step{more}")
    for name, found in result["traces"].items():
        print(f"{name}: {table(found)}")
    for name, times in result["seed"].items():
        print(f"{SEED_ROW:12} {name:12} {statistics.median(times):8.1f} ({min(times):.1f} to {max(times):.1f})")
    if captures := result["first_capture_ms"]:
        words = "met" if max(captures) <= MOST_CAPTURE_MS else "MISSED"
        told = ", ".join(f"{took:.2f}" for took in captures)
        print(f"first captures, ms: {told}; {words}: at most {MOST_CAPTURE_MS:g}")


def main(argv: list[str] | None = None) -> int:
    rows = (*ROWS, JUDGED_ROW, SEED_ROW)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000, help="steps that are timed; of eager arms at most 500")
    parser.add_argument("--settle", type=int, default=500, help="steps before them")
    parser.add_argument("--captures", type=int, default=10, help="trainers whose first capture is timed")
    parser.add_argument("--rows", default=",".join(rows), help=f"of {', '.join(rows)}, or none")
    parser.add_argument("--trace", type=int, default=0, metavar="STEPS", help="steps of the tiny row that are traced")
    parser.add_argument("--json", nargs="?", const="-", help="write JSON to a file, or print it")
    options = parser.parse_args(argv)
    wanted = [] if options.rows == "none" else options.rows.split(",")
    if unknown := [row for row in wanted if row not in rows]:
        raise SystemExit(f"--rows: {', '.join(unknown)} unknown, expected some of {', '.join(rows)}, or none")
    if not torch.cuda.is_available():
        raise SystemExit("graphs needs a CUDA device; torch sees none")
    result = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "steps": options.steps,
        "first_capture_ms": first_captures(options.captures),
        "rows": {
            **{row: measure(row, options.settle, options.steps) for row in wanted if row in ROWS},
            **({JUDGED_ROW: judged(min(options.steps, MOST_JUDGED))} if JUDGED_ROW in wanted else {}),
        },
        "seed": seed_steps(SEED_TRAINERS) if SEED_ROW in wanted else {},
        "traces": traces(ROWS["tiny"], options.trace) if options.trace else {},
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
