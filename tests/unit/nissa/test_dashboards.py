"""Rules and dashboards speak of metrics, events and labels that exist, in the registries' words."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from esper.core.telemetry import EventSpec, MetricSpec
from esper.kasmina import metrics as kasmina
from esper.leyline import TelemetryLevel
from esper.nissa import metrics as nissa
from esper.nissa.rules import CRITICAL_RULE, EVENT_RULES, RULES, EventRule, Rule
from esper.nissa.series import prometheus_name
from esper.oona import metrics as oona
from esper.rpc import metrics as rpc
from esper.tamiyo import metrics as tamiyo
from esper.tolaria import metrics as tolaria
from esper.urza import metrics as urza
from esper.weatherlight import metrics as weatherlight

ROOT = Path(__file__).resolve().parents[3]
REGISTRIES = (kasmina, nissa, oona, rpc, tamiyo, tolaria, urza, weatherlight)
METRICS: dict[str, MetricSpec] = {spec.name: spec for registry in REGISTRIES for spec in registry.METRICS}
EVENTS: list[EventSpec] = [spec for registry in REGISTRIES for spec in registry.EVENTS]
# The process's own metrics, by the names that are scraped.
OWN = {sample for name in REGISTRY._names_to_collectors for sample in (name, f"{name}_bucket")}
SCRAPED = {prometheus_name(name) for name in METRICS} | OWN
PROMQL_WORDS = {
    *("sum", "by", "on", "and", "or", "unless", "offset", "rate", "increase", "histogram_quantile"),
    *("up", "le", "method", "job", "s", "m", "h"),
}
ALERT_FILE = ROOT / "services" / "prometheus" / "alert_rules.yml"
OBJECTIVES_FILE = ALERT_FILE.with_name("slo_rules.yml")
RECORDED = re.findall(r"- record: (\S+)\n\s+expr: (.+)", OBJECTIVES_FILE.read_text())


def dashboard_expressions() -> Iterator[str]:
    for path in sorted((ROOT / "services" / "grafana" / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                yield target["expr"]


def alert_rules(file: Path = ALERT_FILE) -> dict[str, str]:
    return dict(re.findall(r"- alert: (\w+)\n\s+expr: (.+)", file.read_text()))


def every_alert() -> dict[str, str]:
    return alert_rules() | alert_rules(OBJECTIVES_FILE)


def every_expression() -> list[str]:
    return [*dashboard_expressions(), *every_alert().values(), *(recorded for _, recorded in RECORDED)]


def metrics_in(expression: str) -> set[str]:
    """Names in a PromQL expression, without its functions, labels and texts."""
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|(?:by|on) \([^)]*\)", " ", expression)
    return set(re.findall(r"[a-zA-Z][a-zA-Z0-9_:]+", bare)) - PROMQL_WORDS


def labels_in(expression: str) -> set[str]:
    grouped = re.findall(r"by \(([^)]*)\)", expression)
    matched = re.findall(r"(\w+)(?:=|!~)", "".join(re.findall(r"\{([^}]*)\}", expression)))
    return {label.strip() for labels in grouped for label in labels.split(",")} | set(matched)


def test_no_name_is_declared_twice_with_another_meaning() -> None:
    names = [spec.name for registry in REGISTRIES for spec in registry.METRICS]
    assert len(names) == len(set(names))
    assert len({prometheus_name(name) for name in names}) == len(names)
    levels: dict[str, set[int]] = {}
    for spec in EVENTS:
        levels.setdefault(spec.name, set()).add(int(spec.level))
    assert all(len(found) == 1 for found in levels.values()), levels


def test_every_expression_is_about_metrics_that_are_scraped() -> None:
    known = SCRAPED | {name for name, _ in RECORDED} | {"ALERTS"}
    for expression in every_expression():
        found = metrics_in(expression)
        assert found or "up{" in expression
        assert found <= known, expression


def test_every_label_in_an_expression_exists() -> None:
    known = {"source", "run", "le", "method", "code", "event", "level", "outcome", "priority", "job", "type"}
    known |= {attribute for spec in METRICS.values() for attribute in spec.attributes} | {"alertname", "alertstate", ""}
    for expression in every_expression():
        assert labels_in(expression) <= known, expression


def test_every_registered_metric_is_drawn() -> None:
    drawn = {name for expression in dashboard_expressions() for name in metrics_in(expression)}
    assert {prometheus_name(name) for name in METRICS} <= drawn


def test_the_generated_files_are_those_that_the_tables_give() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "genmonitoring", "--check"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_of_nissa_is_about_a_registered_metric_and_repeated_for_prometheus(rule: Rule) -> None:
    assert rule.metric in METRICS
    sign = ">" if rule.past(1.0, 0.0) else "<"
    assert alert_rules()[rule.name] == f"{prometheus_name(rule.metric)} {sign} {rule.threshold:g}"


@pytest.mark.parametrize("rule", EVENT_RULES, ids=lambda rule: rule.name)
def test_a_rule_about_events_is_about_registered_ones_and_repeated_for_prometheus(rule: EventRule) -> None:
    assert set(rule.events) <= {spec.name for spec in EVENTS}
    assert rule.name in alert_rules()


def test_prometheus_leaves_the_same_events_to_their_own_rules() -> None:
    excluded = re.search(r'event!~"([^"]+)"', alert_rules()[CRITICAL_RULE.name])
    assert excluded is not None
    assert set(excluded[1].split("|")) == {
        name for rule in EVENT_RULES if rule.severity == "critical" for name in rule.events
    }


@pytest.mark.parametrize("rule", [*RULES, *EVENT_RULES, CRITICAL_RULE], ids=lambda rule: rule.name)
def test_an_alert_has_the_same_severity_and_words_in_nissa_and_prometheus(rule: Rule | EventRule) -> None:
    text = ALERT_FILE.read_text().split(f"- alert: {rule.name}\n")[1].split("- alert:")[0]
    assert f"severity: {rule.severity}, route: {rule.routes[0]} " in text
    assert rule.help in text


def test_an_alert_about_an_event_is_as_grave_as_the_event() -> None:
    levels = {spec.name: int(spec.level) for spec in EVENTS}
    grave = int(TelemetryLevel.TELEMETRY_LEVEL_CRITICAL)
    for rule in EVENT_RULES:
        assert {levels[name] == grave for name in rule.events} == {rule.severity == "critical"}, rule.name
    for name, expression in alert_rules().items():
        for event in re.findall(r'event="([\w.]+)"', expression):
            severity = re.search(rf"- alert: {name}\n.+\n\s+labels: {{ severity: (\w+)", ALERT_FILE.read_text())
            assert severity is not None
            assert (severity[1] == "critical") == (levels[event] == grave), name


def test_the_process_metrics_in_use_are_declared() -> None:
    assert rpc.CALL_SECONDS in set(REGISTRY._names_to_collectors.values())
    assert "rpc_server_call_duration_seconds_bucket" in SCRAPED


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool isn't installed (Debian: prometheus)")
def test_prometheus_can_read_what_the_dashboards_ask(tmp_path: Path) -> None:
    rules = [
        {"record": "x", "expr": each.replace("$run", "r"), "labels": {"n": str(n)}}
        for n, each in enumerate(dashboard_expressions())
    ]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "x", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
