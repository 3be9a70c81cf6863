"""The harness's own judgement: phases, unexpected events, what grew, and files whose columns fit."""

from __future__ import annotations

import argparse
import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from esper.core.errors import ServiceUnavailable
from tools.harness import command
from tools.harness.figures import Spent
from tools.harness.files import text_of, write_report, write_result, write_summary
from tools.harness.meter import Epoch, Meter
from tools.harness.packets import last, unexpected
from tools.harness.result import Result, unlearnt
from tools.harness.soak import POOL, TRAINER, Sample, grown

ENVIRONMENT = {"device": "cpu", "processor": "a processor", "accelerator": None}


def packet(name: str, level: str, *, source: str = "tamiyo", notice: str = "") -> dict[str, Any]:
    attributes = {"name": notice} if notice else {}
    event = {"name": name, "level": level, "message": "why", "attributes": attributes}
    return {"source": source, "step": 1, "priority": "NORMAL", "metrics": {}, "events": [event]}


@pytest.mark.parametrize("level", ["WARNING", "ERROR", "CRITICAL"])
def test_an_event_that_nobody_expects_is_a_failure_once(level: str) -> None:
    packets = [packet("command_rejected", level), packet("command_rejected", level)]
    (line,) = unexpected(packets, ())
    assert line == f"unexpected {level} command_rejected of tamiyo: why"


def test_what_was_done_on_purpose_and_what_any_run_may_have_is_none() -> None:
    packets = [
        packet("tolaria.warning", "WARNING", source="tolaria", notice="tolaria.tamiyo_timeout"),
        packet("gate_failure", "WARNING"),
        packet("seed_stage", "INFO"),
    ]
    assert list(unexpected(packets, ("tolaria.tamiyo_timeout",))) == []
    (line,) = unexpected(packets, ())
    assert "tolaria.tamiyo_timeout" in line


def test_a_notice_is_known_by_its_own_name_not_by_the_event_that_carries_it() -> None:
    expected = packet("tolaria.warning", "WARNING", notice="tolaria.slot_refused")
    other = packet("tolaria.warning", "WARNING", notice="tolaria.tamiyo_error")
    (line,) = unexpected([expected, other], ("tolaria.slot_refused",))
    assert "tolaria.tamiyo_error" in line


def test_the_newest_value_of_a_metric_is_taken() -> None:
    packets = [{"metrics": {"a": 1.0}}, {"metrics": {"a": 2.0}}, {"metrics": {"b": 3.0}}]
    assert last(packets, "a") == 2.0
    assert last(packets, "c", default=-1.0) == -1.0


def epoch(phase: str, wall_ms: float, bare_ms: float = 2.0, loss: float = 1.0) -> Epoch:
    return Epoch(phase, Spent(wall_ms, wall_ms / 2), Spent(bare_ms, bare_ms / 2), loss)


def test_a_cold_epoch_is_in_no_steady_figure() -> None:
    meter = Meter()
    meter.epochs = [epoch("cold", 100.0), epoch("steady", 4.0), epoch("steady", 6.0), epoch("end", 50.0)]
    phases = meter.phases()
    assert list(phases) == ["cold", "steady", "end"]
    assert phases["steady"]["epochs"] == 2
    assert phases["steady"]["latency_max_ms"] == 6.0
    assert phases["steady"]["ratio_p50"] == phases["steady"]["cpu_ratio_p50"] == 2.5


@pytest.mark.parametrize(("losses", "fails"), [((1.0, 0.5), False), ((1.0, 1.0), True), ((0.5, float("nan")), True)])
def test_a_loss_that_does_not_fall_is_a_failure(losses: tuple[float, float], fails: bool) -> None:
    assert bool(list(unlearnt([epoch("cold", 1.0, loss=loss) for loss in losses]))) is fails


def test_an_error_that_ends_a_scenario_is_its_failure_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(options: argparse.Namespace) -> Result:
        raise ServiceUnavailable("rpc", "service", "kasmina", "see that it runs")

    monkeypatch.setattr(command.rollback, "run", unreachable)
    monkeypatch.setattr(command.tamiyo_timeout, "run", lambda options: Result(scenario="t", slug="t", metrics={"a": 1}))
    names = ("rollback", "tamiyo-timeout")
    options = argparse.Namespace(scenarios=names, device="cpu", output_dir=tmp_path, markdown_report=True)
    assert command.run(options) == 1
    assert "kasmina" in capsys.readouterr().err
    assert "ServiceUnavailable" in json.loads((tmp_path / "rollback_deadline_metrics.json").read_text())["failures"][0]
    assert "t,cpu,a,1" in (tmp_path / "summary.csv").read_text()


