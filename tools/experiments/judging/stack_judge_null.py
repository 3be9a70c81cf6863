#!/usr/bin/env python3
"""How often would a stack be kept that has no gain beyond the margin, and one that has? Simulated windows, real judge.

Each window is judged as in a run: an early look, the window's end, one more window. The gain is constant after
recovery; it wanders (AR(1) in steps) and carries one error of the judging set throughout. At a gain of exactly the
margin, keeps are errors: the first window may spend 1 % and its extension 0.33 %. Beside it the crude rule at the
window's end alone, on the judging set as a whole. What the judge assumes of the wander stays while the truth changes.

--parts 1 has every evaluation score all of the judging set, the default has each look score it once, a part at each of
its evaluations. Prints a table, or --json: what is kept, and what judging costs in steps of the twin, its own steps and
the evaluations of both arms (eight steps for the whole set in a doubling).
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

from esper.kasmina.control.judge.stack_plan import StackPlan, StackSettings, plan_looks
from esper.kasmina.control.judge.stack_test import Evaluation, Verdict, document_error, take_stack_look

SETTINGS = StackSettings()
# About what 512 sequences of 512 bytes showed at 21 M parameters: a standard error of 0.001 nats.
SAMPLES, DEVIATION = 512, 0.0226
PARTS, RECOVERY_STEPS = SETTINGS.min_evaluations, 200
CRUDE_Z, CRUDE_CORRELATION = 2.33, 0.3
CELLS = ("early", "window", "extension", "kept", "crude")
STEPS_OF_AN_EVALUATION = 8.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """What a simulated graft is."""

    gain: float = SETTINGS.margin
    wander_share: float = SETTINGS.wander_share
    memory_steps: float = SETTINGS.memory_steps
    heavy_tails: bool = False
    jump: float = 0.0
    """Loss of the graft, recovered with a time constant of 60 steps."""


SCENARIOS: dict[str, Truth] = {
    "no gain beyond the margin": Truth(),
    "the same, wander halved": Truth(wander_share=SETTINGS.wander_share / 2),
    "the same, wander doubled": Truth(wander_share=SETTINGS.wander_share * 2),
    "the same, independent evaluations": Truth(memory_steps=0.0),
    "the same, memory of 30 steps": Truth(memory_steps=30.0),
    "the same, memory of 60 steps": Truth(memory_steps=60.0),
    "the same, heavy tails (t, 3)": Truth(heavy_tails=True),
    "the same, recovering from 0.2": Truth(jump=0.2),
    "no gain at all": Truth(gain=0.0),
    "no gain at all, wander doubled": Truth(gain=0.0, wander_share=SETTINGS.wander_share * 2),
    "no gain at all, memory of 60 steps": Truth(gain=0.0, memory_steps=60.0),
    "gain 0.006": Truth(gain=0.006),
    "gain 0.008": Truth(gain=0.008),
    "gain 0.010": Truth(gain=0.010),
    "gain 0.015": Truth(gain=0.015),
    "gain 0.008, recovering from 0.12": Truth(gain=0.008, jump=0.12),
    "gain 0.010, recovering from 0.12": Truth(gain=0.010, jump=0.12),
    "gain 0.015, recovering from 0.24": Truth(gain=0.015, jump=0.24),
}


def simulate(
    truth: Truth, steps: Mapping[int, int], graft_step: int, rng: random.Random, parts: int = 1
) -> list[Evaluation]:
    """One graft's evaluations: steps, rising, each with its number in its look."""
    samples = SAMPLES // parts
    shifts = [rng.gauss(0.0, DEVIATION / math.sqrt(samples)) for _ in range(parts)]
    state, before, found = 0.0, -math.inf, []
    for step, number in steps.items():
        part = number % parts
        carried = math.exp((before - step) / truth.memory_steps) if truth.memory_steps else 0.0
        state, before = carried * state + math.sqrt(1.0 - carried * carried) * draw(truth, rng), step
        gain = truth.gain - truth.jump * math.exp((graft_step - step) / 60.0)
        gain += shifts[part] + truth.wander_share * DEVIATION * state
        found.append(
            Evaluation(
                step=step,
                gain=gain,
                variance=DEVIATION**2,
                samples=samples,
                clipped_share=0.0,
                twin_score=1.0,
                part=part if parts > 1 else None,
            )
        )
    return found


