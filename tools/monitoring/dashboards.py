"""Dashboards as Grafana reads them: the overview from its table, and of each package every registered metric."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from esper.core.telemetry import MetricSpec
from esper.nissa.series import prometheus_name
from tools.monitoring.panels import REGISTRIES, ROWS, SERIES, STAT, Panel, Query, legend_of

COLUMNS, HEIGHTS = 24, {STAT: 4, SERIES: 7}
WIDTHS = {STAT: 4, SERIES: 12}
UNITS = {"ms": "ms", "s": "s", "bytes": "bytes", "ratio": "percentunit"}
SOURCE = {"type": "prometheus", "uid": "prometheus"}


def dashboards() -> Iterator[tuple[str, str]]:
    """File name and text of each."""
    yield "nissa-overview.json", _text("nissa-overview", "Nissa Observability", ROWS)
    for name, registry in REGISTRIES.items():
        panels = [Panel(spec.name, [spec]) for spec in registry.METRICS]
        yield f"{name}.json", _text(f"esper-{name}", f"Esper: every metric of {name}", {name: panels})


def _text(uid: str, title: str, rows: Mapping[str, Sequence[Panel]]) -> str:
    board = {
        "uid": uid,
        "title": title,
        "tags": ["esper"],
        "timezone": "browser",
        "schemaVersion": 39,
        "version": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_run_variable()]},
        "panels": list(_placed(rows)),
    }
    return json.dumps(board, indent=2) + "\n"


def _run_variable() -> dict[str, Any]:
    """The choice of runs; what belongs to none is always shown."""
    query = "label_values(tolaria_training_loss, run)"
    return {
        "name": "run",
        "type": "query",
        "datasource": SOURCE,
        "query": query,
        "definition": query,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "refresh": 2,
        "current": {"text": "All", "value": "$__all"},
    }


def _placed(rows: Mapping[str, Sequence[Panel]]) -> Iterator[dict[str, Any]]:
    number, y = 0, 0
    for title, panels in rows.items():
        number += 1
        place = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}
        x, y = 0, y + 1
        for panel in panels:
            number += 1
            width, height = WIDTHS[panel.kind], HEIGHTS[panel.kind]
            if x + width > COLUMNS:
                x, y = 0, y + height
            yield _panel(number, panel, {"x": x, "y": y, "w": width, "h": height})
            x += width
        y += HEIGHTS[panels[-1].kind]


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    meanings = [f"{each.name}: {each.help}" for each in panel.shown if isinstance(each, MetricSpec)]
    return {
        "id": number,
        "title": panel.title,
        "description": "\n\n".join(meanings),
        "type": panel.kind,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit or _unit(panel)}, "overrides": []},
        "targets": [_target(letter, each) for letter, each in zip("ABCDEFGHIJKL", panel.shown, strict=False)],
    }


def _unit(panel: Panel) -> str:
    """That of the first metric."""
    first = panel.shown[0]
    return UNITS.get(first.unit, "short") if isinstance(first, MetricSpec) else "short"


def _target(letter: str, shown: MetricSpec | Query) -> dict[str, str]:
    if isinstance(shown, Query):
        return {"refId": letter, "expr": shown.expression, "legendFormat": shown.legend}
    selected = f'{prometheus_name(shown.name)}{{run=~"$run"}}'
    return {"refId": letter, "expr": selected, "legendFormat": legend_of(shown)}
