"""The runbook says what is so: metrics, events, alerts, thresholds, drills and remedies are those of the sources."""

from __future__ import annotations

import argparse
import re

import pytest

from esper.cli.main import parser as esper_parser
from esper.leyline import TelemetryLevel
from esper.nissa.rules import CRITICAL_RULE, EVENT_RULES, RULES
from esper.rpc.settings import FLAGS as SERVICE_FLAGS
from esper.tolaria.launcher import parser as launcher_parser
from tests.unit.nissa.test_alert_rules import holds
from tests.unit.nissa.test_dashboards import EVENTS, METRICS, ROOT, alert_rules, every_alert
from tools.monitoring.objectives import FAST, OBJECTIVES, SLOW

RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
SIGNALS = (ROOT / "docs" / "signals.md").read_text()
EVENT_NAMES = {spec.name for spec in EVENTS}
# Each drill, and the tests that play it.
DRILLS = {
    "A service dies.": ["drills/test_lost_services.py", "integration/services/test_weatherlight.py"],
    "Weatherlight dies.": ["drills/test_lost_services.py", "unit/rpc/reporting/test_telemetry.py"],
    "Redis dies.": ["integration/services/test_redis_away.py"],
    "A peer freezes.": ["integration/rpc/test_frozen_peer.py"],
    "The disk is full.": ["drills/test_damaged_files.py", "unit/core/storage/test_store.py"],
    "A file is damaged.": ["drills/test_damaged_files.py", "contract/test_log_damage.py"],
    "A file is another user's.": ["permissions.py"],
    "A certificate doesn't fit.": ["integration/rpc/test_tls.py"],
    "A service hangs.": ["drills/test_lost_services.py", "unit/tolaria/plane/calls/test_breaker.py"],
    "Rotate keys.": ["contract/test_rotation.py"],
    "Revoke": ["contract/test_rotation.py"],
    "Stop for maintenance.": ["unit/rpc/test_process.py", "integration/services/test_weatherlight.py"],
    "A plane is killed.": ["integration/operators/test_up.py"],
    "Why was that decided, and would it be today?": ["ledgers/test_ledgers.py", "unit/cli/stores/test_ledger.py"],
}
# Flags of programs that aren't ours, and of tools that stand in the source tree alone.
FOREIGN = {"--config.file", "--team"}


def section(title: str) -> str:
    return "".join(part.split("\n## ")[0] for part in RUNBOOK.split(f"\n## {title}\n")[1:])


def alert_rows() -> dict[str, tuple[str, str, str]]:
    """Mark, condition and remedy of each alert."""
    found = re.findall(r"^\| `(\w+)`( N)? \| (.+?) \| (.+) \|$", section("Alerts"), flags=re.MULTILINE)
    return {name: (mark, condition, remedy) for name, mark, condition, remedy in found}


def test_it_has_a_row_for_every_alert_and_no_other_and_marks_those_of_nissa() -> None:
    assert sorted(alert_rows()) == sorted(every_alert())
    own = {rule.name for rule in (*RULES, *EVENT_RULES, CRITICAL_RULE)}
    assert {name for name, (mark, _, _) in alert_rows().items() if mark} == own


def test_the_thresholds_are_those_of_the_rules() -> None:
    rows = alert_rows()
    for name, expression in alert_rules().items():
        level = re.fullmatch(r"\w+(?:\{.*\})? ([<>]) ([\d.]+)", expression)
        if level:
            assert f"{level[1]} {level[2]}" in rows[name][1], name
    words = {15: "15 s", 60: "a minute"}
    for rule in RULES:
        if rule.packets > 1:
            assert f"in {rule.packets} packets" in rows[rule.name][1] or "the same" in rows[rule.name][1], rule.name
    told_by_packets = {rule.name for rule in RULES}
    for name, hold_s in holds().items():
        if hold_s and name not in told_by_packets:
            assert words[hold_s] in rows[name][1] or "the same" in rows[name][1], name