def draw(truth: Truth, rng: random.Random) -> float:
    """A deviate of unit variance."""
    if not truth.heavy_tails:
        return rng.gauss(0.0, 1.0)
    return rng.gauss(0.0, 1.0) / math.sqrt(rng.gammavariate(1.5, 2.0) / 3.0) / math.sqrt(3.0)


def kept_at(plan: StackPlan, evaluations: Sequence[Evaluation]) -> int | None:
    """Index of the look that keeps, or None."""
    for index, look in enumerate(plan.looks):
        if take_stack_look(look, evaluations, SETTINGS).verdict is Verdict.KEEP:
            return index
    return None


def crude_keeps(evaluations: Sequence[Evaluation]) -> bool:
    gains, count = [evaluation.gain for evaluation in evaluations], len(evaluations)
    inflation = 1 + 2 * sum((1 - lag / count) * CRUDE_CORRELATION**lag for lag in range(1, count))
    error = max(document_error(evaluations), stdev(gains) * math.sqrt(inflation / count))
    return fmean(gains) - SETTINGS.margin >= CRUDE_Z * error


def rates(
    truth: Truth, repeats: int, seed: int, parts: int = PARTS, recovery_steps: int = RECOVERY_STEPS
) -> dict[str, Any]:
    """What is kept at which look, and what judging costs on average, in steps of the twin."""
    times = {"graft_step": 1000, "recovery_steps": recovery_steps, "total_steps": 3000, "end_step": 2400}
    plan = plan_looks(**times, look=1, settings=SETTINGS)
    steps = dict(sorted((step, number) for look in plan.looks for number, step in enumerate(look.evaluations)))
    end = set(plan.looks[1].evaluations)
    rng, crude_rng = random.Random(seed), random.Random(seed)
    by_look, crude, cost = [0] * len(plan.looks), 0, 0.0
    for _ in range(repeats):
        index = kept_at(plan, simulate(truth, steps, plan.graft_step, rng, parts))
        last = plan.looks[-1 if index is None else index].step
        if index is not None:
            by_look[index] += 1
        cost += last - plan.graft_step + sum(step <= last for step in steps) * STEPS_OF_AN_EVALUATION / parts
        whole = simulate(truth, steps, plan.graft_step, crude_rng)
        crude += crude_keeps([evaluation for evaluation in whole if evaluation.step in end])
    early, window, extension = (count / repeats for count in by_look)
    return {
        "truth": asdict(truth),
        "early": early,
        "window": window,
        "extension": extension,
        "kept": early + window + extension,
        "crude": crude / repeats,
        "cost": cost / repeats,
        "repeats": repeats,
        "parts": parts,
    }


def table(rows: dict[str, dict[str, Any]]) -> str:
    head = "| truth | early | window's end | one more window | kept in all | crude rule | cost, steps of the twin |"
    shares = {name: " | ".join(f"{row[cell]:.2%}" for cell in CELLS) for name, row in rows.items()}
    lines = [f"| {name} | {shares[name]} | {row['cost']:.0f} |" for name, row in rows.items()]
    return "\n".join([head, "|---" * 7 + "|", *lines])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--parts", type=int, default=PARTS, help="of the judging set, scored in turn")
    parser.add_argument("--recovery-steps", type=int, default=RECOVERY_STEPS, help="two thirds of a window")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    how = (options.repeats, options.seed, options.parts, options.recovery_steps)
    rows = {name: rates(truth, *how) for name, truth in SCENARIOS.items()}
    print(json.dumps(rows, indent=2) if options.json else table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
