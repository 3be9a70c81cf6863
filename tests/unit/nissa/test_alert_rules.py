"""Prometheus itself asked what its rules see: the first event of a counter, however it is born, and no event twice."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from esper.nissa import metrics
from esper.rpc.bases import Servicer
from esper.rpc.contract import SERVICES, methods
from esper.rpc.dispatch import Gate, handler_of
from tests.unit.nissa.test_dashboards import ALERT_FILE, alert_rules

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool isn't installed (Debian: prometheus)")
COUNTERS = {name: expression for name, expression in alert_rules().items() if "increase(" in expression}
INTERVAL_S = 15
# Name, values every 15 s, seconds at which it is asked, and whether the alert stands then.
COURSES = [
    ("born at 1", "_x8 1x400", 180, True),
    ("risen from 0", "0x8 1x400", 180, True),
    ("restarted and born at 0", "1x200 _x4 0x4 1x400", 3180, True),
    ("never anything", "0x400", 180, False),
    ("long ago", "0x8 1x800", 7500, False),
    ("born long ago", "_x8 1x800", 7500, False),
]


def selector(expression: str) -> str:
    """The series that a rule counts."""
    found = re.match(r"increase\((.+?)\[\w+\]\)", expression)
    assert found, expression
    return found[1]


def series(expression: str) -> str:
    """One of them, with every label that it has in life."""
    name, _, labels = selector(expression).rstrip("}").partition("{")
    placed = ",".join(filter(None, [labels, 'job="esper"', 'instance="a"']))
    return f"{name}{{{placed}}}"


def test_every_rule_about_a_counter_sees_one_that_appears_with_its_first_event() -> None:
    assert len(COUNTERS) >= 6
    for name, expression in COUNTERS.items():
        counted = re.escape(selector(expression))
        rule = rf"increase\({counted}\[(\w+)\]\) > 0 or \({counted} > 0 unless {counted} offset \1\)"
        assert re.fullmatch(rule, expression), name


@needs_promtool
def test_the_rules_are_rules() -> None:
    assert ask("check", "rules", str(ALERT_FILE)) == ""


@needs_promtool
@pytest.mark.parametrize(("course", "values", "at_s", "stands"), COURSES, ids=[course[0] for course in COURSES])
def test_prometheus_raises_each_alert_of_a_counter(
    tmp_path: Path, course: str, values: str, at_s: int, stands: bool
) -> None:
    tests = [asked(name, expression, values, at_s, stands) for name, expression in COUNTERS.items()]
    file = tmp_path / "tests.yml"
    file.write_text(json.dumps({"rule_files": [str(ALERT_FILE)], "evaluation_interval": "60s", "tests": tests}))
    assert ask("test", "rules", str(file)) == ""


# Alert, its series in life, values every 15 s, seconds at which it is asked, and whether the alert stands then.
PLANE = 'weatherlight_emergency_level{source="weatherlight",job="esper",instance="a"}'
BREAKER = 'tolaria_breaker_state{service="tamiyo",run="r1",source="tolaria",job="esper",instance="a"}'
GAUGES = [
    ("emergency_open", PLANE, "0x8 3x8", 180, True),
    ("emergency_open", PLANE, "0x8 4x8", 180, True),
    ("emergency_open", PLANE, "0x8 2x8", 180, False),
    ("emergency_open", PLANE, "0x8 4x8 0x8", 300, False),
    ("breaker_open", BREAKER, "1x8 2x8", 180, True),
    ("breaker_open", BREAKER, "1x8 3x8", 180, True),
    ("breaker_open", BREAKER, "1x8 2x8 1x8", 300, False),
]


@needs_promtool
@pytest.mark.parametrize(("name", "measured", "values", "at_s", "stands"), GAUGES)
def test_prometheus_raises_the_alert_of_a_level_while_it_lasts(
    tmp_path: Path, name: str, measured: str, values: str, at_s: int, stands: bool
) -> None:
    test = asked(name, alert_rules()[name], values, at_s, stands, measured)
    file = tmp_path / "tests.yml"
    file.write_text(json.dumps({"rule_files": [str(ALERT_FILE)], "evaluation_interval": "15s", "tests": [test]}))
    assert ask("test", "rules", str(file)) == ""


def asked(
    name: str, expression: str, values: str, at_s: int, stands: bool, measured: str | None = None
) -> dict[str, Any]:
    measured = measured or series(expression)
    written = rf"- alert: {name}\n.*\n\s+labels: \{{ severity: (\w+), route: (\w+) \}}\n.*summary: \"(.+)\""
    rule = re.search(written, TEXT)
    assert rule, name
    labels = dict(re.findall(r'(\w+)="([^"]*)"', measured))
    alert = {
        "exp_labels": {**labels, "severity": rule[1], "route": rule[2]},
        "exp_annotations": {"summary": rule[3]},
    }
    return {
        "interval": f"{INTERVAL_S}s",
        "input_series": [{"series": measured, "values": values}],
        "alert_rule_test": [{"eval_time": f"{at_s}s", "alertname": name, "exp_alerts": [alert] if stands else []}],
    }


TEXT = ALERT_FILE.read_text()


def ask(*words: str) -> str:
    """What promtool complains of."""
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *words], capture_output=True, text=True, timeout=60, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_the_counters_of_a_served_method_begin_at_0(service: str) -> None:
    class Quiet(Servicer):
        def __getattr__(self, name: str) -> object:
            return lambda request, call: None

    Quiet.service = service
    handler_of(Quiet(), Gate(max_in_flight=1, deadline_s=1.0))
    for method in methods(service).values():
        for name in ("rpc_server_unexpected_errors_total", "rpc_server_calls_refused_total"):
            assert REGISTRY.get_sample_value(name, {"method": method.full_name}) is not None, (name, method)


@pytest.mark.parametrize("source", ["kasmina", "tamiyo", "weatherlight"])
def test_refused_commands_are_counted_from_0(source: str) -> None:
    (family,) = metrics.TELEMETRY_EVENTS.collect()
    labels = {"source": source, "event": "command_rejected", "level": "critical"}
    assert [sample for sample in family.samples if sample.labels == labels]
