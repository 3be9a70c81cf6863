#!/usr/bin/env python3
"""Runs an experiment from its plan: every arm with every seed through the real launcher, and compares them.

A plan (plans/*.toml, whose fields plan.py explains) says what all runs have in common, and what each arm adds. Rates
are chosen first, by other seeds and the judging data. An arm with `cost_of = "grown"` trains as many steps as the named
arm of the same seed paid for, its twins, looks and undone stacks included. All runs share one Tamiyo, one Kasmina and
one Weatherlight. Each finished run is one line of --out/rows.jsonl, so an interrupted experiment goes on where it was;
--recorded reads the committed lines (rows/) and trains nothing.

Prints a table (or --json): the score on the test set, what training cost, and paired differences with 95 % bounds;
--by-seed prints every run instead. --against names the arm that all others are compared with, --frontier those whose
cost at the same loss the shares are of, each in place of the plan's.
Draws --out/cost.png (score over cost) and --out/course.png (the loss of one grown run over its cost, with its grafts).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any

from by_seed import by_seed
from comparing import Line, compared, table
from launching import Places, context, launch, patiently, shared_services
from plan import SCORES, Plan, Run, compared_otherwise, read_plan
from rows import Row, Rows, row_of
from texts import write_text

from esper.tolaria.record.course.reading import Record, read_events, standing

HERE = Path(__file__).parent


def chosen_rates(plan: Plan, rows: Rows) -> dict[str, float | None]:
    """Each arm's rate: the best by the judging data of the tuning seeds; None where its flags say it."""
    own = {name: _best_rate(plan, name, rows) for name in plan.arms}
    return {name: own[arm.rate_of] if arm.rate_of is not None else own[name] for name, arm in plan.arms.items()}


def _best_rate(plan: Plan, arm: str, rows: Rows) -> float | None:
    rates = plan.arms[arm].rates
    known = {rate: rows.of(arm, rate, plan.tuning_seeds).values() for rate in rates}
    scores = {rate: mean_on_judging_data(plan, found) for rate, found in known.items() if found}
    return max(scores, key=lambda rate: scores[rate]) if scores else None


def mean_on_judging_data(plan: Plan, rows: Iterable[Row]) -> float:
    """More is better."""
    sign = -1.0 if plan.score == "loss" else 1.0
    return sign * fmean(row[SCORES[plan.score][1]] for row in rows)


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished run as it lies in its directory."""

    summary: dict[str, Any]
    events: Sequence[Record] = ()


class Runner:
    """Trains what a plan wants, some runs at a time, each on the next free place."""

    def __init__(self, plan: Plan, out: Path, rows: Rows, places: Places, extra: Sequence[str]) -> None:
        self._plan, self._out, self._rows, self._places, self._extra = plan, out, rows, places, extra
        self._server = context()

    def run(self, arms: Sequence[str], seeds: Sequence[int]) -> None:
        """Rates first; then arms with a budget of their own, from which the others' steps follow."""
        plan = self._plan
        givers = {plan.arms[arm].rate_of or arm for arm in arms}
        self._each(plan.tuning(iter(sorted(givers))))
        rates = chosen_rates(plan, self._rows)
        for is_dependent in (False, True):
            here = [arm for arm in arms if plan.arms[arm].made_by is None]
            own = [arm for arm in here if (plan.arms[arm].cost_of is not None) == is_dependent]
            self._each([Run(arm, seed, rates[arm]) for seed in seeds for arm in own])

    def _each(self, runs: Sequence[Run]) -> None:
        missing = [run for run in runs if self._rows.get(run) is None]
        with ThreadPoolExecutor(self._places.count) as pool:
            list(pool.map(self._once, missing))

    def _once(self, run: Run) -> None:
        flags = [*self._plan.flags(run, self._out), *self._extra]
        if (dearer := self._plan.arms[run.arm].cost_of) is not None:
            paid = self._rows.get(Run(dearer, run.seed, chosen_rates(self._plan, self._rows)[dearer]))
            if paid is None:
                return
            # What a step costs doesn't hang on the seed. The last of two equal flags counts.
            step = macs_of_step(tuple(self._plan.flags(run._replace(seed=1), self._out)))
            flags += ["--steps", str(round(paid["training_macs"] / step))]
        with self._places.taken() as place:
            started = time.monotonic()
            trained = self._train(run, [*flags, "--device", place])
            self._rows.add(row_of(self._plan, run, trained.summary, trained.events, time.monotonic() - started))

    def _train(self, run: Run, flags: Sequence[str]) -> Trained:
        folder, log = self._out / run.name, self._out / f"{run.name}.log"
        argv = ["--run-dir", str(folder), "--overwrite", "--plain", *flags]
        control = self._plan.arms[run.arm].control
        code = patiently(lambda: launch(self._server, control, argv, log))
        if code != 0:
            print(f"{run.name} failed with {code}:\n{log.read_text()[-1500:]}", file=sys.stderr)
            raise SystemExit(1)
        return Trained(json.loads((folder / "summary.json").read_text()), standing(read_events(folder)))


