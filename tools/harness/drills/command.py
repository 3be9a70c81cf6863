"""What `esper drill` does: run what was named, print a table or JSON, and say by the exit code whether all held."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

# Drills start processes; grpc's fork handlers would hang them. Read once, when grpc is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from esper.core.errors import ConfigError, EsperError
from esper.core.plain import plain
from tools.harness.command import unlogged
from tools.harness.drills.alarms import Alarm, Drill, drilled
from tools.harness.drills.table import BY_NAME
from tools.harness.drills.wal import restored, soaked
from tools.harness.fire.fire import Fired, fired

Row = Sequence[str]


def alarms(options: argparse.Namespace) -> int:
    """The drills that the command line names, one after the other."""
    found: list[Alarm] = []
    for name in options.drills:
        with unlogged():
            found += _alarms_of(BY_NAME[name], options)
    rows = [(each.fault, each.alert, _seconds(each.fired_s), _seconds(each.cleared_s)) for each in found]
    header = ("injected", "alert", "s to fire", "s to clear")
    _tell(options, {"speed": options.speed, "alarms": [asdict(each) for each in found]}, header, rows)
    return _code([f"{each.alert} did not {_lack(each)}" for each in found if not each.is_passed])


def wal_restore(options: argparse.Namespace) -> int:
    steps = list(restored())
    rows = [(step.name, step.told, "yes" if step.is_passed else "NO") for step in steps]
    _tell(options, {"steps": [asdict(step) for step in steps]}, ("step", "found", "passed"), rows)
    return _code([f"{step.name}: {step.told}" for step in steps if not step.is_passed])


def wal_soak(options: argparse.Namespace) -> int:
    found = soaked(options.seconds, options.seed)
    rows = [(name, f"{each.rounds:,}", f"{each.kept:,}", str(len(each.failures))) for name, each in found.items()]
    content = {
        "seconds": options.seconds,
        "seed": options.seed,
        "faults": {n: asdict(each) for n, each in found.items()},
    }
    _tell(options, content, ("fault", "rounds", "records looked at", "broken promises"), rows)
    return _code([f"{name}: {failure}" for name, each in found.items() for failure in each.failures])


def fire(options: argparse.Namespace) -> int:
    found = []
    for bus in options.bus:
        with unlogged():
            found.append(fired(bus, options.seconds, options.rate, options.seed))
    rows = [_fired(each) for each in found]
    header = (
        "bus",
        "acknowledged",
        "handled",
        "lost",
        "effects",
        "redelivered",
        "not acknowledged",
        "requeued",
        "kills",
    )
    content = [{**asdict(each), "failures": each.failures} for each in found]
    _tell(options, {"seed": options.seed, "buses": content}, header, rows)
    return _code([f"{each.bus}: {failure}" for each in found for failure in each.failures])


def _alarms_of(drill: Drill, options: argparse.Namespace) -> list[Alarm]:
    """An error that ended a drill is its failure, and the others' turn comes; a missing program ends all."""
    try:
        return drilled(drill, speed=options.speed, timeout_s=options.timeout)
    except ConfigError:
        raise
    except (EsperError, TimeoutError) as error:
        print(plain(f"drill: {drill.name}: {type(error).__name__}: {error}"), file=sys.stderr)
        return [Alarm(drill=drill.name, fault=drill.fault, alert=a, fired_s=None, cleared_s=None) for a in drill.alerts]


def _fired(found: Fired) -> Row:
    count = found.verdict
    figures = (count.acknowledged, count.handled, count.lost, count.effects, count.redelivered, count.unacknowledged)
    kills = ", ".join(f"{victim} {number}" for victim, number in sorted(found.kills.items()))
    return (found.bus, *(f"{figure:,}" for figure in figures), str(found.requeued), kills)


def _tell(options: argparse.Namespace, content: dict[str, Any], header: Row, rows: Sequence[Row]) -> None:
    if options.json:
        print(json.dumps(content, indent=2))
        return
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _code(failures: Sequence[str]) -> int:
    for failure in failures:
        print(plain(f"drill: {failure}"), file=sys.stderr)
    return 1 if failures else 0


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f}"


def _lack(alarm: Alarm) -> str:
    return "fire" if alarm.fired_s is None else "clear"
