"""What `esper harness` does: run scenarios, write their files, say what failed."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# The scenarios start processes; grpc's fork handlers would hang them. Read once, when grpc is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from esper.core.plain import plain
from esper.tolaria.task.device import open_device
from tools.harness import kasmina_prefetch, rollback, soak, steady_train, tamiyo_timeout
from tools.harness.figures import environment
from tools.harness.files import write_json, write_report, write_result, write_summary
from tools.harness.result import Result

COMPARISON = "perf_comparison.json"
BASELINES = Path(__file__).resolve().parents[2] / "baselines"
RUNS: Mapping[str, Callable[[argparse.Namespace], Result]] = {
    "steady-train": steady_train.run,
    "rollback": rollback.run,
    "tamiyo-timeout": tamiyo_timeout.run,
    "kasmina-prefetch": kasmina_prefetch.run,
    "soak": soak.run,
}


def run(options: argparse.Namespace) -> int:
    """Run the scenarios that the command line names; 1 if one of them failed."""
    logging.disable()  # of what is broken on purpose; results say what isn't
    device = getattr(options, "device", "cpu")
    open_device(device, is_deterministic=False)
    folder, where = options.output_dir, environment(device)
    folder.mkdir(parents=True, exist_ok=True)
    results = []
    for name in options.scenarios:
        results.append(RUNS[name](options))
        write(folder, results[-1], where)
        _say(results[-1])
    if results[0].slug != soak.SLUG:
        write_summary(folder, results, where)
        if options.markdown_report:
            write_report(folder, results, where)
    print(f"results: {folder}")
    return 1 if any(result.failures for result in results) else 0


def write(folder: Path, result: Result, where: dict[str, Any]) -> None:
    """A scenario's own files."""
    if result.slug == soak.SLUG:
        write_json(folder / "seed_soak_summary.json", soak.summary(result, where))
        return
    write_result(folder, result, where)
    if result.slug == steady_train.SLUG:
        compared = {"environment": where, "comparison": steady_train.comparison(result)}
        write_json(folder / COMPARISON, compared | baseline(where["device"], folder))


def baseline(device: str, folder: Path) -> dict[str, Any]:
    """The comparison that is kept for such a device, unless it is the one that is made now."""
    path = BASELINES / device.partition(":")[0] / COMPARISON
    if not path.exists() or path.parent.resolve() == folder.resolve():
        return {}
    return {"baseline": json.loads(path.read_text())}


def _say(result: Result) -> None:
    print(f"{result.scenario}: {'FAILED' if result.failures else 'passed'}", flush=True)
    for name, value in result.metrics.items():
        print(f"  {name:34} {value:.6g}")
    for failure in result.failures:
        print(plain(f"harness: {result.scenario}: {failure}"), file=sys.stderr)
