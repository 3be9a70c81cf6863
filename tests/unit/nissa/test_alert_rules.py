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
from esper.rpc.contract import SERVICES, methods
from esper.rpc.server.bases import Servicer
from esper.rpc.server.dispatch import Gate, handler_of
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
    labels = re.sub(r'(\w+)!~"[^"]+"', r'\1="another"', labels)
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
    played = [asked(name, series(expression), values, {at_s: stands}) for name, expression in COUNTERS.items()]
    assert complaints(tmp_path, [together(played)], "60s") == ""


# Of each alert of a level: a series of its kind in life, a value at which all is well, and one at which it isn't. The
# value that is still well is the threshold itself, where there is one.
PLACE = 'job="esper",instance="a"'
LEVELS = {
    "tamiyo_coverage_low": (f'tamiyo_gnn_feature_coverage{{source="tamiyo",run="r1",{PLACE}}}', 0.7, 0.69),
    "training_latency_high": (f'tolaria_training_latency_ms{{source="tolaria",run="r1",{PLACE}}}', 350, 351),
    "training_latency_critical": (f'tolaria_training_latency_ms{{source="tolaria",run="r1",{PLACE}}}', 800, 801),
    "kasmina_isolation_violation": (f'kasmina_isolation_violations{{source="kasmina",run="r1",{PLACE}}}', 0, 1),
    "oona_queue_depth": (f'oona_queue_depth{{source="oona",lane="normal",{PLACE}}}', 4000, 4001),
    "services_lost": (f'weatherlight_services_lost{{source="weatherlight",{PLACE}}}', 0, 1),
    "emergency_open": (f'weatherlight_emergency_level{{source="weatherlight",{PLACE}}}', 2, 3),
    "breaker_open": (f'tolaria_breaker_state{{service="tamiyo",run="r1",source="tolaria",{PLACE}}}', 1, 2),
    "service_down": (f"up{{{PLACE}}}", 1, 0),
    "loop_blocked": (f"rpc_server_loop_lag_seconds{{{PLACE}}}", 0.25, 0.26),
    "plane_not_normal": (f'weatherlight_mode{{source="weatherlight",{PLACE}}}', 1, 2),
    "prefetch_slow": (f'kasmina_prefetch_latency_ms{{source="kasmina",{PLACE}}}', 120, 121),
    "prefetch_very_slow": (f'kasmina_prefetch_latency_ms{{source="kasmina",{PLACE}}}', 180, 181),
}

GRAVER = {"training_latency_critical", "prefetch_very_slow"}


def test_every_alert_is_played() -> None:
    assert {*COUNTERS, *LEVELS} == set(alert_rules())


@needs_promtool
def test_prometheus_raises_the_alert_of_a_level_once_it_lasts_and_clears_it_with_the_first_good_value(
    tmp_path: Path,
) -> None:
    plays: dict[str, list[dict[str, Any]]] = {}
    for name, (measured, well, unwell) in LEVELS.items():
        values = f"{well}x7 {unwell}x15 {well}x8"  # unwell from 120 s to 360 s
        held_s = 120 + holds()[name]
        courses = {held_s - 5: False, held_s: True, 355: True, 360: False}
        # A second alert about the same series is played apart.
        plays.setdefault("other" if name in GRAVER else "first", []).append(asked(name, measured, values, courses))
    assert complaints(tmp_path, list(map(together, plays.values())), "5s") == ""


def holds() -> dict[str, int]:
    """How long each alert's condition must hold, in seconds."""
    seconds = {"s": 1, "m": 60}
    found = re.findall(r"- alert: (\w+)\n\s+expr: .+\n(?:\s+for: (\d+)([sm])\n)?", TEXT)
    return {name: int(count or 0) * seconds.get(unit, 0) for name, count, unit in found}


def asked(name: str, measured: str, values: str, stands_at: dict[int, bool]) -> dict[str, Any]:
    """A test of promtool's: one series, and at which seconds the alert stands or doesn't."""
    written = (
        rf"- alert: {name}\n.*\n(?:\s+for: \w+\n)?\s+labels: \{{ severity: (\w+), route: (\w+) \}}\n.*summary: \"(.+)\""
    )
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
        "alert_rule_test": [
            {"eval_time": f"{at_s}s", "alertname": name, "exp_alerts": [alert] if stands else []}
            for at_s, stands in stands_at.items()
        ],
    }


def together(tests: list[dict[str, Any]]) -> dict[str, Any]:
    """Tests about different series as one."""
    merged = {key: [each for test in tests for each in test[key]] for key in ("input_series", "alert_rule_test")}
    return {"interval": f"{INTERVAL_S}s", **merged}


def complaints(directory: Path, tests: list[dict[str, Any]], interval: str) -> str:
    """What promtool says of tests that don't hold."""
    file = directory / "tests.yml"
    file.write_text(json.dumps({"rule_files": [str(ALERT_FILE)], "evaluation_interval": interval, "tests": tests}))
    return ask("test", "rules", str(file))


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
