#!/usr/bin/env python3
"""Does the judge's verdict agree with the end? Small grafts whose two arms both train to the end at equal total FLOPs.

One case is a transformer of some depth whose blocks are doubled at some share of the run. The product's judge looks at
both arms, at the steps that it fixes; whatever it says, the grown arm then trains to the end of the run, and so does
the twin, which makes as many more steps as the grown arm's work is worth: once for the grown arm's own work (plain),
once also for the twin, the looks and their evaluations that growth had to pay for (booked). Each arm's rate falls in
the last fifth of its own steps.

Prints a row for each case, the agreement of verdict, gain at equal FLOPs and forecast with the end, and what each kind
of verdict was worth (or --json). Finished cases stand in --out/rows.jsonl and are not repeated; --recorded takes those
that are committed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import cycle, product
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from texts import write_text

from esper.kasmina.control.judge.stack_outlook import ArmCosts, forecast, gain_at_equal_flops, of_all_parts
from esper.kasmina.control.judge.stack_plan import StackSettings, plan_looks
from esper.kasmina.control.judge.stack_test import Evaluation, StackLook, Verdict, take_stack_look
from esper.kasmina.control.stages.stack_course import as_evidence
from esper.kasmina.executor import TrainingArm, count_macs
from esper.kasmina.executor.judge.parts import part_of
from esper.kasmina.executor.judge.scores import evaluate_stack
from esper.kasmina.executor.stacks.run import find_runs
from esper.tolaria.config import TrainConfig
from esper.tolaria.loop.step import Groups, Stepper
from esper.tolaria.task.objective.task import evaluate
from esper.tolaria.task.prepare import Prepared, prepare

STEPS = 3000
RECOVERY_STEPS = 120
DECAY_SHARE = 0.2
TWINS = ("twin_loss", "twin_loss_booked")
ROWS = Path(__file__).resolve().parents[1] / "rows"
DEPTHS, SHARES, SEEDS = (2, 4), (0.07, 0.17, 0.4, 0.65), (1, 2, 3)


@dataclass(frozen=True, slots=True)
class Case:
    """One graft."""

    depth: int
    share: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.depth}@{self.share:g}:{self.seed}"


CASES = [Case(*values) for values in product(DEPTHS, SHARES, SEEDS)]


class Trainer:
    """Makes steps of an arm under a schedule of its own, with the run's batches and draws."""

    def __init__(self, run: Prepared) -> None:
        self._run = run
        self._stepper = Stepper(run.task, run.config, run.device)

    def train(self, arm: TrainingArm, start: int, stop: int) -> None:
        """Steps `start` to `stop`, not included."""
        groups = Groups(host=arm.host_parameters())
        for step in range(start, stop):
            arm.scheduler.apply(arm.optimizer, step)
            self._stepper.run(arm, self._run.loader.batch(step), step, groups)

    def to_the_end(self, arm: TrainingArm, start: int, total: int) -> float:
        """Train to a run's end under its schedule; returns the loss on the test set."""
        lay_out(arm, total)
        self.train(arm, start, total)
        return evaluate(arm, self._run.task, self._run.splits.test)[0]


def lay_out(arm: TrainingArm, total: int) -> None:
    """Give the arm the schedule of a run of so many steps."""
    arm.scheduler = replace(arm.scheduler, total_steps=total, growth_end_step=round(total * (1 - DECAY_SHARE)))


def config_of(case: Case, text: Path, device: str, flags: Mapping[str, Any]) -> TrainConfig:
    settings: dict[str, Any] = {
        "data": f"text:{text}",
        "context": 128,
        "model": "transformer",
        "depth": case.depth,
        "width": 96,
        "heads": 3,
        "batch_size": 32,
        "optimizer": "adamw",
        "lr": 2e-3,
        "weight_decay": 0.1,
        "clip_norm": 1.0,
        "warmup_steps": 100,
        "steps": STEPS,
        "decay_fraction": DECAY_SHARE,
        "seed": case.seed,
        "device": device,
    }
    return TrainConfig(**{**settings, **flags})


