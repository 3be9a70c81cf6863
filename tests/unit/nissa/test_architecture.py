"""The architecture page names packages, calls, messages, spans and events that exist."""

from __future__ import annotations

import re

import esper.leyline as leyline
from esper.rpc.contract import SERVICES, methods
from esper.tolaria.launcher import parser
from tests.unit.nissa.test_dashboards import EVENTS, METRICS, OWN, ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text()
SOURCE = "".join(path.read_text() for path in (ROOT / "esper").rglob("*.py") if "leyline" not in path.parts)


def test_every_place_that_it_names_is_there() -> None:
    places = re.findall(r"`((?:esper|proto)/[\w/.]+)`", PAGE)
    assert len(places) > 8
    assert all((ROOT / place).exists() for place in places)
    assert all((ROOT / "docs" / page).exists() for page in re.findall(r"\]\(([\w.]+\.md)\)", PAGE))


def test_every_call_message_and_flag_that_it_names_exists() -> None:
    calls = {method.name for service in SERVICES for method in methods(service).values()}
    named = set(re.findall(r"`([A-Z][a-z]+[A-Za-z]*)`", PAGE))
    assert len(named) > 5
    assert named <= calls | set(leyline.__all__)
    flags = {flag for action in parser()._actions for flag in action.option_strings}
    assert set(re.findall(r"`(--[\w-]+)`", PAGE)) <= flags


def test_every_span_and_event_that_it_names_is_told() -> None:
    named = set(re.findall(r"`((?:tolaria|tamiyo|kasmina|urza|oona|nissa)\.\w+)`", PAGE))
    named |= set(re.findall(r"`([a-z]+_[a-z_]+)`", PAGE))
    registered = {spec.name for spec in EVENTS} | set(METRICS) | OWN
    assert len(named) > 10
    for name in named - registered:
        assert f'"{name}"' in SOURCE, name