@lru_cache
def macs_of_step(flags: tuple[str, ...]) -> int:
    """Multiply-accumulates of a training step of the network that these flags begin with."""
    counted = subprocess.run(
        [sys.executable, str(HERE / "step_cost.py"), *flags], capture_output=True, text=True, check=False
    )
    if counted.returncode != 0:
        sys.exit(f"the cost of a step can't be counted:\n{counted.stderr[-1500:]}")
    return int(counted.stdout)


def draw(plan: Plan, rows: Rows, rates: dict[str, float | None], lines: Sequence[Line], out: Path) -> list[Path]:
    """The experiment's pictures, none without matplotlib; the course is of the first arm's first run, if it's there."""
    try:
        from pictures import cost_picture, course_picture
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        print("no pictures are drawn: matplotlib is not installed; pip install matplotlib", file=sys.stderr)
        return []
    pictures = [cost_picture(plan, rows, rates, lines, out / "cost.png")]
    run = Run(plan.first, plan.seeds[0], rates[plan.first])
    if (out / run.name / "events.jsonl").exists():
        title = f"{plan.about.rstrip('.')}: {run.arm}, seed {run.seed}"
        pictures.append(course_picture(title, standing(read_events(out / run.name)), out / "course.png"))
    return [path for path in pictures if path is not None]


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
    parser.add_argument("--recorded", action="store_true", help="compare the committed rows; train nothing")
    parser.add_argument("--against", help="the arm that the others are compared with; default: the plan's")
    parser.add_argument("--frontier", help="comma-separated arms in place of the plan's frontier")
    parser.add_argument("--by-seed", action="store_true", help="each run by itself")
    parser.add_argument("--json", action="store_true")
    told = sys.argv[1:]
    end = told.index("--") if "--" in told else len(told)
    options = parser.parse_args(told[:end])
    path = Path(options.plan) if options.plan.endswith(".toml") else HERE / "plans" / f"{options.plan}.toml"
    frontier = options.frontier.split(",") if options.frontier else []
    seeds = [int(seed) for seed in options.seeds.split(",")] if options.seeds else []
    plan = compared_otherwise(read_plan(path), against=options.against, frontier=frontier, seeds=seeds)
    out = (options.out or Path("runs/experiments") / plan.name).absolute()
    out.mkdir(parents=True, exist_ok=True)
    rows = Rows(HERE / "rows" / f"{plan.name}.jsonl" if options.recorded else out / "rows.jsonl")
    if not options.recorded:
        if plan.text:
            write_text(out / "text", **plan.text)
        arms = options.arms.split(",") if options.arms else list(plan.arms)
        places = Places(options.devices, options.processes)
        with shared_services() as services:
            Runner(plan, out, rows, places, [*told[end + 1 :], *services]).run(arms, plan.seeds)
    if not len(rows):
        sys.exit(f"no run of {plan.name} is recorded; expected lines in rows/{plan.name}.jsonl or --out")
    rates = chosen_rates(plan, rows)
    lines = list(compared(plan, rows, rates))
    pictures = draw(plan, rows, rates, lines, out)
    if options.json:
        print(json.dumps({"plan": plan.name, "arms": lines}, indent=2))
    else:
        print(by_seed(plan, rows, rates) if options.by_seed else table(plan, lines))
    print("\n".join(f"drawn: {picture}" for picture in pictures), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
