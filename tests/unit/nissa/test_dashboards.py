"""Rules, dashboards and runbook speak of metrics, events and alerts that exist, in the registries' words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from esper.core.telemetry import EventSpec, MetricSpec
from esper.kasmina import metrics as kasmina
from esper.leyline import TelemetryLevel
from esper.nissa import metrics as nissa
from esper.nissa.rules import RULES
from esper.nissa.series import prometheus_name
from esper.oona import metrics as oona
from esper.rpc import metrics as rpc
from esper.simic import metrics as simic
from esper.tamiyo import metrics as tamiyo
from esper.tolaria import metrics as tolaria
from esper.urza import metrics as urza
from esper.weatherlight import metrics as weatherlight

ROOT = Path(__file__).resolve().parents[3]
REGISTRIES = (kasmina, nissa, oona, rpc, simic, tamiyo, tolaria, urza, weatherlight)
METRICS: dict[str, MetricSpec] = {spec.name: spec for registry in REGISTRIES for spec in registry.METRICS}
EVENTS: list[EventSpec] = [spec for registry in REGISTRIES for spec in registry.EVENTS]
# The process's own metrics, by the names that are scraped.
OWN = {sample for name in REGISTRY._names_to_collectors for sample in (name, f"{name}_bucket")}
SCRAPED = {prometheus_name(name) for name in METRICS} | OWN
PROMQL_WORDS = {
    *("sum", "by", "or", "unless", "offset", "rate", "increase", "histogram_quantile"),
    *("up", "le", "method", "job", "s", "m", "h"),
}
ALERT_FILE = ROOT / "services" / "prometheus" / "alert_rules.yml"
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()


def dashboard_expressions() -> Iterator[str]:
    for path in sorted((ROOT / "services" / "grafana" / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                yield target["expr"]


def alert_rules() -> dict[str, str]:
    text = ALERT_FILE.read_text()
    return dict(re.findall(r"- alert: (\w+)\n\s+expr: (.+)", text))


def metrics_in(expression: str) -> set[str]:
    """Names in a PromQL expression, without its functions, labels and texts."""
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|by \([^)]*\)", " ", expression)
    return set(re.findall(r"[a-z][a-z0-9_]+", bare)) - PROMQL_WORDS


def labels_in(expression: str) -> set[str]:
    grouped = re.findall(r"by \(([^)]*)\)", expression)
    matched = re.findall(r"(\w+)=", "".join(re.findall(r"\{([^}]*)\}", expression)))
    return {label.strip() for labels in grouped for label in labels.split(",")} | set(matched)


def test_no_name_is_declared_twice_with_another_meaning() -> None:
    names = [spec.name for registry in REGISTRIES for spec in registry.METRICS]
    assert len(names) == len(set(names))
    assert len({prometheus_name(name) for name in names}) == len(names)
    levels: dict[str, set[int]] = {}
    for spec in EVENTS:
        levels.setdefault(spec.name, set()).add(int(spec.level))
    assert all(len(found) == 1 for found in levels.values()), levels


@pytest.mark.parametrize("expression", [*dashboard_expressions(), *alert_rules().values()])
def test_every_expression_is_about_metrics_that_are_scraped(expression: str) -> None:
    found = metrics_in(expression)
    assert found or "up{" in expression
    assert found <= SCRAPED


@pytest.mark.parametrize("expression", [*dashboard_expressions(), *alert_rules().values()])
def test_every_label_in_an_expression_exists(expression: str) -> None:
    known = {"source", "run", "le", "method", "code", "event", "level", "outcome", "priority", "job", "type"}
    known |= {attribute for spec in METRICS.values() for attribute in spec.attributes}
    assert labels_in(expression) <= known


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_of_nissa_is_about_a_registered_metric_and_repeated_for_prometheus(rule: object) -> None:
    found = next(each for each in RULES if each is rule)
    assert found.metric in METRICS
    expression = alert_rules()[found.name]
    sign = ">" if found.past(1.0, 0.0) else "<"
    assert expression == f"{prometheus_name(found.metric)} {sign} {found.threshold:g}"


def test_the_runbook_has_a_row_for_every_alert_and_no_other() -> None:
    section = RUNBOOK.split("## Alerts")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)
    assert sorted(rows) == sorted(alert_rules())


def test_the_runbook_explains_every_critical_event_and_no_other() -> None:
    section = RUNBOOK.split("## CRITICAL events")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \|", section, flags=re.MULTILINE)[2:]
    explained = {name for row in rows for name in re.findall(r"`([\w.]+)`", row)}
    critical = {spec.name for spec in EVENTS if spec.level == TelemetryLevel.TELEMETRY_LEVEL_CRITICAL}
    assert explained == critical


def test_every_dotted_name_in_the_runbook_is_registered() -> None:
    names = re.findall(r"`((?:kasmina|tamiyo|tolaria|urza|weatherlight|oona|nissa)\.[\w.]+\w)`", RUNBOOK)
    assert names
    assert set(names) <= set(METRICS) | {spec.name for spec in EVENTS}


def test_the_process_metrics_in_use_are_declared() -> None:
    assert rpc.CALL_SECONDS in set(REGISTRY._names_to_collectors.values())
    assert "rpc_server_call_duration_seconds_bucket" in SCRAPED
