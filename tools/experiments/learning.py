#!/usr/bin/env python3
"""Learns when and what to grow from episodes, and asks on other tasks and sizes whether that was worth it.

    learning.py loop               # the whole loop, small, and its control with shuffled outcomes
    learning.py explore STORE      # episodes whose growth is drawn at random, reports into a replay store
    learning.py compare STORE      # held-out episodes under the heuristic, at random, never, and under STORE's weights
    learning.py table              # what compare wrote, as a table again

Episodes stand in episodes.py. Services, bus, signatures and runs are the product's own. OTEL_EXPORTER_OTLP_ENDPOINT
says where traces go: publication, trial and swap of weights are one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from episodes import HELD_OUT, LEARNED_FROM, Episode, episodes
from launching import shared_services
from learning_loop import loop
from learning_plane import Plane, play, settings
from learning_table import table

from esper.core.keys import new_secret
from esper.tolaria.plane.services import SECRET_VARIABLE

FIRST_SEED, HELD_OUT_SEED = 1000, 50_000
TOGETHER = 16
FLAGS = {"never": ("--grow", "never"), "heuristic x4": ("--span-width", "x4")}
"""Arms that differ by what the run is told: a heuristic that takes the widest step is the learned one's fair rival."""
RECORDED = Path(__file__).parent / "rows" / "learning.jsonl"


def run_loop(options: argparse.Namespace) -> int:
    found = loop(options.out, options.processes, *((options.episodes,) if options.episodes else ()))
    for arm, told in found.items():
        print(f"{arm:10} {told['worth']['mean']:+.4f} ± {told['worth']['error']:.4f} for each held-out episode")
    print(f"page: {options.out / 'loop.html'}")
    return 0


def explore(options: argparse.Namespace) -> int:
    wanted = episodes(LEARNED_FROM, options.episodes or 160, first_seed=FIRST_SEED)
    with shared_services(settings(options.out, explore=1.0)) as flags:
        plane = Plane(flags)
        for start in range(0, len(wanted), TOGETHER):
            play(plane, wanted[start : start + TOGETHER], options.out, options.processes, "explored")
            print(plane.collect(options.store).splitlines()[0], flush=True)
    return 0


def compare(options: argparse.Namespace) -> int:
    wanted = episodes(HELD_OUT, options.episodes or 36, first_seed=HELD_OUT_SEED)
    arms: dict[str, dict[str, object]] = {
        "heuristic": {"explore": 0.0},
        "random": {"explore": 1.0},
        options.name: {"explore": 0.0, "shadow_decisions": 0},
    }
    for arm, values in arms.items():
        with shared_services(settings(options.out, **values)) as flags:
            plane = Plane(flags)
            if arm == options.name:
                print(plane.publish(options.store, "--unproven"), end="", flush=True)
                plane.await_version(options.version)
            play(plane, wanted, options.out, options.processes, arm)
            plane.collect(options.out / f"held_out_{arm}")
    for arm, more in FLAGS.items():
        with shared_services() as flags:
            changed = [Episode(name=e.name, flags=(*e.flags, *more)) for e in wanted]
            play(Plane(flags), changed, options.out, options.processes, arm)
    return show(options)


def show(options: argparse.Namespace) -> int:
    path = RECORDED if options.recorded else options.out / "rows.jsonl"
    found = table([json.loads(line) for line in path.read_text().splitlines()])
    print(json.dumps(found, indent=2) if options.json else found["text"])
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    for name, run in (("loop", run_loop), ("explore", explore), ("compare", compare), ("table", show)):
        verb = verbs.add_parser(name)
        verb.set_defaults(run=run, recorded=False)
        verb.add_argument("--out", type=Path, default=Path("runs/learning"), help="where rows and runs lie")
        verb.add_argument("--json", action="store_true", help="print it as JSON")
        if name != "table":
            verb.add_argument("--episodes", type=int, help="how many")
            verb.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1), help="runs at a time")
        if name in ("explore", "compare"):
            verb.add_argument("store", type=Path, help="a replay store")
        if name == "compare":
            verb.add_argument("--name", default="bandit", help="of the learned arm")
            verb.add_argument("--version", default="1.1.0", help="of STORE's weights")
        if name == "table":
            verb.add_argument("--recorded", action="store_true", help="read the committed rows")
    options = parser.parse_args()
    # All planes of one process share a secret: what forks the runs was started with it.
    os.environ.setdefault(SECRET_VARIABLE, new_secret())
    return int(options.run(options))


if __name__ == "__main__":
    sys.exit(main())
