"""A Prometheus of one's own, with the rules that ship, whose time runs faster: every duration in them is divided.

Expressions and thresholds are those of the shipped file. Where `for`, windows and offsets are divided by one number,
a rule sees in seconds what it would see in minutes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

from tools.harness.faults.server import HOST, Server

RULES = Path(__file__).resolve().parents[3] / "services" / "prometheus" / "alert_rules.yml"
SCRAPE_MS = 1000
"""A scrape that is cut short makes every series stale and so clears every alert: a loaded machine needs time."""
EVALUATE_MS = 200
TIMEOUT_S = 5.0
_UNITS_S = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION = re.compile(r"((?:for|keep_firing_for|interval):\s*|\[|offset )(\d+)(ms|s|m|h|d)\b")
_DIRECT = build_opener(ProxyHandler({}))


def hastened(rules: str, speed: float) -> str:
    """The rules with every duration divided by `speed`."""

    def divided(found: re.Match[str]) -> str:
        before, number, unit = found.groups()
        return f"{before}{max(1, round(int(number) * _UNITS_S[unit] * 1e3 / speed))}ms"

    return _DURATION.sub(divided, rules)


class Prometheus(Server):
    """Scrapes some targets by name, and judges them by the rules."""

    PROGRAM = PACKAGE = "prometheus"

    def __init__(self, targets: Mapping[str, str], speed: float) -> None:
        super().__init__()
        self._targets = len(targets)
        self._place = f"{HOST}:{self.port}"
        (self.folder / "alert_rules.yml").write_text(hastened(RULES.read_text(), speed))
        (self.folder / "prometheus.yml").write_text(json.dumps(_settings(targets)))

    def options(self) -> Sequence[str]:
        return (
            f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address={self._place}",
            "--log.level=error",
        )

    def is_ready(self) -> bool:
        with _DIRECT.open(f"http://{self._place}/-/ready", timeout=TIMEOUT_S) as answer:
            return bool(answer.status == 200)

    def firing(self) -> set[str]:
        """Names of the alerts that fire now."""
        alerts = self._ask("/api/v1/alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def is_seeing(self) -> bool:
        """Whether every target was scraped last time."""
        found = self._ask("/api/v1/query?query=sum(up)")["result"]
        return bool(found) and float(found[0]["value"][1]) == self._targets

    def _ask(self, path: str) -> Any:
        with _DIRECT.open(f"http://{self._place}{path}", timeout=TIMEOUT_S) as answer:
            return json.load(answer)["data"]


def _settings(targets: Mapping[str, str]) -> dict[str, object]:
    """As services/prometheus/prometheus.yml has them. JSON is YAML."""
    scrape, evaluate = f"{SCRAPE_MS}ms", f"{EVALUATE_MS}ms"
    places = [{"targets": [place], "labels": {"service": name}} for name, place in targets.items()]
    return {
        "global": {"scrape_interval": scrape, "scrape_timeout": scrape, "evaluation_interval": evaluate},
        "rule_files": ["alert_rules.yml"],
        "scrape_configs": [{"job_name": "esper", "honor_labels": True, "static_configs": places}],
    }
