#!/usr/bin/env python3
"""Which recorded grafts would be kept? Three judges on 37 series whose end is known (data/README.md).

  twin    the sequential twin test as it judges widths today: one look at the window's end
  crude   the last third's mean; the larger of paired error and scatter, AR(1) at 0.3; z >= 2.33 over a margin of 0.002
  stack   esper/kasmina/control/judge/stack_test.py: an early look that may only keep, then the window's end

What stack leaves undecided would get one more window, which wasn't recorded. The recording holds 4 to 7 evaluations in
a last third where the judge asks for eight. What the judge assumes of the wander is fitted here by restricted
likelihood; each series is also judged by a fit to the other runs alone. Prints tables, or --json.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean, median, stdev
from typing import Any

import numpy as np
from recorded import SEQUENCES, Series, load

from esper.kasmina.control.judge.stack_outlook import forecast, gain_at_equal_flops, recovery_steps
from esper.kasmina.control.judge.stack_plan import EARLY_LOOK, SCORED_SHARE, PlannedLook, StackSettings, window_error
from esper.kasmina.control.judge.stack_test import Evaluation, Verdict, document_error, take_stack_look
from esper.kasmina.control.judge.twin_test import take_look
from esper.leyline import JudgeResult, LifeSettings, PairedScore

SETTINGS = StackSettings(min_evaluations=3)
CRUDE_Z, CRUDE_CORRELATION = 2.33, 0.3
MEMORIES = (0.0, 2.0, 5.0, 7.5, 10.0, 12.5, 15.0, 20.0, 25.0, 30.0, 40.0, 60.0, 100.0)
LIKELY = 1.92
DRAWS = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a judge said, after how many steps of the twin and how many evaluations of both arms."""

    kept: bool
    steps: int
    evaluations: int
    gain: float = math.nan
    error: float = math.nan
    z: float = math.nan

    @property
    def word(self) -> str:
        return "keep" if self.kept else "-"


Judge = Callable[[Series], Outcome]


def scored(series: Series, windows: Any = 1) -> list[Evaluation]:
    """The evaluations in the last third of so many windows."""
    length = windows * series.window_steps
    first = length * (1 - SCORED_SHARE)
    return [evaluation for evaluation in series.evaluations if first < evaluation.step - series.at <= length]


def twin_rule(series: Series) -> Outcome:
    last = series.evaluations[-1]
    life = LifeSettings(margin_relative=0.03, margin_absolute=0.002, min_samples=300)
    score = PairedScore(mean=last.gain, variance=last.variance, samples=last.samples)
    look = take_look(JudgeResult(look=1, twin=score, mean_twin_score=last.twin_score), life, 1)
    return Outcome(
        kept=look.is_better,
        steps=series.window_steps,
        evaluations=1,
        gain=last.gain,
        error=look.standard_error,
        z=look.test.z,
    )


def crude_rule(series: Series) -> Outcome:
    seen = scored(series)
    gains, count = [evaluation.gain for evaluation in seen], len(seen)
    inflation = 1 + 2 * sum((1 - lag / count) * CRUDE_CORRELATION**lag for lag in range(1, count))
    error = max(document_error(seen), stdev(gains) * math.sqrt(inflation / count))
    z = (fmean(gains) - SETTINGS.margin) / error
    return Outcome(kept=z >= CRUDE_Z, steps=series.window_steps, evaluations=count, gain=fmean(gains), error=error, z=z)


def in_parts(series: Series, rng: random.Random) -> Series:
    """The same graft as if each look had scored the judging set once, a part at each of its evaluations.

    By how much a part's gain differs from that of the whole set, which was recorded, is drawn from the sequences'
    variance; over the parts of a look the differences add up to nothing.
    """
    found = dict(enumerate(series.evaluations))
    for windows in (EARLY_LOOK, 1):
        seen = {place: each for place, each in found.items() if each in scored(series, windows)}
        drawn = [rng.gauss(0.0, math.sqrt(each.variance * len(seen) / each.samples)) for each in seen.values()]
        for part, (place, each) in enumerate(seen.items()):
            gain, samples = each.gain + drawn[part] - fmean(drawn), each.samples // len(seen)
            found[place] = replace(each, gain=gain, samples=samples, part=part)
    return replace(series, evaluations=tuple(found.values()))


