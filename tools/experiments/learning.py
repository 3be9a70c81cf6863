#!/usr/bin/env python3
"""Learns when and what to grow from episodes, and asks on other tasks and sizes whether that was worth it.

    learning.py loop                    # the whole loop, small, on tasks of its own, beside shuffled outcomes
    learning.py explore STORE           # episodes whose growth is drawn at random, reports into a replay store
    learning.py compare bandit=STORE .. # held-out episodes under the heuristic, at random, never, under STORE's weights
    learning.py table                   # what compare wrote, as a table again

What is interrupted goes on from the reports that were collected, which are taken after every eight episodes, save the
second half of the loop; `compare` has a whole table after each round
of episodes. Episodes stand in learning/episodes.py. Services, bus, signatures and runs are the product's own.
OTEL_EXPORTER_OTLP_ENDPOINT says where traces go: publication, trial and swap of weights are one.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "learning"))
from episodes import DEVELOPMENT, HELD_OUT, LEARNED_FROM, Episode, episodes
from launching import Places, shared_services
from learning_loop import loop
from learning_page import words_of
from learning_plane import Plane, gather, is_played, play, settings
from learning_table import table

from esper.core.security.keys import new_secret
from esper.tamiyo.learned.weights import read_weights
from esper.tolaria.plane.services import SECRET_VARIABLE

FIRST_SEED, HELD_OUT_SEED = 9000, 70_000
ROUND, NEVER = 10, 10**6
RANDOM = "random"
FLAGS = {"never": ("--grow", "never"), "heuristic": ("--span-width", "+8"), "heuristic x4": ("--span-width", "x4")}
"""Arms that differ by what the run is told: a heuristic that takes the widest step is the learned one's fair rival."""
RECORDED = Path(__file__).parent / "rows"


def run_loop(options: argparse.Namespace) -> int:
    found = loop(options.out, options.places, *((options.episodes,) if options.episodes else ()))
    print("\n".join(words_of(found)))
    print(f"page: {options.out / 'loop.html'}")
    return 0


def explore(options: argparse.Namespace) -> int:
    wanted = episodes(LEARNED_FROM, options.episodes or 160, first_seed=FIRST_SEED)
    with shared_services(settings(options.out, explore=1.0)) as flags:
        gather(Plane(flags), wanted, options.out, options.store, options.places, "explored")
    return 0


def compare(options: argparse.Namespace) -> int:
    tasks = DEVELOPMENT if options.development else HELD_OUT
    wanted = episodes(tasks, options.episodes or 30, first_seed=options.first_seed)
    learned = dict(word.split("=", 1) for word in options.learned)
    for start in range(0, len(wanted), ROUND):
        part = wanted[start : start + ROUND]
        _compare_flags(options, part)
        if RANDOM not in options.without:
            _compare_random(options, part)
        for name, store in learned.items():
            _compare_learned(options, part, name, Path(store))
        show(options)
    return 0


def _compare_flags(options: argparse.Namespace, part: Sequence[Episode]) -> None:
    with shared_services() as flags:
        for arm in FLAGS.keys() - set(options.without):
            told = [Episode(name=each.name, flags=(*each.flags, *FLAGS[arm])) for each in part]
            play(Plane(flags), told, options.out, options.places, arm)


def _compare_random(options: argparse.Namespace, part: Sequence[Episode]) -> None:
    """Their reports are kept, too: by them any weights can be valued and calibrated."""
    if not is_played(part, options.out, RANDOM):
        with shared_services(settings(options.out, explore=1.0)) as flags:
            gather(Plane(flags), part, options.out, options.out / "held_out_random", options.places, RANDOM)


def _compare_learned(options: argparse.Namespace, part: Sequence[Episode], arm: str, store: Path) -> None:
    if is_played(part, options.out, arm):
        return
    version = read_weights((store / "weights.safetensors").read_bytes()).version
    # Weights that do badly would be rolled back, and the heuristic's episodes counted as theirs.
    with shared_services(settings(options.out, shadow_decisions=0, rollback_after=NEVER)) as flags:
        plane = Plane(flags)
        print(plane.publish(store, "--unproven"), end="", flush=True)
        plane.await_version(version)
        gather(plane, part, options.out, options.out / f"held_out_{arm}", options.places, arm)
        plane.await_version(version)


def show(options: argparse.Namespace) -> int:
    recorded = RECORDED / f"learning{'_development' if options.development else ''}.jsonl"
    path = options.rows or (recorded if options.recorded else options.out / "rows.jsonl")
    found = table([json.loads(line) for line in path.read_text().splitlines()])
    print(json.dumps(found, indent=2) if options.json else found["text"])
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    for name, run in (("loop", run_loop), ("explore", explore), ("compare", compare), ("table", show)):
        verb = verbs.add_parser(name)
        verb.set_defaults(run=run, recorded=False, rows=None)
        verb.add_argument("--out", type=Path, default=Path("runs/learning"), help="where rows and runs lie")
        verb.add_argument("--json", action="store_true", help="print it as JSON")
        if name != "table":
            verb.add_argument("--episodes", type=int, help="how many")
            verb.add_argument(
                "--processes", type=int, default=min(2, os.cpu_count() or 1), help="runs at a time, on each device"
            )
            verb.add_argument("--devices", default="cpu", help="where episodes are trained, separated by commas")
        if name == "explore":
            verb.add_argument("store", type=Path, help="a replay store")
        if name == "compare":
            verb.add_argument(
                "learned", nargs="+", metavar="NAME=STORE", help="a learned arm, and where its weights lie"
            )
            verb.add_argument("--first-seed", type=int, default=HELD_OUT_SEED, help="of the first episode")
            verb.add_argument(
                "--without", nargs="*", default=(), choices=(*FLAGS, RANDOM), help="arms that are left out"
            )
        if name in ("compare", "table"):
            verb.add_argument("--development", action="store_true", help="on the tasks by which choices were made")
        if name == "table":
            verb.add_argument("--recorded", action="store_true", help="read the committed rows")
            verb.add_argument("--rows", type=Path, help="a file of rows in their place")
    options = parser.parse_args()
    if "devices" in options:
        options.places = Places(options.devices, options.processes)
    # All planes of one process share a secret: what forks the runs was started with it.
    os.environ.setdefault(SECRET_VARIABLE, new_secret())
    try:
        return int(options.run(options))
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from what was collected", file=sys.stderr)
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
