"""The bench of prefetches: small, on the bus of this process, counted to the last."""

import json
import sys
from pathlib import Path

import pytest

from tests.unit.tools.benches import load


def test_it_measures_and_counts_every_prefetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = load("kasmina_prefetch")
    bench.WARM_UP = 2
    out = tmp_path / "out.json"
    small = ("--requests", "6", "--cancel", "3", "--ready-latency-ms", "20", "--jitter-ms", "4", "--boundary-ms", "2")
    where = ("--through", "bus", "--backends", "sqlite", "--dir", str(tmp_path), "--json", str(out))
    monkeypatch.setattr(sys, "argv", ["kasmina_prefetch", *small, *where])
    assert bench.main() == 0
    told = json.loads(out.read_text())
    assert [row["backend"] for row in told["rows"]] == ["bus sqlite", "bus sqlite, no fsync"]
    for row in told["rows"]:
        counts = row["counts"]
        assert counts["scheduled"] == counts["ready"] + counts["canceled"] == 11
        assert (counts["error"], counts["timeout"], row["left_behind"]) == (0, 0, 0)
        assert 0.0 < row["above_ms"]["p50"] <= row["to_ready_ms"]["p95"] <= row["to_attached_ms"]["max"]
        assert 0.0 < row["commit_ms"]["p50"] < row["above_ms"]["max"]
        assert row["rest_ms"]["max"] < row["above_ms"]["max"]
        assert 0.0 < row["floor_ms"]["p50"] <= row["floor_ms"]["max"]
        assert row["floor_cpu_ms"] > 0.0