def drawn_in_parts(all_series: Sequence[Series], draws: int = DRAWS) -> dict[str, Any]:
    """Means over many draws of what the judge keeps, beside what it keeps of the whole sets."""
    rng = random.Random(1)
    counts = [
        count("parts", all_series, [stack_rule(in_parts(series, rng)) for series in all_series]) for _ in range(draws)
    ]
    names = ("kept_of_paid", "kept_of_useless", "kept_of_open", "twin_steps")
    return {"draws": draws, **{name: fmean(each[name] for each in counts) for name in names}}


def stack_rule(series: Series, settings: StackSettings = SETTINGS) -> Outcome:
    spent, early = window_error(1, settings), settings.early_error_share
    made = 0
    for windows, error in ((EARLY_LOOK, early * spent), (1, (1 - early) * spent)):
        steps = tuple(evaluation.step for evaluation in scored(series, windows))
        if error == 0.0 or len(steps) < settings.min_evaluations:
            continue
        planned = PlannedLook(evaluations=steps, error=error, may_refuse=False)
        look = take_stack_look(planned, series.evaluations, settings)
        made += len(steps)
        if look.verdict is Verdict.KEEP:
            break
    return Outcome(
        kept=look.verdict is Verdict.KEEP,
        steps=steps[-1] - series.at,
        evaluations=made,
        gain=look.gain,
        error=look.standard_error,
        z=look.z,
    )


RULES: dict[str, Judge] = {"twin": twin_rule, "crude": crude_rule, "stack": stack_rule}


