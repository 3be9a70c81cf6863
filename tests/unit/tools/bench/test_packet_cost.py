"""What a packet costs by process: turns are compared only where they trained the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.tools.benches import BENCH, load


@pytest.fixture
def packet_cost(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCH))
    return load("packet_cost")


def turn(kasmina_ms: float, digest: str = "a") -> dict[str, Any]:
    return {
        "ms_a_packet": {"kasmina": kasmina_ms, "sum": kasmina_ms},
        "idle_ms_a_minute": {"kasmina": 1.0},
        "idle_wakes_a_second": {"kasmina": 2.0},
        "weights_digest": digest,
    }


def test_each_checkout_has_medians_of_its_own(packet_cost: Any) -> None:
    found = packet_cost.compared({"this": [turn(1.0), turn(3.0), turn(2.0)], "other": [turn(5.0)]})
    assert found["this"]["ms_a_packet"]["kasmina"]["median"] == 2.0
    assert found["other"]["ms_a_packet"]["sum"]["median"] == 5.0


def test_turns_whose_weights_differ_are_no_comparison(packet_cost: Any) -> None:
    with pytest.raises(SystemExit, match="the turns' weights differ"):
        packet_cost.compared({"this": [turn(1.0)], "other": [turn(1.0, "b")]})


def test_another_checkout_must_be_one(packet_cost: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        packet_cost.main(["--against", str(tmp_path)])
    assert f"--against is {tmp_path}, which holds no package esper" in capsys.readouterr().err
