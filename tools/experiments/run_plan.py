#!/usr/bin/env python3
"""Runs an experiment from its plan: every arm with every seed through the real launcher, and compares them.

A plan (plans/*.toml) says what all runs have in common, and what each arm adds. An arm with `cost_of = "grown"` trains
as many steps as the named arm of the same seed paid for, its twins, looks and undone stacks included. Each finished
run is one line of --out/rows.jsonl, so an interrupted experiment goes on where it was.

Prints a table (or --json): the loss on the test set, what training cost, and paired differences with 95 % bounds.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from texts import write_text

from esper.core.child import child_command
from esper.kasmina.control.student import student_quantile

HERE = Path(__file__).parent
CONFIDENCE = 0.975
KEPT = ("gain", "gain_se", "stage", "slot", "blueprint_id", "fate")


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """What one arm adds to the plan's common flags."""

    flags: tuple[str, ...] = ()
    cost_of: str | None = None
    """The arm whose cost this one may spend; it makes as many steps as that pays for."""
    control: str | None = None
    """A graft of control_arms.py in place of the product's own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """An experiment."""

    name: str
    about: str
    common: tuple[str, ...]
    seeds: tuple[int, ...]
    arms: Mapping[str, Arm]
    text: Mapping[str, Any] = field(default_factory=dict)
    """A text to be made (texts.py); runs then train on it."""

    def flags(self, arm: str, seed: int, out: Path) -> list[str]:
        """What the launcher is told, but for the steps of an arm of equal cost."""
        data = ["--data", f"text:{out / 'text'}"] if self.text else []
        return [*data, *self.common, *self.arms[arm].flags, "--seed", str(seed)]


def read_plan(path: Path) -> Plan:
    """The plan of a file. Raises SystemExit for one that can't be run."""
    told = tomllib.loads(path.read_text())
    arms = {name: Arm(**{**arm, "flags": tuple(arm.get("flags", ()))}) for name, arm in told.pop("arms").items()}
    for name, arm in arms.items():
        if arm.cost_of is not None and (arm.cost_of not in arms or arms[arm.cost_of].cost_of is not None):
            sys.exit(f"{path}: arm {name} costs what {arm.cost_of!r} costs; expected an arm with steps of its own")
    told["common"], told["seeds"] = tuple(told["common"]), tuple(told["seeds"])
    return Plan(name=path.stem, arms=arms, **told)


class Rows:
    """The finished runs, one JSON line each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self._rows = {(row["arm"], row["seed"]): row for row in map(json.loads, lines)}

    def get(self, arm: str, seed: int) -> dict[str, Any] | None:
        return self._rows.get((arm, seed))

    def add(self, row: dict[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self._rows[row["arm"], row["seed"]] = row

    def of(self, arm: str) -> dict[int, dict[str, Any]]:
        """An arm's rows by seed."""
        return {seed: row for (name, seed), row in sorted(self._rows.items()) if name == arm}


class Runner:
    """Trains what a plan wants, some runs at a time, each on the next free place."""

    def __init__(self, plan: Plan, out: Path, rows: Rows, places: Sequence[str], extra: Sequence[str]) -> None:
        self._plan, self._out, self._rows, self._extra = plan, out, rows, extra
        self._places: SimpleQueue[str] = SimpleQueue()
        for place in places:
            self._places.put(place)
        self._workers = len(places)

    def run(self, wanted: Sequence[tuple[str, int]]) -> None:
        """Arms with a budget of their own first: the others' steps follow from them."""
        arms = self._plan.arms
        for is_dependent in (False, True):
            todo = [(arm, seed) for arm, seed in wanted if (arms[arm].cost_of is not None) == is_dependent]
            with ThreadPoolExecutor(self._workers) as pool:
                list(pool.map(lambda pair: self._once(*pair), todo))

    def _once(self, arm: str, seed: int) -> None:
        if self._rows.get(arm, seed) is not None:
            return
        flags = [*self._plan.flags(arm, seed, self._out), *self._extra]
        if (dearer := self._plan.arms[arm].cost_of) is not None:
            paid = self._rows.get(dearer, seed)
            if paid is None:
                return
            # The last of two equal flags counts.
            flags += ["--steps", str(round(paid["training_macs"] / macs_of_step(flags)))]
        place = self._places.get()
        try:
            started = time.monotonic()
            summary = self._train(arm, seed, [*flags, "--device", place])
            self._rows.add(row_of(arm, seed, summary, time.monotonic() - started))
        finally:
            self._places.put(place)

    def _train(self, arm: str, seed: int, flags: Sequence[str]) -> dict[str, Any]:
        folder = self._out / f"{arm}-{seed}"
        command = [*child_command("esper.tolaria.launcher")]
        if (control := self._plan.arms[arm].control) is not None:
            command = [sys.executable, str(HERE / "control_arms.py"), control, "--"]
        command += ["--run-dir", str(folder), "--overwrite", "--plain"]
        done = subprocess.run([*command, *flags], capture_output=True, text=True, check=False)
        (self._out / f"{arm}-{seed}.log").write_text(done.stdout + done.stderr)
        if done.returncode != 0:
            print(f"{arm} with seed {seed} failed with {done.returncode}:\n{done.stderr[-1500:]}", file=sys.stderr)
            raise SystemExit(1)
        return json.loads((folder / "summary.json").read_text())  # type: ignore[no-any-return]


