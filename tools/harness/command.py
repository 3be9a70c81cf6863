"""What `esper harness` does: run scenarios, write their files, say what failed."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

# The scenarios start processes; grpc's fork handlers would hang them. Read once, when grpc is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from esper.core.errors import ConfigError, EsperError
from esper.core.plain import plain
from esper.core.storage.files import why_not_made
from esper.tolaria.task.device import open_device
from tools.harness import kasmina_prefetch, rollback, soak, steady_train, tamiyo_timeout
from tools.harness.figures import environment
from tools.harness.files import write_json, write_report, write_result, write_summary
from tools.harness.result import Result

COMPARISON = "perf_comparison.json"
BASELINES = Path(__file__).resolve().parents[2] / "baselines"
SCENARIOS: Mapping[str, ModuleType] = {
    "steady-train": steady_train,
    "rollback": rollback,
    "tamiyo-timeout": tamiyo_timeout,
    "kasmina-prefetch": kasmina_prefetch,
    "soak": soak,
}


def run(options: argparse.Namespace) -> int:
    """Run the scenarios that the command line names; 1 if one of them failed."""
    device = getattr(options, "device", "cpu")
    open_device(device, is_deterministic=False)
    folder, where = options.output_dir, environment(device)
    _make(folder)
    results = []
    for name in options.scenarios:
        with unlogged():
            results.append(result_of(SCENARIOS[name], options))
        write(folder, results[-1], where)
        _say(results[-1])
    if results[0].slug != soak.SLUG:
        write_summary(folder, results, where)
        if options.markdown_report:
            write_report(folder, results, where)
    print(f"results: {folder}")
    return 1 if any(result.failures for result in results) else 0


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("--output-dir", str(folder), f"{why_not_made(error)}; name another folder") from error


@contextmanager
def unlogged() -> Iterator[None]:
    """Nothing is logged of what is broken on purpose; results say what isn't."""
    before = logging.root.manager.disable
    logging.disable()
    try:
        yield
    finally:
        logging.disable(before)


def result_of(scenario: ModuleType, options: argparse.Namespace) -> Result:
    """What a scenario found; an error that ended it is its failure, and the others' turn comes."""
    try:
        result: Result = scenario.run(options)
    except EsperError as error:
        ended = f"{type(error).__name__}: {error}"
        return Result(scenario=scenario.SCENARIO, slug=scenario.SLUG, metrics={}, failures=[ended])
    return result


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
