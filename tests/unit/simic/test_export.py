from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from esper.core.errors import ConfigError
from esper.leyline import FieldReport
from esper.simic.export import export, row_of
from tests.unit.simic.making import report

HAS_ARROW = find_spec("pyarrow") is not None


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


@pytest.mark.skipif(HAS_ARROW, reason="pyarrow is installed here")
def test_without_pyarrow_parquet_is_refused_with_what_to_install(tmp_path: Path) -> None:
    out = tmp_path / "reports.parquet"
    with pytest.raises(ConfigError, match=r"pyarrow isn't installed: pip install 'esper\[arrow\]'"):
        export([report(1)], out)
    assert not out.exists()


@pytest.mark.skipif(not HAS_ARROW, reason="needs pyarrow: pip install 'esper[arrow]'")
@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_parquet_and_arrow_hold_what_json_holds_and_every_column_has_its_type(tmp_path: Path, ending: str) -> None:
    from pyarrow import feather, parquet

    read = parquet.read_table if ending == "parquet" else feather.read_table
    made = report(1)
    made.observation.features[0].ClearField("value")
    told = [made, report(2), FieldReport(report_id="one of a command that grew nothing")]
    assert export(told, tmp_path / f"reports.{ending}") == 3
    table = read(tmp_path / f"reports.{ending}")
    assert [_there(row) for row in table.to_pylist()] == [_there(row_of(each)) for each in told]
    for few in ([told[2]], []):
        export(few, tmp_path / f"few.{ending}")
        alone = read(tmp_path / f"few.{ending}").schema
        assert {(name, str(alone.field(name).type)) for name in alone.names} <= {
            (name, str(table.schema.field(name).type)) for name in table.schema.names
        }, "a column has one type, whatever is in it"
        assert "report_id" in alone.names


def _there(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}
