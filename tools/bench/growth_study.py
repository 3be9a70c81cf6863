#!/usr/bin/env python3
"""Does growth pay, and does it leave alone what it should? Ten seeds of each arm through the real launcher.

  narrow4, narrow6   a host too narrow for the task: seeds are to be kept, test accuracy is to rise
  saturated          a wide host with the default trigger: nothing is to be germinated, or nothing kept
  forced             the wide host with the trigger forced: nothing is to be kept, weights equal the never-grown run's
  useless            a narrow host forced to try seeds of random frozen weights: none is to be kept

All widen by eight units at a time (`--span-width +8`), as often as the judge keeps it. That is not the default, which
widens once, to four times the width: small steps give the judge more to judge.

Prints a table (or --json) from the runs' summary.json files; finished runs in --out are not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from esper.core.process.child import child_command

BY_EIGHT = ("--span-width", "+8")
"""As often as the judge keeps it: many small verdicts, on useful seeds and useless ones."""
ARMS: dict[str, tuple[str, ...]] = {
    "narrow4": ("--hidden", "4,4", *BY_EIGHT),
    "narrow6": ("--hidden", "6,6", *BY_EIGHT),
    "saturated": ("--hidden", "64,64", *BY_EIGHT),
    "forced": ("--hidden", "64,64", *BY_EIGHT, "--grow", "always"),
    "useless": ("--hidden", "6,6", *BY_EIGHT, "--grow", "always", "--blueprints", "control.random_frozen"),
}


def train(out: Path, *flags: str) -> dict[str, Any]:
    """Run the launcher once and return its summary."""
    summary = out / "summary.json"
    if not summary.exists():
        command = [
            *child_command("esper.tolaria.launcher"),
            "--run-dir",
            str(out),
            "--overwrite",
            "--plain",
            "--checkpoint-every-epochs",
            "0",
            *flags,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)} failed with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return json.loads(summary.read_text())


def pair(out: Path, arm: str, seed: int, common: tuple[str, ...]) -> dict[str, Any]:
    """One grown run beside the never-grown run of the same seed."""
    flags = ("--seed", str(seed), *common)
    grown = train(out / f"{arm}-{seed}", *flags, *ARMS[arm])
    hidden = ARMS[arm][:2]
    never = train(out / f"never-{hidden[1].replace(',', '-')}-{seed}", *flags, *hidden, "--grow", "never")
    return {"seed": seed, **beside(grown, never)}


def beside(grown: dict[str, Any], never: dict[str, Any]) -> dict[str, Any]:
    """What two summaries say of one pair."""
    muted = [row["muted_gain"] / row["muted_gain_se"] for row in grown["seeds"] if row.get("muted_gain_se")]
    return {
        "host": never["test_accuracy"],
        "grown": grown["test_accuracy"],
        "kept": grown["growth"]["kept"],
        "judged": grown["growth"]["judged"],
        "germinated": grown["growth"]["germinated"],
        "parameters": grown["final_parameters"],
        "macs_ratio": grown["training_macs"] / never["training_macs"],
        "same_weights": grown["weights_digest"] == never["weights_digest"],
        "reproducible": grown["reproducible"],
        "largest_muted_z": max(muted, default=None),
    }


def row(arm: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The arm in one line."""
    gains = [100 * (run["grown"] - run["host"]) for run in runs]
    return {
        "arm": arm,
        "runs": len(runs),
        "host": 100 * statistics.mean(run["host"] for run in runs),
        "grown": 100 * statistics.mean(run["grown"] for run in runs),
        "gain": statistics.mean(gains),
        "gain_sd": statistics.stdev(gains) if len(gains) > 1 else 0.0,
        "runs_that_kept": sum(run["kept"] > 0 for run in runs),
        "kept": sum(run["kept"] for run in runs),
        "judged": sum(run["judged"] for run in runs),
        "min_judged": min(run["judged"] for run in runs),
        "germinated": sum(run["germinated"] for run in runs),
        "parameters": statistics.mean(run["parameters"] for run in runs),
        "macs_ratio": statistics.mean(run["macs_ratio"] for run in runs),
        "same_weights": sum(run["same_weights"] for run in runs),
        "detail": runs,
    }


def table(rows: list[dict[str, Any]]) -> str:
    head = (
        "| arm | host, % | grown, % | gain, points | runs that kept | kept / judged / germinated | parameters "
        "| MACs of growth | same weights as never grown |\n|---|---|---|---|---|---|---|---|---|\n"
    )
    return head + "\n".join(
        f"| {r['arm']} | {r['host']:.2f} | {r['grown']:.2f} | {r['gain']:+.2f} ± {r['gain_sd']:.2f} "
        f"| {r['runs_that_kept']} of {r['runs']} | {r['kept']} / {r['judged']} / {r['germinated']} "
        f"| {r['parameters']:,.0f} | {r['macs_ratio']:.2f}x | {r['same_weights']} of {r['runs']} |"
        for r in rows
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/growth_study"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--arms", default=",".join(ARMS), help="comma-separated")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("flags", nargs="*", help="further flags of tolaria-train, after --")
    options = parser.parse_args()
    rows = []
    for arm in options.arms.split(","):
        runs = [pair(options.out, arm, seed, tuple(options.flags)) for seed in range(1, options.seeds + 1)]
        rows.append(row(arm, runs))
        if not options.json:
            print(f"{arm}: done", file=sys.stderr)
    print(json.dumps(rows, indent=2) if options.json else table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
