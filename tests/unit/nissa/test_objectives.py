"""Budgets that burn raise their alerts in Prometheus itself, for each objective, and the alerts clear soon after."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.nissa.test_alert_rules import ask, needs_promtool
from tests.unit.nissa.test_dashboards import OBJECTIVES_FILE
from tools.monitoring.objectives import OBJECTIVES, Objective

FAST, SLOW = "slo_budget_burns_fast", "slo_budget_burns"
# Hours that it lasts, and by objective the share of failures in budgets: a fire, a smoulder, a leak, and as agreed.
COURSES: list[tuple[int, dict[str, float]]] = [
    (1, {"calls": 20, "fast_calls": 15, "decisions": 100, "prefetches": 20, "telemetry": 1000}),
    (25, {"calls": 4, "fast_calls": 1.5, "decisions": 0.9, "prefetches": 4, "telemetry": 0.5}),
]
# After so many minutes without a failure each has cleared: its longest short window.
CLEARED_MIN = {FAST: 40, SLOW: 6 * 60 + 10}
ALERTS = {FAST: ("critical", "pagerduty"), SLOW: ("warning", "slack")}
PER_SCRAPE, SCRAPED_MIN = 1_000_000, 2


@needs_promtool
@pytest.mark.parametrize(("hours", "burns"), COURSES, ids=["hour", "day"])
def test_a_budget_that_burns_raises_the_alert_that_its_pace_deserves(
    tmp_path: Path, hours: int, burns: dict[str, float]
) -> None:
    assert set(burns) == {objective.name for objective in OBJECTIVES}
    end_min = hours * 60
    after_min = max(CLEARED_MIN.values())
    series = [each for one in OBJECTIVES for each in played(one, burns[one.name], end_min, after_min)]
    questions = []
    for name, (severity, route) in ALERTS.items():
        least = 14.4 if name == FAST else 1
        expected = [alert(one, name, severity, route) for one in OBJECTIVES if burns[one.name] > least]
        questions.append({"eval_time": f"{end_min}m", "alertname": name, "exp_alerts": expected})
        questions.append({"eval_time": f"{end_min + CLEARED_MIN[name]}m", "alertname": name, "exp_alerts": []})
    test = {"interval": f"{SCRAPED_MIN}m", "input_series": list({each["series"]: each for each in series}.values())}
    file = tmp_path / "tests.yml"
    tests = [{**test, "alert_rule_test": questions}]
    file.write_text(json.dumps({"rule_files": [str(OBJECTIVES_FILE)], "evaluation_interval": "10m", "tests": tests}))
    assert ask("test", "rules", str(file)) == ""


@needs_promtool
def test_a_few_failures_of_few_are_no_evidence(tmp_path: Path) -> None:
    (calls,) = (objective for objective in OBJECTIVES if objective.name == "calls")
    series = [
        {"series": selector(calls.total), "values": "0 1x59"},
        {"series": selector(calls.failed), "values": "0 1x59"},
    ]
    questions = [{"eval_time": "50m", "alertname": name, "exp_alerts": []} for name in ALERTS]
    tests = [{"interval": "1m", "input_series": series, "alert_rule_test": questions}]
    file = tmp_path / "tests.yml"
    file.write_text(json.dumps({"rule_files": [str(OBJECTIVES_FILE)], "evaluation_interval": "1m", "tests": tests}))
    assert ask("test", "rules", str(file)) == ""


def played(objective: Objective, burn: float, end_min: int, after_min: int) -> list[dict[str, str]]:
    """Counters of an objective whose budget burns so fast until `end_min`, and not at all afterwards."""
    failing, burning, quiet = (
        round(objective.budget * burn * PER_SCRAPE),
        end_min // SCRAPED_MIN,
        after_min // SCRAPED_MIN,
    )
    total = f"0+{PER_SCRAPE}x{burning + quiet}"
    failed = f"0+{failing}x{burning} {failing * burning}x{quiet}"
    return [
        {"series": selector(objective.total), "values": total},
        {"series": selector(objective.failed), "values": failed},
    ]


def selector(counter: str) -> str:
    """A series that a selector matches."""
    return counter.replace('=~"error|timeout"', '="timeout"')


def alert(objective: Objective, name: str, severity: str, route: str) -> dict[str, dict[str, str]]:
    text = OBJECTIVES_FILE.read_text().split(f"- alert: {name}\n")[1]
    summary = text.split('summary: "')[1].split('"')[0].replace("{{ $labels.slo }}", objective.name)
    return {
        "exp_labels": {"slo": objective.name, "severity": severity, "route": route},
        "exp_annotations": {"summary": summary},
    }
