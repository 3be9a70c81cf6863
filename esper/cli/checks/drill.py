"""`esper drill`: break something in a live plane, see that it is told, and mended; tools/harness does the work."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from importlib import import_module

from esper.cli.checks.harness import number, source_tree
from esper.cli.usage import Run, Verbs, add_group, add_verb

ALARMS: Mapping[str, str] = {
    "latency": "training steps become slow",
    "isolation": "a seed's gradient leaks into its host",
    "queue-depth": "a consumer of the bus falls behind",
    "emergency": "an L4 is raised",
    "refused-command": "a command is refused",
    "tamiyo-timeout": "Tamiyo hangs",
    "low-coverage": "packets lack most inputs",
    "rollback": "no older state is restored in time",
}
BUSES = ("sqlite", "redis")


def register(verbs: Verbs) -> None:
    group = add_group(verbs, "drill", "break something in a live plane, and see that it is told and mended")
    for name, summary in ALARMS.items():
        _add_alarms(group, name, f"{summary}: the alert must rise in a real Prometheus, and clear", (name,))
    _add_alarms(group, "alarms", "every drill above, one after the other", tuple(ALARMS))
    _add(group, "wal-restore", "field reports are damaged and put back from a copy", "wal_restore")
    soak = _add(group, "wal-soak", "torn writes, flips, full disks, kill -9 and failed renames, in turn", "wal_soak")
    _add_seconds(soak, 60.0)
    fire = _add(group, "fire", "kill Weatherlight, Redis and consumers in turn under load, then count", "fire")
    _add_seconds(fire, 300.0)
    fire.add_argument("--bus", action="append", choices=BUSES, help="sqlite or redis; may be repeated (both)")
    fire.add_argument(
        "--rate", type=number(float, 1.0, 1e5), default=500.0, help="envelopes a second of each publisher (500)"
    )
    fire.set_defaults(run=_with_buses(_run_of("fire")))


def _add_alarms(group: Verbs, name: str, summary: str, drills: tuple[str, ...]) -> None:
    parser = _add(group, name, summary, "alarms")
    parser.add_argument(
        "--speed",
        type=number(float, 1.0, 100.0),
        default=10.0,
        help="divide every duration in the alert rules by this; 1 is as they ship (10)",
    )
    parser.add_argument(
        "--timeout",
        type=number(float, 1.0, 3600.0),
        default=90.0,
        metavar="SECONDS",
        help="longest wait for an alert to rise, and to clear (90)",
    )
    parser.set_defaults(drills=drills)


def _add(group: Verbs, name: str, summary: str, function: str) -> argparse.ArgumentParser:
    parser = add_verb(group, name, _run_of(function), summary)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def _add_seconds(parser: argparse.ArgumentParser, default: float) -> None:
    parser.add_argument("--seconds", type=number(float, 1.0, 86_400.0), default=default, help=f"how long ({default:g})")
    parser.add_argument("--seed", type=number(int, 0), default=0, help="what the order of faults is drawn from (0)")


def _run_of(function: str) -> Run:
    def run(arguments: argparse.Namespace) -> int:
        root = str(source_tree())
        if root not in sys.path:
            sys.path.insert(0, root)
        code: int = getattr(import_module("tools.harness.drills.command"), function)(arguments)
        return code

    return run


def _with_buses(run: Run) -> Run:
    def ran(arguments: argparse.Namespace) -> int:
        arguments.bus = arguments.bus or list(BUSES)
        return run(arguments)

    return ran