def run_case(case: Case, text: Path, device: str, flags: Mapping[str, Any]) -> dict[str, Any]:
    """Grow, judge, and train both arms to the end."""
    config = config_of(case, text, device, flags)
    run = prepare(config)
    trainer, arm, batch = Trainer(run), run.executor.arm, config.batch_size
    steps, graft = run.total_steps, round(case.share * run.total_steps)
    trainer.train(arm, 0, graft)
    twin, twin_cost = arm.clone(), run.executor.macs
    arm.repeat(find_runs(arm.model, run.task.probe_inputs())[0][0])
    cost = count_macs(arm, run.task.probe_inputs())
    costs = ArmCosts(twin=float(twin_cost.training), grown=float(cost.training))
    settings = StackSettings(min_samples=config.min_samples, max_clipped_share=1.0)
    plan = plan_looks(
        graft_step=graft,
        recovery_steps=RECOVERY_STEPS,
        total_steps=steps,
        end_step=round(steps * (1 - DECAY_SHARE)),
        look=1,
        settings=settings,
    )
    evaluations: list[Evaluation] = []
    now, look = graft, None
    for planned in plan.looks:
        for number, step in enumerate(planned.evaluations):
            for each in (arm, twin):
                trainer.train(each, now, step)
            now = step
            part = part_of(run.task.judge_documents, number, settings.min_evaluations)
            evaluations.append(as_evidence(evaluate_stack(arm, twin, run.task, step=step, key=step, part=part)))
        look = take_stack_look(planned, evaluations, settings)
        if look.verdict != Verdict.CONTINUE:
            break
    assert look is not None
    work = graft * twin_cost.training + (steps - graft) * cost.training
    passes = sum(each.samples for each in evaluations) * (cost.forward + twin_cost.forward) / batch
    judging = (now - graft) * twin_cost.training + passes
    whole = of_all_parts(evaluations, [planned.evaluations for planned in plan.looks])
    grown_loss = trainer.to_the_end(arm, now, steps)
    ends = [round(spent / twin_cost.training) for spent in (work, work + judging)]
    plain, booked = twin_ends(trainer, twin, now, ends)
    return {
        "case": case.name,
        "depth": case.depth,
        "share": case.share,
        "seed": case.seed,
        **outlook(look, whole, graft, round(steps * (1 - DECAY_SHARE)), costs),
        "verdict": look.verdict.value,
        "judged_after": now - graft,
        "clipped_share": look.clipped_share,
        "grown_loss": grown_loss,
        "twin_loss": plain,
        "twin_loss_booked": booked,
        "twin_steps": ends,
        "growth_cost_share": judging / work,
        "grown_macs": work * batch,
    }


def twin_ends(trainer: Trainer, twin: TrainingArm, start: int, totals: Sequence[int]) -> list[float]:
    """Losses of the twin in runs of several lengths, which share their steps at the constant rate."""
    losses = []
    for total in totals:
        falls = round(total * (1 - DECAY_SHARE))
        lay_out(twin, total)
        trainer.train(twin, start, falls)
        start = falls
        losses.append(trainer.to_the_end(twin.clone(), falls, total))
    return losses


def outlook(
    look: StackLook, evaluations: Sequence[Evaluation], graft: int, end_step: int, costs: ArmCosts
) -> dict[str, Any]:
    """What stands beside the verdict."""
    ahead = forecast(evaluations, graft_step=graft, end_step=end_step, costs=costs)
    return {
        "gain": look.gain,
        "standard_error": look.standard_error,
        "z": look.z,
        "z_threshold": look.z_threshold,
        "gain_at_equal_flops": gain_at_equal_flops(evaluations, graft, costs),
        "forecast_gain": None if ahead is None else ahead.gain_at_equal_flops,
    }


def agreement(rows: Sequence[Mapping[str, Any]], twin: str) -> dict[str, Any]:
    """How often each sign agrees with which arm was ahead in the end, and the rank correlation with by how much."""
    ahead = [row[twin] - row["grown_loss"] for row in rows]
    signals = {
        "verdict": [1.0 if row["verdict"] == Verdict.KEEP.value else -1.0 for row in rows],
        "gain": [row["gain"] for row in rows],
        "gain at equal FLOPs": [row["gain_at_equal_flops"] for row in rows],
        "forecast": [row["forecast_gain"] for row in rows],
    }
    found: dict[str, Any] = {"cases": len(rows), "grown ahead": sum(value > 0 for value in ahead)}
    for name, values in signals.items():
        pairs = [(value, end) for value, end in zip(values, ahead, strict=True) if value is not None]
        found[name] = {
            "agrees": sum((value > 0) == (end > 0) for value, end in pairs),
            "of": len(pairs),
            "rank_correlation": rank_correlation(pairs),
        }
    return found


KINDS = {
    "kept, and ahead": (True, True),
    "kept, but behind": (True, False),
    "undone, and behind": (False, False),
    "undone, but ahead": (False, True),
}
"""What was said, and what the end showed: the second and the fourth are the errors."""