def macs_of_step(flags: Sequence[str]) -> int:
    """Multiply-accumulates of a training step of the network that these flags begin with."""
    counted = subprocess.run(
        [sys.executable, str(HERE / "step_cost.py"), *flags], capture_output=True, text=True, check=False
    )
    if counted.returncode != 0:
        sys.exit(f"the cost of a step can't be counted:\n{counted.stderr[-1500:]}")
    return int(counted.stdout)


def row_of(arm: str, seed: int, summary: Mapping[str, Any], wall_s: float) -> dict[str, Any]:
    """What is kept of a run."""
    names = ("steps", "test_loss", "val_loss", "host_parameters", "final_parameters", "training_macs", "growth")
    more = ("training_macs_by_use", "step_ms", "weights_digest", "reproducible", "machine", "memory", "compile")
    seeds = [{name: entry.get(name) for name in KEPT} for entry in summary["seeds"]]
    kept = {name: summary.get(name) for name in (*names, *more)}
    return {"arm": arm, "seed": seed, **kept, "seeds": seeds, "wall_s": round(wall_s, 1)}


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval (Student)."""
    if len(values) < 2:
        return statistics.fmean(values), math.nan
    error = statistics.stdev(values) / math.sqrt(len(values))
    # The table of quantiles is of upper tails.
    return statistics.fmean(values), error * student_quantile(1 - CONFIDENCE, len(values) - 1)


def compared(plan: Plan, rows: Rows) -> Iterator[dict[str, Any]]:
    """An arm a line; differences are the first arm's loss minus this one's, seed by seed."""
    first = rows.of(next(iter(plan.arms)))
    for arm in plan.arms:
        own = rows.of(arm)
        if not own:
            continue
        losses = [row["test_loss"] for row in own.values()]
        line: dict[str, Any] = {
            "arm": arm,
            "runs": len(own),
            "test_loss": statistics.fmean(losses),
            "test_loss_sd": statistics.stdev(losses) if len(losses) > 1 else None,
            "training_macs": statistics.fmean(row["training_macs"] for row in own.values()),
            "steps": statistics.fmean(row["steps"] for row in own.values()),
            "parameters": statistics.fmean(row["final_parameters"] for row in own.values()),
            "kept": sum(row["growth"]["kept"] for row in own.values()),
            "judged": sum(row["growth"]["judged"] for row in own.values()),
            "wall_s": statistics.fmean(row["wall_s"] for row in own.values()),
        }
        paired = [first[seed]["test_loss"] - row["test_loss"] for seed, row in own.items() if seed in first]
        if own is not first and paired and arm != next(iter(plan.arms)):
            mean, half = interval(paired)
            line |= {"difference": mean, "difference_95": half, "first_is_better": sum(d < 0 for d in paired)}
        yield line


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    head = (
        "| arm | runs | test loss | first arm - this | first is better | parameters | steps | training MACs "
        "| kept of judged | wall, s |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    return "\n".join([head, *map(_table_row, lines)])


def _table_row(line: Mapping[str, Any]) -> str:
    spread = "" if line["test_loss_sd"] is None else f" ± {line['test_loss_sd']:.4f}"
    difference = better = "-"
    if "difference" in line:
        difference = f"{line['difference']:+.4f} ± {line['difference_95']:.4f}"
        better = f"{line['first_is_better']} of {line['runs']}"
    cells = (
        *(line["arm"], line["runs"], f"{line['test_loss']:.4f}{spread}", difference, better),
        *(f"{line['parameters']:,.0f}", f"{line['steps']:,.0f}", f"{line['training_macs']:.3e}"),
        *(f"{line['kept']} of {line['judged']}", f"{line['wall_s']:.0f}"),
    )
    return f"| {' | '.join(map(str, cells))} |"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="What follows -- are further flags of tolaria-train, for every run.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("plan", help="a file, or the name of one in plans/")
    parser.add_argument("--out", type=Path, help="default: runs/experiments/PLAN")
    parser.add_argument("--arms", help="comma-separated; default: all")
    parser.add_argument("--seeds", help="comma-separated; default: the plan's")
    parser.add_argument("--devices", default="cpu", help="comma-separated")
    parser.add_argument("--processes", type=int, default=1, help="runs at a time on each device")
    parser.add_argument("--json", action="store_true")
    told = sys.argv[1:]
    end = told.index("--") if "--" in told else len(told)
    options = parser.parse_args(told[:end])
    path = Path(options.plan) if options.plan.endswith(".toml") else HERE / "plans" / f"{options.plan}.toml"
    plan = read_plan(path)
    out = (options.out or Path("runs/experiments") / plan.name).absolute()
    out.mkdir(parents=True, exist_ok=True)
    if plan.text:
        write_text(out / "text", **plan.text)
    arms = options.arms.split(",") if options.arms else list(plan.arms)
    seeds = [int(seed) for seed in options.seeds.split(",")] if options.seeds else list(plan.seeds)
    places = [
        device
        for _, device in zip(
            range(options.processes * len(options.devices.split(","))), cycle(options.devices.split(",")), strict=False
        )
    ]
    rows = Rows(out / "rows.jsonl")
    Runner(plan, out, rows, places, told[end + 1 :]).run([(arm, seed) for seed in seeds for arm in arms])
    lines = list(compared(plan, rows))
    print(json.dumps({"plan": plan.name, "arms": lines}, indent=2) if options.json else table(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
