"""What `esper.Growth` costs a loop of one's own: processor time of the training thread against the bare loop.

    python tools/bench/own_loop.py [--step-ms 10] [--turns 60] [--json [FILE]]

The loops run in one thread and take turns of 20 steps, so that they meet the same machine. The control plane is live,
its services run as processes of their own, and no seed is grown: what a twin costs is a step of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import esper
from esper.tolaria.record.ending.summary import quantile

TURN_STEPS, WARM_STEPS = 20, 20
FEATURES, CLASSES, SAMPLES = 64, 10, 256
WIDTHS = (64, 96, 128, 192, 256, 320, 384, 448, 512, 576, 640, 768, 1024)

Batch = tuple[Tensor, Tensor]


def network(width: int) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(FEATURES, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CLASSES)
    )


def batches() -> list[Batch]:
    draw = torch.Generator().manual_seed(1)
    found = [torch.randn(SAMPLES, FEATURES, generator=draw) for _ in range(16)]
    return [(inputs, inputs[:, :CLASSES].argmax(1)) for inputs in found]


def step(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def bare(width: int) -> Iterator[None]:
    """A loop as everybody writes it; a round for each value."""
    model, data = network(width), batches()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    while True:
        for batch in data:
            optimizer.zero_grad()
            loss = step(model, batch).mean()
            loss.backward()
            optimizer.step()
            yield


def grown(width: int, steps: int, run_dir: Path) -> Iterator[None]:
    """The same under the control plane."""
    model, data = network(width), batches()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    config: dict[str, Any] = {
        "run_dir": run_dir,
        "steps": steps,
        "steps_per_epoch": steps,
        "growth_warmup_steps": steps,
        "checkpoint_every_epochs": 0,
    }
    with esper.Growth(model, optimizer, step=step, judge=data[:2], config=config) as growth:
        for batch in growth.steps(data):
            optimizer.zero_grad()
            loss = step(model, batch).mean()
            growth.note(loss)
            loss.backward()
            optimizer.step()
            yield


def spent(rounds: Iterator[None], count: int) -> tuple[float, float]:
    """Milliseconds a step: of the thread on its processor, and of the wall."""
    cpu, wall = time.thread_time(), time.perf_counter()
    for _ in range(count):
        next(rounds)
    return 1e3 * (time.thread_time() - cpu) / count, 1e3 * (time.perf_counter() - wall) / count


def width_for(step_ms: float) -> int:
    """The width whose step comes nearest."""
    found = {}
    for width in WIDTHS:
        rounds = bare(width)
        spent(rounds, 5)
        found[width] = min(spent(rounds, 10)[0] for _ in range(3))
        if found[width] > 2 * step_ms:
            break
    return min(found, key=lambda width: abs(found[width] - step_ms))


def compare(step_ms: float, turns: int) -> dict[str, Any]:
    """The loops in turns, each going first as often; a second bare one shows what chance alone does."""
    width = width_for(step_ms)
    with tempfile.TemporaryDirectory() as scratch:
        steps = 2 * WARM_STEPS + turns * TURN_STEPS
        loops = {"bare": bare(width), "growth": grown(width, steps, Path(scratch) / "run"), "again": bare(width)}
        for rounds in loops.values():
            spent(rounds, WARM_STEPS)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in loops}
        for turn in range(turns):
            for name in (*loops, *loops)[turn % len(loops) :][: len(loops)]:
                times[name].append(spent(loops[name], TURN_STEPS))
        loops["growth"].close()  # type: ignore[attr-defined]
    return {"width": width, "turns": turns, "turn_steps": TURN_STEPS, **ratios(times)}


def ratios(times: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    """Growth over bare, of all turns together and turn by turn."""
    found: dict[str, Any] = {}
    for place, clock in enumerate(("cpu", "wall")):
        columns = {name: [turn[place] for turn in turns] for name, turns in times.items()}
        found[f"{clock}_ms"] = {name: sum(column) / len(column) for name, column in columns.items()}
        for name, key in (("growth", f"{clock}_ratio"), ("again", f"{clock}_chance")):
            each = [a / b for a, b in zip(columns[name], columns["bare"], strict=True)]
            spread = {"p10": quantile(each, 0.1), "p50": quantile(each, 0.5), "p90": quantile(each, 0.9)}
            found[key] = {"all": sum(columns[name]) / sum(columns["bare"]), **spread}
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step-ms", type=float, default=10.0, help="steps to find a network for")
    parser.add_argument("--turns", type=int, default=60, help="turns of each loop (default: 60)")
    parser.add_argument("--json", type=Path, nargs="?", const=Path("-"), help="write JSON here, - for the terminal")
    options = parser.parse_args(argv)
    if options.turns < 1 or options.step_ms <= 0:
        parser.error("--turns and --step-ms must be positive")
    torch.set_num_threads(1)
    record = {"machine": {"cpus": os.cpu_count(), "platform": platform.platform()}} | compare(
        options.step_ms, options.turns
    )
    text = json.dumps(record, indent=2)
    if options.json is None or str(options.json) == "-":
        print(text if options.json else table(record))
    else:
        options.json.write_text(text + "\n")


def table(record: dict[str, Any]) -> str:
    """In words."""
    lines = []
    for clock in ("cpu", "wall"):
        mean = record[f"{clock}_ms"]
        lines.append(f"{clock}: {mean['bare']:.2f} ms bare, {mean['growth']:.2f} ms with growth")
        for key, what in (("ratio", "growth to bare"), ("chance", "bare to bare")):
            ratio = record[f"{clock}_{key}"]
            spread = f"{ratio['p10']:.3f} / {ratio['p50']:.3f} / {ratio['p90']:.3f} (p10, p50, p90)"
            lines.append(f"  {what}: {ratio['all']:.3f}; by turn {spread}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
