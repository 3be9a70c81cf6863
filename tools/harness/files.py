"""The harness's files: SLUG_metrics.json, summary.csv, perf_comparison.json and report.md, each written as a whole.

summary.csv has a row for each metric of each scenario, so that its columns fit all of them. In JSON an epoch or a
packet is one line.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from esper.core.storage.files import write_atomically
from tools.harness.result import Result

MOST_DEPTH = 2
COLUMNS = ("scenario", "device", "metric", "value")


def write_json(path: Path, content: Any) -> None:
    write_atomically(path, (text_of(content) + "\n").encode())


def text_of(value: Any, depth: int = 0) -> str:
    """JSON that people can read: the outer containers of containers take lines, all else takes one."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    is_flat = not any(isinstance(each, dict | list) and each for each in inner)
    if depth == MOST_DEPTH or (depth and is_flat) or not inner:
        return json.dumps(rounded(value))
    margin = " " * (depth + 1)
    if isinstance(value, dict):
        lines = [f"{margin}{json.dumps(key)}: {text_of(each, depth + 1)}" for key, each in value.items()]
        return "{\n" + ",\n".join(lines) + "\n" + margin[1:] + "}"
    lines = [f"{margin}{text_of(each, depth + 1)}" for each in value]
    return "[\n" + ",\n".join(lines) + "\n" + margin[1:] + "]"


def rounded(value: Any) -> Any:
    """Six digits say all that was measured; what is no number is null."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if isfinite(value) else None
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return list(map(rounded, value)) if isinstance(value, list | tuple) else value


def write_result(folder: Path, result: Result, environment: dict[str, Any]) -> Path:
    """One scenario's own file; `details` and `telemetry` stand last."""
    path = folder / f"{result.slug}_metrics.json"
    order = ("scenario", "environment", "failures", "metrics", "phases", "details", "telemetry")
    values = {"environment": environment} | {name: getattr(result, name) for name in order if name != "environment"}
    write_json(path, {name: values[name] for name in order})
    return path


def write_summary(folder: Path, results: Sequence[Result], environment: dict[str, Any]) -> Path:
    """A row for each metric."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for result in results:
        writer.writerows((result.scenario, environment["device"], *figure) for figure in result.metrics.items())
    path = folder / "summary.csv"
    write_atomically(path, text.getvalue().encode())
    return path


def write_report(folder: Path, results: Sequence[Result], environment: dict[str, Any]) -> Path:
    """The same for people."""
    path = folder / "report.md"
    write_atomically(path, ("\n".join(_report(results, environment)) + "\n").encode())
    return path


def _report(results: Sequence[Result], environment: dict[str, Any]) -> Iterator[str]:
    yield "# Harness"
    yield ""
    yield "; ".join(f"{name}: {value}" for name, value in environment.items() if value is not None)
    for result in results:
        yield f"\n## {result.scenario}: {'failed' if result.failures else 'passed'}\n"
        yield from (f"* {failure}" for failure in result.failures)
        yield "\n| Metric | Value |\n| --- | --- |"
        yield from (f"| {name} | {value:.6g} |" for name, value in result.metrics.items())
        if result.phases:
            yield "\n| Phase | Epochs | p50, ms | p95, ms | bare p50, ms | ratio | of processor time |"
            yield "| --- | --- | --- | --- | --- | --- | --- |"
            for phase, row in result.phases.items():
                names = ("latency_p50_ms", "latency_p95_ms", "bare_p50_ms", "ratio_p50", "cpu_ratio_p50")
                yield f"| {phase} | {row['epochs']} | {' | '.join(f'{row[name]:.3f}' for name in names)} |"
