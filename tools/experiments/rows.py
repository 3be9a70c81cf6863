"""The finished runs of an experiment, one JSON line each: appended as they end, so that an interruption loses none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from plan import Plan, Run, read_plan

from esper.tolaria.record.course.reading import Record

HERE = Path(__file__).resolve().parent
Row = Mapping[str, Any]

FIGURES = (
    *("steps", "test_loss", "test_accuracy", "val_loss", "val_accuracy", "host_parameters", "final_parameters"),
    *("final_widths", "training_macs", "training_macs_by_use", "growth", "step_ms", "weights_digest", "reproducible"),
    *("machine", "memory", "compile", "data_digest"),
)
START_UP_STEPS = 20
"""In which a run compiles its training step."""
OF_SEED = ("gain", "gain_se", "stage", "slot", "blueprint_id", "fate")


class Rows:
    """Every finished run by what it was; a line that was cut short counts as not run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self._rows = {key_of(row): row for row in map(_parsed, lines) if row is not None}
        self._is_cut = bool(lines) and not path.read_bytes().endswith(b"\n")

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, run: Run) -> Row | None:
        return self._rows.get(run)

    def add(self, row: Row) -> None:
        with self._path.open("a") as file:
            file.write(("\n" if self._is_cut else "") + json.dumps(row) + "\n")
        self._is_cut = False
        self._rows[key_of(row)] = row

    def of(self, arm: str, rate: float | None, seeds: Sequence[int]) -> dict[int, Row]:
        """An arm's rows at a rate, by seed."""
        found = {seed: self._rows.get(Run(arm, seed, rate)) for seed in seeds}
        return {seed: row for seed, row in found.items() if row is not None}


def with_rows(name: str, out: Path | None) -> tuple[Plan, Rows]:
    """A plan, by its file or its name, and its rows: those that are committed, or what a run left in OUT/PLAN."""
    plan = read_plan(Path(name) if name.endswith(".toml") else HERE / "plans" / f"{name}.toml")
    return plan, Rows(HERE / "rows" / f"{plan.name}.jsonl" if out is None else out / plan.name / "rows.jsonl")


def key_of(row: Row) -> Run:
    return Run(row["arm"], row["seed"], row.get("rate"))


def _parsed(line: str) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def row_of(plan: Plan, run: Run, summary: Row, events: Sequence[Record], wall_s: float) -> Row:
    """What is kept of a run."""
    seeds = [{name: entry.get(name) for name in OF_SEED} for entry in summary["seeds"]]
    kept = {name: summary.get(name) for name in FIGURES}
    rungs = {f"{share:g}": rung_at(share, summary["steps"], events) for share in plan.rungs}
    times = {"wall_s": round(wall_s, 1), "trained_s": trained_s(events)}
    return {**run._asdict(), **kept, "seeds": seeds, "rungs": rungs, **times}


def trained_s(events: Sequence[Record]) -> float | None:
    """Wall time of the training from its first boundary after START_UP_STEPS on, drawn out to all of its steps.

    What is compiled before then doesn't count, nor does the process's start; twins and looks do. None where boundaries
    bear no times.
    """
    seen = [event for event in events if event["kind"] == "boundary" and event.get("time")]
    warm = [event for event in seen if event["step"] >= START_UP_STEPS]
    if len(warm) < 2:
        return None
    first, last = warm[0], warm[-1]
    seconds = (datetime.fromisoformat(last["time"]) - datetime.fromisoformat(first["time"])).total_seconds()
    return round(seconds * last["step"] / (last["step"] - first["step"]), 2)


def rung_at(share: float, steps: int, events: Sequence[Record]) -> Row | None:
    """The judging data's verdict at the first epoch's end after a share of the run, and the share that it came at."""
    epochs = [event for event in events if event["kind"] == "epoch" and event["step"] >= share * steps]
    if not epochs:
        return None
    names = ("step", "val_loss", "val_accuracy")
    return {"share": epochs[0]["step"] / steps, **{name: epochs[0].get(name) for name in names}}