QUIET = Sample(
    epoch=0,
    process=TRAINER,
    is_quiet=True,
    memory_bytes=500 << 20,
    threads=15,
    handles=18,
    database_handles=0,
    groups=1,
)


def course(**at_the_end: int) -> list[Sample]:
    """A hundred epochs that are alike, but for the last fifth."""
    return [replace(QUIET, epoch=number, **(at_the_end if number > 80 else {})) for number in range(1, 101)]


@pytest.mark.parametrize("name", ["threads", "handles", "database_handles", "hooks", "groups"])
def test_one_more_of_anything_in_the_trainer_is_growth(name: str) -> None:
    (line,) = grown(course(**{name: getattr(QUIET, name) + 1}))
    assert line.startswith(f"{name} of trainer grew")


@pytest.mark.parametrize(("more_mb", "grows"), [(20, False), (30, True)])
def test_memory_may_differ_by_a_twentieth(more_mb: int, grows: bool) -> None:
    assert bool(list(grown(course(memory_bytes=QUIET.memory_bytes + (more_mb << 20))))) is grows


def test_seeds_that_are_still_in_the_host_are_no_growth() -> None:
    assert list(grown(course())) == []
    assert list(grown([replace(each, is_quiet=each.epoch <= 90) for each in course()])) == []


def test_a_services_reading_threads_may_be_made_when_they_are_first_wanted() -> None:
    def of_service(**at_the_end: int) -> list[Sample]:
        return [replace(each, process="weatherlight") for each in course(**at_the_end)]

    filled = {"threads": QUIET.threads + POOL, "database_handles": QUIET.database_handles + 2 * POOL}
    assert list(grown(of_service(**filled))) == []
    assert len(list(grown(of_service(**{name: count + 1 for name, count in filled.items()})))) == 2
    assert list(grown(of_service(handles=QUIET.handles + 1)))


def result(scenario: str, **metrics: float) -> Result:
    telemetry = [packet("gate_failure", "WARNING"), packet("seed_stage", "INFO")]
    return Result(scenario=scenario, slug=scenario, metrics=metrics, telemetry=telemetry, failures=["it is late"])


def test_the_columns_of_the_summary_fit_every_scenario(tmp_path: Path) -> None:
    path = write_summary(tmp_path, [result("a", epochs=3, loss=0.5), result("b", requests=7)], ENVIRONMENT)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [(row["scenario"], row["device"], row["metric"], float(row["value"])) for row in rows] == [
        ("a", "cpu", "epochs", 3.0),
        ("a", "cpu", "loss", 0.5),
        ("b", "cpu", "requests", 7.0),
    ]


def test_a_scenarios_file_holds_all_of_it_a_packet_a_line(tmp_path: Path) -> None:
    path = write_result(tmp_path, result("a", epochs=3), ENVIRONMENT)
    found = json.loads(path.read_text())
    assert path.name == "a_metrics.json"
    assert list(found) == ["scenario", "environment", "failures", "metrics", "phases", "details", "telemetry"]
    assert found["environment"] == ENVIRONMENT
    assert len(found["telemetry"]) == 2
    assert sum('"seed_stage"' in line for line in path.read_text().splitlines()) == 1


@pytest.mark.parametrize("value", [{}, [], {"a": []}, {"a": [{"b": {"c": [1.5, None]}}]}, [[], [{}]], 1, "text"])
def test_what_is_written_reads_as_what_it_was(value: Any) -> None:
    assert json.loads(text_of(value)) == value


def test_a_loss_that_is_no_number_is_null_and_the_file_stays_json() -> None:
    assert json.loads(text_of({"loss": float("nan")}), parse_constant=pytest.fail) == {"loss": None}


def test_the_report_names_what_failed(tmp_path: Path) -> None:
    text = write_report(tmp_path, [result("a", epochs=3)], ENVIRONMENT).read_text()
    assert "## a: failed" in text
    assert "* it is late" in text
