"""Field reports as rows: JSON lines always, Parquet or Arrow where pyarrow is installed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

from esper.core.clock import nanoseconds
from esper.core.enums import short_name
from esper.core.errors import ConfigError
from esper.core.storage.files import write_atomically
from esper.leyline import FieldReport, FieldReportOutcome, ObservedFeature
from esper.tamiyo.learned.reward import worth_of

FORMATS = (".jsonl", ".parquet", ".arrow")
_NUMBERS = (
    *("loss_delta", "gain", "gain_standard_error", "gain_at_equal_macs", "effect", "twin_score"),
    *("judgement_macs", "run_macs", "parameter_delta", "forward_macs_delta", "steps"),
    *("risk_score", "tamiyo_latency_ms", "hook_latency_ms"),
)
_TEXTS = frozenset(
    {"report_id", "run_id", "policy_id", "policy_version", "action", "outcome", "slot_id", "blueprint_id"}
    | {"feature_version", "notes"}
)
_WHOLE = frozenset(
    {"generation", "opened_ns", "opened_step", "closed_step", "candidates", "judgement_macs", "run_macs"}
    | {"parameter_delta", "forward_macs_delta", "steps"}
)
"""Columns that aren't floating-point; a column has its type also where every value is absent."""


def export(reports: Iterable[FieldReport], out: Path) -> int:
    """Write one row for each report; how many. Raises ConfigError for a format that can't be written here."""
    if out.suffix not in FORMATS:
        raise ConfigError("OUT", str(out), f"the name must end in {', '.join(FORMATS)}")
    if not out.parent.is_dir():
        raise ConfigError("OUT", str(out), f"there is no directory {out.parent}; make it, or name another")
    if out.is_dir():
        raise ConfigError("OUT", str(out), "is a folder; name a file")
    rows = list(map(row_of, reports))
    if out.suffix == ".jsonl":
        write_atomically(out, b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    else:
        _with_pyarrow(rows, out)
    return len(rows)


def row_of(report: FieldReport) -> dict[str, Any]:
    """One report, flat; a feature that was absent is null, one that isn't known of is missing."""
    policy, delta, seen = report.decision.policy, report.delta, report.observation
    worth = worth_of(report)
    row: dict[str, Any] = {
        "report_id": report.report_id,
        "run_id": report.training_run_id,
        "generation": report.generation,
        "opened_ns": nanoseconds(report.opened_at),
        "opened_step": report.opened_step,
        "closed_step": report.closed_step,
        "policy_id": policy.policy_id,
        "policy_version": policy.version,
        "action": policy.action,
        "log_probability": policy.log_probability,
        "value": policy.value if policy.HasField("value") else None,
        "outcome": short_name(FieldReportOutcome, report.outcome),
        "slot_id": report.slot_id or None,
        "blueprint_id": report.blueprint_id or None,
        "notes": report.notes or None,
        "feature_version": seen.version or None,
        "candidates": len(seen.candidates),
        "wait_probability": seen.wait_probability if report.HasField("observation") else None,
        "judgement_share": worth.judgement if worth else None,
        "running_share": worth.running if worth else None,
        "gain_share": worth.gain if worth else None,
        **{name: getattr(delta, name) if delta.HasField(name) else None for name in _NUMBERS},
    }
    row |= dict(_named("run", seen.features))
    if report.HasField("observation") and seen.chosen < len(seen.candidates):
        taken = seen.candidates[seen.chosen]
        row |= {"score": taken.score, **{f"parameter.{each.name}": each.value for each in taken.parameters}}
        row |= dict(_named("taken", taken.features))
    return row


def _named(prefix: str, features: Iterable[ObservedFeature]) -> Iterator[tuple[str, float | None]]:
    for feature in features:
        yield f"{prefix}.{feature.name}", feature.value if feature.HasField("value") else None


def _with_pyarrow(rows: list[dict[str, Any]], out: Path) -> None:
    if find_spec("pyarrow") is None:
        raise ConfigError("OUT", str(out), "pyarrow isn't installed: pip install 'esper[arrow]', or name a .jsonl")
    import pyarrow
    from pyarrow import feather, parquet

    # Without a report a table still has the columns that every report has.
    names = sorted({name for row in rows or [row_of(FieldReport())] for name in row})
    kinds = {**dict.fromkeys(_TEXTS, pyarrow.string()), **dict.fromkeys(_WHOLE, pyarrow.int64())}
    schema = pyarrow.schema([(name, kinds.get(name, pyarrow.float64())) for name in names])
    table = pyarrow.table({name: [row.get(name) for row in rows] for name in names}, schema=schema)
    content = BytesIO()
    if out.suffix == ".parquet":
        parquet.write_table(table, content)
    else:
        feather.write_feather(table, content, compression="uncompressed")
    write_atomically(out, content.getvalue())
