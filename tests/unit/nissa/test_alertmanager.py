"""The Alertmanager example is taken by Alertmanager itself, and sends every alert to where its rule says."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from tests.unit.nissa.test_dashboards import ALERT_FILE, OBJECTIVES_FILE, ROOT, every_alert

AMTOOL = shutil.which("amtool")
EXAMPLE = ROOT / "services" / "alertmanager" / "alertmanager.yml"
pytestmark = pytest.mark.skipif(AMTOOL is None, reason="amtool isn't installed (Debian: prometheus-alertmanager)")
ROUTES = {"pagerduty": "pagerduty,slack", "slack": "slack"}


def amtool(*words: str) -> str:
    assert AMTOOL is not None
    done = subprocess.run([AMTOOL, *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def test_the_example_is_taken() -> None:
    assert "SUCCESS" in amtool("check-config", str(EXAMPLE))


@pytest.mark.parametrize(("route", "receivers"), ROUTES.items())
def test_an_alert_goes_where_its_route_says(route: str, receivers: str) -> None:
    assert amtool("config", "routes", "test", "--config.file", str(EXAMPLE), f"route={route}") == receivers


def test_every_alert_has_a_route_that_the_example_knows_and_what_is_grave_wakes_somebody() -> None:
    text = ALERT_FILE.read_text() + OBJECTIVES_FILE.read_text()
    labels = dict(re.findall(r"- alert: (\w+)\n(?:.+\n)+?\s+labels: (\{.+\})", text))
    assert set(labels) == set(every_alert())
    for name, found in labels.items():
        severity, route = re.search(r"severity: (\w+), route: (\w+)", found).groups()  # type: ignore[union-attr]
        assert route in ROUTES, name
        assert (severity == "critical") == (route == "pagerduty"), name


def test_an_alert_that_quiets_another_exists() -> None:
    named = re.findall(r'"alertname = (\w+)"', EXAMPLE.read_text())
    assert named
    assert set(named) <= set(every_alert())
