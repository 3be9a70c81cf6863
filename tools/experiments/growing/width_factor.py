#!/usr/bin/env python3
"""How much should a seed widen a narrow layer: by a fixed number of units, or by a factor of its width?

Every arm of the table grows every host with the same seeds through the real launcher, beside the run of that seed that
never grows. Each run takes one thread. Finished ones are kept in --out/rows.jsonl and not repeated; --recorded reads
the committed rows and trains nothing.

Prints a table (or --json), and whether a factor may become the default: where its paired mean is not worse than that
of the first arm at no more MACs, in both tasks.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))
from growth_study import beside, train

from esper.kasmina.control.judge.student import student_quantile

ARMS: dict[str, tuple[str, ...]] = {
    "+8": ("--span-width", "+8"),
    "x2": ("--span-width", "x2"),
    "x4 in 4x": ("--span-width", "x4"),
    "x4 in 6x": ("--span-width", "x4"),
}
WITHIN = {"x4 in 4x": 4, "x4 in 6x": 6}
"""How many times the cost of the run that never grows an arm's run may cost, of those that have a budget."""
HOSTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "digits narrow4": ("digits", ("--data", "digits", "--hidden", "4,4")),
    "digits narrow6": ("digits", ("--data", "digits", "--hidden", "6,6")),
    "mnist1d conv4": ("mnist1d", ("--data", "mnist1d", "--model", "conv1d", "--hidden", "4,4", "--epochs", "60")),
    "mnist1d mlp6": ("mnist1d", ("--data", "mnist1d", "--model", "mlp", "--hidden", "6,6", "--epochs", "60")),
}
"""The task of each host, and its flags."""
NEVER = ("--grow", "never")
RECORDED = Path(__file__).resolve().parents[1] / "rows" / "width_factor.jsonl"
REFERENCE = next(iter(ARMS))
TOLD = ("test_accuracy", "final_parameters", "training_macs", "growth", "seeds", "weights_digest", "reproducible")

Row = dict[str, Any]
Key = tuple[str, str, int]


class Rows:
    """One JSON line for each finished run; a line that was cut short counts as not run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.known: dict[Key, Row] = {key_of(row): row for row in map(_parsed, lines) if row is not None}

    def add(self, row: Row) -> None:
        self.known[key_of(row)] = row
        with self._path.open("a") as file:
            file.write("\n" + json.dumps(row))


def key_of(row: Row) -> Key:
    return row["host"], row["arm"], row["seed"]


def _parsed(line: str) -> Row | None:
    try:
        return json.loads(line)
    except ValueError:
        return None


def run(out: Path, key: Key, known: dict[Key, Row]) -> Row:
    """One run through the launcher; one with a budget needs the run that never grows before it."""
    host, arm, seed = key
    flags = NEVER if arm == "never" else ARMS[arm]
    if arm in WITHIN:
        flags = (*flags, "--max-training-macs", str(WITHIN[arm] * known[host, "never", seed]["training_macs"]))
    folder = out / "-".join([*host.split(), *arm.strip("+").split(), str(seed)])
    summary = train(folder, "--seed", str(seed), "--threads", "1", *HOSTS[host][1], *flags)
    return {"host": host, "arm": arm, "seed": seed} | {name: summary[name] for name in TOLD}


def paired(values: Sequence[float], others: Sequence[float]) -> tuple[float, float | None]:
    """Mean difference and half the width of its 95 % interval; None for a single pair."""
    differences = [value - other for value, other in zip(values, others, strict=True)]
    count = len(differences)
    if count < 2:
        return differences[0], None
    return fmean(differences), student_quantile(0.025, count - 1) * stdev(differences) / sqrt(count)


def whole(host: str, arm: str, seeds: Sequence[int], known: dict[Key, Row]) -> list[int]:
    """The seeds of which an arm's run is there, and those that it is held against."""
    return [seed for seed in seeds if all((host, each, seed) in known for each in ("never", REFERENCE, arm))]


def row_of(host: str, arm: str, seeds: Sequence[int], known: dict[Key, Row]) -> Row:
    """One arm on one host."""
    pairs = [beside(known[host, arm, seed], known[host, "never", seed]) for seed in seeds]
    reference = [known[host, REFERENCE, seed] for seed in seeds]
    accuracies = [100 * pair["grown"] for pair in pairs]
    difference, bound = paired(accuracies, [100 * row["test_accuracy"] for row in reference])
    macs = [known[host, arm, seed]["training_macs"] for seed in seeds]
    return {
        "host": host,
        "task": HOSTS[host][0],
        "arm": arm,
        "runs": len(seeds),
        "never_grown": 100 * fmean(pair["host"] for pair in pairs),
        "accuracy": fmean(accuracies),
        "deviation": stdev(accuracies) if len(accuracies) > 1 else 0.0,
        "difference": difference,
        "bound": bound,
        **{name: sum(pair[name] for pair in pairs) for name in ("kept", "judged", "germinated")},
        "parameters": fmean(pair["parameters"] for pair in pairs),
        "macs_of_growth": fmean(pair["macs_ratio"] for pair in pairs),
        "macs_of_reference": fmean(macs) / fmean(row["training_macs"] for row in reference),
        "detail": [{"seed": seed} | pair for seed, pair in zip(seeds, pairs, strict=True)],
    }