def count(name: str, all_series: Sequence[Series], outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """Kept of those that paid and of those that didn't, and what it took."""
    pairs = list(zip(all_series, outcomes, strict=True))

    def kept(*paid: str) -> int:
        return sum(outcome.kept for series, outcome in pairs if series.paid in paid)

    return {
        "judge": name,
        "kept_of_paid": kept("yes"),
        "paid": sum(series.paid == "yes" for series in all_series),
        "kept_of_useless": kept("no"),
        "useless": sum(series.paid == "no" for series in all_series),
        "kept_of_open": kept("hardly", "open"),
        "open": sum(series.paid in ("hardly", "open") for series in all_series),
        "twin_steps": sum(outcome.steps for _, outcome in pairs),
        "evaluations": sum(outcome.evaluations for _, outcome in pairs),
        "undecided": [series.number for series, outcome in pairs if series.paid == "yes" and not outcome.kept],
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Wander:
    """A fit of how the gain wanders about a line in the last thirds of some series."""

    share: float
    memory_steps: float
    likely_memory: tuple[float, float]


def fit_wander(all_series: Iterable[Series]) -> Wander:
    """Restricted likelihood of one share and one memory; the memory's interval is that of the profile at 95 %."""
    found = [(*profile(all_series := list(all_series), memory), memory) for memory in MEMORIES]
    best = max(found)
    likely = [memory for likelihood, _, memory in found if likelihood > best[0] - LIKELY]
    return Wander(share=best[1], memory_steps=best[2], likely_memory=(likely[0], likely[-1]))


def profile(all_series: Iterable[Series], memory: float) -> tuple[float, float]:
    """Restricted log likelihood at the best share, and that share, for one memory."""
    squares = log_determinant = 0.0
    freedom = 0
    for series in all_series:
        seen = scored(series)
        steps = np.array([float(evaluation.step) for evaluation in seen])
        gains = np.array([evaluation.gain for evaluation in seen]) / math.sqrt(median(e.variance for e in seen))
        distance = np.abs(steps[:, None] - steps)
        correlation = np.exp(-distance / memory) if memory else np.eye(len(steps))
        line = np.stack([np.ones_like(steps), steps - steps.mean()], axis=1)
        beyond = np.linalg.qr(line, mode="complete")[0][:, 2:]
        covariance, left = beyond.T @ correlation @ beyond, beyond.T @ gains
        squares += float(left @ np.linalg.solve(covariance, left))
        log_determinant += float(np.linalg.slogdet(covariance)[1])
        freedom += len(left)
    variance = squares / freedom
    return -0.5 * (freedom * (math.log(variance) + 1) + log_determinant), math.sqrt(variance)


def left_out(all_series: Sequence[Series]) -> tuple[list[Outcome], list[Wander]]:
    """Each series judged by the wander of the other runs."""
    runs = sorted({series.run for series in all_series})
    fits = {run: fit_wander(series for series in all_series if series.run != run) for run in runs}
    outcomes = [
        stack_rule(
            series,
            replace(SETTINGS, wander_share=fits[series.run].share, memory_steps=fits[series.run].memory_steps),
        )
        for series in all_series
    ]
    return outcomes, list(fits.values())


def sensitivity(all_series: Sequence[Series]) -> list[dict[str, Any]]:
    """One setting at a time."""
    changes: dict[str, tuple[float, ...]] = {
        "margin": (0.0, 0.001, 0.003, 0.005),
        "error_rate": (0.01, 0.05, 0.1),
        "early_error_share": (0.0, 0.25, 0.5),
        "wander_share": (0.07, 0.1, 0.2, 0.28),
        "wander_weight": (0, 4, 16, 64),
        "memory_steps": (0.0, 10.0, 30.0, 60.0),
    }
    return [
        count(
            f"{key} = {value:g}",
            all_series,
            [stack_rule(series, replace(SETTINGS, **{key: value})) for series in all_series],
        )
        for key, values in changes.items()
        for value in values
    ]


def described(series: Series) -> dict[str, Any]:
    """One series in the table: verdicts, and what stands beside them."""
    after = [e for e in series.evaluations if e.step - series.at > series.window_steps * SCORED_SHARE]
    ahead = forecast(after, graft_step=series.at, end_step=series.end_step, costs=series.costs)
    final = series.curve.get(series.end_step)
    stack = stack_rule(series)
    return {
        "number": series.number,
        "run": series.run,
        "grafted": series.grafted,
        "at": series.at,
        "paid": series.paid,
        "source": series.source,
        **{name: asdict(rule(series)) | {"word": rule(series).word} for name, rule in RULES.items()},
        "gain": stack.gain,
        "recovery_steps": recovery_steps(series.evaluations, series.at),
        "gain_at_equal_flops": gain_at_equal_flops(series.evaluations, series.at, series.costs),
        "forecast_at_equal_flops": None if ahead is None else ahead.gain_at_equal_flops,
        "forecast_error": None if ahead is None or final is None else ahead.grown - final,
    }


def study() -> dict[str, Any]:
    all_series = load()
    outcomes, fits = left_out(all_series)
    rows = [described(series) for series in all_series]
    misses = [row["forecast_error"] for row in rows if row["forecast_error"] is not None]
    told = [row for row in rows if row["paid"] in ("yes", "no")]
    return {
        "settings": asdict(SETTINGS),
        "sequences": SEQUENCES,
        "series": rows,
        "counts": [count(name, all_series, map(rule, all_series)) for name, rule in RULES.items()]
        + [count("stack, wander of the other runs", all_series, outcomes)],
        "in_parts": drawn_in_parts(all_series),
        "wander": asdict(fit_wander(all_series)),
        "wander_left_out": {
            "share": [min(fit.share for fit in fits), max(fit.share for fit in fits)],
            "memory_steps": [min(fit.memory_steps for fit in fits), max(fit.memory_steps for fit in fits)],
        },
        "wander_by_size": {
            size: asdict(fit_wander(series for series in all_series if series.run.startswith(size)))
            for size in ("21m", "small", "85m")
        },
        "forecast": {
            "count": len(misses),
            "median_error": median(misses),
            "median_absolute_error": median(map(abs, misses)),
            "told": len(told),
            "sign_agrees": sum((row["forecast_at_equal_flops"] > 0) == (row["paid"] == "yes") for row in told),
        },
        "sensitivity": sensitivity(all_series),
    }


def table(found: dict[str, Any]) -> str:
    return "\n\n".join([series_table(found["series"]), count_table(found["counts"]), fits(found)])


def series_table(rows: list[dict[str, Any]]) -> str:
    head = (
        "| # | run | grafted | at step | paid | twin | crude (z) | stack (z) | after steps | gain ± error, 1e-4 nats "
        "| recovered after | at equal FLOPs | forecast, equal FLOPs |\n" + 13 * "|---" + "|"
    )
    return "\n".join([head, *map(line, rows)])


def line(row: dict[str, Any]) -> str:
    crude, stack = row["crude"], row["stack"]
    cells = (
        row["number"],
        row["run"],
        row["grafted"],
        row["at"],
        row["paid"],
        row["twin"]["word"],
        f"{crude['word']} ({crude['z']:.1f})",
        f"{stack['word']} ({stack['z']:.1f})",
        stack["steps"],
        f"{1e4 * stack['gain']:.0f} ± {1e4 * stack['error']:.0f}",
        row["recovery_steps"] or "never",
        nats(row["gain_at_equal_flops"]),
        nats(row["forecast_at_equal_flops"]),
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def nats(value: float | None) -> str:
    return "" if value is None else f"{value:+.3f}"


def count_table(counts: list[dict[str, Any]]) -> str:
    head = (
        "| judge | kept of what paid | kept of what didn't | kept of hardly or open | steps of twins | evaluations "
        "| paid, not kept |\n|---|---|---|---|---|---|---|"
    )
    return "\n".join(
        [
            head,
            *(
                f"| {c['judge']} | {c['kept_of_paid']} of {c['paid']} | {c['kept_of_useless']} of {c['useless']} "
                f"| {c['kept_of_open']} of {c['open']} | {c['twin_steps']:,} | {c['evaluations']} "
                f"| {', '.join(map(str, c['undecided']))} |"
                for c in counts
            ),
        ]
    )


def fits(found: dict[str, Any]) -> str:
    ranges, ahead, parts = found["wander_left_out"], found["forecast"], found["in_parts"]
    lines = [
        f"In parts, means of {parts['draws']} draws: kept {parts['kept_of_paid']:.1f} of what paid, "
        f"{parts['kept_of_useless']:.2f} of what didn't, {parts['kept_of_open']:.1f} of hardly or open, "
        f"{parts['twin_steps']:,.0f} steps of twins.",
        "",
    ]
    lines += ["| wander of | share of the documents' deviation | memory, steps (95 %) |", "|---|---|---|"]
    for name, fit in (("all", found["wander"]), *found["wander_by_size"].items()):
        low, high = fit["likely_memory"]
        lines.append(f"| {name} | {fit['share']:.3f} | {fit['memory_steps']:g} ({low:g} to {high:g}) |")
    lines += [
        "",
        f"Leaving one run out: share {ranges['share'][0]:.3f} to {ranges['share'][1]:.3f}, memory "
        f"{ranges['memory_steps'][0]:g} to {ranges['memory_steps'][1]:g} steps.",
        f"Forecast of the grown network against its own curve, {ahead['count']} series: median error "
        f"{ahead['median_error']:+.3f}, median absolute error {ahead['median_absolute_error']:.3f} nats.",
        f"Sign of the forecast gain at equal FLOPs: as what paid and what didn't in {ahead['sign_agrees']} of "
        f"{ahead['told']}.",
        "",
        count_table(found["sensitivity"]),
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = study()
    print(json.dumps(found, indent=2) if options.json else table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
