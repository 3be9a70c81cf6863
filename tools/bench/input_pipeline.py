#!/usr/bin/env python3
"""What `--gpu-prefetch` saves: steps whose batches are copied in their turn, ahead, or not at all.

    python tools/bench/input_pipeline.py [--rounds 5] [--batch-mb 64] [--width 8192] [--pageable] [--json [FILE]]

Arms, each a run of the whole trainer a round, with the same batches and, at the end, the same weights:

  held     the batches are on the device before the run: what a step takes without its input
  in_turn  each batch is copied when its step begins
  ahead    each batch is copied on a stream of its own while the step before it computes

Times are of the wall, from one boundary to another, at which the device has done everything that was asked of it. Waits
are by the device's clock where batches are fetched ahead, else by the host's, which doesn't see the copy. One more run
of both arms that copy is traced: of the time of their copies, the share during which a kernel ran.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, cast

import torch
from timing.paired import order, ratios, spread
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import esper
from esper.tolaria.record.observer import Boundary, Observer

ARMS = ("held", "in_turn", "ahead")
HELD_OUT = ("judge", "test")
WARM_STEPS, STEPS = 40, 240
ROWS, CLASSES, BATCHES, JUDGED = 2048, 10, 6, 512
SMALLEST_COPY_BYTES = 2**20
Interval = tuple[float, float]
Batch = tuple[Tensor, Tensor]


class Stopwatch(Observer):
    """The wall time of steps between boundaries."""

    def __init__(self) -> None:
        self._marks: list[tuple[int, float]] = []

    def on_boundary(self, boundary: Boundary) -> None:
        if boundary.step >= WARM_STEPS:
            self._marks.append((boundary.step, time.perf_counter()))

    @property
    def step_ms(self) -> float:
        (first, began), (last, ended) = self._marks[0], self._marks[-1]
        return 1e3 * (ended - began) / (last - first)


def given(made: list[Batch]) -> DataLoader[Batch]:
    """As a loader that hands out what is there: what is measured is the way of the batches alone."""
    return DataLoader(cast(Dataset[Batch], made), batch_size=1, collate_fn=itemgetter(0))


def batches(count: int, rows: int, features: int, seed: int) -> list[Batch]:
    draw = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(rows, features, generator=draw) for _ in range(count)]
    return [(each, each[:, :CLASSES].argmax(1)) for each in inputs]


def train(arm: str, sets: Mapping[str, Any], width: int, folder: Path, traces: Path | None = None) -> dict[str, Any]:
    """One run of an arm; what it took."""
    features = sets["judge"][0][0].shape[1]
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, CLASSES))
    watch = Stopwatch()
    settings = {
        "run_dir": folder / (arm if traces is None else f"{arm}-traced"),
        "grow": "never",
        "device": "cuda",
        "deterministic": True,
        "steps": STEPS if traces is None else WARM_STEPS,
        "steps_per_epoch": STEPS,
        "lr": 1e-4,
        "checkpoint_every_epochs": 0,
        "snapshot_every_steps": 0,
        "gpu_prefetch": arm == "ahead",
    }
    train_set = sets["held" if arm == "held" else "train"]
    data = {name: given(batches) for name, batches in (("train", train_set), *((n, sets[n]) for n in HELD_OUT))}
    result = esper.train(model, data, config=settings, callbacks=[watch], overwrite=True, profile=traces)
    summary = result.summary
    copies = summary["h2d_copy_ms"] or {"p50": 0.0}
    return {
        "step_ms": watch.step_ms if traces is None else math.nan,
        "input_wait_ms": summary["input_wait_ms"]["p50"],
        "h2d_copy_ms": copies["p50"],
        "digest": summary["weights_digest"],
    }


def overlap(trace: Mapping[str, Any]) -> tuple[float, float]:
    """Milliseconds of copies from the host, and the share of them during which a kernel ran."""
    events = [event for event in trace["traceEvents"] if event.get("ph") == "X"]
    kernels = merged([_interval(event) for event in events if event.get("cat") == "kernel"])
    copies = [
        _interval(event)
        for event in events
        if event.get("cat") == "gpu_memcpy"
        and "HtoD" in event["name"]
        and event.get("args", {}).get("bytes", 0) >= SMALLEST_COPY_BYTES
    ]
    total = sum(end - start for start, end in copies)
    covered = sum(max(0.0, min(e, end) - max(s, start)) for start, end in copies for s, e in kernels)
    return total / 1e3, covered / total if total else 0.0


def merged(intervals: Sequence[Interval]) -> list[Interval]:
    """The same moments without overlaps, in order."""
    found: list[Interval] = []
    for start, end in sorted(intervals):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


def _interval(event: Mapping[str, Any]) -> Interval:
    return event["ts"], event["ts"] + event["dur"]


def compare(rounds: int, batch_mb: int, width: int, *, pins: bool) -> dict[str, Any]:
    """Every arm once a round, then once under the profiler."""
    features = batch_mb * 2**20 // (4 * ROWS)
    train_set = batches(BATCHES, ROWS, features, seed=1)
    held = [(inputs.cuda(), targets.cuda()) for inputs, targets in train_set]
    if pins:
        train_set = [(inputs.pin_memory(), targets.pin_memory()) for inputs, targets in train_set]
    sets = {"train": train_set, "held": held}
    sets |= {name: batches(1, JUDGED, features, seed) for name, seed in zip(HELD_OUT, (2, 3), strict=True)}
    with tempfile.TemporaryDirectory(prefix="input-") as name:
        folder = Path(name)
        for arm in ARMS:  # libraries are loaded and memory is grown
            train(arm, sets, width, folder)
        made = [{arm: train(arm, sets, width, folder) for arm in order(ARMS, number)} for number in range(rounds)]
        traced = {}
        for arm in ARMS[1:]:
            train(arm, sets, width, folder, folder / f"traces-{arm}")
            (path,) = (folder / f"traces-{arm}").glob("*.json")
            copied_ms, share = overlap(json.loads(path.read_text()))
            traced[arm] = {"copied_ms": copied_ms, "overlapped_share": share}
    digests = {figures["digest"] for each in made for figures in each.values()}
    if len(digests) > 1:
        sys.exit(f"input_pipeline: the arms' weights differ, so they didn't train on the same batches: {digests}")
    steps = [{arm: figures["step_ms"] for arm, figures in each.items()} for each in made]
    return {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "batch_mb": batch_mb,
        "pinned": pins,
        "steps": STEPS - WARM_STEPS,
        "step_ms": {arm: spread([each[arm] for each in steps]).to_json() for arm in ARMS},
        "step_ratio": {
            f"{arm}/{over}": spread(ratios(steps, arm, over)).to_json()
            for arm, over in (("ahead", "in_turn"), ("ahead", "held"), ("in_turn", "held"))
        },
        **{
            name: {arm: spread([each[arm][name] for each in made]).to_json() for arm in ARMS}
            for name in ("input_wait_ms", "h2d_copy_ms")
        },
        "traced": traced,
    }


def show(found: Mapping[str, Any]) -> None:
    source = "pinned" if found["pinned"] else "pageable"
    print(f"{found['device']}, torch {found['torch']}; batches of {found['batch_mb']} MB in {source} memory")
    for arm in ARMS:
        figures = ", ".join(f"{name} {found[name][arm]['median']:.3f}" for name in ("step_ms", "input_wait_ms"))
        print(f"  {arm:8} {figures}, h2d_copy_ms {found['h2d_copy_ms'][arm]['median']:.3f}")
    for arms, ratio in found["step_ratio"].items():
        print(f"  {arms:16} {ratio['median']:.3f} (range {ratio['low']:.3f} to {ratio['high']:.3f})")
    for arm, traced in found["traced"].items():
        print(f"  {arm:8} copies {traced['copied_ms']:.2f} ms, {traced['overlapped_share']:.1%} of it beside kernels")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="runs of every arm (default: 5)")
    parser.add_argument("--batch-mb", type=int, default=64, help="size of a batch in MB (default: 64)")
    parser.add_argument("--width", type=int, default=8192, help="width of the network (default: 8192)")
    parser.add_argument("--pageable", action="store_true", help="batches as most loaders give them, not pinned")
    parser.add_argument("--json", type=Path, nargs="?", const=Path("-"), help="write JSON here, - for the terminal")
    options = parser.parse_args(argv)
    if min(options.rounds, options.batch_mb, options.width) < 1:
        parser.error("--rounds, --batch-mb and --width must be positive")
    if not torch.cuda.is_available():
        sys.exit("input_pipeline needs a CUDA device; torch sees none")
    found = compare(options.rounds, options.batch_mb, options.width, pins=not options.pageable)
    if options.json == Path("-"):
        print(json.dumps(found, indent=2))
        return 0
    show(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