def test_the_objectives_are_those_that_are_watched() -> None:
    text = section("Objectives")
    rows = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+) %", text, flags=re.MULTILINE))
    assert {name: float(share) / 100 for name, share in rows.items()} == pytest.approx(
        {objective.name: objective.budget for objective in OBJECTIVES}
    )
    fast, slow = alert_rows()["slo_budget_burns_fast"][1], alert_rows()["slo_budget_burns"][1]
    assert f"{FAST[0].rate:g} times too fast for an hour" in fast
    assert f"{FAST[1].rate:g} times for six hours" in fast
    assert f"{SLOW[0].rate:g} times too fast for a day" in slow


def test_every_metric_and_event_is_explained_and_none_that_is_not_there() -> None:
    explained = set(re.findall(r"^\| `([\w.]+)` \|", SIGNALS, flags=re.MULTILINE))
    assert explained == set(METRICS) | EVENT_NAMES
    found = re.findall(r"`((?:kasmina|tamiyo|tolaria|urza|weatherlight|oona|nissa)\.[\w.]+\w)`", RUNBOOK)
    named = {name for name in found if not name.endswith(".db")}
    assert named
    assert named <= explained


def test_an_event_that_it_speaks_of_is_registered() -> None:
    spoken = re.findall(r"events? `([\w.]+)`(?:, `([\w.]+)`)?", RUNBOOK)
    named = {name for pair in spoken for name in pair if name}
    assert len(named) > 10
    assert named <= EVENT_NAMES | {"events.jsonl"}


def test_it_explains_every_critical_event_and_no_other() -> None:
    rows = re.findall(r"^\| (.+?) \|", section("CRITICAL events"), flags=re.MULTILINE)[2:]
    explained = {name for row in rows for name in re.findall(r"`([\w.]+)`", row)}
    assert explained == {spec.name for spec in EVENTS if spec.level == TelemetryLevel.TELEMETRY_LEVEL_CRITICAL}


def test_every_drill_is_played() -> None:
    told = re.findall(r"^\*\*(.+?)\*\*", section("Drills"), flags=re.MULTILINE)
    assert set(told) == set(DRILLS)
    for drill, places in DRILLS.items():
        for place in places:
            assert (ROOT / "tests" / place).exists(), (drill, place)


def test_every_alert_has_a_remedy_that_leads_somewhere() -> None:
    places = set(re.findall(r"^## (.+)$", RUNBOOK, flags=re.MULTILINE))
    for name, (_, _, remedy) in alert_rows().items():
        assert len(remedy) > 8, name
        for place in re.findall(r"see ([A-Z][\w' ]+?) (?:below|above)", remedy):
            assert place in places, (name, place)
        for other in re.findall(r"as `(\w+)`", remedy):
            assert other in every_alert(), (name, other)
    for anchor in re.findall(r"\]\(#([\w-]+)\)", RUNBOOK):
        assert anchor in {place.lower().replace(" ", "-").replace("'", "") for place in places}
    for path in re.findall(r"`((?:services/[a-z]+|tools|tests)/[\w./-]+)`", RUNBOOK):
        assert (ROOT / path).exists() or path.endswith("secrets"), path


def verbs(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def flags(parser: argparse.ArgumentParser) -> set[str]:
    own = {flag for action in parser._actions for flag in action.option_strings}
    return own.union(*(flags(each) for each in verbs(parser).values()))


def test_every_command_that_it_gives_is_one_of_ours() -> None:
    given = re.findall(r"(?:`|^\$ )esper ([^`\n]+)", RUNBOOK, flags=re.MULTILINE)
    assert len(given) > 15
    for words in given:
        parser: argparse.ArgumentParser = esper_parser()
        for word in words.split():
            if not verbs(parser) or word.isupper():
                break
            assert word in verbs(parser), words
            parser = verbs(parser)[word]


def test_every_flag_that_it_gives_is_one_of_ours() -> None:
    given = set(re.findall(r"(?<![\w-])(--[a-z][a-z.-]*[a-z])", RUNBOOK))
    known = flags(esper_parser()) | flags(launcher_parser()) | set(SERVICE_FLAGS) | {"--config", "--print-config"}
    others = given - known - FOREIGN
    assert others == harness_flags(others)


def harness_flags(wanted: set[str]) -> set[str]:
    """Those that the harness takes, which stands in the source tree alone."""
    text = "".join(path.read_text() for path in (ROOT / "tools" / "harness").rglob("*.py"))
    return {flag for flag in wanted if f'"{flag}"' in text}