def verdicts(rows: Sequence[Row]) -> list[Row]:
    """For each arm but the first: per task its mean difference and MACs over the task's hosts; and the rule."""
    found = []
    for arm in [name for name in ARMS if name != REFERENCE]:
        tasks = {}
        for task in dict.fromkeys(task for task, _ in HOSTS.values()):
            own = [row for row in rows if row["arm"] == arm and row["task"] == task]
            if own:
                macs = fmean(row["macs_of_reference"] for row in own)
                tasks[task] = {"difference": fmean(row["difference"] for row in own), "macs_of_reference": macs}
        becomes = all(told["difference"] >= 0 and told["macs_of_reference"] <= 1 for told in tasks.values())
        found.append({"arm": arm, "tasks": tasks, "may_be_default": becomes and len(tasks) > 1})
    return found


def table(rows: Sequence[Row], found: Sequence[Row]) -> str:
    columns = ["host", "arm", "seeds", "never grown, %", "grown, %", f"less {REFERENCE}, points (95 %)"]
    columns += ["kept / judged / germinated", "parameters", "MACs of growth", f"MACs beside {REFERENCE}"]
    cells = [columns, ["---"] * len(columns), *map(_cells, rows)]
    lines = [f"| {' | '.join(line)} |" for line in cells]
    rules = [
        f"{item['arm']}: "
        + "; ".join(
            f"{task} {told['difference']:+.2f} points at {told['macs_of_reference']:.2f}x the MACs"
            for task, told in item["tasks"].items()
        )
        + (": may become the default" if item["may_be_default"] else ": doesn't become the default")
        for item in found
    ]
    return "\n".join([*lines, "", *rules])


def _cells(row: Row) -> list[str]:
    return [
        row["host"],
        row["arm"],
        str(row["runs"]),
        f"{row['never_grown']:.2f}",
        f"{row['accuracy']:.2f} ± {row['deviation']:.2f}",
        _difference(row),
        f"{row['kept']} / {row['judged']} / {row['germinated']}",
        f"{row['parameters']:,.0f}",
        f"{row['macs_of_growth']:.2f}x",
        f"{row['macs_of_reference']:.2f}x",
    ]


def _difference(row: Row) -> str:
    if row["arm"] == REFERENCE:
        return "-"
    return f"{row['difference']:+.2f}" + ("" if row["bound"] is None else f" ± {row['bound']:.2f}")


def train_all(options: argparse.Namespace, rows: Rows, missing: Sequence[Key]) -> None:
    """Make the runs, so many at a time, and keep each as it ends."""
    with ThreadPoolExecutor(options.processes) as pool:
        asked = [pool.submit(run, options.out, key, rows.known) for key in missing]
        try:
            for done, future in enumerate(as_completed(asked), 1):
                row = future.result()
                rows.add(row)
                print(f"{done} of {len(missing)}: {row['host']} {row['arm']} seed {row['seed']}", file=sys.stderr)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/width_factor"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--hosts", default=",".join(HOSTS), help="comma-separated")
    parser.add_argument("--processes", type=int, default=1, help="runs at a time")
    parser.add_argument("--recorded", action="store_true", help="compare the committed rows; train nothing")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    hosts, seeds = options.hosts.split(","), range(1, options.seeds + 1)
    rows = Rows(RECORDED if options.recorded else options.out / "rows.jsonl")
    if not options.recorded:
        options.out.mkdir(parents=True, exist_ok=True)
        wanted = [(host, arm, seed) for seed in seeds for host in hosts for arm in ("never", *ARMS)]
        missing = [key for key in wanted if key not in rows.known]
        for with_budget in (False, True):
            train_all(options, rows, [key for key in missing if (key[1] in WITHIN) is with_budget])
    there = {(host, arm): whole(host, arm, seeds, rows.known) for host in hosts for arm in ARMS}
    result = [row_of(*which, own, rows.known) for which, own in there.items() if own]
    found = verdicts(result)
    print(json.dumps({"rows": result, "rule": found}, indent=2) if options.json else table(result, found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
