"""docs/signals.md: every metric and event that a package registers, in the registries' own words."""

from __future__ import annotations

from collections.abc import Iterator

from esper.core.enums import short_name
from esper.leyline import TelemetryLevel
from esper.rpc import metrics as rpc
from tools.monitoring.panels import REGISTRIES

OPENING = """# Signals

Every metric and event, as the packages register them (`esper/<package>/metrics.py`); tools/genmonitoring writes this
page. What is normal and what to do stands in [runbook.md](runbook.md). In Prometheus dots are underscores, and each
series has the labels `source` and `run` beside its own; of each package there is a dashboard with all of them."""


def page() -> str:
    """The whole page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield OPENING
    for name, registry in {**REGISTRIES, "rpc": rpc}.items():
        yield f"\n## {name.capitalize()}"
        if registry.METRICS:
            yield "\n| Metric | Unit | Labels | Means |\n| --- | --- | --- | --- |"
        for metric in registry.METRICS:
            yield _row(f"`{metric.name}`", metric.unit, ", ".join(metric.attributes), _sentence(metric.help))
        if registry.EVENTS:
            yield "\n| Event | Level | Attributes | Means |\n| --- | --- | --- | --- |"
        for event in registry.EVENTS:
            level = short_name(TelemetryLevel, event.level)
            yield _row(f"`{event.name}`", level, ", ".join(event.attributes), _sentence(event.help))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _sentence(text: str) -> str:
    """As the packages write it, with one beginning and no end."""
    return text[:1].lower() + text[1:].rstrip(".") if text[1:2].islower() else text.rstrip(".")