def outcomes(rows: Sequence[Mapping[str, Any]], twin: str) -> dict[str, dict[str, Any]]:
    """How often each kind of verdict was given, and how far the twin was behind (+) or ahead at the end."""
    found = {}
    for name, kind in KINDS.items():
        gains = [row[twin] - row["grown_loss"] for row in rows]
        own = [gain for row, gain in zip(rows, gains, strict=True) if (row["verdict"] == "keep", gain > 0) == kind]
        worst = max(own, key=abs) if own else None
        found[name] = {"cases": len(own), "mean_gain": statistics.fmean(own) if own else None, "largest": worst}
    return found


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Spearman's; ties share their mean rank. None where one side doesn't vary."""
    first, second = ([ranked(column)[value] for value in column] for column in zip(*pairs, strict=True))
    return None if len(set(first)) < 2 or len(set(second)) < 2 else statistics.correlation(first, second)


def ranked(values: Sequence[float]) -> dict[float, float]:
    ordered = sorted(values)
    return {value: ordered.index(value) + (ordered.count(value) - 1) / 2 for value in values}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "| graft | seed | verdict (z of its bar) | after | gain ± error | at equal FLOPs | forecast "
        "| grown | twin, equal work | twin, all booked |\n|---|---|---|---|---|---|---|---|---|---|"
    ]
    for row in sorted(rows, key=lambda row: (row["depth"], row["share"], row["seed"])):
        numbers = [row["gain_at_equal_flops"], row["forecast_gain"]]
        outlooks = " | ".join("-" if number is None else f"{number:+.4f}" for number in numbers)
        lines.append(
            f"| {row['depth']} -> {2 * row['depth']} at {row['share']:g} | {row['seed']} "
            f"| {row['verdict']} ({row['z']:.1f} of {row['z_threshold']:.1f}) | {row['judged_after']} "
            f"| {row['gain']:.4f} ± {row['standard_error']:.4f} | {outlooks} "
            f"| {row['grown_loss']:.4f} | {row['twin_loss']:.4f} | {row['twin_loss_booked']:.4f} |"
        )
    for twin in TWINS:
        found = agreement(rows, twin)
        lines.append(f"\n{twin}: grown ahead in {found['grown ahead']} of {found['cases']}")
        for name in ("verdict", "gain", "gain at equal FLOPs", "forecast"):
            rank = found[name]["rank_correlation"]
            said = "-" if rank is None else f"{rank:+.2f}"
            lines.append(f"  {name}: agrees in {found[name]['agrees']} of {found[name]['of']}, rank correlation {said}")
        for name, told in outcomes(rows, twin).items():
            if told["cases"]:
                gain, largest = f"{told['mean_gain']:+.4f}", f"{told['largest']:+.4f}"
                lines.append(f"  {name}: {told['cases']}, grown ahead by {gain} nats on average, {largest} at most")
    return "\n".join(lines)


def in_processes(cases: Sequence[Case], out: Path, options: argparse.Namespace) -> None:
    """Each case in a process of its own, some at a time on each device; rows are written as they come."""
    devices = options.devices.split(",")
    places: SimpleQueue[str] = SimpleQueue()
    for _, device in zip(range(options.processes * len(devices)), cycle(devices), strict=False):
        places.put(device)

    def one(case: Case) -> None:
        device = places.get()
        try:
            command = [sys.executable, __file__, "--out", str(out), "--case", case.name, "--devices", device]
            done = subprocess.run([*command, "--set", *options.set], capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{case.name} failed:\n{done.stderr[-2000:]}", file=sys.stderr)
                return
            with (out / "rows.jsonl").open("a") as file:
                file.write(done.stdout.strip().splitlines()[-1] + "\n")
        finally:
            places.put(device)

    with ThreadPoolExecutor(options.processes * len(devices)) as pool:
        list(pool.map(one, cases))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/experiments/stacks_to_the_end"))
    parser.add_argument("--devices", default="cpu", help="comma-separated")
    parser.add_argument("--processes", type=int, default=1, help="cases at a time on each device")
    parser.add_argument("--cases", help="comma-separated; default: all")
    parser.add_argument("--case", choices=[case.name for case in CASES], help="this one alone, its row to stdout")
    parser.add_argument("--text-bytes", type=int, default=20_000_000)
    parser.add_argument("--set", nargs="*", default=[], help="settings of the run, such as amp=bf16 or width=32")
    parser.add_argument("--recorded", help="compare the committed rows of this name; train nothing")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.recorded is not None:
        tell(read_rows(ROWS / f"{options.recorded}.jsonl"), options.json)
        return 0
    out = options.out.absolute()
    if options.case is not None:
        case = next(case for case in CASES if case.name == options.case)
        torch.set_num_threads(1)
        flags = {name: plain_value(value) for name, _, value in (told.partition("=") for told in options.set)}
        print(json.dumps(run_case(case, out / "text", options.devices, flags)))
        return 0
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "text", kind="python", size=options.text_bytes)
    path = out / "rows.jsonl"
    done = {row["case"] for row in read_rows(path)} if path.exists() else set()
    wanted = options.cases.split(",") if options.cases else [case.name for case in CASES]
    in_processes([case for case in CASES if case.name in wanted and case.name not in done], out, options)
    if path.exists():
        tell(read_rows(path), options.json)
    return 0


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Raises SystemExit where there are none."""
    if not path.exists():
        known = ", ".join(sorted(found.stem for found in ROWS.glob("stacks_to_the_end*.jsonl")))
        sys.exit(f"no rows in {path}; expected one of the recorded {known}")
    return [json.loads(line) for line in path.read_text().splitlines()]


def tell(rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Print what was found."""
    if not as_json:
        print(table(rows))
        return
    found = {twin: {**agreement(rows, twin), "outcomes": outcomes(rows, twin)} for twin in TWINS}
    print(json.dumps({"rows": rows, **found}))


def plain_value(text: str) -> Any:
    """A number where it is one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


if __name__ == "__main__":
    sys.exit(main())
