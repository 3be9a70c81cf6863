from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from esper.core.errors import ConfigError
from esper.simic.export import export
from tests.unit.simic.making import report


def test_a_row_has_what_was_seen_done_and_what_came_of_it(tmp_path: Path) -> None:
    out = tmp_path / "reports.jsonl"
    made = report(1)
    made.observation.features[0].ClearField("value")
    assert export([made, report(2)], out) == 2
    row, _ = map(json.loads, out.read_text().splitlines())
    assert row["report_id"] == made.report_id
    assert row["gain_share"] == pytest.approx(made.delta.gain)
    assert row["judgement_share"] == pytest.approx(0.3)
    assert row["run.progress"] is None, "absent is null, not zero"
    assert row["taken.widening"] > 0
    assert row["outcome"] in ("SUCCESS", "REGRESSION")


def test_a_format_that_is_not_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must end in .jsonl, .parquet, .arrow"):
        export([report(1)], tmp_path / "reports.csv")


def test_parquet_is_written_where_pyarrow_is_and_said_to_need_it_where_it_is_not(tmp_path: Path) -> None:
    out = tmp_path / "reports.parquet"
    if find_spec("pyarrow") is None:
        with pytest.raises(ConfigError, match="pyarrow isn't installed"):
            export([report(1)], out)
        assert not out.exists()
        return
    from pyarrow import parquet

    export([report(1)], out)
    assert parquet.read_table(out).num_rows == 1
