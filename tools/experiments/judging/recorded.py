"""The recorded grafts (data/README.md) as a judge gets them: evaluations of both arms, what a step of each costs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from esper.kasmina.control.judge.stack_outlook import ArmCosts
from esper.kasmina.control.judge.stack_test import Evaluation

DATA = Path(__file__).with_name("data")
SEQUENCES = 512
CONSTANT_RATE_SHARE = 0.8
SMALLEST_Z = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One recorded graft with its twin."""

    number: int
    run: str
    grafted: str
    at: int
    paid: str
    source: str
    evaluations: tuple[Evaluation, ...]
    costs: ArmCosts
    end_step: int
    """Where the constant learning rate ended, or the next graft was made."""
    curve: dict[int, float]
    """Held-out loss of the grown network by step."""

    @property
    def window_steps(self) -> int:
        return self.evaluations[-1].step - self.at


def load(folder: Path = DATA) -> list[Series]:
    """All recorded grafts, in the order of the file."""
    runs = [json.loads(line) for line in (folder / "lm_growth.jsonl").read_text().splitlines()]
    labels = [json.loads(line) for line in (folder / "lm_growth_paid.jsonl").read_text().splitlines()]
    known = {(label["size"], label["arm"], label["at"]): label for label in labels}
    grafts = [(run, index) for run in runs for index in range(len(run["twins"]))]
    return [series(number, run, index, known) for number, (run, index) in enumerate(grafts, start=1)]


def series(number: int, run: dict[str, Any], index: int, known: dict[Any, dict[str, str]]) -> Series:
    twin = run["twins"][index]
    at, label = twin["at"], known[run["size"], run["arm"], twin["at"]]
    later = [other["at"] for other in run["twins"][index + 1 :]]
    end = min([round(CONSTANT_RATE_SHARE * run["steps"]), *later])
    return Series(
        number=number,
        run=f"{run['size']} {run['arm']}",
        grafted=label["grafted"],
        at=at,
        paid=label["paid"],
        source=label["source"],
        evaluations=evaluations(at, twin["rows"]),
        costs=ArmCosts(twin=step_cost(run["curve"], at, before=True), grown=step_cost(run["curve"], at, before=False)),
        end_step=end,
        curve={step: loss for step, _, loss in run["curve"]},
    )


def evaluations(at: int, rows: list[list[float]]) -> tuple[Evaluation, ...]:
    """Rows of (steps since the graft, grown loss, twin's loss, z): the variance is taken from z where z can tell it."""
    errors = [abs((twin - grown) / z) if abs(z) >= SMALLEST_Z else None for _, grown, twin, z in rows]
    typical = median(error for error in errors if error is not None)
    return tuple(
        Evaluation(
            step=at + int(steps),
            gain=twin - grown,
            variance=(typical if error is None else error) ** 2 * SEQUENCES,
            samples=SEQUENCES,
            clipped_share=0.0,
            twin_score=twin,
        )
        for (steps, grown, twin, _), error in zip(rows, errors, strict=True)
    )


def step_cost(curve: list[list[float]], at: int, *, before: bool) -> float:
    """PFLOP of one step just before or after a graft, from two rows of the run's curve on that side of it."""
    side = [(step, pflop) for step, pflop, _ in curve if (step <= at if before else step >= at)]
    (first, spent), (second, spent_later) = side[-2:] if before else side[:2]
    return (spent_later - spent) / (second - first)
